//! The vectors of requests that consist of several bios, or of the rest of one.
//!
//! A bio that travels alone and from its start lends the vector in its slot. For every other
//! request the buffers of its bios are written one after the other into one piece of an arena.
//!
//! * **A1 Stable.** The kernel copies a vector when it takes the submission (io_uring guarantees
//!   that with IORING_FEAT_SUBMIT_STABLE, which the ring insists on). So the arena starts anew when
//!   nothing written to the ring waits for submission, and no earlier.
//! * **A2 Bounded** (L7). The arena holds several of the largest requests. One that finds no room
//!   for a largest one submits what was written first.
//! * **A3 Seldom.** A completion needs the vector only when the transfer was short; it gets a
//!   copy of its own, so that it disturbs no vector that waits.

use crate::blkmq::{Bios, MAX_SEGMENTS};
use crate::device::slots::{self, Slots};
use crate::sys::guest::GuestBuf;
use crate::sys::uring::Ring;

/// Buffers of the largest request: a merged one, or one bio.
const LARGEST: usize = MAX_SEGMENTS as usize;
const _: () = assert!(LARGEST >= slots::MAX_SEGMENTS);

/// Buffers in the arena.
const ROOM: usize = 4 * LARGEST;

/// The arena of one thread.
#[derive(Debug)]
pub(super) struct Gather {
    arena: Box<[GuestBuf]>,
    used: usize,
    /// For a short completion (A3).
    again: Box<[GuestBuf]>,
}

impl Gather {
    /// An empty arena. The only allocation.
    pub(super) fn new() -> Gather {
        let room = |n| vec![GuestBuf::EMPTY; n].into_boxed_slice();
        Gather { arena: room(ROOM), used: 0, again: room(LARGEST) }
    }

    /// Makes room for a request of any size (A1, A2). `false` when the kernel cannot take what
    /// waits for submission just now.
    pub(super) fn prepare(&mut self, ring: &mut Ring) -> bool {
        if self.used > 0 && !ring.has_unsubmitted() {
            self.used = 0;
        }
        if self.arena.len() - self.used >= LARGEST {
            return true;
        }
        // An unusable ring shows at the thread's own next submit.
        let _ = ring.submit();
        if ring.has_unsubmitted() {
            return false;
        }
        self.used = 0;
        true
    }

    /// The buffers of `bios` without their first `skip` bytes, for a submission. The caller has
    /// asked [`prepare`](Gather::prepare).
    pub(super) fn for_submission(
        &mut self,
        slots: &Slots,
        bios: Bios<'_>,
        skip: u32,
    ) -> &[GuestBuf] {
        let piece = &mut self.arena[self.used..];
        let n = fill(piece, slots, bios, skip);
        self.used += n;
        &piece[..n]
    }

    /// The same for a completion (A3).
    pub(super) fn for_completion(
        &mut self,
        slots: &Slots,
        bios: Bios<'_>,
        skip: u32,
    ) -> &[GuestBuf] {
        let n = fill(&mut self.again, slots, bios, skip);
        &self.again[..n]
    }
}

/// Writes the buffers into `to`; answers how many.
fn fill(to: &mut [GuestBuf], slots: &Slots, bios: Bios<'_>, skip: u32) -> usize {
    let mut skip = skip as usize;
    let mut n = 0;
    for tag in bios {
        for buf in slots.bufs(tag) {
            if skip >= buf.len() {
                skip -= buf.len();
                continue;
            }
            debug_assert!(n < to.len(), "a request has at most {LARGEST} buffers");
            let Some(place) = to.get_mut(n) else { return n };
            *place = buf.skip(skip);
            skip = 0;
            n += 1;
        }
    }
    n
}

#[cfg(test)]
#[path = "tests/gather.rs"]
mod tests;
