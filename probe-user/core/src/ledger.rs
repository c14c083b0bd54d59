//! One slot's counters over time: what was read, what may be published, what its workload was credited with, and where
//! the pod's current end began to count.
//!
//! Counters are the truth; this never looks at evidence. A refused probe is counted as refused first and taken off a
//! moment later, so refused attempts are published one reading late: those of the previous reading minus the probes of
//! the current one. Nothing is ever published and taken back, and nothing is missing once the slot is settled.

use crate::time::Mono;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{Counters, LOST, ON_NEW};
use serde::{Deserialize, Serialize};

const REFUSED: usize = Class::Refused as usize;

/// The counters of one slot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    /// What the slots counted that it had before this one.
    #[serde(skip_serializing_if = "is_zero")]
    carried: Counters,
    raw: Counters,
    published: Counters,
    credited: Counters,
    #[serde(skip_serializing_if = "is_zero")]
    base: Counters,
    read_at: Option<Mono>,
    read_before: Option<Mono>,
}

/// Usual for most pods: not saved, for the size.
fn is_zero(counters: &Counters) -> bool {
    *counters == Counters::default()
}

impl Ledger {
    /// Takes a reading. False if a counter went back (its old value then holds).
    pub(crate) fn take(&mut self, at: Mono, reading: &Counters) -> bool {
        let mut sum = *reading;
        each(&mut sum, &self.carried, |new, carried| *new = new.saturating_add(carried));
        let reading = &sum;
        let before = self.raw.lost[REFUSED];
        let mut grew = true;
        each(&mut self.raw, reading, |old, new| {
            grew &= new >= *old;
            *old = new.max(*old);
        });
        // Stamps, not counts: of two writers at the same moment either may come last.
        self.raw.last_new_ns = self.raw.last_new_ns.max(reading.last_new_ns);
        self.raw.last_request_ns = self.raw.last_request_ns.max(reading.last_request_ns);
        self.raw.stop_ns = self.raw.stop_ns.max(reading.stop_ns);
        self.publish(before);
        self.read_before = self.read_at;
        self.read_at = Some(at);
        grew
    }

    /// The slot is lost: the next reading is of another, which counts from zero.
    pub(crate) fn change_slot(&mut self) {
        // Nobody will see them close.
        self.raw.closed = self.raw.opened.max(self.raw.closed);
        self.carried = self.raw;
    }

    /// Nothing more can turn out to have been a probe: publishes everything.
    pub(crate) fn settle(&mut self) {
        self.publish(self.raw.lost[REFUSED]);
    }

    fn publish(&mut self, refused: [[u64; 2]; 3]) {
        let shown = self.published.lost[REFUSED];
        let shown_late = self.published.late_requests[ON_NEW][LOST];
        let mut held_late = 0u64;
        self.published = self.raw;
        for phase in Phase::ALL {
            let mut probes = self.raw.probes_refused[phase as usize];
            for confidence in Confidence::ALL {
                let [phase, confidence] = [phase as usize, confidence as usize];
                let count = refused[phase][confidence];
                let off = probes.min(count);
                probes -= off;
                let publish = (count - off).max(shown[phase][confidence]);
                self.published.lost[REFUSED][phase][confidence] = publish;
                if phase != Phase::Running as usize {
                    let held = self.raw.lost[REFUSED][phase][confidence].saturating_sub(publish);
                    held_late = held_late.saturating_add(held);
                }
            }
        }
        // A refused attempt that comes late is a lost late request on a new connection too.
        let late = &mut self.published.late_requests[ON_NEW][LOST];
        *late = late.saturating_sub(held_late).max(shown_late);
    }

    /// What was published since the last call.
    pub(crate) fn credit(&mut self) -> Option<Counters> {
        if self.published == self.credited {
            return None;
        }
        let mut delta = self.published;
        each(&mut delta, &self.credited, |new, old| *new = new.saturating_sub(old));
        self.credited = self.published;
        Some(delta)
    }

    /// The pod's current end is over: what comes next counts for another.
    pub(crate) fn close_episode(&mut self) {
        self.base = self.published;
    }

    /// What was published since the last end was over, stamps only where they are newer.
    pub(crate) fn episode(&self) -> Counters {
        let mut delta = self.published;
        each(&mut delta, &self.base, |new, old| *new = new.saturating_sub(old));
        let newer = |new: u64, old: u64| if new > old { new } else { 0 };
        delta.last_new_ns = newer(self.published.last_new_ns, self.base.last_new_ns);
        delta.last_request_ns = newer(self.published.last_request_ns, self.base.last_request_ns);
        delta
    }

    /// When it was read last.
    pub(crate) fn read_at(&self) -> Option<Mono> {
        self.read_at
    }

    /// When it was read the time before.
    pub(crate) fn read_before(&self) -> Option<Mono> {
        self.read_before
    }

    /// Inbound connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.raw.opened.saturating_sub(self.raw.closed)
    }
}

