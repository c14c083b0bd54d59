//! Group F: how long a pod and its containers have to end, and what happens in which second.

use anyhow::Result;
use probe_core::probes::worker::Next;
use probe_core::probes::{ProbeResult, ProbeType};
use probe_core::rules::deletion::{self, DeletablePod, Deletion};
use probe_core::rules::grace::{ContainerGrace, KillReason, PodGrace};
use probe_core::rules::shutdown::{EndingContainer, stops_of};
use probe_core::wallclock::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::one_container::one_container;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    PodGrace(PodGrace),
    ContainerGrace {
        grace: ContainerGrace,
        reason: KillReason,
    },
    End {
        grace_seconds: i64,
        containers: Vec<EndingContainer>,
    },
    Deletions(Vec<Request>),
    /// Workers of a pod whose end begins; their probes passed before and fail from then on.
    Ending(Vec<EndingWorker>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndingWorker {
    kind: ProbeType,
    sidecar: bool,
}

/// A pod and a request to delete it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    pod: DeletablePod,
    requested: Option<i64>,
    now_unix_ns: i64,
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    Ok(match Given::deserialize(given)? {
        Given::PodGrace(grace) => json!({"seconds": grace.effective()}),
        Given::ContainerGrace { grace, reason } => json!({"seconds": grace.seconds(reason)}),
        Given::End { grace_seconds, containers } => {
            let stops = stops_of(&containers, grace_seconds);
            let named = containers.into_iter().zip(stops);
            Value::Object(
                named
                    .map(|(c, stop)| Ok((c.name, serde_json::to_value(stop)?)))
                    .collect::<Result<Map<_, _>>>()?,
            )
        }
        Given::Ending(workers) => workers.iter().map(probed_while_ending).collect(),
        Given::Deletions(requests) => requests.iter().map(deletion_of).collect(),
    })
}

fn deletion_of(request: &Request) -> Value {
    match deletion::delete(&request.pod, request.requested, request.now_unix_ns) {
        Deletion::Marked { deadline_unix_s, grace_seconds } => {
            json!({"deadline_unix_s": deadline_unix_s, "grace_seconds": grace_seconds})
        }
        Deletion::Unchanged => json!("unchanged"),
        Deletion::Removed => json!("removed"),
    }
}

fn probed_while_ending(worker: &EndingWorker) -> Value {
    let EndingWorker { kind, sidecar } = *worker;
    let (mut worker, pod) = one_container(kind, sidecar);
    let now = Timestamp(1_000_000_000);
    if worker.look(Some(&pod), now) == Next::Probe && kind != ProbeType::Startup {
        worker.take(Some(ProbeResult::Success));
    }
    if kind.stops_with_pod(sidecar) {
        worker.stop();
    }
    let before = worker.poll_updates().len();
    let next = worker.look(Some(&pod), now);
    if next == Next::Probe {
        worker.take(Some(ProbeResult::Failure));
    }
    let told: Vec<_> = worker.poll_updates().into_iter().map(|update| update.result).collect();
    json!({"was_told": before > 0, "probed": next == Next::Probe, "tells": told})
}
