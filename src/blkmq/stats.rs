//! Plain counters of one hctx, owned by its thread. Rules after `/sys/block/X/stat`:
//! ios count at completion, sectors as they complete, time runs from submission to completion.
//!
//! `io_ticks`: whenever a bio starts or ends and the clock has moved since the last look, the time
//! between is added, but only when something was in progress; so idle gaps are not counted.
//!
//! Sums of time over bios grow by the depth of the queue times as fast as time passes, so they can
//! come to the end of 64 bits in the life of a guest. They begin anew there, as Linux's do.

use crate::block::{Nanos, Op, Status};

/// What one kind of operation has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Finished requests, failed ones included.
    pub ios: u64,
    /// Bios that travelled as part of another bio's request; `ios + merges` counts bios.
    pub merges: u64,
    /// Sectors of 512 bytes that were moved, successful bios only.
    pub sectors: u64,
    /// Sum over requests of the time from the submission of the oldest bio to completion, in
    /// nanoseconds.
    pub nanos: u64,
}

/// Everything counted on one hctx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads.
    pub reads: OpStats,
    /// Writes, and write-zeroes, as Linux counts them.
    pub writes: OpStats,
    /// Discards.
    pub discards: OpStats,
    /// Syncs of the image that ran on a tag of this hctx: at most one for many guest flushes.
    pub flushes: u64,
    /// Time that those syncs took, in nanoseconds.
    pub flush_nanos: u64,
    /// Flushes that the guest asked for and got an answer to.
    pub flush_bios: u64,
    /// Heads that were answered without any I/O: parse errors, GET_ID.
    pub rejected: u64,
    /// Bios that reached the core and were answered with an error.
    pub failed: u64,
    /// Requests issued again after a short transfer, EAGAIN or EINTR.
    pub requeues: u64,
    /// Times that the image refused a request (Busy).
    pub refused: u64,
    /// Time during which at least one bio was in progress, in nanoseconds.
    pub io_ticks: u64,
    stamp: Nanos,
    live: u32,
}

impl Stats {
    /// Data requests submitted and not yet finished; a bio that travels with another is none.
    #[must_use]
    pub const fn in_progress(&self) -> u32 {
        self.live
    }

    /// Sum over requests of the time from submission to completion, in nanoseconds.
    #[must_use]
    pub const fn time_in_queue(&self) -> u64 {
        self.reads
            .nanos
            .wrapping_add(self.writes.nanos)
            .wrapping_add(self.discards.nanos)
            .wrapping_add(self.flush_nanos)
    }

    fn of(&mut self, op: Op) -> Option<&mut OpStats> {
        match op {
            Op::Read(_) => Some(&mut self.reads),
            Op::Write(_) | Op::WriteZeroes { .. } => Some(&mut self.writes),
            Op::Discard(_) => Some(&mut self.discards),
            Op::Flush => None,
        }
    }

    fn tick(&mut self, now: Nanos) {
        if now > self.stamp {
            if self.live > 0 {
                self.io_ticks += now.since(self.stamp);
            }
            self.stamp = now;
        }
    }

    /// A data bio was submitted.
    pub(super) fn start(&mut self, now: Nanos) {
        self.tick(now);
        self.live += 1;
    }

    /// A bio became part of another one's request before it was counted as a request itself.
    pub(super) fn merged(&mut self, op: Op) {
        if let Some(of) = self.of(op) {
            of.merges += 1;
        }
    }

    /// A request became part of another one, which goes on.
    pub(super) fn absorbed(&mut self, op: Op) {
        self.merged(op);
        self.live -= 1;
    }

    /// A bio that had become part of another one's request is finished.
    pub(super) fn merged_done(&mut self, op: Op, status: Status) {
        if status == Status::Ok {
            self.part(op);
        } else {
            self.failed += 1;
        }
    }

    /// A part of a bio (one range of several) is done; the bio goes on.
    pub(super) fn part(&mut self, op: Op) {
        if let (Some(range), Some(of)) = (op.range(), self.of(op)) {
            of.sectors += range.sectors();
        }
    }

