//! The kubelet's own verdicts on its probes, as its `/metrics/probes` counts them, held against the connections that the kernel programs saw.
//!
//! In: readings of these counters, each with the moments between which the kubelet took it, and ends of connections. Out: the newest
//! counts, and over the span since the first reading that counts, how many verdicts there were and between which bounds the number of their
//! connections lies. Nothing is saved: connections that end while no agent runs are not told.

use crate::kubelet::{ProbeUse, Seen};
use crate::limits::SECOND;
use crate::pods::MAX_CONTAINERS;
use crate::probes::ProbeType;
use crate::time::Mono;
use crate::wallclock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// From the close of a probe's connection to its verdict's being counted: the kubelet's SO_LINGER of a second, for which a close may
/// wait, and half a second to get the CPU.
const COUNTED_NS: u64 = SECOND + SECOND / 2;
/// Beyond a probe's timeout, how long its connection may be under way: the same.
const CLOSED_NS: u64 = COUNTED_NS;
/// Ends of connections of a port that are remembered; older ones count as counted by the kubelet. Its own come a few in a second.
const RECENT: usize = 256;
/// Probes of a pod whose verdicts are kept.
const PROBES_EACH: usize = ProbeType::ALL.len() * MAX_CONTAINERS;

/// Verdicts of one probe, by result, since the kubelet made its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// `successful`: successes, and redirects that were not followed.
    pub success: u64,
    /// `failed`.
    pub failure: u64,
    /// `unknown`.
    pub unknown: u64,
}

impl Counts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.success.saturating_add(self.failure).saturating_add(self.unknown)
    }
}

/// What the kubelet counts for one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The pod's uid, as the kubelet has it: for a static pod its manifest's hash, which names its cgroups too.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// What the probe is for.
    pub probe_type: ProbeType,
    /// How many verdicts.
    pub counts: Counts,
}

/// A reading of all counters. The event's moment is that of the answer's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When the question was sent: the counters were read after it.
    pub asked: Mono,
    /// Tells one life of the kubelet from another.
    pub life: u64,
    /// Probes that have a verdict.
    pub told: Vec<Told>,
}

/// A probe's verdicts, for the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictItem {
    /// The pod's uid, as the API has it.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// What the probe is for.
    pub probe_type: ProbeType,
    /// As read last.
    pub verdicts: Counts,
    /// Held against connections; none for a command, and until there are two readings.
    pub reconciled: Option<Reconciled>,
}

/// Verdicts beside connections, of all probes of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// The reading at which the span begins.
    pub since: Timestamp,
    /// The reading at which it ends.
    pub until: Timestamp,
    /// Verdicts in the span.
    pub verdicts: u64,
    /// Connections that may belong to them.
    pub seen: Bounds,
    /// 0 if the verdicts lie within the bounds; else how far off they are: above 0 there are more connections than verdicts.
    pub difference: i64,
}

/// A number that is known up to what was under way at a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// No fewer than these.
    pub least: u64,
    /// No more than these.
    pub most: u64,
}

/// A reading, as far as it is about one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    asked: Mono,
    answered: Mono,
    /// The same, by the wall clock of then: it does not change with later samples.
    at: Timestamp,
    life: u64,
    /// Verdicts so far.
    verdicts: u64,
    /// Connections so far whose verdicts are certainly among them.
    least: u64,
    /// And those whose verdicts may be.
    most: u64,
    /// Records that the kernel side could not write, node-wide.
    lost: u64,
}

impl Edge {
    /// The end of a connection is told after the reading.
    fn saw(&mut self, begun: Mono, closed: Mono) {
        self.least += u64::from(closed.after(COUNTED_NS) <= self.asked);
        self.most += u64::from(begun <= self.answered);
    }
}

/// Verdicts and connections of one port.
#[derive(Debug, Default)]
struct Port {
    /// Connections that ended.
    seen: u64,
    /// When the last of them did.
    recent: VecDeque<Mono>,
    /// The first reading since the port is known. What was under way then may have begun unseen.
    known: Option<Mono>,
    /// Where the span begins.
    base: Option<Edge>,
    /// Where it ends: all that was under way then has ended.
    last: Option<Edge>,
    /// Where it will end.
    next: Option<Edge>,
    /// A counter has vanished: its worker has ended.
    is_over: bool,
}

impl Port {
    fn saw(&mut self, begun: Mono, closed: Mono) {
        self.seen += 1;
        self.recent.push_back(closed);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        for edge in self.base.iter_mut().chain(&mut self.next) {
            edge.saw(begun, closed);
        }
    }

    fn edge(&self, taken: &Taken<'_>, verdicts: u64) -> Edge {
        let Taken { reading: Reading { asked, life, .. }, answered, at, lost } = *taken;
        let is_fresh = |closed: &&Mono| closed.after(COUNTED_NS) > *asked;
        let fresh = u64::try_from(self.recent.iter().filter(is_fresh).count()).unwrap_or(u64::MAX);
        let (least, most) = (self.seen.saturating_sub(fresh), self.seen);
        Edge { asked: *asked, answered, at, life: *life, verdicts, least, most, lost }
    }

    /// A span begins here.
    fn begin(&mut self, edge: Edge) {
        (self.base, self.last, self.next, self.is_over) = (Some(edge), None, None, false);
    }

