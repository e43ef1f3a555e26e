//! `tests/vectors/egress_cases.tsv` and the host lists of `standards_vectors.json`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hookfleet_contract::{
    name::TenantId,
    target::{Host, Rules, Target},
};
use proptest::prelude::*;

use crate::{address::Policy, resolve::Resolver};

#[path = "../../../tests/vectors/cases.rs"]
pub(super) mod table;

use table::{cases, unescape};

const VECTORS: &str = include_str!("../../../tests/vectors/standards_vectors.json");

#[test]
fn addresses_are_judged_as_the_table_says() {
    let rows = cases("ip");
    assert!(rows.len() > 70);
    for (case, cell, expected) in rows {
        let checked = policy(case).check(cell.parse().unwrap());
        assert_eq!(checked.is_ok(), expected == "allow", "{case}: {checked:?}");
    }
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    for (list, expected) in [("allow", true), ("deny", false)] {
        for address in vectors["callback_host"][list].as_array().unwrap() {
            let address = address.as_str().unwrap().parse().unwrap();
            assert_eq!(
                Policy::default().check(address).is_ok(),
                expected,
                "{address}"
            );
        }
    }
}

#[test]
fn urls_are_judged_as_the_table_says() {
    for (case, cell, expected) in cases("url.") {
        let target = Target::parse(&unescape(cell), &rules(case));
        let is_callable = target.is_ok_and(|target| match target.host() {
            Host::Domain(_) => true,
            Host::Ipv4(address) => policy(case).check((*address).into()).is_ok(),
            Host::Ipv6(address) => policy(case).check((*address).into()).is_ok(),
        });
        assert_eq!(is_callable, expected == "allow", "{case}");
    }
}

#[tokio::test]
async fn names_are_judged_by_every_answer_of_every_resolution() {
    let rows = cases("dns.");
    assert!(rows.len() >= 13);
    for (case, cell, expected) in rows {
        let (url, answers) = cell
            .split_once(" => ")
            .unwrap_or((cell.trim_end_matches(" =>"), ""));
        let resolutions: Vec<Vec<IpAddr>> = answers
            .split(" THEN ")
            .map(|it| {
                it.split(',')
                    .filter_map(|it| it.trim().parse().ok())
                    .collect()
            })
            .collect();
        let n_resolutions = resolutions.len();
        let n_asked = Arc::new(AtomicUsize::new(0));
        let resolver = Resolver::scripted(policy(case), move |name| {
            assert_eq!(name.trim_end_matches('.'), name, "the dot is stripped");
            let index = n_asked.fetch_add(1, Ordering::Relaxed);
            resolutions[index.min(resolutions.len() - 1)].clone()
        });
        let target = Target::parse(url, &rules(case)).unwrap();
        for _ in 1..n_resolutions {
            assert!(
                resolver.resolve(&acme(), &target).await.is_ok(),
                "{case}: the first answer is good"
            );
        }
        let resolved = resolver.resolve(&acme(), &target).await;
        assert_eq!(
            resolved.is_ok(),
            expected == "allow",
            "{case}: {resolved:?}"
        );
    }
}

#[test]
fn loopback_is_open_only_to_those_who_ask_and_nothing_else_is() {
    let asked = Policy {
        allow_loopback: true,
        own: vec![Ipv4Addr::LOCALHOST.into(), "5.9.1.1".parse().unwrap()],
        ..Policy::default()
    };
    for (address, expected) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("5.9.1.1", false),
        ("10.0.0.1", false),
        ("0.0.0.0", false),
        ("169.254.169.254", false),
        ("::ffff:127.0.0.1", false),
    ] {
        assert_eq!(
            asked.check(address.parse().unwrap()).is_ok(),
            expected,
            "{address}"
        );
    }
}

