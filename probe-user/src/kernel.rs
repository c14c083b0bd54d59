//! The kernel side as user space sees it: loads and attaches the programs, applies changes to their maps, hands out
//! counters and the ring. Everything unsafe of the agent is here.
//!
//! A program that cannot run on this kernel disables just its feature, by name. No conclusion is drawn here.

mod btf;
mod check;
mod hooks;
#[cfg(all(test, not(no_bpf_object)))]
mod object;
mod offsets;
mod pins;
mod relocate;
mod saved;
mod tables;

pub use check::{CheckItem, CheckState, probe_kernel};
pub use pins::{PinError, Pins};
pub use saved::SaveError;
pub use tables::{ApplyError, MapUsage, ReadError};

use crate::clock::mono_now;
use crate::host::cgroup::{self, Hierarchy};
use crate::host::process::OwnProcess;
use aya::maps::{Array, MapData, MapError, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};
use btf::{Btf, BtfError};
use hooks::{PROGRAMS, Program};
use pins::Foreign;
use probe_core::command::Command;
use probe_core::monitor::KernelTables;
use probe_core::time::Mono;
use probe_ebpf::fields::Offsets;
use probe_ebpf::settings::Settings;
use probe_ebpf::wire::{ABI, Control, Counters, RING_BYTES, SlotRef};
use saved::Saved;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;
use tables::{Plain, TableError, Tables, take};
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
    /// How long the programs count on without a beat.
    pub silence: Duration,
    /// Bytes of the ring, a power of two of at least a page; `None` for the default.
    pub ring_bytes: Option<u32>,
}

