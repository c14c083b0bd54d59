//! The fixed layout of one workload's series: which number is which counter or histogram, its family and its labels.
//! Because the layout is fixed, a workload can never have more series than it says.

use crate::kubelet::Cause;
use crate::probes::ProbeType;
use crate::termination::{Outcome, Trigger};
use probe_ebpf::class::{Class, Confidence};

/// Counters of a workload.
pub(crate) const COUNTERS: usize = OTHER_EXECS_AMBIGUOUS + 1;
/// Histograms of a workload.
pub(crate) const HISTOGRAMS: usize = 8;

const LATE_CONNECTIONS: usize = 40;
const LATE_REQUESTS: usize = 52;
const POD_TERMINATIONS: usize = 56;
const CONTAINER_TERMINATIONS: usize = 88;
/// Number of `traffic_tail_censored`.
pub(crate) const TAIL_CENSORED: usize = 93;
/// Number of `silent_terminations`.
pub(crate) const SILENT: usize = 94;
/// Number of `stop_signals_ignored`.
pub(crate) const IGNORED: usize = 95;
const PROBE_TIMEOUTS: usize = 96;
const EXEC_PROBES: usize = PROBE_TIMEOUTS + ProbeLabel::ALL.len() * Cause::ALL.len();
const EXEC_CPU: usize = EXEC_PROBES + ProbeLabel::ALL.len();
/// Number of `other_execs` that are no probes.
pub(crate) const OTHER_EXECS: usize = EXEC_CPU + ProbeLabel::ALL.len();
/// Number of `other_execs` that may be.
pub(crate) const OTHER_EXECS_AMBIGUOUS: usize = OTHER_EXECS + 1;

/// Histogram: deletion seen to stop signal.
pub(crate) const PRESTOP: usize = 0;
/// Histogram: stop signal to last listener closed.
pub(crate) const SIGNAL_TO_LISTENER_CLOSE: usize = 1;
/// Histogram: stop signal to exit.
pub(crate) const SIGNAL_TO_EXIT: usize = 2;
/// Histogram: deletion seen to the last sign of the endpoint.
pub(crate) const REMOVAL: usize = 3;
/// Histogram: deletion seen to slices.
pub(crate) const STAGE_API: usize = 4;
/// Histogram: deletion seen to this node's service proxy's rules.
pub(crate) const STAGE_PROGRAMMED: usize = 5;
/// Histogram: deletion seen to last new connection, as a stage.
pub(crate) const STAGE_TRAFFIC: usize = 6;
/// Histogram: deletion seen to last new connection.
pub(crate) const TAIL: usize = 7;

/// Which probe it was, as labels name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeLabel {
    /// The only one of its port.
    Of(ProbeType),
    /// One of several of its port.
    Unknown,
}

impl ProbeLabel {
    pub(crate) const ALL: [Self; 4] = [
        Self::Of(ProbeType::Liveness),
        Self::Of(ProbeType::Readiness),
        Self::Of(ProbeType::Startup),
        Self::Unknown,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Of(ProbeType::Liveness) => "Liveness",
            Self::Of(ProbeType::Readiness) => "Readiness",
            Self::Of(ProbeType::Startup) => "Startup",
            Self::Unknown => "unknown",
        }
    }

    /// Its place in [`Self::ALL`].
    pub(crate) const fn place(self) -> usize {
        match self {
            Self::Of(probe_type) => probe_type as usize,
            Self::Unknown => 3,
        }
    }
}

/// Reasons of container terminations.
pub(crate) const REASONS: [&str; 5] = ["liveness", "startup", "exit", "oom", "unknown"];

/// `lost_requests` of this class and confidence, while running or terminating.
pub(crate) fn lost(class: Class, confidence: Confidence, terminating: bool) -> usize {
    class as usize * 4 + confidence as usize * 2 + usize::from(terminating)
}

/// `late_connections`: indexes as in the kernel's counters.
pub(crate) fn late_connections(phase: usize, result: usize, fallback: bool) -> usize {
    LATE_CONNECTIONS + phase * 6 + result * 2 + usize::from(fallback)
}

