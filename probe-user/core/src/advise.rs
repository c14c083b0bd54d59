//! A static check of a pod's probes and shutdown settings: what its numbers come to, and which of them will cost requests or restarts.
//!
//! In: a pod's spec and what makes it. Out: findings, each with its arithmetic and what to do, and the time that each probe takes to act.
//! Every rule follows from the kubelet's own semantics (the worker in [`crate::probes`], the graces in [`crate::rules`]) or from what the
//! Kubernetes documentation asks for, and says which. It does not guess at what a program does, and has no figure for a probe's CPU:
//! what was measured is in [`crate::advice`].

mod duty;
mod ports;
mod shutdown;
pub mod spec;
mod startup;
#[cfg(test)]
mod tests;
pub mod timing;
mod validity;

use crate::probes::ProbeType;
use serde::Serialize;
use spec::{Container, Owner, PodSpec};
use timing::{ExecLoad, ProbeTiming};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// To be known: a cost, or a choice that depends on the program.
    Note,
    /// It costs requests or restarts as soon as something goes wrong.
    Warning,
    /// The API refuses it, or it cannot do what it is there for.
    Error,
}

/// The rules, by names that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The API refuses it.
    Invalid,
    /// A probe or hook where the API has none.
    InitContainer,
    /// A probe's port has a name that its container does not have.
    PortNameUnknown,
    /// A probe goes to another host than the pod.
    ProbeHost,
    /// Traffic comes without a readiness probe.
    MissingReadiness,
    /// Liveness and readiness ask the same.
    LivenessEqualsReadiness,
    /// Liveness restarts before readiness has asked.
    LivenessBeforeReadiness,
    /// One failed probe restarts.
    SingleFailure,
    /// A probe has as much time as its period, or more.
    TimeoutNotBelowPeriod,
    /// Each probe is a process.
    ExecCost,
    /// A failure ends the pod instead of restarting its container.
    NoRestart,
    /// `initialDelaySeconds` of a liveness probe is the time to start.
    DelayAsStartup,
    /// The startup probe gives no more time than liveness alone.
    StartupGainsNothing,
    /// No time to end.
    GraceTooShort,
    /// The preStop sleep is longer than the grace.
    PrestopOverGrace,
    /// The preStop sleep leaves little or nothing of the grace.
    PrestopEatsGrace,
    /// A preStop hook that cannot succeed.
    PrestopTcp,
    /// The stop signal comes as soon as the pod is deleted.
    MissingPrestop,
    /// A stop signal that does not let a program end by itself.
    StopSignal,
}

/// One thing that is wrong, or is to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Which rule.
    pub code: Code,
    /// Whose; `None`: the pod's.
    pub container: Option<String>,
    /// Of which probe, if it is about one.
    pub probe: Option<ProbeType>,
    /// What is there.
    pub what: String,
    /// What it comes to, with the arithmetic.
    pub why: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub action: String,
}

/// All that can be said of a pod's spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The worst first; of the same level in the order of containers.
    pub findings: Vec<Finding>,
    /// Each valid probe's times.
    pub probes: Vec<ProbeTiming>,
    /// Processes that probes start, if any do.
    pub exec: Option<ExecLoad>,
}

/// Checks a pod's spec, as `owner` would make pods of it.
pub fn advise(pod: &PodSpec, owner: Owner) -> Report {
    let mut findings = Vec::new();
    let mut probes = Vec::new();
    validity::pod(pod, &mut findings);
    for container in pod.probed_containers() {
        let container = &container.clone().with_defaults();
        let invalid = findings.len();
        validity::container(pod, container, &mut findings);
        let refused: Vec<ProbeType> =
            findings[invalid..].iter().filter_map(|finding| finding.probe).collect();
        // Numbers that the API refuses have no arithmetic.
        let valid = container.without(&refused);
        ports::check(pod, &valid, &mut findings);
        duty::check(pod, &valid, owner, refused.contains(&ProbeType::Readiness), &mut findings);
        if !refused.contains(&ProbeType::Startup) {
            startup::check(&valid, &mut findings);
        }
        shutdown::container(pod, container, owner, &mut findings);
        probes.extend(valid.probes().map(|(kind, probe)| ProbeTiming::of(pod, &valid, kind, probe)));
    }
    let exec = ExecLoad::of(owner, &probes);
    duty::exec(exec.as_ref(), &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Report { findings, probes, exec }
}

impl Finding {
    fn new(level: Level, code: Code, what: impl Into<String>) -> Self {
        Self {
            level,
            code,
            container: None,
            probe: None,
            what: what.into(),
            why: String::new(),
            action: String::new(),
        }
    }

    fn at(self, container: &Container) -> Self {
        Self { container: Some(container.name.clone()), ..self }
    }

    fn of(self, probe: ProbeType) -> Self {
        Self { probe: Some(probe), ..self }
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    fn remedy(self, action: impl Into<String>) -> Self {
        Self { action: action.into(), ..self }
    }
}
