//! Listeners, for the state hook: which container a port belongs to, and when it was given up.

use super::load::direct;
use super::{account, identity, load, maps};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{Kind, Listener, NONE, SlotRef, anomaly};

/// A listener came: its port belongs to the container that made it, from now on.
#[inline(always)]
pub(super) fn listening(sk: *const u8) {
    let cookie = load::net_cookie(sk);
    let container = identity::container_of_task(load::current_task());
    if let Some(container) = container {
        identity::learn_init(load::current_task(), container);
    }
    let own = container.and_then(identity::slot_of_container);
    if let Some(slot) = own {
        identity::learn_namespace(cookie, slot);
    }
    // No client comes there, and another may have the port at the other addresses.
    if load::is_loopback(load::local_address(sk)) {
        return;
    }
    let Some((scope, by_namespace)) = identity::scope_of_socket(cookie, sk) else { return };
    let number: u16 = direct(sk, Field::LocalPort);
    let Some(slot) = own.or(by_namespace) else {
        identity::take_host_port(number);
        return;
    };
    let Some(port) = identity::port_or_new(scope, slot, number) else { return };
    // SAFETY: a live map value.
    let listeners = unsafe {
        if let Some(container) = container
            && (*port).container != container
        {
            (*port).container = container;
            (*port).listeners = 0;
        }
        (*port).half_open = 0;
        (*port).listeners += 1;
        (*port).listeners
    };
    record_listener(slot, container.unwrap_or(NONE), number, 1, listeners);
}

/// A listener went, and with it the handshakes that it had not finished.
#[inline(always)]
pub(super) fn unlistened(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    if load::is_loopback(load::local_address(sk)) {
        return;
    }
    let number = u16::from_be(direct(tp, Field::SourcePort));
    let Some((scope, _)) = identity::scope_of_socket(load::net_cookie(sk), sk) else { return };
    let Some(port) = identity::port(scope, number) else { return };
    // SAFETY: a live map value.
    let (slot, container, left) = unsafe {
        (*port).half_open += direct::<u32>(tp, Field::HalfOpen);
        (*port).listeners = (*port).listeners.saturating_sub(1);
        (SlotRef { slot: (*port).slot, generation: (*port).generation }, (*port).container, (*port).listeners)
    };
    record_listener(slot, container, number, 0, left);
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
