//! A client's turn on a connection: requests out, then their answers in, one after the other. It does not read while it writes.
//!
//! A turn of one request in steady state costs one send and one receive. Slow clients wait between pieces; that is all that makes them slow.

use std::ops::Range;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use super::attempt::{ErrorKind, Stage};
use super::clock::{nanos, now_ns, sleep_until};
use super::config::Config;
use super::connection::{Connection, Failure};
use super::request::{Request, due_ns, piece_size};
use super::response::{Bad, Response};
use super::tls::Plain;

/// What is received of TLS at a time: no more than rustls takes in one go, so that it never holds more plain bytes than it wants to.
const RECORD_BYTES: usize = 4096;

/// A complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reusable: bool,
    pub(super) received: u64,
}

/// A turn under way.
pub(super) struct Exchange<'a> {
    connection: &'a mut Connection,
    buffer: &'a mut [u8],
    /// Received and not yet used: a range of the buffer.
    held: Range<usize>,
    /// When it began, and the bound on all of it.
    begun_ns: u64,
    deadline_ns: u64,
    redis: bool,
    read_rate: Option<u64>,
    /// The first byte of the first answer, and what has come since.
    first_ns: u64,
    received: usize,
    /// So far nothing but the send took time: the socket's own timeout is as good as the deadline.
    fresh: bool,
}

impl<'a> Exchange<'a> {
    /// Begins now.
    pub(super) fn new(connection: &'a mut Connection, buffer: &'a mut [u8], config: &Config) -> Self {
        let begun_ns = now_ns();
        Self {
            connection,
            buffer,
            held: 0..0,
            begun_ns,
            deadline_ns: begun_ns.saturating_add(nanos(config.timeout)),
            redis: config.redis.is_some(),
            read_rate: config.read_rate,
            first_ns: 0,
            received: 0,
            fresh: true,
        }
    }

    /// Nothing came after the last answer.
    pub(super) fn is_clean(&self) -> bool {
        self.held.is_empty()
    }

    /// Sends `count` requests at once.
    pub(super) fn send(&mut self, request: &Request, count: usize) -> Result<(), Failure> {
        let mut sent = 0;
        while let Some(piece) = request.piece(sent, count) {
            if piece.due_ns > 0 {
                self.fresh = false;
                pause(self.begun_ns.saturating_add(piece.due_ns), self.deadline_ns);
            }
            match &mut self.connection.tls {
                None => {
                    sent += self
                        .send_piece(piece.bytes)
                        .map_err(|failure| Failure { sent: sent + failure.sent, ..failure })?;
                }
                Some(tls) => {
                    tls.write(piece.bytes);
                    self.send_records().map_err(|failure| Failure { sent, ..failure })?;
                    sent += piece.bytes.len();
                }
            }
        }
        Ok(())
    }

    /// Sends what TLS has ready; the first time that is after its handshake.
    fn send_records(&mut self) -> Result<(), Failure> {
        loop {
            let Some(tls) = &mut self.connection.tls else { return Ok(()) };
            let wire = tls.take_wire();
            let is_handshaking = tls.is_handshaking();
            self.send_piece(&wire)?;
            if !is_handshaking {
                return Ok(());
            }
            self.fresh = false;
            let failed = |error, errno| Failure { error, stage: Stage::Send, errno, sent: 0, received: 0 };
            match self.receive_records() {
                Ok(true) => {}
                Ok(false) => return Err(failed(ErrorKind::Eof, None)),
                Err(Errno::EAGAIN) => return Err(failed(ErrorKind::Timeout, None)),
                Err(Errno::EPROTO) => return Err(failed(ErrorKind::BadResponse, None)),
                Err(errno) => return Err(failed(ErrorKind::Reset, Some(errno))),
            }
        }
    }

