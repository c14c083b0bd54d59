//! `tp_btf/inet_sock_set_state` (5.10+): births and ends of connections and listeners.
//!
//! Rate: a handful per connection on the node. A socket of an unwatched namespace costs one map miss at its birth and
//! one empty storage look-up at its end. The decision about a closing connection is taken here. With a full ring only
//! evidence is lost.

use super::account::{self, Attempt};
use super::connection::{
    self, Connection, HAS_FIN, HAS_READ, HAS_RST, IS_ADOPTED, IS_CLOSED, IS_COUNTED, IS_PROBE,
    IS_PROBE_CLIENT,
};
use super::identity;
use super::load::{self, direct, tcp};
use super::probe;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::{self, Closing, Leaving, Verdict};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{Closed, Kind, Listener, NONE, anomaly};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if sk.is_null() || old == new || direct::<u16>(sk, Field::Protocol) != load::IPPROTO_TCP {
        return 0;
    }
    match (old, new) {
        (tcp::SYN_RECV, tcp::ESTABLISHED) => established(sk),
        (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::FIN_WAIT1 | tcp::LAST_ACK | tcp::CLOSE) => {
            leaving(&ctx, sk, old, new);
        }
        (tcp::ESTABLISHED, tcp::CLOSE_WAIT) => client_fin(sk),
        (tcp::FIN_WAIT1, tcp::FIN_WAIT2) => delivered(sk),
        (tcp::CLOSE, tcp::LISTEN) => listening(sk),
        (tcp::LISTEN, tcp::CLOSE) => unlistened(sk),
        (tcp::CLOSE, tcp::SYN_SENT) => probe::connecting(sk),
        (tcp::SYN_SENT, tcp::ESTABLISHED) => probe::connected(sk),
        (tcp::SYN_SENT, tcp::CLOSE) => probe::failed(sk),
        (_, tcp::CLOSE) => gone(sk),
        _ => {}
    }
    0
}

/// The slot's port that an inbound connection came to, with its container filled in where the socket tells it.
#[inline(always)]
fn port_of(sk: *const u8, number: u16, make: bool) -> Option<*mut probe_ebpf::wire::Port> {
    let (scope, slot) = identity::scope_of_socket(load::net_cookie(sk), sk)?;
    let port = match (identity::port(scope, number), slot) {
        (Some(port), _) => port,
        (None, Some(slot)) if make => identity::port_or_new(scope, slot, number)?,
        _ => return None,
    };
    // SAFETY: a live map value.
    unsafe {
        if (*port).container == NONE
            && let Some(container) = identity::container_of_socket(sk)
        {
            (*port).container = container;
        }
    }
    Some(port)
}

#[inline(always)]
fn established(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let Some(port) = port_of(sk, direct(sk, Field::LocalPort), true) else { return };
    let mut ends = Connection::EMPTY;
    connection::fill_ends(&mut ends, sk, tp);
    // Traffic between the containers of a pod is not client traffic.
    if ends.peer == ends.local || load::is_loopback(ends.peer) {
        return;
    }
    // SAFETY: a live map value.
    unsafe {
        ends.slot.slot = (*port).slot;
        ends.slot.generation = (*port).generation;
        ends.container = (*port).container;
    }
    let phase = identity::phase(ends.slot, ends.container);
    ends.opened_phase = phase as u8;
    let Some(counters) = account::counters(ends.slot) else { return };
    // SAFETY: a live map value.
    if unsafe { (*port).probed } != 0 && probe::is_one(port, &ends) {
        ends.flags = IS_PROBE;
        if !matches!(phase, Phase::Running) {
            // SAFETY: a live map value.
            account::add(unsafe { &raw mut (*counters).probes });
        }
    } else {
        // SAFETY: a live map value.
        unsafe {
            account::add(&raw mut (*counters).opened);
            if !matches!(phase, Phase::Running) {
                account::add(&raw mut (*counters).late_opened);
                account::late_attempt(counters, phase, load::now_ns());
            }
        }
    }
    let connection = connection::create(sk);
    if !connection.is_null() {
        // SAFETY: non-null storage of this socket.
        unsafe { *connection = ends };
    }
}

