//! Ways to end that are not a plain deletion: the node's own, force, a container of a pod that goes on, other stop signals, hooks, sidecars.
//!
//! Each pod ends in its own way in one world.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use world::agent::{Container, Termination};
use world::clients::Load;
use world::controllers::PodRef;
use world::kubelet::{Disruption, Step};

use crate::site::{NAMESPACE, SERVER, Site, address_of, exact, same, serving, workload};
use crate::{SOON, trial};

/// A container beside the server that ends on its stop signal.
const HELPER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
/// Before and after what a scene is about.
const WHILE: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("each way to end has its trigger, outcome and reason", each_way)]
}

fn each_way() -> anyhow::Result<()> {
    let site = Site::start()?;
    let draining = || json!({"containers": [serving(&[SERVER, "--on-term", "drain"])]});
    let evicted = routed(&site, "evicted", &draining())?;
    let shut_down = routed(&site, "shut-down", &draining())?;
    let forced = site.pod("forced", &json!({"containers": [serving(&[SERVER, "--on-term", "linger:1"])]}))?;
    let signalled = site.pod("signalled", &json!({"containers": [with_stop_signal("SIGUSR1")]}))?;
    let killed = site.pod("killed", &json!({"containers": [with_stop_signal("SIGKILL")]}))?;
    let sidecars = site.pod("sidecars", &with_sidecars())?;
    let logging = site.pod("logging", &with_log())?;
    let hooked = site.pod("hooked", &with_hook())?;

    site.world.kubelet().evict(&evicted.uid, Disruption::Pressure, Duration::from_secs(1))?;
    site.world.kubelet().evict(&shut_down.uid, Disruption::Shutdown, Duration::from_secs(2))?;
    site.world.store().delete_pod(NAMESPACE, &forced.name, 0)?;
    for pod in [&signalled, &killed, &sidecars] {
        site.world.delete(pod)?;
    }
    let attempts = hook_closes_the_listener(&site, &hooked)?;
    log_restarts(&site, &logging)?;

    let pods = [evicted, shut_down, forced, signalled, killed, sidecars, hooked];
    let ends = site.agent.wait_ended(&pods, SOON)?;
    for (end, (trigger, outcome, silent)) in ends.iter().zip([
        ("eviction", "exited", true),
        ("node_shutdown", "exited", true),
        ("delete", "forced", false),
        ("delete", "exited", false),
        ("delete", "exited", false),
        ("delete", "exited", false),
        ("delete", "exited", false),
    ]) {
        let is = (end.trigger.as_str(), end.outcome.as_str(), end.silent);
        ensure!(is == (trigger, outcome, silent) && end.complete, "{is:?}: {end:#?}");
    }
    for (end, signal) in ends.iter().zip([15, 15, 15, 10]) {
        let container = only(end)?;
        ensure!(container.signal == Some(json!(signal)) && container.exit_code == Some(0), "{end:#?}");
        ensure!(!container.killed && !container.signal_ignored, "{end:#?}");
    }
    let container = only(&ends[4])?;
    ensure!(container.signal.is_none() && container.killed && container.exit_code == Some(137));
    in_order(&ends[5]).with_context(|| format!("{:#?}", ends[5]))?;
    let container = only(&ends[6])?;
    ensure!(container.signal.is_none() && !container.killed && container.exit_code == Some(0));
    ensure!(ends[6].evidence.iter().all(|item| item.phase == "deleting"), "{:#?}", ends[6].evidence);
    let verdict = exact("hooked", &attempts, &ends[6..])?;
    // What is under way at the moment of the close may be lost otherwise.
    ensure!(verdict.by_class.get("refused").is_some_and(|count| *count >= 5), "{verdict:?}");
    site.finish()
}

/// A pod behind a Service whose proxy sends to it.
fn routed(site: &Site, name: &str, spec: &Value) -> anyhow::Result<PodRef> {
    let pod = site.pod(name, spec)?;
    site.world.service(NAMESPACE, name, name)?;
    site.world.wait_routed(name, std::slice::from_ref(&pod), SOON)?;
    Ok(pod)
}

/// A shell that ends its server on that signal. The hook is there because the agent has to know of the deletion before such a signal.
fn with_stop_signal(signal: &str) -> Value {
    let line = format!("trap 'kill $!; wait $!; exit 0' USR1; {SERVER} --on-term drain & wait $!");
    let mut container = serving(&["sh", "-c", &line]);
    container["lifecycle"] = json!({"stopSignal": signal, "preStop": {"sleep": {"seconds": 1}}});
    container
}

