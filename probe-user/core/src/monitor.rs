//! The monitor: facts in by [`Monitor::handle`], conclusions out by `poll_*`, [`Monitor::snapshot`] and the listings.
//!
//! One task owns it (the agent's driver, or a replay). It has no clock: event time is what the events say, and
//! [`Monitor::handle_timeout`] tells how far it has come when there are none. Events are applied, and timers fire, in the
//! order of event time once that is the reorder window past them; so the same facts give the same result, however their
//! sources were interleaved.

mod adopt;
mod api;
mod execed;
mod kernel;
mod output;
mod probed;
mod rules;
mod saved;
mod settle;
mod table;
mod vacancy;
mod verdicts;

pub use adopt::{KernelTables, Known};

use crate::advice::{WorkloadAdvice, advise, last_rollout};
use crate::command::Command;
use crate::endpoints::Endpoints;
use crate::event::{Anomaly, Event, Fact, WatchHealth, WatchKind, Workload};
use crate::finding::Finding;
use crate::history::History;
use crate::limits::Limits;
use crate::pods::{PodState, Pods};
use crate::reorder::{WINDOW_NS, Window};
use crate::slots::{Indexes, PodIx, Slots};
use crate::termination::{Filter, Restart, Termination};
use crate::time::Mono;
use crate::totals::{Totals, WorkloadIx};
use crate::wallclock::WallClock;
use probe_ebpf::wire::{SlotRef, anomaly as kernel_anomaly};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// A slot whose counters the driver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedSlot {
    /// Slot and generation.
    pub slot: SlotRef,
    /// Its pod is being stopped (or its slot waits for the last reading): read it often.
    pub terminating: bool,
}

/// What became of the events that were handed in: `received` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventCounts {
    /// Handed in.
    pub received: u64,
    /// Applied in order.
    pub applied: u64,
    /// Applied out of order, because they came too late for the reorder window.
    pub behind: u64,
    /// Waiting in the reorder window.
    pub waiting: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Timer {
    Pod(PodIx),
    Workload(WorkloadIx),
}

/// The correlator.
#[derive(Debug)]
pub struct Monitor {
    limits: Limits,
    node: String,
    wall: WallClock,
    window: Window,
    counts: EventCounts,
    /// The moment of what was applied last.
    now: Mono,
    timers: BTreeSet<(Mono, Timer)>,
    anomalies: BTreeMap<Anomaly, u64>,
    /// Newest values of the kernel side's own counters.
    kernel: [u64; kernel_anomaly::NAMES.len()],
    /// What they had when the kernel side began anew.
    kernel_before: [u64; kernel_anomaly::NAMES.len()],
    /// How each watch is, and since when.
    watches: BTreeMap<(WatchKind, String), (WatchHealth, Mono)>,
    watch_restarts: BTreeMap<WatchKind, u64>,
    endpoints: Endpoints,
    pods: Pods,
    slots: Slots,
    indexes: Indexes,
    /// Who has an address now.
    addresses: BTreeMap<IpAddr, PodIx>,
    /// Addresses of the node itself, as its hostNetwork pods have them.
    node_addresses: BTreeSet<IpAddr>,
    /// Addresses to which this node's service proxy sends new connections.
    rules: BTreeSet<IpAddr>,
    totals: Totals,
    terminations: History<Termination>,
    restarts: History<Restart>,
    commands: VecDeque<Command>,
    findings: VecDeque<Finding>,
    ended: VecDeque<Termination>,
}

