//! The span, its edges, and what breaks it; then a kubelet that is made up, whose counts have to lie within the bounds.

use super::*;
use crate::probes::pod::HandlerKind;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
/// How long a reading takes, here.
const READING_MS: u64 = 20;

fn at(ms: u64) -> Mono {
    Mono(1000 * SECOND).after(ms * MS)
}

/// Its connections may last 2.5 s.
fn probe(probe_type: ProbeType, port: u16) -> ProbeUse {
    let (container, handler) = ("server".to_owned(), HandlerKind::Http);
    ProbeUse { container, probe_type, handler, port, timeout_seconds: 1, period_seconds: 10 }
}

fn told(probe_type: ProbeType, success: u64) -> Told {
    let counts = Counts { success, ..Counts::default() };
    Told { pod_uid: "u1".to_owned(), container: "server".to_owned(), probe_type, counts }
}

/// A pod with these probes, and what happens to it.
struct Pod {
    verdicts: PodVerdicts,
    probes: Vec<ProbeUse>,
}

impl Pod {
    fn new(probes: &[ProbeUse]) -> Self {
        Self { verdicts: PodVerdicts::default(), probes: probes.to_vec() }
    }

    fn with_readiness() -> Self {
        Self::new(&[probe(ProbeType::Readiness, 8080)])
    }

    fn saw(&mut self, begun_ms: u64, closed_ms: u64) {
        let seen = Seen { port: 8080, begun: at(begun_ms), ..Seen::default() };
        self.verdicts.saw(&seen, at(closed_ms));
    }

    /// A reading that takes [`READING_MS`] from this moment on, by a kubelet of this life.
    fn read(&mut self, asked_ms: u64, life: u64, told: &[Told], lost: u64) {
        let reading = Reading { asked: at(asked_ms), life, told: told.to_vec() };
        let told: Vec<&Told> = reading.told.iter().collect();
        let answered = at(asked_ms + READING_MS);
        let wall = Timestamp(i64::try_from(answered.0).expect("soon"));
        self.verdicts.take(&Taken { reading: &reading, answered, at: wall, lost }, &told, &self.probes);
    }

    fn ready(&mut self, asked_ms: u64, success: u64) {
        self.read(asked_ms, 1, &[told(ProbeType::Readiness, success)], 0);
    }

    /// Verdicts, bounds and difference of the first probe at this moment.
    fn reconciled(&self, now_ms: u64) -> Option<(u64, u64, u64, i64)> {
        let item = self.verdicts.items("u1", &self.probes, at(now_ms)).next()?;
        let Reconciled { verdicts, seen: Bounds { least, most }, difference, .. } = item.reconciled?;
        Some((verdicts, least, most, difference))
    }
}

#[test]
fn a_span_begins_when_nothing_unseen_is_under_way_and_ends_when_all_has_ended() {
    let mut pod = Pod::with_readiness();
    pod.ready(0, 7);
    pod.ready(2500, 7);
    assert_eq!(pod.reconciled(100_000), None, "what is under way may have begun unseen");
    pod.ready(2520, 7);
    pod.saw(5000, 5010);
    pod.ready(15_000, 8);
    assert_eq!(pod.reconciled(17_519), None, "what is under way is not told yet");
    assert_eq!(pod.reconciled(17_520), Some((1, 1, 1, 0)));
}

#[test]
fn what_is_under_way_at_a_reading_is_within_the_bounds_either_way() {
    // The connection's beginning and end, and the bounds of the span that the reading at 15 s ends.
    for (begun, closed, least, most) in [
        (5000, 5010, 1, 1),
        (13_490, 13_500, 1, 1),
        (13_490, 13_501, 0, 1),
        (14_990, 15_010, 0, 1),
        (15_020, 16_000, 0, 1),
        (15_021, 16_000, 0, 0),
    ] {
        let mut pod = Pod::with_readiness();
        pod.ready(0, 0);
        pod.ready(3000, 0);
        if closed <= 15_020 {
            pod.saw(begun, closed);
            pod.ready(15_000, 1);
        } else {
            pod.ready(15_000, 1);
            pod.saw(begun, closed);
        }
        let difference = if most == 0 { -1 } else { 0 };
        assert_eq!(pod.reconciled(30_000), Some((1, least, most, difference)), "{begun} {closed}");
    }
    // The same at the beginning: it counts for the span or for what was before.
    for (begun, closed, least, most) in
        [(2900, 2950, 0, 1), (2900, 3500, 0, 1), (3021, 3500, 1, 1), (0, 1500, 0, 0_u64)]
    {
        let mut pod = Pod::with_readiness();
        pod.ready(0, 0);
        if closed <= 3020 {
            pod.saw(begun, closed);
            pod.ready(3000, 0);
        } else {
            pod.ready(3000, 0);
            pod.saw(begun, closed);
        }
        pod.ready(15_000, 0);
        let found = pod.reconciled(30_000);
        assert_eq!(found, Some((0, least, most, i64::try_from(least).expect("small"))), "{begun} {closed}");
    }
}

#[test]
fn more_connections_than_verdicts_and_fewer_are_told_by_the_sign() {
    let mut pod = Pod::with_readiness();
    pod.ready(0, 0);
    pod.ready(3000, 0);
    // Each probe is sent on once.
    for second in [4, 5, 6, 7] {
        pod.saw(second * 1000, second * 1000 + 5);
    }
    pod.ready(15_000, 2);
    assert_eq!(pod.reconciled(18_000), Some((2, 4, 4, 2)));
    pod.ready(30_000, 7);
    assert_eq!(pod.reconciled(33_000), Some((7, 4, 4, -3)), "and some had no connection");
}

