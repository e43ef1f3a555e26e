//! From a publisher's call to a receiver's request, through the real binary.
//!
//! The rows of the fault matrix, reference/trust §3.7, that concern one agent, and the tests that show them:
//!
//! | row | fault | test |
//! |---|---|---|
//! | F1, F2, F6, F7 | killed at any step of its disk work, again and again | `disks::killed_at_any_step_of_its_disk_work_it_has_what_it_acknowledged` |
//! | F3, F4, F5 | killed under load, in the middle of attempts and before their outcomes are durable | `ledger`, `chaos::deaths` |
//! | F8, F9 | power cuts | `power` |
//! | F13 | one failed sync | `faults::one_failed_sync_ends_the_process_and_nothing_is_acknowledged_after_it` |
//! | F14 | a disk that is gone | `apart::an_agent_whose_disk_is_gone_does_not_start_and_others_take_its_place` |
//! | F15 | short and interrupted writes | the journal's `faults::short_and_interrupted_writes_are_completed` |
//! | F16, F18, F22 | a full disk, one that takes no writes, a stuck one | `disks` |
//! | F17 | a disk that others fill to the last byte, or file | `full` |
//! | F19, F20, F21 | torn, flipped, moved and zeroed bytes | the journal's `damage` |
//! | F23 | a wall clock that jumps | `surroundings::retries_keep_their_distance_while_the_wall_clock_jumps` |
//! | F24 | clocks that differ | `apart::clocks_that_are_ten_minutes_apart_change_nothing` |
//! | F39, F40, F41 | slow, failing and dead receivers | `engine::dead_and_hanging_receivers_hold_up_nobody`, `simulation`, `hookfleet bench` |
//! | F42 | names that do not resolve | `surroundings::names_that_do_not_resolve_for_a_while_cost_a_while` |
//! | F43 | too few descriptors | `faults::too_few_descriptors_cost_time_and_nothing_else` |
//! | F44 | memory that ends | `memory` |
//! | F45 | huge payloads | `payloads` |
//! | F46 | poisonous events | `poison` |
//! | F48, F49 | SIGTERM, and SIGKILL after it | `faults::sigterm_under_load_delivers_nothing_twice`, `faults::a_kill_amid_an_orderly_end_loses_nothing` |
//! | F60 | fresh events behind a backlog | `faults::events_of_others_do_not_wait_for_a_backlog` |

mod abuse;
mod apart;
mod audit;
mod bench;
mod broadcast;
mod clients;
mod command;
mod deploy;
mod destination;
mod dialects;
mod disks;
mod door;
mod engine;
mod events;
mod facade;
mod faults;
mod first_callback;
mod fleet;
mod full;
mod isolation;
mod ledger;
mod limits;
mod memory;
mod metrics;
mod moves;
mod openapi;
mod payloads;
mod poison;
mod power;
mod readme;
mod safety;
mod snapshots;
mod spans;
mod spread;
mod store;
mod surroundings;
mod tls;
mod tokens;
mod verification;
