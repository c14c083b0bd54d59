//! A workload on two nodes, clients on both: what each lost is told by the agent of the pod's node, and by that one alone; and a service proxy that is slow on one
//! node loses requests of that node's clients, wherever the pods were.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use world::agent::Termination;
use world::clients::{Load, Tally};
use world::controllers::PodRef;
use world::judge;

use crate::conntrack::Listener;
use crate::pods;
use crate::report::Row;
use crate::rollout::{self, AFTER, BEFORE, CLIENTS, ENDS, OWN_PORTS, PATH, SETTLING, split};
use crate::second::Node;
use crate::site::Site;

/// The Deployment.
const WEB: &str = "spread";
const FIRST: &str = "node-1";
const SECOND: &str = "node-2";
/// The first of the ports of the second node's clients.
const MIDDLE: u16 = 20_000;
/// So long a service proxy is behind, beyond the roll-out.
const BEHIND: Duration = Duration::from_secs(2);

/// All of it; the agent runs on both nodes.
pub(crate) fn run(site: &Site, second: &Node) -> anyhow::Result<Vec<Row>> {
    rollout::bring_up(site, WEB, 0)?;
    let row = |name: &str, result: anyhow::Result<String>| {
        eprintln!("cluster: {name}: {}", if result.is_ok() { "right" } else { "WRONG" });
        Row::of(name, result)
    };
    Ok(vec![
        row("rolling update, clients on both nodes", update(site, second, false)),
        row("the same, one node's kube-proxy stopped", update(site, second, true)),
    ])
}

/// Pods that were replaced, with the node that each was on.
fn replace(load: &mut Load) -> anyhow::Result<Vec<(PodRef, String)>> {
    load.run_for(BEFORE)?;
    let there = pods::labelled(WEB)?;
    let old = rollout::restart(WEB)?;
    rollout::wait_replaced(WEB, &old)?;
    let node_of = |pod: &PodRef| {
        let object = there.iter().find(|object| object["metadata"]["uid"] == pod.uid.as_str());
        let node = object.and_then(|object| object["spec"]["nodeName"].as_str());
        node.map(str::to_owned).with_context(|| format!("{} is on no node", pod.name))
    };
    old.into_iter().map(|pod| Ok((pod.clone(), node_of(&pod)?))).collect()
}

fn update(site: &Site, second: &Node, is_slow: bool) -> anyhow::Result<String> {
    let target = rollout::service(WEB)?.cluster_ip;
    let logs = site.state.join("logs");
    rollout::wait_answered(target)?;
    second.inside(|| rollout::wait_answered(target))?;
    let here = Listener::start(target)?;
    let there = second.inside(|| Listener::start(target))?;
    let arguments = |first: u16, last: u16| format!("{CLIENTS} --path {PATH} --ports {first}-{last}");
    let own = arguments(*OWN_PORTS.start(), MIDDLE - 1);
    let mut own = Load::start_by(Command::new(&site.load), &logs, target, &own)?;
    let foreign = arguments(MIDDLE, *OWN_PORTS.end());
    let foreign = Load::start_by(second.command(&site.load), &logs, target, &foreign)?;
    let stopped = is_slow.then(|| second.stop_proxy()).transpose()?;
    let old = replace(&mut own)?;
    if is_slow {
        own.run_for(BEHIND)?;
    }
    drop(stopped);
    own.run_for(AFTER)?;
    let tallies = [own.stop()?, foreign.stop()?];
    let mut clients = here.stop()?;
    for (key, names) in there.stop()? {
        clients.entry(key).or_default().extend(names);
    }

    let ends = ends(site, second, &old)?;
    let attempts = tallies.iter().flat_map(|tally| tally.attempts.clone()).collect::<Vec<_>>();
    let (ends, strangers) = split(&ends, &clients, &attempts);
    let verdict = judge::join(&attempts, &ends);
    let failed = tallies.each_ref().map(|tally| tally.summary.total.failed);
    let crossed = ends.iter().zip(&old).map(|(end, (_, node))| crossing(end, node)).sum::<usize>();
    let requests = tallies.iter().map(|tally: &Tally| tally.summary.total.requests).sum::<u64>();
    let said = format!(
        "{requests} requests; lost {} of node 1's clients and {} of node 2's, {} joined {:?}, {crossed} on the other node",
        failed[0], failed[1], verdict.attributed, verdict.by_class
    );
    if !verdict.holds() {
        let said = [site.agent.api(ENDS)?, second.inside(|| Node::agent().api(ENDS))?];
        rollout::save(site, &attempts, &clients, &said)?;
    }
    ensure!(
        verdict.holds() && strangers == 0,
        "{said}; {} client-only, {} agent-only, {} miscounted: {:#?} {:#?}",
        verdict.client_only.len(),
        verdict.agent_only.len(),
        verdict.miscounted.len(),
        verdict.client_only.iter().take(3).collect::<Vec<_>>(),
        verdict.agent_only.iter().take(3).collect::<Vec<_>>()
    );
    ensure!(crossed > 0, "{said}: nothing was lost between the nodes");
    ensure!(!is_slow || failed[1] > failed[0], "{said}: the slow proxy made no difference");
    Ok(said)
}

/// Losses of clients of the other node than the pod's.
fn crossing(end: &Termination, node: &str) -> usize {
    end.evidence.iter().filter(|item| (item.peer.port() < MIDDLE) != (node == FIRST)).count()
}

/// Each pod's end as the agent of its node tells it; an error if the other one tells of it too.
fn ends(site: &Site, second: &Node, old: &[(PodRef, String)]) -> anyhow::Result<Vec<Termination>> {
    let on = |node: &str| {
        old.iter().filter(|(_, on)| on == node).map(|(pod, _)| pod.clone()).collect::<Vec<PodRef>>()
    };
    let (here, there) = (on(FIRST), on(SECOND));
    ensure!(!here.is_empty() && !there.is_empty(), "all pods were on one node");
    let mut found = site.agent.wait_ended(&here, SETTLING)?;
    let first = site.agent.terminations()?;
    let (foreign, second) = second.inside(|| {
        let agent = Node::agent();
        Ok((agent.wait_ended(&there, SETTLING)?, agent.terminations()?))
    })?;
    found.extend(foreign);
    for (pods, others) in [(&here, &second), (&there, &first)] {
        let told: BTreeSet<&str> = others.iter().map(|end| end.pod.uid.as_str()).collect();
        ensure!(pods.iter().all(|pod| !told.contains(pod.uid.as_str())), "both agents tell of one end");
    }
    let of = |pod: &PodRef| found.iter().find(|end| end.pod.uid == pod.uid).cloned();
    old.iter().map(|(pod, _)| of(pod).context("an end")).collect()
}
