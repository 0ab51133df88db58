//! How an operation ended. Computed in one place from what was asked and what the kernel answered.

use std::fmt;

/// A positive errno, as the kernel reports it (negated) in a completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Whether the storage, or what its owner may use of it, is full.
    #[must_use]
    pub const fn is_no_space(self) -> bool {
        matches!(self.0, libc::ENOSPC | libc::EDQUOT)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

/// The status byte of a virtio-blk request (virtio 1.3, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK.
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR.
    IoErr = 1,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupp = 2,
}

/// How one issued operation ended, from (asked, got). A short transfer is not success (L10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that was asked is done.
    Done,
    /// This many bytes are done (more than 0, fewer than asked); the rest is issued again.
    Short(u32),
    /// The kernel did not start it (EAGAIN) or was interrupted (EINTR): issue it again.
    Again,
    /// It failed, and nothing may be assumed about the range.
    Failed(Errno),
}

impl Outcome {
    /// The outcome of an operation that was to move `asked` bytes, for which the kernel answered
    /// `got` (a byte count, or a negated errno).
    ///
    /// A transfer of 0 bytes where more was asked makes no progress and is an I/O error: whoever
    /// knows that the end of the image reads as zeroes has to say so before calling this.
    #[must_use]
    pub fn of(asked: u32, got: i32) -> Outcome {
        match u32::try_from(got) {
            Ok(n) if n >= asked => Outcome::Done,
            Ok(0) => Outcome::Failed(Errno(libc::EIO)),
            Ok(n) => Outcome::Short(n),
            Err(_) => Outcome::of_errno(got.saturating_neg()),
        }
    }

    /// The outcome of an operation that moves no bytes and answered `got` (0 or a negated errno).
    #[must_use]
    pub fn of_plain(got: i32) -> Outcome {
        if got >= 0 { Outcome::Done } else { Outcome::of_errno(got.saturating_neg()) }
    }

    fn of_errno(errno: i32) -> Outcome {
        match errno {
            libc::EAGAIN | libc::EINTR => Outcome::Again,
            e => Outcome::Failed(Errno(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_names_the_error_it_was_given() {
        assert_eq!(Outcome::of(4096, 4096), Outcome::Done);
        assert_eq!(Outcome::of(4096, 512), Outcome::Short(512));
        assert_eq!(Outcome::of(4096, 0), Outcome::Failed(Errno(libc::EIO)));
        assert_eq!(Outcome::of(4096, -libc::ENOSPC), Outcome::Failed(Errno(libc::ENOSPC)));
        assert_eq!(Outcome::of(4096, -libc::EAGAIN), Outcome::Again);
        assert_eq!(Outcome::of(4096, -libc::EINTR), Outcome::Again);
        assert_eq!(Outcome::of(0, 0), Outcome::Done);
        assert_eq!(Outcome::of_plain(0), Outcome::Done);
        assert_eq!(Outcome::of_plain(-libc::EIO), Outcome::Failed(Errno(libc::EIO)));
    }

    #[test]
    fn hot_path_results_stay_small() {
        assert!(size_of::<Outcome>() <= 8);
        assert_eq!(size_of::<Option<Status>>(), 1);
    }
}
