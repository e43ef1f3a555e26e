//! What a copy comes to: it must be what the control plane has told, whatever became of it here.

use hookfleet_proto::v1::Tenant;

use super::*;

fn mirror() -> Mirror {
    let mut mirror = Mirror::new(Rules::default());
    let welcome = welcome("one");
    mirror.handle_welcome(&welcome).unwrap();
    mirror
}

fn welcome(store_generation: &str) -> Welcome {
    Welcome {
        cluster_id: "cluster".to_owned(),
        store_generation: store_generation.to_owned(),
        slot_count: 4,
        heartbeat_millis: 1000,
    }
}

fn tenant(id: &str, mod_revision: i64) -> Resource {
    let name = format!("tenants/{id}");
    Resource {
        name: name.clone(),
        mod_revision,
        body: Some(Body::Tenant(Tenant {
            name,
            ..Tenant::default()
        })),
    }
}

/// A resource that this version does not know.
fn unknown(id: &str, mod_revision: i64) -> Resource {
    Resource {
        body: None,
        ..tenant(id, mod_revision)
    }
}

fn update(full: bool, upserts: Vec<Resource>, removals: &[&str]) -> Update {
    Update {
        r#type: ResourceType::Tenant.into(),
        revision: 100,
        full,
        last_chunk: true,
        upserts,
        removals: removals.iter().map(|id| format!("tenants/{id}")).collect(),
        ..Update::default()
    }
}

fn expected(told: &[(&str, i64)]) -> Digests {
    let mut digests = Digests::default();
    for (id, revision) in told {
        let name = format!("tenants/{id}");
        digests.add(Part::of(&name, 4).unwrap(), &name, *revision);
    }
    digests
}

#[test]
fn digests_follow_changes_removals_and_rejections() {
    let mut mirror = mirror();
    mirror.handle_update(update(false, vec![tenant("a", 1), tenant("b", 2)], &[]));
    mirror.handle_update(update(false, vec![tenant("a", 3), unknown("b", 4)], &[]));
    assert_eq!(mirror.digests, expected(&[("a", 3), ("b", 4)]));
    mirror.handle_update(update(false, vec![tenant("b", 5), unknown("c", 6)], &["a"]));
    assert_eq!(mirror.digests, expected(&[("b", 5), ("c", 6)]));
    mirror.handle_update(update(true, vec![tenant("d", 7)], &[]));
    assert_eq!(mirror.digests, expected(&[("d", 7)]));
}

#[test]
fn a_full_set_is_right_even_where_it_is_older() {
    let mut mirror = mirror();
    mirror.handle_update(update(false, vec![tenant("a", 9)], &[]));
    mirror.handle_update(update(true, vec![tenant("a", 5)], &[]));
    assert_eq!(mirror.digests, expected(&[("a", 5)]));
    // In another store revisions begin anew.
    mirror.handle_welcome(&welcome("two")).unwrap();
    mirror.handle_update(update(true, vec![tenant("a", 2)], &[]));
    assert_eq!(mirror.digests, expected(&[("a", 2)]));
}

#[test]
fn every_part_is_told_in_turn() {
    let mut mirror = mirror();
    mirror.slot_count = 300;
    let told: Vec<usize> = (0..4).map(|_| mirror.next_digests().len()).collect();
    assert_eq!(told, [128, 128, 47, 128]);
}
