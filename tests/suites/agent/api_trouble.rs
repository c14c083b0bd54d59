//! What a cluster does to an agent by its API alone: a missing verb, a compaction in a gap, a clock that is off, a kubelet that starts anew, a node
//! under another name, hundreds of pods in minutes. The counts hold, and each gap shows.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;
use libtest_mimic::Trial;
use serde_json::json;
use world::agent::{Agent, Termination};
use world::apiserver::Kind;
use world::clients::Load;
use world::controllers::PodRef;
use world::{PodTemplate, World, judge};

use crate::site::{
    LOST, NAMESPACE, SERVER, Site, address_of, config, exact, failures, program, same, serving, wait_exited,
};
use crate::{SETTLING, SOON, trial};

const MIXED: &str = "--new 4 --new-rate 20 --keepalive 4 --keepalive-rate 20";
const WHILE: Duration = Duration::from_millis(500);
const RESTARTS: &str = "drainscope_watch_restarts_total";
const SKEW: SignedDuration = SignedDuration::from_secs(90);
/// Pods that come and go, and how many of them at a time.
const CHURNED: usize = 200;
const WAVE: usize = 100;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a missing verb, a compaction, a clock off by 90 s and a new kubelet change no count",
            troubles,
        ),
        trial("a node that the API has under another name is named", renamed),
        trial("200 pods in a few minutes leave no slot and no memory behind", churn),
    ]
}

fn troubles() -> anyhow::Result<()> {
    let world = World::start(config())?;
    world.service(NAMESPACE, "web", "forbidden")?;
    world.api().faults().forbid("watch", Kind::Services, true);
    let site = Site::in_world(world, &[])?;
    // Their network stays for so long after the exit: what comes then is refused.
    site.world.delays().sandbox.set(Duration::from_secs(3));
    let pods: Vec<PodRef> = ["forbidden", "compacted", "ahead", "behind", "restarted"]
        .into_iter()
        .map(|name| site.pod(name, &json!({"containers": [serving(&[SERVER, "--on-term", "exit"])]})))
        .collect::<Result<_, _>>()?;
    let [forbidden, compacted, ahead, behind, restarted] = &pods[..] else { anyhow::bail!("five pods") };
    let mut tallies = Vec::new();

    let why = "cannot watch: the API answered 403: services is forbidden";
    site.until("the missing verb to be named", || Ok(site.agent.get("/readyz?verbose")?.1.contains(why)))?;
    ensure!(site.agent.log().contains("cannot watch resource \"services\""), "{}", site.agent.log());
    tallies.push(end_under_load(&site, forbidden, || Ok(()))?);
    site.world.api().faults().forbid("watch", Kind::Services, false);
    site.until("all watches", || Ok(!site.agent.get("/readyz?verbose")?.1.contains("degraded")))?;

    // The deletion comes in a gap, and the history does not reach back to it.
    let before = site.agent.metrics()?.sum(RESTARTS, &["watch=\"pods\""]);
    tallies.push(end_under_load(&site, compacted, || {
        site.world.api().stop()?;
        Ok(())
    })?);
    site.world.store().compact();
    site.world.api().start()?;
    site.until("the watch to come back", || {
        let (ready, text) = site.agent.get("/readyz?verbose")?;
        let restarts = site.agent.metrics()?.sum(RESTARTS, &["watch=\"pods\""]);
        Ok(ready == 200 && !text.contains("degraded") && restarts > before)
    })?;

    for (pod, clock) in [(ahead, SKEW), (behind, -SKEW)] {
        site.world.store().set_clock_ahead(clock);
        tallies.push(end_under_load(&site, pod, || Ok(()))?);
    }
    site.world.store().set_clock_ahead(SignedDuration::ZERO);

    restart_kubelet(&site, restarted)?;
    tallies.push(end_under_load(&site, restarted, || Ok(()))?);

    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    for (attempts, end) in tallies.iter().zip(&ends) {
        let verdict = judge::join(attempts, std::slice::from_ref(end));
        ensure!(verdict.holds() && verdict.failed > 0, "{}: {verdict:#?}; {end:#?}", end.pod.name);
        ensure!(end.trigger == "delete" && end.outcome == "exited" && !end.silent, "{end:#?}");
        // A gap that the end fell into shows; nothing else takes its completeness away.
        let in_a_gap = ["forbidden", "compacted"].contains(&end.pod.name.as_str());
        let gap = end.anomalies.iter().any(|anomaly| anomaly == "watch_gap");
        ensure!(gap == in_a_gap && end.complete != in_a_gap, "{}: {:?}", end.pod.name, end.anomalies);
    }
    for (end, clock) in [(&ends[2], SKEW), (&ends[3], -SKEW)] {
        let waited = end.seconds_between("requested", "seen").context("a step is missing")?;
        let waited = waited + clock.as_secs_f64();
        ensure!((0.0..2.0).contains(&waited), "requested {waited} s before it was seen, but for the clocks");
    }
    ensure!(site.agent.restarts()?.is_empty(), "no container restarted");
    let failed = tallies.iter().map(|attempts| failures(attempts)).sum::<usize>();
    let lost = site.metrics()?.sum("drainscope_node_lost_requests_total", &[]);
    ensure!(same(lost, u64::try_from(failed)?), "{failed} failed, {lost} counted");
    site.finish()
}

