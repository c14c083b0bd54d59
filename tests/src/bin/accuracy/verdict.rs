//! What a row measured, and whether that is what it has to show. Pure: no tolerance, no I/O.

use std::collections::BTreeMap;

use world::agent::{Metrics, Termination};
use world::judge::{self, Verdict};
use world::load::{Attempt, ErrorKind};

use crate::rows::{BlindSpot, Confidence, Kind, LEAST_LATE, LEAST_LOSSES, Row, Style};
use world::clients::Tally;

/// What came of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) attributed: u64,
    /// Of these, how many share the agent's evidence with another of their connection: it counts one loss for all of them.
    pub(crate) shared: u64,
    /// Failures without evidence, by error.
    pub(crate) client_only: BTreeMap<ErrorKind, u64>,
    /// Evidence without a failure, by confidence.
    pub(crate) agent_only: BTreeMap<String, u64>,
    pub(crate) by_error: BTreeMap<ErrorKind, u64>,
    /// Evidence with a partner.
    pub(crate) by_class: BTreeMap<String, u64>,
    /// Late requests that were answered, as the agent counts them.
    pub(crate) late_answered: u64,
    /// Evidence with confidence `inferred`, by class.
    pub(crate) inferred: BTreeMap<String, u64>,
    /// Where counters, evidence and metrics of the agent say different numbers, or where it says that it missed something.
    pub(crate) disagreements: Vec<String>,
}

impl Measured {
    /// From what both sides said of the ends of a workload's pods; it has no other ends.
    pub(crate) fn new(
        row: &Row,
        tally: &Tally,
        verdict: &Verdict,
        ends: &[Termination],
        metrics: &Metrics,
    ) -> Self {
        let mut inferred: BTreeMap<String, u64> = BTreeMap::new();
        for item in ends.iter().flat_map(|end| &end.evidence).filter(|item| item.confidence == "inferred") {
            *inferred.entry(item.class.clone()).or_default() += item.attempts;
        }
        let mut agent_only: BTreeMap<String, u64> = BTreeMap::new();
        for (_, item) in &verdict.agent_only {
            *agent_only.entry(item.confidence.clone()).or_default() += item.attempts;
        }
        Self {
            requests: tally.summary.total.requests,
            failed: verdict.failed,
            attributed: verdict.attributed,
            shared: verdict.shared,
            client_only: by_error(verdict.client_only.iter()),
            agent_only,
            by_error: by_error(tally.attempts.iter()),
            by_class: verdict.by_class.clone(),
            late_answered: ends.iter().map(|end| end.requests.late_answered).sum(),
            inferred,
            disagreements: disagreements(row, verdict, ends, metrics),
        }
    }

    /// What does not hold, in words; empty if the row shows what it has to.
    pub(crate) fn wrongs(&self, style: &Style) -> Vec<String> {
        const NONE: BlindSpot = BlindSpot { cites: "", classes: &[], unseen: &[] };
        let mut wrongs = self.disagreements.clone();
        let blind = match style.confidence {
            Confidence::Observed => NONE,
            Confidence::Inferred(blind) => blind,
        };
        for (error, number) in self.client_only.iter().filter(|(error, _)| !blind.unseen.contains(error)) {
            wrongs.push(format!("{number} losses ({error:?}) only the clients know"));
        }
        let may_infer = !blind.classes.is_empty();
        for (confidence, number) in
            self.agent_only.iter().filter(|(confidence, _)| !(may_infer && *confidence == "inferred"))
        {
            wrongs.push(format!("{number} {confidence} losses only the agent knows"));
        }
        for (class, number) in
            self.inferred.iter().filter(|(class, _)| !blind.classes.contains(&class.as_str()))
        {
            wrongs.push(format!("{number} {class} are inferred, and no blind spot says why"));
        }
        match style.kind {
            Kind::Lossy if self.failed < LEAST_LOSSES => {
                wrongs.push(format!("{} losses, fewer than {LEAST_LOSSES}", self.failed));
            }
            Kind::Control if self.failed > 0 => wrongs.push(format!("a control lost {}", self.failed)),
            Kind::Control if self.late_answered < LEAST_LATE => {
                wrongs.push(format!("{} late requests, fewer than {LEAST_LATE}", self.late_answered));
            }
            Kind::Lossy | Kind::Control => {}
        }
        wrongs
    }

    /// Losses that have no partner, or not one of their own, relative to the clients' failures.
    pub(crate) fn relative_error(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of one row, far below 2^53")]
        let ratio = (self.client_only() + self.agent_only() + self.shared) as f64 / self.failed.max(1) as f64;
        ratio
    }

