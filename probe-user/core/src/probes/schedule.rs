//! When a worker's probes run: at once, then at a fixed rate, sooner when it is triggered.
//!
//! A probe that is slower than its period is followed at once by the next, for one tick is kept; further ticks are dropped.

use crate::wallclock::Timestamp;

/// The moments of one worker's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    period_ns: i64,
    /// The first run, until it begins; then where the ticks are counted from.
    base: Timestamp,
    /// Ticks that are used up; none: the first run has not begun.
    ticks: Option<i64>,
    /// When it was triggered, if no run has begun since.
    triggered: Option<Timestamp>,
}

impl Schedule {
    /// Of a worker that begins now. While its manager is younger than one period, the first run waits for that part of a period that
    /// `random` (0 to 1) tells, so that a restart does not have all probes run together.
    pub fn new(now: Timestamp, manager_age_ns: u64, period_seconds: i32, random: f64) -> Self {
        let period_ns = i64::from(period_seconds.max(1)) * 1_000_000_000;
        let is_young = manager_age_ns < period_ns.unsigned_abs();
        let wait_ns = if is_young { part_of(period_ns, random) } else { 0 };
        Self { period_ns, base: Timestamp(now.0.saturating_add(wait_ns)), ticks: None, triggered: None }
    }

    /// When the next run is due; what has passed is due at once.
    pub fn due(&self) -> Timestamp {
        let Some(ticks) = self.ticks else { return self.base };
        let tick = self.base.0.saturating_add(self.period_ns.saturating_mul(ticks.saturating_add(1)));
        self.triggered.map_or(Timestamp(tick), |at| at.min(Timestamp(tick)))
    }

    /// Asks for a run at once, or as soon as the one under way is over; a second trigger before that is the same one.
    pub fn trigger(&mut self, now: Timestamp) {
        self.triggered.get_or_insert(now);
    }

    /// A run begins. One that was triggered has the ticks counted from now.
    pub fn begin(&mut self, now: Timestamp) {
        let first = self.ticks.is_none();
        if first || self.triggered.is_some() {
            self.base = now;
            self.ticks = Some(0);
        } else {
            self.ticks = Some(now.0.saturating_sub(self.base.0).div_euclid(self.period_ns));
        }
        // A trigger from before the first run is still there after it.
        if !first {
            self.triggered = None;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a part of an i64, and `as` keeps it in its range")]
#[expect(clippy::cast_precision_loss, reason = "a random wait need not be exact")]
fn part_of(ns: i64, random: f64) -> i64 {
    (ns as f64 * random.clamp(0.0, 1.0)) as i64
}
