//! Probes as the kubelet makes them: HTTP, HTTPS, TCP, gRPC health checks and commands, each with a verdict, the kubelet's own message
//! and the phases that it does not tell (name look-up, connect, TLS, first byte, body).
//!
//! In: a resolved target (host, port, path, headers, service) and a timeout. Out: one [`Outcome`]. Every wait is bounded by the
//! timeout, what is kept of an answer by 10 KiB, what is read of its head by 10 MiB; no connection is used twice.
//!
//! Deliberately not here: the probe's specification with its defaults, when to probe, thresholds, and what a verdict means
//! for a pod. Containers are not entered: a command is the container runtime's to run, which has a while longer than the timeout
//! to say what came of it.
#![forbid(unsafe_code)]

mod connect;
mod cri;
mod escape;
mod exec;
mod grpc;
mod header;
mod health;
mod http1;
mod http2;
mod httpget;
mod outcome;
mod port;
mod protobuf;
mod quote;
mod tls;
mod trace;
mod unary;
mod url;

pub use outcome::{Outcome, Phase, Phases, Verdict};
pub use port::{ContainerPort, PortError, PortRef, resolve_port};

use std::path::PathBuf;
use std::time::{Duration, Instant};
use trace::Trace;

/// Runs that end in an error are repeated at once, so many runs in all (kubelet: `maxProbeRetries`).
pub const MAX_ATTEMPTS: u32 = 3;

/// How much longer than the timeout a runtime may take to answer (kubelet: `runtimeRequestTimeout`, two minutes by default).
pub const RUNTIME_GRACE: Duration = Duration::from_secs(120);

/// One probe, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is done.
    pub handler: Handler,
    /// Bounds the whole run: name, connection, redirects, head and body.
    pub timeout: Duration,
    /// What the probe calls itself unless a header says otherwise: `kube-probe/` and the kubelet's minor version.
    pub user_agent: String,
}

/// The sorts of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// HTTP or HTTPS.
    Http(HttpGet),
    /// A TCP connection.
    Tcp(TcpSocket),
    /// gRPC's health protocol.
    Grpc(Grpc),
    /// A command in a container.
    Exec(Exec),
}

/// HTTP or HTTPS GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Address or name that is connected to; an IPv6 address has no brackets.
    pub host: String,
    /// Port, 1 to 65535.
    pub port: u16,
    /// A URL reference: `/healthz?full=1` has a query.
    pub path: String,
    /// Headers in the order of the specification; a name may be there several times.
    pub headers: Vec<(String, String)>,
    /// HTTP/2 in the clear, without an upgrade (`protocol: HTTP2`, alpha in 1.37); means nothing with TLS.
    pub h2c: bool,
    /// Whether redirects to other hosts are followed; the kubelet never does.
    pub follow_other_hosts: bool,
}

impl HttpGet {
    /// What is asked for.
    #[must_use]
    pub fn url(&self) -> String {
        httpget::url_of(self).to_string()
    }
}

/// Plain or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// TLS with any certificate; HTTP/2 where the server agrees.
    Https,
}

/// A TCP connection that is closed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Address or name; an IPv6 address has no brackets.
    pub host: String,
    /// Port as it was given: one that is none is a failure, as it is for the kubelet's dialer.
    pub port: i32,
}

/// One call of `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// Address or name; an IPv6 address has no brackets.
    pub host: String,
    /// Port, 1 to 65535.
    pub port: u16,
    /// Name of the service that is asked for; empty for the whole server.
    pub service: String,
    /// TLS with any certificate. The kubelet has this behind a gate (alpha in 1.37).
    pub tls: bool,
}

/// A command that the container runtime runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The runtime's socket, which speaks CRI v1.
    pub socket: PathBuf,
    /// The container's ID, without `containerd://`.
    pub container: String,
    /// Program and arguments, variables expanded; no shell.
    pub command: Vec<String>,
    /// How much longer than the timeout the runtime may take: [`RUNTIME_GRACE`].
    pub grace: Duration,
}

/// Runs a probe as the kubelet's prober does: a run that ended in an error (and so has no verdict) is repeated at once, each
/// time with the whole timeout.
pub async fn run(probe: &Probe) -> Outcome {
    let started = Instant::now();
    let mut attempts = 1;
    loop {
        let mut outcome = attempt(probe).await;
        outcome.attempts = attempts;
        outcome.duration = started.elapsed();
        if outcome.verdict != Verdict::Unknown || attempts == MAX_ATTEMPTS {
            return outcome;
        }
        attempts += 1;
    }
}

/// One run, whatever comes of it.
pub async fn attempt(probe: &Probe) -> Outcome {
    let longest = match &probe.handler {
        Handler::Exec(exec) => probe.timeout.saturating_add(exec.grace),
        Handler::Http(_) | Handler::Tcp(_) | Handler::Grpc(_) => probe.timeout,
    };
    let mut trace = Trace::start(longest);
    let ended = tokio::time::timeout(longest, handle(probe, &mut trace)).await;
    let (verdict, output) = match ended {
        Ok(end) => end,
        Err(_elapsed) => {
            trace.time_out();
            match &probe.handler {
                Handler::Http(get) => httpget::timed_out(get, &trace),
                Handler::Tcp(tcp) => (Verdict::Failure, connect::timed_out(&tcp.host, tcp.port, &trace)),
                Handler::Grpc(grpc) => grpc::timed_out(grpc, probe.timeout, &trace),
                Handler::Exec(exec) => exec::timed_out(exec, probe),
            }
        }
    };
    trace.finish(verdict, output)
}

/// A verdict and the kubelet's message.
type End = (Verdict, String);

async fn handle(probe: &Probe, trace: &mut Trace) -> End {
    match &probe.handler {
        Handler::Http(get) => httpget::probe(get, &probe.user_agent, trace).await,
        Handler::Tcp(tcp) => match connect::dial(&tcp.host, tcp.port, trace).await {
            // Closed by the drop, with a FIN: nothing was received.
            Ok(_closed) => (Verdict::Success, String::new()),
            Err(text) => (Verdict::Failure, text),
        },
        Handler::Grpc(grpc) => grpc::probe(grpc, &probe.user_agent, probe.timeout, trace).await,
        Handler::Exec(exec) => exec::probe(exec, probe, trace).await,
    }
}