/// `late_requests`: indexes as in the kernel's counters.
pub(crate) fn late_requests(connection: usize, result: usize) -> usize {
    LATE_REQUESTS + connection * 2 + result
}

/// `pod_terminations`.
pub(crate) fn pod_terminations(trigger: Trigger, outcome: Outcome, lost: bool) -> usize {
    POD_TERMINATIONS + trigger as usize * 8 + outcome as usize * 2 + usize::from(lost)
}

/// `container_terminations`, by place in [`REASONS`].
pub(crate) fn container_terminations(reason: &str) -> usize {
    let unknown = REASONS.len() - 1;
    CONTAINER_TERMINATIONS + REASONS.iter().position(|known| *known == reason).unwrap_or(unknown)
}

/// `kubelet_probe_timeouts`.
pub(crate) fn probe_timeouts(label: ProbeLabel, cause: Cause) -> usize {
    PROBE_TIMEOUTS + label.place() * Cause::ALL.len() + cause as usize
}

/// `kubelet_exec_probes`.
pub(crate) fn exec_probes(label: ProbeLabel) -> usize {
    EXEC_PROBES + label.place()
}

/// `kubelet_exec_probe_cpu_seconds`; counted in nanoseconds.
pub(crate) fn exec_cpu(label: ProbeLabel) -> usize {
    EXEC_CPU + label.place()
}

/// True for counters of nanoseconds, which are shown as seconds.
pub(crate) fn is_time(counter: usize) -> bool {
    (EXEC_CPU..OTHER_EXECS).contains(&counter)
}

/// True for counters that exist at 0 from the workload's birth.
pub(crate) fn is_alertable(counter: usize) -> bool {
    match counter {
        0..LATE_CONNECTIONS => {
            let (class, rest) = (Class::ALL[counter / 4], counter % 4);
            rest == class.usual_confidence() as usize * 2 + 1
        }
        POD_TERMINATIONS..CONTAINER_TERMINATIONS | SILENT | IGNORED => true,
        _ => false,
    }
}

/// Family of a counter and the values of its labels after the workload's.
pub(crate) fn counter(number: usize) -> (&'static str, Vec<&'static str>) {
    match number {
        0..LATE_CONNECTIONS => {
            let confidence = Confidence::ALL[number / 2 % 2].name();
            let phase = ["running", "terminating"][number % 2];
            ("lost_requests", vec![Class::ALL[number / 4].name(), confidence, phase])
        }
        LATE_CONNECTIONS..LATE_REQUESTS => {
            let n = number - LATE_CONNECTIONS;
            let labels = vec![
                ["deleting", "stopping"][n / 6],
                ["served", "lost", "idle"][n / 2 % 3],
                ["no", "fallback"][n % 2],
            ];
            ("late_connections", labels)
        }
        LATE_REQUESTS..POD_TERMINATIONS => {
            let n = number - LATE_REQUESTS;
            ("late_requests", vec![["new", "reused"][n / 2], ["answered", "lost"][n % 2]])
        }
        POD_TERMINATIONS..CONTAINER_TERMINATIONS => {
            let n = number - POD_TERMINATIONS;
            let labels =
                vec![Trigger::ALL[n / 8].name(), Outcome::ALL[n / 2 % 4].name(), ["none", "some"][n % 2]];
            ("pod_terminations", labels)
        }
        CONTAINER_TERMINATIONS..TAIL_CENSORED => {
            ("container_terminations", vec![REASONS[number - CONTAINER_TERMINATIONS]])
        }
        TAIL_CENSORED => ("traffic_tail_censored", Vec::new()),
        SILENT => ("silent_terminations", Vec::new()),
        IGNORED => ("stop_signals_ignored", Vec::new()),
        EXEC_PROBES..EXEC_CPU => ("kubelet_exec_probes", vec![ProbeLabel::ALL[number - EXEC_PROBES].name()]),
        EXEC_CPU..OTHER_EXECS => {
            ("kubelet_exec_probe_cpu_seconds", vec![ProbeLabel::ALL[number - EXEC_CPU].name()])
        }
        OTHER_EXECS => ("other_execs", vec!["other"]),
        OTHER_EXECS_AMBIGUOUS => ("other_execs", vec!["ambiguous"]),
        _ => {
            let n = number - PROBE_TIMEOUTS;
            let (label, cause) = (n / Cause::ALL.len() % ProbeLabel::ALL.len(), n % Cause::ALL.len());
            let labels = vec![ProbeLabel::ALL[label].name(), Cause::ALL[cause].name()];
            ("kubelet_probe_timeouts", labels)
        }
    }
}

