//! What the API refuses: of probes in its own words, of the rest in ours.

use super::spec::{Container, PodSpec};
use super::{Code, Finding, Level};
use crate::probes::ProbeType;
use crate::probes::validation;

/// Of the pod: its grace, and probes or hooks of init containers that are no sidecars (semantics 1, "Which containers").
pub(super) fn pod(pod: &PodSpec, findings: &mut Vec<Finding>) {
    if let Some(grace) = pod.termination_grace_period_seconds.filter(|grace| *grace < 0) {
        let what = format!(
            "terminationGracePeriodSeconds: Invalid value: {grace}: must be greater than or equal to 0"
        );
        findings.push(refused(what));
    }
    for container in pod.init_containers.iter().filter(|container| !container.is_sidecar()) {
        let lifecycle = &container.lifecycle;
        let fields: Vec<&str> = container
            .probes()
            .map(|(kind, _)| field_of(kind))
            .chain((lifecycle.pre_stop.is_some() || lifecycle.stop_signal.is_some()).then_some("lifecycle"))
            .collect();
        if !fields.is_empty() {
            findings.push(
                Finding::new(
                    Level::Error,
                    Code::InitContainer,
                    format!("an init container has {}", fields.join(", ")),
                )
                .at(container)
                .because("an init container runs to its end before the others start: the API refuses probes and hooks there")
                .remedy("remove them, or make it a sidecar by restartPolicy: Always"),
            );
        }
    }
}

/// Of one container: its probes, and its stop signal (KEP-4960).
pub(super) fn container(pod: &PodSpec, container: &Container, findings: &mut Vec<Finding>) {
    for (kind, probe) in container.probes() {
        for wrong in validation::invalid(probe, kind, field_of(kind)) {
            findings.push(refused(wrong.to_string()).at(container).of(kind));
        }
    }
    let has_os = pod.os.as_ref().is_some_and(|os| !os.name.is_empty());
    if let Some(signal) = container.lifecycle.stop_signal.as_deref().filter(|_| !has_os) {
        findings.push(
            refused(format!("lifecycle.stopSignal {signal} without spec.os.name"))
                .at(container)
                .remedy("set spec.os.name (linux or windows), which says what signals there are"),
        );
    }
}

fn refused(what: String) -> Finding {
    Finding::new(Level::Error, Code::Invalid, what)
        .because("the API refuses the object")
        .remedy("correct the field")
}

pub(super) const fn field_of(kind: ProbeType) -> &'static str {
    match kind {
        ProbeType::Liveness => "livenessProbe",
        ProbeType::Readiness => "readinessProbe",
        ProbeType::Startup => "startupProbe",
    }
}
