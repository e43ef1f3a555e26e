//! The listener: takes connections, bounds what each may cost, and ends them in time.
//!
//! **Invariants:** [`serve`] returns within its drain time after `shutdown`, whatever clients do; nothing that a client does
//! or leaves out keeps others from connecting; no connection outlives the certificate that its client showed.

use std::{
    io,
    pin::{Pin, pin},
    time::Duration,
};

use axum::{Extension, Router};
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

use crate::tls::server::ServerTls;

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
    tls: Option<ServerTls>,
    router: Router,
    lifetimes: Lifetimes,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let permits = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let conversation = Conversation {
            router: router.clone(),
            lifetime: lifetimes.connection.mul_f64(rand::random_range(0.8..1.2)),
            shutdown: shutdown.clone(),
        };
        let tls = tls.clone();
        connections.spawn(async move {
            match tls {
                None => conversation.hold(stream).await,
                Some(tls) => conversation.hold_secure(stream, tls).await,
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

/// What is said on one connection.
struct Conversation {
    router: Router,
    lifetime: Duration,
    shutdown: CancellationToken,
}

impl Conversation {
    /// Shakes hands first; is over with the client's certificate.
    async fn hold_secure(mut self, stream: TcpStream, tls: ServerTls) {
        let accepted = tokio::select! {
            () = self.shutdown.cancelled() => return,
            accepted = tls.accept(stream) => accepted,
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
        let service = TowerToHyperService::new(self.router);
        let server = server();
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
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

/// Waits for a connection and for room for it.
async fn accept(
    listener: &TcpListener,
    permits: &std::sync::Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = std::sync::Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection ended before it began");
            }
            Some((stream, permit))
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
