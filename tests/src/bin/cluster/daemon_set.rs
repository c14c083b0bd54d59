//! The DaemonSet's own life: what its pod may do, how it ends, and that an upgrade or a kubelet that is away costs no count; at last the uninstall, after which
//! nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use aya::programs::{ProgramInfo, loaded_programs};
use serde_json::Value;
use world::agent::Ports;
use world::judge::{LOST, same};
use world::load::{Attempt, ErrorKind};

use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::release::{self, NAME, OTHER_TAG};
use crate::report::Row;
use crate::rollout::{self, AFTER, BEFORE, Counted, Outcome};
use crate::site::Site;
use crate::{kubectl, kubelet, switched_on, vacant};

/// The Deployment under load.
const WEB: &str = "steady";
/// The agent's pins, in the node.
const PINS: &str = "/sys/fs/bpf/drainscope";
/// CAP_PERFMON and CAP_BPF, as /proc writes a set.
const CAPABILITIES: &str = "000000c000000000";
/// From the deletion of the agent's pod to its end, where no other pod is there to serve on for; its grace is 25 s.
const PROMPT: Duration = Duration::from_secs(10);
/// How often counters are looked at.
const POLL: Duration = Duration::from_millis(250);

/// While the node has no other pod.
pub(crate) fn alone(site: &mut Site) -> anyhow::Result<Vec<Row>> {
    let installed = told("helm install", installed(site));
    let replaced = told("pod replaced, no other on the node", replaced(site));
    Ok(vec![installed, replaced])
}

/// Under load, and last of all the uninstall.
pub(crate) fn disturbed(site: &mut Site, proxy: &str) -> anyhow::Result<Vec<Row>> {
    rollout::bring_up(site, WEB, 0)?;
    let mut rows = vec![
        told("kubelet killed in a rolling update under load", kubelet_killed(site)),
        told("helm upgrade in rolling updates under load", upgraded(site)),
    ];
    rows.extend(switched_on::run(site, WEB, proxy)?);
    rows.push(told("a Service loses its last endpoint", vacant::run(site, WEB)));
    rows.push(told("helm uninstall", uninstalled(site)));
    Ok(rows)
}

pub(crate) fn told(name: &str, result: anyhow::Result<String>) -> Row {
    let row = Row::of(name, result);
    eprintln!(
        "cluster: {name}: {}",
        if row.ok { "right".to_owned() } else { format!("WRONG: {}", row.detail) }
    );
    row
}

/// All hooks are attached by two capabilities, in a container that may do nothing else.
fn installed(site: &Site) -> anyhow::Result<String> {
    let status = active(&site.agent, "none")?;
    let hooks = status["hooks"].as_array().map_or(0, Vec::len);
    let agent = process()?;
    for (key, wanted) in [
        ("CapEff", CAPABILITIES),
        ("CapBnd", CAPABILITIES),
        ("NoNewPrivs", "1"),
        // A filter.
        ("Seccomp", "2"),
    ] {
        let value = agent.get(key).map(String::as_str);
        ensure!(value == Some(wanted), "{key} is {value:?}, not {wanted}");
    }
    let priority = release::pod()?["spec"]["priorityClassName"].clone();
    ensure!(priority == "system-node-critical", "its priority class is {priority}");
    Ok(format!("{hooks} hooks attached by BPF and PERFMON alone, seccomp on, pins made"))
}

/// Its own pod is none that it would serve on for; the next one goes on with the pins.
fn replaced(site: &mut Site) -> anyhow::Result<String> {
    let begun = Instant::now();
    let pod = pods::reference(&release::pod()?)?;
    kubectl::run(&["delete", "pod", "-n", NAME, &pod.name])?;
    let took = begun.elapsed();
    ensure!(took < PROMPT, "it ended after {took:?}");
    site.release.wait_ready()?;
    site.agent = release::ports()?;
    active(&site.agent, "adopted")?;
    Ok(format!("ended after {:.1} s of its 25 s, pins adopted", took.as_secs_f64()))
}

/// The kubelet is killed once the first old pod is being deleted.
fn kubelet_killed(site: &Site) -> anyhow::Result<String> {
    let target = rollout::service(WEB)?.cluster_ip;
    let before = lost(&site.agent)?;
    let outcome = rollout::under_load(site, target, Counted::FromTheFirst, |load| {
        load.run_for(BEFORE)?;
        let old = rollout::restart(WEB)?;
        kubectl::wait("an old pod is being deleted", PATIENCE, || {
            let deleted = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
            Ok(pods::labelled(WEB)?.iter().any(deleted).then_some(()))
        })?;
        kubelet::restart(site)?;
        rollout::wait_replaced(WEB, &old)?;
        load.run_for(AFTER)?;
        Ok(old)
    })?;
    let said = right(&outcome, &grown(&before, lost(&site.agent)?))?;
    ensure!(outcome.terminations.iter().all(|end| end.complete), "{said}, but an end is incomplete");
    Ok(said)
}

