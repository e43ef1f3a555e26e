//! The directory against a simple account of what should be in it.

use std::{collections::BTreeMap, sync::Arc};

use hookfleet_contract::{
    name::TenantId,
    shard::{Spread, replica},
    subscription::Subscription,
    target::Rules,
};
use hookfleet_proto::{fleet::SubscriptionSpec, v1};
use proptest::prelude::*;

use super::{Change, Directory, Effect};

const TENANTS: [&str; 2] = ["acme", "globex"];
const PATTERNS: [&str; 4] = ["*", "a", "a.b", "c"];
const TYPES: [&str; 5] = ["a", "a.b", "a.b.c", "ab", "c.d"];

#[derive(Clone, Debug)]
enum Step {
    Put {
        tenant: usize,
        id: u8,
        uid: u8,
        patterns: Vec<usize>,
    },
    Remove {
        tenant: usize,
        id: u8,
    },
    Suspend {
        tenant: usize,
        suspended: bool,
    },
    RemoveTenant(usize),
}

proptest! {
    #[test]
    fn it_matches_what_a_simple_account_matches(
        steps in prop::collection::vec((step(), any::<bool>()), 1..40),
    ) {
        let directory = Directory::default();
        let mut account: BTreeMap<(usize, u8), (u8, Vec<usize>)> = BTreeMap::new();
        let mut suspended = [false; 2];
        for (step, is_read_meanwhile) in steps {
            // Whoever reads sees the state before, to the end.
            let reader = directory.tenant(&"acme".parse().unwrap());
            let seen = |it: &super::Tenant| TYPES.map(|kind| ids(it, kind));
            let before = reader.as_deref().map(seen);
            let reader = reader.filter(|_| is_read_meanwhile);
            let effects = directory.apply(vec![change(&step)]);
            if let Some(reader) = reader {
                prop_assert_eq!(Some(seen(&reader)), before);
            }
            let ended: Vec<u8> = effects.iter().filter_map(ended).collect();
            let expected = run(step, &mut account, &mut suspended);
            prop_assert_eq!(ended, expected);
            check(&directory, &account, suspended);
        }
    }
}

#[test]
fn a_subscription_has_a_name_and_a_share_in_each_shard() {
    let directory = Directory::default();
    let uid = uuid::Builder::from_random_bytes([9; 16]).into_uuid();
    let spec = SubscriptionSpec {
        subscription: Some(v1::Subscription {
            name: "tenants/acme/subscriptions/s".to_owned(),
            uid: uid.to_string(),
            callback_url: "https://hooks.acme.com/".to_owned(),
            event_types: vec!["*".to_owned()],
            max_in_flight: 10,
            max_requests_per_second: 20.0,
            ..v1::Subscription::default()
        }),
        ..SubscriptionSpec::default()
    };
    let subscription = Subscription::try_new(&spec, &Rules::default()).unwrap();
    let (tenant, uid): (TenantId, _) = ("acme".parse().unwrap(), subscription.uid);
    directory.apply(vec![
        Change::Tenant {
            tenant: tenant.clone(),
            suspended: false,
            shards: 8,
        },
        Change::Subscription(Arc::new(subscription)),
    ]);
    let share = |number: u8| {
        let settings = directory.settings(&replica(uid, number)).unwrap();
        assert_eq!(settings.shard.number, number);
        (settings.max_in_flight, settings.max_requests_per_second)
    };
    assert_eq!((share(0), share(7)), ((10, Some(20.0)), (2, Some(2.5))));
    let effects = directory.apply(vec![Change::Spread(tenant.clone(), 4)]);
    let expected = Spread {
        events: 4,
        shards: 8,
    };
    assert!(matches!(effects[..], [Effect::Live { spread, .. }] if spread == expected));
    assert_eq!((share(0), share(7)), ((3, Some(5.0)), (2, Some(2.5))));
    assert_eq!(directory.subscription(&replica(uid, 63)).unwrap().uid, uid);
    let effects = directory.apply(vec![Change::TenantGone(tenant)]);
    assert!(matches!(effects[..], [Effect::Ended { shards: 8, .. }]));
    assert!(directory.settings(&replica(uid, 7)).is_none());
}

