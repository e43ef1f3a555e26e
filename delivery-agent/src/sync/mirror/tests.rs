//! The mirror by what it says of updates.

use hookfleet_contract::{
    digest::{Digests, Part, digest},
    target::Rules,
};
use hookfleet_proto::{
    fleet::{Resource, ResourceType, Snapshot, SubscriptionSpec, Update, Welcome, resource::Body},
    v1,
};

use super::{Applied, Mirror};
use crate::{directory::Change, sync::snapshot::Row};

#[test]
fn what_a_full_set_lacks_is_gone_at_its_last_chunk_and_not_before() {
    let mut mirror = mirror();
    mirror.handle_update(full(vec![sub("a", 1), sub("b", 1), sub("c", 1)], true));

    let first = mirror.handle_update(full(vec![sub("a", 1)], false));
    assert_eq!(said(&first), [""; 0]);
    let last = mirror.handle_update(full(vec![sub("c", 2), sub("d", 2)], true));
    assert_eq!(said(&last), ["c", "d", "-b"]);
    assert_eq!(rows(&last), ["c", "d", "-b"]);
}

#[test]
fn a_full_set_that_was_cut_off_removes_nothing() {
    let mut mirror = mirror();
    mirror.handle_update(full(vec![sub("a", 1), sub("b", 1)], true));
    mirror.handle_update(full(vec![sub("c", 2)], false));
    mirror.handle_bookmark(9);
    assert_eq!(
        mirror.revision(),
        5,
        "a bookmark amid a full set says nothing"
    );

    mirror.handle_welcome(&welcome("g")).unwrap();
    let again = mirror.handle_update(full(vec![sub("b", 1)], true));
    assert_eq!(said(&again), ["-a", "-c"]);
}

#[test]
fn changes_amid_a_full_set_are_part_of_it() {
    let mut mirror = mirror();
    mirror.handle_update(full(vec![sub("a", 1)], false));
    assert_eq!(said(&mirror.handle_update(change("b", 2))), ["b"]);
    assert_eq!(said(&mirror.handle_update(full(Vec::new(), true))), [""; 0]);
}

#[test]
fn what_cannot_be_applied_is_reported_and_its_last_good_version_stays() {
    let mut mirror = mirror();
    mirror.handle_update(full(vec![sub("a", 1)], true));
    let mut bad = sub("a", 2);
    if let Some(Body::Subscription(spec)) = &mut bad.body {
        spec.subscription.as_mut().unwrap().callback_url = "ftp://a.com/".to_owned();
    }
    let applied = mirror.handle_update(full(vec![bad], true));
    assert_eq!(said(&applied), [""; 0], "nor is it gone");
    assert_eq!(applied.ack.rejections.len(), 1);
    assert_eq!(
        said(&mirror.handle_update(full(vec![sub("a", 3)], true))),
        ["a"]
    );
}

#[test]
fn what_was_saved_and_cannot_be_applied_now_goes_from_the_disk_when_it_is_deleted() {
    let mut mirror = mirror();
    let mut bad = sub("a", 1);
    if let Some(Body::Subscription(spec)) = &mut bad.body {
        spec.subscription.as_mut().unwrap().callback_url = "ftp://a.com/".to_owned();
    }
    mirror.restore(bad.clone(), &mut Applied::default());
    // Whoever tells it again learns again that it cannot be applied.
    let told = mirror.handle_update(full(vec![bad], true));
    assert_eq!(told.ack.rejections.len(), 1);
    let deleted = mirror.handle_update(full(Vec::new(), true));
    assert_eq!(rows(&deleted), ["-a"]);
}

#[test]
fn an_older_revision_replaces_nothing_unless_the_store_is_another() {
    let mut mirror = mirror();
    mirror.handle_update(full(vec![sub("a", 4)], true));
    assert_eq!(
        said(&mirror.handle_update(full(vec![sub("a", 4)], true))),
        [""; 0]
    );
    assert_eq!(said(&mirror.handle_update(change("a", 3))), [""; 0]);

    mirror.handle_bookmark(5);
    assert!(mirror.snapshot().is_some());
    mirror.handle_welcome(&welcome("another")).unwrap();
    assert_eq!(mirror.snapshot(), None, "what is held is of two stores");
    assert_eq!(
        said(&mirror.handle_update(full(vec![sub("a", 3)], true))),
        ["a"]
    );
}

