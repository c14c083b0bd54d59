//! A connection of HTTP/2 in the clear, begun without asking (RFC 9113 3.3), and one request on a stream of it. The protocol itself is h2's.
//!
//! Nothing is repeated: h2 does not, and who asks here gets one stream at most. How a stream failed is told as for other connections.

use std::net::{SocketAddr, TcpStream};
use std::pin::pin;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, ResponseFuture, SendRequest};
use nix::errno::Errno;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::attempt::{ErrorKind, Stage};
use super::config::Config;
use super::connection::{Failure, LocalError, bound, connect_error};
use super::ports::Ports;
use super::wire::{Noted, Wire};

/// A message of gRPC: not compressed, of length 0, which is an empty `HealthCheckRequest`.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// A request without its body, as every stream sends it.
pub(super) fn request(config: &Config) -> Result<http::Request<()>, http::Error> {
    let uri = |path: &str| format!("http://{}{path}", config.target);
    let Some(delay_ms) = config.grpc else { return http::Request::get(uri(&config.path)).body(()) };
    let request = http::Request::post(uri("/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = if delay_ms == 0 { request } else { request.header("delay-ms", delay_ms) };
    request.body(())
}

/// A connection; when it and its streams are gone, it is closed.
#[derive(Debug)]
pub(super) struct Session {
    streams: SendRequest<Bytes>,
    noted: watch::Receiver<Noted>,
    pub(super) local: SocketAddr,
    /// Requests sent so far.
    pub(super) requests: u32,
}

impl Session {
    /// Connects from the next free source port. The outer error is local, the inner one is the attempt's.
    pub(super) async fn open(
        config: &Config,
        ports: &Ports,
    ) -> Result<Result<Self, (SocketAddr, Failure)>, LocalError> {
        for _ in 0..ports.pairs() {
            let (socket, local) = bound(config, ports)?;
            let socket = TcpStream::from(socket);
            let unusable = |error| LocalError::Call("socket", errno_of(&error));
            socket.set_nonblocking(true).map_err(unusable)?;
            let connect = TcpSocket::from_std_stream(socket).connect(config.target);
            let failed = match tokio::time::timeout(config.connect_timeout, connect).await {
                Ok(Ok(socket)) => return Ok(Self::begin(Wire::new(socket), local).await),
                Ok(Err(error)) => errno_of(&error),
                Err(_) => Errno::ETIMEDOUT,
            };
            if failed == Errno::EADDRNOTAVAIL {
                continue;
            }
            let error = connect_error(failed).ok_or(LocalError::Call("connect", failed))?;
            let failure = Failure { error, stage: Stage::Connect, errno: Some(failed), sent: 0, received: 0 };
            return Ok(Err((local, failure)));
        }
        Err(LocalError::NoPort)
    }

    async fn begin(
        (wire, noted): (Wire, watch::Receiver<Noted>),
        local: SocketAddr,
    ) -> Result<Self, (SocketAddr, Failure)> {
        match Builder::new().enable_push(false).handshake(wire).await {
            Ok((streams, connection)) => {
                // How it ends is noted by its wire.
                tokio::spawn(async { drop(connection.await) });
                Ok(Self { streams, noted, local, requests: 0 })
            }
            Err(error) => Err((local, failure(&error, *noted.borrow(), Stage::Send, 0))),
        }
    }

    /// Sends a request on the next stream. An error means that nothing of it has left this machine, for the connection was over before.
    pub(super) async fn send(
        &mut self,
        request: http::Request<()>,
        is_grpc: bool,
    ) -> Result<Stream, Failure> {
        let unsent = |error: &h2::Error, noted: &watch::Receiver<Noted>| {
            failure(error, *noted.borrow(), Stage::Send, 0)
        };
        std::future::poll_fn(|context| self.streams.poll_ready(context))
            .await
            .map_err(|error| unsent(&error, &self.noted))?;
        let (mut response, mut body) =
            self.streams.send_request(request, !is_grpc).map_err(|error| unsent(&error, &self.noted))?;
        if is_grpc {
            body.send_data(Bytes::from_static(&EMPTY_MESSAGE), true)
                .map_err(|error| unsent(&error, &self.noted))?;
        }
        let stream = response.stream_id().as_u32();
        let mut noted = self.noted.clone();
        let opened = pin!(noted.wait_for(|noted| noted.opened >= stream));
        tokio::select! {
            biased;
            Ok(_) = opened => {}
            // There is no answer to what was not sent.
            answer = &mut response => {
                let failed = Failure { error: ErrorKind::BadResponse, stage: Stage::Send, errno: None, sent: 0, received: 0 };
                return Err(answer.err().map_or(failed, |error| unsent(&error, &self.noted)));
            }
        }
        self.requests = self.requests.saturating_add(1);
        Ok(Stream { response, noted: self.noted.clone() })
    }
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Stream {
    response: ResponseFuture,
    noted: watch::Receiver<Noted>,
}

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) received: u64,
}

impl Stream {
    /// Waits for the whole answer, as long as it takes; what has come of its body is counted in `received`.
    pub(super) async fn answer(self, is_grpc: bool, received: &mut u64) -> Result<Answer, Failure> {
        let Self { response, noted } = self;
        let failed = |error: &h2::Error, stage, received| failure(error, *noted.borrow(), stage, received);
        let response = response.await.map_err(|error| failed(&error, Stage::FirstByte, 0))?;
        let status = response.status().as_u16();
        let (head, mut body) = response.into_parts();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| failed(&error, Stage::Body, *received))?;
            *received += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            // A stream that has ended meanwhile needs no room.
            drop(body.flow_control().release_capacity(piece.len()));
        }
        let trailers = body.trailers().await.map_err(|error| failed(&error, Stage::Body, *received))?;
        if is_grpc {
            // An answer without a message has its status in the head.
            let status = trailers.unwrap_or(head.headers);
            if status.get("grpc-status").is_none_or(|status| status != "0") {
                let error = ErrorKind::GrpcStatus;
                return Err(Failure { error, stage: Stage::Body, errno: None, sent: 0, received: *received });
            }
        }
        Ok(Answer { status, received: *received })
    }
}

/// How a stream failed. Of the end of its connection h2 tells less than the wire knows.
fn failure(error: &h2::Error, noted: Noted, stage: Stage, received: u64) -> Failure {
    let (error, errno) = match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => (ErrorKind::StreamRefused, None),
        Some(_) if error.is_remote() && error.is_go_away() => (ErrorKind::StreamRefused, None),
        Some(_) if error.is_remote() => (ErrorKind::StreamReset, None),
        _ => match noted.end {
            Some((ErrorKind::Eof, _)) if stage == Stage::Body => (ErrorKind::Truncated, None),
            Some((error, errno)) => (error, errno.map(Errno::from_raw)),
            None => (ErrorKind::BadResponse, None),
        },
    };
    Failure { error, stage, errno, sent: 0, received }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
