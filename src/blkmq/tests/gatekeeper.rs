use super::*;
use crate::block::{HctxId, Nanos, Op, Sector, SectorRange};
use crate::testkit::rng::Rng;
use proptest::prelude::*;
use std::collections::VecDeque;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// One bio, by number, of so many bytes.
#[derive(Clone, Copy, Debug)]
struct Toy {
    serial: u64,
    op: Op,
}

/// What one thread has of a disk: the lists, and who keeps them.
struct Hall {
    keeper: Gatekeeper,
    lists: Vec<[VecDeque<Toy>; 2]>,
    /// When, on which hctx, and what went.
    went: Vec<(u64, u16, Toy)>,
}

impl Hall {
    fn new(hctxs: u16) -> Hall {
        let lists = (0..hctxs).map(|_| [VecDeque::new(), VecDeque::new()]).collect();
        Hall { keeper: Gatekeeper::new(hctxs), lists, went: Vec::new() }
    }

    fn arrive(&mut self, limits: &Limits, hctx: u16, toy: Toy, now: u64) {
        if self.keeper.arrive(limits, HctxId(hctx), toy.op, Nanos(now)) {
            self.went.push((now, hctx, toy));
        } else {
            let direction = Direction::of(toy.op).expect("a flush never waits");
            self.lists[usize::from(hctx)][direction.index()].push_back(toy);
        }
    }

    /// One look of the thread; how many went.
    fn run(&mut self, limits: &Limits, now: u64) -> usize {
        let before = self.went.len();
        loop {
            let lists = &self.lists;
            let front = |h: HctxId, d: Direction| Some(lists[h.index()][d.index()].front()?.op);
            let Some((hctx, direction)) = self.keeper.next(limits, Nanos(now), front) else {
                break;
            };
            self.take(hctx.0, direction, now);
        }
        self.went.len() - before
    }

    fn take(&mut self, hctx: u16, direction: Direction, now: u64) {
        let list = &mut self.lists[usize::from(hctx)][direction.index()];
        let toy = list.pop_front().expect("the keeper names a list that holds something");
        self.went.push((now, hctx, toy));
    }

    fn release(&mut self, limits: &Limits, hctx: u16, now: u64) -> usize {
        let before = self.went.len();
        loop {
            let lists = &self.lists;
            let front = |h: HctxId, d: Direction| Some(lists[h.index()][d.index()].front()?.op);
            let keeper = &mut self.keeper;
            let Some(direction) = keeper.release(limits, HctxId(hctx), Nanos(now), front) else {
                break;
            };
            self.take(hctx, direction, now);
        }
        self.went.len() - before
    }

    fn waiting(&self) -> usize {
        self.lists.iter().flatten().map(VecDeque::len).sum()
    }

    fn wake(&self) -> Option<u64> {
        self.keeper.next_wake().map(|wake| wake.0)
    }
}

fn range(bytes: u64) -> SectorRange {
    SectorRange::new(Sector(0), bytes / 512, u64::MAX).expect("a range")
}

fn reading(serial: u64) -> Toy {
    Toy { serial, op: Op::Read(range(4096)) }
}

fn writing(serial: u64) -> Toy {
    Toy { serial, op: Op::Write(range(4096)) }
}

fn iops(rate: u64) -> LimitsConfig {
    let total = Limit { rate, ..Limit::default() };
    LimitsConfig { iops: LimitSet { total, ..LimitSet::default() }, ..LimitsConfig::default() }
}

fn limits(config: &LimitsConfig) -> Limits {
    Limits::new(config).expect("consistent")
}

#[test]
fn without_limits_nobody_waits() {
    let limits = limits(&LimitsConfig::default());
    let mut hall = Hall::new(1);
    (0..100).for_each(|i| hall.arrive(&limits, 0, writing(i), 0));
    hall.arrive(&limits, 0, Toy { serial: 100, op: Op::Flush }, 0);
    assert_eq!((hall.went.len(), hall.wake()), (101, None));
    assert!(hall.keeper.is_empty());
}

#[test]
fn a_flush_passes_those_who_wait() {
    let limits = limits(&iops(1));
    let mut hall = Hall::new(1);
    (0..3).for_each(|i| hall.arrive(&limits, 0, writing(i), SECOND));
    hall.arrive(&limits, 0, Toy { serial: 3, op: Op::Flush }, SECOND);
    let serials: Vec<u64> = hall.went.iter().map(|(_, _, toy)| toy.serial).collect();
    assert_eq!(serials, [0, 3]);
    assert_eq!(hall.wake(), Some(SECOND + 900 * MS));
}

