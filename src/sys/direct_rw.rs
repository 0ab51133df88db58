//! Transfers by the calling thread itself: for files that lie in memory, where nothing is waited for.
#![allow(unsafe_code, reason = "vectored transfers into guest memory have no wrapper in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::guest::GuestBuf;
use super::uring::MAX_BUFS;

fn count(bufs: &[GuestBuf]) -> libc::c_int {
    libc::c_int::try_from(bufs.len().min(MAX_BUFS)).unwrap_or(libc::c_int::MAX)
}

/// As a completion of io_uring has it: a count, or a negated errno.
fn answer(got: isize) -> i32 {
    if got < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    // No transfer of Linux moves more than 2 GiB.
    i32::try_from(got).unwrap_or(i32::MAX)
}

/// Reads from `offset` of the file into `bufs`. Of more than [`MAX_BUFS`] buffers the first are
/// filled.
pub fn read(fd: BorrowedFd<'_>, bufs: &[GuestBuf], offset: i64) -> i32 {
    // SAFETY: a GuestBuf is an iovec in memory that its holder keeps mapped (S1); the list lives
    // during the call, and what the guest does to the memory meanwhile is its own affair (S2).
    answer(unsafe { libc::preadv(fd.as_raw_fd(), bufs.as_ptr().cast(), count(bufs), offset) })
}

/// Writes `bufs` at `offset` of the file; with `dsync` the answer means durable (RWF_DSYNC). Of more
/// than [`MAX_BUFS`] buffers the first are written.
pub fn write(fd: BorrowedFd<'_>, bufs: &[GuestBuf], offset: i64, dsync: bool) -> i32 {
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    let (fd, list) = (fd.as_raw_fd(), bufs.as_ptr().cast());
    // SAFETY: as above; the memory is only read.
    answer(unsafe { libc::pwritev2(fd, list, count(bufs), offset, flags) })
}

/// Whether a file lies in memory (tmpfs, ramfs), so that a transfer is a copy and waits for nothing
/// but, at worst, the system's memory management.
#[must_use]
pub fn is_in_memory(fd: BorrowedFd<'_>) -> bool {
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    // SAFETY: all bits zero are a valid statfs, which is plain numbers.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and lives during the call.
    let rc = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut facts) };
    #[allow(clippy::cast_sign_loss, reason = "a magic number, whose type differs by platform")]
    let kind = facts.f_type as u64 & 0xffff_ffff;
    rc == 0 && [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bounce::BouncePool;
    use crate::sys::memfd::memfd;
    use std::os::fd::AsFd;

    #[test]
    fn transfers_are_what_the_ring_would_have_done() {
        let file = memfd(c"testkit", 8192).expect("a memfd");
        assert!(is_in_memory(file.as_fd()), "a memfd is a file of tmpfs");
        let pool = BouncePool::new(2, 4096, 4096).expect("memory");
        let (a, b) = (pool.buf(0), pool.buf(1));
        a.copy_from(&[7; 4096]);
        b.copy_from(&[9; 4096]);
        assert_eq!(write(file.as_fd(), &[a, b], 0, true), 8192);
        a.copy_from(&[0; 4096]);
        assert_eq!(read(file.as_fd(), &[a.take(512), b.take(512)], 3584), 1024);
        let mut back = [0; 512];
        a.copy_to(&mut back);
        assert_eq!(back, [7; 512]);
        b.copy_to(&mut back);
        assert_eq!(back, [9; 512]);
        assert_eq!(read(file.as_fd(), &[a], 8192 - 100), 100, "short at the end");
        assert_eq!(read(file.as_fd(), &[a], 8192), 0);
        assert_eq!(read(file.as_fd(), &[a], -1), -libc::EINVAL);
    }

    #[test]
    fn a_pipe_is_no_file_in_memory() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert!(!is_in_memory(reader.as_fd()));
        let pool = BouncePool::new(1, 512, 512).expect("memory");
        assert_eq!(read(reader.as_fd(), &[pool.buf(0)], 0), -libc::ESPIPE);
        assert_eq!(write(reader.as_fd(), &[pool.buf(0)], 0, false), -libc::ESPIPE);
    }
}
