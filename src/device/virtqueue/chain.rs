//! Descriptor chains: copied once, translated, checked, bounded (virtio 1.3, 2.7.4 and 2.7.5).
//!
//! Rules:
//! * C1 **Once.** Each descriptor is copied exactly once (L2). What the guest writes into the tables
//!   afterwards changes nothing.
//! * C2 **Bounded.** At most `size` descriptors of the ring's own table and at most
//!   `max(size,` [`MAX_INDIRECT`]`)` of one indirect table are visited. A loop is a chain that is
//!   too long; no visited set is needed.
//! * C3 **Answerable or not.** The last byte of the last writable buffer is where a block device
//!   answers. A defect that still lets the whole chain be walked is remembered in
//!   [`Chain::defect`] and the walk goes on, so that the answer can be given; any other ends the
//!   walk.
//! * C4 **Form.** Direct descriptors may be followed by one indirect one, which must be the last
//!   (2.7.5.3.1: NEXT and INDIRECT exclude each other, tables do not nest). The WRITE flag of a
//!   descriptor that refers to a table means nothing (2.7.5.3.2). A table may have any alignment and
//!   be longer than the queue: Windows' driver sends 516 descriptors on a queue of 128.
//! * C5 **Buffers of no bytes** carry nothing, and their address is not looked at.
//!
//! The usual chain is not walked (`plain`).

use crate::block::Tag;
use crate::sys::guest::{BadAddress, GuestBuf, GuestMemory};
use crate::sys::ring::{Descriptor, SplitRing, copy_once, read_descriptor, read_words};

pub(super) mod plain;

pub use plain::{Glance, Plain};

/// How many descriptors of one indirect table are visited at least (more when the queue is longer).
pub const MAX_INDIRECT: u16 = 1024;

/// How many host pieces a [`Chain`] has room for: 514 of data, a header of 16 bytes in as many
/// pieces, a status byte of its own, and one to spare.
pub const MAX_PIECES: usize = 532;

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More descriptors than a chain can have: a loop, or a chain longer than the bound of C2.
    #[error("the chain is too long or a loop")]
    TooLong,
    /// `next` lies beyond the table.
    #[error("a descriptor's next index lies beyond its table")]
    NextOutOfRange,
    /// An indirect descriptor, though the feature was not negotiated.
    #[error("an indirect descriptor without VIRTIO_F_INDIRECT_DESC")]
    IndirectNotNegotiated,
    /// INDIRECT and NEXT in one descriptor.
    #[error("a descriptor has both INDIRECT and NEXT")]
    IndirectWithNext,
    /// An indirect descriptor within an indirect table.
    #[error("an indirect table refers to another one")]
    NestedIndirect,
    /// An indirect table of no bytes, or not a multiple of 16.
    #[error("an indirect table's length is zero or not a multiple of 16")]
    IndirectLength,
    /// An indirect table that is not wholly guest memory.
    #[error("an indirect table lies outside of guest memory")]
    IndirectAddress,
    /// A chain without a single byte.
    #[error("the chain has no buffers")]
    Empty,
    /// A buffer that is not wholly guest memory (answerable).
    #[error("a buffer lies outside of guest memory")]
    BadAddress,
    /// A readable buffer after a writable one (answerable; virtio 1.3, 2.7.4.2).
    #[error("a readable buffer follows a writable one")]
    ReadableAfterWritable,
    /// More host pieces than [`MAX_PIECES`] (answerable).
    #[error("the chain has more segments than the device takes")]
    TooManyPieces,
}

/// One chain as host buffers: first those the device reads, then those it writes.
///
/// A scratch value: made once per thread, filled again and again. It borrows nothing; the buffers
/// in it are valid as long as the memory generation that they were read with (S1).
#[derive(Debug)]
pub struct Chain {
    pieces: Box<[GuestBuf]>,
    /// Readable pieces that were consumed ([`Chain::take_readable`]).
    first: usize,
    /// Where the writable pieces start.
    readable: usize,
    len: usize,
    readable_bytes: u64,
    writable_bytes: u64,
    /// The last writable piece; empty when there is none or its address was bad.
    last: GuestBuf,
    defect: Option<ChainError>,
    /// The region of memory that the newest buffer lay in: the next one is looked for there first.
    near: usize,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new()
    }
}

