//! The node: network, mount and pid namespaces that one process holds.
//!
//! Inside, `/run`, `/var/lib`, `/var/log` and `/sys/fs/bpf` are the node's own, and the settings that a kubelet changes on a whole machine are files of ours. So
//! the kernel takes everything back when the first process is killed: processes, mounts, interfaces, rules, pins. What is left then are the state folder and the kubelet's
//! cgroups.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::STATE;
use crate::process;

/// Name of the first process in its command line, by which it is known again.
const MARK: &str = "drainscope-cluster-node";
/// The kubelet's cgroup, directly below the root of each hierarchy.
const CGROUP: &str = "kubepods";
const CGROUPS: &str = "/sys/fs/cgroup";
/// For what the kernel does within milliseconds unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a kubelet sets for the whole machine. It reads these files in their place, finds what it wants and writes nothing.
const SETTINGS: [(&str, &str); 5] = [
    ("vm/overcommit_memory", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Runs as the first process of the pid namespace; `$1` is the state folder. The pid outside is read before the new /proc hides it.
/// The end: a parent for processes that lost theirs (sh takes every child that ends).
const HOLD: &str = r#"
set -eu
state=$1
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount --bind "$state/lib" /var/lib
mount --bind "$state/log" /var/log
cd "$state/settings"
for file in */* */*/*; do [ ! -f "$file" ] || mount --bind "$file" "/proc/sys/$file"; done
cd /
ip link set lo up
# Its own address, and a route by which connections to Services leave before they are rewritten.
ip address add 10.89.0.1/32 dev lo
ip route add 10.96.0.0/16 dev lo src 10.89.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "$pid" >"$state/node.pid.new"
mv "$state/node.pid.new" "$state/node.pid"
while :; do sleep 3600 & wait "$!" || :; done
"#;

/// A running node.
pub(super) struct Node {
    pid: u32,
}

impl Node {
    /// The one that runs, if one does.
    pub(super) fn find() -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(Path::new(STATE).join("node.pid")) else { return Ok(None) };
        let pid = text.trim().parse().with_context(|| format!("{STATE}/node.pid holds no pid"))?;
        let node = Self { pid };
        Ok(node.lives().then_some(node))
    }

    /// Makes the namespaces; none may be there.
    pub(super) fn create() -> Result<Self> {
        if let Some(foreign) = cgroups()?.first() {
            bail!("another kubelet works on this machine: {} exists", foreign.display());
        }
        let state = Path::new(STATE);
        for folder in ["lib", "log", "logs", "conf/cni", "conf/static", "pki", "settings"] {
            let folder = state.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        for (name, value) in SETTINGS {
            let file = state.join("settings").join(name);
            if !Path::new("/proc/sys").join(name).exists() {
                continue;
            }
            fs::create_dir_all(file.parent().context("a setting has a folder")?)?;
            fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let log = File::create(state.join("logs/node.log")).context("cannot create the node's log")?;
        let mut hold = process::command("setsid");
        hold.args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]);
        hold.args(["sh", "-c", HOLD, MARK, STATE]).current_dir("/").stdin(Stdio::null());
        hold.stdout(log.try_clone()?).stderr(log);
        let mut child = hold.spawn().context("cannot start unshare")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(node) = Self::find()? {
                return Ok(node);
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(state.join("logs/node.log")).unwrap_or_default();
                bail!("the node's namespaces could not be made: {}", process::last_lines(&log, 5));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends what runs and removes what it left; false when there was nothing. Needs nothing to be whole.
    pub(super) fn remove() -> Result<bool> {
        let state = Path::new(STATE);
        if !state.exists() {
            return Ok(false);
        }
        if let Some(node) = Self::find()? {
            process::run(process::command("kill").args(["-KILL", &node.pid.to_string()]))?;
            wait("the node's processes end", || !node.lives())?;
        }
        // Only now: while this folder exists, the cgroups are ours.
        wait("the kubelet's cgroups are empty", || {
            cgroups().is_ok_and(|found| found.iter().all(|cgroup| remove_tree(cgroup).is_ok()))
        })?;
        fs::remove_dir_all(state).with_context(|| format!("cannot remove {STATE}"))?;
        Ok(true)
    }

    /// A program inside.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = process::command("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--", program]);
        command
    }

    /// The pid may be another process's by now; its command line tells.
    fn lives(&self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == MARK.as_bytes())
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            bail!("waited {} s until {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The kubelet's cgroup in each hierarchy that has one: of a unified tree, or of each controller's.
fn cgroups() -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    let mut found = vec![root.join(CGROUP)];
    for entry in fs::read_dir(root).context("cannot list the cgroup hierarchies")? {
        let entry = entry?;
        // Controllers that share a hierarchy are links to it.
        if entry.file_type()?.is_dir() && entry.file_name() != CGROUP {
            found.push(entry.path().join(CGROUP));
        }
    }
    found.retain(|cgroup| cgroup.is_dir());
    Ok(found)
}

/// Cgroups are removed by rmdir, children first; the files in them are the kernel's.
fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_runs_valid_shell() {
        process::capture(Command::new("sh").args(["-n", "-c", HOLD])).unwrap();
    }

    #[test]
    fn a_pid_of_another_process_is_not_the_node() {
        assert!(!Node { pid: std::process::id() }.lives());
        assert!(!Node { pid: u32::MAX }.lives());
    }
}
