//! Holds the clients' tally against the agent's attribution, connection by connection.
//!
//! A failed attempt and an evidence are partners if the client's address and port, the number of the request and the kind of error fit. What has
//! no partner is reported on its side; there is no tolerance. The judge knows the two only by what they wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::ensure;

use crate::agent::{Evidence, Metrics, Termination};
use crate::load::{Attempt, ErrorKind};

/// How the two sides compare.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Failed attempts.
    pub failed: u64,
    /// Failed attempts with a partner.
    pub attributed: u64,
    /// Of these, how many share it with another of their connection.
    pub shared: u64,
    /// Failed attempts without one.
    pub client_only: Vec<Attempt>,
    /// Evidence without a failed attempt, with its pod's name.
    pub agent_only: Vec<(String, Evidence)>,
    /// Partners by class.
    pub by_class: BTreeMap<String, u64>,
    /// Terminations whose counters and evidence say different numbers: name, counted, shown.
    pub miscounted: Vec<(String, u64, u64)>,
}

impl Verdict {
    /// Every attempt has its partner and every counter its evidence.
    pub fn holds(&self) -> bool {
        self.client_only.is_empty() && self.agent_only.is_empty() && self.miscounted.is_empty()
    }
}

/// Classes that an error of a client can come from.
pub fn classes_of(error: ErrorKind) -> &'static [&'static str] {
    match error {
        ErrorKind::ConnectRefused => &["refused", "misrouted"],
        // The RST of a refusal is lost when the pod's interface goes at that moment.
        ErrorKind::ConnectTimeout => &["blackholed", "overflow", "refused"],
        ErrorKind::ConnectUnreachable => &["blackholed"],
        ErrorKind::ConnectReset => &["unaccepted", "refused"],
        ErrorKind::SendError | ErrorKind::Reset => {
            &["unaccepted", "unread", "unanswered", "stale_reuse", "truncated", "misrouted"]
        }
        // A connection that is made while its listener closes has a FIN before its reset.
        ErrorKind::Eof => &["unanswered", "stale_reuse", "misrouted", "unaccepted"],
        ErrorKind::Truncated => &["truncated"],
        ErrorKind::Timeout => {
            &["blackholed", "stale_reuse", "abandoned", "unanswered", "unread", "unaccepted"]
        }
        // The server's GOAWAY is a write of its own, unless the connection was closed already.
        ErrorKind::StreamRefused => &["unanswered", "unread", "stale_reuse"],
        ErrorKind::BadResponse | ErrorKind::StreamReset | ErrorKind::GrpcStatus => &[],
    }
}

/// Joins the failed attempts of `attempts` with the evidence of `terminations`.
pub fn join(attempts: &[Attempt], terminations: &[Termination]) -> Verdict {
    let (mut verdict, mut evidence) = shown(terminations);
    for attempt in attempts {
        let Some(error) = attempt.error else { continue };
        verdict.failed += 1;
        let candidates = evidence.entry(attempt.local).or_default();
        let fits =
            |item: &Evidence| item.request == attempt.nth && classes_of(error).contains(&item.class.as_str());
        match candidates.iter().position(|(_, item)| fits(item)) {
            Some(index) => {
                let (_, item) = candidates.swap_remove(index);
                *verdict.by_class.entry(item.class).or_default() += 1;
                verdict.attributed += 1;
            }
            None => verdict.client_only.push(*attempt),
        }
    }
    verdict.agent_only = evidence.into_values().flatten().collect();
    verdict
}

/// Both sides as if each failed attempt were the first of its connection. On a connection that is older than the agent, or than its word of the pod, the
/// agent counts requests from then on: the join goes by the connection alone. An error if more than one attempt failed on one.
pub fn without_numbers(
    mut attempts: Vec<Attempt>,
    mut ends: Vec<Termination>,
) -> anyhow::Result<(Vec<Attempt>, Vec<Termination>)> {
    let mut connections = BTreeSet::new();
    for attempt in &mut attempts {
        ensure!(connections.insert(attempt.local), "{} failed twice", attempt.local);
        attempt.nth = 1;
    }
    for item in ends.iter_mut().flat_map(|end| &mut end.evidence) {
        item.request = 1;
    }
    Ok((attempts, ends))
}

/// Evidence by the client's address and port, with its pod's name.
type Shown = BTreeMap<SocketAddr, Vec<(String, Evidence)>>;

/// What terminations show, and a verdict that says where their counters do not agree with it.
fn shown(terminations: &[Termination]) -> (Verdict, Shown) {
    let (mut verdict, mut evidence) = (Verdict::default(), Shown::new());
    for termination in terminations {
        let (counted, shown) = (termination.lost_total(), termination.shown());
        if counted != shown + termination.evidence_dropped {
            verdict.miscounted.push((termination.pod.name.clone(), counted, shown));
        }
        for item in &termination.evidence {
            evidence.entry(item.peer).or_default().push((termination.pod.name.clone(), item.clone()));
        }
    }
    (verdict, evidence)
}

