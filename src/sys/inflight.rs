//! The fields of the in-flight region, which outlives us in the front-end's hands (QEMU's
//! docs/interop/vhost-user.rst, "Inflight I/O tracking": `QueueRegionSplit`, `DescStateSplit`).
//!
//! Nothing here decides anything: each method is one load or one store of one field, in host byte
//! order as the specification has it. The front-end can write the region at any time (S2), so every
//! field is an atomic.
//!
//! **Order.** What counts is which stores a successor finds when we die between two of them. A killed
//! process leaves exactly the stores that it had executed, so the order of the stores in the program is
//! what must not change: every store that the protocol orders is a release store, which no earlier
//! store (to the ring or here) may pass.
#![allow(unsafe_code, reason = "fields of the region are reached through host pointers")]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::guest::{GuestBuf, GuestMemory, Region};
use super::memfd;

/// Bytes before the first descriptor's state.
pub const HEADER: usize = 16;
/// Bytes of one descriptor's state.
pub const ENTRY: usize = 16;

// Byte offsets in the header,
const FEATURES: usize = 0;
const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
// and in a descriptor's state.
const INFLIGHT: usize = 0;
const PADDING: usize = 1;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// A mapped in-flight region.
#[derive(Debug)]
pub struct InflightMemory {
    /// Keeps the mapping.
    _memory: GuestMemory,
    whole: GuestBuf,
}

impl InflightMemory {
    /// Maps `size` bytes of `file` at `offset`, a multiple of the page size. A memfd is sealed
    /// against shrinking first, where it allows that: what is mapped stays there.
    ///
    /// # Errors
    /// `InvalidInput` for an empty region, a file that is too short or an offset that is no
    /// multiple of the page size; otherwise what the kernel answered.
    pub fn map(file: File, offset: u64, size: u64) -> io::Result<InflightMemory> {
        // One that cannot be sealed is as good or bad as the memory of the guest.
        let _ = memfd::seal_against_shrinking(&file);
        let region = Region::map(0, size, 0, file, offset)?;
        let memory = GuestMemory::new(vec![Arc::new(region)]).expect("one region overlaps nothing");
        let whole = memory.slice(0, size).expect("all of the region");
        Ok(InflightMemory { _memory: memory, whole })
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty region cannot be mapped")]
    pub const fn len(&self) -> usize {
        self.whole.len()
    }

    /// The part at `offset` with `entries` descriptors; `None` when it is not inside the region or
    /// not aligned to 8.
    #[must_use]
    pub fn part(self: &Arc<Self>, offset: usize, entries: u16) -> Option<QueueWords> {
        let len = HEADER + ENTRY * usize::from(entries);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.whole.len());
        let at = self.whole.skip(offset).take(len);
        let aligned = at.addr().addr().is_multiple_of(8);
        (inside && aligned).then(|| QueueWords { _memory: Arc::clone(self), at, entries })
    }
}

/// One queue's part of the region.
#[derive(Debug)]
pub struct QueueWords {
    /// Keeps the mapping.
    _memory: Arc<InflightMemory>,
    at: GuestBuf,
    entries: u16,
}

impl QueueWords {
    /// Number of descriptors whose state fits.
    #[must_use]
    pub const fn entries(&self) -> u16 {
        self.entries
    }

