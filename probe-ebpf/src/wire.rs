//! The byte layout shared by kernel and user space: map keys and values, ring records, limits. The only place that
//! knows it. Numbers are in the machine's byte order; addresses are IPv6, IPv4 ones mapped (`::ffff:a.b.c.d`); ports are
//! in host order; times are CLOCK_MONOTONIC nanoseconds.
//!
//! Every struct is `repr(C)` without padding (asserted below), so that a copy of its bytes is its value. Records are
//! parsed by [`crate::record`].

use core::mem::size_of;

/// Changed whenever the meaning of a byte here changes; maps of another ABI are not adopted.
pub const ABI: u32 = 7;

/// Which programs count, and until when: user space switches from old programs to new ones, which share the maps, with
/// one write. 0 in `instance`: none does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The instance of the programs that count; the others return at once.
    pub instance: u64,
    /// The programs stop counting at this moment unless user space moves it on: nobody reads what they count.
    pub until_ns: u64,
    /// [`ABI`] of the maps.
    pub abi: u32,
    /// The agent's process, as its own pid namespace numbers it; 0: none. What it connects to are probes, as the kubelet's are.
    pub agent_pid: u32,
    /// Device of that pid namespace's file, in the kernel's own form.
    pub agent_device: u64,
    /// Inode number of that file.
    pub agent_inode: u64,
}

/// Chunks of what the agent saves of its own state; the kernel programs do not look at it. See `kernel::saved` of the agent.
pub const SAVED_CHUNKS: u32 = 16_384;
/// Bytes of such a chunk: with the map's own bytes just below a page.
pub const SAVED_CHUNK: usize = 3968;

/// Slots: one per pod on the node (the kubelet's own limit is 110 by default, 250 in practice).
pub const SLOTS: u32 = 1024;
/// Containers: several per pod, restarts take new ones until the old ones are gone.
pub const CONTAINERS: u32 = 4096;
/// Entries of the map of ports (several per pod).
pub const PORTS: u32 = 16_384;
/// Entries of the map of addresses (two per dual-stack pod, and the dead ones for a while).
pub const ADDRESSES: u32 = 4096;
/// Entries of the memory of closed connections of stopping pods.
pub const CLOSED: u32 = 32_768;
/// Entries of the memory of counted SYNs; the oldest give way. A retransmission follows within seconds.
pub const SYNS: u32 = 16_384;
/// How long a closed connection is remembered: TCP_TIMEWAIT_LEN (include/net/tcp.h), after which no segment can follow.
pub const CLOSED_NS: u64 = 60_000_000_000;
/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 1 << 20;
/// Bytes of a cgroup path in a record; longer ones are cut and then do not parse.
pub const PATH_BYTES: usize = 256;
/// In place of a container's or slot's index: none.
pub const NONE: u32 = u32::MAX;
/// The port scope of the node's own network namespace (hostNetwork pods share it, so the port names the slot).
pub const HOST_SCOPE: u32 = u32::MAX;

/// Written by user space only: the state of a slot that is not the kernel's to know.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Raised each time the slot is given to another pod; map entries of an older generation are void. 0: free.
    pub generation: u32,
    /// Bits `SLOT_*`.
    pub flags: u32,
}

/// The pod's deletion was seen.
pub const SLOT_DELETING: u32 = 1;
/// Services name some of the pod's ports: what comes to the others (metrics, debugging) is no client's.
pub const SLOT_SERVED: u32 = 2;
/// The API has told an address of the pod.
pub const SLOT_ADDRESSED: u32 = 4;

/// A container's state. User space writes it once, when it gives the container its index; from then on only the kernel
/// does. Zero times mean "not yet".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its pod's slot.
    pub slot: u32,
    /// Its pod's generation.
    pub generation: u32,
    /// The stop: signal, kill or exit, whichever came first.
    pub stop_ns: u64,
    /// Exit of its init.
    pub exit_ns: u64,
    /// Pid of its init as the node sees it, where its pid namespace is not its own; [`OWN_PIDS`] where it is; 0 until known.
    pub init: u32,
    /// Zero.
    pub reserved: u32,
}

/// In place of a pid: the container's init is the first process of its pid namespace.
pub const OWN_PIDS: u32 = u32::MAX;

