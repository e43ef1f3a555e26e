//! What a connection may cost, and how long an end may take.

use std::time::Duration;

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

use super::World;
use crate::auth::Auth;

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

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = vec![0; 64];
    let n_read = timeout(Duration::from_secs(10), stream.read(&mut text))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&text[..n_read]).into_owned()
}
