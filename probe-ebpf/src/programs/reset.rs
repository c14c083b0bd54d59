//! `tp_btf/tcp_send_reset`: refused attempts, segments that meet a closed connection.
//!
//! Before 6.10 it does not fire without a full socket; refused attempts are not seen there by this hook. Rate: resets
//! are rare; a node under a port scan pays one map miss each.

use super::account::{self, Attempt};
use super::connection::{self, IS_CLOSED, IS_PROBE};
use super::load::{self, direct, tcp};
use super::packet::{self, ACK, FIN, Packet, RST, SYN};
use super::{bare, closing, identity, misrouted, probe};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::{self, Verdict};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{CLOSED_COUNTED, Closed, PORT_SEEN, Port, SlotRef, Tuple};

/// Since 6.10: fires for every reset sent, whatever socket there is.
#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let skb: *const u8 = ctx.arg(1);
    // Without a packet this is an active reset: its connection was decided when it left its state.
    if skb.is_null() || !load::is_active() {
        return 0;
    }
    if sk.is_null() {
        without_socket(skb);
        return 0;
    }
    match direct::<u8>(sk, Field::State) {
        tcp::TIME_WAIT => on_remains(sk, skb, 1),
        tcp::NEW_SYN_RECV => {}
        state if i32::from(state) == tcp::LISTEN => on_listener(sk, skb),
        _ => on_closed(sk, skb),
    }
    0
}

/// The same on a socket of which nothing is stored: its last attempt was not lost, or its tuple says so.
#[inline(always)]
fn bare_closed(sk: *const u8, skb: *const u8) {
    let state = i32::from(direct::<u8>(sk, Field::State));
    if matches!(state, tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::CLOSING | tcp::LAST_ACK | tcp::CLOSE) {
        on_remains(sk, skb, if bare::is_marked(sk) { 2 } else { 1 });
    }
}

/// A segment of a connection that the namespace does not know, to a port on which it listens.
#[inline(always)]
fn on_listener(sk: *const u8, skb: *const u8) {
    // The packet has no device any more.
    let cookie = load::net_cookie(sk);
    let Some(packet) = packet::parse(skb) else { return };
    if cookie != load::host_net() {
        misrouted::segment(identity::scope_of_packet(cookie, packet.destination), &packet);
    }
}

/// A segment reached a socket in FIN_WAIT or CLOSE whose owner had closed it (TCP_ABORT_ON_DATA).
#[inline(always)]
fn on_closed(sk: *const u8, skb: *const u8) {
    let stored = connection::of(sk);
    if stored.is_null() {
        bare_closed(sk, skb);
        return;
    }
    // SAFETY: non-null storage of this socket.
    let connection = unsafe { &mut *stored };
    if connection.flags & IS_CLOSED == 0 || connection.flags & IS_PROBE != 0 {
        return;
    }
    let Some(packet) = packet::parse(skb) else { return };
    if !tells_of_data(&packet) {
        return;
    }
    let found = decide::data_after_close(connection.verdict(), connection.protocol(), packet.payload);
    if let Some((class, confidence)) = found {
        closing::after_close(connection, class, confidence, packet.payload);
    }
}

/// Whether a segment that a closed connection answered with a reset says that the client sent data. A bare FIN does: it
/// is reset only if data before it never came (tcp_rcv_state_process, tcp_timewait_state_process), because it was lost
/// or met the socket on its way to TIME_WAIT (TCP_CLOSE). After the reset nothing is sent again, so the FIN is all that
/// is left of that request.
#[inline(always)]
fn tells_of_data(packet: &Packet) -> bool {
    packet.payload > 0 || packet.flags & (FIN | SYN | RST) == FIN
}

/// A segment reached what is left of a connection after its close. A minisock has addresses and a namespace, no storage:
/// the memory of closed tuples says whether its last attempt was counted.
#[inline(always)]
fn on_remains(sk: *const u8, skb: *const u8, next: u32) {
    let Some(packet) = packet::parse(skb) else { return };
    if !tells_of_data(&packet) {
        return;
    }
    let Some(scope) = identity::scope_of_packet(load::net_cookie(sk), packet.destination) else { return };
    let Some(port) = identity::client_port(scope, packet.destination_port) else { return };
    if packet.source == packet.destination || load::is_loopback(packet.source) {
        return;
    }
    // SAFETY: a live map value.
    let port = unsafe { *port };
    stale(&port, &packet, Confidence::Observed, next);
}

/// Counts a request on a connection that the server had closed, once for its tuple. `next` is its number where the memory
/// of closed tuples does not tell.
#[inline(always)]
pub(super) fn stale(port: &Port, packet: &Packet, confidence: Confidence, next: u32) {
    let protocol = port.protocol();
    if decide::data_after_close(Verdict::Served, protocol, packet.payload).is_none() {
        return;
    }
    let confidence = decide::confidence_of(protocol, Class::StaleReuse, confidence);
    let slot = SlotRef { slot: port.slot, generation: port.generation };
    let tuple = tuple_of(packet);
    let phase = identity::phase(slot, port.container);
    let (request, opened) = match account::remembered_of(slot, &tuple) {
        Some(closed) => {
            if !account::count_once(closed) {
                return;
            }
            // SAFETY: a live map value.
            unsafe { ((*closed).request, (*closed).phase) }
        }
        None => {
            // Closed while the pod was running: what came before is not known, but this is the first such segment.
            account::remember(&tuple, &counted(port, Phase::Running));
            (next, 0)
        }
    };
    let mut attempt = attempt_of(slot, port.container, packet, Class::StaleReuse, confidence, phase);
    attempt.request = request;
    attempt.late_connection = opened != 0;
    account::loss(&attempt);
}

