//! A real Prometheus that scrapes every 15 s: it sees the losses of the very first rollout, none more and none less than the clients.

use std::fs;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Child;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use world::node::find_program;
use world::{PodTemplate, World};

use crate::site::{LOST, NAMESPACE, Site, failures, get, same};
use crate::{SETTLING, SOON, trial};
use world::clients::Load;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// Prometheus scrapes that often; in seconds.
const SCRAPE_INTERVAL: f64 = 15.0;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("Prometheus sees the losses of the first rollout", first_rollout)]
}

/// A running Prometheus; killed when dropped.
struct Prometheus(Child);

impl Prometheus {
    fn start(world: &World) -> anyhow::Result<Self> {
        let directory = world.node().directory().join("prometheus");
        fs::create_dir(&directory)?;
        let file = directory.join("prometheus.yml");
        let configuration = format!(
            "global: {{scrape_interval: {SCRAPE_INTERVAL}s}}\n\
             scrape_configs:\n\
             - job_name: drainscope\n  static_configs:\n  - targets: ['127.0.0.1:10290']\n"
        );
        fs::write(&file, configuration)?;
        let log = File::create(directory.join("log"))?;
        let child = world
            .node_command(find_program("prometheus")?)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .current_dir(&directory)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start Prometheus")?;
        Ok(Self(child))
    }

    /// The one value of an instant query, now or at a Unix time; `None` if there is no series.
    fn query(&self, expression: &str, at: Option<f64>) -> anyhow::Result<Option<f64>> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("query", expression);
        if let Some(at) = at {
            query.append_pair("time", &at.to_string());
        }
        let (status, body) = get(ADDRESS, &format!("/api/v1/query?{}", query.finish()))?;
        ensure!(status == 200, "{expression}: {status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let Some(value) = answer["data"]["result"][0]["value"][1].as_str() else { return Ok(None) };
        Ok(Some(value.parse()?))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn first_rollout() -> anyhow::Result<()> {
    let site = Site::start()?;
    let prometheus = Prometheus::start(&site.world)?;
    let template = PodTemplate::testserver("web", &["--on-term", "drain"]);
    let mut deployment = site.deploy("web", 2, &template)?;
    let service = site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    let total = format!("sum({LOST}{{target_workload=\"web\"}})");
    site.until("the workload's first scrape", || {
        Ok(get(ADDRESS, "/-/ready").is_ok_and(|(status, _)| status == 200)
            && prometheus.query(&total, None)?.is_some())
    })?;
    let before = now()?;
    ensure!(prometheus.query(&total, Some(before))? == Some(0.0), "there at 0 before anything is lost");

    site.world.delays().proxy.set(Duration::from_secs(1));
    let clients = "--new 40 --new-rate 5 --keepalive 8 --keepalive-rate 10 --connect-timeout 1.5";
    let mut load = Load::start(&site.world, (service.v4, service.port), clients)?;
    load.run_for(Duration::from_secs(1))?;
    let old = site.roll(&mut deployment, &template)?;
    load.run_for(Duration::from_secs(1))?;
    let tally = load.stop()?;
    let failed = u64::try_from(failures(&tally.attempts))?;
    ensure!(failed > 0, "nothing was lost");

    // No scrape but Prometheus' own from here on, or it would be this one that a new series is shown to first.
    site.agent.wait_ended(&old, SETTLING)?;
    let settled = now()?;
    let scraped = "min(timestamp(up))";
    // Two scrapes after the end: one that shows each new series at 0, one with its value.
    for _ in 0..2 {
        let last = prometheus.query(scraped, None)?.context("it scrapes")?;
        site.until("another scrape", || {
            Ok(prometheus.query(scraped, None)?.is_some_and(|at| at > last && at > settled))
        })?;
    }
    let counted = prometheus.query(&total, None)?.context("the series are there")?;
    ensure!(same(counted, failed), "the clients lost {failed}, Prometheus has {counted}");
    // increase() extrapolates to the edges of its range and is no whole number; that it sees each series' first loss is what matters.
    // The range reaches back to the scrape before the run.
    let range = (now()? - before).ceil() + SCRAPE_INTERVAL;
    for (reason, of_reason) in lost_by_reason(&prometheus, before)? {
        let series =
            format!("sum(increase({LOST}{{target_workload=\"web\",reason=\"{reason}\"}}[{range}s]))");
        let increase = prometheus.query(&series, None)?.unwrap_or(0.0);
        ensure!(increase > 0.0, "increase() misses the {of_reason} {reason}");
    }
    site.judge("web", &tally.attempts, &old)?;
    drop(prometheus);
    site.finish()
}

/// The reasons with losses since then, each with its number: the difference of the counters at two instants.
fn lost_by_reason(prometheus: &Prometheus, since: f64) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let classes = [
        "refused",
        "overflow",
        "unaccepted",
        "unread",
        "unanswered",
        "truncated",
        "stale_reuse",
        "abandoned",
    ];
    let mut lost = Vec::new();
    for reason in classes.into_iter().chain(["blackholed", "misrouted"]) {
        let series = format!("sum({LOST}{{target_workload=\"web\",reason=\"{reason}\"}})");
        let first = prometheus.query(&series, Some(since))?.unwrap_or(0.0);
        let last = prometheus.query(&series, None)?.unwrap_or(0.0);
        if last > first {
            lost.push((reason, last - first));
        }
    }
    ensure!(!lost.is_empty(), "no reason has losses");
    Ok(lost)
}

/// Seconds since 1970.
fn now() -> anyhow::Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
