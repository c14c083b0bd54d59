//! The statistics of paired windows: order within a pair, ratios, median, and its distribution-free 95 % interval.
//!
//! No assumption about the shape of the noise: the interval lies between two order statistics, chosen by the binomial distribution of how
//! many values fall below the true median. Pure arithmetic.

use std::fmt;

/// What each side of the interval may miss.
const TAIL: f64 = 0.025;

/// The median of some values and, where there are enough of them (six), its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) interval: Option<(f64, f64)>,
}

impl Median {
    /// `None` without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let value = if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) };
        let interval = rank(sorted.len()).map(|rank| (sorted[rank - 1], sorted[sorted.len() - rank]));
        Some(Self { value, interval })
    }

    /// Whether the interval leaves open on which side of `bar` the true median lies.
    pub(crate) fn straddles(&self, bar: f64) -> bool {
        self.interval.is_none_or(|(low, high)| low < bar && bar <= high)
    }
}

impl fmt::Display for Median {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.4}", self.value)?;
        match self.interval {
            Some((low, high)) => write!(formatter, " [{low:.4}, {high:.4}]"),
            None => write!(formatter, " [too few pairs for an interval]"),
        }
    }
}

/// The largest rank `r` for which the true median lies below the `r`-th smallest of `count` values with a probability of at most
/// [`TAIL`]; by symmetry the same holds above the `r`-th largest.
fn rank(count: usize) -> Option<usize> {
    let count_f = f64::from(u32::try_from(count).ok()?);
    // P(exactly `below` of `count` values lie below the median), and P(at most so many).
    let mut exactly = 0.5_f64.powf(count_f);
    let mut at_most = exactly;
    let mut rank = 0;
    let mut below = 0.0;
    while at_most <= TAIL && rank < count {
        rank += 1;
        exactly *= (count_f - below) / (below + 1.0);
        below += 1.0;
        at_most += exactly;
    }
    (rank > 0).then_some(rank)
}

/// Whether the agent runs in the first and in the second window of a pair. Alternating (off on, on off, off on, …), so that a
/// steady drift of the machine's speed cancels, and neighbouring pairs share a state.
pub(crate) fn order(pair: usize) -> [bool; 2] {
    if pair.is_multiple_of(2) { [false, true] } else { [true, false] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics: 95 % interval of a median.
        for (count, expected) in [
            (0, None),
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (20, Some(6)),
            (40, Some(14)),
            (100, Some(40)),
        ] {
            assert_eq!(rank(count), expected, "{count}");
        }
    }

    #[test]
    fn median_and_interval_do_not_depend_on_order_or_outliers() {
        let mut values: Vec<f64> = (1..=9).map(f64::from).collect();
        values.reverse();
        values[0] = 1e9;
        let median = Median::of(&values).expect("values");
        assert_eq!(median, Median { value: 5.0, interval: Some((2.0, 8.0)) });
        assert_eq!(Median::of(&[1.0, 2.0]), Some(Median { value: 1.5, interval: None }));
        assert_eq!(Median::of(&[]), None);
    }

    #[test]
    fn the_interval_covers_the_true_median_as_often_as_it_says() {
        // A skewed distribution with median 1: the square of a value that is uniform in (0, 2), by a fixed linear congruential generator.
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (f64::from(u32::try_from(state >> 32).expect("32 bits")) / f64::from(u32::MAX) * 2.0).powi(2)
        };
        let rounds = 2000;
        let covered = (0..rounds)
            .filter(|_| {
                let values: Vec<f64> = (0..40).map(|_| draw()).collect();
                let (low, high) = Median::of(&values).expect("values").interval.expect("40 values");
                (low..=high).contains(&1.0)
            })
            .count();
        // 96.2 % by the binomial distribution; four standard errors either way.
        assert!((1889..=1958).contains(&covered), "{covered} of {rounds}");
    }

    #[test]
    fn only_an_interval_on_one_side_of_the_bar_decides() {
        let median = |low, high| Median { value: 1.0, interval: Some((low, high)) };
        assert!(median(0.98, 1.01).straddles(0.99));
        assert!(!median(0.99, 1.01).straddles(0.99));
        assert!(!median(0.97, 0.98).straddles(0.99));
        assert!(Median { value: 1.0, interval: None }.straddles(0.99));
    }

    #[test]
    fn a_steady_drift_cancels() {
        // Each window is 1 % slower than the one before; the agent costs nothing.
        let mut speed = 1.0;
        let ratios: Vec<f64> = (0..40)
            .map(|pair| {
                let mut speeds = [0.0; 2];
                for on in order(pair) {
                    speeds[usize::from(on)] = speed;
                    speed *= 0.99;
                }
                speeds[1] / speeds[0]
            })
            .collect();
        let median = Median::of(&ratios).expect("ratios").value;
        assert!((median - 1.0).abs() < 1e-4, "{median}");
    }
}
