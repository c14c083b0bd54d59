//! Metrics of mirrored probes: a row for each workload, kind of probe and handler, and the life of its series: held at 0 until a scrape has
//! seen that, gone some time after its last worker. What does not fit the limit counts under `~other`, so that sums stay right.
//!
//! They have a limit of their own, apart from that of the workloads' ends, and are not saved: a restarted agent counts from 0.

use super::pod::HandlerKind;
use super::tally::Ran;
use super::verdict::Outcome;
use super::{ProbeResult, ProbeType};
use crate::catalogue::{OTHER, PROBE_BUCKETS};
use crate::event::{Key, Workload};
use crate::limits::SECOND;
use crate::snapshot::{Series, Value};
use crate::time::Mono;
use crate::totals::{HELD_NS, seconds};
use std::collections::BTreeMap;
use std::sync::Arc;

const BUCKETS: usize = PROBE_BUCKETS.len() + 1;
/// Lines of a row: attempts by result, the histogram with its sum and count, targets up and down.
const ROW_LINES: usize = Outcome::ALL.len() + BUCKETS + 2 + 2;

/// What a row is about: namespace, name and kind of the workload, and the probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    workload: [String; 3],
    kind: ProbeType,
    handler: HandlerKind,
}

impl RowKey {
    pub(super) fn new(pod: &Key, workload: &Workload, kind: ProbeType, handler: HandlerKind) -> Self {
        let workload = [pod.namespace.clone(), workload.name.clone(), workload.kind.clone()];
        Self { workload, kind, handler }
    }

    fn other(&self) -> Self {
        Self { workload: [OTHER; 3].map(str::to_owned), ..*self }
    }

    fn labels(&self, rest: &[&str]) -> Vec<String> {
        let own = [self.kind.to_string(), self.handler.word().to_owned()];
        let rest = rest.iter().map(|label| (*label).to_owned());
        self.workload.iter().cloned().chain(own).chain(rest).collect()
    }
}

#[derive(Debug)]
struct Row {
    workers: usize,
    /// When its last worker left.
    left: Option<Mono>,
    born: Mono,
    /// A scrape has seen it at 0.
    is_shown: bool,
    attempts: [u64; Outcome::ALL.len()],
    counts: [u64; BUCKETS],
    sum: f64,
}

/// All rows.
#[derive(Debug)]
pub(super) struct ProbeSeries {
    rows: BTreeMap<Arc<RowKey>, Row>,
    rows_max: usize,
    ttl_ns: u64,
    /// Rows that found no room.
    pub(super) dropped: u64,
}

impl ProbeSeries {
    /// At most so many lines, besides those of `~other`; a row outlives its last worker for `ttl_ns`.
    pub(super) const fn new(limit: usize, ttl_ns: u64) -> Self {
        Self { rows: BTreeMap::new(), rows_max: limit / ROW_LINES, ttl_ns, dropped: 0 }
    }

    /// A worker came; the row that it counts in.
    pub(super) fn enter(&mut self, key: RowKey, now: Mono) -> Arc<RowKey> {
        self.expire(now);
        let mut key = key;
        let others = self.rows.keys().filter(|key| key.workload[0] == OTHER).count();
        if !self.rows.contains_key(&key) && self.rows.len() - others >= self.rows_max {
            self.dropped = self.dropped.saturating_add(1);
            key = key.other();
        }
        let known = self.rows.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        let key = known.unwrap_or_else(|| Arc::new(key));
        let row = self.rows.entry(Arc::clone(&key)).or_insert_with(|| Row {
            workers: 0,
            left: None,
            born: now,
            is_shown: false,
            attempts: [0; Outcome::ALL.len()],
            counts: [0; BUCKETS],
            sum: 0.0,
        });
        row.workers += 1;
        row.left = None;
        key
    }

    /// A worker left.
    pub(super) fn leave(&mut self, key: &RowKey, now: Mono) {
        let Some(row) = self.rows.get_mut(key) else { return };
        row.workers = row.workers.saturating_sub(1);
        if row.workers == 0 {
            row.left = Some(now);
        }
    }

    /// A probe has run. What could not be run has no duration.
    pub(super) fn take(&mut self, key: &RowKey, ran: &Ran) {
        let Some(row) = self.rows.get_mut(key) else { return };
        let attempts = &mut row.attempts[ran.result as usize];
        *attempts = attempts.saturating_add(1);
        if ran.result != Outcome::Unknown {
            let took = seconds(ran.duration_ns);
            let count = &mut row.counts[PROBE_BUCKETS.partition_point(|bound| *bound < took)];
            *count = count.saturating_add(1);
            row.sum += took;
        }
    }

    fn expire(&mut self, now: Mono) {
        let ttl_ns = self.ttl_ns;
        self.rows.retain(|_, row| row.left.is_none_or(|left| left.after(ttl_ns) > now));
    }

    /// A rendering of this moment was served: what it showed at 0 may show its value in the next.
    pub(super) fn scraped(&mut self, at: Mono) {
        for row in self.rows.values_mut().filter(|row| row.born < at) {
            row.is_shown = true;
        }
    }

