use super::*;
use crate::blkmq::stats::{Ended, Recorder, Role};
use crate::block::{Op, Sector, SectorRange, Status};
use crate::testkit::core_disk::Rng;

const MS: u64 = 1_000_000;

fn range(sectors: u64) -> SectorRange {
    SectorRange::new(Sector(0), sectors, 1 << 20).expect("inside")
}

/// One request from `start` to `end`.
fn io(to: &mut Recorder, op: Op, start: u64, end: u64) {
    to.submitted(op, Nanos(start));
    to.issued(Nanos(start));
    to.moved(op, op.range().map_or(0, SectorRange::sectors));
    let arrival = Nanos(start);
    let role = Role::Head { bios: 1 };
    let ended = Ended { op, status: Status::Ok, arrival, issued: arrival, role };
    to.ended(&ended, Nanos(end));
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().map(|w| w.parse().expect("a number")).collect()
}

#[test]
fn i30_the_line_reads_back_as_17_numbers_in_linux_order() {
    let op =
        |n: u64| OpStats { ios: n, merges: n + 1, bios: 0, sectors: n + 2, nanos: (n + 3) * MS };
    let stat = IoStat {
        reads: op(10),
        writes: op(20),
        in_flight: 30,
        io_ticks: 31 * MS + 999_999,
        time_in_queue: 32 * MS,
        discards: op(40),
        flushes: 50,
        flush_nanos: 51 * MS,
    };
    let line = stat.to_string();
    let wanted = [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 40, 41, 42, 43, 50, 51];
    assert_eq!(numbers(&line), wanted);
    assert!(line.starts_with("      10       11 "), "columns of eight, as Linux: {line:?}");
}

/// Milliseconds are an unsigned int in Linux, and tools read them so; the counts are longer.
#[test]
fn milliseconds_begin_anew_after_32_bits() {
    let nanos = ((1 << 32) + 5) * MS;
    let reads = OpStats { ios: 1 << 40, sectors: 1 << 50, nanos, ..OpStats::default() };
    let fields = numbers(&IoStat { reads, ..IoStat::default() }.to_string());
    assert_eq!((fields[0], fields[2], fields[3]), (1 << 40, 1 << 50, 5));
}

/// After blktests block/024: many short requests are not each rounded away.
#[test]
fn i30_times_are_summed_before_they_are_rounded() {
    let disk = DiskStats::new(1);
    let mut to = Recorder::new(Arc::clone(disk.queue(0).expect("it has that")));
    for n in 0..1000 {
        io(&mut to, Op::Read(range(8)), n * MS, n * MS + 900_000);
        io(&mut to, Op::Write(range(8)), n * MS, n * MS + 100_000);
    }
    let fields = numbers(&disk.iostat(Nanos(1000 * MS)).to_string());
    assert_eq!((fields[0], fields[3], fields[4], fields[7]), (1000, 900, 1000, 100));
    assert_eq!(fields[9], 1000, "of each millisecond the read is busy 0.9 and the write 0.1 ms");
    assert_eq!(fields[10], 1000);
}

/// After blktests block/018: what each direction waited is in its own fields.
#[test]
fn i30_each_direction_has_its_own_time() {
    let disk = DiskStats::new(2);
    let mut a = Recorder::new(Arc::clone(disk.queue(0).expect("it has that")));
    let mut b = Recorder::new(Arc::clone(disk.queue(1).expect("it has that")));
    io(&mut a, Op::Read(range(1)), 0, 1000 * MS);
    io(&mut b, Op::Write(range(2)), 2000 * MS, 5000 * MS);
    io(&mut b, Op::Discard(range(3)), 5000 * MS, 5010 * MS);
    let fields = numbers(&disk.iostat(Nanos(9000 * MS)).to_string());
    let wanted = [1, 0, 1, 1000, 1, 0, 2, 3000, 0, 4009, 4010, 1, 0, 3, 10, 0, 0];
    assert_eq!(fields[..9], wanted[..9]);
    assert!((4009..=4010).contains(&fields[9]), "busy time in units of 256 ns: {}", fields[9]);
    assert_eq!(fields[10..], wanted[10..]);
}

