//! Probes of every kind and failure, as the kubelet makes them and as drainscope does, on the same pods at the same time.
//!
//! Each pod has a probe with one habit. While the kubelet probes it, the agent mirrors it, and `drainscope probe pod` runs it too, from the node as the kubelet: every
//! run of that, with its output, goes to the core's own worker. Then they are held against the kubelet: what the pod's events say, `ready`, `started`, restarts, and the
//! kubelet's own counts (`/metrics/probes`). The agent's account of these counts is held against them, and against the connections that it saw.

mod agent;
mod judge;
mod kubelet;
mod ours;
mod rows;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use serde_json::Value;
use world::agent::{Metrics, Ports};

use crate::kubectl;
use crate::pods::{NAMESPACE, PATIENCE};
use crate::release;
use crate::report::Row;
use crate::site::Site;
use agent::{Mirrored, Rows};
use judge::Theirs;
use kubelet::Counts;
use ours::Sampler;
use rows::{Begin, Case};

/// How long both probe side by side: a whole turn of the slowest server, and more.
const WINDOW: Duration = Duration::from_secs(26);
/// From one run of ours to the next.
const PACE: Duration = Duration::from_secs(2);
/// Probes of the kubelet's before the state of a pod is taken for settled: more than any threshold of a settled row.
const SETTLED: f64 = 5.0;

/// Makes the pods and judges each probe of theirs, with an agent that mirrors them and reads the kubelet's counts.
pub(crate) fn run(site: &mut Site) -> anyhow::Result<Vec<Row>> {
    site.release.upgrade(agent::VALUES)?;
    site.agent = release::ports()?;
    let rows = rows_of(&site.agent)?;
    // As it was installed.
    site.release.upgrade("agent.probes=off")?;
    site.agent = release::ports()?;
    Ok(rows)
}

fn rows_of(agent: &Ports) -> anyhow::Result<Vec<Row>> {
    let cases = rows::all();
    for case in &cases {
        kubectl::apply(&case.pod())?;
    }
    let now = Mutex::new(Now::default());
    let over = AtomicBool::new(false);
    let rows = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(agent, &now, &over));
        let each: Vec<_> = cases.iter().map(|case| scope.spawn(|| of_case(case, &now))).collect();
        let rows: Vec<Row> = cases
            .iter()
            .zip(each)
            .map(|(case, one)| {
                let result = one.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
                eprintln!("cluster: {}: {}", case.title, if result.is_ok() { "right" } else { "WRONG" });
                Row::of(case.title, result)
            })
            .collect();
        over.store(true, Ordering::Relaxed);
        watch.join().ok().context("the watch of the pods panicked")??;
        anyhow::Ok(rows)
    })?;
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    kubectl::run(&[&["delete", "pod", "-n", NAMESPACE], &names[..]].concat())?;
    Ok(rows)
}

/// What is known now: read by one for all cases.
#[derive(Default)]
struct Now {
    /// By name.
    pods: BTreeMap<String, Value>,
    /// The agent's rows; those of the kubelet's metrics that it has are older than these.
    rows: Rows,
    /// The kubelet's, of probes.
    metrics: Metrics,
}

