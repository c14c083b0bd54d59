//! Recognises probes by their client socket: opened on the node itself, outside every pod, straight to a pod's address,
//! to a port that one of its probes names. That is how the kubelet probes, and how the agent will.
//!
//! The client side is established before the server side is, so that it can leave word; a refused probe is counted
//! before its client knows, and is then counted a second time as a probe's, for the core to take off.

use super::account::{self, Attempt};
use super::connection::{self, Connection, IS_PROBE_CLIENT};
use super::identity;
use super::load::{self, direct};
use super::{known, maps};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{CLOSED_PROBE, Closed, Kind, PORT_PROBE, Port};

/// ECONNREFUSED.
const REFUSED: i32 = 111;

/// A connect begins. The local port is not chosen yet.
#[inline(always)]
pub(super) fn connecting(sk: *const u8) {
    if load::net_cookie(sk) != load::host_net() {
        return;
    }
    let Some(slot) = identity::slot_of_address(load::peer_address(sk)) else { return };
    let peer_port = u16::from_be(direct(sk, Field::PeerPort));
    let Some(port) = identity::port(slot.slot, peer_port) else { return };
    // SAFETY: a live map value.
    let (flags, container) = unsafe { ((*port).flags, (*port).container) };
    // A hostNetwork pod that talks to another pod is no probe.
    if flags & PORT_PROBE == 0 || identity::container_of_task(load::current_task()).is_some() {
        return;
    }
    let mut client = Connection::EMPTY;
    client.slot = slot;
    client.container = container;
    client.flags = IS_PROBE_CLIENT;
    if connection::store(sk, &client) {
        // SAFETY: a live map value.
        account::add(unsafe { &raw mut (*port).probing });
    }
}

/// The connect is over, one way or the other.
#[inline(always)]
fn no_longer_connecting(seen: &Connection) {
    if let Some(port) = identity::port(seen.slot.slot, seen.local_port) {
        // SAFETY: a live map value.
        account::subtract(unsafe { &raw mut (*port).probing });
    }
}

/// The probe's connection as the pod sees it; `None` if the socket is no probe's.
#[inline(always)]
fn seen_from_pod(sk: *const u8) -> Option<Connection> {
    if load::net_cookie(sk) != load::host_net() {
        return None;
    }
    let stored = connection::of(sk);
    if stored.is_null() {
        return None;
    }
    // SAFETY: non-null storage of this socket.
    let client = unsafe { *stored };
    if client.flags & IS_PROBE_CLIENT == 0 {
        return None;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return None;
    }
    let mut seen = client;
    connection::fill_ends(&mut seen, sk, tp);
    (seen.peer, seen.local) = (seen.local, seen.peer);
    (seen.peer_port, seen.local_port) = (seen.local_port, seen.peer_port);
    Some(seen)
}

/// SYN_SENT -> ESTABLISHED on the client side: the server side will look for this in a moment.
#[inline(always)]
pub(super) fn connected(sk: *const u8) {
    let Some(seen) = seen_from_pod(sk) else { return };
    no_longer_connecting(&seen);
    if let Some(port) = identity::port(seen.slot.slot, seen.local_port) {
        // SAFETY: a live map value.
        account::add(unsafe { &raw mut (*port).probed });
        known::forget();
    }
    let closed = Closed {
        at_ns: load::now_ns(),
        flags: CLOSED_PROBE,
        request: 0,
        phase: 0,
        slot: seen.slot.slot,
        generation: seen.slot.generation,
        container: seen.container,
    };
    account::remember(&seen.tuple(), &closed);
}

/// SYN_SENT -> CLOSE on the client side: if the attempt was counted as refused, it is counted as a probe's too.
#[inline(always)]
pub(super) fn failed(sk: *const u8) {
    let Some(seen) = seen_from_pod(sk) else { return };
    no_longer_connecting(&seen);
    if direct::<i32>(sk, Field::Error) != REFUSED {
        return;
    }
    // SAFETY: the map is preallocated; an entry that gives way meanwhile tells a wrong phase at worst.
    let Some(phase) = unsafe { maps::SYNS.get(seen.tuple()) }.map(|counted| counted.phase) else { return };
    let Some(counters) = account::counters(seen.slot) else { return };
    // SAFETY: a live map value; constant indexes.
    let (phase, counter) = unsafe {
        match phase {
            0 => (Phase::Running, &raw mut (*counters).probes_refused[0]),
            1 => (Phase::Deleting, &raw mut (*counters).probes_refused[1]),
            _ => (Phase::Stopping, &raw mut (*counters).probes_refused[2]),
        }
    };
    account::add(counter);
    if !matches!(phase, Phase::Running) {
        let attempt = Attempt::on(&seen, Class::Refused, Confidence::Observed, phase, true);
        account::evidence(counters, Kind::ProbeRefused, &attempt);
    }
}

/// The server side's question; the answer is given once.
#[inline(always)]
pub(super) fn is_one(port: *mut Port, server: &Connection) -> bool {
    let tuple = server.tuple();
    let Some(closed) = account::remembered(&tuple) else { return false };
    // SAFETY: a live map value.
    if unsafe { (*closed).flags } & CLOSED_PROBE == 0 {
        return false;
    }
    // Gone already is as good.
    let _gone = maps::CLOSED.remove(tuple);
    // SAFETY: a live map value.
    account::subtract(unsafe { &raw mut (*port).probed });
    true
}
