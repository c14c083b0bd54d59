//! Ends that the kubelet itself brings about, or is away from.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{check, delete, ended, running};
use crate::kubectl;
use crate::pods::{self, PATIENCE};
use crate::site::Site;

/// A static pod goes when its file does; what the API server has is a mirror.
pub(super) fn static_pod(site: &Site) -> anyhow::Result<String> {
    let file = site.state.join("conf/static/fixed.json");
    fs::write(&file, pods::pod("fixed", pods::spec(pods::container("exit"), 20)).to_string())
        .context("write the manifest")?;
    let mirror = pods::wait_pod("fixed-node-1", "is ready", |pod| pods::condition(pod, "Ready"))?;
    fs::remove_file(&file).context("remove the manifest")?;
    let end = ended(&site.agent, &pods::reference(&mirror)?)?;
    check(&end, "delete", "exited", false)
}

/// SIGKILL to the kubelet while a container drains; another one comes and goes on.
pub(super) fn killed(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("linger");
    container["env"] =
        json!([{"name": "TERM_MODE", "value": "linger"}, {"name": "TERM_LINGER", "value": "6s"}]);
    let (pod, request) = running("orphan", pods::spec(container, 12))?;
    delete("orphan", &[])?;
    kubectl::wait("the stop signal is seen", PATIENCE, || {
        let known = site.agent.terminations()?;
        Ok(known.iter().any(|it| it.pod.uid == pod.uid && it.step("stop_signal").is_some()).then_some(()))
    })?;
    restart_kubelet(site)?;
    let end = ended(&site.agent, &pod)?;
    let said = check(&end, "delete", "grace_exceeded", false)?;
    Ok(format!("{said}, {}", request.lost(&end, "stopping")?))
}

/// The same program with the same arguments, found by what it was called as.
fn restart_kubelet(site: &Site) -> anyhow::Result<()> {
    let (pid, words) = processes()?
        .into_iter()
        .find(|(_, words)| words.first().is_some_and(|name| name == "kubelet"))
        .context("no kubelet runs")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill the kubelet")?;
    kubectl::wait("the kubelet is gone", PATIENCE, || {
        Ok((!fs::exists(format!("/proc/{pid}/fd"))?).then_some(()))
    })?;
    let log = File::options()
        .append(true)
        .open(site.state.join("logs/kubelet.log"))
        .context("the kubelet's log")?;
    let (name, args) = words.split_first().context("a command line")?;
    // A group of its own: an interrupt of this program is not the node's.
    Command::new(name)
        .args(args)
        .current_dir("/")
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(())
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
