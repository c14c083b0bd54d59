//! A world with an agent in it, and the verdict on what the agent said: connection by connection, and number by number between evidence, JSON
//! and metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use world::agent::{Agent, Metrics, Termination};
use world::controllers::{Deployment, PodRef};
use world::judge::{self, Verdict};
pub(crate) use world::judge::{LOST, same};
use world::kubelet::Step;
use world::load::Attempt;
use world::wait::{wait_for, wait_until};
use world::{PodTemplate, World, WorldConfig};

use crate::{SETTLING, SOON};

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = "shop";
/// Differences that a failure shows of each kind.
const SHOWN: usize = 6;
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);

/// The test server, for commands that start it.
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_testserver");

/// The agent's program, built beside this suite's own.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_testserver")).with_file_name("drainscope");
    ensure!(path.is_file(), "{} does not exist: build the workspace first", path.display());
    Ok(path)
}

/// A world without delays under this suite's prefix.
pub(crate) fn config() -> WorldConfig {
    WorldConfig::new("drainscope-agent", env!("CARGO_BIN_EXE_testserver"))
}

/// A world and its agent.
pub(crate) struct Site {
    // Dropped first: the agent needs the world, not the other way round.
    pub(crate) agent: Agent,
    pub(crate) world: World,
}

impl Site {
    /// A world without delays, and an agent that is ready.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::in_world(World::start(config())?, &[])
    }

    /// An agent that is ready, in a world that may have pods already.
    pub(crate) fn in_world(world: World, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut agent = Agent::start(&world, &program()?, arguments)?;
        agent.wait_ready(SOON)?;
        Ok(Self { agent, world })
    }

    /// A Deployment with this name whose pods are Ready and watched.
    pub(crate) fn deploy(
        &self,
        name: &str,
        replicas: usize,
        template: &PodTemplate,
    ) -> anyhow::Result<Deployment> {
        let deployment = deploy(&self.world, name, replicas, template)?;
        // Its series are there: the agent knows the pods.
        self.until("the workload's series", || {
            Ok(self.agent.metrics()?.has(LOST, &[&workload(name), "phase=\"terminating\""]))
        })?;
        Ok(deployment)
    }

    /// A pod without an owner, Ready and watched; its spec has its containers.
    pub(crate) fn pod(&self, name: &str, spec: &Value) -> anyhow::Result<PodRef> {
        let pod = json!({"metadata": {"labels": {"app": name}}, "spec": spec});
        let pod = self.world.pod_of_value(NAMESPACE, name, pod)?;
        self.world.wait_ready(&pod, true, SOON)?;
        self.until("the workload's series", || {
            Ok(self.agent.metrics()?.has(LOST, &[&workload(name), "phase=\"terminating\""]))
        })?;
        Ok(pod)
    }

    /// Rolls a Deployment and waits until nothing is left of its old pods: processes, objects, rules.
    pub(crate) fn roll(
        &self,
        deployment: &mut Deployment,
        template: &PodTemplate,
    ) -> anyhow::Result<Vec<PodRef>> {
        let old = deployment.rollout(&template.to_value(), SOON)?;
        deployment.wait_gone(&old, SOON)?;
        for pod in &old {
            for v4 in [true, false] {
                self.world.wait_step(pod, SOON, |step| {
                    matches!(step, Step::Rules { used: false, address, .. } if address.is_ipv4() == v4)
                })?;
            }
        }
        Ok(old)
    }

    /// The metrics after a scrape that showed every series that is there: a new one is held at 0 until then.
    pub(crate) fn metrics(&self) -> anyhow::Result<Metrics> {
        self.agent.metrics()?;
        self.agent.metrics()
    }

    /// Stops the agent's process (SIGSTOP), and comes back when none of its threads runs any more.
    pub(crate) fn suspend(&self) -> anyhow::Result<()> {
        self.agent.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.agent.pid());
        wait_for("the agent to stop", SOON, || {
            let mut stopped = true;
            for task in std::fs::read_dir(&tasks)? {
                let stat = std::fs::read_to_string(task?.path().join("stat"))?;
                stopped &= stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'));
            }
            Ok(stopped)
        })
    }

    /// Waits for a condition, looked at now and then.
    pub(crate) fn until(
        &self,
        what: &str,
        mut condition: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        wait_until(what, SETTLING, POLL, || Ok(condition()?.then_some(())))
            .with_context(|| format!("the agent's log: {}", self.agent.log()))
    }

    /// Waits until the ends of these pods are settled and holds them against the clients' tally; the workload has no other ends.
    pub(crate) fn judge(
        &self,
        name: &str,
        attempts: &[Attempt],
        pods: &[PodRef],
    ) -> anyhow::Result<(Verdict, Vec<Termination>)> {
        let terminations = self.agent.wait_ended(pods, SETTLING)?;
        let verdict = exact(name, attempts, &terminations)?;
        agree(&self.metrics()?, name, &terminations).with_context(|| format!("metrics of {name}"))?;
        Ok((verdict, terminations))
    }

    /// Ends both.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Self { agent, world } = self;
        ensure!(!agent.log().contains("panicked"), "the agent panicked: {}", agent.log());
        drop(agent);
        world.shutdown()
    }
}

