//! What a killed world leaves behind, and that the next start of the same prefix removes it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use world::wait::wait_for;
use world::{PodTemplate, World, WorldConfig};

use crate::{SOON, start, trial};

/// Set for the copy of this suite that is to be killed.
pub(crate) const CHILD: &str = "DRAINSCOPE_WORLD_CHILD";
/// The copy's own prefix, not this suite's.
const PREFIX: &str = "drainscope-killed";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a world that is shut down leaves nothing", a_world_that_is_shut_down_leaves_nothing),
        trial("the machine's own network stays as it was", the_machines_own_network_stays_as_it_was),
        trial("a killed world's processes die and its cgroups go at the next start", a_killed_world_goes),
    ]
}

/// A world with one pod, until it is killed. Prints the cgroup root and the container's pid.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) fn child() -> ExitCode {
    let run = || {
        let world = World::start(WorldConfig::new(PREFIX, env!("CARGO_BIN_EXE_testserver")))?;
        let pod = world.pod("default", "victim", &PodTemplate::testserver("victim", &[]))?;
        world.wait_ready(&pod, true, SOON)?;
        println!(
            "{} {}",
            world.cgroup_root().display(),
            started_pid(&world, &pod.uid).context("no container")?
        );
        loop {
            thread::park();
        }
    };
    let outcome: anyhow::Result<()> = run();
    println!("{outcome:?}");
    ExitCode::FAILURE
}

fn started_pid(world: &World, uid: &str) -> Option<i32> {
    world.journal().started(uid, "server").map(|(pid, _)| pid)
}

fn a_world_that_is_shut_down_leaves_nothing() -> anyhow::Result<()> {
    let world = start()?;
    let pod = world.pod("default", "a", &PodTemplate::testserver("a", &[]))?;
    world.wait_ready(&pod, true, SOON)?;
    let pid = started_pid(&world, &pod.uid).context("no container")?;
    let (cgroups, directory) = (world.cgroup_root().to_owned(), world.node().directory().to_owned());
    ensure!(cgroups.join(format!("kubepods/besteffort/pod{}", pod.uid)).is_dir());
    world.shutdown()?;
    ensure!(!cgroups.exists() && !directory.exists());
    wait_reaped(Path::new(&format!("/proc/{pid}")))
}

/// The process has left its cgroup; a thread of ours reaps it, whenever that runs.
fn wait_reaped(process: &Path) -> anyhow::Result<()> {
    wait_for("the container to go with its world", SOON, || Ok(!process.exists()))
}

fn the_machines_own_network_stays_as_it_was() -> anyhow::Result<()> {
    let state = || -> anyhow::Result<_> {
        let links: Vec<_> = std::fs::read_dir("/sys/class/net")?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<anyhow::Result<_>>()?;
        let namespace = std::fs::read_link("/proc/thread-self/ns/net")?;
        Ok((links, namespace, std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?))
    };
    let before = state()?;
    let world = start()?;
    let during = world.node().outside().inside(state)??;
    world.shutdown()?;
    let after = state()?;
    ensure!(during.1 == before.1 && during.2 == before.2, "{before:?} {during:?}");
    ensure!(after == before, "{before:?} {after:?}");
    Ok(())
}

fn a_killed_world_goes() -> anyhow::Result<()> {
    let mut child = Command::new(std::env::current_exe()?).env(CHILD, "1").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let (cgroups, pid) = line.trim().rsplit_once(' ').with_context(|| format!("the child says {line:?}"))?;
    let (cgroups, process) = (PathBuf::from(cgroups), PathBuf::from(format!("/proc/{pid}")));
    ensure!(cgroups.is_dir() && process.exists(), "{line}");
    child.kill()?;
    child.wait()?;
    wait_reaped(&process)?;
    ensure!(cgroups.is_dir(), "nobody should have removed {} yet", cgroups.display());
    let world = World::start(WorldConfig::new(PREFIX, env!("CARGO_BIN_EXE_testserver")))?;
    ensure!(!cgroups.exists(), "{} is left over", cgroups.display());
    world.shutdown()
}
