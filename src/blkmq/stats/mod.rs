//! What a virtqueue has done: counters that its thread writes and any thread may read at any time.
//!
//! Rules, after `/sys/block/X/stat` of Linux:
//! * **A1** One thread at a time writes a queue's counters, through its only [`Recorder`]: a load
//!   and a store, both relaxed, never a read-modify-write. Who takes a queue over has got it by the
//!   mailbox, which orders what the last one wrote. Readers stop nobody; each number they see is
//!   whole and never falls, but two numbers need not be of the same instant.
//! * **A2** A request is counted (`ios`) when it ends, failed or not; a bio that joined another's
//!   request is counted (`merges`) when it joins; a bio (`bios`) when it ends. At rest
//!   `ios + merges = bios`, whether or not requests were taken apart meanwhile (A6).
//! * **A3** Sectors are counted as they are moved: short transfers, and ranges of a bio with
//!   several, at once. What moved counts even if the bio fails later.
//! * **A4** The time of a request runs from the submission of its oldest bio to its end, is summed
//!   up in nanoseconds and printed in milliseconds.
//! * **A5** In progress is what was submitted and has not ended: requests, so a bio that joins
//!   another's request is in progress no more. A request that waits for its flush (F5) still is.
//!   Flushes never are. What waits for a limit is, since the guest waits for it; Linux throttles
//!   before it accounts. Busy time (`io_ticks`) is the time with at least one in progress: rules B.
//! * **A6** A failed request of several bios is taken apart: all but its leader become pieces, which
//!   are in progress again and whose time counts, but not as `ios`: they were counted as merges. The
//!   same holds for what is left of a request that came back short, when its leader was answered.
//! * **A7** Write-zeroes counts as write, as in Linux. A flush counts when the image was really
//!   synced, once for all who waited; what the guest asked for is `flush_bios`.
//! * **A8** Heads that were answered without I/O are `rejected` and nothing else.
//! * **A9** Histograms of time are per bio, since a guest waits for bios; issued is the last issue,
//!   so queue-to-issue and issue-to-complete add up to queue-to-complete. Who led others counts as
//!   if it had been submitted with the oldest of them. A bio that needs a flush
//!   of its own afterwards (F5) is complete when that has ended. Of flushes, queue-to-complete is
//!   what the guest waited; issue-to-complete is the sync, once for all who waited; and
//!   queue-to-issue what the guest flush waited on whose tag it went.
//! * **A10** Sizes of batches: bios that were submitted at one time of the clock (a sweep's turn at
//!   the queue), requests that were issued at one (a submission), and bios in a request when it was first
//!   issued. A turn or submission is counted when the next begins or the hctx is removed; a request
//!   when it ends.
//!
//! * **A11** Bios that travelled alone and end alike (the same kind, submitted, issued and ended at the same
//!   times of the clock) are counted together: at the latest before the answer of one of them is
//!   taken, so before the guest knows it.
//!
//! Sums of time over bios grow by the depth of the queue times as fast as time passes, so they can
//! come to the end of 64 bits in the life of a guest. They begin anew there, as Linux's do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::{Nanos, Op};

mod busy;
mod histogram;
mod iostat;
mod recorder;

use busy::{DiskBusy, QueueWord, Word};
pub use histogram::{Bucket, Distribution};
use histogram::{Counter, Sizes, Times};
pub use iostat::{DiskStats, IoStat};
pub use recorder::{Ended, Recorder, Role};

/// Kinds of operation that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes and write-zeroes (A7).
    Write,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Discard, Kind::Flush];

    /// The kind of an operation.
    #[must_use]
    pub const fn of(op: Op) -> Kind {
        match op {
            Op::Read(_) => Kind::Read,
            Op::Write(_) | Op::WriteZeroes { .. } => Kind::Write,
            Op::Discard(_) => Kind::Discard,
            Op::Flush => Kind::Flush,
        }
    }
}

/// Parts of a bio's life that are measured (A9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From its submission to its end: what the guest waits.
    QueueToComplete,
    /// From its submission to its last issue: what the core keeps it waiting.
    QueueToIssue,
    /// From its last issue to its end: what the image takes.
    IssueToComplete,
}

/// Batches whose sizes are measured (A10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Bios that came in one turn of a sweep.
    Turn,
    /// Requests that were issued together.
    Submission,
    /// Bios that a request carried when it was first issued.
    Request,
}

/// What one kind of operation has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Ended requests, failed ones included.
    pub ios: u64,
    /// Bios that travelled as part of another bio's request; `ios + merges` counts bios.
    pub merges: u64,
    /// Ended bios: what the guest asked for, failed ones included.
    pub bios: u64,
    /// Sectors of 512 bytes that were moved.
    pub sectors: u64,
    /// Sum over requests of the time from submission to end, in nanoseconds, modulo 2^64.
    pub nanos: u64,
}

/// The counters of one queue as plain numbers, read one after the other.
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
    /// Failed requests that were kept for later instead of being told (X1 of `stall`).
    pub stalls: u64,
    /// Times that the image refused a request (Busy).
    pub refused: u64,
    /// Failed requests of several bios that were taken apart.
    pub splits: u64,
    /// Reads submitted and not yet ended.
    pub reads_in_progress: u32,
    /// Whatever changes the disk, submitted and not yet ended.
    pub writes_in_progress: u32,
    busy: QueueWord,
}

