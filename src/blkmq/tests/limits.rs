use super::bucket::{Bucket, Price, Shape, Units};
use super::*;
use crate::block::{Nanos, Op, Sector, SectorRange};
use crate::testkit::rng::Rng;
use proptest::prelude::*;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
const RATES: [u64; 9] = [1, 3, 7, 999, 1_000_000, 7_777_777_777, 10_000_000_000, 1 << 40, 1 << 49];

fn rate(rate: u64) -> Limit {
    Limit { rate, ..Limit::default() }
}

fn range(bytes: u64) -> SectorRange {
    SectorRange::new(Sector(0), bytes / 512, u64::MAX).expect("a range")
}

fn read(bytes: u64) -> Op {
    Op::Read(range(bytes))
}

fn write(bytes: u64) -> Op {
    Op::Write(range(bytes))
}

fn iops(total: Limit) -> LimitsConfig {
    LimitsConfig { iops: LimitSet { total, ..LimitSet::default() }, ..LimitsConfig::default() }
}

fn bps(total: Limit) -> LimitsConfig {
    LimitsConfig { bps: LimitSet { total, ..LimitSet::default() }, ..LimitsConfig::default() }
}

fn limits(config: &LimitsConfig) -> Limits {
    Limits::new(config).expect("consistent")
}

/// A guest that always has something to send, one by one: when each of `ops` goes.
fn backlog(limits: &Limits, ops: impl IntoIterator<Item = Op>) -> Vec<u64> {
    let mut now = Nanos(0);
    let go = |op| {
        let due = limits.book(op, now);
        if due > now {
            now = due;
            limits.depart(op, now);
        }
        now.0
    };
    ops.into_iter().map(go).collect()
}

// ---------------------------------------------------------------- the bucket

#[test]
fn a_price_is_exact_for_any_rate_and_size() {
    for rate in RATES {
        for n in [1, 2, 3, 512, 4096, 1 << 20, 1 << 31] {
            let (whole, part) = Price::per_second(rate).of(Units::bytes(n));
            let got = (u128::from(whole) << 32) + u128::from(part);
            let exact = (u128::from(n) * u128::from(SECOND)) << 32;
            // Never less than exact, and at most 2^-32 ns or 2^-55 of it more.
            let (low, high) = (exact, exact + u128::from(rate) * 2 + (exact >> 55));
            let got = got * u128::from(rate);
            assert!((low..=high).contains(&got), "{n} at {rate}: {got} is not in {low}..={high}");
        }
    }
}

#[test]
fn i22_what_is_less_than_a_nanosecond_adds_up() {
    for rate in RATES {
        let bucket = Bucket::new(Shape::main(&super::Limit { rate, ..Limit::default() }));
        let n = 1_000_003_u32;
        for _ in 0..n {
            bucket.book(Units::bytes(1), 0);
        }
        let exact = u128::from(n) * u128::from(SECOND) / u128::from(rate);
        let tat = u128::from(bucket.tail()) + u128::from(Shape::main(&self::rate(rate)).tolerance);
        // The tail is the TAT less a tenth of a second, if there is that much.
        if exact > u128::from(SECOND) {
            assert!(tat >= exact && tat - exact <= 1 + exact / 1_000_000, "{rate}: {tat} {exact}");
        } else {
            let due = u128::from(bucket.book(Units::bytes(rate), 0));
            assert!(due.abs_diff(exact.saturating_sub(100_000_000)) <= 2, "{rate}: {due} {exact}");
        }
    }
}

#[test]
fn nothing_overflows() {
    let late = Nanos(1 << 63);
    for rate in RATES {
        let most = Limit { rate, burst: rate.max(1 << 20), burst_seconds: 900_000_000 };
        for limit in [self::rate(rate), most] {
            if bps(limit).check().is_err() {
                continue;
            }
            let limits = limits(&bps(limit));
            assert!(limits.book(read(1 << 31), late) <= late, "the first one passes");
            for _ in 0..100 {
                limits.force(read(i64::MAX as u64 & !511), late);
                limits.force(write(1 << 31), Nanos(0));
            }
            assert!(limits.tail(Direction::Read) > late, "and leaves a debt");
            limits.set(&bps(self::rate(1)), late).expect("consistent");
            limits.set(&bps(self::rate(MAX_VALUE)), late).expect("consistent");
            assert!(limits.book(read(512), Nanos(u64::MAX)) <= Nanos(u64::MAX));
        }
    }
}

