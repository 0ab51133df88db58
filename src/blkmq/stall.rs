//! A disk whose storage failed an operation may wait for it to recover instead of telling the guest.
//!
//! Rules:
//! * **X1** Which errors a disk waits for is its choice, for reads and for all that changes the image
//!   apart ([`OnError`]). The failed request keeps its bios, its progress and its place: it becomes
//!   the first leftover of its hctx (D2), whole, and its credit goes back. A failed sync is never tried
//!   again: the kernel has forgotten what it could not write (F4).
//! * **X2** For a second nothing of the disk is issued but syncs. What others of its disk bring
//!   waits behind (D7); other disks of the domain pass. Then all leftovers are tried: what
//!   fails again makes the disk wait again.
//! * **X3** Nobody's freeze waits for storage (as W3, I27): a hctx that has to become idle waits no
//!   more. Its requests are tried at once, and what fails is told to the guest.
//! * **X4** A second without any I/O costs one wake-up (`next_wake`).

use super::Ident;
use super::domain::Domain;
use crate::block::{Errno, HctxId, LaneId, Nanos, OnError, Op};

/// Nanoseconds between two attempts: long enough to cost nothing, and short beside what a guest bears.
const PAUSE: u64 = 1_000_000_000;

/// What a disk does about failed operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Of reads.
    pub read: OnError,
    /// Of writes, discards and zeroing.
    pub write: OnError,
}

impl ErrorPolicy {
    fn waits(self, op: Op, errno: Errno) -> bool {
        if op.is_write() { self.write.waits(errno) } else { self.read.waits(errno) }
    }
}

impl Domain {
    /// Keeps a failed request for later, if its disk waits for such an error (X1); `false` when
    /// the guest has to be told.
    pub(super) fn stalls(&mut self, id: Ident, errno: Errno, now: Nanos) -> bool {
        let hctx = self.table.get_mut(id.hctx);
        let lane = &mut self.lanes[hctx.lane.index()];
        let op = hctx.tags.slot(id.tag).op;
        if hctx.gives_up || !lane.on_error.waits(op, errno) {
            return false;
        }
        hctx.tags.slot_mut(id.tag).again = 0;
        hctx.stats.stalled();
        lane.stalled = Some(Nanos(now.0.saturating_add(PAUSE)));
        self.requeue(id);
        true
    }

    /// Whether a disk is waiting for its storage (X2).
    pub(super) fn is_stalled(&self, lane: LaneId) -> bool {
        self.lanes[lane.index()].stalled.is_some()
    }

    /// Disks that have waited long enough may be tried again (X2).
    pub(super) fn end_stalls(&mut self, now: Nanos) {
        for lane in &mut self.lanes {
            lane.stalled = lane.stalled.filter(|until| *until > now);
        }
    }

    /// A hctx has to become idle: its disk waits no more for its sake (X3).
    pub(super) fn give_up(&mut self, id: HctxId) {
        let Domain { lanes, table, .. } = self;
        if table.find(id).is_some() {
            let hctx = table.get_mut(id);
            hctx.gives_up = true;
            lanes[hctx.lane.index()].stalled = None;
        }
    }

    /// When the first disk that waits shall try again (X4).
    pub(super) fn next_attempt(&self) -> Option<Nanos> {
        self.lanes.iter().filter_map(|lane| lane.stalled).min()
    }
}

#[cfg(test)]
#[path = "tests/stall.rs"]
mod tests;
