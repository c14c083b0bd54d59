//! Ends that a second word of the API changes, that the kubelet decides on by itself, and an API server whose clock is an hour off.
//!
//! Each pod ends in its own way in one world. Not here: the node's own clock, which no namespace has for itself (scenario `clock_step`).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::agent::Termination;
use world::clients::Load;
use world::controllers::PodRef;
use world::kubelet::Step;

use crate::site::{
    LOST, NAMESPACE, SERVER, Site, address_of, agree, exact, same, serving, wait_exited, wait_stopped,
    workload,
};
use crate::{SETTLING, SOON, trial};

const MIXED: &str = "--new 4 --new-rate 20 --keepalive 4 --keepalive-rate 20";
/// The part of a scene that is under load.
const WHILE: Duration = Duration::from_secs(1);
/// The first grace of a pod that is deleted twice.
const FIRST_GRACE: u64 = 4;
const HOUR: SignedDuration = SignedDuration::from_hours(1);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a second deletion shortens the grace in the API, not the stop that is under way", second_word),
        trial("a startup probe that fails is a restart, a manifest taken away a silent end", own_decisions),
        trial("an API server whose clock is an hour off moves nothing but the request's time", clock_off),
    ]
}

fn second_word() -> anyhow::Result<()> {
    let site = Site::start()?;
    let lingering = |seconds: u32| serving(&[SERVER, "--on-term", &format!("linger:{seconds}")]);
    let shortened = site.pod("shortened", &json!({"containers": [lingering(60)]}))?;
    let forced = site.pod("forced", &json!({"containers": [lingering(3)]}))?;
    let deleted = |pod: &PodRef, grace| site.world.store().delete_pod(&pod.namespace, &pod.name, grace);
    let mut load = Load::start(&site.world, address_of(&site.world, &shortened)?, MIXED)?;
    load.run_for(WHILE)?;
    deleted(&shortened, FIRST_GRACE)?;
    deleted(&forced, 30)?;
    for pod in [&shortened, &forced] {
        wait_stopped(&site.world, pod)?;
    }
    site.until("both deletions", || Ok(site.agent.terminations()?.len() == 2))?;
    deleted(&shortened, 1)?;
    deleted(&forced, 0)?;
    load.run_for(WHILE)?;
    let attempts = load.stop()?.attempts;
    let granted = &site.world.object(&shortened)?["metadata"]["deletionGracePeriodSeconds"];
    ensure!(*granted == 1, "the scene is too slow, or the grace was not shortened: {granted}");
    ensure!(site.world.object(&forced).is_err(), "the object of a forced deletion is still there");

    let ends = site.agent.wait_ended(&[shortened.clone(), forced], SETTLING)?;
    for (end, (outcome, killed, code)) in
        ends.iter().zip([("grace_exceeded", true, 137), ("forced", false, 0)])
    {
        ensure!(
            (end.trigger.as_str(), end.outcome.as_str(), end.silent) == ("delete", outcome, false),
            "{end:#?}"
        );
        let [container] = &end.containers[..] else { anyhow::bail!("not one container: {end:#?}") };
        ensure!(container.signal == Some(json!(15)) && container.killed == killed, "{end:#?}");
        ensure!(container.exit_code == Some(code) && end.complete, "{end:#?}");
        // The first deletion is when it was asked for, to the second.
        let waited = end.seconds_between("requested", "seen").context("requested and seen")?;
        ensure!((0.0..2.0).contains(&waited), "requested {waited} s before it was seen: {end:#?}");
    }
    let grace = ends[0].seconds_between("stop_signal", "killed").context("signal and kill")?;
    ensure!((3.9..6.0).contains(&grace), "killed after {grace} s");
    let verdict = exact("shortened", &attempts, &ends[..1])?;
    ensure!(
        verdict.failed == 0 && ends[0].requests.late_answered > 20,
        "{verdict:#?} {:#?}",
        ends[0].requests
    );
    agree(&site.metrics()?, "shortened", &ends[..1])?;
    site.finish()
}

fn own_decisions() -> anyhow::Result<()> {
    let site = Site::start()?;
    let failing = site.world.pod_of_value(NAMESPACE, "failing", pod_of("failing", asked(404)))?;
    let fixed = static_pod(&site)?;
    site.world.service(NAMESPACE, "fixed", "fixed")?;
    site.world.wait_routed("fixed", std::slice::from_ref(&fixed), SOON)?;
    let mut load = Load::start(&site.world, address_of(&site.world, &fixed)?, MIXED)?;
    load.run_for(WHILE)?;
    site.world.kubelet().take_manifest(&fixed.uid)?;
    wait_stopped(&site.world, &fixed)?;
    load.run_for(WHILE)?;
    let attempts = load.stop()?.attempts;
    ensure!(site.world.journal().first(&fixed.uid, |step| matches!(step, Step::Exited { .. })).is_none());

    // The first comes at once, the next after 10 s.
    site.until("the restarts' reports", || Ok(site.agent.restarts()?.len() == 2))?;
    for restart in site.agent.restarts()? {
        let end = &restart.container_restart;
        ensure!(end.pod.uid == failing.uid && restart.reason == "startup", "{restart:#?}");
        // Both came within one settling time, and the counters are the pod's.
        ensure!(end.anomalies.iter().all(|anomaly| anomaly == "counts_shared"), "{end:#?}");
        ensure!(end.containers[0].signal == Some(json!(15)) && end.lost_total() == 0, "{end:#?}");
        let steps: Vec<&str> = end.timeline.iter().map(|step| step.step.as_str()).collect();
        ensure!(steps == ["stop_signal", "listener_closed", "exited"], "{end:#?}");
    }
    let never = |step: &Step| matches!(step, Step::Readiness { .. } | Step::Startup { passed: true, .. });
    ensure!(site.world.journal().first(&failing.uid, never).is_none(), "it counts as started");
    let counted = site
        .metrics()?
        .sum("drainscope_container_terminations_total", &[&workload("failing"), "reason=\"startup\""]);
    ensure!(same(counted, 2), "{counted}");

    let ends = site.agent.wait_ended(std::slice::from_ref(&fixed), SETTLING)?;
    silent(&ends[0])?;
    let verdict = exact("fixed", &attempts, &ends)?;
    ensure!(verdict.by_class.get("refused").is_some_and(|count| *count >= 20), "{verdict:#?}");
    agree(&site.metrics()?, &fixed.name, &ends)?;
    site.finish()
}

