//! The one task that owns the core and the kernel side. Facts come in by a bounded queue (API), the ring (kernel records)
//! and readings of the counters; changes of the kernel's maps, log lines and answers to the servers go out. It draws no
//! conclusion of its own and waits for nothing but its inputs.

pub mod announce;
pub mod pulse;
pub mod query;
#[cfg(test)]
mod tests;

use crate::clock::{mono_now, unix_now_ns};
use crate::decode::{self, decode};
use crate::eventlog::tape::Taped;
use crate::exposition::own;
use crate::host::cgroup::{self, Hierarchy};
use crate::host::conntrack::Asker;
use crate::host::throttle::Throttle;
use crate::journal::Journal;
use crate::kernel::{Heritage, Kernel, Ring};
use announce::Announcer;
use probe_core::event::{Anomaly, Event, Fact};
use probe_core::limits::SECOND;
use probe_core::monitor::Monitor;
use probe_core::termination::{Filter, State, Termination};
use probe_core::time::Mono;
use probe_ebpf::wire::{PROBE_OWN, anomaly};
use pulse::{OtherPods, Pulse, Strangers};
use query::{Handle, KernelNow, Observation, Query};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

/// Facts that wait between sources and core; a full queue slows the sources down, nothing is dropped.
pub const EVENT_QUEUE: usize = 1024;
/// Records that are taken off the ring in one turn: what fits into it, or so.
const RECORDS: usize = 16_384;
/// Facts that are taken in one turn, so that none starves the others.
const BATCH: usize = 256;
/// Between readings of the slots of stopping pods.
const TERMINATING_NS: u64 = SECOND / 4;
/// Between readings of all slots and of the kernel side's anomalies.
const ALL_NS: u64 = SECOND;
/// After a fact that is told once, until the state is saved: what comes together is saved together.
const SAVE_NS: u64 = SECOND / 20;
/// Between saves, in times of what the last one took: a state full of evidence takes a twentieth of a core at most.
const SAVE_SHARE: u64 = 20;
/// Between samples of the wall clock, and sweeps of the memory of closed connections.
const SLOW_NS: u64 = 10 * SECOND;
/// At the end, how long the core may still want to be called: longer than its reorder window, shorter than any grace.
const LAST_NS: u64 = SECOND / 2;
/// A change of the wall clock against the monotonic one that is sampled at once: well below what the core calls a step.
const CLOCK_SLIP_NS: u64 = SECOND / 10;

/// What the driver is made of.
pub struct Parts {
    /// The core.
    pub monitor: Monitor,
    /// The kernel side, if it loaded.
    pub kernel: Option<Kernel>,
    /// The cgroup hierarchy, if there is one.
    pub hierarchy: Option<Hierarchy>,
    /// Where conclusions are logged.
    pub journal: Journal,
    /// Has lost requests told as Kubernetes Events, if that is wanted.
    pub announcer: Option<Announcer>,
    /// Asks connection tracking about lost connects, if that is wanted.
    pub asker: Option<Asker>,
    /// Writes the kernel programs' debug lines to the log, if they are compiled in.
    pub kernel_log: Option<Box<dyn FnMut() + Send>>,
    /// Pod that the agent runs in.
    pub own_pod: Option<String>,
}

/// What others hold of the driver.
#[derive(Clone)]
pub struct Links {
    /// For questions.
    pub handle: Handle,
    /// Where sources send facts.
    pub sink: mpsc::Sender<Event>,
    /// Signs of life.
    pub pulse: Arc<Pulse>,
    /// How many other pods are left on the node; `None` until known.
    pub others: watch::Receiver<Option<usize>>,
    /// How many pods run here while the API lists none; 0 if it lists some.
    pub strangers: watch::Receiver<usize>,
}

/// The driver.
pub struct Driver {
    monitor: Taped,
    kernel: Option<Kernel>,
    /// The kernel side's records, while the driver runs.
    ring: Option<AsyncFd<Ring>>,
    hierarchy: Option<Hierarchy>,
    journal: Journal,
    announcer: Option<Announcer>,
    asker: Option<Asker>,
    kernel_log: Option<Box<dyn FnMut() + Send>>,
    events: mpsc::Receiver<Event>,
    queries: mpsc::Receiver<Query>,
    pulse: Arc<Pulse>,
    others: OtherPods,
    strangers: Strangers,
    /// How the containers that are probed were throttled.
    throttle: Option<Throttle>,
    /// Ids of the cgroups that the core knows.
    cgroups: BTreeSet<u64>,
    /// Ring records by kind.
    records: BTreeMap<&'static str, u64>,
    /// Ring records that were refused, as last read.
    ring_full: u64,
    /// Wall clock minus monotonic clock, as last sampled.
    clock_offset: Option<i128>,
    ticks: Ticks,
    /// What saving the state took last.
    save_cost_ns: u64,
}

