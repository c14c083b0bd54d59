//! hostNetwork pods: they share the node's namespace and addresses with each other and with processes that are no pod's, so that cgroup and
//! port alone say whose a connection is. Clients come from outside the node; the kubelet's probes come from the node's address to itself.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use world::agent::Termination;
use world::controllers::{Deployment, PodRef};
use world::kubelet::{Step, monotonic_ns};
use world::load::Attempt;
use world::wait::wait_for;
use world::{PodTemplate, World, judge};

use crate::site::{
    LOST, NAMESPACE, Site, agree, config, deploy, failures, same, wait_exited, wait_stopped, workload,
};
use crate::{SETTLING, SOON, trial};
use world::clients::{Load, Tally};

/// Long enough for every client's first connection.
const A_WHILE: Duration = Duration::from_secs(1);
/// Losses that a scene has at least.
const LEAST: u64 = 20;
/// One half of the clients keeps its connections. Slow enough that the agent keeps the evidence of every loss.
const MIXED: &str = "--new 8 --new-rate 10 --keepalive 8 --keepalive-rate 10 --connect-timeout 1.5 --log-all";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostNetwork pods are told apart by their ports", neighbours),
        trial("a hostNetwork pod's port is its successor's from when that listens", successor),
        trial("a process that is no pod takes a hostNetwork pod's port over", taken_by_the_node),
        trial("hostNetwork pods that are older than the agent", late_start),
    ]
}

fn neighbours() -> anyhow::Result<()> {
    let site = Site::start()?;
    let deploy = |name: &str, template: &PodTemplate| site.deploy(name, 1, template);
    let mut first = deploy("first", &PodTemplate::on_host("edge", 8080, &["--on-term", "linger:1"]))?;
    let mut second = deploy("second", &PodTemplate::on_host("edge", 8081, &["--on-term", "drain"]))?;
    let probed = PodTemplate::on_host("probed", 8082, &["--on-term", "close-then-wait:3"]);
    let mut probed = deploy("probed", &PodTemplate { prestop_seconds: 2, ..probed })?;
    let service = site.world.service(NAMESPACE, "edge", "edge")?;
    let both = [first.pods(), second.pods()].concat();
    site.world.wait_routed("edge", &both, SOON)?;
    site.world.service(NAMESPACE, "probed", "probed")?;
    site.world.wait_routed("probed", probed.pods(), SOON)?;
    // Well beyond the time for which the pod serves on.
    site.world.delays().proxy.set(2 * A_WHILE);
    let mut stranger = Stranger::start(&site.world, "[::]:9090")?;

    // A source address for each, so that no two of them have a connection of the same name.
    let start = |target: SocketAddr, source: &str| {
        Load::start(&site.world, target, &format!("{MIXED} --source {source}"))
    };
    let mut direct = start(on_node(8080), "10.78.0.2")?;
    let neighbour = start(on_node(8081), "10.78.0.3")?;
    let routed = start((service.v4, service.port).into(), "10.78.0.4")?;
    let routed_six = start((service.v6, service.port).into(), "fd78::2")?;
    let to_stranger = start(on_node(9090), "10.78.0.5")?;
    direct.run_for(A_WHILE)?;
    let deleted = monotonic_ns();
    let (first_pods, probed_pods) = (first.delete_pods()?, probed.delete_pods()?);
    let stopped = wait_stopped(&site.world, &first_pods[0])?;
    wait_exited(&site.world, &first_pods[0])?;
    stranger.end()?;
    // Nobody has the port now, and for a while the rules still send clients there.
    wait_unrouted(&site.world, &first_pods[0])?;
    direct.run_for(A_WHILE / 2)?;
    let (direct, neighbour, to_stranger) = (direct.stop()?, neighbour.stop()?, to_stranger.stop()?);
    let routed = [routed.stop()?.attempts, routed_six.stop()?.attempts].concat();

    for (name, attempts) in [("directly", &direct.attempts), ("by the Service", &routed)] {
        ensure!(failures(attempts) > 0, "nothing was lost {name}");
    }
    ensure!(failures(&neighbour.attempts) == 0, "the neighbour lost {:?}", neighbour.summary.total.by_error);
    let of_stranger = &to_stranger.summary.total;
    ensure!(of_stranger.ok > LEAST && of_stranger.failed > LEAST, "the stranger: {of_stranger:?}");
    let (verdict, ends) = site.judge("first", &[&direct.attempts[..], &routed].concat(), &first_pods)?;
    ensure!(
        verdict.by_class.get("refused").is_some_and(|refused| *refused >= LEAST),
        "{:?}",
        verdict.by_class
    );
    ensure!(ends[0].evidence.iter().any(|item| item.local.is_ipv6()), "nothing by IPv6");
    ensure!(ends[0].evidence.iter().all(|item| item.local.port() == 8080), "{:#?}", ends[0].evidence);
    answered_late(&ends[0], &direct.attempts, &routed, deleted, stopped)?;
    only_probed(&site, &probed_pods)?;
    let lost = ends[0].lost_total();
    nobody_has_the_port(&site)?;
    let second_pods = second.delete_pods()?;
    let ends = site.agent.wait_ended(&second_pods, SETTLING)?;
    untouched(&site, "second", &ends[0])?;
    let counted = site.metrics()?.sum("drainscope_node_lost_requests_total", &[]);
    ensure!(same(counted, lost), "{counted} lost on the node, {lost} of them the first pod's");
    site.finish()
}