/// What the agent before this one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heritage {
    /// Nothing is pinned: what this agent counts ends with it.
    Unpinned,
    /// Nothing was there; maps and programs are pinned from now on.
    None,
    /// The same programs, which went on counting.
    Adopted,
    /// The maps of other programs, which counted until these took over.
    Upgraded,
    /// The programs had stopped, since no agent came for long: what happened meanwhile was not counted.
    Silent,
    /// Nothing of it can be used, and why.
    Foreign(String),
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
    /// The directory of pins cannot be changed.
    #[error(transparent)]
    Pins(#[from] PinError),
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

/// The loaded kernel side. Dropping it detaches everything that is not pinned.
pub struct Kernel {
    ebpf: aya::Ebpf,
    /// Programs that the agent before this one had attached, and where they are pinned.
    adopted: BTreeMap<&'static str, PathBuf>,
    hooks: Vec<Hook>,
    tables: Tables,
    ring: Option<Ring>,
    control: Array<MapData, Plain<Control>>,
    /// What its own connects are known by.
    own: OwnProcess,
    instance: u64,
    silence_ns: u64,
    heritage: Heritage,
    saved: Option<Saved>,
    pins: Option<Pins>,
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
struct Global(Settings);
// SAFETY: `repr(C)`, integers only, no padding (its size is asserted where it is defined).
unsafe impl aya::Pod for Global {}

impl Kernel {
    /// Loads the object and attaches every program that this kernel can run, or takes over what an agent before this one
    /// pinned.
    pub fn load(config: &KernelConfig, pins: Option<Pins>) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuilt);
        }
        let own_btf = Btf::of_running_kernel()?;
        let controller = match cgroup::hierarchy(&config.cgroup_root)? {
            Hierarchy::V2 { .. } => None,
            Hierarchy::V1 { controller, .. } => Some(controller),
        };
        let offsets = offsets::offsets(&own_btf);
        let mut settings = Global(offsets::settings(&own_btf, controller).map_err(LoadError::Settings)?);
        let log_level = if config.debug_log { aya_log::Level::Debug as u8 } else { 0 };
        let ring_bytes = config.ring_bytes.unwrap_or(RING_BYTES);
        let instance = instance(&offsets, &settings.0, log_level, ring_bytes);
        settings.0.instance = instance;

        let heritage = heritage(pins.as_ref(), instance, ring_bytes)?;
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("SETTINGS", &settings, true)
            .override_global(aya_log::LEVEL, &log_level, false)
            .map_max_entries("RING", ring_bytes);
        for (name, path) in pins.iter().flat_map(Pins::maps) {
            loader.map_pin_path(name, path);
        }
        // The copy is gone as soon as it is loaded: it is most of what the agent ever takes while it starts.
        let mut ebpf =
            loader.load(&relocate::with_offsets(OBJECT, &offsets).map_err(LoadError::Settings)?)?;
        let mut adopted = BTreeMap::new();
        if heritage == Heritage::Adopted
            && let Some(pins) = &pins
        {
            let of_program = |program: &Program| Some((program.name, pins.adopt(instance, program.name)?));
            adopted.extend(PROGRAMS.iter().filter_map(of_program));
        } else if let Some(pins) = &pins {
            pins.begin(instance)?;
        }
        let kernel_btf = aya::Btf::from_sys_fs()?;
        let keep = pins.as_ref().map(|pins| (pins, instance));
        let hooks = PROGRAMS
            .iter()
            .map(|program| Hook {
                name: program.hook,
                program: program.name,
                feature: program.feature,
                state: if adopted.contains_key(program.name) {
                    HookState::Active
                } else {
                    attach(&mut ebpf, &kernel_btf, (&own_btf, &offsets), program, keep)
                },
            })
            .collect::<Vec<_>>();
        if let Some(Hook { program, state: HookState::Unsupported(why) | HookState::Failed(why), .. }) =
            hooks.first()
        {
            return Err(LoadError::Essential { program, why: why.clone() });
        }
        let mut tables = Tables::of(&mut ebpf)?;
        tables.next_epoch().map_err(|error| LoadError::Settings(chain(&error)))?;
        let ring = take(&mut ebpf, "RING")?;
        let control = take(&mut ebpf, "CONTROL")?;
        let saved = pins.is_some().then(|| take(&mut ebpf, "SAVED").map(Saved::new)).transpose()?;
        let mut kernel = Self {
            ebpf,
            adopted,
            hooks,
            tables,
            ring: Some(Ring(ring)),
            control,
            own: OwnProcess::read(),
            instance,
            silence_ns: u64::try_from(config.silence.as_nanos()).unwrap_or(u64::MAX),
            heritage,
            saved,
            pins,
        };
        // From here on these programs count, and no others.
        kernel.beat(mono_now()).map_err(|error| LoadError::Settings(chain(&error)))?;
        if let Some(pins) = &kernel.pins {
            pins.keep_only(instance)?;
        }
        Ok(kernel)
    }

    /// What the agent before this one left.
    #[must_use]
    pub fn heritage(&self) -> &Heritage {
        &self.heritage
    }

    /// The directory of pins, if there is one.
    #[must_use]
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    /// Has the programs go on. False if they had stopped: what happened since then was not counted.
    pub fn beat(&mut self, now: Mono) -> Result<bool, MapError> {
        let was_active = self.control.get(&0, 0)?.0.instance == self.instance;
        let control = Control {
            instance: self.instance,
            until_ns: now.0.saturating_add(self.silence_ns),
            abi: ABI,
            agent_pid: self.own.pid,
            agent_device: self.own.device,
            agent_inode: self.own.inode,
        };
        self.control.set(0, Plain(control), 0)?;
        Ok(was_active)
    }

    /// Saves the agent's state for the next one, if there are pins.
    pub fn save(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<(), SaveError> {
        self.saved.as_mut().map_or(Ok(()), |saved| saved.save(&state()))
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

    /// What the tables hold of an agent before this one.
    #[must_use]
    pub fn tables(&self) -> KernelTables {
        self.tables.held()
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

    /// Lets the programs take the short way again once every end is over. To be called every second or so.
    pub fn settle(&mut self) -> Result<(), ApplyError> {
        self.tables.settle()
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
        let info = match self.adopted.get(program) {
            Some(pin) => ProgramInfo::from_pin(pin).ok()?,
            None => <&BtfTracePoint>::try_from(self.ebpf.program(program)?).ok()?.info().ok()?,
        };
        Some((info.run_count(), u64::try_from(info.run_time().as_nanos()).ok()?))
    }
}

/// Number of these programs with these settings, never 0: programs of the same number do the same.
fn instance(offsets: &Offsets, settings: &Settings, log_level: u8, ring_bytes: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(OBJECT);
    (offsets, settings).hash(&mut hasher);
    (log_level, ring_bytes).hash(&mut hasher);
    hasher.finish().max(1)
}

/// What is pinned, made ready for being taken over.
fn heritage(pins: Option<&Pins>, instance: u64, ring_bytes: u32) -> Result<Heritage, PinError> {
    let Some(pins) = pins else { return Ok(Heritage::Unpinned) };
    let control = match pins.pinned() {
        Ok(Some(control)) => control,
        Ok(None) => {
            pins.forget_all()?;
            return Ok(Heritage::None);
        }
        Err(Foreign(why)) => {
            pins.forget_all()?;
            return Ok(Heritage::Foreign(why));
        }
    };
    if pins.capacity("RING").is_some_and(|bytes| bytes != ring_bytes) {
        // The new programs get a new one; what is left in the old one is missed as evidence, and said to be.
        pins.forget_map("RING")?;
    }
    Ok(match control.instance {
        0 => Heritage::Silent,
        active if active == instance => Heritage::Adopted,
        _ => Heritage::Upgraded,
    })
}

fn attach(
    ebpf: &mut aya::Ebpf,
    kernel_btf: &aya::Btf,
    (own_btf, offsets): (&Btf, &Offsets),
    program: &Program,
    keep: Option<(&Pins, u64)>,
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
        let link = loaded.attach().map_err(|error| chain(&error))?;
        if let Some((pins, instance)) = keep {
            let link = FdLink::from(loaded.take_link(link).map_err(|error| chain(&error))?);
            pins.keep(instance, program.name, loaded, link)?;
        }
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
