//! HTTP/2 connections with one request each, for HTTPS where the server prefers it and for gRPC.
//!
//! Connection and request are polled by one task: nothing goes on when the probe is over.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Most that a peer may have under way to us: more than the 10 KiB of a body that are kept.
const WINDOW_BYTES: u32 = 65_535;

/// Most that headers may take.
const HEADER_BYTES: u32 = 256 << 10;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(100);

/// A connection.
pub(crate) struct Client<S: AsyncRead + AsyncWrite + Unpin> {
    sender: SendRequest<Bytes>,
    connection: Connection<S, Bytes>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends the preface. Requests wait for the server's settings.
    pub(crate) async fn start(stream: S) -> Result<Self, h2::Error> {
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES)
            .initial_max_send_streams(0)
            .handshake(stream)
            .await?;
        Ok(Self { sender, connection, ended: false })
    }

    /// Waits for the server's settings: only then is it known to speak HTTP/2.
    pub(crate) async fn ready(&mut self) -> Result<(), h2::Error> {
        poll_fn(|cx| match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Sends a request, with this body or none, and waits for the head of the answer.
    pub(crate) async fn call(
        &mut self,
        request: Request<()>,
        body: Option<Bytes>,
    ) -> Result<Response<RecvStream>, h2::Error> {
        let (answer, mut upload) = self.sender.send_request(request, body.is_none())?;
        if let Some(body) = body {
            upload.send_data(body, true)?;
        }
        let answer = self.drive(answer).await;
        drop::<SendStream<Bytes>>(upload);
        answer?
    }

    /// Goes on with the connection until the future is done. An error is the end of a connection that has not done it.
    pub(crate) async fn drive<F: Future>(&mut self, future: F) -> Result<F::Output, h2::Error> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.ended {
                return Poll::Ready(Err(h2::Reason::NO_ERROR.into()));
            }
            let ended = Pin::new(&mut self.connection).poll(cx);
            self.ended = ended.is_ready();
            // What came on the connection, its end included, may be what the future waits for. Not every end is told to it.
            match (future.as_mut().poll(cx), ended) {
                (Poll::Ready(done), _) => Poll::Ready(Ok(done)),
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Says goodbye (GOAWAY), if that can be sent.
    pub(crate) async fn close(self) {
        let Self { sender, connection, ended } = self;
        drop(sender);
        if ended {
            return;
        }
        let _either_way_it_is_closed = timeout(GOODBYE, connection).await;
    }
}
