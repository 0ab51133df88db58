//! How an image is to be opened, and why it cannot be.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

/// The largest block size that may be chosen, in bytes.
pub const MAX_BLOCK_SIZE: u32 = 65536;

/// Whether the host's page cache is used and what a flush does, with QEMU's names and meanings
/// (`cache=` of qemu(1)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Direct I/O; the guest sees a volatile write cache and flushes it.
    #[default]
    None,
    /// Page cache; the guest flushes it.
    Writeback,
    /// Page cache, every write durable when it completes.
    Writethrough,
    /// Direct I/O, every write durable when it completes.
    Directsync,
    /// Page cache; flushes do nothing. A host crash loses data.
    Unsafe,
}

impl CacheMode {
    /// All modes, in the order of the manual.
    pub const ALL: [CacheMode; 5] = [
        CacheMode::None,
        CacheMode::Writeback,
        CacheMode::Writethrough,
        CacheMode::Directsync,
        CacheMode::Unsafe,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CacheMode::None => "none",
            CacheMode::Writeback => "writeback",
            CacheMode::Writethrough => "writethrough",
            CacheMode::Directsync => "directsync",
            CacheMode::Unsafe => "unsafe",
        }
    }

    /// Whether the image is opened with O_DIRECT.
    #[must_use]
    pub const fn direct(self) -> bool {
        matches!(self, CacheMode::None | CacheMode::Directsync)
    }

    /// What the guest finds in the `writeback` field of config space before it changes it: `false`
    /// means that writes are durable when they complete.
    #[must_use]
    pub const fn initial_writeback(self) -> bool {
        !matches!(self, CacheMode::Writethrough | CacheMode::Directsync)
    }

    /// Whether a flush has nothing to do.
    #[must_use]
    pub const fn flush_is_noop(self) -> bool {
        matches!(self, CacheMode::Unsafe)
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no cache mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no cache mode: use none, writeback, writethrough, directsync or unsafe")]
pub struct UnknownCacheMode(String);

impl FromStr for CacheMode {
    type Err = UnknownCacheMode;

    fn from_str(word: &str) -> Result<CacheMode, UnknownCacheMode> {
        let found = CacheMode::ALL.into_iter().find(|mode| mode.name() == word);
        found.ok_or_else(|| UnknownCacheMode(word.to_string()))
    }
}

/// What the operator wants of an image.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Refuse writes; the file itself is opened for reading only.
    pub read_only: bool,
    /// How the page cache and flushes are used.
    pub cache: CacheMode,
    /// Logical block size in bytes; `None` takes the smallest that the storage can do.
    pub logical_block: Option<u32>,
    /// Physical block size in bytes; `None` takes the storage's own.
    pub physical_block: Option<u32>,
    /// Others may write the image at the same time (a cluster file system sees to order).
    pub share_rw: bool,
    /// Guest memory is to be registered with the kernel where that saves something: with direct I/O
    /// on what does not lie in memory.
    pub registered_buffers: bool,
}

