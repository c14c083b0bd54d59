//! An agent that comes after the pods: what it can know of connections that are older than itself, and of ports that nobody declared.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::Value;
use world::controllers::Deployment;
use world::{PodTemplate, World, judge};

use crate::site::{
    NAMESPACE, Site, address_of, agree, config, deploy, exact, failures, wait_exited, wait_stopped,
};
use crate::{SETTLING, SOON, trial};
use world::clients::Load;

const CLIENTS: u64 = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("connections older than the agent, and undeclared ports", late_start),
        trial("a pod older than the agent that never listened where it should", unreached),
        trial("a port that nobody declared is like any other once somebody listens there", listened),
    ]
}

/// Its requests are read on a port that the agent knows from the kernel alone.
fn listened() -> anyhow::Result<()> {
    let site = Site::start()?;
    let mut undeclared = deploy_undeclared(&site.world, "exit")?;
    let address = address_of(&site.world, &undeclared.pods()[0])?;
    // A port that has answered nobody may be one that never does: of its connections more is kept from the start.
    let mut first = Load::start(&site.world, address, "--new 1 --new-rate 10")?;
    first.run_for(Duration::from_millis(500))?;
    let mut attempts = first.stop()?.attempts;
    let requests = "--keepalive-rate 1 --path /?delay_ms=900 --connect-timeout 1.5";
    let mut load = Load::start(&site.world, address, &format!("--keepalive {CLIENTS} {requests}"))?;
    load.run_for(Duration::from_millis(2500))?;
    let pods = undeclared.delete_pods()?;
    wait_exited(&site.world, &pods[0])?;
    attempts.extend(load.stop()?.attempts);
    let (verdict, ends) = site.judge("undeclared", &attempts, &pods)?;
    let unanswered = verdict.by_class.get("unanswered").copied().unwrap_or(0);
    ensure!(unanswered >= CLIENTS / 2, "{:?}", verdict.by_class);
    for item in ends.iter().flat_map(|end| &end.evidence).filter(|item| item.class == "unanswered") {
        ensure!(
            item.confidence == "observed" && item.request > 1,
            "a request on a kept connection: {item:?}"
        );
    }
    site.finish()
}

/// None of the pod's sockets has told whose namespace it is when connects are refused there: its stop must.
fn unreached() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let template = PodTemplate {
        readiness_path: None,
        ..PodTemplate::testserver("unreached", &["--listen", "0.0.0.0:9090", "--on-term", "linger:3"])
    };
    let mut unreached = deploy(&world, "unreached", 1, &template)?;
    let address = address_of(&world, &unreached.pods()[0])?;
    let site = Site::in_world(world, &[])?;
    site.until("the agent to know the pod's port", || {
        Ok(site.agent.api("/status")?["maps"]["ports"]["entries"] == 1)
    })?;
    let pods = unreached.delete_pods()?;
    wait_stopped(&site.world, &pods[0])?;
    let mut load = Load::start(&site.world, address, &format!("--new {CLIENTS} --new-rate 10"))?;
    load.run_for(Duration::from_secs(1))?;
    let (verdict, _) = site.judge("unreached", &load.stop()?.attempts, &pods)?;
    let refused = verdict.by_class.get("refused").copied().unwrap_or(0);
    ensure!(refused >= CLIENTS, "{:?}", verdict.by_class);
    site.finish()
}

fn late_start() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let style = ["--on-term", "exit"];
    let mut before = deploy(&world, "before", 1, &PodTemplate::testserver("before", &style))?;
    let mut after = deploy(&world, "after", 1, &PodTemplate::testserver("after", &style))?;
    let mut undeclared = deploy_undeclared(&world, "close-then-wait:3")?;
    let load = |deployment: &Deployment, arguments: &str| {
        Load::start(&world, address_of(&world, &deployment.pods()[0])?, arguments)
    };
    // Read before the agent's start, and in flight when the stop comes.
    let mut old = load(&before, &format!("--keepalive {CLIENTS} --path /?delay_ms=60000 --timeout 80"))?;
    // Connections just as old, but with reads after the agent's start.
    let slow = "--keepalive-rate 1 --path /?delay_ms=900 --connect-timeout 1.5";
    let mut reading = load(&after, &format!("--keepalive {CLIENTS} {slow}"))?;
    let mut new = load(&undeclared, &format!("--new {CLIENTS} --new-rate 10"))?;
    old.run_for(Duration::from_secs(1))?;
    old.end()?;

    let site = Site::in_world(world, &[])?;
    reading.run_for(Duration::from_millis(2500))?;
    let pods_before = before.delete_pods()?;
    let pods_after = after.delete_pods()?;
    let pods_undeclared = undeclared.delete_pods()?;
    wait_exited(&site.world, &pods_after[0])?;
    let reading = reading.stop()?;
    wait_stopped(&site.world, &pods_undeclared[0])?;
    new.run_for(Duration::from_secs(1))?;
    let (old, new) = (old.wait()?, new.stop()?);

    let ends = site.agent.wait_ended(&pods_after, SETTLING)?;
    let (attempts, ends) = judge::without_numbers(reading.attempts, ends)?;
    let verdict = exact("after", &attempts, &ends)?;
    agree(&site.metrics()?, "after", &ends)?;
    let unanswered = verdict.by_class.get("unanswered").copied().unwrap_or(0);
    ensure!(unanswered >= CLIENTS / 2, "{:?}", verdict.by_class);
    for item in ends.iter().flat_map(|end| &end.evidence).filter(|item| item.class == "unanswered") {
        ensure!(item.confidence == "observed", "read after the agent's start: {item:?}");
    }

    let (verdict, _) = site.judge("undeclared", &new.attempts, &pods_undeclared)?;
    ensure!(
        verdict.by_class.get("refused").is_some_and(|refused| *refused >= CLIENTS),
        "{:?}",
        verdict.by_class
    );

    // Of requests read before its start the agent may say nothing, or that it infers it.
    ensure!(u64::try_from(failures(&old.attempts))? == CLIENTS);
    let ends = site.agent.wait_ended(&pods_before, SETTLING)?;
    let verdict = judge::join(&old.attempts, &ends);
    ensure!(verdict.agent_only.is_empty() && verdict.miscounted.is_empty(), "{verdict:#?}");
    for item in ends.iter().flat_map(|end| &end.evidence) {
        ensure!(item.confidence == "inferred", "read before the agent's start: {item:?}");
    }
    agree(&site.metrics()?, "before", &ends)?;
    site.finish()
}

/// A pod whose spec names no port at all, neither of a container nor of a probe.
fn deploy_undeclared(world: &World, on_term: &str) -> anyhow::Result<Deployment> {
    let template = PodTemplate {
        readiness_path: None,
        ..PodTemplate::testserver("undeclared", &["--on-term", on_term])
    };
    let mut template = template.to_value();
    if let Some(container) = template["spec"]["containers"][0].as_object_mut() {
        container.remove("ports");
    }
    ensure!(template["spec"]["containers"][0]["ports"] == Value::Null);
    let node = world.node_name();
    let deployment = Deployment::create(world.store(), node, NAMESPACE, "undeclared", 1, &template)?;
    deployment.wait_ready(SOON)?;
    Ok(deployment)
}
