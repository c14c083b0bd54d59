//! Which process is a container: pid namespaces inside it, one that the pod's containers share, the node's, and a shell in front of the server.
//!
//! Each pod ends in its own way in one world. What is held against the agent is what the world's runtime did and what clients saw.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::json;
use world::World;
use world::agent::Termination;
use world::clients::Load;
use world::controllers::PodRef;

use crate::site::{
    LOST, NAMESPACE, SERVER, Site, address_of, config, exact, same, serving, wait_exited, workload,
};
use crate::{SOON, trial};

/// What a container writes when the pid namespace that it made is gone.
const GONE: &str = "nested init gone";
/// Requests that are in flight when a server dies.
const WAITING: usize = 8;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a container ends with its own init, whatever pid namespaces there are", inits),
        trial("an init that is older than the agent is learned from what its container reads", older),
    ]
}

/// How a container that ended has to be told.
struct Told {
    outcome: &'static str,
    signal: Signal,
    ignored: bool,
    killed: bool,
    code: i32,
}

const DRAINED: Told =
    Told { outcome: "exited", signal: Signal::SIGTERM, ignored: false, killed: false, code: 0 };

fn inits() -> anyhow::Result<()> {
    let site = Site::start()?;
    let nesting = format!(
        "unshare --pid --fork sleep infinity & (unshare --pid --fork true; echo {GONE}) & exec {SERVER} --on-term drain"
    );
    let shell = |line: &str| serving(&["sh", "-c", line]);
    let draining = serving(&[SERVER, "--on-term", "drain"]);
    let shared = json!({"shareProcessNamespace": true});
    let shared_briefly = json!({"shareProcessNamespace": true, "terminationGracePeriodSeconds": 2});
    let ignoring = format!("trap '' TERM; exec {SERVER} --on-term ignore");
    let in_front = format!("{SERVER} --on-term drain; true");
    let cases = [
        ("nesting", shell(&nesting), json!({}), DRAINED),
        ("sharing", draining.clone(), shared.clone(), DRAINED),
        ("on-node", draining.clone(), json!({"hostPID": true}), DRAINED),
        // Not pid 1: what it does not handle ends it.
        (
            "unhandled",
            serving(&[SERVER, "--on-term", "ignore"]),
            shared.clone(),
            Told { code: 143, ..DRAINED },
        ),
        (
            "ignoring",
            shell(&ignoring),
            shared_briefly,
            Told { outcome: "grace_exceeded", ignored: true, killed: true, code: 137, ..DRAINED },
        ),
        // The shell is pid 1, has no handler, and forwards nothing.
        (
            "shell-form",
            shell(&in_front),
            json!({"terminationGracePeriodSeconds": 2}),
            Told { outcome: "grace_exceeded", ignored: true, killed: true, code: 137, ..DRAINED },
        ),
    ];
    let mut pods = Vec::new();
    for (name, container, spec, _) in &cases {
        let mut spec = spec.clone();
        spec["containers"] = json!([container]);
        pods.push(site.pod(name, &spec)?);
    }
    let crashing = site.pod("crashing", &json!({"shareProcessNamespace": true, "containers": [draining]}))?;
    nobody_is_late(&site, &pods[0])?;
    for pod in &pods {
        site.world.delete(pod)?;
    }
    crash(&site, &crashing)?;
    let ends = site.agent.wait_ended(&pods, SOON)?;
    for ((name, _, _, told), end) in cases.iter().zip(&ends) {
        told_as(told, end).with_context(|| format!("{name}: {end:#?}"))?;
    }
    site.finish()
}

fn older() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let spec = json!({"shareProcessNamespace": true, "containers": [serving(&[SERVER])]});
    let pod = json!({"metadata": {"labels": {"app": "crashing"}}, "spec": spec});
    let pod = world.pod_of_value(NAMESPACE, "crashing", pod)?;
    world.wait_ready(&pod, true, SOON)?;
    let site = Site::in_world(world, &[])?;
    site.until("the pod", || Ok(site.agent.metrics()?.has(LOST, &[&workload("crashing")])))?;
    crash(&site, &pod)?;
    site.finish()
}

/// The end of a pid namespace that a container made is not the container's end.
fn nobody_is_late(site: &Site, pod: &PodRef) -> anyhow::Result<()> {
    let log = site.world.node().directory().join(&pod.uid).join("server.log");
    site.until("the nested init's exit", || Ok(fs::read_to_string(&log)?.contains(GONE)))?;
    let load = Load::start(&site.world, address_of(&site.world, pod)?, "--new 4 --max-requests 40")?;
    ensure!(load.wait()?.summary.total.failed == 0, "the server serves");
    let metrics = site.metrics()?;
    for metric in ["drainscope_late_requests_total", "drainscope_late_connections_total"] {
        ensure!(same(metrics.sum(metric, &[&workload("nesting")]), 0), "{metric}: nothing is being stopped");
    }
    ensure!(site.agent.restarts()?.is_empty(), "{:#?}", site.agent.restarts()?);
    Ok(())
}

/// A crash where the container is not the first process of its pid namespace: what it cuts off is lost while stopping.
fn crash(site: &Site, pod: &PodRef) -> anyhow::Result<()> {
    let target = address_of(&site.world, pod)?;
    let arguments = format!("--keepalive {WAITING} --path /?delay_ms=60000 --timeout 80");
    let mut waiting = Load::start(&site.world, target, &arguments)?;
    waiting.run_for(Duration::from_millis(500))?;
    waiting.end()?;
    let fatal = Load::start(&site.world, target, "--new 1 --max-requests 1 --path /exit?code=7")?.wait()?;
    wait_exited(&site.world, pod)?;
    let attempts = [fatal.attempts, waiting.wait()?.attempts].concat();
    site.until("the restart's report", || Ok(!site.agent.restarts()?.is_empty()))?;
    let restarts = site.agent.restarts()?;
    let [restart] = &restarts[..] else { anyhow::bail!("one crash: {restarts:#?}") };
    let end = &restart.container_restart;
    ensure!(end.pod.uid == pod.uid && restart.reason == "exit", "{restart:#?}");
    ensure!(end.containers.len() == 1 && end.containers[0].exit_code == Some(7), "{restart:#?}");
    let verdict = exact("crashing", &attempts, std::slice::from_ref(end))?;
    ensure!(verdict.by_class.get("unanswered") == Some(&(WAITING as u64 + 1)), "{:?}", verdict.by_class);
    ensure!(end.evidence.iter().all(|item| item.phase == "stopping"), "{:#?}", end.evidence);
    Ok(())
}

fn told_as(told: &Told, end: &Termination) -> anyhow::Result<()> {
    ensure!(end.trigger == "delete" && end.outcome == told.outcome && end.complete && end.lost_total() == 0);
    let [container] = &end.containers[..] else { anyhow::bail!("not one container") };
    ensure!(container.signal == Some(json!(told.signal as i32)) && container.exit_code == Some(told.code));
    ensure!((container.signal_ignored, container.killed) == (told.ignored, told.killed));
    let exit = end.step("exited").context("no exit")?;
    ensure!(exit.source == "kernel" && end.step("killed").is_some() == told.killed);
    Ok(())
}
