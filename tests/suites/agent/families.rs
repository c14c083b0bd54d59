//! IPv4 and IPv6: a Service's both addresses, a dual-stack listener (v4-mapped) and one for IPv4 only.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::PodTemplate;

use crate::site::{NAMESPACE, Site, failures};
use crate::{SOON, trial};
use world::clients::Load;

const CLIENTS: &str = "--new 20 --new-rate 5 --keepalive 4 --keepalive-rate 10 --connect-timeout 1.5";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("IPv4, IPv6 and v4-mapped connections are joined alike", families)]
}

fn families() -> anyhow::Result<()> {
    let site = Site::start()?;
    let dual_template = PodTemplate::testserver("dual", &["--on-term", "exit", "--listen", "[::]:8080"]);
    let plain_template =
        PodTemplate::testserver("plain", &["--on-term", "drain", "--listen", "0.0.0.0:8080"]);
    let mut dual = site.deploy("dual", 2, &dual_template)?;
    let mut plain = site.deploy("plain", 2, &plain_template)?;
    let dual_service = site.world.service(NAMESPACE, "dual", "dual")?;
    let plain_service = site.world.service(NAMESPACE, "plain", "plain")?;
    site.world.wait_routed("dual", dual.pods(), SOON)?;
    site.world.wait_routed("plain", plain.pods(), SOON)?;
    site.world.delays().proxy.set(Duration::from_secs(1));
    let start = |target: SocketAddr| Load::start(&site.world, target, CLIENTS);
    let mut mapped = start((dual_service.v4, 80).into())?;
    let six = start((dual_service.v6, 80).into())?;
    let four = start((plain_service.v4, 80).into())?;
    mapped.run_for(Duration::from_secs(1))?;
    let old_dual = site.roll(&mut dual, &dual_template)?;
    let old_plain = site.roll(&mut plain, &plain_template)?;
    mapped.run_for(Duration::from_secs(1))?;
    for load in [&mapped, &six, &four] {
        load.end()?;
    }
    let (mapped, six, four) = (mapped.wait()?, six.wait()?, four.wait()?);
    for (name, tally) in [("v4-mapped", &mapped), ("IPv6", &six), ("IPv4 only", &four)] {
        ensure!(failures(&tally.attempts) > 0, "{name}: nothing was lost");
    }
    let both = [mapped.attempts, six.attempts].concat();
    let (_, ends) = site.judge("dual", &both, &old_dual)?;
    for end in &ends {
        for item in &end.evidence {
            ensure!(
                item.peer.is_ipv4() == item.local.is_ipv4(),
                "a v4-mapped address is told as IPv6: {item:?}"
            );
        }
        ensure!(end.evidence.iter().any(|item| item.local.is_ipv4()), "{}: nothing by IPv4", end.pod.name);
        ensure!(end.evidence.iter().any(|item| item.local.is_ipv6()), "{}: nothing by IPv6", end.pod.name);
    }
    site.judge("plain", &four.attempts, &old_plain)?;
    site.finish()
}