#[test]
fn names_and_policies_are_in_memory_once() {
    let mut mirror = mirror();
    mirror.handle_update(Update {
        r#type: ResourceType::Tenant.into(),
        ..full(vec![tenant()], true)
    });
    let applied = mirror.handle_update(full(vec![sub("a", 1), sub("b", 1)], true));
    let [Change::Subscription(a), Change::Subscription(b)] = &applied.changes[..] else {
        panic!("two subscriptions: {:?}", applied.changes);
    };
    assert!(std::ptr::eq(a.name.tenant.as_str(), b.name.tenant.as_str()));
    assert!(std::sync::Arc::ptr_eq(&a.policy, &b.policy));
}

#[test]
fn digests_follow_changes_removals_and_rejections() {
    let mut mirror = mirror();
    mirror.handle_update(change("a", 1));
    mirror.handle_update(change("b", 2));
    mirror.handle_update(change("a", 3));
    mirror.handle_update(rejected("b", 4));
    mirror.handle_update(change("b", 2));
    assert_eq!(mirror.told.digests, expected(&[("a", 3), ("b", 4)]));
    mirror.handle_update(change("b", 5));
    mirror.handle_update(rejected("c", 6));
    mirror.handle_update(Update {
        removals: vec![sub("a", 3).name],
        ..change("b", 5)
    });
    assert_eq!(mirror.told.digests, expected(&[("b", 5), ("c", 6)]));
    mirror.handle_update(full(vec![sub("d", 7)], true));
    assert_eq!(mirror.told.digests, expected(&[("d", 7)]));
}

#[test]
fn a_full_set_is_right_even_where_it_is_older() {
    let mut mirror = mirror();
    mirror.handle_update(change("a", 9));
    assert_eq!(
        said(&mirror.handle_update(full(vec![sub("a", 5)], true))),
        ["a"]
    );
    assert_eq!(mirror.told.digests, expected(&[("a", 5)]));
    mirror.handle_update(rejected("a", 6));
    mirror.handle_update(full(vec![sub("a", 5)], true));
    assert_eq!(mirror.told.digests, expected(&[("a", 5)]));
    // In another store revisions begin anew.
    mirror.handle_welcome(&welcome("another")).unwrap();
    mirror.handle_update(full(vec![sub("a", 2)], true));
    assert_eq!(mirror.told.digests, expected(&[("a", 2)]));
}

#[test]
fn what_was_saved_counts_as_told() {
    let mut before = mirror();
    before.handle_update(full(vec![sub("a", 1)], true));
    before.handle_bookmark(5);
    let mut mirror = Mirror::saved(before.snapshot().unwrap(), Rules::default());
    mirror.restore(sub("a", 1), &mut Applied::default());
    assert_eq!(mirror.told.digests, before.told.digests);
}

#[test]
fn every_part_is_told_in_turn() {
    let mut mirror = mirror();
    mirror.slot_count = 300;
    let told: Vec<usize> = (0..4).map(|_| mirror.next_digests().len()).collect();
    assert_eq!(told, [128, 128, 47, 128]);
}

#[test]
fn a_tenant_is_spread_once_all_of_the_revision_is_here_that_says_so() {
    let mut mirror = mirror();
    mirror.handle_update(change("a", 1));
    assert_eq!(mirror.known_slots().len(), 1);
    let spread = |applied: &Applied| {
        let mut changes = applied.changes.iter();
        changes.any(|it| matches!(it, Change::Spread(_, 4)))
    };
    let told = mirror.handle_update(Update {
        r#type: ResourceType::Tenant.into(),
        revision: 5,
        upserts: vec![spread_tenant(6)],
        ..Update::default()
    });
    let shards = |it: &Change| matches!(it, Change::Tenant { shards: 8, .. });
    assert!(told.changes.iter().any(shards) && !spread(&told));
    let last = mirror.handle_update(Update {
        revision: 6,
        ..change("b", 2)
    });
    assert!(spread(&last));
    assert!(!spread(&mirror.handle_update(change("c", 3))), "only once");
    // Everybody is told of these, so it is no use to say so.
    assert_eq!(mirror.known_slots(), [0; 0]);
}

