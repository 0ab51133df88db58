//! How long a raw image is, now: every thread asks, a resize changes it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::SECTOR_SIZE;
use crate::image::resize::{self, ResizeError};

/// The length of an image in bytes, and the disk that it makes.
#[derive(Debug)]
pub(super) struct Extent {
    /// Beyond it there may be nothing but the rest of the last block.
    bytes: AtomicU64,
    /// The least length from which it has grown; `u64::MAX` when it never has.
    grown_from: AtomicU64,
    /// Logical block, in bytes.
    block: u32,
    /// A partial block at the end belongs to the disk: there is a file that can grow.
    rounded_up: bool,
}

impl Extent {
    /// An image of `bytes` bytes; a file if a partial block at its end can be written.
    pub(super) fn new(bytes: u64, block: u32, is_file: bool) -> Extent {
        Extent {
            bytes: AtomicU64::new(bytes),
            grown_from: AtomicU64::new(u64::MAX),
            block,
            rounded_up: is_file,
        }
    }

    /// Length in bytes, as last taken.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// The disk's end, in sectors.
    pub(super) fn sectors(&self) -> u64 {
        resize::sectors(self.bytes(), self.block, self.rounded_up).unwrap_or(0)
    }

    /// The disk's end, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.sectors() * SECTOR_SIZE
    }

    /// Whether a read that stopped at `end` may have seen an end that is none any more.
    pub(super) fn has_grown_past(&self, end: u64) -> bool {
        end >= self.grown_from.load(Ordering::Acquire) && end < self.bytes()
    }

    /// The image is `bytes` bytes long from now on. One thread at a time calls this.
    ///
    /// # Errors
    /// A length that makes no disk; nothing has changed.
    pub(super) fn take(&self, bytes: u64) -> Result<(), ResizeError> {
        match resize::sectors(bytes, self.block, self.rounded_up) {
            None => return Err(ResizeError::TooLarge),
            Some(0) => return Err(ResizeError::Empty),
            Some(_) => {}
        }
        let before = self.bytes();
        if bytes > before {
            // First: who sees the new length knows that there was another.
            self.grown_from.fetch_min(before, Ordering::AcqRel);
        }
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_with_a_block_and_a_device_before_it() {
        let of = |is_file| Extent::new(10_000, 4096, is_file);
        assert_eq!((of(true).sectors(), of(true).end()), (24, 12288));
        assert_eq!((of(false).sectors(), of(false).end()), (16, 8192));
    }

    #[test]
    fn what_makes_no_disk_is_not_taken() {
        let file = Extent::new(10_000, 4096, true);
        assert!(matches!(file.take(0), Err(ResizeError::Empty)));
        assert!(matches!(file.take(u64::MAX), Err(ResizeError::TooLarge)));
        let device = Extent::new(8192, 4096, false);
        assert!(matches!(device.take(4095), Err(ResizeError::Empty)), "not one block");
        assert_eq!((file.bytes(), device.bytes()), (10_000, 8192));
        file.take(1).expect("one block, nearly empty");
        assert_eq!(file.sectors(), 8);
    }

    #[test]
    fn an_end_that_was_one_is_remembered() {
        let file = Extent::new(1000, 512, true);
        assert!(!file.has_grown_past(1000), "it is the end");
        file.take(5000).expect("longer");
        assert!(file.has_grown_past(1000) && file.has_grown_past(4999));
        assert!(!file.has_grown_past(999), "there it never ended");
        assert!(!file.has_grown_past(5000), "the end of now");
        file.take(9000).expect("longer still");
        assert!(file.has_grown_past(1000), "the first end is not forgotten");
        file.take(800).expect("shorter");
        assert!(!file.has_grown_past(1000), "beyond the end of now");
        file.take(2000).expect("longer again");
        assert!(file.has_grown_past(800));
    }
}
