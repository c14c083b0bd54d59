//! How many seconds a pod, and a container of it, is given to end. Arithmetic alone: what uses the time up is in `shutdown`.

use serde::Deserialize;

/// The runtime is given at least so many seconds between stop signal and SIGKILL.
pub const SHORTEST_STOP_SECONDS: i64 = 2;

/// What is known of the grace of a pod that ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodGrace {
    /// `spec.terminationGracePeriodSeconds`.
    pub spec: Option<i64>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion: Option<i64>,
    /// What the node asks for, by eviction or its own shutdown.
    pub node: Option<i64>,
    /// What was in force before, if the end had begun; 0 if it had not.
    pub in_force: i64,
}

impl PodGrace {
    /// The seconds that the whole pod has from now on: later words can only shorten, and one second is always given.
    pub fn effective(self) -> i64 {
        let shortened =
            [self.deletion, self.node].into_iter().flatten().fold(None, |so_far: Option<i64>, seconds| {
                match so_far.unwrap_or(self.in_force) {
                    // Nothing in force: the first word counts, whatever it is.
                    0 => Some(seconds),
                    before if seconds < before => Some(seconds),
                    _ => so_far,
                }
            });
        let seconds = match shortened {
            Some(seconds) => seconds,
            None if self.in_force == 0 => self.spec.unwrap_or(0),
            None => self.in_force,
        };
        seconds.max(1)
    }
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillReason {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Anything else: its pod ends, its image changed.
    Other,
}

/// What bounds the stop of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerGrace {
    /// `spec.terminationGracePeriodSeconds` of the pod.
    pub spec: Option<i64>,
    /// `metadata.deletionGracePeriodSeconds` of the pod.
    pub deletion: Option<i64>,
    /// `livenessProbe.terminationGracePeriodSeconds`.
    pub liveness: Option<i64>,
    /// `startupProbe.terminationGracePeriodSeconds`.
    pub startup: Option<i64>,
}

impl ContainerGrace {
    /// The seconds that one container has. A probe's own grace counts only while nobody deletes the pod, and may be the longer one.
    pub fn seconds(self, reason: KillReason) -> i64 {
        let probe = match reason {
            KillReason::Liveness => self.liveness,
            KillReason::Startup => self.startup,
            KillReason::Other => None,
        };
        match (self.deletion, self.spec) {
            (Some(deletion), _) => deletion,
            (None, Some(spec)) => probe.unwrap_or(spec),
            (None, None) => SHORTEST_STOP_SECONDS,
        }
    }
}
