//! The kubelet's own probes as the kernel saw them: how long each part of one took, and why one timed out.
//!
//! In: what the kernel programs stamped of a connection, the pod's probes, how long the container was throttled meanwhile.
//! Out: phases and a cause. Not here: verdicts, which only the kubelet knows; and no look into what was said.

use crate::event::Workload;
use crate::exec::ExecObserved;
use crate::probes::ProbeType;
use crate::probes::pod::HandlerKind;
use crate::termination::PodName;
use crate::time::Mono;
use crate::totals::seconds;
use probe_ebpf::wire::{
    PROBE_ACCEPTED, PROBE_ACKED, PROBE_FAILED, PROBE_FINISHED, PROBE_QUEUE_FULL, PROBE_QUEUE_KNOWN,
    PROBE_SENT, PROBE_UNREAD, SlotRef,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of the time that a probe waited: throttled for so large a part of it, the container is said to have been kept from
/// answering. One in this many.
const THROTTLED_PART: u64 = 10;

/// A probe of a pod's spec that goes to one of its ports: what is needed to tell one from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeUse {
    /// Name of the container whose probe it is.
    pub container: String,
    /// What it is for.
    pub probe_type: ProbeType,
    /// How it asks.
    pub handler: HandlerKind,
    /// Where.
    pub port: u16,
    /// `timeoutSeconds`.
    pub timeout_seconds: u32,
    /// `periodSeconds`.
    pub period_seconds: u32,
}

/// One connection of a probe, from its beginning to the moment at which its client closed it. A moment that is `None` did not come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Slot and generation.
    pub slot: SlotRef,
    /// Container that listens on the port.
    pub container: Option<u32>,
    /// The pod's port.
    pub port: u16,
    /// Process that opened it.
    pub opener: u32,
    /// The connect began.
    pub begun: Mono,
    /// The client's side was established.
    pub connected: Option<Mono>,
    /// The server's side was.
    pub established: Option<Mono>,
    /// The application read first.
    pub picked_up: Option<Mono>,
    /// The client read first.
    pub answered: Option<Mono>,
    /// The client read last.
    pub last_read: Option<Mono>,
    /// Data reached the client last.
    pub received: Option<Mono>,
    /// What the port's listeners dropped meanwhile.
    pub dropped: u32,
    /// Bits `PROBE_*` of the wire format.
    pub flags: u16,
    /// For how long the container was throttled meanwhile; `None` if that is not known.
    pub throttled_ns: Option<u64>,
}

/// Parts of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Until the client's side was established.
    Connect,
    /// From the server's side being established to the application's first read: in the accept queue, and until it was read.
    Pickup,
    /// From there to the client's first read.
    Response,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Pickup, Self::Response];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Pickup => "pickup",
            Self::Response => "response",
        }
    }
}

/// Why a probe timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The handshake was not finished, and no listener dropped anything: a packet was lost on its way.
    Connect,
    /// An accept queue of the port was full.
    AcceptQueue,
    /// The application did not answer.
    App,
    /// It was kept from the CPU by its own limit.
    CpuThrottled,
    /// The answer had reached the node in time, or nothing was asked on a connection that was made in time.
    KubeletLate,
    /// What the kernel shows does not tell.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::AcceptQueue, Self::App, Self::CpuThrottled, Self::KubeletLate, Self::Unknown];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::AcceptQueue => "accept_queue",
            Self::App => "app",
            Self::CpuThrottled => "cpu_throttled",
            Self::KubeletLate => "kubelet_late",
            Self::Unknown => "unknown",
        }
    }
}

