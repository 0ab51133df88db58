//! Small numbers that must not be confused with one another.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// The guest's descriptor-head index, which is the tag of the bio: `0..queue_size`.
///
/// Unique among the bios in flight on one virtqueue (virtio 1.3, 2.7.13: a driver may not reuse a
/// head before the device returned it). Two different virtqueues use the same tags independently.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u16);

impl Tag {
    /// The tag as an index into per-head arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {}", self.0)
    }
}

/// Number of a virtqueue within its device, as the front-end counts them (`0..num_queues`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

/// Number of a hardware context (hctx) within the domain that owns it.
///
/// Local to one queue thread: a slot in a table, reused after the hctx is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HctxId(pub u16);

impl HctxId {
    /// The id as an index into per-hctx arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a disk within the domain that serves it: its lane.
///
/// Several disks of one domain share its scheduler; what they own (flushes, limits, weight) is
/// theirs by this number. Local to one queue thread, as [`HctxId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

impl LaneId {
    /// The id as an index into per-disk arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point on the monotonic clock, in nanoseconds. Time is an argument: only `sys::clock` makes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds from `earlier` to `self`; 0 when `earlier` lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Nanos {
    type Output = Nanos;

    fn add(self, d: Duration) -> Nanos {
        let n = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.0.saturating_add(n))
    }
}
