//! A pod address that is given to another pod within a second: what the old pod lost stays the old pod's, and the new pod counts nothing of
//! it, not even when it is the one that answers the old pod's clients with a reset.
//!
//! No new connections while nobody has the address: a SYN that waits for a neighbour then may reach the next pod, which is `misrouted` too.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use world::controllers::PodRef;
use world::kubelet::Step;
use world::node::{AddressReuse, NODE_ADDRESS, NetNs, find_program};
use world::{PodTemplate, World, WorldConfig, judge};

use crate::site::{
    LOST, REQUEST, Site, address_of, agree, ask, config, same, wait_exited, wait_stopped, workload,
};
use crate::{SETTLING, SOON, trial};
use world::clients::Load;

/// Connections that are left late, probes, and connects to the old pod's port that the next pod refuses.
const ASTRAY: usize = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("losses stay with the pod that had the address before", || reuse(8080)),
        trial("losses stay with the pod that had the address and a port that the next one lacks", || {
            reuse(9090)
        }),
    ]
}

/// Probes (from the node, straight to the pod's port) that are connected for all they know: the last word of the handshake is lost on its
/// way, and the pod's side of them never comes to be.
fn half_open_probes(site: &Site, pod: &PodRef, target: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    let (pid, _) = site.world.journal().started(&pod.uid, "server").context("no container was started")?;
    let lost = format!(
        "add table ip lost; add chain ip lost input {{ type filter hook input priority 0; }}; \
         add rule ip lost input ip saddr {NODE_ADDRESS} tcp flags & (syn | ack) == ack drop"
    );
    let status = NetNs::of_process(pid)?.command(&find_program("nft")?).arg(lost).status()?;
    ensure!(status.success(), "nft: {status}");
    let connect = |_| Ok(TcpStream::connect_timeout(&target, SOON)?);
    (0..ASTRAY).map(connect).collect()
}

/// The next pod listens on this port only.
fn reuse(port: u16) -> anyhow::Result<()> {
    let world = World::start(WorldConfig { address_reuse: AddressReuse::AtOnce, ..config() })?;
    let site = Site::in_world(world, &[])?;
    let mut old =
        site.deploy("old", 1, &PodTemplate::testserver("old", &["--on-term", "close-then-wait:1"]))?;
    let target = address_of(&site.world, &old.pods()[0])?;
    // A client that has lost its connection is back two seconds later only, when the next pod serves.
    let mut kept = Load::start(&site.world, target, "--keepalive 40 --keepalive-rate 0.5 --blind")?;
    // These leave after the old pod, which has closed them: their FINs meet the next one.
    let leaving = site
        .world
        .node()
        .client()
        .inside(|| (0..ASTRAY).map(|_| ask(target)).collect::<anyhow::Result<Vec<_>>>())??;
    let probes = half_open_probes(&site, &old.pods()[0], target)?;
    let mut fresh = Load::start(&site.world, target, "--new 40 --new-rate 10")?;
    kept.run_for(Duration::from_millis(2500))?;
    let pods = old.delete_pods()?;
    wait_stopped(&site.world, &pods[0])?;
    fresh.run_for(Duration::from_millis(500))?;
    let fresh = fresh.stop()?;
    let exited = wait_exited(&site.world, &pods[0])?;
    ensure!(fresh.summary.end_ns < exited, "the scene is too slow");
    let removal = site.world.wait_step(&pods[0], SOON, |step| *step == Step::SandboxRemoval)?;
    let removed = site.world.wait_step(&pods[0], SOON, |step| *step == Step::SandboxRemoved)?;
    let listen = format!("[::]:{port}");
    let next = PodTemplate::testserver("new", &["--listen", &listen, "--on-term", "exit"]);
    let mut new = site.deploy("new", 1, &PodTemplate { port, ..next })?;
    ensure!(address_of(&site.world, &new.pods()[0])? == target, "the address was not reused");
    let created = site.world.wait_step(&new.pods()[0], SOON, |step| *step == Step::SandboxCreated)?;
    ensure!(created - removed < 1_000_000_000, "reused only after {} ns", created - removed);
    drop(leaving);
    // These go on with the next pod as with theirs.
    for mut probe in probes {
        probe.write_all(REQUEST)?;
    }
    kept.run_for(Duration::from_millis(2500))?;
    let kept = kept.stop()?;
    let mut attempts = [fresh.attempts, kept.attempts].concat();
    if port != target.port() {
        // Sent there by rules that are late.
        let arguments = format!("--new 4 --max-requests {ASTRAY}");
        attempts.extend(Load::start(&site.world, target, &arguments)?.wait()?.attempts);
    }

    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let verdict = judge::join(&attempts, &ends);
    ensure!(verdict.agent_only.is_empty() && verdict.miscounted.is_empty(), "{verdict:#?}");
    for class in ["refused", "stale_reuse", "misrouted"] {
        ensure!(
            verdict.by_class.get(class).is_some_and(|count| *count > 0),
            "no {class}: {:?}",
            verdict.by_class
        );
    }
    if port != target.port() {
        let connects = ends[0].evidence.iter().filter(|item| item.class == "misrouted" && item.request == 1);
        ensure!(connects.count() >= ASTRAY, "{:?}", verdict.by_class);
    }
    // What its interface swallows while it is taken down is a blind spot (docs/kernel.md).
    for attempt in &verdict.client_only {
        ensure!(
            attempt.nth > 1 && (removal..created).contains(&attempt.t_ns),
            "not attributed: {attempt:#?}; removal {removal} to {removed}, next pod {created}"
        );
    }
    agree(&site.metrics()?, "old", &ends)?;
    let metrics = site.metrics()?;
    let new_workload = workload("new");
    let labels = [new_workload.as_str()];
    let lost: Vec<_> = metrics.matching(LOST, &labels).filter(|(_, count)| !same(*count, 0)).collect();
    ensure!(lost.is_empty(), "the new pod counts the old one's losses: {lost:?}");
    ensure!(site.agent.terminations()?.len() == 1, "only the old pod ended");

    // The new pod's own end is its own.
    let pods = new.delete_pods()?;
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    ensure!(ends[0].lost_total() == 0 && ends[0].evidence.is_empty(), "{ends:#?}");
    site.finish()
}
