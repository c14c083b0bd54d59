//! The two caps of all probes together: how many run at a time, and how many begin in a second.
//!
//! Time is an argument. What a cap delays is the manager's to count.

use crate::limits::SECOND;
use crate::time::Mono;

/// What a cap allows at once, as a part of what it allows in a second: the ticks of many workers fall together by chance.
const BURST_PARTS: u64 = 10;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Probes that run at a time; at least one.
    pub concurrency: usize,
    /// Probes that begin in a second; at least one.
    pub per_second: u32,
}

/// Which cap is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// So many run already: the end of one makes room.
    Concurrency,
    /// So many have begun: from this moment on there is room.
    Rate(Mono),
}

/// How much of it is used up.
#[derive(Clone, Debug)]
pub struct Pace {
    caps: Caps,
    running: usize,
    /// When all that has begun is paid for, at the cap's rate.
    paid: Mono,
}

impl Pace {
    /// Nothing has begun.
    pub const fn new(caps: Caps) -> Self {
        Self { caps, running: 0, paid: Mono(0) }
    }

    /// Probes under way.
    pub const fn running(&self) -> usize {
        self.running
    }

    /// What stands in the way of one more probe.
    pub fn met(&self, now: Mono) -> Option<Cap> {
        if self.running >= self.caps.concurrency.max(1) {
            return Some(Cap::Concurrency);
        }
        let room = Mono(self.paid.0.saturating_sub(self.burst_ns()));
        (room > now).then_some(Cap::Rate(room))
    }

    /// One begins.
    pub fn begin(&mut self, now: Mono) {
        self.running = self.running.saturating_add(1);
        self.paid = self.paid.max(now).after(self.interval_ns());
    }

    /// One has ended.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    fn interval_ns(&self) -> u64 {
        SECOND / u64::from(self.caps.per_second.max(1))
    }

    /// One probe always fits in an idle second.
    fn burst_ns(&self) -> u64 {
        let probes = u64::from(self.caps.per_second) / BURST_PARTS;
        self.interval_ns() * probes.max(1) - self.interval_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_tenth_of_a_seconds_probes_may_begin_at_once_then_the_rate_holds() {
        let mut pace = Pace::new(Caps { concurrency: 1000, per_second: 50 });
        let start = Mono(7 * SECOND);
        let mut begun = 0;
        while pace.met(start).is_none() {
            pace.begin(start);
            begun += 1;
        }
        assert_eq!(begun, 5);
        assert_eq!(pace.met(start), Some(Cap::Rate(start.after(20 * MS))));
        for ms in 1..=1000 {
            let now = start.after(ms * MS);
            while pace.met(now).is_none() {
                pace.begin(now);
                begun += 1;
            }
        }
        assert_eq!(begun, 55);
    }

    #[test]
    fn a_slow_rate_has_no_burst_and_an_idle_time_saves_nothing_up() {
        let mut pace = Pace::new(Caps { concurrency: 10, per_second: 1 });
        for second in [0, 100] {
            let now = Mono(second * SECOND + 1);
            assert_eq!(pace.met(now), None);
            pace.begin(now);
            assert_eq!(pace.met(now), Some(Cap::Rate(now.after(SECOND))));
            assert_eq!(pace.met(now.after(SECOND)), None);
        }
    }

    #[test]
    fn an_end_makes_room() {
        let mut pace = Pace::new(Caps { concurrency: 2, per_second: 1000 });
        pace.begin(Mono(0));
        pace.begin(Mono(0));
        assert_eq!((pace.met(Mono(SECOND)), pace.running()), (Some(Cap::Concurrency), 2));
        pace.end();
        assert_eq!(pace.met(Mono(SECOND)), None);
    }
}
