//! The only definition site of metrics: name, help, unit, type and labels of each family. The exposition walks it; the
//! core's and the agent's series refer to a family by its name.
//!
//! Names carry neither the prefix nor `_total`: the encoder adds both (`process_*` families take no prefix). Values of
//! labels are closed sets plus [`OTHER`]; never an address, port, path, uid or PID.

/// Put before each family's name, except those named `process_*`.
pub const PREFIX: &str = "drainscope_";

/// Value of each workload label of what did not fit into the limits.
pub const OTHER: &str = "~other";

/// Upper bounds of the buckets of lags and durations, in seconds; `+Inf` follows.
pub const LAG_BUCKETS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0];

/// The same for probes and their phases: half a millisecond on the node, and a second by default before the timeout.
pub const PROBE_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only ever grows; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets with these upper bounds, and `+Inf`.
    Histogram(&'static [f64]),
    /// Constant 1 with the facts in labels; its sample ends in `_info` (the name here does not).
    Info,
}

/// Who supplies the series of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// [`crate::monitor::Monitor::snapshot`].
    Core,
    /// The agent about itself and the kernel programs.
    Agent,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Name without prefix and without `_total`.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// Base unit; the name ends in it.
    pub unit: Option<&'static str>,
    /// Type.
    pub kind: Kind,
    /// Label names, in the order in which series give their values.
    pub labels: &'static [&'static str],
    /// Who supplies it.
    pub source: Source,
}

const W: &[&str] = &["target_namespace", "target_workload", "target_workload_kind"];

macro_rules! with_w {
    ($($label:literal),*) => { &["target_namespace", "target_workload", "target_workload_kind", $($label),*] };
}

const fn core(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, unit: None, kind, labels, source: Source::Core }
}

const fn agent(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { name, help, unit: None, kind, labels, source: Source::Agent }
}

const fn unit(family: Family, unit: &'static str) -> Family {
    Family { unit: Some(unit), ..family }
}