/// Family of a histogram and the values of its labels after the workload's.
pub(crate) fn histogram(number: usize) -> (&'static str, Vec<&'static str>) {
    let phase = "pod_termination_phase_duration_seconds";
    let stage = "endpoint_removal_stage_duration_seconds";
    match number {
        PRESTOP => (phase, vec!["prestop"]),
        SIGNAL_TO_LISTENER_CLOSE => (phase, vec!["signal_to_listener_close"]),
        SIGNAL_TO_EXIT => (phase, vec!["signal_to_exit"]),
        REMOVAL => ("endpoint_removal_duration_seconds", Vec::new()),
        STAGE_API => (stage, vec!["api"]),
        STAGE_PROGRAMMED => (stage, vec!["programmed_local"]),
        STAGE_TRAFFIC => (stage, vec!["traffic"]),
        _ => ("traffic_tail_duration_seconds", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{self, LAG_BUCKETS};
    use std::collections::BTreeSet;

    #[test]
    fn every_number_is_another_series_of_a_family_with_as_many_labels() {
        let mut seen = BTreeSet::new();
        let counters = (0..COUNTERS).map(counter);
        let histograms = (0..HISTOGRAMS).map(histogram);
        for (name, labels) in counters.chain(histograms) {
            let family = catalogue::family(name).unwrap();
            assert_eq!(family.labels.len(), 3 + labels.len(), "{name}");
            assert!(seen.insert((name, labels)), "{name} twice");
        }
    }

    #[test]
    fn numbers_and_descriptions_agree() {
        let described = |number: usize| counter(number).1;
        for class in Class::ALL {
            for confidence in Confidence::ALL {
                assert_eq!(
                    described(lost(class, confidence, true)),
                    [class.name(), confidence.name(), "terminating"]
                );
            }
        }
        assert_eq!(described(late_connections(1, 2, true)), ["stopping", "idle", "fallback"]);
        assert_eq!(described(late_requests(1, 0)), ["reused", "answered"]);
        assert_eq!(
            described(pod_terminations(Trigger::NodeShutdown, Outcome::Forced, false)),
            ["node_shutdown", "forced", "none"]
        );
        assert_eq!(described(container_terminations("oom")), ["oom"]);
        let label = ProbeLabel::Of(ProbeType::Startup);
        assert_eq!(described(probe_timeouts(label, Cause::CpuThrottled)), ["Startup", "cpu_throttled"]);
        assert_eq!(described(probe_timeouts(ProbeLabel::Unknown, Cause::Unknown)), ["unknown", "unknown"]);
        assert_eq!(counter(exec_probes(label)), ("kubelet_exec_probes", vec!["Startup"]));
        assert_eq!(
            counter(exec_cpu(ProbeLabel::Unknown)),
            ("kubelet_exec_probe_cpu_seconds", vec!["unknown"])
        );
        assert_eq!((0..COUNTERS).filter(|n| is_time(*n)).collect::<Vec<_>>(), ProbeLabel::ALL.map(exec_cpu));
        assert_eq!(counter(IGNORED).0, "stop_signals_ignored");
        assert_eq!((0..COUNTERS).filter(|n| is_alertable(*n)).count(), 10 + 32 + 2);
    }

    #[test]
    fn a_workload_has_at_most_300_series_buckets_counted() {
        let gauges = 2;
        let lines = COUNTERS + HISTOGRAMS * (LAG_BUCKETS.len() + 3) + gauges;
        assert!(lines <= 300, "{lines}");
    }
}