    /// A bio that had been submitted at `arrival`, alone or as the leader of others, is finished.
    pub(super) fn done(&mut self, op: Op, status: Status, arrival: Nanos, now: Nanos) {
        if status != Status::Ok {
            self.failed += 1;
        }
        if op == Op::Flush {
            self.flush_bios += 1;
            return;
        }
        self.tick(now);
        self.live -= 1;
        if status == Status::Ok {
            self.part(op);
        }
        if let Some(of) = self.of(op) {
            of.ios += 1;
            of.nanos = of.nanos.wrapping_add(now.since(arrival));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Sector, SectorRange};

    fn range(sectors: u64) -> SectorRange {
        SectorRange::new(Sector(0), sectors, 1 << 20).expect("inside")
    }

    #[test]
    fn io_ticks_leave_out_idle_gaps_and_count_overlap_once() {
        let mut s = Stats::default();
        s.start(Nanos(100));
        s.start(Nanos(150));
        s.done(Op::Read(range(8)), Status::Ok, Nanos(100), Nanos(200));
        s.done(Op::Read(range(8)), Status::Ok, Nanos(150), Nanos(300));
        assert_eq!((s.io_ticks, s.in_progress()), (200, 0));
        s.start(Nanos(1000));
        s.done(Op::Write(range(1)), Status::Ok, Nanos(1000), Nanos(1001));
        assert_eq!(s.io_ticks, 201);
        assert_eq!(s.reads, OpStats { ios: 2, merges: 0, sectors: 16, nanos: 250 });
        assert_eq!(s.writes, OpStats { ios: 1, merges: 0, sectors: 1, nanos: 1 });
        assert_eq!(s.time_in_queue(), 251);
    }

    #[test]
    fn each_operation_is_counted_where_linux_counts_it() {
        let mut s = Stats::default();
        for op in [
            Op::Discard(range(4)),
            Op::WriteZeroes { range: range(2), unmap: true },
            Op::Write(range(3)),
        ] {
            s.start(Nanos(1));
            s.done(op, Status::Ok, Nanos(1), Nanos(2));
        }
        s.done(Op::Flush, Status::Ok, Nanos(1), Nanos(9));
        assert_eq!((s.discards.ios, s.discards.sectors), (1, 4));
        assert_eq!((s.writes.ios, s.writes.sectors), (2, 5));
        assert_eq!((s.flush_bios, s.flushes, s.reads.ios), (1, 0, 0));
    }

    /// A deep queue adds up waiting time faster than time passes: 2^64 ns at a depth of 1024 are
    /// 208 days.
    #[test]
    fn sums_of_time_begin_anew_and_stop_nobody() {
        let mut s = Stats::default();
        for _ in 0..2 {
            for op in [Op::Read(range(1)), Op::Write(range(1)), Op::Discard(range(1))] {
                s.start(Nanos(0));
                s.done(op, Status::Ok, Nanos(0), Nanos(1 << 63));
            }
        }
        assert_eq!((s.reads.nanos, s.writes.nanos, s.discards.nanos), (0, 0, 0));
        s.reads.nanos = u64::MAX;
        s.flush_nanos = 2;
        assert_eq!(s.time_in_queue(), 1);
    }

    #[test]
    fn requests_are_counted_after_merging_and_sectors_for_each_bio() {
        let mut s = Stats::default();
        s.start(Nanos(10));
        s.merged(Op::Read(range(8))); // joined at once
        s.start(Nanos(20));
        s.absorbed(Op::Read(range(8))); // was a request, and closed the gap
        assert_eq!(s.in_progress(), 1);
        s.done(Op::Read(range(8)), Status::Ok, Nanos(10), Nanos(50));
        s.merged_done(Op::Read(range(4)), Status::Ok);
        s.merged_done(Op::Read(range(2)), Status::IoErr);
        assert_eq!(s.reads, OpStats { ios: 1, merges: 2, sectors: 12, nanos: 40 });
        assert_eq!((s.failed, s.in_progress(), s.io_ticks), (1, 0, 40));
    }

    #[test]
    fn a_failed_bio_counts_as_an_io_without_sectors() {
        let mut s = Stats::default();
        s.start(Nanos(1));
        s.done(Op::Read(range(4)), Status::IoErr, Nanos(1), Nanos(2));
        assert_eq!(s.reads, OpStats { ios: 1, merges: 0, sectors: 0, nanos: 1 });
        assert_eq!(s.failed, 1);
    }
}
