//! Recognises probes by their client socket: opened on the node itself, outside every pod, straight to a pod's address, to
//! a port that one of its probes names. That is how the kubelet probes. The agent, which is in a pod itself, is known by its process.
//!
//! Where the pod's side looks, the client side has left word: while it connects, its socket is remembered, and its port is
//! read there; from then on its tuple is. So a probe is never counted as a client's.

use super::account;
use super::connection::{self, Connection, IS_PROBE_CLIENT};
use super::identity::{self, NO_EXIST};
use super::load::{self, direct};
use super::packet::Packet;
use super::reset::tuple_of;
use super::{known, maps, probed};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{
    Begun, CLOSED_PROBE, Closed, PORT_PROBE, PROBES_EACH, Port, ProbeKey, Probing, Tuple, anomaly,
};

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
    if flags & PORT_PROBE == 0 {
        return;
    }
    // A hostNetwork pod that talks to another pod is no probe, unless it is the agent.
    if identity::container_of_task(load::current_task()).is_some() && !load::is_agent() {
        return;
    }
    let mut client = Connection::EMPTY;
    client.slot = slot;
    client.container = container;
    client.flags = IS_PROBE_CLIENT;
    if !connection::store(sk, &client) {
        return;
    }
    let begun = probed::begun(slot, peer_port);
    let probing = Probing { socket: sk as u64, address: load::local_address(sk), begun };
    for place in 0..PROBES_EACH {
        let key = ProbeKey { slot: slot.slot, port: peer_port, place };
        if maps::PROBES.insert(key, probing, NO_EXIST).is_ok() {
            // SAFETY: a live map value.
            account::add(unsafe { &raw mut (*port).probing });
            return;
        }
    }
    account::anomaly(anomaly::PROBES_FULL);
    // Should these be left over from before the programs counted again, they give way.
    let _taken = maps::PROBES.insert(ProbeKey { slot: slot.slot, port: peer_port, place: 0 }, probing, 0);
}

/// The connect is over, one way or the other: how it began, if it was followed.
#[inline(always)]
fn no_longer_connecting(sk: *const u8, seen: &Connection) -> Option<Begun> {
    for place in 0..PROBES_EACH {
        let key = ProbeKey { slot: seen.slot.slot, port: seen.local_port, place };
        // SAFETY: the map is preallocated; another socket's entry is left alone.
        let probing = unsafe { maps::PROBES.get(key) };
        if let Some(probing) = probing.filter(|probing| probing.socket == sk as u64) {
            let begun = probing.begun;
            // Gone already is as good.
            let _gone = maps::PROBES.remove(key);
            if let Some(port) = identity::port(seen.slot.slot, seen.local_port) {
                // SAFETY: a live map value.
                account::subtract(unsafe { &raw mut (*port).probing });
            }
            return Some(begun);
        }
    }
    None
}

/// A probe sent this SYN to this port of a pod: it connects right now, or gave up while the packet waited.
#[inline(always)]
pub(super) fn has_sent(port: &Port, packet: &Packet) -> bool {
    if port.probing != 0 {
        for place in 0..PROBES_EACH {
            let key = ProbeKey { slot: port.slot, port: packet.destination_port, place };
            // SAFETY: the map is preallocated. A socket is forgotten before it is freed; should that have been missed, its
            // memory reads as anything, and its address as another's.
            if let Some(probing) = unsafe { maps::PROBES.get(key) }
                && probing.address == packet.source
                && load::probe(probing.socket as *const u8, Field::SourcePort)
                    .is_some_and(|number: u16| u16::from_be(number) == packet.source_port)
            {
                return true;
            }
        }
    }
    is_connected(&tuple_of(packet))
}

/// A probe believes itself connected by this tuple, and the server side has not asked yet.
#[inline(always)]
pub(super) fn is_connected(tuple: &Tuple) -> bool {
    // SAFETY: a live map value.
    account::remembered(tuple).is_some_and(|closed| unsafe { (*closed).flags } & CLOSED_PROBE != 0)
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

#[inline(always)]
fn remember(seen: &Connection) {
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

/// SYN_SENT -> ESTABLISHED on the client side: the server side will look for this in a moment.
#[inline(always)]
pub(super) fn connected(sk: *const u8) {
    let Some(seen) = seen_from_pod(sk) else { return };
    let begun = no_longer_connecting(sk, &seen);
    if let Some(port) = identity::port(seen.slot.slot, seen.local_port) {
        // SAFETY: a live map value.
        account::add(unsafe { &raw mut (*port).probed });
        known::forget();
    }
    remember(&seen);
    if let Some(begun) = begun {
        probed::connected(sk, &seen, begun);
    }
}

/// SYN_SENT -> CLOSE on the client side. Its SYN may still wait for a neighbour, unless it was answered.
#[inline(always)]
pub(super) fn failed(sk: *const u8) {
    let Some(seen) = seen_from_pod(sk) else { return };
    let begun = no_longer_connecting(sk, &seen);
    if direct::<i32>(sk, Field::Error) != REFUSED {
        remember(&seen);
    }
    if let Some(begun) = begun {
        probed::failed(sk, &seen, begun);
    }
}

/// The server side's question; the answer is given once.
#[inline(always)]
pub(super) fn is_one(port: *mut Port, server: &Connection, sk: *const u8) -> bool {
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
    probed::established(&tuple, sk);
    true
}
