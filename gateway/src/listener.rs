//! The listener: takes connections, bounds what each may cost, and ends them in time.
//!
//! **Invariants:** [`serve`] returns within its drain time after `shutdown`, whatever clients do; nothing that a client does
//! or leaves out keeps others from connecting; no connection outlives the certificate that its client showed.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequest;

use crate::{
    audit::layer::Caller,
    limits::{
        connections::{Connections, Source},
        patience::Patient,
    },
    tls::server::ServerTls,
};

/// More at once are refused by HTTP/2's own means; a client opens another connection.
const MAX_STREAMS: u32 = 256;
/// All headers of a request together, with what HTTP/2 counts for each.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// What a connection of HTTP/2 may send ahead of whoever reads it: together, and on one stream. There is room for a stream
/// of publishes that is not slowed down by its acknowledgements.
const WIDE: (u32, u32) = (4 << 20, 1 << 20);
/// For those who may not.
const NARROW: (u32, u32) = (65_535, 65_535);
/// What waits on a stream for a client that reads slowly.
const MAX_SEND_BYTES: usize = 64 << 10;
/// Streams that a client has reset and nobody has seen, and those that we have reset for its errors: more are an attack.
const MAX_RESETS: (usize, usize) = (20, 256);
/// Half-open connections are found out after 30 s. Clients may ping us at any rate.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// When there are no descriptors left, others have to be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long connections may last.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// A connection is asked to end after this time, give or take a fifth, and what is under way on it goes on: clients
    /// connect anew and find servers that have come meanwhile.
    pub connection: Duration,
    /// A client that takes longer to begin a connection, or to send a head of HTTP/1, is not one. A connection of HTTP/1
    /// on which nothing is asked for so long is closed.
    pub head: Duration,
    /// How long requests may go on once the listener ends.
    pub drain: Duration,
}

/// Serves until `shutdown`, then lets requests finish for a while.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    router: Router,
    lifetimes: Lifetimes,
    connections: Connections,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let (wide, narrow) = (server(WIDE, lifetimes.head), server(NARROW, lifetimes.head));
    let wides = Arc::new(Semaphore::new(connections.max_wide()));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let Some((stream, address)) = accepted else {
            continue;
        };
        let Some(place) = connections.admit(address.into()) else {
            tracing::debug!(%address, "a connection too many was closed");
            continue;
        };
        let is_wide = Arc::clone(&wides).try_acquire_owned().ok();
        let server = if is_wide.is_some() { &wide } else { &narrow };
        let conversation = Conversation {
            server: server.clone(),
            router: router.clone(),
            address,
            lifetime: lifetimes.connection.mul_f64(rand::random_range(0.8..1.2)),
            head: lifetimes.head,
            shutdown: shutdown.clone(),
        };
        let tls = tls.clone();
        tasks.spawn(async move {
            match tls {
                None => conversation.hold(stream).await,
                Some(tls) => conversation.hold_secure(stream, tls).await,
            }
            drop((place, is_wide));
        });
    }
    drop(listener);
    tasks.close();
    if timeout(lifetimes.drain, tasks.wait()).await.is_err() {
        tracing::info!("connections were cut off");
    }
}

/// What is said on one connection.
struct Conversation {
    server: auto::Builder<TokioExecutor>,
    router: Router,
    address: SocketAddr,
    lifetime: Duration,
    head: Duration,
    shutdown: CancellationToken,
}

impl Conversation {
    /// Shakes hands first; is over with the client's certificate.
    async fn hold_secure(mut self, stream: TcpStream, tls: ServerTls) {
        let accepted = tokio::select! {
            () = self.shutdown.cancelled() => return,
            accepted = tls.accept(stream, self.address.into()) => accepted,
        };
        match accepted {
            Ok((stream, None)) => self.hold(stream).await,
            Ok((stream, Some(certificate))) => {
                self.lifetime = self.lifetime.min(tls.until_notice(&certificate));
                self.router = self.router.layer(Extension(certificate.clone()));
                tokio::select! {
                    () = self.hold(stream) => {}
                    () = tls.until_over(&certificate) => {
                        tracing::debug!("a connection ended with its client's certificate");
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    /// Answers until there is nothing more to say, or it is time to end.
    async fn hold<I>(self, stream: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = MapRequest::new(self.router, from(self.address));
        let service = TowerToHyperService::new(service);
        let stream = TokioIo::new(Patient::new(stream, self.head));
        let mut connection = pin!(self.server.serve_connection(stream, service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.shutdown.cancelled() => end(connection).await,
            () = sleep(self.lifetime) => end(connection).await,
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended");
        }
    }
}

/// Lets what is under way on a connection finish, and takes nothing new.
async fn end<C: GracefulConnection>(mut connection: Pin<&mut C>) -> Result<(), C::Error> {
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Tells whoever answers a request where it comes from.
fn from<B>(address: SocketAddr) -> impl FnMut(Request<B>) -> Request<B> + Clone {
    move |mut request| {
        let extensions = request.extensions_mut();
        extensions.insert(Caller(address));
        extensions.insert(Source::from(address));
        request
    }
}

/// Waits for a connection.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection ended before it began");
            }
            Some((stream, address))
        }
        Err(error) if is_of_the_connection(&error) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot accept connections");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// A server whose connections of HTTP/2 have these windows, and whose heads come within `head`.
fn server((connection, stream): (u32, u32), head: Duration) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    let (interval, patience) = KEEP_ALIVE;
    let (pending, local) = MAX_RESETS;
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(100)
        .max_buf_size(MAX_HEAD_BYTES as usize)
        .half_close(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_frame_size(MAX_HEAD_BYTES)
        .max_send_buf_size(MAX_SEND_BYTES)
        .max_pending_accept_reset_streams(pending)
        .max_local_error_reset_streams(local)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .keep_alive_interval(interval)
        .keep_alive_timeout(patience);
    server
}
