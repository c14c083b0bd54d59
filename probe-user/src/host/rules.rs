//! When this node's service proxy takes an address out of its rules: kube-proxy in its nftables mode, by the kernel's
//! notifications of its transactions. Nothing is polled. What is heard is stamped on receipt, for the kernel tells no
//! moment. Other data planes are not followed: [`State`] says so, and the traffic tail stands alone.
//!
//! Lost notifications are counted, and the set is read anew; what went meanwhile went at a moment that nobody knows.

pub(crate) mod message;
pub(crate) mod socket;
mod table;
mod targets;

use crate::clock::{mono_now, unix_now_ns};
use crate::feature::State;
use message::{Element, Family, Message};
use probe_core::event::{Anomaly, Event, Fact};
use probe_core::time::Mono;
use probe_core::wallclock::Timestamp;
use serde::Serialize;
use socket::{Socket, SocketError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use table::{Full, Table};
use targets::Targets;
use tokio::sync::mpsc;

/// Removed endpoints that are kept.
const REMOVALS: usize = 4096;
/// Before the rules are read anew: what cannot be read would otherwise be tried without a pause.
const ANEW: Duration = Duration::from_secs(1);
/// Before the next try, after an error that is not likely to pass at once.
const RETRY: Duration = Duration::from_secs(30);

const NOT_VISIBLE: &str = "no nftables table kube-proxy with a set hairpin-connections: another data plane, or \
                           another mode of kube-proxy";

/// An endpoint that the rules ceased to send connections to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Its address, on whatever node.
    pub address: IpAddr,
    /// Its port.
    pub port: Option<u16>,
    /// When, by this node's clock.
    pub at: Timestamp,
}

/// What the rules ceased to send connections to, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removals {
    /// The newest of them.
    pub items: Vec<Removal>,
    /// From here on each is among them; `null` if the rules are not followed.
    pub complete_since: Option<Timestamp>,
}

/// State and removals, shared with the servers.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    removals: VecDeque<Removal>,
    complete_since: Option<Timestamp>,
}

