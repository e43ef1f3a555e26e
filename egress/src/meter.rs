//! A connection that counts what it reads and notices when its receiver reads nothing. It bounds floods
//! of headers, of interim responses, of chunk extensions and of bodies, and how long a receiver may
//! stall, in one place, whatever the HTTP library does about them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The most interim responses of one attempt.
const MAX_INTERIM: usize = 8;
/// How long a receiver may take nothing of what is sent to it.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How much one attempt may still read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<Left>);

#[derive(Debug, Default)]
struct Left {
    n_bytes: AtomicUsize,
    n_interim: AtomicUsize,
}

/// A metered connection.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    inner: T,
    budget: Budget,
    /// Set while nothing more can be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

// === impl Budget ===

impl Budget {
    /// A new attempt begins.
    pub(crate) fn refill(&self, n_bytes: usize) {
        self.0.n_bytes.store(n_bytes, Ordering::Relaxed);
        self.0.n_interim.store(MAX_INTERIM, Ordering::Relaxed);
    }

    /// Whether everything was read that may be read.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.n_bytes.load(Ordering::Relaxed) == 0
    }

    /// An interim response was read. One too many spends everything.
    pub(crate) fn spend_interim(&self) {
        match self.0.n_interim.load(Ordering::Relaxed) {
            0 => self.0.n_bytes.store(0, Ordering::Relaxed),
            left => self.0.n_interim.store(left - 1, Ordering::Relaxed),
        }
    }

    /// Only the connection's own task spends.
    fn spend(&self, n_bytes: usize) {
        let left = self.0.n_bytes.load(Ordering::Relaxed);
        let left = left.saturating_sub(n_bytes);
        self.0.n_bytes.store(left, Ordering::Relaxed);
    }
}

// === impl Metered ===

impl<T> Metered<T> {
    pub(crate) fn new(inner: T, budget: Budget) -> Self {
        Self {
            inner,
            budget,
            stalled: None,
        }
    }

    /// Passes on what came of writing, unless nothing came of it for too long.
    fn written<R>(
        &mut self,
        written: Poll<io::Result<R>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        let nothing = format!("the receiver has read nothing for {STALL_TIMEOUT:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, nothing)))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.budget.is_spent() {
            return Poll::Ready(Err(io::Error::other("the attempt has read all it may")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.budget.spend(buffer.filled().len() - before);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_the_time_without_progress() {
        const PATIENCE: Duration = Duration::from_secs(4);
        let (ours, mut theirs) = duplex(8);
        let mut metered = Metered::new(ours, Budget::default());
        let started = Instant::now();
        let writing = tokio::spawn(async move { metered.write_all(&[0; 18]).await });
        for _ in 0..3 {
            sleep(PATIENCE).await;
            theirs.read_u8().await.unwrap();
        }
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), 3 * PATIENCE + STALL_TIMEOUT);
    }

    #[tokio::test]
    async fn a_budget_is_spent_once() {
        let (ours, mut theirs) = duplex(64);
        let budget = Budget::default();
        let mut metered = Metered::new(ours, budget.clone());
        budget.refill(8);
        theirs.write_all(&[0; 16]).await.unwrap();
        let mut read = [0; 8];
        metered.read_exact(&mut read).await.unwrap();
        assert!(budget.is_spent());
        assert!(metered.read_u8().await.is_err());
        budget.refill(1);
        assert!(metered.read_u8().await.is_ok());
    }
}
