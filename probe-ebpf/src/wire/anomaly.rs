//! Node-wide counters of what the programs could not do: indexes into one array.

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
