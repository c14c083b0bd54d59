//! The kernel side as user space sees it: loads and attaches the programs, applies changes to their maps, hands out
//! counters and the ring. Everything unsafe of the agent is here.
//!
//! A program that cannot run on this kernel disables just its feature, by name. No conclusion is drawn here.

mod btf;
mod check;
mod hooks;
mod offsets;
mod tables;

pub use check::{CheckItem, CheckState, probe_kernel};
pub use tables::{ApplyError, MapUsage, ReadError};

use crate::host::cgroup::{self, Hierarchy};
use aya::maps::{MapData, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{EbpfLoader, VerifierLogLevel};
use btf::{Btf, BtfError};
use hooks::{PROGRAMS, Program};
use probe_core::command::Command;
use probe_ebpf::fields::Offsets;
use probe_ebpf::wire::{Counters, SlotRef};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use tables::{TableError, Tables};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The object, unless the build left it out.
#[cfg(not(no_bpf_object))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-ebpf"));
#[cfg(no_bpf_object)]
static OBJECT: &[u8] = &[];

/// What the loader needs to know.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Where cgroupfs is, or the part of it to keep to.
    pub cgroup_root: PathBuf,
    /// Compile the programs' debug lines in; they cost nothing otherwise.
    pub debug_log: bool,
    /// Bytes of the ring, a power of two of at least a page; `None` for the default.
    pub ring_bytes: Option<u32>,
}

/// No kernel program runs; the agent goes on with the API alone.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The agent was built with AYA_BUILD_SKIP=1.
    #[error("built without kernel programs (AYA_BUILD_SKIP was set at build time)")]
    NotBuilt,
    /// The kernel shows no usable BTF.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya cannot read the kernel's BTF.
    #[error("kernel BTF: {0}")]
    AyaBtf(#[from] aya::BtfError),
    /// Neither cgroup v2 nor a v1 tree can be followed.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// Something that every program needs is not to be had.
    #[error("{0}")]
    Settings(String),
    /// Maps cannot be made: usually missing CAP_BPF, or a low RLIMIT_MEMLOCK before 5.11.
    #[error("cannot create the maps: {} (the agent needs CAP_BPF and CAP_PERFMON; before 5.11 also memory locked by RLIMIT_MEMLOCK)", chain(.0))]
    Maps(#[from] aya::EbpfError),
    /// The object lacks a map, which is a broken build.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// The program that everything rests on cannot run.
    #[error("{program}: {why}")]
    Essential {
        /// Its name.
        program: &'static str,
        /// Why.
        why: String,
    },
}

/// Whether a hook runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookState {
    /// It is attached.
    Active,
    /// This kernel lacks what it needs.
    Unsupported(String),
    /// The kernel refused it.
    Failed(String),
}

/// One program and its state.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The tracepoint.
    pub name: &'static str,
    /// The program.
    pub program: &'static str,
    /// What is lost without it.
    pub feature: &'static str,
    /// Whether it runs.
    pub state: HookState,
}

/// What the kernel says of a program. Counted only while somebody has BPF statistics switched on.
pub struct ProgramStats {
    /// Its name.
    pub name: &'static str,
    /// Attached.
    pub attached: bool,
    /// Runs.
    pub runs: u64,
    /// Time in them, nanoseconds.
    pub run_ns: u64,
}

/// The loaded kernel side. Dropping it detaches everything.
pub struct Kernel {
    ebpf: aya::Ebpf,
    hooks: Vec<Hook>,
    tables: Tables,
    ring: Option<Ring>,
}

/// The ring buffer's reading end.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// The same, to be waited for. Must be called within a tokio runtime.
    pub fn awaited(self) -> std::io::Result<AsyncFd<Self>> {
        // SAFETY: the ring owns its map's descriptor for as long as it lives and always names the same one.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Hands over at most `limit` records; how many there were.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        for count in 0..limit {
            match self.0.next() {
                Some(record) => each(&record),
                None => return count,
            }
        }
        limit
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The settings as aya wants them.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Settings(Offsets);
// SAFETY: `repr(C)`, integers only, no padding (every group of fields ends on its own alignment).
unsafe impl aya::Pod for Settings {}

