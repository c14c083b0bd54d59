//! The startup and the readiness probe of one running container: `httpGet` and `tcpSocket`, on the kubelet's terms.
//!
//! A new connection each time, from the node's own network straight to the pod's first address, `Connection: close`, one time budget for
//! the whole attempt, first attempt shortly after the start and then at a fixed rate. A fresh container is unready until `successThreshold` is reached.
//! A startup probe ends with its first verdict. Not here: liveness, exec and gRPC probes, HTTPS, redirects.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use serde_json::Value;

/// The real kubelet reads no more of a body.
const MAX_BODY: usize = 10 * 1024;
/// As the kubelet of that version says it.
const USER_AGENT: &str = "kube-probe/1.36";

/// The real kubelet sees a started container at its next look at the runtime, up to a second later, and only then probes it.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Handler {
    Http { path: String, port: u16 },
    Tcp { port: u16 },
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Whether the container has started; no other probe runs before that.
    Startup,
    /// Whether traffic may come.
    Readiness,
}

impl Role {
    /// As labels and events have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
        }
    }
}

/// A probe of a container, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    role: Role,
    handler: Handler,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u64,
    failure_threshold: u64,
}

/// Keeps the probe going; dropping it ends it.
#[derive(Debug)]
pub(super) struct ProbeHandle {
    _stop: Sender<()>,
}

impl Probe {
    /// The probe in a container's spec, if it has one.
    pub(super) fn of_container(spec: &Value, role: Role) -> anyhow::Result<Option<Self>> {
        let probe = match role {
            Role::Startup => &spec["startupProbe"],
            Role::Readiness => &spec["readinessProbe"],
        };
        if !probe.is_object() {
            return Ok(None);
        }
        let number =
            |field: &str, default| probe[field].as_u64().filter(|number| *number > 0).unwrap_or(default);
        let handler = if probe["httpGet"].is_object() {
            let path = probe["httpGet"]["path"].as_str().unwrap_or("/").to_owned();
            Handler::Http { path, port: port_of(spec, &probe["httpGet"]["port"])? }
        } else if probe["tcpSocket"].is_object() {
            Handler::Tcp { port: port_of(spec, &probe["tcpSocket"]["port"])? }
        } else {
            bail!("this kubelet runs httpGet and tcpSocket probes only: {probe}");
        };
        Ok(Some(Self {
            role,
            handler,
            initial_delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1)),
            success_threshold: number("successThreshold", 1),
            failure_threshold: number("failureThreshold", 3),
        }))
    }

    /// Probes from now on, on a thread of its own in the caller's network, a container that has run for so long; `report` hears every
    /// change of the verdict, `counted` every result.
    pub(super) fn start(
        self,
        address: IpAddr,
        age: Duration,
        counted: impl Fn(bool) + Send + 'static,
        report: impl Fn(bool) + Send + 'static,
    ) -> anyhow::Result<ProbeHandle> {
        let (stop, stopped) = channel();
        let run = move || {
            // Nothing is known of a start until there is a verdict; who is not known to be ready is not.
            let mut verdict = (self.role == Role::Readiness).then_some(false);
            let (mut last, mut count) = (false, 0);
            let mut next = Instant::now() + FIRST_LOOK + self.initial_delay.saturating_sub(age);
            while let Err(RecvTimeoutError::Timeout) =
                stopped.recv_timeout(next.saturating_duration_since(Instant::now()))
            {
                let result = self.attempt(address).is_ok();
                counted(result);
                count = if result == last { count + 1 } else { 1 };
                last = result;
                let threshold = if result { self.success_threshold } else { self.failure_threshold };
                if count >= threshold && verdict != Some(result) {
                    verdict = Some(result);
                    report(result);
                    if self.role == Role::Startup {
                        return;
                    }
                }
                // A probe slower than its period is followed at once by the next; further ticks are dropped.
                next = (next + self.period).max(Instant::now());
            }
        };
        thread::Builder::new().name("probe".to_owned()).spawn(run).context("start a probe")?;
        Ok(ProbeHandle { _stop: stop })
    }

    fn attempt(&self, address: IpAddr) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let (Handler::Http { port, .. } | Handler::Tcp { port }) = &self.handler;
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, *port), self.timeout)?;
        // Shortens TIME_WAIT under many probes, as the kubelet's own dialer does.
        setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 1 })?;
        let Handler::Http { path, .. } = &self.handler else { return Ok(()) };
        let host = SocketAddr::new(address, *port);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while answer.len() < MAX_BODY {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut buffer)? {
                0 => break,
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
        match status_of(&answer) {
            Some(200..=399) => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn status_of(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok().filter(|_| answer.starts_with(b"HTTP/1."))?.parse().ok()
}

/// A number, or the name of one of the container's ports.
fn port_of(container: &Value, port: &Value) -> anyhow::Result<u16> {
    let number = port.as_str().map_or(port.as_u64(), |name| {
        let mut ports = container["ports"].as_array().into_iter().flatten();
        let named = ports.find(|port| port["name"] == name);
        named.map_or_else(|| name.parse().ok(), |port| port["containerPort"].as_u64())
    });
    number
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .with_context(|| format!("invalid port {port}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_the_apis() {
        let spec = json!({"ports": [{"name": "http", "containerPort": 80}], "readinessProbe": {"httpGet": {"port": "http"}}});
        let probe = Probe::of_container(&spec, Role::Readiness).expect("valid").expect("there");
        assert_eq!(probe.handler, Handler::Http { path: "/".to_owned(), port: 80 });
        assert_eq!((probe.period, probe.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
        assert_eq!((probe.success_threshold, probe.failure_threshold), (1, 3));
    }

    #[test]
    fn a_port_that_is_none_is_an_error() {
        for port in [json!("nothing"), json!(0), json!(70_000), json!(null)] {
            let spec = json!({"startupProbe": {"tcpSocket": {"port": port}}});
            assert!(Probe::of_container(&spec, Role::Startup).is_err());
            assert!(Probe::of_container(&spec, Role::Readiness).expect("it has none").is_none());
        }
    }

    #[test]
    fn a_status_line_has_its_status_at_a_fixed_place() {
        assert_eq!(status_of(b"HTTP/1.1 503 Service Unavailable\r\n"), Some(503));
        assert_eq!(status_of(b"SSH-2.0-x 200"), None);
        assert_eq!(status_of(b"HTTP"), None);
    }
}
