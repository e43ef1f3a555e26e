//! How many POSTs of 1 KiB a second leave through egress, beside hyper-util's client, the bare one?
//!
//! 64 at once, over connections that are kept alive, to a sink on loopback with a thread of its own.
//! What the sender's threads cost per POST, which other work on the machine changes least, goes to the
//! standard error output.
//!
//! ```text
//! cargo bench -p hookfleet-egress --bench post
//! ```

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]
#![expect(clippy::print_stderr, reason = "criterion reports time, not CPU")]
#![expect(clippy::disallowed_methods, reason = "it measures")]
#![expect(missing_docs, reason = "criterion's macros write functions")]

use std::{
    cell::Cell,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use hookfleet_contract::target::{Rules, Target};
use hookfleet_egress::{Config, Egress, Request, address::Policy};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
};

const N_AT_ONCE: usize = 64;
const N_BODY_BYTES: usize = 1024;
const SENDER: &str = "sender";

criterion_group!(benches, post);
criterion_main!(benches);

fn post(criterion: &mut Criterion) {
    let sink = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(SENDER)
        .enable_all()
        .build()
        .unwrap();
    let address = sink.block_on(listen());
    let mut group = criterion.benchmark_group("post");
    group.throughput(Throughput::Elements(1));
    group.measurement_time(Duration::from_secs(8));
    group.sampling_mode(SamplingMode::Flat);

    let egress = Egress::new(Config {
        policy: Policy {
            allow_loopback: true,
            ..Policy::default()
        },
        ..Config::default()
    })
    .unwrap();
    let rules = Rules {
        allow_loopback: true,
        ..Rules::default()
    };
    let url = format!("http://{address}/hooks/orders");
    let target = Arc::new(Target::parse(&url, &rules).unwrap());
    let body = Bytes::from(vec![b'x'; N_BODY_BYTES]);
    let bare_body = body.clone();
    let through_egress = move || {
        let (egress, target, body) = (egress.clone(), Arc::clone(&target), body.clone());
        async move {
            let request = Request {
                tenant: "acme".parse().unwrap(),
                target,
                headers: headers(),
                body,
                timeout: Duration::from_secs(15),
            };
            assert!(egress.post(request).await.result.unwrap().is_success());
        }
    };
    let cost = Cost::default();
    group.bench_function(BenchmarkId::from_parameter("egress"), |it| {
        it.iter_custom(|n_posts| cost.add(n_posts, || run(&runtime, n_posts, &through_egress)));
    });
    cost.print("egress");

    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>({
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector
    });
    let uri: http::Uri = url.parse().unwrap();
    let bare = move || {
        let (client, uri, body) = (client.clone(), uri.clone(), bare_body.clone());
        async move {
            let mut request = http::Request::post(uri).body(Full::new(body)).unwrap();
            *request.headers_mut() = headers();
            let response = client.request(request).await.unwrap();
            assert!(response.status().is_success());
            response.into_body().collect().await.unwrap();
        }
    };
    let cost = Cost::default();
    group.bench_function(BenchmarkId::from_parameter("bare"), |it| {
        it.iter_custom(|n_posts| cost.add(n_posts, || run(&runtime, n_posts, &bare)));
    });
    cost.print("bare");
    group.finish();
}

/// What so many posts take, `N_AT_ONCE` of them at a time, each in a task of its own as attempts are.
fn run<F>(runtime: &Runtime, n_posts: u64, post: impl Fn() -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    runtime.block_on(async {
        let started = Instant::now();
        let mut posts = JoinSet::new();
        for _ in 0..n_posts {
            if posts.len() == N_AT_ONCE {
                posts.join_next().await.unwrap().unwrap();
            }
            posts.spawn(post());
        }
        posts.join_all().await;
        started.elapsed()
    })
}

/// The CPU that the sender's threads used, and for how many POSTs.
#[derive(Default)]
struct Cost {
    cpu: Cell<Duration>,
    n_posts: Cell<u64>,
}

impl Cost {
    fn add<R>(&self, n_posts: u64, measured: impl FnOnce() -> R) -> R {
        let before = cpu();
        let result = measured();
        self.cpu.set(self.cpu.get() + (cpu() - before));
        self.n_posts.set(self.n_posts.get() + n_posts);
        result
    }

    fn print(&self, name: &str) {
        let micros = self.cpu.get().as_secs_f64() * 1e6 / self.n_posts.get().max(1) as f64;
        eprintln!("post/{name}: {micros:.2} µs of CPU per POST");
    }
}

/// What the sender's threads have used so far.
fn cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let nanos = tasks.map(|task| {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap();
        let used = fs::read_to_string(path.join("schedstat")).unwrap();
        let nanos: u64 = used.split(' ').next().unwrap().parse().unwrap();
        nanos * u64::from(name.trim_end() == SENDER)
    });
    Duration::from_nanos(nanos.sum())
}

/// As many as a signed callback has, with as much room.
fn headers() -> HeaderMap {
    const VALUE: &str = "v1,zDJrvwlohZ7IfyhHOLp8vryUQywktwHvKPtCHO57yg8=";
    const NAMES: [&str; 10] = [
        "content-type",
        "user-agent",
        "accept-encoding",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "traceparent",
        "hookfleet-subscription",
        "hookfleet-delivery-id",
        "hookfleet-attempt",
    ];
    let mut headers = HeaderMap::with_capacity(16);
    for name in NAMES {
        let name = HeaderName::from_static(name);
        headers.insert(name, HeaderValue::from_static(VALUE));
    }
    headers
}

/// A server that reads what it gets and answers 200.
async fn listen() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<Incoming>| async {
                    request.into_body().collect().await.unwrap();
                    Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
                });
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .unwrap();
            });
        }
    });
    address
}
