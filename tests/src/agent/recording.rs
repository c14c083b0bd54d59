//! An agent's event log, kept and replayed by its own program, held against what the agent said: the promise is the same bytes.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{API, Agent, LISTEN, POLL, fetch, fetch_as};
use crate::World;
use crate::wait::{wait_for, wait_until};

/// The bound on a recording's beginning and on its end, once there is nothing more to record.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes before and after a difference that are shown.
const SHOWN: usize = 200;
/// As Prometheus asks; has the exemplars, which the other format has not.
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// A `drainscope record` at work; killed when dropped.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    program: PathBuf,
    log: PathBuf,
}

impl Recording {
    /// Begins in the world's node, into a file of this name; what the agent does from now on is in it.
    pub fn start(world: &World, program: &Path, name: &str) -> anyhow::Result<Self> {
        let log = world.node().directory().join(name);
        let child = world
            .node_command(program)
            .arg("record")
            .arg(&log)
            .args(["--api", &API.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .context("start drainscope record")?;
        let mut recording = Self { child, program: program.to_owned(), log };
        // The file is made when the agent has answered, and the answer begins with the header.
        wait_for("the beginning of drainscope record", PATIENCE, || {
            if let Some(status) = recording.child.try_wait()? {
                bail!("drainscope record ended: {status}");
            }
            Ok(fs::metadata(&recording.log).is_ok_and(|file| file.len() > 0))
        })?;
        Ok(recording)
    }

    /// Waits until it has ended with its agent, replays it, and says how the replay differs from the agent's last words. `whole`: it
    /// has the agent's life from before the first finding on.
    pub fn differences(mut self, words: &LastWords, whole: bool) -> anyhow::Result<Vec<String>> {
        let ended = || Ok(self.child.try_wait()?);
        let status = wait_until("drainscope record to end with its agent", PATIENCE, POLL, ended)?;
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        ensure!(status.success(), "drainscope record: {status}: {said}");
        let mut found = Vec::new();
        let metrics = self.replay(&["--openmetrics"])?;
        if metrics != words.metrics {
            found.push(format!("/metrics: {}", first_difference(&words.metrics, &metrics)));
        }
        let terminations = self.replay(&["--terminations", "--output", "json"])?;
        if terminations.trim_end() != words.terminations {
            found.push(format!("terminations: {}", first_difference(&words.terminations, &terminations)));
        }
        let findings = self.replay(&["--findings", "--output", "json"])?;
        let told = words.findings.concat();
        // A log that begins later has the last of them.
        let same = if whole { told == findings } else { !findings.is_empty() && told.ends_with(&findings) };
        if !same {
            found.push(format!("findings: {}", first_difference(&told, &findings)));
        }
        Ok(found)
    }

    /// Every replay ends with 0: it came to each conclusion that the agent came to.
    fn replay(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.program).arg("replay").arg(&self.log).args(arguments).output()?;
        let remarks = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && remarks.is_empty(), "{arguments:?}: {}: {remarks}", output.status);
        String::from_utf8(output.stdout).context("not text")
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What an agent said in the end.
#[derive(Debug)]
pub struct LastWords {
    /// OpenMetrics, without the lines about its process.
    metrics: String,
    /// The answer of `/api/v1/terminations`.
    terminations: String,
    /// Its log's lines with findings.
    findings: Vec<String>,
}

impl LastWords {
    /// Asks it, ends it at once and reads its log, which must be JSON (`--log-format json`). Nothing may be under way any more.
    pub fn of(agent: &mut Agent) -> anyhow::Result<Self> {
        let (status, terminations) = fetch(API, "/api/v1/terminations?limit=1000")?;
        ensure!(status == 200 && terminations.ends_with("\"truncated\":false}"), "{status}: {terminations}");
        // The last scrape of all: a replay shows what that one showed.
        let (status, metrics) = fetch_as(LISTEN, "/metrics", OPEN_METRICS)?;
        ensure!(status == 200, "/metrics: {status}");
        agent.signal(nix::sys::signal::Signal::SIGINT)?;
        let log = agent.wait_exit(PATIENCE)?;
        let of_process = |line: &&str| {
            ["", "# HELP ", "# TYPE ", "# UNIT "]
                .iter()
                .any(|begin| line.strip_prefix(begin).is_some_and(|name| name.starts_with("process_")))
        };
        Ok(Self {
            metrics: metrics.split_inclusive('\n').filter(|line| !of_process(line)).collect(),
            terminations,
            findings: log
                .split_inclusive('\n')
                .filter(|line| line.starts_with("{\"finding\":"))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// How many findings it logged.
    pub fn findings(&self) -> usize {
        self.findings.len()
    }
}

/// Where they begin to differ, and what both go on with.
fn first_difference(said: &str, replayed: &str) -> String {
    let same = said.bytes().zip(replayed.bytes()).take_while(|(said, replayed)| said == replayed).count();
    let around = |text: &str| {
        let piece = &text.as_bytes()[same.saturating_sub(SHOWN)..text.len().min(same + SHOWN)];
        String::from_utf8_lossy(piece).into_owned()
    };
    format!("at byte {same} the agent said {:?}, the replay says {:?}", around(said), around(replayed))
}
