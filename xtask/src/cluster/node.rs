//! A node: network and mount namespaces that one process holds; the first node's pid namespace is both nodes'.
//!
//! Inside, `/run`, `/var/lib`, `/var/log` and `/sys/fs/bpf` are the node's own, and the settings that a kubelet changes on a whole machine are files of ours. So
//! the kernel takes everything back when the first node's process is killed: processes, mounts, interfaces, rules, pins. What is left then are the state folder and
//! the kubelets' cgroups.

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
/// The kubelets' cgroups, directly below the root of each hierarchy: the first node's own one, and the second's root.
const KUBEPODS: &str = "kubepods";
/// See [`KUBEPODS`]. The second kubelet wants it to be there.
pub(super) const SECOND_ROOT: &str = "drainscope-node-2";
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

/// The process that holds a node; `$1` is the node's folder, `$2` its number. The first node's is the first process of the pid namespace; its pid outside is read
/// before the new /proc hides it. The end: a parent for processes that lost theirs (sh takes every child that ends).
const HOLD: &str = r#"
set -eu
state=$1 address=10.89.0.$2
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount --make-rshared /
[ "$2" -gt 1 ] || mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount --bind "$state/lib" /var/lib
mount --bind "$state/log" /var/log
cd "$state/settings"
for file in */* */*/*; do [ ! -f "$file" ] || mount --bind "$file" "/proc/sys/$file"; done
cd /
ip link set lo up
ip address add "$address/32" dev lo
# A route by which connections to Services leave before they are rewritten. A bridge without ports, as the way out that real nodes have: by lo the kernel takes
# a Service's address for its own and cannot send what kube-proxy's rules refuse.
ip link add services type bridge
ip link set services arp off up
ip route add 10.96.0.0/16 dev services src "$address"
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "$pid" >"$state/node.pid.new"
mv "$state/node.pid.new" "$state/node.pid"
while :; do sleep 3600 & wait "$!" || :; done
"#;

/// A wire from a node to the other: `$1` is this node's number, `$2` the other's, `$3` the other's third byte of pod addresses.
const WIRE: &str = r#"
set -eu
ip link set "node-$2" up
ip route add "10.89.0.$2/32" dev "node-$2" src "10.89.0.$1"
ip route add "10.88.$3.0/24" via "10.89.0.$2" dev "node-$2" onlink src "10.89.0.$1"
"#;

/// A running node.
pub(super) struct Node {
    /// From 1.
    number: u8,
    /// Of the process that holds it: the first node's as this machine sees it, the second's as the first node does.
    pid: u32,
    /// The first node's, if this is the second.
    first: Option<u32>,
}

impl Node {
    /// The first one, if it runs.
    pub(super) fn find() -> Result<Option<Self>> {
        Self::find_in(1, None)
    }

    /// The second one, if it runs beside this first one.
    pub(super) fn second(&self) -> Result<Option<Self>> {
        Self::find_in(2, Some(self.pid))
    }

    fn find_in(number: u8, first: Option<u32>) -> Result<Option<Self>> {
        let file = folder(number).join("node.pid");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let pid = text.trim().parse().with_context(|| format!("{} holds no pid", file.display()))?;
        let node = Self { number, pid, first };
        Ok(node.lives().then_some(node))
    }

    /// Makes the namespaces of the first one; none may be there.
    pub(super) fn create() -> Result<Self> {
        if let Some(foreign) = cgroups()?.first() {
            bail!("another kubelet works on this machine: {} exists", foreign.display());
        }
        let state = folder(1);
        create_folders(&state)?;
        let pki = state.join("pki");
        fs::create_dir_all(&pki).with_context(|| format!("cannot create {}", pki.display()))?;
        for (name, value) in SETTINGS {
            let file = state.join("settings").join(name);
            if !Path::new("/proc/sys").join(name).exists() {
                continue;
            }
            fs::create_dir_all(file.parent().context("a setting has a folder")?)?;
            fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let mut hold = process::command("setsid");
        hold.args(["unshare", "--pid", "--fork", "--kill-child"]);
        Self::hold(hold, 1, None)
    }

    /// Makes the second one beside this first one, and the wire between them.
    pub(super) fn create_second(&self) -> Result<Self> {
        create_folders(&folder(2))?;
        for hierarchy in hierarchies()? {
            let root = hierarchy.join(SECOND_ROOT);
            fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        }
        let mut hold = self.command("setsid");
        hold.arg("unshare");
        let second = Self::hold(hold, 2, Some(self.pid))?;
        let mut wire = self.command("ip");
        wire.args(["link", "add", "node-2", "type", "veth", "peer", "name", "node-1", "netns"]);
        process::run(wire.arg(second.pid.to_string()))?;
        process::run(self.command("sh").args(["-c", WIRE, "wire", "1", "2", "1"]))?;
        process::run(second.command("sh").args(["-c", WIRE, "wire", "2", "1", "0"]))?;
        Ok(second)
    }

    /// Starts the process that holds the namespaces, by a command that ends with `unshare`.
    fn hold(mut hold: Command, number: u8, first: Option<u32>) -> Result<Self> {
        let file = folder(number).join("logs/node.log");
        let log = File::create(&file).context("cannot create the node's log")?;
        hold.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD, MARK]);
        hold.arg(folder(number)).arg(number.to_string()).current_dir("/").stdin(Stdio::null());
        hold.stdout(log.try_clone()?).stderr(log);
        let mut child = hold.spawn().context("cannot start unshare")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(node) = Self::find_in(number, first)? {
                return Ok(node);
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&file).unwrap_or_default();
                bail!("the node's namespaces could not be made: {}", process::last_lines(&log, 5));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// As Kubernetes knows it.
    pub(super) fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Its configuration, logs and data; the first node's has the cluster's as well.
    pub(super) fn folder(&self) -> PathBuf {
        folder(self.number)
    }

    /// Text of a configuration file or an argument with this node's values in it.
    pub(super) fn filled(&self, template: &str) -> String {
        template
            .replace("${STATE}", STATE)
            .replace("${FOLDER}", &self.folder().display().to_string())
            .replace("${NODE}", &self.name())
            .replace("${ADDRESS}", &format!("10.89.0.{}", self.number))
            .replace("${PODS}", &format!("10.88.{}.0/24", self.number - 1))
            .replace("${CGROUPS}", &if self.number == 1 { "/".to_owned() } else { format!("/{SECOND_ROOT}") })
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
        if let Some(first) = self.first {
            command.args(["--target", &first.to_string(), "--net", "--mount", "--pid", "--", "nsenter"]);
            command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--", program]);
        } else {
            command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--", program]);
        }
        command
    }

    /// The pid may be another process's by now; its command line tells.
    fn lives(&self) -> bool {
        let root = self.first.map_or_else(String::new, |first| format!("/proc/{first}/root"));
        let line = fs::read(format!("{root}/proc/{}/cmdline", self.pid)).unwrap_or_default();
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

/// A node's folder.
fn folder(number: u8) -> PathBuf {
    let state = PathBuf::from(STATE);
    if number == 1 { state } else { state.join(format!("node-{number}")) }
}

fn create_folders(folder: &Path) -> Result<()> {
    for name in ["lib", "log", "logs", "conf/cni", "conf/static", "settings"] {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    Ok(())
}

/// The kubelets' cgroups in each hierarchy that has one.
fn cgroups() -> Result<Vec<PathBuf>> {
    let both = |root: PathBuf| [KUBEPODS, SECOND_ROOT].map(|name| root.join(name));
    Ok(hierarchies()?.into_iter().flat_map(both).filter(|cgroup| cgroup.is_dir()).collect())
}

/// The roots of the cgroup hierarchies: of a unified tree, or of each controller's.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context("cannot list the cgroup hierarchies")? {
        let entry = entry?;
        // Controllers that share a hierarchy are links to it.
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
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
impl Node {
    /// One that nothing holds.
    pub(super) fn unheld(number: u8) -> Self {
        Self { number, pid: u32::MAX, first: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_runs_is_valid() {
        for script in [HOLD, WIRE] {
            process::capture(Command::new("sh").args(["-n", "-c", script])).unwrap();
        }
    }

    #[test]
    fn a_pid_of_another_process_is_not_the_node() {
        assert!(!Node { pid: std::process::id(), ..Node::unheld(1) }.lives());
        assert!(!Node::unheld(1).lives());
    }
}
