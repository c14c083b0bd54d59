//! Advice for a workload, from its measured terminations: the preStop sleep that covers the traffic tail, the grace
//! period that leaves room for it, and what no sleep can mend.

use crate::event::Workload;
use crate::termination::{Outcome, Termination};
use probe_ebpf::class::Class;
use serde::Serialize;

/// Terminations of one workload that are further apart belong to different rollouts: well above what a pod's
/// replacement takes to become ready, below how often people deploy.
const ROLLOUT_GAP_NS: u64 = 10 * 60 * 1_000_000_000;
/// A quarter on top of the longest tail: the next rollout's will not be the same.
const MARGIN: f64 = 1.25;
/// kube-proxy gathers changes for up to a second before it programs them (minSyncPeriod): a tail that was shorter was luck.
const LEAST_SLEEP: f64 = 2.0;
/// Seconds that the kubelet leaves between stop signal and SIGKILL at least.
const LEAST_GRACE: u64 = 2;

/// What the terminations of one rollout advise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Terminations looked at.
    pub terminations: usize,
    /// Of those, with a measured tail.
    pub measured: usize,
    /// The longest measured tail, in seconds.
    pub tail_seconds: Option<f64>,
    /// The preStop sleep that covers it; `None` without a measured tail.
    pub prestop_seconds: Option<u64>,
    /// The least `terminationGracePeriodSeconds` that leaves room for sleep and exit.
    pub grace_seconds: Option<u64>,
    /// The grace that the pods had is enough for that.
    pub grace_ok: bool,
    /// Requests lost on kept connections (`stale_reuse`), which no sleep mends.
    pub unmended: u64,
    /// Requests that stale entries of connection tracking sent to pods that were gone, which no sleep mends either.
    #[serde(skip_serializing_if = "is_zero")]
    pub stale_entries: u64,
    /// Sentences for people.
    pub notes: Vec<String>,
    /// No counted loss of information could have touched it.
    pub complete: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A workload and what is advised for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkloadAdvice {
    /// Its namespace.
    pub namespace: String,
    /// Its kind and name.
    pub workload: Workload,
    /// The advice.
    #[serde(flatten)]
    pub advice: Advice,
}

/// Of a workload's terminations, newest first, those of its last rollout.
pub fn last_rollout<'a>(newest_first: impl IntoIterator<Item = &'a Termination>) -> Vec<&'a Termination> {
    let mut rollout: Vec<&Termination> = Vec::new();
    for termination in newest_first {
        let is_older = |last: &&Termination| last.began.since(termination.began) > ROLLOUT_GAP_NS;
        if rollout.last().is_some_and(is_older) {
            break;
        }
        rollout.push(termination);
    }
    rollout
}

/// What these terminations of one workload advise; `None` without any.
pub fn advise(terminations: &[&Termination]) -> Option<Advice> {
    let newest = terminations.first()?;
    let tails = terminations.iter().filter(|item| !item.tail_censored).filter_map(|item| item.tail_seconds);
    let tail = tails.clone().reduce(f64::max);
    let prestop = tail.map(prestop_for);
    let exit = terminations.iter().filter_map(|item| item.exit_seconds).reduce(f64::max);
    let grace = prestop
        .map(|sleep| sleep.saturating_add(whole_seconds(exit.unwrap_or(0.0))).saturating_add(LEAST_GRACE));
    let killed = terminations.iter().filter(|item| item.outcome == Outcome::GraceExceeded).count();
    let unmended =
        terminations.iter().fold(0, |sum: u64, item| sum.saturating_add(item.lost.of(Class::StaleReuse)));
    let advice = Advice {
        terminations: terminations.len(),
        measured: tails.count(),
        tail_seconds: tail,
        prestop_seconds: prestop,
        grace_seconds: grace,
        grace_ok: killed == 0 && grace.is_none_or(|grace| newest.grace_seconds >= grace),
        unmended,
        stale_entries: terminations
            .iter()
            .fold(0, |sum: u64, item| sum.saturating_add(item.lost_stale_entries)),
        notes: Vec::new(),
        complete: terminations.iter().all(|item| item.complete),
    };
    let notes = notes(&advice, newest, killed);
    Some(Advice { notes, ..advice })
}

/// The sleep that covers a tail: a quarter more, unless whole seconds make that too much for a tail of some seconds.
fn prestop_for(tail: f64) -> u64 {
    if tail <= 0.0 {
        return 0;
    }
    let generous = (tail * MARGIN).ceil().max(LEAST_SLEEP);
    let most = (tail * 1.5).max(LEAST_SLEEP + 1.0);
    whole_seconds(if generous <= most { generous } else { tail })
}

