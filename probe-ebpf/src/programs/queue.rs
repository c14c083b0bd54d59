//! The accept queues of a pod's port, by its listeners: how full they are and what they have dropped. No hook sees a SYN
//! that is dropped there; a probe asks at its beginning and at its end.
//!
//! Rate: written when a listener comes or goes, read twice per probe. Listeners older than the programs are not known,
//! nor more than four of a port.

use super::load::{self, direct, probe};
use super::maps;
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{LISTENERS_EACH, PROBE_QUEUE_FULL, PROBE_QUEUE_KNOWN, QueueKey};

/// All queues of a port.
#[derive(Clone, Copy)]
pub(super) struct Queues {
    /// [`PROBE_QUEUE_KNOWN`], [`PROBE_QUEUE_FULL`].
    pub(super) flags: u16,
    /// What they have dropped, together.
    pub(super) dropped: u32,
}

#[inline(always)]
fn key(cookie: u64, port: u16) -> QueueKey {
    QueueKey { cookie, port: u32::from(port), reserved: 0 }
}

/// A listener came.
#[inline(always)]
pub(super) fn open(cookie: u64, sk: *const u8) {
    let key = key(cookie, direct(sk, Field::LocalPort));
    let Some(all) = maps::QUEUES.get_ptr_mut(key) else {
        let mut first = [0; LISTENERS_EACH];
        first[0] = sk as u64;
        // An LRU takes its oldest entry when it is full.
        let _taken = maps::QUEUES.insert(key, first, 0);
        return;
    };
    for place in 0..LISTENERS_EACH {
        // SAFETY: a live map value, and an index below the array's length.
        let listener = unsafe { &mut (*all)[place] };
        if *listener == 0 || *listener == sk as u64 {
            *listener = sk as u64;
            return;
        }
    }
}

/// A listener went.
#[inline(always)]
pub(super) fn close(cookie: u64, port: u16, sk: *const u8) {
    let Some(all) = maps::QUEUES.get_ptr_mut(key(cookie, port)) else { return };
    let mut left = 0;
    for place in 0..LISTENERS_EACH {
        // SAFETY: as above.
        let listener = unsafe { &mut (*all)[place] };
        if *listener == sk as u64 {
            *listener = 0;
        }
        left |= *listener;
    }
    if left == 0 {
        // Gone already is as good.
        let _gone = maps::QUEUES.remove(key(cookie, port));
    }
}

/// How the queues of a port stand.
#[inline(always)]
pub(super) fn look(cookie: u64, port: u16) -> Queues {
    let mut found = Queues { flags: 0, dropped: 0 };
    // SAFETY: the map is preallocated.
    let Some(all) = (unsafe { maps::QUEUES.get(key(cookie, port)) }) else { return found };
    for socket in all {
        // A listener is forgotten before it is freed; should that have been missed, its memory reads as anything.
        let socket = *socket as *const u8;
        if socket.is_null() || probe::<u8>(socket, Field::State).map(i32::from) != Some(load::tcp::LISTEN) {
            continue;
        }
        found.flags |= PROBE_QUEUE_KNOWN;
        found.dropped = found.dropped.wrapping_add(probe(socket, Field::Drops).unwrap_or(0));
        let waiting: u32 = probe(socket, Field::AckBacklog).unwrap_or(0);
        // sk_acceptq_is_full (include/net/sock.h).
        if waiting > probe(socket, Field::MaxAckBacklog).unwrap_or(u32::MAX) {
            found.flags |= PROBE_QUEUE_FULL;
        }
    }
    found
}
