//! drainscope's side: `drainscope probe pod`, run over and over, and the core's own worker, which makes states of results.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use probe_core::probes::ProbeResult;
use probe_core::probes::ProbeType;
use probe_core::probes::worker::{Worker, WorkerConfig};
use probe_core::rules::facts::Restarts;
use probe_core::wallclock;
use serde_json::Value;

use super::judge::Ours;
use super::rows::Case;
use crate::pods::NAMESPACE;

/// One probe of a pod, sampled.
pub(super) struct Sampler {
    kind: ProbeType,
    worker: Worker,
    seen: Ours,
}

impl Sampler {
    pub(super) fn new(case: &Case) -> Self {
        let kind = case.kind;
        let worker = Worker::new(WorkerConfig {
            kind,
            container: "app".to_owned(),
            is_sidecar: false,
            restarts: Restarts::default(),
            initial_delay_seconds: 0,
            success_threshold: case.number("successThreshold", 1),
            failure_threshold: case.number("failureThreshold", 3),
            deleted: false,
            manager_started: wallclock::Timestamp(0),
        });
        Self { kind, worker, seen: Ours::default() }
    }

    /// A run's result and what was said.
    fn take(&mut self, run: &Value) -> anyhow::Result<()> {
        let discarded = "the kubelet would discard it: ";
        let skipped = run["skipped"].as_str().map(|why| why.strip_prefix(discarded).context(why.to_owned()));
        let (result, said) = match skipped {
            Some(why) => ("unknown", why?),
            None => {
                (run["result"].as_str().context("no result")?, run["output"].as_str().context("no output")?)
            }
        };
        *self.seen.results.entry(result.to_owned()).or_default() += 1;
        self.seen.said.insert((result.to_owned(), said.to_owned()));
        self.worker.take(match result {
            "success" | "warning" => Some(ProbeResult::Success),
            "failure" => Some(ProbeResult::Failure),
            "unknown" => None,
            other => bail!("a result {other:?}"),
        });
        for update in self.worker.poll_updates() {
            self.seen.believes(update.result);
        }
        Ok(())
    }

    /// What was seen; who never learnt anything believes what was believed at the start.
    pub(super) fn finish(mut self) -> Ours {
        if self.worker.cached().is_none() {
            self.seen.believes(self.kind.initial());
        }
        self.seen
    }

    /// Runs the pod's probes once, unless this one waits for another container.
    pub(super) fn sample(&mut self, pod: &str) -> anyhow::Result<()> {
        if self.worker.on_hold() {
            return Ok(());
        }
        let here = std::env::current_exe().context("this program has no path")?;
        let program = here.with_file_name("drainscope");
        let mut command = Command::new(&program);
        command.args(["probe", "pod", pod, "--namespace", NAMESPACE, "--exec", "-o", "json"]);
        let output = command.output().with_context(|| format!("start {}", program.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "{}: {error}", output.status);
        let text = String::from_utf8(output.stdout).context("no text")?;
        let runs = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
        let runs = runs.with_context(|| format!("no JSON: {text}"))?;
        let run = runs.iter().find(|run| run["probe_type"] == self.kind.to_string());
        self.take(run.context("it was not run")?)
    }
}
