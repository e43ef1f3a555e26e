//! Slots that move between agents while events are published to any of them: a ledger of what was acknowledged against
//! what was received.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    ListAgentsRequest, Subscription, agent::State, fleet_service_client::FleetServiceClient,
    publish_result,
};
use tonic::transport::Channel;

use crate::harness::{
    api::{
        create_tenant, deliveries, event, keyed, ordered, publish, publish_one, retries,
        subscribe_in_force, to,
    },
    eventually,
    process::{Process, agent, control_plane},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(90);
const N_TENANTS: usize = 12;

/// Tenants in slots of their own, each with a receiver of everything, and what was acknowledged.
#[derive(Clone)]
struct Ledger {
    receiver: Receiver,
    acked: Arc<Mutex<BTreeMap<(String, String), ()>>>,
    n_acked: Arc<AtomicUsize>,
}

impl Ledger {
    async fn start(admin: &Channel) -> Self {
        let receiver = Receiver::start().await;
        for number in 0..N_TENANTS {
            let tenant = format!("tenant-{number}");
            create_tenant(admin, &tenant).await;
            let wanted = Subscription {
                retry_policy: retries(&[1; 50]),
                ..to(receiver.url(&tenant))
            };
            subscribe_in_force(admin, &tenant, "hook", wanted).await;
        }
        Self {
            receiver,
            acked: Arc::default(),
            n_acked: Arc::default(),
        }
    }

    /// Publishes `n` events of all tenants in turn, through the agents in turn, each until it is acknowledged.
    async fn publish(self, name: &'static str, through: Vec<Channel>, n: usize) {
        for number in 0..n {
            let tenant = format!("tenant-{}", number % N_TENANTS);
            let event = event(&format!("{name}-{number}"), "orders.created", "{}");
            for attempt in number.. {
                let channel = &through[attempt % through.len()];
                let published = publish(channel, &tenant, vec![event.clone()]).await;
                match published.map(|mut results| results.pop()) {
                    Ok(Some(publish_result::Result::Receipt(receipt))) => {
                        let id = receipt.event.rsplit('/').next().unwrap().to_owned();
                        self.acked.lock().unwrap().insert((tenant, id), ());
                        self.n_acked.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Ok(other) => panic!("a good event was refused: {other:?}"),
                    // Killed, restarting, or not in sync yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    }

    async fn acknowledged(&self, n: usize) {
        eventually("events are acknowledged", PATIENCE, || async {
            let n_acked = self.n_acked.load(Ordering::Relaxed);
            if n_acked >= n { Ok(()) } else { Err(n_acked) }
        })
        .await;
    }

    /// How often each delivery was received.
    fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for it in self.receiver.received() {
            if it.status.is_success() {
                let id = it.header("webhook-id").to_owned();
                *counts.entry((it.path, id)).or_default() += 1;
            }
        }
        counts
    }

    /// Waits until everything acknowledged was received; answers how much was received more than once.
    async fn settle(&self) -> usize {
        eventually("everything acknowledged is received", PATIENCE, || async {
            let (acked, counts) = (self.acked.lock().unwrap(), self.counts());
            let missing: Vec<_> = acked
                .keys()
                .filter(|it| !counts.contains_key(*it))
                .collect();
            match missing.first() {
                None => Ok(()),
                Some(first) => Err(format!(
                    "{} of {}, such as {first:?}",
                    missing.len(),
                    acked.len()
                )),
            }
        })
        .await;
        self.counts().values().map(|count| count - 1).sum()
    }
}

/// Waits until the live agents have these shares of the slots, from the least.
async fn shares(admin: &Channel, expected: &[i32]) {
    eventually("the slots are shared out", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let agents = fleet.list_agents(ListAgentsRequest::default()).await;
        let agents = agents.map_err(|it| it.to_string())?.into_inner().agents;
        let live = agents.iter().filter(|it| it.state() == State::Live);
        let mut shares: Vec<i32> = live.map(|it| it.slot_count).collect();
        shares.sort_unstable();
        if shares == expected {
            Ok(())
        } else {
            Err(format!("{agents:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_joins_takes_its_share_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    shares(&admin, &[1024]).await;
    let ledger = Ledger::start(&admin).await;
    let alone = tokio::spawn(ledger.clone().publish("alone", vec![first.channel()], 1200));
    ledger.acknowledged(300).await;

    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(&admin, &[512, 512]).await;
    let both = vec![first.channel(), second.channel()];
    let together = tokio::spawn(ledger.clone().publish("together", both, 600));
    alone.await.unwrap();
    together.await.unwrap();
    assert_eq!(ledger.settle().await, 0, "received twice");
    assert_eq!(ledger.acked.lock().unwrap().len(), 1800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_for_an_agent_that_is_away_wait_at_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.5:0");
    shares(&admin, &[512, 512]).await;
    let ledger = Ledger::start(&admin).await;

    let address = second.address.to_string();
    second.kill();
    let published = ledger.clone().publish("away", vec![first.channel()], 120);
    published.await;
    let received = ledger.counts();
    let acked = ledger.acked.lock().unwrap().clone();
    let waiting: Vec<_> = acked
        .keys()
        .filter(|it| !received.contains_key(*it))
        .collect();
    assert!(
        waiting.len() >= 10,
        "some tenants are the second agent's: {waiting:?}"
    );
    let second = agent(&dir.path().join("second"), plane.address, &address);
    assert_eq!(ledger.settle().await, 0, "received twice");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_key_arrive_in_order_while_their_slot_moves() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    shares(&admin, &[1024]).await;
    let receiver = Receiver::start().await;
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        create_tenant(&admin, &tenant).await;
        // Slow, and now and then it fails, so that there is always something left where the slot was.
        receiver.answer_with(&tenant, |_, n_before| {
            let status: u16 = if n_before % 15 == 3 { 503 } else { 200 };
            (
                status.try_into().unwrap(),
                Vec::new(),
                Duration::from_millis(20),
            )
        });
        subscribe_in_force(&admin, &tenant, "hook", ordered(to(receiver.url(&tenant)))).await;
    }
    let publish_all = async |numbers: Range<usize>| {
        for n in numbers {
            for number in 0..N_TENANTS {
                let event = keyed(event(&format!("{n:03}"), "orders.created", "{}"), "one");
                publish_one(&first.channel(), &format!("tenant-{number}"), event).await;
            }
        }
    };
    publish_all(0..75).await;
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(&admin, &[512, 512]).await;
    let n_left = 75 * N_TENANTS - receiver.received().len();
    assert!(n_left > 100, "something is left where it was: {n_left}");
    publish_all(75..150).await;
    let expected: Vec<String> = (0..150).map(|n| format!("{n:03}")).collect();
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        let taken = || {
            let received = receiver.received_at(&tenant).into_iter();
            let taken = received.filter(|it| it.status.is_success());
            taken
                .map(|it| it.json()["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        eventually("everything is received", PATIENCE, || async {
            let n = taken().len();
            if n >= 150 { Ok(()) } else { Err(n) }
        })
        .await;
        assert_eq!(taken(), expected, "of {tenant}");
    }
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_next_attempt_goes_along_with_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    shares(&admin, &[1024]).await;
    let ledger = Ledger::start(&admin).await;
    for number in 0..N_TENANTS {
        ledger.receiver.answer(&format!("tenant-{number}"), 503);
    }
    let published = ledger.clone().publish("waits", vec![first.channel()], 240);
    published.await;
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(&admin, &[512, 512]).await;

    // Each is pending at one of them, and nowhere else.
    let pending = async |agent: &Process| {
        let mut counts = Vec::new();
        for number in 0..N_TENANTS {
            let tenant = format!("tenant-{number}");
            let found = deliveries(&agent.channel(), &tenant, "state = PENDING").await;
            counts.push(found.len());
        }
        counts
    };
    let moved = eventually("the second has its share", PATIENCE, || async {
        let (first, second) = (pending(&first).await, pending(&second).await);
        let is_apart = first
            .iter()
            .zip(&second)
            .all(|it| matches!(it, (0, 20) | (20, 0)));
        let n_moved = second.iter().filter(|it| **it > 0).count();
        if is_apart && n_moved > 0 {
            Ok(n_moved)
        } else {
            Err((first, second))
        }
    })
    .await;
    assert!(moved < N_TENANTS, "some stay where they were");
    // What the second has it has for good.
    let address = second.address.to_string();
    second.kill();
    let second = agent(&dir.path().join("second"), plane.address, &address);
    for number in 0..N_TENANTS {
        ledger.receiver.answer(&format!("tenant-{number}"), 204);
    }
    assert_eq!(ledger.settle().await, 0, "received twice");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_in_order_leaves_nothing_behind_and_nobody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(&admin, &[512, 512]).await;
    let ledger = Ledger::start(&admin).await;
    // Some wait for their next attempt.
    for number in 0..N_TENANTS / 2 {
        let path = format!("tenant-{number}");
        ledger.receiver.answer_with(&path, |_, n_before| {
            let status: u16 = if n_before < 60 { 503 } else { 204 };
            (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
        });
    }
    let stays = tokio::spawn(ledger.clone().publish("stays", vec![first.channel()], 900));
    let both = vec![second.channel(), first.channel()];
    let goes = tokio::spawn(ledger.clone().publish("goes", both, 600));
    ledger.acknowledged(300).await;
    assert!(second.terminate().await.success());
    // Nothing of it is needed any more.
    std::fs::remove_dir_all(dir.path().join("second")).unwrap();
    stays.await.unwrap();
    goes.await.unwrap();
    assert_eq!(ledger.settle().await, 0, "received twice");
    shares(&admin, &[1024]).await;
}
