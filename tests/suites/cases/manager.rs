//! The manager of all probe workers, of group E: who has a worker after pods came, went and were cleaned up. Nothing is probed.

use anyhow::{Context as _, Result};
use probe_core::event::Workload;
use probe_core::probes::manager::{Manager, Now, Settings};
use probe_core::probes::pace::Caps;
use probe_core::probes::pod::ProbedPod;
use probe_core::rules::object::Pod;
use probe_core::time::Mono;
use probe_core::wallclock::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Pods by name, as the API has them, and what happens one after the other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Story {
    pods: BTreeMap<String, Pod>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Step {
    Add(String),
    Remove(String),
    /// Pods that are not among these are cleaned up.
    Keep(Vec<String>),
}

impl Story {
    /// The workers of each pod after each step.
    pub(crate) fn told(&self) -> Result<Value> {
        let now = Now { mono: Mono(0), wall: Timestamp(0) };
        let caps = Caps { concurrency: 1, per_second: 1 };
        let mut manager = Manager::new(Settings { caps, period_max_seconds: None, exec: false }, now);
        let steps = self.steps.iter().map(|step| {
            match step {
                Step::Add(name) => manager.handle_pod(self.pod(name)?, now, &mut || 0.0),
                Step::Remove(name) => manager.remove(name, now),
                Step::Keep(names) => manager.retain(&names.iter().cloned().collect::<BTreeSet<_>>(), now),
            }
            let mut workers = Map::new();
            for target in manager.targets() {
                let of_pod = workers.entry(target.pod.uid.clone()).or_insert_with(|| json!([]));
                let name = json!(format!("{} {}", target.container.name, target.kind));
                of_pod.as_array_mut().context("a list")?.push(name);
            }
            Ok(json!({"count": manager.workers(), "workers": workers.into_iter().collect::<Vec<_>>()}))
        });
        steps.collect()
    }

    /// Its name is its uid.
    fn pod(&self, name: &str) -> Result<ProbedPod> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        Ok(ProbedPod { uid: name.to_owned(), ..ProbedPod::reduce(pod, Workload::default()) })
    }
}