/// Does the step in the account; returns the uids that ended.
fn run(
    step: Step,
    account: &mut BTreeMap<(usize, u8), (u8, Vec<usize>)>,
    suspended: &mut [bool; 2],
) -> Vec<u8> {
    match step {
        Step::Put {
            tenant,
            id,
            uid,
            patterns,
        } => {
            let previous = account.insert((tenant, id), (uid, patterns));
            previous
                .map(|it| it.0)
                .filter(|it| *it != uid)
                .into_iter()
                .collect()
        }
        Step::Remove { tenant, id } => account
            .remove(&(tenant, id))
            .map(|it| it.0)
            .into_iter()
            .collect(),
        Step::Suspend {
            tenant,
            suspended: now,
        } => {
            suspended[tenant] = now;
            Vec::new()
        }
        Step::RemoveTenant(tenant) => {
            suspended[tenant] = false;
            let gone = account.extract_if(.., |key, _| key.0 == tenant);
            gone.map(|(_, it)| it.0).collect()
        }
    }
}

fn check(
    directory: &Directory,
    account: &BTreeMap<(usize, u8), (u8, Vec<usize>)>,
    suspended: [bool; 2],
) {
    for (place, name) in TENANTS.iter().enumerate() {
        let tenant = directory.tenant(&name.parse().unwrap()).unwrap_or_default();
        assert_eq!(tenant.is_suspended(), suspended[place]);
        for kind in TYPES {
            let mine = account.iter().filter(|((it, _), _)| *it == place);
            let wanting = mine.filter(|(_, (_, patterns))| {
                patterns.iter().any(|it| {
                    let pattern = PATTERNS[*it].parse::<hookfleet_contract::pattern::Pattern>();
                    pattern.unwrap().covers(kind)
                })
            });
            let expected: Vec<String> = wanting.map(|((_, id), _)| format!("s{id}")).collect();
            assert_eq!(ids(&tenant, kind), expected, "{name} {kind}");
        }
    }
    for ((tenant, id), (uid, _)) in account {
        let found = directory.subscription(&uid_of(*tenant, *uid)).unwrap();
        assert_eq!(found.name.subscription.as_str(), format!("s{id}"));
        let settings = directory.settings(&uid_of(*tenant, *uid)).unwrap();
        assert_eq!(settings.suspended, suspended[*tenant]);
    }
}

fn ids(tenant: &super::Tenant, kind: &str) -> Vec<String> {
    let matching = tenant.matching(kind).into_iter();
    matching
        .map(|it| it.name.subscription.to_string())
        .collect()
}

fn ended(effect: &Effect) -> Option<u8> {
    match effect {
        Effect::Ended { uid, .. } => Some(uid[15]),
        Effect::Live { .. } => None,
    }
}

fn uid_of(tenant: usize, uid: u8) -> [u8; 16] {
    (((tenant as u128) << 8) | u128::from(uid)).to_be_bytes()
}

fn change(step: &Step) -> Change {
    match step {
        Step::Put {
            tenant,
            id,
            uid,
            patterns,
        } => {
            let uid = uuid::Uuid::from_bytes(uid_of(*tenant, *uid));
            let subscription = v1::Subscription {
                name: format!("tenants/{}/subscriptions/s{id}", TENANTS[*tenant]),
                uid: uid.to_string(),
                callback_url: "https://hooks.acme.com/".to_owned(),
                event_types: patterns.iter().map(|it| PATTERNS[*it].to_owned()).collect(),
                ..v1::Subscription::default()
            };
            let spec = SubscriptionSpec {
                verification: None,
                subscription: Some(subscription),
                secret_keys: Vec::new(),
            };
            let compiled = Subscription::try_new(&spec, &Rules::default()).unwrap();
            Change::Subscription(Arc::new(compiled))
        }
        Step::Remove { tenant, id } => {
            let tenant = TENANTS[*tenant].parse().unwrap();
            Change::SubscriptionGone(tenant, format!("s{id}").parse().unwrap())
        }
        Step::Suspend { tenant, suspended } => Change::Tenant {
            tenant: TENANTS[*tenant].parse().unwrap(),
            suspended: *suspended,
            shards: 1,
        },
        Step::RemoveTenant(tenant) => Change::TenantGone(TENANTS[*tenant].parse().unwrap()),
    }
}

/// A uid belongs to one id for ever, and an id may be used again with another uid.
fn step() -> impl Strategy<Value = Step> {
    let patterns = prop::collection::vec(0..PATTERNS.len(), 1..4);
    prop_oneof![
        6 => (0..2_usize, 0..6_u8, 0..3_u8, patterns).prop_map(|(tenant, id, again, patterns)| {
            Step::Put { tenant, id, uid: id * 3 + again, patterns }
        }),
        2 => (0..2_usize, 0..6_u8).prop_map(|(tenant, id)| Step::Remove { tenant, id }),
        1 => (0..2_usize, any::<bool>())
            .prop_map(|(tenant, suspended)| Step::Suspend { tenant, suspended }),
        1 => (0..2_usize).prop_map(Step::RemoveTenant),
    ]
}
