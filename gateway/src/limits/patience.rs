//! How long clients may take: with the first bytes of a connection, to read what they are sent, and with the bodies of
//! their requests. How long a head may take is for hyper to see, and a silent connection of HTTP/2 is found out by its pings.
//!
//! Nothing here costs a timer while a client is quick.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// As long as the preface of HTTP/2: who has said so much is heard by HTTP itself.
const FIRST_BYTES: usize = 24;
/// A client that reads nothing for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A body has this long for its first bytes, whatever the network does.
const BODY_GRACE: Duration = Duration::from_secs(20);
/// And then comes as fast as this on average, in bytes per second: the largest takes at most nine minutes.
const BODY_RATE: u64 = 16 << 10;

/// A connection that ends when its client is too slow.
pub(crate) struct Patient<S> {
    stream: S,
    /// The end of it, until enough was read.
    opening: Option<Pin<Box<Sleep>>>,
    n_read: usize,
    /// The end of it, while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// When a body is too slow.
pub(crate) struct BodyPace {
    begin: Instant,
    /// Goes off no later than the body is due.
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Patient ===

impl<S> Patient<S> {
    /// A connection whose first bytes come within `opening`.
    pub(crate) fn new(stream: S, opening: Duration) -> Self {
        Self {
            stream,
            opening: Some(Box::pin(sleep(opening))),
            n_read: 0,
            stalled: None,
        }
    }

    /// What became of a write, or that it takes too long.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = &mut self.stalled;
        let stalled = stalled.get_or_insert_with(|| Box::pin(sleep(READ_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(opening) = &mut self.opening
            && opening.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.opening.is_some() {
            self.n_read += buffer.filled().len() - before;
            if self.n_read >= FIRST_BYTES {
                self.opening = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, shut)
    }
}

// === impl BodyPace ===

impl BodyPace {
    /// A body that begins now.
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
            timer: None,
        }
    }

    /// Ready when a body has taken too long, of which `n_bytes` are here and of which nothing comes now.
    pub(crate) fn poll_late(&mut self, context: &mut Context<'_>, n_bytes: usize) -> Poll<()> {
        let n_bytes = u64::try_from(n_bytes).unwrap_or(u64::MAX);
        let due = self.begin + BODY_GRACE + Duration::from_secs(n_bytes / BODY_RATE);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            // Since it was set, more has come.
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const OPENING: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_says_too_little_is_cut_off_however_slowly_it_comes() {
        let (mut client, server) = duplex(64);
        let mut server = Patient::new(server, OPENING);
        tokio::spawn(async move {
            for byte in b"PRI * HTTP/2.0" {
                client.write_all(&[*byte]).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            client
        });
        let begin = Instant::now();
        let mut all = Vec::new();
        let ended = server.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), OPENING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_enough_may_be_silent() {
        let (mut client, server) = duplex(64);
        let mut server = Patient::new(server, OPENING);
        client.write_all(&[7; FIRST_BYTES]).await.unwrap();
        tokio::spawn(async move {
            sleep(OPENING * 100).await;
            client.write_all(&[8]).await.unwrap();
        });
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), FIRST_BYTES + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_cut_off_and_who_reads_slowly_is_not() {
        let (mut client, server) = duplex(64);
        let mut server = Patient::new(server, OPENING);
        let reading = tokio::spawn(async move {
            let mut some = [0; 32];
            for _ in 0..10 {
                sleep(READ_TIMEOUT / 2).await;
                client.read_exact(&mut some).await.unwrap();
            }
            client
        });
        let begin = Instant::now();
        let ended = server.write_all(&[7; 1000]).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(reading.is_finished(), "not before it stopped to read");
        assert_eq!(begin.elapsed(), READ_TIMEOUT * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_time_for_what_has_come_of_it() {
        for (n_bytes, seconds) in [(0, 20), (1 << 20, 20 + 64), ((1 << 20) + 1, 20 + 64)] {
            let mut pace = BodyPace::new();
            let mut n_polls = 0;
            std::future::poll_fn(|context| {
                n_polls += 1;
                // Most of it comes after the first look.
                let n_bytes = if n_polls > 1 { n_bytes } else { 0 };
                pace.poll_late(context, n_bytes)
            })
            .await;
            assert_eq!(
                pace.begin.elapsed(),
                Duration::from_secs(seconds),
                "{n_bytes}"
            );
        }
    }
}