impl Chain {
    /// An empty scratch. The only allocation that chains ever cause.
    #[must_use]
    pub fn new() -> Chain {
        Chain {
            pieces: vec![GuestBuf::EMPTY; MAX_PIECES].into(),
            first: 0,
            readable: 0,
            len: 0,
            readable_bytes: 0,
            writable_bytes: 0,
            last: GuestBuf::EMPTY,
            defect: None,
            near: 0,
        }
    }

    /// A defect that leaves the chain answerable (C3). The pieces of such a chain mean nothing.
    #[must_use]
    pub const fn defect(&self) -> Option<ChainError> {
        self.defect
    }

    /// What is left for the device to read.
    #[must_use]
    #[inline]
    pub fn readable(&self) -> &[GuestBuf] {
        &self.pieces[self.first..self.readable]
    }

    /// Bytes left for the device to read.
    #[must_use]
    pub const fn readable_bytes(&self) -> u64 {
        self.readable_bytes
    }

    /// What the device may write.
    #[must_use]
    #[inline]
    pub fn writable(&self) -> &[GuestBuf] {
        &self.pieces[self.readable..self.len]
    }

    /// Bytes that the device may write.
    #[must_use]
    pub const fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }

    /// Moves the next readable bytes, however they are cut, into `dst`; each is read once. `false`
    /// (and nothing is moved) when fewer are left, or the chain has a defect.
    #[inline]
    pub fn take_readable(&mut self, dst: &mut [u8]) -> bool {
        if self.readable_bytes < dst.len() as u64 || self.defect.is_some() {
            return false;
        }
        let mut done = 0;
        while done < dst.len() {
            let piece = &mut self.pieces[self.first];
            let n = copy_once(*piece, &mut dst[done..]);
            done += n;
            if n == piece.len() {
                self.first += 1;
            } else {
                *piece = piece.skip(n);
            }
        }
        self.readable_bytes -= done as u64;
        true
    }

    /// Moves the next 16 readable bytes, however they are cut, into two little-endian words; each
    /// byte is read once. `None` (and nothing is moved) as for
    /// [`take_readable`](Chain::take_readable).
    #[inline]
    pub fn take_words(&mut self) -> Option<[u64; 2]> {
        match self.readable().first() {
            // As every driver sends it: no way over the stack.
            Some(piece) if piece.len() == 16 && self.defect.is_none() => {
                let words = read_words(*piece);
                self.first += 1;
                self.readable_bytes -= 16;
                words
            }
            _ => self.take_scattered_words(),
        }
    }

    #[cold]
    fn take_scattered_words(&mut self) -> Option<[u64; 2]> {
        let (mut low, mut high) = ([0; 8], [0; 8]);
        let enough = self.readable_bytes >= 16;
        (enough && self.take_readable(&mut low) && self.take_readable(&mut high))
            .then(|| [u64::from_le_bytes(low), u64::from_le_bytes(high)])
    }

    /// Takes the last writable byte away from the buffers; `None` when the chain has none, or it is
    /// not guest memory.
    #[inline]
    pub fn take_status(&mut self) -> Option<GuestBuf> {
        let before = self.last.len().checked_sub(1)?;
        let status = self.last.skip(before);
        self.last = GuestBuf::EMPTY;
        self.writable_bytes -= 1;
        if self.defect.is_none() {
            // The last piece of a sound chain with something writable is the last writable one.
            if before == 0 {
                self.len -= 1;
            } else {
                self.pieces[self.len - 1] = self.pieces[self.len - 1].take(before);
            }
        }
        Some(status)
    }

    /// Fills the chain from the ring: see [`VirtQueue::chain`](super::VirtQueue::chain).
    pub(super) fn read(
        &mut self,
        ring: &SplitRing,
        indirect: bool,
        memory: &GuestMemory,
        head: Tag,
    ) -> Result<(), ChainError> {
        self.first = 0;
        self.readable = 0;
        self.len = 0;
        self.readable_bytes = 0;
        self.writable_bytes = 0;
        self.last = GuestBuf::EMPTY;
        self.defect = None;
        let size = ring.size();
        let table = |i| (i < size).then(|| ring.descriptor(i));
        if let Some(d) = self.walk(memory, head.0, size, table)? {
            if !indirect {
                return Err(ChainError::IndirectNotNegotiated);
            }
            self.read_indirect(memory, d, size.max(MAX_INDIRECT))?;
        }
        if self.readable_bytes == 0 && self.writable_bytes == 0 {
            return Err(ChainError::Empty);
        }
        Ok(())
    }

    /// Follows a chain through one table, adding its buffers, until it ends or an indirect
    /// descriptor turns up, which is the result.
    #[inline(always)] // once for each kind of table, and each with its own bounds
    fn walk(
        &mut self,
        memory: &GuestMemory,
        first: u16,
        limit: u16,
        table: impl Fn(u16) -> Option<Descriptor>,
    ) -> Result<Option<Descriptor>, ChainError> {
        let mut index = first;
        for _ in 0..limit {
            let d = table(index).ok_or(ChainError::NextOutOfRange)?;
            if d.is_indirect() {
                return Ok(Some(d));
            }
            self.add(memory, d);
            if !d.has_next() {
                return Ok(None);
            }
            index = d.next;
        }
        Err(ChainError::TooLong)
    }

    #[inline]
    fn read_indirect(
        &mut self,
        memory: &GuestMemory,
        d: Descriptor,
        limit: u16,
    ) -> Result<(), ChainError> {
        if d.has_next() {
            return Err(ChainError::IndirectWithNext);
        }
        if d.len == 0 || !(d.len as usize).is_multiple_of(Descriptor::SIZE) {
            return Err(ChainError::IndirectLength);
        }
        let nested = match memory.slice_near(&mut self.near, d.addr, u64::from(d.len)) {
            Ok(table) => self.walk(memory, 0, limit, |i| read_descriptor(table, i))?,
            Err(BadAddress) => {
                // Over a border of adjoining regions, or outside.
                memory
                    .translate(d.addr, u64::from(d.len), |_| true)
                    .map_err(|BadAddress| ChainError::IndirectAddress)?;
                self.walk(memory, 0, limit, |i| read_scattered(memory, d, i))?
            }
        };
        if nested.is_some() { Err(ChainError::NestedIndirect) } else { Ok(()) }
    }

    #[inline(always)] // else descriptor and counts go through memory for each buffer
    fn add(&mut self, memory: &GuestMemory, d: Descriptor) {
        if d.len == 0 {
            return;
        }
        let len = u64::from(d.len);
        let writable = d.is_writable();
        // C2: fewer than 2^17 buffers of less than 2^32 bytes each.
        if writable {
            self.writable_bytes = self.writable_bytes.wrapping_add(len);
        } else {
            self.readable_bytes = self.readable_bytes.wrapping_add(len);
            if self.writable_bytes > 0 {
                self.defect.get_or_insert(ChainError::ReadableAfterWritable);
            }
        }
        match memory.slice_near(&mut self.near, d.addr, len) {
            Ok(piece) => self.push(piece, writable),
            Err(BadAddress) => self.add_scattered(memory, d.addr, len, writable),
        }
    }

    /// A buffer that runs over a border of adjoining regions, or lies outside.
    #[cold]
    fn add_scattered(&mut self, memory: &GuestMemory, gpa: u64, len: u64, writable: bool) {
        let pieces = memory.translate(gpa, len, |piece| {
            self.push(piece, writable);
            true
        });
        if pieces == Err(BadAddress) {
            self.defect.get_or_insert(ChainError::BadAddress);
            if writable {
                self.last = GuestBuf::EMPTY;
            }
        }
    }

    #[inline]
    fn push(&mut self, piece: GuestBuf, writable: bool) {
        if writable {
            self.last = piece;
        }
        let Some(room) = self.pieces.get_mut(self.len) else {
            self.defect.get_or_insert(ChainError::TooManyPieces);
            return;
        };
        *room = piece;
        self.len += 1;
        if !writable {
            self.readable = self.len;
        }
    }
}

/// Copies descriptor `index` of the table that `d` refers to, which runs over a border of regions.
fn read_scattered(memory: &GuestMemory, d: Descriptor, index: u16) -> Option<Descriptor> {
    let offset = u64::from(index) * Descriptor::SIZE as u64;
    if offset >= u64::from(d.len) {
        return None;
    }
    let mut bytes = [0; Descriptor::SIZE];
    let mut done = 0;
    let read = memory.translate(d.addr + offset, Descriptor::SIZE as u64, |piece| {
        done += copy_once(piece, &mut bytes[done..]);
        true
    });
    read.ok().map(|()| Descriptor::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
