//! What a file or block device is and what it demands.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::image::Geometry;
use crate::image::options::{MAX_BLOCK_SIZE, OpenError, OpenOptions};
use crate::image::resize::sectors;
use crate::sys::storage::{self, Alignment};

/// What a block device says of itself, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) logical: u32,
    pub(super) physical: u32,
    /// 0 when the device cannot discard.
    pub(super) discard_granularity: u32,
}

/// What is asked once, at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Length in bytes.
    pub(super) size: u64,
    /// The file system's preferred block, in bytes.
    pub(super) preferred: u64,
    /// Set for a block device.
    pub(super) device: Option<Device>,
}

/// Refuses what has no content to serve.
pub(super) fn check_kind(path: &Path, meta: &Metadata) -> Result<(), OpenError> {
    let kind = meta.file_type();
    if kind.is_dir() {
        Err(OpenError::Directory(path.into()))
    } else if !kind.is_file() && !kind.is_block_device() {
        Err(OpenError::Kind(path.into()))
    } else {
        Ok(())
    }
}

/// Size and blocks of an open file.
pub(super) fn facts(file: &File) -> io::Result<Facts> {
    let meta = file.metadata()?;
    let preferred = meta.blksize();
    let size = size(file, &meta)?;
    if !meta.file_type().is_block_device() {
        return Ok(Facts { size, preferred, device: None });
    }
    let (logical, physical) = storage::block_sizes(file.as_fd())?;
    let (major, minor) = storage::device_numbers(meta.rdev());
    let discard_granularity = discard_granularity(major, minor);
    Ok(Facts { size, preferred, device: Some(Device { logical, physical, discard_granularity }) })
}

/// How long an open file or device is now, in bytes.
pub(super) fn size(file: &File, meta: &Metadata) -> io::Result<u64> {
    if meta.file_type().is_block_device() {
        // The end of a device is its size; its inode says 0. Nothing goes by the position.
        return (&*file).seek(SeekFrom::End(0));
    }
    Ok(meta.len())
}

/// The discard granularity in sysfs; a partition's queue is its disk's. 0 when there is none.
fn discard_granularity(major: u32, minor: u32) -> u32 {
    let of = |queue: &str| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/discard_granularity");
        std::fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()
    };
    of("queue").or_else(|| of("../queue")).unwrap_or(0)
}

/// What direct I/O on an open file demands; `None` when it cannot do it.
pub(super) fn direct(file: &File) -> io::Result<Option<Alignment>> {
    let found = storage::direct_alignment(file.as_fd())?;
    // A buffer of ours is aligned to at most this much.
    Ok(found.filter(|a| a.memory <= MAX_BLOCK_SIZE && a.offset <= MAX_BLOCK_SIZE))
}

/// The geometry that the guest sees, from what was found and what was asked for.
///
/// The default logical block is the smallest that the storage can do: 512 on a file, or what
/// direct I/O needs; the device's own on a block device. A length that is no multiple of it is
/// rounded up on a file (the rest reads as zeroes) and down on a device (there is nothing to
/// write to).
pub(super) fn geometry(
    path: &Path,
    facts: &Facts,
    alignment: Option<Alignment>,
    options: &OpenOptions,
) -> Result<Geometry, OpenError> {
    let needed = alignment.map_or(512, |a| a.offset.max(512));
    let natural = facts.device.map_or(512, |d| d.logical).max(needed);
    let logical = options.logical_block.unwrap_or(natural);
    if logical < needed {
        return Err(OpenError::BlockTooSmall {
            path: path.into(),
            given: logical,
            needed,
            instead: super::indirect(options),
        });
    }
    let capacity = sectors(facts.size, logical, facts.device.is_none());
    let capacity = capacity.ok_or_else(|| OpenError::TooLarge(path.into()))?;
    if capacity == 0 {
        return Err(OpenError::Empty(path.into()));
    }
    // A network file system may prefer a megabyte, which is no block.
    let file_block =
        u32::try_from(facts.preferred.clamp(512, 4096)).unwrap_or(4096).next_power_of_two();
    let (physical, granularity) =
        facts.device.map_or((file_block, file_block), |d| (d.physical, d.discard_granularity));
    let power = |n: u32| if n.is_power_of_two() { n.max(logical) } else { logical };
    Ok(Geometry {
        capacity,
        logical_block: logical,
        physical_block: options.physical_block.map_or_else(|| power(physical), |p| p.max(logical)),
        discard_granularity: power(granularity),
    })
}