/// Rolling updates follow one another until the next agent, of another image and with all that can be switched on, has been at
/// work for one of them.
fn upgraded(site: &mut Site) -> anyhow::Result<String> {
    let target = rollout::service(WEB)?.cluster_ip;
    let before = lost(&site.agent)?;
    let first = release::pod()?["metadata"]["uid"].clone();
    let (through, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let site_ref: &Site = site;
    let (outcome, watched) = thread::scope(|scope| {
        let counters = scope.spawn(|| watch(&site_ref.agent, &over));
        let outcome = rollout::under_load(site_ref, target, Counted::FromTheMiddle, |load| {
            load.run_for(BEFORE)?;
            let upgrade = scope.spawn(|| {
                let result =
                    site_ref.release.upgrade(&format!("image.tag={OTHER_TAG},{}", switched_on::VALUES));
                through.store(true, Ordering::Relaxed);
                result
            });
            let mut old = Vec::new();
            loop {
                let last = through.load(Ordering::Relaxed);
                let round = rollout::restart(WEB)?;
                rollout::wait_replaced(WEB, &round)?;
                old.extend(round);
                if last {
                    break;
                }
            }
            upgrade.join().ok().context("the upgrade panicked")??;
            load.run_for(AFTER)?;
            Ok(old)
        });
        over.store(true, Ordering::Relaxed);
        let watched = counters.join().ok().context("the watch panicked")?;
        anyhow::Ok((outcome?, watched?))
    })?;
    site.agent = release::ports()?;
    let pod = release::pod()?;
    ensure!(pod["metadata"]["uid"] != first, "the agent's pod is the same");
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    ensure!(image.ends_with(OTHER_TAG), "its image is {image}");
    active(&site.agent, "adopted")?;
    let said = right(&outcome, &grown(&before, lost(&site.agent)?))?;
    ensure!(watched.back.is_empty(), "{said}, but counters went back: {:?}", watched.back);
    ensure!(watched.gap > Duration::ZERO, "{said}, but the agent was never away");
    let incomplete: Vec<_> = outcome.terminations.iter().filter(|end| !end.complete).collect();
    let why: BTreeSet<String> =
        incomplete.iter().flat_map(|end| &end.anomalies).map(ToString::to_string).collect();
    Ok(format!(
        "{said}, in {} ends ({} incomplete: {why:?}); no counter went back in {} scrapes, the agent was away for {:.1} s",
        outcome.terminations.len(),
        incomplete.len(),
        watched.scrapes,
        watched.gap.as_secs_f64()
    ))
}

/// No pin, no program, no object.
fn uninstalled(site: &Site) -> anyhow::Result<String> {
    let programs = pinned_programs()?;
    ensure!(!programs.is_empty(), "nothing is pinned");
    let begun = Instant::now();
    site.release.uninstall()?;
    let took = begun.elapsed();
    ensure!(!Path::new(PINS).exists(), "{PINS} is left");
    // Freed by the kernel a moment after the last reference.
    kubectl::wait("the programs are gone", PATIENCE, || {
        let loaded: BTreeSet<u32> =
            loaded_programs().map(|program| program.map(|it| it.id())).collect::<Result<_, _>>()?;
        Ok(programs.is_disjoint(&loaded).then_some(()))
    })?;
    let kinds =
        "daemonsets,jobs,services,serviceaccounts,clusterroles,clusterrolebindings,configmaps,secrets";
    let left = kubectl::run(&["get", kinds, "-A", "-l", "app.kubernetes.io/name=drainscope", "-o", "name"])?;
    ensure!(left.is_empty(), "left: {left}");
    kubectl::wait("the last pods are gone", PATIENCE, || {
        let pods = kubectl::run(&["get", "pods", "-n", NAME, "-o", "name"])?;
        Ok(pods.is_empty().then_some(()))
    })?;
    Ok(format!(
        "after {:.0} s no pin, none of its {} programs, no object is left",
        took.as_secs_f64(),
        programs.len()
    ))
}

/// The agent's `/status`, if every hook is attached and its pins have this heritage.
fn active(agent: &Ports, heritage: &str) -> anyhow::Result<Value> {
    let status = agent.api("/status")?;
    let hooks = status["hooks"].as_array().context("no hooks")?;
    ensure!(!hooks.is_empty() && hooks.iter().all(|hook| hook["state"] == "active"), "{status:#}");
    let pins = &status["pins"];
    ensure!(pins["state"] == "active" && pins["heritage"] == heritage, "pins: {pins}");
    Ok(status)
}

/// Both sides say the same, by evidence and by counters. A kubelet that comes back takes its pods' readiness away for a moment: what the service
/// proxy refuses then is no pod's doing, and has a counter without evidence.
fn right(outcome: &Outcome, series: &BTreeMap<String, f64>) -> anyhow::Result<String> {
    let verdict = &outcome.verdict;
    let counted: f64 = series.values().sum();
    let by_service: u64 = outcome.terminations.iter().map(|end| end.service_refused).sum();
    let said = format!(
        "{} requests, {} failed, {} joined {:?}, counted {counted}, {by_service} refused by the Service",
        outcome.tally.summary.total.requests, verdict.failed, verdict.attributed, verdict.by_class
    );
    ensure!(verdict.failed > 0, "{said}: nothing was lost");
    let is_refused = |attempt: &Attempt| attempt.error == Some(ErrorKind::ConnectRefused);
    ensure!(
        verdict.client_only.len() == usize::try_from(by_service)?
            && verdict.client_only.iter().all(is_refused)
            && verdict.agent_only.is_empty()
            && verdict.miscounted.is_empty(),
        "{said}, client-only {:?}, agent-only {:?}, miscounted {:?}, {series:?}",
        verdict.client_only,
        verdict.agent_only,
        verdict.miscounted
    );
    ensure!(same(counted, verdict.failed - by_service), "{said}: {series:?}");
    Ok(said)
}

/// Requests that the Deployment lost, by the metrics: each series as written.
fn lost(agent: &Ports) -> anyhow::Result<BTreeMap<String, f64>> {
    let labels = [format!("target_namespace=\"{NAMESPACE}\""), format!("target_workload=\"{WEB}\"")];
    let metrics = agent.metrics()?;
    let labels = [labels[0].as_str(), labels[1].as_str()];
    let series: BTreeMap<_, _> =
        metrics.matching(LOST, &labels).map(|(series, value)| (series.to_owned(), value)).collect();
    ensure!(!series.is_empty(), "no series of {WEB}");
    Ok(series)
}

/// The series that grew, and by how much.
fn grown(before: &BTreeMap<String, f64>, now: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let grown = now.into_iter().map(|(series, value)| {
        let was = before.get(&series).copied().unwrap_or_default();
        (series, value - was)
    });
    grown.filter(|(_, more)| *more > 0.0).collect()
}

/// What became of counters.
struct Watched {
    scrapes: u64,
    /// The longest time without an answer.
    gap: Duration,
    /// Which went back or vanished, and from what to what.
    back: Vec<String>,
}

/// Scrapes until it is over. Only the Deployment's series are meant: the agent's counters of itself begin anew with its process, and
/// workloads that were deleted before have theirs for a while only.
fn watch(agent: &Ports, over: &AtomicBool) -> anyhow::Result<Watched> {
    let mut watched = Watched { scrapes: 0, gap: Duration::ZERO, back: Vec::new() };
    let mut before: BTreeMap<String, f64> = BTreeMap::new();
    let mut away: Option<Instant> = None;
    while !over.load(Ordering::Relaxed) {
        match agent.metrics() {
            Ok(metrics) => {
                watched.scrapes += 1;
                watched.gap = watched.gap.max(away.take().map_or(Duration::ZERO, |since| since.elapsed()));
                let workload = format!("target_workload=\"{WEB}\"");
                let is_meant = |series: &str| {
                    let name = series.split('{').next().unwrap_or_default();
                    series.contains(&workload)
                        && ["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end))
                };
                let now: BTreeMap<String, f64> = metrics
                    .samples()
                    .filter(|(series, _)| is_meant(series))
                    .map(|(series, value)| (series.to_owned(), value))
                    .collect();
                for (series, was) in &before {
                    let is = now.get(series);
                    if is.is_none_or(|is| is < was) {
                        watched.back.push(format!("{series}: {was}, then {is:?}"));
                    }
                }
                before = now;
            }
            Err(_) => drop(away.get_or_insert_with(Instant::now)),
        }
        thread::sleep(POLL);
    }
    Ok(watched)
}

/// `/proc/PID/status` of the agent's process.
fn process() -> anyhow::Result<BTreeMap<String, String>> {
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let folder = entry?.path();
        // One that has ended meanwhile has neither.
        let line = fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
        if line.starts_with("/drainscope\0agent\0") {
            let status = fs::read_to_string(folder.join("status")).context("the agent's status")?;
            let fields = status.lines().filter_map(|line| line.split_once(':'));
            return Ok(fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect());
        }
    }
    bail!("no process of the agent")
}

/// Ids of the programs that are pinned.
fn pinned_programs() -> anyhow::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for set in fs::read_dir(PINS).with_context(|| format!("list {PINS}"))? {
        let set = set?;
        if !set.file_name().to_string_lossy().starts_with("programs_") {
            continue;
        }
        for program in fs::read_dir(set.path())? {
            let path = program?.path();
            if !path.to_string_lossy().ends_with("_link") {
                found.insert(
                    ProgramInfo::from_pin(&path).with_context(|| format!("{}", path.display()))?.id(),
                );
            }
        }
    }
    Ok(found)
}
