//! Replays an event log: does to a core of its own what the log says was done to the agent's, and holds each conclusion
//! against the one that the agent came to. In: lines. Out: the core as the agent's was in the end, findings, the last scrape.

use super::{Conclusion, End, Entry, FORMAT, Header, LINE_MAX, Sample, Told};
use crate::exposition::own::VERSION;
use crate::exposition::{open_metrics, prometheus};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use probe_core::finding::Finding;
use probe_core::monitor::Monitor;
use probe_core::saved::RestoreError;
use probe_core::snapshot::Series;
use probe_core::time::Mono;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read as _};
use thiserror::Error;

/// The log cannot be replayed.
#[derive(Debug, Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("line {line}: {error}")]
    Read {
        /// Where.
        line: u64,
        /// Why.
        error: io::Error,
    },
    /// Something else.
    #[error("line 1 is no header of an event log: was it written by `drainscope record`?")]
    NoLog,
    /// Of another version.
    #[error(
        "written in format {found} by drainscope {version}; this is {VERSION} and reads format {FORMAT}: replay it with {version}"
    )]
    Format {
        /// Its format.
        found: u32,
        /// Who wrote it.
        version: String,
    },
    /// Longer than any entry.
    #[error("line {line} is longer than {LINE_MAX} bytes: the file is damaged")]
    TooLong {
        /// Where.
        line: u64,
    },
    /// Not an entry.
    #[error("line {line} is no entry of an event log: {error}")]
    Entry {
        /// Where.
        line: u64,
        /// Why.
        error: serde_json::Error,
    },
    /// Not the entry that must come here.
    #[error("line {line}: {what}")]
    Order {
        /// Where.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It ends before the entries begin.
    #[error("the log breaks off within the saved state: nothing can be replayed")]
    NoState,
    /// The state cannot be restored.
    #[error("the state that the log begins with: {0}")]
    State(#[from] RestoreError),
}

/// What a scrape showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// Event time of the core's snapshot.
    pub at: Mono,
    /// Its series and the agent's own, those of the process left out.
    pub series: Vec<Series>,
}

/// What came of a replay.
#[derive(Debug)]
pub struct Replay {
    /// The log's first line.
    pub header: Header,
    /// The core as it was in the end.
    pub monitor: Monitor,
    /// Entries replayed.
    pub entries: u64,
    /// The latest moment that an entry names.
    pub until: Mono,
    /// The last scrape.
    pub scrape: Option<Scrape>,
    /// Findings, in the order in which the agent logged them.
    pub findings: Vec<Finding>,
    /// How the log ends; `None`: it breaks off.
    pub end: Option<End>,
    /// The line that was left out because it is not whole.
    pub torn: Option<u64>,
    /// How many conclusions differ from the agent's, and the line of the first.
    pub differing: Option<(u64, u64)>,
}

/// Replays a whole log. A last line that is torn is left out.
pub fn replay(source: impl BufRead) -> Result<Replay, LogError> {
    let mut lines = Lines { source, number: 0, bytes: Vec::new() };
    let mut replay = begin(&mut lines)?;
    loop {
        match lines.next()? {
            Next::Whole if replay.end.is_some() => {
                return Err(LogError::Order { line: lines.number, what: "the log goes on after its end" });
            }
            Next::Whole => replay.apply(lines.number, lines.entry()?)?,
            Next::Torn => replay.torn = Some(lines.number),
            Next::None => return Ok(replay),
        }
    }
}

/// Reads header and state.
fn begin<R: BufRead>(lines: &mut Lines<R>) -> Result<Replay, LogError> {
    let header = header(lines)?;
    let mut state = Vec::new();
    let missing = |state: &[u8]| u64::try_from(state.len()).unwrap_or(u64::MAX) < header.state_bytes;
    while missing(&state) {
        if !matches!(lines.next()?, Next::Whole) {
            return Err(LogError::NoState);
        }
        let Entry::State(part) = lines.entry()? else { return Err(LogError::NoState) };
        let part = STANDARD.decode(part).map_err(|_invalid| LogError::Order {
            line: lines.number,
            what: "this part of the saved state is not base64",
        })?;
        state.extend(part);
    }
    let monitor = Monitor::restore(&state, header.limits, header.node.clone())?;
    let until = header.at;
    Ok(Replay {
        header,
        monitor,
        entries: 0,
        until,
        scrape: None,
        findings: Vec::new(),
        end: None,
        torn: None,
        differing: None,
    })
}

