use super::*;
use crate::testkit::core_disk::Rng;

/// Busy time by looking at every instant.
fn exact(periods: &[(u64, u64)], now: u64) -> u64 {
    let mut edges: Vec<(u64, i32)> =
        periods.iter().flat_map(|(a, b)| [(*a, 1), (*b, -1)]).filter(|e| e.0 <= now).collect();
    edges.sort_unstable();
    let (mut busy, mut live, mut last) = (0, 0, 0);
    for (at, step) in edges.into_iter().chain([(now, 0)]) {
        if live > 0 {
            busy += at - last;
        }
        live += step;
        last = at;
    }
    busy
}

#[test]
fn a_queue_is_exact_at_every_moment() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let (mut word, mut now, mut periods) = (QueueWord::default(), rng.below(1 << 40), vec![]);
        let mut shown = 0;
        for _ in 0..50 {
            now += rng.below(1000);
            let start = now;
            word = word.enter(Nanos(now));
            let middle = now + rng.below(500);
            periods.push((start, u64::MAX));
            assert_eq!(word.nanos(Nanos(middle)), exact(&periods, middle), "seed {seed}: running");
            now = middle + rng.below(500);
            word = word.leave(Nanos(now));
            periods.last_mut().expect("one").1 = now;
            assert_eq!(word.nanos(Nanos(now)), exact(&periods, now), "seed {seed}");
            assert_eq!(word.nanos(Nanos(now + 99)), word.nanos(Nanos(now)), "idle time is none");
            assert!(word.nanos(Nanos(now)) >= shown, "seed {seed}: it never falls");
            shown = word.nanos(Nanos(now));
        }
    }
}

#[test]
fn a_disk_counts_overlap_once_within_one_unit_a_period() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let disk = DiskBusy::new();
        let mut events: Vec<(u64, bool)> = Vec::new();
        let mut periods = Vec::new();
        for _ in 0..100 {
            let start = rng.below(1 << 20);
            let end = start + rng.below(1 << 14);
            periods.push((start, end));
            events.extend([(start, true), (end, false)]);
        }
        // Of one instant, beginnings first: nothing ends before it began.
        events.sort_unstable_by_key(|(at, begins)| (*at, !begins));
        let (mut live, mut alone) = (0u32, 0u64);
        for (at, begins) in events {
            if begins {
                disk.enter(Nanos(at))
            } else {
                disk.leave(Nanos(at))
            }
            live = if begins { live + 1 } else { live - 1 };
            alone += u64::from(begins && live == 1);
            let (told, real) = (disk.nanos(Nanos(at)), exact(&periods, at));
            let bound = alone * 256;
            assert!(told.abs_diff(real) <= bound, "seed {seed}: {told} for {real} at {at}");
        }
        assert!(alone < 100, "seed {seed}: periods overlapped");
    }
}

#[test]
fn a_clock_that_is_behind_sees_less_and_never_nonsense() {
    let word = QueueWord::default().enter(Nanos(1000));
    assert_eq!((word.nanos(Nanos(1)), word.nanos(Nanos(1000))), (0, 0));
    assert_eq!(word.nanos(Nanos(1700)), 700);
    let ended = word.leave(Nanos(900)); // a clock of another thread
    assert_eq!((ended.nanos(Nanos(900)), ended.nanos(Nanos(5000))), (0, 0));
    let disk = DiskBusy::new();
    disk.enter(Nanos(1 << 20));
    assert_eq!(disk.nanos(Nanos(0)), 0);
}

#[test]
fn a_word_lasts_longer_than_a_machine() {
    let years = |n: u64| n * 365 * 24 * 3600 * 1_000_000_000;
    let word = QueueWord::default().enter(Nanos(years(1)));
    assert_eq!(word.nanos(Nanos(years(101))), years(100));
    let disk = DiskBusy::new();
    disk.enter(Nanos(0));
    assert_eq!(disk.nanos(Nanos(years(15))) >> 8, years(15) >> 8);
}

#[test]
fn as_many_queues_as_may_share_it_are_counted() {
    let disk = DiskBusy::new();
    (0..MAX_QUEUES).for_each(|_| disk.enter(Nanos(512)));
    (1..MAX_QUEUES).for_each(|_| disk.leave(Nanos(1024)));
    assert_eq!(disk.nanos(Nanos(1536)), 1024, "one is busy still");
    disk.leave(Nanos(2048));
    assert_eq!(disk.nanos(Nanos(1 << 30)), 1536);
}

#[test]
fn threads_that_come_and_go_leave_it_idle() {
    let disk = DiskBusy::new();
    std::thread::scope(|scope| {
        for t in 0..3u64 {
            let disk = &disk;
            scope.spawn(move || {
                for n in 0..20_000u64 {
                    disk.enter(Nanos(n * 1024 + t * 256));
                    disk.leave(Nanos(n * 1024 + t * 256 + 512));
                }
            });
        }
    });
    let word = disk.0.load(Ordering::Relaxed);
    assert_eq!(word & 0xfff, 0, "nobody is left in it");
}
