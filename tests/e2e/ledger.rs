//! The ledger: what was acknowledged against what was received, while processes are killed.
//!
//! acknowledged × subscriptions − (received ∪ dead ∪ pending) = ∅, whatever is killed when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{Delivery, RetryPolicy, Subscription, delivery, publish_result};
use tonic::transport::Channel;

use crate::harness::{
    api::{create_tenant, deliveries, event, publish, retries, subscribe_in_force, to},
    eventually,
    process::{Process, agent, control_plane},
    receiver::{Received, Receiver},
    verifier,
};

const TENANTS: [&str; 2] = ["acme", "globex"];
const PUBLISHERS: usize = 4;
const EVENTS_EACH: usize = 750;
const BATCH: usize = 5;
/// Processes are killed when this many events have been acknowledged, so at moments of full work.
const KILL_AGENT_AT: [usize; 6] = [150, 400, 900, 1500, 2100, 2700];
const KILL_CONTROL_PLANE_AT: [usize; 3] = [250, 1200, 2400];
const PATIENCE: Duration = Duration::from_secs(120);

/// (subscription, webhook-id)
type Pair = (String, String);

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

    let receiver = Receiver::start().await;
    let secrets = subscribe_all(&admin, &receiver).await;
    let ledger = Ledger::default();
    let publishers = (0..PUBLISHERS)
        .map(|number| tokio::spawn(run_publisher(number, data.clone(), ledger.clone())));
    let publishers: Vec<_> = publishers.collect();

    let (mut n_agent_kills, mut n_plane_kills) = (0, 0);
    while n_agent_kills < KILL_AGENT_AT.len() || n_plane_kills < KILL_CONTROL_PLANE_AT.len() {
        let n_acked = ledger.n_acked.load(Ordering::Relaxed);
        if KILL_AGENT_AT
            .get(n_agent_kills)
            .is_some_and(|at| n_acked >= *at)
        {
            n_agent_kills += 1;
            worker.take().unwrap().kill();
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

    check(&ledger, &receiver, &secrets, &settled);
    drop::<(Option<Process>, Option<Process>)>((plane, worker));
}

/// Subscribes receivers of every temper, for each tenant, and waits until all are in force.
async fn subscribe_all(admin: &Channel, receiver: &Receiver) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    for tenant in TENANTS {
        create_tenant(admin, tenant).await;
        for id in ["good", "other", "flaky", "slow", "dead"] {
            let path = format!("{tenant}-{id}");
            let subscription = Subscription {
                retry_policy: match id {
                    // A receiver that only fails is left alone, and its deliveries wait for long; so let
                    // its answers be final.
                    "dead" => Some(RetryPolicy {
                        non_retryable_status_codes: vec![500],
                        ..RetryPolicy::default()
                    }),
                    _ => retries(&[1; 30]),
                },
                ..to(receiver.url(&path))
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
            let created = subscribe_in_force(admin, tenant, id, subscription).await;
            secrets.insert(path, created.signing_secret);
        }
    }
    secrets
}

#[derive(Clone, Default)]
struct Ledger {
    /// (tenant, webhook-id) → the event's data.
    acked: Arc<Mutex<BTreeMap<(String, String), String>>>,
    n_acked: Arc<AtomicUsize>,
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
        let results = loop {
            match publish(&data, tenant, events.clone()).await {
                Ok(results) => break results,
                // Killed, restarting, or not in sync yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        for (index, result) in (first..).zip(results) {
            let publish_result::Result::Receipt(receipt) = result else {
                panic!("a good event was refused: {result:?}");
            };
            assert_eq!(receipt.delivery_count, 5, "every subscription is in force");
            let id = receipt.event.rsplit('/').next().unwrap().to_owned();
            let mut acked = ledger.acked.lock().unwrap();
            assert!(acked.insert((tenant.to_owned(), id), body(index)).is_none());
            ledger.n_acked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Waits until every delivery of every acknowledged event is over.
async fn settle(data: &Channel, ledger: &Ledger) -> Vec<Delivery> {
    let n_expected = ledger.acked.lock().unwrap().len() * 5;
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

fn check(
    ledger: &Ledger,
    receiver: &Receiver,
    secrets: &BTreeMap<String, String>,
    settled: &[Delivery],
) {
    let acked = ledger.acked.lock().unwrap();
    assert_eq!(acked.len(), PUBLISHERS * EVENTS_EACH);
    let mut expected: BTreeSet<Pair> = BTreeSet::new();
    for (tenant, id) in acked.keys() {
        for subscription in ["good", "other", "flaky", "slow", "dead"] {
            expected.insert((format!("{tenant}-{subscription}"), id.clone()));
        }
    }
    let received = receiver.received();
    let mut counts: BTreeMap<Pair, usize> = BTreeMap::new();
    for it in received.iter().filter(|it| it.status.is_success()) {
        *counts
            .entry((it.path.clone(), it.header("webhook-id").to_owned()))
            .or_default() += 1;
    }
    let dead: BTreeSet<Pair> = settled
        .iter()
        .filter(|it| it.state() == delivery::State::DeadLettered)
        .map(|it| {
            let parts: Vec<&str> = it.name.split('/').collect();
            (
                format!("{}-{}", parts[1], parts[3]),
                it.event.rsplit('/').next().unwrap().to_owned(),
            )
        })
        .collect();
    let lost: Vec<&Pair> = expected
        .iter()
        .filter(|it| !counts.contains_key(it) && !dead.contains(it))
        .collect();
    assert!(
        lost.is_empty(),
        "{} lost, such as {:?}",
        lost.len(),
        lost.first()
    );
    let invented: Vec<&Pair> = counts
        .keys()
        .chain(&dead)
        .filter(|it| !expected.contains(*it))
        .collect();
    assert!(
        invented.is_empty(),
        "{} invented, such as {:?}",
        invented.len(),
        invented.first()
    );
    assert!(
        dead.iter().all(|(path, _)| path.ends_with("-dead")),
        "only the dead receiver has dead letters"
    );

    // Only what was in flight or unsynced at a kill is received twice.
    let n_extra: usize = counts.values().map(|count| count - 1).sum();
    let bound = KILL_AGENT_AT.len() * 2 * 1024;
    assert!(
        n_extra <= bound,
        "{n_extra} duplicates, at most {bound} are excused"
    );
    eprintln!(
        "{} deliveries, {} requests, {n_extra} duplicates after {} kills",
        expected.len(),
        received.len(),
        KILL_AGENT_AT.len()
    );

    for it in &received {
        let tenant = it.path.split('-').next().unwrap().to_owned();
        let data = &acked[&(tenant, it.header("webhook-id").to_owned())];
        let body = std::str::from_utf8(&it.body).unwrap();
        assert!(
            body.contains(data),
            "the data is passed on byte for byte: {body}"
        );
    }
    let signed: Vec<(String, Received)> = received
        .into_iter()
        .map(|it| (secrets[&it.path].clone(), it))
        .collect();
    verifier::verify(&signed);
}
