//! Reading bodies whole, within a bound.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tonic::Status;

use crate::status::ApiError;

/// The most bytes of a body.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Reads a body. One that says its size is read only if it may have it.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is too large or breaks off, and whatever refused it on its way in.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Status> {
    let too_large = || {
        let description = format!("the body may have {MAX_BYTES} bytes");
        Status::from(ApiError::invalid_field("", description))
    };
    let said = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|it| it > MAX_BYTES) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(refusal(&*error)),
    }
}

/// The status somewhere in an error, or that the body broke off.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(status) = error.downcast_ref::<Status>() {
            return status.clone();
        }
        cause = error.source();
    }
    ApiError::invalid_field("", "the body breaks off").into()
}
