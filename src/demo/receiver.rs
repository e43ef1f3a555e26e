//! The demo's receivers: small HTTP servers that check signatures, each with its own temper.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use hookfleet_contract::signature::Secret;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// How a receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    /// Takes everything.
    Good,
    /// Fails the first attempt of every third event.
    Moody,
    /// Fails always.
    Failing,
}

/// One attempt, as a receiver saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) receiver: String,
    pub(super) event_type: String,
    pub(super) attempt: u32,
    pub(super) status: StatusCode,
    pub(super) is_signed: bool,
}

/// The receivers, all on one port.
#[derive(Clone, Debug)]
pub(super) struct Receivers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    receivers: Mutex<HashMap<String, (Temper, Option<Secret>)>>,
    seen: mpsc::UnboundedSender<Seen>,
}

// === impl Receivers ===

impl Receivers {
    /// Starts to listen; every attempt is told to `seen`.
    pub(super) async fn start(
        seen: mpsc::UnboundedSender<Seen>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let receivers = Self(Arc::new(Shared {
            receivers: Mutex::default(),
            seen,
        }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/{receiver}", post(receive))
            .with_state(receivers.clone());
        let serve =
            axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        tokio::spawn(async move { serve.await });
        Ok((receivers, address))
    }

    /// A receiver behaves so from now on.
    pub(super) fn add(&self, name: &str, temper: Temper) {
        self.lock().insert(name.to_owned(), (temper, None));
    }

    /// The receiver was told its signing secret.
    pub(super) fn trust(&self, name: &str, secret: Secret) {
        if let Some((_, known)) = self.lock().get_mut(name) {
            *known = Some(secret);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Temper, Option<Secret>)>> {
        let receivers = self.0.receivers.lock();
        receivers.unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(
    State(receivers): State<Receivers>,
    Path(receiver): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let Some((temper, is_signed)) = receivers.lock().get(&receiver).map(|(temper, secret)| {
        (
            *temper,
            secret
                .as_ref()
                .is_some_and(|it| verify(it, &headers, &body)),
        )
    }) else {
        return StatusCode::NOT_FOUND;
    };
    let attempt = text(&headers, "hookfleet-attempt").parse().unwrap_or(0);
    let id = text(&headers, "webhook-id");
    let is_moody =
        temper == Temper::Moody && attempt == 1 && id.bytes().map(u32::from).sum::<u32>() % 3 == 0;
    let status = match temper {
        _ if !is_signed => StatusCode::UNAUTHORIZED,
        Temper::Failing => StatusCode::INTERNAL_SERVER_ERROR,
        Temper::Moody if is_moody => StatusCode::SERVICE_UNAVAILABLE,
        Temper::Good | Temper::Moody => StatusCode::NO_CONTENT,
    };
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let event_type = event["type"].as_str().unwrap_or("?").to_owned();
    let seen = Seen {
        receiver,
        event_type,
        attempt,
        status,
        is_signed,
    };
    // The demo may have seen enough.
    drop(receivers.0.seen.send(seen));
    status
}

/// What any receiver does: recompute the signature over id, timestamp and body, and compare.
fn verify(secret: &Secret, headers: &HeaderMap, body: &[u8]) -> bool {
    let (id, timestamp) = (
        text(headers, "webhook-id"),
        text(headers, "webhook-timestamp"),
    );
    text(headers, "webhook-signature")
        .split(' ')
        .any(|entry| secret.verify(entry, id, timestamp, body))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|it| it.to_str().ok())
        .unwrap_or("")
}
