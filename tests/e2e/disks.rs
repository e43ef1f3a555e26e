//! Disks that are the last thing a process sees, full, stuck or dead (rows F1, F2, F7, F16, F18 and F22 of the
//! fault matrix). What was acknowledged is delivered, by the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use hookfleet_proto::v1::{Subscription, publish_result};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::engine::{LARGE_EVENTS, publish_until_accepted};
use crate::harness::{
    api::{create_tenant, event, publish, retries, subscribe_in_force, to},
    disk::Disk,
    eventually,
    http::Http,
    process::{Process, standalone},
    receiver::Receiver,
    shim::Shim,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A kill before and after every piece of disk work is too much for one run of the tests: each round takes another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_its_disk_work_it_has_what_it_acknowledged() {
    const ROUNDS: usize = 32;
    const STRIDE: usize = 11;
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let data_dir = dir.path().join("data");
    let receiver = Receiver::start().await;
    let server = small(&data_dir, &shim, None).unwrap();
    create_tenant(&server.channel(), "acme").await;
    subscribe_in_force(&server.channel(), "acme", "hook", to(receiver.url("hook"))).await;
    server.kill();

    let mut ledger = Ledger::default();
    let (mut n_at_start, mut n_at_work) = (0, 0);
    for round in 0..ROUNDS {
        match small(&data_dir, &shim, Some(1 + round * STRIDE)) {
            Err(_) => n_at_start += 1,
            Ok(server) => {
                ledger.publish_until_refused(&server.channel(), 2000).await;
                n_at_work += 1;
                server.kill_expecting_errors();
            }
        }
    }
    assert!(n_at_start > 2, "{n_at_start} kills hit a start");
    assert!(n_at_work > 10, "{n_at_work} kills hit work");
    let server = small(&data_dir, &shim, None).unwrap();
    // The last one may be in the journal or not, and nobody knows: whoever repeats it gets it once.
    ledger.publish(&server.channel(), 1).await.unwrap();
    ledger.check(&receiver).await;
    eprintln!(
        "{} acknowledged; {n_at_start} kills at a start, {n_at_work} at work",
        ledger.acked.len()
    );
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stuck_disk_makes_publishers_wait_and_no_memory_grow() {
    const CALLS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let receiver = Receiver::start().await;
    let command = shim.standalone(&dir.path().join("data"));
    let server = Process::start(command, "127.0.0.1:0");
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;

    shim.stall_syncs(Duration::from_secs(3600));
    let calls: Vec<_> = (0..CALLS)
        .map(|number| tokio::spawn(publish_until_accepted(channel.clone(), number)))
        .collect();
    let refused = event("refused", "a.b", &format!("\"{}\"", "x".repeat(200_000)));
    eventually("refusals", PATIENCE, || async {
        // One that is taken would wait for the disk as long as that takes.
        let publishing = publish(&channel, "acme", vec![refused.clone()]);
        let answer = timeout(Duration::from_millis(500), publishing).await;
        match answer {
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(receiver.received().is_empty(), "nothing is durable");
    assert!(!calls.iter().any(tokio::task::JoinHandle::is_finished));
    // A publisher that does not wait for ever is seen, too.
    let waits = publish(&channel, "acme", vec![event("small", "a.b", "{}")]);
    assert!(timeout(Duration::from_millis(500), waits).await.is_err());
    eventually("a call that was given up", PATIENCE, || async {
        let text = Http::to(server.address).get("/metrics").await.text();
        let given_up = "duration_seconds_count{code=\"CANCELLED\",method=\"hookfleet.v1.PublisherService/Publish\"}";
        text.contains(given_up).then_some(()).ok_or(text)
    })
    .await;

    shim.stall_syncs(Duration::ZERO);
    for call in calls {
        call.await.unwrap();
    }
    eventually("every delivery", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let ids: BTreeSet<_> = received
            .iter()
            .map(|it| it.json()["id"].to_string())
            .collect();
        let n = ids.iter().filter(|it| it.contains('-')).count();
        (n == CALLS * LARGE_EVENTS).then_some(()).ok_or(n)
    })
    .await;
    let megabytes = server.peak_resident_bytes() >> 20;
    assert!(megabytes < 600, "{megabytes} MiB were resident");
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_events_early_and_still_drains() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 384 << 20) else {
        return;
    };
    disk.mount();
    let shim = Shim::compile(dir.path());
    let receiver = Receiver::start().await;
    receiver.answer("hook", 503);
    let server = small(&disk.mount_point.join("data"), &shim, None).unwrap();
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    let subscription = Subscription {
        retry_policy: retries(&[1; 50]),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&channel, "acme", "hook", subscription).await;
    let mut ledger = Ledger::default();
    let refusal = ledger.publish_until_refused(&channel, 200_000).await;
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
    assert!(ledger.acked.len() > 100, "{}", ledger.acked.len());
    let free = disk.free_bytes();
    assert!(free > 32 << 20, "{free} bytes are left for outcomes");

    receiver.answer("hook", 204);
    ledger.check(&receiver).await;
    // What was delivered makes room, although it is kept for redelivery while there is any.
    eventually("events are taken again", PATIENCE, || async {
        let again = vec![event("again", "a.b", "{}")];
        publish(&channel, "acme", again).await.map(|_| ())
    })
    .await;
    server.kill_expecting_errors();
    let server = small(&disk.mount_point.join("data"), &shim, None).unwrap();
    eventually("what was taken last", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let mut ids = received.iter().map(|it| it.json()["id"].clone());
        ids.any(|it| it == "again")
            .then_some(())
            .ok_or(received.len())
    })
    .await;
    assert!(server.terminate().await.success());
    disk.unmount();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_more_writes_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 512 << 20) else {
        return;
    };
    disk.mount();
    let data_dir = disk.mount_point.join("data");
    let receiver = Receiver::start().await;
    let server = standalone(&data_dir);
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    let mut ledger = Ledger::default();
    for _ in 0..20 {
        ledger.publish(&channel, 100).await.unwrap();
    }
    disk.abort();
    // It learns of it when it writes.
    let refusal = ledger.publish_until_refused(&channel, 100).await;
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    let ended = server.ended_by_itself().await;
    assert!(!ended.success(), "{ended}");

    disk.unmount();
    disk.mount();
    let server = standalone(&data_dir);
    ledger.publish(&server.channel(), 100).await.unwrap();
    ledger.check(&receiver).await;
    assert!(server.terminate().await.success());
    disk.unmount();
}

/// With segments of 1 MiB, so that they are begun, sealed and unlinked often; killed at a step of its disk work.
fn small(data_dir: &Path, shim: &Shim, kill_at: Option<usize>) -> Result<Process, String> {
    let mut command = shim.standalone(data_dir);
    command.env("HOOKFLEET_SEGMENT_MIB", "1");
    if let Some(step) = kill_at {
        command.env("SHIM_KILL_AT", step.to_string());
    }
    Process::try_start(command, "127.0.0.1:0")
}

/// What was acknowledged: by the publisher's id, what receivers will see.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) acked: BTreeMap<String, String>,
}