    /// All series, with what is believed of each worker.
    pub(super) fn render<'a>(
        &mut self,
        now: Mono,
        workers: impl Iterator<Item = (&'a RowKey, Option<ProbeResult>)>,
    ) -> Vec<Series> {
        self.expire(now);
        let mut targets: BTreeMap<&RowKey, (u64, u64)> = BTreeMap::new();
        for (key, believes) in workers {
            let (up, down) = targets.entry(key).or_default();
            match believes {
                Some(ProbeResult::Success) => *up += 1,
                Some(ProbeResult::Failure) => *down += 1,
                Some(ProbeResult::Unknown) | None => {}
            }
        }
        let mut out = Vec::new();
        let mut add = |family, labels, value| out.push(Series { family, labels, value, exemplar: None });
        for (key, row) in &self.rows {
            let is_held = !row.is_shown && now.since(row.born) < HELD_NS;
            for (result, count) in Outcome::ALL.into_iter().zip(row.attempts) {
                let value = Value::Counter(if is_held { 0 } else { count });
                add("probe_attempts", key.labels(&[result.text()]), value);
            }
            let (counts, sum) = if is_held { ([0; BUCKETS], 0.0) } else { (row.counts, row.sum) };
            let value = Value::Histogram { counts: counts.to_vec(), sum };
            add("probe_duration_seconds", key.labels(&[]), value);
            let (up, down) = targets.get(&**key).copied().unwrap_or_default();
            for (state, count) in [("up", up), ("down", down)] {
                add("probe_targets", key.labels(&[state]), Value::Gauge(count as f64));
            }
        }
        out
    }
}

/// Series that are kept unless somebody says otherwise.
pub(super) const LIMIT: usize = 5000;
/// How long they outlive their last worker unless somebody says otherwise.
pub(super) const TTL_NS: u64 = 600 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tally::Parts;
    use crate::wallclock::Timestamp;

    fn key(workload: &str) -> RowKey {
        let pod = Key { namespace: "shop".to_owned(), name: "p".to_owned() };
        let workload = Workload { kind: "Deployment".to_owned(), name: workload.to_owned() };
        RowKey::new(&pod, &workload, ProbeType::Readiness, HandlerKind::Http)
    }

    fn ran(result: Outcome, ms: u64) -> Ran {
        let (at, parts, output) = (Timestamp(0), Parts::default(), String::new());
        Ran { at, result, output, duration_ns: ms * 1_000_000, parts, is_refused: false }
    }

    fn lines(series: &mut ProbeSeries, now: u64) -> Vec<String> {
        let none = std::iter::empty();
        let shown = |one: &Series| match &one.value {
            Value::Counter(count) if *count > 0 => {
                Some(format!("{} {} {count}", one.labels[1], one.labels[5]))
            }
            Value::Histogram { counts, .. } => {
                let all: u64 = counts.iter().sum();
                (all > 0).then(|| format!("{} took {counts:?}", one.labels[1]))
            }
            Value::Counter(_) | Value::Gauge(_) | Value::Seconds(_) => None,
        };
        series.render(Mono(now), none).iter().filter_map(shown).collect()
    }

    #[test]
    fn a_row_is_held_at_zero_until_a_scrape_or_130_s_and_goes_after_its_last_worker() {
        let mut series = ProbeSeries::new(LIMIT, 10);
        let row = series.enter(key("web"), Mono(5));
        series.enter(key("web"), Mono(6));
        series.take(&row, &ran(Outcome::Success, 2));
        series.take(&row, &ran(Outcome::Failure, 60_000));
        series.take(&row, &ran(Outcome::Unknown, 0));
        assert!(lines(&mut series, 7).is_empty());
        series.scraped(Mono(5));
        assert!(lines(&mut series, 8).is_empty(), "that scrape may be older");
        let all = [
            "web success 1",
            "web failure 1",
            "web unknown 1",
            "web took [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]",
        ];
        assert_eq!(lines(&mut series, 5 + HELD_NS), all);
        series.scraped(Mono(8));
        assert_eq!(lines(&mut series, 9), all);
        series.leave(&row, Mono(20));
        series.leave(&row, Mono(30));
        assert_eq!(lines(&mut series, 39), all);
        assert_eq!(series.render(Mono(40), std::iter::empty()), []);
    }

    #[test]
    fn what_does_not_fit_counts_under_other() {
        let mut series = ProbeSeries::new(2 * ROW_LINES, TTL_NS);
        let rows = ["a", "b", "c", "d"].map(|name| series.enter(key(name), Mono(1)));
        for row in &rows {
            series.take(row, &ran(Outcome::Success, 1));
        }
        let counted = lines(&mut series, 1 + HELD_NS);
        let counted: Vec<_> =
            counted.iter().filter(|line| !line.contains("took")).map(String::as_str).collect();
        assert_eq!(counted, ["a success 1", "b success 1", "~other success 2"]);
        assert_eq!(series.dropped, 2);
        let lines = series.render(Mono(2), rows.iter().map(|row| (&**row, Some(ProbeResult::Failure))));
        let down: f64 = lines
            .iter()
            .filter(|one| one.labels.last().is_some_and(|state| state == "down"))
            .filter_map(|one| if let Value::Gauge(value) = one.value { Some(value) } else { None })
            .sum();
        assert!((down - 4.0).abs() < f64::EPSILON);
    }
}
