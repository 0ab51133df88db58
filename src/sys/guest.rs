//! Guest memory of one generation: checked once, then plain host pointers.
//!
//! A generation is immutable. A change of the memory table makes the next generation, which shares
//! the mappings (`Arc<Region>`) that stay. Nothing is unmapped while a generation that names it is
//! alive, and a queue thread keeps its generation until its last completion (law L3).
#![allow(unsafe_code, reason = "this room is where host pointers are made and used")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::{FileOffset, MmapRegion};

use super::sigbus;

/// A piece of guest memory as a host address and a length, laid out as `struct iovec`.
///
/// Made only by [`GuestMemory::translate`] and [`GuestMemory::slice`], or from memory that the
/// process owns ([`GuestBuf::from_raw`]); see invariant S1 in [`crate::sys`].
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GuestBuf(libc::iovec);

// SAFETY: a GuestBuf is an address and a length. Using the memory behind it is guarded by S1 and
// S2, which hold on any thread: the mapping is process-wide and kept alive by the holder.
unsafe impl Send for GuestBuf {}
// SAFETY: as above; all accesses through a shared GuestBuf are raw (S2).
unsafe impl Sync for GuestBuf {}

impl std::fmt::Debug for GuestBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestBuf({:p}+{})", self.0.iov_base, self.0.iov_len)
    }
}

impl GuestBuf {
    /// A buffer of no bytes.
    pub const EMPTY: GuestBuf =
        GuestBuf(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });

    /// A buffer over memory that this process owns.
    ///
    /// # Safety
    /// `addr..addr + len` must stay valid for reads and writes, and be accessed only through raw
    /// pointers, for as long as the buffer (or a copy of it) is used.
    #[must_use]
    pub const unsafe fn from_raw(addr: *mut u8, len: usize) -> GuestBuf {
        GuestBuf(libc::iovec { iov_base: addr.cast(), iov_len: len })
    }

    /// Host address of the first byte.
    #[must_use]
    pub const fn addr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Length in bytes.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty buffer is not a case anybody asks for"
    )]
    pub const fn len(&self) -> usize {
        self.0.iov_len
    }

    /// The buffer without its first `n` bytes (`n <= len`, else empty).
    #[must_use]
    pub const fn skip(self, n: usize) -> GuestBuf {
        let n = if n > self.0.iov_len { self.0.iov_len } else { n };
        GuestBuf(libc::iovec {
            iov_base: self.addr().wrapping_add(n).cast(),
            iov_len: self.0.iov_len - n,
        })
    }

    /// The first `n` bytes of the buffer (`n <= len`, else all of it).
    #[must_use]
    pub const fn take(self, n: usize) -> GuestBuf {
        let n = if n > self.0.iov_len { self.0.iov_len } else { n };
        GuestBuf(libc::iovec { iov_base: self.0.iov_base, iov_len: n })
    }

    /// `len` bytes at `offset`; the caller has checked that they are inside.
    #[allow(clippy::cast_possible_truncation, reason = "64-bit hosts only; inside a mapping")]
    const fn piece(self, offset: u64, len: u64) -> GuestBuf {
        GuestBuf(libc::iovec {
            iov_base: self.addr().wrapping_add(offset as usize).cast(),
            iov_len: len as usize,
        })
    }

    /// Copies the buffer's first bytes into `dst`; returns how many (the smaller length).
    pub fn copy_to(&self, dst: &mut [u8]) -> usize {
        let n = dst.len().min(self.len());
        // SAFETY: S1 makes the source readable for `len` bytes; `dst` is ours and cannot overlap
        // guest memory, because no reference into guest memory exists (S2).
        unsafe { std::ptr::copy_nonoverlapping(self.addr(), dst.as_mut_ptr(), n) };
        n
    }

    /// Copies `src` into the buffer's first bytes; returns how many (the smaller length).
    pub fn copy_from(&self, src: &[u8]) -> usize {
        let n = src.len().min(self.len());
        // SAFETY: as in copy_to, with the direction turned round.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.addr(), n) };
        n
    }

    /// Writes zeroes over the whole buffer.
    pub fn zero(&self) {
        if self.len() > 0 {
            // SAFETY: S1 makes the buffer writable for `len` bytes.
            unsafe { std::ptr::write_bytes(self.addr(), 0, self.len()) };
        }
    }

    /// Writes one byte, volatile. Nothing happens when the buffer is empty.
    pub fn write_u8(&self, value: u8) {
        if self.len() > 0 {
            // SAFETY: S1, and the buffer has at least one byte.
            unsafe { std::ptr::write_volatile(self.addr(), value) };
        }
    }
}

/// One region of guest memory: a shared mapping of a file that the front-end sent.
#[derive(Debug)]
pub struct Region {
    gpa: u64,
    size: u64,
    uva: u64,
    /// Bytes of the mapping before the region's first: a mapping begins at a page of its file,
    /// and a region of a hugetlbfs file need not.
    skew: usize,
    /// Before the mapping, so that it goes first.
    guard: sigbus::Guard,
    mapping: MmapRegion,
}

