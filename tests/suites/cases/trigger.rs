//! Group H: the trigger-time annotation over several syncs of one Service. Moments are seconds.

use std::collections::BTreeMap;

use anyhow::Result;
use probe_core::rules::object::{Pod, Service};
use probe_core::rules::trigger::TriggerTime;
use probe_core::wallclock::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// One sync.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sync {
    /// Creation of the service.
    service: i64,
    /// It was deleted since the sync before.
    #[serde(default)]
    anew: bool,
    /// A port of the service.
    #[serde(default)]
    port: u16,
    /// When Ready changed last, by the pod's name.
    pods: BTreeMap<String, i64>,
    /// Pods with a deletion timestamp.
    #[serde(default)]
    deleted: Vec<String>,
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    let mut state = TriggerTime::default();
    let triggers = Vec::<Sync>::deserialize(given)?.into_iter().map(|sync| {
        if sync.anew {
            state = TriggerTime::default();
        }
        let service = json!({
            "metadata": {"creationTimestamp": seconds(sync.service)}, "spec": {"ports": [{"port": sync.port}]},
        });
        let pods = sync.pods.iter().map(|(name, ready)| {
            let deletion = sync.deleted.contains(name).then(|| seconds(ready + 60));
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": seconds(*ready)});
            Pod::deserialize(&json!({
                "metadata": {"name": name, "deletionTimestamp": deletion}, "status": {"conditions": [ready]},
            }))
        });
        let trigger = state.sync(&Service::deserialize(&service)?, &pods.collect::<Result<Vec<_>, _>>()?);
        Ok(json!(trigger.map(|at| at.0 / 1_000_000_000)))
    });
    triggers.collect()
}

fn seconds(seconds: i64) -> String {
    Timestamp(seconds * 1_000_000_000).to_string()
}
