//! Sources on the node itself: cgroupfs (which containers exist before any hook fires) and `/proc/self` (what the agent
//! costs). Nothing here writes anywhere.

pub mod cgroup;
pub mod cgroup_path;
pub mod process;
