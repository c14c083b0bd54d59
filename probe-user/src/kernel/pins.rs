//! What outlives the agent in a directory of bpffs: its maps, and each set of programs with its links. Knows names and
//! paths; what is in the maps is [`super::tables`]'s and [`super::saved`]'s.
//!
//! ```text
//! PIN_DIR/maps/NAME                    the maps
//! PIN_DIR/programs_INSTANCE/NAME       a program
//! PIN_DIR/programs_INSTANCE/NAME_link  what keeps it attached
//! ```
//! Names have no dots: bpffs refuses them. Removing the files detaches the programs and frees the maps.

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{BtfTracePoint, ProgramInfo};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use probe_ebpf::wire::{
    ABI, Closed, Container, Control, Home, Known, LISTENERS_EACH, Listening, Port, PortKey, ProbeKey, Probed,
    Probing, QueueKey, SAVED_CHUNK, ServiceKey, Slot, SlotRef, Tally, Tuple, Turns,
};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

use super::saved::Saved;
use super::tables::Plain;

/// Maps that are pinned, all but the settings, which are of one instance; with the bytes of their keys and values where
/// user space reads them.
const MAPS: [(&str, Option<(usize, usize)>); 25] = [
    ("CONTROL", Some((4, size_of::<Control>()))),
    ("SAVED", Some((4, SAVED_CHUNK))),
    ("SLOTS", Some((4, size_of::<Slot>()))),
    ("COUNTERS", Some((4, size_of::<Tally>()))),
    ("CONTAINERS", Some((4, size_of::<Container>()))),
    ("CGROUPS", Some((8, 4))),
    ("NAMESPACES", Some((8, size_of::<SlotRef>()))),
    ("TURNS", Some((4, size_of::<Turns>()))),
    ("KNOWN", Some((4, size_of::<Known>()))),
    ("ADDRESSES", Some((16, size_of::<SlotRef>()))),
    ("FORMER", Some((16, size_of::<SlotRef>()))),
    ("PORTS", Some((size_of::<PortKey>(), size_of::<Port>()))),
    ("NUMBERS", Some((4, 1))),
    ("CLOSED", Some((size_of::<Tuple>(), size_of::<Closed>()))),
    ("SYNS", Some((size_of::<Tuple>(), 4))),
    ("PROBES", Some((size_of::<ProbeKey>(), size_of::<Probing>()))),
    ("SERVICES", Some((size_of::<ServiceKey>(), size_of::<SlotRef>()))),
    ("PROBED", Some((size_of::<Tuple>(), size_of::<Probed>()))),
    ("HOMES", Some((4, size_of::<Home>()))),
    ("QUEUES", Some((size_of::<QueueKey>(), 8 * LISTENERS_EACH))),
    ("LISTENERS", Some((8, size_of::<[Listening; LISTENERS_EACH]>()))),
    ("ANOMALIES", Some((4, 8))),
    ("RING", None),
    ("CONNECTIONS", None),
    // The debug log, so that adopted programs write to a ring that is read.
    ("AYA_LOGS", None),
];

/// The directory cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// Another agent has it. It would count what this one counts.
    #[error("another agent holds {}: end it, or give this one another --pin-dir", .0.display())]
    Busy(PathBuf),
    /// Not on bpffs.
    #[error(
        "{} is not on bpffs (mount -t bpf bpf /sys/fs/bpf, and mount it into the agent's container)", .0.display()
    )]
    NotBpffs(PathBuf),
    /// Anything else.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Pinned maps that this agent cannot use, and why.
#[derive(Debug)]
pub(super) struct Foreign(pub(super) String);

fn failed(path: &Path) -> impl Fn(io::Error) -> PinError {
    move |error| PinError::Io { path: path.to_owned(), error }
}

/// A directory that this process alone uses.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Locked for as long as this process lives.
    _lock: File,
}

