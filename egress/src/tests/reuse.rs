//! What happens to connections between requests, and when requests end early.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    behaviour::{OK, egress, post, request},
    receiver::Receiver,
};

/// More than the buffers between two sockets hold.
const N_BODY_BYTES: usize = 24 << 20;

const N_SENDERS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_no_more_connections_are_made_than_requests_are_in_flight() {
    let receiver = Arc::new(Receiver::answering(OK, false).await);
    let egress = egress();
    let mut senders = JoinSet::new();
    for _ in 0..N_SENDERS {
        let (egress, receiver) = (egress.clone(), Arc::clone(&receiver));
        senders.spawn(async move {
            for _ in 0..100 {
                let exchange = post(&egress, &receiver, "/").await;
                assert!(exchange.result.is_ok(), "{exchange:?}");
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    assert!(
        receiver.n_connections() <= N_SENDERS,
        "{}",
        receiver.n_connections()
    );
}

#[tokio::test]
async fn an_abandoned_request_is_not_sent_to_its_end() {
    let mut receiver = Reluctant::start(b"").await;
    let egress = egress();
    let mut request = request(&receiver.receiver, "/", Duration::from_secs(60));
    request.body = Bytes::from(vec![b'x'; N_BODY_BYTES]);
    tokio::select! {
        exchange = egress.post(request) => panic!("{exchange:?}"),
        () = receiver.is_called() => {}
    }
    let n_read = receiver.read_on().await;
    assert!(n_read < N_BODY_BYTES, "{n_read}");
}

/// R37.
#[tokio::test]
async fn a_refusal_before_the_request_is_read_counts_and_stops_it() {
    let refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
    let mut receiver = Reluctant::start(refusal).await;
    let egress = egress();
    let mut request = request(&receiver.receiver, "/", Duration::from_secs(5));
    request.body = Bytes::from(vec![b'x'; N_BODY_BYTES]);
    let exchange = egress.post(request).await;
    assert_eq!(exchange.result.unwrap().status, 413);
    let n_read = receiver.read_on().await;
    assert!(n_read < N_BODY_BYTES, "{n_read}");
}

/// Who answers first and reads then has taken the event, and gets all of it.
#[tokio::test]
async fn a_success_before_the_request_is_read_does_not_cut_it_off() {
    let mut receiver = Reluctant::start(OK).await;
    let egress = egress();
    let mut request = request(&receiver.receiver, "/", Duration::from_secs(5));
    request.body = Bytes::from(vec![b'x'; N_BODY_BYTES]);
    let posting = tokio::spawn(async move { egress.post(request).await });
    receiver.is_called().await;
    let n_read = receiver.read_on().await;
    assert!(n_read > N_BODY_BYTES, "{n_read}");
    assert!(posting.await.unwrap().result.unwrap().is_success());
}

/// Reads the beginning of a request, answers, and reads on only when it is told.
struct Reluctant {
    receiver: Receiver,
    called: mpsc::UnboundedReceiver<()>,
    reads_on: watch::Sender<bool>,
    n_read: mpsc::UnboundedReceiver<usize>,
}

impl Reluctant {
    async fn start(answer: &'static [u8]) -> Self {
        let (calls, called) = mpsc::unbounded_channel();
        let (reads_on, told) = watch::channel(false);
        let (counts, n_read) = mpsc::unbounded_channel();
        let receiver = Receiver::start(move |mut stream, _| {
            let (calls, mut told, counts) = (calls.clone(), told.clone(), counts.clone());
            async move {
                let mut buffer = vec![0; 1 << 16];
                let mut n_read = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer).await.unwrap();
                calls.send(()).unwrap();
                told.wait_for(|it| *it).await.unwrap();
                while let Ok(Ok(n @ 1..)) =
                    timeout(Duration::from_secs(5), stream.read(&mut buffer)).await
                {
                    n_read += n;
                }
                counts.send(n_read).unwrap();
            }
        })
        .await;
        Self {
            receiver,
            called,
            reads_on,
            n_read,
        }
    }

    async fn is_called(&mut self) {
        self.called.recv().await.unwrap();
    }

    /// How much comes in all until the connection ends.
    async fn read_on(&mut self) -> usize {
        self.reads_on.send(true).unwrap();
        self.n_read.recv().await.unwrap()
    }
}
