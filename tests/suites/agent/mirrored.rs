//! Mirrored probes beside the real kernel programs: they are the agent's own connections, and nothing of them is a client's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::agent::Agent;
use world::controllers::PodRef;
use world::cri::Runtime;
use world::wait::wait_until;
use world::{PodTemplate, World};

use crate::site::{SERVER, Site, config, deploy, program};
use crate::{SETTLING, SOON, trial};

/// Longer than the mirror's, so that most probes are the mirror's.
const PERIOD_SECONDS: u64 = 5;
/// What the pod has before its stop signal, and after it without a listener.
const PRESTOP_SECONDS: u64 = 3;
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mirrored probes of an agent in a pod are no clients of a stopping pod", own_connections),
        trial("mirrored commands are run by the runtime while the pod lives", commands),
    ]
}

/// The id of the pod's only container.
fn container_id(world: &World, pod: &PodRef) -> anyhow::Result<String> {
    let object = world.object(pod)?;
    let id = object["status"]["containerStatuses"][0]["containerID"].as_str().context("no container id")?;
    let (_, id) = id.split_once("://").context("no runtime")?;
    Ok(id.to_owned())
}

/// The cgroup of the pod's only container, as the API names it: there is the sandbox's too.
pub(crate) fn container_of(world: &World, own: &PodRef) -> anyhow::Result<PathBuf> {
    Ok(world.node().cgroups().pod(&own.uid).join(container_id(world, own)?))
}

/// The agent's row of this pod; `None` if it has none.
fn row(agent: &Agent, pod: &str) -> anyhow::Result<Option<Value>> {
    let answer = agent.api(&format!("/api/v1/probes?pod={pod}"))?;
    let rows = answer["probes"].as_array().context("no rows")?;
    Ok(rows.iter().map(|row| &row["mirror"]).find(|mirror| !mirror.is_null()).cloned())
}

fn attempts(row: &Value) -> u64 {
    ["success", "warning", "failure"].iter().filter_map(|result| row["attempts"][result].as_u64()).sum()
}