impl Watched {
    /// How it is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// What was removed.
    #[must_use]
    pub fn removals(&self) -> Removals {
        let inner = self.lock();
        Removals {
            items: inner.removals.iter().rev().copied().collect(),
            complete_since: inner.complete_since,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is followed, for this reason.
    fn stop(&self, state: State) {
        let mut inner = self.lock();
        (inner.state, inner.complete_since) = (state, None);
    }

    /// Whether there is what is followed: kube-proxy's set, and not too many endpoints.
    fn follow(&self, is_visible: bool, has_targets: bool) {
        let mut inner = self.lock();
        inner.state = if is_visible { State::Active } else { State::Unsupported(NOT_VISIBLE.to_owned()) };
        if is_visible && has_targets {
            inner.complete_since.get_or_insert_with(|| Timestamp(unix_now_ns()));
        } else {
            inner.complete_since = None;
        }
    }

    fn removed(&self, unix_ns: i64, endpoints: Vec<Element>) {
        if endpoints.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for Element { address, port } in endpoints {
            if inner.removals.len() == REMOVALS {
                let oldest = inner.removals.pop_front();
                // Others of the same moment may go with it.
                if let (Some(oldest), Some(since)) = (oldest, &mut inner.complete_since) {
                    *since = (*since).max(Timestamp(oldest.at.0.saturating_add(1)));
                }
            }
            inner.removals.push_back(Removal { address, port, at: Timestamp(unix_ns) });
        }
    }
}

/// Follows the rules, in a thread of its own: what is heard is stamped however busy the agent's other tasks are. It ends
/// with the driver. `buffer` bounds what the kernel keeps for it.
pub fn start(sink: mpsc::Sender<Event>, watched: Watched, buffer: usize) -> io::Result<()> {
    watched.stop(State::Failed("not read yet".to_owned()));
    let run = move || run(&sink, &watched, buffer);
    thread::Builder::new().name("proxy-rules".to_owned()).spawn(run).map(drop)
}

fn run(sink: &mpsc::Sender<Event>, watched: &Watched, buffer: usize) {
    loop {
        match follow(sink, watched, buffer) {
            End::Missed(why) => {
                tracing::warn!(%why, "the service proxy's rules are read anew");
                watched.stop(State::Failed(why.to_string()));
                if tell(sink, Fact::Anomaly { kind: Anomaly::RulesMissed, count: 1 }).is_err() {
                    return;
                }
                thread::sleep(ANEW);
            }
            End::NotAllowed => {
                let why = SocketError::NotAllowed.to_string();
                tracing::warn!(why, "the service proxy's rules are not followed");
                watched.stop(State::Unsupported(why));
                return;
            }
            End::Failed(why) => {
                tracing::warn!(why, "the service proxy's rules are not followed for now");
                watched.stop(State::Failed(why));
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
    // Listens before it reads, so that nothing falls between the two.
    let mut socket = Socket::listening(buffer)?;
    let (mut table, mut targets) = read()?;
    // What is heard of a change that was read already changes nothing. What was heard while reading is of before now, nobody
    // knows how long: it counts as read.
    while let Some(heard) = socket.receive_now()? {
        for message in heard {
            targets.take(&message);
            table.take(message)?;
        }
    }
    watched.follow(table.is_visible(), !targets.is_full());
    tell(sink, Fact::RulesRead { addresses: table.addresses() })?;
    loop {
        let heard = socket.receive()?;
        let (at, unix_ns) = (mono_now(), unix_now_ns());
        for message in heard.into_iter().flatten() {
            let is_end = message == Message::Committed;
            watched.removed(unix_ns, targets.take(&message));
            for (address, used) in table.take(message)? {
                tell_at(sink, at, Fact::Rules { address, used })?;
            }
            if is_end {
                watched.follow(table.is_visible(), !targets.is_full());
            }
        }
        if sink.is_closed() {
            return Err(End::Ending);
        }
    }
}

/// What there is now.
fn read() -> Result<(Table, Targets), End> {
    let (mut table, mut targets) = (Table::default(), Targets::default());
    for family in Family::ALL {
        if let Some(found) = socket::ask(&message::request(family))? {
            table.take(Message::SetMade(family))?;
            for message in found {
                table.take(message)?;
            }
        }
        for message in socket::ask(&message::request_names(family))?.into_iter().flatten() {
            let Message::MapMade(family, name) = message else { continue };
            // One that has gone meanwhile is told as removed.
            for message in socket::ask(&message::request_map(family, &name))?.into_iter().flatten() {
                targets.take(&message);
            }
            if targets.is_full() {
                break;
            }
        }
    }
    table.take(Message::Committed)?;
    targets.take(&Message::Committed);
    Ok((table, targets))
}

fn tell(sink: &mpsc::Sender<Event>, fact: Fact) -> Result<(), End> {
    tell_at(sink, mono_now(), fact)
}

/// Waits while the core has no room: meanwhile the kernel keeps what it can, and tells what it cannot.
fn tell_at(sink: &mpsc::Sender<Event>, at: Mono, fact: Fact) -> Result<(), End> {
    sink.blocking_send(Event { at, fact }).map_err(|_closed| End::Ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_any_more_is_not_claimed() {
        let watched = Watched::default();
        let element = |port| Element { address: IpAddr::from([10, 0, 0, 1]), port: Some(port) };
        watched.removed(1, vec![element(1)]);
        assert_eq!(watched.removals().complete_since, None, "nothing is followed yet");
        watched.follow(true, true);
        let since = watched.removals().complete_since.expect("followed");
        let times: Vec<i64> = (0..5000).map(|n| since.0 + 1 + n).collect();
        for time in &times {
            watched.removed(*time, vec![element(2)]);
        }
        let Removals { items, complete_since } = watched.removals();
        assert_eq!((items.len(), items[0].at), (REMOVALS, Timestamp(times[4999])), "newest first");
        assert_eq!(complete_since, items.last().map(|oldest| oldest.at), "from the oldest that is left on");
        watched.follow(true, false);
        assert_eq!(watched.removals().complete_since, None, "too many endpoints");
        watched.follow(true, true);
        assert!(watched.removals().complete_since > Some(since), "followed anew");
        watched.stop(State::Failed("lost".to_owned()));
        assert_eq!(watched.removals().complete_since, None);
    }
}
