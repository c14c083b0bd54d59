//! The agent killed and started again, with its maps and programs pinned: nothing that happened meanwhile is missing from the counts, whoever
//! counts on: the same programs, those of another version, or new ones after the old pins proved to be of no use.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use world::agent::{Agent, Termination};
use world::controllers::{Deployment, PodRef};
use world::{PodTemplate, World};

use crate::site::{LOST, NAMESPACE, Site, config, failures, program, same, workload};
use crate::{SETTLING, SOON, trial};
use world::clients::{Load, Tally};

const CLIENTS: &str = "--new 24 --new-rate 10 --keepalive 8 --keepalive-rate 10 --connect-timeout 1.5";
const HALF: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("no count is lost while the agent is dead", killed),
        trial("no count is lost when another agent takes over", upgraded),
        trial("programs that nobody reads fall silent, and that is said", silent),
        trial("pins that cannot be used are said to be, and what was counted stays", unusable),
    ]
}

/// What the chart gives the agent, and nothing else.
const CAPABILITIES: [&str; 3] = ["setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all"];

fn start_agent(world: &World, arguments: &[&str]) -> anyhow::Result<Agent> {
    Agent::start_through(world, &CAPABILITIES, &program()?, arguments)
}

/// A world with an agent that pins, a Deployment of three behind a Service, and clients.
struct Scene {
    site: Site,
    pins: PathBuf,
    old: Vec<PodRef>,
    load: Load,
    // Its pods live as long as it does.
    _deployment: Deployment,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let world = World::start(config())?;
        let pins = world.node().bpffs()?.join("drainscope");
        let mut agent = start_agent(&world, &["--pin-dir", utf8(&pins)?])?;
        agent.wait_ready(SOON)?;
        let site = Site { agent, world };
        let template = PodTemplate::testserver("web", &["--on-term", "exit"]);
        let deployment = site.deploy("web", 4, &template)?;
        let service = site.world.service(NAMESPACE, "web", "web")?;
        site.world.wait_routed("web", deployment.pods(), SOON)?;
        site.world.delays().proxy.set(Duration::from_secs(1));
        let mut load = Load::start(&site.world, (service.v4, service.port), CLIENTS)?;
        load.run_for(HALF)?;
        let old = deployment.pods()[..3].to_vec();
        Ok(Self { site, pins, old, load, _deployment: deployment })
    }

    /// Another agent in place of the one that is dead.
    fn start_agent(&mut self, more: &[&str]) -> anyhow::Result<()> {
        let arguments = [&["--pin-dir", utf8(&self.pins)?], more].concat();
        self.site.agent = start_agent(&self.site.world, &arguments)?;
        self.site.agent.wait_ready(SOON)
    }

    /// Deletes one of the pods and waits until it is gone, its losses included.
    fn lose(&mut self, number: usize) -> anyhow::Result<()> {
        let pod = self.old[number].clone();
        self.site.world.delete(&pod)?;
        self.site.world.wait_gone(&pod, SOON)?;
        self.load.run_for(3 * HALF)
    }

    fn heritage(&self) -> anyhow::Result<String> {
        let status = self.site.agent.api("/status")?;
        let pins = &status["pins"];
        ensure!(pins["state"] == "active", "{pins}");
        pins["heritage"].as_str().map(str::to_owned).context("no heritage")
    }

    /// Ends the load; every failure of a client is in the metrics and in the terminations, by class.
    fn judge(self) -> anyhow::Result<(Site, Vec<Termination>, Tally)> {
        let Self { site, old, load, .. } = self;
        let tally = load.stop()?;
        let failed = failures(&tally.attempts);
        ensure!(failed > 0, "nothing was lost");
        let ends = site.agent.wait_ended(&old, SETTLING)?;
        let lost: u64 = ends.iter().map(Termination::lost_total).sum();
        let metrics = site.metrics()?;
        let counted = metrics.sum(LOST, &[&workload("web")]);
        ensure!(
            lost == u64::try_from(failed)? && same(counted, lost),
            "{failed} failed, {lost} in the terminations, {counted} in the metrics: {ends:#?}"
        );
        for (end, pod) in ends.iter().zip(&old) {
            ensure!(end.lost_total() > 0, "{} lost nothing: the scene shows nothing", end.pod.name);
            ensure!(end.pod.name == pod.name && end.outcome == "exited", "{end:#?}");
        }
        let pods = metrics.sum("drainscope_pod_terminations_total", &[&workload("web")]);
        ensure!(same(pods, 3), "{pods} terminations of 3 pods");
        Ok((site, ends, tally))
    }
}

fn killed() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    ensure!(scene.heritage()? == "none", "the first agent found pins");
    let mut second = Agent::start(&scene.site.world, &program()?, &["--pin-dir", utf8(&scene.pins)?])?;
    let refused =
        second.wait_exit(SOON).map_or_else(|error| error.to_string(), |_| "exit status: 0".to_owned());
    ensure!(refused.contains("exit status: 2") && refused.contains("another agent holds"), "{refused}");

    // One pod is over, one is in the middle of its end, one ends while there is no agent.
    scene.lose(0)?;
    let middle = scene.old[1].clone();
    scene.site.world.delete(&middle)?;
    crate::site::wait_exited(&scene.site.world, &middle)?;
    scene.site.agent.kill()?;
    scene.site.world.wait_gone(&middle, SOON)?;
    scene.lose(2)?;
    scene.start_agent(&[])?;
    ensure!(scene.heritage()? == "adopted", "{}", scene.heritage()?);
    let (site, ends, tally) = scene.judge()?;
    // What the dead agent had read of the middle one, and not saved, is missing as evidence, and said to be. Each end says that the API was
    // not watched for a while.
    for (number, end) in ends.iter().enumerate() {
        let is_whole = end.shown() == end.lost_total();
        let says = |what: &str| end.anomalies.iter().any(|anomaly| anomaly == what);
        ensure!(is_whole != says("evidence_missing") && (is_whole || number == 1), "{end:#?}");
        ensure!(!end.complete && says("watch_gap"), "{end:#?}");
    }
    for end in &ends {
        let partners = world::judge::join(&tally.attempts, std::slice::from_ref(end));
        ensure!(partners.agent_only.is_empty(), "{partners:#?}");
    }
    cleaned(site)
}

