//! Two pods that go at once, and the next two get each other's address: what each lost stays its own, and the next two count nothing of it.
//!
//! Clients go straight to the addresses, as late ones do. No new connections while nobody has an address, as in `reuse.rs`.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::controllers::{Deployment, PodRef};
use world::kubelet::Step;
use world::load::Attempt;
use world::node::AddressReuse;
use world::{PodTemplate, World, WorldConfig, judge};

use crate::site::{LOST, Site, address_of, agree, config, same, wait_exited, wait_stopped, workload};
use crate::{SETTLING, SOON, trial};
use world::clients::Load;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("losses stay with the pods that had the addresses before they were swapped", swap)]
}

fn swap() -> anyhow::Result<()> {
    let world = World::start(WorldConfig { address_reuse: AddressReuse::AtOnce, ..config() })?;
    let site = Site::in_world(world, &[])?;
    let closing = |name: &str| PodTemplate::testserver(name, &["--on-term", "close-then-wait:1"]);
    let mut old = [site.deploy("left", 1, &closing("left"))?, site.deploy("right", 1, &closing("right"))?];
    let targets = [address_of(&site.world, &old[0].pods()[0])?, address_of(&site.world, &old[1].pods()[0])?];
    ensure!(targets[0] < targets[1], "addresses are given out in another order: {targets:?}");
    let load = |arguments: &str| targets.map(|target| Load::start(&site.world, target, arguments));
    // A client that has lost its connection is back two seconds later only, when the next pods serve.
    let [left_kept, right_kept] = load("--keepalive 40 --keepalive-rate 0.5 --blind");
    let [left_fresh, right_fresh] = load("--new 40 --new-rate 10");
    let (mut kept, fresh) = ([left_kept?, right_kept?], [left_fresh?, right_fresh?]);
    kept[0].run_for(Duration::from_millis(2500))?;
    let pods = [old[0].delete_pods()?.remove(0), old[1].delete_pods()?.remove(0)];
    for pod in &pods {
        wait_stopped(&site.world, pod)?;
    }
    kept[0].run_for(Duration::from_millis(300))?;
    fresh.iter().try_for_each(Load::end)?;
    let tallies = fresh.into_iter().map(Load::wait).collect::<anyhow::Result<Vec<_>>>()?;
    let mut attempts = Vec::new();
    for tally in tallies {
        for pod in &pods {
            let exited = wait_exited(&site.world, pod)?;
            ensure!(tally.summary.end_ns < exited, "the scene is too slow");
        }
        attempts.push(tally.attempts);
    }
    let gaps = pods.each_ref().map(|pod| removal_of(&site.world, pod));
    // The first of the next pods gets the lower address: the left one's.
    let mut next = Vec::new();
    for name in ["right-next", "left-next"] {
        next.push(site.deploy(name, 1, &PodTemplate::testserver(name, &["--on-term", "exit"]))?);
    }
    for (deployment, target) in next.iter().zip(targets) {
        ensure!(address_of(&site.world, &deployment.pods()[0])? == target, "the addresses were not swapped");
    }
    kept[0].run_for(Duration::from_millis(2500))?;
    for (load, attempts) in kept.into_iter().zip(&mut attempts) {
        attempts.extend(load.stop()?.attempts);
    }
    for (index, (pod, gap)) in pods.iter().zip(gaps).enumerate() {
        let serves = started(&site.world, &next[index])?;
        judge_one(&site, pod, &attempts[index], (gap?, serves))?;
    }
    for name in ["left-next", "right-next"] {
        let (metrics, label) = (site.metrics()?, workload(name));
        let labels = [label.as_str()];
        let lost: Vec<_> = metrics.matching(LOST, &labels).filter(|(_, count)| !same(*count, 0)).collect();
        ensure!(lost.is_empty(), "{name} counts what another lost: {lost:?}");
    }
    ensure!(site.agent.terminations()?.len() == 2, "only the old pods ended");
    site.finish()
}

/// When its network began to be taken down.
fn removal_of(world: &World, pod: &PodRef) -> anyhow::Result<u64> {
    wait_exited(world, pod)?;
    let removal = world.wait_step(pod, SOON, |step| *step == Step::SandboxRemoval)?;
    world.wait_step(pod, SOON, |step| *step == Step::SandboxRemoved)?;
    Ok(removal)
}

fn started(world: &World, next: &Deployment) -> anyhow::Result<u64> {
    world.wait_step(&next.pods()[0], SOON, |step| *step == Step::SandboxCreated)
}

/// All that the clients of its address lost is its own, but for what an interface swallows while it is taken down (docs/kernel.md).
fn judge_one(
    site: &Site,
    pod: &PodRef,
    attempts: &[Attempt],
    (removal, created): (u64, u64),
) -> anyhow::Result<()> {
    let ends = site.agent.wait_ended(std::slice::from_ref(pod), SETTLING)?;
    let verdict = judge::join(attempts, &ends);
    ensure!(verdict.agent_only.is_empty() && verdict.miscounted.is_empty(), "{}: {verdict:#?}", pod.name);
    for class in ["refused", "stale_reuse", "misrouted"] {
        let count = verdict.by_class.get(class).copied().unwrap_or(0);
        ensure!(count > 0, "{}: no {class}: {:?}", pod.name, verdict.by_class);
    }
    for attempt in &verdict.client_only {
        ensure!(
            attempt.nth > 1 && (removal..created).contains(&attempt.t_ns),
            "{}: not attributed: {attempt:#?}; removal {removal}, next pod {created}",
            pod.name
        );
    }
    let name = pod.name.split('-').next().unwrap_or_default();
    agree(&site.metrics()?, name, &ends)
}
