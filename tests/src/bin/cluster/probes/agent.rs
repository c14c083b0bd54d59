//! The agent's side, by its `/api/v1/probes`: its mirrored probes, and what it knows of the kubelet's own.
//!
//! Its verdicts of the kubelet are held against the kubelet's metrics as kubectl gets them, and against the connections that it saw.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use probe_core::probes::{ProbeResult, ProbeType};
use serde_json::Value;
use world::agent::Ports;

use super::judge::Ours;
use super::kubelet::Counts;
use super::rows::Case;
use crate::pods::NAMESPACE;

/// The chart's values meanwhile.
pub(super) const VALUES: &str = "agent.probes=mirror,agent.probesExec=true,agent.kubeletMetrics.enabled=true,agent.kubeletMetrics.period=2s";
/// Verdicts of a settled row's span that have to agree with connections.
pub(super) const VERDICTS: u64 = 5;

/// Its rows, by pod and kind of probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows(BTreeMap<(String, String), Value>);

impl Rows {
    pub(super) fn read(agent: &Ports) -> anyhow::Result<Self> {
        let mut answer = agent.api(&format!("/api/v1/probes?namespace={NAMESPACE}"))?;
        let rows: Vec<Value> = serde_json::from_value(answer["probes"].take()).context("a list of probes")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self(
            rows.into_iter()
                .map(|row| ((text(&row["pod"]["name"]), text(&row["probe_type"])), row))
                .collect(),
        ))
    }

    /// The row of a case.
    pub(super) fn of(&self, case: &Case) -> Value {
        self.0.get(&(case.name.to_owned(), case.kind.to_string())).cloned().unwrap_or(Value::Null)
    }
}

/// The kubelet's counts as the agent has them.
pub(super) fn counts(row: &Value) -> Counts {
    let verdicts = &row["kubelet"]["verdicts"];
    let of = |result: &str| verdicts[result].as_f64().unwrap_or_default();
    Counts { successful: of("success"), failed: of("failure"), unknown: of("unknown") }
}

/// The kubelet's commands that it saw.
pub(super) fn commands(row: &Value) -> Option<f64> {
    row["kubelet"]["exec"]["count"].as_f64()
}

/// Verdicts and connections of the span so far, in words; none before there is one, an error if they differ.
pub(super) fn reconciled(row: &Value) -> anyhow::Result<Option<(u64, String)>> {
    let span = &row["kubelet"]["reconciled"];
    if span.is_null() {
        return Ok(None);
    }
    let number = |value: &Value| value.as_u64().with_context(|| format!("{span}"));
    let verdicts = number(&span["verdicts"])?;
    let (least, most) = (number(&span["seen"]["least"])?, number(&span["seen"]["most"])?);
    ensure!(span["difference"] == 0, "verdicts and connections differ: {span}");
    let seen = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Ok(Some((verdicts, format!("{verdicts} verdicts of {seen} connections"))))
}

/// A mirrored probe, looked at while the kubelet probes.
pub(super) struct Mirrored {
    kind: ProbeType,
    success_threshold: i64,
    failure_threshold: i64,
    /// As it was at the beginning.
    before: Value,
    last: Value,
    seen: Ours,
    has_learnt: bool,
}

impl Mirrored {
    /// `before`: its row when the kubelet's account begins; null if that is with the container.
    pub(super) fn new(case: &Case, before: &Value) -> Self {
        Self {
            kind: case.kind,
            success_threshold: case.number("successThreshold", 1).into(),
            failure_threshold: case.number("failureThreshold", 3).into(),
            before: before["mirror"].clone(),
            last: Value::Null,
            seen: Ours::default(),
            has_learnt: false,
        }
    }

