//! The agent's own SIGTERM: it serves on while other pods are left, at most for its grace, writes what is not over and exits with 0.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;
use world::agent::Agent;
use world::controllers::PodRef;
use world::{PodTemplate, World};

use crate::site::{Site, config, program};
use crate::{SOON, trial};

/// Of the agents that are to be ended by something else.
const LONG: [&str; 4] = ["--log-format", "json", "--grace", "60s"];
/// What lies between a condition and an exit at most.
const PROMPT: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("after SIGTERM the agent serves until the node's pods are gone", until_pods_are_gone),
        trial("after SIGTERM the agent serves for its grace, or until a second one", until_grace_or_second),
        trial("after SIGTERM the agent does not wait for its own pod", own_pod),
    ]
}

fn until_pods_are_gone() -> anyhow::Result<()> {
    let mut site = Site::in_world(World::start(config())?, &LONG)?;
    let style = ["--on-term", "linger:1"];
    let mut first = site.deploy("first", 1, &PodTemplate::testserver("first", &style))?;
    let mut second = site.deploy("second", 1, &PodTemplate::testserver("second", &style))?;
    let mut pods = first.delete_pods()?;
    site.agent.signal(Signal::SIGTERM)?;
    // The first end is seen and served as on any other day.
    first.wait_gone(&pods, SOON)?;
    site.agent.wait_ended(&pods, SOON)?;
    ensure!(site.agent.get("/livez")?.0 == 200 && site.agent.ended()?.is_none(), "a pod is left");
    let last = second.delete_pods()?;
    pods.extend(last);
    second.wait_gone(&pods, SOON)?;
    let log = site.agent.wait_exit(PROMPT)?;
    for pod in &pods {
        let line = termination_line(&log, pod).with_context(|| format!("{}: {log}", pod.name))?;
        ensure!(
            line["timeline"]
                .as_array()
                .is_some_and(|steps| steps.iter().any(|step| step["step"] == "exited"))
        );
    }
    let state = |pod| termination_line(&log, pod).map(|line| line["state"].clone());
    ensure!(state(&pods[0]) == Some("ended".into()) && state(&pods[1]) == Some("settling".into()), "{log}");
    site.finish()
}

fn until_grace_or_second() -> anyhow::Result<()> {
    let mut site = Site::in_world(World::start(config())?, &["--log-format", "json", "--grace", "3s"])?;
    let template = PodTemplate { prestop_seconds: 25, ..PodTemplate::testserver("slow", &[]) };
    let mut deployment = site.deploy("slow", 1, &template)?;
    let pods = deployment.delete_pods()?;
    site.until("the deletion to be seen", || Ok(!site.agent.terminations()?.is_empty()))?;
    let told = Instant::now();
    site.agent.signal(Signal::SIGTERM)?;
    while told.elapsed() < Duration::from_millis(2500) {
        ensure!(site.agent.get("/livez")?.0 == 200, "it does not serve on");
        thread::sleep(Duration::from_millis(100));
    }
    let log = site.agent.wait_exit(PROMPT)?;
    ensure!(told.elapsed() >= Duration::from_secs(3), "ended after {:?}", told.elapsed());
    let line = termination_line(&log, &pods[0]).with_context(|| log.clone())?;
    ensure!(line["state"] == "deleting" && line["outcome"] == "running", "{line}");

    // Another one with a long grace, which a second signal cuts short.
    site.agent = Agent::start(&site.world, &program()?, &LONG)?;
    site.agent.wait_ready(SOON)?;
    let told = Instant::now();
    site.agent.signal(Signal::SIGTERM)?;
    // Both agents write to one log.
    site.until("SIGTERM to be heard", || {
        Ok(site.agent.log().matches("serving on while other pods").count() == 2)
    })?;
    ensure!(site.agent.ended()?.is_none());
    site.agent.signal(Signal::SIGTERM)?;
    site.agent.wait_exit(PROMPT)?;
    ensure!(told.elapsed() < SOON, "the second signal changed nothing");
    site.finish()
}

/// In a private cgroup namespace the agent sees nothing of its own pod; the uid is told.
fn own_pod() -> anyhow::Result<()> {
    let mut site = Site::in_world(World::start(config())?, &LONG)?;
    let deployment = site.deploy("own", 1, &PodTemplate::testserver("own", &[]))?;
    let [own] = deployment.pods() else { bail!("not one pod: {:?}", deployment.pods()) };
    // The first agent is killed.
    let flags = [&LONG[..], &["--pod-uid", &own.uid]].concat();
    site.agent = Agent::start(&site.world, &program()?, &flags)?;
    site.agent.wait_ready(SOON)?;
    site.agent.signal(Signal::SIGTERM)?;
    site.agent.wait_exit(PROMPT)?;
    site.finish()
}

/// The newest log line that tells this pod's termination.
fn termination_line(log: &str, pod: &PodRef) -> Option<Value> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut terminations = lines.filter_map(|mut line| line.get_mut("termination").map(Value::take));
    terminations.find(|termination| termination["pod"]["uid"] == pod.uid.as_str())
}
