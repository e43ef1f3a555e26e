//! One POST: resolve, judge every address, connect or reuse, send, read as little as possible.
//!
//! **Invariants:** nothing is sent anywhere but to an address that was judged for this attempt; a
//! request ends within its time whatever the receiver does; a success is a success at its headers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hookfleet_contract::response::TransportError;
use http::Method;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    address::Policy,
    connect::Connector,
    connection::Connection,
    exchange::{Exchange, Failure, Purpose, Request, Response, chain},
    pool::{Key, Pool},
    resolve::Resolver,
};

/// The most bytes that one attempt reads, heads and interim responses included.
const MAX_READ_BYTES: usize = 128 << 10;
/// The most bytes of a body that are read to free the connection.
const MAX_DRAIN_BYTES: usize = 16 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a body that are kept.
const MAX_KEPT_BYTES: usize = 1 << 10;
/// How long a receiver that refuses may take to read the rest of its request.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(100);
/// What cannot be reached takes whole steps of this, so that how long it took does not tell a name that is not there from
/// one that may not be called.
const UNREACHABLE_STEP: Duration = Duration::from_millis(100);
/// How often idle connections and answers of names are looked through, and this machine's addresses
/// listed.
const SWEEP_PERIOD: Duration = Duration::from_secs(15);

/// How requests leave.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Which addresses may be called. This machine's own are added, and followed as they change.
    pub policy: Policy,
    /// PEM files of certificate authorities to trust beside the public ones.
    pub ca_files: Vec<PathBuf>,
    /// The name servers to ask. Empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
}

