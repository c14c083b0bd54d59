//! The workloads' totals and the life of their series: born at 0, held at 0 until a scrape has seen that, gone some time
//! after the workload's last pod. What does not fit the series limit counts under `~other`, so that sums stay right.

mod phases;
mod saved;

use crate::catalogue::{LAG_BUCKETS, OTHER};
use crate::kubelet::Phase;
use crate::limits::SECOND;
use crate::series::{self, COUNTERS, HISTOGRAMS, ProbeLabel};
use crate::snapshot::{Exemplar, Series, Value};
use crate::time::Mono;
use phases::{Execs, Phases};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest scrape interval that is cared for (two minutes, the staleness bound of Prometheus being five), and some.
pub(crate) const HELD_NS: u64 = 130 * SECOND;
/// Lines of a histogram: buckets, +Inf, sum and count.
const HISTOGRAM_LINES: usize = LAG_BUCKETS.len() + 3;
const BUCKETS: usize = LAG_BUCKETS.len() + 1;
const GAUGES: usize = 2;
/// The overflow workload's place; its lines come on top of the limit.
const OVERFLOW: WorkloadIx = 0;

/// Place of a workload in the table.
pub(crate) type WorkloadIx = usize;

/// Namespace, name and kind: the order of the labels.
pub(crate) type WorkloadKey = [String; 3];

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Life {
    /// Not exported yet.
    #[default]
    Unborn,
    /// Exported at 0, whatever its value, since this moment.
    Held(Mono),
    /// Exported with its value.
    Shown,
    /// No room: its value goes to the overflow workload.
    Dropped,
}

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS],
    sum: f64,
}

#[derive(Debug)]
struct Workload {
    key: WorkloadKey,
    pods: usize,
    /// When its last pod left.
    left: Option<Mono>,
    counters: [u64; COUNTERS],
    counter_life: [Life; COUNTERS],
    exemplars: BTreeMap<usize, Exemplar>,
    histograms: [Histogram; HISTOGRAMS],
    histogram_life: [Life; HISTOGRAMS],
}

impl Workload {
    fn new(key: WorkloadKey) -> Self {
        let mut counter_life = [Life::Unborn; COUNTERS];
        for (number, life) in counter_life.iter_mut().enumerate() {
            if series::is_alertable(number) {
                *life = Life::Shown;
            }
        }
        Self {
            key,
            pods: 0,
            left: None,
            counters: [0; COUNTERS],
            counter_life,
            exemplars: BTreeMap::new(),
            histograms: [Histogram::default(); HISTOGRAMS],
            histogram_life: [Life::Unborn; HISTOGRAMS],
        }
    }

    fn lines(&self) -> usize {
        let is_out = |life: &&Life| matches!(life, Life::Held(_) | Life::Shown);
        self.counter_life.iter().filter(is_out).count()
            + self.histogram_life.iter().filter(is_out).count() * HISTOGRAM_LINES
            + GAUGES
    }
}

/// All workloads.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Totals {
    list: Vec<Option<Box<Workload>>>,
    /// Follows from the list, as `lines` does: not saved.
    #[serde(skip)]
    by_key: BTreeMap<WorkloadKey, WorkloadIx>,
    #[serde(skip)]
    lines: usize,
    #[serde(skip)]
    limit: usize,
    dropped: u64,
    /// Lost requests of all workloads.
    pub(crate) node_lost: u64,
    /// Settled pod terminations of all workloads.
    pub(crate) node_terminations: u64,
    /// Phases of the probes of all workloads.
    #[serde(default)]
    probes: Phases,
    /// Times of the exec probes of all workloads.
    #[serde(default)]
    execs: Execs,
    /// CPU time of the exec probes of all workloads.
    #[serde(default)]
    pub(crate) node_exec_cpu_ns: u64,
}

