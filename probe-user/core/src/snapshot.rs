//! A snapshot: the values of all series of the core at one moment, sorted by family (in catalogue order) and labels.
//! Outputs render it and never look into the core's state.

use crate::time::Mono;

/// All series that the core exports.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Event time up to which events were applied.
    pub at: Mono,
    /// Sorted: the same state gives the same list.
    pub series: Vec<Series>,
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name of its family in the catalogue.
    pub family: &'static str,
    /// Values of the family's labels, in its order.
    pub labels: Vec<String>,
    /// Value.
    pub value: Value,
    /// An example behind the value.
    pub exemplar: Option<Exemplar>,
}

/// A series' value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Counter of things.
    Counter(u64),
    /// Counter of time.
    Seconds(f64),
    /// Gauge.
    Gauge(f64),
    /// Histogram.
    Histogram {
        /// Samples in each bucket, not cumulative, `+Inf` last.
        counts: Vec<u64>,
        /// Sum of all samples.
        sum: f64,
    },
}

/// An example behind a counter's value. Its labels fit the 128 characters that OpenMetrics allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// `pod` and `node`.
    pub labels: Vec<(&'static str, String)>,
    /// How much it added.
    pub value: f64,
    /// When.
    pub unix_ns: i64,
}