/// Why an image cannot be opened: one line with the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("{0}: no such file: correct the path, or make an image (truncate -s 10G {0})")]
    Missing(PathBuf),
    /// The process may not open it as asked.
    #[error("{0}: permission denied: run as a user who may {1} it{2}")]
    Permission(PathBuf, &'static str, &'static str),
    /// The path names a directory.
    #[error("{0}: is a directory: name a raw image file or a block device")]
    Directory(PathBuf),
    /// The path names something that has no content to serve.
    #[error("{0}: is neither a regular file nor a block device: name one of these")]
    Kind(PathBuf),
    /// Direct I/O is not possible.
    #[error("{path}: no direct I/O (O_DIRECT) on this file system: use --cache={instead}")]
    NoDirectIo {
        /// The image.
        path: PathBuf,
        /// The cache mode that means the same without direct I/O.
        instead: CacheMode,
    },
    /// The file has no content.
    #[error("{0}: is empty: give it a size first (truncate -s 10G {0})")]
    Empty(PathBuf),
    /// The file is too long for file offsets once rounded up to a block.
    #[error("{0}: is too large: the limit is 2^63 bytes less one block")]
    TooLarge(PathBuf),
    /// A block size that no guest understands.
    #[error("{what} block size {given}: must be a power of two from {least} to {most}")]
    BlockSize {
        /// Which of the two.
        what: &'static str,
        /// As given, in bytes.
        given: u32,
        /// Smallest possible value.
        least: u32,
        /// Largest possible value.
        most: u32,
    },
    /// Direct I/O on this storage cannot transfer blocks that small.
    #[error(
        "{path}: logical block size {given} is below the {needed} that direct I/O needs here: \
         use --logical-block-size={needed} or --cache={instead}"
    )]
    BlockTooSmall {
        /// The image.
        path: PathBuf,
        /// As given, in bytes.
        given: u32,
        /// What direct I/O needs, in bytes.
        needed: u32,
        /// The cache mode that means the same without direct I/O.
        instead: CacheMode,
    },
    /// Somebody else uses the image.
    #[error(
        "Failed to get {what} lock: Is another process using the image [{path}]? Stop it, \
         or let all of them share the image (--share-rw)"
    )]
    Locked {
        /// QEMU's word for the lock, such as `"write"`.
        what: &'static str,
        /// The image.
        path: PathBuf,
    },
    /// The locks themselves failed.
    #[error(
        "{path}: Failed to lock byte {byte}: {source}: stop whoever locks the whole file, \
         or use a file system with open-file-description locks"
    )]
    Lock {
        /// The image.
        path: PathBuf,
        /// Offset of the byte.
        byte: i64,
        /// What fcntl answered.
        source: io::Error,
    },
    /// The size of a null image is missing or no number.
    #[error(
        "null:{0}: the size of a null image is a number with K, M, G or T: use null:10G, or \
             null:10G,read-zeroes=off"
    )]
    NullSize(String),
    /// Something else that the kernel refused.
    #[error("{path}: cannot {doing}: {source}")]
    Io {
        /// The image.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// Checks the block sizes as far as they can be checked without the storage.
///
/// # Errors
/// [`OpenError::BlockSize`].
pub(super) fn check_blocks(options: &OpenOptions) -> Result<(), OpenError> {
    let check = |what, given: Option<u32>, least: u32| match given {
        Some(n) if !n.is_power_of_two() || n < least || n > MAX_BLOCK_SIZE => {
            Err(OpenError::BlockSize { what, given: n, least, most: MAX_BLOCK_SIZE })
        }
        _ => Ok(()),
    };
    check("logical", options.logical_block, 512)?;
    check("physical", options.physical_block, options.logical_block.unwrap_or(512))
}

/// A size such as `512`, `64K`, `10G`, `1T` in bytes. `None` for anything else, for 0 and for
/// what exceeds file offsets.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let shift = match suffix {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    let size = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let limit = i64::MAX.unsigned_abs() - u64::from(MAX_BLOCK_SIZE);
    (size > 0 && size <= limit).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_modes_mean_what_qemu_means() {
        let table: Vec<_> = CacheMode::ALL
            .iter()
            .map(|m| (m.name(), m.direct(), m.initial_writeback(), m.flush_is_noop()))
            .collect();
        assert_eq!(
            table,
            [
                ("none", true, true, false),
                ("writeback", false, true, false),
                ("writethrough", false, false, false),
                ("directsync", true, false, false),
                ("unsafe", false, true, true),
            ]
        );
        for mode in CacheMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let e = "writeback ".parse::<CacheMode>().expect_err("a space too much");
        assert!(e.to_string().contains("directsync"), "{e}");
    }

    #[test]
    fn sizes_are_read_strictly() {
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("64K"), Some(65536));
        assert_eq!(parse_size("3m"), Some(3 << 20));
        assert_eq!(parse_size("10G"), Some(10 << 30));
        assert_eq!(parse_size("2T"), Some(2 << 40));
        for bad in ["", "0", "G", "1GB", "1.5G", "-1", "+1", " 1G", "8388608T", "1P1"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn block_sizes_are_powers_of_two_in_range() {
        let with = |logical_block, physical_block| OpenOptions {
            logical_block,
            physical_block,
            ..OpenOptions::default()
        };
        for good in [(None, None), (Some(512), None), (Some(4096), Some(65536)), (None, Some(512))]
        {
            assert!(check_blocks(&with(good.0, good.1)).is_ok(), "{good:?}");
        }
        for (logical, physical, text) in [
            (Some(0), None, "logical block size 0: must be a power of two from 512 to 65536"),
            (Some(513), None, "logical block size 513: must be a power of two from 512 to 65536"),
            (Some(256), None, "logical block size 256: must be a power of two from 512 to 65536"),
            (
                Some(131_072),
                None,
                "logical block size 131072: must be a power of two from 512 to 65536",
            ),
            (
                Some(4096),
                Some(512),
                "physical block size 512: must be a power of two from 4096 to 65536",
            ),
        ] {
            let e = check_blocks(&with(logical, physical)).expect_err("refused");
            assert_eq!(e.to_string(), text);
        }
    }
}
