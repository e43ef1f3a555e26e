//! The API as HTTP/JSON: every unary method with a `google.api.http` rule, by its descriptors. What
//! comes in as JSON goes to the same gRPC service in the same process, so both dialects are one API.

pub(crate) mod annotation;
pub(crate) mod failure;
mod request;
pub(crate) mod rule;
pub(crate) mod template;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body as HttpBody, response::Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Extensions, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use tonic::{Status, service::Routes};
use tower::{Service, ServiceExt as _};

use crate::{body, descriptors, limits::fields, status::ApiError};
use rule::Rule;

/// The rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule is not one.
    #[error("the HTTP rule of {0} is not one")]
    Rule(String),
}

/// Answers HTTP/JSON requests by calling gRPC services; cheap to clone.
#[derive(Clone, Debug)]
pub struct Transcoder {
    routes: Routes,
    rules: Arc<[Rule]>,
}

// === impl Transcoder ===

impl Transcoder {
    /// The methods of the named services, served by `routes`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(routes: Routes, services: &[&str]) -> Result<Self, Error> {
        let rules = rule::collect(descriptors::pool(), services)?.into();
        Ok(Self { routes, rules })
    }

    /// How many methods have a rule.
    #[cfg(test)]
    pub(crate) fn n_rules(&self) -> usize {
        self.rules.len()
    }

    /// Answers a request.
    pub(crate) async fn answer(self, request: Request<HttpBody>) -> Response {
        match self.call(request).await {
            Ok(body) => json(StatusCode::OK, &body),
            Err(Refused::Status(status)) => failed(failure::http_status(status.code()), &status),
            Err(Refused::Method(allowed)) => method_not_allowed(&allowed),
        }
    }

    async fn call(self, request: Request<HttpBody>) -> Result<String, Refused> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let matching = || {
            self.rules
                .iter()
                .filter_map(|rule| Some((rule, rule.template.matches(path)?)))
        };
        let Some((rule, bound)) = matching().find(|(rule, _)| rule.method == head.method) else {
            let allowed: Vec<&str> = matching().map(|(rule, _)| rule.method.as_str()).collect();
            return Err(match allowed.is_empty() {
                true => ApiError::not_found(path).into(),
                false => Refused::Method(allowed.join(", ")),
            });
        };
        let body = body::read(&head.headers, body)
            .await
            .map_err(Refused::Status)?;
        let query = head.uri.query().unwrap_or_default();
        let message = request::message(rule, bound, query, &body)?;
        let response = self
            .routes
            .clone()
            .oneshot(grpc_request(rule, &message, head.extensions))
            .await;
        let response = response.unwrap_or_else(|never| match never {});
        let message = grpc_response(rule, response)
            .await
            .map_err(Refused::Status)?;
        let mut text = Vec::new();
        let options = SerializeOptions::new().skip_default_fields(false);
        message
            .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(String::from_utf8(text).unwrap_or_default())
    }
}

/// A failed call as JSON.
pub(crate) fn refusal(status: &Status) -> Response {
    let mut response = json(
        failure::http_status(status.code()),
        &failure::body(status).to_string(),
    );
    fields::advise(response.headers_mut(), status);
    response
}

/// Why there is no result.
enum Refused {
    Status(Status),
    Method(String),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Status(error.into())
    }
}

/// A frame is a flag, a length and a message.
fn grpc_request(
    rule: &Rule,
    message: &DynamicMessage,
    extensions: Extensions,
) -> Request<tonic::body::Body> {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    let mut request = Request::new(tonic::body::Body::new(Full::new(frame.freeze())));
    *request.method_mut() = http::Method::POST;
    // Who calls, and whatever else is known of the request.
    *request.extensions_mut() = extensions;
    if let Ok(uri) = rule.grpc_path().parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

async fn grpc_response<B>(
    rule: &Rule,
    response: http::Response<B>,
) -> Result<DynamicMessage, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let (head, body) = response.into_parts();
    let collected = body
        .collect()
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let status =
        Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
    if let Some(status) = status
        && status.code() != tonic::Code::Ok
    {
        return Err(status);
    }
    let frame = collected.to_bytes();
    let message = frame.get(5..).unwrap_or_default();
    DynamicMessage::decode(rule.descriptor.output(), message)
        .map_err(|error| Status::internal(error.to_string()))
}

/// The answer to a call that failed.
pub(crate) fn failed(http_status: StatusCode, status: &Status) -> Response {
    let mut response = json(http_status, &failure::body(status).to_string());
    fields::advise(response.headers_mut(), status);
    response
}

/// The answer where the path takes other methods only.
pub(crate) fn method_not_allowed(allowed: &str) -> Response {
    let error = ApiError::unimplemented("METHOD_NOT_ALLOWED", "the path takes other methods");
    let mut response = failed(StatusCode::METHOD_NOT_ALLOWED, &error.into());
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// An answer with JSON.
pub(crate) fn json(status: StatusCode, body: &str) -> Response {
    let mut response = Response::new(HttpBody::from(format!("{body}\n")));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

impl Service<Request<HttpBody>> for Transcoder {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<HttpBody>) -> Self::Future {
        let answering = self.clone().answer(request);
        Box::pin(async { Ok(answering.await) })
    }
}
