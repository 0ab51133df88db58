use super::*;
use crate::testkit::core_disk::Rng;
use proptest::prelude::*;

/// The bucket of a value, said otherwise than by H2.
fn plain_index(low: u32, value: u64) -> u64 {
    if value < 1 << low {
        return 0;
    }
    let exponent = value.ilog2();
    let cut = (u128::from(value) << 3 >> exponent) - 8;
    u64::from(exponent - low) * 8 + u64::try_from(cut).expect("less than 8") + 1
}

#[test]
fn buckets_are_where_the_rule_says() {
    let edges = (4..53).flat_map(|e| (8..16).map(move |m| (m << e) >> 3));
    for value in (0..5000).chain(edges.flat_map(|v| [v - 1, v, v + 1])) {
        for low in [0, 7] {
            let i = index(low, value);
            assert_eq!(i, plain_index(low, value), "{value}");
            let i = usize::try_from(i).expect("small");
            assert!(lower(low, i) <= value, "{value} lies in bucket {i}");
            assert!(value < lower(low, i + 1), "{value} lies in bucket {i}");
        }
    }
    assert!(index(7, 1 << 63) > index(7, u64::MAX >> 1), "the sign is no way back");
}

#[test]
fn the_range_ends_where_it_is_said_to() {
    let times = Times::default();
    let ends = [127, 128, (1 << 36) - 1, 1 << 36, u64::MAX];
    ends.iter().for_each(|t| times.record(*t));
    let taken = times.snapshot(0);
    let filled: Vec<_> =
        taken.buckets().filter(|b| b.count > 0).map(|b| (b.lower, b.upper, b.count)).collect();
    let last = (1 << 36, u64::MAX, 2);
    assert_eq!(filled, [(0, 127, 1), (128, 143, 1), (15 << 32, (1 << 36) - 1, 1), last]);
    assert_eq!(taken.percentile(100_000), Some(1 << 36), "of the last bucket its lower bound");
    let sizes = Sizes::default();
    (0..=15).for_each(|n| sizes.record(n));
    sizes.record(5000);
    let sizes = sizes.snapshot();
    let exact: Vec<_> = sizes.buckets().filter(|b| b.count > 0).map(|b| b.lower).collect();
    assert_eq!(exact, (0..=15).chain([4096]).collect::<Vec<u64>>());
    let alone = sizes.buckets().take(16).all(|b| b.lower == b.upper);
    assert!(alone, "each size up to 15 has a bucket of its own");
    for taken in [taken, sizes] {
        let buckets: Vec<Bucket> = taken.buckets().collect();
        let joined = buckets.windows(2).all(|w| w[0].upper + 1 == w[1].lower);
        assert!(joined && buckets[0].lower == 0, "every value has one bucket");
    }
}

#[test]
fn nothing_has_no_mean_and_no_percentile() {
    let empty = Times::default().snapshot(0);
    assert_eq!((empty.count(), empty.mean(), empty.percentile(50_000)), (0, None, None));
}

/// Percentiles against exact ones, at every tail that an operator asks for.
#[test]
fn a_percentile_is_the_exact_one_or_little_above() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let times = Times::default();
        let most = 1 + rng.below(36);
        let count = 1 + rng.below(3000);
        let mut values: Vec<u64> = (0..count)
            .map(|_| {
                let bits = rng.below(most);
                rng.below(1 << bits)
            })
            .collect();
        values.iter().for_each(|v| times.record(*v));
        values.sort_unstable();
        let sum = values.iter().sum::<u64>();
        let taken = times.snapshot(sum);
        assert_eq!(taken.count(), count);
        assert_eq!((taken.sum(), taken.mean()), (sum, Some(sum / count)));
        for p in [0, 1, 1_000, 50_000, 90_000, 99_000, 99_900, 99_990, 99_999, 100_000, 200_000] {
            let rank = (count * p.min(100_000)).div_ceil(100_000).max(1);
            let exact = values[usize::try_from(rank - 1).expect("small")];
            let told = taken.percentile(u32::try_from(p).expect("small")).expect("not empty");
            assert!(told >= exact, "seed {seed}: p{p} is {exact}, not {told}");
            let bound = (exact + exact / 8).max(127);
            assert!(told <= bound, "seed {seed}: p{p} is {exact}, {told} is more than {bound}");
        }
    }
}

#[test]
fn merging_is_counting_together() {
    let (a, b, both) = (Times::default(), Times::default(), Times::default());
    let mut rng = Rng::new(7);
    for n in 0..1000u32 {
        let v = rng.below(1 << 37);
        both.record(v);
        if n % 3 == 0 { a.record(v) } else { b.record(v) }
    }
    let mut sum = a.snapshot(30);
    sum.merge(&b.snapshot(12));
    assert_eq!(sum, both.snapshot(42));
}

#[test]
#[should_panic(expected = "histograms of one kind")]
fn times_and_sizes_do_not_mix() {
    Times::default().snapshot(0).merge(&Sizes::default().snapshot());
}

#[test]
fn recording_allocates_nothing() {
    let times = Times::default();
    let all = crate::testkit::alloc::allocations(|| (0..1000).for_each(|n| times.record(n * n)));
    assert_eq!((all, times.snapshot(0).count()), (0, 1000));
}

proptest! {
    #[test]
    fn the_index_never_falls(a: u64, b: u64, cut in 1u32..60) {
        let (a, b) = (a.min(b) >> cut, a.max(b) >> cut);
        prop_assert!(index(7, a) <= index(7, b) && index(0, a) <= index(0, b));
    }

    #[test]
    fn what_no_clock_says_is_beyond_the_range(value in 1u64 << 63..) {
        prop_assert!(index(7, value) >= 234 && index(0, value) >= 98);
    }

    #[test]
    fn a_bucket_is_at_most_an_eighth_of_its_lower_bound_wide(i in 1usize..233) {
        prop_assert!((lower(7, i + 1) - lower(7, i)) * 8 <= lower(7, i));
    }
}
