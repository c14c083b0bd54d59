//! What must count zero: traffic that loses nothing, or nothing of a client's, to pods that run, are being deleted, and are stopping.
//!
//! Each scene has a pod of its own, so that a number in the wrong place names its scene. Each pod loses one request on purpose while it runs
//! and one while it stops; both are counted exactly once, so that a zero is never the zero of a pod that nobody watched. What no sequence number
//! tells from a lost request is here twice: with what it is taken for on a port of plain HTTP/1, and where the Service says what its port speaks.

#[path = "controls/place.rs"]
pub(crate) mod place;
#[path = "controls/scenes.rs"]
mod scenes;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::agent::{Metrics, Termination};
use world::controllers::{Deployment, PodRef};
use world::kubelet::Step;
use world::{PodTemplate, World};

use crate::site::{LOST, NAMESPACE, Site, wait_exited, wait_stopped, workload};
use crate::{SETTLING, SOON, trial};
use place::{PORT, Place, TIMES, connect, read_end, request};
use scenes::{HTTP, Played, SCENES, SCRAPED, Scene};

/// The pods' time in the phase `deleting`: far more than their scenes take.
const PRESTOP_SECONDS: u64 = 7;
/// The pods' time from the stop signal to their end: the same.
const STOP_SECONDS: u64 = 7;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("controls: what loses nothing counts zero, in every phase", controls)]
}

/// Where the pods are in their lives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Deleting,
    Stopping,
}

/// A scene on its stage.
struct Act {
    scene: &'static Scene,
    deployment: Deployment,
    pod: PodRef,
    place: Place,
    /// Client connections while the pod was deleted or stopped.
    late: u64,
    kept: Vec<TcpStream>,
}

/// Losses by class and confidence.
type Losses = BTreeMap<(String, String), u64>;

fn controls() -> anyhow::Result<()> {
    let site = Site::start()?;
    // A container's exit and the end of its network are two things.
    site.world.delays().sandbox.set(Duration::from_millis(500));
    let mut acts = set_up(&site)?;

    play(&mut acts, Phase::Running)?;
    let metrics = site.metrics()?;
    all(&acts, |act| act.counted(&metrics, Phase::Running, 0))?;
    for act in &acts {
        act.lose(Phase::Running)?;
    }
    // A new series is held at 0 for a moment.
    site.until("each running pod's one loss", || {
        let metrics = site.agent.metrics()?;
        let is_shown = |act: &Act| lost(&metrics, act.scene.name, "running").contains_key(&act.unanswered());
        Ok(acts.iter().all(is_shown))
    })?;

    for act in &mut acts {
        act.deployment.delete_pods()?;
    }
    site.until("the deletions to be seen", || {
        let known = site.agent.terminations()?;
        Ok(acts.iter().all(|act| known.iter().any(|end| end.pod.uid == act.pod.uid)))
    })?;
    play(&mut acts, Phase::Deleting)?;
    not_yet(&site.world, &acts, |step| matches!(step, Step::Signal { .. }))?;

    for act in &acts {
        wait_stopped(&site.world, &act.pod)?;
    }
    play(&mut acts, Phase::Stopping)?;
    let positives: Vec<_> = acts.iter().map(|act| act.lose(Phase::Stopping)).collect::<Result<_, _>>()?;
    not_yet(&site.world, &acts, |step| matches!(step, Step::Exited { .. }))?;

    for act in &mut acts {
        for mut stream in act.kept.drain(..) {
            read_end(&mut stream).context(act.scene.name)?;
        }
        wait_exited(&site.world, &act.pod)?;
    }
    let pods: Vec<PodRef> = acts.iter().map(|act| act.pod.clone()).collect();
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let metrics = site.metrics()?;
    all(&acts, |act| {
        let nth = pods.iter().position(|pod| *pod == act.pod).context("its pod")?;
        act.judge(&ends[nth], positives[nth])?;
        act.counted(&metrics, Phase::Running, 1)?;
        act.counted(&metrics, Phase::Stopping, 1)
    })?;
    site.finish()
}

