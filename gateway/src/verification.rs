//! Where receivers confirm that they want callbacks: `/v1/verifications/{key}`, by GET or POST, from anywhere. What the key
//! confirms is not its business.
//!
//! **Invariant:** nothing of a body is read, and who has no key learns nothing.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tonic::Code;

use crate::status::ApiError;

/// Learns of confirmations.
pub trait Confirm: Clone + Send + Sync + 'static {
    /// Whoever has the key confirms, and may say `WebHook-Allowed-Rate`. `NOT_FOUND` if the key confirms nothing (any more).
    fn confirm(
        &self,
        key: &str,
        allowed_rate: Option<&HeaderValue>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// Answers confirmations.
pub(crate) fn router<C: Confirm>(confirm: C) -> Router {
    let method = get(answer::<C>).post(answer::<C>);
    Router::new()
        .route("/v1/verifications/{key}", method)
        .with_state(confirm)
}

async fn answer<C: Confirm>(
    State(confirm): State<C>,
    Path(key): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> (StatusCode, &'static str) {
    // Axum takes a HEAD for a GET, but whoever only looks has not confirmed.
    if method == Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let allowed_rate = headers.get("webhook-allowed-rate");
    match confirm.confirm(&key, allowed_rate).await {
        Ok(()) => (StatusCode::OK, "confirmed\n"),
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
