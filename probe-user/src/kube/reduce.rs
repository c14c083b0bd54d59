//! Reduces API objects to the small facts of the core. Pure: JSON in, facts out. An object that cannot be used is `None`;
//! values in it that make no sense are left out and counted, so that one odd field does not hide a pod.

mod exec;

use crate::kube::names::{is_label, is_subdomain, is_uid};
use crate::kube::objects::{
    Container, ContainerStatus as StatusObject, EndpointObject, Identified, Identity, IntOrString, PodObject,
    PodStatus, Probe, ServiceObject, SliceObject,
};
use crate::kube::protocol;
use crate::kube::workload::workload_of;
use jiff::Timestamp;
use probe_core::event::{
    ContainerStatus, Deletion, Endpoint, HintSource, Key, Pod, PortHint, Service, Slice,
};
use probe_core::kubelet::ProbeUse;
use probe_core::probes::ProbeType;
use probe_core::probes::pod::HandlerKind;
use probe_ebpf::protocol::Protocol;
use std::net::IpAddr;

/// Most endpoints of one slice that are read: the API's own limit (discovery.k8s.io/v1 validation).
const ENDPOINTS_MAX: usize = 1000;
/// Most containers, ports or addresses of one pod that are read.
const PARTS_MAX: usize = 256;
/// Kubernetes' default of terminationGracePeriodSeconds.
const GRACE_DEFAULT: i64 = 30;
/// Longest reason that is kept.
const REASON_MAX: usize = 128;

/// A fact and how many values of its object were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduced<T> {
    /// The fact.
    pub fact: T,
    /// Values that made no sense.
    pub odd: u64,
}

/// Identity of an object; `None` without a proper namespace and name. The uid may be empty or odd: the caller decides.
#[must_use]
pub fn identity(json: &str) -> Option<Identity> {
    let identity = serde_json::from_str::<Identified>(json).ok()?.metadata;
    (is_label(&identity.namespace) && is_subdomain(&identity.name)).then_some(identity)
}

/// A pod.
#[must_use]
pub fn pod(identity: &Identity, json: &str) -> Option<Reduced<Pod>> {
    if !is_uid(&identity.uid) {
        return None;
    }
    let PodObject { metadata, spec, status } = serde_json::from_str(json).ok()?;
    let mut odd = 0;
    let containers: Vec<&Container> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().filter(|init| init.restart_policy.as_deref() == Some("Always")))
        .take(PARTS_MAX)
        .collect();
    let mirror = metadata.annotations.config_mirror.as_ref().or(metadata.annotations.config_hash.as_ref());
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE_DEFAULT);
    let deletion = metadata.deletion_timestamp.as_deref().map(|text| Deletion {
        // A time that cannot be read is still a deletion; the core counts a deadline beyond all bounds.
        deadline_unix_s: text.parse::<Timestamp>().map_or(i64::MAX, Timestamp::as_second),
        grace_seconds: metadata.deletion_grace_period_seconds.unwrap_or(grace).max(0),
    });
    let sleeps =
        containers.iter().filter_map(|container| container.lifecycle.pre_stop.as_ref()?.sleep.as_ref());
    let fact = Pod {
        uid: identity.uid.clone(),
        cgroup_uid: mirror.filter(|hash| is_uid(hash)).unwrap_or(&identity.uid).clone(),
        key: Key { namespace: identity.namespace.clone(), name: identity.name.clone() },
        workload: workload_of(&identity.name, &metadata),
        host_network: spec.host_network.unwrap_or(false),
        addresses: addresses(&status, &mut odd),
        ports: declared_ports(&containers, &mut odd),
        probe_ports: probe_ports(&containers, &mut odd),
        probes: probes(&containers),
        exec_probes: exec::probes(&containers),
        exec_hooks: exec::hooks(&containers),
        hints: hints(&containers),
        deletion,
        terminal: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
        ready: condition(&status, "Ready").is_some(),
        disruption: cut(disruption(&status)),
        grace_seconds: u32_of(grace, &mut odd),
        prestop_sleep_seconds: sleeps.map(|sleep| u32_of(sleep.seconds, &mut odd)).max(),
        has_prestop: containers.iter().any(|container| container.lifecycle.pre_stop.is_some()),
        containers: container_statuses(&containers, &status, &mut odd),
    };
    Some(Reduced { fact, odd })
}

/// A Service.
#[must_use]
pub fn service(identity: &Identity, json: &str) -> Option<Reduced<Service>> {
    let ServiceObject { spec } = serde_json::from_str(json).ok()?;
    let mut odd = 0;
    // Servers before 1.20 have the first alone. `None` (headless) and an empty one (ExternalName) are no addresses.
    let said = if spec.cluster_ips.is_empty() { spec.cluster_ip.as_slice() } else { &spec.cluster_ips };
    let mut addresses = Vec::new();
    for text in said.iter().take(PARTS_MAX).filter(|text| !matches!(text.as_str(), "" | "None")) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => odd += 1,
        }
    }
    let ports = spec.ports.iter().take(PARTS_MAX).filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = ports.filter_map(|port| port_of(port.port.unwrap_or(0), &mut odd)).collect();
    let fact = Service {
        key: Key { namespace: identity.namespace.clone(), name: identity.name.clone() },
        headless: spec.cluster_ip.as_deref() == Some("None"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        addresses,
        ports,
    };
    Some(Reduced { fact, odd })
}

