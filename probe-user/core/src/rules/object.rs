//! API objects as far as the rules look at them: Pod, Service, Node, in the API's own form. `null` is as good as nothing.

use super::facts::{Phase, RestartPolicy};
use crate::probes::spec::{Exec, HttpGet, Port, Probe, TcpSocket, nullable};
use crate::wallclock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Namespace.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Uid.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// Version of the object.
    #[serde(deserialize_with = "nullable")]
    pub resource_version: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub creation_timestamp: Option<String>,
    /// The deadline of its deletion.
    pub deletion_timestamp: Option<String>,
    /// The grace that the deadline includes.
    pub deletion_grace_period_seconds: Option<i64>,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// Status.
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// Spec of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Node; empty: not scheduled.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// Host name.
    #[serde(deserialize_with = "nullable")]
    pub hostname: String,
    /// Subdomain.
    #[serde(deserialize_with = "nullable")]
    pub subdomain: String,
    /// Restart policy.
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: RestartPolicy,
    /// Grace of a deletion.
    pub termination_grace_period_seconds: Option<i64>,
    /// It has the node's network.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
    /// Operating system.
    pub os: Option<Os>,
    /// Conditions that others set.
    #[serde(deserialize_with = "nullable")]
    pub readiness_gates: Vec<ReadinessGate>,
    /// Init containers, sidecars among them.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
    /// Regular containers.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
}

impl PodSpec {
    /// Containers that make the pod ready or not: sidecars and regular ones, in this order.
    pub fn serving_containers(&self) -> impl Iterator<Item = &Container> + '_ {
        self.init_containers.iter().filter(|container| container.is_sidecar()).chain(&self.containers)
    }
}

/// A readiness gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReadinessGate {
    /// Type of the condition.
    #[serde(deserialize_with = "nullable")]
    pub condition_type: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its own restart policy; `Always` makes an init container a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// Variables that the spec names one by one.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<EnvVar>,
    /// Liveness probe.
    pub liveness_probe: Option<Probe>,
    /// Readiness probe.
    pub readiness_probe: Option<Probe>,
    /// Startup probe.
    pub startup_probe: Option<Probe>,
    /// Hooks and stop signal.
    #[serde(deserialize_with = "nullable")]
    pub lifecycle: Lifecycle,
}

impl Container {
    /// True of an init container that runs beside the regular ones; of a regular one it tells nothing.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(RestartPolicy::Always)
    }
}

/// A variable of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EnvVar {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Value; empty if it comes from elsewhere (`valueFrom`).
    #[serde(deserialize_with = "nullable")]
    pub value: String,
}

/// An operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux` or `windows`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// Hooks and stop signal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lifecycle {
    /// Runs before the stop signal.
    pub pre_stop: Option<Hook>,
    /// In place of the image's.
    pub stop_signal: Option<String>,
}

/// A hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hook {
    /// A command in the container.
    pub exec: Option<Exec>,
    /// A request.
    pub http_get: Option<HttpGet>,
    /// Accepted by the API, but it cannot succeed.
    pub tcp_socket: Option<TcpSocket>,
    /// The kubelet waits.
    pub sleep: Option<Sleep>,
}

/// A wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Sleep {
    /// Seconds.
    #[serde(deserialize_with = "nullable")]
    pub seconds: i64,
}

/// A declared port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Number.
    #[serde(deserialize_with = "nullable")]
    pub container_port: i32,
    /// Protocol; `TCP` if it is not said.
    pub protocol: Option<String>,
}

/// Status of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Phase.
    #[serde(deserialize_with = "nullable")]
    pub phase: Phase,
    /// First address.
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Regular containers; none is not the same as an empty list.
    pub container_statuses: Option<Vec<ContainerStatus>>,
    /// Init containers.
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
}

impl PodStatus {
    /// A condition.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Condition `Ready` is `True`.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }
}

/// An address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
}

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// Type.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// Why.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Why, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// When the status changed last.
    #[serde(skip_serializing)]
    pub last_transition_time: Option<String>,
}

/// Status of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name in the spec.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `runtime://id`.
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub container_id: String,
    /// Restarts so far.
    #[serde(deserialize_with = "nullable")]
    pub restart_count: i64,
    /// Its startup probe has passed, or it has none and runs.
    pub started: Option<bool>,
    /// Ready.
    #[serde(deserialize_with = "nullable")]
    pub ready: bool,
    /// State.
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerState,
}

/// State of a container; none of them is `waiting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Waits to run.
    pub waiting: Option<Waiting>,
    /// Runs.
    pub running: Option<Running>,
    /// Has ended.
    pub terminated: Option<Terminated>,
}

/// Why it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ImagePullBackOff`, …
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
}

/// It runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Running {
    /// Since when.
    pub started_at: Option<String>,
}

impl Running {
    /// Since when, if it says so.
    pub fn since(&self) -> Option<Timestamp> {
        Timestamp::parse(self.started_at.as_deref()?)
    }
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated {
    /// Exit code.
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
}

/// Spec of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `None` for headless ones.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    /// `IPv4`, `IPv6`.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<String>,
    /// Labels of its pods; none: it has no pods of its own.
    pub selector: Option<BTreeMap<String, String>>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// Unready pods are published as ready.
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
}

impl Service {
    /// Whether it is for a pod with these labels, in this namespace.
    pub fn selects(&self, pod: &Metadata) -> bool {
        let is_label = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        self.metadata.namespace == pod.namespace
            && self.spec.selector.as_ref().is_some_and(|selector| selector.iter().all(is_label))
    }
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Number on the Service.
    #[serde(deserialize_with = "nullable")]
    pub port: i32,
    /// On the pod: a number or the name of a container's port; the Service's number if it is not said.
    pub target_port: Option<Port>,
    /// Protocol; `TCP` if it is not said.
    pub protocol: Option<String>,
    /// What it speaks.
    pub app_protocol: Option<String>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
}
