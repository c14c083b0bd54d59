//! The loads and their measurement: pairs of neighbouring windows with and without the agent, then one window with BPF statistics on.
//!
//! A window is a load run of its own: with the agent, its connections are all newer than the agent, as on a node. Throughput and CPU time
//! are taken between the settling time and the end; latency over the whole run. Run times of the programs come from the last
//! window alone, because measuring them costs time itself.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use world::load::Config;

use crate::Plan;
use crate::kernel::{self, Runs, Statistics};
use crate::report::{Kind, Row};
use crate::site::{Site, Watcher};
use crate::stats::{Median, order};

/// From the start of a window's load until its throughput counts: threads start, connections open, caches warm.
const SETTLE: Duration = Duration::from_millis(300);
/// Clients of a closed loop: enough that neither core waits for another client's turn.
const CLOSED_CLIENTS: u32 = 8;
/// Clients that share the fixed rate of requests on kept connections.
const KEEPALIVE_CLIENTS: u32 = 8;
/// Clients that share the fixed rate of new connections: each has 10 ms for one at the full rate.
const NEW_CLIENTS: u32 = 50;
/// Rates of new connections that are tried, until one holds without the agent.
const NEW_RATES: [f64; 5] = [5000.0, 4000.0, 3000.0, 2000.0, 1000.0];
/// The rate that the budget of CPU time is given for.
pub(crate) const BUDGET_RATE: f64 = 5000.0;
/// The part of a fixed rate that must be answered for it to hold.
const HOLDS: f64 = 0.99;

/// One way of loading the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// A connection for each request.
    pub(crate) is_new: bool,
    /// Requests a second of all clients; `None` is a saturating closed loop.
    pub(crate) rate: Option<f64>,
}

/// What one window saw.
#[derive(Debug)]
struct Window {
    /// Between settling and end.
    seconds: f64,
    answered: u64,
    /// Of the whole run.
    p99_ns: u64,
    failed: u64,
    /// CPU time of the load, the world's containers and the agent.
    own: Duration,
    /// CPU time of what belongs neither to the benchmark nor to its world nor to the agent.
    others: Duration,
    agent: Option<AgentShare>,
}

/// What the agent took and counted in a window.
#[derive(Debug)]
struct AgentShare {
    /// Process CPU time and run time of its programs, between settling and end.
    cpu: Duration,
    programs: BTreeMap<String, Runs>,
    rss_bytes: u64,
    events_lost: u64,
    /// Connections of the whole run that the client made and the kernel programs did not count.
    counts_lost: u64,
    /// Connections that they counted and the client did not make.
    counts_extra: u64,
}

/// The saturating closed loop on kept connections; to be run on one CPU.
pub(crate) const CLOSED_KEPT: Load = Load { name: "keep-alive", is_new: false, rate: None };
/// The saturating closed loop with a connection for each request.
pub(crate) const CLOSED_NEW: Load = Load { name: "connection-per-request", is_new: true, rate: None };

/// The fixed rates; for new connections the highest that holds without the agent.
pub(crate) fn fixed(site: &mut Site) -> anyhow::Result<[Load; 2]> {
    let mut new = Load { name: "new-connections-fixed", is_new: true, rate: None };
    site.set_agent(false)?;
    for rate in NEW_RATES {
        new.rate = Some(rate);
        let window = window(site, &new, Duration::from_secs(2))?;
        if per_second(&window) >= HOLDS * rate {
            return Ok([Load { name: "keep-alive-fixed", is_new: false, rate: Some(2000.0) }, new]);
        }
        eprintln!(
            "bench: {rate} new connections/s do not hold here: {:.0} were answered",
            per_second(&window)
        );
    }
    anyhow::bail!("not even {} new connections/s hold here", NEW_RATES[NEW_RATES.len() - 1])
}

