//! Listeners, for the state hook: which container a port belongs to, when it was given up, and what was dropped meanwhile.

use super::account::{self, Attempt};
use super::load::{self, direct, probe};
use super::{identity, known, maps, queue};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{Kind, LISTENERS_EACH, Listener, Listening, NONE, SlotRef, anomaly};

/// A listener came: its port belongs to the container that made it, from now on.
#[inline(always)]
pub(super) fn listening(sk: *const u8) {
    let cookie = load::net_cookie(sk);
    // Numbers that stand for "none": of an Option that is none, the compiler stores what the verifier has not seen written.
    let container = identity::container_of_task(load::current_task()).unwrap_or(NONE);
    let mut own = SlotRef::default();
    if container != NONE {
        identity::learn_init(load::current_task(), container);
        own = identity::slot_of_container(container).unwrap_or_default();
    }
    if own.generation != 0 {
        identity::learn_namespace(cookie, own);
    }
    follow(sk);
    if cookie != load::host_net() {
        queue::open(cookie, sk);
    }
    // No client comes there, and another may have the port at the other addresses.
    if load::is_loopback(load::local_address(sk)) {
        return;
    }
    let Some((scope, by_namespace)) = identity::scope_of_socket(cookie, sk) else { return };
    let number: u16 = direct(sk, Field::LocalPort);
    let slot = if own.generation == 0 { by_namespace.unwrap_or_default() } else { own };
    if slot.generation == 0 {
        identity::take_host_port(number);
        return;
    }
    let Some(port) = identity::port_or_new(scope, slot, number) else { return };
    // SAFETY: a live map value.
    let listeners = unsafe {
        if container != NONE && (*port).container != container {
            (*port).container = container;
            (*port).listeners = 0;
        }
        (*port).half_open = 0;
        (*port).listeners += 1;
        (*port).listeners
    };
    known::forget();
    record_listener(slot, container, number, 1, listeners);
}

/// Remembers a listener, so that the stop can read what it has dropped. Beyond the last place, nothing of it is counted.
#[inline(always)]
fn follow(sk: *const u8) {
    let Some(cgroup) = identity::cgroup_of(load::current_task()) else { return };
    let fresh = Listening { socket: sk as u64, dropped: 0, reserved: 0 };
    let Some(all) = maps::LISTENERS.get_ptr_mut(cgroup) else {
        let mut first = [Listening::default(); LISTENERS_EACH];
        first[0] = fresh;
        // An LRU takes its oldest entry when it is full.
        let _taken = maps::LISTENERS.insert(cgroup, first, 0);
        return;
    };
    for place in 0..LISTENERS_EACH {
        // SAFETY: a live map value, and an index below the array's length.
        let listening = unsafe { &mut (*all)[place] };
        if listening.socket == 0 || listening.socket == fresh.socket {
            *listening = fresh;
            return;
        }
    }
}

/// The container of a task stops: what its listeners have dropped so far was dropped while it ran, and most of that was
/// sent again.
#[inline(always)]
pub(super) fn stopping(task: *const u8) {
    let Some(all) = identity::cgroup_of(task).and_then(|cgroup| maps::LISTENERS.get_ptr_mut(cgroup)) else {
        return;
    };
    for place in 0..LISTENERS_EACH {
        // SAFETY: as above. A listener is forgotten before it is freed; should that have been missed, its memory reads as
        // anything, and the socket that has the place by then is another, or is remembered anew.
        let listening = unsafe { &mut (*all)[place] };
        if listening.socket != 0 {
            listening.dropped = probe(listening.socket as *const u8, Field::Drops).unwrap_or(u32::MAX);
        }
    }
}

/// What a listener had dropped when its container stopped, which is forgotten; `None` if it was not followed.
#[inline(always)]
fn unfollow(sk: *const u8) -> Option<u32> {
    let all = maps::LISTENERS.get_ptr_mut(identity::cgroup_of(load::current_task())?)?;
    for place in 0..LISTENERS_EACH {
        // SAFETY: as above.
        let listening = unsafe { &mut (*all)[place] };
        if listening.socket == sk as u64 {
            let dropped = listening.dropped;
            *listening = Listening::default();
            return Some(dropped);
        }
    }
    None
}

/// A listener went, and with it the handshakes that it had not finished.
#[inline(always)]
pub(super) fn unlistened(sk: *const u8) {
    let before = unfollow(sk);
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    if load::is_loopback(load::local_address(sk)) {
        return;
    }
    let number = u16::from_be(direct(tp, Field::SourcePort));
    let cookie = load::net_cookie(sk);
    queue::close(cookie, number, sk);
    let Some((scope, _)) = identity::scope_of_socket(cookie, sk) else { return };
    let Some(port) = identity::port(scope, number) else { return };
    // SAFETY: a live map value.
    let (slot, container, left) = unsafe {
        (*port).half_open += direct::<u32>(tp, Field::HalfOpen);
        (*port).listeners = (*port).listeners.saturating_sub(1);
        (SlotRef { slot: (*port).slot, generation: (*port).generation }, (*port).container, (*port).listeners)
    };
    if let Some(before) = before
        && matches!(identity::phase(slot, container), Phase::Stopping)
        && identity::is_for_clients(port)
    {
        let packets = direct::<u32>(sk, Field::Drops).saturating_sub(before);
        if packets > 0 {
            overflown(slot, container, number, packets);
        }
    }
    record_listener(slot, container, number, 0, left);
}

/// SYNs, and last ACKs of handshakes, beyond a full accept queue. No hook sees them: they are packets, whose clients are
/// not known and which were sent again.
#[inline(always)]
fn overflown(slot: SlotRef, container: u32, port: u16, packets: u32) {
    account::loss(&Attempt {
        attempts: packets,
        slot,
        container,
        class: Class::Overflow,
        confidence: Confidence::Inferred,
        phase: Phase::Stopping,
        late: true,
        late_connection: true,
        connect: false,
        client_fin: false,
        peer: [0; 2],
        local: [0; 2],
        peer_port: 0,
        local_port: port,
        request: 1,
        unread: 0,
        unacked: 0,
        at_ns: load::now_ns(),
    });
}

#[inline(always)]
fn record_listener(slot: SlotRef, container: u32, port: u16, open: u16, listeners: u32) {
    let Some(mut entry) = maps::RING.reserve::<Listener>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return;
    };
    entry.write(Listener {
        kind: Kind::Listener as u32,
        container,
        at_ns: load::now_ns(),
        slot: slot.slot,
        generation: slot.generation,
        port,
        open,
        listeners,
    });
    entry.submit(0);
}
