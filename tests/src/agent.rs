//! The agent under test, as its users see it: a process in the node's network, its HTTP ports, its JSON.
//!
//! Nothing of the agent is linked here; what it says is read from its API by types of this crate's own.

mod ports;
mod recording;
mod report;
mod words;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use ports::Ports;
pub use recording::Recording;
pub use report::{Connections, Container, Evidence, Pod, Requests, Restart, Step, Termination};
pub use words::Words;

use crate::World;
use crate::node::find_program;
use crate::wait::{wait_for, wait_until};

/// How often the agent is asked while something is awaited.
const POLL: Duration = Duration::from_millis(50);
/// The bound on one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// /metrics and health.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10290);
/// The API.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10291);

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    ports: Ports,
}

impl Agent {
    /// Starts it in the world's node, with these extra arguments; its log goes to a file below the node's directory.
    pub fn start(world: &World, program: &Path, extra: &[&str]) -> anyhow::Result<Self> {
        Self::start_through(world, &[], program, extra)
    }

    /// As [`Self::start`], by way of a program that changes what a process may do and then executes the agent in its own place
    /// (`prlimit`, `setpriv` with their arguments).
    pub fn start_through(
        world: &World,
        wrapper: &[&str],
        program: &Path,
        extra: &[&str],
    ) -> anyhow::Result<Self> {
        let log = world.node().directory().join("agent.log");
        Self::start_by(command(world, world.node_name(), wrapper, program, "agent")?, log, extra)
    }

    /// As [`Self::start`], of a node that the world does not have.
    pub fn start_as(world: &World, node_name: &str, program: &Path) -> anyhow::Result<Self> {
        let command = command(world, node_name, &[], program, "agent")?;
        Self::start_by(command, world.node().directory().join("agent.log"), &[])
    }

    /// By a command that says where the agent runs and what it watches; it listens where this type looks.
    pub fn start_by(mut command: Command, log: PathBuf, extra: &[&str]) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&log).context("open the agent's log")?;
        let child = command
            // Nothing outlives an agent unless a test asks for it.
            .env("DRAINSCOPE_PIN_DIR", "")
            .args(["--listen", &LISTEN.to_string(), "--api-listen", &API.to_string()])
            .args(extra)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start the agent")?;
        Ok(Self { child, ports: Ports::new(log) })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill the agent")?;
        self.child.wait().context("wait for the agent").map(drop)
    }

    /// Waits until it says that it is ready: hooks attached, first lists in.
    pub fn wait_ready(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let is_ready = || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended: {status}");
            }
            Ok(matches!(fetch(LISTEN, "/readyz?verbose"), Ok((200, _))))
        };
        wait_for("a ready agent", timeout, is_ready).with_context(|| {
            format!("/readyz: {:?}; the agent's log: {}", fetch(LISTEN, "/readyz?verbose"), self.log())
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its exit and gives its log; an error if it does not end in time or not with 0.
    pub fn wait_exit(&mut self, timeout: Duration) -> anyhow::Result<String> {
        let status = wait_until("the agent's end", timeout, POLL, || self.ended())
            .with_context(|| format!("its log: {}", self.log()))?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.log());
        Ok(self.log())
    }

    /// Ends it as a kubelet does, and waits for its exit; an error if it does not end in time or not with 0.
    pub fn terminate(mut self, timeout: Duration) -> anyhow::Result<String> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(timeout)
    }
}

/// Runs `drainscope check -o json` in the world's node, by way of `wrapper` (see [`Agent::start_through`]).
pub fn check(world: &World, wrapper: &[&str], program: &Path) -> anyhow::Result<Output> {
    command(world, world.node_name(), wrapper, program, "check")?
        .args(["-o", "json"])
        .output()
        .context("run the check")
}

/// A command of the agent's program with what every one of them takes: node, API, cgroups.
fn command(
    world: &World,
    node_name: &str,
    wrapper: &[&str],
    program: &Path,
    what: &str,
) -> anyhow::Result<Command> {
    let kubeconfig = world.node().directory().join("agent.kubeconfig");
    std::fs::write(&kubeconfig, world.api().kubeconfig()).context("write the agent's kubeconfig")?;
    let mut command = match wrapper.split_first() {
        None => world.node_command(program),
        Some((first, rest)) => {
            let mut command = world.node_command(find_program(first)?);
            command.args(rest).arg(program);
            command
        }
    };
    command
        .arg(what)
        .args(["--node-name", node_name])
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .arg("--cgroup-root")
        .arg(world.cgroup_root());
    Ok(command)
}

impl Deref for Agent {
    type Target = Ports;

    fn deref(&self) -> &Ports {
        &self.ports
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// One `GET`, one connection.
fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    fetch_as(address, path, "*/*")
}

/// As [`fetch`], for an answer of this type.
fn fetch_as(address: SocketAddr, path: &str, accept: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the header")?;
    ensure!(!head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "a chunked answer to {path}");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}

/// Samples of a scrape: `name{labels}` as written, and the value.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (series, value) =
                line.rsplit_once(' ').with_context(|| format!("a sample without value: {line}"))?;
            samples.insert(series.to_owned(), value.parse().with_context(|| line.to_owned())?);
        }
        Ok(Self(samples))
    }

    /// All samples: `name{labels}` as written, and the value.
    pub fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(series, &value)| (series.as_str(), value))
    }

    /// Sum of the samples of a name whose labels contain each of `labels` (as `key="value"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.matching(name, labels).map(|(_, value)| value).sum()
    }

    /// Whether there is such a sample at all.
    pub fn has(&self, name: &str, labels: &[&str]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// The samples of a name whose labels contain each of `labels`.
    pub fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.0
            .iter()
            .filter(move |(series, _)| {
                let rest = series.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                    && labels.iter().all(|label| series.contains(label))
            })
            .map(|(series, &value)| (series.as_str(), value))
    }
}
