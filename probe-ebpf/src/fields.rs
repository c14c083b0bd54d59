//! The kernel structure members that the programs read. Members move between kernels, and Rust has no CO-RE relocations: the
//! programs are compiled with placeholders for the offsets, and when the agent starts, it writes those of the running kernel (from
//! its BTF) into the instructions.

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $structure:literal $path:literal;)*) => {
        /// A member; its number is its index in [`Offsets`] and [`PATHS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field { $($(#[$doc])* $name),* }
        /// Structure and path of each member, in the order of [`Field`]. Anonymous members are looked through.
        pub const PATHS: &[(Field, &str, &str)] = &[$((Field::$name, $structure, $path)),*];
    };
}

fields! {
    /// Network namespace.
    Net = "sock" "__sk_common.skc_net.net";
    /// Namespace cookie: unique for the boot (since 5.12).
    NetCookie = "net" "net_cookie";
    /// What BPF programs keep for it; none of them does if there is nothing.
    SocketStorage = "sock" "sk_bpf_storage";
    /// TCP state.
    State = "sock" "__sk_common.skc_state";
    /// Local port, host order; 0 once the socket is unhashed.
    LocalPort = "sock" "__sk_common.skc_num";
    /// Local port, network order; kept after the socket is unhashed.
    SourcePort = "inet_sock" "inet_sport";
    /// IP protocol (MPTCP fires the same hooks).
    Protocol = "sock" "sk_protocol";
    /// Address family.
    Family = "sock" "__sk_common.skc_family";
    /// Local IPv4 address.
    LocalV4 = "sock" "__sk_common.skc_rcv_saddr";
    /// Peer IPv4 address.
    PeerV4 = "sock" "__sk_common.skc_daddr";
    /// Tail of the data the application wrote.
    WriteSeq = "tcp_sock" "write_seq";
    /// First unacknowledged byte.
    SndUna = "tcp_sock" "snd_una";
    /// First byte that was not sent yet.
    SndNxt = "tcp_sock" "snd_nxt";
    /// Bytes acknowledged by the peer.
    BytesAcked = "tcp_sock" "bytes_acked";
    /// Bytes received, the client's FIN included.
    BytesReceived = "tcp_sock" "bytes_received";
    /// Next sequence number expected.
    RcvNxt = "tcp_sock" "rcv_nxt";
    /// Head of the unread data.
    CopiedSeq = "tcp_sock" "copied_seq";
    /// Jiffies of the last data segment sent.
    LastSent = "tcp_sock" "lsndtime";
    /// Jiffies of the last data segment received.
    LastReceived = "inet_connection_sock" "icsk_ack.lrcvtime";
    /// Its cookie: 0 until somebody asks for it (net/core/sock_diag.c), then unique for the boot.
    SocketCookie = "sock" "__sk_common.skc_cookie.counter";
    /// Set exactly when accept() took the connection.
    Socket = "sock" "sk_socket";
    /// Bits of `enum sock_flags`.
    Flags = "sock" "__sk_common.skc_flags";
    /// Pending error.
    Error = "sock" "sk_err";
    /// Peer port, network order.
    PeerPort = "sock" "__sk_common.skc_dport";
    /// Peer IPv6 address.
    PeerV6 = "sock" "__sk_common.skc_v6_daddr";
    /// Local IPv6 address.
    LocalV6 = "sock" "__sk_common.skc_v6_rcv_saddr";
    /// Cgroup (v2) of its creator; a child has its listener's.
    SocketCgroup = "sock" "sk_cgrp_data.cgroup";
    /// Pending error that is told only when the connection is given up, or asked for.
    ErrorSoft = "sock" "sk_err_soft";
    /// Messages about errors that nobody took yet.
    ErrorQueue = "sock" "sk_error_queue.qlen";
    /// The newest of them.
    ErrorQueueLast = "sock" "sk_error_queue.prev";
    /// Segments received; not those of ICMP.
    SegmentsIn = "tcp_sock" "segs_in";
    /// Packets that a socket dropped; of a listener: SYNs and last ACKs of handshakes beyond its accept queue.
    Drops = "sock" "sk_drops";
    /// Connections in a listener's accept queue.
    AckBacklog = "sock" "sk_ack_backlog";
    /// How many that takes; it is full with one more.
    MaxAckBacklog = "sock" "sk_max_ack_backlog";
    /// How often its oldest segment was repeated.
    Retransmits = "inet_connection_sock" "icsk_retransmits";
    /// Half-open requests of a listener.
    HalfOpen = "inet_connection_sock" "icsk_accept_queue.qlen";
    /// Thread group.
    Tgid = "task_struct" "tgid";
    /// Exit status.
    ExitCode = "task_struct" "exit_code";
    /// The first thread of its group; it outlives the others, as a zombie if need be.
    GroupLeader = "task_struct" "group_leader";
    /// Who made it, or who took it over when that process ended.
    RealParent = "task_struct" "real_parent";
    /// Its pid structure.
    ThreadPid = "task_struct" "thread_pid";
    /// Its cgroups.
    Cgroups = "task_struct" "cgroups";
    /// Its namespaces; none of a task that has exited.
    NamespacesOfTask = "task_struct" "nsproxy";
    /// The network namespace.
    NetOfNamespaces = "nsproxy" "net_ns";
    /// What its thread group shares.
    TaskSignal = "task_struct" "signal";
    /// When it was made (CLOCK_MONOTONIC since 5.5); an exec leaves it, by whichever thread.
    StartTime = "task_struct" "start_time";
    /// Bits `PF_*`.
    TaskFlags = "task_struct" "flags";
    /// Name: of what it executed last, unless it names itself.
    Comm = "task_struct" "comm";
    /// Time that it has run, in nanoseconds, up to the last tick or switch.
    RunTime = "task_struct" "se.sum_exec_runtime";
    /// Its terminal.
    Terminal = "signal_struct" "tty";
    /// Run time of the threads that are released, in nanoseconds.
    ReleasedTime = "signal_struct" "sum_sched_runtime";
    /// User time of the children that were waited for, theirs included.
    ChildrenUser = "signal_struct" "cutime";
    /// System time of the same.
    ChildrenSystem = "signal_struct" "cstime";
    /// Live threads.
    Live = "signal_struct" "live.counter";
    /// Exit status of the group.
    GroupExitCode = "signal_struct" "group_exit_code";
    /// Depth of the pid namespace.
    PidLevel = "pid" "level";
    /// Numbers by namespace.
    PidNumbers = "pid" "numbers";
    /// A number.
    UpidNumber = "upid" "nr";
    /// The namespace of that number.
    UpidNamespace = "upid" "ns";
    /// The first process of a pid namespace.
    ChildReaper = "pid_namespace" "child_reaper";
    /// The cgroup v2 of a set.
    DefaultCgroup = "css_set" "dfl_cgrp";
    /// The cgroup v1 states of a set.
    Subsystems = "css_set" "subsys";
    /// The cgroup of a state.
    CssCgroup = "cgroup_subsys_state" "cgroup";
    /// The parent of a state.
    CssParent = "cgroup_subsys_state" "parent";
    /// The cgroup's own state.
    CgroupSelf = "cgroup" "self";
    /// Its directory.
    CgroupKn = "cgroup" "kn";
    /// Its hierarchy.
    CgroupRoot = "cgroup" "root";
    /// The hierarchy's number: 0 is v2.
    HierarchyId = "cgroup_root" "hierarchy_id";
    /// The directory's inode number: the cgroup's id.
    KnId = "kernfs_node" "id";
    /// Start of a packet's buffer.
    SkbHead = "sk_buff" "head";
    /// Offset of its IP header.
    SkbNetwork = "sk_buff" "network_header";
    /// Link protocol, network order.
    SkbProtocol = "sk_buff" "protocol";
    /// When it was sent, for packets of this machine's own TCP (CLOCK_MONOTONIC); else anything.
    SkbTime = "sk_buff" "tstamp";
    /// Room for whoever holds it; a message about an error keeps itself there.
    SkbControl = "sk_buff" "cb";
    /// Error number of a message about an error.
    QueuedErrno = "sock_exterr_skb" "ee.ee_errno";
    /// Its device.
    SkbDevice = "sk_buff" "dev";
    /// The device's namespace.
    DeviceNet = "net_device" "nd_net.net";
    /// The device's number; 1 is the loopback of its namespace.
    DeviceIndex = "net_device" "ifindex";
    /// Who sent a signal, and how.
    SignalCode = "kernel_siginfo" "si_code";
}

/// How many there are.
pub const FIELDS: usize = PATHS.len();
/// In place of an offset: the running kernel has no such member.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of the members, by number of [`Field`]; [`ABSENT`] where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offsets(pub [u32; FIELDS]);

impl Offsets {
    /// Offset of a member, or [`ABSENT`].
    #[must_use]
    pub const fn of(&self, field: Field) -> u32 {
        self.0[field as usize]
    }
}

/// The placeholder of the first member; the others follow. Numbers that the programs have no other use for: a test of the agent looks.
const FIRST: usize = 0x5a00;

// A load takes 16 bits with a sign.
const _: () = assert!(FIRST + FIELDS <= i16::MAX as usize);

impl Field {
    /// The offset that the programs are compiled with.
    #[inline(always)]
    #[must_use]
    pub const fn placeholder(self) -> usize {
        FIRST + self as usize
    }

    /// The member that has this placeholder; `None` if it is an ordinary number.
    #[must_use]
    pub fn of_placeholder(number: i32) -> Option<Self> {
        let (field, ..) = PATHS.get(usize::try_from(number).ok()?.checked_sub(FIRST)?)?;
        Some(*field)
    }
}
