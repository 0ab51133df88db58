use std::sync::atomic::AtomicU64;

use super::*;
use crate::blkmq::tags::Alone;
use crate::block::{Sector, SectorRange, Status};
use crate::testkit::core_disk::Rng;

fn range(sectors: u64) -> SectorRange {
    SectorRange::new(Sector(0), sectors, 1 << 20).expect("inside")
}

fn recorder() -> (Arc<QueueStats>, Recorder) {
    let queue = Arc::new(QueueStats::new());
    (Arc::clone(&queue), Recorder::new(queue))
}

fn head(op: Op, arrival: u64, issued: u64) -> Ended {
    let (arrival, issued) = (Nanos(arrival), Nanos(issued));
    Ended { op, status: Status::Ok, arrival, issued, role: Role::Head { bios: 1 } }
}

#[test]
fn io_ticks_leave_out_idle_gaps_and_count_overlap_once() {
    let (queue, mut r) = recorder();
    let read = Op::Read(range(8));
    r.submitted(read, Nanos(100));
    r.submitted(read, Nanos(150));
    assert_eq!(queue.snapshot().io_ticks(Nanos(160)), 60, "what runs counts already");
    r.ended(&head(read, 100, 100), Nanos(200));
    r.ended(&head(read, 150, 160), Nanos(300));
    let s = queue.snapshot();
    assert_eq!((s.io_ticks(Nanos(300)), s.io_ticks(Nanos(900)), s.in_progress()), (200, 200, 0));
    let write = Op::Write(range(1));
    r.submitted(write, Nanos(1000));
    r.ended(&head(write, 1000, 1000), Nanos(1001));
    let s = queue.snapshot();
    assert_eq!(s.io_ticks(Nanos(1001)), 201);
    assert_eq!((s.reads.ios, s.reads.bios, s.reads.nanos), (2, 2, 250));
    assert_eq!((s.writes.ios, s.writes.nanos, s.time_in_queue()), (1, 1, 251));
}

/// After blktests block/017: one read is 1 0, with a write 1 1, and then 0 0.
#[test]
fn i30_in_progress_is_told_apart_by_direction() {
    let (queue, mut r) = recorder();
    let both = || (queue.snapshot().reads_in_progress, queue.snapshot().writes_in_progress);
    let discard = Op::Discard(range(1));
    r.submitted(Op::Read(range(1)), Nanos(1));
    assert_eq!(both(), (1, 0));
    r.submitted(Op::Write(range(1)), Nanos(2));
    assert_eq!(both(), (1, 1));
    r.submitted(discard, Nanos(3));
    r.submitted(Op::Flush, Nanos(3));
    assert_eq!(both(), (1, 2), "a discard changes the disk; a flush is not in progress");
    r.ended(&head(Op::Read(range(1)), 1, 1), Nanos(4));
    r.ended(&head(discard, 3, 3), Nanos(4));
    r.ended(&head(Op::Write(range(1)), 2, 2), Nanos(4));
    assert_eq!(both(), (0, 0));
}

#[test]
fn each_operation_is_counted_where_linux_counts_it() {
    let (queue, mut r) = recorder();
    let zeroes = Op::WriteZeroes { range: range(2), unmap: true };
    for op in [Op::Discard(range(4)), zeroes, Op::Write(range(3)), Op::Flush] {
        r.submitted(op, Nanos(1));
        r.moved(op, op.range().map_or(0, SectorRange::sectors));
        r.ended(&head(op, 1, 1), Nanos(2));
    }
    r.sync_issued(Op::Flush, Nanos(1), Nanos(3));
    r.sync_issued(Op::Write(range(3)), Nanos(1), Nanos(3));
    r.synced(Nanos(3), Nanos(10));
    r.rejected();
    let s = queue.snapshot();
    assert_eq!((s.discards.ios, s.discards.sectors), (1, 4));
    assert_eq!((s.writes.ios, s.writes.sectors), (2, 5));
    assert_eq!((s.flush_bios, s.flushes, s.flush_nanos, s.reads.ios), (1, 1, 7, 0));
    assert_eq!(s.rejected, 1);
    let count = |span| queue.latency(Kind::Flush, span).count();
    let spans = [Span::QueueToComplete, Span::QueueToIssue, Span::IssueToComplete];
    assert_eq!(spans.map(count), [1, 1, 1], "a sync on a write's tag is no wait of a flush");
}

