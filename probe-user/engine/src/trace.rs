//! What a run leaves behind while it goes on, so that a run that is cut off by its timeout still tells how far it came.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::outcome::{Outcome, Phase, Phases, Verdict};

/// How far a run is.
#[derive(Debug)]
pub(crate) struct Trace {
    started: Instant,
    deadline: Instant,
    open: Option<(Phase, Instant)>,
    last: Option<Phase>,
    phases: Phases,
    timed_out_in: Option<Phase>,
    /// The head of the answer is complete; for gRPC, the call is under way.
    pub(crate) halfway: bool,
    /// What is asked for now; redirects change it.
    pub(crate) url: String,
    pub(crate) peer: Option<SocketAddr>,
    /// The last connect was refused.
    pub(crate) is_refused: bool,
    pub(crate) status: Option<u16>,
    pub(crate) protocol: Option<&'static str>,
    pub(crate) redirects: Vec<String>,
    pub(crate) cause: Option<String>,
}

impl Trace {
    pub(crate) fn start(timeout: Duration) -> Self {
        let started = Instant::now();
        Self {
            started,
            deadline: started.checked_add(timeout).unwrap_or(started),
            open: None,
            last: None,
            phases: Phases::default(),
            timed_out_in: None,
            halfway: false,
            url: String::new(),
            peer: None,
            is_refused: false,
            status: None,
            protocol: None,
            redirects: Vec::new(),
            cause: None,
        }
    }

    /// Ends the phase before and begins this one.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.leave();
        self.open = Some((phase, Instant::now()));
        self.last = Some(phase);
    }

    /// Ends the phase.
    pub(crate) fn leave(&mut self) {
        if let Some((phase, since)) = self.open.take() {
            self.phases.add(phase, since.elapsed());
        }
    }

    /// The first byte of the answer is here.
    pub(crate) fn first_byte(&mut self) {
        if matches!(self.open, Some((Phase::FirstByte, _))) {
            self.enter(Phase::Body);
        }
    }

    /// The newest phase.
    pub(crate) const fn phase(&self) -> Option<Phase> {
        self.last
    }

    /// The timeout has ended the run; between two dials no phase goes on.
    pub(crate) fn time_out(&mut self) {
        self.timed_out_in = self.open.map(|(phase, _)| phase);
    }

    /// What is left of the timeout.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn finish(mut self, verdict: Verdict, output: String) -> Outcome {
        self.leave();
        Outcome {
            verdict,
            output,
            cause: self.cause,
            attempts: 1,
            duration: self.started.elapsed(),
            phases: self.phases,
            timed_out_in: self.timed_out_in,
            peer: self.peer,
            is_refused: self.is_refused,
            status: self.status,
            protocol: self.protocol,
            redirects: self.redirects,
        }
    }
}
