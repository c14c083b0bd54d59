//! The log of attempts: JSON lines, written by each client itself in whole lines, and read back by whoever judges.
//!
//! Every client has its own buffer and an append-mode handle of the same file, so lines never mix and no lock is taken. Lines of different clients
//! are not in the order of time.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use super::attempt::Attempt;
use super::clock::SECOND_NS;

/// Buffered bytes that are written out at once.
const FLUSH_BYTES: usize = 64 * 1024;

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read.
    #[error("the attempt log: {0}")]
    Io(#[from] io::Error),
    /// A line is no attempt.
    #[error("line {line} of the attempt log: {error}")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Reads a whole log, in order of `t_ns`.
pub fn read_log(path: &Path) -> Result<Vec<Attempt>, LogError> {
    let mut attempts = Vec::new();
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let attempt =
            serde_json::from_str(&line?).map_err(|error| LogError::Line { line: index + 1, error })?;
        attempts.push(attempt);
    }
    attempts.sort_by_key(|attempt: &Attempt| (attempt.t_ns, attempt.client));
    Ok(attempts)
}

/// One client's end of the log.
#[derive(Debug)]
pub(super) struct Writer {
    file: Option<File>,
    lines: Vec<u8>,
    flushed_ns: u64,
}

impl Writer {
    /// `None` writes nothing.
    pub(super) fn new(file: Option<File>) -> Self {
        let lines = if file.is_some() { Vec::with_capacity(FLUSH_BYTES + 4096) } else { Vec::new() };
        Self { file, lines, flushed_ns: 0 }
    }

    pub(super) fn write(&mut self, attempt: &Attempt) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        serde_json::to_writer(&mut self.lines, attempt)?;
        self.lines.push(b'\n');
        // A run that is killed should have left its failures of all but the last second.
        if self.lines.len() >= FLUSH_BYTES || attempt.end_ns.saturating_sub(self.flushed_ns) >= SECOND_NS {
            self.flushed_ns = attempt.end_ns;
            self.flush()?;
        }
        Ok(())
    }

    /// Hands the buffered lines to the file, in one write.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.lines)?;
        }
        self.lines.clear();
        Ok(())
    }
}