#[test]
fn nobody_is_asked_before_its_time() {
    let limits = limits(&iops(10));
    let mut hall = Hall::new(1);
    (0..4).for_each(|i| hall.arrive(&limits, 0, reading(i), SECOND));
    assert_eq!(hall.went.len(), 2, "one in the bucket, one on top");
    let wake = hall.wake().expect("two wait");
    assert_eq!(wake, SECOND + 100 * MS);
    let tail = limits.tail(Direction::Read);
    let front = |_, _| panic!("nothing to look at yet");
    assert_eq!(hall.keeper.next(&limits, Nanos(wake - 1), front), None);
    assert_eq!(limits.tail(Direction::Read), tail, "and nothing was charged");
    assert_eq!(hall.run(&limits, wake), 1);
    assert_eq!(hall.wake(), Some(wake + 100 * MS));
}

/// One at a time, or many at a time.
#[test]
fn hctxs_and_directions_take_turns() {
    for rate in [1000, 1_000_000] {
        let limits = limits(&iops(rate));
        let mut hall = Hall::new(3);
        // Fill the bucket, then everybody waits.
        (0..=rate / 10).for_each(|_| limits.force(reading(0).op, Nanos(SECOND)));
        for i in 0..20 {
            for hctx in 0..3 {
                hall.arrive(&limits, hctx, reading(i), SECOND);
                hall.arrive(&limits, hctx, writing(i), SECOND);
            }
        }
        assert!(hall.went.is_empty());
        while let Some(wake) = hall.wake() {
            hall.run(&limits, wake);
        }
        assert_eq!(hall.waiting(), 0);
        let mut next = [[0; 2]; 3];
        for (i, (_, hctx, toy)) in hall.went.iter().enumerate() {
            let direction = Direction::of(toy.op).expect("data").index();
            let serial = &mut next[usize::from(*hctx)][direction];
            assert_eq!(*serial, toy.serial, "I22: first come, first to go");
            *serial += 1;
            let (least, most) = (next.iter().flatten().min(), next.iter().flatten().max());
            assert!(most <= least.map(|n| n + 2).as_ref(), "{rate}/s, {i}: {next:?}");
        }
    }
}

#[test]
fn who_comes_later_waits_behind_whatever_hctx_it_is_of() {
    let limits = limits(&iops(10));
    let mut hall = Hall::new(2);
    (0..3).for_each(|i| hall.arrive(&limits, 0, reading(i), SECOND));
    // Long after: there is room, and yet hctx 0 was first.
    hall.arrive(&limits, 1, reading(9), 5 * SECOND);
    assert_eq!(hall.waiting(), 2);
    hall.run(&limits, 5 * SECOND);
    let serials: Vec<u64> = hall.went.iter().map(|(_, _, toy)| toy.serial).collect();
    assert_eq!(serials, [0, 1, 2, 9]);
}

#[test]
fn i27_a_stop_releases_at_once_and_leaves_a_debt() {
    let limits = limits(&iops(10));
    let mut hall = Hall::new(2);
    let now = SECOND;
    for i in 0..10 {
        hall.arrive(&limits, 0, reading(i), now);
        hall.arrive(&limits, 1, writing(i), now);
    }
    let gone = hall.went.len();
    assert_eq!(hall.release(&limits, 0, now) + gone + hall.waiting(), 20);
    assert!(hall.lists[0].iter().all(VecDeque::is_empty), "nothing of it is left");
    assert!(hall.lists[1].iter().any(|list| !list.is_empty()), "the neighbour waits on");
    // Each was charged once: 20 less those that wait uncharged (all but the first), after 1.
    let charged = 20 - (hall.waiting() as u64 - 1);
    let tail = limits.tail(Direction::Read).0;
    assert_eq!(tail, now + (charged - 1) * 100 * MS);
    assert_eq!(hall.release(&limits, 1, now), hall.waiting() + 9);
    assert_eq!((hall.waiting(), hall.wake()), (0, None), "I27");
    assert_eq!(limits.tail(Direction::Read).0, now + 19 * 100 * MS, "all 20, once each");
}

