//! The event log of a live agent with its kernel programs: a replay ends with the agent's own bytes, wherever in its life the log begins.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::agent::{Recording, Words};
use world::clients::Load;
use world::{PodTemplate, World};

use crate::site::{NAMESPACE, Site, config, failures, program, wait_exited};
use crate::{SETTLING, SOON, trial};

const CLIENTS: &str = "--new 12 --new-rate 10 --keepalive 8 --keepalive-rate 10 --connect-timeout 1";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a replay says what the agent said, byte for byte", replayed)]
}

fn replayed() -> anyhow::Result<()> {
    let mut site = Site::in_world(World::start(config())?, &["--log-format", "json", "--proxy-rules"])?;
    let whole = Recording::start(&site.world, &program()?, "whole.jsonl")?;
    let template = PodTemplate::testserver("web", &["--on-term", "exit"]);
    let mut deployment = site.deploy("web", 3, &template)?;
    let service = site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    site.world.delays().proxy.set(Duration::from_secs(1));
    let mut load = Load::start(&site.world, (service.v4, service.port), CLIENTS)?;
    load.run_for(Duration::from_millis(500))?;

    let mut ends = site.roll(&mut deployment, &template)?;

    // The second log begins in the middle of an end, with losses counted and losses to come, and before the first ends are settled.
    let last = deployment.pods()[0].clone();
    site.world.delete(&last)?;
    wait_exited(&site.world, &last)?;
    let middle = Recording::start(&site.world, &program()?, "middle.jsonl")?;
    site.world.wait_gone(&last, SOON)?;
    ends.push(last);
    load.run_for(Duration::from_millis(1500))?;
    let tally = load.stop()?;
    ensure!(failures(&tally.attempts) > 0, "nothing was lost");
    let settled = site.agent.wait_ended(&ends, SETTLING)?;
    ensure!(
        settled.iter().all(|end| end.step("programmed").is_some()),
        "the proxy's rules were not heard: {settled:#?}"
    );
    ensure!(settled.iter().all(|end| end.lost_total() > 0), "an end without losses shows less: {settled:#?}");

    let words = Words::last_of(&mut site.agent)?;
    let findings = words.findings.lines().count();
    ensure!(findings >= ends.len(), "{findings} findings of {} ends with losses", ends.len());
    let differences = words.differences(&whole.replayed()?);
    ensure!(differences.is_empty(), "{differences:#?}");
    let differences = words.differences_of_late_log(&middle.replayed()?);
    ensure!(differences.is_empty(), "the log that begins in the middle: {differences:#?}");
    site.finish()
}
