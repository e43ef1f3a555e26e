//! Errors of the facade: problem details of RFC 9457.
//!
//! **Invariant:** the same failure has the same reason here and in every other dialect.

use axum::response::Response;
use hookfleet_contract::violation::Violations;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{limits::fields, status::ApiError, transcode::failure};

/// What the types of problems begin with.
const TYPES: &str = "https://hookfleet.dev/problems/";

/// Why a request of the facade failed.
#[derive(Debug)]
pub(super) struct Problem {
    status: Status,
    /// What is wrong, each with its place in the request.
    errors: Vec<(String, String)>,
}

/// A kind of problem: the end of its type, its title, its HTTP status.
type Kind = (&'static str, &'static str, StatusCode);

// === impl Problem ===

impl Problem {
    /// A failed call. `locate` says where in the request a field of the call came from: a pointer into the body (`#`),
    /// a parameter (`?pageSize`), or a header.
    pub(super) fn new(status: Status, locate: impl Fn(&str) -> String) -> Self {
        let violations = status.get_details_bad_request();
        let violations = violations.map_or_else(Vec::new, |it| it.field_violations);
        let violations = violations.into_iter();
        let errors = violations
            .map(|it| (locate(&it.field), it.description))
            .collect();
        Self { status, errors }
    }

    /// What is wrong with parts of the request, by their places.
    pub(super) fn invalid(violations: Violations) -> Self {
        Self::new(ApiError::invalid(violations).into(), str::to_owned)
    }

    /// What is wrong with one part of the request.
    pub(super) fn invalid_place(place: &str, description: &str) -> Self {
        let mut violations = Violations::default();
        violations.push(place, description);
        Self::invalid(violations)
    }

    /// The path takes other methods.
    pub(super) fn method_not_allowed() -> Self {
        let error = ApiError::unimplemented("METHOD_NOT_ALLOWED", "the path takes other methods");
        error.into()
    }

    /// The reason of the failed call; empty if it has none.
    pub(super) fn reason(&self) -> String {
        let info = self.status.get_details_error_info();
        info.map(|it| it.reason).unwrap_or_default()
    }

    /// The code of the failed call.
    pub(super) fn code(&self) -> Code {
        self.status.code()
    }

    pub(super) fn into_response(self) -> Response {
        let (suffix, title, http_status) = self.kind();
        let mut problem = json!({
            "type": format!("{TYPES}{suffix}"),
            "title": title,
            "status": http_status.as_u16(),
            "detail": self.detail(),
        });
        let reason = self.reason();
        if !reason.is_empty() {
            problem["reason"] = reason.into();
        }
        if !self.errors.is_empty() {
            let errors = self.errors.iter();
            problem["errors"] = errors.map(|(place, detail)| error(place, detail)).collect();
        }
        let mut response = Response::new(format!("{problem}\n").into());
        *response.status_mut() = http_status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, content_type);
        fields::advise(headers, &self.status);
        response
    }

    /// What is wrong in the words of this request, or what the service said.
    fn detail(&self) -> String {
        if self.errors.is_empty() {
            return self.status.message().to_owned();
        }
        let errors = self.errors.iter();
        let errors: Vec<_> = errors
            .map(|(place, detail)| format!("{place} {detail}"))
            .collect();
        errors.join("; ")
    }

    fn kind(&self) -> Kind {
        let reason = self.reason();
        let (suffix, title, status) = match (self.code(), reason.as_str()) {
            (Code::InvalidArgument | Code::OutOfRange, _) => {
                ("invalid-request", "The request is not valid", 400)
            }
            (Code::FailedPrecondition, "REQUEST_ID_REUSED") => {
                let title = "The idempotency key was used by another request";
                ("idempotency-mismatch", title, 422)
            }
            (Code::FailedPrecondition, _) => ("wrong-state", "The state of things forbids it", 409),
            (Code::Aborted, "ETAG_MISMATCH") => {
                ("etag-mismatch", "The subscription has changed", 412)
            }
            (Code::Aborted, _) => ("conflict", "Another change was faster", 409),
            (Code::Unauthenticated, _) => ("unauthenticated", "Who are you", 401),
            (Code::PermissionDenied, _) => ("forbidden", "Not permitted", 403),
            (Code::NotFound, _) => ("not-found", "There is no such thing", 404),
            (Code::Unimplemented, "METHOD_NOT_ALLOWED") => {
                ("method-not-allowed", "The path takes other methods", 405)
            }
            (Code::AlreadyExists, _) => ("already-exists", "It exists already", 409),
            (Code::ResourceExhausted, _) => ("quota-exceeded", "Too much, or too many", 429),
            (Code::Unavailable, _) => ("unavailable", "Not now", 503),
            (
                code @ (Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::DataLoss),
                _,
            ) => {
                let status = failure::http_status(code);
                return ("failure", "The server failed", status);
            }
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (suffix, title, status)
    }
}

/// A violation with its place.
fn error(place: &str, detail: &str) -> Value {
    match place.strip_prefix('?') {
        Some(parameter) => json!({"detail": detail, "parameter": parameter}),
        None if place.starts_with('#') => json!({"detail": detail, "pointer": place}),
        None => json!({"detail": detail, "header": place}),
    }
}

impl From<Status> for Problem {
    /// A failure before any call was made: of the body as a whole, or of a header.
    fn from(status: Status) -> Self {
        let locate = |field: &str| match field {
            "" => "#".to_owned(),
            header => header.to_owned(),
        };
        Self::new(status, locate)
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Status::from(error).into()
    }
}
