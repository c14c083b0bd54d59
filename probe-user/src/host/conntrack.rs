//! What the node's connection tracking has of a connect that was lost: one question (ctnetlink, GET) for one pair of addresses
//! and ports, asked after the loss. The driver asks; the answer is a fact for the core, which concludes from it. Nothing is
//! listened to, listed or changed: a subscription would cost the node for each of its connections.
//!
//! A thread of its own, with a queue and a pace that are bounded; what does not fit is not asked, and counted. The table is that
//! of the agent's own network namespace, which is the node's.

mod message;

use super::rules::socket::{Socket, SocketError};
use crate::clock::mono_now;
use crate::feature::{Asking, State};
use message::{Answer, Tuple};
use probe_core::conntrack::Tracked;
use probe_core::event::{Address, Event, Fact, Loss};
use probe_core::time::Mono;
use probe_ebpf::wire::SlotRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// Questions that wait; at [`PACE`] they wait for less than three seconds, and an entry that a reset ended is there for ten.
const QUEUE: usize = 256;
/// Between two questions: at most a hundred a second.
const PACE: Duration = Duration::from_millis(10);

/// What became of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// There is an entry.
    Found,
    /// There is none.
    None,
    /// No answer, or one that cannot be read.
    Failed,
    /// Not asked: too many waited.
    Skipped,
}

impl Asked {
    /// Every kind, in the order of counts.
    pub const ALL: [Self; 4] = [Self::Found, Self::None, Self::Failed, Self::Skipped];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::None => "none",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// How the asking goes: its counts are as [`Asked::ALL`].
pub type Lookups = Asking<{ Asked::ALL.len() }>;

/// One question.
#[derive(Clone, Copy, Debug)]
struct Question {
    slot: SlotRef,
    lost: Mono,
    peer: Address,
    local: Address,
}

/// Takes the driver's questions.
#[derive(Debug)]
pub struct Asker {
    questions: SyncSender<Question>,
    lookups: Lookups,
}

impl Asker {
    /// Asks about a loss, if it is one of a connect; never waits.
    pub(crate) fn ask(&self, lost: Mono, loss: &Loss) {
        if !loss.connect {
            return;
        }
        let question = Question { slot: loss.slot, lost, peer: loss.peer, local: loss.local };
        match self.questions.try_send(question) {
            Err(TrySendError::Full(_)) => self.lookups.count(Asked::Skipped as usize),
            // Nobody asks any more: the state says why.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

/// The thread that asks; it begins when it knows where facts go.
#[derive(Debug)]
pub struct Questions {
    questions: Receiver<Question>,
    lookups: Lookups,
}

/// A queue and its two ends.
#[must_use]
pub fn queue() -> (Asker, Questions, Lookups) {
    let (sender, questions) = sync_channel(QUEUE);
    let lookups = Lookups::default();
    let asker = Asker { questions: sender, lookups: lookups.clone() };
    (asker, Questions { questions, lookups: lookups.clone() }, lookups)
}

impl Questions {
    /// Asks from now on; ends with the driver.
    pub fn start(self, sink: mpsc::Sender<Event>) -> io::Result<()> {
        self.lookups.set(State::Failed("not asked yet".to_owned()));
        let run = move || self.run(&sink);
        thread::Builder::new().name("conntrack".to_owned()).spawn(run).map(drop)
    }

    fn run(self, sink: &mpsc::Sender<Event>) {
        // Of nobody: whether questions are answered at all.
        let nobody = Address { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };
        if let Err(error) = find(nobody, nobody) {
            let why = why(&error);
            tracing::warn!(why, "connection tracking is not asked");
            self.lookups.set(State::Unsupported(why));
            return;
        }
        self.lookups.set(State::Active);
        while let Ok(Question { slot, lost, peer, local }) = self.questions.recv() {
            let sent = mono_now();
            let asked = match find(peer, local) {
                Ok(answer) => {
                    let at = mono_now();
                    let entry = answer.map(|answer| answer.entry(sent, at));
                    let fact = Fact::Tracked(Tracked { slot, lost, peer, local, entry });
                    if sink.blocking_send(Event { at, fact }).is_err() {
                        return;
                    }
                    if entry.is_some() { Asked::Found } else { Asked::None }
                }
                Err(error) => {
                    let why = why(&error);
                    tracing::debug!(why, "a question to connection tracking");
                    self.lookups.set(State::Failed(why));
                    Asked::Failed
                }
            };
            if asked != Asked::Failed {
                self.lookups.set(State::Active);
            }
            self.lookups.count(asked as usize);
            thread::sleep(PACE);
        }
    }
}

/// Without conntrack's part of netlink the kernel knows no such request.
fn why(error: &SocketError) -> String {
    match error {
        SocketError::Io(error) if error.kind() == io::ErrorKind::InvalidInput => {
            "the kernel has no connection tracking that can be asked (nf_conntrack_netlink)".to_owned()
        }
        SocketError::Unread => "no answer, or one that cannot be read".to_owned(),
        SocketError::Overrun | SocketError::NotAllowed | SocketError::Io(_) => error.to_string(),
    }
}

/// The entry by which packets of `peer` come to `local`, under the names that the pod's side has for both.
fn find(peer: Address, local: Address) -> Result<Option<Answer>, SocketError> {
    // What comes back is told by the addresses after any translation; one without a packet back has them too.
    let request = message::request(&Tuple { source: local, destination: peer });
    match Socket::exchange(&request)? {
        Some(datagram) => Ok(message::answer(&datagram)?),
        None => Err(SocketError::Unread),
    }
}
