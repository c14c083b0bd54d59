//! Connections without storage: of a pod that runs, on a port of plain HTTP/1, up to the second request. Their sockets tell
//! all that there is to know, and storage costs more than everything else that the programs do for a connection.
//!
//! [`established`], [`left`], [`over`] and [`was_read`] settle such a connection with array look-ups alone, once its port is
//! known (see `known`). What they do not settle is looked at at length, by the hooks, and comes to the same.
//!
//! What a socket does not tell is whether it was read before some moment. The first read on a connection on which nothing
//! was written yet therefore asks for the socket's cookie, which is the mark; where something else on the node does that
//! too (`ss -e`), a request whose first read comes after the stop may pass for one that began before it.

use super::connection::{self, Connection, HAS_READ};
use super::load::{self, direct, is_less, is_same, is_set, tcp};
use super::{account, closing, identity, known, state};
use aya_ebpf::helpers::generated;
use probe_ebpf::fields::Field;
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{NONE, PORT_GREETS, Port};

/// A connection to this port needs no storage at its start. A server that speaks first has written before the first
/// request, so that writing does not tell requests apart.
#[inline(always)]
pub(super) fn is_enough(connection: &Connection, port: &Port) -> bool {
    connection.flags == 0 && port.flags & PORT_GREETS == 0
}

/// Counts a connection that begins; false if there is more to it, or to its port.
#[inline(always)]
pub(super) fn established(sk: *const u8) -> bool {
    let now = known::now();
    if !now.is_settled {
        return false;
    }
    let slot = known::bare_port(now.epoch, load::net_cookie(sk), direct(sk, Field::LocalPort));
    if slot == NONE || load::is_own_traffic(sk) || !load::is_counted(sk) {
        return false;
    }
    let Some(tally) = account::tally(slot) else { return false };
    account::opened(tally);
    true
}

/// A FIN goes out on a connection without storage; false if there is more to know of the connection than its socket tells.
#[inline(always)]
pub(super) fn left(sk: *const u8, old: i32, new: i32) -> bool {
    let now = known::now();
    if known::is_nobodys(now.epoch, load::net_cookie(sk)) {
        return true;
    }
    let tp = load::tcp_sock(sk);
    !tp.is_null() && now.is_settled && is_clean(sk, tp, has_fin(old), new)
}

/// Counts a connection without storage that is over; false if there is more to it, or to its port.
#[inline(always)]
pub(super) fn over(sk: *const u8, old: i32, new: i32) -> bool {
    let now = known::now();
    let cookie = load::net_cookie(sk);
    if known::is_nobodys(now.epoch, cookie) {
        return true;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return true;
    }
    let slot = known::bare_port(now.epoch, cookie, u16::from_be(direct(tp, Field::SourcePort)));
    if slot == NONE {
        return false;
    }
    let is_quiet = if old == tcp::ESTABLISHED || old == tcp::CLOSE_WAIT {
        now.is_settled && is_clean(sk, tp, has_fin(old), new)
    } else {
        is_over(sk, tp)
    };
    if !is_quiet || load::is_own_traffic(sk) || !load::is_counted(sk) {
        return false;
    }
    let Some(tally) = account::tally(slot) else { return false };
    account::closed(tally);
    true
}

/// 1 if the client's FIN came before the state was left, else 0.
#[inline(always)]
fn has_fin(old: i32) -> u32 {
    is_same(old.cast_unsigned(), tcp::CLOSE_WAIT.cast_unsigned())
}

/// Marks the socket as read.
#[inline(always)]
pub(super) fn mark(sk: *const u8) {
    // SAFETY: a verifier-known socket; the helper gives it a cookie if it has none.
    let _cookie = unsafe { generated::bpf_get_socket_cookie(sk.cast_mut().cast()) };
}

/// The socket's namespace is the node's own, or known to be nobody's: a read there is of no interest as long as nothing is stored.
/// Of a pod that is not known yet it may be, too; what such a connection loses later is `inferred`.
#[inline(always)]
pub(super) fn is_elsewhere(sk: *const u8) -> bool {
    let cookie = load::net_cookie(sk);
    cookie == load::host_net() || known::is_nobodys(known::now().epoch, cookie)
}

/// A read on a socket of which nothing is stored, and that is not [`is_elsewhere`]: false if there is more to it.
#[inline(always)]
pub(super) fn was_read(sk: *const u8) -> bool {
    let state = i32::from(direct::<u8>(sk, Field::State));
    if state != tcp::ESTABLISHED && state != tcp::CLOSE_WAIT {
        return true;
    }
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return true;
    }
    if has_written(tp) || !known::now().is_settled {
        return false;
    }
    mark(sk);
    true
}

/// It was read while its pod ran, before anything was written.
#[inline(always)]
pub(super) fn is_marked(sk: *const u8) -> bool {
    direct::<u64>(sk, Field::SocketCookie) != 0
}

