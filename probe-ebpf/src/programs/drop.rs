//! `tp_btf/kfree_skb` (reason since 5.17): packets that were on their way to a stopped pod whose address is gone, and
//! requests that a socket dropped on its way to TIME_WAIT.
//!
//! A dropped SYN is an attempt that nobody will answer; its retransmissions carry the same sequence number and count
//! once. Which reasons can mean "address gone" is resolved by name from BTF. Rate: the node's drops, among
//! them one for each connection. While every pod runs, and for other reasons, it returns at once, for other destinations after one map miss.

use super::account::{self, Attempt};
use super::identity;
use super::known;
use super::load;
use super::packet::{self, ACK, Packet, RST, SYN};
use super::probe;
use super::reset::{attempt_of, counted, stale, tuple_of};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::{self, Verdict};
use probe_ebpf::fields::ABSENT;
use probe_ebpf::wire::{Port, SlotRef};

#[btf_tracepoint(function = "kfree_skb")]
pub(crate) fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let skb: *const u8 = ctx.arg(0);
    let reason: u32 = ctx.arg(2);
    if skb.is_null() {
        return 0;
    }
    // Before 6.11 the hook does not tell the socket (its fourth argument), and without that the packet not its namespace.
    if load::tcp_close() != ABSENT && reason == load::tcp_close() {
        if load::is_active() {
            on_closed(skb, ctx.arg(3));
        }
        return 0;
    }
    // While every pod runs, no address is gone. Each connection that ends well comes by here: the later FIN meets the other side's
    // TIME_WAIT, which acknowledges it and drops it for a reason that is not specified (tcp_v4_rcv).
    if !load::drop_reason_matters(reason) || known::now().is_settled || !load::is_active() {
        return 0;
    }
    // Another node on this kernel may have pods with the same addresses.
    if packet::device(skb).is_some_and(|(cookie, _)| !identity::is_of_this_node(cookie)) {
        return 0;
    }
    let Some(packet) = packet::parse(skb) else { return 0 };
    let Some(slot) = identity::slot_of_address(packet.destination) else { return 0 };
    let Some(port) = identity::client_port(slot.slot, packet.destination_port) else { return 0 };
    // SAFETY: a live map value.
    let port = unsafe { *port };
    // While the server lives, a drop is not the end of the attempt: the client sends it again.
    if !identity::exited(slot, port.container) {
        return 0;
    }
    if packet.flags & (SYN | ACK | RST) == SYN {
        blackholed(&port, &packet, packet::sent_ns(skb));
    } else if packet.flags & (SYN | RST) == 0 && packet.payload > 0 && reason != load::queue_purge() {
        // A purge is usually that of the socket's own unread data, which has its class.
        if decide::data_after_close(Verdict::Served, port.protocol(), packet.payload).is_some() {
            data(&port, &packet);
        }
    }
    0
}

/// A segment waited for the socket's lock while another CPU closed it, and no reset answers it. What the client does next
/// may say nothing of it: it reads the end of file and closes with a reset of its own.
#[inline(always)]
fn on_closed(skb: *const u8, sk: *const u8) {
    // The packet has no device any more.
    let Some(cookie) = load::net_cookie_of_unknown(sk) else { return };
    let Some(packet) = packet::parse(skb) else { return };
    if packet.payload == 0 || packet.flags & (SYN | RST) != 0 {
        return;
    }
    let Some(scope) = identity::scope_of_packet(cookie, packet.destination) else { return };
    let Some(port) = identity::port(scope, packet.destination_port) else { return };
    if packet.source == packet.destination || load::is_loopback(packet.source) {
        return;
    }
    // SAFETY: a live map value.
    stale(unsafe { &*port }, &packet, Confidence::Observed, 1);
}

#[inline(always)]
fn blackholed(port: &Port, packet: &Packet, sent_ns: u64) {
    let slot = SlotRef { slot: port.slot, generation: port.generation };
    let phase = identity::phase(slot, port.container);
    if !account::count_syn_once(&tuple_of(packet), packet.sequence) {
        return;
    }
    if probe::has_sent(port, packet) {
        account::late_probe(slot, phase);
        return;
    }
    if let Some(counters) = account::counters(slot) {
        account::late_attempt(counters, phase, sent_ns);
    }
    let mut attempt = gone(port, packet, phase);
    attempt.at_ns = sent_ns;
    account::loss(&attempt);
}

/// Data to an address that is gone: on a connection that the server had closed it is a stale reuse; on one that nobody
/// closed, the pod went without a word.
#[inline(always)]
fn data(port: &Port, packet: &Packet) {
    let slot = SlotRef { slot: port.slot, generation: port.generation };
    let tuple = tuple_of(packet);
    if account::remembered_of(slot, &tuple).is_some() {
        stale(port, packet, Confidence::Inferred, 1);
        return;
    }
    let phase = identity::phase(slot, port.container);
    account::remember(&tuple, &counted(port, Phase::Running));
    account::loss(&gone(port, packet, phase));
}

#[inline(always)]
fn gone(port: &Port, packet: &Packet, phase: Phase) -> Attempt {
    let slot = SlotRef { slot: port.slot, generation: port.generation };
    attempt_of(slot, port.container, packet, Class::Blackholed, Confidence::Inferred, phase)
}