/// Where a region lies in its file, in whole pages of that file.
#[derive(Debug, PartialEq, Eq)]
struct Placement {
    /// File offset of the mapping, a multiple of the page size.
    offset: u64,
    /// Bytes of the mapping before the region.
    skew: usize,
    /// Length of the mapping, a multiple of the page size.
    len: usize,
}

/// The smallest mapping of whole pages with `size` bytes at `offset` in it; `None` on overflow.
/// `page` is a power of two.
fn place(offset: u64, size: u64, page: u64) -> Option<Placement> {
    let skew = offset % page;
    let len = size.checked_add(skew)?.checked_next_multiple_of(page)?;
    Some(Placement {
        offset: offset - skew,
        skew: usize::try_from(skew).ok()?,
        len: usize::try_from(len).ok()?,
    })
}

impl Region {
    /// Maps `size` bytes of `file` at `offset`.
    ///
    /// `gpa` is where the guest sees the region, `uva` where the front-end does. The file must be
    /// long enough (checked; one that becomes shorter later is what [`sigbus`] is for),
    /// the sums must not overflow, and the offset must be a multiple of the system's page size.
    /// What is mapped is whole pages of the file, because a hugetlbfs mapping can only be made and
    /// removed in its (huge) pages.
    ///
    /// # Errors
    /// `InvalidInput` for an empty or overflowing region or a file that is too short; otherwise
    /// what fstat or mmap answered.
    pub fn map(gpa: u64, size: u64, uva: u64, file: File, offset: u64) -> io::Result<Region> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_string());
        if size == 0 || gpa.checked_add(size).is_none() || uva.checked_add(size).is_none() {
            return Err(invalid("the region is empty or its addresses overflow"));
        }
        let end =
            offset.checked_add(size).ok_or_else(|| invalid("the region's offset overflows"))?;
        let meta = file.metadata()?;
        if meta.len() < end {
            return Err(invalid("the region is longer than its file"));
        }
        if !offset.is_multiple_of(system_page_size()?) {
            return Err(invalid("the region's offset is not a multiple of the page size"));
        }
        let page = page_size_of(&file)?;
        let place = place(offset, size, page).ok_or_else(|| invalid("the region is too large"))?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, place.offset), place.len)
            .map_err(io::Error::other)?;
        let page = usize::try_from(page).map_err(io::Error::other)?;
        let start = mapping.as_ptr().expose_provenance();
        let guard = sigbus::Guard::new(start, place.len, page);
        Ok(Region { gpa, size, uva, skew: place.skew, guard, mapping })
    }

    /// Guest-physical address of the first byte.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Size in bytes, as the front-end gave it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The front-end's address of the first byte.
    #[must_use]
    pub fn uva(&self) -> u64 {
        self.uva
    }

    /// `len` bytes at `offset` within the region; the caller has checked both.
    fn buf(&self, offset: u64, len: u64) -> GuestBuf {
        debug_assert!(offset + len <= self.size);
        #[allow(clippy::cast_possible_truncation, reason = "64-bit hosts only; inside the mapping")]
        let (offset, len) = (offset as usize, len as usize);
        // SAFETY: the mapping holds `skew + size` bytes and lives as long as this Region, which the
        // holder of the buffer keeps (S1).
        unsafe { GuestBuf::from_raw(self.mapping.as_ptr().wrapping_add(self.skew + offset), len) }
    }
}

/// Page size of the file behind a mapping: the huge page size on hugetlbfs, else the system's.
fn page_size_of(file: &File) -> io::Result<u64> {
    let mut fs = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and the kernel fills the structure we point at.
    let rc = unsafe { libc::fstatfs(file.as_raw_fd(), fs.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatfs succeeded, so the structure is filled.
    let fs = unsafe { fs.assume_init() };
    if fs.f_type == libc::HUGETLBFS_MAGIC {
        return u64::try_from(fs.f_bsize).map_err(io::Error::other);
    }
    system_page_size()
}

fn system_page_size() -> io::Result<u64> {
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(page).map_err(io::Error::other)
}

/// An address that is not (wholly) guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

/// One region as a look-up needs it: where it begins for the guest, and all of it. The default is one
/// without a single byte.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    start: u64,
    whole: GuestBuf,
}

impl Default for Near {
    fn default() -> Near {
        Near { start: 0, whole: GuestBuf::EMPTY }
    }
}

impl Near {
    /// `len` bytes at guest address `gpa`; `None` when any of them is outside the region.
    #[must_use]
    #[inline(always)] // its arguments are at hand where it is called
    pub const fn piece(&self, gpa: u64, len: u64) -> Option<GuestBuf> {
        let (offset, size) = (gpa.wrapping_sub(self.start), self.whole.len() as u64);
        if offset < size && len <= size - offset {
            return Some(self.whole.piece(offset, len));
        }
        None
    }
}

/// One generation of guest memory: the regions, sorted by guest-physical address.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Box<[Arc<Region>]>,
    /// The same regions side by side.
    spans: Box<[Near]>,
}

