//! What the kernel tells of a file or block device: block sizes, direct I/O alignment.
#![allow(unsafe_code, reason = "ioctls and statx have no wrapper in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::bounce::BouncePool;

/// What direct I/O on a file demands. Both are powers of two, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of every buffer's address.
    pub memory: u32,
    /// Of the position in the file and of every buffer's length.
    pub offset: u32,
}

/// Logical and physical block size of a block device, in bytes (BLKSSZGET, BLKPBSZGET).
///
/// # Errors
/// What ioctl answered (ENOTTY for what is no block device).
pub fn block_sizes(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut logical: libc::c_int = 0;
    // SAFETY: BLKSSZGET fills one int, which is ours.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::BLKSSZGET, &raw mut logical) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut physical: libc::c_uint = 0;
    // SAFETY: BLKPBSZGET fills one unsigned int, which is ours.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::BLKPBSZGET, &raw mut physical) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((logical.unsigned_abs(), physical))
}

/// Major and minor number of the device that a device file stands for.
#[must_use]
pub fn device_numbers(rdev: u64) -> (u32, u32) {
    (libc::major(rdev), libc::minor(rdev))
}

/// What direct I/O on `fd` (opened with O_DIRECT) demands; `None` when the file cannot do it.
///
/// The kernel says so since Linux 6.1 (STATX_DIOALIGN); before, and for file systems that do not
/// answer, reads with growing alignment show what is accepted.
///
/// # Errors
/// What mmap answered to the probing buffer.
pub fn direct_alignment(fd: BorrowedFd<'_>) -> io::Result<Option<Alignment>> {
    match statx_dio_alignment(fd) {
        Some((0, _) | (_, 0)) => Ok(None),
        Some((memory, offset)) if memory.is_power_of_two() && offset.is_power_of_two() => {
            Ok(Some(Alignment { memory, offset }))
        }
        _ => probe_alignment(fd),
    }
}

/// `stx_dio_mem_align` and `stx_dio_offset_align`, when the file system fills them in.
fn statx_dio_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    const STATX_DIOALIGN: u32 = 0x2000;
    const MASK: usize = 0;
    const MEMORY: usize = 0x98 / 4;
    const OFFSET: usize = 0x9c / 4;
    /// `struct statx` of linux/stat.h: 256 bytes, of which three words interest us.
    #[repr(C, align(8))]
    struct Statx([u32; 64]);
    let mut stx = Statx([0; 64]);
    // SAFETY: the path is a NUL-terminated empty string and the structure has the size of struct
    // statx; both live during the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            &raw mut stx,
        )
    };
    (rc == 0 && stx.0[MASK] & STATX_DIOALIGN != 0).then_some((stx.0[MEMORY], stx.0[OFFSET]))
}

/// The smallest alignment with which a direct read of the first bytes is not refused as EINVAL.
fn probe_alignment(fd: BorrowedFd<'_>) -> io::Result<Option<Alignment>> {
    const SMALLEST: u32 = 512;
    const LARGEST: u32 = 65536;
    let pool = BouncePool::new(2, LARGEST as usize, LARGEST)?;
    let mut align = SMALLEST;
    while align <= LARGEST {
        // Aligned to `align` and to nothing more.
        let buf = pool.buf(0).skip(align as usize);
        let len = (align as usize).min(pool.buf(1).len());
        // SAFETY: `buf` starts `align` bytes into a mapping of twice LARGEST bytes, so `len`
        // bytes are ours to be written.
        let got = unsafe { libc::pread(fd.as_raw_fd(), buf.addr().cast(), len, 0) };
        if got >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Ok(Some(Alignment { memory: align, offset: align }));
        }
        align *= 2;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    fn direct_file() -> Option<(tempfile::NamedTempFile, File)> {
        let mut named = tempfile::NamedTempFile::new().expect("a temporary file");
        named.write_all(&[5; 8192]).expect("room on the disk");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(named.path());
        file.ok().map(|f| (named, f))
    }

    #[test]
    fn what_the_kernel_says_is_what_it_accepts() {
        let Some((_named, file)) = direct_file() else {
            return println_skip("no direct I/O in the temporary directory");
        };
        let said = direct_alignment(file.as_fd()).expect("asked").expect("it can");
        let probed = probe_alignment(file.as_fd()).expect("asked").expect("it can");
        assert!(said.memory <= probed.memory && said.offset <= probed.offset, "{said:?}");
        assert!(probed.offset <= 4096, "{probed:?}");
        assert!(said.offset >= 512, "{said:?}");
    }

    #[test]
    fn a_file_is_no_block_device() {
        let file = tempfile::tempfile().expect("a temporary file");
        let e = block_sizes(file.as_fd()).expect_err("refused");
        assert_eq!(e.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn device_numbers_are_taken_apart() {
        assert_eq!(device_numbers(libc::makedev(7, 300)), (7, 300));
    }

    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn println_skip(why: &str) {
        eprintln!("skipped: {why}");
    }
}
