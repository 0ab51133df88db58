//! How long requests took, and what that says about the depths.
//!
//! Rules:
//! * **KL1** Two times are kept of each read, write and discard: *total*, since it came to the
//!   scheduler, and *io*, since it was issued. A histogram has eight buckets, each a quarter of the
//!   target wide; 0 to 3 are within the target ("good"), 7 has no upper end.
//! * **KL2** Each thread counts in a shard of its own, to which only it stores, and never resets it.
//!   Who folds remembers what it saw last and takes the difference. So counting is a plain
//!   increment, nothing is counted twice, and nothing is lost.
//! * **KL3** One thread folds at a time (the caller's business). It adds the differences to the
//!   window of each histogram. A percentile exists once a window has 500 samples, or one second
//!   after a fold first saw one in it; then the window starts anew (I20). Linux shares that second
//!   between the two times of a kind, so that there the total of a kind with few requests may never
//!   be looked at; here each window has its own.
//! * **KL4** When the p90 of any io time is not good the disk is congested. Each kind's depth is then
//!   scaled by p99 of its total time, (bucket + 1) / 4: who has time to spare shrinks, who is late
//!   grows. A kind without a p99 now uses the last one it had, once. Without congestion only who is
//!   late grows.
//! * **KL5** A depth stays within 1 and its maximum, and growing means at least by one (in whole
//!   numbers a quarter of less than 4 would be nothing).

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use std::array::from_fn;

use super::{MAX_DEPTH, TIMED};
use crate::block::Nanos;

const BUCKETS: usize = 8;
/// The first bucket beyond the target.
const BAD: u16 = 4;
const ENOUGH: u64 = 500;
const WINDOW: u64 = 1_000_000_000;

/// Which of the two times (KL1).
const TOTAL: usize = 0;
const IO: usize = 1;

type Counts = [AtomicU32; BUCKETS];

fn zeroes() -> Counts {
    from_fn(|_| AtomicU32::new(0))
}

/// The bucket of a latency (KL1): how many quarters of the target lie wholly below it, at most 7.
fn bucket(latency: u64, target: u64) -> usize {
    let width = (target / 4).max(1);
    let (mut rest, mut bucket) = (latency, 0);
    for step in [4, 2, 1] {
        if rest > step * width {
            rest -= step * width;
            bucket += step;
        }
    }
    // At most 7.
    usize::try_from(bucket).unwrap_or(BUCKETS - 1)
}

/// The depth that follows from the p99 of the total time (KL4, KL5).
fn scaled(depth: u16, p99: u16, max: u16) -> u16 {
    let scaled = depth.saturating_mul(p99 + 1) / 4;
    let floor = if p99 >= BAD { depth.saturating_add(1) } else { 1 };
    scaled.max(floor).min(max)
}

/// The counts of one thread, on cache lines of their own.
#[repr(align(128))]
#[derive(Debug)]
struct Shard([[Counts; 2]; TIMED]);

impl Shard {
    fn new() -> Shard {
        Shard(from_fn(|_| from_fn(|_| zeroes())))
    }
}

/// What was folded and not yet judged (KL3). Only who folds touches it.
#[derive(Debug)]
struct Window {
    counts: Counts,
    /// When few samples are enough; 0: there is none yet.
    due: AtomicU64,
}

impl Window {
    fn new() -> Window {
        Window { counts: zeroes(), due: AtomicU64::new(0) }
    }

    /// The bucket in which the given part of the samples ends; empties the window.
    fn percentile(&self, percent: u64, now: Nanos) -> Option<u16> {
        let counts: [u64; BUCKETS] = from_fn(|i| u64::from(self.counts[i].load(Ordering::Relaxed)));
        let samples: u64 = counts.iter().sum();
        if samples == 0 {
            return None;
        }
        let due = match self.due.load(Ordering::Relaxed) {
            0 => now.0 + WINDOW,
            due => due,
        };
        if samples < ENOUGH && now.0 < due {
            self.due.store(due, Ordering::Relaxed);
            return None;
        }
        self.due.store(0, Ordering::Relaxed);
        self.counts.iter().for_each(|c| c.store(0, Ordering::Relaxed));
        let mut left = (samples * percent).div_ceil(100);
        let mut answer = 0;
        for count in &counts[..BUCKETS - 1] {
            if *count >= left {
                break;
            }
            left -= count;
            answer += 1;
        }
        Some(answer)
    }
}

