//! The kubelet's probe manager: the workers of all pods of a node, which of them is due, and what their probes came to.
//!
//! In: pods as they come, change and go, the time, and probes that have ended. Out: probes that are to begin now. A probe runs for the
//! container that was there when it began: what it brings after that container or its pod has gone is dropped and counted. Not here:
//! running one. Bounded: pods beyond [`PODS_MAX`] and workers beyond [`WORKERS_MAX`] are refused and counted.

mod entry;
mod queue;

use super::pace::Caps;
use super::pod::{HandlerKind, ProbedContainer, ProbedPod};
use super::series::{self, ProbeSeries, RowKey};
use super::tally::{Ran, Tally};
use super::worker::Next;
use super::{ProbeResult, ProbeType};
use crate::snapshot::Series;
use crate::time::Mono;
use crate::wallclock::Timestamp;
use entry::{Entry, Place};
use queue::Queue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most pods whose probes are managed: far more than any node has.
pub const PODS_MAX: usize = 10_000;
/// Most workers: three for each of so many pods.
pub const WORKERS_MAX: usize = 3 * PODS_MAX;

/// A worker's number; none is used twice.
pub type WorkerId = u64;

/// What the manager is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The caps of all probes together.
    pub caps: Caps,
    /// Where a spec's period is longer, probes run at this one.
    pub period_max_seconds: Option<i32>,
    /// Exec probes run too; else they are targets without a verdict.
    pub exec: bool,
}

/// Both clocks: ticks go by the one that is never set, a container's age by the other, as its status has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub mono: Mono,
    /// Of the day.
    pub wall: Timestamp,
}

/// A probe that is to begin now; [`Manager::finish`] is to be told of its end, whatever it is.
#[derive(Clone, Debug)]
pub struct Start {
    /// Whose.
    pub id: WorkerId,
    /// When it was due: its tick, or the end of the probe before it if that was later.
    pub due: Mono,
    /// The pod's address.
    pub address: String,
    /// Container, with its ports and probes.
    pub container: Arc<ProbedContainer>,
    /// The container's id, as the status has it.
    pub container_id: String,
    /// Which of its probes.
    pub kind: ProbeType,
}

/// What was not as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Probes that began late because so many ran.
    pub delayed_by_concurrency: u64,
    /// Probes that began late because so many had begun.
    pub delayed_by_rate: u64,
    /// Results that were dropped: their container, or their pod, had gone.
    pub late_results: u64,
    /// Pods and workers that were refused: there were too many.
    pub refused: u64,
    /// Rows of metrics that count under `~other`: there were too many.
    pub series_dropped: u64,
}

/// One worker as others see it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its pod.
    pub pod: &'a ProbedPod,
    /// Its container.
    pub container: &'a ProbedContainer,
    /// What is probed for.
    pub kind: ProbeType,
    /// How.
    pub handler: HandlerKind,
    /// It never runs: it is a command, and those are off.
    pub is_off: bool,
    /// From one probe to the next, in seconds.
    pub period_seconds: i32,
    /// What is believed after the thresholds; `None`: nothing.
    pub believes: Option<ProbeResult>,
    /// How many equal results came in a row.
    pub run: i32,
    /// What its probes came to.
    pub tally: &'a Tally,
    /// When it looks next; `None`: a probe is under way, or none is to come.
    pub next: Option<Mono>,
}

#[derive(Debug)]
struct PodEntry {
    pod: ProbedPod,
    workers: Vec<WorkerId>,
}

/// All workers of a node.
#[derive(Debug)]
pub struct Manager {
    settings: Settings,
    started: Now,
    pods: BTreeMap<String, PodEntry>,
    workers: BTreeMap<WorkerId, Entry>,
    next_id: WorkerId,
    /// Workers that wait for their tick.
    due: BTreeSet<(Mono, WorkerId)>,
    /// Workers that are to probe and have not begun.
    queue: Queue,
    counts: Counts,
    series: ProbeSeries,
}

