//! Receivers that say more than they were asked, less than they should, or read nothing. Numbers are
//! those of the behaviour table, reference/trust §1.14.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::{
    response::{MAX_RETRY_AFTER, TransportError, Verdict, classify},
    retry::Policy,
    time::Timestamp,
};
use hookfleet_proto::v1::subscription::SuspendReason;
use tokio::{io::AsyncWriteExt as _, sync::mpsc};
use tracing_subscriber::fmt::MakeWriter;

use super::{
    behaviour::{OK, egress, error, post, request},
    receiver::{Receiver, read_request},
};
use crate::Exchange;

/// When the answers of these tests come.
const NOW: Timestamp = Timestamp(1_767_323_045_000);
/// More than the buffers between two sockets hold.
const N_BODY_BYTES: usize = 24 << 20;

/// R10: it accepts and never reads. Some of the body waits in the sockets' buffers, the rest with us.
#[tokio::test]
async fn who_reads_nothing_is_given_up_after_five_seconds() {
    let deaf = Receiver::start(|stream, _| async move {
        let _held_open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut request = request(&deaf, "/", Duration::from_secs(30));
    request.body = Bytes::from(vec![b'x'; N_BODY_BYTES]);
    let exchange = egress().post(request).await;
    assert_eq!(error(&exchange), TransportError::Timeout);
    assert!(exchange.duration < Duration::from_secs(15), "{exchange:?}");
    let detail = exchange.result.unwrap_err().detail;
    assert!(detail.contains("has read nothing"), "{detail}");
}

/// R6: what a body has beyond 16 KiB stays where it is.
#[tokio::test]
async fn an_endless_body_is_not_read_on() {
    let (sender, mut n_written) = mpsc::unbounded_channel();
    let endless = Receiver::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let chunk = [b"1000\r\n", [b'x'; 0x1000].as_slice(), b"\r\n"].concat();
            let mut n_written = 0;
            while stream.write_all(&chunk).await.is_ok() {
                n_written += chunk.len();
            }
            sender.send(n_written).unwrap();
        }
    })
    .await;
    let exchange = post(&egress(), &endless, "/").await;
    assert!(exchange.result.unwrap().is_success());
    // The rest filled the buffers of the sockets.
    let n_written = n_written.recv().await.unwrap();
    assert!(n_written < N_BODY_BYTES, "{n_written}");
}