/// `drainscope cleanup` leaves nothing, and only when nobody is at work.
fn cleaned(site: Site) -> anyhow::Result<()> {
    let mut site = site;
    let pins = site.world.node().bpffs()?.join("drainscope");
    let clean = |site: &Site| {
        let mut command = site.world.node_command(program()?);
        command.args(["cleanup", "--pin-dir"]).arg(&pins).output().context("drainscope cleanup")
    };
    let refused = clean(&site)?;
    ensure!(refused.status.code() == Some(2) && pins.is_dir(), "{refused:?}");

    // As the hook of an uninstall runs it: it waits for the agent, cleans, and stays until it is told to go.
    let mut hook = site.world.node_command(program()?);
    hook.args(["cleanup", "--wait", "60s", "--stay", "10m", "--pin-dir"]).arg(&pins);
    let mut hook =
        hook.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("drainscope cleanup")?;
    let (stdout, stderr) = (hook.stdout.take().context("stdout")?, hook.stderr.take().context("stderr")?);
    let line = |pipe: &mut dyn BufRead| -> anyhow::Result<String> {
        let mut line = String::new();
        pipe.read_line(&mut line)?;
        Ok(line)
    };
    let waiting = line(&mut BufReader::new(stderr))?;
    ensure!(waiting.starts_with("waiting for the agent that holds") && pins.is_dir(), "{waiting}");
    site.agent.kill()?;
    let done = line(&mut BufReader::new(stdout))?;
    ensure!(done.contains("8 attached programs") && !pins.exists(), "{done}");
    ensure!(hook.try_wait()?.is_none(), "it did not stay");
    kill(Pid::from_raw(hook.id().try_into()?), Signal::SIGTERM)?;
    ensure!(hook.wait()?.success(), "it did not end well");
    ensure!(clean(&site)?.status.success(), "a second time");
    site.finish()
}

fn upgraded() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    scene.lose(0)?;
    let pod = scene.old[1].clone();
    scene.site.world.delete(&pod)?;
    crate::site::wait_exited(&scene.site.world, &pod)?;
    scene.site.agent.kill()?;
    // Other settings make other programs: these take over the maps of those.
    scene.start_agent(&["--log-level", "debug"])?;
    ensure!(scene.heritage()? == "upgraded", "{}", scene.heritage()?);
    scene.site.world.wait_gone(&pod, SOON)?;
    scene.lose(2)?;
    let sets = std::fs::read_dir(&scene.pins)?.count();
    ensure!(sets == 2, "maps and one set of programs, not {sets} directories");
    let (site, ..) = scene.judge()?;
    site.finish()
}

fn silent() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let pins = world.node().bpffs()?.join("drainscope");
    let arguments = ["--pin-dir", utf8(&pins)?, "--silence", "1s"];
    let mut site = Site::in_world(world, &arguments)?;
    ensure!(same(silences(&site)?, 0), "silent from the start");
    site.agent.kill()?;
    // Any process's exit after that second is the occasion.
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(site.world.node_command("true").status()?.success());
    site.agent = Agent::start(&site.world, &program()?, &arguments)?;
    site.agent.wait_ready(SOON)?;
    let status = site.agent.api("/status")?;
    ensure!(status["pins"]["heritage"] == "silent", "{}", status["pins"]);
    site.until("the gap to be counted", || Ok(same(silences(&site)?, 1)))?;
    site.finish()
}

fn unusable() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    scene.lose(0)?;
    let end = scene.old[0].clone();
    scene.site.agent.wait_ended(&[end], SETTLING)?;
    let before = scene.site.metrics()?.sum(LOST, &[]);
    ensure!(before > 0.0, "nothing was lost");
    scene.site.agent.kill()?;
    std::fs::remove_file(scene.pins.join("maps/PORTS")).context("spoil the pins")?;
    scene.start_agent(&[])?;
    let status: Value = scene.site.agent.api("/status")?;
    ensure!(status["pins"]["heritage"] == "foreign", "{}", status["pins"]);
    ensure!(status["pins"]["why"].as_str().is_some_and(|why| why.contains("PORTS")), "{}", status["pins"]);
    scene.site.until("the gap to be counted", || Ok(same(silences(&scene.site)?, 1)))?;
    let after = scene.site.metrics()?.sum(LOST, &[]);
    ensure!((after - before).abs() < f64::EPSILON, "{before} before, {after} after");
    // It counts on from there.
    scene.lose(1)?;
    scene.lose(2)?;
    let (site, ..) = scene.judge()?;
    site.finish()
}

/// Gaps in which the kernel programs did not count.
fn silences(site: &Site) -> anyhow::Result<f64> {
    Ok(site.metrics()?.sum("drainscope_anomalies_total", &["kind=\"kernel_silent\""]))
}

fn utf8(path: &std::path::Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}
