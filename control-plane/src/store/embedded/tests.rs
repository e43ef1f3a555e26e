//! The suite on the embedded store, and what only a store with a disk of its own promises.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use tempfile::TempDir;

use super::*;
use crate::store::suite::{self, committed, conformance, next, until};

struct OnDisk {
    _dir: TempDir,
    store: Arc<Embedded>,
}

#[async_trait]
impl suite::Fixture for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn compact(&self, revision: Revision) {
        let mut history = self.store.shared.history.write().expect("the lock");
        history.compact(revision);
    }
}

async fn fixture() -> OnDisk {
    let dir = TempDir::new().expect("a directory");
    let store = Arc::new(open(dir.path()).await);
    OnDisk { _dir: dir, store }
}

conformance!(fixture);

async fn open(dir: &Path) -> Embedded {
    let opened = Embedded::open(dir, Retention::default()).await;
    opened.expect("the store opens")
}

/// Everything that a reader can see, but the past.
async fn contents(store: &dyn Store) -> (Vec<Entry>, Revision, Generation) {
    let page = store
        .range("", None, usize::MAX, None)
        .await
        .expect("range");
    let generation = store.generation().await.expect("generation");
    (page.entries, page.revision, generation)
}

async fn fill(store: &dyn Store) {
    for i in 0..20 {
        committed(store, Txn::new().put(format!("k{i}"), vec![b'x'; i * 1000])).await;
    }
    committed(store, Txn::new().put("k7", "changed").delete("k8")).await;
    // The last change leaves no entry that would show its revision.
    committed(store, Txn::new().delete("k9")).await;
}

#[tokio::test]
async fn a_reopened_store_has_everything_but_the_past() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path()).await;
    fill(&store).await;
    let before = contents(&store).await;
    drop(store);

    let store = open(dir.path()).await;
    assert_eq!(contents(&store).await, before);
    let (_, revision, _) = before;
    let mut past = store.watch("", revision - 1).await.expect("watch");
    let compacted = next(&mut past).await;
    assert!(
        matches!(compacted, Err(Error::Compacted { .. })),
        "{compacted:?}"
    );
    let mut present = store.watch("", revision).await.expect("watch");
    assert_eq!(
        committed(&store, Txn::new().put("k", "")).await,
        revision + 1
    );
    assert_eq!(until(&mut present, revision + 1).await.0.len(), 1);
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_answered() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path()).await;
    fill(&store).await;
    let before = contents(&store).await;
    // What the files hold at this moment is what a killed process leaves: it closes nothing.
    let left = TempDir::new().expect("a directory");
    copy(dir.path(), left.path());

    let survivor = open(left.path()).await;
    assert_eq!(contents(&survivor).await, before);
    drop(store);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path()).await;
    let second = Embedded::open(dir.path(), Retention::default()).await;
    assert!(
        matches!(&second, Err(Error::Locked(path)) if path == dir.path()),
        "{second:?}"
    );
    drop(store);
    open(dir.path()).await;
}

#[tokio::test]
async fn a_lease_lives_its_whole_time_again_after_a_restart_and_still_ends() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path()).await;
    let short = store.grant(Duration::from_secs(1)).await.expect("grant");
    let long = store.grant(Duration::from_secs(60)).await.expect("grant");
    let revoked = store.grant(Duration::from_secs(60)).await.expect("grant");
    store.revoke(revoked).await.expect("revoke");
    let put = Txn::new()
        .put_leased("short", "", short)
        .put_leased("long", "", long);
    let start = committed(&store, put).await;
    drop(store);

    let store = open(dir.path()).await;
    let ttl = store.keep_alive(long).await.expect("still there");
    assert_eq!(ttl, Duration::from_secs(60));
    let lost = store.keep_alive(revoked).await;
    assert!(matches!(lost, Err(Error::LeaseLost(_))), "{lost:?}");
    let mut watch = store.watch("", start).await.expect("watch");
    let (changes, _) = until(&mut watch, start + 1).await;
    assert_eq!(changes[0].key(), "short");
    drop(store);

    let store = open(dir.path()).await;
    assert_eq!(store.get("short").await.expect("get").0, None);
    let lost = store.keep_alive(short).await;
    assert!(matches!(lost, Err(Error::LeaseLost(_))), "{lost:?}");
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_answered_well() {
    let n_writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_writes);
    let store = on_persist(Box::new(move |_| match counted.fetch_add(1, Relaxed) {
        1 => Err("the disk is gone".into()),
        _ => Ok(()),
    }));
    let revision = committed(&store, Txn::new().put("k", "1")).await;
    let mut watch = store.watch("", revision).await.expect("watch");

    let failed = store.commit(Txn::new().put("k", "2")).await;
    assert!(
        matches!(
            failed,
            Err(Error::Fatal {
                source: Some(_),
                ..
            })
        ),
        "{failed:?}"
    );
    // The disk would take writes again, but what it lost is unknown.
    let after = store.commit(Txn::new().put("k", "3")).await;
    assert!(matches!(after, Err(Error::Fatal { .. })), "{after:?}");
    let lease = store.grant(Duration::from_secs(1)).await;
    assert!(matches!(lease, Err(Error::Fatal { .. })), "{lease:?}");
    let read = store.get("k").await;
    assert!(matches!(read, Err(Error::Fatal { .. })), "{read:?}");
    let watched = next(&mut watch).await;
    assert!(matches!(watched, Err(Error::Fatal { .. })), "{watched:?}");
    assert_eq!(n_writes.load(Relaxed), 2);
}

#[tokio::test]
async fn what_arrives_during_a_sync_shares_the_next_one() {
    let (begun, mut writes) = tokio::sync::mpsc::unbounded_channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let store = Arc::new(on_persist(Box::new(move |group| {
        begun.send(group.changes.len()).ok();
        held.recv().ok();
        Ok(())
    })));
    let commit = |i| {
        let store = Arc::clone(&store);
        async move { committed(&*store, Txn::new().put(format!("k{i}"), "")).await }
    };
    let mut commits = tokio::task::JoinSet::new();
    commits.spawn(commit(0));
    assert_eq!(writes.recv().await, Some(1));
    commits.extend((1..50).map(commit));
    let queued = async {
        while store.writer.n_waiting() < 49 {
            task::yield_now().await;
        }
    };
    let queued = tokio::time::timeout(Duration::from_secs(30), queued).await;
    queued.expect("everything is queued");
    drop(release);
    assert_eq!(writes.recv().await, Some(49));
    commits.join_all().await;
}

/// A store that writes to a closure.
fn on_persist(persist: writer::Persist) -> Embedded {
    let history = History::new(1, [], Retention::default());
    let shared = Arc::new(Shared::new(history));
    let writer = Writer::spawn(Arc::clone(&shared), Leases::default(), persist);
    Embedded {
        shared,
        generation: Generation::new(0, uuid::Uuid::nil()),
        writer: writer.expect("a thread"),
    }
}

fn copy(from: &Path, to: &Path) {
    for item in fs::read_dir(from).expect("a directory") {
        let item = item.expect("an item");
        let target = to.join(item.file_name());
        if item.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("a directory");
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), &target).expect("a copy");
        }
    }
}