    /// Its row now.
    pub(super) fn saw(&mut self, row: &Value) {
        let mirror = &row["mirror"];
        let last = &mirror["last"];
        if last.is_null() {
            return;
        }
        let result = last["result"].as_str().unwrap_or_default().to_owned();
        if last["at"] != self.before["last"]["at"] {
            let said = last["output"].as_str().unwrap_or_default().to_owned();
            self.seen.said.insert((result.clone(), said));
        }
        let run = mirror["consecutive"].as_i64().unwrap_or_default();
        let is_success = matches!(result.as_str(), "success" | "warning");
        // What was believed before the first verdict is believed by everybody.
        let (state, initial, threshold, is_of_run) = match mirror["state"].as_str() {
            Some("up") => (ProbeResult::Success, ProbeResult::Success, self.success_threshold, is_success),
            Some("down") => (ProbeResult::Failure, ProbeResult::Failure, self.failure_threshold, !is_success),
            _ => return self.last.clone_from(mirror),
        };
        if self.kind.initial() != initial || (is_of_run && run >= threshold) {
            self.seen.believes(state);
            self.has_learnt = true;
        }
        self.last.clone_from(mirror);
    }

    /// What was seen, as the sampler has it.
    pub(super) fn finish(mut self) -> Ours {
        for result in ["success", "warning", "failure", "unknown"] {
            let of = |row: &Value| row["attempts"][result].as_u64().unwrap_or_default();
            let count = of(&self.last) - of(&self.before);
            if count > 0 {
                self.seen.results.insert(result.to_owned(), count);
            }
        }
        if !self.has_learnt {
            self.seen.believes(self.kind.initial());
        }
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::probes::rows;

    fn case(name: &str) -> Case {
        rows::all().into_iter().find(|case| case.name == name).expect("a case")
    }

    fn row(state: &str, run: u32, (success, failure): (u32, u32), (at, result): (u32, &str)) -> Value {
        json!({"mirror": {"state": state, "consecutive": run, "attempts": {"success": success, "warning": 0, "failure": failure, "unknown": 0},
            "last": {"at": at, "result": result, "output": format!("{result} {at}")}}})
    }

    #[test]
    fn what_was_believed_before_any_verdict_is_not_learnt() {
        let case = case("flap-above");
        let mut mirrored = Mirrored::new(&case, &Value::Null);
        mirrored.saw(&json!({"mirror": null}));
        mirrored.saw(&row("down", 1, (0, 1), (1, "failure")));
        assert!(!mirrored.has_learnt);
        mirrored.saw(&row("up", 1, (1, 1), (2, "success")));
        mirrored.saw(&row("down", 2, (1, 3), (4, "failure")));
        let mut expected = Ours::default();
        expected.believes(ProbeResult::Success);
        expected.believes(ProbeResult::Failure);
        expected.results = [("success".to_owned(), 1), ("failure".to_owned(), 3)].into();
        let said = [("failure", 1), ("success", 2), ("failure", 4)];
        expected.said = said.map(|(result, at)| (result.to_owned(), format!("{result} {at}"))).into();
        assert_eq!(mirrored.finish(), expected);
    }

    #[test]
    fn what_was_there_before_the_window_does_not_count() {
        let case = case("http-ok");
        let before = row("up", 5, (5, 0), (5, "success"));
        let mut mirrored = Mirrored::new(&case, &before);
        mirrored.saw(&before);
        mirrored.saw(&row("up", 7, (7, 0), (7, "success")));
        let ours = mirrored.finish();
        assert_eq!(ours.results, [("success".to_owned(), 2)].into());
        assert_eq!(ours.said, [("success".to_owned(), "success 7".to_owned())].into());
    }

    #[test]
    fn a_difference_is_an_error_and_no_span_is_none() {
        let row = |difference: i64| json!({"kubelet": {"reconciled": {"verdicts": 7, "seen": {"least": 6, "most": 8}, "difference": difference}}});
        assert_eq!(reconciled(&json!({"kubelet": null})).expect("no span"), None);
        let words = "7 verdicts of 6 to 8 connections".to_owned();
        assert_eq!(reconciled(&row(0)).expect("they agree"), Some((7, words)));
        reconciled(&row(-1)).expect_err("they differ");
    }
}