/// The latencies of a pool.
#[derive(Debug)]
pub(super) struct Latencies {
    shards: Box<[Shard]>,
    /// As far as they are folded (KL2). Only who folds touches these, and all below.
    seen: Box<[Shard]>,
    windows: [[Window; 2]; TIMED],
    /// The last p99 of each total time, plus one; 0: none, or used up (KL4).
    last: [AtomicU32; TIMED],
}

impl Latencies {
    pub(super) fn new(threads: u16) -> Latencies {
        Latencies {
            shards: (0..threads).map(|_| Shard::new()).collect(),
            seen: (0..threads).map(|_| Shard::new()).collect(),
            windows: from_fn(|_| from_fn(|_| Window::new())),
            last: from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// Counts a request (KL1). Only `thread` itself may call this.
    pub(super) fn record(&self, thread: u16, kind: usize, target: u64, total: u64, io: u64) {
        let both = &self.shards[usize::from(thread)].0[kind];
        for (which, latency) in [(TOTAL, total), (IO, io)] {
            let cell = &both[which][bucket(latency, target)];
            // Only this thread stores to the cell, so load and store need not be one operation.
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Takes in what was counted and says what it means for the depths, if anything (KL3, KL4).
    pub(super) fn fold(&self, now: Nanos, depths: [u16; TIMED]) -> [Option<u16>; TIMED] {
        self.collect();
        let mut congested = false;
        for windows in &self.windows {
            congested |= windows[IO].percentile(90, now).is_some_and(|b| b >= BAD);
        }
        from_fn(|kind| {
            let fresh = self.windows[kind][TOTAL].percentile(99, now);
            let last = &self.last[kind];
            let p99 = if congested {
                let older = self.used_up(kind); // gone even where it is not needed
                fresh.or(older)
            } else {
                if let Some(p99) = fresh {
                    last.store(u32::from(p99) + 1, Ordering::Relaxed);
                }
                fresh
            };
            let p99 = p99.filter(|b| congested || *b >= BAD)?;
            Some(scaled(depths[kind], p99, MAX_DEPTH[kind]))
        })
    }

    /// The last p99 of a kind, which is forgotten by this.
    fn used_up(&self, kind: usize) -> Option<u16> {
        let last = self.last[kind].load(Ordering::Relaxed).checked_sub(1)?;
        self.last[kind].store(0, Ordering::Relaxed);
        u16::try_from(last).ok()
    }

    fn collect(&self) {
        for (shard, seen) in self.shards.iter().zip(&self.seen) {
            for kind in 0..TIMED {
                for which in [TOTAL, IO] {
                    let (new, old) = (&shard.0[kind][which], &seen.0[kind][which]);
                    let window = &self.windows[kind][which].counts;
                    for i in 0..BUCKETS {
                        let count = new[i].load(Ordering::Relaxed);
                        let more = count.wrapping_sub(old[i].load(Ordering::Relaxed));
                        old[i].store(count, Ordering::Relaxed);
                        let sum = window[i].load(Ordering::Relaxed).saturating_add(more);
                        window[i].store(sum, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Samples of a kind that were folded and not yet judged: of the total time, of the io time.
    #[cfg(test)]
    pub(super) fn folded(&self, kind: usize) -> [u32; 2] {
        from_fn(|w| self.windows[kind][w].counts.iter().map(|c| c.load(Ordering::Relaxed)).sum())
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../../tests/kyber_latency.rs"]
mod tests;