/// A deep queue adds up waiting time faster than time passes: 2^64 ns at a depth of 1024 are
/// 208 days.
#[test]
fn sums_of_time_begin_anew_and_stop_nobody() {
    let (queue, mut r) = recorder();
    for _ in 0..2 {
        for op in [Op::Read(range(1)), Op::Write(range(1)), Op::Discard(range(1))] {
            r.submitted(op, Nanos(0));
            r.ended(&head(op, 0, 0), Nanos(1 << 63));
        }
    }
    let s = queue.snapshot();
    assert_eq!((s.reads.nanos, s.writes.nanos, s.discards.nanos), (0, 0, 0));
    let reads = OpStats { nanos: u64::MAX, ..OpStats::default() };
    assert_eq!(Stats { reads, flush_nanos: 2, ..Stats::default() }.time_in_queue(), 1);
}

#[test]
fn a_failed_bio_counts_as_an_io_with_what_it_moved() {
    let (queue, mut r) = recorder();
    let read = Op::Read(range(4));
    r.submitted(read, Nanos(1));
    r.moved(read, 1);
    r.ended(&Ended { status: Status::IoErr, ..head(read, 1, 1) }, Nanos(2));
    let s = queue.snapshot();
    assert_eq!(s.reads, OpStats { ios: 1, merges: 0, bios: 1, sectors: 1, nanos: 1 });
    assert_eq!(s.failed, 1);
}

#[test]
fn a_request_of_several_bios_is_one_io() {
    let (queue, mut r) = recorder();
    let write = Op::Write(range(8));
    (10..13).for_each(|t| r.submitted(write, Nanos(t)));
    r.merged(write);
    r.merged(write);
    assert_eq!(queue.snapshot().in_progress(), 1);
    let role = Role::Head { bios: 3 };
    r.ended(&Ended { role, ..head(write, 10, 20) }, Nanos(50));
    for arrival in [11, 12] {
        r.ended(&Ended { role: Role::Member, ..head(write, arrival, 20) }, Nanos(50));
    }
    let s = queue.snapshot();
    assert_eq!((s.writes.ios, s.writes.merges, s.writes.bios, s.writes.nanos), (1, 2, 3, 40));
    assert_eq!((s.in_progress(), s.io_ticks(Nanos(99))), (0, 40));
    let waits = queue.latency(Kind::Write, Span::QueueToComplete);
    assert_eq!((waits.count(), waits.sum()), (3, 40 + 39 + 38), "each guest request waited");
    let sizes = queue.batches(Batch::Request);
    assert_eq!((sizes.count(), sizes.sum(), sizes.percentile(100_000)), (1, 3, Some(3)));
}

#[test]
fn i06_a_request_that_was_taken_apart_keeps_the_books() {
    let (queue, mut r) = recorder();
    let write = Op::Write(range(8));
    (10..14).for_each(|t| r.submitted(write, Nanos(t)));
    (0..3).for_each(|_| r.merged(write));
    r.split();
    (0..3).for_each(|_| r.piece(write, Nanos(30)));
    assert_eq!(queue.snapshot().in_progress(), 4, "each goes by itself");
    r.ended(&head(write, 10, 30), Nanos(40));
    for (arrival, end) in [(11, 41), (12, 60), (13, 99)] {
        let failed = if arrival == 12 { Status::IoErr } else { Status::Ok };
        let piece = Ended { role: Role::Piece, status: failed, ..head(write, arrival, 30) };
        r.ended(&piece, Nanos(end));
    }
    let s = queue.snapshot();
    assert_eq!((s.writes.ios, s.writes.merges, s.writes.bios), (1, 3, 4));
    assert_eq!((s.splits, s.failed, s.in_progress()), (1, 1, 0));
    assert_eq!(s.io_ticks(Nanos(200)), 89, "busy until the last piece ended");
    assert!(s.time_in_queue() >= 89);
}

