//! Faults of the machine under one agent (rows F13, F43 and F48 of the fault matrix): a disk that
//! fails to sync once, too few descriptors, and an orderly end in the middle of the work. Others: kills
//! in `ledger` and `engine`, power cuts in `power`, torn and damaged logs, full disks and failing writes
//! in the journal's own tests.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use hookfleet_proto::v1::publish_result;

use crate::harness::{
    api::{create_tenant, event, publish, subscribe_in_force, to},
    eventually,
    process::{Process, hookfleet, standalone},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Syncs of the log fail from the so manieth on: those of the log are the only `fdatasync`s.
const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
static int calls;
int fdatasync(int fd) {
    const char *at = getenv("SHIM_FAIL_AT");
    if (at && __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) == atoi(at)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_fdatasync, fd);
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_sync_ends_the_process_and_nothing_is_acknowledged_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let shim = compile(dir.path());
    let receiver = Receiver::start().await;
    let mut command = hookfleet();
    command
        .arg("standalone")
        .arg("--data-dir")
        .arg(dir.path().join("data"));
    command.env("LD_PRELOAD", &shim).env("SHIM_FAIL_AT", "40");
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

/// The shim as a library that is loaded before all others.
fn compile(dir: &Path) -> std::path::PathBuf {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    assert!(cc.status().unwrap().success(), "cc compiles the shim");
    library
}
