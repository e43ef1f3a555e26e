//! R38 of the behaviour table, reference/trust §1.14: ten thousand receivers that take a request and say
//! nothing. What they hold is bounded, and nobody else waits for them. The test has a process of its
//! own, because it counts memory and descriptors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "a smaller test says that it is")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::target::{Rules, Target};
use hookfleet_egress::{Config, Egress, Exchange, Request, address::Policy};
use http::HeaderMap;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};

const N_TARPITS: usize = 10_000;
/// A listener's queue holds as many as the kernel lets it: 4,096 since Linux 5.4.
const N_PER_LISTENER: usize = 4_000;
/// Longer than the test.
const PATIENCE: Duration = Duration::from_secs(300);
/// Of an attempt that waits: 20 KiB were measured, 16 of them the buffers of hyper.
const MAX_BYTES_EACH: usize = 32 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tarpits_hold_little_and_nobody_up() {
    let n_tarpits = N_TARPITS.min(n_descriptors().saturating_sub(200));
    if n_tarpits < N_TARPITS {
        eprintln!("only {n_tarpits} tarpits: descriptors are limited");
    }
    let egress = Egress::new(Config {
        policy: Policy {
            allow_loopback: true,
            ..Policy::default()
        },
        ..Config::default()
    })
    .unwrap();
    let healthy = healthy().await;
    assert!(is_success(&post(&egress, healthy).await));

    // Connections that wait to be accepted, for ever: to a sender they look accepted.
    let n_listeners = n_tarpits.div_ceil(N_PER_LISTENER);
    let tarpits: Vec<TcpListener> = (0..n_listeners)
        .map(|_| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            socket.listen(8_192).unwrap()
        })
        .collect();
    let (n_open, n_bytes) = (n_open(), n_resident_bytes());
    let n_over = Arc::<AtomicUsize>::default();
    let mut stuck = JoinSet::new();
    for index in 0..n_tarpits {
        let address = tarpits[index % n_listeners].local_addr().unwrap();
        let (egress, n_over) = (egress.clone(), Arc::clone(&n_over));
        stuck.spawn(async move {
            let exchange = post(&egress, address).await;
            n_over.fetch_add(1, Ordering::SeqCst);
            exchange
        });
    }
    let all_connected = async {
        while self::n_open() < n_open + n_tarpits {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), all_connected)
        .await
        .unwrap();

    for _ in 0..500 {
        assert!(is_success(&post(&egress, healthy).await));
    }
    assert_eq!(n_over.load(Ordering::SeqCst), 0, "tarpits that ended");
    let each = n_resident_bytes().saturating_sub(n_bytes) / n_tarpits;
    assert!(each < MAX_BYTES_EACH, "{each} bytes for each");

    // Who is not waited for any more holds nothing.
    stuck.shutdown().await;
    let all_closed = async {
        while self::n_open() > n_open + 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), all_closed).await.unwrap();
}

async fn post(egress: &Egress, address: SocketAddr) -> Exchange {
    let rules = Rules {
        allow_loopback: true,
        ..Rules::default()
    };
    let target = Target::parse(&format!("http://{address}/"), &rules).unwrap();
    let request = Request {
        tenant: "acme".parse().unwrap(),
        target: Arc::new(target),
        headers: HeaderMap::new(),
        body: Bytes::from_static(&[b'x'; 1024]),
        timeout: PATIENCE,
    };
    egress.post(request).await
}

/// A receiver that answers every request.
async fn healthy() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let mut n_read = 0;
                while let Ok(n @ 1..) = stream.read(&mut request[n_read..]).await {
                    n_read += n;
                    if request[..n_read].ends_with(&[b'x'; 1024]) {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                        n_read = 0;
                    }
                }
            });
        }
    });
    address
}

fn is_success(exchange: &Exchange) -> bool {
    exchange.result.as_ref().is_ok_and(|it| it.is_success())
}

/// How many descriptors the process may have, as many as it is allowed.
fn n_descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit
        .current
        .map_or(usize::MAX, |it| usize::try_from(it).unwrap())
}

fn n_open() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn n_resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let resident = pages.split(' ').nth(1).unwrap();
    resident.parse::<usize>().unwrap() * rustix::param::page_size()
}
