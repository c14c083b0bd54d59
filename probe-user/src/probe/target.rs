//! What the user typed as a probe's target, as the engine takes it.

use super::command::socket_path;
use crate::args::{ProbeRunArgs, ProbeTarget};
use jiff::SignedDuration;
use probe_engine::{Exec, Grpc, Handler, HttpGet, Probe, RUNTIME_GRACE, Scheme, TcpSocket};
use std::time::Duration;
use thiserror::Error;

/// What cannot be probed; the command ends with status 2.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// No host and port.
    #[error("{0:?} is not HOST:PORT (an IPv6 address in brackets: [::1]:80)")]
    Address(String),
    /// Another scheme.
    #[error("{0:?} is neither http:// nor https://")]
    Scheme(String),
    /// TLS has its own way to HTTP/2.
    #[error("--h2c is for http:// alone: https:// agrees on HTTP/2 by itself")]
    H2cWithTls,
    /// No colon in a header.
    #[error("{0:?} is not NAME: VALUE")]
    Header(String),
    /// Neither positive nor short enough.
    #[error("--{0} must be more than 0 s and at most a day")]
    Duration(&'static str),
    /// Part of a second, of which the runtime knows nothing.
    #[error("--timeout of a command must be whole seconds: container runtimes take no others")]
    WholeSeconds,
    /// Not `1.36`.
    #[error("--kubelet-version {0:?} is not MAJOR.MINOR")]
    Version(String),
}

/// Longest timeout and interval.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A probe and how it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// For the engine.
    pub probe: Probe,
    /// As shown.
    pub name: String,
    /// `http`, `https`, `tcp`, `grpc`, `exec`.
    pub handler: &'static str,
    /// Between the starts of two probes.
    pub interval: Duration,
}

impl Target {
    /// A probe that was not typed.
    pub(super) fn of(probe: Probe) -> Self {
        let (name, handler) = match &probe.handler {
            Handler::Http(get) if get.scheme == Scheme::Https => (get.url(), "https"),
            Handler::Http(get) => (get.url(), "http"),
            Handler::Tcp(tcp) => (shown(&tcp.host, tcp.port, ""), "tcp"),
            Handler::Grpc(grpc) => (shown(&grpc.host, i32::from(grpc.port), &grpc.service), "grpc"),
            Handler::Exec(exec) => (exec.command.join(" "), "exec"),
        };
        Self { probe, name, handler, interval: Duration::from_secs(1) }
    }

    pub(super) fn new(args: &ProbeRunArgs) -> Result<Self, TargetError> {
        let (handler, name, word) = match &args.target {
            ProbeTarget::Http { url, headers, h2c } => http(url, headers, *h2c)?,
            ProbeTarget::Tcp { address } => {
                let (host, port) = host_port(address, None)?;
                (Handler::Tcp(TcpSocket { host, port: i32::from(port) }), address.clone(), "tcp")
            }
            ProbeTarget::Grpc { address, service, tls } => {
                let (host, port) = host_port(address, None)?;
                let name = if service.is_empty() { address.clone() } else { format!("{address}/{service}") };
                (Handler::Grpc(Grpc { host, port, service: service.clone(), tls: *tls }), name, "grpc")
            }
            ProbeTarget::Exec { cri_socket, container, command } => {
                let exec = Exec {
                    socket: socket_path(cri_socket),
                    container: container.clone(),
                    command: command.clone(),
                    grace: RUNTIME_GRACE,
                };
                (Handler::Exec(exec), command.join(" "), "exec")
            }
        };
        let user_agent = user_agent(&args.how.kubelet_version)?;
        let timeout = bounded(args.how.timeout, "timeout")?;
        if word == "exec" && timeout.subsec_nanos() > 0 {
            return Err(TargetError::WholeSeconds);
        }
        let probe = Probe { handler, timeout, user_agent };
        Ok(Self { probe, name, handler: word, interval: bounded(args.how.interval, "interval")? })
    }
}

/// What the kubelet of this version calls itself.
pub(super) fn user_agent(version: &str) -> Result<String, TargetError> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match version.split_once('.') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Ok(format!("kube-probe/{version}")),
        _ => Err(TargetError::Version(version.to_owned())),
    }
}

fn shown(host: &str, port: i32, service: &str) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match service {
        "" => format!("{host}:{port}"),
        service => format!("{host}:{port}/{service}"),
    }
}

fn bounded(duration: SignedDuration, flag: &'static str) -> Result<Duration, TargetError> {
    let duration = Duration::try_from(duration).ok().filter(|d| !d.is_zero() && *d <= LONGEST);
    duration.ok_or(TargetError::Duration(flag))
}

