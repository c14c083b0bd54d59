//! A pod address that is given to another pod within a second: what the old pod lost stays the old pod's.

use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;
use world::kubelet::Step;
use world::node::AddressReuse;
use world::{PodTemplate, World, WorldConfig, judge};

use crate::load::Load;
use crate::site::{LOST, Site, address_of, agree, config, same, workload};
use crate::{SETTLING, SOON, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("losses before an address is reused stay with the pod that had it", reuse)]
}

fn reuse() -> anyhow::Result<()> {
    let world = World::start(WorldConfig { address_reuse: AddressReuse::AtOnce, ..config() })?;
    let site = Site::in_world(world, &[])?;
    let style = ["--on-term", "exit"];
    let mut old = site.deploy("old", 1, &PodTemplate::testserver("old", &style))?;
    let target = address_of(&site.world, &old.pods()[0])?;
    // A connect ends before its SYN would be sent again, which might reach the next pod.
    let clients =
        "--new 40 --new-rate 10 --keepalive 10 --keepalive-rate 20 --connect-timeout 0.5 --timeout 2";
    let mut load = Load::start(&site.world, target, clients)?;
    load.run_for(Duration::from_secs(1))?;
    let began = Instant::now();
    let pods = old.delete_pods()?;
    let removed = site.world.wait_step(&pods[0], SOON, |step| *step == Step::SandboxRemoved)?;
    // Nobody has the address for a moment.
    load.run_for(Duration::from_millis(200))?;
    let mut new = site.deploy("new", 1, &PodTemplate::testserver("new", &style))?;
    ensure!(address_of(&site.world, &new.pods()[0])? == target, "the address was not reused");
    let created = site.world.wait_step(&new.pods()[0], SOON, |step| *step == Step::SandboxCreated)?;
    ensure!(created - removed < 1_000_000_000, "reused only after {:?}", began.elapsed());
    load.run_for(Duration::from_millis(500))?;
    let tally = load.stop()?;

    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let metrics = site.metrics()?;
    // What the new pod refused before it listened is its own, and of its start, not of an end.
    let verdict = judge::join(&tally.attempts, &ends);
    ensure!(verdict.agent_only.is_empty() && verdict.miscounted.is_empty(), "{verdict:#?}");
    ensure!(verdict.attributed > 0, "the old pod lost nothing");
    for attempt in &verdict.client_only {
        ensure!(attempt.start_ns > removed, "lost while the old pod had the address: {attempt:#?}");
    }
    let lost = |phase| metrics.sum(LOST, &[&workload("new"), phase]);
    ensure!(same(lost("phase=\"terminating\""), 0), "the new pod is not terminating");
    let (starting, unexplained) = (lost("phase=\"running\""), u64::try_from(verdict.client_only.len())?);
    ensure!(
        same(starting, unexplained),
        "{unexplained} attempts are not of the old pod, the new one counts {starting}: {:#?}; {ends:#?}",
        verdict.client_only
    );
    agree(&metrics, "old", &ends)?;
    ensure!(site.agent.terminations()?.len() == 1, "only the old pod ended");

    // The new pod's own end is its own.
    let pods = new.delete_pods()?;
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    ensure!(ends[0].lost_total() == 0 && ends[0].evidence.is_empty(), "{ends:#?}");
    site.finish()
}
