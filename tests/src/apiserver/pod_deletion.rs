//! How the API server deletes a pod: a graceful deletion marks it with a deadline, and only the kubelet's deletion with grace 0 removes it.
//!
//! What becomes of a deletion is the core's to say (`probe_core::rules::deletion`); finalizers and preconditions are left out.

use std::sync::Arc;

use jiff::Timestamp;
use probe_core::rules::deletion::{DeletablePod, Deletion, delete};
use serde_json::{Value, json};

use super::kind::Kind;
use super::store::{Store, StoreError, whole_seconds};

impl Store {
    /// Deletes a pod as the API does. `deletionTimestamp` becomes the *deadline* now + grace (whole seconds). A later deletion may only shorten
    /// the grace, counted from the first request; one that comes after the shorter deadline has a second. Grace 0 (also: a pod without a node or already finished) marks the pod a last time and
    /// removes it in the same breath: watchers see MODIFIED, then DELETED. Returns the last state.
    pub fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        grace_seconds: u64,
    ) -> Result<Arc<Value>, StoreError> {
        let now = self.now();
        self.transact(Kind::Pods, namespace, name, |pod| deletion_of(pod, grace_seconds, now))
    }
}

/// The pod's next state if it changes, and whether it is removed.
fn deletion_of(pod: &Value, grace_seconds: u64, now: Timestamp) -> (Option<Value>, bool) {
    let metadata = &pod["metadata"];
    if !pod.is_object() || !metadata.is_object() {
        return (None, true);
    }
    let deadline = metadata["deletionTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let deletable = DeletablePod {
        scheduled: pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()),
        terminal: matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
        spec_grace_seconds: None,
        deadline_unix_s: deadline.map(Timestamp::as_second),
        deletion_grace_seconds: metadata["deletionGracePeriodSeconds"].as_i64(),
    };
    let requested = i64::try_from(grace_seconds).unwrap_or(i64::MAX);
    let now_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let (deadline_s, grace) = match delete(&deletable, Some(requested), now_ns) {
        Deletion::Unchanged => return (None, false),
        Deletion::Removed => return (None, true),
        Deletion::Marked { deadline_unix_s, grace_seconds } => (deadline_unix_s, grace_seconds),
    };
    let deadline_at = Timestamp::from_second(deadline_s).unwrap_or(Timestamp::MAX);
    // Its generation grows with the first deletion alone.
    let generation = metadata["generation"].as_u64().filter(|_| deadline.is_none());
    let mut marked = pod.clone();
    marked["metadata"]["deletionTimestamp"] = json!(whole_seconds(deadline_at));
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    if let Some(generation) = generation {
        marked["metadata"]["generation"] = json!(generation + 1);
    }
    (Some(marked), grace == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "a", "namespace": "n", "generation": 1}, "spec": {"nodeName": "node-1"}})
    }

    fn at(time: &str) -> Timestamp {
        time.parse().expect("a valid time")
    }

    #[test]
    fn the_deadline_is_now_plus_grace_in_whole_seconds() {
        let (marked, removed) = deletion_of(&pod(), 30, at("2026-03-01T10:00:00.9Z"));
        let marked = marked.expect("the pod is marked");
        assert!(!removed);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-03-01T10:00:30Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
    }

    #[test]
    fn a_second_deletion_only_shortens_and_keeps_the_request_time() {
        let (marked, _) = deletion_of(&pod(), 30, at("2026-03-01T10:00:00Z"));
        let marked = marked.expect("the pod is marked");
        assert_eq!(deletion_of(&marked, 60, at("2026-03-01T10:00:01Z")), (None, false));
        assert_eq!(deletion_of(&marked, 30, at("2026-03-01T10:00:01Z")), (None, false));
        let (shorter, removed) = deletion_of(&marked, 10, at("2026-03-01T10:00:01Z"));
        let shorter = shorter.expect("the grace is shortened");
        assert!(!removed);
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-03-01T10:00:10Z");
        assert_eq!(shorter["metadata"]["generation"], 2);
        let (late, _) = deletion_of(&marked, 2, at("2026-03-01T10:00:20Z"));
        assert_eq!(late.expect("shortened")["metadata"]["deletionTimestamp"], "2026-03-01T10:00:20Z");
    }

    #[test]
    fn grace_zero_marks_and_removes() {
        for (change, grace) in [("none", 0), ("phase", 30), ("node", 30)] {
            let mut pod = pod();
            match change {
                "phase" => pod["status"] = json!({"phase": "Succeeded"}),
                "node" => pod["spec"] = json!({}),
                _ => {}
            }
            let (marked, removed) = deletion_of(&pod, grace, at("2026-03-01T10:00:00Z"));
            assert!(removed, "{change}");
            assert_eq!(marked.expect("marked")["metadata"]["deletionGracePeriodSeconds"], 0, "{change}");
        }
    }
}
