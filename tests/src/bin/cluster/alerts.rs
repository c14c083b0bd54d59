//! A real Prometheus in the node: it scrapes the endpoints of the chart's Service and evaluates the rules of deploy/. It is asked by promtool, as a person would. Debian's is
//! built without the discovery of Kubernetes, so it is told the endpoints.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::agent::Termination;

use crate::kubectl;
use crate::pods::PATIENCE;
use crate::release;
use crate::report::Row;
use crate::rollout::{self, AFTER, BEFORE, Counted};
use crate::site::Site;

/// The rules, as they are shipped.
const RULES: &str = include_str!("../../../../deploy/helm/drainscope/files/alerts.yaml");
const ADDRESS: &str = "127.0.0.1:9090";
/// Between scrapes, and between evaluations.
const INTERVAL_SECONDS: u64 = 5;
/// The bound on an alert: two scrapes and an evaluation, on a busy machine.
const FIRING: Duration = Duration::from_secs(90);
/// The Deployment that loses nothing.
const CLEAN: &str = "clean";
/// What requests that were lost as pods ended are told by, and all alerts that tell lost requests.
const LOST_IN_ROLLOUT: &str = "DrainscopeRequestsLostInRollout";
const LOST: &str = "DrainscopeRequestsLost.*";
/// A range that holds all that was scraped here.
const ALL: &str = "[6h]";

/// A running Prometheus; killed when dropped.
pub(crate) struct Prometheus(Child);

impl Prometheus {
    /// Starts it and waits until it has scraped the agent.
    pub(crate) fn start(site: &Site) -> anyhow::Result<Self> {
        let folder = site.state.join("prometheus");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(folder.join("rules.yml"), RULES).context("write the rules")?;
        let configuration = format!(
            "global: {{scrape_interval: {INTERVAL_SECONDS}s, evaluation_interval: {INTERVAL_SECONDS}s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - job_name: prometheus\n  static_configs: [{{targets: ['{ADDRESS}']}}]\n\
             - job_name: drainscope\n  static_configs: [{{targets: {}}}]\n",
            serde_json::to_string(&endpoints()?)?
        );
        fs::write(folder.join("prometheus.yml"), configuration).context("write Prometheus' configuration")?;
        let log = File::create(site.state.join("logs/prometheus.log")).context("create Prometheus' log")?;
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={ADDRESS}"))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start Prometheus")?;
        let prometheus = Self(child);
        kubectl::wait("Prometheus scrapes the agent", PATIENCE, || {
            // It does not listen at once.
            let scraped = query("count(drainscope_build_info)");
            Ok(scraped.ok().flatten().map(drop))
        })?;
        Ok(prometheus)
    }

    /// Waits until the loss of requests in a rollout is told of this workload, which has just had its first.
    pub(crate) fn fires(&self, workload: &str) -> Row {
        let begun = Instant::now();
        let firing = format!(
            "ALERTS{{alertname=\"{LOST_IN_ROLLOUT}\",alertstate=\"firing\",workload=\"{workload}\"}}"
        );
        let fired = kubectl::wait("the alert", FIRING, || query(&firing));
        let said = fired.map(|_| {
            format!("fires, {:.0} s after the pods' ends were settled", begun.elapsed().as_secs_f64())
        });
        Row::of(&format!("{LOST_IN_ROLLOUT}, first losses of a workload"), said)
    }

    /// A rolling update that loses nothing of anybody's, of a workload of its own.
    pub(crate) fn clean_rollout(&self, site: &Site, prestop_seconds: u64) -> anyhow::Result<()> {
        rollout::bring_up(site, CLEAN, prestop_seconds)?;
        eprintln!(
            "cluster: clean rollout, preStop {prestop_seconds} s: rolling update under load of our clients alone"
        );
        let target = rollout::service(CLEAN)?.cluster_ip;
        let outcome = rollout::under_load(site, target, Counted::FromTheFirst, |load| {
            load.run_for(BEFORE)?;
            let old = rollout::restart(CLEAN)?;
            rollout::wait_replaced(CLEAN, &old)?;
            load.run_for(AFTER)?;
            Ok(old)
        })?;
        let counted: u64 = outcome.terminations.iter().map(Termination::lost_total).sum();
        let failed = outcome.verdict.failed;
        ensure!((failed, counted) == (0, 0), "not clean: {failed} requests failed, {counted} were counted");
        Ok(())
    }

    /// No lost request was ever told of the workload of the clean rollout, if it was clean, though Prometheus saw its pods end.
    pub(crate) fn stayed_silent(&self, clean: anyhow::Result<()>) -> Row {
        Row::of("DrainscopeRequestsLost*, a clean rollout", clean.and_then(|()| self.was_silent()))
    }

    fn was_silent(&self) -> anyhow::Result<String> {
        let ended = format!(
            "sum(max_over_time(drainscope_pod_terminations_total{{target_workload=\"{CLEAN}\"}}{ALL}))"
        );
        let ended = kubectl::wait("Prometheus sees the ends", PATIENCE, || {
            Ok(query(&ended)?.filter(|ended| *ended >= 3.0))
        })?;
        // Evaluated once more since then.
        let last = "min(prometheus_rule_group_last_evaluation_timestamp_seconds)";
        let since = query(last)?;
        kubectl::wait("an evaluation", PATIENCE, || Ok((query(last)? > since).then_some(())))?;
        let told = format!("sum(count_over_time(ALERTS{{alertname=~\"{LOST}\",workload=\"{CLEAN}\"}}{ALL}))");
        let told = query(&told)?;
        ensure!(told.is_none(), "told {told:?} times, and nothing was lost");
        Ok(format!("silent, {ended} pods ended"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Where the chart's Service leads to.
fn endpoints() -> anyhow::Result<Vec<String>> {
    let slices = kubectl::get(&[
        "endpointslices",
        "-n",
        release::NAME,
        "-l",
        &format!("kubernetes.io/service-name={}", release::NAME),
    ])?;
    let slice = &slices["items"][0];
    let port = slice["ports"][0]["port"].as_u64().context("the Service has a port")?;
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let addresses: Vec<String> = endpoints
        .filter_map(|endpoint| Some(format!("{}:{port}", endpoint["addresses"][0].as_str()?)))
        .collect();
    ensure!(!addresses.is_empty(), "the chart's Service has no endpoint");
    Ok(addresses)
}

/// The one value of an instant query; `None` if there is no series.
fn query(expression: &str) -> anyhow::Result<Option<f64>> {
    let output = Command::new("promtool")
        .args(["query", "instant", "-o", "json", &format!("http://{ADDRESS}"), expression])
        .output()
        .context("start promtool")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{expression}: {}", error.trim_end());
    let answer: Value = serde_json::from_slice(&output.stdout).context("promtool wrote no JSON")?;
    let Some(value) = answer[0]["value"][1].as_str() else { return Ok(None) };
    Ok(Some(value.parse()?))
}