/// How often things changed, as the kernel programs say ([`TURNS_KERNEL`]) and as user space does ([`TURNS_USER`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// The kernel's: stops that it has seen, raised with each before it counts. User space's: that number when it last found
    /// no container stopping and no pod being deleted, or [`UNSETTLED`]. While both are equal, every pod of the node is
    /// running, and the programs need not ask which one a socket belongs to.
    pub stops: u64,
    /// Changes of what a look at the tables rests on, raised after each. The sum of both is the epoch.
    pub changes: u64,
}

/// Index of what the kernel programs write.
pub const TURNS_KERNEL: u32 = 0;
/// Index of what user space writes.
pub const TURNS_USER: u32 = 1;
/// In place of a number of stops: a pod is being deleted.
pub const UNSETTLED: u64 = u64::MAX;

/// Entries of the memory of what a look at the tables said last; a new one takes the place of another.
pub const KNOWN: u32 = 4096;

/// Value of that memory. Each half names its key and epoch, so that the halves of two writers never pass for one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What is left of the key, and the epoch.
    pub name: u64,
    /// What is left of the key, the low bits of the epoch, and what was found.
    pub found: u64,
}

/// Entries of the memory of listeners; the oldest give way.
pub const LISTENERS: u32 = 1024;
/// Listeners of a cgroup that are followed (SO_REUSEPORT: one per worker).
pub const LISTENERS_EACH: usize = 4;

/// Value of the memory of listeners: a socket in LISTEN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The kernel's address of the socket; 0: free.
    pub socket: u64,
    /// What it had dropped when its container stopped.
    pub dropped: u32,
    /// Zero.
    pub reserved: u32,
}

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
    /// [`PROBE_QUEUE_KNOWN`] and [`PROBE_QUEUE_FULL`], as they were then.
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
    /// [`PROBE_ACCEPTED`], once the server's socket is closed.
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

/// Entries of the map of Services without endpoints: one for each address and port.
pub const SERVICES: u32 = 1024;

/// Key of the map of Services without endpoints.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The Service's address, IPv4 mapped.
    pub address: [u64; 2],
    /// The Service's port.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of the map of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The slot, or [`HOST_SCOPE`].
    pub scope: u32,
    /// Local port.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

/// Value of the map of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The slot (of use in [`HOST_SCOPE`]).
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Index of the container that listens or listened last; [`NONE`] until a listener was seen.
    pub container: u32,
    /// Bits `PORT_*`.
    pub flags: u32,
    /// Listeners in LISTEN that the kernel programs saw come (SO_REUSEPORT: several).
    pub listeners: u32,
    /// Handshakes that were half open when the last listener closed: so many data segments without a socket are
    /// connections that were never accepted.
    pub half_open: u32,
    /// Probes that are connecting to it right now.
    pub probing: u64,
    /// Probes whose client side is established and whose server side did not look yet.
    pub probed: u64,
}

/// Declared in the pod's spec or as a target of its services.
pub const PORT_DECLARED: u32 = 1;
/// A probe of the pod's spec goes to this port.
pub const PORT_PROBE: u32 = 2;
/// A listener or an inbound connection was seen.
pub const PORT_SEEN: u32 = 4;
/// In [`HOST_SCOPE`]: a process that is no pod's was the last to listen there. Until a pod does, the port is nobody's.
pub const PORT_FOREIGN: u32 = 8;

/// A service of the pod names it.
pub const PORT_SERVICE: u32 = 16;
/// Something was written there after something had been read.
pub const PORT_ANSWERED: u32 = 32;
/// Two bits: clients that said something and left by FIN without an answer, up to three. With all three and never
/// [`PORT_ANSWERED`] the port is one-way.
pub const PORT_SILENT: u32 = 64 | 128;
/// What [`PORT_SILENT`] is counted by.
pub const PORT_SILENT_ONE: u32 = 64;
/// Three bits from here: the number of its [`crate::protocol::Protocol`]. Written by user space only.
pub const PORT_PROTOCOL_SHIFT: u32 = 8;
/// The bits of the protocol.
pub const PORT_PROTOCOL: u32 = 7 << PORT_PROTOCOL_SHIFT;
/// The server was seen to speak first.
pub const PORT_GREETS: u32 = 1 << 11;