#[test]
fn a_large_operation_counts_as_several_with_fractions() {
    assert_eq!(Units::operations(4096, 4096), Units::ONE);
    assert_eq!(Units::operations(512, 4096), Units::ONE);
    assert_eq!(Units::operations(6144, 4096), Units::operations(3072, 2048));
    assert_eq!(Units::operations(1 << 40, 0), Units::ONE, "off");
    let mut config = iops(rate(100));
    config.iops_size = 4096;
    let limits = limits(&config);
    // Level 1.5 in a bucket of 10; a hundred leak per second.
    limits.force(read(6144), Nanos(SECOND));
    limits.force(read(512), Nanos(SECOND));
    let tail = limits.tail(Direction::Read).0 + SECOND / 10;
    assert_eq!(tail, SECOND + 25_000_000);
}

// ---------------------------------------------------------------- what counts as what

#[test]
fn a_flush_is_free_and_a_discard_is_a_sector() {
    let limits = limits(&bps(rate(512)));
    let late = Nanos(5 * SECOND);
    for _ in 0..1000 {
        assert!(limits.book(Op::Flush, late) <= late);
    }
    assert!(limits.book(Op::Discard(range(1 << 40)), late) <= late);
    // One sector at a sector a second: the next one in 1 - 1/10 s.
    assert_eq!(limits.tail(Direction::Write), Nanos(late.0 + SECOND * 9 / 10));
    limits.force(Op::WriteZeroes { range: range(1024), unmap: true }, late);
    assert_eq!(limits.tail(Direction::Write), Nanos(late.0 + SECOND * 29 / 10));
}

#[test]
fn reads_and_writes_have_limits_of_their_own() {
    let part = LimitSet { read: rate(10), write: rate(1000), ..LimitSet::default() };
    for config in [
        LimitsConfig { iops: part, ..LimitsConfig::default() },
        LimitsConfig { bps: part, ..LimitsConfig::default() },
    ] {
        let limits = limits(&config);
        let now = Nanos(SECOND);
        (0..100).for_each(|_| limits.force(read(512), now));
        assert!(limits.tail(Direction::Read) > now);
        assert!(limits.book(write(512), now) <= now, "reads are no concern of a write");
    }
    let limits = limits(&iops(rate(10)));
    limits.force(read(512), Nanos(SECOND));
    assert_eq!(limits.tail(Direction::Read), limits.tail(Direction::Write), "the total is");
    assert!(limits.tail(Direction::Write) > Nanos(0));
}

// ---------------------------------------------------------------- the rate

/// blktests throtl/001 and 002.
#[test]
fn i22_what_a_second_is_worth_takes_a_second() {
    let mib = limits(&bps(rate(1 << 20)));
    let last = *backlog(&mib, (0..257).map(|_| read(4096))).last().expect("some");
    assert!((9 * SECOND / 10..=SECOND).contains(&last), "1 MiB at 1 MiB/s: {last} ns");
    let many = limits(&iops(rate(256)));
    let last = *backlog(&many, (0..257).map(|_| write(4096))).last().expect("some");
    assert!((9 * SECOND / 10..=SECOND).contains(&last), "256 at 256/s: {last} ns");
}

/// The bucket of the design reference's model: tokens, which may go negative by one request.
fn model(rate: f64, cap: f64, costs: &[u32]) -> Vec<f64> {
    let (mut level, mut last, mut now) = (cap, 0.0, 0.0);
    let mut went = Vec::new();
    for cost in costs {
        loop {
            level = f64::min(cap, level + (now - last) * rate);
            last = now;
            if level > 0.0 {
                break;
            }
            now += (-level + 1e-9) / rate + 1e-6;
        }
        level -= f64::from(*cost);
        went.push(now);
    }
    went
}

