//! Sources on the node itself: cgroupfs (which containers exist before any hook fires) and `/proc/self` (what the agent
//! costs), nf_tables (which addresses the service proxy uses). Nothing here writes anywhere.

pub mod cgroup;
pub mod cgroup_path;
pub mod process;
pub mod rules;