    /// Receives what there is for TLS; false at the end of the connection.
    fn receive_records(&mut self) -> Result<bool, Errno> {
        let mut wire = [0; RECORD_BYTES];
        let count = self.receive_bytes(&mut wire)?;
        let Some(tls) = &mut self.connection.tls else { return Ok(false) };
        tls.give_wire(wire.get(..count).unwrap_or_default()).or(Err(Errno::EPROTO))?;
        Ok(count > 0)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "errno is an open set: any other one is treated alike"
    )]
    fn send_piece(&self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.connection.socket().as_raw_fd(), rest, flags) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.connection.wait(PollFlags::POLLOUT, self.deadline_ns) => {}
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
        Ok(sent)
    }

    /// Receives the next answer.
    pub(super) fn receive(&mut self) -> Result<Answer, Failure> {
        // Bytes of this answer that are used already; what is held of it comes on top.
        let mut used = 0;
        let mut response: Option<Response> = None;
        loop {
            match self.take(&mut response) {
                Ok(count) => used += count,
                Err(Bad) => return Err(self.failure(ErrorKind::BadResponse, None, used)),
            }
            if let Some(Response { status, reusable, .. }) = response.filter(Response::complete) {
                return Ok(Answer { status, reusable, received: count(used) });
            }
            match self.receive_some() {
                Ok(0) if response.is_some_and(|response| response.ends_with_close()) => {
                    let status = response.map_or(0, |response| response.status);
                    return Ok(Answer { status, reusable: false, received: count(used) });
                }
                Ok(0) if used + self.held.len() == 0 => return Err(self.failure(ErrorKind::Eof, None, used)),
                Ok(0) => return Err(self.failure(ErrorKind::Truncated, None, used)),
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Err(self.failure(ErrorKind::Timeout, None, used)),
                Err(Errno::EPROTO) => return Err(self.failure(ErrorKind::BadResponse, None, used)),
                Err(errno) => return Err(self.failure(ErrorKind::Reset, Some(errno), used)),
            }
        }
    }

    fn failure(&self, error: ErrorKind, errno: Option<Errno>, used: usize) -> Failure {
        let received = used + self.held.len();
        let stage = if received == 0 { Stage::FirstByte } else { Stage::Body };
        Failure { error, stage, errno, sent: 0, received: count(received) }
    }

    /// Uses what is held for this answer; gives how many bytes that were. What is left belongs to the next one, or is the start of a head.
    fn take(&mut self, response: &mut Option<Response>) -> Result<usize, Bad> {
        let mut rest = self.buffer.get(self.held.clone()).unwrap_or_default();
        let before = rest.len();
        while response.is_none() {
            let parsed = if self.redis { Response::parse_redis(rest) } else { Response::parse(rest) };
            let Some((head, length)) = parsed? else { break };
            rest = rest.get(length..).unwrap_or_default();
            // Interim responses are passed over.
            *response = Some(head).filter(|head| !head.interim());
        }
        if let Some(response) = response {
            rest = response.take(rest)?;
        } else if rest.len() == self.buffer.len() {
            return Err(Bad);
        }
        let used = before - rest.len();
        self.held.start += used;
        Ok(used)
    }

    /// Receives what is there behind what is held, waiting for it until the deadline.
    fn receive_some(&mut self) -> Result<usize, Errno> {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        let mut room = self.held.end..self.buffer.len();
        if let Some(rate) = self.read_rate {
            room.end = room.end.min(room.start.saturating_add(piece_size(rate)));
            if self.received > 0 {
                let due = self.first_ns.saturating_add(due_ns(self.received, rate));
                pause(due, self.deadline_ns);
            }
        }
        // Lent out, so that the rest of the exchange can be used meanwhile.
        let buffer = std::mem::take(&mut self.buffer);
        let received = self.receive_plain(buffer.get_mut(room).unwrap_or_default());
        self.buffer = buffer;
        let count = received?;
        if self.read_rate.is_some() && self.received == 0 {
            self.first_ns = now_ns();
        }
        self.received += count;
        self.held.end += count;
        Ok(count)
    }

    /// Receives bytes of answers.
    fn receive_plain(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match self.connection.tls.as_mut().map(|tls| tls.read(room)) {
                None => return self.receive_bytes(room),
                Some(Plain::Some(count)) => return Ok(count),
                Some(Plain::End) => return Ok(0),
                Some(Plain::None) => {
                    self.receive_records()?;
                }
            }
        }
    }

    /// Receives bytes of the wire. Without a pause so far the wait uses the socket's own timeout: no extra call in the common case.
    fn receive_bytes(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        if !self.fresh && !self.connection.wait(PollFlags::POLLIN, self.deadline_ns) {
            return Err(Errno::EAGAIN);
        }
        self.fresh = false;
        loop {
            match recv(self.connection.socket().as_raw_fd(), room, MsgFlags::empty()) {
                Err(Errno::EINTR) if now_ns() < self.deadline_ns => {}
                Err(Errno::EINTR) => return Err(Errno::EAGAIN),
                other => return other,
            }
        }
    }
}

/// Sleeps until the earlier of the two.
fn pause(moment_ns: u64, deadline_ns: u64) {
    let until_ns = moment_ns.min(deadline_ns);
    while now_ns() < until_ns {
        sleep_until(until_ns);
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