/// A packet for a port without any socket: refused, or the late end of a handshake that the listener did not live to
/// see.
#[inline(always)]
fn without_socket(skb: *const u8) {
    let Some((cookie, device)) = packet::device(skb) else { return };
    // The pod's own loopback.
    if device == 1 && cookie != load::host_net() {
        return;
    }
    let Some(packet) = packet::parse(skb) else { return };
    if packet.source == packet.destination || packet.flags & RST != 0 {
        return;
    }
    let scope = identity::scope_of_packet(cookie, packet.destination);
    if packet.flags & SYN == 0 && cookie != load::host_net() && misrouted::segment(scope, &packet) {
        return;
    }
    let Some(scope) = scope else { return };
    // A port that nobody declared and nobody listened on is a port scan's, one that no service names a scraper's.
    let port = identity::client_port(scope, packet.destination_port);
    if packet.flags & (SYN | ACK) == SYN {
        // SAFETY: a live map value.
        let has_listened = port.is_some_and(|port| unsafe { (*port).flags } & PORT_SEEN != 0);
        if !has_listened && misrouted::connect(scope, &packet) {
            return;
        }
        if let Some(port) = port {
            // SAFETY: a live map value.
            refused(scope, unsafe { &*port }, &packet);
        }
    } else if packet.flags & SYN == 0
        && let Some(port) = port
    {
        half_open(port, &packet);
    }
}

/// Before the API has told the address of a pod, clients cannot have it from there: what comes to one that runs is the
/// kubelet's, who has it from the runtime.
#[inline(always)]
fn refused(scope: u32, port: &Port, packet: &Packet) {
    let slot = SlotRef { slot: port.slot, generation: port.generation };
    let phase = identity::phase(slot, port.container);
    if !account::count_syn_once(&tuple_of(packet), packet.sequence) {
        return;
    }
    let is_early = matches!(phase, Phase::Running) && !identity::is_addressed(scope);
    if is_early || probe::has_sent(port, packet) {
        account::late_probe(slot, phase);
        return;
    }
    let attempt = attempt_of(slot, port.container, packet, Class::Refused, Confidence::Observed, phase);
    if let Some(counters) = account::counters(slot) {
        account::late_attempt(counters, phase, attempt.at_ns);
    }
    account::loss(&attempt);
}

/// Data (or the last ACK of a handshake) for a connection that no socket knows.
#[inline(always)]
fn half_open(port: *mut Port, packet: &Packet) {
    // SAFETY: a live map value.
    let seen = unsafe { *port };
    let slot = SlotRef { slot: seen.slot, generation: seen.generation };
    let phase = identity::phase(slot, seen.container);
    let tuple = tuple_of(packet);
    if account::remembered_of(slot, &tuple).is_some() {
        // A connection that was reset: segments that were in flight. Or one counted here before.
        if packet.payload > 0 && seen.half_open == 0 {
            stale(&seen, packet, Confidence::Observed, 1);
        }
        return;
    }
    if seen.half_open > 0 {
        // SAFETY: a live map value; the worst of a race is one handshake too many.
        unsafe { (*port).half_open -= 1 };
        account::remember(&tuple, &counted(&seen, phase));
        let class = Class::Unaccepted;
        let confidence = decide::confidence_of(seen.protocol(), class, Confidence::Observed);
        account::loss(&attempt_of(slot, seen.container, packet, class, confidence, phase));
    } else if packet.payload > 0 && !matches!(phase, Phase::Running) {
        // Its TIME_WAIT is over: the client did not look for a minute.
        stale(&seen, packet, Confidence::Inferred, 1);
    }
}

/// What is remembered of a connection whose only attempt known here is lost, and was in this phase.
#[inline(always)]
pub(super) fn counted(port: &Port, phase: Phase) -> Closed {
    Closed {
        at_ns: load::now_ns(),
        flags: CLOSED_COUNTED,
        request: 1,
        phase: phase as u32,
        slot: port.slot,
        generation: port.generation,
        container: port.container,
    }
}

/// The tuple of a packet to a pod.
#[inline(always)]
pub(super) fn tuple_of(packet: &Packet) -> Tuple {
    Tuple {
        peer_port: packet.source_port,
        local_port: packet.destination_port,
        peer: account::bytes(packet.source),
        local: account::bytes(packet.destination),
    }
}

/// An attempt that is known by one packet to a pod.
#[inline(always)]
pub(super) fn attempt_of(
    slot: SlotRef,
    container: u32,
    packet: &Packet,
    class: Class,
    confidence: Confidence,
    phase: Phase,
) -> Attempt {
    let late = !matches!(phase, Phase::Running);
    Attempt {
        attempts: 1,
        slot,
        container,
        class,
        confidence,
        phase,
        late,
        late_connection: late,
        client_fin: false,
        connect: packet.flags & SYN != 0,
        peer: packet.source,
        local: packet.destination,
        peer_port: packet.source_port,
        local_port: packet.destination_port,
        request: 1,
        unread: 0,
        unacked: 0,
        at_ns: load::now_ns(),
    }
}