/// Value of the maps from network namespace or address to slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlotRef {
    /// The slot.
    pub slot: u32,
    /// Its generation when this was written.
    pub generation: u32,
}

/// Key of the memory of closed connections and of counted SYNs, seen from the pod. A pod that has the address of one that
/// is gone shares its tuples; the value says whose one is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The client's port.
    pub peer_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// The client's address.
    pub peer: [u8; 16],
    /// The pod's address.
    pub local: [u8; 16],
}

/// Value of the memory of closed connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// When it was written.
    pub at_ns: u64,
    /// Bits `CLOSED_*`.
    pub flags: u32,
    /// Number of the request that the client would send next.
    pub request: u32,
    /// Phase in which the connection was made.
    pub phase: u32,
    /// The pod's slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Index of the container that listened, or [`NONE`].
    pub container: u32,
}

/// The tuple's last attempt has its class already.
pub const CLOSED_COUNTED: u32 = 1;
/// The tuple is a probe's connection: the client side said so before the server side was established, or when it gave up.
pub const CLOSED_PROBE: u32 = 2;

/// Counters of one slot: only ever added to, by the kernel, until the slot is given to another pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Counters {
    /// Lost attempts, `[class][phase][confidence]`.
    pub lost: [[[u64; 2]; 3]; 10],
    /// Connections that arrived late and are closed, `[deleting | stopping][served | lost | idle]`.
    pub late_connections: [[u64; 3]; 2],
    /// Requests that arrived late, `[new | reused connection][answered | lost]`.
    pub late_requests: [[u64; 2]; 2],
    /// Inbound connections opened (late ones included), probes not counted.
    pub opened: u64,
    /// Inbound connections closed.
    pub closed: u64,
    /// Inbound connections that arrived late, closed or not.
    pub late_opened: u64,
    /// Late connections of probes and late attempts at them, counted nowhere else.
    pub probes: u64,
    /// Connects of this node's clients to a Service that the pod's end left without endpoints, refused by the service proxy.
    pub service_refused: u64,
    /// Evidence records ([`Kind::Loss`]) written to the ring.
    pub evidence: u64,
    /// Evidence records that the full ring refused.
    pub evidence_refused: u64,
    /// Tuples that the full memory of closed connections could not take.
    pub closed_refused: u64,
    /// Last connection attempt from outside the pod while late; 0 if none.
    pub last_new_ns: u64,
    /// Last request read while late; 0 if none.
    pub last_request_ns: u64,
    /// First stop of one of its containers; decides the phase of ports whose container is not known. 0 if none.
    pub stop_ns: u64,
}

/// Value of the map of counters: connections are counted in several places, so that CPUs do not wait for each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Everything but [`Counters::opened`] and [`Counters::closed`], which are 0.
    pub counters: Counters,
    /// These two, by number of the CPU that counted.
    pub shares: [Share; SHARES],
}

/// A CPU's share of two counters, with a cache line's length between one and the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// See [`Counters::opened`].
    pub opened: u64,
    /// See [`Counters::closed`].
    pub closed: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

/// How many shares there are, a power of two; of more CPUs several have one.
pub const SHARES: usize = 8;

impl Tally {
    /// The counters with the sums of their shares.
    #[must_use]
    pub fn sum(&self) -> Counters {
        let sum = |of: fn(&Share) -> u64| self.shares.iter().map(of).fold(0, u64::wrapping_add);
        Counters { opened: sum(|share| share.opened), closed: sum(|share| share.closed), ..self.counters }
    }
}

/// Results of a late connection: the last index of [`Counters::late_connections`].
pub const RESULT_SERVED: usize = 0;
/// See [`RESULT_SERVED`].
pub const RESULT_LOST: usize = 1;
/// See [`RESULT_SERVED`].
pub const RESULT_IDLE: usize = 2;
/// First index of [`Counters::late_requests`]: the connection arrived late too.
pub const ON_NEW: usize = 0;
/// First index of [`Counters::late_requests`]: the connection is older.
pub const ON_REUSED: usize = 1;
/// Second index of [`Counters::late_requests`].
pub const ANSWERED: usize = 0;
/// Second index of [`Counters::late_requests`].
pub const LOST: usize = 1;

