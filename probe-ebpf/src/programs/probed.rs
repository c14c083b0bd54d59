//! The way of each probe of the kubelet, stamped: connect, pick-up, answer, and the state of things at its end. One record
//! for each connection, written when its client closes.
//!
//! Rate: probes only, a few per container and period. What the two ends see meets in one entry, by the connection's
//! addresses. With a full ring the record is lost, and counted; so is an entry that had to give way.

use super::connection::{self, Connection, HAS_READ, IS_PROBE_CLIENT};
use super::load::{self, direct, is_less, is_same, is_set, probe, tcp};
use super::queue::{self, Queues};
use super::{account, closing, identity, maps};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{
    Begun, Kind, NONE, PROBE_ACCEPTED, PROBE_ACKED, PROBE_FAILED, PROBE_FINISHED, PROBE_OWN,
    PROBE_QUEUE_FULL, PROBE_RECEIVED, PROBE_SENT, PROBE_UNREAD, ProbeEnd, Probed, SlotRef, Tuple, anomaly,
};

/// A probe begins.
#[inline(always)]
pub(super) fn begun(slot: SlotRef, port: u16) -> Begun {
    let queues = queue::look(identity::namespace_of_slot(slot), port);
    let own = if load::is_agent() { PROBE_OWN } else { 0 };
    Begun {
        at_ns: load::now_ns(),
        jiffies: load::jiffies(),
        dropped: queues.dropped,
        opener: load::current_process(),
        flags: u32::from(queues.flags | own),
    }
}

/// The client's side is established; the server's will be in a moment.
#[inline(always)]
pub(super) fn connected(sk: *const u8, seen: &Connection, begun: Begun) {
    let fresh = Probed { begun, connected_ns: load::now_ns(), ..Probed::default() };
    // An LRU takes its oldest entry when it is full.
    let _taken = maps::PROBED.insert(seen.tuple(), fresh, 0);
    let stored = connection::of(sk);
    if !stored.is_null() {
        // Both ends, for what comes later.
        // SAFETY: non-null storage of this socket.
        unsafe { *stored = *seen };
    }
}

/// The server's side is established.
#[inline(always)]
pub(super) fn established(tuple: &Tuple, sk: *const u8) {
    if let Some(probed) = maps::PROBED.get_ptr_mut(tuple) {
        // SAFETY: a live map value; only the server's side writes these.
        unsafe {
            (*probed).established_ns = load::now_ns();
            (*probed).server = sk as u64;
        }
    }
}

/// One of the ends has read.
#[inline(always)]
pub(super) fn was_read(connection: &mut Connection) {
    let is_client = connection.flags & IS_PROBE_CLIENT != 0;
    let is_first = connection.flags & HAS_READ == 0;
    connection.flags |= HAS_READ;
    if !is_client && !is_first {
        return;
    }
    let Some(probed) = maps::PROBED.get_ptr_mut(connection.tuple()) else { return };
    let now = load::now_ns();
    // SAFETY: a live map value; each side writes its own.
    unsafe {
        if !is_client {
            (*probed).picked_up_ns = now;
            return;
        }
        if is_first {
            (*probed).answered_ns = now;
        }
        (*probed).last_read_ns = now;
    }
}

/// The server's socket closes before the client's: it is not to be looked at any more.
#[inline(always)]
pub(super) fn left(sk: *const u8, connection: &Connection) {
    if let Some(probed) = maps::PROBED.get_ptr_mut(connection.tuple()) {
        // SAFETY: a live map value; only the server's side writes these.
        unsafe {
            if (*probed).server == sk as u64 {
                (*probed).server = 0;
                (*probed).flags = u64::from(load::is_accepted(sk)) * u64::from(PROBE_ACCEPTED);
            }
        }
    }
}

/// The connect came to nothing.
#[inline(always)]
pub(super) fn failed(sk: *const u8, seen: &Connection, begun: Begun) {
    let is_failed = direct::<i32>(sk, Field::Error) != 0;
    let flags = if is_failed { PROBE_FAILED } else { 0 };
    record(seen, &Probed { begun, ..Probed::default() }, flags, 0);
}

