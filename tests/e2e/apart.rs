//! A fleet of which one machine is worse than the others (rows F14 and F24 of the fault matrix): its disk is gone, or its
//! clock is another one.

use std::{collections::BTreeSet, time::Duration};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    GetPlacementRequest, SlotRange, Subscription, fleet_service_client::FleetServiceClient,
};
use tokio::time::{Instant, interval};
use tonic::transport::Channel;

use crate::harness::{
    api::{create_tenant, event, publish, publish_one, retries, subscribe_in_force, to},
    eventually,
    process::{Process, agent, agent_command, control_plane},
    receiver::Receiver,
    shim::Shim,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long an agent that is not heard of keeps its place.
const LEASE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_disk_is_gone_does_not_start_and_others_take_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let start = || {
        let mut command = agent_command(&dir.path().join("first"), plane.address);
        shim.load(&mut command);
        Process::try_start(command, "127.0.0.1:0")
    };
    let first = start().unwrap();
    let receiver = Receiver::start().await;
    create_tenant(&admin, "acme").await;
    subscribe_in_force(&admin, "acme", "hook", to(receiver.url("hook"))).await;
    taken_by(&first, "1").await;

    shim.set_disk_dead(true);
    // It learns of it when it writes.
    let lost = publish(&first.channel(), "acme", vec![event("2", "a.b", "{}")]).await;
    assert!(lost.is_err(), "acknowledged without a disk");
    assert!(!first.ended_by_itself().await.success());
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    for _ in 0..3 {
        let why = start().err().expect("a start without a disk");
        assert!(why.contains("exit status: 1"), "{why}");
    }
    for number in 3..10 {
        taken_by(&second, &number.to_string()).await;
    }
    shim.set_disk_dead(false);
    let first = start().unwrap();
    taken_by(&first, "10").await;
    eventually("everything acknowledged", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let ids = received.iter().map(|it| it.json()["id"].to_string());
        let ids: BTreeSet<_> = ids.filter(|it| it != "\"2\"").collect();
        let n = ids.len();
        (n == 9).then_some(()).ok_or(n)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_ten_minutes_apart_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let start = |id: &str, seconds_off: i64| {
        let data_dir = dir.path().join(id);
        std::fs::create_dir(&data_dir).unwrap();
        let shim = Shim::compile(&data_dir);
        shim.set_clock_off(seconds_off);
        let mut command = agent_command(&data_dir, plane.address);
        shim.load(&mut command);
        Process::start(command, "127.0.0.1:0")
    };
    let ahead = start("ahead", 600);
    let behind = start("behind", -600);
    let receiver = Receiver::start().await;
    // Every third attempt fails, and is made again.
    receiver.answer_with("hook", |_, n_before| {
        let status = if n_before % 3 == 2 { 503_u16 } else { 200 };
        (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    create_tenant(&admin, "acme").await;
    let wanted = Subscription {
        retry_policy: retries(&[1; 10]),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&admin, "acme", "hook", wanted).await;
    let placed = eventually("both have slots", PATIENCE, || async {
        let placed = placement(&admin).await;
        let owners: BTreeSet<_> = placed.iter().map(|it| it.agent.clone()).collect();
        (owners.len() == 2).then_some(placed).ok_or(owners)
    })
    .await;
    // Two leases and more: who is believed to be away would lose its slots.
    let mut ticks = interval(Duration::from_millis(200));
    let mut n_published = 0;
    let begin = Instant::now();
    while begin.elapsed() < LEASE * 2 + Duration::from_secs(5) {
        ticks.tick().await;
        for worker in [&ahead, &behind] {
            let event = event(&n_published.to_string(), "a.b", "{}");
            publish_one(&worker.channel(), "acme", event).await;
            n_published += 1;
        }
    }
    assert!(placement(&admin).await == placed, "no slot has moved");
    let n_ended = plane.n_logged("agent disconnected");
    assert_eq!(n_ended, 0, "no session has ended");
    let succeeded = || {
        let received = receiver.received_at("hook");
        received.iter().filter(|it| it.status.is_success()).count()
    };
    eventually("every delivery", PATIENCE, || async {
        let n = succeeded();
        (n >= n_published).then_some(()).ok_or(n)
    })
    .await;
    assert_eq!(succeeded(), n_published, "each once");
    // A change is of another clock than those who are told of it.
    subscribe_in_force(&admin, "acme", "late", to(receiver.url("late"))).await;
    for (id, worker) in [("a", &ahead), ("b", &behind)] {
        publish_one(&worker.channel(), "acme", event(id, "a.b", "{}")).await;
    }
    eventually("the late ones", PATIENCE, || async {
        let n = receiver.received_at("late").len();
        (n == 2).then_some(()).ok_or(n)
    })
    .await;
    assert!(ahead.terminate().await.success());
    assert!(behind.terminate().await.success());
}

/// Publishes an event to an agent, as soon as it takes any.
async fn taken_by(worker: &Process, id: &str) {
    let channel = worker.channel();
    eventually("an event is taken", PATIENCE, || async {
        let events = vec![event(id, "a.b", "{}")];
        publish(&channel, "acme", events).await.map(|_| ())
    })
    .await;
}

/// Who owns which slots, and how often each had changed hands by then.
async fn placement(admin: &Channel) -> Vec<SlotRange> {
    let mut fleet = FleetServiceClient::new(admin.clone());
    let placed = fleet.get_placement(GetPlacementRequest {}).await;
    let mut ranges = placed.unwrap().into_inner().ranges;
    // What is left elsewhere becomes less meanwhile.
    ranges.iter_mut().for_each(|it| it.previous_agent.clear());
    ranges.dedup_by(|next, before| {
        let is_same = (&next.agent, next.epoch) == (&before.agent, before.epoch);
        if is_same {
            before.last_slot = next.last_slot;
        }
        is_same
    });
    ranges
}