/// Node-wide counters of what the programs could not do, indexes into one array.
pub mod anomaly {
    /// A ring record was refused (any kind).
    pub const RING_FULL: u32 = 0;
    /// No socket storage could be made for a connection.
    pub const NO_STORAGE: u32 = 1;
    /// The map of ports is full.
    pub const PORTS_FULL: u32 = 2;
    /// The map of network namespaces is full.
    pub const NAMESPACES_FULL: u32 = 3;
    /// The memory of closed connections is full.
    pub const CLOSED_FULL: u32 = 4;
    /// A slot, container or generation did not match: a stale map entry was met and ignored.
    pub const STALE_ENTRY: u32 = 5;
    /// A packet could not be parsed.
    pub const BAD_PACKET: u32 = 6;
    /// More probes connected at once than are followed: those that are refused count as clients.
    pub const PROBES_FULL: u32 = 7;
    /// The end of a probe's connection whose beginning is not known: it has no record.
    pub const PROBES_UNSEEN: u32 = 8;
    /// How many there are.
    pub const COUNT: u32 = 9;
    /// Their names, by index.
    pub const NAMES: [&str; COUNT as usize] = [
        "ring_full",
        "no_storage",
        "ports_full",
        "namespaces_full",
        "closed_full",
        "stale_entry",
        "bad_packet",
        "probes_full",
        "probes_unseen",
    ];
}

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
    /// Index of the container that listens on the port, or [`NONE`].
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
    /// Index of the container, or [`NONE`].
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
    /// Index of the container that listens on the port, or [`NONE`].
    pub container: u32,
    /// When the client closed.
    pub at_ns: u64,
    /// The slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// See [`Begun::at_ns`].
    pub begun_ns: u64,
    /// See [`Probed::connected_ns`].
    pub connected_ns: u64,
    /// See [`Probed::established_ns`].
    pub established_ns: u64,
    /// See [`Probed::picked_up_ns`].
    pub picked_up_ns: u64,
    /// See [`Probed::answered_ns`].
    pub answered_ns: u64,
    /// See [`Probed::last_read_ns`].
    pub last_read_ns: u64,
    /// Jiffies (low half) at the beginning: a clock of its own, to be laid on the other by the two ends.
    pub begun_jiffies: u32,
    /// Jiffies when the client's socket received data last.
    pub received_jiffies: u32,
    /// Jiffies at the close.
    pub closed_jiffies: u32,
    /// What the port's listeners have dropped meanwhile.
    pub dropped: u32,
    /// See [`Begun::opener`].
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

macro_rules! unpadded {
    ($($name:ident = $bytes:expr;)*) => { $( const _: () = assert!(size_of::<$name>() == $bytes); )* };
}
unpadded! {
    Control = 40;
    Slot = 8;
    Known = 16;
    Turns = 16;
    Share = 64;
    Listening = 16;
    Container = 32;
    ProbeKey = 8;
    ServiceKey = 24;
    Begun = 24;
    Probing = 48;
    Probed = 80;
    QueueKey = 16;
    Home = 16;
    PortKey = 8;
    Port = 40;
    SlotRef = 8;
    Tuple = 36;
    Closed = 32;
    Loss = 88;
    Signal = 40;
    Exit = 40;
    Listener = 32;
    ProbeEnd = 96;
    CgroupChange = 280;
}
const _: () = assert!(size_of::<Counters>() == 8 * (60 + 6 + 4 + 4 + 7));
const _: () = assert!(size_of::<Tally>() == size_of::<Counters>() + SHARES * size_of::<Share>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_the_sum_of_its_shares_and_nothing_else_changes() {
        let mut tally = Tally::default();
        tally.counters.late_opened = 3;
        for (number, share) in (1..).zip(&mut tally.shares) {
            (share.opened, share.closed) = (number, 10 * number);
        }
        let all = SHARES as u64 * (SHARES as u64 + 1) / 2;
        assert_eq!(
            tally.sum(),
            Counters { opened: all, closed: 10 * all, late_opened: 3, ..Counters::default() }
        );
    }
}
