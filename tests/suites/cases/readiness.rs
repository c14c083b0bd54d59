//! Group E: containers that have started and are ready, and the pod's conditions; the manager of their workers.

use std::collections::BTreeMap;

use anyhow::Result;
use probe_core::probes::worker::Next;
use probe_core::probes::{ProbeResult, ProbeType};
use probe_core::rules::object::Pod;
use probe_core::rules::readiness::{ProbedContainer, containers_ready, ready};
use probe_core::wallclock::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manager::Story;
use crate::one_container::one_container;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    /// By name.
    Containers(BTreeMap<String, ProbedContainer>),
    /// As the API has them, without the two conditions that are asked for.
    Pods(Vec<Pod>),
    /// What a readiness probe brings, one after the other.
    Flips(Vec<ProbeResult>),
    /// Pods that come and go.
    Manager(Story),
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    Ok(match Given::deserialize(given)? {
        Given::Containers(containers) => {
            let derived = containers.into_iter().map(|(name, container)| {
                let derived = container.readiness();
                let derived =
                    json!({"started": derived.started, "ready": derived.ready, "triggers": derived.triggers});
                (name, derived)
            });
            Value::Object(derived.collect())
        }
        Given::Pods(pods) => {
            let conditions = pods.iter().map(|pod| {
                let conditions = [containers_ready(pod), ready(pod)];
                let of = |c: &probe_core::rules::object::Condition| {
                    json!({"status": c.status, "reason": c.reason, "message": c.message})
                };
                json!({"ContainersReady": of(&conditions[0]), "Ready": of(&conditions[1])})
            });
            conditions.collect()
        }
        Given::Flips(results) => json!(told(&results)),
        Given::Manager(story) => story.told()?,
    })
}

/// What the status of the container is told of its readiness.
fn told(results: &[ProbeResult]) -> Vec<bool> {
    let (mut worker, mut pod) = one_container(ProbeType::Readiness, false);
    pod.containers[0].ready = false;
    for result in results {
        if worker.look(Some(&pod), Timestamp(1_000_000_000)) == Next::Probe {
            worker.take(Some(*result));
        }
    }
    worker.poll_updates().iter().map(|update| update.result == ProbeResult::Success).collect()
}