/// Connections of many requests at once: what was lost on one of them is at least one, so all that failed on it share one evidence, whose
/// class fits one of them.
pub fn join_multiplexed(attempts: &[Attempt], terminations: &[Termination]) -> Verdict {
    let (mut verdict, mut evidence) = shown(terminations);
    let mut failed: BTreeMap<SocketAddr, Vec<(Attempt, ErrorKind)>> = BTreeMap::new();
    for attempt in attempts {
        let Some(error) = attempt.error else { continue };
        verdict.failed += 1;
        failed.entry(attempt.local).or_default().push((*attempt, error));
    }
    for (local, attempts) in failed {
        let candidates = evidence.entry(local).or_default();
        let fits = |class: &str| attempts.iter().any(|(_, error)| classes_of(*error).contains(&class));
        match candidates.iter().position(|(_, item)| fits(&item.class)) {
            Some(index) => {
                let (_, item) = candidates.swap_remove(index);
                *verdict.by_class.entry(item.class).or_default() += 1;
                let attributed = u64::try_from(attempts.len()).unwrap_or(u64::MAX);
                verdict.attributed += attributed;
                verdict.shared += attributed - 1;
            }
            None => verdict.client_only.extend(attempts.iter().map(|(attempt, _)| *attempt)),
        }
    }
    verdict.agent_only = evidence.into_values().flatten().collect();
    verdict
}

/// As [`join`], whatever the number of the request: for protocols whose requests the kernel cannot count. A connection loses one at most.
pub fn join_connections(attempts: &[Attempt], terminations: &[Termination]) -> Verdict {
    const ANY: u32 = 0;
    let attempts: Vec<Attempt> = attempts.iter().map(|&attempt| Attempt { nth: ANY, ..attempt }).collect();
    let mut terminations = terminations.to_vec();
    for item in terminations.iter_mut().flat_map(|termination| &mut termination.evidence) {
        item.request = ANY;
    }
    join(&attempts, &terminations)
}

/// The metric of lost requests.
pub const LOST: &str = "drainscope_lost_requests_total";

/// Where evidence, JSON and metrics of a workload's ends say different numbers, by class and confidence and in all; and what was lost while it
/// ran. In words, empty if they agree.
pub fn disagreements(metrics: &Metrics, workload: &str, terminations: &[Termination]) -> Vec<String> {
    let mut found = Vec::new();
    let mut shown: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    for end in terminations {
        if end.evidence_dropped > 0 {
            found.push(format!("{} has more losses than evidence", end.pod.name));
        }
        for item in &end.evidence {
            *shown.entry((&item.class, &item.confidence)).or_default() += item.attempts;
        }
        for (class, number) in &end.lost {
            *told.entry(class).or_default() += number;
        }
    }
    let workload = format!("target_workload=\"{workload}\"");
    for (class, told) in told {
        let mut of_class = 0;
        for confidence in ["observed", "inferred"] {
            let shown = shown.get(&(class, confidence)).copied().unwrap_or(0);
            let labels = [format!("reason=\"{class}\""), format!("confidence=\"{confidence}\"")];
            let counted = metrics.sum(LOST, &[&workload, &labels[0], &labels[1], "phase=\"terminating\""]);
            if !same(counted, shown) {
                found.push(format!("{class} {confidence}: metric {counted}, evidence {shown}"));
            }
            of_class += shown;
        }
        if told != of_class {
            found.push(format!("{class}: counters {told}, evidence {of_class}"));
        }
    }
    let all = metrics.sum(LOST, &[&workload, "phase=\"terminating\""]);
    let evidence = terminations.iter().map(Termination::shown).sum();
    if !same(all, evidence) {
        found.push(format!("metric {all} over all classes, evidence {evidence}"));
    }
    let running = metrics.sum(LOST, &[&workload, "phase=\"running\""]);
    if !same(running, 0) {
        found.push(format!("{running} lost while running"));
    }
    found
}