#[inline(always)]
fn client_fin(sk: *const u8) {
    let connection = connection::of(sk);
    if !connection.is_null() {
        // SAFETY: non-null storage of this socket.
        unsafe { (*connection).flags |= HAS_FIN };
    }
}

/// What is known of a connection at its close when nothing was known before: `None` for outbound and foreign ones.
#[inline(always)]
fn met_at_close(sk: *const u8) -> Option<Connection> {
    let cookie = load::net_cookie(sk);
    if cookie != load::host_net() {
        identity::slot_of_frequent(cookie, sk)?;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return None;
    }
    let mut met = Connection::EMPTY;
    connection::fill_ends(&mut met, sk, tp);
    let port = port_of(sk, met.local_port, false)?;
    if met.peer == met.local || load::is_loopback(met.peer) {
        return None;
    }
    // SAFETY: a live map value.
    unsafe {
        met.slot.slot = (*port).slot;
        met.slot.generation = (*port).generation;
        met.container = (*port).container;
    }
    Some(met)
}

/// ESTABLISHED or CLOSE_WAIT is left: the decision.
#[inline(always)]
fn leaving(ctx: &BtfTracePointContext, sk: *const u8, old: i32, new: i32) {
    let stored = connection::of(sk);
    let mut connection = if stored.is_null() {
        match met_at_close(sk) {
            Some(met) => met,
            None => return,
        }
    } else {
        // SAFETY: non-null storage of this socket.
        unsafe { *stored }
    };
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    if connection.flags & IS_PROBE_CLIENT != 0 {
        return;
    }
    let phase = identity::phase(connection.slot, connection.container);
    if connection.flags & IS_PROBE != 0 {
        // Nothing of it counts, nor what is still in flight.
        connection.flags |= IS_COUNTED;
        if !matches!(phase, Phase::Running) {
            remember(&connection);
        }
        return;
    }
    let closing = closing_of(sk, tp, &connection, old, new, !stored.is_null());
    let verdict = decide::closing(&closing);
    connection.flags |= IS_CLOSED;
    connection.set_verdict(verdict);
    if let Verdict::Lost(class, confidence) = verdict {
        connection.flags |= IS_COUNTED;
        lost(ctx, tp, &mut connection, &closing, (class, confidence, phase));
    } else if matches!(phase, Phase::Deleting | Phase::Stopping) {
        answered_late(&connection);
    }
    if !matches!(phase, Phase::Running) || matches!(verdict, Verdict::Lost(..)) {
        remember(&connection);
    }
    if !stored.is_null() {
        // SAFETY: non-null storage of this socket.
        unsafe { *stored = connection };
    }
}

/// The facts that the decision needs.
#[inline(always)]
fn closing_of(
    sk: *const u8,
    tp: *const u8,
    connection: &Connection,
    old: i32,
    new: i32,
    known: bool,
) -> Closing {
    let fin = old == tcp::CLOSE_WAIT || connection.flags & HAS_FIN != 0;
    let write_seq: u32 = direct(tp, Field::WriteSeq);
    let unread = unread_of(tp, fin);
    // The client's FIN counts as a byte received.
    let received = direct::<u64>(tp, Field::BytesReceived) > u64::from(fin);
    let sent: u32 = direct(tp, Field::LastSent);
    let arrived: u32 = direct(tp, Field::LastReceived);
    Closing {
        leaving: if new == tcp::CLOSE { Leaving::Close } else { Leaving::Fin },
        accepted: direct::<u64>(sk, Field::Socket) != 0 || connection.flags & HAS_READ != 0,
        client_fin: fin,
        client_rst: connection.flags & HAS_RST != 0,
        unread,
        received,
        read: connection.flags & HAS_READ != 0,
        written_since_read: write_seq != connection.wseq_read,
        unacked: write_seq != direct::<u32>(tp, Field::SndUna),
        known,
        received_last: (sent.wrapping_sub(arrived) as i32) < 0,
    }
}

