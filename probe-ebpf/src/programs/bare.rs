//! Connections without storage: of a pod that runs, on a port of plain HTTP/1, up to the second request. Their sockets tell
//! all that there is to know, and storage costs more than everything else that the programs do for a connection.
//!
//! What a socket does not tell is whether it was read before some moment. The first read on a connection on which nothing
//! was written yet therefore asks for the socket's cookie, which is the mark; where something else on the node does that
//! too (`ss -e`), a request whose first read comes after the stop may pass for one that began before it.

use super::connection::{self, Connection, HAS_READ};
use super::load::{self, direct, is_less, is_same, is_set, tcp};
use super::{closing, identity, state};
use aya_ebpf::helpers::generated;
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{PORT_GREETS, Port};

/// A connection to this port needs no storage at its start. A server that speaks first has written before the first
/// request, so that writing does not tell requests apart.
#[inline(always)]
pub(super) fn is_enough(connection: &Connection, port: &Port) -> bool {
    connection.flags == 0 && port.flags & PORT_GREETS == 0
}

/// Marks the socket as read.
#[inline(always)]
pub(super) fn mark(sk: *const u8) {
    // SAFETY: a verifier-known socket; the helper gives it a cookie if it has none.
    let _cookie = unsafe { generated::bpf_get_socket_cookie(sk.cast_mut().cast()) };
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

/// What is known of an inbound connection of a watched pod without storage: `None` for outbound and foreign ones.
#[inline(always)]
pub(super) fn meet(sk: *const u8, tp: *const u8) -> Option<Connection> {
    let cookie = load::net_cookie(sk);
    let number = u16::from_be(direct(tp, Field::SourcePort));
    let port = if cookie == load::host_net() {
        identity::host_port_of_socket(sk, number, false)?
    } else {
        identity::port(identity::slot_of_frequent(cookie, sk)?.slot, number)?
    };
    if !identity::is_for_clients(port) {
        return None;
    }
    let port = state::with_container(port, sk);
    let mut met = Connection::EMPTY;
    connection::fill_ends(&mut met, sk, tp);
    if met.peer == met.local || load::is_loopback(met.peer) {
        return None;
    }
    // SAFETY: a live map value.
    met.belongs_to(unsafe { &*port });
    Some(met)
}
