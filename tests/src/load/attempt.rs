//! One attempt: what was tried, on which connection, and how it ended. The record that the log holds one of per line.
//!
//! An attempt is one request sent on a connection, or one connect that failed before there was a request. Local trouble (no free port, no file
//! descriptor) is no attempt: it ends the run with an error.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Which sort of client made an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// Sends one request after another on a kept connection.
    Keepalive,
    /// Opens a connection for each request.
    New,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The connect was answered by RST.
    ConnectRefused,
    /// The connect was not answered in time.
    ConnectTimeout,
    /// No way to the address (ICMP, routing, a local filter).
    ConnectUnreachable,
    /// The connection was reset while it was being made.
    ConnectReset,
    /// The request could not be written.
    SendError,
    /// RST in place of an answer, or inside it.
    Reset,
    /// The connection was closed before the first byte of an answer.
    Eof,
    /// The connection was closed inside the answer.
    Truncated,
    /// No whole answer in time.
    Timeout,
    /// What came is not of the protocol.
    BadResponse,
    /// The server will not look at this stream: REFUSED_STREAM, or a GOAWAY whose last stream is an earlier one.
    StreamRefused,
    /// The server has ended this stream alone, by another RST_STREAM.
    StreamReset,
    /// A whole answer of gRPC whose status is not OK.
    GrpcStatus,
}

/// How far a failed attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Making the connection.
    Connect,
    /// Writing the request.
    Send,
    /// Waiting for the first byte of the answer.
    FirstByte,
    /// After the first byte.
    Body,
}

/// One attempt. Times are `CLOCK_MONOTONIC` in nanoseconds, the clock that the kernel's own stamps use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When the request was sent; for a failed connect, when the connect began.
    pub t_ns: u64,
    /// When the attempt began: the connect if it made its connection, else the same as `t_ns`.
    pub start_ns: u64,
    /// When the outcome was known.
    pub end_ns: u64,
    /// When a fixed schedule wanted it to begin; absent in a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ns: Option<u64>,
    /// The client, from 0.
    pub client: u32,
    /// The client's sort.
    pub kind: ClientKind,
    /// The bound address and port, known for failed connects too.
    pub local: SocketAddr,
    /// The target.
    pub remote: SocketAddr,
    /// Which request on its connection this was, from 1. The stream of HTTP/2 is twice that less one.
    pub nth: u32,
    /// The status of a complete response, whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed; absent for a complete response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorKind>,
    /// How far it came; absent for a complete response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Bytes of the request that the socket took. Of HTTP/2 always 0.
    pub sent: u64,
    /// Bytes of the answer that came. Of HTTP/2 those of its body.
    pub received: u64,
    /// The system call's error, where one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl Attempt {
    /// Whether a complete response came, whatever its status.
    pub fn ok(&self) -> bool {
        self.error.is_none()
    }
}
