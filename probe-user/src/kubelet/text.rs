//! The lines of the kubelet's `/metrics/probes` that matter, from Prometheus' text format: `prober_probe_total`, and when its process started.
//!
//! In: the answer, in pieces. Out: counts by pod, container and kind of probe. All other families are passed over unread, durations above all.
//! A line of these two that does not say what it should spoils the reading: half a reading would look like counters that vanished.

use probe_core::probes::ProbeType;
use probe_core::verdicts::{Counts, Told};
use std::collections::BTreeMap;
use thiserror::Error;

/// Longest answer: a hundred times that of a node with 110 pods of three probes each.
const BYTES_MAX: u64 = 64 << 20;
/// Longest line. Those of the kubelet have names and a uid as labels, each of at most 253 bytes.
const LINE_MAX: usize = 4 << 10;
/// Most probes.
const PROBES_MAX: usize = 10_000;
/// Up to here a float counts exactly (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

const VERDICTS: &str = "prober_probe_total";
const STARTED: &str = "process_start_time_seconds";

/// The answer cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// More than is read.
    #[error("more than {0}")]
    TooLarge(String),
    /// Not what a kubelet says.
    #[error("{0}")]
    Malformed(String),
}

/// Takes the answer as it comes; holds a line and the counts.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: u64,
    line: Vec<u8>,
    started: Option<u64>,
    counts: BTreeMap<(String, String, ProbeType), Counts>,
}

impl Parser {
    /// Takes the next piece.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), TextError> {
        self.bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if self.bytes > BYTES_MAX {
            return Err(TextError::TooLarge(format!("{} MiB", BYTES_MAX >> 20)));
        }
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LINE_MAX {
                return Err(TextError::TooLarge(format!("{LINE_MAX} bytes in a line")));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    /// The answer is over: the process's start, as a number that only has to differ, and what it counts.
    pub fn finish(mut self) -> Result<(u64, Vec<Told>), TextError> {
        self.end_line()?;
        let nobody = || TextError::Malformed(format!("no {STARTED}: these are not a kubelet's metrics"));
        let life = self.started.ok_or_else(nobody)?;
        let told = self.counts.into_iter().map(|((pod_uid, container, probe_type), counts)| Told {
            pod_uid,
            container,
            probe_type,
            counts,
        });
        Ok((life, told.collect()))
    }

    fn end_line(&mut self) -> Result<(), TextError> {
        let line = std::mem::take(&mut self.line);
        let wanted = [VERDICTS, STARTED].into_iter().find_map(|name| {
            let rest = line.strip_prefix(name.as_bytes())?;
            rest.starts_with(b"{").then_some((name, rest)).or(rest.starts_with(b" ").then_some((name, rest)))
        });
        let Some((name, rest)) = wanted else { return Ok(()) };
        let shown = || TextError::Malformed(format!("a line of {name} that makes no sense"));
        let rest = std::str::from_utf8(rest).map_err(|_not_text| shown())?;
        if name == STARTED {
            let (_, value) = sample(rest).ok_or_else(shown)?;
            self.started = Some(value.to_bits());
            return Ok(());
        }
        self.verdicts(rest).ok_or_else(shown)?;
        if self.counts.len() > PROBES_MAX {
            return Err(TextError::TooLarge(format!("{PROBES_MAX} probes")));
        }
        Ok(())
    }

    fn verdicts(&mut self, rest: &str) -> Option<()> {
        let (mut labels, value) = sample(rest)?;
        let is_count = (0.0..=EXACT).contains(&value) && value.fract() == 0.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number between 0 and 2^53"
        )]
        let count = is_count.then_some(value as u64)?;
        let probe_type =
            ProbeType::ALL.into_iter().find(|one| labels.get("probe_type") == Some(&one.to_string()))?;
        let key = (labels.remove("pod_uid")?, labels.remove("container")?, probe_type);
        let counts = self.counts.entry(key).or_default();
        let of_result = match labels.get("result")?.as_str() {
            "successful" => &mut counts.success,
            "failed" => &mut counts.failure,
            "unknown" => &mut counts.unknown,
            _ => return None,
        };
        *of_result = count;
        Some(())
    }
}

/// Labels and value of a sample, its name taken off. A moment behind the value is passed over.
fn sample(rest: &str) -> Option<(BTreeMap<&str, String>, f64)> {
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((labels, value))
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquoted(quoted)?;
        labels.insert(name, value);
        rest = after;
    }
}

/// A value up to its closing quote, and what follows that.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                _ => return None,
            },
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet of 1.36 writes it, shortened.
    const ANSWER: &str = r##"# HELP process_start_time_seconds [STABLE] Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.76385841275e+09
# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.
# TYPE prober_probe_duration_seconds histogram
prober_probe_duration_seconds_bucket{container="server",namespace="shop",pod="api-1",probe_type="Readiness",le="0.005"} 7
prober_probe_duration_seconds_count{container="server",namespace="shop",pod="api-1",probe_type="Readiness"} 12
# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.
# TYPE prober_probe_total counter
prober_probe_total{container="server",namespace="shop",pod="api-1",pod_uid="u-1",probe_type="Liveness",result="successful"} 3
prober_probe_total{container="server",namespace="shop",pod="api-1",pod_uid="u-1",probe_type="Readiness",result="failed"} 4
prober_probe_total{container="server",namespace="shop",pod="api-1",pod_uid="u-1",probe_type="Readiness",result="successful"} 1.234567e+06
prober_probe_total{container="side",namespace="shop",pod="api-1",pod_uid="u-1",probe_type="Startup",result="unknown"} 1
"##;

    fn parsed(answer: &[u8], piece: usize) -> Result<(u64, Vec<Told>), TextError> {
        let mut parser = Parser::default();
        for piece in answer.chunks(piece) {
            parser.take(piece)?;
        }
        parser.finish()
    }

    #[test]
    fn the_lines_that_matter_are_read_wherever_the_answer_is_cut() {
        let told = |container: &str, probe_type, (success, failure, unknown)| Told {
            pod_uid: "u-1".to_owned(),
            container: container.to_owned(),
            probe_type,
            counts: Counts { success, failure, unknown },
        };
        for piece in [1, 2, 3, 50, 1000, ANSWER.len()] {
            let (life, counts) = parsed(ANSWER.as_bytes(), piece).expect("a kubelet's answer");
            assert_eq!(life, 1_763_858_412.75_f64.to_bits());
            let expected = [
                told("server", ProbeType::Liveness, (3, 0, 0)),
                told("server", ProbeType::Readiness, (1_234_567, 4, 0)),
                told("side", ProbeType::Startup, (0, 0, 1)),
            ];
            assert_eq!(counts, expected, "in pieces of {piece}");
        }
        let none = parsed(b"process_start_time_seconds 1", 100).expect("no probe has run");
        assert_eq!(none, (1_f64.to_bits(), Vec::new()));
    }

    #[test]
    fn what_a_kubelet_would_not_say_spoils_the_reading() {
        let line = |labels: &str, value: &str| {
            format!("process_start_time_seconds 1\nprober_probe_total{labels} {value}\n")
        };
        let whole = r#"{container="c",pod_uid="u",probe_type="Readiness",result="failed"}"#;
        let told = parsed(line(whole, "7 1763858412000").as_bytes(), 100).expect("with a moment").1;
        assert_eq!(told[0].counts.failure, 7);
        for (labels, value) in [
            ("", "7"),
            (r#"{container="c",probe_type="Readiness",result="failed"}"#, "7"),
            (r#"{container="c",pod_uid="u",probe_type="readiness",result="failed"}"#, "7"),
            (r#"{container="c",pod_uid="u",probe_type="Readiness",result="skipped"}"#, "7"),
            (r#"{container="c",pod_uid="u",probe_type="Readiness",result="failed""#, "7"),
            (r#"{container="c,pod_uid="u",probe_type="Readiness",result="failed"}"#, "7"),
            (r#"{container="\c",pod_uid="u",probe_type="Readiness",result="failed"}"#, "7"),
            (whole, "-1"),
            (whole, "1.5"),
            (whole, "NaN"),
            (whole, "+Inf"),
            (whole, "1e300"),
            (whole, "seven"),
            (whole, ""),
        ] {
            let error = parsed(line(labels, value).as_bytes(), 100).expect_err(labels);
            assert_eq!(
                error,
                TextError::Malformed("a line of prober_probe_total that makes no sense".into())
            );
        }
        assert!(matches!(parsed(b"process_start_time_seconds{\xff} 1\n", 100), Err(TextError::Malformed(_))));
        for other in [&b""[..], b"<html>no metrics here</html>", b"process_start_time_seconds_total 1"] {
            let error = parsed(other, 100).expect_err("no kubelet");
            let expected = "no process_start_time_seconds: these are not a kubelet's metrics";
            assert_eq!(error, TextError::Malformed(expected.into()));
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let mut parser = Parser::default();
        assert_eq!(parser.take(&[b'x'; LINE_MAX]), Ok(()));
        assert!(matches!(parser.take(b"x"), Err(TextError::TooLarge(_))));

        let mut parser = Parser::default();
        let lines = b"other 1\n".repeat(1 << 17);
        let taken = (0..).take_while(|_| parser.take(&lines).is_ok()).count();
        assert_eq!(taken, 64);

        let mut parser = Parser::default();
        let line = |number: usize| {
            format!(
                "prober_probe_total{{pod_uid=\"{number}\",container=\"c\",probe_type=\"Startup\",result=\"failed\"}} 1\n"
            )
        };
        let taken = (0..).take_while(|number| parser.take(line(*number).as_bytes()).is_ok()).count();
        assert_eq!(taken, PROBES_MAX);
    }
}
