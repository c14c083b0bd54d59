//! One client's counts while it runs, merged into the summary when it has ended. Recording allocates nothing in steady state.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::attempt::{Attempt, ErrorKind};
use super::clock::{SECOND_NS, nanos};
use super::config::Config;
use super::summary::{ByKind, Latency, Windows};

/// Windows kept; attempts after the last one are only counted.
const WINDOW_LIMIT: usize = 100_000;

/// Latencies above are counted as this: the longest timeouts, two of one hour.
const LONGEST_NS: u64 = 7200 * SECOND_NS;

/// Digits that percentiles are exact to.
const DIGITS: u8 = 3;

/// Counts of one client or of all of one sort.
#[derive(Debug)]
pub(super) struct Tally {
    ok: u64,
    failed: u64,
    pub(super) unsent: u64,
    pub(super) connections: u64,
    pub(super) found_closed: u64,
    received: u64,
    by_error: BTreeMap<ErrorKind, u64>,
    by_status: BTreeMap<u16, u64>,
    latency: Histogram<u64>,
    from_due: Option<Histogram<u64>>,
    windows: Windows,
    pub(super) end_ns: u64,
}

impl Tally {
    /// `scheduled`: attempts have a moment at which they are due.
    pub(super) fn new(config: &Config, start_ns: u64, scheduled: bool) -> Self {
        let length_ns = nanos(config.window);
        let expected = config.duration.map_or(0, |duration| nanos(duration) / length_ns + 2);
        let expected = usize::try_from(expected).unwrap_or(WINDOW_LIMIT).min(WINDOW_LIMIT);
        let windows = Windows {
            start_ns,
            length_ns,
            ok: Vec::with_capacity(expected),
            failed: Vec::with_capacity(expected),
            beyond: 0,
        };
        Self {
            ok: 0,
            failed: 0,
            unsent: 0,
            connections: 0,
            found_closed: 0,
            received: 0,
            by_error: BTreeMap::new(),
            by_status: BTreeMap::new(),
            latency: histogram(),
            from_due: scheduled.then(histogram),
            windows,
            end_ns: start_ns,
        }
    }

    pub(super) fn record(&mut self, attempt: &Attempt) {
        self.end_ns = self.end_ns.max(attempt.end_ns);
        self.received += attempt.received;
        if let Some(error) = attempt.error {
            self.failed += 1;
            *self.by_error.entry(error).or_default() += 1;
        } else {
            self.ok += 1;
            *self.by_status.entry(attempt.status.unwrap_or(0)).or_default() += 1;
            self.latency.saturating_record(attempt.end_ns.saturating_sub(attempt.start_ns));
            if let (Some(histogram), Some(due_ns)) = (&mut self.from_due, attempt.due_ns) {
                histogram.saturating_record(attempt.end_ns.saturating_sub(due_ns));
            }
        }
        self.windows.record(attempt);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.connections += other.connections;
        self.found_closed += other.found_closed;
        self.received += other.received;
        self.end_ns = self.end_ns.max(other.end_ns);
        other.by_error.iter().for_each(|(error, count)| *self.by_error.entry(*error).or_default() += count);
        other
            .by_status
            .iter()
            .for_each(|(status, count)| *self.by_status.entry(*status).or_default() += count);
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        if let Some(from_due) = &other.from_due {
            let merged = self.from_due.get_or_insert_with(histogram);
            merged.add(from_due).expect("all histograms have the same bounds");
        }
        add_all(&mut self.windows.ok, &other.windows.ok);
        add_all(&mut self.windows.failed, &other.windows.failed);
        self.windows.beyond += other.windows.beyond;
    }

    pub(super) fn summary(&self, clients: u32) -> ByKind {
        ByKind {
            clients,
            requests: self.ok + self.failed,
            ok: self.ok,
            failed: self.failed,
            unsent: self.unsent,
            by_error: self.by_error.clone(),
            by_status: self.by_status.clone(),
            connections: self.connections,
            found_closed: self.found_closed,
            received: self.received,
            latency: latency_of(&self.latency),
            latency_from_due: self.from_due.as_ref().map(latency_of),
        }
    }

    /// The windows, both series of one length.
    pub(super) fn into_windows(mut self) -> Windows {
        let length = self.windows.ok.len().max(self.windows.failed.len());
        self.windows.ok.resize(length, 0);
        self.windows.failed.resize(length, 0);
        self.windows
    }
}

impl Windows {
    fn record(&mut self, attempt: &Attempt) {
        let window = attempt.end_ns.saturating_sub(self.start_ns) / self.length_ns;
        match usize::try_from(window) {
            Ok(window) if window < WINDOW_LIMIT => {
                let series = if attempt.ok() { &mut self.ok } else { &mut self.failed };
                if series.len() <= window {
                    series.resize(window + 1, 0);
                }
                if let Some(count) = series.get_mut(window) {
                    *count += 1;
                }
            }
            Ok(_) | Err(_) => self.beyond += 1,
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds are in order and the digits few")
}

fn latency_of(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Latency {
        count: histogram.len(),
        mean_ns: nanos(Duration::from_secs_f64(histogram.mean() / 1e9)),
        p50_ns: at(0.5),
        p75_ns: at(0.75),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: histogram.max(),
    }
}

fn add_all(sums: &mut Vec<u64>, counts: &[u64]) {
    if sums.len() < counts.len() {
        sums.resize(counts.len(), 0);
    }
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}