#[test]
fn i22_agrees_with_the_model_of_the_reference() {
    let mut rng = Rng::new(3);
    let costs: Vec<u32> =
        (0..3000).map(|_| [1, 1, 4, 32][usize::try_from(rng.below(4)).expect("small")]).collect();
    let mut sized = iops(rate(50));
    sized.iops_size = 512;
    let ours = backlog(&limits(&sized), costs.iter().map(|c| read(u64::from(*c) * 512)));
    let theirs = model(50.0, 5.0, &costs);
    for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let apart = (*ours as f64 / 1e9 - theirs).abs();
        // The model passes nothing at an empty token bucket, we do: once, at the beginning.
        assert!(apart < 1e-3 || i < 6, "request {i}: {ours} ns and {theirs} s");
    }
}

/// QEMU's leaky bucket as it is written there, in floating point.
#[derive(Clone, Default)]
struct Leaky {
    avg: f64,
    max: f64,
    length: f64,
    level: f64,
    burst_level: f64,
}

impl Leaky {
    fn new(limit: &Limit) -> Leaky {
        Leaky {
            avg: limit.rate as f64,
            max: limit.burst as f64,
            length: f64::from(limit.burst_seconds.max(1)),
            ..Leaky::default()
        }
    }

    fn leak(&mut self, seconds: f64) {
        self.level = f64::max(self.level - self.avg * seconds, 0.0);
        if self.length > 1.0 {
            self.burst_level = f64::max(self.burst_level - self.max * seconds, 0.0);
        }
    }

    fn wait(&self) -> f64 {
        if self.avg == 0.0 {
            return 0.0;
        }
        let (size, burst_size) = match self.max {
            0.0 => (self.avg / 10.0, 0.0),
            max => (max * self.length, max / 10.0),
        };
        if self.level > size {
            return (self.level - size) / self.avg;
        }
        if self.length > 1.0 && self.burst_level > burst_size {
            return (self.burst_level - burst_size) / self.max;
        }
        0.0
    }

    fn account(&mut self, units: f64) {
        self.level += units;
        if self.length > 1.0 {
            self.burst_level += units;
        }
    }
}

/// When each of `sizes` goes under QEMU's rules, in nanoseconds.
fn qemu(config: &LimitsConfig, sizes: &[u64]) -> Vec<u64> {
    let mut buckets = [Leaky::new(&config.iops.total), Leaky::new(&config.bps.total)];
    let mut now: u64 = 0;
    let mut went = Vec::new();
    for size in sizes {
        loop {
            let wait = buckets.iter().map(Leaky::wait).fold(0.0, f64::max);
            if wait == 0.0 {
                break;
            }
            // QEMU's timer has nanoseconds, and fires a little late.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a wait is positive and short"
            )]
            let ns = (wait * 1e9) as u64 + 1;
            now += ns;
            buckets.iter_mut().for_each(|b| b.leak(ns as f64 / 1e9));
        }
        let large = config.iops_size != 0 && *size > config.iops_size;
        let units = if large { *size as f64 / config.iops_size as f64 } else { 1.0 };
        buckets[0].account(units);
        buckets[1].account(*size as f64);
        went.push(now);
    }
    went
}

/// How many of `went` have gone by `now`.
fn by(went: &[u64], now: u64) -> usize {
    went.partition_point(|t| *t <= now)
}

/// Whether at any instant the numbers that have gone, of all `sizes` at once, differ by at most one.
fn agree(config: &LimitsConfig, sizes: &[u64]) -> bool {
    let ours = backlog(&limits(config), sizes.iter().map(|s| read(*s)));
    let theirs = qemu(config, sizes);
    ours.iter().chain(&theirs).all(|t| {
        // Within a microsecond, or a millionth: the port counts in floating point.
        let before = t.saturating_sub(1000 + t / 1_000_000);
        by(&ours, before) <= by(&theirs, *t) + 1 && by(&theirs, before) <= by(&ours, *t) + 1
    })
}

