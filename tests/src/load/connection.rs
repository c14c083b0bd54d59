//! One TCP connection of a client: bind, connect, look, wait, each a plain system call with a bound. What is sent and received on it is
//! [`super::exchange`]'s.
//!
//! Failures come back as what happened and how far it had come; only local trouble, which says nothing about the target, is an error.

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
use super::tls::Tls;

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

/// A connected socket; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    pub(super) local: SocketAddr,
    /// Requests sent so far.
    pub(super) requests: u32,
    /// Its state, if it speaks TLS.
    pub(super) tls: Option<Tls>,
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
            let (socket, local) = bound(config, ports)?;
            let connected = match connect(socket.as_raw_fd(), &remote) {
                // A signal leaves the connect under way; going on with it is no second attempt.
                Err(Errno::EINTR) => wait_connected(&socket, config.connect_timeout),
                other => other,
            };
            return match connected {
                Ok(()) => Ok(Ok(Self { socket, local, requests: 0, tls: None })),
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

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Waits for readiness, at most until the deadline; an error on the socket is readiness too.
    pub(super) fn wait(&self, events: PollFlags, deadline: u64) -> bool {
        wait(&self.socket, events, deadline)
    }
}

impl Drop for Connection {
    /// With TLS the last word is a close_notify, as most clients have it. Nobody waits for it to be sent.
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            let _sent = send(self.socket.as_raw_fd(), &tls.take_wire(), flags);
        }
    }
}

/// A socket with the next source port that nothing else holds.
pub(super) fn bound(config: &Config, ports: &Ports) -> Result<(OwnedFd, SocketAddr), LocalError> {
    for _ in 0..ports.pairs() {
        let local = ports.next();
        let socket = new_socket(config)?;
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
            Ok(()) => return Ok((socket, local)),
            Err(Errno::EADDRINUSE) => {}
            Err(error) => return Err(LocalError::Call("bind", error)),
        }
    }
    Err(LocalError::NoPort)
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
    let is_plain = config.body == 0 && config.pipeline == 1 && config.write_rate.is_none() && !config.tls;
    if !is_plain || config.streams > 0 {
        // Only what takes several segments could wait for an acknowledgement.
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
pub(super) fn connect_error(errno: Errno) -> Option<ErrorKind> {
    match errno {
        Errno::ECONNREFUSED => Some(ErrorKind::ConnectRefused),
        // A blocking connect whose send timeout has passed ends with EINPROGRESS.
        Errno::EINPROGRESS | Errno::ETIMEDOUT => Some(ErrorKind::ConnectTimeout),
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM => {
            Some(ErrorKind::ConnectUnreachable)
        }
        // A connection that is made while its listener closes ends with a FIN and a reset: EPIPE.
        Errno::ECONNRESET | Errno::ECONNABORTED | Errno::EPIPE => Some(ErrorKind::ConnectReset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::super::exchange::Exchange;
    use super::super::request::Request;
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
            let mut buffer = [0; 64];
            let failure =
                Exchange::new(&mut connection, &mut buffer, &config).send(&Request::new(&config, true), 1);
            let expected = Failure { error, stage: Stage::Send, errno: Some(errno), sent: 0, received: 0 };
            assert_eq!(failure, Err(expected));
        }
    }
}