// === impl Ledger ===

impl Ledger {
    /// Publishes the next event, with so many bytes of data. If it fails, the next is the same again.
    pub(super) async fn publish(
        &mut self,
        channel: &Channel,
        n_bytes: usize,
    ) -> Result<(), Status> {
        let id = format!("evt-{}", self.acked.len());
        let data = format!("\"{}\"", "x".repeat(n_bytes));
        let results = publish(channel, "acme", vec![event(&id, "a.b", &data)]).await?;
        let [publish_result::Result::Receipt(receipt)] = &results[..] else {
            panic!("a good event was refused: {results:?}");
        };
        let webhook_id = receipt.event.rsplit('/').next().unwrap_or_default();
        self.acked.insert(id, webhook_id.to_owned());
        Ok(())
    }

    /// Publishes until the machine is at its end; why.
    pub(super) async fn publish_until_refused(
        &mut self,
        channel: &Channel,
        n_bytes: usize,
    ) -> Status {
        loop {
            assert!(self.acked.len() < 100_000, "it never ends");
            if let Err(status) = self.publish(channel, n_bytes).await {
                return status;
            }
        }
    }

    /// Waits until all that was acknowledged has been received, each as the event that was acknowledged.
    pub(super) async fn check(&self, receiver: &Receiver) {
        let received = eventually("everything acknowledged", PATIENCE, || async {
            let mut received: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let all = receiver.received_at("hook");
            for it in all.iter().filter(|it| it.status.is_success()) {
                let id = it.json()["id"].as_str().unwrap().to_owned();
                let webhook_id = it.header("webhook-id").to_owned();
                received.entry(id).or_default().insert(webhook_id);
            }
            let missing = self.acked.keys().filter(|it| !received.contains_key(*it));
            let missing: Vec<_> = missing.take(5).cloned().collect();
            missing.is_empty().then_some(received).ok_or(missing)
        })
        .await;
        for (id, webhook_id) in &self.acked {
            let expected = BTreeSet::from([webhook_id.clone()]);
            assert_eq!(received[id], expected, "{id} is one event");
        }
    }
}
