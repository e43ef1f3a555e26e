//! Sessions on contents that are made by hand. Every agent here is `a`.

use bytes::Bytes;
use hookfleet_contract::{digest::digest, slot::slot_of};
use hookfleet_proto::{
    fleet::{SlotOwner, SlotTable, StoredTenant},
    v1::Tenant,
};
use prost::Message as _;

use super::*;
use crate::keys;
use crate::store::{Batch, Change, Entry};

const NOW: Timestamp = Timestamp(1_000_000);
const HEARTBEAT: Duration = Duration::from_secs(3);

fn put(key: &str, mod_revision: Revision, value: impl Into<Bytes>) -> Change {
    Change::Put(Entry {
        key: key.to_owned(),
        value: value.into(),
        create_revision: mod_revision,
        mod_revision,
    })
}

fn delete(key: &str, mod_revision: Revision) -> Change {
    Change::Delete {
        key: key.to_owned(),
        mod_revision,
    }
}

/// A table of four slots, of which `a` owns those that are named.
fn slots(mod_revision: Revision, owned: &[usize]) -> Change {
    let owner = |id: &str| SlotOwner {
        agent_id: id.to_owned(),
        address: String::new(),
        zone: String::new(),
    };
    let table = SlotTable {
        version: mod_revision,
        owners: vec![owner("a"), owner("b")],
        slot_owners: (0..4)
            .map(|slot| if owned.contains(&slot) { 1 } else { 2 })
            .collect(),
        epochs: vec![1; 4],
        slot_previous: vec![0; 4],
    };
    put(keys::SLOTS, mod_revision, table.encode_to_vec())
}

fn contents(changes: Vec<Change>) -> Contents {
    let mut contents = Contents::default();
    apply(&mut contents, changes);
    contents
}

fn apply(contents: &mut Contents, changes: Vec<Change>) {
    let revision = changes.last().map_or(0, Change::mod_revision);
    contents.apply(Batch { changes, revision });
}

fn session(stand: Option<Revision>, contents: &Contents) -> Session {
    Session::new(
        "a".parse().unwrap(),
        stand,
        BTreeSet::new(),
        contents,
        HEARTBEAT,
        NOW,
    )
}

/// What an update says, in short: its type, `full`, `last`, its keys, those that are gone with a `-`.
fn brief(draft: &Draft) -> String {
    let kind = match draft.kind {
        ResourceType::Tenant => "tenants",
        ResourceType::Subscription => "subscriptions",
        ResourceType::SlotTable => "slots",
        ResourceType::Key => "keys",
        ResourceType::Unspecified => "?",
    };
    let flags = [(draft.full, " full"), (draft.last_chunk, " last")];
    let flags: String = flags
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, flag)| flag)
        .collect();
    let last = |key: &Arc<str>| key.rsplit('/').next().unwrap_or_default().to_owned();
    let upserts = draft
        .upserts
        .iter()
        .map(|(key, item)| format!(" {}@{}", last(key), item.mod_revision));
    let removals = draft.removals.iter().map(|key| format!(" -{}", last(key)));
    let keys: String = upserts.chain(removals).collect();
    format!("{kind}{flags} ->{}{keys}", draft.revision)
}

/// Answers everything until the session has nothing more to say now.
fn talk(session: &mut Session, contents: &Contents) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(command) = session.poll_command(contents, NOW) {
        said.push(match command {
            Command::Update(draft) => {
                ack(session, draft.nonce);
                brief(&draft)
            }
            Command::Bookmark(revision) => format!("bookmark {revision}"),
            Command::Close(reason) => reason.to_string(),
        });
    }
    said
}

fn ack(session: &mut Session, nonce: i64) {
    let ack = Ack {
        nonce,
        ..Ack::default()
    };
    session.handle_ack(&ack, NOW);
}

