//! More losses than the ring holds: the counters still say what the clients say, only evidence is lost, and how much of it is said.
//!
//! The ring is the smallest that there is and the load has no rate. In the first test the agent is stopped (SIGSTOP) for the bursts, so that the
//! ring overflows for certain; in the second it runs, and whether it keeps up is its own affair.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aya::sys::{Stats, enable_stats};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use world::agent::{Metrics, Termination};
use world::controllers::PodRef;
use world::judge;
use world::load::ErrorKind;
use world::node::{NODE_ADDRESS, find_program, run_with_input};
use world::{PodTemplate, World, WorldConfig};

use crate::site::{LOST, Site, address_of, config, same, wait_exited, wait_stopped, workload};
use crate::{SETTLING, trial};
use world::clients::{Load, Tally};

/// The least that `--ring-bytes` takes.
const RING_BYTES: u64 = 64 * 1024;
/// What one loss takes of it: the record and the ring's own header.
const RECORD_BYTES: u64 = 88 + 8;
/// Clients' source addresses: with 64,000 ports each, no pair comes twice.
const SOURCES: u8 = 8;
/// Clients without a rate, each on its next connection at once.
const STORM: u32 = 64;
/// Requests in flight when their server exits: lost in one go, faster than any client can.
const IN_FLIGHT: u64 = 400;
/// Ring records that were refused.
const EVENTS_LOST: &str = "drainscope_ebpf_events_lost_total";

/// At these rates the proxy's connection tracking would fill up and drop SYNs, which is not what is tested.
const UNTRACKED: &str = "table inet overload { chain prerouting { type filter hook prerouting priority raw; ip saddr 10.78.0.0/24 notrack; ip daddr 10.78.0.0/24 notrack; }; }";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a ring that overflows loses evidence and says how much", overflow),
        trial("a storm of losses on a small ring is counted to the last", storm),
    ]
}

/// A pod that ended and what its clients saw.
struct Scene {
    name: &'static str,
    pod: PodRef,
    tallies: Vec<Tally>,
}

fn overflow() -> anyhow::Result<()> {
    let _counting = enable_stats(Stats::RunTime).context("count the runs of programs")?;
    let site = site()?;
    let no_probe =
        |name, style: &[&str]| PodTemplate { readiness_path: None, ..PodTemplate::testserver(name, style) };
    let closing = site.deploy("closing", 1, &no_probe("closing", &["--on-term", "close-then-wait:20"]))?;
    let slamming = site.deploy(
        "slamming",
        1,
        &no_probe("slamming", &["--on-term", "linger:6", "--close-accepted-after-term"]),
    )?;
    let leaving = site.deploy("leaving", 1, &no_probe("leaving", &["--on-term", "exit"]))?;
    let [closing, slamming, leaving] = [&closing, &slamming, &leaving].map(|one| one.pods()[0].clone());
    let target = |pod: &PodRef| address_of(&site.world, pod);
    let [refusing, shut] = [target(&closing)?, target(&slamming)?];
    let waiting = in_flight(&site, target(&leaving)?)?;

    // The agent sees the stop of the first pod and then nothing for a while but these losses.
    site.world.delete(&closing)?;
    site.until("the first listener's close", || {
        let known = site.agent.terminations()?;
        Ok(known.iter().any(|end| end.step("stop_signal").and(end.step("listener_closed")).is_some()))
    })?;
    let before = site.metrics()?;
    ensure!(same(before.sum(EVENTS_LOST, &[]), 0), "the ring overflowed too early");
    site.suspend()?;
    let first = burst(&site, refusing, 30_000)?;
    site.agent.signal(Signal::SIGCONT)?;
    let total = first.summary.total.failed;
    let refused = |end: &Termination| end.lost["refused"];
    site.until("the counters of the first burst", || Ok(refused(&of(&site, &closing)?) == total))?;
    let end = of(&site, &closing)?;
    let held = RING_BYTES / RECORD_BYTES;
    ensure!(end.evidence_refused >= total - held, "{} of {total} refused", end.evidence_refused);
    // The two are read one after the other: an agent that was stopped between them tells the second a moment later.
    site.until("the ring's own count", || Ok(site.metrics()?.sum(EVENTS_LOST, &[]) > 0.0))?;
    let metrics = site.metrics()?;
    // Whoever else made or removed a cgroup on this machine meanwhile had its record refused too.
    let others = cgroup_changes(&metrics) - cgroup_changes(&before);
    let lost = metrics.sum(EVENTS_LOST, &[]);
    let refused = f64::from(u32::try_from(end.evidence_refused)?);
    ensure!((refused..=refused + others).contains(&lost), "{refused} refused, {others} others, {lost} lost");
    let written = metrics.sum("drainscope_ebpf_events_total", &["kind=\"loss\""]);
    ensure!(same(written, total - end.evidence_refused), "{written} of {total}, {}", end.evidence_refused);

    // The ring is full before the other pods are stopped: no step of their ends finds room in it.
    site.suspend()?;
    let second = burst(&site, refusing, 5_000)?;
    site.world.delete(&slamming)?;
    site.world.delete(&leaving)?;
    wait_stopped(&site.world, &slamming)?;
    let slammed = burst(&site, shut, 10_000)?;
    let waited = waiting.wait()?;
    let exited = wait_exited(&site.world, &slamming)?;
    ensure!(slammed.summary.end_ns < exited, "an attempt after the exit: the scene is too slow");
    wait_exited(&site.world, &leaving)?;
    site.agent.signal(Signal::SIGCONT)?;
    let exited = wait_exited(&site.world, &closing)?;
    ensure!(second.summary.end_ns < exited, "an attempt after the exit: the scene is too slow");
    let cut_off = waited.summary.total.failed;
    ensure!(cut_off == waited.summary.total.requests, "{:?}", waited.summary.total);

    let scenes = [
        Scene { name: "closing", pod: closing, tallies: vec![first, second] },
        Scene { name: "slamming", pod: slamming, tallies: vec![slammed] },
        Scene { name: "leaving", pod: leaving, tallies: vec![waited] },
    ];
    let ends = judge_all(&site, &scenes)?;
    for end in &ends {
        ensure!(end.evidence_refused > 0 && !end.complete, "{}: {:?}", end.pod.name, end.anomalies);
        ensure!(end.anomalies.iter().any(|anomaly| anomaly == "evidence_refused"), "{:?}", end.anomalies);
        told(end)?;
    }
    // The moment of the exit is the kernel's, not that of the agent's waking up.
    for end in &ends[1..] {
        let ahead = end.seconds_between("exited", "seen").context("a step is missing")?;
        ensure!(ahead > 0.0, "{}: {:#?}", end.pod.name, end.timeline);
        ensure!(end.evidence.is_empty(), "the ring was full: {:#?}", end.evidence);
    }
    ensure!(ends[0].lost["refused"] == ends[0].lost_total(), "{:?}", ends[0].lost);
    ensure!(ends[2].lost["unanswered"] == cut_off, "{:?}", ends[2].lost);
    site.finish()
}

