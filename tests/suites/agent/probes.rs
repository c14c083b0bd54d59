//! Probes of pods that are on their way out or gone: nothing that becomes of them is a loss, and beside them every client's attempt is.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::clients::Load;
use world::controllers::PodRef;
use world::kubelet::Step;
use world::{PodTemplate, World};

use crate::site::{Site, address_of, wait_exited, wait_stopped};
use crate::{SOON, trial};

/// Probes of each sort.
const PROBES: usize = 6;
/// Attempts of the clients.
const CLIENTS: usize = 8;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a probe that is refused, or that nobody answers, is no loss", lost_probes)]
}

/// A probe with the kubelet's time-out; it ends in an error, which is returned.
fn probe(target: SocketAddr, timeout: Duration) -> anyhow::Result<ErrorKind> {
    match TcpStream::connect_timeout(&target, timeout) {
        Ok(_) => anyhow::bail!("{target} accepted a connection"),
        Err(error) => Ok(error.kind()),
    }
}

/// Probes from the node, side by side like those of several containers, each of which ends in this error.
fn probes(world: &World, target: SocketAddr, timeout: Duration, ends: ErrorKind) -> anyhow::Result<()> {
    let ended = world.node().network().inside(|| {
        thread::scope(|scope| {
            let all: Vec<_> = (0..PROBES).map(|_| scope.spawn(move || probe(target, timeout))).collect();
            all.into_iter()
                .map(|one| one.join().unwrap_or_else(|_panic| anyhow::bail!("a probe panicked")))
                .collect::<anyhow::Result<Vec<_>>>()
        })
    })??;
    ensure!(ended.iter().all(|error| *error == ends), "{ended:?} in place of {ends:?}");
    Ok(())
}

fn gone(world: &World, pod: &PodRef) -> anyhow::Result<()> {
    wait_exited(world, pod)?;
    world.wait_step(pod, SOON, |step| *step == Step::SandboxRemoved).map(drop)
}

fn lost_probes() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "probed";
    let template = PodTemplate::testserver(name, &["--on-term", "close-then-wait:2"]);
    let mut deployment = site.deploy(name, 1, &template)?;
    let target = address_of(&site.world, &deployment.pods()[0])?;
    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pods[0])?;
    let clients = format!("--new 4 --max-requests {CLIENTS} --connect-timeout 1");
    let refused = Load::start(&site.world, target, &clients)?;
    probes(&site.world, target, SOON, ErrorKind::ConnectionRefused)?;
    let refused = refused.wait()?;
    gone(&site.world, &pods[0])?;
    // The packets of these wait for a neighbour longer than their probes do.
    let given_up = Load::start(&site.world, target, &clients)?;
    probes(&site.world, target, Duration::from_millis(500), ErrorKind::TimedOut)?;
    let given_up = given_up.wait()?;
    // These are told that there is none.
    let unreachable = Load::start(&site.world, target, &format!("--new 4 --max-requests {CLIENTS}"))?;
    probes(&site.world, target, SOON, ErrorKind::HostUnreachable)?;
    let unreachable = unreachable.wait()?;

    let attempts = [refused.attempts, given_up.attempts, unreachable.attempts].concat();
    let (verdict, ends) = site.judge(name, &attempts, &pods)?;
    ensure!(
        verdict.failed == u64::try_from(3 * CLIENTS)?,
        "{} failed: {:?}",
        verdict.failed,
        verdict.by_class
    );
    for class in ["refused", "blackholed"] {
        ensure!(verdict.by_class.contains_key(class), "{:?}", verdict.by_class);
    }
    // Besides these there are the kubelet's own.
    let least = u64::try_from(3 * PROBES)?;
    ensure!(ends[0].probes_excluded >= least, "{} probes", ends[0].probes_excluded);
    site.finish()
}
