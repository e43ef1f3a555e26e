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
    frames::{DATA, END_HEADERS, HEADERS, attack, frame, head, preface},
    process::standalone,
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
    let before = server.resident_bytes();
    let content = [("content-type", "application/grpc"), ("te", "trailers")];
    let messages = (0..100_u32).flat_map(|it| {
        let head = head("POST", "/hookfleet.v1.PublisherService/Publish", &content);
        let mut message = vec![0, 0xff, 0xff, 0xff, 0xff];
        message.resize(16 << 10, 7);
        let stream = it * 2 + 1;
        [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, 0, stream, &message),
        ]
    });
    let attack = attack(
        server.address,
        preface(&[]),
        messages,
        true,
        Duration::from_secs(2),
    )
    .await;
    assert!(attack.n_sent < 4 << 20, "{attack:?}");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < SLACK / 2, "memory grew by {grown} bytes");
    let events = vec![event("after", "a.b", "{}")];
    publish(&server.channel(), "acme", events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_bodies_of_64_mebibytes_at_once_stay_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    create_tenant_in_force(&server.channel(), "acme").await;
    for (length, most) in [
        (format!("content-length: {BODY}"), SLACK),
        ("transfer-encoding: chunked".to_owned(), INTAKE + SLACK),
    ] {
        let before = server.resident_bytes();
        let mut bodies = JoinSet::new();
        for _ in 0..N_BODIES {
            bodies.spawn(body(server.address, length.clone()));
        }
        let mut peak = before;
        while !bodies.is_empty() {
            peak = peak.max(server.resident_bytes());
            let ended = timeout(Duration::from_millis(10), bodies.join_next()).await;
            if let Ok(Some(ended)) = ended {
                let (status, n_sent) = ended.unwrap();
                assert!(["400", "413", "429", "503"].contains(&&*status), "{status}");
                assert!(n_sent < BODY / 4, "{n_sent} bytes of one were taken");
            }
        }
        let grown = peak - before;
        assert!(grown < most, "{length}: memory grew by {grown} bytes");
    }
    let events = vec![event("after", "a.b", "{}")];
    publish(&server.channel(), "acme", events).await.unwrap();
}

/// Sends a body for as long as somebody takes it: what is answered, and how much was taken.
async fn body(address: SocketAddr, length: String) -> (String, usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        let head = format!(
            "POST /v1/tenants/acme/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        let spaces = vec![b' '; CHUNK];
        let chunk = match length.contains("chunked") {
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
    (
        status,
        timeout(PATIENCE, writing).await.expect("it ends").unwrap(),
    )
}
