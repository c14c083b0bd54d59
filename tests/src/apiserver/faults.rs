//! Misbehaviour on demand: what real API servers, their load balancers and the network between do to a client now and then.
//!
//! Set at run time; counted faults apply to the next requests or watch events, each to exactly as many as were asked for. Outages are on the
//! server itself ([`super::Server::stop`]). Nothing here changes the store: after any fault a correct client ends up with the same objects.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::kind::Kind;
use super::status::Failure;

/// Garbage lines waiting for an event at once.
const GARBAGE_LIMIT: usize = 64;

/// How a watch is told that its resource version is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// As the response: HTTP 410.
    Http,
    /// As an ERROR event in a stream that began with 200.
    Event,
}

#[derive(Debug, Default)]
struct State {
    only: Option<Kind>,
    failing: Option<(u32, u16, Option<u32>)>,
    gone: Option<(u32, Gone)>,
    delay: Duration,
    duplicate: u32,
    reorder: u32,
    truncate: u32,
    garbage: VecDeque<String>,
    /// Verb and resource.
    forbidden: BTreeSet<(String, Kind)>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts the cuts: a watch ends when it changes.
    cuts: watch::Sender<u64>,
    stalled: watch::Sender<bool>,
}

/// The switches of the fault injection; clones work the same switches.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

/// What happens to one watch event on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EventFault {
    None,
    /// Sent twice.
    Duplicate,
    /// Sent after its successor.
    Swap,
    /// Cut off in the middle of its line, and the connection with it.
    Truncate,
    /// This line comes first.
    Garbage(String),
}

impl Faults {
    pub(super) fn new() -> Self {
        let shared =
            Shared { state: Mutex::default(), cuts: watch::channel(0).0, stalled: watch::channel(false).0 };
        Self { shared: Arc::new(shared) }
    }

    /// Limits every later fault except cuts and stalls to requests and events of one kind; `None` lifts that.
    pub fn only(&self, kind: Option<Kind>) {
        self.lock().only = kind;
    }

    /// The next `count` resource requests are answered with this status code, and a `Retry-After` if given.
    pub fn fail_requests(&self, count: u32, code: u16, retry_after_seconds: Option<u32>) {
        self.lock().failing = Some((count, code, retry_after_seconds)).filter(|_| count > 0);
    }

    /// Requests with this verb (`list`, `watch`, `get`, `create`, `patch`) for this kind are answered 403 as by RBAC; `false` lifts that.
    pub fn forbid(&self, verb: &str, kind: Kind, forbidden: bool) {
        let mut state = self.lock();
        let rule = (verb.to_owned(), kind);
        if forbidden {
            state.forbidden.insert(rule)
        } else {
            state.forbidden.remove(&rule)
        };
    }

    /// The next `count` watches with a resource version are told that it is expired.
    pub fn expire_watches(&self, count: u32, how: Gone) {
        self.lock().gone = Some((count, how)).filter(|_| count > 0);
    }

    /// Every resource request waits this long for its response; zero ends it.
    pub fn delay_responses(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// The next `count` watch events are each sent twice.
    pub fn duplicate_events(&self, count: u32) {
        self.lock().duplicate = count;
    }

    /// The next `count` watch events each change places with their successor in the same watch.
    pub fn reorder_events(&self, count: u32) {
        self.lock().reorder = count;
    }

    /// The next `count` watch events are cut off in the middle of the line, and the connection is closed there.
    pub fn truncate_events(&self, count: u32) {
        self.lock().truncate = count;
    }

    /// This line is sent before the next watch event; several calls queue up (one per event, at most 64).
    pub fn garbage_line(&self, line: &str) {
        let mut state = self.lock();
        if state.garbage.len() < GARBAGE_LIMIT {
            state.garbage.push_back(line.to_owned());
        }
    }

    /// Every open watch is cut off without an end of its stream.
    pub fn cut_watches(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// While set, watches send nothing, neither events nor bookmarks nor their end; the connections stay open.
    pub fn stall_watches(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Ends every fault that is still set.
    pub fn clear(&self) {
        *self.lock() = State::default();
        self.stall_watches(false);
    }

    pub(super) fn authorize(&self, verb: &str, kind: Kind, namespace: Option<&str>) -> Result<(), Failure> {
        if self.lock().forbidden.contains(&(verb.to_owned(), kind)) {
            return Err(Failure::forbidden(verb, kind, namespace));
        }
        Ok(())
    }

    pub(super) fn next_request(&self, kind: Kind) -> (Duration, Option<Failure>) {
        let mut state = self.lock();
        if !state.applies_to(kind) {
            return (Duration::ZERO, None);
        }
        let failure = state.failing.map(|(left, code, retry_after)| {
            state.failing = Some((left - 1, code, retry_after)).filter(|_| left > 1);
            Failure::injected(code, retry_after)
        });
        (state.delay, failure)
    }

    pub(super) fn next_watch(&self, kind: Kind) -> Option<Gone> {
        let mut state = self.lock();
        if !state.applies_to(kind) {
            return None;
        }
        let (left, how) = state.gone?;
        state.gone = Some((left - 1, how)).filter(|_| left > 1);
        Some(how)
    }

    pub(super) fn next_event(&self, kind: Kind) -> EventFault {
        let mut state = self.lock();
        if !state.applies_to(kind) {
            return EventFault::None;
        }
        if let Some(line) = state.garbage.pop_front() {
            EventFault::Garbage(line)
        } else if take_one(&mut state.truncate) {
            EventFault::Truncate
        } else if take_one(&mut state.duplicate) {
            EventFault::Duplicate
        } else if take_one(&mut state.reorder) {
            EventFault::Swap
        } else {
            EventFault::None
        }
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.shared.cuts.subscribe()
    }

    pub(super) fn stalled(&self) -> watch::Receiver<bool> {
        self.shared.stalled.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn applies_to(&self, kind: Kind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }
}

fn take_one(left: &mut u32) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}
