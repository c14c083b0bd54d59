//! The saved form of a workload's series: by name, and only those with something to say. Their numbers may change from
//! one version to the next, and so may the buckets; names stay.

use super::{BUCKETS, Histogram, Life, OVERFLOW, Totals, Workload, WorkloadIx, WorkloadKey};
use crate::catalogue::LAG_BUCKETS;
use crate::series::{self, COUNTERS, HISTOGRAMS};
use crate::snapshot::Exemplar;
use crate::time::Mono;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

type Text = Cow<'static, str>;

#[derive(Serialize, Deserialize)]
struct Saved {
    key: WorkloadKey,
    left: Option<Mono>,
    counters: Vec<SavedCounter>,
    histograms: Vec<SavedHistogram>,
}

#[derive(Serialize, Deserialize)]
struct SavedCounter {
    family: Text,
    labels: Vec<Text>,
    life: Life,
    value: u64,
    exemplar: Option<SavedExemplar>,
}

#[derive(Serialize, Deserialize)]
struct SavedExemplar {
    labels: Vec<(Text, String)>,
    value: f64,
    unix_ns: i64,
}

#[derive(Serialize, Deserialize)]
struct SavedHistogram {
    family: Text,
    labels: Vec<Text>,
    life: Life,
    /// Upper bound and count of the buckets that have one, not cumulative.
    buckets: Vec<(f64, u64)>,
    sum: f64,
}

fn texts(labels: Vec<&'static str>) -> Vec<Text> {
    labels.into_iter().map(Cow::Borrowed).collect()
}

impl Serialize for Workload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at_birth = |number| if series::is_alertable(number) { Life::Shown } else { Life::Unborn };
        let counters = (0..COUNTERS)
            .filter(|number| self.counters[*number] > 0 || self.counter_life[*number] != at_birth(*number))
            .map(|number| {
                let (family, labels) = series::counter(number);
                SavedCounter {
                    family: family.into(),
                    labels: texts(labels),
                    life: self.counter_life[number],
                    value: self.counters[number],
                    exemplar: self.exemplars.get(&number).map(SavedExemplar::of),
                }
            });
        let histograms =
            (0..HISTOGRAMS).filter(|number| self.histogram_life[*number] != Life::Unborn).map(|number| {
                let (family, labels) = series::histogram(number);
                let Histogram { counts, sum } = self.histograms[number];
                let bounds = LAG_BUCKETS.iter().copied().chain([f64::INFINITY]);
                SavedHistogram {
                    family: family.into(),
                    labels: texts(labels),
                    life: self.histogram_life[number],
                    buckets: bounds.zip(counts).filter(|(_, count)| *count > 0).collect(),
                    sum,
                }
            });
        let (key, left) = (self.key.clone(), self.left);
        Saved { key, left, counters: counters.collect(), histograms: histograms.collect() }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Workload {
    /// Series that this version does not have are left out.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let saved = Saved::deserialize(deserializer)?;
        let mut workload = Self::new(saved.key);
        workload.left = saved.left;
        for one in saved.counters {
            let is_it = |number: &usize| {
                let (family, labels) = series::counter(*number);
                one.family == family && one.labels == labels
            };
            let Some(number) = (0..COUNTERS).find(is_it) else { continue };
            workload.counters[number] = one.value;
            workload.counter_life[number] = one.life;
            if let Some(exemplar) = one.exemplar {
                workload.exemplars.insert(number, exemplar.back());
            }
        }
        for one in saved.histograms {
            let is_it = |number: &usize| {
                let (family, labels) = series::histogram(*number);
                one.family == family && one.labels == labels
            };
            let Some(number) = (0..HISTOGRAMS).find(is_it) else { continue };
            let mut counts = [0u64; BUCKETS];
            for (bound, count) in one.buckets {
                let place = LAG_BUCKETS.partition_point(|known| *known < bound);
                counts[place] = counts[place].saturating_add(count);
            }
            workload.histograms[number] = Histogram { counts, sum: one.sum };
            workload.histogram_life[number] = one.life;
        }
        Ok(workload)
    }
}

impl SavedExemplar {
    fn of(exemplar: &Exemplar) -> Self {
        let labels = exemplar.labels.iter().map(|(name, value)| (Cow::Borrowed(*name), value.clone()));
        Self { labels: labels.collect(), value: exemplar.value, unix_ns: exemplar.unix_ns }
    }

    /// Label names that this version does not know are left out.
    fn back(self) -> Exemplar {
        let known = |name: Text| ["pod", "node"].into_iter().find(|known| name == *known);
        let labels = self.labels.into_iter().filter_map(|(name, value)| Some((known(name)?, value)));
        Exemplar { labels: labels.collect(), value: self.value, unix_ns: self.unix_ns }
    }
}

impl Totals {
    /// After a restore: what is not saved, from the list and from the workloads that the pods are of. Series above a limit
    /// that is lower now stay until they go by themselves: to move their counts would look like new losses. False if it
    /// cannot be so.
    pub(crate) fn rebuild(&mut self, limit: usize, of_pods: impl Iterator<Item = WorkloadIx>) -> bool {
        self.limit = limit;
        if self.list.is_empty() {
            return false;
        }
        self.lines = 0;
        self.by_key = BTreeMap::new();
        for (ix, workload) in self.list.iter_mut().enumerate().skip(OVERFLOW + 1) {
            let Some(workload) = workload else { continue };
            self.lines += workload.lines();
            if self.by_key.insert(workload.key.clone(), ix).is_some() {
                return false;
            }
        }
        for ix in of_pods {
            let Some(workload) = self.get(ix) else { return false };
            workload.pods += 1;
        }
        true
    }
}
