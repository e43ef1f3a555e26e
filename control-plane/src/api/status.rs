//! The error table: what each failure below means to a caller. The message tells no more than a caller may know; the
//! cause is logged where it is ours to mend.

use std::{error::Error as _, time::Duration};

use hookfleet_gateway::status::ApiError;

use crate::{store, stored};

/// When to come back to a store that is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a failure of the store means to a caller.
#[must_use]
pub(crate) fn of_store(error: store::Error) -> ApiError {
    use store::Error;
    match error {
        Error::Unavailable { operation, source } => {
            let cause = source.map(|it| it.to_string());
            tracing::warn!(operation, cause, "the store is unavailable");
            ApiError::unavailable("STORE_UNAVAILABLE", "the store is unavailable", RETRY_AFTER)
        }
        // Nothing was changed, and the next try takes another lease.
        Error::LeaseLost(lease) => {
            tracing::info!(%lease, "a lease was lost");
            let message = "the store has lost a lease";
            ApiError::unavailable("STORE_UNAVAILABLE", message, RETRY_AFTER)
        }
        Error::Unknown { .. } => outcome_unknown(),
        Error::Compacted { .. } | Error::FutureRevision { .. } => ApiError::invalid_field(
            "page_token",
            "is of a state of the store that is gone; begin with the first page",
        )
        .because("PAGE_TOKEN_EXPIRED"),
        Error::TooLarge { bytes, .. } => {
            let message = format!("the resource has {bytes} bytes, more than the store takes");
            ApiError::precondition("RESOURCE_TOO_LARGE", message).with("bytes", bytes.to_string())
        }
        Error::Full { .. } => {
            tracing::error!("the store is out of space");
            ApiError::exhausted("STORE_FULL", "the store is out of space", RETRY_AFTER)
        }
        Error::DuplicateKey(_)
        | Error::Refused { .. }
        | Error::Foreign { .. }
        | Error::Locked(_)
        | Error::Corrupt(_)
        | Error::Fatal { .. } => {
            let cause = error.source().map(ToString::to_string);
            tracing::error!(%error, cause, "the store failed");
            ApiError::internal("the store failed")
        }
    }
}

/// It may have happened or not: the caller must look.
#[must_use]
pub(crate) fn outcome_unknown() -> ApiError {
    let message = "the answer of the store was lost, the change may have been made; read again";
    ApiError::aborted("OUTCOME_UNKNOWN", message)
}

/// Others kept changing the same thing.
#[must_use]
pub(crate) fn contended(name: &str) -> ApiError {
    let message = format!("{name} is being changed by others");
    ApiError::aborted("CONCURRENT_CHANGES", message).with("resource", name)
}

/// What is in the store cannot be read.
#[must_use]
pub(crate) fn unreadable(error: stored::Unreadable) -> ApiError {
    tracing::error!(%error, "the store holds something unreadable");
    ApiError::internal("the resource cannot be read")
}

/// What is in the store is not a message.
#[must_use]
pub(crate) fn undecodable(key: &str, error: &prost::DecodeError) -> ApiError {
    tracing::error!(key, %error, "the store holds something unreadable");
    ApiError::internal("the resource cannot be read")
}