/// A sample is a whole number, and this one. Counters of a test stay far below 2^32.
pub fn same(sample: f64, number: u64) -> bool {
    u32::try_from(number).is_ok_and(|number| (sample - f64::from(number)).abs() < f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{ClientKind, Stage};

    fn attempt(port: u16, nth: u32, error: Option<ErrorKind>) -> Attempt {
        Attempt {
            t_ns: 1,
            start_ns: 1,
            end_ns: 2,
            due_ns: None,
            client: 0,
            kind: ClientKind::New,
            local: SocketAddr::from(([10, 78, 0, 2], port)),
            remote: SocketAddr::from(([10, 96, 0, 1], 80)),
            nth,
            status: None,
            error,
            stage: Some(Stage::Connect),
            sent: 0,
            received: 0,
            errno: None,
        }
    }

    fn termination(lost: u64, evidence: &[(u16, u32, &str)]) -> Termination {
        let evidence: Vec<_> = evidence
            .iter()
            .map(|(port, request, class)| {
                serde_json::json!({"at": "2026-01-01T00:00:00Z", "class": class, "confidence": "observed", "phase": "stopping",
                    "peer": format!("10.78.0.2:{port}"), "local": "10.77.0.2:8080", "request": request, "detail": ""})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "pod": {"namespace": "shop", "name": "api-1", "uid": "u"}, "trigger": "delete", "outcome": "exited", "silent": false, "state": "ended",
            "timeline": [], "containers": [], "connections": {"open_at_stop": 0, "late": 0}, "requests": {"late_answered": 0},
            "lost": {"refused": lost}, "expected": 0, "probes_excluded": 0, "tail_censored": false, "evidence": evidence, "evidence_dropped": 0,
            "complete": true, "anomalies": [],
        }))
        .expect("a termination")
    }

    #[test]
    fn partners_share_connection_request_and_kind() {
        let attempts = [
            attempt(1000, 1, Some(ErrorKind::ConnectRefused)),
            attempt(1001, 3, Some(ErrorKind::Eof)),
            attempt(1002, 1, None),
        ];
        let verdict = join(&attempts, &[termination(2, &[(1000, 1, "refused"), (1001, 3, "stale_reuse")])]);
        assert!(verdict.holds(), "{verdict:?}");
        assert_eq!((verdict.failed, verdict.attributed), (2, 2));
    }

    #[test]
    fn each_difference_is_reported_on_its_side() {
        for (name, attempts, evidence, client_only, agent_only) in [
            ("agent blind", vec![attempt(1, 1, Some(ErrorKind::Eof))], vec![], 1, 0),
            ("agent alone", vec![attempt(1, 1, None)], vec![(1, 1, "refused")], 0, 1),
            ("other request", vec![attempt(1, 2, Some(ErrorKind::Eof))], vec![(1, 1, "unanswered")], 1, 1),
            ("impossible class", vec![attempt(1, 1, Some(ErrorKind::Eof))], vec![(1, 1, "refused")], 1, 1),
            ("other port", vec![attempt(1, 1, Some(ErrorKind::Eof))], vec![(2, 1, "unanswered")], 1, 1),
            (
                "twice",
                vec![attempt(1, 1, Some(ErrorKind::ConnectRefused))],
                vec![(1, 1, "refused"), (1, 1, "refused")],
                0,
                1,
            ),
        ] {
            let counted = evidence.len() as u64;
            let verdict = join(&attempts, &[termination(counted, &evidence)]);
            assert_eq!(
                (verdict.client_only.len(), verdict.agent_only.len()),
                (client_only, agent_only),
                "{name}"
            );
            assert!(!verdict.holds(), "{name}");
        }
    }

    #[test]
    fn connections_are_joined_whatever_the_number_of_the_request() {
        let attempts = [attempt(1000, 2, Some(ErrorKind::Eof)), attempt(1001, 1, Some(ErrorKind::Eof))];
        let ends = [termination(2, &[(1000, 3, "unanswered"), (1000, 1, "unanswered")])];
        let verdict = join_connections(&attempts, &ends);
        assert_eq!(
            (verdict.attributed, verdict.client_only.len(), verdict.agent_only.len()),
            (1, 1, 1),
            "a partner each"
        );
        assert_eq!(verdict.agent_only.first().map(|(_, item)| item.peer.port()), Some(1000));
    }

    #[test]
    fn what_failed_on_a_multiplexed_connection_shares_one_evidence() {
        let failed = |port, nth, error| attempt(port, nth, Some(error));
        let attempts = [
            failed(1000, 2, ErrorKind::StreamReset),
            failed(1000, 3, ErrorKind::Eof),
            failed(1000, 4, ErrorKind::Eof),
            failed(1001, 1, ErrorKind::Eof),
            failed(1001, 2, ErrorKind::Eof),
            failed(1002, 1, ErrorKind::StreamReset),
            attempt(1003, 1, None),
        ];
        let ends = [termination(
            4,
            &[(1000, 9, "unanswered"), (1000, 9, "unanswered"), (1002, 1, "unread"), (1003, 1, "unread")],
        )];
        let verdict = join_multiplexed(&attempts, &ends);
        assert_eq!((verdict.failed, verdict.attributed, verdict.shared), (6, 3, 2));
        assert_eq!(verdict.by_class, BTreeMap::from([("unanswered".to_owned(), 1)]));
        let of = |port| verdict.client_only.iter().filter(|attempt| attempt.local.port() == port).count();
        assert_eq!(
            (of(1001), of(1002), verdict.client_only.len()),
            (2, 1, 3),
            "none, and one that does not fit"
        );
        let mut alone: Vec<u16> = verdict.agent_only.iter().map(|(_, item)| item.peer.port()).collect();
        alone.sort_unstable();
        assert_eq!(alone, [1000, 1002, 1003], "a second one, one that does not fit, one without a loss");
    }

    #[test]
    fn counters_and_evidence_must_say_the_same_number() {
        let verdict =
            join(&[attempt(1, 1, Some(ErrorKind::ConnectRefused))], &[termination(2, &[(1, 1, "refused")])]);
        assert_eq!(verdict.miscounted, [("api-1".to_owned(), 2, 1)]);
        assert!(!verdict.holds());
    }

    #[test]
    fn a_sample_equals_a_count_or_does_not() {
        assert!(same(3.0, 3) && same(0.0, 0));
        assert!(!same(3.5, 3) && !same(2.0, 3) && !same(4e9, u64::MAX));
    }
}
