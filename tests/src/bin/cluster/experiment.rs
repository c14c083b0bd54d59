//! The founding experiment: a Deployment of three replicas behind a Service, steady load through it, one rolling update; first without a preStop sleep, then
//! with the one that the agent advises.
//!
//! fortio is there for the article's figures. It repeats a request once on a dead kept connection, so its failures are at most the attempts lost. Our own generator, at work at
//! the same time, never retries: each of its failures is joined with the agent's evidence.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use world::agent::Termination;
use world::clients::{Load, Tally};
use world::controllers::PodRef;
use world::judge::{self, Verdict};

use crate::conntrack::{Clients, Listener};
use crate::kubectl;
use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::site::Site;

/// Deployment and Service.
const NAME: &str = "web";
const REPLICAS: usize = 3;
/// The node's address, for NodePorts.
const NODE: [u8; 4] = [10, 89, 0, 1];
/// What a request takes at the server, as in the article; it paces the clients.
const REQUEST: &str = "/?delay=50ms";
/// Load in all; the update begins after [`BEFORE`].
const DURATION: Duration = Duration::from_secs(40);
const BEFORE: Duration = Duration::from_secs(4);
/// Load goes on for so long after the last old pod is gone.
const AFTER: Duration = Duration::from_secs(3);
/// Our clients: 8 keep their connection, 24 open one for each request; 200 requests a second.
const CLIENTS: &str =
    "--keepalive 8 --keepalive-rate 10 --new 24 --new-rate 5 --connect-timeout 3 --timeout 5";
/// Their ports. fortio's are above 32767, where the kernel chooses.
const OWN_PORTS: std::ops::RangeInclusive<u16> = 10_000..=29_999;
/// fortio's clients and their requests a second together.
const FORTIO: (&str, &str) = ("8", "120");
/// The bound on the agent's settling: it waits for 10 s of quiet by itself, and gives up after 120 s.
const SETTLING: Duration = Duration::from_secs(150);

/// How clients reach the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    ClusterIp,
    NodePort,
}

impl Path {
    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "clusterip",
            Self::NodePort => "nodeport",
        }
    }
}

/// One path, one preStop.
pub(crate) struct Experiment {
    pub(crate) path: Path,
    pub(crate) prestop_seconds: u64,
    pub(crate) runs: Vec<Run>,
}

/// One rolling update under load.
pub(crate) struct Run {
    pub(crate) tally: Tally,
    pub(crate) verdict: Verdict,
    pub(crate) terminations: Vec<Termination>,
    pub(crate) fortio: Fortio,
    /// The traffic tail and the preStop sleep that the agent makes of it.
    pub(crate) advice: Value,
}

/// fortio's own account.
pub(crate) struct Fortio {
    pub(crate) report: Value,
    /// Evidence of attempts that its connections lost.
    pub(crate) lost: u64,
}

impl Fortio {
    /// Requests.
    pub(crate) fn requests(&self) -> u64 {
        self.report["DurationHistogram"]["Count"].as_u64().unwrap_or_default()
    }

    /// Requests without a 200.
    pub(crate) fn failed(&self) -> u64 {
        self.requests() - self.report["RetCodes"]["200"].as_u64().unwrap_or_default()
    }
}

/// Runs without a preStop sleep, then as many with the longest that the agent advised.
pub(crate) fn run(site: &Site, path: Path, runs: u32) -> anyhow::Result<Vec<Experiment>> {
    let target = service(path)?;
    let mut without = Experiment { path, prestop_seconds: 0, runs: Vec::new() };
    for _ in 0..runs {
        without.runs.push(update(site, target, &without)?);
    }
    let advised = |run: &Run| run.advice["prestop_seconds"].as_u64();
    let advised =
        without.runs.iter().filter_map(advised).max().context("the agent advises no preStop sleep")?;
    let mut with = Experiment { path, prestop_seconds: advised, runs: Vec::new() };
    for _ in 0..runs {
        with.runs.push(update(site, target, &with)?);
    }
    Ok(vec![without, with])
}

fn service(path: Path) -> anyhow::Result<SocketAddr> {
    kubectl::apply(&pods::service(NAME, "NodePort"))?;
    let service = kubectl::get(&["service", "-n", NAMESPACE, NAME])?;
    let spec = &service["spec"];
    let port = |key: &str| -> anyhow::Result<u16> {
        Ok(u16::try_from(spec["ports"][0][key].as_u64().context("the Service has a port")?)?)
    };
    Ok(match path {
        Path::ClusterIp => {
            let address = spec["clusterIP"].as_str().context("the Service has an address")?;
            SocketAddr::new(address.parse()?, port("port")?)
        }
        Path::NodePort => SocketAddr::from((NODE, port("nodePort")?)),
    })
}