/// Of what came late, the clients know: what went directly to the pod after the stop surely did, what went by the Service perhaps.
fn answered_late(
    end: &Termination,
    direct: &[Attempt],
    routed: &[Attempt],
    deleted: u64,
    stopped: u64,
) -> anyhow::Result<()> {
    let count = |attempts: &[Attempt], fits: &dyn Fn(&Attempt) -> bool| {
        attempts.iter().filter(|attempt| attempt.ok() && fits(attempt)).count()
    };
    let after = |attempt: &Attempt| attempt.end_ns > deleted;
    let at_least = u64::try_from(count(direct, &|attempt| attempt.start_ns > stopped))?;
    let at_most = u64::try_from(count(direct, &after) + count(routed, &after))?;
    let answered = end.requests.late_answered;
    ensure!(
        at_least > 0 && (at_least..=at_most).contains(&answered),
        "{at_least} <= {answered} <= {at_most}"
    );
    ensure!(end.connections.open_at_stop.is_some_and(|open| open >= 8), "{:?}", end.connections);
    Ok(())
}

/// Nothing but the kubelet's probes came, before and after the stop: no late request, no loss.
fn only_probed(site: &Site, pods: &[PodRef]) -> anyhow::Result<()> {
    let stopped = wait_stopped(&site.world, &pods[0])?;
    let refused = |step: &Step| matches!(step, Step::Readiness { ready: false, .. });
    ensure!(site.world.wait_step(&pods[0], SOON, refused)? > stopped, "no probe was refused");
    let ends = site.agent.wait_ended(pods, SETTLING)?;
    untouched(site, "probed", &ends[0])
}

/// The pod's end has nothing late and nothing lost.
fn untouched(site: &Site, name: &str, end: &Termination) -> anyhow::Result<()> {
    ensure!(end.complete && end.outcome == "exited", "{name}: {:?}", end.anomalies);
    ensure!(
        end.lost_total() == 0 && end.evidence.is_empty(),
        "{name}: {:?}, {:?}",
        end.lost,
        end.evidence.first()
    );
    ensure!(end.connections.late == 0, "{name}: {:?}", end.connections);
    ensure!(end.requests.late_answered == 0, "{name}: {:?}", end.requests);
    let (metrics, label) = (site.metrics()?, workload(name));
    for metric in [LOST, "drainscope_late_requests_total", "drainscope_late_connections_total"] {
        let labels = [label.as_str()];
        let counted: Vec<_> =
            metrics.matching(metric, &labels).filter(|(_, value)| !same(*value, 0)).collect();
        ensure!(counted.is_empty(), "{name}: {counted:?}");
    }
    Ok(())
}

