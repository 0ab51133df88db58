//! Histograms of times and sizes: counted by one thread, read by any.
//!
//! Rules:
//! * **H1** Each power of two from `2^LOW` on is cut into eight buckets of equal width; what is less
//!   shares the first bucket. So above that a bucket is at most an eighth as wide as its lower
//!   bound. Sizes start at 1, so that each up to 15 has a bucket of its own.
//! * **H2** The index is the exponent and the first three bits of the mantissa of the value as a
//!   floating-point number: no loop, no division, no branch. (Counting leading zeroes says the
//!   same; but where a program must run on any x86-64, that is BSR, which takes AMD's machines eight
//!   micro-operations, and there are three of these for each bio.) It never falls when the value
//!   grows; above 2^53 a value may be rounded up into the next bucket, far beyond the range.
//! * **H3** What is beyond the range goes into the last bucket, which has no upper bound.
//! * **H4** One thread writes: a load and a store, both relaxed, no read-modify-write. A reader
//!   sees each bucket as it is or was a moment ago, never torn, and never falling.
//! * **H5** A percentile answers with the greatest value of its bucket: never less than the exact
//!   one, and above it by no more than an eighth; in the first bucket less than `2^LOW`, in the last
//!   one its lower bound.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread counts and any may read (H4). It begins anew after 2^64.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds. For the one thread that writes.
    pub(super) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Replaces the number. For the one thread that writes.
    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cuts into which each power of two is divided, as a power of two (H1).
const CUTS: u32 = 3;

/// The bucket of a value when there is no end to buckets (H2).
#[inline]
const fn index(low: u32, value: u64) -> u64 {
    // Beyond 2^63 the number is negative, and its sign puts it beyond everything.
    let bits = (value.cast_signed() as f64).to_bits();
    let below = (((f64::MAX_EXP - 1).cast_unsigned() + low) << CUTS) - 1;
    (bits >> (f64::MANTISSA_DIGITS - 1 - CUTS)).saturating_sub(below as u64)
}

/// The least value of a bucket.
fn lower(low: u32, index: usize) -> u64 {
    let Some(i) = (index as u64).checked_sub(1) else { return 0 };
    let cuts = 1 << CUTS;
    // Sizes have buckets between one number and the next: none is in them.
    ((cuts + i % cuts) << (u64::from(low) + i / cuts)).div_ceil(cuts)
}

/// `N` buckets from `2^LOW` on, counted by one thread.
#[derive(Debug)]
pub(super) struct Buckets<const LOW: u32, const N: usize>([Counter; N]);

/// Times in nanoseconds: less than 128 ns is one bucket, the last one begins at 2^36 ns, 68.7 s.
pub(super) type Times = Buckets<7, 234>;

type Numbers = Buckets<0, 98>;

impl<const LOW: u32, const N: usize> Default for Buckets<LOW, N> {
    fn default() -> Self {
        Buckets([const { Counter(AtomicU64::new(0)) }; N])
    }
}

impl<const LOW: u32, const N: usize> Buckets<LOW, N> {
    /// Counts a value. For the one thread that writes.
    #[inline]
    pub(super) fn record(&self, value: u64) {
        self.record_all(value, 1);
    }

    /// Counts a value so many times. For the one thread that writes.
    #[inline]
    pub(super) fn record_all(&self, value: u64, times: u64) {
        // H3
        self.0[usize::try_from(index(LOW, value)).unwrap_or(N).min(N - 1)].add(times);
    }

    /// What was counted so far, values that add up to `sum`. Allocates.
    pub(super) fn snapshot(&self, sum: u64) -> Distribution {
        Distribution { low: LOW, sum, buckets: self.0.iter().map(Counter::get).collect() }
    }
}

/// Sizes of batches: exact to 15; the last bucket begins at 4096.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    sum: Counter,
    numbers: Numbers,
}

impl Sizes {
    /// Counts a size. For the one thread that writes.
    pub(super) fn record(&self, size: u64) {
        self.sum.add(size);
        self.numbers.record(size);
    }

    /// What was counted so far. Allocates.
    pub(super) fn snapshot(&self) -> Distribution {
        self.numbers.snapshot(self.sum.get())
    }
}

/// What a histogram had counted at some moment. The unit of the values is said where it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    low: u32,
    sum: u64,
    buckets: Box<[u64]>,
}

/// One bucket of a [`Distribution`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The least value that it counts.
    pub lower: u64,
    /// The greatest value that it counts; `u64::MAX` for the last one (H3).
    pub upper: u64,
    /// Values counted.
    pub count: u64,
}

impl Distribution {
    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of the values, modulo 2^64.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The mean, rounded down, exact as long as the sum is; `None` of nothing.
    #[must_use]
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count())
    }

    /// All buckets, empty ones too, from the least value to the greatest.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let ends = self.buckets.len() - 1;
        let bucket = move |(i, count): (usize, &u64)| {
            let upper = if i == ends { u64::MAX } else { lower(self.low, i + 1) - 1 };
            Bucket { lower: lower(self.low, i), upper, count: *count }
        };
        self.buckets.iter().enumerate().map(bucket).filter(|b| b.lower <= b.upper)
    }

    /// The value that `per_100_000` of 100 000 values do not exceed (H5): 50 000 for the median,
    /// 99 990 for p99.99. `None` of nothing.
    #[must_use]
    pub fn percentile(&self, per_100_000: u32) -> Option<u64> {
        let wanted = u128::from(self.count()) * u128::from(per_100_000.min(100_000));
        let rank = wanted.div_ceil(100_000).max(1);
        let mut seen = 0;
        let bucket = self.buckets().find(|b| {
            seen += u128::from(b.count);
            seen >= rank
        })?;
        Some(if bucket.upper == u64::MAX { bucket.lower } else { bucket.upper })
    }

    /// Adds what another histogram of the same kind counted.
    ///
    /// # Panics
    /// When the other is of another kind (times and sizes).
    pub fn merge(&mut self, other: &Distribution) {
        let kind = |d: &Distribution| (d.low, d.buckets.len());
        assert_eq!(kind(self), kind(other), "histograms of one kind");
        self.sum = self.sum.wrapping_add(other.sum);
        for (mine, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += more;
        }
    }

    /// The first bucket of sizes was not counted one by one: it holds `ones` values of 1.
    pub(super) fn with_ones(mut self, ones: u64) -> Distribution {
        self.buckets[1] += ones;
        self.sum = self.sum.wrapping_add(ones);
        self
    }
}

#[cfg(test)]
#[path = "../tests/stats_histogram.rs"]
mod tests;
