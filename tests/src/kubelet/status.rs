//! A pod's status from its containers, by the kubelet's rules: phase, conditions, addresses.
//!
//! A deletion timestamp plays no part in Ready, and the terminal phase appears only after the last container has stopped.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::container::{Container, State, whole_seconds};
use crate::node::PodAddresses;

/// Why a node ends a pod although nobody deleted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// It runs out of something.
    Pressure,
    /// It shuts down.
    Shutdown,
}

/// What a status is made of.
pub(super) struct StatusInput<'a> {
    pub(super) containers: &'a [Container],
    pub(super) addresses: Option<PodAddresses>,
    pub(super) sandbox: bool,
    pub(super) started: Timestamp,
    /// No container will run again: the phase is terminal.
    pub(super) finished: bool,
    /// The node ends the pod by itself.
    pub(super) disruption: Option<Disruption>,
}

/// The new status; unchanged conditions keep the transition time that `old` has.
pub(super) fn status_of(input: &StatusInput<'_>, old: &Value) -> Value {
    let phase = phase_of(input);
    let ready =
        !input.finished && !input.containers.is_empty() && input.containers.iter().all(Container::is_ready);
    let (reason, message) = match phase {
        _ if ready => ("", String::new()),
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ => ("ContainersNotReady", unready_message(input.containers)),
    };
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let mut olds = old["conditions"].as_array().into_iter().flatten();
        let same = olds.find(|condition| condition["type"] == kind && condition["status"] == status);
        let since = same.map_or_else(
            || json!(whole_seconds(Timestamp::now())),
            |condition| condition["lastTransitionTime"].clone(),
        );
        let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since});
        if !reason.is_empty() {
            condition["reason"] = json!(reason);
        }
        if !message.is_empty() {
            condition["message"] = json!(message);
        }
        condition
    };
    let statuses = |sidecars: bool| -> Vec<Value> {
        let those = input.containers.iter().filter(|container| container.is_sidecar == sidecars);
        those.map(Container::status).collect()
    };
    let mut status = json!({
        "phase": phase,
        "qosClass": "BestEffort",
        "hostIP": PodAddresses::NODE.v4(),
        "hostIPs": [{"ip": PodAddresses::NODE.v4()}, {"ip": PodAddresses::NODE.v6()}],
        "startTime": whole_seconds(input.started),
        "conditions": [
            condition("PodReadyToStartContainers", input.sandbox, "", ""),
            condition("Initialized", true, "", ""),
            condition("Ready", ready, reason, &message),
            condition("ContainersReady", ready, reason, &message),
            condition("PodScheduled", true, "", ""),
        ],
        "containerStatuses": statuses(false),
        "initContainerStatuses": statuses(true),
    });
    if let Some(disruption) = input.disruption {
        let (reason, message) = match disruption {
            Disruption::Pressure => ("Evicted", "The node was low on resource: memory."),
            Disruption::Shutdown => {
                ("Terminated", "Pod was terminated in response to imminent node shutdown.")
            }
        };
        status["reason"] = json!(reason);
        status["message"] = json!(message);
        let target = condition("DisruptionTarget", true, "TerminationByKubelet", message);
        status["conditions"].as_array_mut().into_iter().for_each(|all| all.push(target.clone()));
    }
    if let Some(addresses) = input.addresses {
        status["podIP"] = json!(addresses.v4());
        status["podIPs"] = json!([{"ip": addresses.v4()}, {"ip": addresses.v6()}]);
    }
    status
}

fn phase_of(input: &StatusInput<'_>) -> &'static str {
    if input.finished {
        let mut regular = input.containers.iter().filter(|container| !container.is_sidecar);
        let failed = input.disruption.is_some() || regular.any(|container| container.exit_code() != Some(0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let never_ran =
        |container: &Container| container.ended.is_none() && matches!(container.state, State::Waiting { .. });
    if input.containers.iter().any(never_ran) { "Pending" } else { "Running" }
}

fn unready_message(containers: &[Container]) -> String {
    let unready = containers.iter().filter(|container| !container.is_ready());
    let names: Vec<_> = unready.map(|container| container.name.as_str()).collect();
    format!("containers with unready status: [{}]", names.join(" "))
}