    /// Failures without evidence.
    pub(crate) fn client_only(&self) -> u64 {
        self.client_only.values().sum()
    }

    /// Evidence without a failure.
    pub(crate) fn agent_only(&self) -> u64 {
        self.agent_only.values().sum()
    }
}

fn by_error<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> BTreeMap<ErrorKind, u64> {
    let mut counts = BTreeMap::new();
    for error in attempts.filter_map(|attempt| attempt.error) {
        *counts.entry(error).or_default() += 1;
    }
    counts
}

/// Counters, evidence and metrics hold the same numbers by class and confidence, and nothing was lost while running.
fn disagreements(row: &Row, verdict: &Verdict, ends: &[Termination], metrics: &Metrics) -> Vec<String> {
    let mut found = judge::disagreements(metrics, &row.workload(), ends);
    for (pod, counted, shown) in &verdict.miscounted {
        found.push(format!("{pod} counted {counted} and shows {shown}"));
    }
    for end in ends {
        let name = &end.pod.name;
        if !end.complete {
            found.push(format!("{name} is not complete: {:?}", end.anomalies));
        }
        if end.evidence_refused > 0 {
            found.push(format!(
                "{name} has more losses than the ring took: the row is too large to be judged"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Stage;
    use crate::styles::STYLES;

    fn style(kind: Kind, stage: Stage) -> &'static Style {
        let fits = |style: &&Style| style.kind == kind && style.stage == stage;
        STYLES.iter().find(fits).expect("the table has such a style")
    }

    fn lossy() -> Measured {
        let by_class = BTreeMap::from([("refused".to_owned(), 30)]);
        Measured { requests: 900, failed: 30, attributed: 30, by_class, ..Measured::default() }
    }

    fn met(error: ErrorKind) -> BTreeMap<ErrorKind, u64> {
        BTreeMap::from([(error, 1)])
    }

    fn some(class: &str) -> BTreeMap<String, u64> {
        BTreeMap::from([(class.to_owned(), 1)])
    }

    #[test]
    fn an_observed_row_has_no_tolerance() {
        let style = style(Kind::Lossy, Stage::Usual);
        let wrongs = |measured: Measured| measured.wrongs(style).len();
        assert_eq!(wrongs(lossy()), 0);
        for (wrong, measured) in [
            ("client only", Measured { client_only: met(ErrorKind::Truncated), ..lossy() }),
            ("agent only", Measured { agent_only: some("observed"), ..lossy() }),
            ("agent only, inferred", Measured { agent_only: some("inferred"), ..lossy() }),
            ("inferred", Measured { inferred: some("blackholed"), ..lossy() }),
            ("few", Measured { failed: LEAST_LOSSES - 1, ..lossy() }),
            ("numbers", Measured { disagreements: vec!["metric 1, evidence 2".to_owned()], ..lossy() }),
        ] {
            assert_eq!(wrongs(measured), 1, "{wrong}");
        }
    }

    #[test]
    fn an_inferred_row_is_as_blind_as_it_cites_and_no_more() {
        let style = style(Kind::Lossy, Stage::AddressGone);
        let good = || Measured {
            inferred: some("blackholed"),
            client_only: BTreeMap::from([(ErrorKind::ConnectTimeout, 3)]),
            ..lossy()
        };
        let wrongs = |measured: Measured| measured.wrongs(style).len();
        assert_eq!(wrongs(good()), 0);
        assert!((good().relative_error() - 0.1).abs() < 1e-9);
        assert!((Measured { shared: 3, ..good() }.relative_error() - 0.2).abs() < 1e-9);
        assert_eq!(wrongs(Measured { agent_only: some("inferred"), ..good() }), 0);
        for (wrong, measured) in [
            ("another class", Measured { inferred: some("refused"), ..good() }),
            ("another error", Measured { client_only: met(ErrorKind::ConnectRefused), ..good() }),
            ("agent only", Measured { agent_only: some("observed"), ..good() }),
        ] {
            assert!(wrongs(measured) > 0, "{wrong}");
        }
    }

    #[test]
    fn a_control_loses_nothing_of_many_late_requests() {
        let style = style(Kind::Control, Stage::Usual);
        let control = Measured { requests: 900, late_answered: LEAST_LATE, ..Measured::default() };
        assert!(control.wrongs(style).is_empty());
        let few = Measured { late_answered: LEAST_LATE - 1, ..control.clone() };
        assert_eq!(few.wrongs(style).len(), 1);
        assert_eq!(Measured { failed: 1, attributed: 1, ..control }.wrongs(style).len(), 1);
    }
}
