//! An accept queue that nobody empties: SYNs that a listener drops once its container is stopping, against the kernel's own count in the pod's
//! network. They are packets, so that they cannot be joined with the attempts of clients.

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::PodTemplate;
use world::clients::Load;
use world::node::NetNs;
use world::wait::wait_for;

use crate::site::{Site, address_of, exact, wait_stopped};
use crate::{SETTLING, SOON, trial};

/// Clients that find the queue full while the pod is stopping.
const CLIENTS: u64 = 24;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("SYNs beyond a full accept queue are overflow, and those before the stop are not", overflow)]
}

fn overflow() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "crowded";
    let style = ["--on-term", "linger:5", "--no-accept-after-term", "--backlog", "1"];
    let mut deployment = site.deploy(name, 1, &PodTemplate::testserver(name, &style))?;
    let pod = deployment.pods()[0].clone();
    let target = address_of(&site.world, &pod)?;
    let (pid, _) = site.world.journal().started(&pod.uid, "server").context("no container was started")?;
    let network = NetNs::of_process(pid)?;

    // While it runs: a server that hangs for a moment.
    kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    let impatient = Load::start(&site.world, target, "--new 12 --max-requests 12 --connect-timeout 0.5")?;
    wait_for("a SYN that is dropped", SOON, || Ok(dropped(&network)? > 0))?;
    kill(Pid::from_raw(pid), Signal::SIGCONT)?;
    impatient.wait()?;

    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pod)?;
    let before = dropped(&network)?;
    let arguments = format!("--new {CLIENTS} --max-requests {CLIENTS} --connect-timeout 2.5");
    let tally = Load::start(&site.world, target, &arguments)?.wait()?;
    let after = dropped(&network)?;
    ensure!(tally.summary.total.failed == CLIENTS, "{:?}", tally.summary.total);
    deployment.wait_gone(&pods, SOON)?;

    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let lost = &ends[0].lost;
    ensure!(lost["overflow"] == after - before, "{} packets of {}: {lost:?}", after - before, after);
    // Two or three got into the queue, or half way: those are joined.
    let queued: Vec<_> = tally
        .attempts
        .iter()
        .filter(|attempt| attempt.stage != Some(world::load::Stage::Connect))
        .copied()
        .collect();
    ensure!(!queued.is_empty() && after - before >= CLIENTS - u64::try_from(queued.len())?);
    let mut known = ends.clone();
    known[0].evidence.retain(|item| item.class != "overflow");
    known[0].lost.remove("overflow");
    exact(name, &queued, &known)?;
    site.finish()
}

/// TcpExtListenDrops.
fn dropped(network: &NetNs) -> anyhow::Result<u64> {
    let text = network.inside(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "ListenDrops").context("no ListenDrops")?;
    Ok(value.parse()?)
}
