//! Connects of this node's clients to a Service that has no endpoint left. The service proxy refuses them by ICMP on this node; no
//! pod's socket is involved, so they are no pod's losses and counted apart. What the proxy drops instead is not seen here, nor is
//! what other nodes' clients meet.

use super::load::{self, direct};
use super::{account, identity, maps};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::ServiceKey;

/// ECONNREFUSED; a network that does not lead there has other numbers (EHOSTUNREACH).
const REFUSED: i32 = 111;

/// The socket was told. A message that meets it in its own connect() is a soft error, which a client that polls takes out (SO_ERROR) before
/// it closes; then it is still in the queue of errors (IPv4). Once the SYN was repeated a soft error is of the past: a refusal then meets no
/// connect() and ends it.
#[inline(always)]
fn is_refused(sk: *const u8, tp: *const u8) -> bool {
    direct::<i32>(sk, Field::Error) == REFUSED || (direct::<u8>(tp, Field::Retransmits) == 0 && has_soft(sk))
}

#[inline(always)]
fn has_soft(sk: *const u8) -> bool {
    direct::<i32>(sk, Field::ErrorSoft) == REFUSED
        || (direct::<u32>(sk, Field::ErrorQueue) != 0 && newest_message(sk) == Some(REFUSED))
}

/// Error number of the newest message in the queue, which is not empty.
#[inline(always)]
fn newest_message(sk: *const u8) -> Option<i32> {
    let message: *const u8 = direct(sk, Field::ErrorQueueLast);
    load::probe(load::member(message, Field::SkbControl), Field::QueuedErrno)
}

/// SYN_SENT -> CLOSE, in whatever network namespace. A pod that is still in the proxy's rules refuses by a segment, which its own
/// side counts; an ICMP message is none (tcp_v4_err, tcp_v6_err).
#[inline(always)]
pub(super) fn failed(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() || !is_refused(sk, tp) || direct::<u32>(tp, Field::SegmentsIn) != 0 {
        return;
    }
    let port = u32::from(u16::from_be(direct(sk, Field::PeerPort)));
    let key = ServiceKey { address: load::peer_address(sk), port, reserved: 0 };
    // SAFETY: user space alone writes the map, whole values.
    let Some(slot) = (unsafe { maps::SERVICES.get(key) }) else { return };
    let Some(slot) = identity::valid(*slot) else { return };
    let Some(tally) = account::tally(slot.slot) else { return };
    // SAFETY: a live map value.
    account::add(unsafe { &raw mut (*account::counters_in(tally)).service_refused });
}
