//! The one error of every RPC and how it looks on the wire: a code, a sentence, and typed details.
//!
//! **Invariant:** every error carries exactly one `ErrorInfo`; its reason and domain are the stable
//! contract, the message is not.

use std::{collections::HashMap, time::Duration};

use hookfleet_contract::violation::Violations;
use hookfleet_proto::rpc;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "hookfleet.dev";

/// What the metadata of an `ErrorInfo` says of a quota that is used up: its name, and how many units it has in how many
/// seconds.
pub(crate) mod quota {
    pub(crate) const NAME: &str = "quota";
    pub(crate) const UNITS: &str = "units";
    pub(crate) const WINDOW: &str = "window_seconds";
}

/// Why a call fails.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    details: Box<ErrorDetails>,
}

// === impl ApiError ===

impl ApiError {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            details: Box::new(ErrorDetails::new()),
        }
    }

    /// Fields are not as they must be: `INVALID_ARGUMENT` and a `BadRequest` that names each.
    #[must_use]
    pub fn invalid(violations: Violations) -> Self {
        let message = format!("the request is not valid: {violations}");
        let mut error = Self::new(Code::InvalidArgument, "INVALID_REQUEST", message);
        for violation in violations.0 {
            error
                .details
                .add_bad_request_violation(violation.field, violation.description);
        }
        error
    }

    /// One field is not as it must be.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.push(field, description);
        Self::invalid(violations)
    }

    /// There is no such resource: `NOT_FOUND`.
    #[must_use]
    pub fn not_found(name: impl Into<String>) -> Self {
        let name = name.into();
        let message = format!("{name} does not exist");
        let mut error = Self::new(Code::NotFound, "RESOURCE_NOT_FOUND", message);
        error
            .details
            .set_resource_info("", name.as_str(), "", "does not exist");
        error.with("resource", name)
    }

    /// There is such a resource already: `ALREADY_EXISTS`.
    #[must_use]
    pub fn already_exists(name: impl Into<String>) -> Self {
        let name = name.into();
        let message = format!("{name} exists already");
        Self::new(Code::AlreadyExists, "RESOURCE_EXISTS", message).with("resource", name)
    }

    /// The resource has changed since the caller read it: `ABORTED`.
    #[must_use]
    pub fn etag_mismatch(name: impl Into<String>) -> Self {
        let name = name.into();
        let message = format!("{name} has changed; read it again");
        Self::new(Code::Aborted, "ETAG_MISMATCH", message).with("resource", name)
    }

    /// A race was lost: `ABORTED`; the whole may be tried again.
    #[must_use]
    pub fn aborted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Aborted, reason, message)
    }

    /// The state of things forbids it: `FAILED_PRECONDITION`.
    #[must_use]
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut error = Self::new(Code::FailedPrecondition, reason, message.as_str());
        error
            .details
            .add_precondition_failure_violation(reason, "", message);
        error
    }

    /// There is no room now: `RESOURCE_EXHAUSTED`, and when to come back.
    #[must_use]
    pub fn exhausted(
        reason: &'static str,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        let mut error = Self::new(Code::ResourceExhausted, reason, message);
        error.details.set_retry_info(Some(retry_after));
        error
    }

    /// The quota of `subject` is used up, so many units in so many seconds: `RESOURCE_EXHAUSTED`, a `QuotaFailure`, and
    /// when to come back.
    #[must_use]
    pub fn over_quota(
        name: &str,
        subject: &str,
        (units, window_seconds): (u64, u64),
        retry_after: Duration,
    ) -> Self {
        let description = format!("the quota of {name} is {units} in {window_seconds} s");
        let mut error = Self::exhausted("RATE_LIMITED", &description, retry_after);
        error
            .details
            .add_quota_failure_violation(subject, description);
        error
            .with(quota::NAME, name)
            .with(quota::UNITS, units.to_string())
            .with(quota::WINDOW, window_seconds.to_string())
    }

    /// Not now, nothing has happened: `UNAVAILABLE`, and when to come back.
    #[must_use]
    pub fn unavailable(
        reason: &'static str,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        let mut error = Self::new(Code::Unavailable, reason, message);
        error.details.set_retry_info(Some(retry_after));
        error
    }

    /// The caller may not: `PERMISSION_DENIED`, whether the thing exists or not.
    #[must_use]
    pub fn permission_denied() -> Self {
        Self::new(Code::PermissionDenied, "PERMISSION_DENIED", "not permitted")
    }

    /// There is no such call: `UNIMPLEMENTED`.
    #[must_use]
    pub fn unimplemented(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, reason, message)
    }

    /// Nobody knows who calls: `UNAUTHENTICATED`.
    #[must_use]
    pub fn unauthenticated(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, reason, message)
    }

    /// What was kept cannot be read any more: `DATA_LOSS`. Asking again is of no use.
    #[must_use]
    pub fn data_loss(message: impl Into<String>) -> Self {
        Self::new(Code::DataLoss, "DATA_LOSS", message)
    }

    /// A fault of ours: `INTERNAL`. The message must not tell more than the caller may know.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// Says more exactly why, to those that read reasons.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// Adds a variable part of the message to the `ErrorInfo`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reason of the `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl From<ApiError> for Status {
    fn from(mut error: ApiError) -> Self {
        error
            .details
            .set_error_info(error.reason, DOMAIN, error.metadata);
        Self::with_error_details(error.code, error.message, *error.details)
    }
}

impl From<ApiError> for rpc::Status {
    fn from(error: ApiError) -> Self {
        rpc_status(&error.into())
    }
}

/// The reason that another process of ours gives in an error.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    details.error_info().map(|it| it.reason.clone())
}

/// A status as a message.
#[must_use]
pub fn rpc_status(status: &Status) -> rpc::Status {
    // tonic writes the details as an encoded `google.rpc.Status`, which this is.
    let details = rpc::Status::decode(status.details()).ok();
    let details = details.filter(|it| it.code == i32::from(status.code()));
    details.unwrap_or_else(|| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
