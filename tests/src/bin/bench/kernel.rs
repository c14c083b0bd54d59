//! What the kernel says of the agent from outside: CPU time, memory, run time of its BPF programs, and the connections that they counted.
//!
//! Everything is read from /proc and by BPF ids; the agent's own word is taken for nothing here. Measuring run times costs time itself,
//! so it is on only while a [`Statistics`] lives.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{offset_of, size_of};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, bail};
use aya::maps::{Array, Map, MapData};
use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use aya::sys::Stats;
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};
use probe_ebpf::wire::{SHARES, Share, Tally};

/// The kernel's limit on a BPF object's name, the final zero left out.
pub(crate) const NAME_BYTES: usize = 15;
/// The map of counters, by slot.
const COUNTERS: &str = "COUNTERS";
const WORDS: usize = size_of::<Tally>() / size_of::<u64>();
/// Where each CPU's count of connections is.
const OPENED: usize = (offset_of!(Tally, shares) + offset_of!(Share, opened)) / size_of::<u64>();
const SHARE: usize = size_of::<Share>() / size_of::<u64>();

/// Run times are measured while this lives.
#[derive(Debug)]
pub(crate) struct Statistics(#[expect(dead_code, reason = "open is what it has to be")] OwnedFd);

impl Statistics {
    pub(crate) fn on() -> anyhow::Result<Self> {
        Ok(Self(aya::sys::enable_stats(Stats::RunTime).context("switch BPF statistics on")?))
    }
}

/// Runs of a program and the time in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) ns: u64,
    pub(crate) count: u64,
}

/// The BPF objects of one process.
pub(crate) struct Objects {
    programs: BTreeSet<u32>,
    counters: Array<MapData, [u64; WORDS]>,
}

impl Objects {
    /// Those of a process that has loaded all of its programs.
    pub(crate) fn of_process(pid: u32) -> anyhow::Result<Self> {
        let programs = ids(pid, "prog_id:")?;
        if programs.is_empty() {
            bail!("process {pid} has no BPF program: is the agent built with its kernel programs?");
        }
        let mut found = None;
        for id in ids(pid, "map_id:")? {
            let map = MapData::from_id(id).with_context(|| format!("open BPF map {id}"))?;
            if map.info()?.name_as_str() == Some(COUNTERS) {
                found = Some(Array::try_from(Map::from_map_data(map)?).context("the map of counters")?);
            }
        }
        let counters = found.with_context(|| format!("process {pid} has no map {COUNTERS}"))?;
        Ok(Self { programs, counters })
    }

    /// Runs by program, under the names that the kernel keeps (cut to [`NAME_BYTES`]).
    pub(crate) fn runs(&self) -> anyhow::Result<BTreeMap<String, Runs>> {
        let mut runs = BTreeMap::<String, Runs>::new();
        for program in still_loaded() {
            let program = program?;
            if self.programs.contains(&program.id()) {
                let name = program.name_as_str().unwrap_or_default().to_owned();
                let entry = runs.entry(name).or_default();
                entry.ns += u64::try_from(program.run_time().as_nanos())?;
                entry.count += program.run_count();
            }
        }
        Ok(runs)
    }

    /// Inbound connections that the programs have counted, over all slots.
    pub(crate) fn opened(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for counters in self.counters.iter() {
            let counters = counters.context("read the counters")?;
            sum += (0..SHARES).map(|share| counters[OPENED + share * SHARE]).sum::<u64>();
        }
        Ok(sum)
    }

    /// Whether one of the programs is still loaded.
    pub(crate) fn are_loaded(&self) -> anyhow::Result<bool> {
        for program in still_loaded() {
            if self.programs.contains(&program?.id()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The loaded programs, without those that go between their listing and their opening.
fn still_loaded() -> impl Iterator<Item = anyhow::Result<ProgramInfo>> {
    let is_gone = |error: &ProgramError| matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::NotFound);
    loaded_programs()
        .filter(move |program| !program.as_ref().is_err_and(is_gone))
        .map(|program| program.context("list BPF programs"))
}

/// The ids that a process's descriptors show under this key; a program shows under its own descriptor and under its link's.
fn ids(pid: u32, key: &str) -> anyhow::Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    let directory = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
        // A descriptor may be closed between the listing and the reading.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        ids.extend(text.lines().filter_map(|line| line.strip_prefix(key)?.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// CPU time of a process, its ended threads included, to the nanosecond: what utime and stime in its stat say in ticks.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let clock =
        clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?)).context("find a process's CPU clock")?;
    Ok(clock.now().context("read a process's CPU clock")?.into())
}

/// CPU time of everything below a cgroup.
pub(crate) fn cgroup_cpu_time(directory: &Path) -> anyhow::Result<Duration> {
    let file = directory.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    Ok(Duration::from_micros(usage.with_context(|| format!("no usage_usec in {}", file.display()))?))
}

/// Packets that were dropped because a CPU's queue of those to be received was full, all CPUs together.
pub(crate) fn dropped_packets() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/net/softnet_stat").context("read /proc/net/softnet_stat")?;
    dropped(&stat).context("a line of /proc/net/softnet_stat")
}

/// The second number of each CPU's line.
fn dropped(stat: &str) -> Option<u64> {
    stat.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()).sum()
}

/// Time in which the machine's CPUs were not idle, all together.
pub(crate) fn busy_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = busy_ticks(&stat).context("the first line of /proc/stat")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok());
    Ok(Duration::from_millis(ticks * 1000 / per_second.context("no CLK_TCK")?))
}

/// user, nice, system, irq, softirq and steal; idle and iowait (fields 4 and 5) left out, guest (9 and 10) is in user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

/// A line of /proc/PID/status that is in kB (`VmRSS`, `VmHWM`), in bytes.
pub(crate) fn memory(pid: u32, key: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(kilobytes.and_then(|number| number.parse::<u64>().ok()).with_context(|| format!("no {key}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_guests_are_not_counted_as_busy() {
        assert_eq!(busy_ticks("cpu  1 10 100 7777 8888 1000 10000 100000 1 10\ncpu0 1 2"), Some(111_111));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
    }

    #[test]
    fn a_busy_process_uses_cpu_time() {
        let own = || cpu_time(std::process::id()).expect("own CPU time");
        let before = own();
        while own() == before {
            std::hint::spin_loop();
        }
        assert!(own() > before);
    }

    #[test]
    fn dropped_packets_are_summed_over_the_cpus() {
        assert_eq!(dropped("000000ff 0000000a 00000001\n000000ff 000000ff 00000001\n"), Some(265));
        assert_eq!(dropped("000000ff\n"), None);
        dropped_packets().expect("this kernel tells");
    }

    #[test]
    fn the_own_process_has_memory() {
        let resident = memory(std::process::id(), "VmRSS").expect("VmRSS");
        assert!(resident > 0 && resident <= memory(std::process::id(), "VmHWM").expect("VmHWM"));
        assert!(memory(std::process::id(), "VmNone").is_err());
    }
}
