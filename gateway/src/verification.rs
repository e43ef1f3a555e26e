//! Where receivers confirm that they want callbacks: `/v1/verifications/{key}`, by GET or POST, from anywhere. What the key
//! confirms is not its business.
//!
//! **Invariant:** nothing of a body is read, and who has no key learns nothing.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use http::{HeaderValue, Method, StatusCode, request::Parts};
use tonic::Code;

use crate::{
    audit::{self, Audit},
    status::ApiError,
};

/// Learns of confirmations.
pub trait Confirm: Clone + Send + Sync + 'static {
    /// Whoever has the key confirms, and may say `WebHook-Allowed-Rate`. The subscription's name, or `NOT_FOUND` if the key
    /// confirms nothing (any more).
    fn confirm(
        &self,
        key: &str,
        allowed_rate: Option<&HeaderValue>,
    ) -> impl Future<Output = Result<String, ApiError>> + Send;
}

/// Answers confirmations, once it is known where they are written down.
pub(crate) fn router<C: Confirm>(confirm: C) -> Router<Audit> {
    let answer = move |State(audit): State<Audit>, Path(key): Path<String>, head: Parts| {
        let confirm = confirm.clone();
        async move { answer(&confirm, &audit, &key, &head).await }
    };
    let method = get(answer.clone()).post(answer);
    Router::new().route("/v1/verifications/{key}", method)
}

async fn answer<C: Confirm>(
    confirm: &C,
    audit: &Audit,
    key: &str,
    head: &Parts,
) -> (StatusCode, &'static str) {
    // Axum takes a HEAD for a GET, but whoever only looks has not confirmed.
    if head.method == Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, "");
    }
    if !audit.is_writable() {
        return (StatusCode::SERVICE_UNAVAILABLE, "try again later\n");
    }
    let allowed_rate = head.headers.get("webhook-allowed-rate");
    match confirm.confirm(key, allowed_rate).await {
        Ok(subscription) => {
            audit::layer::confirmed(audit, &head.extensions, subscription).await;
            (StatusCode::OK, "confirmed\n")
        }
        Err(error) if error.code() == Code::NotFound => {
            (StatusCode::NOT_FOUND, "unknown, used or expired\n")
        }
        Err(error) if error.code() == Code::InvalidArgument => (
            StatusCode::BAD_REQUEST,
            "WebHook-Allowed-Rate must be a positive integer or *\n",
        ),
        Err(error) => {
            let reason = error.reason();
            tracing::warn!(reason, "cannot take a confirmation");
            (StatusCode::SERVICE_UNAVAILABLE, "try again later\n")
        }
    }
}
