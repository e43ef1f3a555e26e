//! The ledger: what was acknowledged against what was received, while processes are killed.
//!
//! acknowledged × subscriptions − (received ∪ dead ∪ pending) = ∅, whatever is killed when.

use std::{collections::BTreeMap, time::Duration};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{Delivery, RetryPolicy, Subscription, delivery, publish_result};
use tonic::transport::Channel;

use crate::harness::{
    api::{deliveries, event, publish, retries},
    checker::{Excuses, Fate, Published},
    eventually,
    ledger::Ledger,
    process::{Process, agent, control_plane},
    receiver::Received,
    verifier,
};

const TENANTS: [&str; 2] = ["acme", "globex"];
const SUBSCRIPTIONS: [&str; 5] = ["good", "other", "flaky", "slow", "dead"];
const PUBLISHERS: usize = 4;
const EVENTS_EACH: usize = 750;
const BATCH: usize = 5;
/// Processes are killed when this many events have been acknowledged, so at moments of full work.
const KILL_AGENT_AT: [usize; 6] = [150, 400, 900, 1500, 2100, 2700];
const KILL_CONTROL_PLANE_AT: [usize; 3] = [250, 1200, 2400];
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_processes_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let etcd_url = etcd.endpoint().to_owned();
    let mut plane = Some(control_plane(dir.path(), &etcd_url, "127.0.0.3:0"));
    let plane_address = plane.as_ref().unwrap().address;
    let mut worker = Some(agent(
        &dir.path().join("agent"),
        plane_address,
        "127.0.0.2:0",
    ));
    let (admin, data) = (
        plane.as_ref().unwrap().channel(),
        worker.as_ref().unwrap().channel(),
    );
    let worker_address = worker.as_ref().unwrap().address;

    let ledger = Ledger::start().await;
    let secrets = subscribe_all(&admin, &ledger).await;
    let publishers = (0..PUBLISHERS)
        .map(|number| tokio::spawn(run_publisher(number, data.clone(), ledger.clone())));
    let publishers: Vec<_> = publishers.collect();

    let (mut n_agent_kills, mut n_plane_kills) = (0, 0);
    while n_agent_kills < KILL_AGENT_AT.len() || n_plane_kills < KILL_CONTROL_PLANE_AT.len() {
        let n_acked = ledger.n_acked();
        if KILL_AGENT_AT
            .get(n_agent_kills)
            .is_some_and(|at| n_acked >= *at)
        {
            n_agent_kills += 1;
            let kill = async { worker.take().unwrap().kill() };
            ledger
                .fault("kill -9 of the agent", Excuses::InFlight, kill)
                .await;
            worker = Some(agent(
                &dir.path().join("agent"),
                plane_address,
                &worker_address.to_string(),
            ));
        }
        if KILL_CONTROL_PLANE_AT
            .get(n_plane_kills)
            .is_some_and(|at| n_acked >= *at)
        {
            n_plane_kills += 1;
            plane.take().unwrap().kill();
            plane = Some(control_plane(
                dir.path(),
                &etcd_url,
                &plane_address.to_string(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let settled = settle(&data, &ledger).await;
    ledger.note_dead(settled.iter().filter_map(dead));
    let n_pairs = PUBLISHERS * EVENTS_EACH * SUBSCRIPTIONS.len();
    ledger
        .settle()
        .await
        .passes(PUBLISHERS * EVENTS_EACH, n_pairs);
    let received = ledger.receiver.received().into_iter();
    let signed = received.map(|it| (secrets[&it.path].clone(), it));
    verifier::verify(&signed.collect::<Vec<(String, Received)>>());
    drop::<(Option<Process>, Option<Process>)>((plane, worker));
}

/// Subscribes receivers of every temper, for each tenant, and waits until all are in force.
async fn subscribe_all(admin: &Channel, ledger: &Ledger) -> BTreeMap<String, String> {
    let receiver = &ledger.receiver;
    let mut secrets = BTreeMap::new();
    for tenant in TENANTS {
        crate::harness::api::create_tenant(admin, tenant).await;
        for id in SUBSCRIPTIONS {
            let path = format!("{tenant}/{id}");
            let policy = |subscription| Subscription {
                retry_policy: match id {
                    // A receiver that only fails is left alone, and its deliveries wait for long; so let
                    // its answers be final.
                    "dead" => Some(RetryPolicy {
                        non_retryable_status_codes: vec![500],
                        ..RetryPolicy::default()
                    }),
                    _ => retries(&[1; 30]),
                },
                ..subscription
            };
            match id {
                "dead" => receiver.answer(&path, 500),
                "flaky" => receiver.answer_with(&path, |_, n_before| {
                    let status = if n_before % 3 == 0 { 503_u16 } else { 200 };
                    (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
                }),
                "slow" => receiver.answer_with(&path, |_, _| {
                    (
                        200_u16.try_into().unwrap(),
                        Vec::new(),
                        Duration::from_millis(20),
                    )
                }),
                _ => {}
            }
            let secret = ledger.subscribe(admin, tenant, id, policy).await;
            secrets.insert(path, secret);
        }
    }
    secrets
}

/// Publishes until everything is acknowledged: what is not is published again with the same id.
async fn run_publisher(number: usize, data: Channel, ledger: Ledger) {
    let tenant = TENANTS[number % TENANTS.len()];
    for first in (0..EVENTS_EACH).step_by(BATCH) {
        let numbered = |index: usize| format!("{number}-{index}");
        let body = |index: usize| {
            format!(
                r#"{{"number":"{number}-{index}","text":"{}"}}"#,
                "é".repeat(200)
            )
        };
        let events: Vec<_> = (first..first + BATCH)
            .map(|index| event(&numbered(index), "orders.created", &body(index)))
            .collect();
        let from = ledger.now();
        let mut n_unknown = 0;
        let results = loop {
            match publish(&data, tenant, events.clone()).await {
                Ok(results) => break results,
                // Killed, restarting, or not in sync yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            n_unknown += 1;
        };
        for (index, result) in (first..).zip(results) {
            let publish_result::Result::Receipt(receipt) = result else {
                panic!("a good event was refused: {result:?}");
            };
            let n_targets = usize::try_from(receipt.delivery_count).unwrap();
            assert_eq!(n_targets, SUBSCRIPTIONS.len(), "all are in force");
            ledger.note(Published {
                tenant: tenant.to_owned(),
                id: numbered(index),
                keyed: None,
                data: body(index),
                door: 0,
                from,
                until: ledger.now(),
                n_unknown,
                fate: Fate::Acked,
            });
        }
    }
}

/// Waits until every delivery of every acknowledged event is over.
async fn settle(data: &Channel, ledger: &Ledger) -> Vec<Delivery> {
    let n_expected = ledger.n_acked() * SUBSCRIPTIONS.len();
    eventually("all deliveries are over", PATIENCE, || async {
        let mut all = Vec::new();
        for tenant in TENANTS {
            all.extend(deliveries(data, tenant, "").await);
        }
        let n_pending = all
            .iter()
            .filter(|it| it.state() == delivery::State::Pending)
            .count();
        let state = format!(
            "{} known, {n_pending} pending, {n_expected} expected",
            all.len()
        );
        if n_pending == 0 && all.len() >= n_expected {
            Ok(all)
        } else {
            Err(state)
        }
    })
    .await
}

/// A dead letter as the ledger notes it. Only the dead receiver has any.
fn dead(delivery: &Delivery) -> Option<(String, String, String)> {
    if delivery.state() != delivery::State::DeadLettered {
        return None;
    }
    let parts: Vec<&str> = delivery.name.split('/').collect();
    let [_, tenant, _, "dead", ..] = parts[..] else {
        panic!("a receiver that lives has a dead letter: {delivery:?}");
    };
    let id = delivery.event.rsplit('/').next()?;
    Some((tenant.to_owned(), "dead".to_owned(), id.to_owned()))
}