fn http(url: &str, headers: &[String], h2c: bool) -> Result<(Handler, String, &'static str), TargetError> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        // "://" may be in the query of a target without scheme.
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            return Err(TargetError::Scheme(url.to_owned()));
        }
        _ => (Scheme::Http, url),
    };
    if h2c && scheme == Scheme::Https {
        return Err(TargetError::H2cWithTls);
    }
    let (word, default_port) = match scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = host_port(authority, Some(default_port))?;
    let path = if path.is_empty() { "/" } else { path };
    let headers = headers.iter().map(|header| split_header(header)).collect::<Result<_, _>>()?;
    let name = format!("{word}://{authority}{path}");
    let get = HttpGet { scheme, host, port, path: path.to_owned(), headers, h2c, follow_other_hosts: false };
    Ok((Handler::Http(get), name, word))
}

fn split_header(header: &str) -> Result<(String, String), TargetError> {
    let (name, value) = header.split_once(':').ok_or_else(|| TargetError::Header(header.to_owned()))?;
    Ok((name.trim().to_owned(), value.trim_start().to_owned()))
}

fn host_port(address: &str, default: Option<u16>) -> Result<(String, u16), TargetError> {
    let wrong = || TargetError::Address(address.to_owned());
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let port = match (port.strip_prefix(':'), default) {
        (Some(port), _) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
        (None, Some(default)) if port.is_empty() => default,
        (None, _) => return Err(wrong()),
    };
    if host.is_empty() || host.contains(['@', ' ']) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command, ProbeCommand};
    use clap::Parser as _;

    fn target(line: &[&str]) -> Result<Target, TargetError> {
        let parsed =
            Args::try_parse_from([&["drainscope", "probe", "run"][..], line].concat()).expect("parses");
        let Command::Probe(probe) = parsed.command else { panic!("not a probe") };
        let ProbeCommand::Run(run) = probe.command else { panic!("not a single one") };
        Target::new(&run)
    }

    #[test]
    fn targets_are_hosts_ports_and_paths() {
        for (typed, expected) in [
            ("http://10.0.0.1:8080/healthz?x=1", ("http", "10.0.0.1", 8080, "/healthz?x=1")),
            ("10.0.0.1:8080", ("http", "10.0.0.1", 8080, "/")),
            ("localhost", ("http", "localhost", 80, "/")),
            ("HTTPS://[fd00::7]/x", ("https", "fd00::7", 443, "/x")),
            ("h:1?to=http://x", ("http", "h", 1, "?to=http://x")),
        ] {
            let target = target(&["http", typed]).expect("a target");
            let Handler::Http(get) = &target.probe.handler else { panic!("not HTTP") };
            assert_eq!((target.handler, get.host.as_str(), get.port, get.path.as_str()), expected, "{typed}");
        }
        let tcp = target(&["tcp", "[::1]:5432"]).expect("a target");
        assert_eq!(tcp.probe.handler, Handler::Tcp(TcpSocket { host: "::1".to_owned(), port: 5432 }));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for (line, expected) in [
            (&["tcp", "10.0.0.1"][..], TargetError::Address("10.0.0.1".to_owned())),
            (&["tcp", "10.0.0.1:0"], TargetError::Address("10.0.0.1:0".to_owned())),
            (&["tcp", "10.0.0.1:65536"], TargetError::Address("10.0.0.1:65536".to_owned())),
            (&["tcp", ":80"], TargetError::Address(":80".to_owned())),
            (&["tcp", "::1:80"], TargetError::Address("::1:80".to_owned())),
            (&["grpc", "[::1"], TargetError::Address("[::1".to_owned())),
            (&["http", "http://u@h/"], TargetError::Address("u@h".to_owned())),
            (&["http", "ftp://h/"], TargetError::Scheme("ftp://h/".to_owned())),
            (&["http", "https://h/", "--h2c"], TargetError::H2cWithTls),
            (&["http", "h", "-H", "nonsense"], TargetError::Header("nonsense".to_owned())),
            (&["exec", "--container", "c", "--timeout", "500ms", "--", "ls"], TargetError::WholeSeconds),
            (&["tcp", "h:1", "--timeout", "0s"], TargetError::Duration("timeout")),
            (&["tcp", "h:1", "--interval", "25h"], TargetError::Duration("interval")),
            (&["tcp", "h:1", "--kubelet-version", "v1"], TargetError::Version("v1".to_owned())),
        ] {
            assert_eq!(target(line), Err(expected), "{line:?}");
        }
    }
}
