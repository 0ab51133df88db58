//! What a disk's content lives in: one shared handle per image, one channel per queue thread.
//!
//! [`Image`] knows the geometry and opens channels; [`Channel`] moves data and is owned by one
//! thread (L1). Both are `dyn`: the set of image types is open and chosen at start, and a virtual
//! call costs nothing next to a system call. [`open`] chooses the type: [`null`] or [`raw`].
//!
//! Laws of the room:
//! * An operation is accepted (`Ok`) and then completes exactly once (unless it was over at once and
//!   its caller was told so: [`Channel::begin`]), or it is refused (`Busy`)
//!   and nothing has happened. A refusal is back-pressure, not an error (L5).
//! * A completion's outcome is the kernel's own answer (L10). Bytes past the end of the image read
//!   as zeroes; nothing else is invented.
//! * What the kernel may touch stays where it is until the completion: the guest's memory, which the
//!   caller keeps (slots do), and bounce buffers, which the channel keeps; the ring keeps both
//!   mapped (S3). The vector `bufs` itself is read when the ring is submitted and not later.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::block::Outcome;
use crate::sys::guest::GuestBuf;
use crate::sys::token::IoKey;
use crate::sys::uring::Ring;

pub mod null;
mod options;
pub mod raw;
mod resize;

pub use options::{
    CacheMode, MAX_BLOCK_SIZE, OpenError, OpenOptions, UnknownCacheMode, parse_size,
};
pub use resize::ResizeError;

/// Opens what `spec` names: `null:SIZE` (with K, M, G or T) is a null image, anything else the path
/// of a raw file or block device. A file whose name begins with `null:` is `./null:...`.
///
/// # Errors
/// [`OpenError`]: one line with the cause and the remedy.
pub fn open(spec: &str, options: &OpenOptions) -> Result<Arc<dyn Image>, OpenError> {
    match spec.strip_prefix("null:") {
        Some(size) => Ok(Arc::new(null::NullImage::open(size, options)?)),
        None => Ok(Arc::new(raw::RawImage::open(Path::new(spec), options)?)),
    }
}

/// Size and block sizes of an image. All block sizes are powers of two, at least 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Capacity in sectors of 512 bytes: the image's length, rounded up to a logical block.
    pub capacity: u64,
    /// Smallest unit of a transfer, in bytes (virtio `blk_size`).
    pub logical_block: u32,
    /// Unit in which the storage works best, in bytes (virtio `physical_block_exp`).
    pub physical_block: u32,
    /// Granularity of a discard, in bytes (virtio `discard_sector_alignment`).
    pub discard_granularity: u32,
}

/// How an image may be used by the device in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Writes, discards and zeroes are refused.
    pub read_only: bool,
    /// A flush has nothing to do (null image, `--cache=unsafe`).
    pub flush_is_noop: bool,
    /// Nobody else can write the image while we hold it, so a flush with nothing newer than the
    /// last good sync may be answered without a sync.
    pub exclusive: bool,
    /// A write with `dsync` reports its own failure and nobody else's. Not so with the page cache:
    /// Linux reports a failed writeback once per open file, so of two durable writes in flight one
    /// may be told of the other's failure (errseq_t). There only a sync, one at a time, can tell.
    pub dsync: bool,
}

/// What an image asks of each buffer that it is to take as it is. Buffers that do not comply are
/// served all the same, at the price of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferMask {
    /// Bits that are 0 in the host address.
    pub addr: usize,
    /// Bits that are 0 in the length.
    pub len: usize,
}

impl BufferMask {
    /// Whether all buffers comply.
    #[must_use]
    #[inline]
    pub fn takes(self, bufs: &[GuestBuf]) -> bool {
        if self == BufferMask::default() {
            return true;
        }
        let odd = bufs
            .iter()
            .fold(0, |odd, b| odd | (b.addr().addr() & self.addr) | (b.len() & self.len));
        odd == 0
    }
}

/// What an operation asks of the image. Offsets and lengths are in bytes and lie within capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Fill `bufs` from `offset`.
    Read {
        /// Byte offset in the image.
        offset: u64,
    },
    /// Write `bufs` at `offset`; with `dsync` the completion means durable (RWF_DSYNC).
    Write {
        /// Byte offset in the image.
        offset: u64,
        /// Durable at completion.
        dsync: bool,
    },
    /// Make every completed write durable (fdatasync).
    Sync,
    /// The range's content no longer matters.
    Discard {
        /// Byte offset in the image.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Byte offset in the image.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The space may be given back.
        unmap: bool,
    },
}

/// One operation for a channel.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// Comes back with the completion.
    pub key: IoKey,
    /// What to do.
    pub verb: Verb,
    /// Where the data is or goes; empty for `Sync`, `Discard`, `WriteZeroes`. The slice itself
    /// (the vector, not only the memory) stays in place until the ring is submitted.
    pub bufs: &'a [GuestBuf],
    /// Sum of the buffers' lengths, in bytes.
    pub bytes: u32,
}