impl Manager {
    /// A manager without a pod, started now.
    pub fn new(settings: Settings, started: Now) -> Self {
        Self {
            settings,
            started,
            pods: BTreeMap::new(),
            workers: BTreeMap::new(),
            next_id: 0,
            due: BTreeSet::new(),
            queue: Queue::new(settings.caps),
            counts: Counts::default(),
            series: ProbeSeries::new(series::LIMIT, series::TTL_NS),
        }
    }

    /// Bounds the metrics: at most so many series, which outlive their last worker for so long. To be said before the first pod.
    pub fn limit_series(&mut self, limit: usize, ttl_ns: u64) {
        self.series = ProbeSeries::new(limit, ttl_ns);
    }

    /// A pod came or changed. Its workers are made once; `random` (0 to 1) spreads their first probes while the manager is young. A pod
    /// that is being deleted keeps those that the kubelet goes on asking.
    pub fn handle_pod(&mut self, pod: ProbedPod, now: Now, random: &mut dyn FnMut() -> f64) {
        if let Some(known) = self.pods.get_mut(&pod.uid) {
            let is_ending = pod.is_deleted && !known.pod.is_deleted;
            // Workers keep to the probes that they were made with.
            let containers = std::mem::take(&mut known.pod.containers);
            known.pod = ProbedPod { containers, ..pod };
            if is_ending {
                for id in known.workers.clone() {
                    if self.workers.get(&id).is_some_and(Entry::stops_with_pod) {
                        self.end(id, now.mono);
                    }
                }
            }
            return;
        }
        if self.pods.len() >= PODS_MAX {
            self.counts.refused = self.counts.refused.saturating_add(1);
            return;
        }
        let mut workers = Vec::new();
        for container in &pod.containers {
            for (kind, _) in &container.probes {
                if pod.is_deleted && kind.stops_with_pod(container.is_sidecar) {
                    continue;
                }
                if self.workers.len() >= WORKERS_MAX {
                    self.counts.refused = self.counts.refused.saturating_add(1);
                    continue;
                }
                let Some(handler) = container.probe(*kind).and_then(HandlerKind::of) else { continue };
                let row = RowKey::new(&pod.key, &pod.workload, *kind, handler);
                let row = self.series.enter(row, now.mono);
                let of = (container, *kind, handler, row);
                let entry = Entry::new(&pod, of, &self.settings, (self.started, now), random());
                let id = self.next_id;
                self.next_id += 1;
                if let Place::Due(at) = entry.place {
                    self.due.insert((at, id));
                }
                self.workers.insert(id, entry);
                workers.push(id);
            }
        }
        self.pods.insert(pod.uid.clone(), PodEntry { pod, workers });
    }

    /// A pod left, or is not to be probed any more; once more is no harm.
    pub fn remove(&mut self, uid: &str, now: Now) {
        let Some(pod) = self.pods.remove(uid) else { return };
        for id in pod.workers {
            self.end(id, now.mono);
        }
    }

