//! The buckets of one disk, shared by all threads that serve it.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, PoisonError};

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use std::sync::PoisonError;

use super::bucket::{Bucket, Shape, Units};
use super::{Limit, LimitsConfig, LimitsError};
use crate::block::{Nanos, Op, SECTOR_SIZE};

/// Two buckets (rate, burst rate) for each of six limits.
const BUCKETS: usize = 12;

/// Which way data goes, as limits see it (B6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk: writes, zeroes, discards.
    Write,
}

impl Direction {
    /// Both, in order.
    pub const BOTH: [Direction; 2] = [Direction::Read, Direction::Write];

    /// The direction of an operation; `None` for a flush, which no limit concerns.
    #[must_use]
    pub const fn of(op: Op) -> Option<Direction> {
        match op {
            Op::Read(_) => Some(Direction::Read),
            Op::Write(_) | Op::Discard(_) | Op::WriteZeroes { .. } => Some(Direction::Write),
            Op::Flush => None,
        }
    }

    /// 0 or 1.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Direction::Read => 0,
            Direction::Write => 1,
        }
    }

    /// The buckets that concern it: those of its own limits and of the totals.
    const fn buckets(self) -> u32 {
        match self {
            Direction::Read => 0b00_11_11_00_11_11,
            Direction::Write => 0b11_00_11_11_00_11,
        }
    }
}

/// The limits of one disk. Shared by all threads that serve it.
#[derive(Debug)]
pub struct Limits {
    /// The buckets that exist, a bit each. 0: no limits.
    active: AtomicU32,
    /// How often the limits were changed, modulo 2^32.
    changes: AtomicU32,
    iops_size: AtomicU64,
    /// In the order of `limits`, rate before burst rate.
    buckets: [Bucket; BUCKETS],
    /// What was asked for. Only for control.
    config: Mutex<LimitsConfig>,
}

/// In bits: total, read, write, of operations and then of bytes.
fn limits(config: &LimitsConfig) -> [Limit; BUCKETS / 2] {
    let LimitsConfig { iops, bps, .. } = config;
    [iops.total, iops.read, iops.write, bps.total, bps.read, bps.write]
}

fn shapes(config: &LimitsConfig) -> [Shape; BUCKETS] {
    let limits = limits(config);
    std::array::from_fn(|i| {
        let limit = &limits[i / 2];
        if i % 2 == 0 { Shape::main(limit) } else { Shape::burst(limit) }
    })
}

fn active(shapes: &[Shape; BUCKETS]) -> u32 {
    let exists = shapes.iter().map(|shape| u32::from(shape.rate != 0));
    exists.enumerate().fold(0, |bits, (i, bit)| bits | bit << i)
}

impl Default for Limits {
    /// No limits.
    fn default() -> Limits {
        Limits::new(&LimitsConfig::default()).expect("none contradicts another")
    }
}

impl Limits {
    /// Limits whose buckets are empty.
    ///
    /// # Errors
    /// What [`LimitsConfig::check`] finds.
    pub fn new(config: &LimitsConfig) -> Result<Limits, LimitsError> {
        config.check()?;
        let shapes = shapes(config);
        Ok(Limits {
            active: AtomicU32::new(active(&shapes)),
            changes: AtomicU32::new(0),
            iops_size: AtomicU64::new(config.iops_size),
            buckets: shapes.map(Bucket::new),
            config: Mutex::new(*config),
        })
    }

    /// Whether nothing is limited: one relaxed load.
    #[must_use]
    #[inline]
    pub fn is_off(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0
    }

    /// Charges an operation, and answers from when on it may go: at once when that is not after
    /// `now` (B4). To be called once for each operation; what has to go at once, whatever the
    /// answer is, leaves a debt to those who follow.
    #[must_use = "it may have to wait"]
    pub fn book(&self, op: Op, now: Nanos) -> Nanos {
        let active = self.active.load(Ordering::Relaxed);
        match Direction::of(op) {
            Some(direction) if active != 0 => self.charge(active & direction.buckets(), op, now),
            _ => Nanos(0),
        }
    }

    /// Charges an operation that goes now, whatever the limits say: what a stop releases, and the
    /// further ranges of one that was booked (B6).
    pub fn force(&self, op: Op, now: Nanos) {
        let _ = self.book(op, now);
    }

    /// A booked operation that had to wait goes now (B5).
    pub fn depart(&self, op: Op, now: Nanos) {
        if let Some(direction) = Direction::of(op) {
            let active = self.active.load(Ordering::Relaxed) & direction.buckets();
            self.concerned(active, op).for_each(|(bucket, units)| bucket.depart(units, now.0));
        }
    }

    fn charge(&self, active: u32, op: Op, now: Nanos) -> Nanos {
        let due = self.concerned(active, op).map(|(bucket, units)| bucket.book(units, now.0));
        Nanos(due.max().unwrap_or(0))
    }

    /// The buckets of `active`, each with what the operation adds to it (B6, B7).
    fn concerned(&self, active: u32, op: Op) -> impl Iterator<Item = (&Bucket, Units)> {
        let bytes = match op {
            Op::Discard(_) | Op::Flush => SECTOR_SIZE,
            Op::Read(range) | Op::Write(range) | Op::WriteZeroes { range, .. } => range.bytes(),
        };
        let operations = Units::operations(bytes, self.iops_size.load(Ordering::Relaxed));
        let bytes = Units::bytes(bytes);
        bits(active).map(move |i| {
            let units = if i < BUCKETS / 2 { operations } else { bytes };
            (&self.buckets[i], units)
        })
    }

    /// From when on one more would go, after all that have booked. Who has booked `due` may go at
    /// the earlier of the two: that is later than `due` unless the limits were raised since.
    #[must_use]
    pub fn tail(&self, direction: Direction) -> Nanos {
        let active = self.active.load(Ordering::Relaxed) & direction.buckets();
        Nanos(bits(active).map(|i| self.buckets[i].tail()).max().unwrap_or(0))
    }

    /// A number that is another one after each [`set`](Limits::set).
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// Changes the limits and keeps what is in the buckets (B8). A control-time operation: it
    /// locks, against others like it and nobody else. Afterwards the threads with waiting bios
    /// have to be woken, because their wake times may have become earlier.
    ///
    /// # Errors
    /// What [`LimitsConfig::check`] finds; then nothing changes.
    pub fn set(&self, config: &LimitsConfig, now: Nanos) -> Result<(), LimitsError> {
        config.check()?;
        let mut old = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (shapes(&old), shapes(config));
        self.iops_size.store(config.iops_size, Ordering::Relaxed);
        for (i, bucket) in self.buckets.iter().enumerate() {
            bucket.reshape(from[i], to[i], now.0);
        }
        self.active.store(active(&to), Ordering::Relaxed);
        *old = *config;
        // After all of the above, for those who look at the tail because of it.
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// What was asked for last. A control-time operation, as [`set`](Limits::set).
    #[must_use]
    pub fn config(&self) -> LimitsConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of the bits of `set`.
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize);
        set &= set.wrapping_sub(1);
        lowest
    })
}
