//! What the agent says of ends, as far as judges look at it: types of this crate's own for the agent's JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

/// A termination, as far as judges look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Termination {
    /// Which pod.
    pub pod: Pod,
    /// `delete`, `eviction`, …
    pub trigger: String,
    /// `exited`, `grace_exceeded`, …
    pub outcome: String,
    /// Without a deletion while its endpoint was ready.
    pub silent: bool,
    /// `deleting`, `stopping`, `settling`, `ended`.
    pub state: String,
    /// Steps in time order.
    pub timeline: Vec<Step>,
    /// Containers.
    pub containers: Vec<Container>,
    /// Late connections and those open at the stop.
    pub connections: Connections,
    /// Late requests.
    pub requests: Requests,
    /// Lost attempts by class.
    pub lost: BTreeMap<String, u64>,
    /// Of those, how many a stale entry of connection tracking sent.
    #[serde(default)]
    pub lost_stale_entries: u64,
    /// Connects that the service proxy refused for want of an endpoint.
    #[serde(default)]
    pub service_refused: u64,
    /// The Services at which it did.
    #[serde(default)]
    pub services_without_endpoints: Vec<serde_json::Value>,
    /// Late connections that the service proxy sent on purpose.
    pub expected: u64,
    /// Probes that were left out.
    pub probes_excluded: u64,
    /// Deletion seen to last new connection.
    pub tail_seconds: Option<f64>,
    /// The traffic tail is only a lower bound.
    pub tail_censored: bool,
    /// Why each was lost.
    pub evidence: Vec<Evidence>,
    /// Evidence beyond the bound.
    pub evidence_dropped: u64,
    /// Evidence that the full ring refused.
    #[serde(default)]
    pub evidence_refused: u64,
    /// Nothing that could matter was missed.
    pub complete: bool,
    /// What was odd.
    pub anomalies: Vec<serde_json::Value>,
}

impl Termination {
    /// Lost attempts of all classes.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Attempts that the evidence stands for.
    pub fn shown(&self) -> u64 {
        self.evidence.iter().map(|item| item.attempts).sum()
    }

    /// When a step came first, as written.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.timeline.iter().find(|step| step.step == name)
    }

    /// Seconds from one step to another; `None` if either is missing.
    pub fn seconds_between(&self, from: &str, to: &str) -> Option<f64> {
        Some(self.step(to)?.seconds()? - self.step(from)?.seconds()?)
    }
}

/// A container that ended while its pod was not being stopped.
#[derive(Clone, Debug, Deserialize)]
pub struct Restart {
    /// Its end, told as a termination.
    pub container_restart: Termination,
    /// `exit`, `liveness`, …
    pub reason: String,
}

/// A pod's identity.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// A step of a timeline.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    /// Its name.
    pub step: String,
    /// RFC 3339 with nanoseconds.
    pub at: String,
    /// Who said so.
    pub source: String,
    /// The container, where it is one's.
    #[serde(default)]
    pub container: Option<String>,
}

impl Step {
    /// Seconds since 1970.
    pub fn seconds(&self) -> Option<f64> {
        let at: jiff::Timestamp = self.at.parse().ok()?;
        Some(at.as_duration().as_secs_f64())
    }
}

/// A container's end.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Stop signal that it got.
    pub signal: Option<serde_json::Value>,
    /// It ignored one.
    pub signal_ignored: bool,
    /// As a shell shows it.
    pub exit_code: Option<i32>,
    /// SIGKILL ended it.
    pub killed: bool,
}

/// Connections of a stopping pod.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Connections {
    /// Open when the stop came.
    pub open_at_stop: Option<u64>,
    /// Arrived after that or after the deletion.
    pub late: u64,
}

/// Requests of a stopping pod.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Requests {
    /// Arrived late and were answered.
    pub late_answered: u64,
}

/// Evidence of one lost attempt.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// When, RFC 3339.
    pub at: String,
    /// Class.
    pub class: String,
    /// `observed` or `inferred`.
    pub confidence: String,
    /// Phase.
    pub phase: String,
    /// The client.
    pub peer: SocketAddr,
    /// The pod.
    pub local: SocketAddr,
    /// Number of the request on its connection.
    pub request: u32,
    /// What else the kernel saw.
    pub detail: String,
    /// How many attempts it stands for.
    #[serde(default = "one")]
    pub attempts: u64,
    /// Why it came to this pod, where the agent knows.
    #[serde(default)]
    pub cause: Option<String>,
}

const fn one() -> u64 {
    1
}
