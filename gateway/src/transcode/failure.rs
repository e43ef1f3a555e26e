//! Errors in JSON, in the form of AIP-193.

use http::StatusCode;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::descriptors;

/// The body of a failed call.
pub(crate) fn body(status: &Status) -> Value {
    json!({
        "error": {
            "code": http_status(status.code()).as_u16(),
            "message": status.message(),
            "status": name(status.code()),
            "details": details(status).filter(Value::is_array).unwrap_or_else(|| json!([])),
        }
    })
}

/// The typed details, which tonic keeps as an encoded `google.rpc.Status`.
fn details(status: &Status) -> Option<Value> {
    let descriptor = descriptors::pool().get_message_by_name("google.rpc.Status")?;
    let message = DynamicMessage::decode(descriptor, status.details()).ok()?;
    let mut json = serde_json::to_value(&message).ok()?;
    Some(json["details"].take())
}

/// The HTTP status of a gRPC code, by `google.rpc.Code`.
pub(crate) fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The name of a gRPC code.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
