//! What a bio asks for. Each variant owns exactly the fields that have a meaning for it: a flush
//! has no range, so nothing can loop over its data (a peer lost flushes that way).

use super::{SectorRange, Tag};

/// What a bio or a request does to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Image to guest memory.
    Read(SectorRange),
    /// Guest memory to image.
    Write(SectorRange),
    /// Make everything that completed before durable.
    Flush,
    /// The content of the range no longer matters. A bio with several ranges names the first one
    /// here; all of them are in the slot.
    Discard(SectorRange),
    /// The range reads as zeroes afterwards. As with discard, the first range stands here.
    WriteZeroes {
        /// First range of the bio.
        range: SectorRange,
        /// The image may give the space back (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).
        unmap: bool,
    },
}

impl Op {
    /// Whether the image's content changes: what a read-only disk refuses, and what a later flush
    /// must cover. A flush itself is not a write.
    #[must_use]
    pub const fn is_write(self) -> bool {
        !matches!(self, Op::Read(_) | Op::Flush)
    }

    /// The same operation on another range; a flush stays what it is.
    #[must_use]
    pub const fn with_range(self, range: SectorRange) -> Op {
        match self {
            Op::Read(_) => Op::Read(range),
            Op::Write(_) => Op::Write(range),
            Op::Discard(_) => Op::Discard(range),
            Op::WriteZeroes { unmap, .. } => Op::WriteZeroes { range, unmap },
            Op::Flush => Op::Flush,
        }
    }

    /// The (first) range the operation works on; `None` for a flush.
    #[must_use]
    pub const fn range(self) -> Option<SectorRange> {
        match self {
            Op::Read(range)
            | Op::Write(range)
            | Op::Discard(range)
            | Op::WriteZeroes { range, .. } => Some(range),
            Op::Flush => None,
        }
    }
}

/// Priority class, as Linux's I/O priority classes. A guest's hint orders only its own bios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Served before the others.
    RealTime,
    /// Everything that says nothing.
    #[default]
    BestEffort,
    /// Served when nothing else waits.
    Idle,
}

/// One guest request on its way into the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bio {
    /// The descriptor head.
    pub tag: Tag,
    /// What is asked.
    pub op: Op,
    /// Completion must mean durable: the device is in write-through mode for this bio.
    pub fua: bool,
    /// Priority class.
    pub class: Class,
    /// Data buffers that it brings, as the image is going to see them.
    pub segments: u16,
    /// It travels by itself, whatever it touches: it has several ranges, or the image cannot take
    /// its buffers as they are.
    pub alone: bool,
}

impl Bio {
    /// A bio with nothing special about it: one buffer of data if it moves any.
    #[must_use]
    pub fn new(tag: Tag, op: Op) -> Bio {
        let segments = u16::from(matches!(op, Op::Read(_) | Op::Write(_)));
        Bio { tag, op, fua: false, class: Class::default(), segments, alone: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Sector;

    #[test]
    fn another_range_changes_nothing_else() {
        let range = |s| SectorRange::new(Sector(s), 8, 100).expect("inside");
        let zero = |s| Op::WriteZeroes { range: range(s), unmap: true };
        for (op, want) in [
            (Op::Read(range(0)), Op::Read(range(9))),
            (Op::Write(range(0)), Op::Write(range(9))),
            (Op::Discard(range(0)), Op::Discard(range(9))),
            (zero(0), zero(9)),
            (Op::Flush, Op::Flush),
        ] {
            assert_eq!(op.with_range(range(9)), want);
        }
    }

    #[test]
    fn a_plain_bio_brings_a_buffer_only_with_data() {
        let range = SectorRange::new(Sector(0), 8, 100).expect("inside");
        let bio = Bio::new(Tag(3), Op::Write(range));
        assert_eq!((bio.tag, bio.segments, bio.alone, bio.fua), (Tag(3), 1, false, false));
        assert_eq!(Bio::new(Tag(3), Op::Discard(range)).segments, 0);
        assert_eq!(bio.class, Class::BestEffort);
    }
}