/// Keeps it up to date until it is over.
fn watch(agent: &Ports, now: &Mutex<Now>, over: &AtomicBool) -> anyhow::Result<()> {
    while !over.load(Ordering::Relaxed) {
        let mut list = kubectl::get(&["pods", "-n", NAMESPACE])?;
        let pods: Vec<Value> = serde_json::from_value(list["items"].take()).context("a list of pods")?;
        let named = |pod: Value| Some((pod["metadata"]["name"].as_str()?.to_owned(), pod));
        let pods = pods.into_iter().filter_map(named).collect();
        let rows = Rows::read(agent)?;
        *now.lock().expect("nobody panicked") = Now { pods, rows, metrics: kubelet::metrics()? };
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// One pod: all side by side, then the verdict.
fn of_case(case: &Case, now: &Mutex<Now>) -> anyhow::Result<String> {
    let pod = || now.lock().expect("nobody panicked").pods.get(case.name).cloned();
    let counts = || Counts::of(&now.lock().expect("nobody panicked").metrics, case.name, case.kind);
    let row = || now.lock().expect("nobody panicked").rows.of(case);
    kubectl::wait(&format!("{} runs", case.name), PATIENCE, || {
        let state = pod().map(|pod| pod["status"]["containerStatuses"][0]["state"].clone());
        Ok(state.filter(|state| !state["running"].is_null()))
    })?;
    let settled = case.begin == Begin::Settled;
    let mut agreed = None;
    if settled {
        kubectl::wait(&format!("{} is settled", case.name), PATIENCE, || is_settled(case, counts()))?;
        if case.has_connections() {
            agreed = Some(agrees(case, row, agent::VERDICTS)?);
        }
        if case.is_alone {
            agreed = Some(executed(case, counts, row)?);
        }
    }
    let before = if settled { (counts(), row()) } else { (Counts::default(), Value::Null) };
    let mut theirs = Theirs::default();
    let begun = (Instant::now(), Timestamp::now());
    let (mut sampler, mut mirrored) = (Sampler::new(case), Mirrored::new(case, &before.1));
    let mut next = begun.0;
    while begun.0.elapsed() < WINDOW {
        if let Some(pod) = pod() {
            theirs.saw(case.kind, &pod["status"]["containerStatuses"][0]);
        }
        mirrored.saw(&row());
        if case.is_sampled() && next <= Instant::now() {
            next += PACE;
            sampler.sample(case.name)?;
        }
        thread::sleep(Duration::from_millis(200));
    }
    if case.kills {
        let what = format!("{} is restarted", case.name);
        kubectl::wait(&what, PATIENCE, || {
            let restarts = pod().map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone());
            Ok(restarts.filter(|count| count.as_u64() > Some(0)))
        })?;
    }
    let last = pod().context("the pod is gone")?;
    theirs.saw(case.kind, &last["status"]["containerStatuses"][0]);
    theirs.counts = counts().since(before.0);
    theirs.take_events(case.kind, &kubelet::events(case.name)?, settled.then_some(begun.1));
    let mut said = Vec::new();
    if case.is_sampled() {
        said.push(judge::judge(case, &sampler.finish(), &theirs).context("probe pod")?);
    } else if case.has_connections() {
        agreed = Some(agrees(case, row, 1)?);
    }
    if case.is_mirrored() {
        said.push(format!(
            "mirrored: {}",
            judge::judge(case, &mirrored.finish(), &theirs).context("the mirror")?
        ));
    }
    said.extend(agreed);
    is_told(case, counts, row)?;
    Ok(said.join("; "))
}

/// Waits for so many verdicts with which connections agree; until then they never differ.
fn agrees(case: &Case, row: impl Fn() -> Value, wanted: u64) -> anyhow::Result<String> {
    kubectl::wait(&format!("{} is reconciled", case.name), PATIENCE, || {
        let known = agent::reconciled(&row())?;
        Ok(known.filter(|(verdicts, _)| *verdicts >= wanted).map(|(_, words)| words))
    })
}

/// Each command that the kubelet counts was seen as a process, and no other, as long as nobody else runs the same: a worker has one under
/// way at most.
fn executed(case: &Case, counts: impl Fn() -> Counts, row: impl Fn() -> Value) -> anyhow::Result<String> {
    let before = counts().all();
    let what = format!("the agent saw the {before} commands of {}", case.name);
    let (seen, told) = kubectl::wait(&what, PATIENCE, || {
        let row = row();
        Ok(agent::commands(&row).filter(|seen| *seen >= before).map(|seen| (seen, row)))
    })?;
    let after = counts().all();
    ensure!(seen <= after + 1.0, "{seen} commands of {before} to {after} verdicts: {told:#}");
    Ok(format!("{seen} commands of {before} to {after} verdicts"))
}

/// The agent has what the kubelet counts: all that it counted before, and nothing that it does not count afterwards.
fn is_told(case: &Case, counts: impl Fn() -> Counts, row: impl Fn() -> Value) -> anyhow::Result<()> {
    let before = counts();
    let told = kubectl::wait(&format!("the agent has the counts of {}", case.name), PATIENCE, || {
        let told = agent::counts(&row());
        Ok(before.is_within(told).then_some(told))
    })?;
    let after = counts();
    ensure!(told.is_within(after), "the agent says {told:?}, the kubelet {after:?}");
    Ok(())
}

/// The kubelet has probed it often enough, or has said that it cannot.
fn is_settled(case: &Case, counts: Counts) -> anyhow::Result<Option<()>> {
    if case.discarded {
        let events = kubelet::events(case.name)?;
        return Ok(events.iter().any(|event| event.message.contains("probe errored")).then_some(()));
    }
    Ok((counts.successful + counts.failed >= SETTLED && (counts.successful > 0.0 || !case.up)).then_some(()))
}
