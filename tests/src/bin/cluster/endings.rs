//! Every way in which a pod or container ends, brought about on the real kubelet, and what the agent says of it.
//!
//! Each case has a pod of its own and, where its end can lose one, a client with a request in flight: the phase in which that was lost is checked along with trigger, outcome and what the
//! case is about. Cases run beside each other; the one that kills the kubelet runs alone.

mod api;
mod containers;
mod grace;
mod kubelet;
mod pending;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::agent::{Ports, Restart, Termination};
use world::controllers::PodRef;

use crate::kubectl;
use crate::pods::{self, NAMESPACE};
use crate::report::Row;
use crate::site::Site;
use pending::Pending;

/// The bound on a pod's end and the agent's settling.
const SETTLING: Duration = Duration::from_secs(180);
/// Cases at once: each starts a pod, and more of that than two cores can do makes an agent miss the order of things.
const AT_ONCE: usize = 5;

type Case = (&'static str, fn(&Site) -> anyhow::Result<String>);

/// Cases that leave the node as it is; those that take long come first.
const CASES: &[Case] = &[
    ("liveness kill", containers::liveness),
    ("startup kill", containers::startup),
    ("deletion", api::deletion),
    ("force delete", api::force_delete),
    ("eviction API", api::eviction),
    ("StatefulSet pod replaced", api::stateful_set),
    ("pod that never becomes ready in a rollout", api::never_ready),
    ("readiness gate set by PATCH", api::readiness_gate),
    ("preStop overruns its grace", grace::prestop_overrun),
    ("grace shorter than the drain", grace::too_short),
    ("SIGTERM taken and ignored", grace::taken),
    ("SIGTERM dropped by the kernel", grace::dropped),
    ("sidecar after the main container", grace::sidecar),
    ("container exits", containers::crash),
    ("container out of memory", containers::out_of_memory),
    ("stopped by the runtime, no deletion", containers::runtime_stop),
    ("static pod's manifest removed", kubelet::static_pod),
];
/// Run after all others.
const ALONE: &[Case] = &[("kubelet killed during a termination", kubelet::killed)];

/// Runs the cases whose name contains this.
pub(crate) fn run(site: &Site, filter: &str) -> anyhow::Result<Vec<Row>> {
    let ending = |&(name, case): &Case| {
        let result = case(site);
        eprintln!("cluster: {name}: {}", if result.is_ok() { "right" } else { "WRONG" });
        Row::of(name, result)
    };
    let wanted = |(name, _): &&Case| name.contains(filter);
    eprintln!("cluster: {} ways to end", CASES.iter().chain(ALONE).filter(wanted).count());
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let take = || cases.get(next.fetch_add(1, Ordering::Relaxed)).map(|case| ending(case));
    let mut endings = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..AT_ONCE).map(|_| scope.spawn(|| std::iter::from_fn(take).collect::<Vec<Row>>())).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().ok().context("a case panicked"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?
    .concat();
    endings.extend(ALONE.iter().filter(wanted).map(|case| ending(case)));
    Ok(endings)
}

/// Creates a pod, waits until it is ready, and gives it a request that is never answered.
fn running(name: &str, spec: Value) -> anyhow::Result<(PodRef, Pending)> {
    kubectl::apply(&pods::pod(name, spec))?;
    let pod = pods::wait_pod(name, "is ready", |pod| pods::condition(pod, "Ready"))?;
    Ok((pods::reference(&pod)?, Pending::start(&pod)?))
}

/// `kubectl delete pod`, not waiting for its end.
fn delete(name: &str, extra: &[&str]) -> anyhow::Result<()> {
    kubectl::run(&[&["delete", "pod", "-n", NAMESPACE, name, "--wait=false"], extra].concat()).map(drop)
}

/// What the agent says of a pod's end.
fn ended(agent: &Ports, pod: &PodRef) -> anyhow::Result<Termination> {
    let mut ends = agent.wait_ended(std::slice::from_ref(pod), SETTLING)?;
    ends.pop().context("a pod that ended")
}

/// What the agent says of the end of a container of that pod.
fn restarted(agent: &Ports, pod: &PodRef) -> anyhow::Result<Restart> {
    kubectl::wait("the agent reports the restart", SETTLING, || {
        let restarts = agent.restarts()?;
        Ok(restarts
            .into_iter()
            .find(|it| it.container_restart.pod.uid == pod.uid && it.container_restart.state == "ended"))
    })
}

/// Checks what each end has, and says it in words.
fn check(end: &Termination, trigger: &str, outcome: &str, silent: bool) -> anyhow::Result<String> {
    let said = format!("{} by {}, silent {}", end.outcome, end.trigger, end.silent);
    ensure!(
        (end.trigger.as_str(), end.outcome.as_str(), end.silent) == (trigger, outcome, silent),
        "{said}; wanted {outcome} by {trigger}, silent {silent}"
    );
    ensure!(end.complete, "{said}, but incomplete: {:?}", end.anomalies);
    Ok(said)
}

/// Seconds from one step to another, which must lie between these.
fn between(end: &Termination, from: &str, to: &str, least: f64, most: f64) -> anyhow::Result<f64> {
    let seconds = end
        .seconds_between(from, to)
        .with_context(|| format!("{from} or {to} is missing: {:?}", end.timeline))?;
    ensure!((least..=most).contains(&seconds), "{to} {seconds:.3} s after {from}; wanted {least} to {most}");
    Ok(seconds)
}
