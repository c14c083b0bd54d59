//! Load on a Service while its pods are replaced, and the join of what its clients lost with what the agent says, connection by connection.
//!
//! Clients never retry. Who else is at work on the Service is known by its ports and left out of the join.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use world::agent::Termination;
use world::clients::{Load, Tally};
use world::controllers::PodRef;
use world::judge::{self, Verdict};
use world::load::Attempt;

use crate::conntrack::{Clients, Listener};
use crate::kubectl;
use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::release;
use crate::site::Site;

const REPLICAS: usize = 3;
/// The node's address, for NodePorts.
const NODE: [u8; 4] = [10, 89, 0, 1];
/// What a request takes at the server, as in the article; it paces the clients.
pub(crate) const PATH: &str = "/?delay=50ms";
/// Load before pods are replaced, and after the last old one is gone.
pub(crate) const BEFORE: Duration = Duration::from_secs(4);
pub(crate) const AFTER: Duration = Duration::from_secs(3);
/// Our clients: 8 keep their connection, 24 open one for each request; 200 requests a second.
pub(crate) const CLIENTS: &str =
    "--keepalive 8 --keepalive-rate 10 --new 24 --new-rate 5 --connect-timeout 3 --timeout 5";
/// Their ports. Others' are above 32767, where the kernel chooses.
pub(crate) const OWN_PORTS: std::ops::RangeInclusive<u16> = 10_000..=29_999;
/// What an agent knows of ends.
pub(crate) const ENDS: &str = "/api/v1/terminations?limit=1000";
/// The bound on the agent's settling: it waits for 10 s of quiet by itself, and gives up after 120 s.
pub(crate) const SETTLING: Duration = Duration::from_secs(150);

/// The bound on a connect that is to show whether anybody answers.
const CONNECT: Duration = Duration::from_secs(1);

/// How a Service is reached.
pub(crate) struct Target {
    pub(crate) cluster_ip: SocketAddr,
    pub(crate) node_port: SocketAddr,
}

/// Since when the agent counts the requests of a connection.
#[derive(Clone, Copy)]
pub(crate) enum Counted {
    /// Since its begin: an agent was there all the time.
    FromTheFirst,
    /// For some since an agent met them: another one took over, and pods came in between.
    FromTheMiddle,
}

/// What both sides say.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) verdict: Verdict,
    pub(crate) terminations: Vec<Termination>,
    /// Attempts that others' connections lost.
    pub(crate) foreign: u64,
}

/// Makes the Service of that name, if it is not there.
pub(crate) fn service(name: &str) -> anyhow::Result<Target> {
    kubectl::apply(&pods::service(name, "NodePort"))?;
    let service = kubectl::get(&["service", "-n", NAMESPACE, name])?;
    let spec = &service["spec"];
    let port = |key: &str| -> anyhow::Result<u16> {
        Ok(u16::try_from(spec["ports"][0][key].as_u64().context("the Service has a port")?)?)
    };
    let address = spec["clusterIP"].as_str().context("the Service has an address")?;
    Ok(Target {
        cluster_ip: SocketAddr::new(address.parse()?, port("port")?),
        node_port: SocketAddr::from((NODE, port("nodePort")?)),
    })
}

/// Our clients at work while `replace` replaces pods and says which; then the join, once their ends are settled.
pub(crate) fn under_load(
    site: &Site,
    target: SocketAddr,
    counted: Counted,
    replace: impl FnOnce(&mut Load) -> anyhow::Result<Vec<PodRef>>,
) -> anyhow::Result<Outcome> {
    wait_answered(target)?;
    let tracking = Listener::start(target)?;
    let ports = format!("{CLIENTS} --path {PATH} --ports {}-{}", OWN_PORTS.start(), OWN_PORTS.end());
    let mut load = Load::start_by(Command::new(&site.load), &site.state.join("logs"), target, &ports)?;
    let old = replace(&mut load)?;
    let tally = load.stop()?;
    let clients = tracking.stop()?;
    let terminations = site.agent.wait_ended(&old, SETTLING)?;
    let (own, foreign) = split(&terminations, &clients, &tally.attempts);
    let verdict = match counted {
        Counted::FromTheFirst => judge::join(&tally.attempts, &own),
        Counted::FromTheMiddle => {
            let (attempts, own) = judge::without_numbers(tally.attempts.clone(), own)?;
            judge::join(&attempts, &own)
        }
    };
    if !verdict.holds() {
        let said = site.agent.api(ENDS)?;
        save(site, &tally.attempts, &clients, &[said])?;
    }
    Ok(Outcome { tally, verdict, terminations, foreign })
}

/// Until kube-proxy's rules lead there: they come later than the endpoints are ready, and before them it refuses.
pub(crate) fn wait_answered(target: SocketAddr) -> anyhow::Result<()> {
    kubectl::wait(&format!("{target} answers"), PATIENCE, || {
        Ok(TcpStream::connect_timeout(&target, CONNECT).ok().map(drop))
    })
}

