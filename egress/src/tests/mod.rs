//! The way out against the case table and against receivers that misbehave.
//!
//! The rows of the behaviour table, reference/trust §1.14, and the tests that show them:
//!
//! | row | receiver | test |
//! |---|---|---|
//! | R1 | redirects | `behaviour::redirects_and_other_wishes_are_not_followed`, `no_row_of_the_table_is_followed` |
//! | R2, R3, R4 | floods of headers, of interim responses | `behaviour::floods_are_cut_off`, `as_much_as_is_allowed_is_read_and_no_more` |
//! | R5 | eight interim responses | `behaviour::as_much_as_is_allowed_is_read_and_no_more` |
//! | R6 | endless body | `behaviour::a_success_stays_one_whatever_its_body_does`, `hostile::an_endless_body_is_not_read_on` |
//! | R7 | gzip | `behaviour::a_compressed_body_is_kept_as_it_is` |
//! | R8 | dripping body | `behaviour::a_success_stays_one_whatever_its_body_does` |
//! | R9 | dripping head | `behaviour::slow_receivers_run_out_of_time` |
//! | R10 | reads nothing | `hostile::who_reads_nothing_is_given_up_after_five_seconds`, `meter::tests` |
//! | R11, R12, R14 | no TLS, garbage, TLS 1.1 | `tls` |
//! | R13, R15 | bad certificates, wants ours | `certificates` |
//! | R16, R17 | resets | `behaviour::a_reset_matters_only_before_the_headers` |
//! | R18 | closes an idle connection, or one in use | `behaviour::connections_are_kept_alive_and_a_closed_one_is_replaced`, `hostile::a_request_that_was_sent_is_not_sent_again` |
//! | R19 | short body | `behaviour::a_success_stays_one_whatever_its_body_does` |
//! | R20, R24, R25, R30 | is not HTTP | `behaviour::other_answers_are_classified` |
//! | R21, R22, R23 | a body that is none: the head has decided, the connection ends | `behaviour::a_body_that_cannot_be_read_leaves_the_status` |
//! | R26, R27, R28 | `retry-after`, 410 | `hostile::absurd_pauses_are_a_second_to_a_day` |
//! | R29, R32 | challenges, `alt-svc` | `behaviour::redirects_and_other_wishes_are_not_followed` |
//! | R31 | cookies | `hostile::nothing_of_an_answer_comes_back_with_the_next_request` |
//! | R33 | bytes that are no text | `hostile::bytes_that_are_no_text_are_kept_as_far_as_they_go` |
//! | R34 | escapes | `hostile::escapes_do_not_reach_the_log` |
//! | R35, R36 | leftovers, second answers | `hostile::leftovers_are_not_the_next_answer` |
//! | R37 | answers before it has read | `reuse` |
//! | R38 | 10,000 tarpits | `egress/tests/tarpits.rs` |
//! | R39 | absurd answers of names | `dns::absurd_answers_are_refused_in_time` |
//! | R40 | proxies of the environment | `behaviour::proxies_of_the_environment_are_not_used` |

mod behaviour;
mod cases;
mod certificates;
mod dns;
mod fetch;
mod hostile;
mod receiver;
mod reuse;
mod tls;