    /// Takes a reading; a connection may last `longest_ns`.
    fn take(&mut self, edge: Edge, change: Change, longest_ns: u64) {
        let known = *self.known.get_or_insert(edge.answered);
        let Some(base) = self.base else {
            if edge.asked >= known.after(longest_ns) {
                self.begin(edge);
            }
            return;
        };
        match change {
            _ if base.life != edge.life => self.begin(edge),
            Change::Back => self.begin(edge),
            Change::Gone => self.is_over = true,
            Change::On if self.is_over => self.begin(edge),
            Change::On => {
                let is_settled = |next: &Edge| next.answered.after(longest_ns) <= edge.answered;
                if self.next.as_ref().is_none_or(is_settled) {
                    self.last = self.next.replace(edge).or(self.last);
                }
            }
        }
    }

    /// The span up to now, if it has an end that is settled.
    fn reconciled(&self, now: Mono, longest_ns: u64) -> Option<Reconciled> {
        let base = self.base?;
        let last = self.next.filter(|next| next.answered.after(longest_ns) <= now).or(self.last)?;
        let verdicts = last.verdicts.saturating_sub(base.verdicts);
        let lost = last.lost.saturating_sub(base.lost);
        let least = last.least.saturating_sub(base.most);
        let most = last.most.saturating_sub(base.least).saturating_add(lost);
        let off = |more: u64, than: u64| i64::try_from(more.saturating_sub(than)).unwrap_or(i64::MAX);
        Some(Reconciled {
            since: base.at,
            until: last.at,
            verdicts,
            seen: Bounds { least, most },
            difference: off(least, verdicts) - off(verdicts, most),
        })
    }
}

/// A reading, and what else is known of its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) reading: &'a Reading,
    /// When the answer was here.
    pub(crate) answered: Mono,
    /// The same by the wall clock.
    pub(crate) at: Timestamp,
    /// Records that the kernel side could not write so far.
    pub(crate) lost: u64,
}

/// What a port's counters did since the reading before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// None went back.
    On,
    /// One is lower than it was: its worker is another.
    Back,
    /// One is not there any more.
    Gone,
}

/// What the kubelet says of a pod's probes.
#[derive(Debug, Default)]
pub(crate) struct PodVerdicts {
    /// Of the kubelet that counted so.
    life: u64,
    counts: BTreeMap<(String, ProbeType), Counts>,
    ports: BTreeMap<u16, Port>,
}

impl PodVerdicts {
    /// A connection of a probe ended.
    pub(crate) fn saw(&mut self, seen: &Seen, closed: Mono) {
        self.ports.entry(seen.port).or_default().saw(seen.begun, closed);
    }

    /// Takes what a reading tells of this pod, whose spec has these probes.
    pub(crate) fn take(&mut self, taken: &Taken<'_>, told: &[&Told], probes: &[ProbeUse]) {
        if self.life != taken.reading.life {
            // What another one counted says nothing about this one's counters, which began at 0.
            self.counts.clear();
            self.life = taken.reading.life;
        }
        let told: BTreeMap<_, _> =
            told.iter().map(|told| ((told.container.clone(), told.probe_type), told.counts)).collect();
        self.ports.retain(|port, _| probes.iter().any(|probe| probe.port == *port));
        let mut ports: BTreeMap<u16, (u64, Change)> = BTreeMap::new();
        for probe in probes {
            let key = (probe.container.clone(), probe.probe_type);
            let before = self.counts.get(&key).map_or(0, Counts::total);
            let now = told.get(&key).map(Counts::total);
            let change = match now {
                None if before > 0 => Change::Gone,
                Some(now) if now < before => Change::Back,
                Some(_) | None => Change::On,
            };
            let (sum, worst) = ports.entry(probe.port).or_insert((0, Change::On));
            *sum = sum.saturating_add(now.unwrap_or(0));
            if *worst == Change::On {
                *worst = change;
            }
        }
        for (number, (verdicts, change)) in ports {
            let port = self.ports.entry(number).or_default();
            let edge = port.edge(taken, verdicts);
            port.take(edge, change, longest_ns(probes, number));
        }
        // What is not told any more keeps its last value, as the pod does that it belongs to.
        for (key, counts) in told {
            if self.counts.len() < PROBES_EACH || self.counts.contains_key(&key) {
                self.counts.insert(key, counts);
            }
        }
    }

    /// Each probe that has a verdict.
    pub(crate) fn items(
        &self,
        pod_uid: &str,
        probes: &[ProbeUse],
        now: Mono,
    ) -> impl Iterator<Item = VerdictItem> {
        self.counts.iter().map(move |((container, probe_type), verdicts)| {
            let is_it = |probe: &&ProbeUse| probe.container == *container && probe.probe_type == *probe_type;
            let port = probes.iter().find(is_it).map(|probe| probe.port);
            let reconciled =
                port.and_then(|number| self.ports.get(&number)?.reconciled(now, longest_ns(probes, number)));
            let (pod_uid, container) = (pod_uid.to_owned(), container.clone());
            VerdictItem { pod_uid, container, probe_type: *probe_type, verdicts: *verdicts, reconciled }
        })
    }
}

/// Longest that a connection of a port's probes may be under way.
fn longest_ns(probes: &[ProbeUse], port: u16) -> u64 {
    let timeouts = probes.iter().filter(|probe| probe.port == port).map(|probe| probe.timeout_seconds);
    u64::from(timeouts.max().unwrap_or(0)).saturating_mul(SECOND).saturating_add(CLOSED_NS)
}

#[cfg(test)]
mod tests;
