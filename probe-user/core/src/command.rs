//! Kernel-map changes that the core asks for: the one arrow back from conclusions to facts. The agent's `kernel` module
//! applies them in order; a failed one comes back as an anomaly event.

use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::SlotRef;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Give a slot to a pod: its generation is written, its counters are zeroed.
    WatchSlot {
        /// Slot and new generation.
        slot: SlotRef,
    },
    /// Set the slot's `deleting` flag.
    MarkDeleting {
        /// Slot and generation.
        slot: SlotRef,
    },
    /// Take the slot back: its namespaces, ports, addresses, services and closed tuples are removed, generation 0 is written.
    ForgetSlot {
        /// Slot and generation.
        slot: SlotRef,
    },
    /// The address belongs to the slot from now on (an earlier owner loses it).
    AddAddress {
        /// Address.
        address: IpAddr,
        /// Slot and generation.
        slot: SlotRef,
    },
    /// The address belongs to nobody. Only applied while it still names this slot.
    RemoveAddress {
        /// Address.
        address: IpAddr,
        /// Slot and generation.
        slot: SlotRef,
    },
    /// A port of the pod's spec, its services or its probes. Of hostNetwork pods the one that has it keeps it: it is
    /// given again when that one's slot is taken back.
    AddPort {
        /// Slot and generation.
        slot: SlotRef,
        /// The pod shares the node's network namespace.
        host_network: bool,
        /// Port.
        port: u16,
        /// A probe of its spec goes there.
        probe: bool,
        /// A service of the pod names it.
        service: bool,
        /// What it speaks, as far as anything says.
        #[serde(default, skip_serializing_if = "Protocol::is_unknown")]
        protocol: Protocol,
    },
    /// Whether services name some of the pod's ports, so that what comes to the others is no client's.
    SetServed {
        /// Slot and generation.
        slot: SlotRef,
        /// They do.
        served: bool,
    },
    /// A Service that the end of the slot's pod left without endpoints: what clients of this node are refused there counts for the
    /// slot, unless another's end had it before and still has it.
    AddService {
        /// The Service's address.
        address: IpAddr,
        /// The Service's port.
        port: u16,
        /// Slot and generation.
        slot: SlotRef,
    },
    /// It counts for nobody. Only applied while it still names this slot.
    RemoveService {
        /// The Service's address.
        address: IpAddr,
        /// The Service's port.
        port: u16,
        /// Slot and generation.
        slot: SlotRef,
    },
    /// A container's cgroup gets an index.
    AddContainer {
        /// Index in the table of containers.
        container: u32,
        /// Cgroup id.
        cgroup: u64,
        /// Slot and generation.
        slot: SlotRef,
    },
    /// The index is free again.
    ForgetContainer {
        /// Index in the table of containers.
        container: u32,
        /// Cgroup id.
        cgroup: u64,
    },
}