impl GuestMemory {
    /// A generation of these regions.
    ///
    /// # Errors
    /// [`BadAddress`] when two of them overlap in guest-physical addresses.
    pub fn new(mut regions: Vec<Arc<Region>>) -> Result<GuestMemory, BadAddress> {
        regions.sort_by_key(|r| r.gpa);
        if regions.windows(2).any(|w| w[0].gpa + w[0].size > w[1].gpa) {
            return Err(BadAddress);
        }
        let span = |r: &Arc<Region>| Near { start: r.gpa, whole: r.buf(0, r.size) };
        let spans = regions.iter().map(span).collect();
        Ok(GuestMemory { regions: regions.into(), spans })
    }

    /// The regions, sorted by guest-physical address.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Whether the front-end has cut off memory that was used since: it is not the guest's any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.guard.is_lost())
    }

    /// All of each region, in the same order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = GuestBuf> {
        self.spans.iter().map(|near| near.whole)
    }

    fn find(&self, gpa: u64) -> Option<(usize, u64)> {
        let after = self.regions.partition_point(|r| r.gpa <= gpa);
        let i = after.checked_sub(1)?;
        let offset = gpa - self.regions[i].gpa;
        (offset < self.regions[i].size).then_some((i, offset))
    }

    /// Calls `each` with the host pieces of `len` bytes at guest address `gpa`: one, or several
    /// where the range runs over the border of adjoining regions. `each` says `false` to stop.
    ///
    /// # Errors
    /// [`BadAddress`] when any byte is outside, the sum overflows, or `each` stopped. Some pieces
    /// may have been given to `each` by then.
    pub fn translate(
        &self,
        gpa: u64,
        len: u64,
        mut each: impl FnMut(GuestBuf) -> bool,
    ) -> Result<(), BadAddress> {
        gpa.checked_add(len).ok_or(BadAddress)?;
        let (mut i, mut offset) = self.find(gpa).ok_or(BadAddress)?;
        let mut left = len;
        loop {
            let region = &self.regions[i];
            let n = left.min(region.size - offset);
            if !each(region.buf(offset, n)) {
                return Err(BadAddress);
            }
            left -= n;
            if left == 0 {
                return Ok(());
            }
            let end = region.gpa + region.size;
            i += 1;
            offset = 0;
            if self.regions.get(i).is_none_or(|next| next.gpa != end) {
                return Err(BadAddress);
            }
        }
    }

    /// `len` bytes at guest address `gpa` in one piece.
    ///
    /// # Errors
    /// [`BadAddress`] when any byte is outside or the range crosses a region's border.
    pub fn slice(&self, gpa: u64, len: u64) -> Result<GuestBuf, BadAddress> {
        let (i, offset) = self.find(gpa).ok_or(BadAddress)?;
        let region = &self.regions[i];
        if len > region.size - offset {
            return Err(BadAddress);
        }
        Ok(region.buf(offset, len))
    }

    /// The region that a guest address lies in, to be looked at before all others. Buffers from it
    /// are valid as long as this generation.
    #[must_use]
    pub fn region_of(&self, gpa: u64) -> Option<Near> {
        self.find(gpa).map(|(number, _)| self.spans[number])
    }

    /// As [`slice`](GuestMemory::slice), with a look at region `near` before all others: buffers
    /// come mostly from one region. `near` becomes the region that was found.
    ///
    /// # Errors
    /// As [`slice`](GuestMemory::slice).
    #[inline]
    pub fn slice_near(&self, near: &mut usize, gpa: u64, len: u64) -> Result<GuestBuf, BadAddress> {
        if let Some(piece) = self.spans.get(*near).and_then(|near| near.piece(gpa, len)) {
            return Ok(piece);
        }
        let (i, _) = self.find(gpa).ok_or(BadAddress)?;
        *near = i;
        self.slice(gpa, len)
    }

    /// `len` bytes at the front-end's address `uva` in one piece, with their guest address.
    ///
    /// # Errors
    /// [`BadAddress`] when any byte is outside or the range crosses a region's border.
    pub fn slice_uva(&self, uva: u64, len: u64) -> Result<(GuestBuf, u64), BadAddress> {
        self.regions
            .iter()
            .find_map(|r| {
                let offset = uva.checked_sub(r.uva).filter(|o| *o < r.size)?;
                (len <= r.size - offset).then(|| (r.buf(offset, len), r.gpa + offset))
            })
            .ok_or(BadAddress)
    }
}

#[cfg(test)]
mod tests;
