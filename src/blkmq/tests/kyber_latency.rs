use super::*;

const MS: u64 = 1_000_000;
const READ: usize = 0;
const WRITE: usize = 1;
const DISCARD: usize = 2;
const TARGET: u64 = 2 * MS;

fn full() -> [u16; TIMED] {
    [256, 128, 64]
}

fn at(ms: u64) -> Nanos {
    Nanos(ms * MS)
}

/// `n` requests of a kind, with total and io latency in quarters of the target, rounded up.
fn record(l: &Latencies, n: u32, kind: usize, total: u64, io: u64) {
    let quarter = |q: u64| q * TARGET / 4 + 1;
    (0..n).for_each(|_| l.record(0, kind, TARGET, quarter(total), quarter(io)));
}

#[test]
fn a_bucket_is_a_quarter_of_the_target_and_its_end_belongs_to_it() {
    for target in [0, 1, 3, 4, 7, 8, 2 * MS, 10 * MS, 5_000 * MS, 60_000 * MS] {
        let width = (target / 4).max(1);
        for latency in [0, 1, 2, 3, 9, 1 << 40, u64::MAX]
            .into_iter()
            .chain((1..10).flat_map(|k| [k * width - 1, k * width, k * width + 1]))
        {
            let slow = (latency.saturating_sub(1) / width).min(7);
            assert_eq!(bucket(latency, target) as u64, slow, "{latency} of {target}");
        }
    }
    assert_eq!(bucket(2 * MS, 2 * MS), 3, "the target itself is good");
    assert_eq!(bucket(2 * MS + 1, 2 * MS), 4);
}

#[test]
fn i19_a_depth_stays_within_its_bounds() {
    for max in MAX_DEPTH {
        for depth in 1..=max {
            for p99 in 0..8 {
                let next = scaled(depth, p99, max);
                assert!((1..=max).contains(&next));
                match p99 {
                    0..3 => assert!(next < depth || depth == 1),
                    3 => assert_eq!(next, depth),
                    _ => assert!(next > depth || depth == max, "I20: {depth} stays, p99 {p99}"),
                }
                if depth >= 4 {
                    assert_eq!(next, (depth * (p99 + 1) / 4).clamp(1, max), "the reference");
                }
            }
        }
    }
}

#[test]
fn i20_few_samples_say_nothing_for_a_second() {
    let l = Latencies::new(1);
    record(&l, 499, READ, 7, 7);
    assert_eq!(l.fold(at(100), full()), [None; 3]);
    assert_eq!(l.fold(at(1099), [8; 3]), [None; 3], "a second begins when they are first seen");
    assert_eq!(l.folded(READ), [499; 2]);
    assert_eq!(l.fold(at(1100), [8; 3]), [Some(16), None, None], "late, in congestion");
    assert_eq!(l.folded(READ), [0; 2], "the window starts anew");
    assert_eq!(l.fold(at(5000), [8; 3]), [None; 3], "no samples, no change, however long");
}

#[test]
fn i20_five_hundred_samples_are_enough_at_once() {
    let l = Latencies::new(1);
    record(&l, 499, READ, 7, 7);
    assert_eq!(l.fold(at(100), [8; 3]), [None; 3]);
    record(&l, 1, READ, 7, 7);
    assert_eq!(l.fold(at(200), [8; 3]), [Some(16), None, None]);
}

#[test]
fn i20_congestion_shrinks_who_has_time_and_grows_who_is_late() {
    let l = Latencies::new(1);
    record(&l, 500, READ, 5, 5); // late, and so is the disk
    record(&l, 500, WRITE, 1, 0); // half of its target
    record(&l, 500, DISCARD, 3, 2); // just in time
    assert_eq!(l.fold(at(100), [40, 40, 40]), [Some(60), Some(20), Some(40)]);
}

#[test]
fn i20_without_congestion_only_who_is_late_changes() {
    let l = Latencies::new(1);
    record(&l, 500, READ, 4, 3); // late by its own queue: the disk is fast enough
    record(&l, 500, WRITE, 0, 0);
    assert_eq!(l.fold(at(100), [40, 40, 40]), [Some(50), None, None]);
}

#[test]
fn i20_nine_in_ten_make_no_congestion() {
    for (slow, congested) in [(50, false), (51, true)] {
        let l = Latencies::new(1);
        record(&l, 500 - slow, READ, 0, 0);
        record(&l, slow, READ, 0, 7);
        assert_eq!(l.fold(at(100), [40; 3])[READ].is_some(), congested, "{slow} slow ones");
    }
    for (slow, late) in [(5, false), (6, true)] {
        let l = Latencies::new(1);
        record(&l, 500 - slow, READ, 0, 0);
        record(&l, slow, READ, 7, 0);
        assert_eq!(l.fold(at(100), [40; 3])[READ], late.then_some(80), "{slow} late ones");
    }
}

#[test]
fn i20_an_older_p99_counts_once() {
    let l = Latencies::new(1);
    record(&l, 500, WRITE, 1, 0);
    assert_eq!(l.fold(at(100), full()), [None; 3]);
    // Writes say nothing new when congestion comes: what they said last counts.
    record(&l, 500, READ, 7, 7);
    assert_eq!(l.fold(at(200), [256, 40, 64]), [Some(256), Some(20), None]);
    record(&l, 500, READ, 7, 7);
    assert_eq!(l.fold(at(300), [256, 20, 64]), [Some(256), None, None], "but only once");
    // A new one that is judged in congestion takes the older one's place, and is used up as well.
    record(&l, 500, WRITE, 0, 0);
    assert_eq!(l.fold(at(400), [256, 20, 64]), [None; 3]);
    record(&l, 500, READ, 7, 7);
    record(&l, 500, WRITE, 1, 0);
    assert_eq!(l.fold(at(500), [256, 20, 64]), [Some(256), Some(10), None]);
    record(&l, 500, READ, 7, 7);
    assert_eq!(l.fold(at(600), [256, 10, 64]), [Some(256), None, None]);
}

#[test]
fn what_all_threads_counted_is_folded_once() {
    let l = Latencies::new(3);
    (0..3).for_each(|t| (0..u64::from(t) + 1).for_each(|i| l.record(t, READ, TARGET, i, i)));
    assert_eq!(l.fold(at(100), full()), [None; 3]);
    assert_eq!(l.folded(READ), [6; 2]);
    l.record(2, READ, TARGET, 1, 1);
    assert_eq!(l.fold(at(200), full()), [None; 3]);
    assert_eq!((l.folded(READ), l.folded(WRITE)), ([7; 2], [0; 2]));
}