/// Stopped by a signal while its endpoint was ready, and no deletion in the API before the object went.
fn silent(end: &Termination) -> anyhow::Result<()> {
    let is = (end.trigger.as_str(), end.outcome.as_str(), end.silent);
    ensure!(is == ("unknown", "exited", true), "{end:#?}");
    ensure!(
        end.containers[0].signal == Some(json!(15)) && end.containers[0].exit_code == Some(0),
        "{end:#?}"
    );
    ensure!(end.step("requested").is_none() && end.step("seen").is_none(), "{end:#?}");
    let gone = end.seconds_between("exited", "gone").context("exit and object's end")?;
    ensure!(gone > 0.0, "the object went {gone} s after the exit");
    Ok(())
}

/// Ready and watched, with the cgroups of its manifest's hash; it is its own workload. It has passed its startup probe.
fn static_pod(site: &Site) -> anyhow::Result<PodRef> {
    const HASH: &str = "4b5ab18a8fae0d0f3a2fd5dcd5d1a9c6";
    let mut container = asked(503);
    container["startupProbe"]["httpGet"]["path"] = json!("/healthz");
    container["command"] = json!([SERVER, "--on-term", "close-then-wait:3"]);
    let mut pod = pod_of("fixed", container);
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH, "kubernetes.io/config.source": "file",
    });
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": site.world.node_name(), "uid": "n", "controller": true}]);
    let pod = site.world.pod_of_value(NAMESPACE, "fixed-node-1", pod)?;
    site.world.wait_ready(&pod, true, SOON)?;
    ensure!(site.world.node().cgroups().pod(HASH).is_dir(), "its cgroups have another name");
    let of = |fits: fn(&Step) -> bool| site.world.journal().first(&pod.uid, fits);
    let started = of(|step| matches!(step, Step::Startup { passed: true, .. })).context("never started")?;
    let ready = of(|step| matches!(step, Step::Readiness { ready: true, .. })).context("never ready")?;
    ensure!(started < ready, "ready before it had started");
    site.until("the workload's series", || Ok(site.agent.metrics()?.has(LOST, &[&workload(&pod.name)])))?;
    Ok(pod)
}

fn pod_of(app: &str, container: Value) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}})
}

/// A server whose startup probe asks for this status, twice.
fn asked(status: u16) -> Value {
    let mut container = serving(&[SERVER, "--on-term", "drain"]);
    let path = format!("/status/{status}");
    container["startupProbe"] = json!({
        "httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "failureThreshold": 2,
        "terminationGracePeriodSeconds": 5,
    });
    container
}

fn clock_off() -> anyhow::Result<()> {
    let site = Site::start()?;
    let serving = || json!({"containers": [serving(&[SERVER, "--on-term", "drain"])]});
    let (ahead, behind) = (site.pod("ahead", &serving())?, site.pod("behind", &serving())?);
    for (pod, clock) in [(&ahead, HOUR), (&behind, -HOUR)] {
        site.world.store().set_clock_ahead(clock);
        site.world.delete(pod)?;
        wait_exited(&site.world, pod)?;
    }
    let ends = site.agent.wait_ended(&[ahead, behind], SETTLING)?;
    for (end, clock) in ends.iter().zip([HOUR, -HOUR]) {
        let is = (end.trigger.as_str(), end.outcome.as_str(), end.silent);
        ensure!(is == ("delete", "exited", false) && end.complete && end.anomalies.is_empty(), "{end:#?}");
        let between = |from: &str, to: &str| {
            end.seconds_between(from, to).with_context(|| format!("{from} and {to}: {end:#?}"))
        };
        // What the API server says is told as it says it; its times have whole seconds.
        let waited = between("requested", "seen")? + clock.as_secs_f64();
        ensure!((0.0..2.0).contains(&waited), "requested {waited} s before it was seen, but for the clocks");
        ensure!(between("seen", "stop_signal")?.abs() < 2.0, "{end:#?}");
        ensure!((0.0..2.0).contains(&between("stop_signal", "exited")?), "{end:#?}");
        ensure!((0.0..5.0).contains(&between("exited", "gone")?), "{end:#?}");
    }
    for kind in ["clock_step", "bad_object"] {
        let label = format!("kind=\"{kind}\"");
        ensure!(same(site.metrics()?.sum("drainscope_anomalies_total", &[&label]), 0), "{kind}");
    }
    site.finish()
}
