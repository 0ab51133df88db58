//! Why a message was refused: the reason that the front-end's operator reads in our log.

use std::io;

use crate::block::QueueId;
use crate::device::inflight::Unusable;
use crate::device::mailbox::ThreadGone;

/// The reason for refusing a message of the front-end.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Feature bits (virtio or protocol) that were never offered.
    #[error("{kind} {bits:#x} were not offered")]
    NotOffered {
        /// "feature bits" or "protocol feature bits".
        kind: &'static str,
        /// The surplus bits.
        bits: u64,
    },
    /// A message of a protocol feature that is not offered.
    #[error("{0} is not offered")]
    Unsupported(&'static str),
    /// A queue that the device does not have.
    #[error("queue {index} does not exist, there are {queues}")]
    QueueIndex {
        /// What the front-end named.
        index: u32,
        /// How many there are.
        queues: u16,
    },
    /// A ring size that is not a power of two within the limit.
    #[error("ring size {size} is not a power of two between 1 and {max}")]
    RingSize {
        /// What the front-end asked for.
        size: u32,
        /// The largest size allowed.
        max: u16,
    },
    /// A ring position that does not fit a split ring's 16-bit index.
    #[error("ring position {0} does not fit 16 bits")]
    RingBase(u32),
    /// Something that may only change while the ring does not run.
    #[error("queue {} runs: {} may not change", .0.0, .1)]
    RingRuns(QueueId, &'static str),
    /// A part of a ring that does not lie in one region of guest memory over its full length.
    #[error("queue {}: {len} bytes of the {part} at {address:#x} are not in one region", .queue.0)]
    RingAddress {
        /// Whose ring.
        queue: QueueId,
        /// Which part.
        part: &'static str,
        /// The front-end's address of the part.
        address: u64,
        /// Its full length in bytes.
        len: u64,
    },
    /// A part of a ring that is not aligned as virtio 1.3, 2.7 demands.
    #[error("queue {}: the {part} at {address:#x} is not aligned to {align} bytes", .queue.0)]
    RingAlignment {
        /// Whose ring.
        queue: QueueId,
        /// Which part.
        part: &'static str,
        /// The front-end's address of the part.
        address: u64,
        /// The alignment in bytes.
        align: usize,
    },
    /// A memory region that cannot be mapped.
    #[error("memory region at guest address {gpa:#x}, {size:#x} bytes: {why}")]
    Region {
        /// Guest-physical address.
        gpa: u64,
        /// Size in bytes.
        size: u64,
        /// What is wrong with it.
        why: io::Error,
    },
    /// Two memory regions that share addresses.
    #[error("memory regions overlap in {space} addresses at {address:#x}")]
    Overlap {
        /// "guest" or "front-end".
        space: &'static str,
        /// Where the second of them begins.
        address: u64,
    },
    /// More regions than there are slots.
    #[error("{count} memory regions are more than {max}")]
    TooManyRegions {
        /// How many there would be.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A region to be removed that is not in the table.
    #[error("there is no memory region at guest address {gpa:#x} with {size:#x} bytes")]
    NoSuchRegion {
        /// Guest-physical address.
        gpa: u64,
        /// Size in bytes.
        size: u64,
    },
    /// A descriptor that cannot do what it was sent for.
    #[error("the {what} descriptor is unusable: {why}")]
    Descriptor {
        /// "kick", "call", "err", "memory" or "back-end channel".
        what: &'static str,
        /// What is wrong with it.
        why: io::Error,
    },
    /// In-flight memory that cannot be what it should be.
    #[error("in-flight region: {0}")]
    Inflight(#[from] Unusable),
    /// A ring for which the in-flight region has no part.
    #[error("queue {} has no part of the in-flight region", .0.0)]
    NoInflight(QueueId),
    /// A read or write of config space that the device does not allow.
    #[error("config space, {len} bytes at offset {offset}: {why}")]
    Config {
        /// Where, in bytes.
        offset: u32,
        /// How much, in bytes.
        len: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The write cache was turned off, but what it held could not be made durable.
    #[error("the write cache could not be synced: {0}")]
    Sync(io::Error),
    /// The queue thread did not take a ring.
    #[error("queue {} could not start: {}", .0.0, .1)]
    QueueStart(QueueId, String),
    /// A queue thread gave no ring back: it ended, or it never had it. The session cannot go on.
    #[error("queue {} is lost: {}", .0.0, .1)]
    QueueLost(QueueId, ThreadGone),
}

impl Refusal {
    /// Whether the session must end even if the front-end was told of the refusal.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Refusal::QueueLost(..))
    }
}
