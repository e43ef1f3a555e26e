//! What goes out and what comes back.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::{
    name::TenantId,
    response::{Answer, Control, TransportError, parse_retry_after},
    target::Target,
    time::Timestamp,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::Full;

use crate::{connect, resolve};

/// The longest `location` that is kept.
const MAX_LOCATION_BYTES: usize = 512;

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Whose it is: connections are not shared between tenants.
    pub tenant: TenantId,
    /// Where it goes.
    pub target: Arc<Target>,
    /// All headers but `host` and `content-length`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long until the response's headers must be there, from the start.
    pub timeout: Duration,
}

/// What came of a request.
#[derive(Debug)]
pub struct Exchange {
    /// The response, or why there is none.
    pub result: Result<Response, Failure>,
    /// How long it took.
    pub duration: Duration,
    /// Whom it went to, or last tried to reach. For the operator only.
    pub address: Option<SocketAddr>,
    /// Which address of the public internet that is, if it is one.
    pub destination: Option<IpAddr>,
}

/// What is kept of a response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// `retry-after`.
    pub retry_after: Option<String>,
    /// `webhook-delivery`, if it said something known.
    pub control: Option<Control>,
    /// `location`, its first 512 bytes.
    pub location: Option<String>,
    /// The first KiB of the body, unless the response is a delivery's success.
    pub body: Bytes,
    /// All headers, if it was asked for what they say.
    pub headers: HeaderMap,
}

/// What a request is for, which says how it is made and what is kept of its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To deliver: a POST whose success says all.
    Delivery,
    /// To ask, with this method: what the answer says matters.
    Question(Method),
}

/// Why there is no response.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What a tenant may know.
    pub error: TransportError,
    /// What the operator may know besides.
    pub detail: String,
}

// === impl Request ===

impl Request {
    /// As it is written: origin form, `host` and `content-length` ours.
    pub(crate) fn into_http(
        self,
        purpose: &Purpose,
    ) -> Result<http::Request<Full<Bytes>>, Failure> {
        let method = match purpose {
            Purpose::Delivery => &Method::POST,
            Purpose::Question(method) => method,
        };
        let ours = |error: http::Error| Failure::new(TransportError::Internal, chain(&error));
        let host = HeaderValue::try_from(self.target.authority());
        let uri = Uri::try_from(self.target.path_and_query());
        let mut headers = self.headers;
        headers.insert(header::HOST, host.map_err(|error| ours(error.into()))?);
        if method == Method::POST {
            headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        }
        let mut http_request = http::Request::new(Full::new(self.body));
        method.clone_into(http_request.method_mut());
        *http_request.uri_mut() = uri.map_err(|error| ours(error.into()))?;
        *http_request.headers_mut() = headers;
        Ok(http_request)
    }
}

// === impl Response ===

impl Response {
    /// What matters of a response's head.
    ///
    /// # Errors
    /// It is not one that HTTP knows.
    pub(crate) fn of(head: &http::response::Parts) -> Result<Self, Failure> {
        let status = head.status.as_u16();
        let no_answer = |detail| Err(Failure::new(TransportError::Protocol, detail));
        if !(200..=599).contains(&status) {
            return no_answer(format!("status {status}"));
        }
        let has = |name: HeaderName| head.headers.contains_key(name);
        if has(header::TRANSFER_ENCODING) && has(header::CONTENT_LENGTH) {
            return no_answer("two lengths".to_owned());
        }
        let text = |name: HeaderName| head.headers.get(name)?.to_str().ok();
        let control = text(HeaderName::from_static("webhook-delivery")).and_then(Control::parse);
        Ok(Self {
            status,
            retry_after: text(header::RETRY_AFTER).map(ToOwned::to_owned),
            control,
            location: head.headers.get(header::LOCATION).map(truncated),
            body: Bytes::new(),
            headers: HeaderMap::new(),
        })
    }

    /// What the contract reads of it; `now` is when it came.
    #[must_use]
    pub fn answer(&self, now: Timestamp) -> Answer {
        let retry_after = self.retry_after.as_deref();
        Answer {
            status: self.status,
            retry_after: retry_after.and_then(|it| parse_retry_after(it, now)),
            control: self.control,
        }
    }

    /// Whether the receiver took the request.
    #[must_use]
    pub fn is_success(&self) -> bool {
        StatusCode::from_u16(self.status).is_ok_and(|it| it.is_success())
    }
}

fn truncated(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let end = bytes.len().min(MAX_LOCATION_BYTES);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(error: TransportError, detail: impl Into<String>) -> Self {
        Self {
            error,
            detail: detail.into(),
        }
    }
}

impl From<resolve::Error> for Failure {
    fn from(error: resolve::Error) -> Self {
        let kind = match &error {
            resolve::Error::TooMany => TransportError::Internal,
            resolve::Error::Lookup(_)
            | resolve::Error::Slow
            | resolve::Error::Count(_)
            | resolve::Error::Refused(_) => TransportError::TargetUnreachable,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<connect::Error> for Failure {
    fn from(error: connect::Error) -> Self {
        let kind = match &error {
            connect::Error::Connect(_)
            | connect::Error::ConnectTimeout
            | connect::Error::Http(_) => TransportError::Connect,
            connect::Error::OtherPeer(_) => TransportError::TargetUnreachable,
            connect::Error::Tls(_) | connect::Error::TlsTimeout | connect::Error::Name => {
                TransportError::Tls
            }
        };
        Self::new(kind, chain(&error))
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |it| it.source());
    sources
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
