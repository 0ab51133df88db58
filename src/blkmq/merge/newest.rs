//! The newest requests, among which a neighbour is looked for first (M7).

use crate::blkmq::tags::Link;
use crate::block::{Op, SECTOR_SIZE, Sector, SectorRange, Tag};

/// Requests that are looked at on each list (Linux: 8, newest first).
const NEWEST: usize = 8;

/// Kinds of operations that are looked for separately (M1).
pub(super) const KINDS: usize = 6;

/// A last request of this many bytes hands the batch on (Linux: BLK_PLUG_FLUSH_SIZE).
const GROWN: u64 = 128 * 1024;

/// The newest tags, whatever has become of them since.
#[derive(Debug)]
pub(super) struct Newest {
    tags: [Link; NEWEST],
    at: usize,
}

impl Newest {
    pub(super) const NONE: Newest = Newest { tags: [Link::NONE; NEWEST], at: 0 };

    pub(super) fn push(&mut self, tag: Tag) {
        self.tags[self.at] = Link::to(tag);
        self.at = self.at.wrapping_add(1) % NEWEST;
    }

    /// Newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Tag> + '_ {
        let back = |i| self.tags[self.at.wrapping_sub(i).wrapping_sub(1) % NEWEST];
        (0..NEWEST).map_while(move |i| back(i).tag())
    }
}

/// The newest request of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) tag: Link,
    /// Its range when it was noted. Who touches it may join if the slot, which is looked at then,
    /// agrees; who does not touch it (most, where nothing merges) is told so by two compares.
    start: Sector,
    end: Sector,
}

impl Latest {
    /// No range ends or starts there.
    pub(super) const NONE: Latest =
        Latest { tag: Link::NONE, start: Sector(u64::MAX), end: Sector(u64::MAX) };

    pub(super) fn of(tag: Tag, range: SectorRange) -> Latest {
        Latest { tag: Link::to(tag), start: range.start(), end: range.end() }
    }

    #[inline]
    pub(super) fn touches(&self, range: SectorRange) -> bool {
        range.start() == self.end || range.end() == self.start
    }
}

/// Whether a batch that ends with this is to be handed on: it will hardly grow further.
#[inline]
pub(super) fn is_grown(range: SectorRange) -> bool {
    range.sectors() >= GROWN / SECTOR_SIZE
}

#[inline]
pub(super) const fn kind(op: Op) -> usize {
    // In the order of `Op`: nothing to be looked up.
    match op {
        Op::Read(_) => 0,
        Op::Write(_) => 1,
        Op::Flush => 2,
        Op::Discard(_) => 3,
        Op::WriteZeroes { unmap: false, .. } => 4,
        Op::WriteZeroes { unmap: true, .. } => 5,
    }
}
