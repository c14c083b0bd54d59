//! What the kubelet says of a pod's probes: Events by the API, counts by its own metrics, read by way of the API server's proxy.

use anyhow::Context as _;
use jiff::Timestamp;
use probe_core::probes::ProbeType;
use world::agent::Metrics;

use crate::kubectl;
use crate::pods::NAMESPACE;

/// This program's node.
const METRICS: &str = "/api/v1/nodes/node-1/proxy/metrics/probes";

/// `prober_probe_total` of a probe; what is discarded is in none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) successful: f64,
    pub(super) failed: f64,
    pub(super) unknown: f64,
}

/// What it says of all probes.
pub(super) fn metrics() -> anyhow::Result<Metrics> {
    Metrics::parse(&kubectl::run(&["get", "--raw", METRICS])?)
}

impl Counts {
    /// So far.
    pub(super) fn of(metrics: &Metrics, pod: &str, kind: ProbeType) -> Self {
        let (namespace, pod) = (format!("namespace=\"{NAMESPACE}\""), format!(",pod=\"{pod}\""));
        let kind = format!("probe_type=\"{kind}\"");
        let of = |result: &str| {
            // The sum of nothing is -0.
            let labels = [&*namespace, &pod, &kind, &format!("result=\"{result}\"")];
            metrics.sum("prober_probe_total", &labels) + 0.0
        };
        Self { successful: of("successful"), failed: of("failed"), unknown: of("unknown") }
    }

    /// Of any result.
    pub(super) fn all(self) -> f64 {
        self.successful + self.failed + self.unknown
    }

    /// None is more than there.
    pub(super) fn is_within(self, other: Self) -> bool {
        self.successful <= other.successful && self.failed <= other.failed && self.unknown <= other.unknown
    }

    /// What was added.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            successful: self.successful - before.successful,
            failed: self.failed - before.failed,
            unknown: self.unknown - before.unknown,
        }
    }
}

/// An Event about a pod; equal ones are one, of the last moment.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) last: Timestamp,
}

/// Those about this pod.
pub(super) fn events(pod: &str) -> anyhow::Result<Vec<Event>> {
    let list = kubectl::get(&[
        "events",
        "-n",
        NAMESPACE,
        "--field-selector",
        &format!("involvedObject.name={pod}"),
    ])?;
    let items = list["items"].as_array().context("no list")?;
    let event = |item: &serde_json::Value| {
        let text = |key: &str| item[key].as_str().map(str::to_owned);
        let last =
            text("lastTimestamp").or_else(|| text("eventTime")).context("an event without a moment")?;
        Ok(Event {
            reason: text("reason").context("an event without a reason")?,
            message: text("message").unwrap_or_default(),
            last: last.parse().context("a moment")?,
        })
    };
    items.iter().map(event).collect()
}