/// The server has written, whether it was sent or not. Holds until its FIN, which counts as a byte.
#[inline(always)]
pub(super) fn has_written(tp: *const u8) -> bool {
    (direct::<u64>(tp, Field::BytesAcked) != 0)
        | (direct::<u32>(tp, Field::WriteSeq) != direct::<u32>(tp, Field::SndUna))
}

/// What the socket tells of a connection that is closed; each fact is 0 or 1 (see [`load::is_set`]).
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// Content was received.
    pub(super) received: u32,
    /// Bytes received and not read.
    unread: u32,
    /// Some content was read.
    read: u32,
    written: u32,
    /// That is all: the first request was the only one, and nobody read it unseen.
    pub(super) complete: u32,
}

impl Facts {
    #[inline(always)]
    pub(super) fn of(sk: *const u8, tp: *const u8, fin: u32) -> Self {
        let unread = closing::unread_of(tp, fin);
        // The client's FIN counts as a byte received.
        let content = direct::<u64>(tp, Field::BytesReceived).wrapping_sub(u64::from(fin));
        let read = is_less(u64::from(unread), content);
        let write_seq: u32 = direct(tp, Field::WriteSeq);
        let unacked = write_seq ^ direct::<u32>(tp, Field::SndUna);
        let written = is_set(direct::<u64>(tp, Field::BytesAcked) | u64::from(unacked));
        // Content came after the last that was sent, and was read all the same: nobody watched then.
        let sent: u32 = direct(tp, Field::LastSent);
        let is_last = sent.wrapping_sub(direct(tp, Field::LastReceived)) >> 31;
        let is_sent = is_same(write_seq, direct(tp, Field::SndNxt));
        let is_read = is_set(u64::from(unread)) ^ 1;
        let unseen = written & is_last & is_sent & is_read;
        let is_marked = is_set(direct(sk, Field::SocketCookie));
        let complete = (read ^ 1) | (is_marked & (unseen ^ 1));
        Self { received: is_set(content), unread, read, written, complete }
    }

    /// The same as if it had been remembered.
    #[inline(always)]
    pub(super) fn tell(&self, connection: &mut Connection, tp: *const u8) {
        let is_begun = self.complete & self.read;
        connection.flags |= is_begun * HAS_READ;
        connection.request = is_begun;
        connection.wseq_read = direct::<u32>(tp, Field::WriteSeq).wrapping_sub(self.written);
    }
}

/// No decision is needed when ESTABLISHED or CLOSE_WAIT is left: whoever's the connection is, nothing was lost up to here.
#[inline(always)]
pub(super) fn is_clean(sk: *const u8, tp: *const u8, fin: u32, new: i32) -> bool {
    let facts = Facts::of(sk, tp, fin);
    let is_answered = (facts.received ^ 1) | (facts.read & facts.written);
    let is_delivered = is_same(direct(tp, Field::WriteSeq), direct(tp, Field::SndUna))
        | load::client_has_reset(sk)
        | is_set(u64::from(new.cast_unsigned() ^ tcp::CLOSE.cast_unsigned()));
    let is_accepted = facts.read | load::is_accepted(sk);
    let is_read = is_set(u64::from(facts.unread)) ^ 1;
    facts.complete & is_read & is_answered & is_delivered & is_accepted != 0
}

/// Nothing was lost after the close, and nothing of it is to be remembered: whoever's the connection is, it is over.
#[inline(always)]
pub(super) fn is_over(sk: *const u8, tp: *const u8) -> bool {
    let facts = Facts::of(sk, tp, load::client_has_finished(sk));
    let has_arrived = u32::from(closing::answer_arrived(tp, Protocol::Http));
    let is_delivered = (facts.received ^ 1) | load::client_has_reset(sk) | has_arrived;
    let is_read = is_set(u64::from(facts.unread)) ^ 1;
    facts.complete & is_read & is_delivered != 0
}

/// What is known of an inbound connection of a watched pod without storage, into an empty one: false for outbound and foreign ones.
#[inline(always)]
pub(super) fn meet(sk: *const u8, tp: *const u8, met: &mut Connection) -> bool {
    let Some(port) = port_of(sk, tp) else { return false };
    if !identity::is_for_clients(port) {
        return false;
    }
    let port = state::with_container(port, sk);
    connection::fill_ends(met, sk, tp);
    if met.peer == met.local || load::is_loopback(met.peer) {
        return false;
    }
    // SAFETY: a live map value.
    met.belongs_to(unsafe { &*port });
    true
}

#[inline(always)]
fn port_of(sk: *const u8, tp: *const u8) -> Option<*mut Port> {
    let cookie = load::net_cookie(sk);
    let number = u16::from_be(direct(tp, Field::SourcePort));
    if cookie == load::host_net() {
        identity::host_port_of_socket(sk, number, false)
    } else {
        identity::port(identity::slot_of_frequent(cookie, sk)?.slot, number)
    }
}
