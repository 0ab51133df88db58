//! From a descriptor chain to a bio, once (virtio 1.3, 5.2.6).
//!
//! Rules:
//! * R1 **Framing means nothing** (2.7.4.1). The first 16 readable bytes are the header, the last
//!   writable byte is the status, what remains is data, wherever descriptors begin and end.
//! * R2 **Once.** Header and segments are copied once (L2), then judged by the copy.
//! * R3 **Answer if you can.** Whoever left us a status byte gets a status: UNSUPP for what we do not
//!   know or did not negotiate, IOERR for what cannot be done. Only a chain without one, or a head
//!   that is busy, breaks the queue.
//! * R4 **All or nothing.** All segments of a discard are judged before the first one is carried out.
//! * R5 **As qemu-storage-daemon** where the specification is silent: a transfer of no bytes within
//!   the disk is OK and touches nothing; lengths and positions are multiples of the logical block;
//!   GET_ID fills at most 20 bytes and leaves the rest of a longer buffer alone; a readable buffer
//!   of an IN and a writable one of an OUT (beyond the status byte) are ignored; a range of no
//!   sectors is skipped. Unlike it, several segments are taken, and a malformed request is
//!   answered instead of ending the connection.
//! * R6 **Quick where it is usual.** A sound transfer in a plain chain is accepted in few steps, by the
//!   same rules; whatever else is plain is judged as any other (a property test holds both ways
//!   against each other).

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::Disk;
use super::config_space::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS};
use super::slots::{MAX_RANGES, MAX_SEGMENTS, Slots};
use super::virtqueue::{Chain, ChainError, MAX_PIECES, Plain, VirtQueue};
use crate::block::{Bio, Class, Op, SECTOR_SIZE, Sector, SectorRange, Status, Tag};
use crate::image::BufferMask;
use crate::sys::guest::{GuestBuf, GuestMemory};
use crate::sys::ring::read_words;

/// Most bytes of one transfer: what Linux moves in one system call (MAX_RW_COUNT).
pub const MAX_BYTES: u64 = 0x7fff_f000;

const _: () = assert!(MAX_PIECES > 16 + MAX_SEGMENTS);

/// What became of a chain. In every case but [`Broken`](Parsed::Broken) the head's slot is busy
/// until [`Slots::finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Parsed {
    /// Work for the core; data or ranges are in the slot.
    Bio(Bio),
    /// GET_ID: the answer is in the guest's buffers. To be finished with OK.
    GetId,
    /// Nothing to do (no bytes, no sectors, or an ignored discard). To be finished with OK.
    Nothing,
    /// To be finished with the reject's status.
    Reject(Reject),
    /// There is no way to answer: the queue is broken. The slot was not touched.
    Broken(Breakage),
}

impl Parsed {
    /// The status to finish the head with at once; `None` for a bio and for a broken chain.
    #[must_use]
    pub const fn answer(&self) -> Option<Status> {
        match self {
            Parsed::GetId | Parsed::Nothing => Some(Status::Ok),
            Parsed::Reject(reject) => Some(reject.status()),
            Parsed::Bio(_) | Parsed::Broken(_) => None,
        }
    }
}

/// A request that is answered without being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// VIRTIO_BLK_S_UNSUPP: unknown, or not negotiated.
    Unsupp,
    /// VIRTIO_BLK_S_IOERR: known, and cannot be done.
    IoErr,
}

impl Reject {
    /// The status byte.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Reject::Unsupp => Status::Unsupp,
            Reject::IoErr => Status::IoErr,
        }
    }
}

/// Why a chain cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breakage {
    /// The chain could not be walked to its end, or its status byte is not guest memory.
    #[error("malformed descriptor chain: {0}")]
    Chain(ChainError),
    /// No byte of the chain is writable.
    #[error("a request without a writable status byte")]
    NoStatus,
    /// The head is in flight (virtio 1.3, 2.7.13: a driver must not reuse it).
    #[error("a head that is in flight was made available again")]
    HeadBusy,
}

/// What requests are held against: the disk, and what the driver negotiated. Fixed while a queue
/// runs, but for the disk's size.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    capacity: u64,
    block: u32,
    read_only: bool,
    flush: bool,
    discard: bool,
    write_zeroes: bool,
    unmap: bool,
    /// Buffers that the image does not take as they are make a bio travel alone.
    buffers: BufferMask,
    serial: [u8; 20],
}

