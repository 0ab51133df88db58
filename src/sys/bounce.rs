//! Buffers of our own for direct I/O on guest memory that is not aligned for it.
#![allow(unsafe_code, reason = "an anonymous mapping of our own, shared with the kernel")]

use std::io;
use std::ptr;
use std::sync::Arc;

use super::guest::GuestBuf;

/// The memory of a pool. Whoever holds it keeps it mapped; see [`BouncePool::memory`].
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is process-wide and nothing is read or written through this value.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `BouncePool::new`; the pool and the ring hold this value for as long as
        // anybody may touch the memory (S3). A failure would only leak.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// `count` buffers of equal size in one mapping, of which only the touched pages cost memory.
///
/// Owned by one channel. The copies run between two I/O operations on the buffer, never during
/// one: the channel's order of steps sees to it.
#[derive(Debug)]
pub struct BouncePool {
    memory: Arc<Mapping>,
    start: *mut u8,
    size: usize,
    count: usize,
}

impl BouncePool {
    /// A pool of `count` buffers of `size` bytes, each aligned to `align` (a power of two that
    /// divides `size`).
    ///
    /// # Errors
    /// `InvalidInput` when `align` does not divide `size`; otherwise what mmap answered.
    pub fn new(count: usize, size: usize, align: u32) -> io::Result<BouncePool> {
        let align = align as usize;
        if !align.is_power_of_two() || size == 0 || !size.is_multiple_of(align) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // The kernel aligns to a page; the surplus makes room for more.
        let len = count * size + align;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast::<u8>();
        let start = base.wrapping_add(base.align_offset(align));
        Ok(BouncePool { memory: Arc::new(Mapping { base, len }), start, size, count })
    }

    /// What keeps the buffers mapped, for [`crate::sys::uring::Ring::hold`].
    #[must_use]
    pub fn memory(&self) -> &Arc<Mapping> {
        &self.memory
    }

    /// Buffer number `i`. Usable while the pool or its memory is held.
    ///
    /// # Panics
    /// When there is no such buffer.
    #[must_use]
    pub fn buf(&self, i: usize) -> GuestBuf {
        assert!(i < self.count, "the pool has {} buffers", self.count);
        // SAFETY: inside the mapping, which lives as long as `memory`; nobody makes references
        // into it.
        unsafe { GuestBuf::from_raw(self.start.wrapping_add(i * self.size), self.size) }
    }

    /// Copies `n` bytes (at most a buffer's size) of the list, from byte `skip` of it on, into
    /// buffer `i`. Returns how many there were.
    pub fn gather(&mut self, i: usize, list: &[GuestBuf], skip: u64, n: usize) -> usize {
        walk(list, skip, self.buf(i).take(n), copy)
    }

    /// Copies the first `n` bytes of buffer `i` into the list, from byte `skip` of it on. Returns
    /// how many fitted.
    pub fn scatter(&mut self, i: usize, list: &[GuestBuf], skip: u64, n: usize) -> usize {
        walk(list, skip, self.buf(i).take(n), |theirs, ours| copy(ours, theirs))
    }
}

/// Pairs the bytes of `list` from `skip` on with those of `ours`, piece by piece.
fn walk(
    list: &[GuestBuf],
    skip: u64,
    ours: GuestBuf,
    mut pair: impl FnMut(GuestBuf, GuestBuf) -> usize,
) -> usize {
    let mut done = 0;
    for piece in pieces(list, skip) {
        done += pair(piece, ours.skip(done));
    }
    done
}

/// The list without its first `skip` bytes.
pub fn pieces(list: &[GuestBuf], skip: u64) -> impl Iterator<Item = GuestBuf> + '_ {
    let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
    list.iter().filter_map(move |b| {
        let rest = b.skip(skip);
        skip = skip.saturating_sub(b.len());
        (rest.len() > 0).then_some(rest)
    })
}

fn copy(from: GuestBuf, to: GuestBuf) -> usize {
    let n = from.len().min(to.len());
    // SAFETY: S1 for both; one is guest memory, the other a pool's, and mappings do not overlap
    // (`ptr::copy` would be right even for a guest that maps one page twice).
    unsafe { ptr::copy(from.addr(), to.addr(), n) };
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        for align in [512u32, 4096, 65536] {
            let pool = BouncePool::new(3, 65536, align).expect("memory");
            for i in 0..3 {
                let b = pool.buf(i);
                assert_eq!((b.addr().addr() % align as usize, b.len()), (0, 65536));
                b.copy_from(&vec![u8::try_from(i).expect("small"); 65536]);
            }
            for i in 0..3 {
                let mut got = vec![9; 65536];
                pool.buf(i).copy_to(&mut got);
                assert!(got.iter().all(|x| usize::from(*x) == i));
            }
        }
        let bad = BouncePool::new(1, 1000, 512).expect_err("1000 is no multiple of 512");
        assert_eq!(bad.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn lists_are_cut_at_any_byte() {
        let theirs = BouncePool::new(1, 4096, 512).expect("memory");
        let all = theirs.buf(0);
        all.copy_from(&(0..=255u8).cycle().take(4096).collect::<Vec<_>>());
        let list = [all.take(10), all.skip(10).take(0), all.skip(10).take(90), all.skip(100)];
        let mut pool = BouncePool::new(2, 512, 512).expect("memory");
        for skip in [0u64, 5, 10, 95, 100, 3584, 4090, 4096, u64::MAX] {
            let left = 4096usize.saturating_sub(usize::try_from(skip).expect("64 bits"));
            assert_eq!(pool.gather(1, &list, skip, 512), left.min(512), "skip {skip}");
            let mut got = [0u8; 512];
            pool.buf(1).copy_to(&mut got);
            for (i, x) in got.iter().take(left).enumerate() {
                assert_eq!(u64::from(*x), (skip + i as u64) % 256);
            }
        }
        pool.buf(0).copy_from(&[77; 512]);
        assert_eq!(pool.scatter(0, &list, 8, 4), 4);
        let mut got = [0u8; 14];
        all.copy_to(&mut got);
        assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7, 77, 77, 77, 77, 12, 13]);
    }

    #[test]
    fn memory_outlives_the_pool_for_whoever_holds_it() {
        let pool = BouncePool::new(1, 4096, 512).expect("memory");
        let (held, b) = (Arc::clone(pool.memory()), pool.buf(0));
        b.write_u8(42);
        drop(pool);
        let mut got = [0u8; 1];
        b.copy_to(&mut got);
        assert_eq!((got, Arc::strong_count(&held)), ([42], 1));
    }
}
