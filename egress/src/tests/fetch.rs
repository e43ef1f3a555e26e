//! Documents that the operator has named, from servers that misbehave.

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::receiver::Receiver;
use crate::fetch::{Config, Error, Fetcher};

fn fetcher() -> Fetcher {
    let config = Config {
        allow_loopback_http: true,
        ..Config::default()
    };
    Fetcher::new(&config).unwrap()
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A server that answers so, and goes on with a body for as long as somebody reads.
async fn server(head: String, body_bytes: usize) -> Receiver {
    Receiver::start(move |mut stream, _| {
        let head = head.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut left = body_bytes;
            let piece = vec![b' '; 16 << 10];
            while left > 0 {
                let n = left.min(piece.len());
                if stream.write_all(&piece[..n]).await.is_err() {
                    return;
                }
                left -= n;
            }
        }
    })
    .await
}

fn ok() -> String {
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned()
}

#[tokio::test]
async fn a_document_has_256_kib_at_most_and_comes_from_where_it_was_asked_for() {
    let url = |receiver: &Receiver| format!("http://{}/keys", receiver.address);
    let whole = server(ok(), 256 << 10).await;
    let document = fetcher().get(&url(&whole)).await.unwrap();
    assert_eq!(document.len(), 256 << 10);
    let large = server(ok(), (256 << 10) + 1).await;
    let refused = fetcher().get(&url(&large)).await;
    assert!(matches!(refused, Err(Error::TooLarge)), "{refused:?}");
    let endless = server(ok(), usize::MAX).await;
    let refused = fetcher().get(&url(&endless)).await;
    assert!(matches!(refused, Err(Error::TooLarge)), "{refused:?}");

    let elsewhere = server(ok(), 2).await;
    for status in [301, 302, 307, 308] {
        let location = url(&elsewhere);
        let head = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let moved = server(head, 0).await;
        let refused = fetcher().get(&url(&moved)).await;
        let expected = StatusCode::from_u16(status).unwrap();
        assert!(
            matches!(refused, Err(Error::Status(it)) if it == expected),
            "{refused:?}"
        );
    }
    assert_eq!(elsewhere.n_connections(), 0);
}

#[tokio::test]
async fn plain_http_is_for_loopback_and_only_if_somebody_has_said_so() {
    let server = server(ok(), 2).await;
    let loopback = format!("http://{}/keys", server.address);
    let strict = Fetcher::new(&Config::default()).unwrap();
    for (fetcher, url) in [
        (&strict, loopback.as_str()),
        (&fetcher(), "http://192.0.2.1/keys"),
        (&fetcher(), "http://localhost.example/keys"),
        (&fetcher(), "http://127.0.0.1.example/keys"),
        (&fetcher(), "ftp://127.0.0.1/keys"),
        (&fetcher(), "file:///etc/hostname"),
        (&fetcher(), "keys"),
    ] {
        let refused = fetcher.get(url).await;
        assert!(matches!(refused, Err(Error::Url)), "{url}: {refused:?}");
    }
    assert_eq!(server.n_connections(), 0);
    assert_eq!(&fetcher().get(&loopback).await.unwrap()[..], b"  ");
}

/// Nothing happens but that time passes.
#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_given_up() {
    let silent = Receiver::start(|mut stream, _| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let started = Instant::now();
    let refused = fetcher().get(&format!("http://{}/", silent.address)).await;
    assert!(matches!(refused, Err(Error::Http(_))), "{refused:?}");
    let took = started.elapsed();
    assert!((9..=11).contains(&took.as_secs()), "{took:?}");
}
