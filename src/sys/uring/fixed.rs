//! Guest memory that is registered with a ring: the kernel looks its pages up once instead of for
//! each transfer, and keeps them in place meanwhile.
//!
//! * X1 **Pieces.** A region is registered in pieces of at most [`LARGEST`] bytes, the kernel's limit,
//!   each in a slot of one table. Buffers that lie in one piece are named by its slot; all others
//!   travel as if nothing were registered.
//! * X2 **All or nothing.** When the kernel refuses a piece, those of the same generation are taken
//!   back, and the generation is served as if nobody had asked. That is said once for each ring.
//! * X3 **Counted.** Generations share regions, so a piece goes with the last generation that has it.
//!   What is in flight has its own reference in the kernel.
#![allow(unsafe_code, reason = "the kernel is told of memory that it will touch")]

use std::io;
use std::sync::Arc;

use io_uring::IoUring;

use super::super::guest::{GuestBuf, GuestMemory};
use super::Ring;

/// Bytes of the largest buffer that can be registered (Linux: SZ_1G in io_uring/rsrc.c).
const LARGEST: usize = 1 << 30;

/// Slots of the table: 1 TiB of guest memory, or fewer bytes in more regions.
const SLOTS: u16 = 1024;

/// A registered piece of memory.
#[derive(Debug)]
struct Piece {
    start: usize,
    len: usize,
    slot: u16,
    users: u32,
}

/// What is registered with one ring.
#[derive(Debug, Default)]
pub(super) struct Fixed {
    /// By address.
    pieces: Vec<Piece>,
    /// Addresses of the generations, once for each registration.
    owners: Vec<usize>,
    /// Slots that hold nothing; all of them once the table is made.
    free: Vec<u16>,
    made: bool,
    warned: bool,
    /// The kernel takes vectors into registered memory (Linux 6.15).
    vectored: bool,
}

/// The pieces of a region (X1).
fn pieces(region: GuestBuf, largest: usize) -> impl Iterator<Item = GuestBuf> {
    (0..region.len()).step_by(largest).map(move |at| region.skip(at).take(largest))
}

impl Fixed {
    pub(super) fn new(vectored: bool) -> Fixed {
        Fixed { vectored, ..Fixed::default() }
    }

    /// The slot by which the kernel knows the memory of all these buffers, if it does.
    #[inline]
    pub(super) fn slot_of(&self, bufs: &[GuestBuf]) -> Option<u16> {
        if self.pieces.is_empty() { None } else { self.find(bufs) }
    }

    fn find(&self, bufs: &[GuestBuf]) -> Option<u16> {
        let first = bufs.first().filter(|_| bufs.len() == 1 || self.vectored)?;
        let at = first.addr().addr();
        let after = self.pieces.partition_point(|piece| piece.start <= at);
        let piece = &self.pieces[after.checked_sub(1)?];
        let inside = |buf: &GuestBuf| {
            let offset = buf.addr().addr().wrapping_sub(piece.start);
            // The kernel refuses empty buffers here, which it takes elsewhere.
            offset < piece.len && buf.len() > 0 && buf.len() <= piece.len - offset
        };
        bufs.iter().all(inside).then_some(piece.slot)
    }

    fn register(&mut self, io: &IoUring, memory: &GuestMemory) -> io::Result<()> {
        if !self.made {
            io.submitter().register_buffers_sparse(SLOTS.into())?;
            self.free = (0..SLOTS).rev().collect();
            self.made = true;
        }
        let all: Vec<GuestBuf> =
            memory.hosts().flat_map(|region| pieces(region, LARGEST)).collect();
        for (n, buf) in all.iter().enumerate() {
            if let Err(e) = self.add(io, *buf) {
                self.remove(io, &all[..n]);
                return Err(e);
            }
        }
        Ok(())
    }

    fn add(&mut self, io: &IoUring, buf: GuestBuf) -> io::Result<()> {
        let (start, len) = (buf.addr().addr(), buf.len());
        let at = self.pieces.partition_point(|piece| piece.start < start);
        if let Some(piece) = self.pieces.get_mut(at).filter(|p| (p.start, p.len) == (start, len)) {
            piece.users += 1;
            return Ok(());
        }
        let slot = *self.free.last().ok_or(io::ErrorKind::OutOfMemory)?;
        let iovec = libc::iovec { iov_base: buf.addr().cast(), iov_len: len };
        // SAFETY: the memory is mapped (S1: the caller holds its generation), and the kernel keeps
        // the pages by references of its own.
        unsafe { io.submitter().register_buffers_update(slot.into(), &[iovec], None) }?;
        self.free.pop();
        self.pieces.insert(at, Piece { start, len, slot, users: 1 });
        Ok(())
    }

    fn remove(&mut self, io: &IoUring, bufs: &[GuestBuf]) {
        for buf in bufs {
            let start = buf.addr().addr();
            let Ok(at) = self.pieces.binary_search_by_key(&start, |piece| piece.start) else {
                continue;
            };
            self.pieces[at].users -= 1;
            if self.pieces[at].users > 0 {
                continue;
            }
            let slot = self.pieces.remove(at).slot;
            let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // A failure leaves the pages pinned until the slot is used again.
            // SAFETY: no memory is named.
            let _ =
                unsafe { io.submitter().register_buffers_update(slot.into(), &[nothing], None) };
            self.free.push(slot);
        }
    }
}

