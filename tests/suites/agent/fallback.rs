//! Late traffic that the service proxy sends on purpose, and late traffic that nobody sends on purpose.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use world::PodTemplate;
use world::agent::Termination;
use world::apiserver::Kind;
use world::clients::Load;
use world::controllers::PodRef;

use crate::site::{NAMESPACE, Site, address_of, failures, same, workload};
use crate::{SOON, trial};

const LATE: &str = "drainscope_late_connections_total";
const FALLBACK: &str = "expected=\"fallback\"";
const CLIENTS: &str = "--new 8 --new-rate 20";
/// Clients go on for so long after the deletion; the pods serve longer.
const AFTER: Duration = Duration::from_millis(1500);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("traffic is expected where the proxy sends it on purpose, and nowhere else", fallback)]
}

fn fallback() -> anyhow::Result<()> {
    let site = Site::start()?;
    let template = |name: &str| PodTemplate {
        prestop_seconds: 2,
        ..PodTemplate::testserver(name, &["--on-term", "linger:4"])
    };
    let lonely = site.deploy("lonely", 1, &template("lonely"))?;
    let published = site.deploy("published", 2, &template("published"))?;
    let headless = site.deploy("headless", 1, &template("headless"))?;
    let mut targets: Vec<SocketAddr> = Vec::new();
    for deployment in [&lonely, &published] {
        let name = deployment.pods()[0].name.split('-').next().unwrap_or_default().to_owned();
        let service = site.world.service(NAMESPACE, &name, &name)?;
        targets.push((service.v4, service.port).into());
    }
    site.world.store().update(Kind::Services, NAMESPACE, "published", |service| {
        service["spec"]["publishNotReadyAddresses"] = json!(true);
    })?;
    site.world.store().create(
        Kind::Services,
        json!({
            "metadata": {"namespace": NAMESPACE, "name": "headless"},
            "spec": {
                "clusterIP": "None", "clusterIPs": ["None"], "publishNotReadyAddresses": true,
                "selector": {"app": "headless"}, "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
            },
        }),
    )?;
    site.world.wait_routed("lonely", lonely.pods(), SOON)?;
    site.world.wait_routed("published", published.pods(), SOON)?;
    targets.push(address_of(&site.world, &headless.pods()[0])?);

    let pods: Vec<PodRef> =
        [lonely, published, headless].iter().map(|deployment| deployment.pods()[0].clone()).collect();
    let mut loads = Vec::new();
    for target in targets {
        loads.push(Load::start(&site.world, target, CLIENTS)?);
    }
    for pod in &pods {
        site.world.delete(pod)?;
    }
    // A reading in which it began counts as not expected: from the first expected connections on there are only such.
    site.until("expected connections", || {
        let metrics = site.metrics()?;
        let seen = |name: &str| metrics.sum(LATE, &[&workload(name), FALLBACK]) > 0.0;
        Ok(seen("lonely") && seen("published"))
    })?;
    let unexpected = |site: &Site, name: &str| -> anyhow::Result<f64> {
        Ok(site.metrics()?.sum(LATE, &[&workload(name), "expected=\"no\""]))
    };
    let before = [unexpected(&site, "lonely")?, unexpected(&site, "published")?];
    loads[0].run_for(AFTER)?;
    loads.iter().try_for_each(Load::end)?;
    for load in loads {
        let tally = load.wait()?;
        ensure!(failures(&tally.attempts) == 0, "{:?}", tally.summary.total);
    }
    let ends = site.agent.wait_ended(&pods, SOON)?;
    let after = [unexpected(&site, "lonely")?, unexpected(&site, "published")?];
    ensure!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < f64::EPSILON), "{before:?}, {after:?}");
    for (end, expects) in ends.iter().zip([true, true, false]) {
        told(&site, end, expects)?;
    }
    site.finish()
}

fn told(site: &Site, end: &Termination, expects: bool) -> anyhow::Result<()> {
    let name = end.pod.name.split('-').next().unwrap_or_default();
    let metrics = site.metrics()?;
    let counted = metrics.sum(LATE, &[&workload(name), FALLBACK]);
    ensure!(same(counted, end.expected) && (end.expected > 0) == expects, "{name}: {counted}, {end:#?}");
    let all = metrics.sum(LATE, &[&workload(name)]);
    ensure!(same(all, end.connections.late) && end.connections.late > 0, "{name}: {all}, {end:#?}");
    ensure!(end.complete && end.lost_total() == 0 && end.outcome == "exited", "{end:#?}");
    ensure!(end.tail_censored || !expects, "{name}: traffic on purpose measures no tail");
    Ok(())
}
