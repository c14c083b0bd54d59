//! Ends without a loss, and one that ignores its stop signal: what arrives late and is answered, what probes do, what the timeline says.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use world::agent::{Metrics, Termination};
use world::controllers::PodRef;
use world::kubelet::{Step, monotonic_ns};
use world::load::Attempt;
use world::{PodTemplate, World};

use crate::site::{Site, address_of, agree, failures, same, wait_stopped, workload};
use crate::{SOON, trial};
use world::clients::Load;

const LATE_REQUESTS: &str = "drainscope_late_requests_total";
const LATE_CONNECTIONS: &str = "drainscope_late_connections_total";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "late requests are answered, probes are nobody's requests, an ignored signal is reported",
        stopping,
    )]
}

fn stopping() -> anyhow::Result<()> {
    let site = Site::start()?;
    let with_hook = |name: &str, style: &[&str]| PodTemplate {
        prestop_seconds: 2,
        ..PodTemplate::testserver(name, style)
    };
    let ignoring =
        PodTemplate { grace_seconds: 3, ..PodTemplate::testserver("ignoring", &["--on-term", "ignore"]) };
    let templates = [
        with_hook("late", &["--on-term", "linger:4"]),
        with_hook("probed", &["--on-term", "linger:2"]),
        with_hook("refusing", &["--on-term", "close-then-wait:4"]),
        ignoring,
        // The last thread of this process to exit is not its first one, as with most language runtimes.
        PodTemplate::testserver("threaded", &["--on-term", "drain", "--second-thread"]),
    ];
    let mut deployments = Vec::new();
    for template in &templates {
        deployments.push(site.deploy(&template.app, 1, template)?);
    }
    let pods: Vec<PodRef> = deployments.iter().map(|deployment| deployment.pods()[0].clone()).collect();
    let clients = "--keepalive 8 --keepalive-rate 20 --new 12 --new-rate 20 --log-all";
    let mut load = Load::start(&site.world, address_of(&site.world, &pods[0])?, clients)?;
    load.run_for(Duration::from_secs(1))?;
    let deleted = monotonic_ns();
    for deployment in &mut deployments {
        deployment.delete_pods()?;
    }
    let stopped = wait_stopped(&site.world, &pods[0])?;
    load.run_for(Duration::from_secs(1))?;
    let tally = load.stop()?;
    ensure!(
        failures(&tally.attempts) == 0,
        "the server does not serve on: {:?}",
        tally.summary.total.by_error
    );
    wait_for_refused_probe(&site.world, &pods[2])?;

    // Meanwhile no scrape ever shows a loss: a refused probe is not shown and then taken back.
    site.until("the ends of all pods", || {
        let lost = site.agent.metrics()?.sum("drainscope_node_lost_requests_total", &[]);
        ensure!(same(lost, 0), "{lost} lost requests, and nobody lost any");
        let ends = site.agent.terminations()?;
        Ok(pods.iter().all(|pod| ends.iter().any(|end| end.pod.uid == pod.uid && end.state == "ended")))
    })?;
    let ends = site.agent.wait_ended(&pods, SOON)?;
    let metrics = site.metrics()?;
    for (template, end) in templates.iter().zip(&ends) {
        ensure!(end.lost_total() == 0 && end.evidence.is_empty(), "{}: {:?}", template.app, end.evidence);
        ensure!(end.complete && end.trigger == "delete", "{}: {:?}", template.app, end.anomalies);
        agree(&metrics, &template.app, std::slice::from_ref(end))?;
    }
    answered_late(&metrics, &ends[0], &tally.attempts, deleted, stopped)?;
    for end in &ends[1..3] {
        nobody_came(&metrics, end)?;
    }
    let exit =
        ends[4].step("exited").context("the exit of a process without its first thread was not seen")?;
    ensure!(exit.source == "kernel" && ends[4].outcome == "exited", "{:?}", ends[4].timeline);
    ensure!(ends[4].containers[0].exit_code == Some(0), "{:?}", ends[4].containers);
    ensure!(ends[1].outcome == "exited" && ends[2].outcome == "exited");
    signal_ignored(&metrics, &ends[3]).with_context(|| format!("{:#?}", ends[3]))?;
    site.finish()
}

