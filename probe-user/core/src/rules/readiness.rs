//! Whether a container has started and is ready, and from that the pod's conditions, as the kubelet derives them.
//!
//! A deletion timestamp plays no part: a deleted pod is Ready until a probe fails, a container stops or its phase is terminal.

use super::facts::{ContainerState, Phase};
use super::object::{Condition, Pod};
use crate::probes::ProbeResult;
use crate::wallclock::Timestamp;
use serde::Deserialize;

const NS: i64 = 1_000_000_000;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// In `spec.containers`.
    #[default]
    Regular,
    /// A restartable init container.
    Sidecar,
    /// An init container that runs to its end.
    Init,
}

/// What one kind of probe says of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Belief {
    /// There is a worker.
    pub has_worker: bool,
    /// What it believes of this very container; the cache may have something without a worker.
    pub cached: Option<ProbeResult>,
}

/// All that makes a container started and ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbedContainer {
    /// What it is to its pod.
    pub role: Role,
    /// Its state.
    pub state: ContainerState,
    /// Its startup probe.
    pub startup: Belief,
    /// Its readiness probe.
    pub readiness: Belief,
    /// It is known as started from before.
    pub was_started: bool,
    /// When the kubelet was started; a container that is 10 s older keeps what the API says of it.
    pub kubelet_started: Option<Timestamp>,
    /// The API says that its pod is Ready.
    pub pod_was_ready: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// `started`.
    pub started: bool,
    /// `ready`.
    pub ready: bool,
    /// The readiness worker is to probe at once.
    pub triggers: bool,
}

impl ProbedContainer {
    /// Derives it.
    pub fn readiness(&self) -> Readiness {
        let started = self.has_started();
        let ready = |ready| Readiness { started, ready, triggers: false };
        match (self.role, self.state) {
            (Role::Init, ContainerState::Terminated { exit_code: 0 }) => ready(true),
            (Role::Init, _) => ready(false),
            _ if !started => ready(false),
            _ if self.readiness.cached == Some(ProbeResult::Success) => ready(true),
            _ => Readiness {
                started,
                ready: self.ready_without_success(),
                triggers: self.readiness.has_worker,
            },
        }
    }

    fn has_started(&self) -> bool {
        if !matches!(self.state, ContainerState::Running { .. }) {
            return false;
        }
        match self.startup.cached {
            Some(result) => result == ProbeResult::Success,
            None => self.was_started || !self.startup.has_worker,
        }
    }

    fn ready_without_success(&self) -> bool {
        let ContainerState::Running { since } = self.state else { return false };
        let is_older = |start: Timestamp| since.0 < start.0.saturating_sub(10 * NS);
        if !self.kubelet_started.is_some_and(is_older) {
            return !self.readiness.has_worker;
        }
        // Known from before the kubelet's restart: what the API says holds until its probe says otherwise.
        let is_ready = !self.readiness.has_worker || self.readiness.cached.is_none();
        is_ready && (!self.readiness.has_worker || self.pod_was_ready)
    }
}

/// `ContainersReady`, by the statuses that the pod has.
pub fn containers_ready(pod: &Pod) -> Condition {
    let status = &pod.status;
    if status.container_statuses.is_none() && status.init_container_statuses.is_none() {
        return condition("ContainersReady", "UnknownContainerStatuses", String::new());
    }
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let find = |name: &str| {
        let all = statuses.iter().filter_map(|list| list.as_ref()).flatten();
        all.clone().find(|status| status.name == name)
    };
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in pod.spec.serving_containers() {
        match find(&container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase {
        Phase::Succeeded if unknown.is_empty() => {
            return condition("ContainersReady", "PodCompleted", String::new());
        }
        Phase::Failed => return condition("ContainersReady", "PodFailed", String::new()),
        Phase::Succeeded | Phase::Pending | Phase::Running | Phase::Unknown => {}
    }
    let said = |what: &str, names: &[&str]| {
        (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
    };
    let messages: Vec<_> =
        [said("unknown", &unknown), said("unready", &unready)].into_iter().flatten().collect();
    let reason = if messages.is_empty() { "" } else { "ContainersNotReady" };
    condition("ContainersReady", reason, messages.join(", "))
}

/// `Ready`: all containers and all readiness gates. Containers are named before gates.
pub fn ready(pod: &Pod) -> Condition {
    let containers = containers_ready(pod);
    if containers.status != "True" {
        return Condition { kind: "Ready".to_owned(), ..containers };
    }
    let gates = pod.spec.readiness_gates.iter().filter_map(|gate| {
        let gate = &gate.condition_type;
        match pod.status.condition(gate) {
            None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(condition) if condition.status != "True" => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {}",
                condition.status
            )),
            Some(_) => None,
        }
    });
    let messages: Vec<_> = gates.collect();
    let reason = if messages.is_empty() { "" } else { "ReadinessGatesNotReady" };
    condition("Ready", reason, messages.join(", "))
}

/// A sandbox of a pod, as the runtime has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// Its state is ready.
    pub ready: bool,
    /// It shares the node's network.
    pub host_network: bool,
    /// It has an address.
    pub has_address: bool,
}

/// `PodReadyToStartContainers`: the newest sandbox, the first of these, is the only one that is ready and has its network.
pub fn ready_to_start_containers(host_network: bool, sandboxes: &[Sandbox]) -> Condition {
    let is_usable = |newest: &Sandbox| {
        newest.ready && newest.host_network == host_network && (host_network || newest.has_address)
    };
    let one_ready = sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1;
    let holds = one_ready && sandboxes.first().is_some_and(is_usable);
    let mut condition = condition("PodReadyToStartContainers", "", String::new());
    if !holds {
        "False".clone_into(&mut condition.status);
    }
    condition
}

/// True without a reason.
fn condition(kind: &str, reason: &str, message: String) -> Condition {
    let status = if reason.is_empty() { "True" } else { "False" };
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_can_start_in_one_ready_sandbox_with_its_network() {
        let good = Sandbox { ready: true, host_network: false, has_address: true };
        let ended = Sandbox { ready: false, ..good };
        let on_host = Sandbox { ready: true, host_network: true, has_address: false };
        for (host_network, sandboxes, wanted) in [
            (false, vec![], "False"),
            (false, vec![good], "True"),
            (false, vec![good, ended], "True"),
            (false, vec![ended, good], "False"),
            (false, vec![good, good], "False"),
            (false, vec![Sandbox { has_address: false, ..good }], "False"),
            (true, vec![on_host], "True"),
            (true, vec![good], "False"),
            (false, vec![on_host], "False"),
        ] {
            let condition = ready_to_start_containers(host_network, &sandboxes);
            assert_eq!(condition.status, wanted, "{host_network} {sandboxes:?}");
        }
    }
}
