//! The kubelet's own verdicts beside the connections that the kernel showed: the same probes, counted twice, must agree.
//!
//! The agent runs as in its DaemonSet, in a pid namespace of its own, and mirrors the same probes to the same ports: those must not be counted.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::PodTemplate;
use world::World;
use world::agent::Agent;
use world::controllers::PodRef;
use world::kubelet::{AUTHORITY, Certificate, MetricsServer};

use crate::mirrored::container_of;
use crate::site::{NAMESPACE, SERVER, Site, address_of, config, deploy, program};
use crate::{SOON, trial};

const TOKEN: &str = "the agent's";
/// Verdicts of each probe that have to agree.
const VERDICTS: u64 = 5;
/// With a period of a second, two of them may be under way at either edge of a span, and two probes on one port are twice as many.
const UNDER_WAY: u64 = 8;
/// Connections of nobody's probe.
const STRANGERS: u64 = 30;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("the kubelet's verdicts agree with the connections that its probes made", agree)]
}

/// A pod whose probes run each second.
fn pod(world: &World, name: &str, probes: &Value) -> anyhow::Result<PodRef> {
    let mut container = json!({
        "name": "server", "command": [SERVER], "ports": [{"name": "http", "containerPort": 8080}],
    });
    for (kind, handler) in probes.as_object().context("probes")? {
        let mut probe = json!({"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1000});
        probe["httpGet"] = handler["httpGet"].clone();
        probe["tcpSocket"] = handler["tcpSocket"].clone();
        container[kind] = probe;
    }
    let pod = json!({"metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
    world.pod_of_value(NAMESPACE, name, pod)
}

/// An agent like a DaemonSet's, which is ready, and mirrors each probe once a second.
fn agent(world: &World, kubelet: &MetricsServer) -> anyhow::Result<Agent> {
    let own = deploy(world, "own", 1, &PodTemplate::testserver("own", &[]))?;
    let own = own.pods().first().context("no pod")?;
    let cgroup = container_of(world, own)?;
    let script = format!("echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"", cgroup.display());
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", &script];
    let authority = world.node().directory().join("kubelet-ca.crt");
    std::fs::write(&authority, AUTHORITY)?;
    let authority = authority.to_str().context("a path")?;
    let flags = ["--pod-uid", &own.uid, "--probes", "mirror", "--probes-period", "1s"];
    let url = kubelet.url();
    let its = [
        "--kubelet-metrics",
        &url,
        "--kubelet-metrics-period",
        "1s",
        "--kubelet-certificate-authority",
        authority,
    ];
    let mut agent = Agent::start_through(world, &wrapper, &program()?, &[&flags[..], &its[..]].concat())?;
    agent.wait_ready(SOON)?;
    Ok(agent)
}

/// The kubelet's half of a pod's probe.
fn half(site: &Site, pod: &PodRef, probe_type: &str) -> anyhow::Result<Value> {
    let answer = site.agent.api(&format!("/api/v1/probes?pod={}", pod.name))?;
    let rows = answer["probes"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["pod"]["uid"] == pod.uid && row["probe_type"] == probe_type);
    Ok(row.map_or(Value::Null, |row| row["kubelet"].clone()))
}

fn number(value: &Value) -> anyhow::Result<u64> {
    value.as_u64().with_context(|| format!("no number: {value}"))
}

/// Waits for so many verdicts in the span; from the first on they agree, and the bounds tell something.
fn agrees(site: &Site, pod: &PodRef, probe_type: &str, since: &Value) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    site.until("verdicts that agree", || {
        last = half(site, pod, probe_type)?;
        let span = &last["reconciled"];
        if span.is_null() || span["since"] == *since {
            return Ok(false);
        }
        ensure!(span["difference"] == 0, "{} {probe_type}: {last}", pod.name);
        let (least, most) = (number(&span["seen"]["least"])?, number(&span["seen"]["most"])?);
        ensure!(most - least <= UNDER_WAY, "{} {probe_type}: {last}", pod.name);
        Ok(number(&span["verdicts"])? >= VERDICTS)
    })
    .with_context(|| format!("{} {probe_type}: {last}", pod.name))?;
    Ok(last)
}

fn agree() -> anyhow::Result<()> {
    let world = World::start(config())?;
    world.api().set_token(TOKEN);
    let kubelet = MetricsServer::start(world.kubelet().verdicts(), Certificate::Signed, TOKEN)?;
    let http = |path: &str| json!({"httpGet": {"path": path, "port": "http"}});
    // One that is older than the agent.
    let early = pod(&world, "early", &json!({"readinessProbe": http("/readyz")}))?;
    let agent = agent(&world, &kubelet)?;
    let site = Site { agent, world };
    let world = &site.world;
    let tcp = pod(world, "tcp", &json!({"readinessProbe": {"tcpSocket": {"port": 8080}}}))?;
    let refused = pod(world, "refused", &json!({"readinessProbe": {"tcpSocket": {"port": 9999}}}))?;
    let slow = pod(world, "slow", &json!({"readinessProbe": http("/readyz?delay_ms=30000")}))?;
    let both =
        pod(world, "both", &json!({"startupProbe": http("/readyz"), "readinessProbe": http("/readyz")}))?;

    for (pod, result) in [
        (&early, "success"),
        (&tcp, "success"),
        (&refused, "failure"),
        (&slow, "failure"),
        (&both, "success"),
    ] {
        let mut half = agrees(&site, pod, "Readiness", &Value::Null)?;
        let told = world.kubelet().verdicts().total(&pod.uid, "Readiness");
        site.until("the verdicts so far", || {
            half = self::half(&site, pod, "Readiness")?;
            Ok(number(&half["verdicts"][result])? >= told)
        })?;
        let (shown, now) =
            (number(&half["verdicts"][result])?, world.kubelet().verdicts().total(&pod.uid, "Readiness"));
        ensure!(shown <= now, "{}: {now} at last, and {half}", pod.name);
        ensure!(half["shared"] == (pod.name == "both"), "{half}");
    }
    let startup = half(&site, &both, "Startup")?;
    ensure!(startup["verdicts"] == json!({"success": 1, "failure": 0, "unknown": 0}), "{startup}");

    // The kubelet starts anew; then somebody else comes to the same port.
    let before = half(&site, &early, "Readiness")?["reconciled"]["since"].clone();
    kubelet.restart(&[&early.uid]);
    let half_anew = agrees(&site, &early, "Readiness", &before)?;
    let target: SocketAddr = address_of(world, &early)?;
    world.node().network().inside(|| {
        for _ in 0..STRANGERS {
            TcpStream::connect(target)?;
        }
        anyhow::Ok(())
    })??;
    site.until("the strangers to be told", || {
        let half = half(&site, &early, "Readiness")?;
        ensure!(half["reconciled"]["since"] == half_anew["reconciled"]["since"], "a span of its own: {half}");
        let difference = half["reconciled"]["difference"].as_i64().context("no difference")?;
        let most = i64::try_from(STRANGERS)?;
        ensure!((0..=most).contains(&difference), "{half}");
        Ok(difference > most - i64::try_from(UNDER_WAY)?)
    })?;
    drop(kubelet);
    site.until("a kubelet that is gone to be named", || {
        let status = site.agent.api("/status")?;
        Ok(status["kubelet_metrics"]["state"] == "failed")
    })?;
    site.finish()
}
