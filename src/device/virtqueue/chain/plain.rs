//! The usual chain in few steps: a header, one buffer of data and a status byte, each in a
//! descriptor of its own, in the ring's own table or in an indirect one.
//!
//! Rules:
//! * P1 **The same chain.** What is found plain the walk would find to be sound, with the same
//!   header, data and status (a property test shows it). Whatever else it is, it is walked.
//! * P2 **Once** (C1). What was copied of a chain that is not plain is forgotten: the walk copies
//!   each descriptor itself, and nothing is judged by two copies.

use crate::block::Tag;
use crate::sys::guest::{GuestBuf, GuestMemory, Near};
use crate::sys::ring::{Descriptor, SplitRing, read_descriptor};

/// Bytes of the header (virtio 1.3, 5.2.6).
const HEADER: u32 = 16;

/// A plain chain.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// 16 bytes that the device reads.
    pub header: GuestBuf,
    /// At least one byte, fewer than 2^32.
    pub data: GuestBuf,
    /// One byte that the device writes.
    pub status: GuestBuf,
    /// The device writes the data; else it reads them.
    pub to_guest: bool,
}

/// The regions of one generation of memory in which chains are looked for: headers and status bytes
/// lie in one region mostly, data in one that may be another. What lies elsewhere is walked, and
/// looked for there next time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    heads: Near,
    data: Near,
}

impl Glance {
    /// Looks there from now on.
    #[cold]
    fn learn(&mut self, memory: &GuestMemory, heads: u64, data: u64) {
        self.heads = memory.region_of(heads).unwrap_or_default();
        self.data = memory.region_of(data).unwrap_or_default();
    }
}

/// See [`VirtQueue::plain`](super::super::VirtQueue::plain).
#[inline(always)] // one caller, and its answer is large
pub(in crate::device::virtqueue) fn plain(
    glance: &mut Glance,
    ring: &SplitRing,
    indirect: bool,
    memory: &GuestMemory,
    head: Tag,
) -> Option<Plain> {
    let mut table = ring.table();
    let mut header = ring.descriptor(head.0);
    if header.is_indirect() {
        if !indirect || header.has_next() || header.len != 3 * HEADER {
            return None;
        }
        match glance.heads.piece(header.addr, header.len.into()) {
            Some(found) => table = found,
            None => {
                glance.learn(memory, header.addr, header.addr);
                return None;
            }
        }
        header = read_descriptor(table, 0)?;
    } else if ring.size() < 3 {
        return None; // three of so few would be a loop
    }
    if !header.is_just(Descriptor::NEXT, HEADER) {
        return None;
    }
    let data = read_descriptor(table, header.next)?;
    let status = read_descriptor(table, data.next)?;
    let goes_on = data.flags & !Descriptor::WRITE == Descriptor::NEXT;
    if !goes_on || data.len == 0 || !status.is_just(Descriptor::WRITE, 1) {
        return None;
    }
    let to_guest = data.is_writable();
    if let Some(first) = glance.heads.piece(header.addr, HEADER.into())
        && let Some(last) = glance.heads.piece(status.addr, 1)
        && let Some(middle) = glance.data.piece(data.addr, data.len.into())
    {
        return Some(Plain { header: first, data: middle, status: last, to_guest });
    }
    glance.learn(memory, header.addr, data.addr);
    None
}