fn storm() -> anyhow::Result<()> {
    let site = site()?;
    // The memory of closed connections is a table of its own: what is not refused has to fit into it.
    let styles: [(&'static str, &[&str], Duration); 2] = [
        ("closing", &["--on-term", "close-then-wait:4"], Duration::from_secs(1)),
        ("slamming", &["--on-term", "linger:4", "--close-accepted-after-term"], Duration::from_millis(300)),
    ];
    let leaving = site.deploy("leaving", 1, &PodTemplate::testserver("leaving", &["--on-term", "exit"]))?;
    let leaving = leaving.pods()[0].clone();
    let waiting = in_flight(&site, address_of(&site.world, &leaving)?)?;
    let mut scenes = Vec::new();
    for (name, style, time) in styles {
        let deployment = site.deploy(name, 1, &PodTemplate::testserver(name, style))?;
        let pod = deployment.pods()[0].clone();
        let mut load = unbounded(&site, address_of(&site.world, &pod)?)?;
        load.run_for(Duration::from_millis(500))?;
        site.world.delete(&pod)?;
        wait_stopped(&site.world, &pod)?;
        load.run_for(time)?;
        let tally = load.stop()?;
        let exited = wait_exited(&site.world, &pod)?;
        ensure!(tally.summary.end_ns < exited, "{name}: an attempt after the exit: the scene is too slow");
        scenes.push(Scene { name, pod, tallies: vec![tally] });
    }
    site.world.delete(&leaving)?;
    scenes.push(Scene { name: "leaving", pod: leaving, tallies: vec![waiting.wait()?] });
    for end in judge_all(&site, &scenes)? {
        told(&end)?;
        ensure!(end.evidence_refused == 0 || !end.complete, "{}: {:?}", end.pod.name, end.anomalies);
    }
    site.finish()
}

fn site() -> anyhow::Result<Site> {
    let world = World::start(WorldConfig { client_addresses: SOURCES, ..config() })?;
    run_with_input(world.node().network(), &find_program("nft")?, &["-f", "-"], UNTRACKED)?;
    Site::in_world(world, &["--ring-bytes", &RING_BYTES.to_string()])
}

/// Runs of the programs that write of cgroups, of this world or not.
fn cgroup_changes(metrics: &Metrics) -> f64 {
    let runs = |program: &str| metrics.sum("drainscope_ebpf_program_runs_total", &[program]);
    runs("program=\"cgroup_mkdir\"") + runs("program=\"cgroup_rmdir\"")
}

fn unbounded(site: &Site, target: SocketAddr) -> anyhow::Result<Load> {
    Load::start(&site.world, target, &format!("--new {STORM} {}", sources()))
}

/// So many attempts as fast as they go.
fn burst(site: &Site, target: SocketAddr, attempts: u64) -> anyhow::Result<Tally> {
    Load::start(&site.world, target, &format!("--new {STORM} --max-requests {attempts} {}", sources()))?
        .wait()
}

fn sources() -> String {
    let addresses: Vec<String> = (2..2 + SOURCES).map(|host| format!("10.78.0.{host}")).collect();
    // Without TIME_WAIT no port waits a minute for its next use; and a client's reset hides what a closing socket dropped.
    format!("--linger0 --source {}", addresses.join(","))
}

/// Requests that nobody answers in the life of their server. They are under way when this returns.
fn in_flight(site: &Site, target: SocketAddr) -> anyhow::Result<Load> {
    let arguments = format!("--keepalive {IN_FLIGHT} --path /?delay_ms=60000 --timeout 80");
    let mut load = Load::start(&site.world, target, &arguments)?;
    load.run_for(Duration::from_secs(1))?;
    load.end()?;
    Ok(load)
}

/// A pod's end as far as it is known.
fn of(site: &Site, pod: &PodRef) -> anyhow::Result<Termination> {
    let known = site.agent.terminations()?;
    known.into_iter().find(|end| end.pod.uid == pod.uid).context("the pod's end is not known")
}

/// Holds the settled ends against the tallies.
fn judge_all(site: &Site, scenes: &[Scene]) -> anyhow::Result<Vec<Termination>> {
    let pods: Vec<PodRef> = scenes.iter().map(|scene| scene.pod.clone()).collect();
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let metrics = site.metrics()?;
    let refused: u64 = ends.iter().map(|end| end.evidence_refused).sum();
    let lost = metrics.sum(EVENTS_LOST, &[]);
    // Other records are lost too.
    ensure!(lost >= f64::from(u32::try_from(refused)?), "{refused} refused, {lost} events lost");
    for (scene, end) in scenes.iter().zip(&ends) {
        scene.judge(end, &metrics)?;
    }
    Ok(ends)
}

impl Scene {
    fn judge(&self, end: &Termination, metrics: &Metrics) -> anyhow::Result<()> {
        let name = self.name;
        let mut errors: BTreeMap<ErrorKind, u64> = BTreeMap::new();
        for tally in &self.tallies {
            for (error, count) in &tally.summary.total.by_error {
                *errors.entry(*error).or_default() += count;
            }
        }
        let failed: u64 = errors.values().sum();
        let context =
            || format!("{name}: the clients' {errors:?}, the agent's {:?}, {:?}", end.lost, end.anomalies);
        ensure!(failed > 0 && end.lost_total() == failed, "{}", context());
        let connects = errors.get(&ErrorKind::ConnectRefused).copied().unwrap_or(0);
        ensure!(end.lost["refused"] == connects, "{}", context());
        // Which of these it was shows in the evidence alone: on the wire they are one.
        let cut = ["unaccepted", "unread", "unanswered", "stale_reuse"].map(|class| end.lost[class]);
        ensure!(cut.iter().sum::<u64>() == failed - connects, "{}", context());
        ensure!(
            errors.keys().all(|error| matches!(
                error,
                ErrorKind::ConnectRefused
                    | ErrorKind::ConnectReset
                    | ErrorKind::Eof
                    | ErrorKind::Reset
                    | ErrorKind::SendError
            )),
            "{}",
            context()
        );

        let of_workload = workload(name);
        for (class, count) in &end.lost {
            let labels = [of_workload.as_str(), &format!("reason=\"{class}\""), "phase=\"terminating\""];
            let counted = metrics.sum(LOST, &labels);
            ensure!(same(counted, *count), "{name}, {class}: JSON says {count}, the metric {counted}");
        }
        ensure!(
            same(metrics.sum(LOST, &[&of_workload, "phase=\"running\""]), 0),
            "{name} lost while running"
        );

        // What evidence there is, is of these attempts, and what there is not is accounted for.
        let attempts: Vec<_> = self.tallies.iter().flat_map(|tally| tally.attempts.clone()).collect();
        let verdict = judge::join(&attempts, std::slice::from_ref(end));
        // A probe's evidence stays if the ring refused the word that it was one; the count does not.
        let probes = end.probes_excluded;
        let is_probe = |peer: SocketAddr| peer.ip().to_string() == NODE_ADDRESS;
        let strange = &verdict.agent_only;
        ensure!(strange.iter().all(|(_, item)| is_probe(item.peer)), "{name}: {strange:#?}");
        ensure!(u64::try_from(strange.len())? <= probes, "{name}: {strange:#?}");
        let shown = end.shown();
        let accounted = shown + end.evidence_dropped + end.evidence_refused;
        // A refused probe has two records.
        ensure!(
            (failed..=failed + 2 * probes).contains(&accounted),
            "{name}: {shown} shown, {} dropped, {} refused of {failed}, {probes} probes",
            end.evidence_dropped,
            end.evidence_refused
        );
        Ok(())
    }
}

/// The end is told as it was, although records of its steps may be lost.
fn told(end: &Termination) -> anyhow::Result<()> {
    ensure!(end.outcome == "exited" && end.trigger == "delete", "{end:#?}");
    ensure!(end.containers.len() == 1 && end.containers[0].exit_code == Some(0), "{:?}", end.containers);
    ensure!(end.step("exited").is_some(), "{}: {:#?}", end.pod.name, end.timeline);
    Ok(())
}
