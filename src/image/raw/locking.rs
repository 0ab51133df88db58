//! Image locks as QEMU takes them (block/file-posix.c), so that QEMU's programs and we refuse one
//! another's images.
//!
//! Byte 100 + n says "I use permission n", byte 200 + n "I do not share permission n"; all are
//! shared locks on one byte each. After taking them the opposite bytes are tested.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::image::options::OpenError;
use crate::sys::lock;

const USE_BASE: i64 = 100;
const UNSHARE_BASE: i64 = 200;

/// A permission of QEMU's block layer: its number, and QEMU's words for a lock that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Permission {
    number: i64,
    refused: &'static str,
    refused_shared: &'static str,
}

const CONSISTENT_READ: Permission = Permission {
    number: 0,
    refused: "\"consistent read\"",
    refused_shared: "shared \"consistent read\"",
};
const WRITE: Permission =
    Permission { number: 1, refused: "\"write\"", refused_shared: "shared \"write\"" };

/// Takes the locks for an image that is opened so. They go when the file is closed.
///
/// # Errors
/// [`OpenError::Locked`] when somebody else's use conflicts, [`OpenError::Lock`] when the locks
/// themselves fail.
pub(super) fn lock(
    fd: BorrowedFd<'_>,
    path: &Path,
    read_only: bool,
    share_rw: bool,
) -> Result<(), OpenError> {
    let used: &[Permission] =
        if read_only { &[CONSISTENT_READ] } else { &[CONSISTENT_READ, WRITE] };
    let unshared: &[Permission] = if share_rw { &[] } else { &[WRITE] };
    let failed =
        |byte| move |source: io::Error| OpenError::Lock { path: path.into(), byte, source };
    let uses = used.iter().map(|p| USE_BASE + p.number);
    for byte in uses.chain(unshared.iter().map(|p| UNSHARE_BASE + p.number)) {
        lock::share(fd, byte).map_err(failed(byte))?;
    }
    let of_used = used.iter().map(|p| (UNSHARE_BASE + p.number, p.refused));
    let of_unshared = unshared.iter().map(|p| (USE_BASE + p.number, p.refused_shared));
    for (byte, what) in of_used.chain(of_unshared) {
        if lock::is_held_by_others(fd, byte).map_err(failed(byte))? {
            return Err(OpenError::Locked { what, path: path.into() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    /// Which bytes somebody holds, seen from a fresh open file.
    fn held(path: &Path) -> Vec<i64> {
        let probe = File::open(path).expect("opens");
        let is_held = |b: &i64| lock::is_held_by_others(probe.as_fd(), *b).expect("asked");
        (90..300).filter(is_held).collect()
    }

    #[test]
    fn the_bytes_are_qemus() {
        for (read_only, share_rw, bytes) in [
            (false, false, &[100i64, 101, 201][..]),
            (true, false, &[100, 201]),
            (false, true, &[100, 101]),
            (true, true, &[100]),
        ] {
            let named = tempfile::NamedTempFile::new().expect("a temporary file");
            lock(named.as_file().as_fd(), named.path(), read_only, share_rw).expect("free");
            assert_eq!(held(named.path()), bytes);
        }
    }

    #[test]
    fn every_pair_of_users_agrees_on_who_may_come() {
        for first in [(false, false), (true, false), (false, true), (true, true)] {
            for second in [(false, false), (true, false), (false, true), (true, true)] {
                let named = tempfile::NamedTempFile::new().expect("a temporary file");
                let path = named.path();
                lock(named.as_file().as_fd(), path, first.0, first.1).expect("free");
                let other = File::open(path).expect("opens");
                let got = lock(other.as_fd(), path, second.0, second.1);
                // A writer conflicts with whoever does not share writing, in either order.
                let expected = if !second.0 && !first.1 {
                    Some("Failed to get \"write\" lock")
                } else if !second.1 && !first.0 {
                    Some("Failed to get shared \"write\" lock")
                } else {
                    None
                };
                match (got, expected) {
                    (Ok(()), None) => {}
                    (Err(e), Some(words)) => {
                        let text = e.to_string();
                        assert!(text.starts_with(words), "{text}");
                        let hint =
                            format!("Is another process using the image [{}]?", path.display());
                        assert!(text.contains(&hint) && text.contains("--share-rw"), "{text}");
                    }
                    (got, expected) => panic!("{first:?} {second:?}: {got:?}, not {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn a_refused_user_leaves_no_lock_behind() {
        let named = tempfile::NamedTempFile::new().expect("a temporary file");
        lock(named.as_file().as_fd(), named.path(), false, false).expect("free");
        let other = File::open(named.path()).expect("opens");
        lock(other.as_fd(), named.path(), true, true).expect("a reader that shares all");
        assert!(lock(other.as_fd(), named.path(), false, true).is_err());
        drop(other);
        assert_eq!(held(named.path()), [100, 101, 201]);
    }
}
