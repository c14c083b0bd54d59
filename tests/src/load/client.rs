//! One client: waits until it is due, makes one attempt (or, pipelining, several at once), records it, goes on. It never repeats an attempt.
//!
//! With a rate the schedule is fixed at the start and does not wait for the server: a late client works off its slots at once, and latency is also
//! measured from the moment that was due.

use super::attempt::{Attempt, ClientKind, ErrorKind, Stage};
use super::clock::{now_ns, sleep_until};
use super::config::Config;
use super::connection::{Connection, Failure};
use super::exchange::Exchange;
use super::http2;
use super::log::Writer;
use super::request::Request;
use super::run::{Live, LoadError, Shared};
use super::tally::Tally;

/// Head of a response at most; bodies pass through in pieces of this size.
const BUFFER_BYTES: usize = 64 * 1024;

/// How late a waiting client may notice that the run has been stopped.
pub(super) const STOP_LATENCY_NS: u64 = 50_000_000;

/// When the requests of a fixed schedule are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) next_ns: u64,
    pub(super) interval_ns: u64,
}

pub(super) struct Client<'a> {
    pub(super) config: &'a Config,
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Live,
    pub(super) id: u32,
    pub(super) kind: ClientKind,
    pub(super) schedule: Option<Schedule>,
    pub(super) log: Writer,
    pub(super) tally: Tally,
}

