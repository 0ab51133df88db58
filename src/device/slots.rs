//! What a head needs between its fetch and its answer: where its data lies, where its status goes,
//! and which of several ranges it is at. How far a transfer got is the core's to know.
//!
//! Rules:
//! * S-1 **One slot per head**, preallocated. The tag is the index: no search, no allocation.
//! * S-2 **Stable.** [`bufs`](Slots::bufs) of a busy tag stays as it is, at one address, until
//!   [`finish`](Slots::finish) of that tag: the kernel may be reading the vector.
//! * S-3 **Bounded overflow** (L5, L7). More than [`INLINE_BUFS`] buffers, or more than one range,
//!   live in a block of a fixed pool. [`can_accept`](Slots::can_accept) is false while a pool is
//!   empty: the queue stops popping until a bio is finished.
//! * S-4 **Compact.** A slot is two cache lines; a bio of up to two buffers touches the first only.

use crate::block::{SectorRange, Status, Tag};
use crate::sys::guest::GuestBuf;

/// Most data buffers of one bio. Windows' driver sends 512 pages and up to two partial ones through
/// an indirect table, whatever `seg_max` says.
pub const MAX_SEGMENTS: usize = 514;
/// Most ranges of one discard or write-zeroes bio (`max_discard_seg`, `max_write_zeroes_seg`).
pub const MAX_RANGES: usize = 256;
/// Buffers that fit the slot itself.
pub const INLINE_BUFS: usize = 5;
/// Bios of one queue that may have more buffers than fit the slot, at the same time.
pub const DATA_BLOCKS: usize = 32;
/// Bios of one queue that may have more than one range, at the same time.
pub const RANGE_BLOCKS: usize = 8;

/// No block.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Slot {
    /// One byte; empty while the slot is free.
    status: GuestBuf,
    /// Bytes of data.
    bytes: u32,
    /// Bytes that the guest finds in its writable buffers after success, without the status byte.
    written: u32,
    /// Number of the current range.
    first: u16,
    /// Number of buffers or ranges, done ones included.
    count: u16,
    /// Overflow block, or NONE.
    block: u16,
    /// The block is one of ranges.
    ranges: bool,
    inline: [GuestBuf; INLINE_BUFS],
    /// The current range of a discard or write-zeroes.
    range: SectorRange,
}

/// The fixed pool of overflow blocks of one kind.
#[derive(Debug)]
struct Pool<T> {
    room: Box<[T]>,
    per_block: usize,
    /// Last in, first out: what was used last is in the cache.
    free: Vec<u16>,
}

impl<T: Clone> Pool<T> {
    fn new(blocks: usize, per_block: usize, empty: T) -> Pool<T> {
        let free = (0..blocks).rev().map(|i| u16::try_from(i).expect("few blocks")).collect();
        Pool { room: vec![empty; blocks * per_block].into(), per_block, free }
    }

    fn block(&self, n: u16) -> &[T] {
        &self.room[usize::from(n) * self.per_block..][..self.per_block]
    }

    fn block_mut(&mut self, n: u16) -> &mut [T] {
        &mut self.room[usize::from(n) * self.per_block..][..self.per_block]
    }
}

/// The slots of one queue.
#[derive(Debug)]
pub struct Slots {
    slots: Box<[Slot]>,
    data: Pool<GuestBuf>,
    ranges: Pool<SectorRange>,
    /// A pool has no free block: kept because it is asked for each head.
    full: bool,
}

