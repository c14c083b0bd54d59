//! On which CPUs the calling thread may run, and everything that it starts from then on.

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// The CPUs that the calling thread may run on, lowest number first.
pub(crate) fn usable() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(SELF).context("ask for the usable CPUs")?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Keeps the calling thread, and what it starts from now on, on these CPUs.
pub(crate) fn stay_on(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(SELF, &set).with_context(|| format!("stay on the CPUs {cpus:?}"))
}
