//! Groups A and B: one probe against real servers on loopback, from the API's form of its spec to what its worker is told.
//!
//! A `port` that a case leaves out is the server's. Ports of the case's servers are shown as `PORT` and `OTHER`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use drainscope::probe::spec::{attempt_of, resolve};
use probe_core::probes::ProbeType;
use probe_core::probes::spec::{Port, Probe};
use probe_core::probes::verdict::{MAX_ATTEMPTS, conclude};
use probe_engine::{
    ContainerPort, Grpc, Handler, HttpGet, PortRef, Scheme, TcpSocket, attempt, resolve_port,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::command;
use crate::target::{Habits, Target};

/// What the kubelet 1.36 calls itself.
const USER_AGENT: &str = "kube-probe/1.36";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    /// A probe and who it asks.
    Run(Run),
    /// Several of them.
    Each(Vec<Run>),
    /// Exec probes.
    Commands(Vec<command::Given>),
    /// The same in a process whose environment names a proxy.
    Proxied(Run),
    /// URLs that targets have.
    Urls(Vec<UrlParts>),
    /// A port, and the ports of the probed container.
    Ports(Vec<PortCase>),
    /// A connection as the kubelet's TCP prober is asked for it, past the look-up of the port.
    Dial { host: String, port: i32 },
    /// A gRPC check past the look-up of the pod's address.
    Check { host: String, port: u16 },
}

/// A probe and who it asks.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Run {
    /// In the API's form.
    probe: Value,
    /// Nobody listens without it.
    #[serde(default)]
    server: Option<Habits>,
    /// Where redirects may lead.
    #[serde(default)]
    other: Option<Habits>,
    /// Not the kubelet's way.
    #[serde(default)]
    follow_other_hosts: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UrlParts {
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortCase {
    port: Value,
    #[serde(default)]
    ports: Vec<(String, i32)>,
}

/// What comes of a case of these groups.
pub(crate) fn run(given: &Value) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Ok(match Given::deserialize(given)? {
            Given::Run(run) => one(&run).await?,
            Given::Each(runs) => {
                let mut all = Vec::new();
                for run in &runs {
                    all.push(one(run).await?);
                }
                Value::Array(all)
            }
            Given::Commands(commands) => {
                let mut all = Vec::new();
                for given in &commands {
                    all.push(command::run(given).await?);
                }
                Value::Array(all)
            }
            Given::Proxied(run) => proxied(&run).await?,
            Given::Urls(urls) => urls.into_iter().map(url).collect(),
            Given::Ports(cases) => cases.iter().map(port).collect(),
            Given::Dial { host, port } => direct(Handler::Tcp(TcpSocket { host, port })).await,
            Given::Check { host, port } => {
                direct(Handler::Grpc(Grpc { host, port, service: String::new(), tls: false })).await
            }
        })
    })
}

async fn one(run: &Run) -> Result<Value> {
    let server = Target::of(run.server.as_ref(), None).await?;
    // The other one may be told where the first is.
    let other = Target::of(run.other.as_ref(), Some(server.port)).await?;
    server.set_other(other.port);
    let mut spec: Probe = serde_json::from_value(run.probe.clone()).context("a probe")?;
    ask(&mut spec, server.port);
    let spec = spec.with_defaults();
    let seen = match resolve(&spec, "127.0.0.1", &[], USER_AGENT) {
        Ok(mut probe) => {
            if let Handler::Http(get) = &mut probe.handler {
                get.follow_other_hosts = run.follow_other_hosts;
            }
            Ok(attempt(&probe).await)
        }
        Err(error) => Err(error),
    };
    let told = attempt_of(&seen);
    let shown = |text: &str| {
        text.replace(&format!(":{}", server.port), ":PORT").replace(&format!(":{}", other.port), ":OTHER")
    };
    Ok(json!({
        "result": told.outcome.text(),
        "output": shown(&told.output),
        "bytes": told.output.len(),
        "error": told.error.as_deref().map(shown),
        "requests": server.requests().iter().map(|request| request.shown(&shown)).collect::<Value>(),
        "other_requests": other.requests().len(),
    }))
}

/// Fills the port in where there is none.
fn ask(spec: &mut Probe, server: u16) {
    let fill = |port: &mut Port| {
        if *port == Port::default() {
            *port = Port::Number(i32::from(server));
        }
    };
    if let Some(get) = &mut spec.http_get {
        fill(&mut get.port);
    }
    if let Some(tcp) = &mut spec.tcp_socket {
        fill(&mut tcp.port);
    }
    if let Some(grpc) = spec.grpc.as_mut().filter(|grpc| grpc.port == 0) {
        grpc.port = i32::from(server);
    }
}

/// Has this program run the case again, with a proxy in its environment, and counts what the proxy is asked.
async fn proxied(run: &Run) -> Result<Value> {
    let proxy = Target::of(Some(&Habits::default()), None).await?;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--outcome")
        .envs(
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, &url)),
        )
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    stdin.write_all(&serde_json::to_vec(&json!({ "run": run }))?).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the child failed");
    let mut outcome: Value = serde_json::from_slice(&output.stdout)?;
    outcome["proxy_connections"] = json!(proxy.connections());
    Ok(outcome)
}

fn url(parts: UrlParts) -> Value {
    let UrlParts { scheme, host, port, path } = parts;
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let get =
        HttpGet { scheme, host, port, path, headers: Vec::new(), h2c: false, follow_other_hosts: false };
    json!(get.url())
}

/// The port, or why there is none and that a worker discards the run.
fn port(case: &PortCase) -> Value {
    let ports: Vec<ContainerPort<'_>> =
        case.ports.iter().map(|(name, number)| ContainerPort { name, number: *number }).collect();
    let error = match Port::deserialize(&case.port) {
        Ok(port) => {
            let reference = match &port {
                Port::Number(number) => PortRef::Number(*number),
                Port::Name(name) => PortRef::Name(name),
            };
            match resolve_port(reference, &ports) {
                Ok(port) => return json!(port),
                Err(error) => error,
            }
        }
        // The API knows no other kind either.
        Err(error) => return json!({"refused": error.to_string()}),
    };
    let attempt = attempt_of(&Err(error.into()));
    let verdict = conclude(ProbeType::Readiness, MAX_ATTEMPTS, &attempt);
    json!({
        "result": attempt.outcome.text(),
        "error": attempt.error,
        "worker": verdict.map(|verdict| verdict.result),
    })
}

async fn direct(handler: Handler) -> Value {
    let timeout = Duration::from_secs(1);
    let outcome = attempt(&probe_engine::Probe { handler, timeout, user_agent: USER_AGENT.to_owned() }).await;
    let error = (outcome.verdict == probe_engine::Verdict::Unknown).then_some(&outcome.output);
    json!({"result": outcome.verdict.word(), "output": outcome.output, "error": error, "cause": outcome.cause})
}

/// A port on which nobody listens.
pub(crate) fn closed_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}