impl Seen {
    /// How long a phase took; `None` if it did not come to its end.
    pub fn phase(&self, phase: Phase) -> Option<u64> {
        let (from, to) = match phase {
            Phase::Connect => (Some(self.begun), self.connected),
            Phase::Pickup => (self.established, self.picked_up),
            Phase::Response => (self.picked_up, self.answered),
        };
        Some(to?.since(from?))
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What the listeners dropped; `None` if they are not known, or others than at the beginning (then it went back).
    fn overflow(&self) -> Option<bool> {
        let is_known = self.has(PROBE_QUEUE_KNOWN) && self.dropped <= u32::MAX / 2;
        is_known.then_some(self.dropped > 0)
    }

    /// Why it timed out; `None` if it did not. `probes` are those of its port, which may have several: one that was closed
    /// between their timeouts is the shorter one's.
    pub fn timeout(&self, closed: Mono, probes: &[&ProbeUse]) -> Option<Cause> {
        let waited = closed.since(self.begun);
        let timeouts = probes.iter().map(|probe| u64::from(probe.timeout_seconds) * crate::limits::SECOND);
        let timeout = timeouts.filter(|timeout| *timeout <= waited).max()?;
        if self.has(PROBE_FAILED) {
            return None;
        }
        let is_throttled = self.throttled_ns.map(|ns| ns >= waited / THROTTLED_PART);
        if self.connected.is_none() {
            return Some(self.handshake(is_throttled));
        }
        if !self.has(PROBE_SENT) {
            // A connection is all that such a probe wants: it had it, however late it let go of it.
            let is_connect_only = probes.iter().all(|probe| probe.handler == HandlerKind::Tcp);
            return (!is_connect_only).then_some(Cause::KubeletLate);
        }
        let deadline = self.begun.after(timeout);
        let is_in_time = |moment: Option<Mono>| moment.is_some_and(|moment| moment <= deadline);
        let was_read_late = self.has(PROBE_UNREAD) || !is_in_time(self.last_read);
        if is_in_time(self.received) && was_read_late {
            return Some(Cause::KubeletLate);
        }
        if self.has(PROBE_FINISHED) && is_in_time(self.last_read) {
            // Answered and read; only the close was late.
            return None;
        }
        Some(self.server(is_throttled))
    }

    /// The client was not, or thinks wrongly that it was, connected.
    fn handshake(&self, is_throttled: Option<bool>) -> Cause {
        match self.overflow() {
            None => Cause::Unknown,
            Some(false) => Cause::Connect,
            Some(true) if is_throttled == Some(true) => Cause::CpuThrottled,
            Some(true) => Cause::AcceptQueue,
        }
    }

    /// The client waited for the server.
    fn server(&self, is_throttled: Option<bool>) -> Cause {
        if !self.has(PROBE_ACKED) {
            // The last packet of the handshake was not taken, or what came after it was lost.
            return if self.established.is_none() { self.handshake(is_throttled) } else { Cause::Unknown };
        }
        if is_throttled == Some(true) {
            return Cause::CpuThrottled;
        }
        let is_waiting = !self.has(PROBE_ACCEPTED) && self.picked_up.is_none();
        if is_waiting && (self.has(PROBE_QUEUE_FULL) || self.overflow() == Some(true)) {
            return Cause::AcceptQueue;
        }
        if is_throttled.is_some() { Cause::App } else { Cause::Unknown }
    }
}

/// What is known of the probes of one port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortSeen {
    /// Connections.
    pub(crate) seen: u64,
    /// Phases of the last, in nanoseconds.
    pub(crate) last: [Option<u64>; Phase::ALL.len()],
    /// Timeouts by cause.
    pub(crate) timeouts: [u64; Cause::ALL.len()],
}

impl PortSeen {
    pub(crate) fn take(&mut self, seen: &Seen, cause: Option<Cause>) {
        self.seen = self.seen.saturating_add(1);
        self.last = Phase::ALL.map(|phase| seen.phase(phase));
        if let Some(cause) = cause {
            let count = &mut self.timeouts[cause as usize];
            *count = count.saturating_add(1);
        }
    }
}

/// A probe of a local pod, and what the kernel programs saw of it: an item of `/api/v1/probes`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeItem {
    /// The pod.
    pub pod: PodName,
    /// Its workload.
    pub workload: Workload,
    /// The container whose probe it is.
    pub container: String,
    /// What it is for.
    pub probe_type: String,
    /// How it asks.
    pub handler: HandlerKind,
    /// Where it asks; empty for a command.
    pub target: String,
    /// `periodSeconds`.
    pub period_seconds: u32,
    /// What was seen; `null` as long as nothing was.
    pub kubelet: Option<Observed>,
}

/// What the kernel programs saw of the probes of a port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// Connections, or an exec probe's commands.
    pub seen: u64,
    /// Seconds of the last one's phases, as far as they came to their end.
    pub phases: BTreeMap<&'static str, f64>,
    /// Timeouts by cause.
    pub timeouts: BTreeMap<&'static str, u64>,
    /// Other probes of the pod go to the same port, or run commands that look the same, and cannot be told from it: the numbers
    /// are of all of them together.
    pub shared: bool,
    /// Of an exec probe, what it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecObserved>,
}

impl Observed {
    /// Of an exec probe: it has no connections.
    pub(crate) fn of_exec((shared, exec): (bool, ExecObserved)) -> Self {
        let (phases, timeouts) = (BTreeMap::new(), BTreeMap::new());
        Self { seen: exec.count, phases, timeouts, shared, exec: Some(exec) }
    }
}

/// Nothing was seen.
impl Default for Observed {
    fn default() -> Self {
        PortSeen::default().observed(false)
    }
}

impl PortSeen {
    /// For the API.
    pub(crate) fn observed(&self, shared: bool) -> Observed {
        let phases = Phase::ALL.iter().zip(self.last);
        Observed {
            seen: self.seen,
            phases: phases.filter_map(|(phase, ns)| Some((phase.name(), seconds(ns?)))).collect(),
            timeouts: Cause::ALL.iter().zip(self.timeouts).map(|(cause, n)| (cause.name(), n)).collect(),
            shared,
            exec: None,
        }
    }
}

#[cfg(test)]
mod tests;