impl Stats {
    /// Data requests submitted and not yet ended.
    #[must_use]
    pub const fn in_progress(&self) -> u32 {
        self.reads_in_progress + self.writes_in_progress
    }

    /// Sum over requests of the time from submission to end, in nanoseconds, modulo 2^64.
    #[must_use]
    pub const fn time_in_queue(&self) -> u64 {
        self.reads
            .nanos
            .wrapping_add(self.writes.nanos)
            .wrapping_add(self.discards.nanos)
            .wrapping_add(self.flush_nanos)
    }

    /// Time up to `now` during which at least one bio was in progress, in nanoseconds.
    #[must_use]
    pub fn io_ticks(&self, now: Nanos) -> u64 {
        self.busy.nanos(now)
    }
}

/// The counters of one kind of operation: one cache line, then the histograms.
#[derive(Debug, Default)]
#[repr(align(64))]
struct OpCounters {
    ios: Counter,
    merges: Counter,
    bios: Counter,
    sectors: Counter,
    nanos: Counter,
    /// Sums of what is in `times`.
    sums: [Counter; 3],
    /// By [`Span`].
    times: [Times; 3],
}

impl OpCounters {
    /// A bio, or a sync, spent so much time. For the one thread that writes.
    #[inline]
    fn spent(&self, span: Span, nanos: u64) {
        self.sums[span as usize].add(nanos);
        self.times[span as usize].record(nanos);
    }

    /// So many bios spent so much time each. For the one thread that writes.
    fn spent_each(&self, span: Span, nanos: u64, bios: u64) {
        self.sums[span as usize].add(nanos.wrapping_mul(bios));
        self.times[span as usize].record_all(nanos, bios);
    }

    fn snapshot(&self) -> OpStats {
        OpStats {
            // Ends before joins before bios: a reader finds no more requests than bios.
            ios: self.ios.get(),
            merges: self.merges.get(),
            bios: self.bios.get(),
            sectors: self.sectors.get(),
            nanos: self.nanos.get(),
        }
    }
}

/// The counters of one virtqueue (A1). They outlive its hctx: a queue that is stopped and started
/// again, on any thread, goes on counting.
#[derive(Debug, Default)]
#[repr(align(128))] // two lines: the neighbour line is fetched with the one that is asked for
pub struct QueueStats {
    /// By [`Kind`]. Of flushes, `ios` and `nanos` are those of the syncs; the rest is 0.
    ops: [OpCounters; 4],
    rejected: Counter,
    failed: Counter,
    requeues: Counter,
    stalls: Counter,
    refused: Counter,
    splits: Counter,
    /// Reads in progress in the lower half, the others in the upper one.
    live: Counter,
    busy: Counter,
    turns: Sizes,
    submissions: Sizes,
    /// Requests of more than one bio; the others are `ios` less those.
    requests: Sizes,
    /// The disk's busy time, when it has several queues.
    disk: Option<Arc<DiskBusy>>,
    /// There is a recorder (A1).
    taken: AtomicBool,
}

/// What is in progress: reads, and the others.
fn halves(live: u64) -> (u32, u32) {
    let half = |n: u64| u32::try_from(n & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (half(live), half(live >> 32))
}

impl QueueStats {
    /// The counters of a queue on its own, all 0. About 25 KiB.
    #[must_use]
    pub fn new() -> QueueStats {
        QueueStats::default()
    }

    fn of_disk(disk: Option<Arc<DiskBusy>>) -> QueueStats {
        QueueStats { disk, ..QueueStats::default() }
    }

    fn op(&self, kind: Kind) -> &OpCounters {
        &self.ops[kind as usize]
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        let [reads, writes, discards, flushes] = &self.ops;
        let (reads_in_progress, writes_in_progress) = halves(self.live.get());
        Stats {
            reads: reads.snapshot(),
            writes: writes.snapshot(),
            discards: discards.snapshot(),
            flushes: flushes.ios.get(),
            flush_nanos: flushes.nanos.get(),
            flush_bios: flushes.bios.get(),
            rejected: self.rejected.get(),
            failed: self.failed.get(),
            requeues: self.requeues.get(),
            stalls: self.stalls.get(),
            refused: self.refused.get(),
            splits: self.splits.get(),
            reads_in_progress,
            writes_in_progress,
            busy: Word(self.busy.get()),
        }
    }

    /// Times of one kind of operation, in nanoseconds (A9). Allocates.
    #[must_use]
    pub fn latency(&self, kind: Kind, span: Span) -> Distribution {
        let of = self.op(kind);
        of.times[span as usize].snapshot(of.sums[span as usize].get())
    }

    /// Sizes of batches (A10). Allocates.
    #[must_use]
    pub fn batches(&self, batch: Batch) -> Distribution {
        match batch {
            Batch::Turn => self.turns.snapshot(),
            Batch::Submission => self.submissions.snapshot(),
            Batch::Request => {
                let several = self.requests.snapshot();
                let data = &self.ops[..Kind::Flush as usize];
                let all: u64 = data.iter().map(|op| op.ios.get()).sum();
                let ones = all.saturating_sub(several.count());
                several.with_ones(ones)
            }
        }
    }

    fn take(&self) {
        let taken = self.taken.swap(true, Ordering::Relaxed);
        debug_assert!(!taken, "A1: one thread at a time writes the counters of a queue");
        debug_assert_eq!(self.live.get(), 0, "a hctx is removed when it is idle");
    }

    fn give_back(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "../tests/stats.rs"]
mod tests;
