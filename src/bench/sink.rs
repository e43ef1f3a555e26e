//! A receiver as fast as we can make one: it answers, counts, and measures how long ago the event was
//! sent. Its own process, so that what it costs is nobody else's.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::{
    clock,
    report::{self, Latency},
};
use crate::output;

/// What stands before the time at which an event was sent, in its data.
pub(super) const SENT: &str = "\"sent\":";
/// A slow receiver takes so long.
const SLOW: Duration = Duration::from_secs(2);
/// A receiver that hangs is hung up on long before this.
const HANG: Duration = Duration::from_secs(600);

/// What it has seen.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Seen {
    /// Requests that were answered with a success.
    pub(super) n_received: u64,
    /// From the intended time of sending to the receipt.
    pub(super) latency: Latency,
}

/// One request as it came, so that it can be made again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Sample {
    /// Its headers but those of HTTP itself.
    pub(super) headers: BTreeMap<String, String>,
    /// Its body.
    pub(super) body: String,
}

#[derive(Debug)]
struct Sink {
    n_received: AtomicU64,
    latency: Mutex<Histogram<u64>>,
    sample: Mutex<Option<Sample>>,
}

/// Prints where it listens and answers until the process is killed.
pub(super) async fn run() -> anyhow::Result<()> {
    // Each address of 127.0.0.0/8 is another endpoint.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let port = listener.local_addr()?.port();
    output::line(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let sink = Arc::new(Sink {
        n_received: AtomicU64::new(0),
        latency: Mutex::new(report::histogram()?),
        sample: Mutex::new(None),
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        stream.set_nodelay(true)?;
        let sink = Arc::clone(&sink);
        tokio::spawn(async move {
            let answer = service_fn(|request| sink.answer(request));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).pipeline_flush(true);
            let served = server.serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

impl Sink {
    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return Ok(Response::default());
        };
        let body = body.to_bytes();
        match head.uri.path() {
            "/seen" => return Ok(json(&self.seen())),
            "/reset" => {
                self.reset();
                return Ok(Response::default());
            }
            "/sample" => return Ok(json(&*lock(&self.sample))),
            path if path.starts_with("/slow") => tokio::time::sleep(SLOW).await,
            path if path.starts_with("/hang") => tokio::time::sleep(HANG).await,
            path if path.starts_with("/bare") => {
                self.n_received.fetch_add(1, Ordering::Relaxed);
                return Ok(Response::default());
            }
            _ => {
                self.receive(&body);
                self.keep_sample(&head.headers, &body);
            }
        }
        Ok(Response::default())
    }

    fn receive(&self, body: &[u8]) {
        self.n_received.fetch_add(1, Ordering::Relaxed);
        if let Some(sent) = sent(body) {
            let micros = clock::micros().saturating_sub(sent);
            lock(&self.latency).saturating_record(micros);
        }
    }

    fn keep_sample(&self, headers: &hyper::HeaderMap, body: &Bytes) {
        let mut sample = lock(&self.sample);
        if sample.is_some() {
            return;
        }
        let text = |value: &hyper::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers = headers
            .iter()
            .filter(|(name, _)| !["host", "content-length", "connection"].contains(&name.as_str()));
        *sample = Some(Sample {
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        });
    }

    fn seen(&self) -> Seen {
        Seen {
            n_received: self.n_received.load(Ordering::Relaxed),
            latency: Latency::of(&lock(&self.latency)),
        }
    }

    fn reset(&self) {
        self.n_received.store(0, Ordering::Relaxed);
        lock(&self.latency).reset();
        *lock(&self.sample) = None;
    }
}

/// When an event says that it was sent.
fn sent(body: &[u8]) -> Option<u64> {
    let at = body
        .windows(SENT.len())
        .position(|it| it == SENT.as_bytes())?;
    let digits = body.get(at + SENT.len()..)?;
    let end = digits.iter().position(|it| !it.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    Response::new(Full::new(body.into()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::sent;

    #[test]
    fn the_time_of_sending_is_found_in_the_body() {
        assert_eq!(sent(br#"{"data":{"sent":1234,"x":"y"}}"#), Some(1234));
        assert_eq!(sent(br#"{"data":{"sent":}}"#), None);
        assert_eq!(sent(b"{}"), None);
    }
}
