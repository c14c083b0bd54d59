//! What a probe gives: verdict, message, phases. No I/O.

use std::net::SocketAddr;
use std::time::Duration;

/// The four results of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Success.
    Success,
    /// Counts as success; the kubelet writes an event (`ProbeWarning`).
    Warning,
    /// Failure.
    Failure,
    /// The run had an error that says nothing of the container: the kubelet discards it, thresholds stay as they are.
    Unknown,
}

impl Verdict {
    /// In lower case, as in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a probe's time goes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host's name is looked up; an address has none of this.
    Resolve,
    /// TCP handshake.
    Connect,
    /// TLS handshake.
    Tls,
    /// From the connection to the first byte of the answer (gRPC: the server's settings and its answer).
    FirstByte,
    /// The rest of the answer.
    Body,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Resolve, Self::Connect, Self::Tls, Self::FirstByte, Self::Body];

    /// In lower case.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first_byte",
            Self::Body => "body",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Resolve => 0,
            Self::Connect => 1,
            Self::Tls => 2,
            Self::FirstByte => 3,
            Self::Body => 4,
        }
    }
}

/// How long each phase took; those of all redirects (for gRPC, of all dials) are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases([Option<Duration>; 5]);

impl Phases {
    /// None if the probe did not get so far or has no such phase.
    #[must_use]
    pub const fn get(&self, phase: Phase) -> Option<Duration> {
        self.0[phase.index()]
    }

    pub(crate) fn add(&mut self, phase: Phase, time: Duration) {
        *self.0[phase.index()].get_or_insert_default() += time;
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub verdict: Verdict,
    /// The kubelet's output: the body, or why it failed.
    pub output: String,
    /// What the output hides: why gRPC could not connect.
    pub cause: Option<String>,
    /// Runs that it took: more than one only if they ended in errors.
    pub attempts: u32,
    /// From the start to the verdict, all runs.
    pub duration: Duration,
    /// Of the last run.
    pub phases: Phases,
    /// The phase that the timeout ended; none if gRPC waited to dial again.
    pub timed_out_in: Option<Phase>,
    /// Who was connected to last.
    pub peer: Option<SocketAddr>,
    /// The last connect was refused: nobody listens there.
    pub is_refused: bool,
    /// Status of the last HTTP answer.
    pub status: Option<u16>,
    /// What was spoken: `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: Option<&'static str>,
    /// Where redirects led, at most ten.
    pub redirects: Vec<String>,
}
