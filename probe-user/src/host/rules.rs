//! When this node's service proxy takes an address out of its rules: kube-proxy in its nftables mode, by the kernel's
//! notifications of its transactions. Nothing is polled. What is heard is stamped on receipt, for the kernel tells no
//! moment. Other data planes are not followed: [`State`] says so, and the traffic tail stands alone.
//!
//! Lost notifications are counted, and the set is read anew; what went meanwhile went at a moment that nobody knows.

mod message;
mod socket;
mod table;

use crate::clock::mono_now;
use message::{Family, Message};
use probe_core::event::{Anomaly, Event, Fact};
use probe_core::time::Mono;
use socket::{Socket, SocketError};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use table::{Full, Table};
use tokio::sync::mpsc;

/// Before the next try, after an error that is not likely to pass at once.
const RETRY: Duration = Duration::from_secs(30);

const NOT_VISIBLE: &str = "no nftables table kube-proxy with a set hairpin-connections: another data plane, or \
                           another mode of kube-proxy";

/// Whether the proxy's rules are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not asked for.
    #[default]
    Disabled,
    /// They are.
    Active,
    /// There is nothing to follow, or not the permission to: why.
    Unsupported(String),
    /// They should be: why they are not.
    Failed(String),
}

/// The state, shared with the servers.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<Mutex<State>>);

impl Watched {
    /// How it is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn set_visible(&self, visible: bool) {
        self.set(if visible { State::Active } else { State::Unsupported(NOT_VISIBLE.to_owned()) });
    }
}

/// Follows the rules, in a thread of its own: what is heard is stamped however busy the agent's other tasks are. It ends
/// with the driver. `buffer` bounds what the kernel keeps for it.
pub fn start(sink: mpsc::Sender<Event>, watched: Watched, buffer: usize) -> io::Result<()> {
    let run = move || run(&sink, &watched, buffer);
    thread::Builder::new().name("proxy-rules".to_owned()).spawn(run).map(drop)
}

fn run(sink: &mpsc::Sender<Event>, watched: &Watched, buffer: usize) {
    loop {
        match follow(sink, watched, buffer) {
            End::Missed(why) => {
                tracing::warn!(%why, "the service proxy's rules are read anew");
                watched.set(State::Failed(why.to_string()));
                if tell(sink, Fact::Anomaly { kind: Anomaly::RulesMissed, count: 1 }).is_err() {
                    return;
                }
            }
            End::NotAllowed => {
                let why = SocketError::NotAllowed.to_string();
                tracing::warn!(why, "the service proxy's rules are not followed");
                watched.set(State::Unsupported(why));
                return;
            }
            End::Failed(why) => {
                tracing::warn!(why, "the service proxy's rules are not followed for now");
                watched.set(State::Failed(why));
                // Whatever was used may have gone.
                if tell(sink, Fact::RulesRead { addresses: Vec::new() }).is_err() {
                    return;
                }
                thread::sleep(RETRY);
            }
            End::Ending => return,
        }
    }
}

/// Why the rules are not followed any more.
enum End {
    /// Something was lost: begin anew.
    Missed(SocketError),
    /// For good.
    NotAllowed,
    /// Try again later.
    Failed(String),
    /// The core takes no more facts.
    Ending,
}

impl From<SocketError> for End {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Overrun => Self::Missed(error),
            SocketError::NotAllowed => Self::NotAllowed,
            SocketError::Io(_) | SocketError::Unread => Self::Failed(error.to_string()),
        }
    }
}

impl From<Full> for End {
    fn from(_: Full) -> Self {
        Self::Failed("more endpoints on this node than are followed".to_owned())
    }
}

fn follow(sink: &mpsc::Sender<Event>, watched: &Watched, buffer: usize) -> End {
    match try_follow(sink, watched, buffer) {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

fn try_follow(sink: &mpsc::Sender<Event>, watched: &Watched, buffer: usize) -> Result<Infallible, End> {
    // Listens before it reads: what is heard of a change that had been read already changes nothing.
    let mut socket = Socket::listening(buffer)?;
    let mut table = Table::default();
    for family in Family::ALL {
        if let Some(found) = socket::read(family)? {
            table.take(Message::SetMade(family))?;
            for message in found {
                table.take(message)?;
            }
        }
    }
    table.take(Message::Committed)?;
    watched.set_visible(table.is_visible());
    tell(sink, Fact::RulesRead { addresses: table.addresses() })?;
    loop {
        let heard = socket.receive()?;
        let at = mono_now();
        for message in heard.into_iter().flatten() {
            let is_end = message == Message::Committed;
            for (address, used) in table.take(message)? {
                tell_at(sink, at, Fact::Rules { address, used })?;
            }
            if is_end {
                watched.set_visible(table.is_visible());
            }
        }
        if sink.is_closed() {
            return Err(End::Ending);
        }
    }
}

fn tell(sink: &mpsc::Sender<Event>, fact: Fact) -> Result<(), End> {
    tell_at(sink, mono_now(), fact)
}

/// Waits while the core has no room: meanwhile the kernel keeps what it can, and tells what it cannot.
fn tell_at(sink: &mpsc::Sender<Event>, at: Mono, fact: Fact) -> Result<(), End> {
    sink.blocking_send(Event { at, fact }).map_err(|_closed| End::Ending)
}
