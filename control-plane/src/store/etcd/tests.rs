//! The suite on a real etcd, and what only a client of a cluster promises: failover, lost answers, other clusters.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use etcd_client::CompactionOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use hookfleet_gateway::test_support::Authority;

use super::*;
use crate::{
    store::suite::{self, committed, conflict, conformance, next, until},
    test_support::TestEtcd,
};

struct Alone {
    server: TestEtcd,
    store: Arc<Etcd>,
}

#[async_trait]
impl suite::Fixture for Alone {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn compact(&self, revision: Revision) {
        let client = Client::connect([self.server.endpoint()], None).await;
        let physical = Some(CompactionOptions::new().with_physical());
        let mut kv = client.expect("a client").kv_client();
        kv.compact(revision, physical).await.expect("compaction");
    }
}

async fn fixture() -> Alone {
    let server = TestEtcd::start().await;
    let store = Arc::new(connect([server.endpoint()]).await);
    Alone { server, store }
}

conformance!(fixture);

async fn connect(endpoints: impl IntoIterator<Item = &str>) -> Etcd {
    let connected = Etcd::connect(Config::new(endpoints)).await;
    connected.expect("the addresses are good")
}

#[tokio::test]
async fn keys_live_under_the_root_and_nothing_else_is_seen() {
    let fixture = fixture().await;
    let client = Client::connect([fixture.server.endpoint()], None).await;
    let mut kv = client.expect("a client").kv_client();
    kv.put("/hookfleet/v1", "", None).await.expect("put");
    kv.put("/hookfleet/v10", "", None).await.expect("put");
    committed(&*fixture.store, Txn::new().put("k", "v")).await;
    let raw = kv.get("/hookfleet/v1/k", None).await.expect("get");
    assert_eq!(raw.kvs()[0].value(), b"v");
    let page = fixture.store.range("", None, 9, None).await.expect("range");
    assert_eq!(page.entries.len(), 1);
}

