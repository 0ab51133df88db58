//! File descriptors: borrowing and flags.
#![allow(unsafe_code, reason = "raw descriptors from crates that predate std::os::fd")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// The descriptor of a value that only knows `AsRawFd`, for as long as the value is borrowed.
#[must_use]
pub fn borrow<T: AsRawFd + ?Sized>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the descriptor open, and the result cannot outlive the borrow.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
