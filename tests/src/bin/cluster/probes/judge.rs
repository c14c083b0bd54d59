//! Whether the kubelet and drainscope say the same of a probe, and what was to be said. No I/O.
//!
//! Both are held to the case's table and to each other: kinds of results (the kubelet's by its counts), the very words of failures (by its Events),
//! and what was believed (by the container's status and the Events that say why it was killed).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use jiff::Timestamp;
use probe_core::probes::{ProbeResult, ProbeType};
use serde_json::Value;

use super::kubelet::{Counts, Event};
use super::rows::Case;

/// What drainscope saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ours {
    /// Runs by result.
    pub(super) results: BTreeMap<String, u64>,
    /// Results with what was said.
    pub(super) said: BTreeSet<(String, String)>,
    up: bool,
    down: bool,
}

impl Ours {
    pub(super) fn believes(&mut self, result: ProbeResult) {
        match result {
            ProbeResult::Success => self.up = true,
            ProbeResult::Failure => self.down = true,
            ProbeResult::Unknown => {}
        }
    }
}

/// What the kubelet said.
#[derive(Clone, Debug, Default)]
pub(super) struct Theirs {
    /// While both probed.
    pub(super) counts: Counts,
    /// Of all Events so far.
    said: BTreeSet<(String, String)>,
    /// Of those while both probed.
    said_since: BTreeSet<(String, String)>,
    up: bool,
    down: bool,
}

impl Theirs {
    /// A container's status while both probe.
    pub(super) fn saw(&mut self, kind: ProbeType, status: &Value) {
        match kind {
            ProbeType::Readiness if status["ready"] == true => self.up = true,
            ProbeType::Readiness => self.down = true,
            ProbeType::Startup if status["started"] == true => self.up = true,
            // Not started yet is no verdict, and a liveness probe that passes shows nowhere.
            ProbeType::Startup | ProbeType::Liveness => {}
        }
    }

    /// The pod's Events, at the end; none of those before `since` is held against the other side.
    pub(super) fn take_events(&mut self, kind: ProbeType, events: &[Event], since: Option<Timestamp>) {
        let killed = format!("failed {} probe, will be restarted", kind.to_string().to_lowercase());
        for event in events {
            self.down |= event.reason == "Killing" && event.message.contains(&killed);
            if let Some(said) = said(kind, event) {
                // Events' moments have whole seconds.
                if since.is_some_and(|since| event.last.as_second() > since.as_second()) {
                    self.said_since.insert(said.clone());
                }
                self.said.insert(said);
            }
        }
    }
}

/// Result and output, by the words of the kubelet's prober.
fn said(kind: ProbeType, event: &Event) -> Option<(String, String)> {
    let rest = event.message.strip_prefix(&format!("{kind} probe "))?;
    let (result, text) = match event.reason.as_str() {
        "ProbeWarning" => ("warning", rest.strip_prefix("warning: ")?),
        "Unhealthy" => match rest.strip_prefix("failed: ") {
            Some(text) => ("failure", text),
            None => ("unknown", rest.strip_prefix("errored and resulted in ")?.split_once(" state: ")?.1),
        },
        _ => return None,
    };
    // The API server keeps messages without the blanks at their end.
    Some((result.to_owned(), text.trim_end().to_owned()))
}

/// What both say, in words; an error names the difference.
pub(super) fn judge(case: &Case, ours: &Ours, theirs: &Theirs) -> anyhow::Result<String> {
    let results: BTreeSet<&str> = ours.results.keys().map(String::as_str).collect();
    let wanted: BTreeSet<&str> = case.results.iter().copied().collect();
    ensure!(results == wanted, "ours are {:?}, wanted {wanted:?}: {:?}", ours.results, ours.said);
    let counts = theirs.counts;
    let has = |result: &str| wanted.contains(result);
    let counted = (counts.successful > 0.0, counts.failed > 0.0);
    let right = (has("success") || has("warning"), has("failure"));
    ensure!(counted == right && counts.unknown == 0.0, "the kubelet counts {counts:?}");
    // The first success of a startup probe is its last.
    let once = case.kind != ProbeType::Startup || counts.successful < 2.0;
    ensure!(once, "the kubelet counts {counts:?}");
    let mut equal = BTreeSet::new();
    for (result, text) in ours.said.iter().filter(|(result, _)| result != "success") {
        let words = (result.clone(), text.trim_end().to_owned());
        ensure!(theirs.said.contains(&words), "we say {words:?}, the kubelet {:?}", theirs.said);
        ensure!(text.contains(case.says), "{text:?} has not {:?}", case.says);
        equal.insert(words);
    }
    let unheard: Vec<_> = theirs.said_since.difference(&equal).collect();
    ensure!(unheard.is_empty(), "the kubelet says {unheard:?}, we {:?}", ours.said);
    let wanted = (case.up, case.down);
    let theirs_shown =
        if case.kind == ProbeType::Liveness { (case.up, theirs.down) } else { (theirs.up, theirs.down) };
    ensure!(theirs_shown == wanted, "the kubelet's (up, down) is {theirs_shown:?}, wanted {wanted:?}");
    ensure!(
        (ours.up, ours.down) == wanted,
        "our (up, down) is {:?}, wanted {wanted:?}",
        (ours.up, ours.down)
    );
    let believed = match wanted {
        (true, true) => "up and down by turns",
        (true, false) => "up",
        (false, _) => "down",
    };
    let runs = ours.results.iter().map(|(result, count)| format!("{count} {result}"));
    let runs = runs.collect::<Vec<_>>().join(", ");
    let words = if equal.is_empty() { "" } else { ", in the kubelet's words" };
    Ok(format!(
        "{believed}; {runs}{words}; it counts {} successful, {} failed",
        counts.successful, counts.failed
    ))
}

#[cfg(test)]
mod tests;
