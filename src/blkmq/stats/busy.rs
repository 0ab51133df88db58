//! How long something was busy, in one word, so that it can be read while it runs.
//!
//! Rules:
//! * **B1** A word holds a count of what is in progress and one number. While the count is 0 the
//!   number is the busy time so far; while it is not, the number is the moment at which the clock
//!   would have stood had all time been busy time, so that busy time is now minus the number. Time
//!   runs by itself: the word changes only when the count does, and the number only when the count
//!   leaves or reaches 0.
//! * **B2** One load therefore answers with the busy time up to the reader's now, bios still in
//!   progress included (Linux brings its counter up to date before it prints it, to the same end).
//! * **B3** The number is taken modulo its width, and an answer from the upper half is a moment
//!   before the start: 0. Who reads with a clock behind the writer's sees less, never nonsense.
//! * **B4** A queue's word belongs to its thread, counts in nanoseconds and is exact. A disk's word
//!   is shared by its queues, changes by compare-and-swap when a queue becomes busy or idle (not
//!   with each bio), and counts in units of 256 ns: both ends of a busy period are rounded down, so
//!   a period is off by less than one unit either way, and the sum over periods by no trend.
//! * **B5** Two threads' clocks may differ by the length of their sweeps, so a disk's busy time can
//!   fall by so much between two reads. Readers keep the greatest that was seen (`DiskStats`).

use crate::block::Nanos;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Busy time as a word (B1): a count of `COUNT` bits below a number in units of `2^UNIT` ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word<const COUNT: u32, const UNIT: u32>(pub(super) u64);

/// The word of one queue (B4).
pub(super) type QueueWord = Word<1, 0>;
type DiskWord = Word<12, 8>;

/// The greatest number of queues that may share a [`DiskBusy`].
pub(super) const MAX_QUEUES: u16 = (1 << 12) - 1;

impl<const COUNT: u32, const UNIT: u32> Word<COUNT, UNIT> {
    const GREATEST: u64 = u64::MAX >> COUNT;

    fn count(self) -> u64 {
        self.0 & !(u64::MAX << COUNT)
    }

    /// From busy time to start, and back (B1).
    fn turned(self, now: Nanos) -> u64 {
        (now.0 >> UNIT).wrapping_sub(self.0 >> COUNT) & Self::GREATEST
    }

    /// Something began.
    pub(super) fn enter(self, now: Nanos) -> Self {
        match self.count() {
            0 => Word(self.turned(now) << COUNT | 1),
            _ => Word(self.0 + 1),
        }
    }

    /// Something ended.
    pub(super) fn leave(self, now: Nanos) -> Self {
        debug_assert!(self.count() > 0, "what ends has begun");
        match self.count() {
            1 => Word(self.turned(now) << COUNT),
            _ => Word(self.0 - 1),
        }
    }

    /// Busy time up to `now`, in nanoseconds (B2, B3).
    pub(super) fn nanos(self, now: Nanos) -> u64 {
        let units = if self.count() == 0 { self.0 >> COUNT } else { self.turned(now) };
        if units > Self::GREATEST / 2 { 0 } else { units << UNIT }
    }
}

/// The time during which at least one queue of a disk was busy.
#[derive(Debug)]
pub(super) struct DiskBusy(AtomicU64);

impl DiskBusy {
    /// Nothing was busy yet.
    pub(super) fn new() -> DiskBusy {
        DiskBusy(AtomicU64::new(0))
    }

    fn change(&self, next: impl Fn(DiskWord) -> DiskWord) {
        // The word guards nothing but itself, so relaxed is enough.
        let mut old = self.0.load(Ordering::Relaxed);
        while let Err(seen) = self.0.compare_exchange_weak(
            old,
            next(Word(old)).0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            old = seen;
        }
    }

    /// A queue became busy.
    pub(super) fn enter(&self, now: Nanos) {
        self.change(|word| word.enter(now));
    }

    /// A queue became idle.
    pub(super) fn leave(&self, now: Nanos) {
        self.change(|word| word.leave(now));
    }

    /// Busy time up to `now`, in nanoseconds.
    pub(super) fn nanos(&self, now: Nanos) -> u64 {
        DiskWord::nanos(Word(self.0.load(Ordering::Relaxed)), now)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/stats_busy.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "../tests/stats_loom.rs"]
mod loom_tests;