#[test]
fn a_destination_is_an_address_of_the_public_internet_however_it_is_called() {
    let policy = Policy {
        allow: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        nat64_prefixes: vec!["64:ff9b::".parse().unwrap()],
        allow_loopback: true,
        ..Policy::default()
    };
    for (address, expected) in [
        ("93.184.215.14", Some("93.184.215.14")),
        ("2606:2800::1", Some("2606:2800::")),
        ("2606:2800::ffff:1:2:3", Some("2606:2800::")),
        ("2606:2800:0:1::1", Some("2606:2800:0:1::")),
        ("64:ff9b::5db8:d70e", Some("93.184.215.14")),
        ("64:ff9b::a00:1", None),
        ("10.0.0.1", None),
        ("fd00::1", None),
        ("127.0.0.1", None),
        ("::1", None),
    ] {
        let destination = policy.destination(address.parse().unwrap());
        let expected = expected.map(|it| it.parse().unwrap());
        assert_eq!(destination, expected, "{address}");
    }
}

/// Addresses come and go while the process runs.
#[tokio::test]
async fn this_machines_addresses_are_refused_as_they_change() {
    let resolver = Resolver::scripted(policy(""), |_| vec!["93.184.215.14".parse().unwrap()]);
    let target = Target::parse("https://h.example.com/", &Rules::default()).unwrap();
    let is_callable = async || resolver.resolve(&acme(), &target).await.is_ok();
    assert!(is_callable().await);
    resolver.set_machine(vec!["93.184.215.14".parse().unwrap()]);
    assert!(!is_callable().await);
    resolver.set_machine(Vec::new());
    assert!(is_callable().await);
    let own = Target::parse("https://5.9.1.1/", &Rules::default()).unwrap();
    assert!(resolver.resolve(&acme(), &own).await.is_err(), "configured");
}

proptest! {
    #[test]
    fn our_own_nat64_is_judged_by_what_it_carries(bits: u32) {
        let policy = policy("@nat64");
        let carried = Ipv4Addr::from(bits);
        let wrapped = Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(bits));
        let plain = policy.check(carried.into()).is_ok();
        prop_assert_eq!(policy.check(wrapped.into()).is_ok(), plain);
        prop_assert!(Policy::default().check(wrapped.into()).is_err(), "not declared");
    }

    #[test]
    fn nothing_outside_global_unicast_is_called(bits: u128) {
        let outside = Ipv6Addr::from(bits & !(0b111 << 125) | (if bits & 1 == 0 { 0b000 } else { 0b110 } << 125));
        prop_assert!(Policy::default().check(outside.into()).is_err());
    }

    #[test]
    fn an_address_in_another_dress_is_not_called(bits: u32) {
        let [a, b] = [(bits >> 16) as u16, bits as u16];
        for dressed in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a, b),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, a, b),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, a, b),
            Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
        ] {
            prop_assert!(Policy::default().check(dressed.into()).is_err());
        }
    }
}

#[test]
fn a_translators_loopback_stays_shut() {
    let policy = Policy {
        allow_loopback: true,
        ..policy("@nat64")
    };
    assert!(policy.check("64:ff9b::7f00:1".parse().unwrap()).is_err());
}

/// A tenant.
pub(super) fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn rules(case: &str) -> Rules {
    Rules {
        allow_http: !case.ends_with("@https_only"),
        own_names: vec!["hooks.ourservice.com".to_owned()],
        ..Rules::default()
    }
}

fn policy(case: &str) -> Policy {
    let blocks = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect();
    let (_, profile) = case.split_once('@').unwrap_or((case, ""));
    let own = vec!["5.9.1.1".parse().unwrap()];
    match profile {
        "nat64" => Policy {
            nat64_prefixes: vec![
                "64:ff9b::".parse().unwrap(),
                "2a00:1098:2b::".parse().unwrap(),
            ],
            own,
            ..Policy::default()
        },
        "allow10" => Policy {
            allow: blocks(&["10.20.0.0/16"]),
            deny: blocks(&["10.20.30.0/24"]),
            own,
            ..Policy::default()
        },
        "allow_all" => Policy {
            allow: blocks(&["0.0.0.0/0"]),
            own,
            ..Policy::default()
        },
        _ => Policy {
            own,
            ..Policy::default()
        },
    }
}
