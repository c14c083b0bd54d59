//! What a run says: the verdict first, then the table, then what is wrong row by row; and the same as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::rows::{BlindSpot, Confidence, Kind, Row};
use crate::verdict::Measured;

/// One row and what came of it.
pub(crate) struct Outcome {
    pub(crate) row: Row,
    /// An error is trouble of the world around it: nothing was measured.
    pub(crate) measured: anyhow::Result<Measured>,
    /// Losses without a partner, in words.
    pub(crate) unmatched: Vec<String>,
    /// How the replay of the agent's event log differs in what it says of this row.
    pub(crate) replay: Vec<String>,
}

impl Outcome {
    /// What does not hold; empty if all does.
    fn wrongs(&self) -> Vec<String> {
        match &self.measured {
            Ok(measured) => {
                let replay = self.replay.iter().map(|difference| format!("replay: {difference}"));
                measured.wrongs(&self.row.style).into_iter().chain(replay).collect()
            }
            Err(error) => vec![format!("{error:#}")],
        }
    }

    /// Whether the row shows what it has to.
    pub(crate) fn holds(&self) -> bool {
        self.wrongs().is_empty()
    }

    /// What does not hold, and the losses that have no partner.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.wrongs().into_iter().chain(self.unmatched.iter().cloned()).collect()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let style = &self.row.style;
        let mut row = json!({
            "server": style.server.name(), "shutdown": style.shutdown, "client": self.row.clients.name,
            "confidence": confidence(&self.row), "wrong": self.wrongs(),
        });
        if let Ok(measured) = &self.measured {
            row["requests"] = json!(measured.requests);
            row["failed"] = json!(measured.failed);
            row["attributed"] = json!(measured.attributed);
            row["client_only"] = json!(measured.client_only());
            row["agent_only"] = json!(measured.agent_only());
            row["by_error"] = json!(measured.by_error);
            row["by_class"] = json!(measured.by_class);
            row["late_answered"] = json!(measured.late_answered);
            if let Confidence::Inferred(BlindSpot { cites, .. }) = style.confidence {
                row["blind_spot"] = json!(cites);
                row["shared"] = json!(measured.shared);
                row["relative_error"] = json!(measured.relative_error());
            }
        }
        row
    }
}

/// Everything that a run says.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) outcomes: Vec<Outcome>,
    /// Rows that could not run, and why.
    pub(crate) skipped: Vec<(Row, String)>,
    /// How the replay of the agent's event log differs from what the agent said, all rows together.
    pub(crate) replay: Vec<String>,
    /// A skip is a failure.
    pub(crate) complete: bool,
}

impl Report {
    /// Whether everything held.
    pub(crate) fn holds(&self) -> bool {
        let ran = !self.outcomes.is_empty() && self.outcomes.iter().all(Outcome::holds);
        ran && self.replay.is_empty() && (self.skipped.is_empty() || !self.complete)
    }

    /// For people: at most some fifteen columns of terminal width each line, the verdict first.
    pub(crate) fn text(&self) -> String {
        let mut text = self.headline();
        let _infallible = writeln!(
            text,
            "\n{:<46}{:>10}{:>9}{:>8}{:>8}{:>8}{:>7}{:>8}  lost by class",
            "server/shutdown/client", "confidence", "requests", "failed", "joined", "client", "agent", "late"
        );
        for outcome in &self.outcomes {
            let _infallible = match &outcome.measured {
                Ok(measured) => writeln!(text, "{}", line(outcome, measured)),
                Err(_) => writeln!(text, "{:<46}FAILED", outcome.row.name()),
            };
        }
        for (row, why) in &self.skipped {
            let _infallible = writeln!(text, "{:<46}skipped: {why}", row.name());
        }
        for outcome in self.outcomes.iter().filter(|outcome| !outcome.holds()) {
            let _infallible = writeln!(text, "\nFAILED  {}", outcome.row.name());
            for wrong in outcome.complaints() {
                let _infallible = writeln!(text, "        {wrong}");
            }
        }
        for difference in &self.replay {
            let _infallible = writeln!(text, "\nFAILED  replay of the agent's event log: {difference}");
        }
        text
    }

