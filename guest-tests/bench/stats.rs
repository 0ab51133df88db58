//! Figures of several rounds, and latencies of many requests.

use serde::Serialize;

/// The least, the middle and the greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Range {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Range {
    /// Of at least one figure.
    pub(crate) fn of(figures: &[f64]) -> Option<Range> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Range { min, median: f64::midpoint(below, above), max })
    }

    /// Of two figures of each round: `what` of one compared to the other. What slowed the whole
    /// round down cancels out, which it does not in a comparison of medians.
    pub(crate) fn paired(
        one: &[f64],
        other: &[f64],
        what: impl Fn(f64, f64) -> f64,
    ) -> Option<Range> {
        let pairs: Vec<f64> = one.iter().zip(other).map(|(a, b)| what(*a, *b)).collect();
        Range::of(&pairs)
    }

    /// How far the rounds are apart, as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.max - self.min) / self.median
    }

    /// In so many places after the point: the median, and the ends in brackets.
    pub(crate) fn text(&self, places: usize) -> String {
        format!("{:.places$} [{:.places$} {:.places$}]", self.median, self.min, self.max)
    }
}

/// Each power of two is cut into so many buckets of equal width, so a bucket is at most 3 % wide.
const CUTS: u64 = 32;
/// What takes 2^40 ns, 18 minutes, or longer shares the last bucket.
const BUCKETS: usize = 36 * 32;

/// How many requests took how long, in nanoseconds.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS] }
    }

    /// Counts a request.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
    }

    /// Counts what another one has counted.
    pub(crate) fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, more)| *mine += more);
    }

    /// Nanoseconds within which that many of a thousand requests ended; 0 of none. Not less than
    /// the exact figure, and above it by 3 % at most.
    pub(crate) fn percentile(&self, per_mille: u64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        let rank = (all * per_mille).div_ceil(1000).max(1);
        let mut passed = 0;
        for (index, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return greatest(index as u64);
            }
        }
        0
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = nanos.max(CUTS).ilog2() - CUTS.ilog2();
    let index = u64::from(shift) * CUTS + (nanos >> shift);
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The greatest number of nanoseconds in a bucket.
fn greatest(index: u64) -> u64 {
    let shift = (index / CUTS).saturating_sub(1);
    ((index - shift * CUTS + 1) << shift) - 1
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_the_sorted_figures() {
        let range = |figures: &[f64]| Range::of(figures).map(|r| (r.min, r.median, r.max));
        assert_eq!(range(&[]), None);
        assert_eq!(range(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(range(&[9.0, 1.0, 2.0]), Some((1.0, 2.0, 9.0)));
        assert_eq!(range(&[9.0, 1.0, 2.0, 4.0]), Some((1.0, 3.0, 9.0)));
    }

    #[test]
    fn a_slow_round_cancels_out() {
        let range = Range::paired(&[30.0, 3.0, 33.0], &[10.0, 1.0, 10.0], |a, b| a / b);
        assert_eq!(range, Some(Range { min: 3.0, median: 3.0, max: 3.3 }));
        assert_eq!(Range::paired(&[], &[], |a, _| a), None);
    }

    #[test]
    fn the_spread_is_a_part_of_the_median() {
        let range = Range { min: 9.0, median: 10.0, max: 12.0 };
        assert!((range.spread() - 0.3).abs() < 1e-9);
        assert_eq!(range.text(1), "10.0 [9.0 12.0]");
    }

    #[test]
    fn every_time_is_in_a_bucket_that_is_hardly_wider_than_itself() {
        let mut last = 0;
        for nanos in (0..5000).chain((13..40).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1])) {
            let index = bucket(nanos);
            assert!(index >= last && index < BUCKETS, "{nanos}");
            last = index;
            let top = greatest(index as u64);
            assert!(top >= nanos && top - nanos <= nanos / 32, "{nanos} {top}");
            assert!(top == nanos || bucket(top + 1) == index + 1, "{nanos} {top}");
        }
        assert_eq!((bucket(1 << 40), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn percentiles_count_from_the_fastest() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(500), 0);
        (1..=1000).for_each(|n| histogram.record(n * 10));
        for (per_mille, exact) in [(0, 10), (1, 10), (500, 5000), (990, 9900), (1000, 10_000)] {
            let found = histogram.percentile(per_mille);
            assert!((exact..=exact + exact / 32).contains(&found), "{per_mille}: {found}");
        }
        let mut slow = Histogram::new();
        (0..2000).for_each(|_| slow.record(1_000_000));
        histogram.add(&slow);
        assert!(histogram.percentile(500) >= 1_000_000);
        assert!(histogram.percentile(333) < 11_000);
    }
}