impl Monitor {
    /// A monitor that knows nothing yet.
    pub fn new(limits: Limits, node: String) -> Self {
        Self {
            limits,
            node,
            wall: WallClock::default(),
            window: Window::new(limits.pending),
            counts: EventCounts::default(),
            now: Mono(0),
            timers: BTreeSet::new(),
            anomalies: BTreeMap::new(),
            kernel: [0; kernel_anomaly::NAMES.len()],
            kernel_before: [0; kernel_anomaly::NAMES.len()],
            watches: BTreeMap::new(),
            watch_restarts: BTreeMap::new(),
            endpoints: Endpoints::default(),
            pods: Pods::default(),
            slots: Slots::new(limits.slots),
            indexes: Indexes::new(limits.containers),
            addresses: BTreeMap::new(),
            node_addresses: BTreeSet::new(),
            rules: BTreeSet::new(),
            totals: Totals::new(limits.series),
            terminations: History::new(limits.history),
            restarts: History::new(limits.history),
            commands: VecDeque::new(),
            findings: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    /// Takes one fact. It is applied once event time is the reorder window past it; one that comes too late for that is
    /// applied at once and counted. Only what the kernel side must know without delay is told to it on arrival: a new
    /// container's cgroup (its processes start in a moment) and a deletion.
    pub fn handle(&mut self, event: Event) {
        let at = event.at;
        self.counts.received = self.counts.received.saturating_add(1);
        self.window.advance(at);
        self.run();
        self.identify(&event);
        match self.window.push(event) {
            None => {
                let early = self.window.relieve();
                self.note(Anomaly::TooMany, u64::try_from(early).unwrap_or(u64::MAX));
                self.run();
            }
            Some(behind) => {
                self.counts.behind = self.counts.behind.saturating_add(1);
                self.note(Anomaly::BehindWindow, 1);
                // What follows from it was not known before now.
                self.now = self.window.watermark();
                self.apply(behind);
            }
        }
    }

    /// Up to here every event has been applied.
    pub fn watermark(&self) -> Mono {
        self.window.watermark()
    }

    /// What became of the events so far.
    pub fn events(&self) -> EventCounts {
        EventCounts { waiting: self.window.len(), ..self.counts }
    }

    /// Time has come to `now`.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.window.advance(now);
        self.run();
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let timer = self.timers.first().map(|(at, _)| at.after(WINDOW_NS));
        [timer, self.window.next_due()].into_iter().flatten().min()
    }

    /// The next kernel-map change; to be applied in order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next finding.
    pub fn poll_finding(&mut self) -> Option<Finding> {
        self.findings.pop_front()
    }

    /// The next termination that became `ended`.
    pub fn poll_ended(&mut self) -> Option<Termination> {
        self.ended.pop_front()
    }

    /// Which counters to read, by slot number.
    pub fn slots(&self) -> Vec<WatchedSlot> {
        self.slots
            .used()
            .map(|(slot, pod)| WatchedSlot {
                slot,
                terminating: self.pods.get(pod).is_some_and(PodState::is_terminating),
            })
            .collect()
    }

    /// Some pod with a slot is on its way to its end.
    #[must_use]
    pub fn has_terminating(&self) -> bool {
        self.slots.used().any(|(_, pod)| self.pods.get(pod).is_some_and(PodState::is_terminating))
    }

    /// Containers whose exit was not told yet, as the kernel's table has them: index and slot.
    pub fn containers(&self) -> Vec<(u32, SlotRef)> {
        let mut all = Vec::new();
        for (slot, pod) in self.slots.used() {
            let containers = self.pods.get(pod).into_iter().flat_map(|pod| &pod.containers);
            let alive = containers.filter(|container| container.exit.is_none());
            all.extend(alive.filter_map(|container| container.index).map(|index| (index, slot)));
        }
        all
    }

    /// A snapshot was served to a scraper: `at` is its `at`. What it showed at 0 for the first time may show its value in
    /// the next one.
    pub fn scraped(&mut self, at: Mono) {
        self.totals.scraped(at);
    }

    /// What the last rollout of each workload advises, of the ended terminations that the filter wants; by namespace and
    /// workload. The filter's limit is not looked at.
    pub fn advice(&self, filter: &Filter) -> Vec<WorkloadAdvice> {
        let mut by_workload: BTreeMap<(&str, &Workload), Vec<&Termination>> = BTreeMap::new();
        for item in self.terminations.newest_first().filter(|item| filter.wants(item)) {
            by_workload.entry((&item.pod.namespace, &item.workload)).or_default().push(item);
        }
        let advised = by_workload.into_iter().filter_map(|((namespace, workload), items)| {
            let advice = advise(&last_rollout(items))?;
            Some(WorkloadAdvice { namespace: namespace.to_owned(), workload: workload.clone(), advice })
        });
        advised.collect()
    }

    /// Applies what is due and fires the timers between, by time.
    fn run(&mut self) {
        loop {
            let timer = self.timers.first().copied();
            match (self.window.due(), timer) {
                (Some(event), timer) if timer.is_none_or(|(deadline, _)| event <= deadline) => {
                    if let Some(event) = self.window.pop() {
                        self.counts.applied = self.counts.applied.saturating_add(1);
                        self.apply(event);
                    }
                }
                (_, Some((deadline, timer))) if deadline <= self.window.watermark() => {
                    self.timers.remove(&(deadline, timer));
                    self.fire(deadline, timer);
                }
                _ => break,
            }
        }
    }

    fn fire(&mut self, deadline: Mono, timer: Timer) {
        self.now = self.now.max(deadline);
        match timer {
            Timer::Pod(ix) => self.with_pod(ix, |monitor, pod| {
                pod.timer = None;
                monitor.evaluate(pod, deadline);
            }),
            Timer::Workload(ix) => self.totals.expire(ix, deadline, self.limits.series_ttl_ns),
        }
    }

    fn apply(&mut self, event: Event) {
        let at = event.at;
        self.now = self.now.max(at);
        match event.fact {
            Fact::Clock { unix_ns } => self.handle_clock(at, unix_ns),
            Fact::Pod(pod) => self.handle_pod(at, pod),
            Fact::PodGone { uid } => self.handle_pod_gone(at, &uid),
            Fact::Service(service) => self.handle_service(at, &service),
            Fact::ServiceGone { key } => self.handle_service_gone(at, &key),
            Fact::Slice(slice) => self.handle_slice(at, slice),
            Fact::SliceGone { key } => self.handle_slice_gone(at, &key),
            Fact::Rules { address, used } => self.handle_rules(at, address, used),
            Fact::RulesRead { addresses } => self.handle_rules_read(at, &addresses),
            Fact::Watch { watch, namespace, health } => self.handle_watch(at, watch, namespace, health),
            Fact::Cgroup { id, pod_uid, container_id } => self.handle_cgroup(at, id, &pod_uid, &container_id),
            Fact::CgroupGone { id } => self.handle_cgroup_gone(at, id),
            Fact::Signal { slot, container, signal, ignored, open } => {
                self.handle_signal(at, slot, container, signal, ignored, open);
            }
            Fact::Exit { slot, container, status, open } => {
                self.handle_exit(at, slot, container, status, open)
            }
            Fact::Exited { slot, container, exited } => self.handle_exited(at, slot, container, exited),
            Fact::Listener { slot, container, port, open, listeners } => {
                self.handle_listener(at, slot, container, port, open || listeners > 0);
            }
            Fact::Loss(loss) => self.handle_loss(at, loss),
            Fact::Tracked(tracked) => self.handle_tracked(&tracked),
            Fact::Probed(seen) => self.handle_probed(at, &seen),
            Fact::Verdicts(reading) => self.handle_verdicts(at, &reading),
            Fact::Execed(execed) => self.handle_execed(execed),
            Fact::Reading { slot, counters } => self.handle_reading(at, slot, &counters),
            Fact::KernelAnomalies { values } => self.handle_kernel_anomalies(&values),
            Fact::Anomaly { kind, count } => self.note(kind, count),
        }
    }

    /// What a fact says of identity, told to the kernel side on its arrival. Conclusions wait for [`Self::apply`].
    fn identify(&mut self, event: &Event) {
        if let Fact::Cgroup { id, pod_uid, container_id } = &event.fact {
            self.identify_cgroup(*id, pod_uid, container_id);
        } else if let Fact::Pod(fact) = &event.fact
            && fact.deletion.is_some()
            && !fact.terminal
            && let Some(ix) = self.pods.find(&fact.uid)
        {
            self.with_pod(ix, Self::mark_deleting);
        }
    }

    fn handle_clock(&mut self, at: Mono, unix_ns: i64) {
        if self.wall.sample(at, unix_ns) {
            self.note(Anomaly::ClockStep, 1);
        }
        // An end that began before the first sample is told by it.
        let offset = self.wall.offset();
        for episode in self.pods.iter_mut().filter_map(|pod| pod.episode.as_mut()) {
            episode.offset = episode.offset.or(offset);
        }
    }

    /// Counts an anomaly; where it means lost information, every end that is under way says so.
    fn note(&mut self, kind: Anomaly, count: u64) {
        if count == 0 {
            return;
        }
        let counter = self.anomalies.entry(kind).or_default();
        *counter = counter.saturating_add(count);
        match kind {
            Anomaly::BadRecord
            | Anomaly::BadObject
            | Anomaly::BadCgroup
            | Anomaly::BehindWindow
            | Anomaly::MapWrite
            | Anomaly::QueueFull
            | Anomaly::KernelSilent
            | Anomaly::TooMany => self.trouble_all(kind.name()),
            // These touch single pods, which say so themselves, or none.
            Anomaly::SlotsFull
            | Anomaly::ContainersFull
            | Anomaly::StaleSlot
            | Anomaly::CounterWentBack
            | Anomaly::EvidenceDropped
            | Anomaly::HistoryDropped
            | Anomaly::ClockStep
            | Anomaly::SlotLost
            | Anomaly::RulesMissed => {}
        }
    }

    fn trouble_all(&mut self, name: &'static str) {
        for episode in self.pods.iter_mut().filter_map(|pod| pod.episode.as_mut()) {
            episode.trouble(name);
        }
    }

    /// Works on a pod outside the table, so that the rest of the monitor is free.
    fn with_pod(&mut self, ix: PodIx, work: impl FnOnce(&mut Self, &mut PodState)) {
        if let Some(mut pod) = self.pods.take(ix) {
            work(self, &mut pod);
            if self.is_of_no_interest(&pod) {
                self.forget_pod(&pod);
            } else {
                self.pods.put(pod);
            }
        }
    }
}
