//! The API server away for 20 seconds in the middle of a rollout: the kernel side counts on, the watches come back, the gap shows.

use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;
use world::PodTemplate;

use crate::site::{NAMESPACE, Site, agree, failures, same};
use crate::{SETTLING, SOON, trial};
use world::clients::Load;

const OUTAGE: Duration = Duration::from_secs(20);
const RESTARTS: &str = "drainscope_watch_restarts_total";
const LAG: &str = "drainscope_watch_lag_seconds";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("no loss is missed while the API server is away", outage)]
}

fn outage() -> anyhow::Result<()> {
    let site = Site::start()?;
    let template = PodTemplate::testserver("web", &["--on-term", "exit"]);
    let deployment = site.deploy("web", 3, &template)?;
    let service = site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    site.world.delays().proxy.set(Duration::from_secs(1));
    let restarts = site.metrics()?.sum(RESTARTS, &[]);
    let clients = "--new 40 --new-rate 4 --keepalive 8 --keepalive-rate 10 --connect-timeout 1.5";
    let mut load = Load::start(&site.world, (service.v4, service.port), clients)?;
    load.run_for(Duration::from_secs(1))?;

    // One pod before the outage begins, one while it lasts, one after it.
    let old = deployment.pods().to_vec();
    site.world.delete(&old[0])?;
    load.run_for(Duration::from_millis(500))?;
    site.world.api().stop()?;
    let stopped = Instant::now();
    site.world.delete(&old[1])?;
    site.world.wait_gone(&old[1], SOON)?;
    let mut lag: f64 = 0.0;
    while stopped.elapsed() < OUTAGE {
        load.run_for(Duration::from_millis(500))?;
        let metrics = site.agent.metrics()?;
        lag = metrics.matching(LAG, &[]).map(|(_, seconds)| seconds).fold(lag, f64::max);
    }
    site.world.api().start()?;
    ensure!(lag >= OUTAGE.as_secs_f64() - 5.0, "the lag rose to {lag} s only");
    site.until("the watches to come back", || {
        let metrics = site.agent.metrics()?;
        let worst = metrics.matching(LAG, &[]).map(|(_, seconds)| seconds).fold(0.0, f64::max);
        Ok(metrics.sum(RESTARTS, &[]) > restarts && worst < OUTAGE.as_secs_f64() - 5.0)
    })?;
    // Somebody takes over; the agent learns of it by its watch.
    let more = site.deploy("web-more", 2, &template)?;
    site.world.wait_routed("web", more.pods(), SOON)?;
    site.world.delete(&old[2])?;
    site.world.wait_gone(&old[2], SOON)?;
    load.run_for(Duration::from_secs(2))?;
    let tally = load.stop()?;
    ensure!(failures(&tally.attempts) > 0, "nothing was lost");

    let ends = site.agent.wait_ended(&old, SETTLING)?;
    let verdict = world::judge::join(&tally.attempts, &ends);
    ensure!(verdict.holds(), "{verdict:#?}; {ends:#?}");
    for end in &ends {
        ensure!(end.lost_total() > 0, "{} lost nothing: the scene shows nothing", end.pod.name);
        ensure!(end.trigger == "delete" && end.outcome == "exited", "{end:#?}");
    }
    ensure!(
        !ends[1].complete && ends[2].complete,
        "the gap touches the second end, not the third: {ends:#?}"
    );
    let metrics = site.metrics()?;
    agree(&metrics, "web", &ends)?;
    ensure!(same(metrics.sum("drainscope_node_lost_requests_total", &[]), tally.summary.total.failed));
    site.finish()
}
