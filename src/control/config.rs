//! Config space as GET_CONFIG and SET_CONFIG see it.

use std::sync::atomic::Ordering;

use super::refusal::Refusal;
use crate::device::Disk;

/// Where some front-ends believe that the device's own words begin (virtio-mmio's register space;
/// cloud-hypervisor until v46). No config space of ours is that long, so both can be served.
const MMIO_BASE: u32 = 0x100;

/// What a write of config space did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the byte already had that value.
    None,
    /// Write-back is on: writes may stay in caches until a flush.
    CacheOn,
    /// Write-back is off; what was written before still has to be made durable.
    CacheOff,
}

/// Virtio feature bits that the device offers.
#[must_use]
pub fn features(disk: &Disk) -> u64 {
    disk.config.features()
}

/// `size` bytes of config space at `offset`. What lies behind its end reads as zeroes: front-ends
/// ask for more than there is (SPDK's initiator for 256 bytes), and fail on a shorter answer.
///
/// # Errors
/// A size that does not fit this host's memory.
pub fn read(disk: &Disk, offset: u32, size: u32) -> Result<Vec<u8>, Refusal> {
    let len = usize::try_from(size).map_err(|_| Refusal::Config {
        offset,
        len: usize::MAX,
        why: "more than can be answered",
    })?;
    let mut bytes = vec![0; len];
    disk.config.read(device_offset(offset), &mut bytes, disk.writeback.load(Ordering::SeqCst));
    Ok(bytes)
}

/// Writes config space: `writeback`, or nothing.
///
/// # Errors
/// Any other byte.
pub fn write(disk: &Disk, offset: u32, bytes: &[u8]) -> Result<Change, Refusal> {
    let written = disk.config.write(device_offset(offset), bytes).map_err(|_| Refusal::Config {
        offset,
        len: bytes.len(),
        why: "only writeback (1 byte at 32) can be written",
    })?;
    let Some(on) = written else {
        return Ok(Change::None);
    };
    Ok(match (disk.writeback.swap(on, Ordering::SeqCst), on) {
        (false, true) => Change::CacheOn,
        (true, false) => Change::CacheOff,
        _ => Change::None,
    })
}

fn device_offset(offset: u32) -> u32 {
    offset.checked_sub(MMIO_BASE).unwrap_or(offset)
}

#[cfg(test)]
mod tests;
