//! The node's own branch of the cgroup v2 tree, laid out as the kubelet and containerd lay theirs out (cgroupfs driver).
//!
//! `V2ROOT/PREFIX-PID-STARTTIME/kubepods/besteffort/podUID/CONTAINERID`. Nothing outside this branch is touched; branches of dead owners of
//! the same prefix are removed at the start, with the processes that are in them. No controllers are enabled: this is for identity only. A memory
//! limit is a group of the cgroup v1 memory hierarchy, where the machine has one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::owner::Owner;

/// How long the kernel may take to let go of a cgroup whose processes were killed.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);
/// How often an emptied cgroup is looked at.
const REMOVAL_PERIOD: Duration = Duration::from_millis(2);

/// The branch; dropping it kills what still runs in it and removes it.
#[derive(Debug)]
pub struct CgroupTree {
    root: PathBuf,
    /// Its branch of the cgroup v1 memory hierarchy, made with the first limit.
    memory: Option<PathBuf>,
}

impl CgroupTree {
    /// Removes the leftovers of dead owners of this prefix, then makes this process's branch.
    pub fn create(owner: &Owner, prefix: &str) -> anyhow::Result<Self> {
        let v2_root = v2_root()?;
        for root in [Some(v2_root.clone()), memory_root()].into_iter().flatten() {
            for leftover in Owner::leftovers(prefix, &root)? {
                remove_tree(&leftover)?;
            }
        }
        let root = v2_root.join(owner.name());
        fs::create_dir(&root).with_context(|| format!("make the cgroup {}", root.display()))?;
        let tree = Self { root, memory: memory_root().map(|root| root.join(owner.name())) };
        fs::create_dir_all(tree.root.join("kubepods/besteffort"))?;
        Ok(tree)
    }

    /// The branch's directory: what an agent of this world takes for the cgroup root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A pod's directory, whether it exists or not.
    pub fn pod(&self, pod_uid: &str) -> PathBuf {
        self.root.join(format!("kubepods/besteffort/pod{pod_uid}"))
    }

    /// Makes a container's directory below its pod's.
    pub fn create_container(&self, pod_uid: &str, container_id: &str) -> anyhow::Result<PathBuf> {
        let directory = self.pod(pod_uid).join(container_id);
        fs::create_dir_all(&directory).with_context(|| format!("make the cgroup {}", directory.display()))?;
        Ok(directory)
    }

    /// Limits the memory that a container's first process may take from now on; tells the group.
    pub fn limit_memory(&self, container_id: &str, pid: i32, bytes: u64) -> anyhow::Result<PathBuf> {
        let branch = self.memory.as_ref().context("this machine has no cgroup v1 memory hierarchy")?;
        let group = branch.join(container_id);
        fs::create_dir_all(&group)?;
        fs::write(group.join("memory.limit_in_bytes"), bytes.to_string())?;
        fs::write(group.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }

    /// Removes a pod's cgroups, killing what is left in them.
    pub fn remove_pod(&self, pod_uid: &str) -> anyhow::Result<()> {
        remove_tree(&self.pod(pod_uid))
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        // What cannot be removed now is a leftover of a dead owner at the next start.
        drop(remove_tree(&self.root));
        if let Some(memory) = &self.memory {
            drop(remove_tree(memory));
        }
    }
}

/// Where the cgroup v1 memory hierarchy is mounted, on machines that have one.
pub fn memory_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_memory = |options: &str| options.split(',').any(|option| option == "memory");
    let mount =
        fields.find(|fields| matches!(fields[..], [_, _, "cgroup", options, ..] if is_memory(options)))?;
    Some(PathBuf::from(mount[1]))
}

/// The group's limit has cost a process its life.
pub fn has_killed(group: &Path) -> bool {
    let control = fs::read_to_string(group.join("memory.oom_control")).unwrap_or_default();
    control.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
}

/// Where cgroup v2 is mounted (on hybrid systems not at /sys/fs/cgroup).
pub fn v2_root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount =
        fields.find(|fields| fields.get(2) == Some(&"cgroup2")).context("no cgroup v2 tree is mounted")?;
    Ok(PathBuf::from(mount[1]))
}

/// Kills the processes in a cgroup and below it, and removes it from the leaves up.
fn remove_tree(directory: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    loop {
        match try_remove(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // The killed processes are not quite gone, or one was just born.
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
            Err(error) => {
                return Err(error).with_context(|| format!("remove the cgroup {}", directory.display()));
            }
        }
        if Instant::now() > deadline {
            bail!("the cgroup {} still has processes after {REMOVAL_LIMIT:?}", directory.display());
        }
        thread::sleep(REMOVAL_PERIOD);
    }
}

fn try_remove(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            match try_remove(&entry.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    for pid in fs::read_to_string(directory.join("cgroup.procs"))?.lines().filter_map(|pid| pid.parse().ok())
    {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::remove_dir(directory)
}