    /// Removes all pods but these.
    pub fn retain(&mut self, wanted: &BTreeSet<String>, now: Now) {
        let gone: Vec<String> = self.pods.keys().filter(|uid| !wanted.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid, now);
        }
    }

    /// A worker's end: it waits for nothing any more. A probe of it that is under way goes on counting against the caps.
    fn end(&mut self, id: WorkerId, now: Mono) {
        let Some(entry) = self.workers.remove(&id) else { return };
        self.series.leave(&entry.row, now);
        if let Some(pod) = self.pods.get_mut(&entry.uid) {
            pod.workers.retain(|other| *other != id);
        }
        match entry.place {
            Place::Due(at) => drop(self.due.remove(&(at, id))),
            Place::Queued(_) => self.queue.remove(id),
            Place::Running(_) | Place::Idle => {}
        }
    }

    /// The next probe that is to begin now. To be asked until there is none.
    pub fn poll(&mut self, now: Now) -> Option<Start> {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.due.remove(&(at, id));
            match self.look(id, now) {
                Next::Probe => {
                    if let Some(entry) = self.workers.get_mut(&id) {
                        entry.place = Place::Queued(at);
                        self.queue.push(id, entry.handler, at);
                    }
                }
                Next::Wait => self.use_tick(id, now),
                Next::Stop => self.end(id, now.mono),
            }
        }
        while let Some(id) = self.queue.pop(now.mono) {
            // What has changed since it was due, a status or the delay's end, is heeded.
            match self.look(id, now) {
                Next::Probe => return self.begin(id, now),
                Next::Wait => self.use_tick(id, now),
                Next::Stop => self.end(id, now.mono),
            }
        }
        None
    }

    /// When [`Self::poll`] has something to say next, unless a probe ends before; `None`: not until then.
    pub fn next_due(&self, now: Mono) -> Option<Mono> {
        let tick = self.due.first().map(|(at, _)| *at);
        tick.into_iter().chain(self.queue.next(now)).min()
    }

    /// A probe has ended; `None`: it brought nothing, not even an error. True if what it brought counts.
    pub fn finish(&mut self, id: WorkerId, ran: Option<Ran>, now: Now) -> bool {
        self.queue.end(id);
        let Some(entry) = self.workers.get_mut(&id) else {
            self.counts.late_results = self.counts.late_results.saturating_add(1);
            return false;
        };
        let current =
            self.pods.get(&entry.uid).and_then(|pod| pod.pod.status.probed_container(&entry.container.name));
        let is_late =
            !matches!(&entry.place, Place::Running(of) if current.is_some_and(|status| status.id == *of));
        let at = entry.next_tick(now.mono);
        entry.place = Place::Due(at);
        self.due.insert((at, id));
        if is_late {
            self.counts.late_results = self.counts.late_results.saturating_add(1);
            return false;
        }
        if let Some(ran) = &ran {
            self.series.take(&entry.row, ran);
        }
        entry.take(ran);
        true
    }

    /// What it was told once.
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// What was not as it should be, since the start.
    pub const fn counts(&self) -> Counts {
        let delayed = self.queue.delayed();
        Counts {
            delayed_by_concurrency: delayed.by_concurrency,
            delayed_by_rate: delayed.by_rate,
            series_dropped: self.series.dropped,
            ..self.counts
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many pods there are.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Probes under way.
    pub const fn running(&self) -> usize {
        self.queue.running()
    }

    /// All workers, a pod's together.
    pub fn targets(&self) -> impl Iterator<Item = Target<'_>> {
        self.pods.values().flat_map(|pod| {
            let entries = pod.workers.iter().filter_map(|id| self.workers.get(id));
            entries.map(|entry| entry.target(&pod.pod))
        })
    }

    /// The metrics, as they are now.
    pub fn series(&mut self, now: Mono) -> Vec<Series> {
        let workers = self.workers.values().map(|entry| (&*entry.row, entry.believes()));
        self.series.render(now, workers)
    }

    /// The metrics of this moment were served: see [`crate::monitor::Monitor::scraped`].
    pub fn scraped(&mut self, at: Mono) {
        self.series.scraped(at);
    }

    fn look(&mut self, id: WorkerId, now: Now) -> Next {
        let Some(entry) = self.workers.get_mut(&id) else { return Next::Stop };
        // Without an address there is nothing to probe, whatever the status says: no host would be this node.
        let pod = self.pods.get(&entry.uid).filter(|pod| !pod.pod.address.is_empty());
        entry.look(pod.map(|pod| &pod.pod.status), now.wall)
    }

    /// There was nothing to do at this tick.
    fn use_tick(&mut self, id: WorkerId, now: Now) {
        let Some(entry) = self.workers.get_mut(&id) else { return };
        let at = entry.use_tick(now.mono);
        entry.place = Place::Due(at);
        self.due.insert((at, id));
    }

    fn begin(&mut self, id: WorkerId, now: Now) -> Option<Start> {
        let entry = self.workers.get_mut(&id)?;
        let pod = &self.pods.get(&entry.uid)?.pod;
        let container_id = pod.status.probed_container(&entry.container.name)?.id.clone();
        let Place::Queued(due) = std::mem::replace(&mut entry.place, Place::Running(container_id.clone()))
        else {
            return None;
        };
        entry.use_tick(now.mono);
        self.queue.begin(id, entry.handler, now.mono);
        Some(Start {
            id,
            due,
            address: pod.address.clone(),
            container: Arc::clone(&entry.container),
            container_id,
            kind: entry.kind,
        })
    }
}

#[cfg(test)]
mod tests;
