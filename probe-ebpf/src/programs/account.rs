//! Adds to counters and writes evidence. One call of [`loss`] is one lost attempt.

use super::connection::{Connection, HAS_FIN};
use super::{load, maps};
use aya_ebpf::helpers::generated;
use core::arch::asm;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{
    self, ANSWERED, CLOSED_COUNTED, Closed, Container, Counters, Kind, LOSS_CLIENT_FIN, LOSS_CONNECT,
    LOSS_LATE, LOSS_LATE_CONNECTION, LOST, Loss, ON_NEW, ON_REUSED, SHARES, Share, SlotRef, Tally, Tuple,
    anomaly,
};

/// Adds one. The counters of a slot are shared by all CPUs; late traffic is rare enough.
#[inline(always)]
pub(super) fn add(counter: *mut u64) {
    add_many(counter, 1);
}

#[inline(always)]
fn add_many(counter: *mut u64, count: u64) {
    // SAFETY: callers pass an aligned u64 of a live map value. Rust's atomics have no read-modify-write for this target.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) count, options(nostack)) };
}

/// Takes one off a gauge.
#[inline(always)]
pub(super) fn subtract(gauge: *mut u64) {
    // Adding all ones is taking one off.
    add_many(gauge, u64::MAX);
}

/// Counts something that the programs could not do.
#[inline(always)]
pub(super) fn anomaly(index: u32) {
    if let Some(counter) = maps::ANOMALIES.get_ptr_mut(index) {
        add(counter);
    }
}

/// All counters of a slot.
#[inline(always)]
pub(super) fn tally(slot: u32) -> Option<*mut Tally> {
    maps::COUNTERS.get_ptr_mut(slot)
}

/// The counters of a slot, all but those of [`opened`] and [`closed`].
#[inline(always)]
pub(super) fn counters(slot: SlotRef) -> Option<*mut Counters> {
    tally(slot.slot).map(counters_in)
}

/// The same, of a slot that was looked up.
#[inline(always)]
pub(super) fn counters_in(tally: *mut Tally) -> *mut Counters {
    // SAFETY: a live map value.
    unsafe { &raw mut (*tally).counters }
}

/// Counts an inbound connection.
#[inline(always)]
pub(super) fn opened(tally: *mut Tally) {
    // SAFETY: a live map value.
    add(unsafe { &raw mut (*share(tally)).opened });
}

/// Counts the end of an inbound connection.
#[inline(always)]
pub(super) fn closed(tally: *mut Tally) {
    // SAFETY: a live map value.
    add(unsafe { &raw mut (*share(tally)).closed });
}

/// The running CPU's share.
#[inline(always)]
fn share(tally: *mut Tally) -> *mut Share {
    // SAFETY: no arguments.
    let cpu = unsafe { generated::bpf_get_smp_processor_id() };
    // SAFETY: a live map value, and an index below the array's length.
    unsafe { (&raw mut (*tally).shares).cast::<Share>().add(cpu as usize & (SHARES - 1)) }
}

/// Inbound connections of a slot that are open now.
#[inline(always)]
pub(super) fn open(slot: SlotRef) -> u64 {
    let Some(tally) = maps::COUNTERS.get(slot.slot) else { return 0 };
    let mut open = 0_u64;
    for share in &tally.shares {
        open = open.wrapping_add(share.opened).wrapping_sub(share.closed);
    }
    // One that was counted as closed meanwhile, and as opened on a CPU that was asked before.
    if open > u64::MAX / 2 { 0 } else { open }
}

/// Counts a probe of a pod that is being deleted or stopped.
#[inline(always)]
pub(super) fn late_probe(slot: SlotRef, phase: Phase) {
    if !matches!(phase, Phase::Running)
        && let Some(counters) = counters(slot)
    {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*counters).probes });
    }
}

/// The state of a container.
#[inline(always)]
pub(super) fn container(index: u32) -> Option<*mut Container> {
    maps::CONTAINERS.get_ptr_mut(index)
}

/// Two words as the bytes of the wire format.
#[inline(always)]
pub(super) fn bytes(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: same size, any bytes are valid.
    unsafe { core::mem::transmute(words) }
}

