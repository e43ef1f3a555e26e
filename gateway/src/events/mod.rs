//! Publishing by HTTP: `POST /v1/tenants/{tenant}/events` takes CloudEvents in the structured, binary and batched mode
//! of their HTTP binding, and plain JSON. It says the same as a call of `PublisherService.Publish` in the same process.
//!
//! **Invariant:** it answers 2xx only if every event of the request is durable.

mod binary;
mod mode;

use std::sync::Arc;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hookfleet_contract::{format::json, violation::Violations};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{
        PublishRequest, PublishResponse, PublishResult, publish_result,
        publisher_service_client::PublisherServiceClient,
    },
};
use http::{HeaderMap, Request, StatusCode};
use prost::Message as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tonic::{Code, Status, service::Routes};

use crate::{
    body, descriptors,
    status::ApiError,
    transcode::{self, failure, template::Template},
};
use mode::Mode;

/// Where events are taken.
pub(crate) const PATH: &str = "/v1/{parent=tenants/*}/events";
/// Where a plain event happened, if it does not say.
const SOURCE: &str = "urn:hookfleet:http";

/// Answers requests that publish; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    service: PublisherServiceClient<Routes>,
    path: Arc<Template>,
}

/// Why nothing was published.
struct Refused {
    status: StatusCode,
    cause: Status,
}

/// What a request has, in order: events, and what is wrong with those that are none.
type Read = Vec<Result<CloudEvent, ApiError>>;

// === impl Events ===

impl Events {
    /// Publishes to the publisher service that `routes` serves.
    pub(crate) fn new(routes: Routes) -> Self {
        let service = PublisherServiceClient::new(routes);
        let service = service.max_decoding_message_size(usize::MAX);
        let path = Template::parse(PATH).expect("the path is a template");
        Self {
            service: service.max_encoding_message_size(usize::MAX),
            path: Arc::new(path),
        }
    }

    /// The parent of the events, if a path is that of events.
    pub(crate) fn parent(&self, path: &str) -> Option<String> {
        let bound = self.path.matches(path)?;
        bound.into_iter().next().map(|(_, parent)| parent)
    }

    /// Answers a request to publish in `parent`.
    pub(crate) async fn answer(self, parent: String, request: Request<Body>) -> Response {
        if request.method() != http::Method::POST {
            return transcode::method_not_allowed("POST");
        }
        let answered = self.publish(parent, request).await;
        answered.unwrap_or_else(|Refused { status, cause }| transcode::failed(status, &cause))
    }

    async fn publish(
        mut self,
        parent: String,
        request: Request<Body>,
    ) -> Result<Response, Refused> {
        let (head, body) = request.into_parts();
        if head.uri.query().is_some_and(|it| !it.is_empty()) {
            return Err(ApiError::invalid_field("", "takes no query").into());
        }
        let mode = Mode::of(&head.headers)?;
        let body = body::read(&head.headers, body).await?;
        let read = read(mode, &head.headers, &body)?;
        let (mut events, mut results) = (Vec::new(), Vec::new());
        for one in read {
            results.push(one.map(|event| events.push(event)));
        }
        let mut published = Vec::new();
        // A batch of nothing is a batch.
        if !events.is_empty() {
            let message = PublishRequest { parent, events };
            let metadata = tonic::metadata::MetadataMap::new();
            let request = tonic::Request::from_parts(metadata, head.extensions, message);
            published = self.service.publish(request).await?.into_inner().results;
        }
        let mut published = published.into_iter();
        let results = results.into_iter().map(|one| match one {
            Ok(()) => published.next().unwrap_or_default(),
            Err(error) => PublishResult {
                result: Some(publish_result::Result::Error(error.into())),
            },
        });
        Ok(match mode {
            Mode::Batch(_) => batch(results.collect()),
            Mode::Structured(_) | Mode::Binary | Mode::Plain => one(results.collect()),
        })
    }
}