/// Bytes received and not read; the client's FIN has a sequence number of its own until it is read.
#[inline(always)]
fn unread_of(tp: *const u8, fin: bool) -> u32 {
    let unread = direct::<u32>(tp, Field::RcvNxt).wrapping_sub(direct(tp, Field::CopiedSeq));
    if fin && unread > 0 { unread - 1 } else { unread }
}

#[inline(always)]
fn lost(
    ctx: &BtfTracePointContext,
    tp: *const u8,
    connection: &mut Connection,
    closing: &Closing,
    (class, confidence, phase): (Class, Confidence, Phase),
) {
    // A request that was read has its number; one that was not is the next.
    let was_read = matches!(class, Class::Unanswered | Class::Truncated)
        || (matches!(class, Class::Abandoned) && closing.unread == 0);
    if !was_read || connection.request == 0 {
        if !was_read {
            answered_late(connection);
        }
        connection.request += 1;
        connection.request_phase =
            if connection.opened_phase != 0 { connection.opened_phase } else { phase as u8 };
    }
    let late = connection.request_phase != 0;
    let mut attempt = Attempt::on(connection, class, confidence, phase, late);
    attempt.unread = closing.unread;
    attempt.unacked = direct::<u32>(tp, Field::WriteSeq).wrapping_sub(direct(tp, Field::SndUna));
    account::loss(&attempt);
    debug!(
        ctx,
        "slot {} port {} class {} phase {}", attempt.slot.slot, attempt.local_port, class as u8, phase as u8
    );
}

/// Counts the last request of a connection as answered, if it came late.
#[inline(always)]
fn answered_late(connection: &Connection) {
    if connection.request == 0 || connection.request_phase == 0 {
        return;
    }
    if let Some(counters) = account::counters(connection.slot) {
        account::late_request(counters, connection.opened_phase != 0, probe_ebpf::wire::ANSWERED);
    }
}

#[inline(always)]
fn remember(connection: &Connection) {
    let counted = if connection.flags & IS_COUNTED != 0 { probe_ebpf::wire::CLOSED_COUNTED } else { 0 };
    account::remember(
        connection.slot,
        &connection.tuple(),
        &Closed {
            at_ns: load::now_ns(),
            flags: counted,
            request: connection.request + 1,
            isn: 0,
            phase: u32::from(connection.opened_phase),
        },
    );
}

/// FIN_WAIT1 -> FIN_WAIT2: our FIN, and so everything before it, was acknowledged.
#[inline(always)]
fn delivered(sk: *const u8) {
    let connection = connection::of(sk);
    if connection.is_null() {
        return;
    }
    // SAFETY: non-null storage of this socket.
    unsafe {
        if matches!((*connection).verdict(), Verdict::Pending) {
            (*connection).set_verdict(Verdict::Served);
        }
    }
}

