//! A Service that loses its last endpoint, and what the real kube-proxy refuses there: each connect that the kernel told a client to be refused
//! is in the ends of the pods that were the last.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use world::controllers::PodRef;

use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::rollout::{self, SETTLING};
use crate::site::Site;
use crate::{kubectl, release};

/// Connects at once; the kernel tells one address six times in a burst that it is refused.
const CONNECTS: usize = 4;
/// A client is told at once, or when it repeats its SYN: the first answer may meet a socket that is in use by its own connect().
const PATIENT: Duration = Duration::from_secs(8);

/// The Deployment is scaled to nothing.
pub(crate) fn run(site: &Site, web: &str) -> anyhow::Result<String> {
    let target = rollout::service(web)?.cluster_ip;
    let last: Vec<PodRef> = pods::labelled(web)?.iter().map(pods::reference).collect::<Result<_, _>>()?;
    kubectl::run(&["scale", "deployment", web, "-n", NAMESPACE, "--replicas=0"])?;
    kubectl::wait("no pod is left", PATIENCE, || Ok(pods::labelled(web)?.is_empty().then_some(())))?;
    // Pods that are gone refuse nothing: who refuses from here on is the proxy. Until its rules say so, nobody answers.
    let one = || TcpStream::connect_timeout(&target, PATIENT).map_err(|error| error.kind());
    let is_refused = |end: &Result<TcpStream, ErrorKind>| matches!(end, Err(ErrorKind::ConnectionRefused));
    kubectl::wait("the proxy refuses", PATIENCE, || Ok(is_refused(&one()).then_some(())))?;
    let ends = thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTS).map(|_| scope.spawn(one)).collect();
        all.into_iter()
            .map(|one| one.join().ok().context("a client panicked"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    ensure!(ends.iter().all(Result::is_err), "{target}: {ends:?}");
    let refused = 1 + ends.iter().filter(|end| is_refused(end)).count();
    let terminations = site.agent.wait_ended(&last, SETTLING)?;
    let counted: u64 = terminations.iter().map(|end| end.service_refused).sum();
    ensure!(
        usize::try_from(counted)? == refused,
        "{refused} were refused, {counted} counted: {terminations:#?}"
    );
    told(web)?;
    let (asked, pods) = (1 + CONNECTS, last.len());
    Ok(format!(
        "{refused} of {asked} connects were told to be refused, all counted; {pods} pods were the last"
    ))
}

fn told(web: &str) -> anyhow::Result<()> {
    let pod = release::pod()?["metadata"]["name"].as_str().context("a name")?.to_owned();
    let log = kubectl::run(&["logs", "-n", release::NAME, &pod])?;
    let is_it = |line: &&str| line.contains("service-without-endpoints") && line.contains(web);
    ensure!(log.lines().filter(is_it).count() == 1, "not one finding in the agent's log:\n{log}");
    Ok(())
}
