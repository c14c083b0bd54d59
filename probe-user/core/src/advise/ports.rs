//! Where probes go: a port by name, another host.

use super::spec::{Container, PodSpec};
use super::validity::field_of;
use super::{Code, Finding, Level};
use crate::probes::ProbeType;
use crate::probes::spec::{Handler, Port};

pub(super) fn check(pod: &PodSpec, container: &Container, findings: &mut Vec<Finding>) {
    for (kind, probe) in container.probes() {
        let (port, host) = match probe.handler() {
            Some(Handler::HttpGet(http)) => (&http.port, &http.host),
            Some(Handler::TcpSocket(tcp)) => (&tcp.port, &tcp.host),
            Some(Handler::Exec(_) | Handler::Grpc(_)) | None => continue,
        };
        if let Port::Name(name) = port
            && !container.ports.iter().any(|port| port.name == *name)
        {
            findings.push(unknown_name(container, kind, name));
        }
        if !host.is_empty() {
            findings.push(other_host(pod, container, kind, host));
        }
    }
}

/// Semantics 2.5: a name is looked up in the probed container alone; without a match each run is discarded, which no threshold sees.
fn unknown_name(container: &Container, kind: ProbeType, name: &str) -> Finding {
    let outcome = match kind {
        ProbeType::Readiness => "readiness stays what it is at first, a failure: the pod is never Ready",
        ProbeType::Liveness => {
            "liveness stays what it is at first, a success: the container is never restarted"
        }
        ProbeType::Startup => {
            "startup stays unknown: the container never counts as started, and nothing restarts it"
        }
    };
    let what = format!("{} names the port {name:?}, which the container does not have", field_of(kind));
    Finding::new(Level::Error, Code::PortNameUnknown, what)
        .at(container)
        .of(kind)
        .because(format!("a run without a port is discarded and counts for no threshold; {outcome}"))
        .remedy(format!("give a port of this container the name {name:?}, or the probe a number"))
}

/// Semantics 2.1 and 1: the kubelet dials from the node, and Pod Security "baseline" (1.34) forbids the field.
fn other_host(pod: &PodSpec, container: &Container, kind: ProbeType, host: &str) -> Finding {
    let is_loopback = matches!(host, "localhost" | "::1" | "[::1]") || host.starts_with("127.");
    let (level, why) = if is_loopback && !pod.host_network {
        (Level::Error, "the kubelet dials from the node: this is the node's own loopback, not the pod's")
    } else if is_loopback {
        (
            Level::Note,
            "it works in the node's network; Pod Security \"baseline\" refuses the field from 1.34 on",
        )
    } else {
        (
            Level::Warning,
            "the answer says how that host is, not this container; Pod Security \"baseline\" refuses the field from 1.34 on",
        )
    };
    Finding::new(level, Code::ProbeHost, format!("{} goes to the host {host:?}", field_of(kind)))
        .at(container)
        .of(kind)
        .because(why)
        .remedy("leave host out: the pod's address is probed; a virtual host is an HTTP header named Host")
}
