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
}