/// Deletes a pod under load; `first` comes just before.
fn end_under_load(
    site: &Site,
    pod: &PodRef,
    first: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<world::load::Attempt>> {
    let mut load = Load::start(&site.world, address_of(&site.world, pod)?, MIXED)?;
    load.run_for(WHILE)?;
    first()?;
    site.world.delete(pod)?;
    wait_exited(&site.world, pod)?;
    load.run_for(WHILE)?;
    Ok(load.stop()?.attempts)
}

/// A kubelet that starts anew takes its containers for not ready until it has probed them again, and writes every status.
fn restart_kubelet(site: &Site, pod: &PodRef) -> anyhow::Result<()> {
    let store = site.world.store();
    for ready in [false, true] {
        let word = if ready { "True" } else { "False" };
        store.update(Kind::Pods, &pod.namespace, &pod.name, |object| {
            for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
                    condition["status"] = json!(word);
                }
            }
            for container in object["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
                container["ready"] = json!(ready);
                container["started"] = json!(ready);
            }
        })?;
        // The same status again, as each of its first rounds writes it.
        store.update(Kind::Pods, &pod.namespace, &pod.name, |object| {
            object["metadata"]["annotations"]["round"] = json!(word);
        })?;
    }
    Ok(())
}

fn renamed() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let pod = world.pod(NAMESPACE, "web", &PodTemplate::testserver("web", &["--on-term", "exit"]))?;
    world.wait_ready(&pod, true, SOON)?;
    let mut agent = Agent::start_as(&world, "another-name", &program()?)?;
    agent.wait_ready(SOON)?;
    let site = Site { agent, world };
    let named = "pods: none of node another-name, but 1 run here: is --node-name right?";
    site.until("the node to be named", || Ok(site.agent.get("/readyz?verbose")?.1.contains(named)))?;
    // Nothing is said of pods that nobody can name.
    ensure!(!site.agent.metrics()?.has(LOST, &[]), "a workload that the API does not have here");
    site.finish()
}

fn churn() -> anyhow::Result<()> {
    let site = Site::start()?;
    let plain = |name: &str, style: &[&str]| PodTemplate {
        readiness_path: None,
        ..PodTemplate::testserver(name, style)
    };
    let watched = || Ok::<_, anyhow::Error>(site.agent.metrics()?.sum("drainscope_watched_pods", &[]));
    let memory = || Ok::<_, anyhow::Error>(site.agent.metrics()?.sum("process_resident_memory_bytes", &[]));
    let (mut ended, mut tallies, mut after_first) = (Vec::new(), Vec::new(), 0.0);
    for wave in 0..CHURNED / WAVE {
        let mut crowd =
            site.world.deployment(NAMESPACE, "crowd", WAVE - 1, &plain("crowd", &["--on-term", "exit"]))?;
        let name = format!("lossy-{wave}");
        let lossy = site.deploy(&name, 1, &plain(&name, &["--on-term", "close-then-wait:1"]))?;
        crowd.wait_ready(SOON)?;
        let pod = lossy.pods()[0].clone();
        tallies.push((pod.clone(), end_under_load(&site, &pod, || Ok(()))?));
        let gone = crowd.delete_pods()?;
        crowd.wait_gone(&gone, SOON)?;
        lossy.wait_gone(std::slice::from_ref(&pod), SOON)?;
        ended.extend(gone);
        ended.push(pod);
        if wave == 0 {
            after_first = memory()?;
            ensure!(after_first > 0.0, "no such metric");
        }
    }
    let ends: Vec<Termination> = site.agent.wait_ended(&ended, SETTLING)?;
    for (pod, attempts) in &tallies {
        let end = ends.iter().find(|end| end.pod.uid == pod.uid).context("an end")?;
        let verdict = exact(&pod.name, attempts, std::slice::from_ref(end))?;
        ensure!(verdict.failed > 0, "{}: nothing was lost", pod.name);
    }
    let failed: usize = tallies.iter().map(|(_, attempts)| failures(attempts)).sum();
    let metrics = site.metrics()?;
    ensure!(same(metrics.sum("drainscope_node_pod_terminations_total", &[]), u64::try_from(CHURNED)?));
    ensure!(same(metrics.sum("drainscope_node_lost_requests_total", &[]), u64::try_from(failed)?));
    site.until("every slot to be given back", || Ok(same(watched()?, 0)))?;
    let grown = memory()? - after_first;
    ensure!(grown < 16.0 * 1024.0 * 1024.0, "{grown} bytes more than after the first {WAVE}");
    for kind in ["slots_full", "containers_full", "too_many", "slot_lost"] {
        let label = format!("kind=\"{kind}\"");
        ensure!(same(metrics.sum("drainscope_anomalies_total", &[&label]), 0), "{kind}");
    }
    site.finish()
}