/// Keeps what the clients and each agent said of a run that is wrong: the cluster's own logs go with it.
pub(crate) fn save(
    site: &Site,
    attempts: &[Attempt],
    clients: &Clients,
    agents: &[Value],
) -> anyhow::Result<()> {
    let folder = site.load.with_file_name("cluster-wrong");
    let stamp = jiff::Timestamp::now().as_second();
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let keep = |name: &str, text: String| std::fs::write(folder.join(format!("{stamp}-{name}")), text);
    let failed: Vec<_> = attempts.iter().filter(|attempt| !attempt.ok()).collect();
    keep("attempts.json", serde_json::to_string_pretty(&failed)?)?;
    keep("terminations.json", serde_json::to_string_pretty(agents)?)?;
    let names = clients.iter().map(|((peer, pod), names)| format!("{names:?} is {peer} at {pod}\n"));
    keep("clients.txt", names.collect())?;
    let table = Command::new("conntrack").arg("-L").output().context("start conntrack")?;
    keep("conntrack.txt", String::from_utf8_lossy(&table.stdout).into_owned())?;
    let pod = release::pod()?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    keep("agent.log", kubectl::run(&["logs", "-n", release::NAME, &pod])?)?;
    eprintln!("cluster:   what both sides said is kept in {}", folder.display());
    Ok(())
}

/// Three ready pods with this preStop sleep, the ones before them gone and settled.
pub(crate) fn bring_up(site: &Site, name: &str, prestop_seconds: u64) -> anyhow::Result<()> {
    let mut container = pods::container("drain");
    if prestop_seconds > 0 {
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": prestop_seconds}}});
    }
    let known: Vec<PodRef> = pods::labelled(name)?.iter().map(pods::reference).collect::<Result<_, _>>()?;
    kubectl::apply(&pods::workload("Deployment", name, 3, pods::spec(container, prestop_seconds + 30)))?;
    wait_rolled_out(name)?;
    let gone: Vec<PodRef> = kubectl::wait("old pods are gone", PATIENCE, || {
        let there = pods::labelled(name)?;
        let gone = |pod: &&PodRef| !there.iter().any(|it| it["metadata"]["uid"] == pod.uid.as_str());
        Ok((there.len() == REPLICAS).then(|| known.iter().filter(gone).cloned().collect()))
    })?;
    site.agent.wait_ended(&gone, SETTLING).map(drop)
}

/// Begins to replace the pods; which they are.
pub(crate) fn restart(name: &str) -> anyhow::Result<Vec<PodRef>> {
    let old = kubectl::wait("three pods are ready", PATIENCE, || {
        let pods = pods::labelled(name)?;
        let all = pods.len() == REPLICAS && pods.iter().all(|pod| pods::condition(pod, "Ready"));
        all.then(|| pods.iter().map(pods::reference).collect::<anyhow::Result<_>>()).transpose()
    })?;
    kubectl::run(&["rollout", "restart", "-n", NAMESPACE, &format!("deployment/{name}")])?;
    Ok(old)
}

/// Waits until all of these are replaced and gone.
pub(crate) fn wait_replaced(name: &str, old: &[PodRef]) -> anyhow::Result<()> {
    wait_rolled_out(name)?;
    kubectl::wait("old pods are gone", PATIENCE, || {
        let there = pods::labelled(name)?;
        let is_old = |pod: &Value| old.iter().any(|old| pod["metadata"]["uid"] == old.uid.as_str());
        Ok((!there.iter().any(is_old)).then_some(()))
    })
}

fn wait_rolled_out(name: &str) -> anyhow::Result<()> {
    let deployment = format!("deployment/{name}");
    kubectl::run(&["rollout", "status", "-n", NAMESPACE, &deployment, "--timeout=120s"]).map(drop)
}

/// The terminations with evidence of our own clients only, under the clients' own names; and how many attempts others' connections lost. What is
/// of neither stays with ours, where it finds no partner.
pub(crate) fn split(
    terminations: &[Termination],
    clients: &Clients,
    attempts: &[Attempt],
) -> (Vec<Termination>, u64) {
    let mut failed: BTreeSet<SocketAddr> =
        attempts.iter().filter(|attempt| !attempt.ok()).map(|attempt| attempt.local).collect();
    let mut foreign = 0;
    let own = terminations.iter().map(|end| {
        let mut end = end.clone();
        end.evidence.retain_mut(|item| {
            let names = clients.get(&(item.peer, item.local)).map_or(&[][..], Vec::as_slice);
            // Of several that had this name one after the other, the first that missed something and has no evidence yet.
            let found = names.iter().find(|name| names.len() == 1 || failed.remove(*name));
            let others = || names.iter().find(|name| !OWN_PORTS.contains(&name.port()));
            let Some(client) = found.or_else(others).or(names.last()) else { return true };
            if OWN_PORTS.contains(&client.port()) {
                item.peer = *client;
                return true;
            }
            foreign += item.attempts;
            // The counter of its class is joined with what is left.
            if let Some(count) = end.lost.get_mut(&item.class) {
                *count = count.saturating_sub(item.attempts);
            }
            false
        });
        end
    });
    (own.collect(), foreign)
}
