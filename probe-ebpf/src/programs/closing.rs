//! The end of a connection, for the state and reset hooks: gathers the facts, asks the decision function, counts.

use super::account::{self, Attempt};
use super::bare::{self, Facts};
use super::connection::{
    self, Connection, HAS_FIN, HAS_READ, IS_ADOPTED, IS_CLOSED, IS_COUNTED, IS_PROBE, IS_PROBE_CLIENT,
    MAY_BE_ONE_WAY,
};
use super::load::{self, direct, tcp};
use super::{identity, known, probe, probed};
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::{self, Bits, Closing, Verdict};
use probe_ebpf::fields::Field;
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{
    Closed, Counters, PORT_ANSWERED, PORT_SILENT, PORT_SILENT_ONE, Port, RESULT_IDLE, RESULT_LOST,
    RESULT_SERVED, SlotRef,
};

/// CLOSE_WAIT is entered.
#[inline(always)]
pub(super) fn client_fin(sk: *const u8) {
    let connection = connection::of(sk);
    if !connection.is_null() {
        // SAFETY: non-null storage of this socket.
        unsafe { (*connection).flags |= HAS_FIN };
    }
}

/// A connection is closed by one side, or is over.
#[inline(always)]
pub(super) fn over(ctx: &BtfTracePointContext, sk: *const u8, old: i32, new: i32) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let was_left = old != tcp::ESTABLISHED && old != tcp::CLOSE_WAIT;
    let stored = connection::of(sk);
    let mut known = 1;
    let mut connection = Connection::EMPTY;
    if stored.is_null() {
        let fin = if was_left {
            load::client_has_finished(sk)
        } else {
            load::is_same(old.cast_unsigned(), tcp::CLOSE_WAIT.cast_unsigned())
        };
        let is_clean = !was_left && known::now().is_settled && bare::is_clean(sk, tp, fin, new);
        if is_clean && new != tcp::CLOSE {
            return;
        }
        if !bare::meet(sk, tp, &mut connection) {
            return;
        }
        if is_clean {
            ended(&connection);
            return;
        }
        let facts = Facts::of(sk, tp, fin);
        known = facts.complete;
        facts.tell(&mut connection, tp);
        if was_left {
            // Nothing was lost up to the FIN, or it would be stored.
            connection.flags |= IS_CLOSED;
            connection.set_verdict(if facts.received != 0 { Verdict::Pending } else { Verdict::Idle });
        }
    } else {
        // SAFETY: non-null storage of this socket.
        connection = unsafe { *stored };
    }
    let matters = if was_left {
        after_fin(sk, tp, &mut connection, known)
    } else {
        leaving(ctx, sk, tp, (old, new), (&mut connection, known))
    };
    if new == tcp::CLOSE {
        if was_left && matters && stored.is_null() {
            remember(&connection);
        }
        if known != 0 {
            ended(&connection);
        }
    } else if !stored.is_null() {
        // SAFETY: non-null storage of this socket.
        unsafe { *stored = connection };
    } else if matters {
        // From here on there is more to know than the socket tells.
        let _stored = connection::store(sk, &connection);
    }
}

/// A handshake ended after its listener had closed: the kernel resets the client (inet_child_forget), whose request or none is on
/// its way.
#[inline(always)]
pub(super) fn forgotten(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    // A child that the kernel has no memory for is dead by now (inet_csk_prepare_forced_close): its client sends the last ACK again.
    if tp.is_null() || load::client_has_reset(sk) != 0 || load::is_dead(sk) {
        return;
    }
    let mut connection = Connection::EMPTY;
    if !bare::meet(sk, tp, &mut connection) {
        return;
    }
    let phase = identity::phase(connection.slot, connection.container);
    if probe::is_connected(&connection.tuple()) {
        account::late_probe(connection.slot, phase);
        return;
    }
    connection.opened_phase = phase as u8;
    connection.request = 1;
    connection.flags |= IS_COUNTED;
    let class = Class::Unaccepted;
    let confidence = decide::confidence_of(connection.protocol(), class, Confidence::Observed);
    let late = !matches!(phase, Phase::Running);
    let attempt = Attempt::on(&connection, class, confidence, phase, late);
    if let Some(counters) = account::counters(connection.slot) {
        account::late_attempt(counters, phase, attempt.at_ns);
    }
    account::loss(&attempt);
    // Its data, sent before the reset came, meets no socket.
    remember(&connection);
}

