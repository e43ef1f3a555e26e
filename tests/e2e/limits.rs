//! What callers may use, through the real binary: a tenant that floods, an address that asks too often, bodies that nobody
//! has let in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{
    api::{create_tenant_in_force, event, publish},
    eventually,
    frames::{DATA, END_HEADERS, HEADERS, attack, frame, head, preface},
    http::Http,
    process::{Process, hookfleet},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A standalone server with settings in its environment.
fn standalone(dir: &tempfile::TempDir, settings: &[(&str, &str)], flags: &[&str]) -> Process {
    let mut command = hookfleet();
    command.arg("standalone").args(flags);
    command.arg("--data-dir").arg(dir.path());
    command.envs(settings.iter().copied());
    Process::start(command, "127.0.0.1:0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_is_held_to_its_rate_and_others_publish() {
    const RATE: usize = 100;
    const BURST: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let settings = [("HOOKFLEET_TENANT_EVENTS_PER_SECOND", "100")];
    let server = standalone(&dir, &settings, &[]);
    for tenant in ["flood", "acme"] {
        create_tenant_in_force(&server.channel(), tenant).await;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let n_accepted = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let mut floods = tokio::task::JoinSet::new();
    for flood in 0..4 {
        let (channel, is_over) = (server.channel(), Arc::clone(&is_over));
        let n_accepted = Arc::clone(&n_accepted);
        floods.spawn(async move {
            let mut n_refused = 0;
            for number in 0.. {
                let events =
                    (0..50).map(|it| event(&format!("{flood}-{number}-{it}"), "a.b", "{}"));
                match publish(&channel, "flood", events.collect()).await {
                    Ok(results) => drop(n_accepted.fetch_add(results.len(), Ordering::Relaxed)),
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                        let details = status.get_error_details();
                        let quota = details.quota_failure().unwrap();
                        assert_eq!(quota.violations[0].subject, "tenants/flood");
                        assert!(details.retry_info().unwrap().retry_delay.is_some());
                        n_refused += 1;
                    }
                }
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
            n_refused
        });
    }
    let channel = server.channel();
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let begin = Instant::now();
        let event = event(&format!("e{number}"), "a.b", "{}");
        publish(&channel, "acme", vec![event])
            .await
            .expect("published");
        slowest = slowest.max(begin.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    let n_refused: usize = floods.join_all().await.into_iter().sum();
    let lasted = begin.elapsed().as_secs_f64().ceil();
    let n_accepted = n_accepted.load(Ordering::Relaxed);
    assert!(n_accepted >= BURST - 50, "{n_accepted}");
    assert!(
        n_accepted as f64 <= BURST as f64 + RATE as f64 * lasted,
        "{n_accepted} in {lasted} s"
    );
    assert!(n_refused > 100, "{n_refused}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_facade_tells_who_asks_too_often_in_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(&dir, &[("HOOKFLEET_REQUESTS_PER_SECOND", "2")], &[]);
    let http = Http::to(server.address);
    let refused = eventually("a refusal", PATIENCE, || async {
        let answer = http.get("/orders/subscriptions").await;
        (answer.status == 429)
            .then_some(answer.clone())
            .ok_or(answer.status)
    })
    .await;
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("ratelimit-policy"), r#""address";q=2;w=1"#);
    assert!(
        refused
            .header("ratelimit")
            .starts_with(r#""address";r=0;t="#)
    );
    let problem = refused.json();
    assert_eq!(
        problem["type"],
        "https://hookfleet.dev/problems/quota-exceeded"
    );
    assert_eq!(problem["reason"], "RATE_LIMITED");
    // Publishing is not asking.
    for _ in 0..10 {
        let event = r#"{"type": "a.b"}"#;
        let json = [("content-type", "application/json")];
        let answer = http.post("/v1/tenants/nobody/events", &json, event).await;
        assert_eq!(answer.status, 404, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_nobody_let_in_is_refused_unread_and_costs_no_memory() {
    const N_BODIES: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(&dir, &[], &["--authentication"]);
    let http = Http::to(server.address);
    for _ in 0..50 {
        assert_eq!(http.post("/v1/tenants", &[], "{}").await.status, 401);
    }
    let before = server.resident_bytes();
    let mut bodies = tokio::task::JoinSet::new();
    for _ in 0..N_BODIES {
        bodies.spawn(gigabyte(server.address));
    }
    let mut most = before;
    while let Some(n_sent) = bodies.join_next().await {
        let n_sent = n_sent.unwrap();
        assert!(n_sent < 16 << 20, "{n_sent} bytes of one were taken");
        most = most.max(server.resident_bytes());
    }
    // On one connection of HTTP/2, too.
    let heads = (0..100_u32).flat_map(|it| {
        let length = [
            ("content-type", "application/grpc"),
            ("content-length", "1073741824"),
        ];
        let head = head("POST", "/hookfleet.v1.PublisherService/Publish", &length);
        let stream = it * 2 + 1;
        [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, 0, stream, &[7; 16 << 10]),
        ]
    });
    attack(
        server.address,
        preface(&[]),
        heads,
        true,
        Duration::from_secs(1),
    )
    .await;
    most = most.max(server.resident_bytes());
    assert!(
        most - before < 8 << 20,
        "memory grew by {} bytes",
        most - before
    );
    assert_eq!(http.get("/readyz").await.status, 200);
}

/// Sends a body of a gigabyte for as long as somebody takes it; how much that was.
async fn gigabyte(address: std::net::SocketAddr) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        let head = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        let some = vec![b' '; 64 << 10];
        let mut n_sent = 0;
        while writer.write_all(&some).await.is_ok() {
            n_sent += some.len();
        }
        n_sent
    });
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    timeout(PATIENCE, writing).await.expect("it ends").unwrap()
}
