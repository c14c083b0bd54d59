//! What the programs are told when they are loaded, apart from the offsets of members (see `fields`): a read-only global.

use crate::fields::ABSENT;

/// Numbers of the running kernel, and of the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Hash)]
pub struct Settings {
    /// Number of these programs with these settings, never 0; see `wire::Control`.
    pub instance: u64,
    /// Cookie of the namespace that the agent runs in: the node's own.
    pub host_net: u64,
    /// Bit n: signal n, sent from outside the pod to a process group leader, stops a container.
    pub stop_signals: u64,
    /// Bit n: signal n does so while the pod is being deleted; at other times it is a reload or the like.
    pub deletion_signals: u64,
    /// Bit n: a packet dropped for reason n may have been on its way to an address that is gone.
    pub drop_reasons: [u64; 4],
    /// Size of `struct upid`.
    pub upid_size: u32,
    /// Index into `css_set.subsys` of the v1 controller whose tree names the containers, or [`ABSENT`] for cgroup v2.
    pub v1_subsystem: u32,
    /// Number of the hierarchy whose cgroups name the containers (0 is v2).
    pub hierarchy: u32,
    /// Number of the drop reason "queue purged", or [`ABSENT`]: a socket's own queue, or one of a device that went.
    pub queue_purge: u32,
    /// Number of the drop reason "the socket is closed", or [`ABSENT`] where `kfree_skb` does not tell the socket.
    pub tcp_close: u32,
    /// So that a copy of its bytes is its value.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Settings>() == 8 * 8 + 4 * 6);

impl Settings {
    /// Nothing is known yet.
    pub const UNSET: Self = Self {
        instance: 0,
        host_net: 0,
        stop_signals: 0,
        deletion_signals: 0,
        drop_reasons: [0; 4],
        upid_size: 0,
        v1_subsystem: ABSENT,
        hierarchy: 0,
        queue_purge: ABSENT,
        tcp_close: ABSENT,
        reserved: 0,
    };
}
