//! One TCP connection of a client: bind, connect, look, send, receive, each a plain system call with a bound.
//!
//! A connection in steady state costs one send and one receive per request. Failures come back as what happened and how far it had come;
//! only local trouble, which says nothing about the target, is an error.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::attempt::{ErrorKind, Stage};
use super::clock::{nanos, now_ns};
use super::config::Config;
use super::ports::Ports;
use super::response::Response;

/// Why no connection could even be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LocalError {
    /// A system call failed for a reason of this machine.
    #[error("{0} failed: {1}")]
    Call(&'static str, Errno),
    /// Every source address and port is taken.
    #[error("no free source port: give more source addresses or close with RST")]
    NoPort,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: ErrorKind,
    pub(super) stage: Stage,
    pub(super) errno: Option<Errno>,
    pub(super) sent: usize,
    pub(super) received: u64,
}

/// A complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reusable: bool,
    pub(super) received: u64,
}

/// A connected socket; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    pub(super) local: SocketAddr,
    /// Requests sent so far.
    pub(super) requests: u32,
}

impl Connection {
    /// Connects from the next free source port. The outer error is local, the inner one is the attempt's.
    pub(super) fn open(
        config: &Config,
        ports: &Ports,
    ) -> Result<Result<Self, (SocketAddr, Failure)>, LocalError> {
        let remote = SockaddrStorage::from(config.target);
        // A pair is skipped while something else holds it; one round finds a free one or there is none.
        for _ in 0..ports.pairs() {
            let local = ports.next();
            let socket = new_socket(config)?;
            match bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
                Ok(()) => {}
                Err(Errno::EADDRINUSE) => continue,
                Err(error) => return Err(LocalError::Call("bind", error)),
            }
            let connected = match connect(socket.as_raw_fd(), &remote) {
                // A signal leaves the connect under way; going on with it is no second attempt.
                Err(Errno::EINTR) => wait_connected(&socket, config.connect_timeout),
                other => other,
            };
            return match connected {
                Ok(()) => Ok(Ok(Self { socket, local, requests: 0 })),
                // The 4-tuple is in TIME_WAIT here: no packet was sent.
                Err(Errno::EADDRNOTAVAIL) => continue,
                Err(errno) => match connect_error(errno) {
                    Some(error) => {
                        let failure = Failure {
                            error,
                            stage: Stage::Connect,
                            errno: Some(errno),
                            sent: 0,
                            received: 0,
                        };
                        Ok(Err((local, failure)))
                    }
                    None => Err(LocalError::Call("connect", errno)),
                },
            };
        }
        Err(LocalError::NoPort)
    }

    /// Looks, without waiting, whether the server has closed or reset the idle connection, or sent something that nobody asked for.
    pub(super) fn usable(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.socket.as_raw_fd(), &mut byte, flags) == Err(Errno::EAGAIN)
    }

    /// Sends one request and receives its response, within `timeout` from now.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        buffer: &mut [u8],
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        self.requests = self.requests.saturating_add(1);
        let deadline = now_ns().saturating_add(nanos(timeout));
        self.send(request, deadline)?;
        self.receive(buffer, deadline).map_err(|failure| Failure { sent: request.len(), ..failure })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "errno is an open set: any other one is treated alike"
    )]
    fn send(&self, request: &[u8], deadline: u64) -> Result<(), Failure> {
        let mut sent = 0;
        while let Some(rest) = request.get(sent..).filter(|rest| !rest.is_empty()) {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.socket.as_raw_fd(), rest, flags) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.wait(PollFlags::POLLOUT, deadline) => {}
                Err(errno) => {
                    let error = match errno {
                        Errno::EAGAIN => ErrorKind::Timeout,
                        Errno::ECONNRESET => ErrorKind::Reset,
                        _ => ErrorKind::SendError,
                    };
                    let errno = Some(errno).filter(|errno| *errno != Errno::EAGAIN);
                    return Err(Failure { error, stage: Stage::Send, errno, sent, received: 0 });
                }
            }
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8], deadline: u64) -> Result<Answer, Failure> {
        let mut received = 0_u64;
        // Bytes of the head that are not complete yet, at the front of the buffer.
        let mut held = 0;
        let mut response: Option<Response> = None;
        loop {
            let failed = |error, errno| {
                let stage = if received == 0 { Stage::FirstByte } else { Stage::Body };
                Failure { error, stage, errno, sent: 0, received }
            };
            let room = buffer.get_mut(held..).unwrap_or_default();
            let count = match self.receive_some(room, received == 0, deadline) {
                Ok(0) if response.is_some_and(|response| response.ends_with_close()) => {
                    let status = response.map_or(0, |response| response.status);
                    return Ok(Answer { status, reusable: false, received });
                }
                Ok(0) if received == 0 => return Err(failed(ErrorKind::Eof, None)),
                Ok(0) => return Err(failed(ErrorKind::Truncated, None)),
                Ok(count) => count,
                Err(Errno::EAGAIN) => return Err(failed(ErrorKind::Timeout, None)),
                Err(errno) => return Err(failed(ErrorKind::Reset, Some(errno))),
            };
            received += u64::try_from(count).unwrap_or(0);
            let bad =
                Failure { error: ErrorKind::BadResponse, stage: Stage::Body, errno: None, sent: 0, received };
            let bytes = buffer.get(..held + count).unwrap_or_default();
            if let Some(response) = &mut response {
                response.take(bytes).or(Err(bad))?;
            } else {
                match head_of(bytes).or(Err(bad))? {
                    Head::Whole(head) => {
                        response = Some(head);
                        held = 0;
                    }
                    // The interim responses before it are dropped with the next parse; heads larger than the buffer are refused.
                    Head::Partial if bytes.len() == buffer.len() => return Err(bad),
                    Head::Partial => held = bytes.len(),
                }
            }
            if let Some(response) = response.filter(Response::complete) {
                return Ok(Answer { status: response.status, reusable: response.reusable, received });
            }
        }
    }

    /// Receives what is there, waiting for it until the deadline. The first wait uses the socket's own timeout: no extra call in the common case.
    fn receive_some(&self, room: &mut [u8], first: bool, deadline: u64) -> Result<usize, Errno> {
        if !first && !self.wait(PollFlags::POLLIN, deadline) {
            return Err(Errno::EAGAIN);
        }
        loop {
            match recv(self.socket.as_raw_fd(), room, MsgFlags::empty()) {
                Err(Errno::EINTR) if now_ns() < deadline => {}
                Err(Errno::EINTR) => return Err(Errno::EAGAIN),
                other => return other,
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: u64) -> bool {
        wait(&self.socket, events, deadline)
    }
}

enum Head {
    Whole(Response),
    Partial,
}

/// The final response's head, interim ones passed over, with what follows it already taken.
fn head_of(mut bytes: &[u8]) -> Result<Head, super::response::Bad> {
    loop {
        let Some((mut head, length)) = Response::parse(bytes)? else { return Ok(Head::Partial) };
        let rest = bytes.get(length..).unwrap_or_default();
        if !head.interim() {
            head.take(rest)?;
            return Ok(Head::Whole(head));
        }
        bytes = rest;
    }
}

fn new_socket(config: &Config) -> Result<OwnedFd, LocalError> {
    let family = if config.target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let failed = |call| move |error| LocalError::Call(call, error);
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed("socket"))?;
    let timeval = |timeout: Duration| {
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        TimeVal::new(micros / 1_000_000, micros % 1_000_000)
    };
    setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(failed("SO_REUSEADDR"))?;
    // The send timeout bounds the connect; sends themselves do not block.
    setsockopt(&socket, sockopt::SendTimeout, &timeval(config.connect_timeout))
        .map_err(failed("SO_SNDTIMEO"))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeval(config.timeout)).map_err(failed("SO_RCVTIMEO"))?;
    if config.body > 0 {
        // Only a request of several segments could wait for an acknowledgement.
        setsockopt(&socket, sockopt::TcpNoDelay, &true).map_err(failed("TCP_NODELAY"))?;
    }
    if config.linger0 {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&socket, sockopt::Linger, &linger).map_err(failed("SO_LINGER"))?;
    }
    Ok(socket)
}

