//! Disks that others fill to the last byte, or the last file, while the work is under way (row F17 of the fault matrix):
//! deliveries go on, in what is kept for that; what is durable is delivered, by the end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hookfleet_proto::v1::Subscription;
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;
use tonic::{Code, transport::Channel};

use super::disks::Ledger;
use crate::harness::{
    api::{create_tenant, deliveries, event, publish, retries, subscribe, subscribe_in_force, to},
    disk::{self, Disk},
    eventually,
    process::Process,
    receiver::Receiver,
    shim::Shim,
};

const PATIENCE: Duration = Duration::from_secs(90);
const EVENTS: usize = 40;
/// An audit log has no room either, and refuses changes.
const UNAUDITED: &[(&str, &str)] = &[("HOOKFLEET_AUDIT_DIR", "")];

/// A server with a disk of its own, and events that a receiver does not take yet.
struct Scene {
    disk: Disk,
    shim: Shim,
    server: Option<Process>,
    receiver: Receiver,
    ledger: Ledger,
    settings: &'static [(&'static str, &'static str)],
    _dir: tempfile::TempDir,
}

// === impl Scene ===

impl Scene {
    async fn start(options: &[&str]) -> Option<Self> {
        Self::with(options, &[]).await
    }

    /// With more to be said to `mkfs.ext4`, and settings.
    async fn with(
        options: &[&str],
        settings: &'static [(&'static str, &'static str)],
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::with(dir.path(), 384 << 20, options)?;
        disk.mount();
        let shim = Shim::compile(dir.path());
        let receiver = Receiver::start().await;
        receiver.answer("hook", 503);
        let data_dir = disk.mount_point.join("data");
        let server = try_start(&data_dir, &shim, settings).unwrap();
        let channel = server.channel();
        create_tenant(&channel, "acme").await;
        let subscription = Subscription {
            retry_policy: retries(&[1; 50]),
            ..to(receiver.url("hook"))
        };
        subscribe_in_force(&channel, "acme", "hook", subscription).await;
        let mut ledger = Ledger::default();
        for _ in 0..EVENTS {
            ledger.publish(&channel, 20_000).await.unwrap();
        }
        Some(Self {
            disk,
            shim,
            server: Some(server),
            receiver,
            ledger,
            settings,
            _dir: dir,
        })
    }

    fn channel(&self) -> Channel {
        self.server.as_ref().unwrap().channel()
    }

    fn try_start(&self) -> Result<Process, String> {
        try_start(&self.data_dir(), &self.shim, self.settings)
    }

    fn data_dir(&self) -> PathBuf {
        self.disk.mount_point.join("data")
    }

    /// Where somebody else has what fills the disk.
    fn others(&self) -> PathBuf {
        self.disk.mount_point.join("others")
    }

    /// Events are taken until somebody has filled the disk, and not afterwards.
    async fn publish_while(&mut self, fill: fn(&Path)) {
        let others = self.others();
        let filling = spawn_blocking(move || fill(&others));
        let channel = self.channel();
        let refusal = self.ledger.publish_until_refused(&channel, 2000).await;
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        filling.await.unwrap();
    }

    /// What waits is delivered, and the history has it.
    async fn drain(&self) {
        self.receiver.answer("hook", 204);
        self.ledger.check(&self.receiver).await;
        eventually("outcomes in the history", PATIENCE, || async {
            let all = deliveries(&self.channel(), "acme", "state = SUCCEEDED").await;
            (all.len() >= EVENTS).then_some(()).ok_or(all.len())
        })
        .await;
    }

    /// There is room again: events are taken, and everything is there after a crash.
    async fn go_on(mut self) {
        let channel = self.channel();
        eventually("events are taken by themselves", PATIENCE, || async {
            let again = vec![event("again", "a.b", "{}")];
            publish(&channel, "acme", again).await.map(|_| ())
        })
        .await;
        self.server.take().unwrap().kill();
        self.server = Some(self.try_start().unwrap());
        self.ledger.publish(&self.channel(), 20).await.unwrap();
        self.ledger.check(&self.receiver).await;
        assert!(self.server.take().unwrap().terminate().await.success());
        self.disk.unmount();
    }
}

/// With segments of 1 MiB, so that they do not take most of a small disk.
fn try_start(data_dir: &Path, shim: &Shim, settings: &[(&str, &str)]) -> Result<Process, String> {
    let mut command = shim.standalone(data_dir);
    command.env("HOOKFLEET_SEGMENT_MIB", "1");
    command.envs(settings.iter().copied());
    Process::try_start(command, "127.0.0.1:0")
}

fn has_reserve(data_dir: &Path) -> bool {
    data_dir.join("journal/reserve-0.spare").exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_others_fill_at_once_is_drained() {
    let Some(mut scene) = Scene::start(&[]).await else {
        return;
    };
    let data_dir = scene.data_dir();
    assert!(has_reserve(&data_dir));
    scene.publish_while(disk::fill).await;
    scene.drain().await;
    assert!(!has_reserve(&data_dir), "the reserve was given up");
    std::fs::remove_file(scene.others()).unwrap();
    eventually("the reserve is back", PATIENCE, || async {
        has_reserve(&data_dir).then_some(()).ok_or(())
    })
    .await;
    scene.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_has_no_more_files_is_drained() {
    let Some(mut scene) = Scene::start(&["-N", "1024"]).await else {
        return;
    };
    scene.publish_while(disk::fill_with_files).await;
    scene.drain().await;
    std::fs::remove_dir_all(scene.others()).unwrap();
    scene.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_drains_from_the_reserve() {
    let Some(mut scene) = Scene::start(&[]).await else {
        return;
    };
    scene.server.take().unwrap().kill();
    disk::fill(&scene.others());
    scene.server = Some(scene.try_start().unwrap());
    scene.drain().await;
    std::fs::remove_file(scene.others()).unwrap();
    scene.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_taken_while_others_fill_the_disk() {
    let Some(scene) = Scene::with(&[], UNAUDITED).await else {
        return;
    };
    let channel = scene.channel();
    disk::fill(&scene.others());
    for number in 0..20 {
        let subscription = to(scene.receiver.url("other"));
        let created = subscribe(&channel, "acme", &format!("s{number}"), subscription).await;
        created.unwrap();
    }
    scene.drain().await;
    std::fs::remove_file(scene.others()).unwrap();
    scene.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_no_room_ends_the_process_and_loses_nothing() {
    let Some(mut scene) = Scene::with(&[], UNAUDITED).await else {
        return;
    };
    let channel = scene.channel();
    let server = scene.server.take().unwrap();
    let others = scene.others();
    std::fs::create_dir(&others).unwrap();
    // What its log was given would last for long.
    server.signal(Signal::SIGSTOP);
    disk::fill(&others.join("first"));
    disk::take_back(&scene.data_dir().join("control-plane/0.jnl"));
    server.signal(Signal::SIGCONT);
    let ended = tokio::spawn(server.ended_by_itself());
    for number in 0.. {
        if ended.is_finished() {
            break;
        }
        disk::fill(&others.join((number % 10).to_string()));
        let subscription = to(scene.receiver.url("other"));
        let id = format!("s{number}");
        let _refused = subscribe(&channel, "acme", &id, subscription).await;
    }
    assert_eq!(ended.await.unwrap().code(), Some(1));

    // The next has what this one was given, and no reserve.
    scene.server = Some(scene.try_start().unwrap());
    scene.drain().await;
    std::fs::remove_dir_all(others).unwrap();
    scene.go_on().await;
}