/// As a DaemonSet's pod: in a container's cgroup that the kernel side knows, and in a pid namespace of its own. No client comes.
fn own_connections() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let own = deploy(&world, "own", 1, &PodTemplate::testserver("own", &[]))?;
    let own = own.pods().first().context("no pod")?;
    let cgroup = container_of(&world, own)?;
    let script = format!("echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"", cgroup.display());
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", &script];
    let flags = ["--pod-uid", &own.uid, "--probes", "mirror", "--probes-period", "1s"];
    let mut agent = Agent::start_through(&world, &wrapper, &program()?, &flags)?;
    agent.wait_ready(SOON)?;
    let site = Site { agent, world };

    let name = "mirrored";
    let container = json!({
        "name": "server",
        "command": [SERVER, "--listen", "[::]:8080", "--on-term", "close-then-wait:3"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": PERIOD_SECONDS, "failureThreshold": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRESTOP_SECONDS}}},
    });
    let pod = site.pod(name, &json!({"terminationGracePeriodSeconds": 20, "containers": [container]}))?;
    site.until("its probe to be mirrored", || {
        Ok(row(&site.agent, name)?.is_some_and(|row| row["state"] == "up"))
    })?;
    site.world.delete(&pod)?;
    site.until("the deletion to be seen", || Ok(!site.agent.terminations()?.is_empty()))?;
    let before = row(&site.agent, name)?.context("readiness is probed on")?;
    let mut last = before.clone();
    wait_until("the pod to go", SETTLING, POLL, || {
        let now = row(&site.agent, name)?;
        last = now.clone().unwrap_or_else(|| last.clone());
        Ok(now.is_none().then_some(()))
    })?;
    let refused = last["refused_since"].as_str().with_context(|| format!("not refused at last: {last}"))?;
    let refused = refused.parse::<jiff::Timestamp>()?.as_duration().as_secs_f64();
    let [end] = &site.agent.wait_ended(&[pod], SETTLING)?[..] else { bail!("not one end") };

    ensure!(end.lost_total() == 0 && end.evidence.is_empty(), "{:?} {:?}", end.lost, end.evidence);
    ensure!(end.connections.late == 0 && end.requests.late_answered == 0, "{end:?}");
    ensure!(end.tail_seconds.is_none(), "{:?}", end.tail_seconds);
    ensure!(end.complete, "{:?}", end.anomalies);
    // Once a second, served before the stop and refused after it; the kubelet's own come on top.
    let late = attempts(&last) - attempts(&before);
    ensure!(late >= PRESTOP_SECONDS, "{before} {last}");
    ensure!(end.probes_excluded >= late, "{} excluded of {late} and the kubelet's", end.probes_excluded);
    let closed = end.step("listener_closed").and_then(world::agent::Step::seconds);
    let closed = closed.with_context(|| format!("{:?}", end.timeline))?;
    // A probe is the first at most a period later; the clocks are compared to the millisecond that a connect takes.
    ensure!((closed - 0.1..closed + 1.5).contains(&refused), "closed at {closed}, refused since {refused}");
    let metrics = site.metrics()?;
    let labels = ["target_workload=\"mirrored\"", "handler=\"http\"", "result=\"success\""];
    ensure!(metrics.sum("drainscope_probe_attempts_total", &labels) >= 1.0, "no attempt is counted");
    site.finish()
}

/// A folder that goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a temporary folder disturbs nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Waits for what the mirrored probe of this pod came to.
fn until_row(site: &Site, pod: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = None;
    site.until(what, || {
        last = row(&site.agent, pod)?.filter(&is_so);
        Ok(last.is_some())
    })?;
    last.context("it was there")
}

/// The agent's own flags, and a runtime that comes later than the agent and the pod.
fn commands() -> anyhow::Result<()> {
    let folder = Folder(std::env::temp_dir().join(format!("drainscope-commands-{}", std::process::id())));
    std::fs::create_dir(&folder.0)?;
    let (socket, file) = (folder.0.join("cri.sock"), folder.0.join("healthy"));
    std::fs::write(&file, "well")?;
    let asked = format!("unix://{}", socket.display());
    let world = World::start(config())?;
    let site = Site::in_world(world, &["--probes", "mirror", "--probes-exec", "--cri-socket", &asked])?;

    let name = "commands";
    let probe = json!({"exec": {"command": ["cat", "$(FILE)"]}, "periodSeconds": 1, "failureThreshold": 2});
    let pod = site.pod(
        name,
        &json!({"containers": [{
            "name": "server",
            "command": [SERVER, "--listen", "[::]:8080"],
            "env": [{"name": "FILE", "value": file}],
            "livenessProbe": probe,
        }]}),
    )?;
    let missed = until_row(&site, name, "a run without a runtime", |row| row["last"]["result"] == "unknown")?;
    let words = missed["last"]["output"].as_str().unwrap_or_default();
    ensure!(words.contains(&format!("dial unix {}", socket.display())), "{missed}");
    ensure!(missed["state"] == "up", "nothing is said of the container: {missed}");

    let runtime = Runtime::start(&socket, &[&container_id(&site.world, &pod)?])?;
    let well = until_row(&site, name, "a run by the runtime", |row| row["last"]["result"] == "success")?;
    ensure!(well["state"] == "up" && well["last"]["output"] == "well", "{well}");
    std::fs::remove_file(&file)?;
    let down = until_row(&site, name, "its failure", |row| row["state"] == "down")?;
    let words = down["last"]["output"].as_str().unwrap_or_default();
    ensure!(words.contains("No such file") && words.contains(&file.display().to_string()), "{down}");

    site.world.delete(&pod)?;
    site.until("its worker to end", || Ok(row(&site.agent, name)?.is_none()))?;
    ensure!(runtime.started() == runtime.ended(), "a command is left");
    site.finish()
}
