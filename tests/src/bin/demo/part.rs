//! One part of the demo: bring the Deployment to a preStop, load it, roll it, wait until the agent has settled, judge.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use world::agent::{Agent, Termination};
use world::controllers::Deployment;
use world::judge::{self, Verdict};
use world::kubelet::Step;
use world::load::{Attempt, Summary, read_log};
use world::{PodTemplate, ServiceAddresses, World};

use crate::{REPLICAS, scratch};

/// Keep-alive clients and their rate; as many as the founding experiment had.
const KEEPALIVE: (u32, f64) = (8, 5.0);
/// Clients that open a connection for each request, and their rate. Many slow ones: a client that waits for an answer of a dead address is blocked.
const NEW: (u32, f64) = (200, 2.0);
/// Requests that a part has at least.
const REQUESTS: f64 = 5_000.0;
/// A connect that nobody answers ends here, after its SYN was sent a second time.
const CONNECT_TIMEOUT: &str = "1.5";
/// The bound on everything that the world does by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The bound on the agent's settling (it waits 10 s of quiet by itself).
const SETTLING: Duration = Duration::from_secs(150);

/// What a part does.
pub(crate) struct Plan {
    pub(crate) title: &'static str,
    pub(crate) prestop_seconds: u64,
    pub(crate) blind: bool,
    pub(crate) delay: f64,
    /// The clients' address. Each part has its own for a while: a port that is used again within two minutes can meet a connection tracking entry
    /// that still leads to a dead pod of the part before.
    pub(crate) source: Ipv4Addr,
}

/// What the agent advises.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Advice {
    pub(crate) tail_seconds: Option<f64>,
    pub(crate) prestop_seconds: Option<u64>,
    pub(crate) grace_seconds: Option<u64>,
    pub(crate) notes: Vec<String>,
}

/// What came of a part.
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) workload: String,
    pub(crate) prestop_seconds: u64,
    pub(crate) summary: Summary,
    pub(crate) verdict: Verdict,
    pub(crate) terminations: Vec<Termination>,
    pub(crate) advice: Advice,
    /// The node total of the agent's metrics grew by so many lost requests.
    pub(crate) counted: f64,
    /// Sum of lost requests of the terminations.
    pub(crate) lost: u64,
}

/// Three parts.
pub(crate) struct Experiment {
    pub(crate) parts: Vec<Part>,
}

pub(crate) fn run(
    world: &World,
    agent: &mut Agent,
    load: &Path,
    deployment: &mut Option<Deployment>,
    name: &str,
    target: ServiceAddresses,
    plan: &Plan,
) -> anyhow::Result<Part> {
    let template = PodTemplate {
        prestop_seconds: plan.prestop_seconds,
        grace_seconds: plan.prestop_seconds + 30,
        ..PodTemplate::testserver("web", &["--on-term", "drain"])
    };
    bring_up(world, agent, deployment, name, &template)?;
    let deployment = deployment.as_mut().context("the Deployment is there")?;
    let before = agent.metrics()?.sum("drainscope_node_lost_requests_total", &[]);

    let start = jiff::Timestamp::now();
    let mut running = start_load(world, load, target, plan)?;
    let began = Instant::now();
    pause(Duration::from_secs(2), &mut running)?;
    eprintln!("  roll {} pods", deployment.pods().len());
    let old = deployment.rollout(&template.to_value(), PATIENCE)?;
    deployment.wait_gone(&old, PATIENCE + Duration::from_secs(plan.prestop_seconds))?;
    for pod in &old {
        world.wait_step(pod, PATIENCE, |step| matches!(step, Step::Rules { used: false, .. }))?;
    }
    let rate = f64::from(KEEPALIVE.0) * KEEPALIVE.1 + f64::from(NEW.0) * NEW.1;
    // A third more than the rate needs: clients that wait for a dead address send nothing.
    let least =
        Duration::try_from_secs_f64(REQUESTS / rate * 1.33)?.max(began.elapsed() + Duration::from_secs(2));
    pause(least.saturating_sub(began.elapsed()), &mut running)?;
    let (summary, attempts) = stop_load(world, running)?;

    eprintln!("  wait until the agent has settled each pod");
    let terminations = agent.wait_ended(&old, SETTLING)?;
    let verdict = judge::join(&attempts, &terminations);
    let counted = agent.metrics()?.sum("drainscope_node_lost_requests_total", &[]) - before;
    let lost = terminations.iter().map(Termination::lost_total).sum();
    eprintln!(
        "  {} requests, {} failed, {} of them explained, {} unexplained, {} invented",
        summary.total.requests,
        verdict.failed,
        verdict.attributed,
        verdict.client_only.len(),
        verdict.agent_only.len()
    );
    let advice = agent.api(&format!("/api/v1/advice?namespace=shop&workload={name}&since={start}"))?;
    let advice =
        serde_json::from_value(advice["items"][0].clone()).with_context(|| format!("advice: {advice}"))?;
    Ok(Part {
        title: plan.title,
        workload: name.to_owned(),
        prestop_seconds: plan.prestop_seconds,
        summary,
        verdict,
        terminations,
        advice,
        counted,
        lost,
    })
}

