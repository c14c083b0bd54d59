//! The simulated node's objects, each made from a pod's serial number: names, cgroups, addresses, API facts, evidence.

use std::net::{IpAddr, Ipv4Addr};

use probe_core::event::{Address, ContainerStatus, Deletion, Key, Loss, Pod, Workload};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::SlotRef;

use super::{NAMESPACE, PODS, REPLICAS};

pub(super) fn key(name: &str) -> Key {
    Key { namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}

pub(super) fn uid(serial: u64) -> String {
    format!("0d9a4c1e-6f2b-4b7e-9c3d-{serial:012x}")
}

pub(super) fn container_id(serial: u64) -> String {
    format!("{serial:064x}")
}

pub(super) fn pod_cgroup(serial: u64) -> u64 {
    1000 + 2 * serial
}

pub(super) fn container_cgroup(serial: u64) -> u64 {
    pod_cgroup(serial) + 1
}

pub(super) fn service_of(serial: u64) -> u64 {
    serial % (PODS / REPLICAS)
}

/// Unique among the pods that are there at a time.
pub(super) fn address(serial: u64) -> IpAddr {
    let [.., high, low] = serial.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low).into()
}

pub(super) fn pod(serial: u64) -> Pod {
    let app = format!("app-{}", service_of(serial));
    let container = ContainerStatus {
        name: "server".to_owned(),
        id: container_id(serial),
        started: Some(true),
        ..ContainerStatus::default()
    };
    Pod {
        uid: uid(serial),
        cgroup_uid: uid(serial),
        key: key(&format!("{app}-5d9c7b8f6d-{serial:05x}")),
        workload: Workload { kind: "Deployment".to_owned(), name: app },
        addresses: vec![address(serial)],
        ports: vec![8080],
        probe_ports: vec![8080],
        ready: true,
        grace_seconds: 30,
        containers: vec![container],
        ..Pod::default()
    }
}

pub(super) fn exited(serial: u64, deletion: Deletion) -> Pod {
    let mut pod = Pod { deletion: Some(deletion), ready: false, terminal: true, ..pod(serial) };
    for container in &mut pod.containers {
        container.exit_code = Some(0);
        container.terminated_reason = "Completed".to_owned();
    }
    pod
}

pub(super) fn loss(serial: u64, slot: SlotRef, container: u32, age: u64, number: u32) -> Loss {
    let class = [Class::Refused, Class::Unread, Class::Unanswered, Class::StaleReuse][number as usize % 4];
    let port = 1024 + u16::try_from(age).unwrap_or(0) * 64 + u16::try_from(number).unwrap_or(0);
    Loss {
        slot,
        container: Some(container),
        peer: Address { ip: Ipv4Addr::new(10, 78, 0, 2).into(), port },
        local: Address { ip: address(serial), port: 8080 },
        request: 1,
        class,
        confidence: Confidence::Observed,
        phase: Phase::Stopping,
        late: true,
        late_connection: true,
        unread: 0,
        unacked: 0,
        attempted: None,
        connect: false,
        attempts: 1,
    }
}
