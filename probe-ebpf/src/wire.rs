//! The byte layout shared by kernel and user space: map keys and values, ring records, limits. The only place that
//! knows it. Numbers are in the machine's byte order; addresses are IPv6, IPv4 ones mapped (`::ffff:a.b.c.d`); ports are
//! in host order; times are CLOCK_MONOTONIC nanoseconds.
//!
//! Every struct is `repr(C)` without padding (asserted below), so that a copy of its bytes is its value. Records are
//! parsed by [`crate::record`].

use core::mem::size_of;

pub mod anomaly;
mod probing;
mod ring;

pub use probing::*;
pub use ring::*;

/// Changed whenever the meaning of a byte here changes; maps of another ABI are not adopted.
pub const ABI: u32 = 9;

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
/// Entries of the map of their numbers. A power of two: fewer than numbers, so that it stays small; of a client's ports, which come one after
/// the other, few share an entry with those that pods listen on.
pub const NUMBERS: u32 = 4096;
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

/// Key of the map of numbers of ports.
#[must_use]
pub const fn number(port: u16) -> u32 {
    port as u32 & (NUMBERS - 1)
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
    ExecEnd = 72;
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