/// The next update; bookmarks are passed over.
#[track_caller]
fn update(session: &mut Session, contents: &Contents) -> Draft {
    loop {
        match session.poll_command(contents, NOW) {
            Some(Command::Update(draft)) => return draft,
            Some(Command::Bookmark(_)) => {}
            other => panic!("not an update: {other:?}"),
        }
    }
}

#[test]
fn a_new_agent_gets_everything_in_order_and_stands_only_at_the_end() {
    let contents = contents(vec![
        put("tenant/t", 1, ""),
        put("subscription/0001/t/mine", 2, ""),
        put("subscription/0002/t/other", 3, ""),
        slots(4, &[0, 1]),
        put("key/k", 5, ""),
    ]);
    let mut session = session(None, &contents);
    let said = talk(&mut session, &contents);
    let expected = [
        "keys full last ->0 k@5",
        "tenants full last ->0 t@1",
        "subscriptions full last ->0 mine@2",
        "slots full last ->5 slots@4",
        "bookmark 5",
    ];
    assert_eq!(said, expected);
    assert_eq!(
        (session.stand(), session.answered(), session.is_live()),
        (5, 5, true)
    );
}

#[test]
fn keys_that_come_and_go_are_told_before_the_rest() {
    let mut contents = contents(vec![put("key/old", 1, ""), slots(2, &[0])]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    apply(
        &mut contents,
        vec![
            put("tenant/t", 3, ""),
            put("key/new", 4, ""),
            delete("key/old", 5),
        ],
    );
    assert_eq!(
        talk(&mut session, &contents),
        ["keys last ->2 new@4 -old", "tenants last ->5 t@3"]
    );
}

#[test]
fn an_empty_set_is_told_too() {
    let contents = contents(vec![slots(1, &[])]);
    let said = talk(&mut session(None, &contents), &contents);
    assert_eq!(said[..2], ["keys full last ->0", "tenants full last ->0"]);
}

#[test]
fn nothing_is_told_before_the_first_placement() {
    let mut contents = contents(vec![put("tenant/t", 1, "")]);
    let mut session = session(None, &contents);
    assert_eq!(talk(&mut session, &contents), [""; 0]);
    apply(&mut contents, vec![slots(2, &[0])]);
    assert_eq!(talk(&mut session, &contents).len(), 5);
}

#[test]
fn full_sets_come_in_chunks_by_number_and_by_size() {
    let many = |n: i64, value: &Bytes| {
        let mut changes = vec![slots(1, &[0])];
        changes.extend((0..n).map(|i| {
            put(
                &format!("subscription/0000/t/s{i:05}"),
                i + 2,
                value.clone(),
            )
        }));
        contents(changes)
    };
    let chunks = |contents: &Contents| {
        let said = talk(&mut session(None, contents), contents);
        let counts = said
            .into_iter()
            .filter(|it| it.starts_with("subscriptions"));
        counts
            .map(|it| (it.matches('@').count(), it.contains(" last")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chunks(&many(4001, &Bytes::new())),
        [(2000, false), (2000, false), (1, true)]
    );
    assert_eq!(chunks(&many(2000, &Bytes::new())), [(2000, true)]);
    let large = Bytes::from(vec![b'x'; 400 << 10]);
    assert_eq!(
        chunks(&many(5, &large)),
        [(2, false), (2, false), (1, true)]
    );
    let too_large = Bytes::from(vec![b'x'; 2 << 20]);
    assert_eq!(chunks(&many(2, &too_large)), [(1, false), (1, true)]);
}

#[test]
fn one_update_at_a_time_and_only_its_own_answer_counts() {
    let contents = contents(vec![put("tenant/t", 1, ""), slots(2, &[0])]);
    let mut session = session(None, &contents);
    let first = update(&mut session, &contents);
    assert_eq!(session.poll_command(&contents, NOW), None);
    ack(&mut session, first.nonce + 1);
    assert_eq!(session.poll_command(&contents, NOW), None);
    ack(&mut session, first.nonce);
    let second = update(&mut session, &contents);
    assert_eq!(second.nonce, first.nonce + 1);
    ack(&mut session, first.nonce);
    assert_eq!(session.poll_command(&contents, NOW), None);
    assert_eq!(session.stand(), 0);
}

#[test]
fn an_agent_that_was_away_gets_what_changed_and_what_is_gone_in_order() {
    let mut contents = contents(vec![
        put("tenant/gone", 1, ""),
        put("tenant/kept", 2, ""),
        put("subscription/0001/gone/s1", 3, ""),
        slots(4, &[1]),
    ]);
    apply(
        &mut contents,
        vec![
            put("tenant/new", 5, ""),
            put("subscription/0001/new/s2", 6, ""),
            delete("subscription/0001/gone/s1", 7),
            delete("tenant/gone", 8),
            put("subscription/0002/new/others", 9, ""),
        ],
    );
    let said = talk(&mut session(Some(4), &contents), &contents);
    let expected = [
        "tenants last ->4 new@5",
        "subscriptions last ->4 s2@6 -s1",
        "tenants last ->9 -gone",
        "bookmark 9",
    ];
    assert_eq!(said, expected);
}

#[test]
fn changes_of_one_key_while_an_update_is_out_become_one() {
    let mut contents = contents(vec![slots(1, &[0])]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    apply(&mut contents, vec![put("tenant/t", 2, "")]);
    let out = update(&mut session, &contents);
    for revision in 3..100 {
        apply(&mut contents, vec![put("tenant/t", revision, "")]);
        assert_eq!(session.poll_command(&contents, NOW), None);
    }
    apply(
        &mut contents,
        vec![put("tenant/u", 100, ""), delete("tenant/u", 101)],
    );
    ack(&mut session, out.nonce);
    assert_eq!(session.stand(), 2);
    assert_eq!(
        talk(&mut session, &contents),
        ["tenants last ->2 t@99", "tenants last ->101 -u"]
    );
    assert_eq!(session.stand(), 101);
}

#[test]
fn what_concerns_others_moves_the_stand_without_an_update() {
    let mut contents = contents(vec![slots(1, &[0])]);
    let mut told = session(None, &contents);
    talk(&mut told, &contents);
    apply(
        &mut contents,
        vec![put("agent/b", 2, ""), put("subscription/0003/t/s", 3, "")],
    );
    assert_eq!(told.poll_command(&contents, NOW), None);
    assert_eq!((told.stand(), told.answered()), (3, 1));
    // One that is back hears once of what may have been its own; after that it knows what is.
    let mut back = session(Some(1), &contents);
    talk(&mut back, &contents);
    apply(&mut contents, vec![delete("subscription/0003/t/s", 4)]);
    for session in [&mut told, &mut back] {
        assert_eq!(session.poll_command(&contents, NOW), None);
        assert_eq!(session.stand(), 4);
    }
}

#[test]
fn slots_that_come_bring_their_subscriptions_and_slots_that_go_take_them_when_nothing_is_left() {
    let mut contents = contents(vec![
        put("subscription/0000/t/s0", 1, ""),
        put("subscription/0001/t/s1", 2, ""),
        slots(3, &[0]),
    ]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    apply(&mut contents, vec![slots(4, &[1])]);
    let said = talk(&mut session, &contents);
    assert_eq!(
        said,
        ["subscriptions last ->3 s1@2", "slots last ->4 slots@4"]
    );

    let mut leave = |slot_table_version, slots: &[i32], contents: &Contents| {
        let slots = slots.to_vec();
        session.handle_leftovers(&Leftovers {
            slot_table_version,
            slots,
        });
        talk(&mut session, contents)
    };
    // What it says of an older table, or of what it still has, changes nothing.
    assert_eq!(leave(3, &[], &contents), [""; 0]);
    assert_eq!(leave(4, &[0], &contents), [""; 0]);
    // Until then it hears of changes in what it has left.
    apply(&mut contents, vec![put("subscription/0000/t/s2", 5, "")]);
    assert_eq!(leave(4, &[0], &contents), ["subscriptions last ->5 s2@5"]);
    apply(&mut contents, vec![delete("subscription/0000/t/s0", 6)]);
    let said = leave(4, &[], &contents);
    assert_eq!(said, ["subscriptions last ->6 -s0 -s2"]);
    apply(&mut contents, vec![put("subscription/0000/t/s2", 7, "")]);
    assert_eq!(leave(4, &[], &contents), [""; 0]);
}

#[test]
fn an_agent_that_comes_back_is_told_what_it_needs_for_what_it_has_left() {
    let before = || {
        contents(vec![
            put("subscription/0000/t/s0", 1, ""),
            put("subscription/0001/t/s1", 2, ""),
            slots(3, &[1]),
        ])
    };
    for (stand, first) in [
        (Some(3), vec![]),
        (Some(2), vec!["slots last ->3 slots@3"]),
        (None, vec!["subscriptions full last ->0 s0@1 s1@2"]),
    ] {
        let (id, mut contents) = ("a".parse().unwrap(), before());
        let known = BTreeSet::from([0, 1]);
        let mut session = Session::new(id, stand, known, &contents, HEARTBEAT, NOW);
        let said = talk(&mut session, &contents);
        let said: Vec<_> = said
            .iter()
            .filter(|it| !it.starts_with("bookmark"))
            .collect();
        assert!(
            first.iter().all(|it| said.iter().any(|said| *said == it)),
            "{said:?}"
        );
        assert_eq!(said.is_empty(), first.is_empty(), "{said:?}");
        apply(&mut contents, vec![put("subscription/0000/t/s0", 4, "")]);
        assert_eq!(
            talk(&mut session, &contents),
            ["subscriptions last ->4 s0@4"]
        );
        session.handle_leftovers(&Leftovers {
            slot_table_version: 3,
            slots: Vec::new(),
        });
        assert_eq!(
            talk(&mut session, &contents),
            ["subscriptions last ->4 -s0"]
        );
    }
}

#[test]
fn a_table_that_changes_while_an_update_is_out_still_comes_after_what_it_assigns() {
    for stand in [None, Some(3)] {
        let mut contents = contents(vec![
            put("subscription/0000/t/s0", 1, ""),
            put("subscription/0001/t/s1", 2, ""),
            slots(3, &[0]),
        ]);
        let mut session = session(stand, &contents);
        apply(&mut contents, vec![put("tenant/t", 4, "")]);
        let out = update(&mut session, &contents);
        apply(&mut contents, vec![slots(5, &[1])]);
        ack(&mut session, out.nonce);
        let said = talk(&mut session, &contents);
        let place = |what: &str| said.iter().position(|it| it.contains(what)).unwrap();
        assert!(place("s1@2") < place("slots@5"), "{said:?}");
        assert_eq!(session.stand(), 5);
    }
}

#[test]
fn an_agent_that_missed_removals_gets_everything() {
    let contents = contents(vec![put("tenant/t", 3, ""), slots(5, &[0])]);
    for (stand, is_delta) in [
        (None, false),
        (Some(4), true),
        (Some(5), true),
        (Some(6), false),
    ] {
        assert_eq!(session(stand, &contents).goes_on(), is_delta, "{stand:?}");
    }
    let mut listed = Contents::default();
    listed.replace([].into(), 9).unwrap();
    assert!(!session(Some(8), &listed).goes_on());
    assert!(session(Some(9), &listed).goes_on());
}

#[test]
fn the_first_bookmark_is_not_starved_by_changes() {
    let mut contents = contents(vec![slots(1, &[0])]);
    let mut session = session(None, &contents);
    for revision in 2.. {
        apply(&mut contents, vec![put("tenant/t", revision, "")]);
        match session.poll_command(&contents, NOW) {
            Some(Command::Update(draft)) => ack(&mut session, draft.nonce),
            Some(Command::Bookmark(stand)) => {
                assert!(stand >= 1);
                break;
            }
            other => panic!("{other:?}"),
        }
        assert!(revision < 10, "no bookmark");
    }
}

#[test]
fn a_bookmark_is_due_when_nothing_was_sent_for_a_heartbeat() {
    let contents = contents(vec![slots(1, &[0])]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    assert_eq!(session.poll_timeout(), NOW + HEARTBEAT);
    let later = NOW + HEARTBEAT;
    session.handle_sign_of_life(later);
    assert_eq!(
        session.poll_command(&contents, later),
        Some(Command::Bookmark(1))
    );
    assert_eq!(session.poll_command(&contents, later), None);
}

#[test]
fn an_agent_that_does_not_answer_or_says_nothing_is_given_up() {
    let contents = contents(vec![slots(1, &[0])]);
    let mut silent = session(None, &contents);
    let end = NOW + HEARTBEAT * 3;
    assert_eq!(silent.poll_timeout(), end);
    assert_eq!(
        silent.poll_command(&contents, end),
        Some(Command::Close(Reason::Silent))
    );

    let mut stuck = session(None, &contents);
    update(&mut stuck, &contents);
    let late = NOW + ACK_DEADLINE;
    stuck.handle_sign_of_life(late);
    assert_eq!(stuck.poll_timeout(), late);
    assert_eq!(
        stuck.poll_command(&contents, late),
        Some(Command::Close(Reason::Unanswered))
    );
}

/// A tenant whose events go to so many shards.
fn tenant(id: &str, mod_revision: Revision, spread: i32) -> Change {
    let stored = StoredTenant {
        tenant: Some(Tenant {
            spread,
            ..Tenant::default()
        }),
        ..StoredTenant::default()
    };
    put(
        &format!("tenant/{id}"),
        mod_revision,
        stored.encode_to_vec(),
    )
}

/// The key of a subscription of the tenant `t`, and the slots of others.
fn of_t(id: &str) -> (String, Vec<usize>) {
    let name = format!("tenants/t/subscriptions/{id}");
    let slot = usize::from(slot_of(&"t".parse().unwrap(), 4).0);
    let others = (0..4).filter(|it| *it != slot).collect();
    (keys::subscription(&name.parse().unwrap(), 4), others)
}

#[test]
fn everybody_is_told_of_a_spread_tenants_subscriptions_as_long_as_there_are_any() {
    let ((s1, others), (s2, _)) = (of_t("s1"), of_t("s2"));
    let mut contents = contents(vec![tenant("t", 1, 1), put(&s1, 2, ""), slots(3, &others)]);
    let mut session = session(None, &contents);
    assert!(!talk(&mut session, &contents).concat().contains("s1"));

    apply(&mut contents, vec![tenant("t", 4, 2)]);
    let expected = ["tenants last ->3 t@4", "subscriptions last ->4 s1@2"];
    assert_eq!(talk(&mut session, &contents), expected);
    apply(&mut contents, vec![put(&s2, 5, "")]);
    assert_eq!(
        talk(&mut session, &contents),
        ["subscriptions last ->5 s2@5"]
    );
    // An agent that was away is told of it if it may not have heard.
    for (stand, n_told) in [(3, 2), (4, 1), (5, 0)] {
        let mut again = self::session(Some(stand), &contents);
        let said = talk(&mut again, &contents);
        assert_eq!(said.concat().matches(" s").count(), n_told, "{said:?}");
    }

    apply(
        &mut contents,
        vec![delete(&s1, 6), delete(&s2, 7), delete("tenant/t", 8)],
    );
    let expected = ["subscriptions last ->5 -s1 -s2", "tenants last ->8 -t"];
    assert_eq!(talk(&mut session, &contents), expected);
}

#[test]
fn an_agent_that_was_away_loses_what_is_gone_of_spread_tenants() {
    let ((s1, others), (s2, _)) = (of_t("s1"), of_t("s2"));
    let before = vec![tenant("t", 1, 2), put(&s1, 2, ""), put(&s2, 3, "")];
    let mut contents = contents(before);
    apply(&mut contents, vec![slots(4, &others)]);
    let again = |contents: &Contents| talk(&mut session(Some(4), contents), contents);

    // As a list of the store tells of it: not that the tenant is another one.
    apply(&mut contents, vec![tenant("t", 5, 1), delete(&s2, 6)]);
    let said = again(&contents);
    let expected = ["tenants last ->4 t@5", "subscriptions last ->6 -s2"];
    assert_eq!(said[..2], expected, "{said:?}");

    apply(&mut contents, vec![delete(&s1, 7), delete("tenant/t", 8)]);
    // Whatever tenant has the name now, and whatever that calls its own.
    for (revision, made) in [(9, tenant("t", 9, 1)), (10, put(&s1, 10, ""))] {
        apply(&mut contents, vec![made]);
        let said = again(&contents);
        let removed = format!("subscriptions last ->{revision} -s1 -s2");
        let expected = ["tenants last ->4 t@9", &removed];
        assert_eq!(said[..2], expected, "{said:?}");
    }
}

#[test]
fn what_is_spread_no_longer_is_taken_back() {
    let (s1, others) = of_t("s1");
    let mut contents = contents(vec![tenant("t", 1, 2), put(&s1, 2, ""), slots(3, &others)]);
    let mut session = session(None, &contents);
    assert!(talk(&mut session, &contents).concat().contains("s1@2"));
    apply(&mut contents, vec![tenant("t", 4, 1)]);
    let expected = ["tenants last ->3 t@4", "subscriptions last ->4 -s1"];
    assert_eq!(talk(&mut session, &contents), expected);
}

#[test]
fn before_a_slot_comes_what_tenants_have_that_may_have_a_shard_in_it() {
    let ((s1, others), (s2, _)) = (of_t("s1"), of_t("s2"));
    // Another subscription comes, or the tenant is spread only now.
    for (spread, meanwhile, told) in [(2, put(&s2, 6, ""), "s2@6"), (1, tenant("t", 6, 2), "s1@2")]
    {
        let before = vec![
            tenant("t", 1, spread),
            put(&s1, 2, ""),
            slots(3, &others[..1]),
        ];
        let mut contents = contents(before);
        let mut session = session(None, &contents);
        talk(&mut session, &contents);
        apply(
            &mut contents,
            vec![put("tenant/x", 4, ""), slots(5, &others)],
        );
        let out = update(&mut session, &contents);
        apply(&mut contents, vec![meanwhile]);
        ack(&mut session, out.nonce);
        let said = talk(&mut session, &contents);
        let told = format!("subscriptions last ->3 {told}");
        assert_eq!(said[..2], [told.as_str(), "slots last ->5 slots@5"]);
    }
}

#[test]
fn what_an_agent_has_of_spread_tenants_is_expected_of_it() {
    let (s1, others) = of_t("s1");
    let mut contents = contents(vec![tenant("t", 1, 2), put(&s1, 2, ""), slots(3, &others)]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    let says = |session: &mut Session, contents: &Contents, digest| {
        let said = PartDigest {
            r#type: ResourceType::Subscription.into(),
            slot: slot_of(&"t".parse().unwrap(), 4).0.into(),
            digest,
        };
        session.handle_digests(&[said], contents).is_some()
    };
    let right = digest("tenants/t/subscriptions/s1", 2);
    assert!(!says(&mut session, &contents, right));
    assert!(says(&mut session, &contents, 0), "it lacks something");
    let said = talk(&mut session, &contents);
    assert!(
        said.contains(&"subscriptions full last ->0 s1@2".to_owned()),
        "{said:?}"
    );
    // Of others it has nothing.
    apply(&mut contents, vec![delete("tenant/t", 4), delete(&s1, 5)]);
    talk(&mut session, &contents);
    assert!(!says(&mut session, &contents, 0));
    assert!(says(&mut session, &contents, right));
}

#[test]
fn an_agent_is_behind_since_the_oldest_change_that_it_has_not_answered() {
    let later = |seconds| NOW + Duration::from_secs(seconds);
    let mut contents = contents(vec![put("tenant/a", 1, "a"), slots(2, &[0])]);
    let mut session = session(None, &contents);
    assert_eq!(session.behind_since(), Some(NOW));
    talk(&mut session, &contents);
    assert_eq!(session.behind_since(), None);

    // What concerns others only is nothing that it lacks.
    apply(&mut contents, vec![put("subscription/0003/b/s", 3, "s")]);
    assert_eq!(session.poll_command(&contents, later(1)), None);
    assert_eq!(session.behind_since(), None);

    let told = |session: &mut Session, contents: &Contents, seconds| match session
        .poll_command(contents, later(seconds))
    {
        Some(Command::Update(draft)) => draft.nonce,
        other => panic!("{other:?}"),
    };
    apply(&mut contents, vec![put("tenant/a", 4, "b")]);
    let nonce = told(&mut session, &contents, 2);
    apply(&mut contents, vec![put("tenant/a", 5, "c")]);
    assert_eq!(session.poll_command(&contents, later(3)), None);
    apply(&mut contents, vec![put("tenant/a", 6, "d")]);
    assert_eq!(session.poll_command(&contents, later(4)), None);
    assert_eq!(session.behind_since(), Some(later(2)));
    ack(&mut session, nonce);
    assert_eq!(session.behind_since(), Some(later(3)));
    let nonce = told(&mut session, &contents, 5);
    ack(&mut session, nonce);
    assert_eq!(session.behind_since(), None);
}

#[test]
fn contents_that_were_wrong_are_told_again_in_full() {
    let mut contents = contents(vec![put("tenant/a", 1, "a"), slots(2, &[0])]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    contents.mended();
    apply(&mut contents, vec![put("tenant/b", 3, "b")]);
    let told = talk(&mut session, &contents);
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let expected = [
        "keys full last ->0",
        "tenants full last ->0 a@1 b@3",
        "subscriptions full last ->0",
        "slots full last ->3 slots@2",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_session_ends_with_the_era_that_it_began_in() {
    let mut before = contents(vec![put("tenant/a", 1, "a"), slots(2, &[0])]);
    let mut session = session(None, &before);
    talk(&mut session, &before);
    apply(&mut before, vec![put("tenant/a", 3, "b")]);
    let mut after = Contents::new(Era::named("another"));
    apply(&mut after, vec![put("tenant/a", 1, "c"), slots(2, &[0])]);
    let told = session.poll_command(&after, NOW);
    assert_eq!(told, Some(Command::Close(Reason::OtherStore)));
}

#[test]
fn what_a_part_comes_to_is_not_compared_while_a_change_of_it_is_on_its_way() {
    let mut contents = contents(vec![put("tenant/a", 1, "a"), slots(2, &[0])]);
    let mut session = session(None, &contents);
    talk(&mut session, &contents);
    let tenants = Part {
        kind: ResourceType::Tenant,
        slot: 0,
    };
    let said = |digest| PartDigest {
        r#type: tenants.kind.into(),
        slot: 0,
        digest,
    };
    let had = contents.digest(tenants);
    assert_eq!(session.handle_digests(&[said(had)], &contents), None);
    apply(&mut contents, vec![put("tenant/a", 3, "b")]);
    assert_eq!(session.handle_digests(&[said(had)], &contents), None);
    talk(&mut session, &contents);
    let wrong = session.handle_digests(&[said(had)], &contents);
    assert_eq!(wrong, Some(tenants));
}