/// ESTABLISHED or CLOSE_WAIT is left: the decision. False if the socket goes on telling all that there is to know.
#[inline(always)]
fn leaving(
    ctx: &BtfTracePointContext,
    sk: *const u8,
    tp: *const u8,
    (old, new): (i32, i32),
    (connection, known): (&mut Connection, u32),
) -> bool {
    if connection.flags & IS_PROBE_CLIENT != 0 {
        return false;
    }
    let phase = identity::phase(connection.slot, connection.container);
    if connection.flags & IS_PROBE != 0 {
        probed::left(sk, connection);
        // Nothing of it counts, nor what is still in flight.
        connection.flags |= IS_COUNTED;
        if !matches!(phase, Phase::Running) {
            remember(connection);
        }
        return false;
    }
    let (mut bits, unread, pending) = closing_of(sk, tp, connection, (old, new), known);
    if connection.flags & MAY_BE_ONE_WAY != 0 {
        let SlotRef { slot, generation } = connection.slot;
        let stopping = u32::from(matches!(phase, Phase::Stopping));
        bits.one_way = one_way_of(slot, generation, connection.local_port, bits.pack(), stopping);
    }
    let mut verdict = Verdict::from_number(verdict_of(bits.pack(), unread, pending));
    // What the client of a running pod gives up, it might have had answered.
    if matches!((verdict, phase), (Verdict::Lost(Class::Abandoned, _), Phase::Running)) {
        verdict = if bits.received != 0 { Verdict::Served } else { Verdict::Idle };
    }
    connection.flags |= IS_CLOSED;
    connection.set_verdict(verdict);
    if let Verdict::Lost(class, confidence) = verdict {
        connection.flags |= IS_COUNTED;
        lost(ctx, tp, connection, (&bits, unread), (class, confidence, phase));
    } else if matches!(phase, Phase::Deleting | Phase::Stopping) {
        answered_late(connection);
    }
    let matters = !matches!(phase, Phase::Running) || matches!(verdict, Verdict::Lost(..));
    if matters {
        remember(connection);
    }
    matters
}

/// The connection is open no more; a late one is counted by what became of it.
#[inline(always)]
pub(super) fn ended(connection: &Connection) {
    if connection.flags & (IS_PROBE | IS_PROBE_CLIENT) != 0 {
        return;
    }
    let Some(tally) = account::tally(connection.slot.slot) else { return };
    account::closed(tally);
    if connection.opened_phase != 0 && connection.flags & IS_ADOPTED == 0 {
        late_connection(account::counters_in(tally), connection);
    }
}

#[inline(always)]
fn late_connection(counters: *mut Counters, connection: &Connection) {
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

/// The facts that the decision needs, without a branch (see [`load::is_set`]).
#[inline(always)]
fn closing_of(
    sk: *const u8,
    tp: *const u8,
    connection: &Connection,
    (old, new): (i32, i32),
    known: u32,
) -> (Bits, u32, u32) {
    let fin = load::is_same(old.cast_unsigned(), tcp::CLOSE_WAIT.cast_unsigned())
        | load::is_set(u64::from(connection.flags & HAS_FIN));
    let read = connection.flags & HAS_READ;
    let write_seq: u32 = direct(tp, Field::WriteSeq);
    let unacked = write_seq.wrapping_sub(direct(tp, Field::SndUna));
    let farewell = decide::farewell_of_server(connection.protocol());
    let unread = unread_of(tp, fin);
    let sent: u32 = direct(tp, Field::LastSent);
    let has_read_fin = fin & (load::is_set(u64::from(unread)) ^ 1);
    let bits = Bits {
        close: load::is_same(new.cast_unsigned(), tcp::CLOSE.cast_unsigned()),
        accepted: load::at_once(load::is_accepted(sk) | read),
        client_fin: fin,
        client_rst: load::at_once(load::client_has_reset(sk)),
        // The client's FIN counts as a byte received.
        received: load::at_once(load::is_less(u64::from(fin), direct(tp, Field::BytesReceived))),
        read,
        written_since_read: load::is_same(write_seq, connection.wseq_read) ^ 1,
        unacked: load::at_once(load::is_less(u64::from(farewell), u64::from(unacked))),
        known,
        received_last: load::at_once(sent.wrapping_sub(direct(tp, Field::LastReceived)) >> 31),
        opening: load::is_less(u64::from(connection.request), 3),
        one_way: 0,
        protocol: u32::from(connection.protocol) & 7,
    };
    let pending = if known == 0 { u32::MAX } else { pending_of(tp, connection, has_read_fin, write_seq) };
    (bits, unread, pending)
}

/// [`decide::closing`] as a function of its own: the verifier looks at it once, for any facts, and not again for each way
/// that leads to it. That takes numbers for arguments and result, and a name that the linker keeps.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn verdict_of(bits: u32, unread: u32, pending: u32) -> u32 {
    decide::closing(&Closing::from_bits(bits, unread, pending)).to_number()
}