/// When what is due next.
#[derive(Default)]
struct Ticks {
    /// When the state is saved next.
    save: Mono,
    /// Containers' throttling, likewise.
    cpu: Mono,
    terminating: Mono,
    all: Mono,
    slow: Mono,
}

impl Driver {
    /// Puts the driver together and hands out its links. Nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Links) {
        let (handle, queries) = Handle::new();
        let (sink, events) = mpsc::channel(EVENT_QUEUE);
        let pulse = Arc::new(Pulse::default());
        let (others, left) = OtherPods::new(parts.own_pod);
        let (strangers, strange) = Strangers::new();
        let links = Links { handle, sink, pulse: Arc::clone(&pulse), others: left, strangers: strange };
        let cgroups = parts.monitor.known().cgroups;
        let driver = Self {
            monitor: Taped::new(parts.monitor),
            throttle: parts.hierarchy.clone().map(Throttle::new),
            kernel: parts.kernel,
            ring: None,
            hierarchy: parts.hierarchy,
            journal: parts.journal,
            announcer: parts.announcer,
            asker: parts.asker,
            kernel_log: parts.kernel_log,
            events,
            queries,
            pulse,
            others,
            strangers,
            cgroups,
            records: RECORD_KINDS.map(|kind| (kind, 0)).into(),
            ring_full: 0,
            clock_offset: None,
            ticks: Ticks::default(),
            save_cost_ns: 0,
        };
        (driver, links)
    }

    /// Runs until `stop` says so; returns the terminations that are not over yet. Dropping the kernel side with it
    /// detaches every program.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Vec<Termination> {
        self.ring = self.kernel.as_mut().and_then(Kernel::take_ring).and_then(awaited);
        self.take_over();
        self.tick(mono_now());
        self.scan_cgroups();
        let mut batch = Vec::with_capacity(BATCH);
        let (mut sources_left, mut records_left) = (true, false);
        loop {
            self.conclude();
            let wait = if records_left { 0 } else { self.next_due().since(mono_now()) };
            let mut asked = None;
            tokio::select! {
                () = readable(&mut self.ring) => {}
                count = self.events.recv_many(&mut batch, BATCH), if sources_left => sources_left = count > 0,
                Some(query) = self.queries.recv() => asked = Some(query),
                () = tokio::time::sleep(Duration::from_nanos(wait)) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            records_left = self.receive(&mut batch);
            self.tick(mono_now());
            if let Some(query) = asked {
                self.answer(query);
            }
        }
        self.last_words().await
    }

    /// Takes what the sources had still to say and gives the core its time to put it in order.
    async fn last_words(mut self) -> Vec<Termination> {
        let mut batch = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            batch.push(event);
        }
        self.receive(&mut batch);
        self.read(false);
        let end = mono_now().after(LAST_NS);
        while let Some(due) = self.monitor.poll_timeout().filter(|due| *due <= end) {
            tokio::time::sleep(Duration::from_nanos(due.since(mono_now()))).await;
            self.handle_timeout(mono_now());
            self.conclude();
        }
        self.save();
        let mut unfinished = self.monitor.terminations(&Filter::default()).items;
        unfinished.retain(|termination| termination.state != State::Ended);
        unfinished
    }

    /// Takes what is in the ring; true if that was too much for one turn.
    fn take_records(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        let taken = ring.get_mut().drain(RECORDS, |bytes| {
            let event = decode(bytes, self.hierarchy.as_ref(), mono_now());
            *self.records.entry(kind_of(event.as_ref())).or_default() += 1;
            events.extend(event);
        });
        taken == RECORDS
    }

    /// Facts of the API. Their source stamped them and may have been kept from the CPU before it could send them: they are
    /// received when they are here, and nobody can say what came before what the core has applied.
    fn receive(&mut self, facts: &mut Vec<Event>) -> bool {
        let applied = self.monitor.watermark();
        let facts = facts.drain(..).map(|fact| Event { at: fact.at.max(applied), ..fact });
        self.hand_over(facts.collect())
    }

    /// Gives facts to the core, together with what the kernel had written by now and in the order of their moments: whatever
    /// takes the core's time on - a fact of the API, a reading, a timer, a question - comes after what the kernel wrote
    /// before it, however long this process was kept from the CPU. True if the ring held too much for one turn.
    fn hand_over(&mut self, mut events: Vec<Event>) -> bool {
        let records_left = self.take_records(&mut events);
        events.sort_by_key(|event| event.at);
        for event in events {
            self.handle(event);
        }
        records_left
    }

    /// Time has come to `now`; as [`Self::hand_over`].
    fn handle_timeout(&mut self, now: Mono) {
        self.hand_over(Vec::new());
        self.monitor.handle_timeout(now);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only these matter to the driver itself")]
    fn handle(&mut self, mut event: Event) {
        if let Fact::Probed(seen) = &mut event.fact {
            if seen.flags & PROBE_OWN != 0 {
                // The agent's own, which is no kubelet.
                return;
            }
            seen.throttled_ns = seen
                .container
                .zip(self.throttle.as_mut())
                .and_then(|(container, throttle)| throttle.since(container, seen.begun, mono_now()));
        }
        self.others.note(&event.fact);
        self.strangers.note(&event.fact);
        if event.fact.is_told_once() {
            let soon = SAVE_NS.max(self.save_cost_ns.saturating_mul(SAVE_SHARE));
            self.ticks.save = self.ticks.save.min(mono_now().after(soon));
        }
        match &event.fact {
            Fact::Cgroup { id, .. } => {
                self.cgroups.insert(*id);
            }
            Fact::CgroupGone { id } => {
                self.cgroups.remove(id);
            }
            Fact::Loss(loss) => {
                if let Some(asker) = &self.asker {
                    asker.ask(event.at, loss);
                }
            }
            _ => {}
        }
        self.monitor.handle(event);
    }

    /// A fact that becomes known here and now.
    fn note(&mut self, fact: Fact) {
        self.hand_over(vec![Event { at: mono_now(), fact }]);
    }

    fn next_due(&self) -> Mono {
        let mut next = self.ticks.save.min(self.ticks.all).min(self.ticks.slow);
        // Every wake-up costs the node's pods their caches: none for what has nothing to do.
        if self.monitor.has_terminating() || self.kernel_log.is_some() {
            next = next.min(self.ticks.terminating);
        }
        if let Some(due) = self.throttle.as_ref().and_then(Throttle::next_due) {
            next = next.min(due.max(self.ticks.cpu));
        }
        self.monitor.poll_timeout().map_or(next, |core| core.min(next))
    }

    fn tick(&mut self, now: Mono) {
        self.pulse.beat(now);
        if now >= self.ticks.cpu && self.kernel.is_some() {
            self.ticks.cpu = now.after(TERMINATING_NS);
            if let Some(throttle) = &mut self.throttle {
                throttle.sample(&self.monitor.probed_containers(), mono_now);
            }
        }
        if now >= self.ticks.slow {
            self.ticks.slow = now.after(SLOW_NS);
            self.clock_offset = None;
            if let Some(kernel) = &mut self.kernel {
                kernel.sweep_closed(now.0);
            }
        }
        if now >= self.ticks.all {
            self.ticks.all = now.after(ALL_NS);
            self.ticks.terminating = now.after(TERMINATING_NS);
            self.sample_clock();
            self.read(false);
            self.read_anomalies();
            self.beat(now);
        } else if now >= self.ticks.terminating {
            self.ticks.terminating = now.after(TERMINATING_NS);
            self.read(true);
            if let Some(flush) = &mut self.kernel_log {
                flush();
            }
        }
        if self.monitor.poll_timeout().is_some_and(|due| due <= now) {
            self.handle_timeout(now);
        }
        if now >= self.ticks.save {
            self.save();
        }
    }

    /// Tells the core the time of day: regularly, and at once when it was set.
    fn sample_clock(&mut self) {
        let (at, unix_ns) = (mono_now(), unix_now_ns());
        let offset = i128::from(unix_ns) - i128::from(at.0);
        let known = self.clock_offset.is_some_and(|old| old.abs_diff(offset) < u128::from(CLOCK_SLIP_NS));
        if !known {
            self.clock_offset = Some(offset);
            self.hand_over(vec![Event { at, fact: Fact::Clock { unix_ns } }]);
        }
    }

    fn read(&mut self, only_terminating: bool) {
        let Some(kernel) = &self.kernel else { return };
        let mut facts = Vec::new();
        for watched in self.monitor.slots() {
            if only_terminating && !watched.terminating {
                continue;
            }
            let at = mono_now();
            facts.push(match kernel.reading(watched.slot) {
                Ok(counters) => {
                    Event { at, fact: Fact::Reading { slot: watched.slot, counters: Box::new(counters) } }
                }
                Err(error) => {
                    tracing::warn!(%error, "a reading failed");
                    decode::anomaly(at, Anomaly::MapWrite)
                }
            });
        }
        self.hand_over(facts);
    }

    fn read_anomalies(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let values = kernel.anomalies();
        let refused = usize::try_from(anomaly::RING_FULL)
            .ok()
            .and_then(|index| values.get(index).copied())
            .unwrap_or(0);
        self.note(Fact::KernelAnomalies { values });
        if refused != self.ring_full {
            self.ring_full = refused;
            // Records of exits and of new containers may be among the refused ones. Exits first: a cgroup that is gone
            // stands for an exit that nobody saw.
            self.look_for_exits();
            self.scan_cgroups();
        }
    }

    /// Tells the core of exits that the kernel's table has and no record told.
    fn look_for_exits(&mut self) {
        // Until then an index that was given away anew shows the state of the container before.
        self.conclude();
        let Some(kernel) = &self.kernel else { return };
        let at = mono_now();
        let mut facts = Vec::new();
        for (container, slot) in self.monitor.containers() {
            facts.extend(match kernel.exited(container, slot) {
                Ok(exit_ns) => exit_ns.map(|ns| Fact::Exited { slot, container, exited: Mono(ns) }),
                Err(error) => {
                    tracing::warn!(%error, "a container's state cannot be read");
                    Some(Fact::Anomaly { kind: Anomaly::MapWrite, count: 1 })
                }
            });
        }
        self.hand_over(facts.into_iter().map(|fact| Event { at, fact }).collect());
    }

    /// Brings the core's cgroups in line with cgroupfs: at the start, and when records may have been lost.
    fn scan_cgroups(&mut self) {
        let Some(hierarchy) = &self.hierarchy else { return };
        let at = mono_now();
        let found = cgroup::scan(hierarchy);
        let there: BTreeSet<u64> = found.iter().map(|one| one.id).collect();
        let new = found.iter().filter(|one| !self.cgroups.contains(&one.id));
        let mut facts: Vec<Fact> = new.filter_map(|one| decode::cgroup(one.id, true, &one.what)).collect();
        facts.extend(self.cgroups.difference(&there).map(|id| Fact::CgroupGone { id: *id }));
        self.hand_over(facts.into_iter().map(|fact| Event { at, fact }).collect());
    }

    /// Applies what the core wants done and logs what it has to say.
    fn conclude(&mut self) {
        // A successor must know of a slot before the kernel counts in it, and of its counts before they are zeroed.
        if self.monitor.has_commands() {
            self.save();
        }
        while let Some(command) = self.monitor.poll_command() {
            let Some(kernel) = &mut self.kernel else { continue };
            if let Err(error) = kernel.apply(&command) {
                tracing::warn!(%error, ?command, "a kernel map could not be changed");
                self.note(Fact::Anomaly { kind: Anomaly::MapWrite, count: 1 });
            }
        }
        while let Some(termination) = self.monitor.poll_ended() {
            self.journal.termination(&termination);
            if let Some(announcer) = &mut self.announcer {
                announcer.ended(&termination, &self.monitor);
            }
        }
        while let Some(finding) = self.monitor.poll_finding() {
            self.journal.finding(&finding);
        }
    }

    /// Leaves word for a successor.
    fn save(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            self.ticks.save = mono_now().after(ALL_NS);
            return;
        };
        let began = mono_now();
        let saved = kernel.save(|| self.monitor.save());
        self.save_cost_ns = mono_now().since(began);
        let mut next = ALL_NS.max(self.save_cost_ns.saturating_mul(SAVE_SHARE));
        if let Err(error) = saved {
            tracing::warn!(%error, "a restarted agent would miss what was counted since the state was saved last");
            self.note(Fact::Anomaly { kind: Anomaly::MapWrite, count: 1 });
            next = SLOW_NS;
        }
        // Last: noting the failure asks to be saved soon, too.
        self.ticks.save = mono_now().after(next);
    }

    /// Has the kernel programs go on.
    fn beat(&mut self, now: Mono) {
        let Some(kernel) = &mut self.kernel else { return };
        match kernel.beat(now) {
            Ok(true) => {}
            Ok(false) => self.note(Fact::Anomaly { kind: Anomaly::KernelSilent, count: 1 }),
            Err(error) => {
                tracing::warn!(%error, "the kernel programs cannot be told to go on");
                self.note(Fact::Anomaly { kind: Anomaly::MapWrite, count: 1 });
            }
        }
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.settle()
        {
            tracing::warn!(%error, "the kernel programs keep to the long way, which costs more and counts the same");
            self.note(Fact::Anomaly { kind: Anomaly::MapWrite, count: 1 });
        }
    }

    /// Brings the core and the kernel's tables in line: either may have come from an agent before this one.
    fn take_over(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let heritage = kernel.heritage().clone();
        match heritage {
            Heritage::Adopted | Heritage::Upgraded | Heritage::Silent => {
                self.monitor.unrecorded().adopt(&kernel.tables())
            }
            Heritage::Unpinned | Heritage::None | Heritage::Foreign(_) => {
                self.monitor.unrecorded().begin_kernel_anew()
            }
        }
        if matches!(heritage, Heritage::Silent | Heritage::Foreign(_)) {
            self.note(Fact::Anomaly { kind: Anomaly::KernelSilent, count: 1 });
        }
    }

    /// Answers; an asker that has gone meanwhile needs none.
    fn answer(&mut self, query: Query) {
        match query {
            Query::Observe(reply) => drop(reply.send(self.observe())),
            Query::Scrape(mut own, reply) => {
                let Observation { snapshot, kernel } = self.observe();
                own.extend(own::kernel_series(&kernel));
                let kept = if self.monitor.is_recorded() { own.clone() } else { Vec::new() };
                let mut series = snapshot.series;
                series.append(&mut own);
                if reply.send(series).is_ok() {
                    self.monitor.scraped(snapshot.at, &kept);
                }
            }
            Query::Terminations(filter, reply) => drop(reply.send(self.monitor.terminations(&filter))),
            Query::Restarts(filter, reply) => drop(reply.send(self.monitor.restarts(&filter))),
            Query::Advice(filter, reply) => drop(reply.send(self.monitor.advice(&filter))),
            Query::Probes(reply) => {
                drop(reply.send((self.monitor.probes(), self.monitor.verdicts())));
            }
            Query::Record(reply) => drop(reply.send(self.monitor.record(mono_now(), unix_now_ns()))),
        }
    }

    /// Fresh readings, and what follows from them.
    fn observe(&mut self) -> Observation {
        self.read(false);
        self.read_anomalies();
        self.handle_timeout(mono_now());
        self.conclude();
        Observation { snapshot: self.monitor.snapshot(), kernel: self.kernel_now() }
    }

    fn kernel_now(&self) -> KernelNow {
        let Some(kernel) = &self.kernel else { return KernelNow::default() };
        KernelNow {
            programs: kernel.programs(),
            maps: kernel.maps(),
            records: self.records.clone(),
            anomalies: anomaly::NAMES.into_iter().zip(kernel.anomalies()).collect(),
        }
    }
}