#[test]
fn when_the_first_in_line_is_released_the_next_one_books() {
    let limits = limits(&iops(10));
    let mut hall = Hall::new(2);
    (0..3).for_each(|i| hall.arrive(&limits, 0, reading(i), SECOND));
    hall.arrive(&limits, 1, reading(7), SECOND);
    assert_eq!(hall.release(&limits, 0, SECOND), 1);
    assert_eq!(hall.wake(), Some(0), "at once");
    assert_eq!(hall.run(&limits, SECOND), 0);
    assert_eq!(hall.wake(), Some(SECOND + 200 * MS));
}

#[test]
fn raised_limits_free_who_has_booked() {
    for to in [iops(1_000_000), LimitsConfig::default()] {
        let limits = limits(&iops(1));
        let mut hall = Hall::new(1);
        (0..50).for_each(|i| hall.arrive(&limits, 0, reading(i), SECOND));
        limits.force(reading(0).op, Nanos(SECOND));
        assert_eq!(hall.run(&limits, SECOND), 0);
        limits.set(&to, Nanos(SECOND)).expect("consistent");
        assert_eq!(hall.run(&limits, SECOND), 49, "{to:?}");
        assert_eq!(hall.wake(), None);
    }
}

#[test]
fn where_many_are_due_several_go_at_a_time() {
    let limits = limits(&iops(1_000_000));
    let mut hall = Hall::new(1);
    (0..500_000).for_each(|i| hall.arrive(&limits, 0, reading(i), SECOND));
    let mut looks = 0;
    let mut last = SECOND;
    while let Some(wake) = hall.wake() {
        hall.run(&limits, wake);
        looks += 1;
        last = wake;
    }
    // 400000 of them at a million a second: 0.4 s, looked at every 250 us.
    assert!(looks <= 1 + 400 * 4, "{looks}");
    let exact = 400_000;
    assert!((last - SECOND).abs_diff(exact * 1000) <= 2 * 250_000, "{last}");
}

/// What the rooms of several threads did, by time.
fn world(limits: &Limits, threads: usize, bytes: u64, until: u64, seed: u64) -> Vec<(u64, u64)> {
    let mut rng = Rng::new(seed);
    let mut halls: Vec<Hall> = (0..threads).map(|_| Hall::new(2)).collect();
    let mut next = vec![0; threads];
    let mut serial = 0;
    loop {
        let first = next.iter().enumerate().min_by_key(|(_, t)| **t).expect("threads");
        let (t, now) = (first.0, *first.1);
        if now > until {
            break;
        }
        halls[t].run(limits, now);
        // Always backlogged, on two hctxs, in both directions.
        while halls[t].waiting() < 8 {
            let hctx = u16::try_from(rng.below(2)).expect("small");
            let size = range(512 * (1 + rng.below(bytes / 512)));
            let op = if rng.chance(1, 2) { Op::Read(size) } else { Op::Write(size) };
            halls[t].arrive(limits, hctx, Toy { serial, op }, now);
            serial += 1;
        }
        // The timer is up to a millisecond late.
        next[t] = halls[t].wake().expect("backlogged").max(now + 1) + rng.below(MS);
    }
    for hall in &halls {
        let mut last = [[None; 2]; 2];
        for (_, hctx, toy) in &hall.went {
            let direction = Direction::of(toy.op).expect("data").index();
            let before = last[usize::from(*hctx)][direction].replace(toy.serial);
            assert!(before < Some(toy.serial), "I22: FIFO (seed {seed})");
        }
        assert!(!hall.went.is_empty(), "nobody starves (seed {seed})");
    }
    let all = halls.iter().flat_map(|hall| hall.went.iter());
    let bytes = |toy: &Toy| toy.op.range().expect("data").bytes();
    let mut went: Vec<(u64, u64)> = all.map(|(t, _, toy)| (*t, bytes(toy))).collect();
    went.sort_unstable();
    went
}

