//! The end of a connection, for the state and reset hooks: gathers the facts, asks the decision function, counts.

use super::account::{self, Attempt};
use super::connection::{
    self, Connection, HAS_FIN, HAS_READ, IS_ADOPTED, IS_CLOSED, IS_COUNTED, IS_PROBE, IS_PROBE_CLIENT,
    MAY_BE_ONE_WAY,
};
use super::identity;
use super::load::{self, direct, tcp};
use super::state::port_of;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::{self, Closing, Leaving, Verdict};
use probe_ebpf::fields::Field;
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{Closed, PORT_ANSWERED, PORT_SILENT, PORT_SILENT_ONE};

/// CLOSE_WAIT is entered.
#[inline(always)]
pub(super) fn client_fin(sk: *const u8) {
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
    let port = port_of(sk, met.local_port, false).filter(|port| identity::is_for_clients(*port))?;
    if met.peer == met.local || load::is_loopback(met.peer) {
        return None;
    }
    // SAFETY: a live map value.
    met.belongs_to(unsafe { &*port });
    Some(met)
}

/// ESTABLISHED or CLOSE_WAIT is left: the decision.
#[inline(always)]
pub(super) fn leaving(ctx: &BtfTracePointContext, sk: *const u8, old: i32, new: i32) {
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
    let mut closing = closing_of(sk, tp, &connection, old, new, !stored.is_null());
    if connection.flags & MAY_BE_ONE_WAY != 0 {
        closing.one_way = is_one_way(&connection, &closing, phase);
    }
    let mut verdict = decide::closing(&closing);
    // What the client of a running pod gives up, it might have had answered.
    if matches!((verdict, phase), (Verdict::Lost(Class::Abandoned, _), Phase::Running)) {
        verdict = if closing.received { Verdict::Served } else { Verdict::Idle };
    }
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
        client_rst: load::client_has_reset(sk),
        unread,
        received,
        read: connection.flags & HAS_READ != 0,
        written_since_read: write_seq != connection.wseq_read,
        unacked: write_seq.wrapping_sub(direct(tp, Field::SndUna))
            > decide::farewell_of_server(connection.protocol()),
        known,
        received_last: (sent.wrapping_sub(arrived) as i32) < 0,
        protocol: connection.protocol(),
        pending: if known { pending_of(tp, connection, fin && unread == 0, write_seq) } else { u32::MAX },
        opening: connection.request <= 2,
        one_way: false,
    }
}

/// Bytes that the application read and wrote nothing after; a FIN that it read has a sequence number too.
#[inline(always)]
fn pending_of(tp: *const u8, connection: &Connection, may_have_read_fin: bool, write_seq: u32) -> u32 {
    if connection.flags & HAS_READ == 0 || write_seq != connection.wseq_read {
        return 0;
    }
    if connection.flags & IS_ADOPTED != 0 && connection.request == 1 {
        // Part of it may have been read before the connection was known.
        return u32::MAX;
    }
    let read = direct::<u32>(tp, Field::CopiedSeq).wrapping_sub(connection.request_from);
    read.saturating_sub(u32::from(may_have_read_fin))
}

/// Whether the connection's port never answers. What this connection shows of that is noted: an answer settles it, and so
/// do a few clients that left content without one while the server lived.
#[inline(always)]
fn is_one_way(connection: &Connection, closing: &Closing, phase: Phase) -> bool {
    let Some(port) = identity::port_of_connection(connection.slot, connection.local_port) else {
        return false;
    };
    // SAFETY: a live map value. One read and one write, so that of two writers at one moment one is forgotten: one more
    // connection has to tell.
    let seen = unsafe { port.read_volatile() };
    let is_answered = closing.read && closing.written_since_read;
    let is_silent = closing.read && !closing.written_since_read && closing.client_fin;
    let flags = if is_answered {
        seen.flags | PORT_ANSWERED
    } else if is_silent && !matches!(phase, Phase::Stopping) && seen.flags & PORT_SILENT != PORT_SILENT {
        seen.flags + PORT_SILENT_ONE
    } else {
        seen.flags
    };
    if flags != seen.flags {
        // SAFETY: as above.
        unsafe { (*port).flags = flags };
    }
    seen.is_one_way() && !is_answered
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
    // A request that was read has its number, also if only a part of it was; one that was not is the next.
    let is_begun = closing.read && !closing.written_since_read;
    let was_read = matches!(class, Class::Unanswered | Class::Truncated)
        || is_begun
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
        account::late_answer(counters, connection.opened_phase != 0);
    }
}

#[inline(always)]
fn remember(connection: &Connection) {
    let counted = if connection.flags & IS_COUNTED != 0 { probe_ebpf::wire::CLOSED_COUNTED } else { 0 };
    account::remember(
        &connection.tuple(),
        &Closed {
            at_ns: load::now_ns(),
            flags: counted,
            request: connection.request + 1,
            phase: u32::from(connection.opened_phase),
            slot: connection.slot.slot,
            generation: connection.slot.generation,
            container: connection.container,
        },
    );
}

/// FIN_WAIT1 -> FIN_WAIT2: our FIN, and so everything before it, was acknowledged.
#[inline(always)]
pub(super) fn delivered(sk: *const u8) {
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
pub(super) fn gone(sk: *const u8) {
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
        decide::data_after_close(connection.verdict(), connection.protocol(), unread)
    } else if matches!(connection.verdict(), Verdict::Pending)
        && !load::client_has_reset(sk)
        && !answer_arrived(tp, connection.protocol())
    {
        Some(decide::died_pending(connection.protocol()))
    } else {
        None
    };
    if let Some((class, confidence)) = found {
        after_close(connection, class, confidence, unread);
    }
}

/// All but our FIN, which is the last of the sequence, and a farewell before it was acknowledged. FINs that cross pass no
/// FIN_WAIT2.
#[inline(always)]
fn answer_arrived(tp: *const u8, protocol: Protocol) -> bool {
    direct::<u32>(tp, Field::WriteSeq).wrapping_sub(direct(tp, Field::SndUna))
        <= 1 + decide::farewell_of_server(protocol)
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
    if let Some(closed) = account::remembered_of(connection.slot, &connection.tuple()) {
        account::count_once(closed);
    }
}
