//! Results of probes as text and as JSON. What a server sent is shown on one line, without control characters.

use super::succeeded;
use super::target::Target;
use probe_core::probes::ProbeType;
use probe_engine::{Outcome, Phase, Verdict};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Most characters of an output that people are shown; JSON has all.
const SHOWN: usize = 400;

/// One result in full.
pub(super) fn details(target: &Target, outcome: &Outcome, color: bool) -> String {
    let mut text = format!("{}{}\n", verdict(outcome, color), summary_of(target, outcome));
    let label = if succeeded(outcome) { "output" } else { "why" };
    if !outcome.output.is_empty() {
        text.push_str(&format!("{label:<11} {}\n", on_one_line(&outcome.output)));
    }
    if let Some(cause) = &outcome.cause {
        text.push_str(&format!("{:<11} {}\n", "cause", on_one_line(cause)));
    }
    match outcome.verdict {
        Verdict::Warning => {
            text.push_str("kubelet     counts this as success and writes an event ProbeWarning\n")
        }
        Verdict::Unknown => {
            text.push_str(
                "kubelet     discards this run: thresholds stay as they are, an event says that it errored\n",
            );
        }
        Verdict::Success | Verdict::Failure => {}
    }
    for redirect in &outcome.redirects {
        text.push_str(&format!("{:<11} {}\n", "redirect", on_one_line(redirect)));
    }
    for phase in Phase::ALL {
        if let Some(time) = outcome.phases.get(phase) {
            let late = if outcome.timed_out_in == Some(phase) { "  timeout" } else { "" };
            text.push_str(&format!("{:<11} {:>11}{late}\n", label_of(phase), milliseconds(time)));
        }
    }
    text
}

/// One of several results.
pub(super) fn line(number: u64, target: &Target, outcome: &Outcome, color: bool) -> String {
    let mut text = format!("{number:<5} {}{}", verdict(outcome, color), summary_of(target, outcome));
    for phase in Phase::ALL {
        if let Some(time) = outcome.phases.get(phase) {
            text.push_str(&format!("  {} {}", label_of(phase), milliseconds(time)));
        }
    }
    if !succeeded(outcome) {
        text.push_str(&format!("  {}", on_one_line(outcome.cause.as_ref().unwrap_or(&outcome.output))));
    }
    text + "\n"
}

/// One result of a pod's probes.
pub(super) fn pod_details(
    container: &str,
    kind: ProbeType,
    target: &Target,
    outcome: &Outcome,
    color: bool,
) -> String {
    let result = details(target, outcome, color);
    let indented: String = result.lines().skip(1).map(|line| format!("  {line}\n")).collect();
    format!("{container} {kind}: {}\n{indented}", result.lines().next().unwrap_or_default())
}

/// A probe of a pod that was not run.
pub(super) fn pod_skipped(container: &str, kind: ProbeType, why: &str) -> String {
    format!("{container} {kind}: SKIPPED  {}\n", on_one_line(why))
}

/// One result of a pod's probes for programs.
pub(super) fn pod_json(
    pod: &str,
    container: &str,
    kind: ProbeType,
    target: &Target,
    outcome: &Outcome,
) -> String {
    let mut value = object(target, outcome);
    value["pod"] = json!(pod);
    value["container"] = json!(container);
    value["probe_type"] = json!(kind.to_string());
    format!("{value}\n")
}

/// The same of a probe that was not run.
pub(super) fn pod_skipped_json(pod: &str, container: &str, kind: ProbeType, why: &str) -> String {
    let kind = kind.to_string();
    let value =
        json!({"pod": pod, "container": container, "probe_type": kind, "result": null, "skipped": why});
    format!("{value}\n")
}

/// One result for programs, on one line.
pub(super) fn json(target: &Target, outcome: &Outcome) -> String {
    format!("{}\n", object(target, outcome))
}

fn object(target: &Target, outcome: &Outcome) -> Value {
    let phases: Map<String, Value> = Phase::ALL
        .into_iter()
        .filter_map(|phase| {
            Some((format!("{}_seconds", phase.word()), json!(outcome.phases.get(phase)?.as_secs_f64())))
        })
        .collect();
    json!({
        "handler": target.handler,
        "target": target.name,
        "result": outcome.verdict.word(),
        "output": outcome.output,
        "cause": outcome.cause,
        "attempts": outcome.attempts,
        "duration_seconds": outcome.duration.as_secs_f64(),
        "phases": phases,
        "timed_out_in": outcome.timed_out_in.map(Phase::word),
        "peer": outcome.peer.map(|peer| peer.to_string()),
        "status": outcome.status,
        "protocol": outcome.protocol,
        "redirects": outcome.redirects,
    })
}