/// A lost attempt, as its hook knows it; or several that it cannot tell apart.
pub(super) struct Attempt {
    pub(super) attempts: u32,
    pub(super) slot: SlotRef,
    pub(super) container: u32,
    pub(super) class: Class,
    pub(super) confidence: Confidence,
    pub(super) phase: Phase,
    /// Arrived late.
    pub(super) late: bool,
    /// On a connection that arrived late.
    pub(super) late_connection: bool,
    pub(super) client_fin: bool,
    /// A SYN, no connection.
    pub(super) connect: bool,
    pub(super) peer: [u64; 2],
    pub(super) local: [u64; 2],
    pub(super) peer_port: u16,
    pub(super) local_port: u16,
    pub(super) request: u32,
    pub(super) unread: u32,
    pub(super) unacked: u32,
    pub(super) at_ns: u64,
}

impl Attempt {
    /// The attempt that was under way on a connection.
    #[inline(always)]
    pub(super) fn on(
        connection: &Connection,
        class: Class,
        confidence: Confidence,
        phase: Phase,
        late: bool,
    ) -> Self {
        Self {
            attempts: 1,
            slot: connection.slot,
            container: connection.container,
            class,
            confidence,
            phase,
            late,
            late_connection: connection.opened_phase != 0,
            client_fin: connection.flags & HAS_FIN != 0,
            connect: false,
            peer: connection.peer,
            local: connection.local,
            peer_port: connection.peer_port,
            local_port: connection.local_port,
            request: connection.request,
            unread: 0,
            unacked: 0,
            at_ns: load::now_ns(),
        }
    }
}

/// Counts a lost attempt; writes its evidence if the pod is being deleted or stopped.
#[inline(always)]
pub(super) fn loss(attempt: &Attempt) {
    let Some(counters) = counters(attempt.slot) else { return };
    add_lost(counters, attempt);
    if attempt.late {
        late_requests(counters, attempt.late_connection, LOST, attempt.attempts);
    }
    if !matches!(attempt.phase, Phase::Running) {
        evidence(counters, attempt);
    }
}

#[inline(always)]
fn add_lost(counters: *mut Counters, attempt: &Attempt) {
    // Volatile, so that the verifier sees the bound that the compiler knows from the types.
    let index = attempt.class as usize * 6 + attempt.phase as usize * 2 + attempt.confidence as usize;
    // SAFETY: a local variable.
    let index = unsafe { core::ptr::read_volatile(&raw const index) };
    if index >= 60 {
        return;
    }
    // SAFETY: `lost` has 60 counters, and the index is below that.
    add_many(unsafe { (&raw mut (*counters).lost).cast::<u64>().add(index) }, u64::from(attempt.attempts));
}

/// Counts a late request that was answered.
#[inline(always)]
pub(super) fn late_answer(counters: *mut Counters, on_late_connection: bool) {
    late_requests(counters, on_late_connection, ANSWERED, 1);
}

#[inline(always)]
fn late_requests(counters: *mut Counters, on_late_connection: bool, outcome: usize, count: u32) {
    // SAFETY: constant indexes.
    let counter = unsafe {
        match (on_late_connection, outcome == ANSWERED) {
            (true, true) => &raw mut (*counters).late_requests[ON_NEW][ANSWERED],
            (true, false) => &raw mut (*counters).late_requests[ON_NEW][LOST],
            (false, true) => &raw mut (*counters).late_requests[ON_REUSED][ANSWERED],
            (false, false) => &raw mut (*counters).late_requests[ON_REUSED][LOST],
        }
    };
    add_many(counter, u64::from(count));
}

