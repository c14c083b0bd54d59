//! Bounds of the core's tables. What happens at each is said here; each is counted.

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Bounds that a user can set, and those that follow from the kernel side's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Ended terminations (and as many container restarts) that are kept; beyond it the oldest goes (`history_dropped`).
    pub history: usize,
    /// Exported lines of all workloads, buckets counted; beyond it new workloads and series count under `~other`
    /// (`series_dropped_total`), whose own lines come on top.
    pub series: usize,
    /// How long a workload's series stay after its last pod left, in nanoseconds.
    pub series_ttl_ns: u64,
    /// Evidence kept per termination; beyond it the oldest goes (`evidence_dropped`).
    pub evidence: usize,
    /// Pods on the node that are known at a time; beyond it a pod is ignored (`too_many`).
    pub pods: usize,
    /// Slots of the kernel side; beyond it a pod is known but not watched (`slots_full`).
    pub slots: u32,
    /// Container indexes of the kernel side; beyond it a container's signals are not seen (`containers_full`).
    pub containers: u32,
    /// Services, and likewise slices, that are known at a time; beyond it one is ignored (`too_many`).
    pub objects: usize,
    /// Endpoints over all slices; beyond it a slice is ignored (`too_many`).
    pub endpoints: usize,
    /// Events that wait in the reorder window; beyond it the older half is applied early (`too_many`).
    pub pending: usize,
    /// Findings, ended terminations and commands that wait to be polled; beyond it the newest is dropped (`too_many`).
    pub outbox: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history: 512,
            series: 5000,
            series_ttl_ns: 600 * SECOND,
            evidence: 1000,
            pods: 2048,
            slots: probe_ebpf::wire::SLOTS,
            containers: probe_ebpf::wire::CONTAINERS,
            objects: 10_000,
            endpoints: 200_000,
            pending: 65_536,
            outbox: 65_536,
        }
    }
}
