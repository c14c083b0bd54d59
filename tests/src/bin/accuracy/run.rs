//! Rows at work: a Deployment, its clients, one rolling update, the wait until the agent has settled the ends, the join.
//!
//! Rows of a stage share the world and the agent, and run beside each other: so many at a time under load, any number settling.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use world::World;
use world::agent::{Agent, Recording, Termination};
use world::clients::{Load, Tally};
use world::controllers::{Deployment, PodRef};
use world::judge::{self, LOST, Verdict};
use world::kubelet::Step;
use world::load::Attempt;
use world::wait::wait_until;

use crate::report::Outcome;
use crate::rows::{Requests, Row, Stage};
use crate::servers::Servers;
use crate::verdict::Measured;

/// The namespace of everything.
const NAMESPACE: &str = "shop";
/// Pods of a row.
const REPLICAS: usize = 3;
/// Source addresses that rows take in turn: two rows at a time never share one.
pub(crate) const SOURCES: u8 = 64;
/// No pod becomes Ready sooner after its start.
const READY_AFTER_SECONDS: u64 = 1;
/// Load before the update: long enough for every client's first connection.
const BEFORE: Duration = Duration::from_millis(1500);
/// Load after the last deletion of an update whose clients leave before the first stop.
const BEFORE_LEAVING: Duration = Duration::from_secs(3);
/// Load after the last rule is gone.
const AFTER: Duration = Duration::from_millis(500);
/// The bound on everything that the world does by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The bound on the agent's settling: it waits for 10 s of quiet by itself, and gives up after 120 s.
pub(crate) const SETTLING: Duration = Duration::from_secs(150);
/// How often the agent is asked.
pub(crate) const POLL: Duration = Duration::from_millis(500);
/// Losses without a partner that a report shows of each side.
const SHOWN: usize = 8;

/// World, agent and programs of a run.
pub(crate) struct Site {
    pub(crate) recording: Recording,
    // Dropped first: the agent needs the world, not the other way round.
    pub(crate) agent: Agent,
    pub(crate) world: World,
    pub(crate) servers: Servers,
    /// Where what both sides said of a wrong row is kept.
    pub(crate) save: PathBuf,
}

/// Endpoints' delay, delay of a sandbox's removal, rows under load at a time. An address has to outlive the rules that lead to it
/// on a machine with no CPU to spare, where they followed up to 2.5 s late with four rows at a time and 5.3 s late in a saturating one.
fn conditions(stage: Stage) -> (Duration, Duration, usize) {
    match stage {
        Stage::Usual => (Duration::from_secs(1), Duration::from_secs(4), 4),
        Stage::Saturating => (Duration::from_secs(1), Duration::from_secs(8), 1),
        Stage::AddressGone => (Duration::from_secs(2), Duration::ZERO, 2),
    }
}

/// Room for so many at a time.
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Places {
    fn take(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
    }

    fn give(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }
}