fn update(site: &Site, target: SocketAddr, experiment: &Experiment) -> anyhow::Result<Run> {
    let prestop = experiment.prestop_seconds;
    bring_up(site, prestop)?;
    let old = ready_pods()?;
    eprintln!("cluster: {}, preStop {prestop} s: rolling update under load", experiment.path.name());

    let start = jiff::Timestamp::now();
    let tracking = Listener::start()?;
    let mut fortio = start_fortio(site, target)?;
    let ports = format!("{CLIENTS} --path {REQUEST} --ports {}-{}", OWN_PORTS.start(), OWN_PORTS.end());
    let mut load = Load::start_by(Command::new(&site.load), &site.state.join("logs"), target, &ports)?;
    let begun = Instant::now();
    load.run_for(BEFORE)?;
    kubectl::run(&["rollout", "restart", "-n", NAMESPACE, &format!("deployment/{NAME}")])?;
    wait_rolled_out(&old)?;
    load.run_for(AFTER.max(DURATION.saturating_sub(begun.elapsed())))?;
    let tally = load.stop()?;
    let status = fortio.wait().context("wait for fortio")?;
    ensure!(status.success(), "fortio ended with {status}");
    let clients = tracking.stop()?;

    let terminations = site.agent.wait_ended(&old, SETTLING)?;
    let (own, lost_by_fortio) = split(&terminations, &clients);
    let verdict = judge::join(&tally.attempts, &own);
    if !verdict.holds() {
        save(site, &tally, &clients)?;
    }
    let text = std::fs::read_to_string(fortio_file(site)).context("read fortio's report")?;
    let report = serde_json::from_str(&text).context("fortio's report")?;
    let advice =
        site.agent.api(&format!("/api/v1/advice?namespace={NAMESPACE}&workload={NAME}&since={start}"))?;
    let run = Run {
        tally,
        verdict,
        terminations,
        fortio: Fortio { report, lost: lost_by_fortio },
        advice: advice["items"][0].clone(),
    };
    eprintln!(
        "cluster:   {} requests, {} failed, {} of them explained; fortio {} failed",
        run.tally.summary.total.requests,
        run.verdict.failed,
        run.verdict.attributed,
        run.fortio.failed()
    );
    Ok(run)
}

/// Keeps what both sides said of a run that is wrong: the cluster's own logs go with it.
fn save(site: &Site, tally: &Tally, clients: &Clients) -> anyhow::Result<()> {
    let folder = site.load.with_file_name("cluster-wrong");
    let stamp = jiff::Timestamp::now().as_second();
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let keep = |name: &str, text: String| std::fs::write(folder.join(format!("{stamp}-{name}")), text);
    let failed: Vec<_> = tally.attempts.iter().filter(|attempt| !attempt.ok()).collect();
    keep("attempts.json", serde_json::to_string_pretty(&failed)?)?;
    keep("terminations.json", site.agent.api("/api/v1/terminations?limit=1000")?.to_string())?;
    let names = clients.iter().map(|((peer, pod), client)| format!("{client} is {peer} at {pod}\n"));
    keep("clients.txt", names.collect())?;
    eprintln!("cluster:   what both sides said is kept in {}", folder.display());
    Ok(())
}

/// Three ready pods with this preStop sleep, the ones before them gone and settled.
fn bring_up(site: &Site, prestop_seconds: u64) -> anyhow::Result<()> {
    let mut container = pods::container("drain");
    if prestop_seconds > 0 {
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": prestop_seconds}}});
    }
    let known: Vec<PodRef> = pods::labelled(NAME)?.iter().map(pods::reference).collect::<Result<_, _>>()?;
    kubectl::apply(&pods::workload("Deployment", NAME, 3, pods::spec(container, prestop_seconds + 30)))?;
    kubectl::run(&["rollout", "status", "-n", NAMESPACE, &format!("deployment/{NAME}"), "--timeout=120s"])?;
    let gone: Vec<PodRef> = kubectl::wait("old pods are gone", PATIENCE, || {
        let there = pods::labelled(NAME)?;
        let gone = |pod: &&PodRef| !there.iter().any(|it| it["metadata"]["uid"] == pod.uid.as_str());
        Ok((there.len() == REPLICAS).then(|| known.iter().filter(gone).cloned().collect()))
    })?;
    site.agent.wait_ended(&gone, SETTLING).map(drop)
}

fn ready_pods() -> anyhow::Result<Vec<PodRef>> {
    kubectl::wait("three pods are ready", PATIENCE, || {
        let pods = pods::labelled(NAME)?;
        let all = pods.len() == REPLICAS && pods.iter().all(|pod| pods::condition(pod, "Ready"));
        all.then(|| pods.iter().map(pods::reference).collect::<anyhow::Result<_>>()).transpose()
    })
}

fn wait_rolled_out(old: &[PodRef]) -> anyhow::Result<()> {
    kubectl::run(&["rollout", "status", "-n", NAMESPACE, &format!("deployment/{NAME}"), "--timeout=120s"])?;
    kubectl::wait("old pods are gone", PATIENCE, || {
        let there = pods::labelled(NAME)?;
        let is_old = |pod: &Value| old.iter().any(|old| pod["metadata"]["uid"] == old.uid.as_str());
        Ok((!there.iter().any(is_old)).then_some(()))
    })
}

fn fortio_file(site: &Site) -> std::path::PathBuf {
    site.state.join("logs/fortio.json")
}

fn start_fortio(site: &Site, target: SocketAddr) -> anyhow::Result<Child> {
    let (clients, rate) = FORTIO;
    let seconds = format!("{}s", DURATION.as_secs());
    let log = std::fs::File::create(site.state.join("logs/fortio.log")).context("create fortio's log")?;
    Command::new("fortio")
        .args(["load", "-quiet", "-c", clients, "-qps", rate, "-t", &seconds, "-nocatchup", "-timeout", "3s"])
        .args(["-p", "50,75,90,99,99.9", "-allow-initial-errors", "-json"])
        .arg(fortio_file(site))
        .arg(format!("http://{target}{REQUEST}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start fortio")
}

/// The terminations with evidence of our own clients only, under the clients' own names; and how many attempts fortio's connections lost. What is
/// of neither stays with ours, where it finds no partner.
fn split(terminations: &[Termination], clients: &Clients) -> (Vec<Termination>, u64) {
    let mut foreign = 0;
    let own = terminations.iter().map(|end| {
        let mut end = end.clone();
        end.evidence.retain_mut(|item| {
            let Some(client) = clients.get(&(item.peer, item.local)) else { return true };
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
