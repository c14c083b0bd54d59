//! Why a pod is not Ready or gets no traffic: by Kubernetes' rules, from the pod, the Services and EndpointSlices of its namespace.
//!
//! What the API says is compared with what the rules make of the same objects; where they differ, somebody is late or writes what he should
//! not. Not here: what a probe saw (the API does not tell), and the pod's end.

mod outlook;

use crate::probes::ProbeType;
use crate::probes::spec::{Handler, Probe};
use crate::probes::worker::{Gate, gate};
use crate::rules::endpoint::{Conditions, EndpointSlice, TargetRef, belongs, conditions_of};
use crate::rules::object::{Condition, Container, ContainerStatus, Pod, Service};
use crate::rules::proxy::{Use, in_use};
use crate::rules::readiness::{containers_ready, ready};
use crate::rules::slices::SERVICE_NAME;
use crate::wallclock::Timestamp;
pub use outlook::{Between, Outlook};
use serde::Serialize;

/// All that is to be said of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// As of then.
    pub at: Timestamp,
    /// `Ready` as the rules give it.
    pub ready: bool,
    /// Why not.
    pub reason: String,
    /// Why not, in words.
    pub message: String,
    /// It is being deleted, until then at the latest (the hooks' two seconds apart).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Each container that is not ready, and why.
    pub containers: Vec<Unready>,
    /// Each probe of each container.
    pub probes: Vec<ProbeState>,
    /// Each Service that selects it.
    pub services: Vec<Reach>,
    /// Where the API differs from the rules.
    pub differences: Vec<String>,
}

/// A container that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unready {
    /// Name.
    pub container: String,
    /// Why.
    pub why: String,
}

/// What a probe does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Runs at its period.
    Runs,
    /// Waits for the initial delay.
    Delayed,
    /// Waits for the startup probe.
    Gated,
    /// Has passed, and is not asked again.
    Passed,
    /// There is no running container.
    Waits,
    /// Will not run again.
    Ended,
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeState {
    /// Container.
    pub container: String,
    /// What for.
    pub kind: ProbeType,
    /// `httpGet`, `tcpSocket`, `grpc`, `exec`.
    pub handler: &'static str,
    /// What it does.
    pub state: Activity,
    /// In words.
    pub why: String,
    /// When it runs next and what may come of it, unless something else is to happen first.
    #[serde(flatten)]
    pub outlook: Option<Outlook>,
    /// Its period.
    pub period_seconds: i32,
}

/// The pod in a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Service.
    pub service: String,
    /// New connections come by it, as its slices are now.
    pub traffic: bool,
    /// Why, or why not.
    pub why: String,
}

/// Explains a pod as of this moment.
pub fn explain(pod: &Pod, services: &[Service], slices: &[EndpointSlice], now: Timestamp) -> Explanation {
    let pod = &with_defaults(pod.clone());
    let derived = ready(pod);
    let serving = || pod.spec.serving_containers();
    let mut differences = Vec::new();
    for derived in [containers_ready(pod), derived.clone()] {
        differences.extend(condition_difference(pod, &derived));
    }
    differences.extend(serving().filter_map(|container| container_difference(pod, container)));
    let mut reaches = Vec::new();
    for service in services.iter().filter(|service| service.selects(&pod.metadata)) {
        reaches.push(reach_of(pod, service, slices, &mut differences));
    }
    Explanation {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        at: now,
        ready: derived.status == "True",
        reason: derived.reason,
        message: derived.message,
        deadline: pod.metadata.deletion_timestamp.clone(),
        containers: serving().filter_map(|container| unready(pod, container, now)).collect(),
        probes: serving().flat_map(|container| probes_of(pod, container, now)).collect(),
        services: reaches,
        differences,
    }
}