#[tokio::test]
async fn a_dead_endpoint_costs_nothing_but_its_try() {
    let fixture = fixture().await;
    let mut dead = TestEtcd::start().await;
    dead.kill();
    // Each store begins with the dead endpoint.
    for i in 0..3 {
        let store = connect([dead.endpoint(), fixture.server.endpoint()]).await;
        let key = format!("k{i}");
        committed(&store, Txn::new().absent(&*key).put(&*key, "")).await;
    }
    for i in 0..3 {
        let store = connect([dead.endpoint(), fixture.server.endpoint()]).await;
        let key = format!("k{i}");
        // Nobody saw the first try, so this is certain.
        conflict(&store, Txn::new().absent(&*key).put(&*key, "")).await;
    }
    // A watch finds its way without the calls' help.
    let store = connect([dead.endpoint(), fixture.server.endpoint()]).await;
    let last = committed(&*fixture.store, Txn::new().put("k", "")).await;
    let mut watch = store.watch("", last - 1).await.expect("watch");
    until(&mut watch, last).await;

    let store = connect([dead.endpoint()]).await;
    let refused = store.commit(Txn::new().put("k", "")).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_a_member_goes_on() {
    let mut members = TestEtcd::cluster(3).await;
    let endpoints: Vec<_> = members.iter().map(|m| m.endpoint().to_owned()).collect();
    let store = connect(endpoints.iter().map(String::as_str)).await;
    let lease = store.grant(Duration::from_secs(60)).await.expect("grant");
    let start = committed(&store, Txn::new().put_leased("k", "0", lease)).await;
    let mut watch = store.watch("", start).await.expect("watch");
    let mut last = committed(&store, Txn::new().put_leased("k", "1", lease)).await;
    until(&mut watch, last).await;

    // The one in use dies: the calls and the watch go on with another one.
    members[0].kill();
    last = eventually_committed(&store, "k", "2", last).await;
    until(&mut watch, last).await;
    store.keep_alive(lease).await.expect("keep alive");
    members[0].restart().await;

    // The next one in use freezes: it answers nothing and closes nothing.
    members[1].pause();
    last = eventually_committed(&store, "k", "3", last).await;
    until(&mut watch, last).await;
    members[1].resume();
}

/// Changes a key although some tries meet an election, as a careful caller does.
async fn eventually_committed(
    store: &Etcd,
    key: &str,
    value: &'static str,
    seen: Revision,
) -> Revision {
    let mut seen = seen;
    for _ in 0..10 {
        match store
            .commit(Txn::new().unchanged(key, seen).put(key, value))
            .await
        {
            Ok(Outcome::Committed(revision)) => return revision,
            Ok(Outcome::Conflict) => panic!("nobody else writes"),
            Err(error) if error.is_retryable() => {}
            Err(Error::Unknown { .. }) => {
                let (entry, _) = store.get(key).await.expect("get");
                let entry = entry.expect("the key");
                if &*entry.value == value.as_bytes() {
                    return entry.mod_revision;
                }
                seen = entry.mod_revision;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("not committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_the_server_comes_back() {
    let mut fixture = fixture().await;
    let store = fixture.store.clone();
    let start = committed(&*store, Txn::new().put("k", "0")).await;
    let mut watch = store.watch("", start).await.expect("watch");
    committed(&*store, Txn::new().put("k", "1")).await;
    until(&mut watch, start + 1).await;

    fixture.server.kill();
    fixture.server.restart().await;
    let last = committed(&*store, Txn::new().put("k", "2")).await;
    let (changes, _) = until(&mut watch, last).await;
    assert_eq!(changes.len(), 1, "{changes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_unknown_and_never_a_conflict() {
    let fixture = fixture().await;
    let proxy = Proxy::to(fixture.server.endpoint()).await;
    let store = connect([proxy.endpoint.as_str(), fixture.server.endpoint()]).await;
    committed(&store, Txn::new().put("other", "")).await;

    proxy.lose_answers();
    let created = store.commit(Txn::new().absent("k").put("k", "v")).await;
    assert!(matches!(created, Err(Error::Unknown { .. })), "{created:?}");
    let (entry, _) = store.get("k").await.expect("get");
    let entry = entry.expect("the first try was applied");
    assert_eq!(entry.create_revision, entry.mod_revision, "and only that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unguarded_commit_is_sent_once() {
    let fixture = fixture().await;
    let proxy = Proxy::to(fixture.server.endpoint()).await;
    let store = connect([proxy.endpoint.as_str(), fixture.server.endpoint()]).await;
    let before = committed(&store, Txn::new().put("k", "1")).await;

    proxy.lose_answers();
    let put = store.commit(Txn::new().put("k", "2"));
    // Long before the connection's own probes would notice.
    let put = timeout(Duration::from_secs(8), put)
        .await
        .expect("a deadline");
    assert!(
        matches!(put, Err(Error::Unknown { source: Some(_) })),
        "{put:?}"
    );
    let (_, revision) = fixture.store.get("k").await.expect("get");
    assert_eq!(revision, before + 1);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let fixture = fixture().await;
    let other = TestEtcd::start().await;
    let store = connect([fixture.server.endpoint(), other.endpoint()]).await;
    let (_, revision) = store.get("k").await.expect("get");
    let mut watch = store.watch("", revision).await.expect("watch");
    drop(fixture);
    let read = store.get("k").await;
    assert!(matches!(read, Err(Error::Foreign { .. })), "{read:?}");
    let watched = next(&mut watch).await;
    assert!(matches!(watched, Err(Error::Foreign { .. })), "{watched:?}");
}

#[tokio::test]
async fn a_wiped_store_has_another_generation() {
    let (one, other) = (fixture().await, fixture().await);
    let before = one.store.generation().await.expect("generation");
    assert_ne!(before, other.store.generation().await.expect("generation"));
    // The same cluster, but somebody deleted everything.
    committed(&*one.store, Txn::new().delete(INCARNATION)).await;
    assert_ne!(before, one.store.generation().await.expect("generation"));
}

/// Stands between the store and a server, and can keep the server's answers to itself.
struct Proxy {
    endpoint: String,
    loses: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn to(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let loses = Arc::new(AtomicBool::new(false));
        let (mut tasks, flag) = (JoinSet::new(), Arc::clone(&loses));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let server = TcpStream::connect(&server).await.expect("the server");
                connections.spawn(carry(client, server, Arc::clone(&flag)));
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            loses,
            _tasks: tasks,
        }
    }

    /// From now on requests arrive and answers do not.
    fn lose_answers(&self) {
        self.loses.store(true, Relaxed);
    }
}

async fn carry(client: TcpStream, server: TcpStream, loses: Arc<AtomicBool>) {
    let (mut requests, mut to_client) = client.into_split();
    let (mut answers, mut to_server) = server.into_split();
    let forth = tokio::io::copy(&mut requests, &mut to_server);
    let back = async {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = answers.read(&mut bytes).await {
            if !loses.load(Relaxed) && to_client.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    };
    // Either side's end is the end of both.
    tokio::select! {
        _ = forth => {}
        () = back => {}
    }
}

#[tokio::test]
async fn a_server_that_asks_for_certificates_is_called_with_the_newest() {
    let authority = Authority::new();
    let server = authority.issue("etcd", &[]);
    let server = TestEtcd::start_secure(&authority.file(), &server.certificate, &server.key).await;
    let other = Authority::new();
    let ours = other.issue("control-plane", &[]);
    let mut config = Config::new([server.endpoint()]);
    config.tls = authority.peer(Some(&ours));
    let store = Etcd::connect(config).await.expect("an address");
    let refused = store.get("key").await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    ours.replace_by(&authority.issue("control-plane", &[]));
    let answers = timeout(Duration::from_secs(60), async {
        while store.get("key").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answers.await.expect("the new certificate is shown");
}
