//! Phases and causes, case by case.

use super::*;
use crate::limits::SECOND;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Mono {
    Mono(5 * SECOND).after(ms * MS)
}

fn probe(handler: HandlerKind, timeout_seconds: u32) -> ProbeUse {
    let container = "server".to_owned();
    let (probe_type, port, period_seconds) = (ProbeType::Readiness, 8080, 10);
    ProbeUse { container, probe_type, handler, port, timeout_seconds, period_seconds }
}

/// Asked, taken in and read at once, not answered; the container was not throttled.
fn asked() -> Seen {
    Seen {
        begun: at(0),
        connected: Some(at(1)),
        established: Some(at(1)),
        picked_up: Some(at(2)),
        flags: PROBE_QUEUE_KNOWN | PROBE_ACCEPTED | PROBE_SENT | PROBE_ACKED,
        throttled_ns: Some(0),
        ..Seen::default()
    }
}

/// The same before anybody read or accepted it.
fn waiting() -> Seen {
    Seen { picked_up: None, flags: PROBE_QUEUE_KNOWN | PROBE_SENT | PROBE_ACKED, ..asked() }
}

/// A SYN that nobody answered.
fn connecting() -> Seen {
    let none = None;
    Seen { connected: none, established: none, picked_up: none, flags: PROBE_QUEUE_KNOWN, ..asked() }
}

/// Answered, read and ended by the server at these moments.
fn answered(received: u64, read: u64) -> Seen {
    let (received, read) = (Some(at(received)), Some(at(read)));
    let mut seen = Seen { received, answered: read, last_read: read, ..asked() };
    seen.flags |= PROBE_FINISHED;
    seen
}

fn with(mut seen: Seen, change: impl FnOnce(&mut Seen)) -> Seen {
    change(&mut seen);
    seen
}

#[test]
fn every_timeout_has_the_cause_that_the_kernel_shows() {
    let queue_unknown = |seen: &mut Seen| seen.flags &= !PROBE_QUEUE_KNOWN;
    let full = |seen: &mut Seen| seen.flags |= PROBE_QUEUE_FULL;
    let dropped = |seen: &mut Seen| seen.dropped = 2;
    let throttled = |seen: &mut Seen| seen.throttled_ns = Some(100 * MS + MS);
    let cases: &[(&str, Seen, Option<Cause>)] = &[
        ("no answer to the SYN, nothing dropped by the listener", connecting(), Some(Cause::Connect)),
        ("the listener dropped SYNs", with(connecting(), dropped), Some(Cause::AcceptQueue)),
        (
            "a full queue that dropped nothing: the SYN did not come there",
            with(connecting(), full),
            Some(Cause::Connect),
        ),
        ("a listener that is not known", with(connecting(), queue_unknown), Some(Cause::Unknown)),
        (
            "another listener than before",
            with(connecting(), |seen| seen.dropped = u32::MAX),
            Some(Cause::Unknown),
        ),
        (
            "the queue is full because its owner has no CPU",
            with(with(connecting(), dropped), throttled),
            Some(Cause::CpuThrottled),
        ),
        ("refused", with(connecting(), |seen| seen.flags |= PROBE_FAILED), None),
        ("read and not answered", asked(), Some(Cause::App)),
        ("not even accepted, with room in the queue", waiting(), Some(Cause::App)),
        ("not accepted, in a queue that is full", with(waiting(), full), Some(Cause::AcceptQueue)),
        ("not accepted, and others were dropped", with(waiting(), dropped), Some(Cause::AcceptQueue)),
        ("read; the queue behind it is full", with(asked(), full), Some(Cause::App)),
        ("throttled for a tenth of the time", with(asked(), throttled), Some(Cause::CpuThrottled)),
        ("throttled, in a full queue", with(with(waiting(), full), throttled), Some(Cause::CpuThrottled)),
        ("throttled for less", with(asked(), |seen| seen.throttled_ns = Some(99 * MS)), Some(Cause::App)),
        (
            "nobody knows whether it was throttled",
            with(asked(), |seen| seen.throttled_ns = None),
            Some(Cause::Unknown),
        ),
        (
            "the handshake's last packet found the queue full",
            with(with(waiting(), dropped), |seen| {
                seen.established = None;
                seen.flags &= !PROBE_ACKED;
            }),
            Some(Cause::AcceptQueue),
        ),
        (
            "the request was lost on its way",
            with(waiting(), |seen| seen.flags &= !PROBE_ACKED),
            Some(Cause::Unknown),
        ),
        ("nothing was asked", with(waiting(), |seen| seen.flags &= !PROBE_SENT), Some(Cause::KubeletLate)),
        ("answered in time, read too late", answered(500, 1005), Some(Cause::KubeletLate)),
        (
            "answered in time, never read",
            with(answered(500, 1005), |seen| {
                (seen.answered, seen.last_read) = (None, None);
                seen.flags |= PROBE_UNREAD;
            }),
            Some(Cause::KubeletLate),
        ),
        ("answered too late", answered(1005, 1006), Some(Cause::App)),
        ("answered and read in time, closed late", answered(500, 501), None),
        (
            "the head of an answer in time, the rest never",
            with(answered(5, 6), |seen| seen.flags &= !PROBE_FINISHED),
            Some(Cause::App),
        ),
        ("reset by the server", with(asked(), |seen| seen.flags |= PROBE_FAILED), None),
    ];
    for (name, seen, cause) in cases {
        let http = probe(HandlerKind::Http, 1);
        assert_eq!(seen.timeout(at(1010), &[&http]), *cause, "{name}");
        assert_eq!(seen.timeout(at(999), &[&http]), None, "before the timeout: {name}");
    }
}

#[test]
fn a_connection_is_all_that_a_tcp_probe_wants() {
    let seen = with(waiting(), |seen| seen.flags &= !PROBE_SENT);
    let (tcp, http) = (probe(HandlerKind::Tcp, 1), probe(HandlerKind::Http, 1));
    assert_eq!(seen.timeout(at(1500), &[&tcp]), None);
    assert_eq!(seen.timeout(at(1500), &[&tcp, &http]), Some(Cause::KubeletLate));
    assert_eq!(connecting().timeout(at(1500), &[&tcp]), Some(Cause::Connect));
}

#[test]
fn of_several_timeouts_the_longest_that_has_passed_counts() {
    let (short, long) = (probe(HandlerKind::Http, 1), probe(HandlerKind::Http, 3));
    let late = answered(2000, 2500);
    assert_eq!(late.timeout(at(2501), &[&short, &long]), Some(Cause::App), "too late for the short one");
    assert_eq!(late.timeout(at(3001), &[&short, &long]), None, "in time for the long one");
    assert_eq!(late.timeout(at(2501), &[&long]), None);
    assert_eq!(late.timeout(at(9000), &[]), None);
}

#[test]
fn phases_that_did_not_end_have_no_length() {
    let seen = answered(500, 600);
    let lengths = |seen: &Seen| Phase::ALL.map(|phase| seen.phase(phase).map(|ns| ns / MS));
    assert_eq!(lengths(&seen), [Some(1), Some(1), Some(598)]);
    assert_eq!(lengths(&asked()), [Some(1), Some(1), None]);
    assert_eq!(lengths(&connecting()), [None, None, None]);
}