impl Kernel {
    /// Loads the object and attaches every program that this kernel can run.
    pub fn load(config: &KernelConfig) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuilt);
        }
        let own_btf = Btf::of_running_kernel()?;
        let controller = match cgroup::hierarchy(&config.cgroup_root)? {
            Hierarchy::V2 { .. } => None,
            Hierarchy::V1 { controller, .. } => Some(controller),
        };
        let settings = Settings(offsets::resolve(&own_btf, controller).map_err(LoadError::Settings)?);
        let log_level = if config.debug_log { aya_log::Level::Debug as u8 } else { 0 };
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("OFFSETS", &settings, true)
            .override_global(aya_log::LEVEL, &log_level, false);
        if let Some(bytes) = config.ring_bytes {
            loader.map_max_entries("RING", bytes);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let kernel_btf = aya::Btf::from_sys_fs()?;
        let hooks = PROGRAMS
            .iter()
            .map(|program| Hook {
                name: program.hook,
                program: program.name,
                feature: program.feature,
                state: attach(&mut ebpf, &kernel_btf, &own_btf, &settings.0, program),
            })
            .collect::<Vec<_>>();
        if let Some(Hook { program, state: HookState::Unsupported(why) | HookState::Failed(why), .. }) =
            hooks.first()
        {
            return Err(LoadError::Essential { program, why: why.clone() });
        }
        let tables = Tables::of(&mut ebpf)?;
        let ring = ebpf.take_map("RING").ok_or(TableError::Missing("RING"))?;
        let ring = RingBuf::try_from(ring).map_err(|source| TableError::Layout { name: "RING", source })?;
        Ok(Self { ebpf, hooks, tables, ring: Some(Ring(ring)) })
    }

    /// Each program and whether it runs.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Makes one change to the maps.
    pub fn apply(&mut self, command: &Command) -> Result<(), ApplyError> {
        self.tables.apply(command)
    }

    /// Reads the counters of a slot.
    pub fn reading(&self, slot: SlotRef) -> Result<Counters, ReadError> {
        self.tables.reading(slot)
    }

    /// When the init of a container exited, if it did and its slot is still that one.
    pub fn exited(&self, container: u32, slot: SlotRef) -> Result<Option<u64>, ReadError> {
        let state = self.tables.container(container)?;
        let is_its = (state.slot, state.generation) == (slot.slot, slot.generation);
        Ok((is_its && state.exit_ns != 0).then_some(state.exit_ns))
    }

    /// What the programs could not do, by index of `wire::anomaly::NAMES`.
    #[must_use]
    pub fn anomalies(&self) -> Vec<u64> {
        self.tables.anomalies()
    }

    /// Forgets closed connections of more than a minute ago. To be called every ten seconds or so.
    pub fn sweep_closed(&mut self, now_ns: u64) {
        self.tables.sweep(now_ns);
    }

    /// How full the maps are.
    #[must_use]
    pub fn maps(&self) -> Vec<MapUsage> {
        self.tables.usage()
    }

    /// The ring's reading end, once.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// The programs' debug lines; `None` unless they were compiled in.
    pub fn take_log(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// What the kernel says of each program.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramStats> {
        self.hooks
            .iter()
            .map(|hook| {
                let (runs, run_ns) = self.run_statistics(hook.program).unwrap_or((0, 0));
                ProgramStats { name: hook.program, attached: hook.state == HookState::Active, runs, run_ns }
            })
            .collect()
    }

    fn run_statistics(&self, program: &str) -> Option<(u64, u64)> {
        let program: &BtfTracePoint = self.ebpf.program(program)?.try_into().ok()?;
        let fd = program.fd().ok()?.as_fd().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
        Some((value("run_cnt:")?, value("run_time_ns:")?))
    }
}

fn attach(
    ebpf: &mut aya::Ebpf,
    kernel_btf: &aya::Btf,
    own_btf: &Btf,
    offsets: &Offsets,
    program: &Program,
) -> HookState {
    if let Some(why) = offsets::unsupported(own_btf, offsets, program) {
        return HookState::Unsupported(why);
    }
    let attached = (|| {
        let loaded: &mut BtfTracePoint = ebpf
            .program_mut(program.name)
            .ok_or("not in the object")?
            .try_into()
            .map_err(|error| chain(&error))?;
        loaded.load(program.hook, kernel_btf).map_err(|error| chain(&error))?;
        loaded.attach().map_err(|error| chain(&error))?;
        Ok::<(), String>(())
    })();
    match attached {
        Ok(()) => HookState::Active,
        Err(why) => HookState::Failed(why),
    }
}

/// An error and its causes in one line; the verifier's log is cut to its end, where the reason stands.
fn chain(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 2000;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    if text.len() > LONGEST {
        let cut = text.len() - LONGEST;
        let cut = (cut..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text = format!("…{}", &text[cut..]);
    }
    text
}
