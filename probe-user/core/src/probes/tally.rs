//! What is kept of one worker's probes: how many had which result, the last one, and since when the connection is refused. No history.

use super::verdict::Outcome;
use crate::wallclock::Timestamp;

/// Longest output that is kept of a probe, in bytes: a worker must not cost what a page of an error costs.
pub const OUTPUT_MAX: usize = 512;

/// How long the parts of a probe took, in nanoseconds; `None`: it did not get so far or has no such part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// TCP handshake.
    pub connect: Option<u64>,
    /// TLS handshake.
    pub tls: Option<u64>,
    /// To the answer's first byte.
    pub first_byte: Option<u64>,
    /// The rest of the answer.
    pub body: Option<u64>,
}

/// A probe that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// When it began.
    pub at: Timestamp,
    /// What it saw.
    pub result: Outcome,
    /// What was said; cut to [`OUTPUT_MAX`] when it is kept.
    pub output: String,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// Where that went.
    pub parts: Parts,
    /// Its last connect was refused: nobody listens.
    pub is_refused: bool,
}

/// The sum of a worker's probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    attempts: [u64; Outcome::ALL.len()],
    last: Option<Ran>,
    refused_since: Option<Timestamp>,
}

impl Tally {
    /// Probes with this result.
    pub const fn attempts(&self, result: Outcome) -> u64 {
        self.attempts[result as usize]
    }

    /// The last probe.
    pub const fn last(&self) -> Option<&Ran> {
        self.last.as_ref()
    }

    /// Start of the first probe of those that were refused without one in between that was not.
    pub const fn refused_since(&self) -> Option<Timestamp> {
        self.refused_since
    }

    /// Takes a probe in.
    pub fn take(&mut self, mut ran: Ran) {
        let attempts = &mut self.attempts[ran.result as usize];
        *attempts = attempts.saturating_add(1);
        self.refused_since = ran.is_refused.then(|| self.refused_since.unwrap_or(ran.at));
        ran.output.truncate(ran.output.floor_char_boundary(OUTPUT_MAX));
        ran.output.shrink_to_fit();
        self.last = Some(ran);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(at: i64, result: Outcome, is_refused: bool) -> Ran {
        let parts = Parts::default();
        Ran { at: Timestamp(at), result, output: String::new(), duration_ns: 1, parts, is_refused }
    }

    #[test]
    fn refusals_are_dated_by_the_first_of_their_row() {
        let mut tally = Tally::default();
        for (at, result, is_refused, since) in [
            (1, Outcome::Success, false, None),
            (2, Outcome::Failure, true, Some(2)),
            (3, Outcome::Failure, true, Some(2)),
            (4, Outcome::Failure, false, None),
            (5, Outcome::Failure, true, Some(5)),
            (6, Outcome::Warning, false, None),
        ] {
            tally.take(ran(at, result, is_refused));
            assert_eq!(tally.refused_since(), since.map(Timestamp), "{at}");
        }
        assert_eq!(Outcome::ALL.map(|result| tally.attempts(result)), [1, 1, 4, 0]);
        assert_eq!(tally.last().map(|ran| ran.at), Some(Timestamp(6)));
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let mut tally = Tally::default();
        tally.take(Ran { output: "é".repeat(OUTPUT_MAX), ..ran(1, Outcome::Failure, false) });
        assert_eq!(tally.last().map(|ran| ran.output.len()), Some(OUTPUT_MAX));
        tally
            .take(Ran { output: format!("a{}", "é".repeat(OUTPUT_MAX)), ..ran(1, Outcome::Failure, false) });
        assert_eq!(tally.last().map(|ran| ran.output.len()), Some(OUTPUT_MAX - 1));
    }
}
