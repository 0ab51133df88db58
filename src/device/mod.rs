//! What the guest sees: config space, rings, requests; and the thread that serves them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::blkmq::limits::Limits;
use crate::blkmq::stats::DiskStats;
use crate::blkmq::{ErrorPolicy, FlushGate};
use crate::image::Image;

pub mod config_space;
pub mod inflight;
pub mod mailbox;
pub mod queue_thread;
pub mod request;
pub mod slots;
pub mod tuning;
pub mod virtqueue;

/// Most virtqueues of one device: vhost-user numbers them with 8 bits.
pub const MAX_QUEUES: u16 = 256;

/// One disk as every thread sees it: the image, the words of config space, the guest's choices.
pub struct Disk {
    /// Number of the disk within the process.
    pub id: mailbox::DiskId,
    /// What the operator calls it.
    pub name: String,
    /// Where the content lives.
    pub image: Arc<dyn Image>,
    /// What the guest reads of the device: fixed at start.
    pub config: config_space::ConfigSpace,
    /// Answer to GET_ID (virtio 1.3, 5.2.6): at most 20 bytes, padded with NUL.
    pub serial: [u8; 20],
    /// The guest's (or the operator's) choice of write-back; `false` is write-through. Config
    /// space offset 32 (`writeback`).
    pub writeback: AtomicBool,
    /// What the flushes of all queue threads share.
    pub flush: Arc<FlushGate>,
    /// Wakes the queue threads, by number: a flush waits for a sync of another thread.
    pub bells: Vec<mailbox::Bell>,
    /// Whether DISCARD and the UNMAP flag of WRITE_ZEROES may give space back (`--discard`).
    pub unmap: bool,
    /// What becomes of operations that its storage failed.
    pub on_error: ErrorPolicy,
    /// Its limits, shared by the threads that serve it.
    pub limits: Arc<Limits>,
    /// What its queues have done, whoever served them.
    pub stats: DiskStats,
    /// What may change while it is served.
    pub tuning: tuning::DiskTuning,
    /// The same of its pool.
    pub pool: Arc<tuning::PoolTuning>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({})", self.id.0)
    }
}