fn limit() -> impl Strategy<Value = Limit> {
    let rates = prop_oneof![1u64..100, 100u64..100_000, 1_000_000u64..10_000_000_000];
    (rates, 1u64..20, 1u32..8, 0u8..3).prop_map(|(rate, times, seconds, kind)| match kind {
        0 => Limit { rate, ..Limit::default() },
        1 => Limit { rate, burst: rate * times, burst_seconds: seconds.min(1) },
        _ => Limit { rate, burst: rate * times, burst_seconds: seconds },
    })
}

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(
        prop_oneof![Just(4096u64), Just(512), Just(65536), Just(1 << 20)],
        400,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One limit: at any instant the numbers that have gone differ by at most one.
    #[test]
    fn i22_bursts_are_those_of_qemu(
        limit in limit(), sizes in sizes(), of_bytes: bool, sized in 0u64..3,
    ) {
        let mut config = if of_bytes { bps(limit) } else { iops(limit) };
        config.iops_size = if of_bytes { 0 } else { sized * 4096 };
        prop_assert!(agree(&config, &sizes), "{config:?}");
    }

    /// Operations and bytes together, so that now the one holds and now the other.
    #[test]
    fn i22_two_limits_are_those_of_qemu(ops in limit(), bytes in limit(), sizes in sizes()) {
        let config = LimitsConfig { bps: bps(bytes).bps, ..iops(ops) };
        prop_assert!(agree(&config, &sizes), "{config:?}");
    }
}

// ---------------------------------------------------------------- changes

#[test]
fn a_change_keeps_what_is_in_the_bucket() {
    let limits = limits(&iops(rate(10)));
    let now = Nanos(7 * SECOND);
    (0..101).for_each(|_| limits.force(read(512), now)); // 101 in a bucket of 1
    assert_eq!(limits.tail(Direction::Read), Nanos(now.0 + 10 * SECOND));
    limits.set(&iops(rate(1000)), now).expect("consistent"); // 101 in a bucket of 100
    assert_eq!(limits.tail(Direction::Read), Nanos(now.0 + SECOND / 1000));
    limits.set(&iops(rate(10)), now).expect("consistent");
    assert_eq!(limits.tail(Direction::Read), Nanos(now.0 + 10 * SECOND), "and back");
    let half = Nanos(now.0 + 5 * SECOND); // 51 are left
    limits.set(&iops(rate(1)), half).expect("consistent");
    assert_eq!(limits.tail(Direction::Read), Nanos(half.0 + 50_900_000_000));
    assert_eq!((limits.config(), limits.changes()), (iops(rate(1)), 3));
}

#[test]
fn a_refused_change_changes_nothing() {
    let limits = limits(&iops(rate(10)));
    let bad = iops(Limit { rate: 10, burst: 5, burst_seconds: 0 });
    limits.set(&bad, Nanos(0)).expect_err("the burst is slower than the rate");
    assert_eq!((limits.config(), limits.changes()), (iops(rate(10)), 0));
    Limits::new(&bad).expect_err("the burst is slower than the rate");
}

#[test]
fn limits_come_and_go() {
    let limits = limits(&LimitsConfig::default());
    let now = Nanos(SECOND);
    assert!(limits.is_off());
    (0..1000).for_each(|_| assert_eq!(limits.book(write(1 << 30), now), Nanos(0)));
    limits.set(&bps(rate(512)), now).expect("consistent");
    assert!(!limits.is_off());
    assert!(limits.book(write(512), now) <= now, "begins empty");
    assert!(limits.book(write(512), now) > now);
    limits.set(&LimitsConfig::default(), now).expect("consistent");
    assert!(limits.is_off());
    assert_eq!(limits.tail(Direction::Write), Nanos(0), "nothing to wait for");
    limits.set(&bps(rate(512)), now).expect("consistent");
    assert!(limits.book(write(512), now) <= now, "and begins empty again");
}

