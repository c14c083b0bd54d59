//! The kubelet's exec probes by their processes: how many, how long, and what CPU time they took, beside what the runtime's own wait4(2) says of each.
//!
//! Commands come into containers as a runtime brings them: made by a process outside, in the container's cgroup and namespaces. What is no
//! probe runs in the same containers at the same time: other commands from outside, and what the containers fork themselves under the probes' name.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::World;
use world::controllers::PodRef;
use world::node::{Exit, NetNs, Pids, ProcessSpec, find_program};

use crate::site::{SERVER, Site, same, serving, workload};
use crate::trial;

/// Probes of each container, and how far apart they begin: the period.
const PROBES: u64 = 5;
const PERIOD: Duration = Duration::from_secs(1);
/// CPU time that a probe's command takes before it ends, by its own clock.
const BURNT: Duration = Duration::from_millis(50);
const BURN: &str = "import time\nwhile time.process_time() < 0.05: pass";
/// What a container forks, under the name of a probe's command: a child and an orphan. Each turn writes a line.
const FORKS: &str = "while :; do sh -c 'sh -c : & sh -c :; :'; echo turn; sleep 0.05; done &";
/// The same without the orphan: on the node's pid namespace it gets a parent outside the pod.
const CHILDREN: &str = "while :; do sh -c 'sh -c :; :'; echo turn; sleep 0.05; done &";
const TURNS: usize = 20;
/// What a process runs after its last tick and after its exit is told: a tick of 100 Hz.
const LAST: Duration = Duration::from_millis(10);
const COUNT: &str = "drainscope_kubelet_exec_probes_total";
const CPU: &str = "drainscope_kubelet_exec_probe_cpu_seconds_total";
const NODE_CPU: &str = "drainscope_node_exec_probe_cpu_seconds_total";
const DURATION: &str = "drainscope_kubelet_exec_probe_duration_seconds";
const OTHER: &str = "drainscope_other_execs_total";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("exec probes are counted by their processes, with their CPU time", counted)]
}

/// What the runtime knows of a container's probes.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    count: u64,
    /// By wait4(2), which cuts user and system time to microseconds.
    cpu: Duration,
    /// From before the process was made to after it was waited for.
    wall: Duration,
    others: u64,
}

/// A command in the pod's container, waited for.
fn exec(world: &World, pod: &PodRef, command: &[&str]) -> anyhow::Result<Duration> {
    let (pid, id) = world.journal().started(&pod.uid, "server").context("no container was started")?;
    let (program, arguments) = command.split_first().context("no command")?;
    let process = world.node().spawn(ProcessSpec {
        program: find_program(program)?,
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: vec![("PATH".to_owned(), std::env::var("PATH")?)],
        cgroup: world.node().cgroups().create_container(&pod.uid, &id)?,
        network: Some(NetNs::of_process(pid)?),
        pids: Pids::Of(pid),
        log: world.node().directory().join(&pod.uid).join("exec.log"),
    })?;
    let (exit, cpu) = process.wait_with_time()?;
    ensure!(exit == Exit::Code(0), "{command:?}: {exit:?}");
    Ok(cpu)
}

/// The container's probes, at their period, and as many other commands; until the last one the container forks.
fn probe(world: &World, pod: &PodRef, command: &[&str]) -> anyhow::Result<Known> {
    let mut known = Known::default();
    let mut next = Instant::now();
    while known.count < PROBES {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        // The kubelet's ticks; none is early when the one before was late.
        next = begun + PERIOD;
        known.cpu += exec(world, pod, command)?;
        known.wall += begun.elapsed();
        known.count += 1;
        exec(world, pod, &["ls", "/"])?;
        known.others += 1;
    }
    Ok(known)
}

/// A pod whose container forks, and which has this probe beside one of the port.
fn pod(site: &Site, name: &str, command: &[&str], forks: &str, spec: Value) -> anyhow::Result<PodRef> {
    let mut container = serving(&["sh", "-c", &format!("{forks} exec {SERVER}")]);
    container["livenessProbe"] =
        json!({"exec": {"command": command}, "periodSeconds": PERIOD.as_secs(), "timeoutSeconds": 10});
    let mut spec = spec;
    spec["containers"] = json!([container]);
    spec["terminationGracePeriodSeconds"] = json!(1);
    site.pod(name, &spec)
}

/// What the agent says of the pod's exec probe; null until it has seen something.
fn told(site: &Site, pod: &PodRef) -> anyhow::Result<Value> {
    let answer = site.agent.api(&format!("/api/v1/probes?pod={}", pod.name))?;
    let rows = answer["probes"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["handler"] == "exec").context("no row of the command")?;
    ensure!(row["probe_type"] == "Liveness" && row["target"].is_null(), "{row}");
    Ok(row["kubelet"].clone())
}