impl Ring {
    /// Registers the memory of a generation, which [`forget_memory`](Ring::forget_memory) takes back.
    /// Transfers into it are cheaper then; nothing else changes. Its pages are allocated and stay in
    /// place: whoever gives some of them back (a balloon) makes the guest see others than the kernel.
    ///
    /// Takes as long as the kernel needs for the pages: a fraction of a second for each GiB. What the
    /// kernel refuses is logged, once, and served as before.
    pub fn register_memory(&mut self, memory: &Arc<GuestMemory>) {
        match self.fixed.register(&self.io, memory) {
            Ok(()) => self.fixed.owners.push(Arc::as_ptr(memory).addr()),
            Err(e) if !self.fixed.warned => {
                self.fixed.warned = true;
                log::warn!("guest memory is not registered ({e}): {}", remedy(&e));
            }
            Err(_) => {}
        }
    }

    /// Takes back one registration of this generation, if there is any.
    pub fn forget_memory(&mut self, memory: &Arc<GuestMemory>) {
        let owner = Arc::as_ptr(memory).addr();
        if let Some(at) = self.fixed.owners.iter().position(|known| *known == owner) {
            self.fixed.owners.swap_remove(at);
            let all: Vec<GuestBuf> =
                memory.hosts().flat_map(|region| pieces(region, LARGEST)).collect();
            self.fixed.remove(&self.io, &all);
        }
    }
}

