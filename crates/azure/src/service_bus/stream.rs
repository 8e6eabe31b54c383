//! The stream under a connection, and two things that the AMQP library leaves to it: who waits for an answer learns of its
//! end, and a connection that nobody uses any more comes to one.
//!
//! The library takes leave of the other side and waits for its answer, however long that takes and without a pause. From a
//! server that takes bytes and answers nothing, none comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// How long the other side may take over its answer to our leave.
const LEAVE: Duration = Duration::from_secs(5);

/// A stream that tells when it is at its end, and comes to it a while after it was let go of.
pub(super) struct Watched<S> {
    stream: S,
    cut: watch::Sender<bool>,
    /// Resolves when there was time enough to take leave.
    over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    ended: bool,
}

/// Whoever has it uses the stream.
#[derive(Debug)]
pub(super) struct Held {
    _held: watch::Sender<()>,
}

impl<S> Watched<S> {
    /// The stream, what tells whether it is at its end, and what keeps it from that.
    pub(super) fn new(stream: S) -> (Self, watch::Receiver<bool>, Held) {
        let ((cut, is_cut), (held, mut holders)) = (watch::channel(false), watch::channel(()));
        let over = Box::pin(async move {
            // Nothing is ever sent: it ends when the other half is dropped.
            while holders.changed().await.is_ok() {}
            tokio::time::sleep(LEAVE).await;
        });
        (Self { stream, cut, over, ended: false }, is_cut, Held { _held: held })
    }

    fn told<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &polled {
            self.cut.send_replace(true);
        }
        polled
    }

    /// Nothing goes out on a stream that is at its end.
    fn open(&self) -> io::Result<()> {
        if self.ended { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<S> std::fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() && self.over.as_mut().poll(context).is_ready() {
            self.ended = true;
            self.cut.send_replace(true);
            return Poll::Ready(Ok(()));
        }
        if polled.is_ready() && buffer.filled().len() == before && buffer.remaining() > 0 {
            self.cut.send_replace(true);
        }
        self.told(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.told(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?;
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.told(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?;
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.told(polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_let_go_of_ends_after_a_while() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut stream, is_cut, held) = Watched::new(ours);
        let mut buffer = [0; 8];
        theirs.write_all(b"one").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 3);
        let silent = tokio::time::timeout(10 * LEAVE, stream.read(&mut buffer)).await;
        assert!(silent.is_err() && !*is_cut.borrow(), "it stays while it is held, however silent");

        drop(held);
        let silent = tokio::time::timeout(LEAVE / 2, stream.read(&mut buffer)).await;
        assert!(silent.is_err() && !*is_cut.borrow(), "there is time to take leave");
        theirs.write_all(b"bye").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 3);
        stream.write_all(b"bye").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0, "and an end");
        assert!(*is_cut.borrow());
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
