//! One POST: resolve, judge every address, connect or reuse, send, read as little as possible.
//!
//! **Invariants:** nothing is sent anywhere but to an address that was judged for this attempt; a
//! request ends within its time whatever the receiver does; a success is a success at its headers.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hookfleet_contract::{
    name::TenantId,
    response::{Answer, Control, TransportError, parse_retry_after},
    target::Target,
    time::Timestamp,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    address::Policy,
    connect::{self, Connection, Connector},
    pool::{Key, Pool},
    resolve::{self, Resolver},
};

/// The most bytes that one attempt reads, heads and interim responses included.
const MAX_READ_BYTES: usize = 128 << 10;
/// The most bytes of a body that are read to free the connection.
const MAX_DRAIN_BYTES: usize = 16 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a body that are kept.
const MAX_KEPT_BYTES: usize = 1 << 10;
/// The longest `location` that is kept.
const MAX_LOCATION_BYTES: usize = 512;
/// How often idle connections are looked through.
const SWEEP_PERIOD: Duration = Duration::from_secs(15);

/// How requests leave.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Which addresses may be called. This machine's own are added.
    pub policy: Policy,
    /// PEM files of certificate authorities to trust beside the public ones.
    pub ca_files: Vec<PathBuf>,
}

/// The way out cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's resolver configuration cannot be used.
    #[error("cannot set up the resolver")]
    Resolver(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The certificate authorities cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

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
    /// Whom it went to. For the operator only.
    pub address: Option<SocketAddr>,
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
    /// The first KiB of the body, unless the response is a success.
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What a tenant may know.
    pub error: TransportError,
    /// What the operator may know besides.
    pub detail: String,
}

/// The way out; cheap to clone.
#[derive(Clone, Debug)]
pub struct Egress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    resolver: Resolver,
    connector: Connector,
    pool: Pool,
    sweeping: std::sync::Once,
}

// === impl Egress ===

impl Egress {
    /// Opens the way out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(mut config: Config) -> Result<Self, Error> {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        config
            .policy
            .own
            .extend(interfaces.iter().map(if_addrs::Interface::ip));
        let resolver =
            Resolver::new(config.policy).map_err(|error| Error::Resolver(error.into()))?;
        Self::with_resolver(resolver, &config.ca_files)
    }

    pub(crate) fn with_resolver(resolver: Resolver, ca_files: &[PathBuf]) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared {
            resolver,
            connector: Connector::new(ca_files).map_err(|error| Error::Tls(error.into()))?,
            pool: Pool::default(),
            sweeping: std::sync::Once::new(),
        })))
    }

    /// Makes one POST.
    ///
    /// # Cancel safety
    /// Dropping the future closes its connection; whether the receiver got the request is unknown.
    pub async fn post(&self, request: Request) -> Exchange {
        self.sweep();
        let started = Instant::now();
        let mut address = None;
        let result = self.attempt(request, started, &mut address).await;
        Exchange {
            result,
            duration: started.elapsed(),
            address,
        }
    }

    async fn attempt(
        &self,
        request: Request,
        started: Instant,
        address: &mut Option<SocketAddr>,
    ) -> Result<Response, Failure> {
        let deadline = started + request.timeout;
        let key = Key::new(request.tenant.clone(), &request.target);
        let answered = timeout_at(deadline, self.send(request, &key, address)).await;
        let (response, connection) = answered
            .unwrap_or_else(|_| Err(failure(TransportError::Timeout, "no response in time")))?;
        self.read(response, connection, key).await
    }

    async fn send(
        &self,
        request: Request,
        key: &Key,
        address: &mut Option<SocketAddr>,
    ) -> Result<(http::Response<Incoming>, Connection), Failure> {
        let target = Arc::clone(&request.target);
        let addresses = self.0.resolver.resolve(&target).await?;
        let mut http_request = http_request(request);
        let pooled = self.0.pool.take(key, &addresses, Instant::now());
        if let Some(mut connection) = pooled {
            *address = Some(connection.address);
            connection.budget.refill(MAX_READ_BYTES);
            match connection.requests.try_send_request(http_request).await {
                Ok(response) => return Ok((response, connection)),
                // The receiver closed while it waited; nothing was sent, so nothing is repeated.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => http_request = unsent,
                    None => return Err(http_failure(error.error(), &connection)),
                },
            }
        }
        let mut connection = self.0.connector.connect(&target, &addresses).await?;
        *address = Some(connection.address);
        connection.budget.refill(MAX_READ_BYTES);
        match connection.requests.send_request(http_request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(http_failure(&error, &connection)),
        }
    }

    /// Keeps what matters of a response, and the connection if it can be used again.
    async fn read(
        &self,
        response: http::Response<Incoming>,
        connection: Connection,
        key: Key,
    ) -> Result<Response, Failure> {
        let (head, body) = response.into_parts();
        let status = head.status;
        if !(200..=599).contains(&status.as_u16()) {
            return Err(failure(
                TransportError::Protocol,
                &format!("status {status}"),
            ));
        }
        let text = |name: HeaderName| head.headers.get(name)?.to_str().ok();
        let control = text(HeaderName::from_static("webhook-delivery")).and_then(Control::parse);
        let location = head.headers.get(header::LOCATION).map(truncated);
        let (is_whole, kept) = drain(body).await;
        if is_whole {
            self.0.pool.put(key, connection, Instant::now());
        }
        Ok(Response {
            status: status.as_u16(),
            retry_after: text(header::RETRY_AFTER).map(ToOwned::to_owned),
            control,
            location,
            body: if status.is_success() {
                Bytes::new()
            } else {
                kept
            },
        })
    }

    /// Starts the task that closes idle connections; it ends with the last handle.
    fn sweep(&self) {
        self.0.sweeping.call_once(|| {
            let shared = Arc::downgrade(&self.0);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP_PERIOD).await;
                    let Some(shared) = shared.upgrade() else {
                        break;
                    };
                    shared.pool.sweep(Instant::now());
                }
            });
        });
    }
}

