//! The device's side of a split ring (virtio 1.3, 2.7), on host pointers, owned by one thread (L1).
//!
//! Rules:
//! * V1 **Fetched once.** The available index is loaded (acquire) when what the last load showed is
//!   used up, not for every entry. Each entry and each descriptor is copied once and then checked
//!   (L2); nothing that a check has looked at is read again.
//! * V2 **Bounded.** An index more than `size` ahead, a head outside of the table, a chain longer
//!   than any chain may be: each ends in a verdict, never in work without end.
//! * V3 **Data, status, element, index** (I38). The kernel's completion is seen (acquire) before the
//!   status byte is stored, the status before the used element, the element before the used index,
//!   which is a release store: whoever loads that index with acquire sees all that came before it.
//! * V4 **One publish, one decision.** A batch of used elements becomes visible by one store of the
//!   index, followed by one full fence and one decision whether the driver wants to be notified.
//!   The fence orders our index before our look at the driver's wish; the driver writes its wish,
//!   fences, and looks at our index. One of the two sees the other, so no notification is lost.
//! * V5 **Ask, then look** (I12). Asking for kicks is a store, then a full fence, then one more look
//!   at the available index: an entry that arrived before the driver could see the wish is found
//!   by that look. The driver's half of the argument is that of V4 mirrored.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use crate::block::Tag;
use crate::sys::guest::{GuestBuf, GuestMemory};
use crate::sys::ring::SplitRing;

mod chain;

pub use crate::sys::ring::RingError;
pub use chain::{Chain, ChainError, Glance, MAX_INDIRECT, MAX_PIECES, Plain};

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

/// How the guest broke the ring's rules. Nothing is fetched from the ring any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The available index is more than the queue size ahead of what was fetched.
    #[error("the available index is ahead by more than the queue size")]
    AvailIndex,
    /// An available entry names a descriptor beyond the table.
    #[error("an available entry names a descriptor beyond the table")]
    Head,
    /// A chain could not be answered ([`VirtQueue::declare_broken`]).
    #[error("a descriptor chain could not be answered")]
    Chain,
}

/// Where a ring stands. Indexes are free-running and wrap at 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Next available entry to fetch.
    pub next_avail: u16,
    /// Next used entry to write; equal to `used.idx` when everything pushed was published.
    pub next_used: u16,
}

/// The device's side of one split ring.
#[derive(Debug)]
pub struct VirtQueue {
    ring: SplitRing,
    next_avail: u16,
    /// `avail.idx` when last loaded (V1).
    seen_avail: u16,
    next_used: u16,
    /// `used.idx` in memory.
    published: u16,
    /// The next decision is "notify", whatever the driver's words: what an earlier owner of the
    /// ring published without a notification (it crashed between the two) is announced with it.
    notify_anyway: bool,
    event_idx: bool,
    indirect: bool,
    broken: Option<Broken>,
}

impl VirtQueue {
    /// Takes the ring over at the position given. Nothing in guest memory is touched.
    ///
    /// # Errors
    /// [`RingError`]: size not a power of two in `1..=32768`, an area too short or not aligned.
    pub fn new(setup: RingSetup) -> Result<VirtQueue, RingError> {
        let ring = SplitRing::new(setup.size, setup.desc, setup.avail, setup.used)?;
        Ok(VirtQueue {
            ring,
            next_avail: setup.next_avail,
            seen_avail: setup.next_avail,
            next_used: setup.next_used,
            published: setup.next_used,
            notify_anyway: true,
            event_idx: setup.event_idx,
            indirect: setup.indirect,
            broken: None,
        })
    }

