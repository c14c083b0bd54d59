//! The event loop: accepting, connections, timers and the end.
//!
//! Epoll is level-triggered and the interest is changed only when what a connection waits for changes, so that a keep-alive request costs
//! one wait, one read and one write. New connections are taken after all other events of a turn: a slot freed in a turn is never reused in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Error, ErrorKind};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Backlog, listen};

use crate::connection::{Answers, Buffers, Connection, Waits};
use crate::options::{OnTerm, Options};

const EVENTS_PER_TURN: usize = 256;
/// Epoll tokens beyond any connection's.
const SIGNAL_TOKEN: u64 = u64::MAX;
const FIRST_LISTENER_TOKEN: u64 = 1 << 32;
/// Closed connections' buffers that are kept.
const SPARE_BUFFERS: usize = 256;

/// A connection's place in the table.
#[derive(Debug)]
struct Slot {
    /// Grows with each use of the slot, so that an old timer does not touch the next connection.
    generation: u64,
    connection: Option<Connection>,
    interest: EpollFlags,
}

/// Where the server is in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Until then as before (or stalled), then drain (or exit).
    Lingering(Instant),
    /// Exits with the last connection.
    Draining,
    /// Everything is closed; exits then.
    Waiting(Instant),
}

#[derive(Debug)]
pub(crate) struct Server {
    options: Options,
    epoll: Epoll,
    signal: SignalFd,
    listeners: Vec<TcpListener>,
    accepting: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    spare: Vec<Buffers>,
    answers: Answers,
    phase: Phase,
}

impl Server {
    pub(crate) fn new(options: Options) -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        if options.on_term != OnTerm::Ignore {
            signals.add(Signal::SIGTERM);
            signals.thread_block().context("block SIGTERM")?;
        }
        let signal = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("signalfd")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        epoll.add(&signal, EpollEvent::new(EpollFlags::EPOLLIN, SIGNAL_TOKEN))?;
        let mut listeners = Vec::new();
        for address in &options.listen {
            let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
            // The standard library chose its own queue length; listen(2) again sets ours.
            listen(&listener, Backlog::new(options.backlog).context("backlog")?)?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let hello = format!("hello from {}\n", options.name).into_bytes();
        let answers = Answers { hello, ready: true, closing: false, stalled: false };
        let mut server = Self {
            options,
            epoll,
            signal,
            listeners,
            accepting: false,
            slots: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            spare: Vec::new(),
            answers,
            phase: Phase::Serving,
        };
        server.set_accepting(true)?;
        Ok(server)
    }