#[test]
fn what_was_saved_of_a_spread_is_in_force_if_its_revision_was_whole() {
    for (revision, is_whole) in [(5, false), (6, true)] {
        let head = Snapshot {
            revision,
            slot_count: 16,
            ..Snapshot::default()
        };
        let mut mirror = Mirror::saved(head, Rules::default());
        let mut applied = Applied::default();
        mirror.restore(spread_tenant(6), &mut applied);
        let is_spread = |it: &Change| matches!(it, Change::Spread(_, 4));
        assert_eq!(applied.changes.iter().any(is_spread), is_whole);
    }
}

/// A tenant that has deliveries in eight shards, and events in four from now on.
fn spread_tenant(mod_revision: i64) -> Resource {
    let mut resource = tenant();
    if let Some(Body::Tenant(tenant)) = &mut resource.body {
        tenant.spread = 4;
    }
    Resource {
        mod_revision,
        shards: 8,
        ..resource
    }
}

fn mirror() -> Mirror {
    let mut mirror = Mirror::new(Rules::default());
    mirror.handle_welcome(&welcome("g")).unwrap();
    mirror
}

fn welcome(generation: &str) -> Welcome {
    Welcome {
        cluster_id: "c".to_owned(),
        store_generation: generation.to_owned(),
        slot_count: 16,
        ..Welcome::default()
    }
}

fn full(upserts: Vec<Resource>, last_chunk: bool) -> Update {
    Update {
        r#type: ResourceType::Subscription.into(),
        revision: 5,
        full: true,
        last_chunk,
        upserts,
        ..Update::default()
    }
}

fn change(id: &str, mod_revision: i64) -> Update {
    Update {
        full: false,
        ..full(vec![sub(id, mod_revision)], false)
    }
}

/// A change to something that this version does not know.
fn rejected(id: &str, mod_revision: i64) -> Update {
    let mut update = change(id, mod_revision);
    update.upserts[0].body = None;
    update
}

fn expected(told: &[(&str, i64)]) -> Digests {
    let mut digests = Digests::default();
    for (id, revision) in told {
        let name = sub(id, *revision).name;
        digests.add(Part::of(&name, 16).unwrap(), digest(&name, *revision));
    }
    digests
}

fn tenant() -> Resource {
    let name = "tenants/acme".to_owned();
    Resource {
        name: name.clone(),
        mod_revision: 1,
        body: Some(Body::Tenant(v1::Tenant {
            name,
            ..v1::Tenant::default()
        })),
        shards: 0,
    }
}

fn sub(id: &str, mod_revision: i64) -> Resource {
    let name = format!("tenants/acme/subscriptions/{id}");
    let subscription = v1::Subscription {
        name: name.clone(),
        uid: uuid::Uuid::from_u128(u128::from(id.as_bytes()[0])).to_string(),
        callback_url: "https://hooks.acme.com/".to_owned(),
        event_types: vec!["*".to_owned()],
        ..v1::Subscription::default()
    };
    Resource {
        name,
        mod_revision,
        body: Some(Body::Subscription(SubscriptionSpec {
            verification: None,
            subscription: Some(subscription),
            secret_keys: Vec::new(),
        })),
        shards: 0,
    }
}

/// The subscriptions that are put in force, and those that are gone with a dash.
fn said(applied: &Applied) -> Vec<String> {
    let said = applied.changes.iter().map(|change| match change {
        Change::Subscription(it) => it.name.subscription.to_string(),
        Change::SubscriptionGone(_, id) => format!("-{id}"),
        Change::Tenant { .. } | Change::Spread(..) | Change::TenantGone(_) => {
            panic!("no tenant: {change:?}")
        }
    });
    said.collect()
}

fn rows(applied: &Applied) -> Vec<String> {
    let id = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let rows = applied.rows.iter().map(|row| match row {
        Row::Put(resource) => id(&resource.name),
        Row::Gone(name) => format!("-{}", id(name)),
    });
    rows.collect()
}
