//! What the attempts of one probe come to: a result or none, and an event.
//!
//! An attempt that brings an error (no runtime, no such port) is made again at once, up to three times; one that fails is not. A probe
//! whose last attempt brought an error says nothing about the container: it is discarded, and only its event remains.

use super::{ProbeResult, ProbeType};
use serde::Deserialize;

/// Attempts at one probe, as long as they bring errors.
pub const MAX_ATTEMPTS: u32 = 3;

/// What one attempt saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Passed.
    Success,
    /// Passed, with something to say (an answer 3xx).
    Warning,
    /// Did not pass.
    Failure,
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Success, Self::Warning, Self::Failure, Self::Unknown];

    /// As events have it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// What it saw.
    pub outcome: Outcome,
    /// What was said: the answer's body, the command's output, why it failed.
    #[serde(default)]
    pub output: String,
    /// Why it could not be made, or not be brought to an end.
    #[serde(default)]
    pub error: Option<String>,
}

/// A Kubernetes Event of type `Warning`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEvent {
    /// `Unhealthy` or `ProbeWarning`.
    pub reason: &'static str,
    /// What it says.
    pub message: String,
}

/// What a probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For the worker; `None`: discarded.
    pub result: Option<ProbeResult>,
    /// For people.
    pub event: Option<ProbeEvent>,
}

impl Verdict {
    /// A container without such a probe passes it.
    pub const NO_PROBE: Self = Self { result: Some(ProbeResult::Success), event: None };
}

/// What follows from the latest attempt, the `made`-th one; `None`: it is to be made again at once.
pub fn conclude(kind: ProbeType, made: u32, latest: &Attempt) -> Option<Verdict> {
    let event = |reason, message| Some(ProbeEvent { reason, message });
    if let Some(error) = &latest.error {
        let state = latest.outcome.text();
        let message = format!("{kind} probe errored and resulted in {state} state: {error}");
        return (made >= MAX_ATTEMPTS).then(|| Verdict { result: None, event: event("Unhealthy", message) });
    }
    let output = &latest.output;
    Some(match latest.outcome {
        Outcome::Success => Verdict { result: Some(ProbeResult::Success), event: None },
        Outcome::Warning => Verdict {
            result: Some(ProbeResult::Success),
            event: event("ProbeWarning", format!("{kind} probe warning: {output}")),
        },
        Outcome::Failure => Verdict {
            result: Some(ProbeResult::Failure),
            event: event("Unhealthy", format!("{kind} probe failed: {output}")),
        },
        Outcome::Unknown => Verdict { result: Some(ProbeResult::Failure), event: None },
    })
}
