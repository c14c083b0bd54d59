//! The tables. Sizes and layouts are the wire format's; who writes what is said at each.

use super::connection::Connection;
use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use probe_ebpf::wire::{
    self, Closed, Container, Control, Home, Known, Listening, Port, PortKey, ProbeKey, Probed, Probing,
    QueueKey, ServiceKey, Slot, SlotRef, Tally, Tuple, Turns, anomaly,
};

/// Memory for an entry only while it is there.
const BPF_F_NO_PREALLOC: u32 = 1;

/// Which programs count, and until when. User space writes; the programs only ever stop themselves.
#[map]
pub(super) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
/// What the agent saves of itself, in chunks; no program looks at it.
#[map]
pub(super) static SAVED: HashMap<u32, [u8; wire::SAVED_CHUNK]> =
    HashMap::with_max_entries(wire::SAVED_CHUNKS, BPF_F_NO_PREALLOC);
/// Slot -> state. User space writes.
#[map]
pub(super) static SLOTS: Array<Slot> = Array::with_max_entries(wire::SLOTS, 0);
/// Slot -> counters. The kernel adds; user space zeroes when it gives the slot away.
#[map]
pub(super) static COUNTERS: Array<Tally> = Array::with_max_entries(wire::SLOTS, 0);
/// Container index -> state. User space writes once, then the kernel.
#[map]
pub(super) static CONTAINERS: Array<Container> = Array::with_max_entries(wire::CONTAINERS, 0);
/// Cgroup id -> container index. User space writes.
#[map]
pub(super) static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(wire::CONTAINERS, 0);
/// Network namespace cookie -> slot. The kernel learns; user space removes.
#[map]
pub(super) static NAMESPACES: HashMap<u64, SlotRef> = HashMap::with_max_entries(wire::ADDRESSES, 0);
/// How often things changed. Both write, each its own.
#[map]
pub(super) static TURNS: Array<Turns> = Array::with_max_entries(2, 0);
/// Namespace and port -> slot, as long as nothing changes: see `known`. The kernel's alone.
#[map]
pub(super) static KNOWN: Array<Known> = Array::with_max_entries(wire::KNOWN, 0);
/// Address -> slot. User space writes.
#[map]
pub(super) static ADDRESSES: HashMap<[u64; 2], SlotRef> = HashMap::with_max_entries(wire::ADDRESSES, 0);
/// Address -> the slot that had it before the one that has it now. User space writes.
#[map]
pub(super) static FORMER: HashMap<[u64; 2], SlotRef> = HashMap::with_max_entries(wire::ADDRESSES, 0);
/// Scope and port -> port. Both write.
#[map]
pub(super) static PORTS: HashMap<PortKey, Port> = HashMap::with_max_entries(wire::PORTS, 0);
/// Lower part of a number (see `wire::number`) -> not 0 if [`PORTS`] had a port of such a number. Never taken back. Both write.
#[map]
pub(super) static NUMBERS: Array<u8> = Array::with_max_entries(wire::NUMBERS, 0);
/// Memory of closed connections. The kernel writes; user space sweeps.
#[map]
pub(super) static CLOSED: HashMap<Tuple, Closed> = HashMap::with_max_entries(wire::CLOSED, 0);
/// Memory of counted SYNs (refused, blackholed or misrouted), their sequence numbers: a retransmission's is the same, that of
/// a new attempt on the same ports another. The kernel's alone.
#[map]
pub(super) static SYNS: LruHashMap<Tuple, u32> = LruHashMap::with_max_entries(wire::SYNS, 0);
/// Probes that connect, by the port that they connect to. The kernel's alone.
#[map]
pub(super) static PROBES: HashMap<ProbeKey, Probing> = HashMap::with_max_entries(wire::PROBES, 0);
/// Address and port of a Service without endpoints -> the slot of the pod whose end took the last. User space writes.
#[map]
pub(super) static SERVICES: HashMap<ServiceKey, SlotRef> = HashMap::with_max_entries(wire::SERVICES, 0);
/// Probes' connections, by tuple as the pod sees it. The kernel's alone.
#[map]
pub(super) static PROBED: LruHashMap<Tuple, Probed> = LruHashMap::with_max_entries(wire::PROBED, 0);
/// Slot -> the namespace that it was seen in last. The kernel's alone.
#[map]
pub(super) static HOMES: Array<Home> = Array::with_max_entries(wire::SLOTS, 0);
/// Namespace and port -> the kernel's addresses of its listeners. The kernel's alone.
#[map]
pub(super) static QUEUES: LruHashMap<QueueKey, [u64; wire::LISTENERS_EACH]> =
    LruHashMap::with_max_entries(wire::QUEUES, 0);
/// Id of the cgroup that a task listened in -> its listeners, so that the container's stop finds them. Not by container: a
/// server may listen before user space knows its container. The kernel's alone.
#[map]
pub(super) static LISTENERS: LruHashMap<u64, [Listening; wire::LISTENERS_EACH]> =
    LruHashMap::with_max_entries(wire::LISTENERS, 0);
/// What the programs could not do, node-wide.
#[map]
pub(super) static ANOMALIES: Array<u64> = Array::with_max_entries(anomaly::COUNT, 0);
/// Records for user space.
#[map]
pub(super) static RING: RingBuf = RingBuf::with_byte_size(wire::RING_BYTES, 0);
/// State of the connections of watched pods that have more to remember than their sockets tell (see `bare`), and of the
/// probes' client sockets. Dies with the socket.
#[btf_map]
pub(super) static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