impl Rules {
    /// The rules of this disk for a driver that accepted these feature bits.
    #[must_use]
    pub fn new(disk: &Disk, features: u64) -> Rules {
        let geometry = disk.image.geometry();
        let has = |bit: u32| features & 1 << bit != 0;
        Rules {
            capacity: disk.config.capacity(),
            block: geometry.logical_block,
            read_only: disk.image.traits().read_only,
            flush: has(VIRTIO_BLK_F_FLUSH),
            discard: has(VIRTIO_BLK_F_DISCARD),
            write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
            unmap: disk.unmap,
            buffers: disk.image.buffer_mask(),
            serial: disk.serial,
        }
    }

    /// The disk has so many sectors of 512 bytes from now on.
    #[inline]
    pub const fn set_capacity(&mut self, sectors: u64) {
        self.capacity = sectors;
    }

    /// Whether a write must be durable when it is answered (virtio 1.3, 5.2.6.2): the cache is in
    /// write-through mode, or the driver cannot flush.
    #[must_use]
    pub const fn write_through(&self, writeback: bool) -> bool {
        !(writeback && self.flush)
    }

    /// How many buffers a bio brings, and whether it has to travel alone because of them. There are
    /// at most [`MAX_SEGMENTS`].
    #[inline(always)] // three answers, all of them at hand
    fn shape(&self, data: &[GuestBuf]) -> (u16, bool) {
        (u16::try_from(data.len()).unwrap_or(u16::MAX), !self.buffers.takes(data))
    }

    #[inline(always)] // as shape()
    fn transfer(&self, sector: u64, bytes: u64) -> Result<SectorRange, Reject> {
        if bytes > MAX_BYTES || !bytes.is_multiple_of(SECTOR_SIZE) {
            return Err(Reject::IoErr);
        }
        self.range(sector, bytes / SECTOR_SIZE)
    }

    #[inline(always)] // as shape()
    fn range(&self, sector: u64, sectors: u64) -> Result<SectorRange, Reject> {
        SectorRange::new(Sector(sector), sectors, self.capacity)
            .filter(|r| r.is_aligned(self.block))
            .ok_or(Reject::IoErr)
    }
}

/// The header, copied (virtio 1.3, 5.2.6: `struct virtio_blk_req`).
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u32,
    ioprio: u32,
    sector: u64,
}

impl Header {
    fn take(chain: &mut Chain) -> Option<Header> {
        chain.take_words().map(Header::from_words)
    }

    #[inline(always)]
    const fn from_words([first, sector]: [u64; 2]) -> Header {
        let (kind, ioprio) = halves(first);
        Header { kind, ioprio, sector }
    }
}

/// The low and the high half of a word.
#[allow(clippy::cast_possible_truncation, reason = "the halves of a 64-bit word")]
const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// A transfer for the core; its data is in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What is read or written: at least one sector.
    pub range: SectorRange,
    ioprio: u32,
    fua: bool,
    segments: u16,
    alone: bool,
}

impl Transfer {
    /// As a bio of this tag: a write, or a read.
    #[inline(always)] // what is known of the operation is not stored to be loaded again
    #[must_use]
    pub fn bio<const WRITE: bool>(self, tag: Tag) -> Bio {
        let Transfer { range, ioprio, fua, segments, alone } = self;
        let op = if WRITE { Op::Write(range) } else { Op::Read(range) };
        Bio { tag, op, fua, class: class_of(ioprio), segments, alone }
    }
}

/// Accepts a sound transfer in a plain chain, in few steps and by the rules of [`parse`] (R6): what
/// `parse` would answer with as a [`Parsed::Bio`]. `None` for whatever is not that: nothing was
/// done, and it is to be [`fetch`]ed. With `WRITE` the data is not `to_guest`.
#[inline(always)] // its answer is large, and known where it is made
#[must_use]
pub fn accept<const WRITE: bool>(
    plain: Plain,
    tag: Tag,
    rules: &Rules,
    writeback: bool,
    slots: &mut Slots,
) -> Option<Transfer> {
    let Header { kind, ioprio, sector } = Header::from_words(read_words(plain.header)?);
    let usual = if WRITE { VIRTIO_BLK_T_OUT } else { VIRTIO_BLK_T_IN };
    if kind != usual || WRITE && rules.read_only {
        return None;
    }
    let range = rules.transfer(sector, plain.data.len() as u64).ok()?;
    if !slots.claim_with(tag, plain.status, plain.data, !WRITE) {
        return None;
    }
    let (segments, alone) = rules.shape(&[plain.data]);
    let fua = WRITE && rules.write_through(writeback);
    Some(Transfer { range, ioprio, fua, segments, alone })
}