/// The way out cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine's own addresses are not known, so they could be called.
    #[error("cannot list the addresses of this machine")]
    Interfaces(#[source] io::Error),
    /// The system's resolver configuration cannot be used.
    #[error("cannot set up the resolver")]
    Resolver(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The certificate authorities cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    pub fn new(config: Config) -> Result<Self, Error> {
        let resolver = Resolver::new(config.policy, &config.resolvers)
            .map_err(|error| Error::Resolver(error.into()))?;
        resolver.set_machine(machine().map_err(Error::Interfaces)?);
        Ok(Self(Arc::new(Shared {
            resolver,
            connector: Connector::new(&config.ca_files)
                .map_err(|error| Error::Tls(error.into()))?,
            pool: Pool::default(),
            sweeping: std::sync::Once::new(),
        })))
    }

    /// Delivers: makes one POST.
    ///
    /// # Cancel safety
    /// Dropping the future closes its connection; whether the receiver got the request is unknown.
    pub async fn post(&self, request: Request) -> Exchange {
        self.exchange(request, Purpose::Delivery).await
    }

    /// Asks a receiver something, and keeps what it answers.
    ///
    /// # Cancel safety
    /// As [`Egress::post`].
    pub async fn ask(&self, method: Method, request: Request) -> Exchange {
        self.exchange(request, Purpose::Question(method)).await
    }

    async fn exchange(&self, request: Request, purpose: Purpose) -> Exchange {
        self.sweep();
        let started = Instant::now();
        let mut address = None;
        let result = self.attempt(request, &purpose, started, &mut address).await;
        if let Err(failure) = &result
            && failure.error == TransportError::TargetUnreachable
        {
            let n_steps = started.elapsed().as_millis() / UNREACHABLE_STEP.as_millis() + 1;
            let steps = UNREACHABLE_STEP * u32::try_from(n_steps).unwrap_or(1);
            sleep_until(started + steps).await;
        }
        let destination = address.and_then(|it| self.0.resolver.destination(it.ip()));
        Exchange {
            result,
            duration: started.elapsed(),
            address,
            destination,
        }
    }

    async fn attempt(
        &self,
        request: Request,
        purpose: &Purpose,
        started: Instant,
        address: &mut Option<SocketAddr>,
    ) -> Result<Response, Failure> {
        let deadline = started + request.timeout;
        let key = Key::new(request.tenant.clone(), &request.target);
        let answered = self.send(request, purpose, &key, address);
        let answered = timeout_at(deadline, answered).await;
        let (response, connection) = answered.unwrap_or_else(|_| {
            Err(Failure::new(TransportError::Timeout, "no response in time"))
        })?;
        self.read(response, purpose, connection, key).await
    }

    async fn send(
        &self,
        request: Request,
        purpose: &Purpose,
        key: &Key,
        address: &mut Option<SocketAddr>,
    ) -> Result<(http::Response<Incoming>, Connection), Failure> {
        let target = Arc::clone(&request.target);
        let resolved = self.0.resolver.resolve(&request.tenant, &target).await;
        let addresses = resolved?;
        let mut http_request = request.into_http(purpose)?;
        let pooled = self.0.pool.take(key, &addresses, Instant::now());
        if let Some(mut connection) = pooled {
            *address = Some(connection.address);
            refill(&connection, &mut http_request);
            match connection.send(http_request).await {
                Ok(response) => return Ok((response, connection)),
                // The receiver closed while it waited; nothing was sent, so nothing is repeated.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => http_request = unsent,
                    None => return Err(http_failure(error.error(), &connection)),
                },
            }
        }
        // Apart, because it is rare and ten times as large as the rest of an attempt.
        let connecting = self.0.connector.connect(&target, &addresses, address);
        let mut connection = Box::pin(connecting).await?;
        refill(&connection, &mut http_request);
        match connection.send(http_request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(http_failure(error.error(), &connection)),
        }
    }

    /// Keeps what matters of a response, and the connection if it can be used again.
    async fn read(
        &self,
        response: http::Response<Incoming>,
        purpose: &Purpose,
        mut connection: Connection,
        key: Key,
    ) -> Result<Response, Failure> {
        let (head, body) = response.into_parts();
        let mut response = Response::of(&head)?;
        if connection.budget.is_spent() {
            return Err(Failure::new(
                TransportError::ResponseTooLarge,
                "too many interim responses",
            ));
        }
        let mut kept = BytesMut::new();
        let is_whole = body.is_end_stream() || {
            let drained = connection.drive(drain(body, &mut kept));
            timeout(DRAIN_TIMEOUT, drained).await.unwrap_or(false)
        };
        // Who took the event may take its time to read it; who refuses is sent no more of it.
        let patience = match response.is_success() {
            true => DRAIN_TIMEOUT,
            false => SETTLE_TIMEOUT,
        };
        match purpose {
            Purpose::Delivery if response.is_success() => {}
            Purpose::Delivery => response.body = kept.freeze(),
            Purpose::Question(_) => {
                response.headers = head.headers;
                // An answer that does not end has not been given.
                response.body = if is_whole {
                    kept.freeze()
                } else {
                    Bytes::new()
                };
            }
        }
        if is_whole && connection.settles(patience).await {
            self.0.pool.put(key, connection, Instant::now());
        }
        Ok(response)
    }

    /// Starts the task that looks after what is kept; it ends with the last handle.
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
                    shared.resolver.sweep(Instant::now());
                    match machine() {
                        Ok(addresses) => shared.resolver.set_machine(addresses),
                        Err(error) => {
                            tracing::warn!(%error, "cannot list the addresses of this machine");
                        }
                    }
                }
            });
        });
    }
}

/// The addresses of this machine: two calls of the kernel, fast enough for where they are made.
fn machine() -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    Ok(interfaces.iter().map(if_addrs::Interface::ip).collect())
}

/// Gives an attempt what it may read.
fn refill<B>(connection: &Connection, http_request: &mut http::Request<B>) {
    connection.budget.refill(MAX_READ_BYTES);
    let budget = connection.budget.clone();
    hyper::ext::on_informational(http_request, move |_| budget.spend_interim());
}

/// Reads a body so far as to free its connection, and keeps what it begins with. Says whether it was
/// read to its end.
async fn drain(mut body: Incoming, kept: &mut BytesMut) -> bool {
    let mut n_read = 0;
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
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
}

fn http_failure(error: &hyper::Error, connection: &Connection) -> Failure {
    let kind = if connection.budget.is_spent() || error.is_parse_too_large() {
        TransportError::ResponseTooLarge
    } else if error.is_parse() || error.is_parse_status() {
        TransportError::Protocol
    } else if is_timed_out(error) {
        TransportError::Timeout
    } else {
        // Closed, reset, cut off: there is no answer and none will come.
        TransportError::Reset
    };
    Failure::new(kind, chain(error))
}

/// Whether the receiver did not take its request.
fn is_timed_out(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|it| it.downcast_ref::<io::Error>());
    cause.is_some_and(|it| it.kind() == io::ErrorKind::TimedOut)
}
