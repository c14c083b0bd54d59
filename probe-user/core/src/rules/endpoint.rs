//! One pod in the EndpointSlices of one Service: whether it is there, with which conditions, addresses and ports.

use super::object::{Metadata, Node, Pod, Service, ServicePort};
use crate::probes::spec::{Port, nullable};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Label of a Node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The conditions of an endpoint as consumers take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// To be sent traffic.
    pub ready: bool,
    /// Its pod is Ready.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}

/// The conditions of an endpoint as an EndpointSlice has them; what is not said is not the same as false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Nil means true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Nil means true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Nil means false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

impl EndpointConditions {
    /// With what nil means.
    pub fn effective(self) -> Conditions {
        Conditions {
            ready: self.ready.unwrap_or(true),
            serving: self.serving.unwrap_or(true),
            terminating: self.terminating.unwrap_or(false),
        }
    }
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of the slice's family; consumers use the first.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// Host name in the Service's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// For whom it is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

/// What an endpoint stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TargetRef {
    /// `Pod`, mostly.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// Namespace.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Uid.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// Version of the pod; of no weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// Hints of topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hints {
    /// Zones.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Named>,
    /// Nodes.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Named>,
}

/// A name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// It.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    /// The Service's name for it.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Number on the pod.
    pub port: Option<i32>,
    /// Protocol.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// What it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
}

/// An address family; a slice has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The families that a Service has slices of.
    pub fn of_service(service: &Service) -> Vec<Self> {
        let of = |name: &String| match name.as_str() {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        };
        let named: Vec<_> = service.spec.ip_families.iter().filter_map(of).collect();
        match service.spec.cluster_ip.as_str() {
            _ if !named.is_empty() => named,
            // Nobody has filled the families in: all that it may have.
            "" | "None" => vec![Self::V4, Self::V6],
            address if address.contains(':') => vec![Self::V6],
            _ => vec![Self::V4],
        }
    }

    /// As the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Whether a pod has a place in slices at all: it may run again, and has an address.
pub fn belongs(pod: &Pod, include_terminating: bool) -> bool {
    let has_address = !pod.status.pod_ip.is_empty() || !pod.status.pod_ips.is_empty();
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    !pod.status.phase.is_terminal() && has_address && (include_terminating || !is_terminating)
}

/// The conditions of a pod's endpoint.
pub fn conditions_of(service: &Service, pod: &Pod) -> Conditions {
    let serving = pod.status.is_ready();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    Conditions { ready, serving, terminating }
}

/// The endpoint of a pod that [`belongs`], in one family; without addresses if it has none there.
pub fn endpoint_of(service: &Service, pod: &Pod, node: Option<&Node>, family: Family) -> Endpoint {
    let Conditions { ready, serving, terminating } = conditions_of(service, pod);
    let is_v6 = family == Family::V6;
    let addresses = pod.status.pod_ips.iter().filter_map(|address| address.ip.parse::<IpAddr>().ok());
    let own = addresses.filter(|address| address.is_ipv6() == is_v6).map(|address| address.to_string());
    Endpoint {
        addresses: own.collect(),
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: sets_hostname(service, pod).then(|| pod.spec.hostname.clone()),
        node_name: Some(pod.spec.node_name.clone()).filter(|name| !name.is_empty()),
        zone: node.and_then(|node| node.metadata.labels.get(ZONE)).filter(|zone| !zone.is_empty()).cloned(),
        target_ref: Some(TargetRef {
            kind: "Pod".to_owned(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        hints: None,
    }
}

/// Whether the endpoint carries the pod's host name: it is one of this Service's domain.
pub fn sets_hostname(service: &Service, pod: &Pod) -> bool {
    !pod.spec.hostname.is_empty()
        && pod.spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace
}

/// The ports of a pod's slice, sorted; what the pod does not have is left out.
pub fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone(),
            port: Some(target_port(pod, port)?),
            protocol: protocol_of(port.protocol.as_deref()).to_owned(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports
}

/// The number that a Service's port has on a pod: a name is looked up in the regular containers, then in the sidecars.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(Port::Number(number)) => return Some(*number),
        Some(Port::Name(name)) => name,
    };
    let protocol = protocol_of(port.protocol.as_deref());
    let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar());
    let mut declared = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let is_it = |port: &&super::object::ContainerPort| {
        port.name == *name && protocol_of(port.protocol.as_deref()) == protocol
    };
    declared.find(is_it).map(|port| port.container_port)
}

fn protocol_of(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// What an update of a pod means for slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its endpoint may have changed.
    pub endpoint: bool,
    /// The Services that it belongs to may have.
    pub membership: bool,
}

/// Compares two versions of a pod. Each update of a pod that is being deleted counts: the controller compares the timestamps' places in
/// memory, not the timestamps.
pub fn changed(old: &Pod, new: &Pod) -> Changed {
    let is_deleted = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let endpoint = is_deleted(old)
        || is_deleted(new)
        || old.status.is_ready() != new.status.is_ready()
        || old.status.pod_ips != new.status.pod_ips;
    let membership = old.metadata.labels != new.metadata.labels
        || old.spec.hostname != new.spec.hostname
        || old.spec.subdomain != new.spec.subdomain;
    Changed { endpoint, membership }
}

/// Whether a slice need not be written for this endpoint's sake. The pod's version is of no weight; nil is not false.
pub fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    let target = |endpoint: &Endpoint| {
        endpoint.target_ref.clone().map(|target| TargetRef { resource_version: None, ..target })
    };
    one.node_name == other.node_name
        && one.zone == other.zone
        && one.conditions == other.conditions
        && target(one) == target(other)
}