/// Pods of this template, routed to, and the ones before them gone and settled.
fn bring_up(
    world: &World,
    agent: &mut Agent,
    deployment: &mut Option<Deployment>,
    name: &str,
    template: &PodTemplate,
) -> anyhow::Result<()> {
    match deployment {
        Some(deployment) => {
            let old = deployment.rollout(&template.to_value(), PATIENCE)?;
            deployment.wait_gone(&old, PATIENCE)?;
            agent.wait_ended(&old, SETTLING)?;
        }
        None => {
            let created = world.deployment("shop", name, REPLICAS, template)?;
            created.wait_ready(PATIENCE)?;
            *deployment = Some(created);
        }
    }
    let pods = deployment.as_ref().map(|deployment| deployment.pods().to_vec()).unwrap_or_default();
    world.wait_routed("web", &pods, PATIENCE)
}

fn start_load(world: &World, load: &Path, target: ServiceAddresses, plan: &Plan) -> anyhow::Result<Child> {
    let (log, summary) = (scratch(world, "attempts.jsonl"), scratch(world, "summary.json"));
    // A part's log is its own.
    let _absent = std::fs::remove_file(&log);
    let mut command = world.client_command(load);
    command
        .args(["--target", &format!("{}:{}", target.v4, target.port)])
        .args(["--keepalive", &KEEPALIVE.0.to_string(), "--keepalive-rate", &KEEPALIVE.1.to_string()])
        .args(["--new", &NEW.0.to_string(), "--new-rate", &NEW.1.to_string()])
        .args(["--source", &plan.source.to_string()])
        .args(["--connect-timeout", CONNECT_TIMEOUT])
        .arg("--log")
        .arg(&log)
        .arg("--summary")
        .arg(&summary);
    if plan.blind {
        command.arg("--blind");
    }
    eprintln!(
        "  load: {} keep-alive and {} new-connection clients; endpoints follow after {} s",
        KEEPALIVE.0, NEW.0, plan.delay
    );
    command.spawn().context("start the load generator")
}

/// Lets the load run for a while; an error if it ends by itself.
fn pause(time: Duration, running: &mut Child) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Some(status) = running.try_wait()? {
            bail!("the load generator ended: {status}");
        }
        thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn stop_load(world: &World, mut running: Child) -> anyhow::Result<(Summary, Vec<Attempt>)> {
    kill(Pid::from_raw(i32::try_from(running.id())?), Signal::SIGTERM)?;
    let status = running.wait()?;
    ensure!(status.success(), "the load generator ended with {status}");
    let summary =
        std::fs::read_to_string(scratch(world, "summary.json")).context("read the load's summary")?;
    let summary = serde_json::from_str(&summary).context("the load's summary")?;
    let log = scratch(world, "attempts.jsonl");
    let attempts = if log.exists() { read_log(&log)? } else { Vec::new() };
    Ok((summary, attempts))
}
