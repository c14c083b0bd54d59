//! `tp_btf/tcp_destroy_sock` (5.10+): the end of a full socket, whatever way it took. A late connection is counted here,
//! once, by what became of it; an open one is open no more.
//!
//! Rate: one run per socket; those without storage return after one empty look-up. Nothing is written to the ring.

use super::connection::{self, Connection, IS_ADOPTED, IS_COUNTED, IS_PROBE, IS_PROBE_CLIENT};
use super::{account, load};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::class::Phase;
use probe_ebpf::decide::Verdict;
use probe_ebpf::wire::{Counters, RESULT_IDLE, RESULT_LOST, RESULT_SERVED};

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    if !load::is_active() {
        return 0;
    }
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
