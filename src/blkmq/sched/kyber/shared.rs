//! What the schedulers of one pool share: tokens, latencies, targets and the timer.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use std::array::from_fn;

use super::latency::Latencies;
use super::tokens::Tokens;
use super::{KINDS, MAX_DEPTH, TIMED};
use crate::blkmq::sched::BadTunable;
use crate::blkmq::{MAX_THREADS, Wakes};
use crate::block::Nanos;

/// From the first completion after a fold to the next fold.
const PERIOD: u64 = 100_000_000;
/// Nothing has completed since the last fold.
const UNARMED: u64 = 0;
/// Somebody folds.
const FOLDING: u64 = u64::MAX;
/// Targets of reads, writes and discards, in nanoseconds.
const TARGETS: [u64; TIMED] = [2_000_000, 10_000_000, 5_000_000_000];
const MAX_TARGET: u64 = 60_000_000_000;

pub(super) const TUNABLES: [&str; 2 + KINDS] = [
    "read_lat_nsec",
    "write_lat_nsec",
    "read_depth",
    "write_depth",
    "discard_depth",
    "other_depth",
];

/// What the kyber schedulers of a pool's threads have in common. Atomics only.
#[derive(Debug)]
pub struct KyberShared {
    pub(super) threads: u16,
    pub(super) tokens: [Tokens; KINDS],
    pub(super) latencies: Latencies,
    targets: [AtomicU64; TIMED],
    /// When to fold (KY5).
    due: AtomicU64,
}

impl KyberShared {
    /// For `threads` queue threads, numbered from 0, with the depths at their maxima.
    ///
    /// # Panics
    /// When there are more than [`MAX_THREADS`].
    #[must_use]
    pub fn new(threads: u16) -> KyberShared {
        assert!(threads <= MAX_THREADS, "a pool has at most {MAX_THREADS} threads");
        KyberShared {
            threads,
            tokens: MAX_DEPTH.map(|depth| Tokens::new(threads, depth)),
            latencies: Latencies::new(threads),
            targets: TARGETS.map(AtomicU64::new),
            due: AtomicU64::new(UNARMED),
        }
    }

    /// A request of `kind` ended on `thread`. Only that thread may call this.
    pub(super) fn record(
        &self,
        thread: u16,
        kind: usize,
        (total, io): (u64, u64),
        now: Nanos,
        wakes: &mut Wakes,
    ) {
        if kind >= TIMED {
            return;
        }
        let target = self.targets[kind].load(Ordering::Relaxed);
        self.latencies.record(thread, kind, target, total, io);
        let due = self.due.load(Ordering::Relaxed);
        if now.0 >= due {
            self.tick(due, thread, now, wakes);
        }
    }

    /// Arms the timer, or folds, or leaves it to another thread that is just doing so (KY5).
    #[cold]
    fn tick(&self, due: u64, thread: u16, now: Nanos, wakes: &mut Wakes) {
        let next = if due == UNARMED { now.0.saturating_add(PERIOD) } else { FOLDING };
        // Acquires what the last folder left behind.
        let mine = self.due.compare_exchange(due, next, Ordering::Acquire, Ordering::Relaxed);
        if mine.is_err() || due == UNARMED {
            return;
        }
        let depths = from_fn(|kind| self.tokens[kind].depth());
        for (tokens, depth) in self.tokens.iter().zip(self.latencies.fold(now, depths)) {
            if let Some(depth) = depth {
                tokens.resize(depth, thread, wakes);
            }
        }
        self.due.store(UNARMED, Ordering::Release);
    }

    /// See [`Scheduler::tunable`](crate::blkmq::sched::Scheduler::tunable).
    pub(super) fn tunable(&self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        let at = TUNABLES.iter().position(|known| *known == name).ok_or(BadTunable::Unknown)?;
        if at >= 2 {
            return match value {
                None => Ok(self.tokens[at - 2].depth().to_string()),
                Some(_) => Err(BadTunable::Value { expected: "nothing: it can only be read" }),
            };
        }
        if let Some(value) = value {
            let expected = "nanoseconds, 1 to 60000000000";
            let target: Option<u64> = value.parse().ok();
            let target = target.filter(|t| (1..=MAX_TARGET).contains(t));
            self.targets[at]
                .store(target.ok_or(BadTunable::Value { expected })?, Ordering::Relaxed);
        }
        Ok(self.targets[at].load(Ordering::Relaxed).to_string())
    }
}
