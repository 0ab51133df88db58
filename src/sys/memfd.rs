//! Anonymous shared memory as a file, for tests that play the front-end.
#![allow(unsafe_code, reason = "memfd_create has no safe wrapper in the standard library")]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

/// A new anonymous file of `size` zero bytes, close-on-exec.
///
/// # Errors
/// What memfd_create or ftruncate answered.
pub fn memfd(size: u64) -> io::Result<File> {
    // SAFETY: the name is a C string, and the call has no other precondition.
    let fd = unsafe { libc::memfd_create(c"testkit".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    Ok(file)
}