#[test]
fn records_that_could_not_be_written_widen_the_bounds() {
    let mut pod = Pod::with_readiness();
    let one = |success| [told(ProbeType::Readiness, success)];
    pod.read(0, 1, &one(0), 4);
    pod.read(3000, 1, &one(0), 5);
    pod.read(15_000, 1, &one(3), 7);
    assert_eq!(pod.reconciled(30_000), Some((3, 0, 2, -1)));
}

#[test]
fn probes_of_one_port_are_held_against_its_connections_together() {
    let liveness = probe(ProbeType::Liveness, 8080);
    let mut pod = Pod::new(&[liveness, probe(ProbeType::Readiness, 8080), probe(ProbeType::Startup, 9090)]);
    let both = |live, ready| [told(ProbeType::Liveness, live), told(ProbeType::Readiness, ready)];
    pod.read(0, 1, &both(1, 1), 0);
    pod.read(3000, 1, &both(1, 1), 0);
    for second in [4, 5, 6] {
        pod.saw(second * 1000, second * 1000 + 5);
    }
    pod.read(15_000, 1, &both(2, 3), 0);
    assert_eq!(pod.reconciled(30_000), Some((3, 3, 3, 0)));
}

#[test]
fn a_counter_that_goes_back_or_another_kubelet_begins_a_span_anew() {
    for (life, counts, is_anew) in
        [(1, Some(6), false), (1, Some(4), true), (2, Some(6), true), (1, None, false)]
    {
        let mut pod = Pod::with_readiness();
        pod.ready(0, 5);
        pod.ready(3000, 5);
        pod.saw(4000, 4005);
        pod.ready(10_000, 6);
        let told: Vec<Told> = counts.map(|count| told(ProbeType::Readiness, count)).into_iter().collect();
        pod.read(20_000, life, &told, 0);
        let found = pod.reconciled(50_000);
        assert_eq!(found, (!is_anew).then_some((1, 1, 1, 0)), "{life} {counts:?}");
    }
    // The next kubelet has counted nothing yet, which is no counter that vanished.
    let mut pod = Pod::with_readiness();
    pod.ready(0, 5);
    pod.ready(3000, 5);
    pod.read(10_000, 2, &[], 0);
    pod.saw(12_000, 12_005);
    pod.read(20_000, 2, &[told(ProbeType::Readiness, 1)], 0);
    assert_eq!(pod.reconciled(50_000), Some((1, 1, 1, 0)));
    // A worker that is gone and comes back is another, whatever it counts.
    let mut pod = Pod::with_readiness();
    pod.ready(0, 5);
    pod.ready(3000, 5);
    pod.read(10_000, 1, &[], 0);
    pod.ready(20_000, 9);
    pod.ready(30_000, 9);
    assert_eq!(pod.reconciled(50_000), Some((0, 0, 0, 0)));
}

#[test]
fn a_command_has_verdicts_and_nothing_to_hold_them_against() {
    let mut pod = Pod::new(&[]);
    for asked in [0, 10_000, 20_000] {
        pod.ready(asked, 3);
    }
    let items: Vec<_> = pod.verdicts.items("u1", &[], at(90_000)).collect();
    assert_eq!((items.len(), items[0].verdicts.success, items[0].reconciled), (1, 3, None));
}

#[test]
fn one_pod_keeps_no_more_than_its_share() {
    let mut pod = Pod::new(&[]);
    for round in 0..3 {
        let name = |number: u64| format!("c{round}-{number}");
        let many: Vec<Told> =
            (0..200).map(|number| Told { container: name(number), ..told(ProbeType::Liveness, 1) }).collect();
        pod.read(round * 1000, 1, &many, 0);
    }
    assert_eq!(pod.verdicts.counts.len(), PROBES_EACH);
}

proptest! {
    /// Whatever the moments are, a kubelet that counts each connection's verdict in its time is within the bounds.
    #[test]
    fn a_kubelet_that_counts_each_connection_agrees(
        probes in prop::collection::vec((0u64..4000, 0u64..1000, 0u64..1499), 1..40),
        pauses in prop::collection::vec(0u64..6000, 4..20),
    ) {
        let (mut now, mut counted, mut ends) = (0, Vec::new(), Vec::new());
        for (pause, lasts, until_counted) in probes {
            let begun = now + pause;
            let closed = begun + lasts;
            // The worker makes the next probe once this one is counted.
            now = closed + until_counted;
            counted.push(now);
            ends.push((closed, begun));
        }
        let mut pod = Pod::with_readiness();
        let mut asked = 0;
        let mut ends = ends.into_iter().peekable();
        for pause in pauses {
            asked += pause + READING_MS;
            // All that had ended when the answer came is told before it.
            while let Some((closed, begun)) = ends.next_if(|(closed, _)| *closed <= asked + READING_MS) {
                pod.saw(begun, closed);
            }
            // The counters are read at some moment in between.
            let read = asked + pause % READING_MS;
            let verdicts = counted.iter().filter(|moment| **moment <= read).count();
            pod.ready(asked, u64::try_from(verdicts).expect("few"));
            if let Some((verdicts, least, most, difference)) = pod.reconciled(asked + READING_MS) {
                prop_assert!(difference == 0, "{} verdicts, {} to {} connections", verdicts, least, most);
                prop_assert!(most - least <= 4, "{} to {}", least, most);
            }
        }
    }
}