/// A pod for each scene, behind a Service that names one of its two ports.
fn set_up(site: &Site) -> anyhow::Result<Vec<Act>> {
    let mut deployments = Vec::new();
    for scene in SCENES {
        let (store, node) = (site.world.store(), site.world.node_name());
        let deployment = Deployment::create(store, node, NAMESPACE, scene.name, 1, &template(scene))?;
        let (port_name, app_protocol) = scene.speaks;
        site.world.service_speaking(NAMESPACE, scene.name, scene.name, port_name, app_protocol)?;
        deployments.push((scene, deployment));
    }
    let mut acts = Vec::new();
    for (scene, deployment) in deployments {
        deployment.wait_ready(SOON)?;
        let pod = deployment.pods()[0].clone();
        site.world.wait_routed(scene.name, deployment.pods(), SOON)?;
        site.until("the workload's series", || {
            Ok(site.agent.metrics()?.has(LOST, &[&workload(scene.name)]))
        })?;
        let place = Place::of(&site.world, &pod)?;
        acts.push(Act { scene, deployment, pod, place, late: 0, kept: Vec::new() });
    }
    Ok(acts)
}

fn template(scene: &Scene) -> Value {
    let style = if scene.closes { "close-then-wait" } else { "linger" };
    let (end, service, scraped) =
        (format!("{style}:{STOP_SECONDS}"), format!("[::]:{PORT}"), format!("[::]:{SCRAPED}"));
    let arguments = ["--on-term", &end, "--listen", &service, "--listen", &scraped];
    let template = PodTemplate {
        prestop_seconds: PRESTOP_SECONDS,
        grace_seconds: 2 * (PRESTOP_SECONDS + STOP_SECONDS),
        ..PodTemplate::testserver(scene.name, &arguments)
    };
    let mut template = template.to_value();
    if let Some(ports) = template["spec"]["containers"][0]["ports"].as_array_mut() {
        ports.push(json!({"name": "metrics", "containerPort": SCRAPED, "protocol": "TCP"}));
    }
    template
}

/// All scenes at once.
fn play(acts: &mut [Act], phase: Phase) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let play = |act: &'_ mut Act| act.play(phase).context(act.scene.name);
        let playing: Vec<_> = acts.iter_mut().map(|act| scope.spawn(move || play(act))).collect();
        playing.into_iter().try_for_each(|act| act.join().ok().context("a scene panicked")?)
    })
}

/// None of the pods has come so far: the phase is the one that was meant.
fn not_yet(world: &World, acts: &[Act], step: fn(&Step) -> bool) -> anyhow::Result<()> {
    for act in acts {
        let early = world.journal().first(&act.pod.uid, step);
        ensure!(early.is_none(), "{}: the scenes are too slow for the phase", act.scene.name);
    }
    Ok(())
}