/// Once the pod's end is settled, an attempt at its port is nobody's.
fn nobody_has_the_port(site: &Site) -> anyhow::Result<()> {
    let tally =
        Load::start(&site.world, on_node(8080), "--new 4 --new-rate 50 --max-requests 100")?.wait()?;
    ensure!(tally.summary.total.failed == 100, "{:?}", tally.summary.total);
    Ok(())
}

fn successor() -> anyhow::Result<()> {
    let site = Site::start()?;
    let args = ["--listen", "10.77.0.1:8080", "--on-term", "exit"].map(str::to_owned).to_vec();
    let template = PodTemplate { args, ..PodTemplate::on_host("edge", 8080, &[]) };
    let mut first = site.deploy("first", 1, &template)?;
    // Where no client comes, somebody else has the same port: that changes nothing.
    let mut stranger = Stranger::start(&site.world, "127.0.0.1:8080")?;
    site.world.service(NAMESPACE, "edge", "edge")?;
    site.world.wait_routed("edge", first.pods(), SOON)?;
    let mut load = Load::start(&site.world, on_node(8080), MIXED)?;
    load.run_for(A_WHILE)?;
    let deleted = monotonic_ns();
    let first_pods = first.delete_pods()?;
    first.wait_gone(&first_pods, SOON)?;
    // The next pod runs and has declared the port, but nobody listens there: what is refused now is still the first one's.
    let go = site.world.node().directory().join("go");
    let mut next = deploy_waiting(&site, "next", &go)?;
    load.run_for(A_WHILE)?;
    let before = load.stop()?;
    stranger.end()?;
    std::fs::write(&go, "")?;
    next.wait_ready(SOON)?;

    let mut load = Load::start(&site.world, on_node(8080), MIXED)?;
    load.run_for(A_WHILE)?;
    let next_pods = next.delete_pods()?;
    wait_exited(&site.world, &next_pods[0])?;
    load.run_for(A_WHILE)?;
    let after = load.stop()?;
    for (name, tally, pods) in [("first", &before, &first_pods), ("next", &after, &next_pods)] {
        let (verdict, _) = site.judge(name, &tally.attempts, pods)?;
        let refused = verdict.by_class.get("refused").copied().unwrap_or(0);
        ensure!(refused >= LEAST, "{name}: {:?}", verdict.by_class);
    }
    let ends = site.agent.wait_ended(&first_pods, SOON)?;
    let at_most = before.attempts.iter().filter(|attempt| attempt.end_ns > deleted).count();
    ensure!(ends[0].requests.late_answered <= u64::try_from(at_most)?, "{:?}", ends[0].requests);
    ensure!(ends[0].connections.late <= u64::try_from(at_most)?, "{:?}", ends[0].connections);
    site.finish()
}

/// A Deployment of one pod that runs, and is known to the agent, but listens on the node's port 8080 only once the file is there.
fn deploy_waiting(site: &Site, name: &str, go: &std::path::Path) -> anyhow::Result<Deployment> {
    let mut template = PodTemplate::on_host("edge", 8080, &[]).to_value();
    let script = format!(
        "until [ -e {} ]; do sleep 0.05; done; exec {} --listen [::]:8080 --on-term exit",
        go.display(),
        env!("CARGO_BIN_EXE_testserver")
    );
    let container = &mut template["spec"]["containers"][0];
    container["image"] = json!("shell");
    container["command"] = json!(["sh", "-c", script]);
    container["args"] = json!([]);
    let world = &site.world;
    let deployment = Deployment::create(world.store(), world.node_name(), NAMESPACE, name, 1, &template)?;
    world.wait_step(&deployment.pods()[0], SOON, |step| matches!(step, Step::ContainerStarted { .. }))?;
    site.until("the next workload's series", || {
        Ok(site.agent.metrics()?.has(LOST, &[&workload(name), "phase=\"terminating\""]))
    })?;
    Ok(deployment)
}

