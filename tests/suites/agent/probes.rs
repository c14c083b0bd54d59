//! Probes of pods that are on their way out or gone: nothing that becomes of them is a loss, and beside them every client's attempt is.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use world::clients::Load;
use world::controllers::PodRef;
use world::kubelet::Step;
use world::wait::{wait_for, wait_until};
use world::{PodTemplate, World};

use crate::site::{
    LOST, NAMESPACE, SERVER, Site, address_of, same, serving, wait_exited, wait_stopped, workload,
};
use crate::{SETTLING, SOON, trial};

/// Probes of each sort.
const PROBES: usize = 6;
/// Attempts of the clients.
const CLIENTS: u64 = 8;
/// How late the kubelet learns of a pod that the agent has to know before it.
const LATE: Duration = Duration::from_secs(3);
/// The port of a container beside the one that is probed.
const BESIDE: u16 = 9090;
/// How full the kernel's tables are.
const ENTRIES: &str = "drainscope_ebpf_map_entries";
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a probe that is refused, or that nobody answers, is no loss", lost_probes),
        trial("a probe that the API's word of the pod's address comes after is no loss", early_probes),
    ]
}

/// A probe with the kubelet's time-out; it ends in an error, which is returned.
fn probe(target: SocketAddr, timeout: Duration) -> anyhow::Result<ErrorKind> {
    match TcpStream::connect_timeout(&target, timeout) {
        Ok(_) => anyhow::bail!("{target} accepted a connection"),
        Err(error) => Ok(error.kind()),
    }
}

/// Probes from the node, side by side like those of several containers, each of which ends in this error.
fn probes(world: &World, target: SocketAddr, timeout: Duration, ends: ErrorKind) -> anyhow::Result<()> {
    let ended = world.node().network().inside(|| {
        thread::scope(|scope| {
            let all: Vec<_> = (0..PROBES).map(|_| scope.spawn(move || probe(target, timeout))).collect();
            all.into_iter()
                .map(|one| one.join().unwrap_or_else(|_panic| anyhow::bail!("a probe panicked")))
                .collect::<anyhow::Result<Vec<_>>>()
        })
    })??;
    ensure!(ended.iter().all(|error| *error == ends), "{ended:?} in place of {ends:?}");
    Ok(())
}

fn gone(world: &World, pod: &PodRef) -> anyhow::Result<()> {
    wait_exited(world, pod)?;
    world.wait_step(pod, SOON, |step| *step == Step::SandboxRemoved).map(drop)
}

fn lost_probes() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "probed";
    let template = PodTemplate::testserver(name, &["--on-term", "close-then-wait:2"]);
    let mut deployment = site.deploy(name, 1, &template)?;
    let target = address_of(&site.world, &deployment.pods()[0])?;
    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pods[0])?;
    let clients = format!("--new 4 --max-requests {CLIENTS} --connect-timeout 1");
    let refused = Load::start(&site.world, target, &clients)?;
    probes(&site.world, target, SOON, ErrorKind::ConnectionRefused)?;
    let refused = refused.wait()?;
    gone(&site.world, &pods[0])?;
    // The packets of these wait for a neighbour longer than their probes do.
    let given_up = Load::start(&site.world, target, &clients)?;
    probes(&site.world, target, Duration::from_millis(500), ErrorKind::TimedOut)?;
    let given_up = given_up.wait()?;
    // These are told that there is none.
    let unreachable = Load::start(&site.world, target, &format!("--new 4 --max-requests {CLIENTS}"))?;
    probes(&site.world, target, SOON, ErrorKind::HostUnreachable)?;
    let unreachable = unreachable.wait()?;

    let attempts = [refused.attempts, given_up.attempts, unreachable.attempts].concat();
    let (verdict, ends) = site.judge(name, &attempts, &pods)?;
    ensure!(verdict.failed == 3 * CLIENTS, "{} failed: {:?}", verdict.failed, verdict.by_class);
    for class in ["refused", "blackholed"] {
        ensure!(verdict.by_class.contains_key(class), "{:?}", verdict.by_class);
    }
    // Besides these there are the kubelet's own.
    let least = u64::try_from(3 * PROBES)?;
    ensure!(ends[0].probes_excluded >= least, "{} probes", ends[0].probes_excluded);
    site.finish()
}

/// The kubelet has a pod's address from the runtime, and probes before the API's watchers have it. Another container makes the pod's
/// namespace known meanwhile.
fn early_probes() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "early";
    let beside = json!({"name": "beside", "command": [SERVER, "--listen", format!("[::]:{BESIDE}")]});
    // Nothing listens at the port of its probe.
    let slow = serving(&["sleep", "infinity"]);
    site.world.delays().kubelet.set(LATE);
    let pod = json!({"metadata": {"labels": {"app": name}}, 
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [beside, slow]}});
    let pod = site.world.pod_of_value(NAMESPACE, name, pod)?;
    site.until("the workload's series", || Ok(site.agent.metrics()?.has(LOST, &[&workload(name)])))?;
    let addresses = || anyhow::Ok(site.agent.metrics()?.sum(ENTRIES, &["map=\"addresses\""]));
    ensure!(same(addresses()?, 0), "the agent knows another pod's address");
    site.world.api().faults().stall_watches(true);
    ensure!(site.world.addresses(&pod)?.is_empty(), "the kubelet was faster than the stall");
    let target = wait_until("the pod's address", SOON, POLL, || {
        Ok(site.world.addresses(&pod)?.first().map(|address| SocketAddr::new(*address, 8080)))
    })?;
    let listening = SocketAddr::new(target.ip(), BESIDE);
    site.world.node().network().inside(|| {
        wait_for("the other container's port", SOON, || Ok(TcpStream::connect(listening).is_ok()))
    })??;
    probes(&site.world, target, SOON, ErrorKind::ConnectionRefused)?;
    ensure!(same(addresses()?, 0), "the agent knew the address");

    site.world.api().faults().stall_watches(false);
    site.until("the pod's addresses", || Ok(addresses()? > 0.0))?;
    probes(&site.world, target, SOON, ErrorKind::ConnectionRefused)?;
    let clients = format!("--new 4 --max-requests {CLIENTS}");
    let refused = Load::start(&site.world, target, &clients)?.wait()?;
    ensure!(refused.summary.total.failed == CLIENTS, "{:?}", refused.summary.total);
    site.world.delete(&pod)?;
    site.agent.wait_ended(&[pod], SETTLING)?;
    let metrics = site.metrics()?;
    let labels = workload(name);
    let labels = [labels.as_str()];
    let lost: Vec<_> = metrics.matching(LOST, &labels).filter(|(_, value)| *value > 0.0).collect();
    let sum: f64 = lost.iter().map(|(_, value)| value).sum();
    ensure!(same(sum, CLIENTS), "{lost:?}");
    site.finish()
}
