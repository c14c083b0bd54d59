//! When a probe runs next, and when what is believed by it can turn: bounds, by what the API tells and what the kubelet's worker does.
//!
//! The API shows neither a worker's ticks nor how many equal results it has counted, so that these are bounds and no moments at which something
//! will happen. Taken for granted: that the kubelet runs, and of a command that the container runtime keeps to its timeout.

use super::{ContainerStatus, Probe, ProbeType, Timestamp};
use crate::probes::verdict::MAX_ATTEMPTS;
use serde::Serialize;

const NS: i64 = 1_000_000_000;

/// What is to come of a probe that runs, or will when its initial delay is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Its next run begins then at the earliest.
    pub next_from: Timestamp,
    /// Its next run has begun by then. An unready container's readiness may be asked sooner: whenever the kubelet looks at its pod.
    pub next_by: Timestamp,
    /// It has passed by then if each run from now on succeeds; none: it has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes_by: Option<Timestamp>,
    /// When it can have failed, and by when it has if each run from now on fails; none: it is taken for failed until it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<Between>,
}

/// Two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Between {
    /// At the earliest.
    pub from: Timestamp,
    /// At the latest.
    pub by: Timestamp,
}

/// The outlook of a container's probe that no other probe holds back; the container runs since then.
pub(super) fn outlook(
    kind: ProbeType,
    probe: &Probe,
    status: &ContainerStatus,
    since: Timestamp,
    now: Timestamp,
) -> Outlook {
    let (period, timeout) = (ns(probe.period_seconds.max(1)), ns(probe.timeout_seconds.max(1)));
    let after = |moment: Timestamp, ns: i64| Timestamp(moment.0.saturating_add(ns));
    let first = after(since, ns(probe.initial_delay_seconds.max(0)));
    let next_from = first.max(now);
    // Ticks are a period apart and never closer to now than that. A run that is under way may bring errors to its last attempt; while the
    // delay lasts there is none.
    let under_way = if first > now { 0 } else { timeout.saturating_mul(i64::from(MAX_ATTEMPTS)) };
    let next_by = after(next_from, period.max(under_way));
    // So many runs, the next one the first of them, each as long as it may be.
    let runs_by = |runs: i32| {
        let further = i64::from(runs.max(1) - 1).saturating_mul(period.max(timeout));
        after(after(next_by, further), timeout)
    };
    // Of a pod's first container no failure was counted before it was there, and each run of it has a tick of its own. Counts outlive containers.
    let failures_before =
        if status.restart_count == 0 { i64::from(probe.failure_threshold.max(1) - 1) } else { 0 };
    let fails = Between {
        from: after(first, failures_before.saturating_mul(period)).max(now),
        by: runs_by(probe.failure_threshold),
    };
    let (is_passed, is_failed) = match kind {
        ProbeType::Startup => (false, false),
        ProbeType::Liveness => (true, false),
        ProbeType::Readiness => (status.ready, !status.ready),
    };
    Outlook {
        next_from,
        next_by,
        passes_by: (!is_passed).then(|| runs_by(probe.success_threshold)),
        fails: (!is_failed).then_some(fails),
    }
}

fn ns(seconds: i32) -> i64 {
    i64::from(seconds) * NS
}

#[cfg(test)]
mod tests;
