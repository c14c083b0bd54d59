//! Group F: how long a pod and its containers have to end, and what happens in which second.

use anyhow::Result;
use probe_core::rules::deletion::{self, DeletablePod, Deletion};
use probe_core::rules::grace::{ContainerGrace, KillReason, PodGrace};
use probe_core::rules::shutdown::{EndingContainer, stops_of};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    PodGrace(PodGrace),
    ContainerGrace { grace: ContainerGrace, reason: KillReason },
    End { grace_seconds: i64, containers: Vec<EndingContainer> },
    Deletions(Vec<Request>),
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
