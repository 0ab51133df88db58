//! What is done about an operation that the storage failed.

use super::Errno;

/// The choice for one direction, with the names of QEMU's `werror` and `rerror` (QEMU, "Block
/// device options"; `ignore`, which lies to the guest, is not offered).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    #[default]
    Report,
    /// The disk waits and tries again as long as the storage has no space; all else is told.
    Enospc,
    /// The disk waits and tries again, whatever the error is.
    Stop,
}

impl OnError {
    /// Whether the disk waits because of this error instead of telling the guest.
    #[must_use]
    pub const fn waits(self, errno: Errno) -> bool {
        match self {
            OnError::Report => false,
            OnError::Enospc => errno.is_no_space(),
            OnError::Stop => true,
        }
    }

    /// The name that users give it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            OnError::Report => "report",
            OnError::Enospc => "enospc",
            OnError::Stop => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_waits_for_its_errors_only() {
        let errnos = [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS, libc::ENODEV];
        for (choice, want) in [
            (OnError::Report, [false, false, false, false, false]),
            (OnError::Enospc, [true, true, false, false, false]),
            (OnError::Stop, [true, true, true, true, true]),
        ] {
            assert_eq!(errnos.map(|e| choice.waits(Errno(e))), want, "{}", choice.name());
        }
        assert_eq!(OnError::default(), OnError::Report);
    }
}