fn taken_by_the_node() -> anyhow::Result<()> {
    let site = Site::start()?;
    let mut first = site.deploy("first", 1, &PodTemplate::on_host("edge", 8080, &["--on-term", "exit"]))?;
    let pods = first.delete_pods()?;
    first.wait_gone(&pods, SOON)?;
    let mut stranger = Stranger::start(&site.world, "[::]:8080")?;
    let mut load = Load::start(&site.world, on_node(8080), MIXED)?;
    load.run_for(A_WHILE)?;
    // Its connections end with it, some of them in the middle of a request, and nobody listens any more.
    stranger.end()?;
    load.run_for(A_WHILE)?;
    let Tally { summary, .. } = load.stop()?;
    ensure!(summary.total.ok > LEAST && summary.total.failed > LEAST, "{:?}", summary.total);
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    untouched(&site, "first", &ends[0])?;
    let counted = site.metrics()?.sum("drainscope_node_lost_requests_total", &[]);
    ensure!(same(counted, 0), "{counted} lost, none of them a pod's");
    site.finish()
}

fn late_start() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let style = ["--on-term", "exit"];
    let mut new = deploy(&world, "new", 1, &PodTemplate::on_host("edge", 8080, &style))?;
    let mut old = deploy(&world, "old", 1, &PodTemplate::on_host("edge", 8081, &style))?;
    let in_flight = format!("--keepalive {LEAST} --path /?delay_ms=60000 --timeout 80 --source 10.78.0.3");
    let mut to_old = Load::start(&world, on_node(8081), &in_flight)?;
    let mut to_new = Load::start(&world, on_node(8080), "--new 20 --new-rate 20 --source 10.78.0.2")?;
    to_old.run_for(A_WHILE)?;
    to_old.end()?;

    // It saw neither listener: the ports are known from the API, their containers from the sockets.
    let site = Site::in_world(world, &[])?;
    to_new.run_for(A_WHILE)?;
    let (new_pods, old_pods) = (new.delete_pods()?, old.delete_pods()?);
    wait_exited(&site.world, &new_pods[0])?;
    to_new.run_for(A_WHILE)?;
    let (to_new, to_old) = (to_new.stop()?, to_old.wait()?);
    let (verdict, _) = site.judge("new", &to_new.attempts, &new_pods)?;
    ensure!(
        verdict.by_class.get("refused").is_some_and(|refused| *refused >= LEAST),
        "{:?}",
        verdict.by_class
    );

    // Connections that are older than the agent are met at their close only: it infers what was lost on them, or says nothing.
    ensure!(u64::try_from(failures(&to_old.attempts))? == LEAST);
    let ends = site.agent.wait_ended(&old_pods, SETTLING)?;
    let verdict = judge::join(&to_old.attempts, &ends);
    ensure!(verdict.agent_only.is_empty() && verdict.miscounted.is_empty(), "{verdict:#?}");
    ensure!(ends[0].evidence.iter().all(|item| item.confidence == "inferred"), "{:#?}", ends[0].evidence);
    agree(&site.metrics()?, "old", &ends)?;
    site.finish()
}

/// Where a port of the node is for its clients.
fn on_node(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 1], port))
}

/// Waits until no rule sends clients to the pod.
fn wait_unrouted(world: &World, pod: &PodRef) -> anyhow::Result<()> {
    for v4 in [true, false] {
        let fits =
            |step: &Step| matches!(step, Step::Rules { used: false, address, .. } if address.is_ipv4() == v4);
        world.wait_step(pod, SOON, fits)?;
    }
    Ok(())
}

/// A server that runs on the node and is no pod; killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn start(world: &World, listen: &str) -> anyhow::Result<Self> {
        let mut command = world.node_command(env!("CARGO_BIN_EXE_testserver"));
        command.args(["--listen", listen, "--name", "stranger"]).stdout(Stdio::null());
        let stranger = Self(command.spawn().context("start a server on the node")?);
        wait_for("the stranger's listener", SOON, || Ok(TcpStream::connect(listen).is_ok()))?;
        Ok(stranger)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It has ended already unless a test failed meanwhile.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