fn header<R: BufRead>(lines: &mut Lines<R>) -> Result<Header, LogError> {
    /// What headers of every format have.
    #[derive(Deserialize)]
    struct Any {
        #[serde(rename = "drainscope_log")]
        format: u32,
        version: String,
    }
    // A torn header is none, and what has no line at all is no log.
    let found = match lines.next() {
        Ok(Next::Whole) => serde_json::from_slice::<Any>(&lines.bytes).ok(),
        Ok(Next::Torn | Next::None) | Err(LogError::TooLong { .. }) => None,
        Err(error) => return Err(error),
    };
    let found = found.ok_or(LogError::NoLog)?;
    if found.format != FORMAT {
        return Err(LogError::Format { found: found.format, version: found.version });
    }
    serde_json::from_slice(&lines.bytes).map_err(|error| LogError::Entry { line: lines.number, error })
}

impl Replay {
    fn apply(&mut self, line: u64, entry: Entry<'_>) -> Result<(), LogError> {
        self.entries += 1;
        match entry {
            Entry::Event(event) => {
                self.until = self.until.max(event.at);
                self.monitor.handle(event.into_owned());
            }
            Entry::Until(now) => {
                self.until = self.until.max(now);
                self.monitor.handle_timeout(now);
            }
            Entry::Told(told) => self.conclude(line, told),
            Entry::Scraped(own) => self.scrape(own),
            Entry::State(_) => {
                return Err(LogError::Order { line, what: "a second saved state within the log" });
            }
            Entry::End(end) => self.end = Some(end),
        }
        Ok(())
    }

    fn conclude(&mut self, line: u64, told: Told) {
        let own = match told.what {
            Conclusion::Command => self.monitor.poll_command().map(|command| digest(told.what, &command)),
            Conclusion::Ended => self.monitor.poll_ended().map(|ended| digest(told.what, &ended)),
            Conclusion::Finding => self.monitor.poll_finding().map(|finding| {
                let own = digest(told.what, &finding);
                self.findings.push(finding);
                own
            }),
        };
        if own != Some(told) {
            let (count, first) = self.differing.unwrap_or((0, line));
            self.differing = Some((count + 1, first));
        }
    }

    fn scrape(&mut self, own: Vec<Sample>) {
        let snapshot = self.monitor.snapshot();
        let mut series = snapshot.series;
        series.extend(own.into_iter().filter_map(Sample::series));
        self.scrape = Some(Scrape { at: snapshot.at, series });
        self.monitor.scraped(snapshot.at);
    }

    /// What the last scrape showed, as OpenMetrics. Without any: what the core would show now.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let scraped = self.scrape.as_ref().map(|scrape| scrape.series.clone());
        open_metrics(scraped.unwrap_or_else(|| self.monitor.snapshot().series))
    }

    /// The same in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        prometheus::from_open_metrics(&self.open_metrics())
    }
}

fn digest(what: Conclusion, said: &impl Serialize) -> Told {
    Told::new(what, said)
}

struct Lines<R> {
    source: R,
    /// Of the line in `bytes`, from 1.
    number: u64,
    bytes: Vec<u8>,
}

enum Next {
    Whole,
    /// The file ends within the line.
    Torn,
    None,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Next, LogError> {
        self.bytes.clear();
        self.number += 1;
        let line = self.number;
        let bound = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
        let read = (&mut self.source).take(bound + 1).read_until(b'\n', &mut self.bytes);
        read.map_err(|error| LogError::Read { line, error })?;
        match self.bytes.pop_if(|last| *last == b'\n') {
            Some(_) => Ok(Next::Whole),
            None if self.bytes.len() > LINE_MAX => Err(LogError::TooLong { line }),
            None if self.bytes.is_empty() => Ok(Next::None),
            None => Ok(Next::Torn),
        }
    }

    fn entry(&self) -> Result<Entry<'static>, LogError> {
        serde_json::from_slice(&self.bytes).map_err(|error| LogError::Entry { line: self.number, error })
    }
}