/// An EndpointSlice. `service` is empty for slices that no Service owns: they say nothing about traffic through a proxy.
#[must_use]
pub fn slice(identity: &Identity, json: &str) -> Option<Reduced<Slice>> {
    let SliceObject { metadata, ports, endpoints } = serde_json::from_str(json).ok()?;
    let mut odd = u64::try_from(endpoints.len().saturating_sub(ENDPOINTS_MAX)).unwrap_or(u64::MAX);
    let service = metadata.labels.service_name.filter(|name| is_subdomain(name)).unwrap_or_default();
    let (mut tcp, mut hints): (Vec<u16>, Vec<PortHint>) = (Vec::new(), Vec::new());
    for port in ports.iter().take(PARTS_MAX).filter(|port| is_tcp(port.protocol.as_deref())) {
        // Without a number a port means all ports.
        let Some(number) = port.port.and_then(|number| port_of(number, &mut odd)) else { continue };
        tcp.push(number);
        let by_app = port.app_protocol.as_deref().and_then(protocol::of_app_protocol);
        let by_name = port.name.as_deref().and_then(protocol::of_port_name);
        hints.extend(hint(number, HintSource::AppProtocol, by_app));
        hints.extend(hint(number, HintSource::ServicePort, by_name));
    }
    tcp.sort_unstable();
    tcp.dedup();
    let endpoints =
        endpoints.iter().take(ENDPOINTS_MAX).filter_map(|endpoint| endpoint_of(endpoint, &mut odd)).collect();
    let key = Key { namespace: identity.namespace.clone(), name: identity.name.clone() };
    Some(Reduced { fact: Slice { key, service, ports: tcp, hints, endpoints }, odd })
}

fn endpoint_of(endpoint: &EndpointObject, odd: &mut u64) -> Option<Endpoint> {
    if endpoint.target_ref.kind != "Pod" {
        return None;
    }
    if !is_uid(&endpoint.target_ref.uid) {
        *odd += 1;
        return None;
    }
    Some(Endpoint {
        pod_uid: endpoint.target_ref.uid.clone(),
        ready: endpoint.conditions.ready.unwrap_or(true),
        serving: endpoint.conditions.serving.unwrap_or(true),
        terminating: endpoint.conditions.terminating.unwrap_or(false),
    })
}

fn addresses(status: &PodStatus, odd: &mut u64) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let texts = status.pod_ips.iter().map(|entry| entry.ip.as_str()).chain(status.pod_ip.as_deref());
    for text in texts.filter(|text| !text.is_empty()).take(PARTS_MAX) {
        match text.parse::<IpAddr>() {
            Ok(address) if !addresses.contains(&address.to_canonical()) => {
                addresses.push(address.to_canonical())
            }
            Ok(_) => {}
            Err(_) => *odd += 1,
        }
    }
    addresses
}

