//! Payloads that are too large (row F45 of the fault matrix): the largest is taken, one byte more is not, and what is refused
//! costs no memory, whatever it says of itself and however often it comes.

use std::{net::SocketAddr, time::Duration};

use hookfleet_proto::{
    cloudevents::{CloudEvent, cloud_event},
    v1::publish_result,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{
    api::{create_tenant_in_force, event, publish, subscribe_in_force, to},
    eventually,
    process::{Process, standalone},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MAX_EVENT_BYTES: usize = 256 << 10;
/// How much memory requests that arrive may have together.
const INTAKE: usize = 128 << 20;
/// What an allocator keeps, and connections cost.
const SLACK: usize = 48 << 20;
const N_BODIES: usize = 100;
const BODY: usize = 64 << 20;
const CHUNK: usize = 64 << 10;
const CHUNKED: &str = "transfer-encoding: chunked";

/// An event of so many bytes.
fn sized(id: &str, n_bytes: usize) -> CloudEvent {
    let mut event = event(id, "a.b", "");
    let mut n_data = n_bytes;
    loop {
        event.data = Some(cloud_event::Data::BinaryData(vec![b'x'; n_data].into()));
        match event.encoded_len() {
            n if n > n_bytes => n_data -= n - n_bytes,
            n => {
                assert_eq!(n, n_bytes);
                return event;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_event_is_delivered_and_one_byte_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    let receiver = Receiver::start().await;
    create_tenant_in_force(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    let events = [MAX_EVENT_BYTES, MAX_EVENT_BYTES + 1];
    let events = events.map(|n_bytes| sized(&n_bytes.to_string(), n_bytes));
    let results = publish(&channel, "acme", events.to_vec()).await.unwrap();
    let [largest, larger] = &results[..] else {
        panic!("{results:?}");
    };
    assert!(
        matches!(largest, publish_result::Result::Receipt(_)),
        "{largest:?}"
    );
    assert!(
        !matches!(larger, publish_result::Result::Receipt(_)),
        "{larger:?}"
    );
    eventually("the largest", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n == 1).then_some(()).ok_or(n)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_says_it_has_four_gibibytes_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    create_tenant_in_force(&server.channel(), "acme").await;
    let head = "POST /hookfleet.v1.PublisherService/Publish HTTP/1.1\r\ncontent-type: application/grpc-web+proto";
    let first = b"5\r\n\0\xff\xff\xff\xff\r\n";
    let (statuses, grown) = bodies(&server, &format!("{head}\r\n{CHUNKED}"), first).await;
    // The answer is in its trailers.
    assert!(statuses.iter().all(|it| it == "200"), "{statuses:?}");
    assert!(grown < SLACK, "memory grew by {grown} bytes");
    let events = vec![event("after", "a.b", "{}")];
    publish(&server.channel(), "acme", events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_bodies_of_64_mebibytes_at_once_stay_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    create_tenant_in_force(&server.channel(), "acme").await;
    let head = "POST /v1/tenants/acme/events HTTP/1.1\r\ncontent-type: application/json";
    for (length, most) in [
        (format!("content-length: {BODY}"), SLACK),
        (CHUNKED.to_owned(), INTAKE + SLACK),
    ] {
        let (statuses, grown) = bodies(&server, &format!("{head}\r\n{length}"), b"").await;
        let is_refusal = |it: &String| ["400", "413", "429", "503"].contains(&it.as_str());
        assert!(statuses.iter().all(is_refusal), "{statuses:?}");
        assert!(grown < most, "{length}: memory grew by {grown} bytes");
    }
    let events = vec![event("after", "a.b", "{}")];
    publish(&server.channel(), "acme", events).await.unwrap();
}

/// Sends bodies at once: what is answered, and how much memory grew meanwhile.
async fn bodies(server: &Process, head: &str, first: &'static [u8]) -> (Vec<String>, usize) {
    let before = server.resident_bytes();
    let mut bodies = JoinSet::new();
    for _ in 0..N_BODIES {
        bodies.spawn(body(server.address, head.to_owned(), first));
    }
    let (mut peak, mut statuses) = (before, Vec::new());
    while !bodies.is_empty() {
        peak = peak.max(server.resident_bytes());
        let ended = timeout(Duration::from_millis(10), bodies.join_next()).await;
        if let Ok(Some(ended)) = ended {
            let (status, n_sent) = ended.unwrap();
            assert!(n_sent < BODY / 4, "{n_sent} bytes of one were taken");
            statuses.push(status);
        }
    }
    (statuses, peak - before)
}

/// Sends a body for as long as somebody takes it: what is answered, and how much was taken.
async fn body(address: SocketAddr, head: String, first: &'static [u8]) -> (String, usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        let begin = [format!("{head}\r\nhost: x\r\n\r\n").as_bytes(), first].concat();
        writer.write_all(&begin).await.unwrap();
        let spaces = vec![b' '; CHUNK];
        let chunk = match head.contains(CHUNKED) {
            true => [format!("{CHUNK:x}\r\n").as_bytes(), &spaces, b"\r\n"].concat(),
            false => spaces,
        };
        let mut n_sent = 0;
        while n_sent < BODY && writer.write_all(&chunk).await.is_ok() {
            n_sent += CHUNK;
        }
        n_sent
    });
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    let status = String::from_utf8_lossy(&answer[9..]).into_owned();
    drop(reader);
    let n_sent = timeout(PATIENCE, writing).await.expect("it ends").unwrap();
    (status, n_sent)
}
