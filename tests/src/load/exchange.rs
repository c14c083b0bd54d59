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

/// A complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reusable: bool,
    pub(super) received: u64,
}

/// A turn under way.
pub(super) struct Exchange<'a> {
    connection: &'a Connection,
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
    pub(super) fn new(connection: &'a Connection, buffer: &'a mut [u8], config: &Config) -> Self {
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
            sent += self
                .send_piece(piece.bytes)
                .map_err(|failure| Failure { sent: sent + failure.sent, ..failure })?;
        }
        Ok(())
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

    /// Receives what is there behind what is held, waiting for it until the deadline. Without a pause so far the wait uses the socket's own
    /// timeout: no extra call in the common case.
    fn receive_some(&mut self) -> Result<usize, Errno> {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        let mut room = self.buffer.get_mut(self.held.end..).unwrap_or_default();
        if let Some(rate) = self.read_rate {
            let size = piece_size(rate).min(room.len());
            room = room.get_mut(..size).unwrap_or_default();
            if self.received > 0 {
                let due = self.first_ns.saturating_add(due_ns(self.received, rate));
                pause(due, self.deadline_ns);
            }
        }
        if !self.fresh && !self.connection.wait(PollFlags::POLLIN, self.deadline_ns) {
            return Err(Errno::EAGAIN);
        }
        let count = loop {
            match recv(self.connection.socket().as_raw_fd(), room, MsgFlags::empty()) {
                Err(Errno::EINTR) if now_ns() < self.deadline_ns => {}
                Err(Errno::EINTR) => return Err(Errno::EAGAIN),
                other => break other?,
            }
        };
        if self.read_rate.is_some() && self.received == 0 {
            self.first_ns = now_ns();
        }
        self.fresh = false;
        self.received += count;
        self.held.end += count;
        Ok(count)
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