fn whole_seconds(seconds: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates; there is no other"
    )]
    let whole = seconds.ceil() as u64;
    whole
}

fn notes(advice: &Advice, newest: &Termination, killed: usize) -> Vec<String> {
    let mut notes = Vec::new();
    match (advice.prestop_seconds, advice.tail_seconds) {
        (Some(sleep), Some(tail)) => {
            notes.push(format!("preStop sleep {sleep}: clients came until +{tail:.1} s after the deletion"));
            if newest.prestop_sleep_seconds.is_some_and(|now| u64::from(now) >= sleep) {
                notes.push("the sleep that the pods have is long enough".to_owned());
            }
        }
        _ => notes.push(
            "no traffic tail was measured: fewer than 20 connections came, or the address vanished first"
                .to_owned(),
        ),
    }
    if let Some(grace) = advice.grace_seconds
        && newest.grace_seconds < grace
    {
        let now = newest.grace_seconds;
        notes.push(format!("terminationGracePeriodSeconds {now} is too short for that: at least {grace}"));
    }
    if killed > 0 {
        notes.push(format!(
            "{killed} of {} pods killed at the end of the grace: no sleep helps before the stop signal is handled",
            advice.terminations
        ));
    }
    if advice.unmended > 0 {
        notes.push(format!(
            "{} lost on kept connections that the server had closed: no sleep mends that; let the server \
             answer with Connection: close (or GOAWAY) while it drains, or let clients look before they reuse, or retry",
            advice.unmended
        ));
    }
    if advice.stale_entries > 0 {
        notes.push(format!(
            "{} sent to pods that were gone by older entries of connection tracking: no sleep mends that; let clients keep \
             connections, use more source ports, or retry from another port",
            advice.stale_entries
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::termination;
    use crate::time::Mono;

    #[test]
    fn the_sleep_has_a_margin_and_is_no_more_than_the_tail_and_a_half() {
        for (tail, sleep) in [
            (0.0, 0),
            (0.3, 2),
            (0.978, 2),
            (1.01, 2),
            (1.7, 3),
            (1.99, 3),
            (2.5, 3),
            (3.1, 4),
            (8.2, 11),
            (60.0, 75),
        ] {
            assert_eq!(prestop_for(tail), sleep, "{tail}");
        }
        for tenths in 1..3000u32 {
            let tail = f64::from(tenths) / 10.0;
            let sleep = prestop_for(tail) as f64;
            assert!(sleep >= tail * 1.1 && sleep <= (tail * 1.5).max(3.0), "{tail}: {sleep}");
        }
    }

    #[test]
    fn the_worst_measured_tail_counts_and_censored_ones_do_not() {
        let short = termination(|t| (t.tail_seconds, t.exit_seconds) = (Some(2.0), Some(0.5)));
        let long = termination(|t| t.tail_seconds = Some(8.0));
        let censored = termination(|t| (t.tail_seconds, t.tail_censored) = (Some(30.0), true));
        let advice = advise(&[&short, &long, &censored]).unwrap();
        assert_eq!((advice.terminations, advice.measured), (3, 2));
        assert_eq!(
            (advice.prestop_seconds, advice.grace_seconds, advice.grace_ok),
            (Some(10), Some(13), true)
        );
        assert_eq!(advise(&[&censored]).unwrap().prestop_seconds, None);
        assert_eq!(advise(&[]), None);
    }

    #[test]
    fn what_no_sleep_mends_is_said() {
        let stale = termination(|t| {
            t.tail_seconds = Some(1.0);
            t.grace_seconds = 3;
            t.lost.0[Class::StaleReuse as usize] = 16;
        });
        let advice = advise(&[&stale]).unwrap();
        assert_eq!((advice.unmended, advice.grace_ok), (16, false));
        assert!(advice.notes.iter().any(|note| note.contains("Connection: close")), "{:?}", advice.notes);
        assert!(advice.notes.iter().any(|note| note.contains("at least 4")), "{:?}", advice.notes);
    }

    #[test]
    fn a_rollout_ends_at_a_gap_of_ten_minutes() {
        let at = |seconds: u64| termination(|t| t.began = Mono(seconds * 1_000_000_000));
        let (a, b, c) = (at(2000), at(1500), at(800));
        assert_eq!(last_rollout([&a, &b, &c]).len(), 2);
    }
}
