//! `tp_btf/inet_sock_set_state` (5.10+): births and ends of connections and listeners.
//!
//! Rate: a handful per connection on the node. `bare` settles most of them from the socket and from what is known of its
//! port; only the rest is looked at at length. The decision about a closing connection is taken here, and a late one is
//! counted by what became of it: every socket comes by CLOSE before it is destroyed (inet_csk_destroy_sock). With a full
//! ring only evidence is lost.

use super::connection::{self, Connection, HAS_CHATTER, IS_PROBE};
use super::load::{self, direct, tcp};
use super::{account, bare, closing, identity, known, listener, probe, probed, service};
use aya_ebpf::{EbpfContext as _, macros::btf_tracepoint, programs::BtfTracePointContext};
use core::ffi::c_void;
use probe_ebpf::class::Phase;
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{NONE, Port};

#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if sk.is_null() || is_settled(&ctx, sk) {
        return 0;
    }
    not_done(ctx);
    0
}

/// The socket and what is known of its port say all that there is to know. What takes registers and stack is in a function of its own.
#[inline(always)]
fn is_settled(ctx: &BtfTracePointContext, sk: *const u8) -> bool {
    match (ctx.arg(1), ctx.arg(2)) {
        (tcp::ESTABLISHED, tcp::CLOSE_WAIT) | (tcp::FIN_WAIT1, tcp::FIN_WAIT2) => connection::has_none(sk),
        (tcp::CLOSE, tcp::SYN_SENT) | (tcp::SYN_SENT, tcp::ESTABLISHED) => {
            load::net_cookie(sk) != load::host_net()
        }
        (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::FIN_WAIT1 | tcp::LAST_ACK) => {
            connection::has_none(sk)
                && (identity::is_no_port(direct(sk, Field::LocalPort)) || settle_bare(ctx.as_ptr()) != 0)
        }
        (tcp::SYN_RECV, tcp::ESTABLISHED) => settle_bare(ctx.as_ptr()) != 0,
        (
            tcp::ESTABLISHED
            | tcp::CLOSE_WAIT
            | tcp::FIN_WAIT1
            | tcp::FIN_WAIT2
            | tcp::CLOSING
            | tcp::LAST_ACK,
            tcp::CLOSE,
        ) => connection::has_none(sk) && settle_bare(ctx.as_ptr()) != 0,
        (tcp::CLOSE, tcp::LISTEN) | (tcp::LISTEN | tcp::SYN_SENT | tcp::SYN_RECV, tcp::CLOSE) => false,
        _ => true,
    }
}

/// Counts the begin or the end of a connection without storage; 0 if there is more to it, or to its port.
#[inline(never)]
fn settle_bare(ctx: *mut c_void) -> u64 {
    let ctx = BtfTracePointContext::new(ctx);
    let sk: *const u8 = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if sk.is_null() {
        return 1;
    }
    u64::from(match (old, new) {
        (tcp::SYN_RECV, _) => bare::established(sk),
        (_, tcp::CLOSE) => bare::over(sk, old, new),
        _ => bare::left(sk, old, new),
    })
}

/// Everything that the socket and what is known of its port did not settle. Each part is a function of its own, called from here alone:
/// so most connections do not pay for its registers and stack, the verifier looks at it once, and frames of different parts do not add up
/// (together with what calls them they have 512 bytes; a test of the agent, `kernel/object.rs`, adds them up).
#[inline(always)]
fn not_done(ctx: BtfTracePointContext) {
    let old: i32 = ctx.arg(1);
    if client_side(ctx.as_ptr()) != 0 {
        return;
    }
    match old {
        tcp::SYN_RECV => opened(ctx.as_ptr()),
        tcp::CLOSE | tcp::LISTEN | tcp::SYN_SENT => turned(ctx.as_ptr()),
        _ => left(ctx.as_ptr()),
    }
}

/// A probe's own socket: 1 if it is one.
#[inline(never)]
fn client_side(ctx: *mut c_void) -> u64 {
    let ctx = BtfTracePointContext::new(ctx);
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if sk.is_null() || load::net_cookie(sk) != load::host_net() || !load::is_counted(sk) {
        return 0;
    }
    match (old, new) {
        (tcp::CLOSE, tcp::SYN_SENT) => probe::connecting(sk),
        (tcp::SYN_SENT, tcp::ESTABLISHED) => probe::connected(sk),
        (tcp::SYN_SENT, tcp::CLOSE) => {
            probe::failed(sk);
            return 0;
        }
        (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::FIN_WAIT1 | tcp::LAST_ACK | tcp::CLOSE) => {
            return probed::over(sk, old);
        }
        _ => return 0,
    }
    1
}

