//! Counters as tools know them: the 17 fields of `/sys/block/X/stat`, of queues and of disks.
//!
//! Rules:
//! * **N1** All fields but one of several queues add up. Busy time does not: queues are busy at the
//!   same time. Of a disk it is counted for all its queues together (rules B), so it is right.
//! * **N2** The busy time of a sum of [`IoStat`]s is the greatest of the parts. The time during
//!   which at least one part was busy lies between that and the sum of the parts; the error is 0
//!   when one of them was busy whenever another was.
//! * **N3** Busy time of a disk is kept between the bounds that its queues' exact times give, the
//!   greatest and the sum, and never falls from one reading to the next.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::busy::{self, DiskBusy};
use super::{OpStats, QueueStats, Stats};
use crate::block::Nanos;

/// What a queue, a disk or several have done, in the order and with the meaning of Linux's
/// `Documentation/block/stat.rst`. Times are kept in nanoseconds.
///
/// Printed, it is the line of 17 fields, times in milliseconds modulo 2^32, as Linux prints them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    /// Reads.
    pub reads: OpStats,
    /// Writes and write-zeroes.
    pub writes: OpStats,
    /// Data requests in progress.
    pub in_flight: u64,
    /// Time with at least one in progress, in nanoseconds (N1, N2).
    pub io_ticks: u64,
    /// Sum of the times of all kinds of requests, in nanoseconds, modulo 2^64.
    pub time_in_queue: u64,
    /// Discards.
    pub discards: OpStats,
    /// Syncs of the image.
    pub flushes: u64,
    /// Their time, in nanoseconds.
    pub flush_nanos: u64,
}

impl IoStat {
    /// The line of one queue at `now`, the clock of the queue's thread.
    #[must_use]
    pub fn of(stats: &Stats, now: Nanos) -> IoStat {
        IoStat {
            reads: stats.reads,
            writes: stats.writes,
            in_flight: u64::from(stats.in_progress()),
            io_ticks: stats.io_ticks(now),
            time_in_queue: stats.time_in_queue(),
            discards: stats.discards,
            flushes: stats.flushes,
            flush_nanos: stats.flush_nanos,
        }
    }
}

impl AddAssign for OpStats {
    fn add_assign(&mut self, more: OpStats) {
        self.ios += more.ios;
        self.merges += more.merges;
        self.bios += more.bios;
        self.sectors += more.sectors;
        self.nanos = self.nanos.wrapping_add(more.nanos);
    }
}

impl AddAssign for IoStat {
    /// N1, N2.
    fn add_assign(&mut self, more: IoStat) {
        self.reads += more.reads;
        self.writes += more.writes;
        self.in_flight += more.in_flight;
        self.io_ticks = self.io_ticks.max(more.io_ticks);
        self.time_in_queue = self.time_in_queue.wrapping_add(more.time_in_queue);
        self.discards += more.discards;
        self.flushes += more.flushes;
        self.flush_nanos = self.flush_nanos.wrapping_add(more.flush_nanos);
    }
}

impl Sum for IoStat {
    fn sum<I: Iterator<Item = IoStat>>(parts: I) -> IoStat {
        parts.fold(IoStat::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

/// Milliseconds as Linux prints them: an unsigned int.
const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000 % (1 << 32)
}

impl fmt::Display for IoStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = |o: &OpStats| [o.ios, o.merges, o.sectors, millis(o.nanos)];
        let times = [self.in_flight, millis(self.io_ticks), millis(self.time_in_queue)];
        let flushes = [self.flushes, millis(self.flush_nanos)];
        let discards = op(&self.discards);
        let fields = op(&self.reads).into_iter().chain(op(&self.writes)).chain(times);
        for (i, field) in fields.chain(discards).chain(flushes).enumerate() {
            write!(f, "{}{field:8}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The counters of a disk's queues. They live as long as the disk, whoever serves it meanwhile.
#[derive(Debug)]
pub struct DiskStats {
    /// Made when a queue is first used: most disks use few of those that they offer.
    queues: Box<[OnceLock<Arc<QueueStats>>]>,
    /// `None` for one queue: its own time is the disk's.
    busy: Option<Arc<DiskBusy>>,
    /// The greatest busy time that was ever shown (N3).
    shown: AtomicU64,
}

impl DiskStats {
    /// The counters of a disk with so many queues, all 0. Each queue that is used takes about 25 KiB.
    ///
    /// # Panics
    /// Beyond 4095 queues.
    #[must_use]
    pub fn new(queues: u16) -> DiskStats {
        assert!(queues <= busy::MAX_QUEUES, "{queues} queues do not fit the count of busy ones");
        let busy = (queues > 1).then(|| Arc::new(DiskBusy::new()));
        let queues = (0..queues).map(|_| OnceLock::new()).collect();
        DiskStats { queues, busy, shown: AtomicU64::new(0) }
    }

    /// The counters of a queue, by its number for the front-end, for
    /// [`Domain::add_hctx_with`](crate::blkmq::Domain::add_hctx_with); `None` when the disk has no
    /// such queue. Allocates the first time.
    #[must_use]
    pub fn queue(&self, number: u16) -> Option<&Arc<QueueStats>> {
        let queue = self.queues.get(usize::from(number))?;
        Some(queue.get_or_init(|| Arc::new(QueueStats::of_disk(self.busy.clone()))))
    }

    /// The counters of each queue that was ever used, with its number.
    pub fn queues(&self) -> impl Iterator<Item = (u16, &Arc<QueueStats>)> + Clone {
        (0..).zip(&self.queues).filter_map(|(number, queue)| Some((number, queue.get()?)))
    }

    /// The disk's line at `now`, the clock of the queue threads. May be asked by any thread.
    #[must_use]
    pub fn iostat(&self, now: Nanos) -> IoStat {
        let parts = || self.queues().map(|(_, queue)| queue.snapshot());
        // The disk's own word before the queues': what it has seen, they have, or nearly.
        let own = self.busy.as_ref().map(|busy| busy.nanos(now));
        let mut all = IoStat::default();
        let mut sum = 0u64;
        for part in parts().map(|stats| IoStat::of(&stats, now)) {
            sum = sum.saturating_add(part.io_ticks);
            all += part;
        }
        let ticks = own.unwrap_or(all.io_ticks).clamp(all.io_ticks, sum.max(all.io_ticks));
        all.io_ticks = ticks.max(self.shown.fetch_max(ticks, Ordering::Relaxed));
        all
    }
}

#[cfg(test)]
#[path = "../tests/stats_iostat.rs"]
mod tests;
