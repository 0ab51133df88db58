//! The three areas of a split virtqueue (virtio 1.3, 2.7) as host pointers.
//!
//! Nothing here decides anything: each method is one load or one store of one field, little-endian,
//! at an index that is masked into the area. The guest writes to these areas at any time (S2), so
//! index words are atomics and descriptors are volatile copies; no value is read twice.
#![allow(unsafe_code, reason = "fields of the rings are reached through host pointers")]

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};

use super::guest::GuestBuf;

/// Largest size of a split virtqueue (virtio 1.3, 2.7).
pub const MAX_SIZE: u16 = 32768;

/// One descriptor, copied out of guest memory (virtio 1.3, 2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer, or of the indirect table.
    pub addr: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// VIRTQ_DESC_F_NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// Index of the next descriptor; valid with VIRTQ_DESC_F_NEXT.
    pub next: u16,
}

impl Descriptor {
    /// Bytes of a descriptor in guest memory.
    pub const SIZE: usize = 16;

    /// The flag by which a chain goes on.
    #[allow(clippy::cast_possible_truncation, reason = "the flag is bit 0")]
    pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;

    /// The flag of a buffer that the device may write.
    #[allow(clippy::cast_possible_truncation, reason = "the flag is bit 1")]
    pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;

    /// The descriptor whose 16 bytes are these two little-endian words, already in host order.
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut to its own width")]
    const fn from_words(first: u64, second: u64) -> Descriptor {
        Descriptor {
            addr: first,
            len: second as u32,
            flags: (second >> 32) as u16,
            next: (second >> 48) as u16,
        }
    }

    /// The descriptor in these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Descriptor::SIZE]) -> Descriptor {
        let both = u128::from_le_bytes(bytes);
        #[allow(clippy::cast_possible_truncation, reason = "the halves of a 128-bit word")]
        Descriptor::from_words(both as u64, (both >> 64) as u64)
    }

    /// The bytes of the descriptor as they lie in guest memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Descriptor::SIZE] {
        let second = u64::from(self.next) << 48 | u64::from(self.flags) << 32 | u64::from(self.len);
        (u128::from(second) << 64 | u128::from(self.addr)).to_le_bytes()
    }

    const fn has(self, flag: u32) -> bool {
        self.flags as u32 & flag != 0
    }

    /// Whether it has these flags, this length, and nothing else.
    #[must_use]
    pub const fn is_just(self, flags: u16, len: u32) -> bool {
        self.flags == flags && self.len == len
    }

    /// The chain goes on at `next`.
    #[must_use]
    pub const fn has_next(self) -> bool {
        self.has(VRING_DESC_F_NEXT)
    }

    /// The device may write the buffer (and must not read it); else the other way round.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.has(VRING_DESC_F_WRITE)
    }

    /// The buffer is a table of descriptors.
    #[must_use]
    pub const fn is_indirect(self) -> bool {
        self.has(VRING_DESC_F_INDIRECT)
    }
}

/// A little-endian word at any address.
#[repr(C, packed)]
struct Word(u64);

/// Reads the eight bytes at `at`, once.
///
/// # Safety
/// `at..at + 8` must be readable.
unsafe fn read_word(at: *const u8) -> u64 {
    // SAFETY: the caller's promise; Word has no alignment, and volatile forbids a second read (S2).
    let word = unsafe { at.cast::<Word>().read_volatile() };
    u64::from_le(word.0)
}

/// Reads the two words at `at`, once.
///
/// # Safety
/// `at..at + 16` must be readable.
unsafe fn read_descriptor_at(at: *const u8) -> Descriptor {
    // SAFETY: the caller's promise covers the first half.
    let first = unsafe { read_word(at) };
    // SAFETY: the caller's promise covers the second half.
    let second = unsafe { read_word(at.wrapping_add(8)) };
    Descriptor::from_words(first, second)
}

/// Copies descriptor `index` of a table (of any alignment), once; `None` beyond the table's end.
#[must_use]
#[inline]
pub fn read_descriptor(table: GuestBuf, index: u16) -> Option<Descriptor> {
    let offset = usize::from(index) * Descriptor::SIZE;
    if offset + Descriptor::SIZE > table.len() {
        return None;
    }
    // SAFETY: S1 makes the table readable, and the 16 bytes lie inside it (just checked).
    Some(unsafe { read_descriptor_at(table.addr().wrapping_add(offset)) })
}