/// Measures one load.
pub(crate) fn measure(site: &mut Site, load: &Load, plan: &Plan) -> anyhow::Result<Row> {
    let (pairs, length) = match load.rate {
        None => (plan.closed_pairs, plan.closed_window),
        Some(_) => (plan.fixed_pairs, plan.fixed_window),
    };
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        for with_agent in order(pair) {
            site.set_agent(with_agent)?;
            let window = window(site, load, length)?;
            if with_agent { &mut on } else { &mut off }.push(window);
        }
        if (pair + 1) % 5 == 0 || pair + 1 == pairs {
            let so_far = Median::of(&ratios(&on, &off, per_second)).context("no pairs")?;
            eprintln!("bench: {}: {} of {pairs} pairs, throughput ratio {so_far}", load.name, pair + 1);
        }
    }
    site.set_agent(true)?;
    let names = site.watcher().context("the agent is there")?.program_names()?;
    let statistics = Statistics::on()?;
    let measured = window(site, load, plan.statistics_window)?;
    drop(statistics);
    row(load, &on, &off, &measured, &names)
}

fn row(
    load: &Load,
    on: &[Window],
    off: &[Window],
    measured: &Window,
    names: &BTreeMap<String, String>,
) -> anyhow::Result<Row> {
    let throughput = Median::of(&ratios(on, off, per_second)).context("no pairs")?;
    let cpu = Median::of(&ratios(on, off, per_cpu_second));
    let p99 = Median::of(&ratios(on, off, |window| as_f64(window.p99_ns))).context("no pairs")?;
    let shares = || on.iter().chain([measured]).filter_map(|window| window.agent.as_ref());
    let on_seconds: f64 = on.iter().map(|window| window.seconds).sum();
    let agent_cpu: Duration =
        on.iter().filter_map(|window| window.agent.as_ref()).map(|share| share.cpu).sum();
    let process_percent = agent_cpu.as_secs_f64() / on_seconds * 100.0;
    let runs = &measured.agent.as_ref().context("the measured window had no agent")?.programs;
    let bpf_ns = as_f64(runs.values().map(|runs| runs.ns).sum());
    ensure!(
        bpf_ns > 0.0,
        "BPF statistics are on and the agent's programs did not run: is it the agent's pod that is loaded?"
    );
    let bpf_percent = bpf_ns / 1e9 / measured.seconds * 100.0;
    let bpf_ns_per_request = bpf_ns / as_f64(measured.answered);
    let seconds: f64 = on.iter().chain(off).map(|window| window.seconds).sum();
    let others: Duration = on.iter().chain(off).map(|window| window.others).sum();
    let median_of = |windows: &[Window], value: fn(&Window) -> f64| {
        Median::of(&windows.iter().map(value).collect::<Vec<_>>()).map(|median| median.value)
    };
    Ok(Row {
        rate: load.rate,
        requests_per_second: median_of(on, per_second),
        requests_per_second_without: median_of(off, per_second),
        failed: Some(on.iter().chain([measured]).map(|window| window.failed).sum()),
        failed_without: Some(off.iter().map(|window| window.failed).sum()),
        throughput: Some(throughput),
        per_cpu_second: cpu,
        p99: Some(p99),
        p99_ms: median_of(on, |window| as_f64(window.p99_ns) / 1e6),
        p99_ms_without: median_of(off, |window| as_f64(window.p99_ns) / 1e6),
        agent_core_percent: Some(process_percent + bpf_percent),
        process_core_percent: Some(process_percent),
        bpf_core_percent: Some(bpf_percent),
        bpf_ns_per_request: Some(bpf_ns_per_request),
        bpf_ns_per_connection: load.is_new.then_some(bpf_ns_per_request),
        others_core_percent: Some(others.as_secs_f64() / seconds * 100.0),
        rss_bytes: shares().map(|share| share.rss_bytes).max(),
        events_lost: Some(shares().map(|share| share.events_lost).sum()),
        counts_lost: Some(shares().map(|share| share.counts_lost).sum()),
        counts_extra: Some(shares().map(|share| share.counts_extra).sum()),
        programs: runs.iter().map(|(name, runs)| (names.get(name).unwrap_or(name).clone(), *runs)).collect(),
        ..Row::new(load.name, if load.rate.is_some() { Kind::Fixed } else { Kind::Closed })
    })
}

