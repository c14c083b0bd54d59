//! The founding experiment: a Deployment of three replicas behind a Service, steady load through it, one rolling update; first without a preStop sleep, then
//! with the one that the agent advises, which is a Deployment of its own: what is said of the one is not said of the other.
//!
//! fortio is there for the article's figures. It repeats a request once on a dead kept connection, so its failures are at most the attempts lost. Our own generator never retries.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use serde_json::Value;
use world::agent::Termination;
use world::clients::Tally;
use world::judge::Verdict;

use crate::alerts::Prometheus;
use crate::report::Row;
use crate::rollout::{self, AFTER, BEFORE, Counted, PATH};
use crate::site::Site;

/// Deployments and Services: without a preStop sleep, and with one.
const WITHOUT: &str = "web";
const WITH: &str = "web-prestop";
/// Load in all.
const DURATION: Duration = Duration::from_secs(24);
/// fortio's clients and their requests a second together.
const FORTIO: (&str, &str) = ("8", "120");

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

/// Both paths, each without a preStop sleep and then with the longest that the agent advised; and what a Prometheus that was there all the time says.
pub(crate) fn run(site: &Site, runs: u32) -> anyhow::Result<(Vec<Experiment>, Vec<Row>)> {
    let prometheus = Prometheus::start(site)?;
    let (mut experiments, mut rows) = (Vec::new(), Vec::new());
    let mut clean = Err(anyhow!("there was no clean rollout"));
    for path in [Path::ClusterIp, Path::NodePort] {
        let mut without = Experiment { path, prestop_seconds: 0, runs: Vec::new() };
        for _ in 0..runs {
            without.runs.push(update(site, WITHOUT, &without)?);
            if rows.is_empty() {
                // Its very first losses.
                rows.push(prometheus.fires(WITHOUT));
            }
        }
        let advised = |run: &Run| run.advice["prestop_seconds"].as_u64();
        let advised =
            without.runs.iter().filter_map(advised).max().context("the agent advises no preStop sleep")?;
        if path == Path::ClusterIp {
            // fortio's kept connections lose attempts in spite of the sleep, and it repeats them: its rollouts are not clean.
            clean = prometheus.clean_rollout(site, advised);
        }
        let mut with = Experiment { path, prestop_seconds: advised, runs: Vec::new() };
        for _ in 0..runs {
            with.runs.push(update(site, WITH, &with)?);
        }
        experiments.extend([without, with]);
    }
    rows.push(prometheus.stayed_silent(clean));
    Ok((experiments, rows))
}

fn update(site: &Site, name: &str, experiment: &Experiment) -> anyhow::Result<Run> {
    let prestop = experiment.prestop_seconds;
    let service = rollout::service(name)?;
    let target = match experiment.path {
        Path::ClusterIp => service.cluster_ip,
        Path::NodePort => service.node_port,
    };
    rollout::bring_up(site, name, prestop)?;
    eprintln!("cluster: {}, preStop {prestop} s: rolling update under load", experiment.path.name());
    let start = jiff::Timestamp::now();
    let outcome = rollout::under_load(site, target, Counted::FromTheFirst, |load| {
        let mut fortio = start_fortio(site, target)?;
        let begun = Instant::now();
        load.run_for(BEFORE)?;
        let old = rollout::restart(name)?;
        rollout::wait_replaced(name, &old)?;
        load.run_for(AFTER.max(DURATION.saturating_sub(begun.elapsed())))?;
        let status = fortio.wait().context("wait for fortio")?;
        ensure!(status.success(), "fortio ended with {status}");
        Ok(old)
    })?;
    let text = std::fs::read_to_string(fortio_file(site)).context("read fortio's report")?;
    let report = serde_json::from_str(&text).context("fortio's report")?;
    let query = format!("namespace={}&workload={name}&since={start}", crate::pods::NAMESPACE);
    let advice = site.agent.api(&format!("/api/v1/advice?{query}"))?;
    let run = Run {
        tally: outcome.tally,
        verdict: outcome.verdict,
        terminations: outcome.terminations,
        fortio: Fortio { report, lost: outcome.foreign },
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
        .arg(format!("http://{target}{PATH}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start fortio")
}
