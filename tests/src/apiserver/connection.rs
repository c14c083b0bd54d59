//! A TCP stream whose end can be torn off: the fault injection's way to stop in the middle of a chunk.
//!
//! Transparent until [`Tear::after_all_but`] arms it; then the next write loses its last bytes and the stream fails, which closes the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The trigger of one connection; 0 is not armed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tear(Arc<AtomicUsize>);

impl Tear {
    /// The next write loses its last `bytes`.
    pub(super) fn after_all_but(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Release);
    }
}

/// The stream given to hyper. It does not claim vectored writes, so hyper hands over head and chunks in one buffer.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    tear: Tear,
    /// What may still be written of the torn write.
    left: Option<usize>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, tear: Tear) -> Self {
        Self { stream, tear, left: None }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.left.is_none() {
            let lost = self.tear.0.swap(0, Ordering::AcqRel);
            if lost > 0 {
                self.left = Some(buf.len().saturating_sub(lost));
            }
        }
        match self.left {
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
            Some(0) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(left) => {
                let part = buf.get(..left.min(buf.len())).unwrap_or_default();
                let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
                self.left = Some(left.saturating_sub(written));
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