/// Runs the load once and measures it from the settling time on.
fn window(site: &mut Site, load: &Load, length: Duration) -> anyhow::Result<Window> {
    let opened_before = site.watcher().map(|watcher| watcher.objects.opened()).transpose()?;
    let running = site.load(|config| load.config(config))?;
    thread::sleep(SETTLE);
    let (start, answered, before) = (Instant::now(), running.progress().ok, Use::now(site)?);
    thread::sleep(length);
    let (seconds, answered) = (start.elapsed().as_secs_f64(), running.progress().ok - answered);
    let after = Use::now(site)?;
    running.stop();
    let summary = running.wait()?.total;
    if summary.failed > 0 {
        let with = if before.agent.is_some() { "with" } else { "without" };
        let (name, failed, all) = (load.name, summary.failed, summary.requests);
        eprintln!(
            "bench: {name}: {failed} of {all} requests failed {with} the agent: {:?}",
            summary.by_error
        );
    }
    let own = after.own.saturating_sub(before.own);
    let others = after.busy.saturating_sub(before.busy).saturating_sub(own);
    let agent = match (before.agent, after.agent, opened_before) {
        (Some((cpu, runs)), Some((cpu_end, runs_end)), Some(opened_before)) => {
            let watcher = site.watcher().context("the agent is there")?;
            let opened = watcher.objects.opened()? - opened_before;
            Some(AgentShare {
                cpu: cpu_end.saturating_sub(cpu),
                programs: difference(&runs, runs_end),
                rss_bytes: kernel::memory(watcher.agent.pid(), "VmRSS")?,
                counts_lost: summary.connections.saturating_sub(opened),
                counts_extra: opened.saturating_sub(summary.connections),
                events_lost: site.take_events_lost()?,
            })
        }
        _ => None,
    };
    let p99_ns = summary.latency_from_due.unwrap_or(summary.latency).p99_ns;
    ensure!(answered > 0, "{}: no request was answered: {:?}", load.name, summary.by_error);
    Ok(Window { seconds, answered, p99_ns, failed: summary.failed, own, others, agent })
}

impl Load {
    fn config(&self, base: Config) -> Config {
        let clients = match (self.rate, self.is_new) {
            (None, _) => CLOSED_CLIENTS,
            (Some(_), false) => KEEPALIVE_CLIENTS,
            (Some(_), true) => NEW_CLIENTS,
        };
        let rate = self.rate.map(|rate| rate / f64::from(clients));
        if self.is_new {
            Config { new: clients, new_rate: rate, ..base }
        } else {
            Config { keepalive: clients, keepalive_rate: rate, ..base }
        }
    }
}

/// Who has used the CPUs so far.
struct Use {
    busy: Duration,
    /// This process (the load), the world's containers and the agent.
    own: Duration,
    /// CPU time of the agent's process and runs of its programs.
    agent: Option<(Duration, BTreeMap<String, Runs>)>,
}

impl Use {
    fn now(site: &Site) -> anyhow::Result<Self> {
        let of =
            |watcher: &Watcher| anyhow::Ok((kernel::cpu_time(watcher.agent.pid())?, watcher.objects.runs()?));
        let agent = site.watcher().map(of).transpose()?;
        let world = kernel::cgroup_cpu_time(site.world.cgroup_root())?;
        let own = kernel::cpu_time(std::process::id())?
            + world
            + agent.as_ref().map_or(Duration::ZERO, |(cpu, _)| *cpu);
        Ok(Self { busy: kernel::busy_time()?, own, agent })
    }
}

fn difference(before: &BTreeMap<String, Runs>, after: BTreeMap<String, Runs>) -> BTreeMap<String, Runs> {
    let since = |(name, after): (String, Runs)| {
        let before = before.get(&name).copied().unwrap_or_default();
        (name, Runs { ns: after.ns - before.ns, count: after.count - before.count })
    };
    after.into_iter().map(since).collect()
}

/// Value with the agent by value without, for each pair.
fn ratios(on: &[Window], off: &[Window], value: fn(&Window) -> f64) -> Vec<f64> {
    on.iter().zip(off).map(|(on, off)| value(on) / value(off)).collect()
}

/// Answers for each second of CPU time that load, server and agent took together: neighbours disturb it less than the throughput, and on a
/// machine of one's own both ratios are the same.
fn per_cpu_second(window: &Window) -> f64 {
    as_f64(window.answered) / window.own.as_secs_f64()
}

fn per_second(window: &Window) -> f64 {
    as_f64(window.answered) / window.seconds
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of seconds, far below 2^53")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