impl Client<'_> {
    /// Runs until the end of the run; the last attempt is finished, within its timeouts.
    pub(super) fn run(mut self) -> Result<Tally, LoadError> {
        if self.config.streams > 0 {
            return http2::run(self);
        }
        let request = Request::new(self.config, self.kind == ClientKind::Keepalive);
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut kept = None;
        while let Some(due_ns) = self.next_turn() {
            self.turn(&mut kept, &request, &mut buffer, due_ns)?;
        }
        self.log.flush()?;
        Ok(self.tally)
    }

    pub(super) fn record(&mut self, attempt: &Attempt) -> Result<(), LoadError> {
        self.tally.record(attempt);
        self.live.count(attempt.ok());
        if self.config.log_all || !attempt.ok() {
            self.log.write(attempt)?;
        }
        Ok(())
    }

    /// Waits for the next turn: `Some(None)` in a closed loop, `Some(due)` by schedule, `None` at the end of the run.
    fn next_turn(&mut self) -> Option<Option<u64>> {
        let due_ns = self.due_ns();
        while due_ns < self.shared.end_ns() && now_ns() < due_ns {
            sleep_until(due_ns.min(now_ns() + STOP_LATENCY_NS));
        }
        self.take_turn()
    }

    /// When the next turn is due: 0 in a closed loop.
    pub(super) fn due_ns(&self) -> u64 {
        self.schedule.map_or(0, |schedule| schedule.next_ns)
    }

    /// Takes the turn that is due, as [`Self::next_turn`] gives it.
    pub(super) fn take_turn(&mut self) -> Option<Option<u64>> {
        let end_ns = self.shared.end_ns();
        if now_ns() >= end_ns || self.due_ns() >= end_ns {
            if let Some(schedule) = &self.schedule {
                let missed = end_ns.saturating_sub(schedule.next_ns).div_ceil(schedule.interval_ns);
                self.tally.unsent += missed;
            }
            return None;
        }
        if !self.shared.take_ticket() {
            return None;
        }
        let due_ns = self.schedule.map(|schedule| schedule.next_ns);
        if let Some(schedule) = &mut self.schedule {
            schedule.next_ns += schedule.interval_ns;
        }
        Some(due_ns)
    }

    /// An attempt that begins now.
    pub(super) fn begin(&self, due_ns: Option<u64>) -> Attempt {
        let now_ns = now_ns();
        Attempt {
            t_ns: now_ns,
            start_ns: now_ns,
            end_ns: now_ns,
            due_ns,
            client: self.id,
            kind: self.kind,
            local: self.config.target,
            remote: self.config.target,
            nth: 1,
            status: None,
            error: None,
            stage: None,
            sent: 0,
            received: 0,
            errno: None,
        }
    }

    /// One attempt, or as many as are sent at once.
    fn turn(
        &mut self,
        kept: &mut Option<Connection>,
        request: &Request,
        buffer: &mut [u8],
        due_ns: Option<u64>,
    ) -> Result<(), LoadError> {
        let mut attempt = self.begin(due_ns);
        if !self.config.blind && kept.as_ref().is_some_and(|connection| !connection.usable()) {
            self.tally.found_closed += 1;
            *kept = None;
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(self.config, self.shared.ports())? {
                Ok(mut connection) => {
                    self.tally.connections += 1;
                    connection.tls = self.shared.tls(self.config.target)?;
                    attempt.t_ns = now_ns();
                    connection
                }
                Err((local, failure)) => {
                    attempt.local = local;
                    fail(&mut attempt, failure);
                    return self.record(&attempt);
                }
            },
        };
        attempt.local = connection.local;
        attempt.nth = connection.requests.saturating_add(1);
        let count = self.at_once();
        let reusable = self.exchange(&mut connection, request, count, buffer, attempt)?;
        if reusable && self.kind == ClientKind::Keepalive {
            connection.requests = connection.requests.saturating_add(count);
            *kept = Some(connection);
        }
        Ok(())
    }

    /// Requests of this turn: its own, and with pipelining as many more as may still begin.
    fn at_once(&self) -> u32 {
        let most = if self.kind == ClientKind::Keepalive { self.config.pipeline } else { 1 };
        1 + u32::try_from((1..most).take_while(|_| self.shared.take_ticket()).count()).unwrap_or(0)
    }

    /// Sends `count` requests, reads their answers and records each; whether another turn may follow on the connection. After a failure
    /// nothing more comes: the rest fail with it.
    fn exchange(
        &mut self,
        connection: &mut Connection,
        request: &Request,
        count: u32,
        buffer: &mut [u8],
        first: Attempt,
    ) -> Result<bool, LoadError> {
        let mut exchange = Exchange::new(connection, buffer, self.config);
        let mut failed = exchange.send(request, usize::try_from(count).unwrap_or(1)).err();
        let mut reusable = true;
        for index in 0..count {
            let mut attempt = Attempt { nth: first.nth.saturating_add(index), ..first };
            let outcome = match failed {
                Some(failure) => Err(failure),
                None => exchange.receive(),
            };
            match outcome {
                Ok(answer) => {
                    reusable &= answer.reusable;
                    attempt.end_ns = now_ns();
                    attempt.status = Some(answer.status);
                    attempt.sent = u64::try_from(request.length()).unwrap_or(u64::MAX);
                    attempt.received = answer.received;
                }
                Err(failure) => {
                    let of_this_one = match failure.stage {
                        Stage::Send => Failure { sent: failure.sent.min(request.length()), ..failure },
                        Stage::Connect | Stage::FirstByte | Stage::Body => {
                            Failure { sent: request.length(), ..failure }
                        }
                    };
                    fail(&mut attempt, of_this_one);
                    failed = Some(after(failure, request.length()));
                }
            }
            self.record(&attempt)?;
        }
        Ok(reusable && failed.is_none() && exchange.is_clean())
    }
}

/// How the next request fails that was sent together with one that failed: nothing of its answer came.
fn after(failure: Failure, length: usize) -> Failure {
    if failure.stage == Stage::Send {
        return Failure { sent: failure.sent.saturating_sub(length), ..failure };
    }
    let error = if failure.error == ErrorKind::Truncated { ErrorKind::Eof } else { failure.error };
    Failure { error, stage: Stage::FirstByte, received: 0, ..failure }
}

pub(super) fn fail(attempt: &mut Attempt, failure: Failure) {
    attempt.end_ns = now_ns();
    attempt.error = Some(failure.error);
    attempt.stage = Some(failure.stage);
    attempt.errno = failure.errno.map(|errno| errno as i32);
    attempt.sent = u64::try_from(failure.sent).unwrap_or(u64::MAX);
    attempt.received = failure.received;
}
