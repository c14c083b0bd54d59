//! The phases of the kubelet's probes, of all workloads of the node together. Bounded by its labels.

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

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Histogram {
    life: Life,
    /// By bucket, not cumulative, `+Inf` last.
    counts: Vec<u64>,
    sum: f64,
}

impl Phases {
    pub(super) fn observe(&mut self, label: ProbeLabel, phase: Phase, ns: u64, at: Mono) {
        let histogram = self.0.entry((label.place(), phase)).or_default();
        be_born(&mut histogram.life, at, true);
        // Those of another version have other buckets, perhaps.
        histogram.counts.resize(PROBE_BUCKETS.len() + 1, 0);
        let seconds = seconds(ns);
        let count = &mut histogram.counts[PROBE_BUCKETS.partition_point(|bound| *bound < seconds)];
        *count = count.saturating_add(1);
        histogram.sum += seconds;
    }

    pub(super) fn scraped(&mut self, at: Mono) {
        for histogram in self.0.values_mut() {
            histogram.life.scraped(at);
        }
    }

    pub(super) fn render(&self, now: Mono, out: &mut Vec<Series>) {
        for ((label, phase), histogram) in &self.0 {
            let (Some(label), Some(is_held)) = (ProbeLabel::ALL.get(*label), is_held(histogram.life, now))
            else {
                continue;
            };
            let mut counts = vec![0; PROBE_BUCKETS.len() + 1];
            if !is_held {
                for (shown, count) in counts.iter_mut().zip(&histogram.counts) {
                    *shown = *count;
                }
            }
            out.push(Series {
                family: "kubelet_probe_phase_duration_seconds",
                labels: vec![label.name().to_owned(), phase.name().to_owned()],
                value: Value::Histogram { counts, sum: if is_held { 0.0 } else { histogram.sum } },
                exemplar: None,
            });
        }
    }
}