/// The way from a closing state to CLOSE: what came after our close, and answers that never arrived.
#[inline(always)]
fn gone(sk: *const u8) {
    let stored = connection::of(sk);
    if stored.is_null() {
        return;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    // SAFETY: non-null storage of this socket.
    let connection = unsafe { &mut *stored };
    if connection.flags & IS_CLOSED == 0 || connection.flags & (IS_PROBE | IS_COUNTED) != 0 {
        return;
    }
    // A FIN that comes after our close passes no CLOSE_WAIT, but it has its sequence number all the same.
    let fin = connection.flags & HAS_FIN != 0 || load::client_has_finished(sk);
    let unread = unread_of(tp, fin);
    let found = if unread > 0 {
        decide::data_after_close(connection.verdict())
    } else if matches!(connection.verdict(), Verdict::Pending) && connection.flags & HAS_RST == 0 {
        Some(decide::died_pending())
    } else {
        None
    };
    if let Some((class, confidence)) = found {
        after_close(connection, class, confidence, unread);
    }
}

/// Counts what a closed connection lost after its close, once.
#[inline(always)]
pub(super) fn after_close(connection: &mut Connection, class: Class, confidence: Confidence, unread: u32) {
    if connection.flags & IS_COUNTED != 0 {
        return;
    }
    connection.flags |= IS_COUNTED;
    let phase = identity::phase(connection.slot, connection.container);
    if matches!(class, Class::StaleReuse) {
        connection.request += 1;
        connection.request_phase = phase as u8;
    }
    let mut attempt = Attempt::on(connection, class, confidence, phase, connection.request_phase != 0);
    attempt.unread = unread;
    account::loss(&attempt);
    if let Some(closed) = account::remembered(&connection.tuple()) {
        account::count_once(closed);
    }
}

/// A listener came: its port belongs to the container that made it, from now on.
#[inline(always)]
fn listening(sk: *const u8) {
    let cookie = load::net_cookie(sk);
    let container = identity::container_of_task(load::current_task());
    let own = container.and_then(identity::slot_of_container);
    if let Some(slot) = own {
        identity::learn_namespace(cookie, slot);
    }
    let Some((scope, by_namespace)) = identity::scope_of_socket(cookie, sk) else { return };
    let Some(slot) = own.or(by_namespace) else { return };
    let number: u16 = direct(sk, Field::LocalPort);
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
fn unlistened(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let number = u16::from_be(direct(tp, Field::SourcePort));
    let Some((scope, _)) = identity::scope_of_socket(load::net_cookie(sk), sk) else { return };
    let Some(port) = identity::port(scope, number) else { return };
    // SAFETY: a live map value.
    let (slot, container, left) = unsafe {
        (*port).half_open += direct::<u32>(tp, Field::HalfOpen);
        (*port).listeners = (*port).listeners.saturating_sub(1);
        (
            probe_ebpf::wire::SlotRef { slot: (*port).slot, generation: (*port).generation },
            (*port).container,
            (*port).listeners,
        )
    };
    record_listener(slot, container, number, 0, left);
}

#[inline(always)]
fn record_listener(slot: probe_ebpf::wire::SlotRef, container: u32, port: u16, open: u16, listeners: u32) {
    let Some(mut entry) = super::maps::RING.reserve::<Listener>(0) else {
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

/// `tp_btf/tcp_destroy_sock` (5.10+): the end of a full socket, whatever way it took. A late connection is counted
/// here, once, by what became of it.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if sk.is_null() {
        return 0;
    }
    let connection = connection::of(sk);
    if connection.is_null() {
        return 0;
    }
    // SAFETY: non-null storage of this socket.
    let connection = unsafe { &*connection };
    if connection.flags & (IS_PROBE | IS_PROBE_CLIENT) != 0 {
        return 0;
    }
    let Some(counters) = account::counters(connection.slot) else { return 0 };
    // SAFETY: a live map value.
    account::add(unsafe { &raw mut (*counters).closed });
    if connection.opened_phase != 0 && connection.flags & IS_ADOPTED == 0 {
        late_connection(counters, connection);
    }
    0
}

#[inline(always)]
fn late_connection(counters: *mut probe_ebpf::wire::Counters, connection: &Connection) {
    use probe_ebpf::wire::{RESULT_IDLE, RESULT_LOST, RESULT_SERVED};
    let stopping = usize::from(connection.opened_phase == Phase::Stopping as u8);
    let lost = connection.flags & IS_COUNTED != 0;
    let idle = matches!(connection.verdict(), Verdict::Idle);
    // SAFETY: a live map value; constant indexes.
    let counter = unsafe {
        let row = &raw mut (*counters).late_connections;
        match (stopping == 1, lost, idle) {
            (false, true, _) => &raw mut (*row)[0][RESULT_LOST],
            (false, false, true) => &raw mut (*row)[0][RESULT_IDLE],
            (false, false, false) => &raw mut (*row)[0][RESULT_SERVED],
            (true, true, _) => &raw mut (*row)[1][RESULT_LOST],
            (true, false, true) => &raw mut (*row)[1][RESULT_IDLE],
            (true, false, false) => &raw mut (*row)[1][RESULT_SERVED],
        }
    };
    account::add(counter);
}
