//! The kubelet's probes without their I/O: what a spec means, what becomes of an attempt, when a worker probes and what it believes.
//!
//! Who runs a probe asks [`worker::Worker::look`] whether to, runs it, has [`verdict::conclude`] say what the attempt comes to, and tells
//! [`worker::Worker::take`]; [`manager::Manager`] does so for all workers of a node. Time is an argument everywhere.

pub mod expand;
pub mod manager;
pub mod pace;
pub mod pod;
pub mod schedule;
mod series;
pub mod spec;
pub mod tally;
pub mod validation;
pub mod verdict;
pub mod worker;

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeType {
    /// Its failure has the container restarted.
    Liveness,
    /// Its failure makes the pod unready.
    Readiness,
    /// The other two wait for its success; its failure has the container restarted.
    Startup,
}

impl ProbeType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Liveness, Self::Readiness, Self::Startup];

    /// What is believed of a new container before its first probe.
    pub const fn initial(self) -> ProbeResult {
        match self {
            Self::Liveness => ProbeResult::Success,
            Self::Readiness => ProbeResult::Failure,
            Self::Startup => ProbeResult::Unknown,
        }
    }

    /// Whether the kubelet ends such a worker as soon as its pod is deleted: those of sidecars go on, and readiness is asked to the end.
    pub const fn stops_with_pod(self, is_sidecar: bool) -> bool {
        matches!(self, Self::Liveness | Self::Startup) && !is_sidecar
    }
}

/// As events have it.
impl fmt::Display for ProbeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        })
    }
}

/// What is believed of a container by one kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// Not known yet.
    Unknown,
    /// Passed.
    Success,
    /// Did not pass.
    Failure,
}