    /// Serves until the end that the options name; returns when the process has to exit with 0.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll_wait"),
            };
            let (mut acceptable, mut stop) = (false, false);
            for event in &events[..count] {
                match event.data() {
                    SIGNAL_TOKEN => stop = self.signal.read_signal()?.is_some(),
                    FIRST_LISTENER_TOKEN.. => acceptable = true,
                    token => self.on_event(usize::try_from(token)?, event.events())?,
                }
            }
            self.fire_timers()?;
            if acceptable && self.accepting {
                self.accept()?;
            }
            if stop && self.phase == Phase::Serving && self.on_term()?.is_break() {
                return Ok(());
            }
            if self.on_phase()?.is_break() {
                return Ok(());
            }
        }
    }

    /// Until the next timer or the end of the phase, rounded up so that nothing is early.
    fn timeout(&self) -> EpollTimeout {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let phase = match self.phase {
            Phase::Lingering(until) | Phase::Waiting(until) => Some(until),
            Phase::Serving | Phase::Draining => None,
        };
        let Some(next) = timer.into_iter().chain(phase).min() else { return EpollTimeout::NONE };
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn on_event(&mut self, index: usize, events: EpollFlags) -> anyhow::Result<()> {
        let Some(connection) = self.slots[index].connection.as_mut() else { return Ok(()) };
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let waits = if broken {
            Waits::Closed
        } else {
            connection.drive(&mut self.answers, events.contains(EpollFlags::EPOLLIN))
        };
        self.settle(index, waits)
    }

    /// Brings epoll and the timers in line with what the connection waits for.
    fn settle(&mut self, index: usize, waits: Waits) -> anyhow::Result<()> {
        let reads = if self.reads_stalled() { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let slot = &mut self.slots[index];
        let wanted = match waits {
            Waits::Closed => {
                if let Some(connection) = slot.connection.take() {
                    let buffers = connection.into_buffers();
                    self.free.push(index);
                    if self.spare.len() < SPARE_BUFFERS {
                        self.spare.push(buffers);
                    }
                }
                slot.generation += 1;
                if !self.accepting && self.phase == Phase::Serving {
                    self.set_accepting(true)?;
                }
                return Ok(());
            }
            Waits::Readable => reads,
            Waits::Writable => EpollFlags::EPOLLOUT,
            Waits::Until(at) => {
                self.timers.push(Reverse((at, index, slot.generation)));
                EpollFlags::empty()
            }
        };
        let slot = &mut self.slots[index];
        if let Some(connection) = &slot.connection
            && slot.interest != wanted
        {
            slot.interest = wanted;
            self.epoll.modify(connection.stream(), &mut EpollEvent::new(wanted, u64::try_from(index)?))?;
        }
        Ok(())
    }

    fn reads_stalled(&self) -> bool {
        self.options.stall_reads && matches!(self.phase, Phase::Lingering(_))
    }

    fn closes_accepted(&self) -> bool {
        self.options.close_accepted_after_term && matches!(self.phase, Phase::Lingering(_))
    }

    fn fire_timers(&mut self) -> anyhow::Result<()> {
        while let Some(Reverse((at, index, generation))) = self.timers.peek().copied() {
            if Instant::now() < at {
                break;
            }
            self.timers.pop();
            let slot = &mut self.slots[index];
            if slot.generation == generation
                && let Some(connection) = slot.connection.as_mut()
            {
                let waits = connection.drive(&mut self.answers, false);
                self.settle(index, waits)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        for listener in 0..self.listeners.len() {
            loop {
                if self.slots.len() - self.free.len() >= self.options.max_connections {
                    return self.set_accepting(false);
                }
                match self.listeners[listener].accept() {
                    Ok(_) if self.closes_accepted() => {}
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true)?;
                        let buffers = self.spare.pop().unwrap_or_default();
                        self.admit(Connection::new(stream, buffers))?;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => return Err(error).context("accept"),
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, connection: Connection) -> anyhow::Result<()> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, connection: None, interest: EpollFlags::empty() });
            self.slots.len() - 1
        });
        let interest = if self.reads_stalled() { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        self.epoll.add(connection.stream(), EpollEvent::new(interest, u64::try_from(index)?))?;
        let slot = &mut self.slots[index];
        slot.connection = Some(connection);
        slot.interest = interest;
        Ok(())
    }

    /// The listeners stay open; whether new connections are taken from them changes.
    fn set_accepting(&mut self, accepting: bool) -> anyhow::Result<()> {
        if self.accepting == accepting {
            return Ok(());
        }
        self.accepting = accepting;
        for (token, listener) in (FIRST_LISTENER_TOKEN..).zip(&self.listeners) {
            if accepting {
                self.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            } else {
                self.epoll.delete(listener)?;
            }
        }
        Ok(())
    }

    fn on_term(&mut self) -> anyhow::Result<ControlFlow<()>> {
        if self.options.unready_on_term {
            self.answers.ready = false;
        }
        match self.options.on_term {
            OnTerm::Exit => return Ok(ControlFlow::Break(())),
            OnTerm::Ignore => {}
            OnTerm::Drain => self.drain()?,
            OnTerm::CloseThenWait(time) => {
                self.listeners.clear();
                self.accepting = false;
                for index in 0..self.slots.len() {
                    self.settle(index, Waits::Closed)?;
                }
                self.phase = Phase::Waiting(Instant::now() + time);
            }
            OnTerm::Linger(time) => {
                self.phase = Phase::Lingering(Instant::now() + time);
                self.answers.stalled = self.options.stall_answers;
                if self.options.no_accept_after_term {
                    self.set_accepting(false)?;
                }
                if self.options.stall_reads || self.options.stall_answers {
                    self.drive_all(false)?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_phase(&mut self) -> anyhow::Result<ControlFlow<()>> {
        match self.phase {
            Phase::Lingering(until) if Instant::now() >= until => {
                if self.options.stalls() {
                    return Ok(ControlFlow::Break(()));
                }
                self.drain()?;
            }
            Phase::Waiting(until) if Instant::now() >= until => return Ok(ControlFlow::Break(())),
            Phase::Serving | Phase::Lingering(_) | Phase::Draining | Phase::Waiting(_) => {}
        }
        let drained = self.phase == Phase::Draining && self.free.len() == self.slots.len();
        Ok(if drained { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Closes the listeners, then every connection that is idle even after one more look for a request; the others close with their answer.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.phase = Phase::Draining;
        self.listeners.clear();
        self.accepting = false;
        self.answers.closing = true;
        self.drive_all(true)
    }

    fn drive_all(&mut self, readable: bool) -> anyhow::Result<()> {
        for index in 0..self.slots.len() {
            if let Some(connection) = self.slots[index].connection.as_mut() {
                let mut waits = connection.drive(&mut self.answers, readable);
                if waits == Waits::Readable && self.phase == Phase::Draining && connection.is_idle() {
                    waits = Waits::Closed;
                }
                self.settle(index, waits)?;
            }
        }
        Ok(())
    }
}

/// Errors of accept(2) that concern the connection that would have been accepted, not the listener.
fn is_of_one_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