/// The greatest excess over `rate * T` in any window, in units.
fn excess(went: &[(u64, u64)], rate: u64) -> f64 {
    let (mut worst, mut low, mut sum): (f64, f64, f64) = (f64::MIN, f64::MAX, 0.0);
    for (t, units) in went {
        let leaked = *t as f64 * rate as f64 / 1e9;
        low = low.min(sum - leaked);
        sum += *units as f64;
        worst = worst.max(sum - leaked - low);
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Over every window: no more than burst + rate * T + one request; in the whole: 99 % of it.
    #[test]
    fn i22_no_more_than_the_limit_and_hardly_less(
        rate in prop_oneof![1_000_000u64..2_000_000, 50_000_000u64..100_000_000],
        burst in 0u64..3, seconds in 1u32..3, threads in 1usize..4, seed: u64,
    ) {
        const LARGEST: u64 = 32768;
        let limit = match burst {
            0 => Limit { rate, ..Limit::default() },
            times => Limit { rate, burst: rate * times, burst_seconds: seconds },
        };
        let total = LimitSet { total: limit, ..LimitSet::default() };
        let config = LimitsConfig { bps: total, ..LimitsConfig::default() };
        let until = 10 * SECOND;
        let went = world(&limits(&config), threads, LARGEST, until, seed);
        let size = if burst == 0 { rate / 10 } else { limit.burst * u64::from(seconds) };
        let most = (size + LARGEST) as f64;
        prop_assert!(excess(&went, rate) <= most + 1.0, "{config:?} seed {seed}");
        if burst > 0 && seconds > 1 {
            let most = (limit.burst / 10 + LARGEST) as f64;
            prop_assert!(excess(&went, limit.burst) <= most + 1.0, "{config:?} seed {seed}");
        }
        let sum: u64 = went.iter().map(|(_, bytes)| bytes).sum();
        prop_assert!(sum as f64 >= 0.99 * rate as f64 * 10.0, "{config:?} seed {seed}: {sum}");
    }

    /// Operations and bytes together: one request for each thread and direction (B5).
    #[test]
    fn i22_several_limits_hold_together(
        ops in 200u64..5000, kib in 2000u64..40_000, threads in 1usize..4, seed: u64,
    ) {
        const LARGEST: u64 = 32768;
        let of = |rate| LimitSet { total: Limit { rate, ..Limit::default() }, ..LimitSet::default() };
        let config = LimitsConfig { iops: of(ops), bps: of(kib << 10), iops_size: 0 };
        let went = world(&limits(&config), threads, LARGEST, 10 * SECOND, seed);
        let early = 2 * threads as u64;
        let bytes = excess(&went, kib << 10);
        prop_assert!(bytes <= ((kib << 10) / 10 + LARGEST * early) as f64 + 1.0, "seed {seed}");
        let counts: Vec<(u64, u64)> = went.iter().map(|(t, _)| (*t, 1)).collect();
        prop_assert!(excess(&counts, ops) <= (ops / 10 + early) as f64 + 1.0, "seed {seed}");
        let sum: u64 = went.iter().map(|(_, bytes)| bytes).sum();
        let full = [sum as f64 / (kib << 10) as f64, went.len() as f64 / ops as f64];
        prop_assert!(full.iter().any(|f| *f >= 9.9), "one of them is used up: {full:?} seed {seed}");
    }

    /// Whatever comes, stops and changes: everything that arrived goes once.
    #[test]
    fn i01_everything_that_arrives_goes(seed: u64) {
        let mut rng = Rng::new(seed);
        let limits = limits(&iops(1 + rng.below(1000)));
        let mut hall = Hall::new(3);
        let (mut now, mut serial) = (0, 0);
        for _ in 0..400 {
            now += rng.below(3 * MS);
            let hctx = u16::try_from(rng.below(3)).expect("small");
            match rng.below(12) {
                0 => { hall.release(&limits, hctx, now); }
                1 => limits.set(&iops(rng.below(2000)), Nanos(now)).expect("consistent"),
                2 | 3 => { hall.run(&limits, now); }
                n => {
                    let toy = if n % 2 == 0 { reading(serial) } else { writing(serial) };
                    hall.arrive(&limits, hctx, toy, now);
                    serial += 1;
                }
            }
        }
        while let Some(wake) = hall.wake() {
            now = wake.max(now);
            hall.run(&limits, now);
        }
        let mut serials: Vec<u64> = hall.went.iter().map(|(_, _, toy)| toy.serial).collect();
        serials.sort_unstable();
        prop_assert_eq!(serials, (0..serial).collect::<Vec<_>>(), "seed {}", seed);
    }
}
