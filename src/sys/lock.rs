//! Open-file-description locks on single bytes (fcntl(2), F_OFD_*): they belong to the open file,
//! not to the process, and go when its last descriptor is closed.
#![allow(unsafe_code, reason = "OFD locks have no wrapper in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a shared lock on the byte at `offset`. Never waits.
///
/// # Errors
/// What fcntl answered: EAGAIN or EACCES when somebody holds a write lock there, EINVAL or ENOLCK
/// where the kernel or the file system has no such locks.
pub fn share(fd: BorrowedFd<'_>, offset: i64) -> io::Result<()> {
    fcntl(fd, libc::F_OFD_SETLK, libc::F_RDLCK, offset).map(drop)
}

/// Whether an exclusive lock on the byte at `offset` would meet somebody else's lock. Nothing is
/// taken, and our own locks do not count.
///
/// # Errors
/// What fcntl answered.
pub fn is_held_by_others(fd: BorrowedFd<'_>, offset: i64) -> io::Result<bool> {
    let kind = fcntl(fd, libc::F_OFD_GETLK, libc::F_WRLCK, offset)?;
    Ok(i32::from(kind) != libc::F_UNLCK)
}

/// One fcntl call on one byte; the lock type that the kernel left in the structure.
fn fcntl(
    fd: BorrowedFd<'_>,
    command: libc::c_int,
    kind: libc::c_int,
    offset: i64,
) -> io::Result<libc::c_short> {
    let narrow = |v: libc::c_int| libc::c_short::try_from(v).map_err(io::Error::other);
    let mut lock = libc::flock {
        l_type: narrow(kind)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open (borrowed) and the structure is ours for the call.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) };
    if rc == 0 { Ok(lock.l_type) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn locks_are_seen_by_other_open_files_only() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mine = File::open(file.path()).expect("opens");
        let other = File::open(file.path()).expect("opens");
        let twin = mine.try_clone().expect("a second descriptor of the same open file");
        share(mine.as_fd(), 100).expect("nobody is there");
        assert!(!is_held_by_others(mine.as_fd(), 100).expect("asked"));
        assert!(is_held_by_others(other.as_fd(), 100).expect("asked"));
        assert!(!is_held_by_others(other.as_fd(), 101).expect("asked"), "one byte only");
        share(other.as_fd(), 100).expect("shared locks go together");
        drop((mine, other));
        let third = File::open(file.path()).expect("opens");
        assert!(is_held_by_others(third.as_fd(), 100).expect("asked"), "the twin still holds it");
        drop(twin);
        // Gone with the last descriptor. Another test's child process may have copies of ours
        // until it executes its program.
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_held_by_others(third.as_fd(), 100).expect("asked") {
            assert!(Instant::now() < deadline, "still held");
            std::thread::yield_now();
        }
    }
}
