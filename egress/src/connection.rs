//! A connection that requests are sent over, one after the other. It has no task of its own: who waits
//! for an answer reads and writes for it, so an exchange wakes nobody but its sender, and a connection
//! ends when it is dropped. What is idle is looked at when it is used and when the pool is swept.

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::meter::{Budget, Metered};

/// The most headers of a response.
const MAX_HEADERS: usize = 64;
/// The most bytes of a response's head.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;

/// What is sent.
type Request = http::Request<Full<Bytes>>;
/// Reads and writes.
type Io = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection that requests are sent over.
pub(crate) struct Connection {
    pub(crate) budget: Budget,
    pub(crate) address: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    io: Option<Io>,
}

impl Connection {
    /// Begins HTTP/1.1.
    pub(crate) async fn begin<T>(
        stream: T,
        budget: Budget,
        address: SocketAddr,
    ) -> hyper::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let metered = TokioIo::new(Metered::new(stream, budget.clone()));
        let (requests, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(metered)
            .await?;
        Ok(Self {
            budget,
            address,
            requests,
            io: Some(Box::pin(connection)),
        })
    }

    /// Sends a request and waits for its response's head.
    ///
    /// # Errors
    /// With the request, if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request,
    ) -> Result<http::Response<Incoming>, TrySendError<Request>> {
        let answered = self.requests.try_send_request(request);
        self.drive(answered).await
    }

    /// Reads and writes until something is done that waits for nothing else.
    pub(crate) async fn drive<F: Future>(&mut self, something: F) -> F::Output {
        drive(&mut self.io, something).await
    }

    /// Waits until another request can be sent. `false` if none ever can, or not within the time.
    pub(crate) async fn settles(&mut self, within: Duration) -> bool {
        if self.is_ready() {
            return true;
        }
        let Self { requests, io, .. } = self;
        let ready = timeout(within, drive(io, requests.ready())).await;
        ready.is_ok_and(|it| it.is_ok())
    }

    /// Whether a request can be sent, as far as is known.
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// Looks whether the receiver has closed the connection or sent what nobody asked for. Nobody is
    /// woken by it from then on.
    pub(crate) fn is_alive(&mut self) -> bool {
        poll(&mut self.io, &mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    /// Ends an idle connection in peace: TLS says so.
    pub(crate) fn close(self) {
        let Self {
            requests, mut io, ..
        } = self;
        drop(requests);
        poll(&mut io, &mut Context::from_waker(Waker::noop()));
    }
}

async fn drive<F: Future>(io: &mut Option<Io>, something: F) -> F::Output {
    let mut something = pin!(something);
    poll_fn(|context| {
        poll(io, context);
        // What it waits for happens in the line above. To be woken by it would be to be polled twice,
        // the second time on another thread.
        something
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    })
    .await
}

fn poll(io: &mut Option<Io>, context: &mut Context<'_>) {
    if let Some(going) = io
        && let Poll::Ready(ended) = going.as_mut().poll(context)
    {
        *io = None;
        if let Err(error) = ended {
            tracing::trace!(%error, "a connection ended");
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