/// Fetches the chain at `head` and judges it: [`VirtQueue::chain`], then [`parse`].
#[inline(never)]
pub fn fetch(
    queue: &VirtQueue,
    memory: &GuestMemory,
    head: Tag,
    chain: &mut Chain,
    rules: &Rules,
    writeback: bool,
    slots: &mut Slots,
) -> Parsed {
    match queue.chain(memory, head, chain) {
        Ok(()) => parse(chain, head, rules, writeback, slots),
        Err(e) => Parsed::Broken(Breakage::Chain(e)),
    }
}

/// Judges the chain of `tag` and fills the slot. The chain is used up.
///
/// `writeback` is [`Disk::writeback`](super::Disk) at this moment. The caller has asked
/// [`Slots::can_accept`] before it popped the head.
#[inline]
pub fn parse(
    chain: &mut Chain,
    tag: Tag,
    rules: &Rules,
    writeback: bool,
    slots: &mut Slots,
) -> Parsed {
    let Some(status) = chain.take_status() else {
        return Parsed::Broken(chain.defect().map_or(Breakage::NoStatus, Breakage::Chain));
    };
    if slots.is_busy(tag) {
        return Parsed::Broken(Breakage::HeadBusy);
    }
    slots.claim(tag, status);
    if chain.defect().is_some() {
        return Parsed::Reject(Reject::IoErr);
    }
    judge(chain, tag, rules, writeback, slots)
}

/// A bio of this tag. Inlined for good: built in one place and copied, an `Op` costs more than the
/// whole verdict (its bytes are stored one by one and loaded as a block, which no store buffer
/// forwards).
#[inline(always)]
fn bio(
    tag: Tag,
    header: &Header,
    rules: &Rules,
    writeback: bool,
    op: Op,
    (segments, alone): (u16, bool),
) -> Parsed {
    let fua = op.is_write() && rules.write_through(writeback);
    Parsed::Bio(Bio { tag, op, fua, class: class_of(header.ioprio), segments, alone })
}

#[inline(always)] // one caller, and its answer is large
fn judge(chain: &mut Chain, tag: Tag, rules: &Rules, writeback: bool, slots: &mut Slots) -> Parsed {
    let Some(header) = Header::take(chain) else { return Parsed::Reject(Reject::IoErr) };
    match header.kind {
        VIRTIO_BLK_T_IN => match read(chain, tag, &header, rules, slots) {
            Ok(range) if range.is_empty() => Parsed::Nothing,
            Ok(range) => {
                let shape = rules.shape(chain.writable());
                bio(tag, &header, rules, writeback, Op::Read(range), shape)
            }
            Err(reject) => Parsed::Reject(reject),
        },
        VIRTIO_BLK_T_OUT => match write(chain, tag, &header, rules, slots) {
            Ok(range) if range.is_empty() => Parsed::Nothing,
            Ok(range) => {
                let shape = rules.shape(chain.readable());
                bio(tag, &header, rules, writeback, Op::Write(range), shape)
            }
            Err(reject) => Parsed::Reject(reject),
        },
        VIRTIO_BLK_T_FLUSH => bio(tag, &header, rules, writeback, Op::Flush, (0, false)),
        VIRTIO_BLK_T_GET_ID => {
            get_id(chain, tag, &rules.serial, slots);
            Parsed::GetId
        }
        VIRTIO_BLK_T_DISCARD if rules.discard => {
            match segments(chain, tag, rules, MAX_DISCARD_SECTORS, 0, slots) {
                Ok((Some(range), _)) if rules.unmap => {
                    let shape = (0, slots.has_more_ranges(tag));
                    bio(tag, &header, rules, writeback, Op::Discard(range), shape)
                }
                Ok(_) => Parsed::Nothing,
                Err(reject) => Parsed::Reject(reject),
            }
        }
        VIRTIO_BLK_T_WRITE_ZEROES if rules.write_zeroes => {
            let known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            match segments(chain, tag, rules, MAX_WRITE_ZEROES_SECTORS, known, slots) {
                Ok((Some(range), common)) => {
                    let unmap = rules.unmap && common & known != 0;
                    let shape = (0, slots.has_more_ranges(tag));
                    bio(tag, &header, rules, writeback, Op::WriteZeroes { range, unmap }, shape)
                }
                Ok((None, _)) => Parsed::Nothing,
                Err(reject) => Parsed::Reject(reject),
            }
        }
        _ => Parsed::Reject(Reject::Unsupp),
    }
}

