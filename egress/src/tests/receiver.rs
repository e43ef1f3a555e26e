//! A receiver that does what it is told, byte by byte.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A listener whose connections all behave the same.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    n_connections: Arc<AtomicUsize>,
}

impl Receiver {
    /// Hands every connection to `behave`.
    pub(super) async fn start<F: Future<Output = ()> + Send + 'static>(
        behave: impl Fn(TcpStream, usize) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let n_connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&n_connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let index = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(behave(stream, index));
            }
        });
        Self {
            address,
            n_connections,
        }
    }

    /// Answers every request of every connection with the same bytes, then closes or not.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>, closes: bool) -> Self {
        let answer = answer.into();
        Self::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() || closes {
                        break;
                    }
                }
            }
        })
        .await
    }

    pub(super) fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::SeqCst)
    }
}

/// Reads one request whole; its head as text.
pub(super) async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    // Only a question has no body.
    let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}
