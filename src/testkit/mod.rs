//! What only tests need: memory as a front-end shares it, the guest's side of a ring, a simulated
//! disk, and the oracle that says what a guest may expect of it.
//!
//! Compiled for tests and with the feature `testkit`. Everything here panics on misuse: a test kit
//! that fails quietly makes tests that cannot fail.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use crate::sys::guest::{GuestMemory, Region};
use crate::sys::memfd::memfd;

#[cfg(test)]
pub(crate) mod alloc;
pub mod beside;
pub mod blk;
#[cfg(test)]
pub(crate) mod core_disk;
#[cfg(test)]
pub(crate) mod core_guest;
#[cfg(test)]
pub(crate) mod core_sim;
pub mod disk;
pub mod driver;
pub mod measure;
pub mod model;
pub mod picture;
pub mod rng;
pub mod ssd;

/// One region as a front-end would announce it; the content lies in the [`TestMemory`]'s file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRegion {
    /// Guest-physical address.
    pub gpa: u64,
    /// Size in bytes.
    pub size: u64,
    /// The front-end's virtual address (invented; nothing is mapped there).
    pub uva: u64,
    /// Offset in the file.
    pub offset: u64,
}

/// Guest memory in a memfd, with an allocator for buffers in it.
#[derive(Debug)]
pub struct TestMemory {
    file: File,
    regions: Vec<TestRegion>,
    memory: Arc<GuestMemory>,
    /// Free pieces: start to length.
    free: Mutex<BTreeMap<u64, u64>>,
}

/// Guest-physical address of the first region of [`TestMemory::new`].
pub const GPA: u64 = 0x10_0000;
/// Front-end address minus guest-physical address, of all regions.
pub const UVA_OFFSET: u64 = 0x7e00_0000_0000;

impl TestMemory {
    /// One region of `size` bytes (a multiple of the page size) at [`GPA`].
    #[must_use]
    pub fn new(size: u64) -> TestMemory {
        TestMemory::with_regions(&[(GPA, size)])
    }

    /// Regions of (guest-physical address, size), one after the other in one file. They may adjoin.
    ///
    /// # Panics
    /// When they overlap, or memory cannot be had.
    #[must_use]
    pub fn with_regions(wanted: &[(u64, u64)]) -> TestMemory {
        let total = wanted.iter().map(|(_, size)| size).sum();
        let file = memfd(c"testkit", total).expect("a memfd can be made");
        let mut offset = 0;
        let mut regions = Vec::new();
        for (gpa, size) in wanted.iter().copied() {
            regions.push(TestRegion { gpa, size, uva: gpa + UVA_OFFSET, offset });
            offset += size;
        }
        let mapped = regions.iter().map(|r| {
            let file = file.try_clone().expect("a descriptor can be duplicated");
            Arc::new(Region::map(r.gpa, r.size, r.uva, file, r.offset).expect("a region maps"))
        });
        let memory = Arc::new(GuestMemory::new(mapped.collect()).expect("regions do not overlap"));
        let free = Mutex::new(regions.iter().map(|r| (r.gpa, r.size)).collect());
        TestMemory { file, regions, memory, free }
    }

    /// The memory as a back-end sees it.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// A duplicate of the file behind all regions, to be sent to a back-end.
    ///
    /// # Panics
    /// When no descriptor is left.
    #[must_use]
    pub fn file(&self) -> File {
        self.file.try_clone().expect("a descriptor can be duplicated")
    }

    /// The regions, for a memory table.
    #[must_use]
    pub fn regions(&self) -> &[TestRegion] {
        &self.regions
    }

    /// The front-end's address of guest address `gpa`.
    #[must_use]
    pub fn uva(&self, gpa: u64) -> u64 {
        gpa + UVA_OFFSET
    }

    /// Guest address of `len` free bytes (at least 1), aligned to `align`, within one region. Their
    /// content is whatever the last user left.
    ///
    /// # Panics
    /// When there is no such piece.
    #[must_use]
    pub fn alloc(&self, len: u64, align: u64) -> u64 {
        let len = len.max(1);
        let mut free = self.free.lock().expect("no test panics in here");
        let fits = |(start, size): (&u64, &u64)| {
            let at = start.next_multiple_of(align);
            (at + len <= start + size).then_some((*start, *size, at))
        };
        let (start, size, at) = free.iter().find_map(fits).expect("test memory is large enough");
        free.remove(&start);
        if at > start {
            free.insert(start, at - start);
        }
        if at + len < start + size {
            free.insert(at + len, start + size - at - len);
        }
        at
    }

    /// Gives back what [`alloc`](TestMemory::alloc) gave for the same `len`.
    ///
    /// # Panics
    /// When the piece is (partly) free already.
    pub fn free(&self, gpa: u64, len: u64) {
        let mut free = self.free.lock().expect("no test panics in here");
        let mut len = len.max(1);
        let mut gpa = gpa;
        let region = self.regions.iter().find(|r| gpa >= r.gpa && gpa - r.gpa < r.size);
        let region = *region.expect("inside a region");
        if let Some((&next, &size)) = free.range(gpa..).next() {
            assert!(gpa + len <= next, "freed twice");
            if gpa + len == next && next < region.gpa + region.size {
                free.remove(&next);
                len += size;
            }
        }
        if let Some((&prev, &size)) = free.range(..gpa).next_back() {
            assert!(prev + size <= gpa, "freed twice");
            if prev + size == gpa && prev >= region.gpa {
                gpa = prev;
                len += size;
            }
        }
        free.insert(gpa, len);
    }

    /// Writes bytes at a guest address.
    ///
    /// # Panics
    /// When the range is not guest memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let put = |piece: crate::sys::guest::GuestBuf| {
            let n = piece.copy_from(rest);
            rest = &rest[n..];
            true
        };
        self.memory.translate(gpa, bytes.len() as u64, put).expect("inside guest memory");
    }

    /// Reads bytes at a guest address.
    ///
    /// # Panics
    /// When the range is not guest memory.
    #[must_use]
    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        let get = |piece: crate::sys::guest::GuestBuf| {
            done += piece.copy_to(&mut bytes[done..]);
            true
        };
        self.memory.translate(gpa, len as u64, get).expect("inside guest memory");
        bytes
    }
}

#[cfg(test)]
mod tests;