/// What to do about a refusal.
fn remedy(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOMEM | libc::EPERM) => "raise RLIMIT_MEMLOCK above the guest's memory",
        Some(libc::EINVAL) => "Linux 5.19 or later is needed",
        Some(libc::EOPNOTSUPP | libc::EFAULT) => "use memfd, tmpfs or hugetlbfs for it",
        _ => "it is served all the same",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Tag;
    use crate::sys::guest::Region;
    use crate::sys::memfd;
    use crate::sys::token::{IoKey, Token};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    const PAGE: u64 = 4096;

    /// Regions of `pages` pages each, one behind the other for the guest, and their files.
    fn memory(pages: &[u64]) -> (Arc<GuestMemory>, Vec<File>) {
        let (mut gpa, mut regions, mut files) = (0, Vec::new(), Vec::new());
        for n in pages {
            let file = memfd::memfd(c"fixed", n * PAGE).expect("memory");
            let copy = file.try_clone().expect("a descriptor");
            regions.push(Arc::new(Region::map(gpa, n * PAGE, gpa, copy, 0).expect("it maps")));
            files.push(file);
            gpa += n * PAGE;
        }
        (Arc::new(GuestMemory::new(regions).expect("apart")), files)
    }

    fn bufs(memory: &GuestMemory, gpa: u64, len: u64) -> Vec<GuestBuf> {
        let mut all = Vec::new();
        memory
            .translate(gpa, len, |buf| {
                all.push(buf);
                true
            })
            .expect("inside");
        all
    }

    fn io(tag: u16) -> Token {
        Token::Io(IoKey { slot: 0, tag: Tag(tag), generation: 1 })
    }

    fn wait(ring: &mut Ring) -> i32 {
        for _ in 0..100 {
            if let Some(cqe) = ring.pop() {
                return cqe.res;
            }
            ring.submit_and_wait(Some(Duration::from_secs(1))).expect("the ring works");
        }
        panic!("nothing completed");
    }

    #[test]
    fn a_region_falls_into_pieces_that_cover_it() {
        let (memory, _files) = memory(&[10]);
        let whole = memory.hosts().next().expect("a region");
        for largest in [1, 3, 4096, 7 * 4096, 10 * 4096, 1 << 30] {
            let mut at = whole.addr();
            for piece in pieces(whole, largest) {
                assert!(piece.addr() == at && piece.len() > 0 && piece.len() <= largest);
                at = at.wrapping_add(piece.len());
            }
            assert_eq!(at, whole.addr().wrapping_add(whole.len()), "{largest}");
        }
    }

    #[test]
    fn what_lies_in_one_piece_is_found_by_its_slot() {
        let (memory, _files) = memory(&[3, 2]);
        let mut ring = Ring::new(8).expect("io_uring");
        let found = |ring: &Ring, gpa, len| ring.fixed.slot_of(&bufs(&memory, gpa, len));
        assert_eq!(found(&ring, 0, PAGE), None, "nothing is registered");
        ring.register_memory(&memory);
        assert_eq!(ring.fixed.pieces.len(), 2, "memfds can be registered");
        assert_eq!(found(&ring, 0, 3 * PAGE), Some(0));
        assert_eq!(found(&ring, 3 * PAGE - 1, 1), Some(0));
        assert_eq!(found(&ring, 3 * PAGE, 2 * PAGE), Some(1));
        assert_eq!(found(&ring, 2 * PAGE, 2 * PAGE), None, "two regions");
        let one = bufs(&memory, 0, PAGE)[0];
        assert_eq!(ring.fixed.slot_of(&[]), None);
        assert_eq!(ring.fixed.slot_of(&[one.take(0)]), None);
        let several = [one, bufs(&memory, 2 * PAGE, 8)[0]];
        ring.fixed.vectored = true;
        assert_eq!(ring.fixed.slot_of(&several), Some(0));
        assert_eq!(ring.fixed.slot_of(&[one, one.skip(4096)]), None, "one is empty");
        ring.fixed.vectored = false;
        assert_eq!(ring.fixed.slot_of(&several), None, "an older kernel");
        let mut own = [0_u8; 16];
        // SAFETY: it is never given to the kernel.
        let own = unsafe { GuestBuf::from_raw(own.as_mut_ptr(), 16) };
        assert_eq!(ring.fixed.slot_of(&[own]), None, "no guest memory");
        ring.forget_memory(&memory);
        assert_eq!(found(&ring, 0, PAGE), None);
    }

    #[test]
    fn transfers_are_the_same_with_and_without() {
        let (memory, files) = memory(&[4, 4]);
        let disk = tempfile::tempfile().expect("a file");
        let mut ring = Ring::new(8).expect("io_uring");
        let file = ring.add_file(disk.as_fd()).expect("a slot");
        let lists: [Vec<GuestBuf>; 3] = [
            bufs(&memory, PAGE, 2 * PAGE),
            [bufs(&memory, 0, PAGE), bufs(&memory, 2 * PAGE, PAGE)].concat(),
            bufs(&memory, 3 * PAGE, 2 * PAGE),
        ];
        for registered in [false, true] {
            if registered {
                ring.register_memory(&memory);
            }
            for (n, list) in (1_u8..).zip(&lists) {
                let fill =
                    |byte: u8| list.iter().for_each(|b| _ = b.copy_from(&vec![byte; b.len()]));
                let offset = u64::from(n) * 64 * PAGE;
                fill(n);
                ring.write(io(1), file, list, offset, n == 2).expect("room");
                assert_eq!(wait(&mut ring), 8192, "{n}, {registered}");
                fill(0);
                ring.read(io(2), file, list, offset).expect("room");
                assert_eq!(wait(&mut ring), 8192, "{n}, {registered}");
                let mut back = vec![0; 8192];
                disk.read_exact_at(&mut back, offset).expect("written");
                assert!(back.iter().all(|byte| *byte == n), "on the disk");
                let mut seen = vec![0; 4096];
                for buf in list {
                    buf.copy_to(&mut seen);
                    assert!(seen.iter().all(|byte| *byte == n), "in memory");
                }
            }
        }
        let mut seen = [0; 1];
        files[0].read_exact_at(&mut seen, 2 * PAGE).expect("inside");
        assert_eq!(seen, [2], "the front-end sees it, too");
    }

    #[test]
    fn generations_share_regions_and_slots_are_used_again() {
        let mut ring = Ring::new(8).expect("io_uring");
        let (old, _files) = memory(&[1, 1]);
        let new = Arc::new(GuestMemory::new(vec![Arc::clone(&old.regions()[1])]).expect("one"));
        let kept = bufs(&old, PAGE, PAGE);
        for _ in 0..2000 {
            ring.register_memory(&old);
            ring.register_memory(&new);
            ring.forget_memory(&old);
            assert!(ring.fixed.slot_of(&kept).is_some(), "the new generation has it");
            assert_eq!(ring.fixed.slot_of(&bufs(&old, 0, PAGE)), None);
            ring.forget_memory(&old); // not registered: nothing happens
            assert!(ring.fixed.slot_of(&kept).is_some());
            ring.forget_memory(&new);
            assert_eq!(ring.fixed.slot_of(&kept), None);
            assert_eq!(ring.fixed.free.len(), usize::from(SLOTS));
        }
    }

    #[test]
    fn a_refusal_leaves_nothing_behind() {
        let (memory, files) = memory(&[2, 2]);
        files[1].set_len(0).expect("it is ours"); // its pages cannot be had any more
        let mut ring = Ring::new(8).expect("io_uring");
        for _ in 0..3 {
            ring.register_memory(&memory);
            assert!(ring.fixed.warned && ring.fixed.pieces.is_empty(), "X2");
            assert_eq!(ring.fixed.free.len(), usize::from(SLOTS));
            ring.forget_memory(&memory);
        }
        let disk = tempfile::tempfile().expect("a file");
        let file = ring.add_file(disk.as_fd()).expect("a slot");
        ring.write(io(1), file, &bufs(&memory, 0, PAGE), 0, false).expect("room");
        assert_eq!(wait(&mut ring), 4096, "served all the same");
    }

    #[test]
    fn every_refusal_has_its_remedy() {
        for (errno, word) in [
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EINVAL, "5.19"),
            (libc::EFAULT, "memfd"),
            (libc::EIO, "all the same"),
        ] {
            assert!(remedy(&io::Error::from_raw_os_error(errno)).contains(word), "{errno}");
        }
    }
}
