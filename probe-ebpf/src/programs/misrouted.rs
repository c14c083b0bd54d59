//! What was meant for a pod that is gone and came to the one that has its address now: that one knows nothing of it and
//! answers with a reset. For the reset hook. What it answers by itself is not seen: the client got an answer.

use super::account::{self, Attempt};
use super::packet::Packet;
use super::reset::{attempt_of, tuple_of};
use super::{identity, maps, probe};
use probe_ebpf::class::{Class, Confidence};
use probe_ebpf::decide::{self, Verdict};
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{CLOSED_PROBE, HOST_SCOPE, PORT_SEEN, SlotRef};

/// A segment of a connection to the pod before, in the namespace of another; false if it is of no such connection.
#[inline(always)]
pub(super) fn segment(scope: Option<u32>, packet: &Packet) -> bool {
    let Some(remembered) = account::remembered(&tuple_of(packet)) else { return false };
    // SAFETY: a live map value.
    let closed = unsafe { *remembered };
    let slot = SlotRef { slot: closed.slot, generation: closed.generation };
    if scope == Some(slot.slot) || identity::valid(slot).is_none() {
        return false;
    }
    if closed.flags & CLOSED_PROBE != 0 {
        return true;
    }
    let port = identity::port(slot.slot, packet.destination_port);
    // SAFETY: a live map value.
    let protocol = port.map_or(Protocol::Unknown, |port| unsafe { (*port).protocol() });
    let is_request = decide::data_after_close(Verdict::Served, protocol, packet.payload).is_some();
    // Here a bare FIN is reset whatever came before it: a client that leaves a connection that the old pod closed.
    if packet.payload > 0 && is_request && account::count_once(remembered) {
        let phase = identity::phase(slot, closed.container);
        account::loss(&Attempt {
            request: closed.request,
            late_connection: closed.phase != 0,
            ..attempt_of(slot, closed.container, packet, Class::Misrouted, Confidence::Inferred, phase)
        });
    }
    true
}

/// A refused connect to a port that its pod never had and the pod before did; false if it is none.
#[inline(always)]
pub(super) fn connect(scope: u32, packet: &Packet) -> bool {
    let Some(slot) = former(scope, packet.destination) else { return false };
    let Some(port) = identity::client_port(slot.slot, packet.destination_port) else { return false };
    // SAFETY: a live map value.
    let port = unsafe { *port };
    // Probes are for the pod of now, whatever the API says of addresses.
    if port.flags & PORT_SEEN == 0
        || probe::has_sent(&port, packet)
        || !identity::exited(slot, port.container)
    {
        return false;
    }
    let phase = identity::phase(slot, port.container);
    if account::count_syn_once(&tuple_of(packet), packet.sequence) {
        let attempt = attempt_of(slot, port.container, packet, Class::Misrouted, Confidence::Inferred, phase);
        if let Some(counters) = account::counters(slot) {
            account::late_attempt(counters, phase, attempt.at_ns);
        }
        account::loss(&attempt);
    }
    true
}

/// The slot that had the address before this one; the API may not know of the change yet.
#[inline(always)]
fn former(scope: u32, address: [u64; 2]) -> Option<SlotRef> {
    if scope == HOST_SCOPE {
        return None;
    }
    let is_other = |slot: &SlotRef| slot.slot != scope;
    identity::slot_of_address(address).filter(is_other).or_else(|| {
        // SAFETY: the map is preallocated; a value read while user space removes it has an old generation at worst.
        unsafe { maps::FORMER.get(address) }.copied().and_then(identity::valid).filter(is_other)
    })
}
