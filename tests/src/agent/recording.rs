//! An agent's event log, kept and replayed by its own program.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::words::Words;
use super::{API, POLL};
use crate::World;
use crate::wait::{wait_for, wait_until};

/// The bound on a recording's beginning and on its end, once there is nothing more to record.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Waits until it has ended with its agent, replays it, and says what the replay says.
    pub fn replayed(mut self) -> anyhow::Result<Words> {
        let ended = || Ok(self.child.try_wait()?);
        let status = wait_until("drainscope record to end with its agent", PATIENCE, POLL, ended)?;
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        ensure!(status.success(), "drainscope record: {status}: {said}");
        Ok(Words {
            metrics: self.replay(&["--openmetrics"])?,
            terminations: self.replay(&["--terminations", "--output", "json"])?.trim_end().to_owned(),
            findings: self.replay(&["--findings", "--output", "json"])?,
        })
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