/// Every metric, in the order of the exposition.
pub const CATALOGUE: &[Family] = &[
    core(
        "lost_requests",
        Kind::Counter,
        with_w!["reason", "confidence", "phase"],
        "Requests and connection attempts that the client cannot have had answered.",
    ),
    core(
        "late_connections",
        Kind::Counter,
        with_w!["phase", "result", "expected"],
        "Connections that arrived while the pod was deleting or stopping, counted at their close.",
    ),
    core(
        "late_requests",
        Kind::Counter,
        with_w!["connection", "result"],
        "Requests that arrived while the pod was deleting or stopping.",
    ),
    core(
        "pod_terminations",
        Kind::Counter,
        with_w!["trigger", "outcome", "lost"],
        "Pods that were stopped, counted when nothing more can arrive.",
    ),
    core(
        "container_terminations",
        Kind::Counter,
        with_w!["reason"],
        "Containers that ended while their pod was not being stopped.",
    ),
    unit(
        core(
            "pod_termination_phase_duration_seconds",
            Kind::Histogram(LAG_BUCKETS),
            with_w!["phase"],
            "Parts of a pod's end: deletion seen to stop signal, stop signal to last listener closed, stop signal to exit.",
        ),
        "seconds",
    ),
    unit(
        core(
            "endpoint_removal_duration_seconds",
            Kind::Histogram(LAG_BUCKETS),
            W,
            "Deletion seen to the last of: endpoint not ready in its slices, rules programmed, last new connection.",
        ),
        "seconds",
    ),
    unit(
        core(
            "endpoint_removal_stage_duration_seconds",
            Kind::Histogram(LAG_BUCKETS),
            with_w!["stage"],
            "Deletion seen to each stage of the endpoint's removal.",
        ),
        "seconds",
    ),
    unit(
        core(
            "traffic_tail_duration_seconds",
            Kind::Histogram(LAG_BUCKETS),
            W,
            "Deletion seen to last new connection: what a preStop sleep has to cover. Uncensored samples only.",
        ),
        "seconds",
    ),
    core(
        "traffic_tail_censored",
        Kind::Counter,
        W,
        "Terminations whose traffic tail could not be measured: the address vanished first or too few connections came.",
    ),
    core(
        "silent_terminations",
        Kind::Counter,
        W,
        "Pods stopped by signal without a deletion in the API while their endpoint was ready.",
    ),
    core("stop_signals_ignored", Kind::Counter, W, "Stop signals that a container's init ignored."),
    core(
        "kubelet_probe_timeouts",
        Kind::Counter,
        with_w!["probe_type", "cause"],
        "Probes of the kubelet that it gave up at their timeout, by what the kernel shows of the cause.",
    ),
    core(
        "kubelet_exec_probes",
        Kind::Counter,
        with_w!["probe_type"],
        "Exec probes of the kubelet that ended, by their processes in the container.",
    ),
    unit(
        core(
            "kubelet_exec_probe_cpu_seconds",
            Kind::Counter,
            with_w!["probe_type"],
            "CPU time of the kubelet's exec probes in their containers, but for the last tick of each; what the runtime spends beside them is not in it.",
        ),
        "seconds",
    ),
    core(
        "other_execs",
        Kind::Counter,
        with_w!["kind"],
        "Commands that were run in a container from outside and are no exec probe, or not certainly one (ambiguous).",
    ),
    core("terminating_pods", Kind::Gauge, W, "Pods that are deleting, stopping or settling."),
    core("terminating_connections", Kind::Gauge, W, "Open inbound connections of terminating pods."),
    core("node_lost_requests", Kind::Counter, &[], "Lost requests of all workloads on this node."),
    core("node_pod_terminations", Kind::Counter, &[], "Settled pod terminations on this node."),
    unit(
        core(
            "kubelet_probe_phase_duration_seconds",
            Kind::Histogram(PROBE_BUCKETS),
            &["probe_type", "phase"],
            "Parts of the kubelet's probes: connect, from there to the application's first read, from there to the first answer.",
        ),
        "seconds",
    ),
    unit(
        core(
            "kubelet_exec_probe_duration_seconds",
            Kind::Histogram(PROBE_BUCKETS),
            &["probe_type"],
            "The kubelet's exec probes: from the making of the process by the runtime to its exit.",
        ),
        "seconds",
    ),
    unit(
        core(
            "node_exec_probe_cpu_seconds",
            Kind::Counter,
            &[],
            "CPU time of all exec probes of the kubelet on this node, as kubelet_exec_probe_cpu_seconds has it.",
        ),
        "seconds",
    ),
    core("watched_pods", Kind::Gauge, &[], "Pods whose connections the kernel programs watch."),
    core(
        "attribution_failures",
        Kind::Counter,
        &["reason"],
        "What the kernel programs could not attribute, by reason.",
    ),
    core(
        "ebpf_events_lost",
        Kind::Counter,
        &[],
        "Ring records that the full ring refused: detail, never a count.",
    ),
    core("watch_restarts", Kind::Counter, &["watch"], "Watches that broke and had to start anew."),
    core(
        "anomalies",
        Kind::Counter,
        &["kind"],
        "Input that could not be used as it was, and bounds that were met.",
    ),
    core(
        "series_dropped",
        Kind::Counter,
        &[],
        "Series that did not fit the series limit; their values count under ~other.",
    ),
    agent(
        "probe_attempts",
        Kind::Counter,
        with_w!["probe_type", "handler", "result"],
        "Mirrored probes that were run, by what they saw.",
    ),
    unit(
        agent(
            "probe_duration_seconds",
            Kind::Histogram(PROBE_BUCKETS),
            with_w!["probe_type", "handler"],
            "How long mirrored probes took; those that could not be run are not in it.",
        ),
        "seconds",
    ),
    agent(
        "probe_targets",
        Kind::Gauge,
        with_w!["probe_type", "handler", "state"],
        "Mirrored probes by what is believed after their thresholds; of some nothing is yet.",
    ),
    agent("build", Kind::Info, &["version"], "The agent's version."),
    agent("feature_enabled", Kind::Gauge, &["feature"], "1 if the feature works."),
    agent(
        "feature_degraded",
        Kind::Gauge,
        &["feature"],
        "1 if the feature works in part or not at all; /status says why.",
    ),
    agent("ebpf_program_attached", Kind::Gauge, &["program"], "1 if the kernel program is attached."),
    agent(
        "ebpf_program_runs",
        Kind::Counter,
        &["program"],
        "Runs of the kernel program, where the kernel counts them.",
    ),
    unit(
        agent(
            "ebpf_program_run_seconds",
            Kind::Counter,
            &["program"],
            "Run time of the kernel program, where the kernel measures it.",
        ),
        "seconds",
    ),
    agent("ebpf_events", Kind::Counter, &["kind"], "Ring records received."),
    agent("ebpf_map_entries", Kind::Gauge, &["map"], "Entries in the kernel map."),
    agent("ebpf_map_capacity", Kind::Gauge, &["map"], "Entries that the kernel map can take."),
    agent(
        "conntrack_queries",
        Kind::Counter,
        &["result"],
        "Questions to connection tracking about lost connects, with --conntrack; those that were skipped were not asked.",
    ),
    agent(
        "kubernetes_events",
        Kind::Counter,
        &["result"],
        "Kubernetes Events of lost requests that the API server took, with --events.",
    ),
    agent(
        "kubernetes_events_lost",
        Kind::Counter,
        &["reason"],
        "Kubernetes Events of lost requests that were given up: too many waited, or the API server refused them.",
    ),
    unit(
        agent(
            "watch_lag_seconds",
            Kind::Gauge,
            &["watch"],
            "Age of the newest event or bookmark of the watch; the oldest of its namespaces.",
        ),
        "seconds",
    ),
    unit(
        agent("process_cpu_seconds", Kind::Counter, &[], "User and system CPU time of the agent."),
        "seconds",
    ),
    unit(agent("process_resident_memory_bytes", Kind::Gauge, &[], "Resident memory of the agent."), "bytes"),
    unit(agent("process_virtual_memory_bytes", Kind::Gauge, &[], "Virtual memory of the agent."), "bytes"),
    agent("process_open_fds", Kind::Gauge, &[], "Open file descriptors of the agent."),
    agent("process_max_fds", Kind::Gauge, &[], "Most file descriptors that the agent may open."),
    unit(
        agent("process_start_time_seconds", Kind::Gauge, &[], "Start of the agent since the Unix epoch."),
        "seconds",
    ),
];

/// The family of this name.
pub fn family(name: &str) -> Option<&'static Family> {
    CATALOGUE.iter().find(|family| family.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let mut names = BTreeSet::new();
        for family in CATALOGUE {
            assert!(names.insert(family.name), "{} twice", family.name);
            assert!(!family.name.ends_with("_total"), "{}", family.name);
            if let Some(unit) = family.unit {
                assert!(family.name.ends_with(unit), "{} does not end in {unit}", family.name);
            }
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }

    #[test]
    fn no_label_could_clash_with_scrape_targets_or_hold_an_identifier() {
        for label in CATALOGUE.iter().flat_map(|family| family.labels) {
            assert!(
                ![
                    "namespace",
                    "pod",
                    "instance",
                    "job",
                    "node",
                    "ip",
                    "port",
                    "uid",
                    "pid",
                    "path",
                    "le",
                    "quantile"
                ]
                .contains(label),
                "{label}"
            );
        }
    }
}
