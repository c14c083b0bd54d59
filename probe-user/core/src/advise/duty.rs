//! What each probe does while the container runs: who restarts whom, when, and at what cost.

use super::spec::{Container, Owner, PodSpec};
use super::timing::{ExecLoad, detection};
use super::validity::field_of;
use super::{Code, Finding, Level};
use crate::probes::ProbeType;
use crate::probes::spec::{Handler, Probe};
use crate::rules::facts::RestartPolicy;

/// `has_refused_readiness`: it has a readiness probe, which the API refuses and is left out here.
pub(super) fn check(
    pod: &PodSpec,
    container: &Container,
    owner: Owner,
    has_refused_readiness: bool,
    findings: &mut Vec<Finding>,
) {
    let serves = !container.ports.is_empty() && !owner.is_batch;
    if serves && container.readiness_probe.is_none() && !has_refused_readiness {
        findings.push(missing_readiness(container));
    }
    if let (Some(liveness), Some(readiness)) = (&container.liveness_probe, &container.readiness_probe)
        && liveness.handler() == readiness.handler()
    {
        findings.push(same_handler(container, liveness, readiness));
    }
    for (kind, probe) in container.probes() {
        if probe.timeout_seconds >= probe.period_seconds {
            findings.push(no_pause(container, kind, probe));
        }
        if kind == ProbeType::Liveness && probe.failure_threshold == 1 {
            findings.push(single_failure(container, probe));
        }
    }
    let restarts = container.restart_policy.unwrap_or(pod.restart_policy) != RestartPolicy::Never;
    let acts = container.liveness_probe.is_some() || container.startup_probe.is_some();
    if acts && !restarts {
        findings.push(
            Finding::new(
                Level::Note,
                Code::NoRestart,
                "liveness or startup probe under restartPolicy: Never",
            )
            .at(container)
            .because("a failure kills the container for good: its exit counts as failed, and so may the pod")
            .remedy("keep it if a hung pod is to fail; else restartPolicy: OnFailure"),
        );
    }
}

/// Semantics 4: without a readiness worker, ready is running and started; so `serving` stays true while the pod ends, too.
fn missing_readiness(container: &Container) -> Finding {
    let ports: Vec<String> =
        container.ports.iter().take(5).map(|port| port.container_port.to_string()).collect();
    let (level, moment) = match container.startup_probe {
        Some(_) => (Level::Note, "its startup probe has passed, and never unready again"),
        None => (Level::Warning, "its process runs, before it listens"),
    };
    Finding::new(
        level,
        Code::MissingReadiness,
        format!("serves port {} and has no readinessProbe", ports.join(", ")),
    )
    .at(container)
    .because(format!(
        "it counts as ready as soon as {moment}: Services send it requests that are refused, and a rolling update goes on over \
         replicas that do not work"
    ))
    .remedy("a readinessProbe that asks what clients ask")
}

/// Kubernetes documentation, "Readiness probes" and the caution on liveness: the same endpoint is common, but with a higher
/// failureThreshold, so that a pod is out of its Services for a while before it is killed.
fn same_handler(container: &Container, liveness: &Probe, readiness: &Probe) -> Finding {
    let hang = |probe: &Probe| (detection(probe, 0), detection(probe, i64::from(probe.timeout_seconds)));
    let ((killed, killed_hanging), (unready, unready_hanging)) = (hang(liveness), hang(readiness));
    let is_later = killed.from > unready.to && killed_hanging.from > unready_hanging.to;
    let why = format!(
        "refused: restarted after {}..{} s, unready after {}..{} s; hanging: restarted after {}..{} s, unready after {}..{} s. {}",
        killed.from,
        killed.to,
        unready.from,
        unready.to,
        killed_hanging.from,
        killed_hanging.to,
        unready_hanging.from,
        unready_hanging.to,
        if is_later {
            "It is unready first, but a slow dependency that the endpoint asks restarts every replica in the end"
        } else {
            "What should only take it out of its Services restarts it: one slow dependency restarts every replica, and their load \
             falls on the rest"
        }
    );
    let level = if is_later { Level::Note } else { Level::Warning };
    let handler = liveness.handler().map_or("handler", Handler::name);
    Finding::new(level, Code::LivenessEqualsReadiness, format!("liveness and readiness have the same {handler}"))
        .at(container)
        .because(why)
        .remedy(
            "let liveness ask the process alone, without its dependencies, or leave it out; at the least give it a failureThreshold \
             so high that it acts well after readiness",
        )
}

/// Worker (semantics 3.2): runs of one worker never overlap, and one tick is kept, so a run that takes its whole timeout is followed at once.
fn no_pause(container: &Container, kind: ProbeType, probe: &Probe) -> Finding {
    let (timeout, period, threshold) = (probe.timeout_seconds, probe.period_seconds, probe.failure_threshold);
    let bounds = detection(probe, i64::from(timeout));
    Finding::new(
        Level::Warning,
        Code::TimeoutNotBelowPeriod,
        format!("{}: timeoutSeconds {timeout} >= periodSeconds {period}", field_of(kind)),
    )
    .at(container)
    .of(kind)
    .because(format!(
        "a container that hangs is probed without pause, and not each {period} s: {threshold} failures take {}..{} s ({threshold} x \
         {timeout} s, and up to {period} s before the first)",
        bounds.from, bounds.to
    ))
    .remedy("a timeoutSeconds below periodSeconds, or a longer period")
}

/// Worker, step 12: the first failure is the result.
fn single_failure(container: &Container, probe: &Probe) -> Finding {
    Finding::new(Level::Warning, Code::SingleFailure, "livenessProbe has failureThreshold 1")
        .at(container)
        .of(ProbeType::Liveness)
        .because(format!(
            "one run that is refused, or takes longer than {} s, restarts the container: a lost packet or a pause is enough",
            probe.timeout_seconds
        ))
        .remedy("failureThreshold 3 (the default) or more")
}

/// Kubernetes documentation, "Probe check mechanisms": exec makes processes at each run, at high density it is an overhead on the node's CPU.
pub(super) fn exec(load: Option<&ExecLoad>, findings: &mut Vec<Finding>) {
    let Some(load) = load else { return };
    let finding = Finding::new(
        Level::Note,
        Code::ExecCost,
        format!("{} exec {}", load.probes, if load.probes == 1 { "probe" } else { "probes" }),
    );
    findings.push(
        finding
            .because(format!(
                "each run starts a process in the container: {:.2}/s for a pod, x {} pods of a node = {:.1}/s",
                load.per_pod_per_second, load.pods_per_node, load.per_node_per_second
            ))
            .remedy("httpGet, tcpSocket or grpc start no process; else a longer periodSeconds"),
    );
}