/// What several results have in common.
#[derive(Debug, Default)]
pub(super) struct Summary {
    succeeded: u64,
    failed: u64,
    shortest: Option<Duration>,
    longest: Duration,
    total: Duration,
}

impl Summary {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        match succeeded(outcome) {
            true => self.succeeded += 1,
            false => self.failed += 1,
        }
        self.shortest =
            Some(self.shortest.map_or(outcome.duration, |shortest| shortest.min(outcome.duration)));
        self.longest = self.longest.max(outcome.duration);
        self.total += outcome.duration;
    }

    pub(super) const fn probes(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// No is the answer also if there was no probe.
    pub(super) const fn all_succeeded(&self) -> bool {
        self.failed == 0 && self.succeeded > 0
    }

    pub(super) fn text(&self) -> String {
        let probes = self.probes();
        let counted = format!("{} of {probes} succeeded", self.succeeded);
        match (self.shortest, u32::try_from(probes)) {
            (Some(shortest), Ok(count)) => format!(
                "{counted}; shortest {}, mean {}, longest {}\n",
                milliseconds(shortest),
                milliseconds(self.total / count),
                milliseconds(self.longest)
            ),
            _ => counted + "\n",
        }
    }
}

/// The verdict, as wide as the widest.
fn verdict(outcome: &Outcome, color: bool) -> String {
    let word = outcome.verdict.word().to_uppercase();
    let code = match outcome.verdict {
        Verdict::Success => 32,
        Verdict::Warning | Verdict::Unknown => 33,
        Verdict::Failure => 31,
    };
    match color {
        true => format!("\x1b[{code}m{word}\x1b[0m{:<1$}", "", 9 - word.len()),
        false => format!("{word:<9}"),
    }
}

fn summary_of(target: &Target, outcome: &Outcome) -> String {
    let mut text = format!("{}  {}", target.name, milliseconds(outcome.duration));
    if let Some(status) = outcome.status.filter(|_| target.handler != "grpc") {
        text.push_str(&format!("  {status}"));
    }
    if let Some(protocol) = outcome.protocol {
        text.push_str(&format!("  {protocol}"));
    }
    if outcome.attempts > 1 {
        text.push_str(&format!("  {} attempts", outcome.attempts));
    }
    text
}

const fn label_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "resolve",
        Phase::Connect => "connect",
        Phase::Tls => "tls",
        Phase::FirstByte => "first byte",
        Phase::Body => "body",
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn on_one_line(text: &str) -> String {
    let mut shown: String = text
        .trim_end()
        .chars()
        .take(SHOWN)
        .map(|character| match character {
            '\n' | '\r' | '\t' => ' ',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect();
    if text.trim_end().chars().count() > SHOWN {
        shown.push_str(&format!("... ({} bytes)", text.len()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_engine::{Handler, Phases, Probe, TcpSocket};

    fn target() -> Target {
        let handler = Handler::Tcp(TcpSocket { host: "h".to_owned(), port: 1 });
        let probe = Probe { handler, timeout: Duration::from_secs(1), user_agent: String::new() };
        Target { probe, name: "h:1".to_owned(), handler: "tcp", interval: Duration::from_secs(1) }
    }

    fn outcome(verdict: Verdict, output: &str) -> Outcome {
        Outcome {
            verdict,
            output: output.to_owned(),
            cause: None,
            attempts: 1,
            duration: Duration::from_micros(1500),
            phases: Phases::default(),
            timed_out_in: None,
            peer: None,
            status: None,
            protocol: None,
            is_refused: false,
            redirects: Vec::new(),
        }
    }

    #[test]
    fn the_verdict_comes_first_and_colours_only_where_asked_for() {
        let bad = outcome(Verdict::Failure, "refused\x1b[2J\nreally");
        assert_eq!(
            details(&target(), &bad, false),
            "FAILURE  h:1  1.500 ms\nwhy         refused\u{fffd}[2J really\n"
        );
        assert!(details(&target(), &bad, true).starts_with("\x1b[31mFAILURE\x1b[0m  h:1"));
        let long = outcome(Verdict::Success, &"a".repeat(500));
        assert!(details(&target(), &long, false).ends_with("aaa... (500 bytes)\n"));
    }

    #[test]
    fn several_results_are_summed_up() {
        let mut summary = Summary::default();
        assert!(!summary.all_succeeded());
        summary.add(&outcome(Verdict::Warning, ""));
        assert!(summary.all_succeeded());
        summary.add(&Outcome { duration: Duration::from_millis(3), ..outcome(Verdict::Unknown, "") });
        assert!(!summary.all_succeeded());
        assert_eq!(summary.text(), "1 of 2 succeeded; shortest 1.500 ms, mean 2.250 ms, longest 3.000 ms\n");
    }
}
