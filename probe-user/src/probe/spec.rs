//! From a pod's specification to what the engine runs: the host that is the pod unless the probe names one, the port by number or
//! name, the words of the API. No I/O.

use probe_core::probes::expand::COMMAND_BYTES;
use probe_core::probes::spec;
use probe_core::probes::verdict;
use probe_engine::{
    ContainerPort, Grpc, Handler, HttpGet, Outcome, PortError, PortRef, Probe, Scheme, TcpSocket, Verdict,
    resolve_port,
};
use std::time::Duration;
use thiserror::Error;

/// Why a probe cannot be run; the kubelet discards such runs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No such port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A command: that takes the container runtime, and is another function's ([`super::command::resolve`]).
    #[error("exec probes are not run unless asked for: they take the container runtime's socket")]
    Exec,
    /// A command's container has no ID: it was not made yet.
    #[error("its container has no ID yet")]
    NoContainer,
    /// A command that would be longer than is run here.
    #[error("with its variables filled in the command has more than {COMMAND_BYTES} bytes")]
    LongCommand,
    /// Nothing to do.
    #[error("missing probe handler")]
    NoHandler,
}

/// The probe of a container with these ports in a pod with this address. Defaults are to be set already.
///
/// # Errors
/// If there is nothing that can be run.
pub fn resolve(
    spec: &spec::Probe,
    pod_ip: &str,
    ports: &[ContainerPort<'_>],
    user_agent: &str,
) -> Result<Probe, SpecError> {
    let host = |of_probe: &str| if of_probe.is_empty() { pod_ip.to_owned() } else { of_probe.to_owned() };
    let handler = match spec.handler().ok_or(SpecError::NoHandler)? {
        spec::Handler::Exec(_) => return Err(SpecError::Exec),
        spec::Handler::HttpGet(get) => Handler::Http(HttpGet {
            scheme: if get.scheme.eq_ignore_ascii_case("https") { Scheme::Https } else { Scheme::Http },
            host: host(&get.host),
            port: resolve_port(reference(&get.port), ports)?,
            path: get.path.clone(),
            headers: get
                .http_headers
                .iter()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
            h2c: get.protocol.as_deref() == Some("HTTP2"),
            follow_other_hosts: false,
        }),
        spec::Handler::TcpSocket(tcp) => Handler::Tcp(TcpSocket {
            host: host(&tcp.host),
            port: i32::from(resolve_port(reference(&tcp.port), ports)?),
        }),
        spec::Handler::Grpc(grpc) => Handler::Grpc(Grpc {
            host: pod_ip.to_owned(),
            port: resolve_port(PortRef::Number(grpc.port), &[])?,
            service: grpc.service.clone().unwrap_or_default(),
            tls: grpc.mode.as_deref() == Some("TLS"),
        }),
    };
    let seconds = u64::try_from(spec.timeout_seconds).unwrap_or_default();
    Ok(Probe { handler, timeout: Duration::from_secs(seconds), user_agent: user_agent.to_owned() })
}

fn reference(port: &spec::Port) -> PortRef<'_> {
    match port {
        spec::Port::Number(number) => PortRef::Number(*number),
        spec::Port::Name(name) => PortRef::Name(name),
    }
}

/// What an attempt, or that there could be none, means for the worker.
pub fn attempt_of(outcome: &Result<Outcome, SpecError>) -> verdict::Attempt {
    let (outcome, output, error) = match outcome {
        Err(error) => (verdict::Outcome::Unknown, String::new(), Some(error.to_string())),
        Ok(seen) => match seen.verdict {
            Verdict::Success => (verdict::Outcome::Success, seen.output.clone(), None),
            Verdict::Warning => (verdict::Outcome::Warning, seen.output.clone(), None),
            Verdict::Failure => (verdict::Outcome::Failure, seen.output.clone(), None),
            // A command that could not be run.
            Verdict::Unknown if seen.status.is_none() => {
                (verdict::Outcome::Unknown, String::new(), Some(seen.output.clone()))
            }
            // A body that broke off: the kubelet calls it a failure with an error.
            Verdict::Unknown => (verdict::Outcome::Failure, String::new(), Some(seen.output.clone())),
        },
    };
    verdict::Attempt { outcome, output, error }
}