impl Pins {
    /// Takes the directory, which is made if need be.
    pub fn open(directory: &Path) -> Result<Self, PinError> {
        Self::check(directory)?;
        make(&directory.join("maps"))?;
        let lock = File::open(directory).map_err(failed(directory))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(PinError::Busy(directory.to_owned())),
            Err(fs::TryLockError::Error(error)) => Err(failed(directory)(error)),
        }
    }

    /// Whether the directory is on bpffs, or would be.
    pub fn check(directory: &Path) -> Result<(), PinError> {
        let parent = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let kind = statfs(parent).map_err(|error| failed(parent)(error.into()))?.filesystem_type();
        if kind == BPF_FS_MAGIC { Ok(()) } else { Err(PinError::NotBpffs(directory.to_owned())) }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes everything that an agent left; how many programs were attached. The directory itself stays if the agent
    /// did not make it.
    pub fn clean_up(self) -> Result<usize, PinError> {
        let mut attached = 0;
        for set in self.program_sets()? {
            attached +=
                entries(&set)?.iter().filter(|path| path.to_string_lossy().ends_with("_link")).count();
            remove_all(&set)?;
        }
        remove_all(&self.directory.join("maps"))?;
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(failed(&self.directory)(error)),
            _ => Ok(attached),
        }
    }

    /// Names and paths of the maps.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> + '_ {
        MAPS.into_iter().map(|(name, _)| (name, self.map(name)))
    }

    /// Where a map is pinned, or will be.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// What is pinned: `None` if nothing is.
    pub(super) fn pinned(&self) -> Result<Option<Control>, Foreign> {
        if !self.map("CONTROL").exists() {
            return Ok(None);
        }
        for (name, bytes) in MAPS {
            let info = MapInfo::from_pin(self.map(name))
                .map_err(|error| Foreign(format!("the pinned map {name}: {}", super::chain(&error))))?;
            let found = (info.key_size() as usize, info.value_size() as usize);
            if bytes.is_some_and(|bytes| bytes != found) {
                return Err(Foreign(format!("the pinned map {name} has another layout")));
            }
        }
        let control =
            self.control().ok_or_else(|| Foreign("the pinned map CONTROL is unreadable".to_owned()))?;
        if control.abi != ABI {
            return Err(Foreign(format!(
                "the pinned maps have layout {}, this agent's have {ABI}",
                control.abi
            )));
        }
        Ok(Some(control))
    }

    fn control(&self) -> Option<Control> {
        let map = MapData::from_pin(self.map("CONTROL")).ok()?;
        let map: Array<MapData, Plain<Control>> = Map::Array(map).try_into().ok()?;
        Some(map.get(&0, 0).ok()?.0)
    }

    /// Size of a pinned map.
    pub(super) fn capacity(&self, name: &str) -> Option<u32> {
        Some(MapInfo::from_pin(self.map(name)).ok()?.max_entries())
    }

    /// Forgets one map; programs that use it keep it.
    pub(super) fn forget_map(&self, name: &str) -> Result<(), PinError> {
        let path = self.map(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Forgets all programs and maps.
    pub(super) fn forget_all(&self) -> Result<(), PinError> {
        for set in self.program_sets()? {
            remove_all(&set)?;
        }
        MAPS.iter().try_for_each(|(name, _)| self.forget_map(name))
    }

    /// What the agent before this one saved of itself.
    #[must_use]
    pub fn saved(&self) -> Option<Vec<u8>> {
        let path = self.map("SAVED");
        let info = MapInfo::from_pin(&path).ok()?;
        if (info.key_size() as usize, info.value_size() as usize) != (4, SAVED_CHUNK) {
            return None;
        }
        let map = Map::HashMap(MapData::from_pin(&path).ok()?);
        Saved::new(map.try_into().ok()?).load()
    }

    /// Where a program of an instance is, if it is pinned and attached. Its descriptor is not kept: aya's type for it would look
    /// the kernel's BTF up by its id, which takes CAP_SYS_ADMIN.
    pub(super) fn adopt(&self, instance: u64, name: &str) -> Option<PathBuf> {
        let path = self.set(instance).join(name);
        PinnedLink::from_pin(link_path(&path)).ok()?;
        ProgramInfo::from_pin(&path).ok()?;
        Some(path)
    }

    /// Keeps a program attached from now on.
    pub(super) fn keep(
        &self,
        instance: u64,
        name: &str,
        program: &mut BtfTracePoint,
        link: FdLink,
    ) -> Result<(), String> {
        let path = self.set(instance).join(name);
        program.pin(&path).map_err(|error| super::chain(&error))?;
        // The program stays attached by the file.
        link.pin(link_path(&path)).map_err(|error| super::chain(&error)).map(drop)
    }

    /// Makes room for an instance's programs; what an agent left there that died before it was done goes.
    pub(super) fn begin(&self, instance: u64) -> Result<(), PinError> {
        let set = self.set(instance);
        remove_all(&set)?;
        make(&set)
    }

    /// Removes the programs of all other instances.
    pub(super) fn keep_only(&self, instance: u64) -> Result<(), PinError> {
        let own = self.set(instance);
        for set in self.program_sets()?.iter().filter(|set| **set != own) {
            remove_all(set)?;
        }
        Ok(())
    }

    fn set(&self, instance: u64) -> PathBuf {
        self.directory.join(format!("programs_{instance:016x}"))
    }

    fn program_sets(&self) -> Result<Vec<PathBuf>, PinError> {
        let mut all = entries(&self.directory)?;
        all.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("programs_"))
        });
        Ok(all)
    }
}

fn link_path(program: &Path) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push("_link");
    name.into()
}

fn make(path: &Path) -> Result<(), PinError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, PinError> {
    let list = fs::read_dir(path).map_err(failed(path))?;
    list.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(failed(path))
}

/// Removes a directory of pins, if it is there.
fn remove_all(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}