/// What is wrong with any of them.
fn all(acts: &[Act], judge: impl Fn(&Act) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let wrong: Vec<String> =
        acts.iter().filter_map(|act| Some(format!("{}: {:#}", act.scene.name, judge(act).err()?))).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The lost requests that the metrics have of a workload in a phase.
fn lost(metrics: &Metrics, name: &str, phase: &str) -> Losses {
    let (workload, phase) = (workload(name), format!("phase=\"{phase}\""));
    let label = |series: &str, name: &str| {
        let value = series.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.map(|(value, _)| value.to_owned()).unwrap_or_default()
    };
    let mut losses = Losses::new();
    for (series, count) in metrics.matching(LOST, &[&workload, &phase]) {
        if count > 0.0 {
            // A whole number is printed as one; any other is none that is wanted.
            let count = count.to_string().parse().unwrap_or(u64::MAX);
            losses.insert((label(series, "reason"), label(series, "confidence")), count);
        }
    }
    losses
}

impl Act {
    /// A request that the server read and did not answer.
    fn unanswered(&self) -> (String, String) {
        let confidence = if self.scene.speaks == HTTP { "observed" } else { "inferred" };
        ("unanswered".to_owned(), confidence.to_owned())
    }

    fn play(&mut self, phase: Phase) -> anyhow::Result<()> {
        let closed = self.scene.closes && phase == Phase::Stopping;
        let Played { connections, kept } = (self.scene.play)(&self.place, closed)?;
        self.kept.extend(kept);
        if phase != Phase::Running {
            self.late += connections;
        }
        Ok(())
    }

    /// One request that is really lost; the client's address, unless it was refused.
    fn lose(&self, phase: Phase) -> anyhow::Result<Option<SocketAddr>> {
        let address = self.place.at(0, PORT);
        let is_closed = self.scene.closes && phase == Phase::Stopping;
        self.place.client.inside(|| {
            if is_closed {
                ensure!(connect(address).is_err(), "{}: somebody still listens", self.scene.name);
                return Ok(None);
            }
            let mut stream = connect(address)?;
            // Longer than what any protocol says of itself.
            let padding = format!("X-Padding: {}\r\n", "x".repeat(100));
            stream.write_all(request("GET /drop", &padding).as_bytes())?;
            read_end(&mut stream)?;
            Ok(Some(stream.local_addr()?))
        })?
    }

    /// What should be counted: so many requests that were lost on purpose, and what the scene is taken for.
    fn wanted(&self, phase: Phase, positives: u64) -> anyhow::Result<Losses> {
        let is_refused = self.scene.closes && phase != Phase::Running;
        let positive =
            if is_refused { ("refused".to_owned(), "observed".to_owned()) } else { self.unanswered() };
        let mut wanted = Losses::from([(positive, positives)]);
        if let Some(loss) = self.scene.taken_for {
            let phases = if phase == Phase::Running { u64::from(loss.running) } else { 2 };
            let times = phases * u64::try_from(TIMES)?;
            *wanted.entry((loss.class.to_owned(), loss.confidence.to_owned())).or_default() += times;
        }
        wanted.retain(|_, count| *count > 0);
        Ok(wanted)
    }

    fn counted(&self, metrics: &Metrics, phase: Phase, positives: u64) -> anyhow::Result<()> {
        let label = if phase == Phase::Running { "running" } else { "terminating" };
        let (counted, wanted) = (lost(metrics, self.scene.name, label), self.wanted(phase, positives)?);
        ensure!(counted == wanted, "{label}: counted {counted:?}, wanted {wanted:?}");
        Ok(())
    }

    /// The pod's end is told as it was, with the loss of the client with this address.
    fn judge(&self, end: &Termination, positive: Option<SocketAddr>) -> anyhow::Result<()> {
        let mut shown = Losses::new();
        for item in &end.evidence {
            *shown.entry((item.class.clone(), item.confidence.clone())).or_default() += item.attempts;
        }
        let wanted = self.wanted(Phase::Stopping, 1)?;
        let ports: Vec<u16> = end.evidence.iter().map(|item| item.local.port()).collect();
        ensure!(shown == wanted, "evidence of {shown:?}, wanted {wanted:?}; ports {ports:?}");
        let is_it = |peer| end.evidence.iter().any(|item| item.peer == peer && item.phase == "stopping");
        ensure!(positive.is_none_or(is_it), "{positive:?} is not in the evidence: {:#?}", end.evidence);
        ensure!(end.lost_total() == wanted.values().sum::<u64>(), "{:?}", end.lost);
        ensure!(end.complete && end.evidence_dropped == 0, "{:?}", end.anomalies);
        let late = self.late + u64::from(positive.is_some());
        ensure!(end.connections.late == late, "{late} late connections: {:?}", end.connections);
        ensure!(end.probes_excluded > 0, "the kubelet's probes were not seen");
        Ok(())
    }
}
