//! The clients that rows are loaded with, as arguments of the load generator, and that generator as a process in the client's network.
//!
//! None of them retries. Rates are fixed schedules that do not wait for the server (an open loop), except where there is none (a closed
//! loop). The generator does neither pipeline nor read or write slowly: such clients are not here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::World;
use world::load::{Attempt, Summary, read_log};

/// One sort of clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clients {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
}

const fn clients(name: &'static str, arguments: &'static str) -> Clients {
    Clients { name, arguments }
}

/// They look whether the server has closed before they write.
pub(crate) const KEPT: Clients = clients("keep-alive", "--keepalive 120 --keepalive-rate 4");
/// They do not look.
pub(crate) const KEPT_BLIND: Clients =
    clients("keep-alive-blind", "--keepalive 40 --keepalive-rate 5 --blind");
/// As few as a control needs: a request that crosses the server's close of a kept connection is a loss, and nobody's mistake.
pub(crate) const FEW_KEPT: Clients = clients("few-keep-alive", "--keepalive 10 --keepalive-rate 4");
/// A connection for each request.
pub(crate) const ONE_SHOT: Clients = clients("one-per-request", "--new 90 --new-rate 5");
/// Both, at a rate.
pub(crate) const OPEN_LOOP: Clients =
    clients("open-loop", "--keepalive 30 --keepalive-rate 8 --new 60 --new-rate 5 --blind");
/// Few, and as fast as the answers come.
pub(crate) const SATURATING: Clients = clients("saturating", "--keepalive 40");
/// Two seconds in flight of each two and a half.
pub(crate) const LONG: Clients = clients("long-requests", "--new 160 --new-rate 0.4 --path /?delay_ms=2000");
/// The same on kept connections.
pub(crate) const LONG_KEPT: Clients =
    clients("long-requests-kept", "--keepalive 160 --keepalive-rate 0.4 --path /?delay_ms=2000");
/// Bodies that no socket buffer of a fresh connection holds.
pub(crate) const POST: Clients = clients("post", "--keepalive 40 --keepalive-rate 5 --blind --body 65536");
/// Bodies so large that a server always ends in the midst of some.
pub(crate) const UPLOADS: Clients = clients("uploads", "--keepalive 24 --body 16777216");
/// So many that clients and server often close at the same moment.
pub(crate) const CROWD: Clients = clients("crowd", "--new 100 --new-rate 20");
/// They give up before a stalled server ends, and close.
pub(crate) const IMPATIENT: Clients = clients("impatient", "--keepalive 40 --keepalive-rate 5 --timeout 1");
/// The same with a reset.
pub(crate) const IMPATIENT_RST: Clients =
    clients("impatient-reset", "--keepalive 40 --keepalive-rate 5 --timeout 1 --linger0");
/// [`ONE_SHOT`] that do not wait long for an address that is gone.
pub(crate) const VANISHING: Clients =
    clients("one-per-request", "--new 200 --new-rate 2 --connect-timeout 1 --timeout 5");
/// [`KEPT_BLIND`] in the same way.
pub(crate) const VANISHING_BLIND: Clients =
    clients("keep-alive-blind", "--keepalive 40 --keepalive-rate 5 --blind --connect-timeout 1 --timeout 3");

/// How often a running load is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longer than any timeout that a row gives its clients.
const LAST_ATTEMPTS: Duration = Duration::from_secs(60);

/// Clients at work; killed when dropped.
pub(crate) struct Load {
    child: Child,
    log: PathBuf,
    summary: PathBuf,
}

/// What the clients saw.
pub(crate) struct Tally {
    pub(crate) summary: Summary,
    /// The failed attempts.
    pub(crate) attempts: Vec<Attempt>,
}

impl Load {
    /// Starts the program `load` for the row of this name.
    pub(crate) fn start(
        world: &World,
        program: &Path,
        row: &str,
        clients: Clients,
        target: SocketAddr,
        source: &str,
    ) -> anyhow::Result<Self> {
        let file = |suffix: &str| world.node().directory().join(format!("{row}.{suffix}"));
        let (log, summary) = (file("attempts.jsonl"), file("summary.json"));
        let child = world
            .client_command(program)
            .args(["--target", &target.to_string(), "--source", source])
            .args(clients.arguments.split_whitespace())
            .arg("--log")
            .arg(&log)
            .arg("--summary")
            .arg(&summary)
            .spawn()
            .context("start the load generator")?;
        Ok(Self { child, log, summary })
    }

    /// Lets it run for so long; an error if it ends by itself.
    pub(crate) fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the load generator ended: {status}");
            }
            thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Ends it and waits for the attempts under way.
    pub(crate) fn stop(mut self) -> anyhow::Result<Tally> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + LAST_ATTEMPTS;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "the load generator does not end");
            thread::sleep(POLL);
        };
        ensure!(status.success(), "the load generator ended with {status}");
        let summary = std::fs::read_to_string(&self.summary).context("read the load's summary")?;
        let summary: Summary = serde_json::from_str(&summary).context("the load's summary")?;
        let attempts = if self.log.exists() { read_log(&self.log)? } else { Vec::new() };
        ensure!(
            u64::try_from(attempts.len())? == summary.total.failed,
            "{} logged failures of {}",
            attempts.len(),
            summary.total.failed
        );
        ensure!(!summary.ports_reused, "ports were reused: connections cannot be told apart");
        Ok(Tally { summary, attempts })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended by itself unless a row failed meanwhile.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