/// Bytes that the application read and wrote nothing after; a FIN that it read has a sequence number too.
#[inline(always)]
fn pending_of(tp: *const u8, connection: &Connection, may_have_read_fin: u32, write_seq: u32) -> u32 {
    if connection.flags & HAS_READ == 0 || write_seq != connection.wseq_read {
        return 0;
    }
    if connection.flags & IS_ADOPTED != 0 && connection.request == 1 {
        // Part of it may have been read before the connection was known.
        return u32::MAX;
    }
    let read = direct::<u32>(tp, Field::CopiedSeq).wrapping_sub(connection.request_from);
    read.saturating_sub(may_have_read_fin)
}

/// 1 if the connection's port never answers. What this connection shows of that is noted: an answer settles it, and so do a few clients
/// that left content without one while the server lived. `stopping`: not 0 once the server may have been kept from answering. A function of
/// its own, as [`verdict_of`] is.
#[inline(never)]
fn one_way_of(slot: u32, generation: u32, number: u16, bits: u32, stopping: u32) -> u32 {
    let Some(port) = identity::port_of_connection(SlotRef { slot, generation }, number) else { return 0 };
    let shown = Closing::from_bits(bits, 0, 0);
    // SAFETY: a live map value. One read and one write, so that of two writers at one moment one is forgotten: one more
    // connection has to tell.
    let flags = unsafe { core::ptr::read_volatile(&raw const (*port).flags) };
    let is_answered = shown.read && shown.written_since_read;
    let is_silent = shown.read && !shown.written_since_read && shown.client_fin;
    let now = if is_answered {
        flags | PORT_ANSWERED
    } else if is_silent && stopping == 0 && flags & PORT_SILENT != PORT_SILENT {
        flags + PORT_SILENT_ONE
    } else {
        flags
    };
    if now != flags {
        // SAFETY: as above.
        unsafe { (*port).flags = now };
    }
    u32::from(Port { flags, ..Port::default() }.is_one_way() && !is_answered)
}

/// Bytes received and not read; the client's FIN (0 or 1) has a sequence number of its own until it is read.
#[inline(always)]
pub(super) fn unread_of(tp: *const u8, fin: u32) -> u32 {
    let unread = direct::<u32>(tp, Field::RcvNxt).wrapping_sub(direct(tp, Field::CopiedSeq));
    unread - (fin & load::is_set(u64::from(unread)))
}

#[inline(always)]
fn lost(
    ctx: &BtfTracePointContext,
    tp: *const u8,
    connection: &mut Connection,
    (bits, unread): (&Bits, u32),
    (class, confidence, phase): (Class, Confidence, Phase),
) {
    // A request that was read has its number, also if only a part of it was; one that was not is the next.
    let is_begun = bits.read & (bits.written_since_read ^ 1) != 0;
    let was_read = matches!(class, Class::Unanswered | Class::Truncated)
        || is_begun
        || (matches!(class, Class::Abandoned) && unread == 0);
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
    attempt.unread = unread;
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
pub(super) fn remember(connection: &Connection) {
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

/// The way from a closing state to CLOSE: what came after our FIN, and answers that never arrived. True if that is a loss.
#[inline(always)]
fn after_fin(sk: *const u8, tp: *const u8, connection: &mut Connection, known: u32) -> bool {
    if connection.flags & IS_CLOSED == 0 || connection.flags & (IS_PROBE | IS_COUNTED) != 0 {
        return false;
    }
    // A FIN that comes after our close passes no CLOSE_WAIT, but it has its sequence number all the same.
    let fin = load::is_set(u64::from(connection.flags & HAS_FIN)) | load::client_has_finished(sk);
    let unread = unread_of(tp, fin);
    let found = if unread > 0 {
        decide::data_after_close(connection.verdict(), connection.protocol(), unread)
    } else if matches!(connection.verdict(), Verdict::Pending)
        && load::client_has_reset(sk) == 0
        && !answer_arrived(tp, connection.protocol())
    {
        Some(decide::died_pending(connection.protocol()))
    } else {
        None
    };
    let Some((class, confidence)) = found else { return false };
    after_close(connection, class, if known != 0 { confidence } else { Confidence::Inferred }, unread);
    true
}

/// All but our FIN, which is the last of the sequence, and a farewell before it was acknowledged. FINs that cross pass no
/// FIN_WAIT2.
#[inline(always)]
pub(super) fn answer_arrived(tp: *const u8, protocol: Protocol) -> bool {
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