/// The container `server`, which serves on port 8080.
pub(crate) fn serving(command: &[&str]) -> Value {
    json!({
        "name": "server", "command": command, "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
    })
}

/// A Deployment whose pods are Ready.
pub(crate) fn deploy(
    world: &World,
    name: &str,
    replicas: usize,
    template: &PodTemplate,
) -> anyhow::Result<Deployment> {
    let deployment = world.deployment(NAMESPACE, name, replicas, template)?;
    deployment.wait_ready(SOON)?;
    Ok(deployment)
}

/// Waits until the stop signal of a pod's container is out.
pub(crate) fn wait_stopped(world: &World, pod: &PodRef) -> anyhow::Result<u64> {
    world.wait_step(pod, SOON, |step| matches!(step, Step::Signal { .. }))
}

/// Waits until a pod's container has ended.
pub(crate) fn wait_exited(world: &World, pod: &PodRef) -> anyhow::Result<u64> {
    world.wait_step(pod, SOON, |step| matches!(step, Step::Exited { .. }))
}

/// Where a pod's only port is, by its IPv4 address.
pub(crate) fn address_of(world: &World, pod: &PodRef) -> anyhow::Result<SocketAddr> {
    let address = *world.addresses(pod)?.first().with_context(|| format!("{} has no address", pod.name))?;
    Ok(SocketAddr::new(address, 8080))
}

/// The label of a workload.
pub(crate) fn workload(name: &str) -> String {
    format!("target_workload=\"{name}\"")
}

/// Joins both sides; an error unless each has its partner.
pub(crate) fn exact(
    name: &str,
    attempts: &[Attempt],
    terminations: &[Termination],
) -> anyhow::Result<Verdict> {
    let verdict = judge::join(attempts, terminations);
    ensure!(
        verdict.holds(),
        "{name}: {} failed, {} attributed as {:?}; {} only the clients know: {:#?}; {} only the agent knows: {:#?}; counted and shown: {:?}; ends: {:#?}",
        verdict.failed,
        verdict.attributed,
        verdict.by_class,
        verdict.client_only.len(),
        verdict.client_only.iter().take(SHOWN).collect::<Vec<_>>(),
        verdict.agent_only.len(),
        verdict.agent_only.iter().take(SHOWN).collect::<Vec<_>>(),
        verdict.miscounted,
        terminations.iter().map(|end| (&end.pod.name, &end.timeline, &end.anomalies)).collect::<Vec<_>>(),
    );
    for end in terminations {
        ensure!(end.complete, "{name}: {} is not complete: {:?}", end.pod.name, end.anomalies);
    }
    Ok(verdict)
}

/// The evidence by class and confidence is what JSON and metrics count, nothing was lost while running.
pub(crate) fn agree(metrics: &Metrics, name: &str, terminations: &[Termination]) -> anyhow::Result<()> {
    let found = judge::disagreements(metrics, name, terminations);
    ensure!(found.is_empty(), "{}", found.join("; "));
    Ok(())
}

/// The attempts that failed.
pub(crate) fn failures(attempts: &[Attempt]) -> usize {
    attempts.iter().filter(|attempt| !attempt.ok()).count()
}

/// A request on a connection that stays.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: idle\r\n\r\n";

/// One request, answered, on a connection that stays.
pub(crate) fn ask(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(REQUEST)?;
    let mut answer = [0; 1024];
    ensure!(stream.read(&mut answer)? > 0, "no answer");
    Ok(stream)
}

/// `GET path` by HTTP/1.0, so that no answer is chunked: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the header")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
