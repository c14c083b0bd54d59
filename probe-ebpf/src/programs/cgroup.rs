//! `tp_btf/cgroup_mkdir` and `cgroup_rmdir` (5.10+): containers come and go, seen before they run.
//!
//! The path is read by user space, which knows what a pod's looks like. Rate: a few per container. With a full ring the
//! next scan of cgroupfs finds what was missed.

use super::load::{self, probe};
use super::{account, maps};
use aya_ebpf::helpers::generated;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use probe_ebpf::fields::Field;
use probe_ebpf::wire::{CgroupChange, Kind, PATH_BYTES, anomaly};

#[expect(clippy::cast_possible_truncation, reason = "256 fits")]
const PATH_BYTES_U32: u32 = PATH_BYTES as u32;

#[btf_tracepoint(function = "cgroup_mkdir")]
pub(crate) fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    changed(&ctx, 1);
    0
}

#[btf_tracepoint(function = "cgroup_rmdir")]
pub(crate) fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    changed(&ctx, 0);
    0
}

#[inline(always)]
fn changed(ctx: &BtfTracePointContext, made: u32) {
    if !load::is_active() {
        return;
    }
    let cgroup: *const u8 = ctx.arg(0);
    let path: *const u8 = ctx.arg(1);
    if cgroup.is_null() || path.is_null() {
        return;
    }
    // The same path comes once for each hierarchy.
    let hierarchy =
        probe::<*const u8>(cgroup, Field::CgroupRoot).and_then(|root| probe::<u32>(root, Field::HierarchyId));
    if hierarchy != Some(load::hierarchy()) {
        return;
    }
    let id = probe::<*const u8>(cgroup, Field::CgroupKn).and_then(|node| probe::<u64>(node, Field::KnId));
    let Some(mut entry) = maps::RING.reserve::<CgroupChange>(0) else {
        account::anomaly(anomaly::RING_FULL);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved entry has room for the whole record; every field is written.
    unsafe {
        (&raw mut (*record).kind).write(Kind::Cgroup as u32);
        (&raw mut (*record).made).write(made);
        (&raw mut (*record).at_ns).write(load::now_ns());
        (&raw mut (*record).id).write(id.unwrap_or(0));
        let text = (&raw mut (*record).path).cast::<u8>();
        text.write(0);
        generated::bpf_probe_read_kernel_str(text.cast(), PATH_BYTES_U32, path.cast());
    }
    entry.submit(0);
}
