//! Commands that came into a container from outside (an exec probe, a hook, `kubectl exec`): what each took, told at its exit.
//!
//! Such a process has a parent outside the pod, has executed something, and is not the container's init. Rate: processes of
//! containers, which cost a look at their parent's cgroup; records: one for each command. A full ring loses the record, and counts that.

use super::load::{self, probe};
use super::{account, exit, identity, maps};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{COMM_BYTES, EXEC_TERMINAL, ExecEnd, Kind, SlotRef, anomaly};

/// PF_FORKNOEXEC (include/linux/sched.h): it goes with the first exec. What a runtime forks on its way into a container ends with it.
const FORKED_ONLY: u32 = 0x40;

/// The last thread of a process of a container, which is not the container's init, exits.
#[inline(always)]
pub(super) fn exited(task: *const u8, leader: *const u8, group: *const u8, container: u32, slot: SlotRef) {
    if probe::<u32>(leader, Field::TaskFlags).is_none_or(|flags| flags & FORKED_ONLY != 0)
        || identity::has_parent_in(leader, slot)
    {
        return;
    }
    let time = |of, field| probe::<u64>(of, field).unwrap_or(0);
    let terminal = time(group, Field::Terminal) != 0;
    let cpu_ns = time(group, Field::ReleasedTime)
        .wrapping_add(time(group, Field::ChildrenUser))
        .wrapping_add(time(group, Field::ChildrenSystem))
        .wrapping_add(time(task, Field::RunTime))
        // The first thread is released after the last one.
        .wrapping_add(if leader == task { 0 } else { time(leader, Field::RunTime) });
    let started_ns = time(leader, Field::StartTime);
    let pid = probe(leader, Field::Tgid).unwrap_or(0);
    let comm = probe::<[u8; COMM_BYTES]>(leader, Field::Comm).unwrap_or_default();
    let Some(mut entry) = maps::RING.reserve::<ExecEnd>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return;
    };
    entry.write(ExecEnd {
        kind: Kind::Exec as u32,
        container,
        at_ns: load::now_ns(),
        slot: slot.slot,
        generation: slot.generation,
        started_ns,
        cpu_ns,
        status: exit::status(task, group),
        pid,
        flags: if terminal { EXEC_TERMINAL } else { 0 },
        reserved: 0,
        comm,
    });
    entry.submit(0);
}
