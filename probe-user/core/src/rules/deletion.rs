//! What the API server makes of a request to delete a pod: marked with a deadline, shortened, left as it is, or removed.
//!
//! Finalizers and preconditions are left out.

use serde::Deserialize;

const NS: i64 = 1_000_000_000;

/// What the rule needs of the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeletablePod {
    /// `spec.nodeName` is set.
    pub scheduled: bool,
    /// Phase Succeeded or Failed.
    pub terminal: bool,
    /// `spec.terminationGracePeriodSeconds`; the API's defaulting leaves none unset.
    pub spec_grace_seconds: Option<i64>,
    /// `metadata.deletionTimestamp`, Unix seconds: the deadline of a deletion under way.
    pub deadline_unix_s: Option<i64>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion_grace_seconds: Option<i64>,
}

/// What becomes of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Deadline and grace are set; the kubelet ends it. With grace 0 it is removed in the same breath.
    Marked {
        /// `metadata.deletionTimestamp`, Unix seconds.
        deadline_unix_s: i64,
        /// `metadata.deletionGracePeriodSeconds`.
        grace_seconds: i64,
    },
    /// A deletion is under way and goes on as it was.
    Unchanged,
    /// A deletion with grace 0 was not finished: the object is removed as it is.
    Removed,
}

/// Decides about a request with so much grace (`None`: the pod's own) at this moment, in Unix nanoseconds.
pub fn delete(pod: &DeletablePod, requested: Option<i64>, now_unix_ns: i64) -> Deletion {
    let requested = requested.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let now = now_unix_ns.div_euclid(NS);
    let Some(deadline) = pod.deadline_unix_s else {
        let grace_seconds = match requested.or(pod.spec_grace_seconds).unwrap_or(0) {
            _ if !pod.scheduled || pod.terminal => 0,
            negative if negative < 0 => 1,
            seconds => seconds,
        };
        return Deletion::Marked { deadline_unix_s: now.saturating_add(grace_seconds), grace_seconds };
    };
    let before = match pod.deletion_grace_seconds {
        None | Some(0) => return Deletion::Removed,
        Some(negative) if negative < 0 => 1,
        Some(seconds) => seconds,
    };
    let Some(seconds) = requested.filter(|seconds| *seconds < before) else { return Deletion::Unchanged };
    let shorter = deadline.saturating_sub(before).saturating_add(seconds);
    // Too late for all of it: the deadline is now, and what was asked to be graceful stays so.
    if shorter.saturating_mul(NS) < now_unix_ns {
        return Deletion::Marked { deadline_unix_s: now, grace_seconds: seconds.min(1) };
    }
    Deletion::Marked { deadline_unix_s: shorter, grace_seconds: seconds }
}
