//! One slot's counters over time: what was read, what its workload was credited with, and where the pod's current end began
//! to count.
//!
//! Counters are the truth; this never looks at evidence.

use crate::time::Mono;
use probe_ebpf::wire::Counters;
use serde::{Deserialize, Serialize};

/// The counters of one slot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    /// What the slots counted that it had before this one.
    #[serde(skip_serializing_if = "is_zero")]
    carried: Counters,
    /// What all its slots counted.
    raw: Counters,
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
        let mut grew = true;
        each(&mut self.raw, reading, |old, new| {
            grew &= new >= *old;
            *old = new.max(*old);
        });
        // Stamps, not counts: of two writers at the same moment either may come last.
        self.raw.last_new_ns = self.raw.last_new_ns.max(reading.last_new_ns);
        self.raw.last_request_ns = self.raw.last_request_ns.max(reading.last_request_ns);
        self.raw.stop_ns = self.raw.stop_ns.max(reading.stop_ns);
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

    /// What was counted since the last call.
    pub(crate) fn credit(&mut self) -> Option<Counters> {
        if self.raw == self.credited {
            return None;
        }
        let mut delta = self.raw;
        each(&mut delta, &self.credited, |new, old| *new = new.saturating_sub(old));
        self.credited = self.raw;
        Some(delta)
    }

    /// The pod's current end is over: what comes next counts for another.
    pub(crate) fn close_episode(&mut self) {
        self.base = self.raw;
    }

    /// What was counted since the last end was over, stamps only where they are newer.
    pub(crate) fn episode(&self) -> Counters {
        let mut delta = self.raw;
        each(&mut delta, &self.base, |new, old| *new = new.saturating_sub(old));
        let newer = |new: u64, old: u64| if new > old { new } else { 0 };
        delta.last_new_ns = newer(self.raw.last_new_ns, self.base.last_new_ns);
        delta.last_request_ns = newer(self.raw.last_request_ns, self.base.last_request_ns);
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
    f(&mut a.opened, b.opened);
    f(&mut a.closed, b.closed);
    f(&mut a.late_opened, b.late_opened);
    f(&mut a.probes, b.probes);
    f(&mut a.service_refused, b.service_refused);
    f(&mut a.evidence, b.evidence);
    f(&mut a.evidence_refused, b.evidence_refused);
    f(&mut a.closed_refused, b.closed_refused);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(refused: u64) -> Counters {
        let mut counters = Counters::default();
        counters.lost[0][2][0] = refused;
        counters
    }

    fn refused(counters: &Counters) -> u64 {
        counters.lost[0][2][0]
    }

    #[test]
    fn another_slot_goes_on_where_the_lost_one_was() {
        let mut ledger = Ledger::default();
        ledger.take(Mono(1), &Counters { opened: 5, closed: 2, ..reading(3) });
        ledger.close_episode();
        ledger.change_slot();
        assert_eq!(ledger.open(), 0);
        assert!(ledger.take(Mono(2), &Counters { opened: 1, ..reading(2) }));
        assert_eq!(ledger.open(), 1);
        assert_eq!(refused(&ledger.episode()), 2, "3 of the end before");
        assert!(!ledger.take(Mono(3), &reading(1)));
    }

    #[test]
    fn a_counter_that_goes_back_keeps_its_value() {
        let mut ledger = Ledger::default();
        assert!(ledger.take(Mono(1), &Counters { opened: 5, ..Counters::default() }));
        assert!(!ledger.take(Mono(2), &Counters { opened: 3, closed: 1, ..Counters::default() }));
        assert_eq!(ledger.open(), 4);
    }

    proptest! {
        /// Over any readings, changes of the slot and ends: each count is credited once, and belongs to one end.
        #[test]
        fn every_count_is_credited_once(steps in prop::collection::vec((0u64..5, 0u8..4), 1..40)) {
            let mut ledger = Ledger::default();
            let (mut slot, mut counted, mut credited, mut in_ends) = (0, 0, 0, 0);
            for (at, (lost, then)) in (1..).zip(steps) {
                slot += lost;
                counted += lost;
                prop_assert!(ledger.take(Mono(at), &reading(slot)));
                credited += ledger.credit().as_ref().map_or(0, refused);
                prop_assert_eq!(credited, counted);
                match then {
                    0 => {
                        ledger.change_slot();
                        slot = 0;
                    }
                    1 => {
                        in_ends += refused(&ledger.episode());
                        ledger.close_episode();
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(in_ends + refused(&ledger.episode()), counted);
        }
    }
}