impl Totals {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            // The overflow workload is born when something overflows.
            list: vec![None],
            by_key: BTreeMap::new(),
            lines: 0,
            limit,
            dropped: 0,
            node_lost: 0,
            node_terminations: 0,
            probes: Phases::default(),
            execs: Execs::default(),
            node_exec_cpu_ns: 0,
        }
    }

    /// A pod of this workload came: its alertable series exist from now on.
    pub(crate) fn enter(&mut self, key: WorkloadKey) -> WorkloadIx {
        let ix = match self.by_key.get(&key) {
            Some(ix) => *ix,
            None => self.create(key),
        };
        if let Some(workload) = self.get(ix) {
            workload.pods += 1;
            workload.left = None;
        }
        ix
    }

    fn create(&mut self, key: WorkloadKey) -> WorkloadIx {
        let workload = Box::new(Workload::new(key.clone()));
        let lines = workload.lines();
        if self.lines + lines > self.limit {
            self.dropped = self.dropped.saturating_add(u64::try_from(lines).unwrap_or(u64::MAX));
            self.overflow();
            return OVERFLOW;
        }
        self.lines += lines;
        let free = (1..self.list.len()).find(|ix| self.list[*ix].is_none());
        let ix = free.unwrap_or_else(|| {
            self.list.push(None);
            self.list.len() - 1
        });
        self.list[ix] = Some(workload);
        self.by_key.insert(key, ix);
        ix
    }

    fn overflow(&mut self) -> &mut Workload {
        self.list[OVERFLOW].get_or_insert_with(|| Box::new(Workload::new([OTHER; 3].map(str::to_owned))))
    }

    /// A pod of this workload left; true if it was the last.
    pub(crate) fn leave(&mut self, ix: WorkloadIx, at: Mono) -> bool {
        let Some(workload) = self.get(ix) else { return false };
        workload.pods = workload.pods.saturating_sub(1);
        if workload.pods == 0 {
            workload.left = Some(at);
        }
        workload.pods == 0
    }

    /// Removes the workload if its last pod left `ttl_ns` ago or more.
    pub(crate) fn expire(&mut self, ix: WorkloadIx, now: Mono, ttl_ns: u64) {
        let Some(workload) = self.get(ix) else { return };
        if workload.left.is_some_and(|left| left.after(ttl_ns) <= now) {
            let (key, lines) = (workload.key.clone(), workload.lines());
            self.list[ix] = None;
            if ix != OVERFLOW {
                self.lines -= lines;
                self.by_key.remove(&key);
            }
        }
    }

    fn get(&mut self, ix: WorkloadIx) -> Option<&mut Workload> {
        self.list.get_mut(ix)?.as_deref_mut()
    }

    /// Adds to a counter.
    pub(crate) fn add(
        &mut self,
        ix: WorkloadIx,
        counter: usize,
        count: u64,
        at: Mono,
        exemplar: Option<Exemplar>,
    ) {
        if count == 0 {
            return;
        }
        let room = self.limit.saturating_sub(self.lines);
        let Some(workload) = self.get(ix) else { return };
        let (born, fits) = be_born(&mut workload.counter_life[counter], at, ix == OVERFLOW || room >= 1);
        let target = if fits { workload } else { self.overflow() };
        if !fits {
            be_born(&mut target.counter_life[counter], at, true);
        }
        target.counters[counter] = target.counters[counter].saturating_add(count);
        if let Some(exemplar) = exemplar {
            target.exemplars.insert(counter, exemplar);
        }
        self.account(ix, born, fits, 1);
    }

    /// Adds a sample to a histogram.
    pub(crate) fn observe(&mut self, ix: WorkloadIx, histogram: usize, ns: u64, at: Mono) {
        let room = self.limit.saturating_sub(self.lines);
        let Some(workload) = self.get(ix) else { return };
        let life = &mut workload.histogram_life[histogram];
        let (born, fits) = be_born(life, at, ix == OVERFLOW || room >= HISTOGRAM_LINES);
        let target = if fits { workload } else { self.overflow() };
        if !fits {
            be_born(&mut target.histogram_life[histogram], at, true);
        }
        let seconds = seconds(ns);
        let histogram = &mut target.histograms[histogram];
        let count = &mut histogram.counts[LAG_BUCKETS.partition_point(|bound| *bound < seconds)];
        *count = count.saturating_add(1);
        histogram.sum += seconds;
        self.account(ix, born, fits, HISTOGRAM_LINES);
    }

    /// Adds a sample of a probe's phase.
    pub(crate) fn observe_probe(&mut self, label: ProbeLabel, phase: Phase, ns: u64, at: Mono) {
        self.probes.observe(label, phase, ns, at);
    }

    /// Adds an exec probe's time, and its CPU time to the node's.
    pub(crate) fn observe_exec(&mut self, label: ProbeLabel, ns: u64, cpu_ns: u64, at: Mono) {
        self.execs.observe(label, ns, at);
        self.node_exec_cpu_ns = self.node_exec_cpu_ns.saturating_add(cpu_ns);
    }

    fn account(&mut self, ix: WorkloadIx, born: bool, fits: bool, lines: usize) {
        if born && fits && ix != OVERFLOW {
            self.lines += lines;
        }
        if born && !fits {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// A snapshot of this moment was served: what it showed at 0 may show its value in the next.
    pub(crate) fn scraped(&mut self, at: Mono) {
        for workload in self.list.iter_mut().flatten() {
            for life in workload.counter_life.iter_mut().chain(&mut workload.histogram_life) {
                life.scraped(at);
            }
        }
        self.probes.scraped(at);
        self.execs.scraped(at);
    }

    /// Series that found no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// All series of all workloads, with `gauges` (terminating pods and connections) by workload; unsorted.
    pub(crate) fn render(&self, now: Mono, gauges: &BTreeMap<WorkloadIx, (u64, u64)>, out: &mut Vec<Series>) {
        self.probes.render(now, out);
        self.execs.render(now, out);
        for (ix, workload) in self.list.iter().enumerate() {
            let Some(workload) = workload else { continue };
            let labels = |rest: &[&str]| {
                workload.key.iter().cloned().chain(rest.iter().map(|label| (*label).to_owned())).collect()
            };
            for (number, (value, life)) in workload.counters.iter().zip(&workload.counter_life).enumerate() {
                let Some(is_held) = is_held(*life, now) else { continue };
                let (family, rest) = series::counter(number);
                let exemplar = if is_held { None } else { workload.exemplars.get(&number).cloned() };
                let shown = if is_held { 0 } else { *value };
                let value = if series::is_time(number) {
                    Value::Seconds(seconds(shown))
                } else {
                    Value::Counter(shown)
                };
                out.push(Series { family, labels: labels(&rest), value, exemplar });
            }
            for (number, (histogram, life)) in
                workload.histograms.iter().zip(&workload.histogram_life).enumerate()
            {
                let Some(is_held) = is_held(*life, now) else { continue };
                let (family, rest) = series::histogram(number);
                let shown = if is_held { Histogram::default() } else { *histogram };
                let value = Value::Histogram { counts: shown.counts.to_vec(), sum: shown.sum };
                out.push(Series { family, labels: labels(&rest), value, exemplar: None });
            }
            let (pods, connections) = gauges.get(&ix).copied().unwrap_or_default();
            for (family, value) in [("terminating_pods", pods), ("terminating_connections", connections)] {
                out.push(Series {
                    family,
                    labels: labels(&[]),
                    value: Value::Gauge(value as f64),
                    exemplar: None,
                });
            }
        }
    }
}

impl Life {
    fn scraped(&mut self, at: Mono) {
        if matches!(self, Self::Held(born) if *born < at) {
            *self = Self::Shown;
        }
    }
}

/// A first value arrives: (the series changed its life, its own workload takes the value).
fn be_born(life: &mut Life, at: Mono, fits: bool) -> (bool, bool) {
    match life {
        Life::Unborn => {
            *life = if fits { Life::Held(at) } else { Life::Dropped };
            (true, fits)
        }
        Life::Held(_) | Life::Shown => (false, true),
        Life::Dropped => (false, false),
    }
}

/// Whether an exported series still shows 0; `None` if it is not exported.
fn is_held(life: Life, now: Mono) -> Option<bool> {
    match life {
        Life::Unborn | Life::Dropped => None,
        Life::Held(born) => Some(now.since(born) < HELD_NS),
        Life::Shown => Some(false),
    }
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: usize = 52;

    fn key(name: &str) -> WorkloadKey {
        ["shop".to_owned(), name.to_owned(), "Deployment".to_owned()]
    }

    fn shown(totals: &Totals, now: u64, workload: &str, family: &str) -> Option<u64> {
        let mut out = Vec::new();
        totals.render(Mono(now), &BTreeMap::new(), &mut out);
        out.iter().find(|s| s.family == family && s.labels[1] == workload).and_then(|s| match s.value {
            Value::Counter(value) => Some(value),
            Value::Histogram { ref counts, .. } => Some(counts.iter().sum()),
            Value::Seconds(_) | Value::Gauge(_) => None,
        })
    }

    #[test]
    fn alertable_series_exist_at_birth_others_are_held_at_zero_for_one_scrape_or_130_s() {
        let mut totals = Totals::new(5000);
        let api = totals.enter(key("api"));
        assert_eq!(shown(&totals, 1, "api", "silent_terminations"), Some(0));
        assert_eq!(shown(&totals, 1, "api", "late_requests"), None);
        totals.add(api, LATE, 3, Mono(10), None);
        totals.observe(api, series::TAIL, 2 * SECOND, Mono(10));
        totals.scraped(Mono(10));
        assert_eq!(shown(&totals, 11, "api", "late_requests"), Some(0), "that scrape may be older");
        assert_eq!(shown(&totals, 10 + HELD_NS, "api", "late_requests"), Some(3));
        totals.scraped(Mono(11));
        assert_eq!(shown(&totals, 11, "api", "late_requests"), Some(3));
        assert_eq!(shown(&totals, 11, "api", "traffic_tail_duration_seconds"), Some(1));
    }

    #[test]
    fn series_go_when_the_last_pod_has_been_gone_for_the_ttl() {
        let mut totals = Totals::new(5000);
        let api = totals.enter(key("api"));
        assert_eq!(totals.enter(key("api")), api);
        assert!(!totals.leave(api, Mono(5)));
        assert!(totals.leave(api, Mono(6)));
        totals.expire(api, Mono(15), 10);
        assert_eq!(shown(&totals, 15, "api", "silent_terminations"), Some(0));
        totals.expire(api, Mono(16), 10);
        assert_eq!(shown(&totals, 16, "api", "silent_terminations"), None);
        assert_eq!(totals.lines, 0);
    }

    #[test]
    fn what_does_not_fit_counts_under_other_and_sums_stay_right() {
        let birth = Workload::new(key("x")).lines();
        let mut totals = Totals::new(birth + 1);
        let api = totals.enter(key("api"));
        let web = totals.enter(key("web"));
        assert_eq!(web, OVERFLOW);
        assert_eq!(shown(&totals, 1, "web", "silent_terminations"), None);
        assert_eq!(shown(&totals, 1, OTHER, "silent_terminations"), Some(0));
        totals.add(web, series::SILENT, 2, Mono(1), None);
        totals.add(api, LATE, 1, Mono(1), None);
        totals.observe(api, series::TAIL, SECOND, Mono(1));
        totals.add(api, LATE + 1, 7, Mono(1), None);
        totals.add(api, LATE + 1, 7, Mono(1), None);
        totals.scraped(Mono(2));
        let mut out = Vec::new();
        totals.render(Mono(3), &BTreeMap::new(), &mut out);
        let late: Vec<_> = out
            .iter()
            .filter(|s| s.family == "late_requests")
            .map(|s| (s.labels[1].as_str(), s.labels[4].as_str(), s.value.clone()))
            .collect();
        assert_eq!(late, [(OTHER, "lost", Value::Counter(14)), ("api", "answered", Value::Counter(1))]);
        assert_eq!(shown(&totals, 3, OTHER, "silent_terminations"), Some(2));
        assert_eq!(shown(&totals, 3, OTHER, "traffic_tail_duration_seconds"), Some(1));
        assert_eq!(totals.dropped(), u64::try_from(birth).unwrap() + 2);
        assert!(totals.lines <= totals.limit);
    }
}
