//! `tp_btf/signal_generate` (5.10+): the stop of a container, stamped in the kernel, so that no delay of user space can
//! lose a count.
//!
//! A stop is a group-directed signal of the configured set to a task of a container, from a sender outside its pod, not
//! ignored; or SIGKILL to its init. A pod that is being deleted is stopped by more signals than others, for each image may
//! name its own. Rate: every signal on the node; the number is tested first, for Go programs send
//! themselves thousands of SIGURG a minute. With a full ring the timeline lacks the step, the stop still holds.

use super::identity;
use super::listener;
use super::load::{self, probe};
use super::{account, known, maps};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{Kind, SLOT_DELETING, Signal, SlotRef, anomaly};

const SIGKILL: i32 = 9;
/// SEND_SIG_PRIV: the kernel itself sent it, and there is no siginfo to read.
const SEND_SIG_PRIV: u64 = 1;
/// TRACE_SIGNAL_IGNORED (include/trace/events/signal.h).
const IGNORED: i32 = 1;

#[btf_tracepoint(function = "signal_generate")]
pub(crate) fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    if !load::is_active() {
        return 0;
    }
    let signal: i32 = ctx.arg(0);
    if !(1..64).contains(&signal) || (load::stop_signals() | load::deletion_signals()) >> signal & 1 == 0 {
        return 0;
    }
    let info: u64 = ctx.arg(1);
    let task: *const u8 = ctx.arg(2);
    let group: i32 = ctx.arg(3);
    let result: i32 = ctx.arg(4);
    if task.is_null() || group == 0 {
        return 0;
    }
    let Some(container) = identity::container_of_task(task) else { return 0 };
    let Some(slot) = identity::slot_of_container(container) else { return 0 };
    let is_deleting = maps::SLOTS.get(slot.slot).is_some_and(|state| state.flags & SLOT_DELETING != 0);
    if load::stop_signals() >> signal & 1 == 0 && !is_deleting {
        return 0;
    }
    if signal == SIGKILL {
        // A worker that is killed is not the container; nobody inside can kill the init.
        if !identity::is_init(task, container) {
            return 0;
        }
    } else if !sent_by_user(info) || from_inside(slot) {
        return 0;
    }
    // A runtime sends its stop signal to the container's init.
    identity::learn_init(task, container);
    let ignored = result == IGNORED;
    if !ignored {
        stop(container, slot, task);
    }
    record(container, slot, signal, ignored);
    0
}

/// kill(2) or pidfd_send_signal(2): terminals and timers send the same numbers.
#[inline(always)]
fn sent_by_user(info: u64) -> bool {
    info == 0
        || (info > SEND_SIG_PRIV
            && probe::<i32>(info as *const u8, Field::SignalCode).is_some_and(|code| code <= 0))
}

#[inline(always)]
fn from_inside(slot: SlotRef) -> bool {
    identity::container_of_task(load::current_task())
        .and_then(identity::slot_of_container)
        .is_some_and(|sender| sender.slot == slot.slot)
}

/// The container is stopping from now on, if it was not before; its task tells the pod's namespace.
#[inline(always)]
pub(super) fn stop(container: u32, slot: SlotRef, task: *const u8) {
    let now = load::now_ns();
    if let Some(state) = account::container(container) {
        // SAFETY: a live map value; of two writers either is right.
        unsafe {
            if (*state).stop_ns == 0 {
                known::unsettle();
                (*state).stop_ns = now;
                identity::learn_namespace_of_task(task, slot);
                listener::stopping(task);
            }
        }
    }
    if let Some(counters) = account::counters(slot) {
        // SAFETY: as above.
        unsafe {
            if (*counters).stop_ns == 0 {
                (*counters).stop_ns = now;
            }
        }
    }
}

#[inline(always)]
fn record(container: u32, slot: SlotRef, signal: i32, ignored: bool) {
    let Some(mut entry) = maps::RING.reserve::<Signal>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return;
    };
    entry.write(Signal {
        kind: Kind::Signal as u32,
        container,
        at_ns: load::now_ns(),
        slot: slot.slot,
        generation: slot.generation,
        signal: signal.cast_unsigned(),
        ignored: u32::from(ignored),
        open: account::open(slot),
    });
    entry.submit(0);
}
