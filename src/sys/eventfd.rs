//! Eventfds that others created.
#![allow(unsafe_code, reason = "preadv2 has no safe wrapper here")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets the counter of an eventfd to 0 and returns what it was; `None` when it was 0 already (or
/// is no eventfd).
///
/// Never blocks, whatever the file status flags are, and changes none of them: the description is
/// shared with the one who sent it (RWF_NOWAIT, Linux 5.8 for eventfds).
pub fn drain(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut count = 0u64;
    let iov = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of::<u64>() };
    // SAFETY: the vector names eight bytes of our stack, which outlive the call; offset -1 means
    // "the current position", as a stream wants it.
    let n = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
    (n == 8).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

    #[test]
    fn a_blocking_eventfd_is_drained_without_blocking() {
        let blocking = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
        assert_eq!(drain(crate::sys::fd::borrow(&blocking)), None);
        blocking.write(3).expect("room in the counter");
        assert_eq!(drain(crate::sys::fd::borrow(&blocking)), Some(3));
        assert_eq!(drain(crate::sys::fd::borrow(&blocking)), None);
    }
}
