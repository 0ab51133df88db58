//! Every interleaving of threads at the buckets of one disk (run with `--cfg loom`).

use super::*;
use crate::block::{Nanos, Op, Sector, SectorRange};
use loom::sync::Arc;
use loom::thread;

const SECOND: u64 = 1_000_000_000;

fn rate(rate: u64) -> LimitSet {
    LimitSet { total: Limit { rate, ..Limit::default() }, ..LimitSet::default() }
}

fn read() -> Op {
    Op::Read(SectorRange::new(Sector(0), 8, 8).expect("a range"))
}

/// Two threads ask at the same time: each is charged once in every bucket, and they get places one
/// behind the other in the bucket that is the tighter one.
#[test]
fn loom_i22_no_two_have_the_same_place() {
    loom::model(|| {
        // 1 an hour would do; bytes are as good as free.
        let config = LimitsConfig { iops: rate(1), bps: rate(1 << 40), iops_size: 0 };
        let limits = Arc::new(Limits::new(&config).expect("consistent"));
        let other = {
            let limits = Arc::clone(&limits);
            thread::spawn(move || [limits.book(read(), Nanos(0)), limits.book(read(), Nanos(0))])
        };
        let mine = limits.book(read(), Nanos(0));
        let theirs = other.join().expect("no panic");
        let mut due = [mine.0, theirs[0].0, theirs[1].0];
        due.sort_unstable();
        assert_eq!(due, [0, SECOND * 9 / 10, SECOND * 19 / 10]);
        assert_eq!(limits.tail(Direction::Read).0, SECOND * 29 / 10);
    });
}

/// What is less than a nanosecond is collected once, whoever collects it.
#[test]
fn loom_i22_fractions_are_not_lost() {
    loom::model(|| {
        // Two thirds of a nanosecond for each, and 0.9 s of debt so that the tail can be seen.
        let burst = Limit { rate: 1_500_000_000, burst: 0, burst_seconds: 0 };
        let config = LimitsConfig {
            iops: LimitSet { total: burst, ..LimitSet::default() },
            ..LimitsConfig::default()
        };
        let limits = Arc::new(Limits::new(&config).expect("consistent"));
        let now = Nanos(SECOND);
        let other = {
            let limits = Arc::clone(&limits);
            thread::spawn(move || {
                limits.force(read(), now);
                limits.force(read(), now);
            })
        };
        limits.force(read(), now);
        other.join().expect("no panic");
        // Three of them are two nanoseconds; the price is rounded up by less than another one.
        let tail = limits.tail(Direction::Read).0 - SECOND * 9 / 10;
        assert!((2..=3).contains(&tail), "{tail}");
    });
}

/// The limits change while a thread books: what it books is charged at the old price or at the
/// new one, within one request, and who looks after the change sees the new limits.
#[test]
fn loom_a_change_costs_at_most_one_request() {
    loom::model(|| {
        let config = |n| LimitsConfig { iops: rate(n), ..LimitsConfig::default() };
        let limits = Arc::new(Limits::new(&config(1)).expect("consistent"));
        limits.force(read(), Nanos(0));
        let other = {
            let limits = Arc::clone(&limits);
            thread::spawn(move || limits.force(read(), Nanos(0)))
        };
        limits.set(&config(2), Nanos(0)).expect("consistent");
        assert_eq!(limits.changes(), 1);
        other.join().expect("no panic");
        // Two requests at 2/s are 1 s of debt; one of them charged wrongly, 0.25 to 1.5 s.
        let tat = limits.tail(Direction::Read).0 + SECOND / 10;
        assert!((SECOND * 3 / 4..=SECOND * 3 / 2).contains(&tat), "{tat}");
        assert_eq!(limits.config(), config(2));
    });
}