/// Writes a record about an attempt; a full ring is counted.
#[inline(always)]
fn evidence(counters: *mut Counters, attempt: &Attempt) {
    let Some(mut entry) = maps::RING.reserve::<Loss>(0) else {
        anomaly(anomaly::RING_FULL);
        // SAFETY: a live map value.
        add_many(unsafe { &raw mut (*counters).evidence_refused }, u64::from(attempt.attempts));
        return;
    };
    let mut flags = 0;
    if attempt.late {
        flags |= LOSS_LATE;
    }
    if attempt.late_connection {
        flags |= LOSS_LATE_CONNECTION;
    }
    if attempt.client_fin {
        flags |= LOSS_CLIENT_FIN;
    }
    if attempt.connect {
        flags |= LOSS_CONNECT;
    }
    entry.write(Loss {
        kind: Kind::Loss as u32,
        slot: attempt.slot.slot,
        at_ns: load::now_ns(),
        attempt_ns: attempt.at_ns,
        generation: attempt.slot.generation,
        container: attempt.container,
        peer: bytes(attempt.peer),
        local: bytes(attempt.local),
        peer_port: attempt.peer_port,
        local_port: attempt.local_port,
        request: attempt.request,
        unread: attempt.unread,
        unacked: attempt.unacked,
        class: attempt.class as u8,
        confidence: attempt.confidence as u8,
        phase: attempt.phase as u8,
        flags,
        attempts: attempt.attempts,
    });
    entry.submit(0);
    // SAFETY: a live map value.
    add_many(unsafe { &raw mut (*counters).evidence }, u64::from(attempt.attempts));
}

/// Notes a connection attempt from outside the pod, if it is late.
#[inline(always)]
pub(super) fn late_attempt(counters: *mut Counters, phase: Phase, at_ns: u64) {
    // SAFETY: a live map value; of two writers at one moment either is right.
    if !matches!(phase, Phase::Running) && unsafe { (*counters).last_new_ns } < at_ns {
        // SAFETY: as above.
        unsafe { (*counters).last_new_ns = at_ns };
    }
}

/// Remembers a tuple; a full memory is counted.
#[inline(always)]
pub(super) fn remember(tuple: &Tuple, closed: &Closed) {
    if maps::CLOSED.insert(tuple, closed, 0).is_err() {
        anomaly(anomaly::CLOSED_FULL);
        if let Some(tally) = maps::COUNTERS.get_ptr_mut(closed.slot) {
            // SAFETY: a live map value.
            add(unsafe { &raw mut (*tally).counters.closed_refused });
        }
    }
}

/// The memory of a tuple, if it is younger than a TIME_WAIT.
#[inline(always)]
pub(super) fn remembered(tuple: &Tuple) -> Option<*mut Closed> {
    let closed = maps::CLOSED.get_ptr_mut(tuple)?;
    // SAFETY: a live map value.
    let age = load::now_ns().wrapping_sub(unsafe { (*closed).at_ns });
    if age < wire::CLOSED_NS { Some(closed) } else { None }
}

/// The same, if it is of this slot's pod and not of the one that had its address before.
#[inline(always)]
pub(super) fn remembered_of(slot: SlotRef, tuple: &Tuple) -> Option<*mut Closed> {
    // SAFETY: a live map value.
    remembered(tuple)
        .filter(|closed| unsafe { (**closed).slot == slot.slot && (**closed).generation == slot.generation })
}

/// Remembers a SYN that is about to be counted; false if it was before. A lost answer makes the client's kernel send it
/// again, and while a pod's interface is taken down refusals are lost.
#[inline(always)]
pub(super) fn count_syn_once(tuple: &Tuple, isn: u32) -> bool {
    // SAFETY: the map is preallocated; an entry that gave way meanwhile has another sequence number or the same.
    if unsafe { maps::SYNS.get(tuple) }.is_some_and(|counted| *counted == isn) {
        return false;
    }
    // A full map takes its oldest entry; at worst a retransmission counts twice.
    let _taken = maps::SYNS.insert(tuple, isn, 0);
    true
}

/// Marks a remembered tuple as counted; false if it was before.
#[inline(always)]
pub(super) fn count_once(closed: *mut Closed) -> bool {
    // SAFETY: a live map value. Two CPUs cannot get here for one tuple at once: its packets are handled in order.
    unsafe {
        if (*closed).flags & CLOSED_COUNTED != 0 {
            return false;
        }
        (*closed).flags |= CLOSED_COUNTED;
    }
    true
}
