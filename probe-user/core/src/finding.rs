//! Findings: one conclusion each, with a stable code, what it rests on and what to do. Made when a termination ends.

use crate::event::Workload;
use crate::termination::{Evidence, Name, PodName};
use crate::wallclock::Timestamp;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Will hurt sooner or later.
    Warning,
    /// Clients lost requests.
    Error,
}

/// One conclusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable, kebab-case.
    pub code: Name,
    /// How bad.
    pub severity: Severity,
    /// When it was drawn.
    pub at: Timestamp,
    /// About which pod.
    pub pod: PodName,
    /// And workload.
    pub workload: Workload,
    /// One sentence.
    pub summary: String,
    /// What to do.
    #[serde(rename = "do")]
    pub remedy: String,
    /// Some of the evidence (the termination has all of it).
    pub evidence: Vec<Evidence>,
    /// No counted loss of information could have touched it.
    pub complete: bool,
}