fn awaited(ring: Ring) -> Option<AsyncFd<Ring>> {
    match ring.awaited() {
        Ok(ring) => Some(ring),
        Err(error) => {
            tracing::error!(%error, "the ring cannot be waited for: counts go on, evidence does not");
            None
        }
    }
}

/// Waits until there are records; for ever without a ring.
async fn readable(ring: &mut Option<AsyncFd<Ring>>) {
    let Some(ring) = ring else { return std::future::pending().await };
    let Ok(mut ready) = ring.readable_mut().await else { return std::future::pending().await };
    // Before they are taken: the next one makes it ready again.
    ready.clear_ready();
}

/// What [`kind_of`] can say: each is exported from the start.
const RECORD_KINDS: [&str; 8] =
    ["cgroup", "exec", "exit", "listener", "loss", "malformed", "probe", "signal"];

fn kind_of(event: Option<&Event>) -> &'static str {
    match event.map(|event| &event.fact) {
        Some(Fact::Loss(_)) => "loss",
        Some(Fact::Probed(_)) => "probe",
        Some(Fact::Execed(_)) => "exec",
        Some(Fact::Signal { .. }) => "signal",
        Some(Fact::Exit { .. }) => "exit",
        Some(Fact::Listener { .. }) => "listener",
        Some(Fact::Anomaly { kind: Anomaly::BadRecord, .. }) => "malformed",
        // Cgroups, those of no pod of this agent included.
        _ => "cgroup",
    }
}
