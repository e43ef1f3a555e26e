//! Power cuts (rows F8 and F9 of the fault matrix): a disk of its own, an ext4 image behind a loop
//! device, forgets everything that was not synced, in the middle of the work. What was acknowledged is
//! there afterwards.
//!
//! It takes root and loop devices. Where they are not there it says so, loudly, and does nothing.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hookfleet_proto::v1::publish_result;
use tonic::transport::Channel;

use crate::harness::{
    api::{create_tenant, event, publish, subscribe_in_force, to},
    disk::Disk,
    eventually,
    process::{Process, hookfleet},
    receiver::Receiver,
};

const ROUNDS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_power_cuts() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 1 << 30) else {
        return;
    };
    let receiver = Receiver::start().await;
    let acked = Arc::new(Mutex::new(BTreeSet::new()));
    let mut n_unknown = 0;
    for round in 0..ROUNDS {
        disk.mount();
        let server = on(&disk);
        if round == 0 {
            create_tenant(&server.channel(), "acme").await;
            let subscription = to(receiver.url("hook"));
            subscribe_in_force(&server.channel(), "acme", "hook", subscription).await;
        }
        let is_cut = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let publisher = Publisher {
                    channel: server.channel(),
                    label: format!("{round}-{publisher}"),
                    acked: Arc::clone(&acked),
                    is_cut: Arc::clone(&is_cut),
                };
                tokio::spawn(publisher.publish_until_cut())
            })
            .collect();
        let before = acked.lock().unwrap().len();
        eventually("some acknowledgements", PATIENCE, || async {
            let n = acked.lock().unwrap().len() - before;
            (n > 100 + 150 * round).then_some(()).ok_or(n)
        })
        .await;
        disk.cut(|| is_cut.store(true, Ordering::SeqCst));
        server.kill_expecting_errors();
        for publisher in publishers {
            n_unknown += publisher.await.unwrap();
        }
        disk.unmount();
    }
    assert!(
        n_unknown > 0,
        "no publish was under way when the power was cut"
    );
    disk.mount();
    let server = on(&disk);
    let acked = acked.lock().unwrap().clone();
    eventually("everything acknowledged", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let received: BTreeSet<String> = received
            .iter()
            .filter_map(|it| Some(it.json()["id"].as_str()?.to_owned()))
            .collect();
        let missing: Vec<_> = acked.difference(&received).take(5).cloned().collect();
        missing.is_empty().then_some(()).ok_or(missing)
    })
    .await;
    assert!(server.terminate().await.success());
    disk.unmount();
}

/// With small segments, so that the power also goes while one is begun, sealed or unlinked.
fn on(disk: &Disk) -> Process {
    let mut command = hookfleet();
    command.env("HOOKFLEET_SEGMENT_MIB", "1");
    command.arg("standalone");
    command.arg("--data-dir").arg(disk.mount_point.join("data"));
    Process::start(command, "127.0.0.1:0")
}

/// Publishes in one round.
struct Publisher {
    channel: Channel,
    label: String,
    acked: Arc<Mutex<BTreeSet<String>>>,
    /// Set before the power goes. What is acknowledged later promises nothing: here the process outlives its disk, and
    /// the kernel has moments in which an `fdatasync` after the cut succeeds. Nobody hears from a machine without power.
    is_cut: Arc<AtomicBool>,
}

// === impl Publisher ===

impl Publisher {
    /// Publishes until it fails; returns how many events have an unknown fate.
    async fn publish_until_cut(self) -> usize {
        let Self { label, .. } = &self;
        for number in 0.. {
            let ids: Vec<String> = (0..5).map(|it| format!("{label}-{number}-{it}")).collect();
            let data = format!("{{\"power\":\"{}\"}}", "x".repeat(2000));
            let events = ids.iter().map(|id| event(id, "a.b", &data));
            let Ok(results) = publish(&self.channel, "acme", events.collect()).await else {
                return ids.len();
            };
            if self.is_cut.load(Ordering::SeqCst) {
                continue;
            }
            let mut acked = self.acked.lock().unwrap();
            for (id, result) in ids.into_iter().zip(results) {
                assert!(matches!(result, publish_result::Result::Receipt(_)));
                acked.insert(id);
            }
        }
        0
    }
}
