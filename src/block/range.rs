//! Sectors and ranges of sectors. Every range that exists has been checked against the capacity.

/// Bytes in one sector. The virtio-blk protocol counts in these whatever the logical block size is
/// (virtio 1.3, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// A position on the disk, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// A checked run of sectors.
///
/// Built only by [`SectorRange::new`], which refuses what overflows or leaves the disk, so
/// [`byte_offset`](SectorRange::byte_offset) and [`bytes`](SectorRange::bytes) cannot wrap: the
/// end of the range in bytes fits `i64`, what the kernel takes as a file offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SectorRange {
    start: Sector,
    sectors: u64,
}

impl SectorRange {
    /// The run of `sectors` that starts at `start` on a disk of `capacity` sectors.
    ///
    /// `None` when any part of it lies beyond the disk, when the sum overflows, or when its end
    /// in bytes would not fit a file offset (`i64`).
    #[must_use]
    pub fn new(start: Sector, sectors: u64, capacity: u64) -> Option<SectorRange> {
        let end = start.0.checked_add(sectors)?;
        let addressable = i64::MAX.unsigned_abs() / SECTOR_SIZE;
        (end <= capacity && end <= addressable).then_some(SectorRange { start, sectors })
    }

    /// First sector of the run.
    #[must_use]
    pub const fn start(self) -> Sector {
        self.start
    }

    /// First sector after the run.
    #[must_use]
    pub const fn end(self) -> Sector {
        // new() has seen that it does not wrap.
        Sector(self.start.0.wrapping_add(self.sectors))
    }

    /// Length in sectors.
    #[must_use]
    pub const fn sectors(self) -> u64 {
        self.sectors
    }

    /// Where the run starts in the image, in bytes.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.start.0.wrapping_mul(SECTOR_SIZE) // new() has seen that it fits
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.sectors.wrapping_mul(SECTOR_SIZE) // new() has seen that it fits
    }

    /// Whether the run covers no sector at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.sectors == 0
    }

    /// Whether one of the two ends where the other starts.
    #[must_use]
    #[inline]
    pub const fn touches(self, other: SectorRange) -> bool {
        self.end().0 == other.start.0 || other.end().0 == self.start.0
    }

    /// Whether start and length are multiples of `block` bytes (a power of two, at least 512).
    #[must_use]
    pub const fn is_aligned(self, block: u32) -> bool {
        let mask = (block as u64 / SECTOR_SIZE).wrapping_sub(1); // a block is a sector at least
        (self.start.0 | self.sectors) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_leaves_the_disk() {
        assert_eq!(SectorRange::new(Sector(8), 1, 8), None);
        assert_eq!(SectorRange::new(Sector(7), 2, 8), None);
        assert_eq!(SectorRange::new(Sector(u64::MAX), 1, u64::MAX), None);
        // 2^55 * 512 wraps to 0 in 64 bits: a peer served sector 0 for it.
        assert_eq!(SectorRange::new(Sector(1 << 55), 1, u64::MAX), None);
        let whole = SectorRange::new(Sector(0), 8, 8).expect("the whole disk is a range");
        assert_eq!((whole.byte_offset(), whole.bytes()), (0, 4096));
    }

    #[test]
    fn who_touches_whom() {
        let r = |s, n| SectorRange::new(Sector(s), n, 1 << 20).expect("inside");
        assert!(r(8, 8).touches(r(16, 1)) && r(16, 1).touches(r(8, 8)));
        assert!(!r(8, 8).touches(r(17, 1)) && !r(8, 8).touches(r(12, 2)));
    }

    #[test]
    fn alignment_looks_at_both_ends() {
        let r = |s, n| SectorRange::new(Sector(s), n, 1 << 20).expect("inside");
        assert!(r(8, 8).is_aligned(4096));
        assert!(!r(8, 7).is_aligned(4096));
        assert!(!r(7, 8).is_aligned(4096));
        assert!(r(7, 3).is_aligned(512));
    }

    proptest! {
        #[test]
        fn accepted_ranges_never_wrap(start: u64, sectors: u64, capacity: u64) {
            match SectorRange::new(Sector(start), sectors, capacity) {
                Some(r) => {
                    let end = u128::from(start) + u128::from(sectors);
                    prop_assert!(end <= u128::from(capacity));
                    prop_assert_eq!(u128::from(r.byte_offset()), u128::from(start) * 512);
                    prop_assert!(i64::try_from(r.byte_offset() + r.bytes()).is_ok());
                }
                None => prop_assert!(
                    u128::from(start) + u128::from(sectors)
                        > u128::from(capacity.min(i64::MAX.unsigned_abs() / 512))
                ),
            }
        }
    }
}
