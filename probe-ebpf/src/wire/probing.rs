//! Probes under way: the tables in which both their ends meet, and the accept queues that they wait in. The kernel's alone.

/// Entries of the memory of probes that connect.
pub const PROBES: u32 = 2048;
/// Probes that are followed while they connect to one port at once. The kubelet has two for each container that names it.
pub const PROBES_EACH: u16 = 8;

/// Key of the memory of probes that connect.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbeKey {
    /// The pod's slot.
    pub slot: u32,
    /// The pod's port.
    pub port: u16,
    /// From 0 to [`PROBES_EACH`].
    pub place: u16,
}

/// Value of the memory of probes that connect: a client socket in SYN_SENT, whose port is chosen only after this is
/// written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probing {
    /// The kernel's address of the socket.
    pub socket: u64,
    /// Its own address, IPv4 mapped.
    pub address: [u64; 2],
    /// How things stood when it began.
    pub begun: Begun,
}

/// How things stood when a probe began.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// When.
    pub at_ns: u64,
    /// The same in jiffies, low half.
    pub jiffies: u32,
    /// What the port's listeners had dropped so far.
    pub dropped: u32,
    /// Process that opened it.
    pub opener: u32,
    /// [`super::PROBE_QUEUE_KNOWN`] and [`super::PROBE_QUEUE_FULL`], as they were then, and [`super::PROBE_OWN`].
    pub flags: u32,
}

/// Value of the memory of probes' connections, by tuple as the pod sees it. Zero times mean "not yet".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Its beginning.
    pub begun: Begun,
    /// The client's side was established.
    pub connected_ns: u64,
    /// The server's side was.
    pub established_ns: u64,
    /// The application read first.
    pub picked_up_ns: u64,
    /// The client read first.
    pub answered_ns: u64,
    /// The client read last.
    pub last_read_ns: u64,
    /// The kernel's address of the server's socket while it is open; else 0.
    pub server: u64,
    /// [`super::PROBE_ACCEPTED`], once the server's socket is closed.
    pub flags: u64,
}

/// Entries of the memory of probes' connections; the oldest give way.
pub const PROBED: u32 = 2048;
/// Entries of the memory of listeners by port; the oldest give way.
pub const QUEUES: u32 = 4096;

/// Key of the memory of listeners by port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// Cookie of the network namespace.
    pub cookie: u64,
    /// Port.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// The namespace that a slot's pod was seen in last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// Its cookie.
    pub cookie: u64,
    /// The slot's generation then.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}
