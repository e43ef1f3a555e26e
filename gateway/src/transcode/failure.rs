//! Errors in JSON, in the form of AIP-193.

use http::StatusCode;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The body of a failed call.
pub(crate) fn body(status: &Status) -> Value {
    json!({
        "error": {
            "code": http_status(status.code()).as_u16(),
            "message": status.message(),
            "status": name(status.code()),
            "details": details(status),
        }
    })
}

fn details(status: &Status) -> Vec<Value> {
    let details = status.get_error_details();
    let mut list = Vec::new();
    let mut push = |name: &str, mut value: Value| {
        value["@type"] = format!("type.googleapis.com/google.rpc.{name}").into();
        list.push(value);
    };
    if let Some(info) = details.error_info() {
        let value =
            json!({"reason": info.reason, "domain": info.domain, "metadata": info.metadata});
        push("ErrorInfo", value);
    }
    if let Some(bad) = details.bad_request() {
        let violations = bad.field_violations.iter();
        let violations =
            violations.map(|it| json!({"field": it.field, "description": it.description}));
        push(
            "BadRequest",
            json!({"fieldViolations": violations.collect::<Vec<_>>()}),
        );
    }
    if let Some(retry) = details.retry_info() {
        let delay = retry.retry_delay.unwrap_or_default().as_secs_f64();
        push("RetryInfo", json!({"retryDelay": format!("{delay}s")}));
    }
    if let Some(failure) = details.precondition_failure() {
        let violations = failure.violations.iter();
        let violations = violations.map(
            |it| json!({"type": it.r#type, "subject": it.subject, "description": it.description}),
        );
        push(
            "PreconditionFailure",
            json!({"violations": violations.collect::<Vec<_>>()}),
        );
    }
    if let Some(info) = details.resource_info() {
        let value = json!({"resourceType": info.resource_type, "resourceName": info.resource_name, "description": info.description});
        push("ResourceInfo", value);
    }
    list
}

/// The seconds that a caller is asked to wait, rounded up.
pub(crate) fn retry_after(status: &Status) -> Option<u64> {
    let delay = status.get_error_details().retry_info()?.retry_delay?;
    Some(delay.as_secs() + u64::from(delay.subsec_nanos() > 0))
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

fn name(code: Code) -> &'static str {
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
