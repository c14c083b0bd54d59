//! The time that a start has: by a startup probe, or by what liveness leaves.

use super::spec::Container;
use super::timing::{detection, start_budget};
use super::{Code, Finding, Level};
use crate::probes::ProbeType;
use crate::probes::spec::Probe;

pub(super) fn check(container: &Container, findings: &mut Vec<Finding>) {
    let Some(liveness) = &container.liveness_probe else { return };
    match &container.startup_probe {
        Some(startup) => findings.extend(no_gain(container, startup, liveness)),
        None => {
            findings.extend(delay_as_startup(container, liveness));
            if let Some(readiness) = &container.readiness_probe {
                findings.extend(before_readiness(container, liveness, readiness));
            }
        }
    }
}

/// Kubernetes documentation, "Protect slow starting containers": initialDelaySeconds + failureThreshold x periodSeconds of liveness is what
/// a start has; the exact bounds are the worker's.
fn delay_as_startup(container: &Container, liveness: &Probe) -> Option<Finding> {
    let (delay, period, threshold) =
        (liveness.initial_delay_seconds, liveness.period_seconds, liveness.failure_threshold);
    if delay == 0 {
        return None;
    }
    let budget = start_budget(liveness);
    let needed = (budget.to + i64::from(period) - 1) / i64::from(period);
    let why = format!(
        "a start that takes longer than {}..{} s ({delay} + {} x {period} .. {delay} + {threshold} x {period}) is killed, at each \
         start again; and for {delay} s after each restart a hang goes unseen",
        budget.from,
        budget.to,
        i64::from(threshold) - 1,
    );
    let finding = Finding::new(
        Level::Note,
        Code::DelayAsStartup,
        format!("livenessProbe waits {delay} s for the start, and there is no startupProbe"),
    );
    Some(finding.at(container).of(ProbeType::Liveness).because(why).remedy(format!(
        "a startupProbe with the same handler, periodSeconds {period} and failureThreshold {needed} gives as long, and ends as soon as \
         the container is up; then drop initialDelaySeconds"
    )))
}

/// Worker, step 9: liveness waits for startup, so that its budget replaces the one of liveness.
fn no_gain(container: &Container, startup: &Probe, liveness: &Probe) -> Option<Finding> {
    let (with, without) = (start_budget(startup), start_budget(liveness));
    if with.from > without.from {
        return None;
    }
    let sum = |probe: &Probe| {
        format!(
            "{} + {} x {}",
            probe.initial_delay_seconds,
            i64::from(probe.failure_threshold) - 1,
            probe.period_seconds
        )
    };
    let finding = Finding::new(
        Level::Warning,
        Code::StartupGainsNothing,
        format!(
            "startupProbe gives a start {} s for certain, livenessProbe alone would give {} s",
            with.from, without.from
        ),
    );
    let why = format!(
        "{} = {} s against {} = {} s: a startup probe is there to allow more",
        sum(startup),
        with.from,
        sum(liveness),
        without.from
    );
    Some(finding.at(container).of(ProbeType::Startup).because(why).remedy(format!(
        "failureThreshold x periodSeconds of the startupProbe above the longest start, plus one period ({} s): the first run may come \
         just before the container is up",
        startup.period_seconds
    )))
}

/// Both count from the container's start: readiness says that the program needs longer than liveness allows.
fn before_readiness(container: &Container, liveness: &Probe, readiness: &Probe) -> Option<Finding> {
    let killed = i64::from(liveness.initial_delay_seconds) + detection(liveness, 0).from;
    let asked = i64::from(readiness.initial_delay_seconds);
    if killed >= asked {
        return None;
    }
    let finding = Finding::new(
        Level::Warning,
        Code::LivenessBeforeReadiness,
        format!(
            "livenessProbe can restart the container {killed} s after its start, readinessProbe first asks after {asked} s"
        ),
    );
    let why = format!(
        "{} + {} x {} = {killed} s < initialDelaySeconds {asked}: a container that needs as long as readiness supposes is restarted \
         before it was ready, again and again",
        liveness.initial_delay_seconds,
        i64::from(liveness.failure_threshold) - 1,
        liveness.period_seconds
    );
    Some(finding.at(container).of(ProbeType::Liveness).because(why).remedy(format!(
        "a startupProbe with failureThreshold x periodSeconds above {asked} s; then neither needs an initialDelaySeconds"
    )))
}