fn wait_connected(socket: &OwnedFd, timeout: Duration) -> Result<(), Errno> {
    if !wait(socket, PollFlags::POLLOUT, now_ns().saturating_add(nanos(timeout))) {
        return Err(Errno::ETIMEDOUT);
    }
    match nix::sys::socket::getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

/// Waits for readiness, at most until the deadline; an error on the socket is readiness too.
fn wait(socket: &OwnedFd, events: PollFlags, deadline: u64) -> bool {
    loop {
        let left = Duration::from_nanos(deadline.saturating_sub(now_ns()));
        // Rounded up: a wait of 0 ms would spin until the deadline.
        let left_ms = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        if left_ms == 0 {
            return false;
        }
        let mut fds = [PollFd::new(socket.as_fd(), events)];
        match poll(&mut fds, PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(_) => {}
            Ok(_) => return true,
        }
    }
}

/// What a failed connect says about the target; `None` for trouble of this machine.
#[expect(clippy::wildcard_enum_match_arm, reason = "errno is an open set: any other one is treated alike")]
fn connect_error(errno: Errno) -> Option<ErrorKind> {
    match errno {
        Errno::ECONNREFUSED => Some(ErrorKind::ConnectRefused),
        // A blocking connect whose send timeout has passed ends with EINPROGRESS.
        Errno::EINPROGRESS | Errno::ETIMEDOUT => Some(ErrorKind::ConnectTimeout),
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM => {
            Some(ErrorKind::ConnectUnreachable)
        }
        Errno::ECONNRESET | Errno::ECONNABORTED => Some(ErrorKind::ConnectReset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_idle_connection_is_usable_until_the_server_closes_resets_or_speaks() {
        let close = |stream: TcpStream| drop(stream);
        let reset = |stream: TcpStream| {
            setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
                .expect("a valid option");
        };
        let speak = |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").expect("written");
            std::mem::forget(stream);
        };
        for end in [close as fn(TcpStream), reset, speak] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let config = Config::new(listener.local_addr().expect("an address"));
            let ports = Ports::new(&config).expect("ports");
            let connection =
                Connection::open(&config, &ports).expect("a free source port").expect("connected");
            let (stream, peer) = listener.accept().expect("accepted");
            assert_eq!(peer, connection.local);
            assert!(connection.usable());
            end(stream);
            let deadline = now_ns() + nanos(Duration::from_secs(10));
            while connection.usable() {
                assert!(now_ns() < deadline, "the client sees it");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_request_on_a_reset_connection_fails_before_a_byte_is_sent() {
        for looked in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let config = Config::new(listener.local_addr().expect("an address"));
            let ports = Ports::new(&config).expect("ports");
            let mut connection =
                Connection::open(&config, &ports).expect("a free source port").expect("connected");
            let (stream, _) = listener.accept().expect("accepted");
            setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
                .expect("a valid option");
            drop(stream);
            assert!(
                connection.wait(PollFlags::POLLIN, now_ns() + nanos(Duration::from_secs(10))),
                "the reset arrives"
            );
            // Looking takes the socket's error away; what is left is a broken pipe.
            let (error, errno) = if looked {
                assert!(!connection.usable());
                (ErrorKind::SendError, Errno::EPIPE)
            } else {
                (ErrorKind::Reset, Errno::ECONNRESET)
            };
            let failure = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", &mut [0; 64], config.timeout);
            let expected = Failure { error, stage: Stage::Send, errno: Some(errno), sent: 0, received: 0 };
            assert_eq!(failure, Err(expected));
        }
    }
}