/// R18: what a receiver has read before it closed may have been done; the schedule decides.
#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again() {
    let n_requests = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&n_requests);
    let receiver = Receiver::start(move |mut stream, _| {
        let counted = Arc::clone(&counted);
        async move {
            read_request(&mut stream).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK).await.unwrap();
            read_request(&mut stream).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let egress = egress();
    assert!(post(&egress, &receiver, "/").await.result.is_ok());
    let exchange = post(&egress, &receiver, "/").await;
    assert_eq!(error(&exchange), TransportError::Reset);
    assert_eq!(n_requests.load(Ordering::SeqCst), 2);
    assert_eq!(receiver.n_connections(), 1);
}

/// R26, R27, R28: what is asked of us with an answer, from the wire to the verdict.
#[tokio::test]
async fn absurd_pauses_are_a_second_to_a_day() {
    for (status, retry_after) in [
        (429, "99999999999999999999"),
        (429, "-5"),
        (429, "0"),
        (429, ""),
        (429, "garbage"),
        (429, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (503, "99999999999999999999"),
        (503, "0"),
    ] {
        let Verdict::Retry(retry) = meaning(status, retry_after).await else {
            panic!("{status} is retried");
        };
        assert!(retry.pause_endpoint, "{status} {retry_after}");
        let pause = retry.retry_after.unwrap();
        let is_bounded = (Duration::from_secs(1)..=MAX_RETRY_AFTER).contains(&pause);
        assert!(is_bounded, "{status} {retry_after}: {pause:?}");
    }
    assert_eq!(meaning(200, "7").await, Verdict::Delivered);
    let gone = Verdict::Suspend(SuspendReason::EndpointGone);
    assert_eq!(meaning(410, "7").await, gone);
}

/// R31: the second request is the first one, byte for byte, whatever the answer wanted to be remembered.
#[tokio::test]
async fn nothing_of_an_answer_comes_back_with_the_next_request() {
    let (sender, mut heads) = mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            while let Some(head) = read_request(&mut stream).await {
                sender.send(head).unwrap();
                let answer = "HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\netag: \"x\"\r\n\
                     accept-ch: dpr\r\nstrict-transport-security: max-age=9\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let egress = egress();
    for _ in 0..2 {
        assert!(post(&egress, &receiver, "/").await.result.is_ok());
    }
    assert_eq!(heads.recv().await, heads.recv().await);
    assert_eq!(receiver.n_connections(), 1);
}

/// R33.
#[tokio::test]
async fn bytes_that_are_no_text_are_kept_as_far_as_they_go() {
    let mut answer = b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: /".to_vec();
    answer.extend(0x80..=0xFF);
    answer.extend(b"\r\nretry-after: \x80\r\nwebhook-delivery: \xFFdisable\r\n\r\n");
    let receiver = Receiver::answering(answer, false).await;
    let response = post(&egress(), &receiver, "/").await.result.unwrap();
    let location = response.location.clone().unwrap();
    assert!(location.starts_with("/\u{FFFD}"), "{location}");
    let answer = response.answer(NOW);
    assert_eq!((answer.retry_after, answer.control), (None, None));

    let nul = "HTTP/1.1 302 Found\r\nlocation: a\0b\r\ncontent-length: 0\r\n\r\n";
    let receiver = Receiver::answering(nul, true).await;
    let exchange = post(&egress(), &receiver, "/").await;
    assert_eq!(error(&exchange), TransportError::Protocol);
}

/// R34: what a receiver writes does not reach a terminal through the log, whatever its level.
#[tokio::test]
async fn escapes_do_not_reach_the_log() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is read");
    let kept = Receiver::answering(
        "HTTP/1.1 500 X\r\ncontent-length: 7\r\n\r\n\x1b[2Jhi!",
        true,
    )
    .await;
    let response = post(&egress(), &kept, "/").await.result.unwrap();
    assert_eq!(response.body, "\x1b[2Jhi!");
    for answer in [
        "HTTP/1.1 500 \x1b[2J\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 X\r\n\x1b[2J: x\r\n\r\n",
        "\x1b[2J",
    ] {
        let receiver = Receiver::answering(answer, true).await;
        let failure = post(&egress(), &receiver, "/").await.result.unwrap_err();
        assert!(!failure.detail.contains('\x1b'), "{failure:?}");
        tracing::debug!(detail = failure.detail, "attempt failed");
    }
    let log = log.text();
    assert!(log.contains("the log is read") && log.contains("attempt failed"));
    assert!(!log.contains('\x1b'), "{log}");
}

/// R35, R36: what is left over is nobody's answer.
#[tokio::test]
async fn leftovers_are_not_the_next_answer() {
    const SECOND: &str = "HTTP/1.1 500 Desync\r\ncontent-length: 0\r\n\r\n";
    for (status, head) in [
        (200, "200 OK\r\ncontent-length: 0\r\n"),
        (200, "200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (200, "200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"),
        (204, "204 No Content\r\n"),
        (204, "204 No Content\r\ncontent-length: 5\r\n\r\nabcde"),
        (205, "205 Reset Content\r\ncontent-length: 0\r\n"),
        (304, "304 Not Modified\r\ncontent-length: 5\r\n\r\nabcde"),
    ] {
        let has_body = head.contains("\r\n\r\n") && !head.contains("chunked");
        let end = if has_body { "" } else { "\r\n" };
        let answer = format!("HTTP/1.1 {head}{end}{SECOND}");
        let receiver = Receiver::start(move |mut stream, index| {
            let answer = answer.clone();
            async move {
                while read_request(&mut stream).await.is_some() {
                    let answer = if index == 0 { answer.as_bytes() } else { OK };
                    stream.write_all(answer).await.unwrap();
                }
            }
        })
        .await;
        let egress = egress();
        let first = post(&egress, &receiver, "/").await.result.unwrap();
        assert_eq!(first.status, status, "{head}");
        assert_eq!(first.is_success(), status < 300, "{head}");
        let second = post(&egress, &receiver, "/").await.result.unwrap();
        assert_eq!(second.status, 200, "{head}");
        assert_eq!(receiver.n_connections(), 2, "{head}");
    }
}

async fn meaning(status: u16, retry_after: &str) -> Verdict {
    let answer =
        format!("HTTP/1.1 {status} X\r\nretry-after: {retry_after}\r\ncontent-length: 0\r\n\r\n");
    let receiver = Receiver::answering(answer, true).await;
    let exchange: Exchange = post(&egress(), &receiver, "/").await;
    let answer = exchange.result.unwrap().answer(NOW);
    classify(&Ok(answer), &Policy::default())
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
