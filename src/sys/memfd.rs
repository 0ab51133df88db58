//! Anonymous shared memory as a file: the in-flight region, and memory for tests that play the
//! front-end.
#![allow(unsafe_code, reason = "memfd_create and seals have no safe wrapper in std")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// A new anonymous file of `size` zero bytes, close-on-exec. Its size can be sealed.
///
/// # Errors
/// What memfd_create or ftruncate answered.
pub fn memfd(name: &CStr, size: u64) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string, and the call has no other precondition.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    Ok(file)
}

/// Fixes the size of a memfd for good, whoever else has it: a mapping of it never faults for want
/// of a page that somebody cut off.
///
/// # Errors
/// What fcntl answered: EINVAL for a file that has no seals, EPERM when no seal may be added.
pub fn seal_size(file: &File) -> io::Result<()> {
    add_seals(file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)
}

/// Forbids to make a memfd smaller; says whether it is forbidden now.
#[must_use]
pub fn seal_against_shrinking(file: &File) -> bool {
    // Somebody else may have sealed it already, so the answer is looked up, not concluded.
    let _ = add_seals(file, libc::F_SEAL_SHRINK);
    // SAFETY: reads the seals of a descriptor that the borrow keeps open.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

fn add_seals(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: changes nothing but the seals of a descriptor that the borrow keeps open.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_size_stays() {
        let file = memfd(c"sealed", 8192).expect("memory");
        seal_size(&file).expect("it is ours");
        assert!(file.set_len(4096).is_err() && file.set_len(16384).is_err());
        assert!(seal_against_shrinking(&file), "it was sealed before");
        assert_eq!(file.metadata().expect("open").len(), 8192);
    }

    #[test]
    fn shrinking_can_be_forbidden_where_there_are_seals() {
        let file = memfd(c"open", 8192).expect("memory");
        assert!(seal_against_shrinking(&file));
        assert!(file.set_len(4096).is_err());
        file.set_len(16384).expect("growing harms nobody");
        let plain = tempfile::tempfile().expect("a file");
        assert!(!seal_against_shrinking(&plain), "a file has no seals");
    }
}
