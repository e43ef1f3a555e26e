//! What a connection may cost and a caller may use, and how long an end may take.

use std::time::Duration;

use hookfleet_contract::time::Timestamp;
use hookfleet_proto::v1::{ListTenantsRequest, tenant_service_client::TenantServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use super::{HEAD, LIFETIME, MANY, World};
use crate::{
    auth::{
        Auth,
        key::ApiKey,
        keyring::Keyring,
        principal::{Principal, Reach},
        scope::Scope,
    },
    clock::Clock,
    limits::limiter::{Limiter, Rates},
};

/// Five requests per second, and ten failures forgiven, while time stands still.
fn limiter() -> Limiter {
    let rates = Rates {
        requests: 5,
        failures: 1,
        ..Rates::default()
    };
    Limiter::new(rates, Clock::fixed(Timestamp(1_000_000)))
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_unread() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_cut_off() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 65_536], b"\r\n"].concat();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        let mut n_written = 0;
        while writer.write_all(&chunk).await.is_ok() {
            n_written += chunk.len();
        }
        n_written
    });
    let mut text = vec![0; 64];
    let n_read = timeout(Duration::from_secs(10), reader.read(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert!(text[..n_read].starts_with(b"HTTP/1.1 400"));
    drop(reader);
    world.shutdown.cancel();
    let n_written = timeout(Duration::from_secs(10), writing)
        .await
        .unwrap()
        .unwrap();
    assert!(n_written < 32 << 20, "{n_written} bytes were taken");
}

#[tokio::test]
async fn an_end_does_not_wait_for_clients() {
    let world = World::start().await;
    world.readiness.set("store", true);
    // A stream that never ends, and a connection that is kept alive.
    let mut client = HealthClient::new(world.channel().await);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let _idle = TcpStream::connect(world.address).await.unwrap();
    world.shutdown.cancel();
    timeout(Duration::from_secs(5), world.serving)
        .await
        .expect("in time")
        .unwrap();
    assert!(
        TcpStream::connect(world.address).await.is_err(),
        "nobody listens any more"
    );
    drop(watch);
}

#[tokio::test]
async fn a_connection_ends_after_its_lifetime_and_what_is_under_way_on_it_goes_on() {
    let world = World::start_with(Auth::off(), Duration::from_millis(50)).await;
    let mut client = HealthClient::new(world.channel().await);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    let state = async |watch: &mut tonic::Streaming<_>| {
        let told: HealthCheckResponse = watch.message().await.unwrap().unwrap();
        told.status()
    };
    assert_eq!(state(&mut watch).await, ServingStatus::NotServing);
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    // Ours began before: it is to end by now, too.
    assert_eq!(answer(&mut idle).await, "");
    world.readiness.set("store", true);
    assert_eq!(state(&mut watch).await, ServingStatus::Serving);
    // A client that tries again gets through. Some libraries do that by themselves; tonic says CANCELLED once.
    let mut refused = Vec::new();
    while let Err(status) = client.check(HealthCheckRequest::default()).await {
        assert!(
            matches!(status.code(), Code::Cancelled | Code::Unavailable),
            "{status}"
        );
        refused.push(status);
        assert!(refused.len() < 20, "{refused:?}");
    }
}

#[tokio::test]
async fn a_request_too_many_is_told_when_to_come_back_in_every_dialect() {
    let world = World::start_limited(Auth::off(), LIFETIME, limiter(), MANY).await;
    for left in (1..5).rev() {
        let listed = world.call("GET", "/v1/tenants", "").await;
        assert_eq!(listed.status, 200);
        assert_eq!(listed.headers["ratelimit-policy"], r#""address";q=5;w=1"#);
        assert_eq!(
            listed.headers["ratelimit"],
            format!(r#""address";r={left};t=1"#)
        );
    }
    let mut client = TenantServiceClient::new(world.channel().await);
    client
        .list_tenants(ListTenantsRequest::default())
        .await
        .unwrap();

    let refused = world.call("GET", "/v1/tenants", "").await;
    assert_eq!(refused.refusal(), (429, "RATE_LIMITED"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["ratelimit-policy"], r#""address";q=5;w=1"#);
    assert_eq!(refused.headers["ratelimit"], r#""address";r=0;t=1"#);
    let status = client.list_tenants(ListTenantsRequest::default()).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "127.0.0.1"
    );
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay >= Duration::from_millis(200) && delay <= Duration::from_millis(240));
    let web = [("content-type", "application/grpc-web+proto")];
    let path = "/hookfleet.v1.TenantService/ListTenants";
    let web = world.call_with(&web, "POST", path, "").await;
    assert_eq!(
        (web.status.as_u16(), &web.headers["grpc-status"]),
        (200, &"8".parse().unwrap())
    );

    // Whoever watches us is not counted.
    let mut health = HealthClient::new(world.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(world.call("GET", "/livez", "").await.status, 200);
}

#[tokio::test]
async fn a_request_too_many_is_refused_unread() {
    let world = World::start_limited(Auth::off(), LIFETIME, limiter(), MANY).await;
    for _ in 0..5 {
        assert_eq!(world.call("GET", "/v1/tenants", "").await.status, 200);
    }
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 429"));
}

#[tokio::test]
async fn a_tenant_that_has_published_enough_is_refused_unread_but_may_open_a_stream() {
    let rates = Rates {
        tenant_events: 1000,
        ..Rates::default()
    };
    let limiter = Limiter::new(rates, Clock::fixed(Timestamp(1_000_000)));
    limiter.publish("tenants/acme", 1000, || 1).unwrap();
    let own = ApiKey::generate(|| 9);
    let scopes = [Scope::EventsPublish].into_iter().collect();
    let acme = Reach::Tenant("acme".parse().unwrap());
    let principal = Principal::new("keys/acme", acme, scopes);
    let auth = Auth::on(Keyring::default(), Clock::system()).with_own_key(&own, principal);
    let world = World::start_limited(auth, LIFETIME, limiter, MANY).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST /v1/tenants/acme/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n",
        *own.reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 429"));
    let bearer = format!("Bearer {}", *own.reveal());
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/grpc"),
    ];
    // Nobody publishes here, but that is found out later.
    for (method, grpc_status) in [("Publish", "8"), ("PublishStream", "12")] {
        let path = format!("/hookfleet.v1.PublisherService/{method}");
        let answer = world.call_with(&headers, "POST", &path, "").await;
        assert_eq!(answer.headers["grpc-status"], grpc_status, "{method}");
    }
}

#[tokio::test]
async fn who_fails_to_get_in_too_often_is_told_to_wait_and_who_may_is_not() {
    let (keyring, own) = (Keyring::default(), ApiKey::generate(|| 9));
    keyring.set_complete();
    let scopes = [Scope::TenantsAdmin].into_iter().collect();
    let principal = Principal::new("keys/own", Reach::Fleet, scopes);
    let auth = Auth::on(keyring, Clock::system()).with_own_key(&own, principal);
    let world = World::start_limited(auth, LIFETIME, limiter(), MANY).await;
    let wrong = format!("Bearer {}", *ApiKey::generate(|| 8).reveal());
    let good = format!("Bearer {}", *own.reveal());
    let list = async |bearer: &str| {
        let headers = [("authorization", bearer)];
        world.call_with(&headers, "GET", "/v1/tenants", "").await
    };
    for _ in 0..10 {
        assert_eq!(list(&wrong).await.refusal(), (401, "CREDENTIAL_INVALID"));
    }
    let refused = list(&wrong).await;
    assert_eq!(refused.refusal(), (429, "RATE_LIMITED"));
    assert_eq!(
        refused.headers["ratelimit-policy"],
        r#""failures";q=10;w=10"#
    );
    assert_eq!(world.call("GET", "/v1/tenants", "").await.status, 429);
    let listed = list(&good).await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.headers["ratelimit"], r#""credential";r=4;t=1"#);
}

#[tokio::test]
async fn a_broken_limiter_refuses_what_it_cannot_count() {
    let limiter = limiter();
    limiter.break_down();
    let world = World::start_limited(Auth::off(), LIFETIME, limiter, MANY).await;
    let refused = world.call("GET", "/v1/tenants", "").await;
    assert_eq!(refused.refusal(), (503, "LIMITER_FAILED"));
    assert_eq!(
        world.call("GET", "/readyz", "").await.status,
        503,
        "for want of a store"
    );
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_others_are_served() {
    let world = World::start_limited(Auth::off(), LIFETIME, Limiter::off(), (100, 2)).await;
    let mut first = TcpStream::connect(world.address).await.unwrap();
    let _second = TcpStream::connect(world.address).await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut third = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(answer(&mut third).await, "");
    assert!(begin.elapsed() < HEAD, "it waits for nothing");
    let head = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    first.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    drop(first);
    // Its place is free as soon as its end was seen.
    let served = async {
        loop {
            let mut next = TcpStream::connect(world.address).await.unwrap();
            drop(next.write_all(head.as_bytes()).await);
            if answer(&mut next).await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    timeout(Duration::from_secs(10), served)
        .await
        .expect("served");
}

#[tokio::test]
async fn heads_that_drip_are_cut_off_and_others_are_served_meanwhile() {
    let world = World::start().await;
    let heads: [&[u8]; 4] = [
        b"",
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx-drip: ",
        b"PRI * HTTP/2.0\r\n\r\nS",
        // One request was answered, the next does not come.
        b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    let begin = tokio::time::Instant::now();
    let mut dripping = tokio::task::JoinSet::new();
    for number in 0..400 {
        let head = heads[number % heads.len()];
        // One after the other: a kernel forgets silent ones that nobody has accepted.
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        dripping.spawn(async move {
            stream.write_all(head).await.unwrap();
            // Only the second kind has more to say.
            while head.ends_with(b": ") && stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(HEAD / 10).await;
            }
            drop(stream.read_to_end(&mut Vec::new()).await);
            begin.elapsed()
        });
    }
    let mut n_served = 0;
    let serving = async {
        loop {
            assert_eq!(world.call("GET", "/livez", "").await.status, 200);
            n_served += 1;
        }
    };
    let lasted = tokio::select! {
        never = serving => never,
        lasted = timeout(HEAD * 10, dripping.join_all()) => lasted.expect("all are cut off"),
    };
    assert!(
        lasted.iter().all(|it| *it >= HEAD),
        "they had their time: {lasted:?}"
    );
    assert!(n_served > 10, "{n_served} requests were served meanwhile");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = World::start().await;
    let large = "x".repeat(17 << 10);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 431"));

    let mut client = TenantServiceClient::new(world.channel().await);
    let mut request = tonic::Request::new(ListTenantsRequest::default());
    request
        .metadata_mut()
        .insert("x-large", large.parse().unwrap());
    let refused = client.list_tenants(request).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok, "{refused}");
    let mut request = tonic::Request::new(ListTenantsRequest::default());
    let fits = "x".repeat(15 << 10).parse().unwrap();
    request.metadata_mut().insert("x-large", fits);
    client.list_tenants(request).await.unwrap();
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = vec![0; 64];
    let read = timeout(Duration::from_secs(10), stream.read(&mut text)).await;
    // A reset is an end, too.
    let n_read = read.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&text[..n_read]).into_owned()
}
