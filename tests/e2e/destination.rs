//! A victim that nobody asked: whoever owns a name points all names below it wherever they like, and callbacks to it do
//! not add up, over names and tenants, while who wants its callbacks gets them at the same address (§1.12 of the trust
//! rules).
//!
//! The victim has an address of the public internet in a network of its own.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hookfleet_proto::v1::{RetryPolicy, Subscription};
use tokio::{net::TcpListener, sync::watch};

use crate::harness::{
    api::{
        create_tenant_in_force, deliveries, event, in_force, publish_one, subscribe,
        subscribe_in_force, to,
    },
    eventually,
    name_server::NameServer,
    network::Network,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
const TENANTS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
const NAMES_EACH: usize = 100;
const N_NAMES: usize = TENANTS.len() * NAMES_EACH;
const MOST: usize = 500;

/// It knows nothing of what is sent to it, and takes its time to say so if it is told to. It is also where the callbacks
/// of a good customer go.
#[derive(Clone)]
struct Victim {
    holds: watch::Sender<bool>,
    n_asked: Arc<AtomicUsize>,
    n_held: Arc<AtomicUsize>,
    max_held: Arc<AtomicUsize>,
    n_good: Arc<AtomicUsize>,
}

impl Victim {
    fn start(listener: TcpListener) -> Self {
        let victim = Self {
            holds: watch::channel(false).0,
            n_asked: Arc::default(),
            n_held: Arc::default(),
            max_held: Arc::default(),
            n_good: Arc::default(),
        };
        let router = Router::new()
            .route("/{path}", post(answer))
            .with_state(victim.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        victim
    }

    fn n_held(&self) -> usize {
        self.n_held.load(Ordering::SeqCst)
    }
}

async fn answer(State(victim): State<Victim>, Path(path): Path<String>) -> StatusCode {
    if path == "good" {
        victim.n_good.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NO_CONTENT;
    }
    victim.n_asked.fetch_add(1, Ordering::SeqCst);
    let n_held = victim.n_held.fetch_add(1, Ordering::SeqCst) + 1;
    if *victim.holds.borrow() {
        victim.max_held.fetch_max(n_held, Ordering::SeqCst);
    }
    // Whoever hangs up has waited longer than this test holds anybody.
    let released = victim
        .holds
        .subscribe()
        .wait_for(|holds| !holds)
        .await
        .is_ok();
    victim.n_held.fetch_sub(1, Ordering::SeqCst);
    assert!(released, "the victim is there");
    StatusCode::NOT_FOUND
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_names_lead_to_a_victim_their_callbacks_do_not_add_up() {
    let Some(network) = Network::new(&["victim"]) else {
        return;
    };
    network.add_address("victim", ADDRESS);
    let listener = network.listen("victim", (ADDRESS, 0).into());
    let port = listener.local_addr().unwrap().port();
    let victim = Victim::start(listener);
    let names = NameServer::start(ADDRESS).await;
    let dir = tempfile::tempdir().unwrap();
    let server = names.standalone(dir.path());
    let channel = server.channel();

    create_tenant_in_force(&channel, "good").await;
    let good = to(format!("http://hooks.good.com:{port}/good"));
    subscribe_in_force(&channel, "good", "hook", good).await;
    for tenant in TENANTS {
        create_tenant_in_force(&channel, tenant).await;
        let made = stream::iter(0..NAMES_EACH).map(|number| {
            let id = format!("n{number}");
            let wanted = a_stranger(format!("http://{tenant}-{id}.evil.com:{port}/evil"));
            let channel = &channel;
            async move { subscribe(channel, tenant, &id, wanted).await }
        });
        let made: Vec<_> = made.buffer_unordered(16).try_collect().await.unwrap();
        for subscription in made {
            in_force(&channel, &subscription.name).await;
        }
    }

    // They are called once, and all have answered.
    let publish = async |id: &str| {
        for tenant in TENANTS {
            publish_one(&channel, tenant, event(id, "a.b", "{}")).await;
        }
    };
    let refused = async |n: usize| {
        eventually("all names refused it", PATIENCE, || async {
            let mut n_refused = 0;
            for tenant in TENANTS {
                let dead = deliveries(&channel, tenant, "state = DEAD_LETTERED").await;
                n_refused += dead.len();
            }
            (n_refused == n).then_some(()).ok_or(n_refused)
        })
        .await;
    };
    publish("1").await;
    refused(N_NAMES).await;
    // A good customer has shown that it is one.
    let deliver = async |n: usize| {
        for _ in 0..n {
            let before = victim.n_good.load(Ordering::SeqCst);
            publish_one(&channel, "good", event(&format!("{before}"), "a.b", "{}")).await;
            eventually("a good callback", PATIENCE, || async {
                let n = victim.n_good.load(Ordering::SeqCst);
                (n > before).then_some(()).ok_or((n, victim.n_held()))
            })
            .await;
        }
    };
    deliver(20).await;

    victim.holds.send_replace(true);
    publish("2").await;
    eventually("as many callbacks as may be", PATIENCE, || async {
        let n = victim.n_held();
        (n >= MOST).then_some(()).ok_or(n)
    })
    .await;
    deliver(20).await;
    assert_eq!(victim.n_asked.load(Ordering::SeqCst), N_NAMES + MOST);
    assert_eq!(victim.max_held.load(Ordering::SeqCst), MOST);

    victim.holds.send_replace(false);
    refused(2 * N_NAMES).await;
    assert_eq!(victim.n_asked.load(Ordering::SeqCst), 2 * N_NAMES);
    assert_eq!(victim.max_held.load(Ordering::SeqCst), MOST);
    assert!(server.terminate().await.success());
}

/// A subscription of somebody who never asked, as an attacker makes it: nothing is tried twice.
fn a_stranger(callback_url: String) -> Subscription {
    Subscription {
        timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        retry_policy: Some(RetryPolicy {
            non_retryable_status_codes: vec![404],
            ..RetryPolicy::default()
        }),
        ..to(callback_url)
    }
}