/// A manifest may not have been through the API.
fn with_defaults(mut pod: Pod) -> Pod {
    for container in pod.spec.init_containers.iter_mut().chain(&mut pod.spec.containers) {
        for probe in
            [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        {
            *probe = probe.take().map(Probe::with_defaults);
        }
    }
    pod
}

fn condition_difference(pod: &Pod, derived: &Condition) -> Option<String> {
    let (kind, wanted) = (&derived.kind, &derived.status);
    let said = pod.status.condition(kind).map_or("nothing", |condition| condition.status.as_str());
    (said != wanted).then(|| {
        let why = if derived.reason.is_empty() { String::new() } else { format!(" ({})", derived.reason) };
        format!("condition {kind}: the API says {said}, the rules give {wanted}{why}")
    })
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [&pod.status.init_container_statuses, &pod.status.container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// What the statuses alone can be seen to have wrong.
fn container_difference(pod: &Pod, container: &Container) -> Option<String> {
    let status = status_of(pod, &container.name)?;
    let (name, started) = (&container.name, status.started == Some(true));
    let runs = status.state.running.is_some();
    let should_be = match (runs, &container.startup_probe, &container.readiness_probe) {
        (false, ..) if status.ready => "unready, for it does not run",
        (true, Some(_), _) if status.ready && !started => "unready, for it has not started",
        (true, None, _) if !started => "started, for it runs and has no startup probe",
        (true, _, None) if started && !status.ready => "ready, for it has started and has no readiness probe",
        _ => return None,
    };
    Some(format!("container {name}: by the rules it is {should_be}"))
}

fn unready(pod: &Pod, container: &Container, now: Timestamp) -> Option<Unready> {
    let unready = |why: String| Some(Unready { container: container.name.clone(), why });
    let Some(status) = status_of(pod, &container.name) else {
        return unready("it has no status: the kubelet has not made it yet".to_owned());
    };
    if status.ready {
        return None;
    }
    let state = &status.state;
    if let Some(ended) = &state.terminated {
        return unready(format!("it ended with exit code {} ({})", ended.exit_code, ended.reason));
    }
    if state.running.is_none() {
        let reason = state.waiting.as_ref().map_or("", |waiting| waiting.reason.as_str());
        return unready(format!("it waits ({})", if reason.is_empty() { "no reason given" } else { reason }));
    }
    let blocking = if status.started == Some(true) { ProbeType::Readiness } else { ProbeType::Startup };
    let probe = probes_of(pod, container, now).into_iter().find(|probe| probe.kind == blocking);
    unready(probe.map_or_else(
        || "nothing in its spec keeps it unready".to_owned(),
        |probe| {
            format!("its {} probe ({}) has not passed ({})", blocking.lowercase(), probe.handler, probe.why)
        },
    ))
}

fn probes_of(pod: &Pod, container: &Container, now: Timestamp) -> Vec<ProbeState> {
    let probes = [
        (ProbeType::Startup, &container.startup_probe),
        (ProbeType::Readiness, &container.readiness_probe),
        (ProbeType::Liveness, &container.liveness_probe),
    ];
    let there = probes.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)));
    there
        .map(|(kind, probe)| {
            let (state, why, outlook) = activity(pod, container, kind, probe, now);
            ProbeState {
                container: container.name.clone(),
                kind,
                handler: probe.handler().map_or("no handler", Handler::name),
                state,
                why,
                outlook,
                period_seconds: probe.period_seconds,
            }
        })
        .collect()
}

fn activity(
    pod: &Pod,
    container: &Container,
    kind: ProbeType,
    probe: &Probe,
    now: Timestamp,
) -> (Activity, String, Option<Outlook>) {
    let said = |activity, why: &str| (activity, why.to_owned(), None);
    if pod.status.phase.is_terminal() {
        return said(Activity::Ended, "the pod has finished");
    }
    let status = status_of(pod, &container.name);
    let running = status.and_then(|status| Some((status, status.state.running.as_ref()?.since()?)));
    let Some((status, since)) = running else {
        return said(Activity::Waits, "its container does not run");
    };
    let is_ended = pod.metadata.deletion_timestamp.is_some() && kind.stops_with_pod(container.is_sidecar());
    let started = status.started == Some(true);
    let outlook = Some(outlook::outlook(kind, probe, status, since, now));
    match gate(kind, is_ended, since, started, probe.initial_delay_seconds, now) {
        Gate::Ended => said(Activity::Ended, "the pod is being deleted"),
        Gate::Passed => said(Activity::Passed, "it has passed; it runs again with the next container"),
        Gate::Delayed { .. } if started || kind == ProbeType::Startup => {
            let why = format!("initialDelaySeconds {} are not over", probe.initial_delay_seconds);
            (Activity::Delayed, why, outlook)
        }
        // The delay comes first, but its end may not be what it waits for.
        Gate::Delayed { .. } | Gate::BehindStartup => {
            said(Activity::Gated, &gated(container, probe, since, now))
        }
        Gate::Due => {
            let (period, timeout) = (probe.period_seconds, probe.timeout_seconds);
            let (pass, fail) = (probe.success_threshold, probe.failure_threshold);
            let why = format!("every {period} s, timeout {timeout} s; {pass} to pass, {fail} to fail");
            (Activity::Runs, why, outlook)
        }
    }
}