/// Whether the block device behind a file, or the file if it is one, has to seek. A file system
/// without a block device of its own (tmpfs, network, several devices) does not tell: no.
pub(super) fn is_rotational(found: &Metadata) -> bool {
    let is_device = found.file_type().is_block_device();
    let (major, minor) =
        storage::device_numbers(if is_device { found.rdev() } else { found.dev() });
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own: its disk is the directory above.
    ["queue", "../queue"].iter().any(|queue| {
        std::fs::read_to_string(format!("{device}/{queue}/rotational"))
            .is_ok_and(|text| text.trim() == "1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::CacheMode;

    fn file(size: u64) -> Facts {
        Facts { size, preferred: 4096, device: None }
    }

    fn device(size: u64, logical: u32, physical: u32, discard_granularity: u32) -> Facts {
        let device = Some(Device { logical, physical, discard_granularity });
        Facts { size, preferred: 4096, device }
    }

    fn of(
        facts: Facts,
        direct: Option<u32>,
        logical: Option<u32>,
    ) -> Result<(u64, u32, u32, u32), OpenError> {
        let alignment = direct.map(|offset| Alignment { memory: 512, offset });
        let options = OpenOptions { logical_block: logical, ..OpenOptions::default() };
        geometry(Path::new("disk.img"), &facts, alignment, &options)
            .map(|g| (g.capacity, g.logical_block, g.physical_block, g.discard_granularity))
    }

    #[test]
    fn a_files_length_is_rounded_up_and_a_devices_down() {
        assert_eq!(of(file(1000), None, None).expect("fits"), (2, 512, 4096, 4096));
        assert_eq!(of(file(1000), None, Some(4096)).expect("fits"), (8, 4096, 4096, 4096));
        assert_eq!(of(file(8192), Some(512), None).expect("fits"), (16, 512, 4096, 4096));
        let odd = device(8192 + 512, 512, 512, 0);
        assert_eq!(of(odd, Some(512), None).expect("fits"), (17, 512, 512, 512));
        assert_eq!(of(odd, Some(512), Some(4096)).expect("fits"), (16, 4096, 4096, 4096));
    }

    #[test]
    fn the_default_block_is_the_smallest_that_works() {
        assert_eq!(of(file(1 << 20), Some(4096), None).expect("fits").1, 4096);
        assert_eq!(of(file(1 << 20), None, None).expect("fits").1, 512);
        let four_k = device(1 << 20, 4096, 4096, 8192);
        assert_eq!(of(four_k, Some(4096), None).expect("fits"), (2048, 4096, 4096, 8192));
        assert_eq!(of(four_k, None, None).expect("fits").1, 4096);
        assert_eq!(of(four_k, None, Some(512)).expect("cached").1, 512);
        let e = of(four_k, Some(4096), Some(512)).expect_err("too small").to_string();
        assert!(e.contains("--logical-block-size=4096") && e.contains("--cache=writeback"), "{e}");
    }

    #[test]
    fn odd_answers_of_devices_do_not_reach_the_guest() {
        let odd = device(1 << 20, 512, 0, 3000);
        assert_eq!(of(odd, None, None).expect("fits"), (2048, 512, 512, 512));
        let huge = Facts { preferred: 1 << 20, ..file(1 << 20) };
        assert_eq!(of(huge, None, None).expect("fits"), (2048, 512, 4096, 4096));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let e = of(file(i64::MAX.unsigned_abs()), None, Some(4096)).expect_err("too large");
        assert!(e.to_string().contains("too large"), "{e}");
        let e = of(device(2048, 512, 512, 0), None, Some(4096)).expect_err("empty");
        assert!(e.to_string().contains("empty"), "{e}");
    }

    #[test]
    fn the_remedy_keeps_the_guests_view_of_the_cache() {
        let options = OpenOptions { cache: CacheMode::Directsync, ..OpenOptions::default() };
        assert_eq!(super::super::indirect(&options), CacheMode::Writethrough);
        assert_eq!(super::super::indirect(&OpenOptions::default()), CacheMode::Writeback);
    }
}
