//! Renders series as OpenMetrics 1.0, and the same text again in Prometheus' older format. Walks the core's catalogue, so
//! that name, help, unit and type cannot drift; knows no metric by name. Series come from the core's snapshot and from
//! [`own`], which speaks for the agent itself.

pub mod negotiate;
pub mod own;
pub mod prometheus;

use probe_core::catalogue::{CATALOGUE, Family, Kind, PREFIX};
use probe_core::snapshot::{Exemplar, Series, Value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::CounterWithExemplar;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// Renders `series` as OpenMetrics 1.0 text. Series of no known family, or with another number of labels than their
/// family, are left out.
#[must_use]
pub fn open_metrics(series: Vec<Series>) -> String {
    let mut families: BTreeMap<&'static str, Vec<Series>> = BTreeMap::new();
    for one in series {
        families.entry(one.family).or_default().push(one);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    match text::encode(&mut text, &registry) {
        Ok(()) => text,
        // Writing to a String cannot fail; an encoder that does leaves a text without its end, which no scraper takes.
        Err(fmt::Error) => String::new(),
    }
}

#[derive(Debug)]
struct Families(BTreeMap<&'static str, Vec<Series>>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in CATALOGUE {
            let Some(series) = self.0.get(family.name) else { continue };
            let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
            // The encoder puts the unit back.
            let suffix = family.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
            let stem = family.name.strip_suffix(&suffix).unwrap_or(family.name);
            let name = format!("{}{stem}", if stem.starts_with("process_") { "" } else { PREFIX });
            let mut metric =
                encoder.encode_descriptor(&name, family.help, unit.as_ref(), type_of(family.kind))?;
            for one in series.iter().filter(|one| one.labels.len() == family.labels.len()) {
                encode(&mut metric, family, one)?;
            }
        }
        Ok(())
    }
}

fn type_of(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram(_) => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    }
}

fn encode(metric: &mut MetricEncoder<'_>, family: &Family, series: &Series) -> fmt::Result {
    let labels: Vec<(&str, &str)> =
        family.labels.iter().copied().zip(series.labels.iter().map(String::as_str)).collect();
    if family.kind == Kind::Info {
        return metric.encode_info(&labels);
    }
    if labels.is_empty() {
        // Not an empty family: its samples would carry empty braces.
        return encode_value(metric, family, &series.value);
    }
    let mut metric = metric.encode_family(&labels)?;
    match (&series.value, &series.exemplar) {
        (Value::Counter(count), Some(exemplar)) => with_exemplar(*count, exemplar).encode(metric),
        (value, _) => encode_value(&mut metric, family, value),
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, family: &Family, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
        Value::Seconds(seconds) => metric.encode_counter::<NoLabelSet, _, u64>(seconds, None),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Histogram { counts, sum } => {
            let Kind::Histogram(bounds) = family.kind else { return Ok(()) };
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            metric.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
        }
    }
}

/// The encoder takes exemplars only from its own counters.
fn with_exemplar(count: u64, exemplar: &Exemplar) -> CounterWithExemplar<Vec<(&'static str, String)>> {
    let counter = CounterWithExemplar::default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; exemplars of counters are counts"
    )]
    let added = (exemplar.value as u64).min(count);
    counter.inc_by(count - added, None, None);
    let at = u64::try_from(exemplar.unix_ns).ok().map(|ns| UNIX_EPOCH + Duration::from_nanos(ns));
    counter.inc_by(added, Some(exemplar.labels.clone()), at);
    counter
}

#[cfg(test)]
mod tests;
