//! The event log: everything that was done to the core while it was recorded, so that a replay ends with the same bytes.
//! `/api/v1/record` streams it, `drainscope record` keeps it, `drainscope replay` reads it.
//!
//! One JSON object a line, UTF-8, each line ended by a line feed and at most [`LINE_MAX`] long:
//!
//! 1. the [`Header`]: `{"drainscope_log":1,"version":…,"node":…,"at":…,"unix_ns":…,"limits":{…},"state_bytes":N}`;
//! 2. `{"state":"…"}` as often as it takes: the core as it was when the recording began, N bytes of
//!    [`probe_core::monitor::Monitor::save`] in base64. A recording may begin at any moment of an agent's life;
//! 3. one [`Entry`] for each call that changes the core, in their order: `event`, `until`, `told`, `scraped`;
//! 4. `{"end":…}`: why it ends. A log without it broke off (full disk, killed recorder), and its last line may be torn.
//!
//! Moments are nanoseconds of CLOCK_MONOTONIC. Rules for a change: as for the saved state (a new member has a default); what
//! a reader of [`FORMAT`] would take wrongly needs another number. Nothing of the API objects is in it but what the core
//! keeps of them, and the addresses of clients: a log is as private as `/api/v1/terminations`.
//!
//! Here is the form alone. [`tape`] writes it and [`client`] keeps it; [`replay`] reads it and [`report`] says what came of it.

pub mod client;
pub mod replay;
pub mod report;
pub mod tape;

use crate::exposition::own::VERSION;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use probe_core::catalogue;
use probe_core::event::Event;
use probe_core::limits::Limits;
use probe_core::snapshot::{Series, Value};
use probe_core::time::Mono;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Raised when an older reader would take a log wrongly.
pub const FORMAT: u32 = 1;
/// Longest line. The longest fact is a slice of 1,000 endpoints, some 100 kB.
pub const LINE_MAX: usize = 4 << 20;
/// Bytes of the saved state in one line.
const STATE_PART: usize = 48 << 10;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] of the writer.
    #[serde(rename = "drainscope_log")]
    pub format: u32,
    /// Its version.
    pub version: String,
    /// Its node.
    pub node: String,
    /// When the recording began.
    pub at: Mono,
    /// The same moment by the wall clock.
    pub unix_ns: i64,
    /// Bounds that its core was made with.
    pub limits: Limits,
    /// Length of the saved state that follows.
    pub state_bytes: u64,
}

impl Header {
    fn new(node: &str, limits: Limits, at: Mono, unix_ns: i64, state: &[u8]) -> Self {
        let state_bytes = u64::try_from(state.len()).unwrap_or(u64::MAX);
        let (version, node) = (VERSION.to_owned(), node.to_owned());
        Self { format: FORMAT, version, node, at, unix_ns, limits, state_bytes }
    }
}

/// Any other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry<'a> {
    /// A part of the saved state, in base64.
    State(String),
    /// A fact was handed in.
    Event(Cow<'a, Event>),
    /// Time has come to this moment.
    Until(Mono),
    /// A conclusion was taken out.
    Told(Told),
    /// A scrape was served: what the core showed, and these.
    Scraped(Vec<Sample>),
    /// Nothing follows.
    End(End),
}

impl Entry<'_> {
    /// It as a line; `None` if it cannot be written, which no entry is known to bring about.
    fn line(&self) -> Option<Bytes> {
        line(self)
    }
}

fn line(what: &impl Serialize) -> Option<Bytes> {
    let mut line = serde_json::to_vec(what).ok()?;
    line.push(b'\n');
    Some(line.into())
}

/// A conclusion that left the core: a replay must come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What kind.
    pub what: Conclusion,
    /// CRC-32 of its JSON.
    pub crc32: u32,
}

impl Told {
    fn new(what: Conclusion, said: &impl Serialize) -> Self {
        Self { what, crc32: crc32fast::hash(&serde_json::to_vec(said).unwrap_or_default()) }
    }
}

/// Kinds of conclusions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// A change of the kernel's maps.
    Command,
    /// A termination that ended.
    Ended,
    /// A finding.
    Finding,
}

/// Why nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Whoever recorded had enough.
    Stopped,
    /// The agent ended; its last words are in the log.
    AgentEnded,
    /// The reader was too slow, and the agent does not wait.
    SlowReader,
    /// An entry could not be written, or something was done to the core that has no entry.
    NotWritten,
}

impl End {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Stopped => "the recording was ended",
            Self::AgentEnded => "the agent ended",
            Self::SlowReader => "the reader was too slow and was cut off",
            Self::NotWritten => "the agent could not write what came next",
        }
    }
}

/// One of the agent's own series (build, features, kernel programs, maps, watches; not the process), as a scrape showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    family: Cow<'static, str>,
    labels: Vec<String>,
    value: Number,
}

/// Floats are text: read back as JSON numbers they could differ in the last digit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Number {
    Counter(u64),
    Seconds(String),
    Gauge(String),
}

impl Sample {
    /// `None` for a histogram: none of the agent's own series is one.
    fn of(series: &Series) -> Option<Self> {
        let value = match &series.value {
            Value::Counter(count) => Number::Counter(*count),
            Value::Seconds(value) => Number::Seconds(value.to_string()),
            Value::Gauge(value) => Number::Gauge(value.to_string()),
            Value::Histogram { .. } => return None,
        };
        Some(Self { family: series.family.into(), labels: series.labels.clone(), value })
    }

    /// `None` if this version has no such family, or the number is none.
    fn series(self) -> Option<Series> {
        let value = match self.value {
            Number::Counter(count) => Value::Counter(count),
            Number::Seconds(text) => Value::Seconds(text.parse().ok()?),
            Number::Gauge(text) => Value::Gauge(text.parse().ok()?),
        };
        let family = catalogue::family(&self.family)?.name;
        Some(Series { family, labels: self.labels, value, exemplar: None })
    }
}

/// The lines of a saved state.
fn state_lines(state: &[u8]) -> impl Iterator<Item = Bytes> + '_ {
    state.chunks(STATE_PART).filter_map(|part| Entry::State(STANDARD.encode(part)).line())
}

#[cfg(test)]
mod tests;