/// A socket of the node leaves ESTABLISHED or CLOSE_WAIT: 1 if it is a probe's client.
#[inline(always)]
pub(super) fn over(sk: *const u8, old: i32) -> u64 {
    let stored = connection::of(sk);
    let tp = load::tcp_sock(sk);
    if stored.is_null() || tp.is_null() {
        return 0;
    }
    // SAFETY: non-null storage of this socket.
    let connection = unsafe { &*stored };
    if connection.flags & IS_PROBE_CLIENT == 0 {
        return 0;
    }
    let tuple = connection.tuple();
    let Some(entry) = maps::PROBED.get_ptr_mut(tuple) else {
        account::anomaly(anomaly::PROBES_UNSEEN);
        return 1;
    };
    // SAFETY: a live map value.
    let probed = unsafe { *entry };
    // Gone already is as good.
    let _gone = maps::PROBED.remove(tuple);
    let fin = is_same(old.cast_unsigned(), tcp::CLOSE_WAIT.cast_unsigned()) | load::client_has_finished(sk);
    let unacked = direct::<u32>(tp, Field::WriteSeq) ^ direct::<u32>(tp, Field::SndUna);
    // The SYN counts as a byte.
    let sent = is_less(1, direct(tp, Field::BytesAcked)) | is_set(u64::from(unacked));
    let bit = |is_so: u32, bit: u16| is_so * u32::from(bit);
    let server = probed.server as *const u8;
    let is_accepted = if server.is_null() {
        0
    } else {
        // A socket is forgotten before it is freed; should that have been missed, its memory reads as anything.
        is_set(probe::<u64>(server, Field::Socket).unwrap_or(0))
    };
    let flags = bit(is_accepted, PROBE_ACCEPTED)
        | bit(sent, PROBE_SENT)
        | bit(is_set(u64::from(unacked)) ^ 1, PROBE_ACKED)
        | bit(is_less(u64::from(fin), direct(tp, Field::BytesReceived)), PROBE_RECEIVED)
        | bit(is_set(u64::from(closing::unread_of(tp, fin))), PROBE_UNREAD)
        | bit(fin, PROBE_FINISHED)
        | bit(load::client_has_reset(sk), PROBE_FAILED);
    #[expect(clippy::cast_possible_truncation, reason = "bits of 16")]
    record(connection, &probed, flags as u16, direct(tp, Field::LastReceived));
    1
}

#[inline(always)]
fn record(seen: &Connection, probed: &Probed, flags: u16, received_jiffies: u32) {
    let slot = seen.slot;
    let Queues { flags: queue_flags, dropped } =
        queue::look(identity::namespace_of_slot(slot), seen.local_port);
    let container = identity::port(slot.slot, seen.local_port)
        // SAFETY: a live map value.
        .map_or(NONE, |port| unsafe { (*port).container });
    #[expect(clippy::cast_possible_truncation, reason = "bits of 16")]
    let before = (probed.begun.flags as u16, probed.flags as u16);
    // Known at both ends, or what was dropped between them is not; full at one.
    let queue_flags = (queue_flags & before.0) | ((queue_flags | before.0) & PROBE_QUEUE_FULL);
    let Some(mut entry) = maps::RING.reserve::<ProbeEnd>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return;
    };
    entry.write(ProbeEnd {
        kind: Kind::Probe as u32,
        container,
        at_ns: load::now_ns(),
        slot: slot.slot,
        generation: slot.generation,
        begun_ns: probed.begun.at_ns,
        connected_ns: probed.connected_ns,
        established_ns: probed.established_ns,
        picked_up_ns: probed.picked_up_ns,
        answered_ns: probed.answered_ns,
        last_read_ns: probed.last_read_ns,
        begun_jiffies: probed.begun.jiffies,
        received_jiffies,
        closed_jiffies: load::jiffies(),
        dropped: dropped.wrapping_sub(probed.begun.dropped),
        opener: probed.begun.opener,
        port: seen.local_port,
        flags: flags | before.1 | queue_flags | (before.0 & PROBE_OWN),
    });
    entry.submit(0);
}
