//! The node's kubelet as a process: killed, and started again as it was.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubectl;
use crate::pods::PATIENCE;
use crate::site::Site;

/// SIGKILL, then the same program with the same arguments, found by what it was called as.
pub(crate) fn restart(site: &Site) -> anyhow::Result<()> {
    let is_it = |words: &[String]| words.first().is_some_and(|name| name == "kubelet");
    let (pid, words) = process(is_it)?.context("no kubelet runs")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill the kubelet")?;
    kubectl::wait("the kubelet is gone", PATIENCE, || {
        Ok((!fs::exists(format!("/proc/{pid}/fd"))?).then_some(()))
    })?;
    let log = File::options()
        .append(true)
        .open(site.state.join("logs/kubelet.log"))
        .context("the kubelet's log")?;
    let (name, args) = words.split_first().context("a command line")?;
    // A child of the node's first process, as the one before: it outlives this program, and who kills it next waits for no parent.
    let status = Command::new("setsid")
        .args(["--fork", name])
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .context("start setsid")?;
    ensure!(status.success(), "setsid ended with {status}");
    Ok(())
}

/// Pid and command line of the process that this fits.
pub(crate) fn process(fits: impl Fn(&[String]) -> bool) -> anyhow::Result<Option<(i32, Vec<String>)>> {
    Ok(processes()?.into_iter().find(|(_, words)| fits(words)))
}

/// Pids and command lines.
fn processes() -> anyhow::Result<Vec<(i32, Vec<String>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        // One that has ended meanwhile has none.
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        found.push((pid, line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()));
    }
    ensure!(!found.is_empty(), "/proc is empty");
    Ok(found)
}
