//! Where calls are noted: around every gRPC method, in which all dialects end, and where somebody is not let in.
//!
//! **Invariant:** a change that was made is written down whether or not its caller waits for the answer, and before that
//! is sent. While nothing can be written, nothing is changed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    Audit,
    record::{Decision, Record},
    subject::{self, Subject, Subjects},
};
use crate::{
    auth::{
        layer,
        principal::{Principal, Reach},
    },
    body,
    status::ApiError,
    transcode::failure,
};

const REQUEST_ID: &str = "x-request-id";
/// Where receivers confirm, without the key.
const CONFIRMATIONS: &str = "/v1/verifications/-";
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What notes calls; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Notary {
    pub(crate) audit: Audit,
    pub(crate) subjects: Arc<Subjects>,
}

/// The address of whoever made the connection. Goes with the request, in its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) SocketAddr);

/// What a request says beside its message, whatever dialect it came in.
#[derive(Clone, Debug, Default)]
struct Origin {
    source: String,
    request_id: String,
}

/// Keeps what is known of a request where dialects leave it alone.
pub(crate) async fn origin(mut request: Request, next: Next) -> Response {
    let origin = Origin::of(&request);
    request.extensions_mut().insert(Arc::new(origin));
    next.run(request).await
}

/// Notes that somebody was not let in, who says to have a certain key.
pub(crate) fn not_let_in(
    audit: &Audit,
    request: &Request,
    claimed: Option<String>,
    error: &ApiError,
) {
    if !audit.is_on() || error.code() != Code::Unauthenticated {
        return;
    }
    // The key in this path is a secret, wherever it comes in.
    let path = match request.uri().path() {
        it if it.contains("verifications/") => CONFIRMATIONS,
        it => it,
    };
    let method = format!("{} {path}", request.method());
    let status = Status::from(error.clone());
    let mut record = record(audit, &origin_of(request.extensions()), method, &status);
    record.claimed = claimed.unwrap_or_default();
    audit.note(record);
}

/// Notes that a receiver has confirmed a subscription: whoever has the key.
pub(crate) async fn confirmed(audit: &Audit, extensions: &http::Extensions, subscription: String) {
    if !audit.is_on() {
        return;
    }
    let (origin, status) = (origin_of(extensions), Status::new(Code::Ok, ""));
    let resources = vec![subscription];
    let record = Record {
        tenant: subject::tenant(&resources).unwrap_or_default(),
        resources,
        ..record(audit, &origin, CONFIRMATIONS.to_owned(), &status)
    };
    audit.commit(record).await;
}