/// Reads what a body has.
fn read(mode: Mode, headers: &HeaderMap, body: &Bytes) -> Result<Read, ApiError> {
    match mode {
        Mode::Structured(encoding) => Ok(vec![encoding.event(body)]),
        Mode::Batch(encoding) => encoding.batch(body),
        Mode::Binary => Ok(vec![binary::event(headers, body)]),
        Mode::Plain => Ok(vec![plain(headers, body)]),
    }
}

/// An event of those who need not know what a CloudEvent is: it has a type and data, the rest is made up for it. An
/// `Idempotency-Key` is its id, so that it may be repeated.
fn plain(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, ApiError> {
    let mut event = json::parse(body).map_err(not_an_event)?;
    if event.spec_version.is_empty() {
        "1.0".clone_into(&mut event.spec_version);
    }
    if event.source.is_empty() {
        SOURCE.clone_into(&mut event.source);
    }
    if event.id.is_empty() {
        let key = crate::idempotency::key(headers).map_err(ApiError::invalid)?;
        event.id = key.unwrap_or_else(|| {
            let uuid = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            uuid.to_string()
        });
    }
    Ok(event)
}

fn not_an_event(error: json::Error) -> ApiError {
    match error {
        json::Error::Member(name, must) => ApiError::invalid_field(name, must),
        json::Error::Json(error) => {
            ApiError::invalid_field("", format!("the event is not a JSON object: {error}"))
        }
    }
}

/// The answer for one event: its receipt, or its error.
fn one(mut results: Vec<PublishResult>) -> Response {
    match results.pop().and_then(|it| it.result) {
        Some(publish_result::Result::Receipt(receipt)) => transcode::json(
            StatusCode::OK,
            &as_json("hookfleet.v1.Receipt", &receipt).to_string(),
        ),
        Some(publish_result::Result::Error(error)) => {
            let details = error.encode_to_vec().into();
            let status = Status::with_details(Code::from(error.code), error.message, details);
            transcode::failed(failure::http_status(status.code()), &status)
        }
        None => {
            let status = Status::from(ApiError::internal("the event has no result"));
            transcode::failed(StatusCode::INTERNAL_SERVER_ERROR, &status)
        }
    }
}

/// The answer for a batch: every result, and a failure if any event was refused. Publishing the batch again is safe.
fn batch(results: Vec<PublishResult>) -> Response {
    let mut violations = Violations::default();
    for (index, result) in results.iter().enumerate() {
        if let Some(publish_result::Result::Error(error)) = &result.result {
            violations.push(format!("[{index}]"), &error.message);
        }
    }
    let mut answer = as_json("hookfleet.v1.PublishResponse", &PublishResponse { results });
    if violations.is_empty() {
        return transcode::json(StatusCode::OK, &answer.to_string());
    }
    let status = Status::from(ApiError::invalid(violations));
    answer["error"] = failure::body(&status)["error"].take();
    transcode::json(StatusCode::BAD_REQUEST, &answer.to_string())
}

/// A message as proto3 JSON.
fn as_json(name: &str, message: &impl prost::Message) -> Value {
    let describe = || {
        let descriptor = descriptors::pool().get_message_by_name(name)?;
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(descriptor, bytes.as_slice()).ok()?;
        let options = SerializeOptions::new().skip_default_fields(false);
        let json = message.serialize_with_options(serde_json::value::Serializer, &options);
        json.ok()
    };
    describe().unwrap_or_else(|| json!({}))
}

// === impl Refused ===

impl From<Status> for Refused {
    fn from(cause: Status) -> Self {
        Self {
            status: failure::http_status(cause.code()),
            cause,
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Status::from(error).into()
    }
}

impl From<mode::Unknown> for Refused {
    fn from(unknown: mode::Unknown) -> Self {
        Self {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            cause: ApiError::invalid_field("content-type", unknown.to_string()).into(),
        }
    }
}
