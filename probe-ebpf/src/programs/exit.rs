//! `tp_btf/sched_process_exit` (5.10+): the exit of a container's init, which stops the container if nothing did before, and of
//! a command that came into a container from outside (see [`exec`]).
//!
//! It comes before the sockets close, so that what the exit cuts counts as lost while stopping. Rate: every thread exit
//! on the node; threads that are not the last of their process return after two reads, processes of no container after a
//! look at their cgroups.

use super::load::{self, probe};
use super::{account, exec, identity, maps, signal};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{Exit, Kind, anomaly};

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    if !load::is_active() {
        return 0;
    }
    load::stop_when_forgotten();
    let task: *const u8 = ctx.arg(0);
    if task.is_null() {
        return 0;
    }
    let Some(group) = probe::<*const u8>(task, Field::TaskSignal) else { return 0 };
    // The last thread of the group, which need not be the first one: the count went to zero before this hook.
    if probe::<i32>(group, Field::Live) != Some(0) {
        return 0;
    }
    let Some(leader) = probe::<*const u8>(task, Field::GroupLeader) else { return 0 };
    let Some(container) = identity::container_of_task(task) else { return 0 };
    let Some(slot) = identity::slot_of_container(container) else { return 0 };
    if !identity::is_init(leader, container) {
        exec::exited(task, leader, group, container, slot);
        return 0;
    }
    // Not the leader, which may have exited long ago, without namespaces since.
    signal::stop(container, slot, task);
    if let Some(state) = account::container(container) {
        // SAFETY: a live map value, written by this hook only.
        unsafe { (*state).exit_ns = load::now_ns() };
    }
    let Some(mut entry) = maps::RING.reserve::<Exit>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return 0;
    };
    entry.write(Exit {
        kind: Kind::Exit as u32,
        container,
        at_ns: load::now_ns(),
        slot: slot.slot,
        generation: slot.generation,
        status: status(task, group),
        reserved: 0,
        open: account::open(slot),
    });
    entry.submit(0);
    0
}

/// As wait(2) has it: the group's, if it ended as a whole.
#[inline(always)]
pub(super) fn status(task: *const u8, group: *const u8) -> u32 {
    let of_group: u32 = probe(group, Field::GroupExitCode).unwrap_or(0);
    if of_group != 0 { of_group } else { probe(task, Field::ExitCode).unwrap_or(0) }
}