/// Requests of random sizes, some taken apart, against plain sums.
#[test]
fn i30_ios_and_merges_are_the_bios_whatever_becomes_of_requests() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let (queue, mut r) = recorder();
        let (mut now, mut bios, mut heads, mut nanos, mut busy) = (1, 0, 0, 0, 0);
        for _ in 0..60 {
            now += rng.below(100); // idle
            let n = 1 + u16::try_from(rng.below(8)).expect("small");
            let op = if rng.chance(500) { Op::Read(range(1)) } else { Op::Write(range(1)) };
            let oldest = now;
            for i in 0..n {
                r.submitted(op, Nanos(now));
                if i > 0 {
                    r.merged(op);
                }
            }
            let split = n > 1 && rng.chance(300);
            if split {
                r.split();
                (1..n).for_each(|_| r.piece(op, Nanos(now)));
            }
            for i in 0..n {
                now += if split || i == 0 { rng.below(50) } else { 0 };
                let role = match i {
                    0 => Role::Head { bios: n },
                    _ if split => Role::Piece,
                    _ => Role::Member,
                };
                nanos += if split || i == 0 { now - oldest } else { 0 };
                r.ended(&Ended { role, ..head(op, oldest, oldest) }, Nanos(now));
            }
            (bios, heads, busy) = (bios + u64::from(n), heads + 1, busy + (now - oldest));
        }
        let s = queue.snapshot();
        let of = |f: fn(&OpStats) -> u64| f(&s.reads) + f(&s.writes);
        assert_eq!((of(|o| o.ios), of(|o| o.bios)), (heads, bios), "seed {seed}");
        assert_eq!(of(|o| o.ios) + of(|o| o.merges), bios, "seed {seed}");
        assert_eq!((s.time_in_queue(), s.io_ticks(Nanos(now))), (nanos, busy), "seed {seed}");
        assert_eq!(s.in_progress(), 0, "seed {seed}");
        assert_eq!(queue.batches(Batch::Request).count(), heads, "seed {seed}: one size each");
    }
}

#[test]
fn batches_are_what_happened_at_one_time() {
    let (queue, mut r) = recorder();
    for (at, n) in [(1, 3), (2, 1), (3, 12)] {
        (0..n).for_each(|_| r.submitted(Op::Flush, Nanos(at)));
        (0..n / 3).for_each(|_| r.issued(Nanos(at)));
    }
    assert_eq!(queue.batches(Batch::Turn).count(), 2, "the last turn may not be over");
    drop(r);
    let sizes = |batch| {
        let d = queue.batches(batch);
        d.buckets().filter(|b| b.count > 0).map(|b| (b.lower, b.count)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(Batch::Turn), [(1, 1), (3, 1), (12, 1)]);
    assert_eq!(sizes(Batch::Submission), [(1, 1), (4, 1)]);
}

#[test]
fn counters_outlive_who_counts() {
    let (queue, mut r) = recorder();
    let read = Op::Read(range(1));
    r.submitted(read, Nanos(10));
    r.ended(&head(read, 10, 10), Nanos(20));
    drop(r);
    let mut r = Recorder::new(Arc::clone(&queue));
    r.submitted(read, Nanos(30));
    r.ended(&head(read, 30, 30), Nanos(35));
    let s = queue.snapshot();
    assert_eq!((s.reads.ios, s.reads.nanos, s.io_ticks(Nanos(99))), (2, 15, 15));
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "one thread at a time")]
fn two_do_not_count_at_once() {
    let (queue, _r) = recorder();
    let _ = Recorder::new(queue);
}

#[test]
fn what_waits_and_what_is_issued_add_up() {
    let (queue, mut r) = recorder();
    let mut rng = Rng::new(3);
    let op = Op::Discard(range(1));
    for _ in 0..100 {
        let arrival = rng.below(1000);
        let issued = arrival + rng.below(1000);
        r.submitted(op, Nanos(arrival));
        r.ended(&head(op, arrival, issued), Nanos(issued + rng.below(1000)));
    }
    let sum = |span| queue.latency(Kind::Discard, span).sum();
    let parts = sum(Span::QueueToIssue) + sum(Span::IssueToComplete);
    assert_eq!(sum(Span::QueueToComplete), parts);
    assert_eq!(queue.latency(Kind::Read, Span::QueueToComplete).count(), 0);
}