/// The socket of a context; `None` if nothing of it counts.
#[inline(always)]
fn counted(ctx: &BtfTracePointContext) -> Option<*const u8> {
    let sk: *const u8 = ctx.arg(0);
    if sk.is_null() || !load::is_counted(sk) { None } else { Some(sk) }
}

/// A connection begins, or its handshake ends with nobody to take it.
#[inline(never)]
fn opened(ctx: *mut c_void) {
    let ctx = BtfTracePointContext::new(ctx);
    let Some(sk) = counted(&ctx) else { return };
    if ctx.arg::<i32>(2) == tcp::ESTABLISHED {
        established(sk);
    } else {
        closing::forgotten(sk);
    }
}

/// A side of a connection closes, or it is over.
#[inline(never)]
fn left(ctx: *mut c_void) {
    let ctx = BtfTracePointContext::new(ctx);
    let Some(sk) = counted(&ctx) else { return };
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    match (old, new) {
        (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::FIN_WAIT1 | tcp::LAST_ACK | tcp::CLOSE)
        | (tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::CLOSING | tcp::LAST_ACK, tcp::CLOSE) => {
            closing::over(&ctx, sk, old, new);
        }
        (tcp::ESTABLISHED, tcp::CLOSE_WAIT) => closing::client_fin(sk),
        (tcp::FIN_WAIT1, tcp::FIN_WAIT2) => closing::delivered(sk),
        _ => {}
    }
}

/// A listener comes or goes, or a connect fails.
#[inline(never)]
fn turned(ctx: *mut c_void) {
    let ctx = BtfTracePointContext::new(ctx);
    let Some(sk) = counted(&ctx) else { return };
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    match (old, new) {
        (tcp::CLOSE, tcp::LISTEN) => listener::listening(sk),
        (tcp::LISTEN, tcp::CLOSE) => listener::unlistened(sk),
        (tcp::SYN_SENT, tcp::CLOSE) => service::failed(sk),
        _ => {}
    }
}

/// The slot's port that an inbound connection came to, made if it is new.
#[inline(always)]
fn port_of(sk: *const u8, number: u16) -> Option<*mut Port> {
    let (scope, slot) = identity::scope_of_socket(load::net_cookie(sk), sk)?;
    let port = match slot {
        None => identity::host_port_of_socket(sk, number, true)?,
        Some(slot) => match identity::port(scope, number) {
            Some(port) => port,
            None => identity::port_or_new(scope, slot, number)?,
        },
    };
    Some(with_container(port, sk))
}

/// The port, with its container filled in where the socket tells it.
#[inline(always)]
pub(super) fn with_container(port: *mut Port, sk: *const u8) -> *mut Port {
    // SAFETY: a live map value.
    unsafe {
        if (*port).container == NONE
            && let Some(container) = identity::container_of_socket(sk)
        {
            (*port).container = container;
        }
    }
    port
}

#[inline(always)]
fn established(sk: *const u8) {
    let tp = load::tcp_sock(sk);
    if tp.is_null() {
        return;
    }
    let epoch = known::now().epoch;
    let Some(port) = port_of(sk, direct(sk, Field::LocalPort)) else { return };
    let mut ends = Connection::EMPTY;
    connection::fill_ends(&mut ends, sk, tp);
    // Traffic between the containers of a pod is not client traffic.
    if ends.peer == ends.local || load::is_loopback(ends.peer) {
        return;
    }
    // SAFETY: a live map value.
    ends.belongs_to(unsafe { &*port });
    if ends.flags & HAS_CHATTER != 0 {
        ends.read_to = direct(tp, Field::CopiedSeq);
    }
    let phase = identity::phase(ends.slot, ends.container);
    ends.opened_phase = phase as u8;
    let Some(tally) = account::tally(ends.slot.slot) else { return };
    let counters = account::counters_in(tally);
    // SAFETY: a live map value.
    let is_probed = unsafe { (*port).probed } != 0;
    if is_probed && probe::is_one(port, &ends, sk) {
        ends.flags = IS_PROBE;
        if !matches!(phase, Phase::Running) {
            // SAFETY: a live map value.
            account::add(unsafe { &raw mut (*counters).probes });
        }
    } else if !identity::is_for_clients(port) {
        return;
    } else {
        // SAFETY: a live map value.
        unsafe {
            account::opened(tally);
            if !matches!(phase, Phase::Running) {
                account::add(&raw mut (*counters).late_opened);
                account::late_attempt(counters, phase, load::now_ns());
            } else if bare::is_enough(&ends, &*port)
                && identity::has_init(ends.container)
                && load::net_cookie(sk) != load::host_net()
            {
                if !is_probed {
                    known::learn_bare_port(epoch, load::net_cookie(sk), ends.local_port, ends.slot.slot);
                }
                return;
            }
        }
    }
    let _stored = connection::store(sk, &ends);
}
