//! An agent that gets no CPU while a pod ends: what the kernel wrote meanwhile is taken before anything else, so that the end is complete.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use world::PodTemplate;
use world::clients::Load;

use crate::site::{Site, address_of, wait_exited, wait_stopped};
use crate::{SOON, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("an agent without CPU for seconds misses nothing of an end", starved)]
}

fn starved() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "starved";
    let mut deployment =
        site.deploy(name, 2, &PodTemplate::testserver(name, &["--on-term", "close-then-wait:1"]))?;
    let pods = deployment.pods().to_vec();
    let load = |pod| Load::start(&site.world, address_of(&site.world, pod)?, "--new 10 --new-rate 20");
    let mut loads = vec![load(&pods[0])?, load(&pods[1])?];
    loads[1].run_for(Duration::from_millis(500))?;
    site.suspend()?;
    deployment.delete_pods()?;
    for pod in &pods {
        wait_stopped(&site.world, pod)?;
    }
    loads[1].run_for(Duration::from_millis(500))?;
    let tallies = loads.into_iter().map(Load::stop).collect::<anyhow::Result<Vec<_>>>()?;
    for pod in &pods {
        wait_exited(&site.world, pod)?;
    }
    deployment.wait_gone(&pods, SOON)?;
    site.agent.signal(Signal::SIGCONT)?;

    let attempts: Vec<_> = tallies.into_iter().flat_map(|tally| tally.attempts).collect();
    let (verdict, ends) = site.judge(name, &attempts, &pods)?;
    ensure!(verdict.failed > 20, "{:?}", verdict.by_class);
    ensure!(
        ends.iter().all(|end| end.step("stop_signal").is_some() && end.step("exited").is_some()),
        "{ends:#?}"
    );
    site.finish()
}
