//! The parts of API objects that the agent reads, as the wire has them. Everything is optional and null means absent, so
//! that an object with missing fields still parses; a field of the wrong type fails its object alone.

use serde::{Deserialize, Deserializer};

/// Null, as Go writes empty slices and pointers, means the default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Any object, for its identity only.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Identified {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Identity,
}

/// What identifies an object and its state.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Identity {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Namespace.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Uid.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// Resource version.
    #[serde(deserialize_with = "nullable")]
    pub resource_version: String,
}

/// Metadata beyond the identity.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Deadline of a requested deletion.
    pub deletion_timestamp: Option<String>,
    /// Grace that the deadline includes.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Owners.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
    /// The labels that are read.
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    /// The annotations that are read.
    #[serde(deserialize_with = "nullable")]
    pub annotations: Annotations,
}

/// Labels that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// Set by the Deployment controller on its ReplicaSets' pods.
    #[serde(rename = "pod-template-hash")]
    pub pod_template_hash: Option<String>,
    /// Set on slices: the Service.
    #[serde(rename = "kubernetes.io/service-name")]
    pub service_name: Option<String>,
}

/// Annotations that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// Set by the kubelet on mirror pods: the hash that stands in for the uid on the node.
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub config_mirror: Option<String>,
    /// The same, on static pods.
    #[serde(rename = "kubernetes.io/config.hash")]
    pub config_hash: Option<String>,
    /// Whether the agent runs the pod's probes too: `mirror` or `off`.
    #[serde(rename = "drainscope.io/probes")]
    pub probes: Option<String>,
}

/// An owner.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    /// Kind.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// The managing owner.
    pub controller: Option<bool>,
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
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

/// Spec of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Shares the node's network namespace.
    pub host_network: Option<bool>,
    /// Grace.
    pub termination_grace_period_seconds: Option<i64>,
    /// Containers.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Init containers, sidecars among them.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// A container of a spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// Hooks.
    #[serde(deserialize_with = "nullable")]
    pub lifecycle: Lifecycle,
    /// Probe.
    pub liveness_probe: Option<Probe>,
    /// Probe.
    pub readiness_probe: Option<Probe>,
    /// Probe.
    pub startup_probe: Option<Probe>,
}

/// A declared port.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    pub name: Option<String>,
    /// Number.
    pub container_port: Option<i64>,
    /// TCP if absent.
    pub protocol: Option<String>,
}

/// Hooks of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lifecycle {
    /// After the container's start.
    pub post_start: Option<Hook>,
    /// Before the stop signal.
    pub pre_stop: Option<Hook>,
}

/// A hook.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// A plain pause.
    pub sleep: Option<Sleep>,
    /// A command.
    pub exec: Option<ExecAction>,
}

/// A command that is run in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExecAction {
    /// Program and arguments.
    #[serde(deserialize_with = "nullable")]
    pub command: Vec<String>,
}

/// A pause.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sleep {
    /// Its length.
    #[serde(deserialize_with = "nullable")]
    pub seconds: i64,
}

/// A probe.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Probe {
    /// By HTTP or HTTPS.
    pub http_get: Option<ProbeTarget>,
    /// By connecting.
    pub tcp_socket: Option<ProbeTarget>,
    /// By the gRPC health protocol.
    pub grpc: Option<ProbeTarget>,
    /// By a command.
    pub exec: Option<ExecAction>,
    /// Time that one attempt has.
    pub timeout_seconds: Option<i64>,
    /// Time from one to the next.
    pub period_seconds: Option<i64>,
}

/// Where a probe goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProbeTarget {
    /// Another host than the pod.
    pub host: Option<String>,
    /// Port.
    pub port: Option<IntOrString>,
    /// `HTTP` or `HTTPS`; of HTTP probes only.
    pub scheme: Option<String>,
}

/// A number or the name of a port.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// Number.
    Int(i64),
    /// Name.
    String(String),
}

/// Status of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Phase; unknown ones mean "not terminal".
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// Reason, `Evicted` and the like.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// All addresses.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Containers.
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
    /// Init containers.
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// An address of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
}

/// A condition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// Reason.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
}

/// Status of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name in the spec.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `runtime://id`.
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub container_id: String,
    /// Restarts.
    #[serde(deserialize_with = "nullable")]
    pub restart_count: i64,
    /// Its startup probe has passed.
    pub started: Option<bool>,
    /// Current state.
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerState,
    /// State before the last restart.
    #[serde(deserialize_with = "nullable")]
    pub last_state: ContainerState,
}

/// State of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Set when it has ended.
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated {
    /// Reason.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// `runtime://id` of the container that ended.
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub container_id: String,
    /// Exit code.
    pub exit_code: Option<i32>,
}

/// A Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
}

/// Spec of a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `None` for headless ones.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// One for each family.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// Unready pods are published as ready.
    pub publish_not_ready_addresses: Option<bool>,
}

/// A port of a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServicePort {
    /// Number.
    pub port: Option<i64>,
    /// TCP if absent.
    pub protocol: Option<String>,
}

/// An EndpointSlice.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SliceObject {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<EndpointObject>,
}

/// A port of a slice.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SlicePort {
    /// The Service's name for it.
    pub name: Option<String>,
    /// The Service's `appProtocol`.
    pub app_protocol: Option<String>,
    /// Number.
    pub port: Option<i64>,
    /// TCP if absent.
    pub protocol: Option<String>,
}

/// An endpoint of a slice.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointObject {
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// What it stands for.
    #[serde(deserialize_with = "nullable")]
    pub target_ref: TargetRef,
}

/// Conditions of an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Nil means true.
    pub ready: Option<bool>,
    /// Nil means true.
    pub serving: Option<bool>,
    /// Nil means false.
    pub terminating: Option<bool>,
}

/// What an endpoint stands for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `Pod`, mostly.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// Uid.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
}