/// The buffer's first 16 bytes as two little-endian words, each read once; `None` when it is shorter.
#[must_use]
#[inline]
pub fn read_words(src: GuestBuf) -> Option<[u64; 2]> {
    if src.len() < 16 {
        return None;
    }
    // SAFETY: S1 makes the buffer readable, and it is at least 16 bytes long (just checked).
    let first = unsafe { read_word(src.addr()) };
    // SAFETY: as above, the second half of the 16 bytes.
    let second = unsafe { read_word(src.addr().wrapping_add(8)) };
    Some([first, second])
}

/// Copies the buffer's first bytes into `dst`, each byte read exactly once, which a plain copy does
/// not promise (L2). Returns how many: the smaller length.
pub fn copy_once(src: GuestBuf, dst: &mut [u8]) -> usize {
    let n = dst.len().min(src.len());
    let mut words = dst[..n].chunks_exact_mut(8);
    let mut at = src.addr().cast_const();
    for chunk in &mut words {
        // SAFETY: S1, and this chunk of 8 lies within the first `n <= src.len()` bytes.
        let word = unsafe { read_word(at) };
        chunk.copy_from_slice(&word.to_le_bytes());
        at = at.wrapping_add(8);
    }
    for byte in words.into_remainder() {
        // SAFETY: S1, and this byte is one of the first `n <= src.len()` ones.
        *byte = unsafe { at.read_volatile() };
        at = at.wrapping_add(1);
    }
    n
}

/// Why three areas are not a split ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not a power of two within `1..=32768` (virtio 1.3, 2.7).
    #[error("the queue size is not a power of two between 1 and 32768")]
    Size,
    /// An area is shorter than the size demands.
    #[error("a ring area is shorter than the queue size demands")]
    Short,
    /// An area is not aligned: 16 (descriptors), 2 (available), 4 (used) bytes.
    #[error("a ring area is not aligned as virtio 1.3, 2.7 demands")]
    Alignment,
}

/// Byte lengths of the three areas of a ring of `size` entries: descriptors, available, used.
/// The two event words at the ends are always part of it (virtio 1.3, 2.7).
#[must_use]
pub const fn area_lengths(size: u16) -> (usize, usize, usize) {
    let n = size as usize;
    (16 * n, 6 + 2 * n, 6 + 8 * n)
}

/// A split ring's areas, checked for size and alignment.
///
/// Indexes given as `at` are free-running and wrapped into the ring here.
#[derive(Clone, Debug)]
pub struct SplitRing {
    desc: GuestBuf,
    avail: GuestBuf,
    used: GuestBuf,
    mask: u16,
}

const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// The 16-bit word at `offset` of a ring area. An atomic is the one kind of reference that may
/// point at memory which somebody else writes.
fn word16(area: &GuestBuf, offset: usize) -> &AtomicU16 {
    debug_assert!(offset + 2 <= area.len());
    // SAFETY: S1 keeps the area mapped; SplitRing::new has checked that it is long enough for
    // every masked index and aligned to 2, and every offset used here is even.
    unsafe { AtomicU16::from_ptr(area.addr().wrapping_add(offset).cast()) }
}

/// The 32-bit word at `offset` of the used ring.
fn word32(area: &GuestBuf, offset: usize) -> &AtomicU32 {
    debug_assert!(offset + 4 <= area.len());
    // SAFETY: as in word16; the used ring is aligned to 4 and its elements start at offset 4.
    unsafe { AtomicU32::from_ptr(area.addr().wrapping_add(offset).cast()) }
}

impl SplitRing {
    /// The ring of `size` entries in these areas, which may be longer than needed.
    ///
    /// # Errors
    /// [`RingError`] names what is wrong with size, length or alignment.
    pub fn new(
        size: u16,
        desc: GuestBuf,
        avail: GuestBuf,
        used: GuestBuf,
    ) -> Result<SplitRing, RingError> {
        if !size.is_power_of_two() {
            return Err(RingError::Size);
        }
        let (d, a, u) = area_lengths(size);
        if desc.len() < d || avail.len() < a || used.len() < u {
            return Err(RingError::Short);
        }
        let aligned = |b: &GuestBuf, to: usize| b.addr().addr().is_multiple_of(to);
        if !(aligned(&desc, 16) && aligned(&avail, 2) && aligned(&used, 4)) {
            return Err(RingError::Alignment);
        }
        Ok(SplitRing { desc: desc.take(d), avail, used, mask: size - 1 })
    }

    #[inline]
    const fn slot(&self, at: u16) -> usize {
        (at & self.mask) as usize
    }

    #[inline]
    const fn entries(&self) -> usize {
        self.mask as usize + 1
    }

