//! An image that changes its size while it is served: what can be in the way.

use std::io;

use crate::block::SECTOR_SIZE;

/// Why a size could not be taken or made. The image goes on as it was, with the size that it had.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// The storage did not say how long it is.
    #[error("its size cannot be asked ({0}): look at the storage")]
    Asking(io::Error),
    /// Nothing is left of it.
    #[error("it has become empty: a disk needs at least one block; make it longer")]
    Empty,
    /// More than the kernel can address.
    #[error("it would be larger than Linux can address: give less than 8 EiB")]
    TooLarge,
    /// A size that does not end with a block.
    #[error("{bytes} bytes are no multiple of its blocks of {block}: give whole blocks")]
    Unaligned {
        /// What was asked for.
        bytes: u64,
        /// The logical block size.
        block: u32,
    },
    /// It is not for us to change its size.
    #[error("{0}")]
    NotOurs(&'static str),
    /// ftruncate(2).
    #[error("its size cannot be changed ({0}): look at room and limits of its file system")]
    Setting(io::Error),
}

/// The sectors of a disk on `bytes` bytes of storage with blocks of `block` bytes (a power of two):
/// the last, partial block counts if it may be `rounded_up`. `None` when there are more than Linux
/// can address.
pub(super) fn sectors(bytes: u64, block: u32, rounded_up: bool) -> Option<u64> {
    let block = u64::from(block);
    let whole =
        if rounded_up { bytes.checked_next_multiple_of(block)? } else { bytes / block * block };
    let most = i64::MAX.unsigned_abs() / SECTOR_SIZE * SECTOR_SIZE;
    (whole <= most).then_some(whole / SECTOR_SIZE)
}

/// Refuses a new length that no disk with such blocks can have.
pub(super) fn check_len(bytes: u64, block: u32) -> Result<(), ResizeError> {
    match sectors(bytes, block, true) {
        None => Err(ResizeError::TooLarge),
        Some(0) => Err(ResizeError::Empty),
        Some(_) if !bytes.is_multiple_of(u64::from(block)) => {
            Err(ResizeError::Unaligned { bytes, block })
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_partial_block_counts_where_it_can_be_written() {
        assert_eq!(sectors(1025, 512, true), Some(3));
        assert_eq!(sectors(1025, 512, false), Some(2));
        assert_eq!(sectors(8192, 4096, false), Some(16));
        assert_eq!(sectors(0, 4096, true), Some(0));
        assert_eq!(sectors(1, 65536, true), Some(128));
    }

    #[test]
    fn what_linux_cannot_address_is_no_size() {
        let most = i64::MAX.unsigned_abs() / 512 * 512;
        assert_eq!(sectors(most, 512, true), Some(most / 512));
        assert_eq!(sectors(most + 1, 512, true), None);
        assert_eq!(sectors(u64::MAX, 512, true), None, "not even rounded");
        assert_eq!(sectors(u64::MAX, 512, false), None);
    }

    #[test]
    fn a_length_is_made_of_whole_blocks() {
        check_len(4096, 512).expect("eight blocks");
        assert!(matches!(check_len(0, 512), Err(ResizeError::Empty)));
        assert!(matches!(check_len(u64::MAX, 512), Err(ResizeError::TooLarge)));
        let refused = check_len(4608, 4096).expect_err("half a block").to_string();
        assert!(refused.contains("4608") && refused.contains("4096"), "{refused}");
    }
}
