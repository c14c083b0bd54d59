//! The records of the ring buffer. The counters have what they tell already; a full ring refuses only them.

use super::PATH_BYTES;

/// What kind a ring record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`Loss`].
    Loss = 1,
    /// [`Signal`].
    Signal = 2,
    /// [`Exit`].
    Exit = 3,
    /// [`Listener`].
    Listener = 4,
    /// [`CgroupChange`].
    Cgroup = 5,
    /// [`ProbeEnd`].
    Probe = 6,
    /// [`ExecEnd`].
    Exec = 7,
}

/// Evidence of one lost attempt; the counter has it already.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// [`Kind::Loss`].
    pub kind: u32,
    /// The pod's slot.
    pub slot: u32,
    /// When this was written.
    pub at_ns: u64,
    /// When the attempt was lost; earlier than `at_ns` for blackholed ones of this machine's own clients, whose packets
    /// tell when they were sent.
    pub attempt_ns: u64,
    /// The slot's generation.
    pub generation: u32,
    /// Index of the container that listens on the port, or [`super::NONE`].
    pub container: u32,
    /// The client's address.
    pub peer: [u8; 16],
    /// The pod's address.
    pub local: [u8; 16],
    /// The client's port.
    pub peer_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// Number of the request on its connection, from 1.
    pub request: u32,
    /// Bytes received and never read.
    pub unread: u32,
    /// Bytes written and not acknowledged.
    pub unacked: u32,
    /// [`crate::class::Class`].
    pub class: u8,
    /// [`crate::class::Confidence`].
    pub confidence: u8,
    /// [`crate::class::Phase`] in which it was lost.
    pub phase: u8,
    /// Bits `LOSS_*`.
    pub flags: u8,
    /// How many attempts this stands for.
    pub attempts: u32,
}

/// The attempt arrived late (else it was in flight at the stop).
pub const LOSS_LATE: u8 = 1;
/// Its connection arrived late.
pub const LOSS_LATE_CONNECTION: u8 = 2;
/// The client's FIN had come before.
pub const LOSS_CLIENT_FIN: u8 = 4;
/// It was a connect: a SYN that nobody accepted.
pub const LOSS_CONNECT: u8 = 8;

/// A signal to a container's init, or one that stops it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    /// [`Kind::Signal`].
    pub kind: u32,
    /// Index of the container.
    pub container: u32,
    /// When it was generated.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// Signal number.
    pub signal: u32,
    /// 1: ignored by the target (`TRACE_SIGNAL_IGNORED`).
    pub ignored: u32,
    /// Open inbound connections of the pod at this moment.
    pub open: u64,
}

/// Exit of a container's init.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// [`Kind::Exit`].
    pub kind: u32,
    /// Index of the container.
    pub container: u32,
    /// When.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// As wait(2) has it: `code << 8`, or the number of the signal that killed it.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Open inbound connections of the pod at this moment.
    pub open: u64,
}

/// A listener came or went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// [`Kind::Listener`].
    pub kind: u32,
    /// Index of the container, or [`super::NONE`].
    pub container: u32,
    /// When.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// Local port.
    pub port: u16,
    /// 1: entered LISTEN, 0: left it.
    pub open: u16,
    /// Listeners left on this port.
    pub listeners: u32,
}

/// A connection of a probe was given up by its client, or ended. Zero times mean that it did not come so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeEnd {
    /// [`Kind::Probe`].
    pub kind: u32,
    /// Index of the container that listens on the port, or [`super::NONE`].
    pub container: u32,
    /// When the client closed.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// See [`super::Begun::at_ns`].
    pub begun_ns: u64,
    /// See [`super::Probed::connected_ns`].
    pub connected_ns: u64,
    /// See [`super::Probed::established_ns`].
    pub established_ns: u64,
    /// See [`super::Probed::picked_up_ns`].
    pub picked_up_ns: u64,
    /// See [`super::Probed::answered_ns`].
    pub answered_ns: u64,
    /// See [`super::Probed::last_read_ns`].
    pub last_read_ns: u64,
    /// Jiffies (low half) at the beginning: a clock of its own, to be laid on the other by the two ends.
    pub begun_jiffies: u32,
    /// Jiffies when the client's socket received data last.
    pub received_jiffies: u32,
    /// Jiffies at the close.
    pub closed_jiffies: u32,
    /// What the port's listeners have dropped meanwhile.
    pub dropped: u32,
    /// See [`super::Begun::opener`].
    pub opener: u32,
    /// Port.
    pub port: u16,
    /// Bits `PROBE_*`.
    pub flags: u16,
}

/// The listeners of its port are known: [`ProbeEnd::dropped`] and [`PROBE_QUEUE_FULL`] tell something.
pub const PROBE_QUEUE_KNOWN: u16 = 1;
/// An accept queue of its port was full when it began or when it ended.
pub const PROBE_QUEUE_FULL: u16 = 2;
/// The application had accepted it.
pub const PROBE_ACCEPTED: u16 = 4;
/// The client had sent something.
pub const PROBE_SENT: u16 = 8;
/// All that the client had sent was acknowledged.
pub const PROBE_ACKED: u16 = 16;
/// The client's socket had received something.
pub const PROBE_RECEIVED: u16 = 32;
/// The client had not read all of it.
pub const PROBE_UNREAD: u16 = 64;
/// The server had ended its answer (FIN).
pub const PROBE_FINISHED: u16 = 128;
/// An error ended it: refused, reset, unreachable.
pub const PROBE_FAILED: u16 = 256;
/// The agent opened it, whatever pid namespace it is in.
pub const PROBE_OWN: u16 = 512;

/// Bytes of a process's name (TASK_COMM_LEN), the zero byte at its end included.
pub const COMM_BYTES: usize = 16;

/// A command ended that came into a container from outside: it was begun by a process of no container of the pod, and is not the
/// container's init.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecEnd {
    /// [`Kind::Exec`].
    pub kind: u32,
    /// Index of the container.
    pub container: u32,
    /// When its last thread exited.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// When the runtime made the process, before it executed the command.
    pub started_ns: u64,
    /// CPU time of its threads from the beginning on, up to the last tick or switch, and of those children that it waited for.
    pub cpu_ns: u64,
    /// As wait(2) has it.
    pub status: u32,
    /// Pid as the node sees it.
    pub pid: u32,
    /// Bits `EXEC_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Its name.
    pub comm: [u8; COMM_BYTES],
}

/// It had a terminal.
pub const EXEC_TERMINAL: u32 = 1;

/// A cgroup was made or removed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// [`Kind::Cgroup`].
    pub kind: u32,
    /// 1: made, 0: removed.
    pub made: u32,
    /// When.
    pub at_ns: u64,
    /// Its id (inode number of the directory).
    pub id: u64,
    /// Path below the hierarchy's root, ended by a zero byte.
    pub path: [u8; PATH_BYTES],
}