/// The overflow pool has no block, or the bio has more segments than a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Slots {
    /// Slots for a queue of `size` entries, all free. The only allocation.
    #[must_use]
    pub fn new(size: u16) -> Slots {
        let slot = Slot {
            status: GuestBuf::EMPTY,
            bytes: 0,
            written: 0,
            first: 0,
            count: 0,
            block: NONE,
            ranges: false,
            inline: [GuestBuf::EMPTY; INLINE_BUFS],
            range: SectorRange::default(),
        };
        let size = usize::from(size);
        Slots {
            slots: vec![slot; size].into(),
            data: Pool::new(DATA_BLOCKS.min(size), MAX_SEGMENTS, GuestBuf::EMPTY),
            ranges: Pool::new(RANGE_BLOCKS.min(size), MAX_RANGES, SectorRange::default()),
            full: size == 0,
        }
    }

    /// Whether any bio that the guest may send would find room (S-3). To be asked before each pop.
    #[must_use]
    #[inline]
    pub fn can_accept(&self) -> bool {
        !self.full
    }

    /// Whether the head is between fetch and answer.
    #[must_use]
    #[inline]
    pub fn is_busy(&self, tag: Tag) -> bool {
        self.slots[tag.index()].status.len() > 0
    }

    /// Makes the slot of a free head busy: no data, no ranges, `status` is where the answer goes.
    ///
    /// # Panics
    /// When the head is busy: two bios would share a slot.
    #[inline]
    pub fn claim(&mut self, tag: Tag, status: GuestBuf) {
        let slot = &mut self.slots[tag.index()];
        assert!(slot.status.len() == 0, "a busy head is refused before its slot is touched");
        slot.status = status.take(1);
        slot.bytes = 0;
        slot.written = 0;
        slot.first = 0;
        slot.count = 0;
        slot.block = NONE;
        slot.ranges = false;
    }

    /// Makes the slot of a free head busy and gives it one buffer of data, of fewer than 2^32 bytes: as
    /// [`claim`](Slots::claim) and [`set_data`](Slots::set_data) do. `false`, and nothing has changed,
    /// when the head is busy.
    #[inline(always)] // its arguments are at hand where it is called
    #[must_use = "a busy head is refused"]
    pub fn claim_with(
        &mut self,
        tag: Tag,
        status: GuestBuf,
        data: GuestBuf,
        to_guest: bool,
    ) -> bool {
        let slot = &mut self.slots[tag.index()];
        if slot.status.len() > 0 {
            return false;
        }
        #[allow(clippy::cast_possible_truncation, reason = "the caller has seen that it fits")]
        let bytes = data.len() as u32;
        slot.status = status;
        slot.bytes = bytes;
        slot.written = if to_guest { bytes } else { 0 };
        (slot.first, slot.count, slot.block, slot.ranges) = (0, 1, NONE, false);
        slot.inline[0] = data;
        true
    }

    /// Gives a claimed head its data: `bytes` is the sum of the lengths. With `to_guest` they count
    /// as written to the guest when the bio succeeds.
    ///
    /// # Errors
    /// [`NoRoom`]: the caller did not ask [`can_accept`](Slots::can_accept), or there are more than
    /// [`MAX_SEGMENTS`] buffers. The slot has no data then.
    #[inline(always)] // its arguments are at hand where it is called
    pub fn set_data(
        &mut self,
        tag: Tag,
        data: &[GuestBuf],
        bytes: u32,
        to_guest: bool,
    ) -> Result<(), NoRoom> {
        let slot = &mut self.slots[tag.index()];
        if let [one] = data {
            slot.inline[0] = *one; // the usual bio: no call for sixteen bytes
        } else if data.len() <= INLINE_BUFS {
            slot.inline[..data.len()].copy_from_slice(data);
        } else {
            if data.len() > MAX_SEGMENTS {
                return Err(NoRoom);
            }
            slot.block = self.data.free.pop().ok_or(NoRoom)?;
            self.full |= self.data.free.is_empty();
            self.data.block_mut(slot.block)[..data.len()].copy_from_slice(data);
        }
        slot.count = u16::try_from(data.len()).map_err(|_| NoRoom)?;
        slot.bytes = bytes;
        slot.written = if to_guest { bytes } else { 0 };
        Ok(())
    }

    /// Says that `bytes` bytes were written to the guest already (GET_ID).
    pub fn set_written(&mut self, tag: Tag, bytes: u32) {
        self.slots[tag.index()].written = bytes;
    }

    /// Appends a range to a claimed head without data. The first one becomes the current one.
    ///
    /// # Errors
    /// [`NoRoom`], as for [`set_data`](Slots::set_data), with [`MAX_RANGES`].
    pub fn add_range(&mut self, tag: Tag, range: SectorRange) -> Result<(), NoRoom> {
        let slot = &mut self.slots[tag.index()];
        slot.ranges = true;
        if slot.count == 0 {
            slot.range = range;
        } else {
            if usize::from(slot.count) >= MAX_RANGES {
                return Err(NoRoom);
            }
            if slot.block == NONE {
                slot.block = self.ranges.free.pop().ok_or(NoRoom)?;
                self.full |= self.ranges.free.is_empty();
            }
            self.ranges.block_mut(slot.block)[usize::from(slot.count)] = range;
        }
        slot.count += 1;
        Ok(())
    }

    /// The buffers, in order, in one piece of memory (S-2).
    #[must_use]
    #[inline(always)] // for each request
    pub fn bufs(&self, tag: Tag) -> &[GuestBuf] {
        let slot = &self.slots[tag.index()];
        if slot.ranges {
            return &[];
        }
        let all = if slot.block == NONE { &slot.inline } else { self.data.block(slot.block) };
        &all[..usize::from(slot.count)]
    }

    /// Bytes of data.
    #[must_use]
    #[inline]
    pub fn bytes(&self, tag: Tag) -> u32 {
        self.slots[tag.index()].bytes
    }

    /// The range that a discard or write-zeroes is at.
    #[must_use]
    pub fn range(&self, tag: Tag) -> Option<SectorRange> {
        let slot = &self.slots[tag.index()];
        (slot.ranges && slot.first < slot.count).then_some(slot.range)
    }

    /// Whether another range follows the current one; `false` for a head that does not exist.
    #[must_use]
    #[inline]
    pub fn has_more_ranges(&self, tag: Tag) -> bool {
        let follows = |slot: &Slot| slot.ranges && slot.first + 1 < slot.count;
        self.slots.get(tag.index()).is_some_and(follows)
    }

    /// Moves on to the next range; `false` (and no current range) when that was the last one.
    pub fn next_range(&mut self, tag: Tag) -> bool {
        let slot = &mut self.slots[tag.index()];
        slot.first = slot.count.min(slot.first + 1);
        if slot.first == slot.count {
            return false;
        }
        slot.range = self.ranges.block(slot.block)[usize::from(slot.first)];
        true
    }

    /// Ends the bio: writes the status byte, frees the slot and its block. Returns the length for
    /// the used element: with [`Status::Ok`] what the guest finds written, else only the status.
    ///
    /// Rule V3 of [`crate::device::virtqueue`]: the data is in guest memory by now (the completion
    /// was taken off the ring with acquire), and the used element and index come after.
    ///
    /// # Panics
    /// When the head is free: it would be answered twice.
    #[inline]
    pub fn finish(&mut self, tag: Tag, status: Status) -> u32 {
        let slot = &mut self.slots[tag.index()];
        assert!(slot.status.len() > 0, "a head is answered once");
        slot.status.write_u8(status as u8);
        slot.status = GuestBuf::EMPTY;
        if slot.block != NONE {
            let free = if slot.ranges { &mut self.ranges.free } else { &mut self.data.free };
            free.push(slot.block);
            slot.block = NONE;
            self.full = self.data.free.is_empty() || self.ranges.free.is_empty();
        }
        slot.count = 0;
        slot.first = 0;
        slot.bytes = 0;
        // A transfer is shorter than 2^31 bytes.
        if status == Status::Ok { slot.written.wrapping_add(1) } else { 1 }
    }
}

#[cfg(test)]
mod tests;