/// Calls `f` for each counter of `a` and its partner in `b`; stamps are no counters.
fn each(a: &mut Counters, b: &Counters, mut f: impl FnMut(&mut u64, u64)) {
    for (a, b) in
        a.lost.as_flattened_mut().as_flattened_mut().iter_mut().zip(b.lost.as_flattened().as_flattened())
    {
        f(a, *b);
    }
    for (a, b) in a.late_connections.as_flattened_mut().iter_mut().zip(b.late_connections.as_flattened()) {
        f(a, *b);
    }
    for (a, b) in a.late_requests.as_flattened_mut().iter_mut().zip(b.late_requests.as_flattened()) {
        f(a, *b);
    }
    for (a, b) in a.probes_refused.iter_mut().zip(&b.probes_refused) {
        f(a, *b);
    }
    f(&mut a.opened, b.opened);
    f(&mut a.closed, b.closed);
    f(&mut a.late_opened, b.late_opened);
    f(&mut a.probes, b.probes);
    f(&mut a.evidence, b.evidence);
    f(&mut a.evidence_refused, b.evidence_refused);
    f(&mut a.closed_refused, b.closed_refused);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(refused: u64, probes: u64) -> Counters {
        let mut counters = Counters::default();
        counters.lost[REFUSED][2][0] = refused;
        counters.probes_refused[2] = probes;
        counters
    }

    fn refused(ledger: &Ledger) -> u64 {
        ledger.episode().lost[REFUSED][2][0]
    }

    #[test]
    fn a_refused_probe_is_no_lost_late_request_either() {
        let mut ledger = Ledger::default();
        let reading = |refused, probes, late| {
            let mut counters = reading(refused, probes);
            counters.late_requests[ON_NEW][LOST] = late;
            counters
        };
        // One probe refused and not known as such yet, one late request lost otherwise.
        ledger.take(Mono(1), &reading(1, 0, 2));
        assert_eq!(ledger.episode().late_requests[ON_NEW][LOST], 1);
        ledger.take(Mono(2), &reading(2, 1, 3));
        ledger.take(Mono(3), &reading(2, 1, 3));
        assert_eq!(
            ledger.episode().late_requests[ON_NEW][LOST],
            2,
            "the probe is taken off, the client's is not"
        );
        ledger.settle();
        assert_eq!(ledger.episode().late_requests[ON_NEW][LOST], 2);
    }

    #[test]
    fn a_refused_probe_is_never_published() {
        let mut ledger = Ledger::default();
        assert!(ledger.take(Mono(1), &reading(1, 0)));
        assert_eq!(refused(&ledger), 0);
        assert!(ledger.take(Mono(2), &reading(2, 1)));
        assert_eq!(refused(&ledger), 0);
        assert!(ledger.take(Mono(3), &reading(2, 1)));
        assert_eq!(refused(&ledger), 1);
        ledger.settle();
        assert_eq!(refused(&ledger), 1);
    }

    #[test]
    fn another_slot_goes_on_where_the_lost_one_was() {
        let mut ledger = Ledger::default();
        ledger.take(Mono(1), &Counters { opened: 5, closed: 2, ..reading(3, 1) });
        ledger.close_episode();
        ledger.change_slot();
        assert_eq!(ledger.open(), 0);
        assert!(ledger.take(Mono(2), &Counters { opened: 1, ..reading(2, 0) }));
        assert_eq!(ledger.open(), 1);
        ledger.settle();
        assert_eq!(refused(&ledger), 4, "3 and 2 refused, one of them a probe");
        assert!(!ledger.take(Mono(3), &reading(1, 0)));
    }

    #[test]
    fn a_counter_that_goes_back_keeps_its_value() {
        let mut ledger = Ledger::default();
        assert!(ledger.take(Mono(1), &Counters { opened: 5, ..Counters::default() }));
        assert!(!ledger.take(Mono(2), &Counters { opened: 3, closed: 1, ..Counters::default() }));
        assert_eq!(ledger.open(), 4);
    }

    proptest! {
        /// Attempts are refused one after another, some of them probes that are recognised before the second next
        /// reading. What is published never exceeds the losses so far, never goes back, and ends exact.
        #[test]
        fn refused_is_never_over_and_converges(
            steps in prop::collection::vec((0u64..5, 0u64..4, any::<bool>()), 1..40)
        ) {
            let mut ledger = Ledger::default();
            let (mut counted, mut probes, mut lost, mut waiting) = (0, 0, 0, 0);
            let mut shown = 0;
            let mut credited = 0;
            for (at, (real, probing, at_once)) in (1..).zip(steps) {
                // Probes counted before the last reading are recognised before this one.
                probes += waiting;
                counted += real + probing;
                lost += real;
                waiting = if at_once { probes += probing; 0 } else { probing };
                prop_assert!(ledger.take(Mono(at), &reading(counted, probes)));
                let now = refused(&ledger);
                prop_assert!(now <= lost, "published {now} of {lost}");
                prop_assert!(now >= shown);
                shown = now;
                credited += ledger.credit().map_or(0, |delta| delta.lost[REFUSED][2][0]);
                prop_assert_eq!(credited, shown);
            }
            probes += waiting;
            prop_assert!(ledger.take(Mono(u64::MAX), &reading(counted, probes)));
            ledger.settle();
            credited += ledger.credit().map_or(0, |delta| delta.lost[REFUSED][2][0]);
            prop_assert_eq!(refused(&ledger), lost);
            prop_assert_eq!(credited, lost);
        }
    }
}
