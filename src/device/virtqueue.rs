//! placeholder of the skeleton: replaced by the real split ring

use crate::sys::guest::GuestBuf;

/// Addresses, size, position and negotiated abilities of a split ring.
#[derive(Clone, Copy, Debug)]
pub struct RingSetup {
    /// Entries; a power of two.
    pub size: u16,
    /// Descriptor table: 16 bytes an entry.
    pub desc: GuestBuf,
    /// Available ring: 6 + 2 bytes an entry.
    pub avail: GuestBuf,
    /// Used ring: 6 + 8 bytes an entry.
    pub used: GuestBuf,
    /// Next available entry to fetch.
    pub next_avail: u16,
    /// Next used entry to write.
    pub next_used: u16,
    /// VIRTIO_F_EVENT_IDX was accepted.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC was accepted.
    pub indirect: bool,
}