/// What a probe waits for whose container has not started, and what follows.
fn gated(container: &Container, probe: &Probe, since: Timestamp, now: Timestamp) -> String {
    let first = match container.startup_probe {
        Some(_) => "it waits for the startup probe",
        None => "it waits for the kubelet to say that its container has started",
    };
    let delay_ns = i64::from(probe.initial_delay_seconds) * 1_000_000_000;
    let until = Timestamp(since.0.saturating_add(delay_ns));
    let delay = if until > now { format!(", not before {until}") } else { String::new() };
    format!("{first}, and runs within {} s of that{delay}", probe.period_seconds)
}

/// The pod in one Service, and where its slices differ from the rules.
fn reach_of(pod: &Pod, service: &Service, slices: &[EndpointSlice], differences: &mut Vec<String>) -> Reach {
    let name = &service.metadata.name;
    let is_its = |slice: &&EndpointSlice| {
        slice.metadata.namespace == service.metadata.namespace
            && slice.metadata.labels.get(SERVICE_NAME) == Some(name)
    };
    let endpoints = || slices.iter().filter(is_its).flat_map(|slice| &slice.endpoints);
    // A manifest without a uid is known by its name.
    let is_pod = |target: &TargetRef| {
        target.uid == pod.metadata.uid && (!target.uid.is_empty() || target.name == pod.metadata.name)
    };
    let own = endpoints().filter(|endpoint| endpoint.target_ref.as_ref().is_some_and(is_pod));
    let own: Vec<Conditions> = own.map(|endpoint| endpoint.conditions.effective()).collect();
    let wanted = belongs(pod, true).then(|| conditions_of(service, pod));
    match (wanted, own.first()) {
        (Some(wanted), None) => differences.push(format!(
            "service {name}: by the rules the pod is an endpoint ({}), no slice has it",
            words(wanted)
        )),
        (None, Some(_)) => {
            differences.push(format!("service {name}: by the rules the pod is no endpoint, a slice has it"));
        }
        (Some(wanted), Some(_)) => {
            let odd = own.iter().filter(|conditions| **conditions != wanted);
            differences.extend(odd.map(|odd| {
                format!("service {name}: a slice says {}, the rules give {}", words(*odd), words(wanted))
            }));
        }
        (None, None) => {}
    }
    let carries = in_use(endpoints().map(|endpoint| endpoint.conditions.effective()));
    let best = own.iter().map(|conditions| conditions.usable()).max();
    let headless = service.spec.cluster_ip == "None";
    let (traffic, why) = match best {
        None => (false, "it is in none of its slices"),
        Some(Use::Ready) if headless => (true, "its address is in the DNS"),
        Some(Use::Ready) => (true, "its endpoint is ready"),
        Some(Use::Fallback) if headless => (false, "it is being deleted: its address is out of the DNS"),
        Some(Use::Fallback) if carries == Use::Fallback => {
            (true, "it is being deleted but serves, and no other endpoint is ready")
        }
        Some(Use::Fallback) => (false, "it is being deleted, and others are ready"),
        Some(Use::Never) => (false, "its endpoint is not ready"),
    };
    Reach { service: name.clone(), traffic, why: why.to_owned() }
}

fn words(conditions: Conditions) -> String {
    let Conditions { ready, serving, terminating } = conditions;
    format!("ready={ready} serving={serving} terminating={terminating}")
}

impl ProbeType {
    /// As it is called in a sentence.
    pub const fn lowercase(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }
}

#[cfg(test)]
mod tests;
