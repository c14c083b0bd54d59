//! The kubelet's probes as the kernel saw them: their phases, and why one timed out. What a case does to the pod is never told to the agent.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use world::clients::Load;
use world::controllers::PodRef;
use world::node::{NetNs, find_program, run_with_input};
use world::wait::wait_until;

use crate::site::{NAMESPACE, SERVER, Site, address_of, same, workload};
use crate::{SOON, trial};

/// Timeouts of each kind that have to be classified right; `DRAINSCOPE_PROBE_TIMEOUTS=10` is the whole thing.
const TIMEOUTS: u64 = 3;
const TIMEOUTS_VARIABLE: &str = "DRAINSCOPE_PROBE_TIMEOUTS";
/// How long that may take: a timeout and a period each, twice as long on a busy machine, and some that are no timeouts.
const EACH: Duration = Duration::from_secs(10);
/// `timeoutSeconds` of all probes.
const TIMEOUT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
/// Why probes timed out.
const COUNTER: &str = "drainscope_kubelet_probe_timeouts_total";
const PHASES: &str = "drainscope_kubelet_probe_phase_duration_seconds";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a probe's time is told by phases, and a probe of many by no type", phases),
        trial("every timeout of a probe has the cause that it has", causes),
    ]
}

/// A pod with a server that is probed at this path, or is not (an empty path), with more in its container.
fn pod(site: &Site, name: &str, path: &str, arguments: &[&str], beside: &str) -> anyhow::Result<PodRef> {
    let command = format!("{beside} exec {SERVER} {}", arguments.join(" "));
    let container = json!({
        "name": "server", "command": ["sh", "-c", command],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "timeoutSeconds": TIMEOUT.as_secs()},
    });
    let pod = json!({"metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
    site.world.pod_of_value(NAMESPACE, name, pod)
}

/// The kubelet's half of the only probe of a pod; null until there is one.
fn kubelet(site: &Site, pod: &PodRef, probe_type: &str) -> anyhow::Result<Value> {
    let answer = site.agent.api("/api/v1/probes")?;
    let items = answer["probes"].as_array().context("no list of probes")?;
    let item = items.iter().find(|item| item["pod"]["uid"] == pod.uid && item["probe_type"] == probe_type);
    Ok(item.map_or(Value::Null, |item| item["kubelet"].clone()))
}

fn phases() -> anyhow::Result<()> {
    let site = Site::start()?;
    let slow = pod(&site, "slow", "/readyz?delay_ms=300", &[], "")?;
    site.world.wait_ready(&slow, true, SOON)?;
    let seen = wait_until("probes that are seen", SOON, POLL, || {
        let seen = kubelet(&site, &slow, "Readiness")?;
        Ok((seen["seen"].as_u64() >= Some(2)).then_some(seen))
    })?;
    let seconds = |phase: &str| seen["phases"][phase].as_f64().with_context(|| format!("no {phase}: {seen}"));
    ensure!((0.3..0.9).contains(&seconds("response")?), "{seen}");
    ensure!(seconds("connect")? < 0.2 && seconds("pickup")? < 0.2, "{seen}");
    ensure!(seen["shared"] == false, "{seen}");
    site.metrics()?;
    let label = ["probe_type=\"Readiness\"", "phase=\"response\""];
    let metrics = site.metrics()?;
    let (count, sum) =
        (metrics.sum(&format!("{PHASES}_count"), &label), metrics.sum(&format!("{PHASES}_sum"), &label));
    ensure!(count >= 2.0 && sum >= 0.3 * count, "{count} in {sum} s");
    ensure!(metrics.sum(COUNTER, &[]) == 0.0, "a probe that was answered timed out");

    // Two probes of one port.
    let container = json!({
        "name": "server", "command": [SERVER], "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
    });
    let both = json!({"metadata": {"labels": {"app": "both"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
    let both = site.world.pod_of_value(NAMESPACE, "both", both)?;
    site.world.wait_ready(&both, true, SOON)?;
    for probe_type in ["Startup", "Readiness"] {
        site.until("probes that are seen", || {
            let seen = kubelet(&site, &both, probe_type)?;
            Ok(seen["seen"].as_u64() >= Some(2) && seen["shared"] == true)
        })?;
    }
    ensure!(
        site.metrics()?.has(&format!("{PHASES}_count"), &["probe_type=\"unknown\""]),
        "no type is guessed"
    );
    ensure!(
        !site.metrics()?.has(&format!("{PHASES}_count"), &["probe_type=\"Startup\""]),
        "a type is guessed"
    );
    site.finish()
}

/// A pod whose probes time out for one reason.
struct Case {
    pod: PodRef,
    cause: &'static str,
}

/// Causes of a case's timeouts so far, those above 0.
fn timeouts(site: &Site, case: &Case) -> anyhow::Result<Vec<(String, u64)>> {
    let seen = kubelet(site, &case.pod, "Readiness")?;
    let causes = seen["timeouts"].as_object().cloned().unwrap_or_default();
    let counts = causes.into_iter().map(|(cause, count)| (cause, count.as_u64().unwrap_or_default()));
    Ok(counts.filter(|(_, count)| *count > 0).collect())
}

fn causes() -> anyhow::Result<()> {
    let wanted = match std::env::var(TIMEOUTS_VARIABLE) {
        Ok(text) => text.parse().context(TIMEOUTS_VARIABLE)?,
        Err(_) => TIMEOUTS,
    };
    let site = Site::start()?;
    let cases = [
        Case { pod: slow_application(&site)?, cause: "app" },
        Case { pod: stopped_application(&site)?, cause: "app" },
        Case { pod: full_queue(&site)?, cause: "accept_queue" },
        Case { pod: dropped_syn(&site)?, cause: "connect" },
    ];
    let throttled = throttled(&site)?;
    let late = ready(&site, pod(&site, "late", "/readyz", &[], "")?)?;
    let target = address_of(&site.world, &late)?;
    let more = [
        Case { pod: throttled.pod.clone(), cause: "cpu_throttled" },
        Case { pod: late, cause: "kubelet_late" },
    ];
    let cases: Vec<Case> = cases.into_iter().chain(more).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let kubelet = scope.spawn(|| {
            site.world.node().network().inside(|| {
                while !is_over.load(Ordering::Relaxed) {
                    late_probe(target)?;
                }
                anyhow::Ok(())
            })?
        });
        let classified = classified(&site, &cases, wanted);
        is_over.store(true, Ordering::Relaxed);
        let probed = kubelet.join().unwrap_or_else(|_panic| anyhow::bail!("the late kubelet panicked"));
        classified.and(probed)
    })?;
    for case in &cases {
        let labels = [workload(&case.pod.name), format!("cause=\"{}\"", case.cause)];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        site.until("the metric", || Ok(site.metrics()?.sum(COUNTER, &labels) >= 1.0))?;
    }
    ensure!(same(site.metrics()?.sum(COUNTER, &["probe_type=\"unknown\""]), 0), "a type is not known");
    kill_all(&site, &cases)?;
    drop(throttled);
    site.finish()
}

/// A probe like the kubelet's, of one that gets the CPU only when the probe's time is over.
fn late_probe(target: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: late\r\nConnection: close\r\n\r\n")?;
    thread::sleep(TIMEOUT + TIMEOUT / 10);
    Ok(())
}

/// After the first timeout with its cause, each case has so many more, and none with another.
fn classified(site: &Site, cases: &[Case], wanted: u64) -> anyhow::Result<()> {
    // What was under way when the trouble began is of no kind.
    let begun = cases
        .iter()
        .map(|case| {
            wait_until("the first timeout", EACH * 2, POLL, || {
                let found = timeouts(site, case)?;
                let is_there = found.iter().any(|(cause, _)| cause == case.cause);
                Ok(is_there.then_some(found))
            })
            .with_context(|| format!("{} {:?}", case.cause, timeouts(site, case)))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let limit = EACH * u32::try_from(wanted)?;
    for (case, before) in cases.iter().zip(begun) {
        let of = |found: &[(String, u64)], cause: &str| {
            found.iter().find(|(name, _)| name == cause).map_or(0, |(_, count)| *count)
        };
        let all = |found: &[(String, u64)]| found.iter().map(|(_, count)| count).sum::<u64>();
        let found = wait_until("the timeouts", limit, POLL, || {
            let found = timeouts(site, case)?;
            Ok((all(&found) >= all(&before) + wanted).then_some(found))
        })
        .with_context(|| format!("{} {:?}", case.cause, timeouts(site, case)))?;
        let right = of(&found, case.cause) - of(&before, case.cause);
        ensure!(right == all(&found) - all(&before), "{}: {before:?} became {found:?}", case.cause);
    }
    Ok(())
}

/// Stopped processes do not end by themselves.
fn kill_all(site: &Site, cases: &[Case]) -> anyhow::Result<()> {
    for case in cases {
        kill(Pid::from_raw(pid_of(site, &case.pod)?), Signal::SIGCONT)?;
    }
    Ok(())
}

fn pid_of(site: &Site, pod: &PodRef) -> anyhow::Result<i32> {
    let (pid, _) = site.world.journal().started(&pod.uid, "server").context("no container was started")?;
    Ok(pid)
}

fn ready(site: &Site, pod: PodRef) -> anyhow::Result<PodRef> {
    site.world.wait_ready(&pod, true, SOON)?;
    Ok(pod)
}

/// It reads, and takes longer to answer than the probe waits.
fn slow_application(site: &Site) -> anyhow::Result<PodRef> {
    pod(site, "slow", "/readyz?delay_ms=30000", &[], "")
}

/// It does not even accept, with room in the queue.
fn stopped_application(site: &Site) -> anyhow::Result<PodRef> {
    let pod = ready(site, pod(site, "stopped", "/readyz", &[], "")?)?;
    kill(Pid::from_raw(pid_of(site, &pod)?), Signal::SIGSTOP)?;
    Ok(pod)
}

/// It does not accept, and others have filled the queue.
fn full_queue(site: &Site) -> anyhow::Result<PodRef> {
    let pod = ready(site, pod(site, "crowded", "/readyz", &["--backlog", "1"], "")?)?;
    let target: SocketAddr = address_of(&site.world, &pod)?;
    kill(Pid::from_raw(pid_of(site, &pod)?), Signal::SIGSTOP)?;
    Load::start(&site.world, target, "--new 8 --max-requests 8 --connect-timeout 0.5 --timeout 0.5")?
        .wait()?;
    Ok(pod)
}

/// Its network drops what begins a connection.
fn dropped_syn(site: &Site) -> anyhow::Result<PodRef> {
    let pod = ready(site, pod(site, "walled", "/readyz", &[], "")?)?;
    let network = NetNs::of_process(pid_of(site, &pod)?)?;
    let rules = "table inet wall { chain input { type filter hook prerouting priority raw; \
                 tcp dport 8080 tcp flags & (syn | ack) == syn drop; }; }";
    run_with_input(&network, &find_program("nft")?, &["-f", "-"], rules)?;
    Ok(pod)
}

/// A pod with a limit of its own in the hierarchy that has the cpu controller; the limit goes with it.
struct Throttled {
    pod: PodRef,
    groups: Vec<PathBuf>,
}

impl Drop for Throttled {
    fn drop(&mut self) {
        let Some(group) = self.groups.last() else { return };
        // A group that has processes cannot be removed, and they need the CPU to end.
        drop(fs::write(group.join("cpu.cfs_quota_us"), "-1"));
        drop(wait_until("the end of the throttled processes", SOON, POLL, || {
            let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            Ok(pids.is_empty().then_some(()))
        }));
        for group in self.groups.iter().rev() {
            drop(fs::remove_dir(group));
        }
    }
}

/// Where the cgroup v1 cpu hierarchy is mounted, on machines that have one.
fn cpu_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_cpu = |options: &str| options.split(',').any(|option| option == "cpu");
    let mount =
        fields.find(|fields| matches!(fields[..], [_, _, "cgroup", options, ..] if is_cpu(options)))?;
    Some(PathBuf::from(mount[1]))
}

/// It may run for a thousandth of the time, and has other things to do in it.
fn throttled(site: &Site) -> anyhow::Result<Throttled> {
    let busy = "while :; do :; done & while :; do :; done &";
    let pod = pod(site, "throttled", "/readyz", &[], busy)?;
    let pid = wait_until("the container", SOON, POLL, || Ok(pid_of(site, &pod).ok()))?;
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?.to_owned();
    let container = world::node::v2_root()?.join(&path);
    let mut throttled = Throttled { pod, groups: Vec::new() };
    let group = match cpu_root() {
        Some(root) => {
            // The world's own branch, named like its branch of the other tree.
            let parts = path.split('/').scan(root, |group, part| {
                group.push(part);
                Some(group.clone())
            });
            throttled.groups = parts.collect();
            let group = throttled.groups.last().context("no path")?.clone();
            fs::create_dir_all(&group)?;
            fs::write(group.join("cpu.cfs_period_us"), "1000000")?;
            fs::write(group.join("cpu.cfs_quota_us"), "1000")?;
            group
        }
        None => {
            fs::write(container.join("cpu.max"), "1000 1000000")?;
            return Ok(throttled);
        }
    };
    for pid in fs::read_to_string(container.join("cgroup.procs"))?.lines() {
        fs::write(group.join("cgroup.procs"), pid)?;
    }
    Ok(throttled)
}
