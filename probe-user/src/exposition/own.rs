//! The agent's series about itself: build, features, kernel programs, ring, maps, watches, process. In: what the driver
//! and `/proc` say at one moment. Out: series of the catalogue's agent families.

use crate::driver::query::KernelNow;
use crate::feature;
use crate::host::conntrack::Asked;
use crate::host::process::ProcessStats;
use crate::kernel::{Hook, HookState};
use crate::kube::events::outbox::{Dropped, Sent, State};
use crate::kube::table::kind_name;
use probe_core::event::WatchKind;
use probe_core::snapshot::{Series, Value};

/// The agent's version, as `build_info` and `/status` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the agent says of itself.
#[derive(Default)]
pub struct Own<'a> {
    /// Why no kernel program runs, if none does.
    pub kernel_error: Option<&'a str>,
    /// Each program and whether it runs.
    pub hooks: &'a [Hook],
    /// Why cgroups cannot be followed.
    pub cgroup_error: Option<&'a str>,
    /// Whether the service proxy's rules are followed.
    pub rules: feature::State,
    /// Whether connection tracking is asked.
    pub conntrack: feature::State,
    /// How many questions to it ended how.
    pub conntrack_queries: [u64; Asked::ALL.len()],
    /// Whether the kubelet's own verdicts are read.
    pub kubelet: feature::State,
    /// All watches are in sync, and some are there.
    pub api_in_sync: bool,
    /// A first list came in.
    pub api_seen: bool,
    /// Kubernetes Events, if they are wanted.
    pub events: Option<State>,
    /// Age of the newest event of each watched kind, nanoseconds.
    pub lags: Vec<(WatchKind, u64)>,
}

impl Own<'_> {
    /// The series, in no particular order.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        let mut out = vec![one("build", &[VERSION], gauge(1))];
        let kernel = self.kernel_error.is_none() && !self.hooks.is_empty();
        let whole = kernel && self.hooks.iter().all(|hook| hook.state == HookState::Active);
        feature(&mut out, "kernel_programs", kernel, whole);
        feature(&mut out, "cgroups", self.cgroup_error.is_none(), self.cgroup_error.is_none());
        feature(&mut out, "kubernetes_api", self.api_seen, self.api_in_sync);
        for (name, state) in
            [("proxy_rules", &self.rules), ("conntrack", &self.conntrack), ("kubelet_metrics", &self.kubelet)]
        {
            let works = *state == feature::State::Active;
            // Not wanted is not degraded.
            feature(&mut out, name, works, works || *state == feature::State::Disabled);
        }
        let asked = Asked::ALL.map(Asked::name).into_iter().zip(self.conntrack_queries);
        out.extend(asked.map(|(name, count)| one("conntrack_queries", &[name], Value::Counter(count))));
        let failed = self.events.as_ref().is_some_and(|events| events.error.is_some());
        // Not wanted is not degraded.
        feature(&mut out, "kubernetes_events", self.events.is_some(), !failed);
        out.extend(self.events.iter().flat_map(event_series));
        for hook in self.hooks {
            let active = hook.state == HookState::Active;
            feature(&mut out, hook.program, active, active);
        }
        let lags = self.lags.iter();
        out.extend(
            lags.map(|(kind, ns)| one("watch_lag_seconds", &[kind_name(*kind)], Value::Gauge(seconds(*ns)))),
        );
        out
    }
}

/// What became of notices: each label is there from the start.
fn event_series(events: &State) -> Vec<Series> {
    let sent = Sent::ALL.map(Sent::name).into_iter().zip(events.sent);
    let dropped = Dropped::ALL.map(Dropped::name).into_iter().zip(events.dropped);
    let sent = sent.map(|(name, count)| one("kubernetes_events", &[name], Value::Counter(count)));
    let dropped = dropped.map(|(name, count)| one("kubernetes_events_lost", &[name], Value::Counter(count)));
    sent.chain(dropped).collect()
}

/// The kernel side's series.
#[must_use]
pub fn kernel_series(kernel: &KernelNow) -> Vec<Series> {
    let mut out = Vec::new();
    for program in &kernel.programs {
        out.push(one("ebpf_program_attached", &[program.name], gauge(u64::from(program.attached))));
        out.push(one("ebpf_program_runs", &[program.name], Value::Counter(program.runs)));
        out.push(one("ebpf_program_run_seconds", &[program.name], Value::Seconds(seconds(program.run_ns))));
    }
    out.extend(
        kernel.records.iter().map(|(kind, count)| one("ebpf_events", &[kind], Value::Counter(*count))),
    );
    for map in &kernel.maps {
        out.push(one("ebpf_map_entries", &[map.name], gauge(map.entries)));
        out.push(one("ebpf_map_capacity", &[map.name], gauge(map.capacity)));
    }
    out
}

/// The process's series.
#[must_use]
pub fn process_series(process: &ProcessStats) -> Vec<Series> {
    let ProcessStats {
        resident_bytes,
        virtual_bytes,
        cpu_seconds,
        start_unix_seconds,
        open_fds,
        max_fds,
        ..
    } = *process;
    let mut out = Vec::new();
    let mut add = |family, value: Option<Value>| out.extend(value.map(|value| one(family, &[], value)));
    add("process_cpu_seconds", cpu_seconds.map(Value::Seconds));
    add("process_resident_memory_bytes", resident_bytes.map(gauge));
    add("process_virtual_memory_bytes", virtual_bytes.map(gauge));
    add("process_open_fds", open_fds.map(gauge));
    add("process_max_fds", max_fds.map(gauge));
    add("process_start_time_seconds", start_unix_seconds.map(Value::Gauge));
    out
}

fn feature(out: &mut Vec<Series>, name: &str, enabled: bool, whole: bool) {
    out.push(one("feature_enabled", &[name], gauge(u64::from(enabled))));
    out.push(one("feature_degraded", &[name], gauge(u64::from(!whole))));
}

fn one(family: &'static str, labels: &[&str], value: Value) -> Series {
    Series { family, labels: labels.iter().map(|&label| label.to_owned()).collect(), value, exemplar: None }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; counts of bytes and entries stay below 2^53"
)]
fn gauge(value: u64) -> Value {
    Value::Gauge(value as f64)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds beyond 2^53 are a hundred days; their last digits do not matter"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
