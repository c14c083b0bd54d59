//! What an agent says on its HTTP ports, whoever started it: this crate, or a kubelet. Nothing here starts or ends one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::report::{Restart, Termination};
use super::{API, LISTEN, Metrics, POLL, fetch};
use crate::controllers::PodRef;
use crate::wait::wait_until;

/// An agent, as those see it who ask it.
#[derive(Debug)]
pub struct Ports {
    log: PathBuf,
}

impl Ports {
    /// Of the agent that listens in this network namespace; its log goes to this file.
    pub fn new(log: PathBuf) -> Self {
        Self { log }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `GET path` on the metrics port: status and body.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        fetch(LISTEN, path)
    }

    /// `GET path` on the API port, which must succeed.
    pub fn api(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let (status, body) = fetch(API, path)?;
        ensure!(status == 200, "{path}: {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{path}: not JSON: {body}"))
    }

    /// The metrics, in Prometheus' text format.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics: {status}");
        Metrics::parse(&body)
    }

    /// Every termination that it remembers, newest first.
    pub fn terminations(&self) -> anyhow::Result<Vec<Termination>> {
        self.terminations_of(None)
    }

    /// Those of this workload, or all.
    fn terminations_of(&self, workload: Option<&str>) -> anyhow::Result<Vec<Termination>> {
        let filter = workload.map(|name| format!("&workload={name}")).unwrap_or_default();
        let mut listing = self.api(&format!("/api/v1/terminations?limit=1000{filter}"))?;
        ensure!(listing["truncated"] == false, "the list of terminations is cut");
        serde_json::from_value(listing["items"].take()).context("terminations")
    }

    /// The terminations of these pods, in their order, once all of them have ended.
    pub fn wait_ended(&self, pods: &[PodRef], timeout: Duration) -> anyhow::Result<Vec<Termination>> {
        self.wait_ended_of(None, pods, timeout)
    }

    /// As [`Self::wait_ended`], asking for this workload's alone: where there are many, the whole list is long.
    pub fn wait_ended_of(
        &self,
        workload: Option<&str>,
        pods: &[PodRef],
        timeout: Duration,
    ) -> anyhow::Result<Vec<Termination>> {
        let known = || -> anyhow::Result<Vec<Termination>> {
            let known = self.terminations_of(workload)?;
            let of = |pod: &PodRef| known.iter().find(|item| item.pod.uid == pod.uid).cloned();
            Ok(pods.iter().filter_map(of).collect())
        };
        let look = || {
            let found = known()?;
            let all = found.len() == pods.len() && found.iter().all(|item| item.state == "ended");
            Ok(all.then_some(found))
        };
        wait_until("the ends", timeout, POLL, look).with_context(|| {
            let states = known()
                .map(|found| found.into_iter().map(|item| (item.pod.name, item.state)).collect::<Vec<_>>());
            format!("{states:?} of {}; the agent's log: {}", pods.len(), self.log())
        })
    }

    /// Every container restart that it remembers, newest first.
    pub fn restarts(&self) -> anyhow::Result<Vec<Restart>> {
        let mut listing = self.api("/api/v1/restarts?limit=1000")?;
        ensure!(listing["truncated"] == false, "the list of restarts is cut");
        serde_json::from_value(listing["items"].take()).context("restarts")
    }
}
