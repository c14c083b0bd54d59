//! The times of the kubelet's probes, of all workloads of the node together: phases of connections, and commands. Bounded by their labels.

use super::{Life, be_born, is_held, seconds};
use crate::catalogue::PROBE_BUCKETS;
use crate::kubelet::Phase;
use crate::series::ProbeLabel;
use crate::snapshot::{Series, Value};
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// By place of the label and name of the phase.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Phases(BTreeMap<(usize, Phase), Histogram>);

/// By place of the label.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Execs(BTreeMap<usize, Histogram>);

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Histogram {
    life: Life,
    /// By bucket, not cumulative, `+Inf` last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, ns: u64, at: Mono) {
        be_born(&mut self.life, at, true);
        // Those of another version have other buckets, perhaps.
        self.counts.resize(PROBE_BUCKETS.len() + 1, 0);
        let seconds = seconds(ns);
        let count = &mut self.counts[PROBE_BUCKETS.partition_point(|bound| *bound < seconds)];
        *count = count.saturating_add(1);
        self.sum += seconds;
    }

    /// `None` as long as it has nothing to say.
    fn series(&self, now: Mono, family: &'static str, labels: &[&str]) -> Option<Series> {
        let is_held = is_held(self.life, now)?;
        let mut counts = vec![0; PROBE_BUCKETS.len() + 1];
        if !is_held {
            for (shown, count) in counts.iter_mut().zip(&self.counts) {
                *shown = *count;
            }
        }
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let value = Value::Histogram { counts, sum: if is_held { 0.0 } else { self.sum } };
        Some(Series { family, labels, value, exemplar: None })
    }
}

impl Phases {
    pub(super) fn observe(&mut self, label: ProbeLabel, phase: Phase, ns: u64, at: Mono) {
        self.0.entry((label.place(), phase)).or_default().observe(ns, at);
    }

    pub(super) fn scraped(&mut self, at: Mono) {
        for histogram in self.0.values_mut() {
            histogram.life.scraped(at);
        }
    }

    pub(super) fn render(&self, now: Mono, out: &mut Vec<Series>) {
        for ((label, phase), histogram) in &self.0 {
            let Some(label) = ProbeLabel::ALL.get(*label) else { continue };
            let labels = [label.name(), phase.name()];
            out.extend(histogram.series(now, "kubelet_probe_phase_duration_seconds", &labels));
        }
    }
}

impl Execs {
    pub(super) fn observe(&mut self, label: ProbeLabel, ns: u64, at: Mono) {
        self.0.entry(label.place()).or_default().observe(ns, at);
    }

    pub(super) fn scraped(&mut self, at: Mono) {
        for histogram in self.0.values_mut() {
            histogram.life.scraped(at);
        }
    }

    pub(super) fn render(&self, now: Mono, out: &mut Vec<Series>) {
        for (label, histogram) in &self.0 {
            let Some(label) = ProbeLabel::ALL.get(*label) else { continue };
            out.extend(histogram.series(now, "kubelet_exec_probe_duration_seconds", &[label.name()]));
        }
    }
}
