//! Sources on the node itself: cgroupfs (which containers exist before any hook fires, how they are throttled) and `/proc/self` (what the agent
//! costs), nf_tables (which addresses the service proxy uses), connection tracking (what sent a lost connect). Nothing here writes anywhere.

pub mod cgroup;
pub mod cgroup_path;
pub mod conntrack;
pub mod process;
pub mod rules;
pub mod throttle;