/// What the agent counts of a pod is what its runtime knows.
fn agrees(site: &Site, pod: &PodRef, known: &Known) -> anyhow::Result<()> {
    site.until("all commands", || {
        let exec = &told(site, pod)?["exec"];
        let counts = ["count", "other", "ambiguous"].map(|name| exec[name].as_u64().unwrap_or_default());
        Ok(counts.iter().sum::<u64>() >= known.count + known.others)
    })
    .with_context(|| seen(site, pod))?;
    let kubelet = told(site, pod)?;
    let exec = &kubelet["exec"];
    ensure!(exec["count"] == known.count && kubelet["seen"] == known.count, "{kubelet}");
    ensure!(
        exec["other"] == known.others && exec["ambiguous"] == 0 && kubelet["shared"] == false,
        "{kubelet}"
    );
    let last = exec["duration_seconds"].as_f64().context("no time")?;
    ensure!((BURNT.as_secs_f64()..known.wall.as_secs_f64()).contains(&last), "{kubelet}");
    is_cpu_time(exec["cpu_seconds"].as_f64().context("no CPU time")?, known)
}

/// What there is to say where something is missing.
fn seen(site: &Site, pod: &PodRef) -> String {
    let metrics = site.agent.metrics().map(|metrics| {
        let families =
            ["drainscope_attribution_failures", "drainscope_anomalies", "drainscope_ebpf_events", OTHER];
        let all = metrics
            .samples()
            .filter(|(name, value)| families.iter().any(|family| name.starts_with(family)) && *value > 0.0);
        all.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
    });
    format!("{:?}, {metrics:#?}", told(site, pod))
}

/// CPU time as the kernel has counted it by the exit: all but the last of it. wait4(2) cuts its two parts to microseconds.
fn is_cpu_time(seconds: f64, known: &Known) -> anyhow::Result<()> {
    let count = u32::try_from(known.count)?;
    let missing = known.cpu.as_secs_f64() - seconds;
    ensure!(known.cpu >= BURNT * count && known.cpu <= known.wall * 2, "{known:?}");
    let cut = Duration::from_micros(2) * count;
    ensure!(
        (-cut.as_secs_f64()..(LAST * count).as_secs_f64()).contains(&missing),
        "{missing} s missing in {seconds} s: {known:?}"
    );
    Ok(())
}

/// The metrics are the sums over the pods, by workload and for the node.
fn sums(site: &Site, pods: &[PodRef], known: &[Known]) -> anyhow::Result<()> {
    let mut all = Known::default();
    let metrics = site.metrics()?;
    for (pod, known) in pods.iter().zip(known) {
        let labels = [workload(&pod.name), "probe_type=\"Liveness\"".to_owned()];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        ensure!(
            same(metrics.sum(COUNT, &labels), known.count),
            "{}: {}",
            pod.name,
            metrics.sum(COUNT, &labels)
        );
        is_cpu_time(metrics.sum(CPU, &labels), known)?;
        all.count += known.count;
        all.cpu += known.cpu;
        all.wall += known.wall;
        all.others += known.others;
    }
    ensure!(same(metrics.sum(COUNT, &[]), all.count), "of another type: {}", metrics.sum(COUNT, &[]));
    ensure!(
        same(metrics.sum(OTHER, &[]), all.others)
            && same(metrics.sum(OTHER, &["kind=\"other\""]), all.others)
    );
    is_cpu_time(metrics.sum(NODE_CPU, &[]), &all)?;
    let count = metrics.sum(&format!("{DURATION}_count"), &["probe_type=\"Liveness\""]);
    let sum = metrics.sum(&format!("{DURATION}_sum"), &[]);
    ensure!(same(count, all.count), "{count} times");
    let least = BURNT.as_secs_f64() * count;
    ensure!((least..all.wall.as_secs_f64()).contains(&sum), "{sum} s of {all:?}");
    Ok(())
}

fn counted() -> anyhow::Result<()> {
    let site = Site::start()?;
    let burn: &[&str] = &["python3", "-c", BURN];
    let by_child = format!("python3 -c '{BURN}'; exit 0");
    let by_child: &[&str] = &["sh", "-c", &by_child];
    let cases = [
        ("burning", burn, FORKS, json!({})),
        ("by-child", by_child, FORKS, json!({})),
        ("sharing", by_child, FORKS, json!({"shareProcessNamespace": true})),
        ("on-node", by_child, CHILDREN, json!({"hostPID": true})),
    ];
    let pods = cases
        .iter()
        .map(|(name, command, forks, spec)| pod(&site, name, command, forks, spec.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let known = thread::scope(|scope| {
        let probing: Vec<_> = pods
            .iter()
            .zip(&cases)
            .map(|(pod, (_, command, ..))| scope.spawn(|| probe(&site.world, pod, command)))
            .collect();
        let joined = probing.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("panicked")));
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    for (pod, known) in pods.iter().zip(&known) {
        let log = site.world.node().directory().join(&pod.uid).join("server.log");
        site.until("the containers' own forks", || {
            Ok(fs::read_to_string(&log)?.matches("turn").count() >= TURNS)
        })?;
        agrees(&site, pod, known).with_context(|| format!("{}: {known:?}", pod.name))?;
    }
    sums(&site, &pods, &known)?;
    site.finish()
}