    /// Number of entries.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> u16 {
        self.mask.wrapping_add(1) // at most MAX_SIZE
    }

    /// The ring's own table of descriptors, for [`read_descriptor`].
    #[must_use]
    #[inline]
    pub const fn table(&self) -> GuestBuf {
        self.desc
    }

    /// Copies descriptor `index` (`< size`; masked), once.
    #[must_use]
    #[inline]
    pub fn descriptor(&self, index: u16) -> Descriptor {
        let offset = self.slot(index) * Descriptor::SIZE;
        // SAFETY: S1, and the masked index is inside the table, whose length new() has checked.
        unsafe { read_descriptor_at(self.desc.addr().wrapping_add(offset)) }
    }

    /// `avail.flags`.
    #[must_use]
    pub fn avail_flags(&self) -> u16 {
        u16::from_le(word16(&self.avail, FLAGS).load(Ordering::Relaxed))
    }

    /// `avail.idx`, acquire: the entries before it, and what they describe, are readable.
    #[must_use]
    #[inline]
    pub fn avail_idx(&self) -> u16 {
        u16::from_le(word16(&self.avail, INDEX).load(Ordering::Acquire))
    }

    /// The head in available entry `at`.
    #[must_use]
    #[inline]
    pub fn avail_entry(&self, at: u16) -> u16 {
        let offset = ENTRIES + 2 * self.slot(at);
        u16::from_le(word16(&self.avail, offset).load(Ordering::Relaxed))
    }

    /// `used_event`: the used index at which the driver wants to be notified.
    #[must_use]
    pub fn used_event(&self) -> u16 {
        let offset = ENTRIES + 2 * self.entries();
        u16::from_le(word16(&self.avail, offset).load(Ordering::Relaxed))
    }

    /// `used.idx` as it stands in memory.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        u16::from_le(word16(&self.used, INDEX).load(Ordering::Acquire))
    }

    /// Writes used element `at`.
    #[inline]
    pub fn set_used_entry(&self, at: u16, id: u32, len: u32) {
        let offset = ENTRIES + 8 * self.slot(at);
        word32(&self.used, offset).store(id.to_le(), Ordering::Relaxed);
        word32(&self.used, offset + 4).store(len.to_le(), Ordering::Relaxed);
        #[cfg(test)]
        super::steps::stored();
    }

    /// Stores `used.idx`, release: everything written before is visible to who sees the index.
    pub fn set_used_idx(&self, idx: u16) {
        word16(&self.used, INDEX).store(idx.to_le(), Ordering::Release);
        #[cfg(test)]
        super::steps::stored();
    }

    /// Stores `used.flags`.
    pub fn set_used_flags(&self, flags: u16) {
        word16(&self.used, FLAGS).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Stores `avail_event`: the available index at which the device wants to be kicked.
    pub fn set_avail_event(&self, idx: u16) {
        let offset = ENTRIES + 8 * self.entries();
        word16(&self.used, offset).store(idx.to_le(), Ordering::Relaxed);
    }
}

/// The driver's half, for tests.
#[cfg(any(test, feature = "testkit"))]
impl SplitRing {
    /// Writes descriptor `index` (masked).
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.desc.skip(self.slot(index) * Descriptor::SIZE).copy_from(&descriptor.to_bytes());
    }

    /// Writes available entry `at`.
    pub fn set_avail_entry(&self, at: u16, head: u16) {
        word16(&self.avail, ENTRIES + 2 * self.slot(at)).store(head.to_le(), Ordering::Relaxed);
    }

    /// Stores `avail.idx`, release.
    pub fn set_avail_idx(&self, idx: u16) {
        word16(&self.avail, INDEX).store(idx.to_le(), Ordering::Release);
    }

    /// Stores `avail.flags`.
    pub fn set_avail_flags(&self, flags: u16) {
        word16(&self.avail, FLAGS).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Stores `used_event`.
    pub fn set_used_event(&self, idx: u16) {
        let offset = ENTRIES + 2 * self.entries();
        word16(&self.avail, offset).store(idx.to_le(), Ordering::Relaxed);
    }

    /// `used.flags`.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        u16::from_le(word16(&self.used, FLAGS).load(Ordering::Relaxed))
    }

    /// `avail_event`.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        let offset = ENTRIES + 8 * self.entries();
        u16::from_le(word16(&self.used, offset).load(Ordering::Relaxed))
    }

    /// Used element `at`: id and length.
    #[must_use]
    pub fn used_entry(&self, at: u16) -> (u32, u32) {
        let offset = ENTRIES + 8 * self.slot(at);
        let load = |o| u32::from_le(word32(&self.used, o).load(Ordering::Relaxed));
        (load(offset), load(offset + 4))
    }
}

#[cfg(test)]
mod tests;
