//! When a probe acts: exact bounds by the kubelet's worker, and the rule of thumb beside them.
//!
//! The worker's ticks have a fixed rate and no jitter but at the kubelet's own start; they begin with the pod, not with the container, so
//! a container's start and its breaking fall anywhere between two of them. A run that takes longer than the period is followed at once
//! by the next. The bounds take what is healthy to answer at once; the tests compare them with the worker itself, step by step.

use super::spec::{Container, Owner, PodSpec};
use crate::probes::ProbeType;
use crate::probes::spec::{Handler, Probe};
use crate::rules::grace::{ContainerGrace, KillReason};
use crate::rules::shutdown::{EndingContainer, Hook, stops_of};
use serde::Serialize;

/// From and to, in whole seconds; the upper end belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// No sooner.
    pub from: i64,
    /// No later.
    pub to: i64,
}

/// The times of one probe, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeTiming {
    /// Container.
    pub container: String,
    /// Kind.
    pub probe: ProbeType,
    /// Handler, as its field is called.
    pub handler: &'static str,
    /// From one run to the next.
    pub period_seconds: i64,
    /// Time that one run has.
    pub timeout_seconds: i64,
    /// Failures in a row that act.
    pub failure_threshold: i64,
    /// First run after the container's start, or, where a startup probe holds it back, after that one's success.
    pub first_run_seconds: Bounds,
    /// The first run waits for the startup probe.
    pub after_startup: bool,
    /// From the moment on which each run fails at once (connection refused) to the result.
    pub detection_refused_seconds: Bounds,
    /// From the moment on which nothing answers (each run takes its timeout) to the result.
    pub detection_hanging_seconds: Bounds,
    /// Rule of thumb for the worst case: (period + timeout) x failureThreshold.
    pub rule_of_thumb_seconds: i64,
    /// From a recovery to the result, at most.
    pub recovery_at_most_seconds: i64,
    /// Liveness and startup: from a hang to the container's end, if it ignores its stop signal.
    pub restart_at_most_seconds: Option<i64>,
    /// Time that a start has before the container is restarted: certain (first) and at most (second).
    pub start_budget_seconds: Option<Bounds>,
}

/// The processes that exec probes start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecLoad {
    /// Probes that are commands, in one pod.
    pub probes: usize,
    /// Of one running pod, once it has started.
    pub per_pod_per_second: f64,
    /// Pods that one node may have.
    pub pods_per_node: u32,
    /// Of one node.
    pub per_node_per_second: f64,
}

/// From the moment on which each run fails after `lasts` seconds, to the result (kubelet's worker; semantics 3.2).
pub(super) fn detection(probe: &Probe, lasts: i64) -> Bounds {
    let further = further_runs(probe.failure_threshold, probe, lasts);
    // The first failing run starts at once, or just under a period later.
    Bounds { from: further + lasts, to: i64::from(probe.period_seconds) + further + lasts }
}

/// From the container's start to the restart of one that refuses connections until it is up. Up to `from` it has time for certain;
/// beyond `to` it never has.
pub(super) fn start_budget(probe: &Probe) -> Bounds {
    let delay = i64::from(probe.initial_delay_seconds);
    let bounds = detection(probe, 0);
    Bounds { from: delay + bounds.from, to: delay + bounds.to }
}

/// The runs after the first that a threshold takes: one each period, or one after the other where they last longer.
fn further_runs(threshold: i32, probe: &Probe, lasts: i64) -> i64 {
    (i64::from(threshold) - 1) * lasts.max(i64::from(probe.period_seconds))
}

impl ProbeTiming {
    pub(super) fn of(pod: &PodSpec, container: &Container, kind: ProbeType, probe: &Probe) -> Self {
        let (period, timeout) = (i64::from(probe.period_seconds), i64::from(probe.timeout_seconds));
        let after_startup = kind != ProbeType::Startup && container.startup_probe.is_some();
        let delay = if after_startup { 0 } else { i64::from(probe.initial_delay_seconds) };
        let detection_hanging_seconds = detection(probe, timeout);
        let restarts = kind != ProbeType::Readiness;
        let end = kill_seconds(pod, container, kind);
        Self {
            container: container.name.clone(),
            probe: kind,
            handler: probe.handler().map_or("", Handler::name),
            period_seconds: period,
            timeout_seconds: timeout,
            failure_threshold: i64::from(probe.failure_threshold),
            first_run_seconds: Bounds { from: delay, to: delay + period },
            after_startup,
            detection_refused_seconds: detection(probe, 0),
            detection_hanging_seconds,
            rule_of_thumb_seconds: (period + timeout) * i64::from(probe.failure_threshold),
            recovery_at_most_seconds: period
                + further_runs(probe.success_threshold, probe, timeout)
                + timeout,
            restart_at_most_seconds: restarts.then(|| detection_hanging_seconds.to.saturating_add(end)),
            start_budget_seconds: (restarts && !after_startup).then(|| start_budget(probe)),
        }
    }
}

/// What a container that ignores its stop signal takes to end: hook and grace, but two seconds after the signal at least (semantics 8.2).
fn kill_seconds(pod: &PodSpec, container: &Container, kind: ProbeType) -> i64 {
    let own = |probe: &Option<Probe>| probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
    let grace = ContainerGrace {
        spec: Some(pod.grace_seconds()),
        deletion: None,
        liveness: own(&container.liveness_probe),
        startup: own(&container.startup_probe),
    };
    let reason = if kind == ProbeType::Startup { KillReason::Startup } else { KillReason::Liveness };
    let hook = container.lifecycle.pre_stop.as_ref().map(|hook| Hook {
        runs_ns: hook
            .sleep_seconds()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(|seconds| seconds.saturating_mul(1_000_000_000)),
        fails: false,
    });
    let ending = EndingContainer { hook, ..EndingContainer::default() };
    let stops = stops_of(&[ending], grace.seconds(reason));
    stops.first().map_or(0, |stop| i64::try_from(stop.kill_ns / 1_000_000_000).unwrap_or(i64::MAX))
}

impl ExecLoad {
    /// Startup probes are over once a container has started: they do not count.
    pub(super) fn of(owner: Owner, probes: &[ProbeTiming]) -> Option<Self> {
        let lasting =
            probes.iter().filter(|probe| probe.handler == "exec" && probe.probe != ProbeType::Startup);
        let per_pod_per_second: f64 = lasting.clone().map(|probe| 1.0 / seconds(probe.period_seconds)).sum();
        let probes = lasting.count();
        (probes > 0).then(|| Self {
            probes,
            per_pod_per_second,
            pods_per_node: owner.pods_per_node,
            per_node_per_second: per_pod_per_second * f64::from(owner.pods_per_node),
        })
    }
}

/// A period is a 32-bit number of the API's.
fn seconds(period: i64) -> f64 {
    f64::from(i32::try_from(period).unwrap_or(i32::MAX))
}