    /// Number of entries.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.ring.size()
    }

    /// How the ring was broken, if it was.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Stops fetching for good: the caller got a chain that it cannot answer. The first reason
    /// stays.
    pub fn declare_broken(&mut self) {
        self.breaks(Broken::Chain);
    }

    /// Where the ring stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { next_avail: self.next_avail, next_used: self.next_used }
    }

    #[cold]
    fn breaks(&mut self, how: Broken) -> Broken {
        self.seen_avail = self.next_avail; // so that the next look finds it broken
        *self.broken.get_or_insert(how)
    }

    /// Loads the available index (V1) and says how many entries wait to be fetched (`0..=size`).
    ///
    /// # Errors
    /// [`Broken`], now and for ever.
    pub fn pending(&mut self) -> Result<u16, Broken> {
        if let Some(how) = self.broken {
            return Err(how);
        }
        let idx = self.ring.avail_idx();
        let ahead = idx.wrapping_sub(self.next_avail);
        if ahead > self.ring.size() {
            return Err(self.breaks(Broken::AvailIndex));
        }
        self.seen_avail = idx;
        Ok(ahead)
    }

    /// Whether there are entries that were not fetched: a look at the index, nothing else. `false` for
    /// a broken ring.
    #[inline]
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.broken.is_none() && self.ring.avail_idx() != self.next_avail
    }

    /// The next head, if there is one. The available index is loaded only when what is known of it
    /// is used up (V1): a sweep over n entries loads it twice.
    ///
    /// # Errors
    /// [`Broken`], now and for ever; the offending entry is not counted as fetched.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Tag>, Broken> {
        // Of a broken ring nothing is known that was not fetched.
        if self.next_avail == self.seen_avail && self.pending()? == 0 {
            return Ok(None);
        }
        let head = self.ring.avail_entry(self.next_avail);
        if head >= self.ring.size() {
            return Err(self.breaks(Broken::Head));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Tag(head)))
    }

    /// The chain that starts at `head` when it is plain and lies where `glance` looks. `None` says
    /// nothing about it: it is [`chain`](VirtQueue::chain)'s then.
    #[inline(always)] // one caller, and its answer is large
    #[must_use]
    pub fn plain(&self, memory: &GuestMemory, head: Tag, glance: &mut Glance) -> Option<Plain> {
        chain::plain::plain(glance, &self.ring, self.indirect, memory, head)
    }

    /// Copies the chain that starts at `head`, translated, into `out`.
    ///
    /// # Errors
    /// A [`ChainError`] that leaves no way to answer. Defects that do leave one are in
    /// [`Chain::defect`].
    pub fn chain(
        &self,
        memory: &GuestMemory,
        head: Tag,
        out: &mut Chain,
    ) -> Result<(), ChainError> {
        out.read(&self.ring, self.indirect, memory, head)
    }

    /// Writes a used element: `head` is done, `len` bytes were written to its buffers. Invisible to
    /// the driver until [`publish`](VirtQueue::publish).
    ///
    /// The status byte must have been written before (V3). At most `size` elements can be pushed
    /// between two publishes, because no more heads exist.
    #[inline]
    pub fn push_used(&mut self, head: Tag, len: u32) {
        self.ring.set_used_entry(self.next_used, u32::from(head.0), len);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether something was pushed and not published.
    #[must_use]
    pub const fn unpublished(&self) -> bool {
        self.next_used != self.published
    }

    /// Makes everything pushed visible and decides once whether to notify the driver (V3, V4).
    /// `true`: notify it. `false` when nothing was pushed, or the driver does not want to know.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        self.ring.set_used_idx(new);
        self.published = new;
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            need_event(self.ring.used_event(), new, old)
        } else {
            u32::from(self.ring.avail_flags()) & VRING_AVAIL_F_NO_INTERRUPT == 0
        };
        // Without event indexes the flag is the driver's present wish, and it stands.
        std::mem::take(&mut self.notify_anyway) && self.event_idx || wanted
    }

    /// Asks for no kicks. A hint: with event indexes the last wish simply is not renewed, which
    /// costs at most one kick in a turn of the index (virtio 1.3, 2.7.10).
    pub fn disable_notifications(&mut self) {
        if !self.event_idx {
            #[allow(clippy::cast_possible_truncation, reason = "the flag is bit 0")]
            self.ring.set_used_flags(VRING_USED_F_NO_NOTIFY as u16);
        }
    }

    /// Asks for a kick at the next entry beyond those fetched, then looks once more (V5).
    ///
    /// `true`: there are entries that were not fetched, and no kick may come for them. A broken
    /// ring is never fetched from, so it answers `false`.
    #[must_use]
    pub fn enable_notifications(&mut self) -> bool {
        if self.event_idx {
            self.ring.set_avail_event(self.next_avail);
        } else {
            self.ring.set_used_flags(0);
        }
        fence(Ordering::SeqCst);
        self.has_pending()
    }
}

/// `vring_need_event` (virtio 1.3, 2.7.7.2): did the index pass `event` on its way from `old` to
/// `new`? All three wrap at 2^16.
const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