fn declared_ports(containers: &[&Container], odd: &mut u64) -> Vec<u16> {
    let mut ports: Vec<u16> = Vec::new();
    for port in containers.iter().flat_map(|container| &container.ports).take(PARTS_MAX) {
        if is_tcp(port.protocol.as_deref()) {
            ports.extend(port_of(port.container_port.unwrap_or(0), odd));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What names of ports and kinds of probes say. Odd values are counted where the ports are.
fn hints(containers: &[&Container]) -> Vec<PortHint> {
    let mut hints = Vec::new();
    for container in containers {
        for port in container.ports.iter().take(PARTS_MAX).filter(|port| is_tcp(port.protocol.as_deref())) {
            let said = port.name.as_deref().and_then(protocol::of_port_name);
            let number = port_of(port.container_port.unwrap_or(0), &mut 0);
            hints.extend(number.and_then(|number| hint(number, HintSource::ContainerPort, said)));
        }
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for probe in probes.into_iter().flatten() {
            let number = probe_port(container, probe, &mut 0);
            hints
                .extend(number.and_then(|number| hint(number, HintSource::Probe, protocol::of_probe(probe))));
        }
    }
    hints.sort_unstable();
    hints.dedup();
    hints
}

fn hint(port: u16, source: HintSource, said: Option<Protocol>) -> Option<PortHint> {
    said.map(|protocol| PortHint { port, source, protocol })
}

fn probe_ports(containers: &[&Container], odd: &mut u64) -> Vec<u16> {
    let mut ports: Vec<u16> = Vec::new();
    for container in containers {
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for probe in probes.into_iter().flatten() {
            ports.extend(probe_port(container, probe, odd));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The API's default of `timeoutSeconds`.
const TIMEOUT_SECONDS: u32 = 1;
/// The API's default of `periodSeconds`.
const PERIOD_SECONDS: u32 = 10;

fn timeout_seconds(probe: &Probe) -> u32 {
    seconds(probe.timeout_seconds, TIMEOUT_SECONDS)
}

fn period_seconds(probe: &Probe) -> u32 {
    seconds(probe.period_seconds, PERIOD_SECONDS)
}

/// The API's default for what is not set or not a number of seconds.
fn seconds(value: Option<i64>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

/// The probes that go to a port of the pod. Odd ports are counted where the ports are.
fn probes(containers: &[&Container]) -> Vec<ProbeUse> {
    let mut probes = Vec::new();
    for container in containers.iter().filter(|container| is_label(&container.name)) {
        let all = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for (probe_type, probe) in ProbeType::ALL.into_iter().zip(all) {
            let Some(probe) = probe else { continue };
            let Some(port) = probe_port(container, probe, &mut 0) else { continue };
            probes.push(ProbeUse {
                container: container.name.clone(),
                probe_type,
                handler: handler(probe),
                port,
                timeout_seconds: timeout_seconds(probe),
                period_seconds: period_seconds(probe),
            });
        }
    }
    probes
}

fn handler(probe: &Probe) -> HandlerKind {
    match protocol::of_probe(probe) {
        Some(Protocol::Https) => HandlerKind::Https,
        _ if probe.http_get.is_some() => HandlerKind::Http,
        _ if probe.tcp_socket.is_some() => HandlerKind::Tcp,
        _ => HandlerKind::Grpc,
    }
}

fn probe_port(container: &Container, probe: &Probe, odd: &mut u64) -> Option<u16> {
    let target = probe.http_get.as_ref().or(probe.tcp_socket.as_ref()).or(probe.grpc.as_ref())?;
    if target.host.as_deref().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    match target.port.as_ref()? {
        IntOrString::Int(number) => port_of(*number, odd),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => port_of(number, odd),
            Err(_) => {
                let named = container.ports.iter().find(|port| port.name.as_deref() == Some(name))?;
                port_of(named.container_port?, odd)
            }
        },
    }
}

fn container_statuses(containers: &[&Container], status: &PodStatus, odd: &mut u64) -> Vec<ContainerStatus> {
    let sidecars =
        status.init_container_statuses.iter().filter(|init| containers.iter().any(|c| c.name == init.name));
    status
        .container_statuses
        .iter()
        .chain(sidecars)
        .take(PARTS_MAX)
        .map(|entry| container_status(entry, odd))
        .collect()
}

fn container_status(entry: &StatusObject, odd: &mut u64) -> ContainerStatus {
    let now = entry.state.terminated.as_ref();
    let last = now.or(entry.last_state.terminated.as_ref());
    let name = Some(&*entry.name).filter(|name| is_label(name));
    *odd += u64::from(name.is_none());
    ContainerStatus {
        name: name.unwrap_or_default().to_owned(),
        id: container_id(&entry.container_id, odd),
        restarts: u32_of(entry.restart_count, odd),
        terminated_reason: cut(last.map_or("", |terminated| &terminated.reason)),
        terminated_id: last
            .map_or_else(String::new, |terminated| container_id(&terminated.container_id, odd)),
        exit_code: now.and_then(|terminated| terminated.exit_code),
        started: entry.started,
    }
}

/// An id without its runtime's prefix.
fn container_id(text: &str, odd: &mut u64) -> String {
    let id = text.split_once("://").map_or(text, |(_, id)| id);
    let is_odd = !id.is_empty() && !is_uid(id);
    *odd += u64::from(is_odd);
    if is_odd { String::new() } else { id.to_owned() }
}

/// Why Kubernetes stopped the pod without its owner's wish; empty if nothing says that it did. A node shutdown's condition
/// has the reason of any eviction by the kubelet, so the status's own reason comes first. Other reasons of a status
/// (`DeadlineExceeded`, `NodeAffinity`, …) are no disruption.
fn disruption(status: &PodStatus) -> &str {
    let own = status.reason.as_str();
    match (own, condition(status, "DisruptionTarget")) {
        ("Terminated" | "NodeShutdown" | "Shutdown", _) | ("Evicted" | "Preempting", None) => own,
        (_, Some(reason)) => reason,
        _ => "",
    }
}

/// Reason of a condition that is True.
fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a String> {
    status.conditions.iter().find(|one| one.kind == kind && one.status == "True").map(|one| &one.reason)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

fn port_of(number: i64, odd: &mut u64) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    *odd += u64::from(port.is_none());
    port
}

fn u32_of(value: i64, odd: &mut u64) -> u32 {
    u32::try_from(value).unwrap_or_else(|_| {
        *odd += 1;
        if value < 0 { 0 } else { u32::MAX }
    })
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests;
