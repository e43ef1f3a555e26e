//! Faults of the machine under one agent (rows F13, F43, F48, F49 and F60 of the fault matrix): a disk that
//! fails to sync once, too few descriptors, an orderly end in the middle of the work, a backlog. Others: kills
//! in `ledger`, `engine` and `disks`, power cuts in `power`, full, stuck and dead disks in `disks`, clocks and names in
//! `surroundings`, torn and damaged logs and failing writes in the journal's own tests.

use std::{collections::BTreeSet, process::Command, time::Duration};

use hookfleet_proto::v1::publish_result;
use nix::sys::signal::Signal;

use crate::harness::{
    api::{create_tenant, event, publish, subscribe_in_force, to},
    eventually,
    process::{Process, standalone},
    receiver::Receiver,
    shim::Shim,
};

const PATIENCE: Duration = Duration::from_secs(60);
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_sync_ends_the_process_and_nothing_is_acknowledged_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let receiver = Receiver::start().await;
    let mut command = shim.standalone(&dir.path().join("data"));
    command.env("SHIM_FAIL_SYNC_AT", "40");
    let server = Process::start(command, "127.0.0.1:0");
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    let mut acked = Vec::new();
    loop {
        let id = format!("evt-{}", acked.len());
        assert!(acked.len() < 1000, "the sync never failed");
        match publish(&channel, "acme", vec![event(&id, "a.b", "{}")]).await {
            Ok(results) => {
                assert!(matches!(results[..], [publish_result::Result::Receipt(_)]));
                acked.push(id);
            }
            // Refused, or the process was gone before it could be.
            Err(_) => break,
        }
    }
    let again = publish(&channel, "acme", vec![event("after", "a.b", "{}")]).await;
    assert!(again.is_err(), "acknowledged after a failed sync");
    let ended = server.ended_by_itself().await;
    assert!(!ended.success(), "{ended}");

    let server = standalone(&dir.path().join("data"));
    eventually("everything acknowledged", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let received: Vec<_> = received.iter().map(|it| it.json()["id"].clone()).collect();
        let missing = acked
            .iter()
            .filter(|it| !received.contains(&it.as_str().into()));
        let missing: Vec<_> = missing.cloned().collect();
        missing.is_empty().then_some(()).ok_or(missing)
    })
    .await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_descriptors_cost_time_and_nothing_else() {
    const EVENTS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer_with("hook", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_millis(100),
        )
    });
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 160 && exec \"$0\" \"$@\""]);
    command
        .arg(env!("CARGO_BIN_EXE_hookfleet"))
        .arg("standalone");
    command.arg("--data-dir").arg(dir.path());
    let server = Process::start(command, "127.0.0.1:0");
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    for number in 0..10 {
        let id = format!("s{number}");
        subscribe_in_force(&channel, "acme", &id, to(receiver.url("hook"))).await;
    }
    // More than fits, and all of them stay.
    let idle: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(server.address))
        .collect();
    for number in 0..EVENTS / 100 {
        let events = (0..100).map(|it| event(&format!("{number}-{it}"), "a.b", "{}"));
        publish(&channel, "acme", events.collect()).await.unwrap();
    }
    drop(idle);
    eventually("every delivery", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n >= 10 * EVENTS).then_some(()).ok_or(n)
    })
    .await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_delivers_nothing_twice() {
    const EVENTS: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer_with("hook", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_millis(20),
        )
    });
    let server = standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    for number in 0..EVENTS / 100 {
        let events = (0..100).map(|it| event(&format!("{number}-{it}"), "a.b", "{}"));
        publish(&channel, "acme", events.collect()).await.unwrap();
    }
    eventually("some deliveries", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n > EVENTS / 10).then_some(()).ok_or(n)
    })
    .await;
    assert!(server.terminate().await.success());
    let n_before = receiver.received_at("hook").len();
    assert!(n_before < EVENTS, "it ended under load");

    let server = standalone(dir.path());
    eventually("every delivery", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n >= EVENTS).then_some(()).ok_or(n)
    })
    .await;
    assert!(server.terminate().await.success());
    let received = receiver.received_at("hook");
    let ids: BTreeSet<_> = received
        .iter()
        .map(|it| it.json()["id"].to_string())
        .collect();
    assert_eq!((received.len(), ids.len()), (EVENTS, EVENTS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_an_orderly_end_loses_nothing() {
    const EVENTS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer_with("hook", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_secs(3),
        )
    });
    let server = standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    let events = (0..EVENTS).map(|it| event(&format!("{it}"), "a.b", "{}"));
    publish(&channel, "acme", events.collect()).await.unwrap();
    eventually("an attempt in flight", PATIENCE, || async {
        (!receiver.received().is_empty()).then_some(()).ok_or(())
    })
    .await;
    server.signal(Signal::SIGTERM);
    eventually("an end that has begun", PATIENCE, || async {
        let again = publish(&channel, "acme", vec![event("late", "a.b", "{}")]).await;
        again.err().map(|_| ()).ok_or("still taken")
    })
    .await;
    server.kill();

    receiver.answer("hook", 200);
    let server = standalone(dir.path());
    eventually("every delivery", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let ids: BTreeSet<_> = received
            .iter()
            .map(|it| it.json()["id"].to_string())
            .collect();
        (ids.len() >= EVENTS).then_some(()).ok_or(ids.len())
    })
    .await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_others_do_not_wait_for_a_backlog() {
    const BACKLOG: usize = 10_000;
    const FRESH: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer_with("acme", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_millis(50),
        )
    });
    let server = standalone(dir.path());
    let channel = server.channel();
    for tenant in ["acme", "globex"] {
        create_tenant(&channel, tenant).await;
        subscribe_in_force(&channel, tenant, "hook", to(receiver.url(tenant))).await;
    }
    for first in (0..BACKLOG).step_by(1000) {
        let events = (first..first + 1000).map(|it| event(&format!("{it}"), "a.b", "{}"));
        publish(&channel, "acme", events.collect()).await.unwrap();
    }
    for number in 0..FRESH {
        let fresh = event(&format!("{number}"), "a.b", "{}");
        publish(&channel, "globex", vec![fresh]).await.unwrap();
        eventually("a fresh event", PATIENCE, || async {
            let n = receiver.received_at("globex").len();
            (n > number).then_some(()).ok_or(n)
        })
        .await;
    }
    let n_drained = receiver.received_at("acme").len();
    assert!(n_drained < BACKLOG, "the backlog was over before");
    eventually("the backlog drains", PATIENCE, || async {
        let n = receiver.received_at("acme").len();
        (n == BACKLOG).then_some(()).ok_or(n)
    })
    .await;
    assert!(server.terminate().await.success());
}
