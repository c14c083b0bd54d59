//! The load generator as a process in the client's network: started, left to run, ended, and its tally read. For suites and the matrix; what the
//! generator does is [`crate::load`]'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::World;
use crate::load::{Attempt, Summary, read_log};
use crate::wait::wait_until;
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a running load is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Longer than any timeout that anybody gives its clients.
const LAST_ATTEMPTS: Duration = Duration::from_secs(90);

/// Clients at work; killed when dropped.
pub struct Load {
    child: Child,
    log: PathBuf,
    summary: PathBuf,
}

/// What the clients saw.
pub struct Tally {
    /// Their counts and times.
    pub summary: Summary,
    /// The failed attempts; with `--log-all` the others too.
    pub attempts: Vec<Attempt>,
}

impl Load {
    /// Starts it; `arguments` as on a command line.
    pub fn start(world: &World, target: impl Into<SocketAddr>, arguments: &str) -> anyhow::Result<Self> {
        let command = world.client_command(world.load_program());
        Self::start_by(command, world.node().directory(), target.into(), arguments)
    }

    /// By a command that says which program it is and where it runs; its files go into this folder.
    pub fn start_by(
        mut command: Command,
        folder: &Path,
        target: SocketAddr,
        arguments: &str,
    ) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| folder.join(format!("load-{number}-{name}"));
        let (log, summary) = (file("attempts.jsonl"), file("summary.json"));
        let child = command
            .args(["--target", &target.to_string()])
            .args(arguments.split_whitespace())
            .arg("--log")
            .arg(&log)
            .arg("--summary")
            .arg(&summary)
            .spawn()
            .context("start the load generator")?;
        Ok(Self { child, log, summary })
    }

    /// Lets it run for so long; an error if it ends by itself.
    pub fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the load generator ended: {status}");
            }
            thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// No client begins another attempt from now on; those under way go on.
    pub fn end(&self) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?)
    }

    /// Ends it and waits for the attempts under way.
    pub fn stop(self) -> anyhow::Result<Tally> {
        self.end()?;
        self.wait()
    }

    /// Waits until it ends: by itself, or because it was told to.
    pub fn wait(mut self) -> anyhow::Result<Tally> {
        let ended = || Ok(self.child.try_wait()?);
        let status = wait_until("the load generator's end", LAST_ATTEMPTS, POLL, ended)?;
        ensure!(status.success(), "the load generator ended with {status}");
        let summary = std::fs::read_to_string(&self.summary).context("read the load's summary")?;
        let summary: Summary = serde_json::from_str(&summary).context("the load's summary")?;
        let attempts = if self.log.exists() { read_log(&self.log)? } else { Vec::new() };
        let logged = attempts.iter().filter(|attempt| !attempt.ok()).count();
        ensure!(
            u64::try_from(logged)? == summary.total.failed,
            "{logged} logged failures of {}",
            summary.total.failed
        );
        ensure!(!summary.ports_reused, "ports were reused: connections cannot be told apart");
        Ok(Tally { summary, attempts })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended by itself unless something failed meanwhile.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