/// A reader on another thread, while the writer counts: every number grows, and at no time has
/// more ended than was asked for.
#[test]
fn a_reader_sees_whole_numbers_that_never_fall() {
    let (queue, mut r) = recorder();
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut waits) = (Stats::default(), 0);
            loop {
                let end = done.load(Ordering::Acquire);
                let s = queue.snapshot();
                let whole = |o: &OpStats| [o.ios, o.bios, o.sectors, o.nanos];
                for (new, old) in whole(&s.reads).iter().zip(whole(&last.reads)) {
                    assert!(*new >= old, "{s:?} after {last:?}");
                }
                assert!(s.in_progress() <= 4 && s.reads.sectors % 8 == 0, "{s:?}");
                // In one direction only: the clock of a reader that is ahead of the writer's.
                assert!(s.io_ticks(Nanos(u64::MAX >> 2)) >= last.io_ticks(Nanos(0)));
                let now = queue.latency(Kind::Read, Span::QueueToComplete).count();
                assert!(now >= waits, "{now} after {waits}");
                (last, waits) = (s, now);
                looks.fetch_add(1, Ordering::Relaxed);
                if end {
                    return (last, waits);
                }
            }
        });
        let read = Op::Read(range(8));
        let mut n = 0;
        // Until the other thread has looked often enough, however busy the machine is.
        while n < 50_000 || looks.load(Ordering::Relaxed) < 100 {
            (0..4).for_each(|_| r.submitted(read, Nanos(n * 100)));
            for i in 0..4 {
                r.moved(read, 8);
                r.ended(&head(read, n * 100, n * 100), Nanos(n * 100 + 10 + i));
            }
            n += 1;
        }
        done.store(true, Ordering::Release);
        (reader.join().expect("the reader finds nothing wrong"), n * 4)
    });
    let ((last, waits), bios) = seen;
    assert_eq!((last.reads.ios, last.reads.sectors, waits), (bios, bios * 8, bios));
}

/// Two queues that see the same: one counts each bio when it ends, the other those that end alike
/// together (A11). Snapshots agree at any time, and all counters when it was settled.
#[test]
fn bios_that_end_alike_are_counted_as_if_one_by_one() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let ((one, mut single), (many, mut alike)) = (recorder(), recorder());
        let mut live: Vec<(Op, u64, u64)> = Vec::new();
        let mut now = 1;
        for _ in 0..400 {
            now += if rng.below(4) == 0 { rng.below(2000) } else { 0 };
            let range = range(1 + rng.below(16));
            let op = [Op::Read(range), Op::Write(range), Op::Discard(range)];
            let op = op[usize::try_from(rng.below(3)).expect("small")];
            if live.is_empty() || rng.below(2) == 0 {
                single.submitted(op, Nanos(now));
                alike.submitted(op, Nanos(now));
                live.push((op, now, now + rng.below(2) * rng.below(50)));
            } else {
                let (op, arrival, issued) = live.swap_remove(0);
                now = now.max(issued);
                let sectors = op.range().map_or(0, SectorRange::sectors);
                single.moved(op, sectors);
                single.ended(&head(op, arrival, issued), Nanos(now));
                let (arrival, issued) = (Nanos(arrival), Nanos(issued));
                let ended = Alone { kind: Kind::of(op), sectors, arrival, issued };
                alike.ended_alone(&ended, Nanos(now));
            }
            assert_eq!(alike.snapshot(), single.snapshot(), "seed {seed}: before it is counted");
            if rng.below(8) == 0 {
                alike.settle();
                assert_eq!(many.snapshot(), one.snapshot(), "seed {seed}: busy time too");
            }
        }
        drop((single, alike));
        for kind in Kind::ALL {
            for span in [Span::QueueToComplete, Span::QueueToIssue, Span::IssueToComplete] {
                assert_eq!(many.latency(kind, span), one.latency(kind, span), "{kind:?} {span:?}");
            }
        }
        for batch in [Batch::Turn, Batch::Request] {
            assert_eq!(many.batches(batch), one.batches(batch), "{batch:?}");
        }
    }
}
