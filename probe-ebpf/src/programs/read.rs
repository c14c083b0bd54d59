//! `tp_btf/tcp_rcv_space_adjust` (5.10+): the application reads from a TCP socket.
//!
//! Rate: about one per request at each end on the node. A socket without storage returns at once if its port is none of a pod's, or its
//! namespace is no pod's. `write_seq` is remembered here: whether it moved by the next read or the close is what
//! "answered" means. Nothing is written to the ring. What is rare is in functions of its own, so that other reads do not pay for its
//! registers and stack.

use super::connection::{
    self, Connection, HAS_CHATTER, HAS_READ, IS_ADOPTED, IS_PROBE, IS_PROBE_CLIENT, MAY_BE_ONE_WAY, fill_ends,
};
use super::load::{self, direct};
use super::{account, bare, identity, known, probed};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::class::Phase;
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{PORT_ANSWERED, PORT_GREETS};

#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
#[inline(always)]
pub(crate) fn tcp_rcv_space_adjust(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if sk.is_null() {
        return 0;
    }
    if connection::has_none(sk) {
        // First of all: clients on this node read as often as its servers.
        if identity::is_no_port(direct(sk, Field::LocalPort)) || bare::is_elsewhere(sk) {
            return 0;
        }
    } else {
        let stored = connection::stored(sk);
        if !stored.is_null() {
            if !plain_read(sk, stored) {
                known_read(sk, stored);
            }
            return 0;
        }
    }
    if load::is_active() && !bare::was_read(sk) {
        unstored(sk);
    }
    0
}

/// A read on a kept connection of plain HTTP/1 while every pod runs; false if there is more to it. It does not ask whether these programs
/// count: of two that do this to one read, the second changes nothing.
#[inline(always)]
fn plain_read(sk: *const u8, stored: *mut Connection) -> bool {
    // SAFETY: non-null storage of this socket; its reads are serialised by the socket lock.
    let connection = unsafe { &mut *stored };
    if connection.flags != HAS_READ || connection.request_phase != 0 {
        return false;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return true;
    }
    let write_seq: u32 = direct(tp, Field::WriteSeq);
    if connection.wseq_read == write_seq {
        return true;
    }
    if !known::now().is_settled {
        return false;
    }
    connection.wseq_read = write_seq;
    connection.request += 1;
    true
}

#[inline(never)]
fn known_read(sk: *const u8, stored: *mut Connection) {
    if !load::is_active() {
        return;
    }
    // SAFETY: non-null storage of this socket; its reads are serialised by the socket lock.
    let connection = unsafe { &mut *stored };
    if connection.flags & (IS_PROBE | IS_PROBE_CLIENT) != 0 {
        probed::was_read(connection);
        return;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let write_seq: u32 = direct(tp, Field::WriteSeq);
    if connection.flags & HAS_READ == 0 {
        first_read(tp, connection);
    }
    let is_next = connection.flags & HAS_READ == 0 || connection.wseq_read != write_seq;
    if connection.flags & (HAS_CHATTER | MAY_BE_ONE_WAY) != 0 {
        hinted(connection, tp, is_next);
    }
    if is_next {
        next_request(connection);
        connection.wseq_read = write_seq;
        connection.flags |= HAS_READ;
    }
}

#[inline(always)]
fn first_read(tp: *const u8, connection: &Connection) {
    // The listener may be older than the agent.
    identity::learn_init(load::current_task(), connection.container);
    if connection.flags & MAY_BE_ONE_WAY != 0 && bare::has_written(tp) {
        greets(connection);
    }
}

/// Something was written before the first read.
#[inline(always)]
fn greets(connection: &Connection) {
    if let Some(port) = identity::port_of_connection(connection.slot, connection.local_port) {
        // SAFETY: a live map value; the next connection says it again if it is lost in a race.
        unsafe { (*port).flags |= PORT_GREETS };
        known::forget();
    }
}

/// What plain HTTP/1 has no need of: how much was read since the last answer, and that the port answers.
#[inline(always)]
fn hinted(connection: &mut Connection, tp: *const u8, is_next: bool) {
    if is_next {
        connection.request_from = connection.read_to;
    }
    connection.read_to = direct(tp, Field::CopiedSeq);
    if is_next && connection.request != 0 && connection.flags & MAY_BE_ONE_WAY != 0 {
        connection.flags &= !MAY_BE_ONE_WAY;
        if let Some(port) = identity::port_of_connection(connection.slot, connection.local_port) {
            // SAFETY: a live map value; the next answer says it again if it is lost in a race.
            unsafe { (*port).flags |= PORT_ANSWERED };
        }
    }
}

/// Something was written since the last read (or this is the first): the request before is answered, a new one begins.
#[inline(always)]
fn next_request(connection: &mut Connection) {
    let phase = identity::phase(connection.slot, connection.container);
    let late = !matches!(phase, Phase::Running);
    if (late || connection.request_phase != 0)
        && let Some(counters) = account::counters(connection.slot)
    {
        if connection.request != 0 && connection.request_phase != 0 {
            account::late_answer(counters, connection.opened_phase != 0);
        }
        if late {
            // SAFETY: a live map value; the latest writer wins.
            unsafe { (*counters).last_request_ns = load::now_ns() };
        }
    }
    connection.request += 1;
    connection.request_phase = phase as u8;
}

/// A read on a socket of which nothing is stored. Nothing need be as long as it is the first request of its connection and
/// the pod runs; a connection that is older than the agent becomes known here.
#[inline(never)]
fn unstored(sk: *const u8) {
    let cookie = load::net_cookie(sk);
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let has_written = bare::has_written(tp);
    let Some(slot) = identity::slot_of_frequent(cookie, sk) else { return };
    // An outbound connection has a local port that nobody listens on.
    let Some(port) = identity::client_port(slot.slot, direct(sk, Field::LocalPort)) else { return };
    let mut met = Connection::EMPTY;
    fill_ends(&mut met, sk, tp);
    if met.peer == met.local || load::is_loopback(met.peer) {
        return;
    }
    // SAFETY: a live map value.
    met.belongs_to(unsafe { &*port });
    let is_plain = met.flags == 0;
    if !has_written && is_plain && matches!(identity::phase(met.slot, met.container), Phase::Running) {
        bare::mark(sk);
        return;
    }
    identity::learn_init(load::current_task(), met.container);
    met.flags |= HAS_READ;
    met.read_to = direct(tp, Field::CopiedSeq);
    met.wseq_read = direct(tp, Field::WriteSeq);
    let is_first_seen = !bare::is_marked(sk);
    if !is_first_seen {
        // The first request began while the pod ran.
        met.request = 1;
    }
    if is_first_seen || has_written {
        next_request(&mut met);
    }
    let is_adopted = is_first_seen && (has_written || !is_plain);
    if is_adopted {
        met.flags |= IS_ADOPTED;
    }
    if connection::store(sk, &met)
        && is_adopted
        && let Some(tally) = account::tally(met.slot.slot)
    {
        account::opened(tally);
    }
}
