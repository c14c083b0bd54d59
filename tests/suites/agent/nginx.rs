//! A server that is not ours: nginx, stopped fast (SIGTERM) and gracefully (SIGQUIT), under kept and new connections.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::PodTemplate;

use crate::site::{NAMESPACE, Site, failures};
use crate::{SOON, trial};
use world::clients::Load;

const CLIENTS: &str =
    "--new 20 --new-rate 10 --keepalive 16 --keepalive-rate 20 --connect-timeout 1.5 --blind";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("nginx, stopped fast and gracefully, is joined exactly", nginx)]
}

fn nginx() -> anyhow::Result<()> {
    let site = Site::start()?;
    let fast = PodTemplate::nginx("fast");
    let graceful = PodTemplate { stop_signal: Some("SIGQUIT".to_owned()), ..PodTemplate::nginx("graceful") };
    let mut running = Vec::new();
    for template in [fast, graceful] {
        let deployment = site.deploy(&template.app, 2, &template)?;
        let service = site.world.service(NAMESPACE, &template.app, &template.app)?;
        site.world.wait_routed(&template.app, deployment.pods(), SOON)?;
        let load = Load::start(&site.world, (service.v4, service.port), CLIENTS)?;
        running.push((template, deployment, load));
    }
    site.world.delays().proxy.set(Duration::from_secs(1));
    let mut ended = Vec::new();
    for (template, mut deployment, mut load) in running {
        load.run_for(Duration::from_secs(1))?;
        let old = site.roll(&mut deployment, &template)?;
        load.run_for(Duration::from_millis(500))?;
        ended.push((template, old, load.stop()?));
    }
    for (template, old, tally) in ended {
        ensure!(failures(&tally.attempts) > 0, "{}: nothing was lost", template.app);
        let (_, ends) = site.judge(&template.app, &tally.attempts, &old)?;
        let signal = if template.stop_signal.is_some() { 3 } else { 15 };
        for end in ends {
            let container = &end.containers[0];
            ensure!(
                container.signal == Some(signal.into()) && container.exit_code == Some(0),
                "{container:?}"
            );
        }
    }
    site.finish()
}
