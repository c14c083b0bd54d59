//! The table of kernel programs: which hook each is for, what it needs of the kernel, what is lost without it. The one
//! place that says what runs where.

use probe_ebpf::fields::Field;

/// One program of the object.
pub(super) struct Program {
    /// Its name in the object.
    pub(super) name: &'static str,
    /// The BTF tracepoint that it is for.
    pub(super) hook: &'static str,
    /// Fewest arguments that the tracepoint must have.
    pub(super) arguments: usize,
    /// Kernel members that it reads; without one of them it is not loaded.
    pub(super) fields: &'static [Field],
    /// What is lost without it.
    pub(super) feature: &'static str,
}

use Field::{
    BytesReceived, CgroupKn, CgroupRoot, CgroupSelf, Cgroups, ChildReaper, CopiedSeq, CssCgroup, CssParent,
    DeviceIndex, DeviceNet, Drops, Error, ExitCode, Family, Flags, GroupExitCode, GroupLeader, HalfOpen,
    HierarchyId, KnId, LastReceived, LastSent, Live, LocalPort, LocalV4, LocalV6, Net, NetCookie, PeerPort,
    PeerV4, PeerV6, PidLevel, PidNumbers, Protocol, RcvNxt, RealParent, SignalCode, SkbDevice, SkbHead,
    SkbNetwork, SkbProtocol, SkbTime, SndUna, Socket, SocketCgroup, SourcePort, State, TaskSignal, Tgid,
    ThreadPid, UpidNamespace, UpidNumber, WriteSeq,
};

/// Every program, in the order in which they are attached: what a later one relies on comes first.
pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "inet_sock_set_state",
        hook: "inet_sock_set_state",
        arguments: 3,
        fields: &[
            Family,
            Flags,
            State,
            LocalPort,
            PeerPort,
            PeerV4,
            LocalV4,
            PeerV6,
            LocalV6,
            Net,
            Protocol,
            Error,
            Socket,
            SocketCgroup,
            SourcePort,
            NetCookie,
            RcvNxt,
            CopiedSeq,
            WriteSeq,
            SndUna,
            BytesReceived,
            LastSent,
            LastReceived,
            HalfOpen,
            Drops,
            Cgroups,
            CgroupKn,
            CgroupSelf,
            CssParent,
            CssCgroup,
            KnId,
        ],
        feature: "connections, listeners and every class of lost request",
    },
    Program {
        name: "tcp_destroy_sock",
        hook: "tcp_destroy_sock",
        arguments: 1,
        fields: &[],
        feature: "late connections by result, open connections",
    },
    Program {
        name: "tcp_rcv_space_adjust",
        hook: "tcp_rcv_space_adjust",
        arguments: 1,
        fields: &[
            State, LocalPort, Net, NetCookie, WriteSeq, CopiedSeq, SourcePort, PeerPort, PeerV4, LocalV4,
            PeerV6, LocalV6,
        ],
        feature: "telling answered requests from unanswered ones",
    },
    Program {
        name: "tcp_send_reset",
        hook: "tcp_send_reset",
        // Since 6.10, with its third argument, it fires without a full socket too.
        arguments: 3,
        fields: &[State, Net, NetCookie, SkbHead, SkbNetwork, SkbProtocol, SkbDevice, DeviceNet, DeviceIndex],
        feature: "refused attempts, requests on closed connections",
    },
    Program {
        name: "kfree_skb",
        hook: "kfree_skb",
        arguments: 3,
        fields: &[SkbHead, SkbNetwork, SkbProtocol, SkbTime],
        feature: "attempts to an address that is gone (blackholed)",
    },
    Program {
        name: "signal_generate",
        hook: "signal_generate",
        arguments: 5,
        fields: &[
            Cgroups,
            CgroupKn,
            CgroupSelf,
            CssParent,
            CssCgroup,
            KnId,
            SignalCode,
            ThreadPid,
            PidLevel,
            PidNumbers,
            UpidNumber,
            UpidNamespace,
            ChildReaper,
            RealParent,
            Tgid,
            Drops,
        ],
        feature: "the moment of the stop signal; losses then count as stopping from the exit only",
    },
    Program {
        name: "sched_process_exit",
        hook: "sched_process_exit",
        arguments: 1,
        fields: &[
            Cgroups,
            CgroupKn,
            CgroupSelf,
            CssParent,
            CssCgroup,
            KnId,
            ThreadPid,
            PidLevel,
            PidNumbers,
            UpidNumber,
            RealParent,
            Tgid,
            TaskSignal,
            Live,
            GroupExitCode,
            GroupLeader,
            ExitCode,
        ],
        feature: "the moment and code of a container's exit",
    },
    Program {
        name: "cgroup_mkdir",
        hook: "cgroup_mkdir",
        arguments: 2,
        fields: &[CgroupRoot, HierarchyId, CgroupKn, KnId],
        feature: "new containers before they run (they are found by address later)",
    },
    Program {
        name: "cgroup_rmdir",
        hook: "cgroup_rmdir",
        arguments: 2,
        fields: &[CgroupRoot, HierarchyId, CgroupKn, KnId],
        feature: "the end of containers' cgroups",
    },
];

/// Drop reasons (enum skb_drop_reason, without the prefix) after which a packet may have been on its way to an address
/// that is gone: no neighbour, no route, a queue that went with its device, a bridge that found no port, or none given.
pub(super) const ADDRESS_GONE: &[&str] = &[
    "NOT_SPECIFIED",
    "NEIGH_FAILED",
    "NEIGH_QUEUEFULL",
    "NEIGH_DEAD",
    "NEIGH_CREATEFAIL",
    "NEIGH_HH_FILLFAIL",
    "QUEUE_PURGE",
    "OTHERHOST",
    "UNICAST_IN_L2_MULTICAST",
    "IP_OUTNOROUTES",
    "IP_INNOROUTES",
    "DEV_READY",
    "FULL_RING",
    "NOMEM",
    "NO_TX_TARGET",
    "BRIDGE_INGRESS_STP_STATE",
];