/// IN: what is writable before the status byte is filled.
#[inline(always)] // as judge()
fn read(
    chain: &Chain,
    tag: Tag,
    header: &Header,
    rules: &Rules,
    slots: &mut Slots,
) -> Result<SectorRange, Reject> {
    let bytes = chain.writable_bytes();
    let range = rules.transfer(header.sector, bytes)?;
    load(slots, tag, chain.writable(), bytes, true)?;
    Ok(range)
}

/// OUT: what is readable after the header is written.
#[inline(always)] // as judge()
fn write(
    chain: &Chain,
    tag: Tag,
    header: &Header,
    rules: &Rules,
    slots: &mut Slots,
) -> Result<SectorRange, Reject> {
    if rules.read_only {
        return Err(Reject::IoErr);
    }
    let bytes = chain.readable_bytes();
    let range = rules.transfer(header.sector, bytes)?;
    load(slots, tag, chain.readable(), bytes, false)?;
    Ok(range)
}

#[inline(always)]
fn load(
    slots: &mut Slots,
    tag: Tag,
    data: &[GuestBuf],
    bytes: u64,
    to_guest: bool,
) -> Result<(), Reject> {
    let bytes = u32::try_from(bytes).map_err(|_| Reject::IoErr)?;
    slots.set_data(tag, data, bytes, to_guest).map_err(|_| Reject::IoErr)
}

/// Fills the guest's buffers with the serial: at most 20 bytes (R5).
fn get_id(chain: &Chain, tag: Tag, serial: &[u8; 20], slots: &mut Slots) {
    const _: () = assert!(VIRTIO_BLK_ID_BYTES == 20);
    let mut rest = &serial[..];
    for piece in chain.writable() {
        let n = piece.copy_from(rest);
        rest = &rest[n..];
    }
    slots.set_written(tag, 20 - u32::try_from(rest.len()).unwrap_or(20));
}

/// Judges all segments (virtio 1.3, 5.2.6: `struct virtio_blk_discard_write_zeroes`), then has their
/// ranges in the slot (R4). Returns the first range that is not empty, and the flags that all of
/// them have: UNMAP is a permission, and what one segment does not permit is not done to the
/// others either.
fn segments(
    chain: &mut Chain,
    tag: Tag,
    rules: &Rules,
    max_sectors: u32,
    known: u32,
    slots: &mut Slots,
) -> Result<(Option<SectorRange>, u32), Reject> {
    if rules.read_only {
        return Err(Reject::IoErr);
    }
    let bytes = chain.readable_bytes();
    let count = bytes / 16;
    if count == 0 || !bytes.is_multiple_of(16) || count > MAX_RANGES as u64 {
        return Err(Reject::IoErr);
    }
    let mut common = known;
    while let Some([sector, second]) = chain.take_words() {
        let (sectors, flags) = halves(second);
        if flags & !known != 0 {
            return Err(Reject::Unsupp);
        }
        if sectors > max_sectors {
            return Err(Reject::IoErr);
        }
        let range = rules.range(sector, u64::from(sectors))?;
        if !range.is_empty() {
            common &= flags;
            slots.add_range(tag, range).map_err(|_| Reject::IoErr)?;
        }
    }
    Ok((slots.range(tag), common))
}

/// The priority class of a guest's hint, laid out as Linux's `ioprio` (class in bits 13 to 15).
#[inline(always)]
fn class_of(ioprio: u32) -> Class {
    use Class::{BestEffort, Idle, RealTime};
    // A static: a constant would be built on the stack for each look.
    static CLASSES: [Class; 8] =
        [BestEffort, RealTime, BestEffort, Idle, BestEffort, BestEffort, BestEffort, BestEffort];
    CLASSES[(ioprio >> 13 & 7) as usize]
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