    fn headline(&self) -> String {
        let explained = |confidence: &str| {
            let of_such = |outcome: &&Outcome| self::confidence(&outcome.row) == confidence;
            let measured =
                self.outcomes.iter().filter(of_such).filter_map(|outcome| outcome.measured.as_ref().ok());
            measured.fold((0, 0), |(attributed, failed), measured| {
                (attributed + measured.attributed, failed + measured.failed)
            })
        };
        let (attributed, failed) = explained("observed");
        let inferred = match explained("inferred") {
            (_, 0) => String::new(),
            (attributed, failed) => format!(", {attributed} of {failed} where there is a blind spot"),
        };
        let controls: Vec<&Measured> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.row.style.kind == Kind::Control)
            .filter_map(|outcome| outcome.measured.as_ref().ok())
            .collect();
        let late: u64 = controls.iter().map(|measured| measured.late_answered).sum();
        let lost: u64 = controls.iter().map(|measured| measured.failed).sum();
        let wrong = self.outcomes.iter().filter(|outcome| !outcome.holds()).count();
        let verdict = if self.holds() { "OK     " } else { "FAILED " };
        let wrong = if wrong == 0 { String::new() } else { format!(", {wrong} wrong") };
        let skipped = match self.skipped.len() {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        format!(
            "{verdict} {} rows{wrong}{skipped}: {attributed} of {failed} lost requests explained, connection by connection{inferred}; {lost} of {late} late requests of controls lost\n",
            self.outcomes.len()
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let skipped: Vec<Value> =
            self.skipped.iter().map(|(row, why)| json!({"row": row.name(), "why": why})).collect();
        json!({"rows": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(), "skipped": skipped, "replay": self.replay})
    }
}

fn line(outcome: &Outcome, measured: &Measured) -> String {
    let mut line = format!(
        "{:<46}{:>10}{:>9}{:>8}{:>8}{:>8}{:>7}{:>8}  {}",
        outcome.row.name(),
        confidence(&outcome.row),
        measured.requests,
        measured.failed,
        measured.attributed,
        measured.client_only(),
        measured.agent_only(),
        measured.late_answered,
        listed(&measured.by_class),
    );
    if let Confidence::Inferred(BlindSpot { cites, .. }) = outcome.row.style.confidence {
        let percent = measured.relative_error() * 100.0;
        let _infallible = write!(line, "; error {percent:.1} % of failed ({cites})");
    }
    if !outcome.holds() {
        line.push_str("  WRONG");
    }
    line
}

fn confidence(row: &Row) -> &'static str {
    match row.style.confidence {
        Confidence::Observed => "observed",
        Confidence::Inferred(_) => "inferred",
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(class, count)| format!("{class} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use world::load::ErrorKind;

    use super::*;
    use crate::rows::rows;

    fn outcome(name: &str, measured: anyhow::Result<Measured>) -> Outcome {
        let row = rows(false, Some(name)).first().copied().expect("the row is in the table");
        let unmatched = vec!["10.78.0.2:9 request 1".to_owned()];
        Outcome { row, measured, unmatched, replay: Vec::new() }
    }

    fn lossy() -> Measured {
        Measured {
            requests: 900,
            failed: 30,
            attributed: 30,
            by_error: BTreeMap::from([(ErrorKind::ConnectRefused, 30)]),
            by_class: BTreeMap::from([("refused".to_owned(), 30)]),
            ..Measured::default()
        }
    }

    fn report(measured: anyhow::Result<Measured>) -> Report {
        Report { outcomes: vec![outcome("nginx/fast/keep-alive", measured)], ..Report::default() }
    }

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let report = Report {
            skipped: vec![(outcome("go/", Ok(lossy())).row, "go is not installed".to_owned())],
            ..report(Ok(lossy()))
        };
        let json = report.json();
        let row = json["rows"][0].as_object().expect("a row");
        for field in [
            "server",
            "shutdown",
            "client",
            "confidence",
            "requests",
            "failed",
            "attributed",
            "client_only",
            "agent_only",
            "by_error",
            "by_class",
            "late_answered",
        ] {
            assert!(row.contains_key(field), "{field}");
        }
        assert_eq!(row["by_error"], json!({"connect_refused": 30}));
        assert_eq!(row["confidence"], "observed");
        assert_eq!(json["skipped"][0]["why"], "go is not installed");
        assert_eq!(json["skipped"][0].as_object().map(serde_json::Map::len), Some(2));
    }

    #[test]
    fn the_verdict_comes_first_and_is_the_exit_status() {
        let good = report(Ok(lossy()));
        assert!(good.holds() && good.text().starts_with("OK      1 rows: 30 of 30"));
        let bad = report(Ok(Measured {
            attributed: 29,
            client_only: BTreeMap::from([(ErrorKind::Eof, 1)]),
            ..lossy()
        }));
        assert!(!bad.holds() && bad.text().starts_with("FAILED  1 rows, 1 wrong: 29 of 30"));
        assert!(bad.text().contains("10.78.0.2:9 request 1"));
        let trouble = report(Err(anyhow::anyhow!("no pod became Ready")));
        assert!(!trouble.holds() && trouble.text().contains("no pod became Ready"));
        let other = Report { replay: vec!["findings: at byte 7".to_owned()], ..report(Ok(lossy())) };
        assert!(!other.holds() && other.text().starts_with("FAILED") && other.text().contains("at byte 7"));
        let mut row = report(Ok(lossy()));
        row.outcomes[0].replay.push("findings: at byte 7".to_owned());
        assert!(!row.holds() && row.text().contains("replay: findings: at byte 7"));
        assert!(!Report::default().holds(), "nothing ran");
    }

    #[test]
    fn a_skip_is_a_failure_where_everything_has_to_run() {
        let skipped = vec![(outcome("java/", Ok(lossy())).row, "java is not installed".to_owned())];
        let mut report = Report { skipped, ..report(Ok(lossy())) };
        assert!(report.holds());
        report.complete = true;
        assert!(!report.holds());
    }

    #[test]
    fn an_inferred_row_prints_its_error_and_its_blind_spot() {
        let inferred = BTreeMap::from([("blackholed".to_owned(), 30)]);
        let client_only = BTreeMap::from([(ErrorKind::Timeout, 3)]);
        let measured = Measured { inferred, client_only, ..lossy() };
        let outcome = outcome("exit+address-gone/one", Ok(measured.clone()));
        let line = line(&outcome, &measured);
        let headline = Report { outcomes: vec![outcome], ..Report::default() }.headline();
        assert!(headline.contains("0 of 0 lost requests"), "{headline}");
        assert!(headline.contains("30 of 30 where there is a blind spot"), "{headline}");
        assert!(line.contains("error 10.0 % of failed (An address that is gone"), "{line}");
    }
}
