//! The listener: takes connections, bounds what each may cost, and ends them in time.
//!
//! **Invariant:** [`serve`] returns within its drain time after `shutdown`, whatever clients do.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use axum::Router;
use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequest;

use crate::audit::layer::Caller;

/// Each costs a descriptor and some 50 KiB.
const MAX_CONNECTIONS: usize = 10_000;
/// More at once are refused by HTTP/2's own means; a client opens another connection.
const MAX_STREAMS: u32 = 1024;
/// A client that sends its head more slowly is not one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// How long requests may go on once the listener ends.
    pub drain: Duration,
}

/// Serves until `shutdown`, then lets requests finish for a while.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    lifetimes: Lifetimes,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let server = server();
    let permits = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, address, permit)) = accepted else {
            continue;
        };
        let service = TowerToHyperService::new(MapRequest::new(router.clone(), from(address)));
        let connection = server
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let lifetime = lifetimes.connection.mul_f64(rand::random_range(0.8..1.2));
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = shutdown.cancelled() => end(connection).await,
                () = sleep(lifetime) => end(connection).await,
            };
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if timeout(lifetimes.drain, connections.wait()).await.is_err() {
        tracing::info!("connections were cut off");
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
        request.extensions_mut().insert(Caller(address));
        request
    }
}

/// Waits for a connection and for room for it.
async fn accept(
    listener: &TcpListener,
    permits: &std::sync::Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = std::sync::Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection ended before it began");
            }
            Some((stream, address, permit))
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

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    let (interval, patience) = KEEP_ALIVE;
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(100)
        .half_close(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 << 10)
        // Room for a stream of publishes that is not slowed down by its acknowledgements.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(interval)
        .keep_alive_timeout(patience);
    server
}
