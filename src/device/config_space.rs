//! What the guest reads of the device: `struct virtio_blk_config` (virtio 1.3, 5.2.4) and the
//! feature bits.
//!
//! Front-ends ask for different lengths: QEMU 57 bytes or more, cloud-hypervisor 60 (older ones
//! 256), SPDK's initiator 256. Whoever asks gets what there is, and zeroes after it.
//!
//! Not offered: SIZE_MAX, because a segment of any length is taken (buffers are checked per
//! descriptor and bounded by the length of one transfer); GEOMETRY, SECURE_ERASE and ZONED, which
//! stand for nothing we serve; RING_RESET, because QEMU's vhost-user-blk has no way to tell a
//! back-end of it, so a reset ring would go on being served.

use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES, virtio_blk_config,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use super::slots::MAX_RANGES;
use crate::block::SECTOR_SIZE;
use crate::image::{Geometry, Traits};

/// Most data segments that a driver is asked to use (`seg_max`): with header and status 128
/// descriptors, what fits the smallest common queue. More are accepted.
pub const SEG_MAX: u32 = 126;

/// Most sectors of one discard segment: 2 GiB less a page, as QEMU.
pub const MAX_DISCARD_SECTORS: u32 = 4_194_296;

/// Most sectors of one write-zeroes segment: 128 MiB. Where the file system cannot zero a range, it
/// is written, and one request should not keep the disk busy for seconds.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 262_144;

/// Bytes of `struct virtio_blk_config`.
pub const CONFIG_SIZE: usize = size_of::<virtio_blk_config>();

/// Where the `writeback` byte is, the only one that a driver may write.
pub const WRITEBACK_OFFSET: u32 = 32;
const WRITEBACK: usize = WRITEBACK_OFFSET as usize;

/// Where `capacity` is: 8 bytes, little-endian.
pub const CAPACITY: Range<usize> =
    offset_of!(virtio_blk_config, capacity)..offset_of!(virtio_blk_config, capacity) + 8;

const _: () = assert!(WRITEBACK == offset_of!(virtio_blk_config, wce));

/// A write to config space that goes beyond the `writeback` byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len} bytes at offset {offset} of config space: only writeback (1 byte at 32) is writable"
)]
pub struct ReadOnlyConfig {
    /// First byte.
    pub offset: u32,
    /// Number of bytes.
    pub len: usize,
}

/// The device's config space and feature bits: fixed at start, except for `capacity`, which a resize
/// changes, and for `writeback`, whose live value is an argument.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    features: u64,
    /// In sectors of 512 bytes. What requests are held against, and what the guest reads, is one word.
    capacity: AtomicU64,
}

impl ConfigSpace {
    /// The config space of a disk of this geometry, offered with up to `queues` virtqueues.
    #[must_use]
    pub fn new(geometry: &Geometry, traits: &Traits, queues: u16) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; CONFIG_SIZE],
            features: features_of(traits),
            capacity: AtomicU64::new(geometry.capacity),
        };
        let block = geometry.logical_block;
        let physical = geometry.physical_block.max(block);
        let in_blocks = u16::try_from(physical / block).unwrap_or(u16::MAX);
        let exponent = (physical / block).max(1).ilog2();
        let alignment = u64::from(geometry.discard_granularity.max(block)) / SECTOR_SIZE;
        let alignment = u32::try_from(alignment).unwrap_or(u32::MAX);
        let ranges = u32::try_from(MAX_RANGES).unwrap_or(u32::MAX);
        let put = &mut |at: usize, bytes: &[u8]| {
            space.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(offset_of!(virtio_blk_config, seg_max), &SEG_MAX.to_le_bytes());
        put(offset_of!(virtio_blk_config, blk_size), &block.to_le_bytes());
        put(
            offset_of!(virtio_blk_config, physical_block_exp),
            &[u8::try_from(exponent).unwrap_or(0)],
        );
        put(offset_of!(virtio_blk_config, min_io_size), &in_blocks.to_le_bytes());
        put(offset_of!(virtio_blk_config, num_queues), &queues.to_le_bytes());
        put(offset_of!(virtio_blk_config, max_discard_sectors), &MAX_DISCARD_SECTORS.to_le_bytes());
        put(offset_of!(virtio_blk_config, max_discard_seg), &ranges.to_le_bytes());
        put(offset_of!(virtio_blk_config, discard_sector_alignment), &alignment.to_le_bytes());
        put(
            offset_of!(virtio_blk_config, max_write_zeroes_sectors),
            &MAX_WRITE_ZEROES_SECTORS.to_le_bytes(),
        );
        put(offset_of!(virtio_blk_config, max_write_zeroes_seg), &ranges.to_le_bytes());
        put(offset_of!(virtio_blk_config, write_zeroes_may_unmap), &[1]);
        space
    }

    /// The virtio feature bits that the device offers (transport bits of vhost-user are added by the
    /// session).
    #[must_use]
    pub const fn features(&self) -> u64 {
        self.features
    }

    /// The disk's size now, in sectors of 512 bytes. Any request that a driver made because it knew a
    /// new size is seen after that size: the driver read it first.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    /// The disk has so many sectors of 512 bytes from now on. What grows has to be there already; what
    /// shrinks may still have requests in flight beyond the new end.
    pub fn set_capacity(&self, sectors: u64) {
        self.capacity.store(sectors, Ordering::Release);
    }

    /// Fills `data` with what lies at `offset`; zeroes beyond the end. `writeback` is the live value.
    pub fn read(&self, offset: u32, data: &mut [u8], writeback: bool) {
        data.fill(0);
        let mut bytes = self.bytes;
        bytes[WRITEBACK] = u8::from(writeback);
        bytes[CAPACITY].copy_from_slice(&self.capacity().to_le_bytes());
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(CONFIG_SIZE);
        let n = data.len().min(CONFIG_SIZE - start);
        data[..n].copy_from_slice(&bytes[start..start + n]);
    }

    /// A driver's write: the new value of `writeback`; `None` for a write of no bytes.
    ///
    /// # Errors
    /// [`ReadOnlyConfig`] when any other byte would be written. Nothing is changed then.
    pub fn write(&self, offset: u32, data: &[u8]) -> Result<Option<bool>, ReadOnlyConfig> {
        match data {
            [] => Ok(None),
            [value] if offset == WRITEBACK_OFFSET => Ok(Some(*value != 0)),
            _ => Err(ReadOnlyConfig { offset, len: data.len() }),
        }
    }
}

fn features_of(traits: &Traits) -> u64 {
    let offered = [
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_CONFIG_WCE,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
    ];
    let always = offered.iter().fold(0, |bits, bit| bits | 1 << bit);
    if traits.read_only { always | 1 << VIRTIO_BLK_F_RO } else { always }
}

#[cfg(test)]
mod tests;