/// Notes a call of a gRPC method.
pub(crate) async fn note(
    State(Notary { audit, subjects }): State<Notary>,
    request: Request,
    next: Next,
) -> Response {
    if !audit.is_on() {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let origin = origin_of(request.extensions());
    let subject = subjects.get(&path).cloned();
    let call = Call {
        audit,
        origin,
        path,
        caller: layer::caller_of_task(),
    };
    match subject {
        Some(subject) if subject.is_recorded => call.record(subject, request, next).await,
        subject => call.watch(subject, request, next).await,
    }
}

/// A call that is noted.
struct Call {
    audit: Audit,
    origin: Arc<Origin>,
    path: String,
    caller: Option<Principal>,
}

// === impl Call ===

impl Call {
    /// A call that is written down only if it is refused.
    async fn watch(self, subject: Option<Subject>, request: Request, next: Next) -> Response {
        let (frame, request) = match &subject {
            Some(subject) if subject.is_short => match read(request).await {
                Ok((head, frame)) => {
                    let body = Body::from(frame.clone());
                    (frame, Request::from_parts(head, body))
                }
                Err(refused) => return refused,
            },
            Some(_) | None => (Bytes::new(), request),
        };
        let response = next.run(request).await;
        let is_stream = subject.as_ref().is_some_and(|it| it.is_stream);
        let refused = move |status: &Status| {
            if is_denied(status.code()) {
                let named = subject.as_ref().map(|it| it.of_request(&frame));
                let record = self.made(status, named.unwrap_or_default());
                self.audit.note(record);
            }
        };
        match Status::from_header_map(response.headers()) {
            Some(status) => refused(&status),
            None if is_stream => {
                return response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let trailers = frame.trailers_ref().and_then(Status::from_header_map);
                        if let Some(status) = trailers {
                            refused(&status);
                        }
                        frame
                    }))
                });
            }
            None => {}
        }
        response
    }

    /// A call that is written down in any case.
    async fn record(self, subject: Subject, request: Request, next: Next) -> Response {
        if !self.audit.is_writable() {
            let message = "the audit log cannot be written, so nothing is changed";
            let error = ApiError::unavailable("AUDIT_UNAVAILABLE", message, RETRY_AFTER);
            let status = Status::from(error);
            // This is also the attempt to write again.
            self.audit.commit(self.made(&status, Vec::new())).await;
            return status.into_http();
        }
        let (head, frame) = match read(request).await {
            Ok(read) => read,
            Err(refused) => return refused,
        };
        // A caller that goes away does not stop what has begun.
        let caller = self.caller.clone();
        let call = layer::as_caller(caller, self.perform(subject, head, frame, next));
        let answered = tokio::spawn(call).await;
        answered.unwrap_or_else(|error| {
            let error = ApiError::internal(format!("the call has not ended: {error}"));
            Status::from(error).into_http()
        })
    }

    async fn perform(self, subject: Subject, head: Parts, frame: Bytes, next: Next) -> Response {
        let mut resources = subject.of_request(&frame);
        let request = Request::from_parts(head, Body::from(frame));
        let (head, body) = next.run(request).await.into_parts();
        let collected = match body.collect().await {
            Ok(collected) => collected,
            Err(error) => {
                let error = ApiError::internal(format!("the answer breaks off: {error}"));
                return Status::from(error).into_http();
            }
        };
        let trailers = collected.trailers().cloned();
        let answer = collected.to_bytes();
        let status = status(&head.headers, trailers.as_ref());
        if status.code() == Code::Ok
            && let Some(name) = subject.of_answer(&answer)
            && !resources.contains(&name)
        {
            resources.push(name);
        }
        let record = self.made(&status, resources);
        match has_done_nothing(status.code()) {
            true => self.audit.note(record),
            false => self.audit.commit(record).await,
        }
        Response::from_parts(head, replayed(answer, trailers))
    }

    fn made(&self, status: &Status, resources: Vec<String>) -> Record {
        let record = record(&self.audit, &self.origin, self.path.clone(), status);
        let of_caller = self.caller.as_ref().and_then(|it| match it.reach() {
            Reach::Tenant(tenant) => Some(tenant.to_string()),
            Reach::Fleet => None,
        });
        let anyone = Principal::anyone();
        let caller = self.caller.as_ref().unwrap_or(&anyone);
        Record {
            actor: caller.subject().to_owned(),
            tenant: subject::tenant(&resources)
                .or(of_caller)
                .unwrap_or_default(),
            resources,
            ..record
        }
    }
}

/// A request whose body is read whole, or the answer to one that cannot be.
async fn read(request: Request) -> Result<(Parts, Bytes), Response> {
    let (head, body) = request.into_parts();
    match body::read(&head.headers, body).await {
        Ok(frame) => Ok((head, frame)),
        Err(status) => Err(status.into_http()),
    }
}

/// A body that was read, once more. One of nothing ends with its head, as gRPC wants it; the size of any other is not said,
/// because gRPC-Web puts the trailers behind it.
fn replayed(data: Bytes, trailers: Option<HeaderMap>) -> Body {
    if data.is_empty() && trailers.is_none() {
        return Body::empty();
    }
    let frames = [Some(Frame::data(data)), trailers.map(Frame::trailers)];
    let frames = frames.into_iter().flatten().map(Ok::<_, Infallible>);
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

// === impl Origin ===

impl Origin {
    fn of(request: &Request) -> Self {
        let source = request.extensions().get::<Caller>();
        let request_id = request.headers().get(REQUEST_ID);
        let request_id = request_id.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Self {
            source: source.map_or_else(String::new, |it| it.0.to_string()),
            request_id: request_id.unwrap_or_default(),
        }
    }
}

fn origin_of(extensions: &http::Extensions) -> Arc<Origin> {
    let origin = extensions.get::<Arc<Origin>>();
    origin.cloned().unwrap_or_default()
}

/// What a status alone tells.
fn record(audit: &Audit, origin: &Origin, method: String, status: &Status) -> Record {
    let info = status.get_details_error_info();
    Record {
        decision: match is_denied(status.code()) {
            true => Decision::Denied,
            false => Decision::Allowed,
        },
        code: failure::name(status.code()),
        reason: info.map(|it| it.reason).unwrap_or_default(),
        source: origin.source.clone(),
        request_id: origin.request_id.clone(),
        method,
        ..Record::unrecorded(audit.now(), 0)
    }
}

fn status(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Status {
    let status = trailers.and_then(Status::from_header_map);
    let status = status.or_else(|| Status::from_header_map(headers));
    status.unwrap_or_else(|| Status::unknown("the answer has no status"))
}

fn is_denied(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}

/// Whether a call with such an end has certainly changed nothing: a flood of them is not written down in full.
fn has_done_nothing(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}