    #[inline]
    fn byte(&self, offset: usize) -> &AtomicU8 {
        debug_assert!(offset < self.at.len());
        // SAFETY: `_memory` keeps the part mapped; part() has checked that it holds the header and
        // all entries, and every offset used here is inside one of them.
        unsafe { AtomicU8::from_ptr(self.at.addr().wrapping_add(offset)) }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset + 2 <= self.at.len() && offset.is_multiple_of(2));
        // SAFETY: as in byte(); the part is aligned to 8 and the offset is even.
        unsafe { AtomicU16::from_ptr(self.at.addr().wrapping_add(offset).cast()) }
    }

    #[inline]
    fn long(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset + 8 <= self.at.len() && offset.is_multiple_of(8));
        // SAFETY: as in byte(); the part is aligned to 8 and so is the offset.
        unsafe { AtomicU64::from_ptr(self.at.addr().wrapping_add(offset).cast()) }
    }

    #[inline]
    fn set_word(&self, offset: usize, value: u16) {
        self.word(offset).store(value, Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }

    /// Where the state of descriptor `index` begins.
    #[inline]
    fn entry(&self, index: u16) -> usize {
        assert!(index < self.entries, "a head is inside the table");
        HEADER + ENTRY * usize::from(index)
    }

    /// `features`: always 0 so far.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.long(FEATURES).load(Ordering::Acquire)
    }

    /// Stores `features`.
    pub fn set_features(&self, features: u64) {
        self.long(FEATURES).store(features, Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }

    /// `version`: 0 for a region that nobody has used, else 1.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.word(VERSION).load(Ordering::Acquire)
    }

    /// Stores `version`.
    pub fn set_version(&self, version: u16) {
        self.set_word(VERSION, version);
    }

    /// `desc_num`: entries of the table.
    #[must_use]
    pub fn desc_num(&self) -> u16 {
        self.word(DESC_NUM).load(Ordering::Acquire)
    }

    /// Stores `desc_num`.
    pub fn set_desc_num(&self, entries: u16) {
        self.set_word(DESC_NUM, entries);
    }

    /// `last_batch_head`: the newest head of the batch that was published last.
    #[must_use]
    pub fn last_batch_head(&self) -> u16 {
        self.word(LAST_BATCH_HEAD).load(Ordering::Acquire)
    }

    /// Stores `last_batch_head`.
    #[inline]
    pub fn set_last_batch_head(&self, head: u16) {
        self.set_word(LAST_BATCH_HEAD, head);
    }

    /// `used_idx`: the used index up to which all heads are cleared.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.word(USED_IDX).load(Ordering::Acquire)
    }

    /// Stores `used_idx`.
    #[inline]
    pub fn set_used_idx(&self, idx: u16) {
        self.set_word(USED_IDX, idx);
    }

    /// `desc[head].inflight`, as it stands there: 0 or 1 unless somebody scribbled.
    ///
    /// # Panics
    /// As all methods with a `head`: when it is not below [`entries`](QueueWords::entries).
    #[must_use]
    #[inline]
    pub fn inflight(&self, head: u16) -> u8 {
        self.byte(self.entry(head) + INFLIGHT).load(Ordering::Acquire)
    }

    /// Stores `desc[head].inflight`.
    #[inline]
    pub fn set_inflight(&self, head: u16, inflight: bool) {
        self.byte(self.entry(head) + INFLIGHT).store(u8::from(inflight), Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }

    /// `desc[head].padding[0]`, which the specification gives no meaning.
    #[must_use]
    pub fn padding(&self, head: u16) -> u8 {
        self.byte(self.entry(head) + PADDING).load(Ordering::Acquire)
    }

    /// Stores `desc[head].padding[0]`.
    pub fn set_padding(&self, head: u16, value: u8) {
        self.byte(self.entry(head) + PADDING).store(value, Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }

    /// `desc[head].next`: the head before this one in its batch.
    #[must_use]
    pub fn next(&self, head: u16) -> u16 {
        self.word(self.entry(head) + NEXT).load(Ordering::Acquire)
    }

    /// Stores `desc[head].next`.
    #[inline]
    pub fn set_next(&self, head: u16, next: u16) {
        let offset = self.entry(head) + NEXT;
        self.set_word(offset, next);
    }

    /// `desc[head].counter`: tells which of two heads was fetched first.
    #[must_use]
    pub fn counter(&self, head: u16) -> u64 {
        self.long(self.entry(head) + COUNTER).load(Ordering::Acquire)
    }

    /// Stores `desc[head].counter`.
    #[inline]
    pub fn set_counter(&self, head: u16, counter: u64) {
        self.long(self.entry(head) + COUNTER).store(counter, Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }
}

/// What tests do to a region behind the protocol's back.
#[cfg(test)]
impl QueueWords {
    /// A copy of all bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.at.len()];
        self.at.copy_to(&mut bytes);
        bytes
    }

    /// The same part once more.
    pub fn twin(&self) -> QueueWords {
        QueueWords { _memory: Arc::clone(&self._memory), at: self.at, entries: self.entries }
    }

    /// Overwrites the first bytes.
    pub fn scribble(&self, bytes: &[u8]) {
        self.at.copy_from(bytes);
    }

    /// Stores any value as `desc[head].inflight`.
    pub fn scribble_inflight(&self, head: u16, value: u8) {
        self.byte(self.entry(head) + INFLIGHT).store(value, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "inflight/tests.rs"]
mod tests;