/// The kubelet of this world flips readiness only after a probe failed: the refused one happened.
fn wait_for_refused_probe(world: &World, pod: &PodRef) -> anyhow::Result<()> {
    let stopped = wait_stopped(world, pod)?;
    let flipped = world.wait_step(pod, SOON, |step| matches!(step, Step::Readiness { ready: false, .. }))?;
    ensure!(flipped > stopped, "readiness went before the stop");
    Ok(())
}

/// The clients' own count of late requests lies between those begun after the stop and those not over at the deletion.
fn answered_late(
    metrics: &Metrics,
    end: &Termination,
    attempts: &[Attempt],
    deleted: u64,
    stopped: u64,
) -> anyhow::Result<()> {
    let count = |fits: &dyn Fn(&Attempt) -> bool| -> anyhow::Result<u64> {
        Ok(u64::try_from(attempts.iter().filter(|attempt| fits(attempt)).count())?)
    };
    let at_least = count(&|attempt| attempt.start_ns > stopped)?;
    let at_most = count(&|attempt| attempt.end_ns > deleted)?;
    let answered = end.requests.late_answered;
    ensure!(
        at_least > 0 && (at_least..=at_most).contains(&answered),
        "{at_least} <= {answered} <= {at_most}"
    );
    let workload = workload("late");
    let counted =
        |connection: &str| metrics.sum(LATE_REQUESTS, &[&workload, connection, "result=\"answered\""]);
    let (new, reused) = (counted("connection=\"new\""), counted("connection=\"reused\""));
    ensure!(
        new > 0.0 && reused > 0.0 && same(new + reused, answered),
        "{new} + {reused}, {answered} in JSON"
    );
    let lost = metrics.sum(LATE_REQUESTS, &[&workload, "result=\"lost\""]);
    ensure!(same(lost, 0), "{lost} late requests lost");
    let connections = |result: &str| metrics.sum(LATE_CONNECTIONS, &[&workload, result]);
    let served = connections("result=\"served\"");
    ensure!(served > 0.0 && same(connections("result=\"lost\""), 0), "{served} late connections served");
    ensure!(
        same(served + connections("result=\"idle\""), end.connections.late),
        "{served}, {:?}",
        end.connections
    );
    ensure!(end.connections.open_at_stop.is_some_and(|open| open >= 8), "{:?}", end.connections);
    Ok(())
}

/// Nothing but probes came to this pod.
fn nobody_came(metrics: &Metrics, end: &Termination) -> anyhow::Result<()> {
    let name = &end.pod.name;
    let namespace = "target_namespace=\"shop\"";
    let app = name.split('-').next().unwrap_or_default();
    for metric in [LATE_REQUESTS, LATE_CONNECTIONS] {
        let label = workload(app);
        let labels = [namespace, label.as_str()];
        let late: Vec<_> = metrics.matching(metric, &labels).filter(|(_, value)| !same(*value, 0)).collect();
        ensure!(late.is_empty(), "{name}: probes count as late: {late:?}");
    }
    ensure!(end.connections.late == 0 && end.requests.late_answered == 0, "{name}: {:?}", end.connections);
    ensure!(end.probes_excluded > 0, "{name}: no probe was seen");
    Ok(())
}

fn signal_ignored(metrics: &Metrics, end: &Termination) -> anyhow::Result<()> {
    ensure!(end.outcome == "grace_exceeded");
    let [container] = &end.containers[..] else { anyhow::bail!("not one container") };
    ensure!(container.signal_ignored && container.killed && container.exit_code == Some(137));
    let labels =
        ["target_namespace=\"shop\"", "target_workload=\"ignoring\"", "target_workload_kind=\"Deployment\""];
    ensure!(same(metrics.sum("drainscope_stop_signals_ignored_total", &labels), 1));
    ensure!(same(metrics.sum("drainscope_stop_signals_ignored_total", &[]), 1), "only this one");
    let ended = ["trigger=\"delete\"", "outcome=\"grace_exceeded\"", "lost=\"none\""];
    let labels: Vec<&str> = labels.into_iter().chain(ended).collect();
    ensure!(same(metrics.sum("drainscope_pod_terminations_total", &labels), 1));
    let grace = end.seconds_between("stop_signal", "killed").context("both are in the timeline")?;
    ensure!((3.0..4.0).contains(&grace), "killed {grace} s after the stop signal");
    let dying = end.seconds_between("killed", "exited").context("the exit is in the timeline")?;
    ensure!((0.0..1.0).contains(&dying), "exited {dying} s after the kill");
    Ok(())
}