fn http_request(request: Request) -> http::Request<Full<Bytes>> {
    let mut headers = request.headers;
    let target = request.target;
    if let Ok(host) = HeaderValue::from_str(&target.authority()) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::CONTENT_LENGTH, request.body.len().into());
    let mut http_request = http::Request::new(Full::new(request.body));
    *http_request.method_mut() = Method::POST;
    if let Ok(uri) = target.path_and_query().parse() {
        *http_request.uri_mut() = uri;
    }
    *http_request.headers_mut() = headers;
    http_request
}

/// Reads a body so far as to free its connection. Says whether it was read to its end, and what it
/// began with.
async fn drain(mut body: Incoming) -> (bool, Bytes) {
    if body.is_end_stream() {
        return (true, Bytes::new());
    }
    let mut kept = BytesMut::new();
    let mut n_read = 0;
    let draining = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return false;
            };
            if let Some(data) = frame.data_ref() {
                n_read += data.len();
                let room = MAX_KEPT_BYTES - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
            }
            if n_read > MAX_DRAIN_BYTES {
                return false;
            }
        }
        true
    };
    let is_whole = timeout(DRAIN_TIMEOUT, draining).await.unwrap_or(false);
    (is_whole, kept.freeze())
}

fn truncated(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let end = bytes.len().min(MAX_LOCATION_BYTES);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn http_failure(error: &hyper::Error, connection: &Connection) -> Failure {
    let kind = if connection.budget.is_spent() || error.is_parse_too_large() {
        TransportError::ResponseTooLarge
    } else if error.is_parse() || error.is_parse_status() {
        TransportError::Protocol
    } else {
        // Closed, reset, cut off: there is no answer and none will come.
        TransportError::Reset
    };
    failure(kind, &chain(error))
}

fn failure(error: TransportError, detail: &str) -> Failure {
    Failure {
        error,
        detail: detail.to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |it| it.source());
    sources
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

// === impl Response ===

impl Response {
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

// === impl Failure ===

impl From<resolve::Error> for Failure {
    fn from(error: resolve::Error) -> Self {
        failure(TransportError::TargetUnreachable, &chain(&error))
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
        failure(kind, &chain(&error))
    }
}
