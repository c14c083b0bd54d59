//! The reorder window: sources deliver facts with different delays, so each waits until event time is 100 ms past it and
//! is then applied in the order of (moment, arrival). Any interleaving inside the window gives the same order.
//!
//! It only orders; the caller counts what comes too late and applies it at once.

use crate::event::Event;
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How long an event waits for older ones: above the worst delay between a kernel stamp and its delivery to the core on
/// a busy node (ring wake-up plus one turn of the driver), below what anybody notices.
pub(crate) const WINDOW_NS: u64 = 100_000_000;

/// Events that wait, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    pending: VecDeque<Event>,
    watermark: Mono,
    /// A limit: not saved.
    #[serde(skip)]
    capacity: usize,
}

impl Window {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { pending: VecDeque::new(), watermark: Mono(0), capacity: capacity.max(1) }
    }

    /// After a restore: the bound that holds now.
    pub(crate) fn rebuild(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
        self.pending.make_contiguous().sort_by_key(|event| event.at);
    }

    /// Events that wait, oldest first.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Event> + '_ {
        self.pending.iter()
    }

    /// Takes an event; gives it back if it lies behind what was applied.
    pub(crate) fn push(&mut self, event: Event) -> Option<Event> {
        if event.at < self.watermark {
            return Some(event);
        }
        let at = event.at;
        if self.pending.back().is_none_or(|last| last.at <= at) {
            self.pending.push_back(event);
        } else {
            // Nearly sorted input: few events are younger, so few move.
            let place = self.pending.partition_point(|other| other.at <= at);
            self.pending.insert(place, event);
        }
        None
    }

    /// Event time has come to `now`.
    pub(crate) fn advance(&mut self, now: Mono) {
        self.watermark = self.watermark.max(Mono(now.0.saturating_sub(WINDOW_NS)));
    }

    /// If more events wait than may, lets the older half of them be due although their time has not come; tells how
    /// many that are.
    pub(crate) fn relieve(&mut self) -> usize {
        if self.pending.len() <= self.capacity {
            return 0;
        }
        let half = self.pending.len().div_ceil(2);
        if let Some(event) = self.pending.get(half - 1) {
            self.watermark = self.watermark.max(event.at);
        }
        half
    }

    /// Lets all events be due although their time has not come.
    pub(crate) fn let_go(&mut self) {
        if let Some(event) = self.pending.back() {
            self.watermark = self.watermark.max(event.at);
        }
    }

    /// The moment of the oldest event, if it is due.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.pending.front().map(|event| event.at).filter(|at| *at <= self.watermark)
    }

    /// The oldest event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.pending.pop_front()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.pending.len()).unwrap_or(u64::MAX)
    }

    /// Up to here everything is applied.
    pub(crate) fn watermark(&self) -> Mono {
        self.watermark
    }

    /// When the oldest event will be due.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.pending.front().map(|event| event.at.after(WINDOW_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Fact;

    fn event(at: u64, mark: i64) -> Event {
        Event { at: Mono(at), fact: Fact::Clock { unix_ns: mark } }
    }

    fn drain(window: &mut Window) -> Vec<u64> {
        let mut out = Vec::new();
        while window.due().is_some() {
            out.extend(window.pop().map(|event| event.at.0));
        }
        out
    }

    #[test]
    fn events_leave_by_time_and_those_behind_are_given_back() {
        let mut window = Window::new(10);
        for at in [50, 20, 30] {
            assert!(window.push(event(at, 0)).is_none());
        }
        assert_eq!(drain(&mut window), Vec::<u64>::new());
        window.advance(Mono(WINDOW_NS + 30));
        assert_eq!(drain(&mut window), [20, 30]);
        assert!(window.push(event(29, 0)).is_some());
        assert!(window.push(event(30, 0)).is_none());
        assert_eq!(drain(&mut window), [30]);
        assert_eq!(window.next_due(), Some(Mono(50 + WINDOW_NS)));
    }

    #[test]
    fn a_full_window_lets_the_older_half_go_and_stays_in_order() {
        let mut window = Window::new(3);
        for at in [30, 10, 40] {
            assert!(window.push(event(at, 0)).is_none());
            assert_eq!(window.relieve(), 0);
        }
        assert!(window.push(event(20, 0)).is_none());
        assert_eq!(window.relieve(), 2);
        assert_eq!(drain(&mut window), [10, 20]);
        assert!(window.push(event(5, 0)).is_some());
    }
}