/// Threads that share a disk: all together get the rate, in one queue, and everything is charged.
#[test]
fn i22_threads_share_one_queue() {
    const EACH: u64 = 20_000;
    let limits = Arc::new(limits(&LimitsConfig { bps: bps(rate(1 << 40)).bps, ..iops(rate(3)) }));
    let work = |_| {
        let limits = Arc::clone(&limits);
        std::thread::spawn(move || -> Vec<u64> {
            (0..EACH).map(|_| limits.book(read(4096), Nanos(0)).0).collect()
        })
    };
    let threads: Vec<_> = (0..4).map(work).collect();
    let mut due = Vec::new();
    for thread in threads {
        let of = thread.join().expect("no panic");
        assert!(of.is_sorted(), "who asks later goes later");
        due.extend(of);
    }
    due.sort_unstable();
    for (i, due) in (0u64..).zip(due) {
        // The i-th of all, whoever asked: a third of a second apart, after a tenth.
        let exact = (i * SECOND).div_ceil(3).saturating_sub(SECOND / 10);
        assert!(due.abs_diff(exact) <= 4, "{i}: {due} {exact}");
    }
}

// ---------------------------------------------------------------- contradictions

#[test]
fn contradictions_are_those_of_qemu() {
    let l = |rate, burst, burst_seconds| Limit { rate, burst, burst_seconds };
    let set = |total, read, write| LimitSet { total, read, write };
    let none = Limit::default();
    let what = |part| What { measure: "iops", part };
    let table = [
        (set(l(1, 0, 0), none, none), None),
        (set(none, l(1, 0, 1), l(MAX_VALUE, 0, 0)), None),
        (set(l(1, 1, 0), none, none), None),
        (set(l(1, 2, 500_000_000), none, none), None),
        (set(l(1, 0, 0), l(1, 0, 0), none), Some(LimitsError::TotalAndPart("iops"))),
        (set(l(1, 0, 0), none, l(1, 0, 0)), Some(LimitsError::TotalAndPart("iops"))),
        (set(l(1, 2, 0), none, l(0, 2, 0)), Some(LimitsError::TotalAndPart("iops"))),
        (set(l(0, 2, 0), none, none), Some(LimitsError::BurstWithoutRate(what("total")))),
        (set(none, l(3, 2, 0), none), Some(LimitsError::BurstBelowRate(what("read"), 2, 3))),
        (set(none, none, l(3, 0, 2)), Some(LimitsError::LengthWithoutBurst(what("write")))),
        (
            set(l(1, MAX_VALUE, 2), none, none),
            Some(LimitsError::BurstTooLong(what("total"), MAX_VALUE, 2)),
        ),
        (
            set(l(MAX_VALUE + 1, 0, 0), none, none),
            Some(LimitsError::TooLarge(what("total"), MAX_VALUE + 1)),
        ),
        (
            set(none, l(1, MAX_VALUE + 7, 0), none),
            Some(LimitsError::TooLarge(what("read"), MAX_VALUE + 7)),
        ),
    ];
    for (iops, error) in table {
        let config = LimitsConfig { iops, ..LimitsConfig::default() };
        assert_eq!(config.check().err(), error, "{config:?}");
        let Some(error) = error else { continue };
        let text = error.to_string();
        assert!(text.starts_with("iops") && text.contains(": "), "{text}");
        assert!(!text.contains('\n'), "{text}");
        let of_bytes = LimitsConfig { bps: iops, ..LimitsConfig::default() };
        let text = of_bytes.check().expect_err("as bad for bytes").to_string();
        assert!(text.starts_with("bps"), "{text}");
    }
    let sized = LimitsConfig { iops_size: 4096, ..bps(rate(1)) };
    assert_eq!(sized.check(), Err(LimitsError::SizeWithoutIops));
    assert_eq!(LimitsConfig { iops_size: 4096, ..iops(rate(1)) }.check(), Ok(()));
}