fn with_sidecars() -> Value {
    let sidecar =
        |name: &str| json!({"name": name, "command": ["sh", "-c", HELPER], "restartPolicy": "Always"});
    json!({
        "initContainers": [sidecar("mesh"), sidecar("logs")],
        "containers": [serving(&[SERVER, "--on-term", "linger:0.5"])],
    })
}

fn with_log() -> Value {
    let log = json!({"name": "log", "command": ["sh", "-c", HELPER]});
    json!({"containers": [serving(&[SERVER, "--on-term", "drain"]), log]})
}

/// A hook that tells the server to close its listener, and returns when the server is gone.
fn with_hook() -> Value {
    let mut container = serving(&[SERVER, "--on-term", "close-then-wait:2"]);
    container["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "kill -TERM 1; sleep 20"]}}});
    json!({"containers": [container]})
}

/// The server of a pod that is only being deleted refuses.
fn hook_closes_the_listener(site: &Site, pod: &PodRef) -> anyhow::Result<Vec<world::load::Attempt>> {
    let target: SocketAddr = address_of(&site.world, pod)?;
    let mut load = Load::start(&site.world, target, "--new 4 --new-rate 20")?;
    load.run_for(WHILE)?;
    site.world.delete(pod)?;
    site.world.wait_step(pod, SOON, |step| matches!(step, Step::PreStop { .. }))?;
    load.run_for(WHILE)?;
    let tally = load.stop()?;
    ensure!(site.world.journal().first(&pod.uid, |step| matches!(step, Step::Exited { .. })).is_none());
    Ok(tally.attempts)
}

/// The kubelet kills and restarts the container beside the server: nothing that the server does is late.
fn log_restarts(site: &Site, pod: &PodRef) -> anyhow::Result<()> {
    let is_start =
        |step: &Step| matches!(step, Step::ContainerStarted { container, .. } if container == "log");
    let starts =
        || site.world.journal().of_pod(&pod.uid).iter().filter(|record| is_start(&record.step)).count();
    site.world.kubelet().kill_container(&pod.uid, "log", Duration::from_secs(2))?;
    site.until("the next log container", || Ok(starts() == 2))?;
    let target = address_of(&site.world, pod)?;
    let tally = Load::start(&site.world, target, "--new 2 --keepalive 2 --max-requests 40")?.wait()?;
    ensure!(tally.summary.total.ok == 40, "{:?}", tally.summary);
    site.until("the restart's report", || Ok(!site.agent.restarts()?.is_empty()))?;
    let restarts = site.agent.restarts()?;
    let [restart] = &restarts[..] else { anyhow::bail!("one restart: {restarts:#?}") };
    let end = &restart.container_restart;
    ensure!(end.pod.uid == pod.uid && restart.reason == "liveness" && end.complete, "{restart:#?}");
    ensure!(only(end)?.name == "log" && only(end)?.signal == Some(json!(Signal::SIGTERM as i32)), "{end:#?}");
    ensure!(end.connections.late == 0 && end.requests.late_answered == 0, "{end:#?}");
    let metrics = site.metrics()?;
    for metric in ["drainscope_late_requests_total", "drainscope_late_connections_total"] {
        ensure!(same(metrics.sum(metric, &[&workload("logging")]), 0), "{metric}");
    }
    Ok(())
}

fn only(end: &Termination) -> anyhow::Result<&Container> {
    let [container] = &end.containers[..] else { anyhow::bail!("not one container: {end:#?}") };
    Ok(container)
}

/// Sidecars get their signal after the server's exit, the last declared first.
fn in_order(end: &Termination) -> anyhow::Result<()> {
    let at = |step: &str, container: &str| {
        let mut steps = end.timeline.iter();
        let found = steps.find(|known| known.step == step && known.container.as_deref() == Some(container));
        found.and_then(world::agent::Step::seconds).with_context(|| format!("{step} of {container}"))
    };
    let order = ["server", "logs", "mesh"];
    for pair in order.windows(2) {
        ensure!(at("exited", pair[0])? <= at("stop_signal", pair[1])?, "{pair:?}");
    }
    ensure!(end.containers.len() == 3 && end.containers.iter().all(|one| one.exit_code == Some(0)));
    Ok(())
}
