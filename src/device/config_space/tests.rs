use std::mem::offset_of;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_GEOMETRY, VIRTIO_BLK_F_SECURE_ERASE, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_ZONED,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_RESET;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX as EVENT_IDX;

use super::*;

const GEOMETRY: Geometry = Geometry {
    capacity: 0x0102_0304_0506_0708,
    logical_block: 512,
    physical_block: 4096,
    discard_granularity: 65536,
};
const TRAITS: Traits =
    Traits { read_only: false, flush_is_noop: false, exclusive: true, dsync: true };

fn space() -> ConfigSpace {
    ConfigSpace::new(&GEOMETRY, &TRAITS, 0x0a0b)
}

fn whole(space: &ConfigSpace, writeback: bool) -> [u8; 256] {
    let mut bytes = [0xee; 256];
    space.read(0, &mut bytes, writeback);
    bytes
}

#[test]
fn the_bindings_lay_the_structure_out_as_the_specification() {
    // virtio 1.3, 5.2.4, counted by hand.
    let offsets = [
        (offset_of!(virtio_blk_config, capacity), 0),
        (offset_of!(virtio_blk_config, size_max), 8),
        (offset_of!(virtio_blk_config, seg_max), 12),
        (offset_of!(virtio_blk_config, geometry), 16),
        (offset_of!(virtio_blk_config, blk_size), 20),
        (offset_of!(virtio_blk_config, physical_block_exp), 24),
        (offset_of!(virtio_blk_config, alignment_offset), 25),
        (offset_of!(virtio_blk_config, min_io_size), 26),
        (offset_of!(virtio_blk_config, opt_io_size), 28),
        (offset_of!(virtio_blk_config, wce), 32),
        (offset_of!(virtio_blk_config, num_queues), 34),
        (offset_of!(virtio_blk_config, max_discard_sectors), 36),
        (offset_of!(virtio_blk_config, max_discard_seg), 40),
        (offset_of!(virtio_blk_config, discard_sector_alignment), 44),
        (offset_of!(virtio_blk_config, max_write_zeroes_sectors), 48),
        (offset_of!(virtio_blk_config, max_write_zeroes_seg), 52),
        (offset_of!(virtio_blk_config, write_zeroes_may_unmap), 56),
        (offset_of!(virtio_blk_config, max_secure_erase_sectors), 60),
        (offset_of!(virtio_blk_config, zoned), 72),
        (CONFIG_SIZE, 96),
    ];
    for (ours, specified) in offsets {
        assert_eq!(ours, specified);
    }
}

#[test]
fn every_field_lies_where_the_guest_looks() {
    let bytes = whole(&space(), true);
    let mut want = [0; 256];
    want[..8].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
    want[12] = 126;
    want[20..24].copy_from_slice(&512_u32.to_le_bytes());
    want[24] = 3;
    want[26] = 8;
    want[32] = 1;
    want[34..36].copy_from_slice(&[0x0b, 0x0a]);
    want[36..40].copy_from_slice(&4_194_296_u32.to_le_bytes());
    want[40..44].copy_from_slice(&256_u32.to_le_bytes());
    want[44..48].copy_from_slice(&128_u32.to_le_bytes());
    want[48..52].copy_from_slice(&262_144_u32.to_le_bytes());
    want[52..56].copy_from_slice(&256_u32.to_le_bytes());
    want[56] = 1;
    assert_eq!(bytes, want);
}

#[test]
fn a_disk_of_4096_byte_blocks_says_so() {
    let geometry = Geometry {
        capacity: 8,
        logical_block: 4096,
        physical_block: 4096,
        discard_granularity: 512,
    };
    let bytes = whole(&ConfigSpace::new(&geometry, &TRAITS, 1), false);
    assert_eq!(bytes[20..24], 4096_u32.to_le_bytes());
    assert_eq!((bytes[24], bytes[26], bytes[32]), (0, 1, 0));
    assert_eq!(bytes[44..48], 8_u32.to_le_bytes(), "never finer than a block");
}

#[test]
fn offered_features_are_exactly_these() {
    let space = space();
    let bits = |space: &ConfigSpace| (0..64).filter(|b| space.features() >> b & 1 != 0).collect();
    let writable: Vec<u32> = bits(&space);
    assert_eq!(writable, [2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 32]);
    let read_only = ConfigSpace::new(&GEOMETRY, &Traits { read_only: true, ..TRAITS }, 1);
    let read_only: Vec<u32> = bits(&read_only);
    assert_eq!(read_only, [2, 5, 6, 9, 10, 11, 12, 13, 14, 28, 29, 32]);
    for never in [
        VIRTIO_BLK_F_SIZE_MAX,
        VIRTIO_BLK_F_GEOMETRY,
        VIRTIO_BLK_F_SECURE_ERASE,
        VIRTIO_BLK_F_ZONED,
        VIRTIO_F_RING_RESET,
    ] {
        assert!(!writable.contains(&never), "bit {never} is offered");
    }
    assert!(writable.contains(&EVENT_IDX));
}

#[test]
fn a_new_capacity_is_what_everybody_reads() {
    let space = space();
    let before = whole(&space, true);
    assert_eq!(space.capacity(), GEOMETRY.capacity);
    space.set_capacity(0x1122_3344_5566_7788);
    let after = whole(&space, true);
    assert_eq!(after[CAPACITY], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(after[8..], before[8..], "and nothing else has changed");
    assert_eq!(space.capacity(), 0x1122_3344_5566_7788);
}

#[test]
fn only_writeback_can_be_written() {
    let space = space();
    assert_eq!(space.write(32, &[0]), Ok(Some(false)));
    assert_eq!(space.write(32, &[1]), Ok(Some(true)));
    assert_eq!(space.write(32, &[]), Ok(None));
    for (offset, len) in [(0, 1), (31, 1), (31, 2), (32, 2), (33, 1), (0, 60), (u32::MAX, 1)] {
        let data = vec![0; len];
        assert_eq!(space.write(offset, &data), Err(ReadOnlyConfig { offset, len }));
    }
}

proptest! {
    #[test]
    fn any_window_shows_what_lies_there(
        offset in prop_oneof![0_u32..300, any::<u32>()], len in 0_usize..300, writeback: bool,
    ) {
        let space = space();
        let all = whole(&space, writeback);
        let mut got = vec![0xee; len];
        space.read(offset, &mut got, writeback);
        for (i, byte) in got.iter().enumerate() {
            let at = usize::try_from(offset).expect("64-bit host") + i;
            prop_assert_eq!(*byte, all.get(at).copied().unwrap_or(0));
        }
        prop_assert_eq!(all[32], u8::from(writeback));
    }
}