#[test]
fn a_sum_adds_all_but_the_busy_time() {
    let op = OpStats { ios: 1, merges: 2, bios: 3, sectors: 4, nanos: 5 };
    let part = IoStat {
        reads: op,
        writes: op,
        in_flight: 6,
        io_ticks: 7,
        time_in_queue: u64::MAX,
        discards: op,
        flushes: 8,
        flush_nanos: 9,
    };
    let sum: IoStat = [part, IoStat { io_ticks: 70, ..part }].into_iter().sum();
    let two = OpStats { ios: 2, merges: 4, bios: 6, sectors: 8, nanos: 10 };
    assert_eq!((sum.reads, sum.writes, sum.discards), (two, two, two));
    assert_eq!((sum.in_flight, sum.flushes, sum.flush_nanos), (12, 16, 18));
    assert_eq!(sum.io_ticks, 70, "N2: the greatest");
    assert_eq!(sum.time_in_queue, u64::MAX - 1, "modulo 2^64");
    assert_eq!([].into_iter().sum::<IoStat>(), IoStat::default());
}

/// Queues that are busy one after the other keep the disk busy all the time; the greatest of them
/// would say a quarter, the sum of overlapping ones more than there was.
#[test]
fn i30_a_disk_is_busy_when_any_queue_is() {
    let disk = DiskStats::new(4);
    let mut to: Vec<Recorder> =
        (0..4).filter_map(|n| disk.queue(n).cloned()).map(Recorder::new).collect();
    for (n, to) in (0..).zip(&mut to) {
        io(to, Op::Read(range(1)), n * 100 * MS, (n + 1) * 100 * MS);
    }
    let busy = disk.iostat(Nanos(400 * MS)).io_ticks;
    assert!(busy.abs_diff(400 * MS) <= 4 * 256, "one after the other: {busy}");
    for to in &mut to {
        to.submitted(Op::Read(range(1)), Nanos(500 * MS));
    }
    let busy = disk.iostat(Nanos(600 * MS)).io_ticks;
    assert!(busy.abs_diff(500 * MS) <= 5 * 256, "together, and still running: {busy}");
    assert_eq!(disk.iostat(Nanos(550 * MS)).io_ticks, busy, "N3: it never falls");
}

#[test]
fn i30_busy_time_lies_between_the_greatest_and_the_sum() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let disk = DiskStats::new(3);
        let mut to: Vec<Recorder> =
            (0..3).filter_map(|n| disk.queue(n).cloned()).map(Recorder::new).collect();
        let (mut now, mut shown) = (0, 0);
        for _ in 0..100 {
            let start = now + rng.below(300);
            now = start + rng.below(300);
            io(&mut to[rng.index(3)], Op::Write(range(1)), start, now);
            let parts = disk.queues().map(|(_, q)| q.snapshot().io_ticks(Nanos(now)));
            let (most, sum) = (parts.clone().max().expect("three"), parts.sum::<u64>());
            let busy = disk.iostat(Nanos(now)).io_ticks;
            assert!(most <= busy && busy <= sum && busy >= shown, "seed {seed}: {busy}");
            shown = busy;
        }
        assert!(shown <= now, "seed {seed}: busy time is part of the time");
    }
}

#[test]
#[should_panic(expected = "do not fit")]
fn more_queues_than_can_be_counted_are_refused() {
    let _ = DiskStats::new(4096);
}

#[test]
fn a_queue_that_nobody_uses_takes_no_room() {
    let disk = DiskStats::new(256);
    assert_eq!(disk.queues().count(), 0);
    let first = Arc::clone(disk.queue(7).expect("it has that"));
    assert!(Arc::ptr_eq(&first, disk.queue(7).expect("it has that")), "made once");
    assert!(disk.queues().map(|(n, _)| n).eq([7]));
    assert!(disk.queue(256).is_none());
}