/// Runs the rows of one stage; the outcomes are in the rows' order.
pub(crate) fn stage(site: &Site, stage: Stage, rows: &[Row]) -> Vec<Outcome> {
    let (endpoints, sandbox, at_a_time) = conditions(stage);
    site.world.delays().proxy.set(endpoints);
    site.world.delays().sandbox.set(sandbox);
    let places = Places { free: Mutex::new(at_a_time), freed: Condvar::new() };
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..rows.len() {
            scope.spawn(|| {
                places.take();
                // Taken with the place, so that rows begin in their order.
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&row) = rows.get(index) else { return places.give() };
                eprintln!("accuracy: {}", row.name());
                let loaded = load(site, row, index);
                places.give();
                let outcome = conclude(site, row, loaded);
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Judges a row. What is wrong with it is said at once, and what both sides said is kept: a run may be cut short after this.
fn conclude(site: &Site, row: Row, loaded: anyhow::Result<Loaded>) -> Outcome {
    let (measured, unmatched, attempts) = match loaded {
        Err(error) => (Err(error), Vec::new(), Vec::new()),
        Ok(mut loaded) => {
            let (measured, unmatched) = match judge(site, row, &mut loaded) {
                Ok((measured, unmatched)) => (Ok(measured), unmatched),
                Err(error) => (Err(error), Vec::new()),
            };
            (measured, unmatched, loaded.tally.attempts)
        }
    };
    let outcome = Outcome { row, measured, unmatched, replay: Vec::new() };
    if outcome.holds() {
        eprintln!("accuracy: {} ok", row.name());
        return outcome;
    }
    eprintln!("accuracy: {} WRONG", row.name());
    outcome.complaints().iter().for_each(|complaint| eprintln!("accuracy:   {complaint}"));
    match save(site, &outcome, &attempts) {
        Ok(()) => eprintln!("accuracy:   kept in {}", site.save.display()),
        Err(error) => eprintln!("accuracy:   not kept: {error:#}"),
    }
    outcome
}

/// What is left when a row's load is over.
struct Loaded {
    deployment: Deployment,
    /// The pods of before the update.
    old: Vec<PodRef>,
    tally: Tally,
}

/// The part of a row that takes the machine's time.
fn load(site: &Site, row: Row, index: usize) -> anyhow::Result<Loaded> {
    let Site { world, .. } = site;
    let name = row.workload();
    let template = template(site, row);
    let mut deployment =
        Deployment::create(world.store(), world.node_name(), NAMESPACE, &name, REPLICAS, &template)?;
    let service = world.service_speaking(NAMESPACE, &name, &name, row.style.server.port_name(), None)?;
    deployment.wait_ready(PATIENCE)?;
    world.wait_routed(&name, deployment.pods(), PATIENCE)?;
    watched(site, &name)?;

    let source = Ipv4Addr::new(10, 78, 0, 2 + u8::try_from(index % usize::from(SOURCES))?);
    let target = SocketAddr::from((service.v4, service.port));
    let arguments = format!("--source {source} {}", row.clients.arguments);
    let mut load = Load::start(world, target, &arguments)?;
    load.run_for(BEFORE)?;
    let old = deployment.rollout(&template, PATIENCE)?;
    if row.style.clients_leave {
        load.run_for(BEFORE_LEAVING)?;
        let tally = load.stop()?;
        for pod in &old {
            let stop = world.journal().first(&pod.uid, |step| matches!(step, Step::Signal { .. }));
            ensure!(stop.is_none(), "{} was stopped before its clients had left", pod.name);
        }
        deployment.wait_gone(&old, PATIENCE)?;
        return Ok(Loaded { deployment, old, tally });
    }
    deployment.wait_gone(&old, PATIENCE)?;
    for pod in &old {
        for v4 in [true, false] {
            world.wait_step(
                pod,
                PATIENCE,
                |step| matches!(step, Step::Rules { used: false, address, .. } if address.is_ipv4() == v4),
            )?;
        }
    }
    load.run_for(AFTER)?;
    let tally = load.stop()?;
    Ok(Loaded { deployment, old, tally })
}

/// The pods of a row. As in most clusters it takes them longer to become Ready than the endpoints lag: an update that outruns the endpoints
/// would leave a service without any live endpoint for a while, and closed loops would do nothing but be refused.
fn template(site: &Site, row: Row) -> Value {
    let mut template = site.servers.template(&row).to_value();
    let probe = &mut template["spec"]["containers"][0]["readinessProbe"];
    if row.style.server.port_name() != "http" {
        *probe = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 1});
    }
    probe["initialDelaySeconds"] = json!(READY_AFTER_SECONDS);
    template
}

/// Waits until the agent has the workload's series: it knows the pods.
fn watched(site: &Site, name: &str) -> anyhow::Result<()> {
    let label = format!("target_workload=\"{name}\"");
    let known = || {
        let metrics = site.agent.metrics()?;
        Ok(metrics.has(LOST, &[&label, "phase=\"terminating\""]).then_some(()))
    };
    wait_until("the workload's series", PATIENCE, POLL, known)
        .with_context(|| format!("the agent does not know {name}: {}", site.agent.log()))
}

/// Waits for the ends, joins them with the clients' tally, and removes the pods.
fn judge(site: &Site, row: Row, loaded: &mut Loaded) -> anyhow::Result<(Measured, Vec<String>)> {
    let Loaded { deployment, old, tally } = loaded;
    let ends = site.agent.wait_ended_of(Some(&row.workload()), old, SETTLING)?;
    // A new series is held at 0 until a scrape has shown it.
    site.agent.metrics()?;
    let metrics = site.agent.metrics()?;
    let verdict = match row.style.server.requests() {
        Requests::Numbered => judge::join(&as_numbered(&tally.attempts, row.clients.at_once), &ends),
        Requests::Unnumbered => judge::join_connections(&tally.attempts, &ends),
        Requests::Multiplexed => judge::join_multiplexed(&tally.attempts, &ends),
    };
    let measured = Measured::new(&row, tally, &verdict, &ends, &metrics);
    deployment.delete_pods()?;
    Ok((measured, unmatched(&verdict, &ends)))
}

/// Attempts with the numbers that the agent gives them: what was sent at once is one request.
fn as_numbered(attempts: &[Attempt], at_once: u32) -> Vec<Attempt> {
    let number = |nth: u32| nth.saturating_sub(1) / at_once + 1;
    attempts.iter().map(|&attempt| Attempt { nth: number(attempt.nth), ..attempt }).collect()
}

/// Losses without a partner, in words, with the timelines of the pods that could have been meant.
fn unmatched(verdict: &Verdict, ends: &[Termination]) -> Vec<String> {
    let mut lines = Vec::new();
    for attempt in verdict.client_only.iter().take(SHOWN) {
        lines.push(format!(
            "client only: {} request {} {:?} at {:?}, errno {:?}, sent {}, received {}, began {} ns, ended {} ns (CLOCK_MONOTONIC)",
            attempt.local, attempt.nth, attempt.error, attempt.stage, attempt.errno, attempt.sent, attempt.received,
            attempt.t_ns, attempt.end_ns
        ));
    }
    for (pod, item) in verdict.agent_only.iter().take(SHOWN) {
        lines.push(format!(
            "agent only:  {} request {} {} {} {} of {pod} at {}",
            item.peer, item.request, item.confidence, item.class, item.phase, item.at
        ));
    }
    if !lines.is_empty() {
        for end in ends {
            let steps: Vec<String> =
                end.timeline.iter().map(|step| format!("{} {}", step.at, step.step)).collect();
            lines.push(format!("{} ({}): {}", end.pod.name, end.outcome, steps.join(", ")));
        }
    }
    lines
}

/// Keeps the row as measured, the failed attempts, the terminations, the metrics and the agent's log.
fn save(site: &Site, outcome: &Outcome, attempts: &[Attempt]) -> anyhow::Result<()> {
    let name = outcome.row.workload();
    fs::create_dir_all(&site.save).with_context(|| format!("make {}", site.save.display()))?;
    let keep = |what: &str, text: String| fs::write(site.save.join(format!("{name}.{what}")), text);
    let mut row = outcome.json();
    row["complaints"] = json!(outcome.complaints());
    keep("row.json", serde_json::to_string_pretty(&row)?)?;
    keep("attempts.json", serde_json::to_string_pretty(attempts)?)?;
    keep("agent.log", site.agent.log())?;
    let ends = site.agent.api(&format!("/api/v1/terminations?namespace={NAMESPACE}&workload={name}"))?;
    keep("terminations.json", serde_json::to_string_pretty(&ends)?)?;
    let metrics = site.agent.metrics()?;
    let workload = format!("target_workload=\"{name}\"");
    let labels = [workload.as_str()];
    let samples = metrics.matching(LOST, &labels);
    keep("metrics.txt", samples.map(|(series, value)| format!("{series} {value}\n")).collect())?;
    Ok(())
}