/// The channel cannot take the operation now; nothing has happened, a completion will make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What became of an operation that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It completes in one of the ways of [`Channel`].
    OnItsWay,
    /// It was a read or a write, and all of it is done: nothing completes any more.
    Done,
}

/// A finished operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoDone {
    /// The key it was submitted with.
    pub key: IoKey,
    /// How it ended.
    pub outcome: Outcome,
}

/// The shared handle of an image.
pub trait Image: Send + Sync {
    /// Size and block sizes.
    fn geometry(&self) -> Geometry;

    /// How the image may be used.
    fn traits(&self) -> Traits;

    /// Whether it lies on something that has to seek (Linux: `queue/rotational`), as far as the
    /// kernel tells.
    fn is_rotational(&self) -> bool {
        false
    }

    /// Whether reads and writes are mostly done when [`Channel::submit`] returns, by the thread itself.
    fn is_inline(&self) -> bool {
        false
    }

    /// Whether a thread that serves it is to register guest memory with its ring.
    fn registers_buffers(&self) -> bool {
        false
    }

    /// Which buffers it takes as they are; any, unless it says otherwise.
    fn buffer_mask(&self) -> BufferMask {
        BufferMask::default()
    }

    /// A channel for the calling thread, whose completions arrive on `ring`. Tokens of the
    /// channel's own carry `lane`, by which the thread knows its channels apart.
    ///
    /// # Errors
    /// What the kernel answered to registering the file or allocating buffers.
    fn open_channel(&self, ring: &mut Ring, lane: u16) -> io::Result<Box<dyn Channel>>;

    /// Makes every completed write durable, blocking. For control threads only.
    ///
    /// # Errors
    /// What fdatasync answered.
    fn sync(&self) -> io::Result<()>;

    /// Asks the storage how long it is now and goes by that from now on, blocking; the geometry
    /// with the new capacity, in which nothing else is new. For control threads, one at a time.
    ///
    /// Operations in flight may still reach beyond a new, nearer end: a write is carried out, which
    /// makes a file longer again; a read fails.
    ///
    /// # Errors
    /// [`ResizeError`]; the size in force is the one from before.
    fn remeasure(&self) -> Result<Geometry, ResizeError> {
        Ok(self.geometry())
    }

    /// Makes the image `bytes` bytes long, blocking; what is new reads as zeroes, and what is cut
    /// off is lost. It is in force with the next [`remeasure`](Image::remeasure). For control
    /// threads, one at a time; when it shrinks, nothing may be in flight beyond the new end.
    ///
    /// # Errors
    /// [`ResizeError`]; nothing has changed.
    fn set_len(&self, bytes: u64) -> Result<(), ResizeError> {
        let _ = bytes;
        Err(ResizeError::NotOurs("its size is fixed: nothing else can be given"))
    }
}

/// One thread's way into an image.
///
/// Completions come in one of three ways: through the ring with the bio's own token (the owner of
/// the ring asks [`finish`](Channel::finish) what the answer means), through the ring with a token
/// of the channel ([`on_channel_cqe`](Channel::on_channel_cqe)), or at once
/// ([`poll_done`](Channel::poll_done)).
pub trait Channel {
    /// Starts `io`, or refuses it.
    ///
    /// # Errors
    /// [`Busy`] when the ring or the bounce pool is full.
    fn submit(&mut self, ring: &mut Ring, io: &Io<'_>) -> Result<(), Busy>;

    /// As [`submit`](Channel::submit), except that a read or write that is wholly done by then need
    /// not complete.
    ///
    /// # Errors
    /// As for [`submit`](Channel::submit).
    fn begin(&mut self, ring: &mut Ring, io: &Io<'_>) -> Result<Begun, Busy> {
        self.submit(ring, io).map(|()| Begun::OnItsWay)
    }

    /// The outcome of an operation whose completion carried `Token::Io` and the answer `res`.
    /// `io` is the operation as it was submitted (the caller rebuilds it); its `bufs` may be missing
    /// unless `res` is a count of fewer than `io.bytes` bytes.
    fn finish(&mut self, io: &Io<'_>, res: i32) -> Outcome;

    /// A completion with `Token::Channel`, its word `op`, and the answer `res`. `None` when the
    /// operation goes on: the channel started another step of it.
    fn on_channel_cqe(&mut self, ring: &mut Ring, op: u32, res: i32) -> Option<IoDone>;

    /// The next operation that finished without the ring.
    fn poll_done(&mut self) -> Option<IoDone>;

    /// Forgets kernel-side registrations. Called with nothing in flight.
    fn close(&mut self, ring: &mut Ring);
}
