//! The guest's side of a split ring (virtio 1.3, 2.7.13 and 2.7.14).
//!
//! The high level ([`Driver::add`], [`Driver::reap`]) does what a good driver does. The low level
//! writes any descriptor, any available entry and any index, so that a test can be as wrong as it
//! likes: loops, bad heads, addresses outside of memory.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};

use super::TestMemory;
use crate::device::virtqueue::RingSetup;
use crate::sys::ring::{Descriptor, SplitRing, area_lengths};

#[allow(clippy::cast_possible_truncation, reason = "flags are 16 bits wide, the bindings are not")]
const fn flag(bit: u32) -> u16 {
    bit as u16
}

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = flag(VRING_DESC_F_NEXT);
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = flag(VRING_DESC_F_WRITE);
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = flag(VRING_DESC_F_INDIRECT);

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf {
    /// Guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device may write it.
    pub writable: bool,
}

impl Buf {
    /// A buffer that the device reads.
    #[must_use]
    pub const fn readable(gpa: u64, len: u32) -> Buf {
        Buf { gpa, len, writable: false }
    }

    /// A buffer that the device writes.
    #[must_use]
    pub const fn writable(gpa: u64, len: u32) -> Buf {
        Buf { gpa, len, writable: true }
    }
}

/// How a chain lies in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// All descriptors in the ring's own table.
    #[default]
    Direct,
    /// One descriptor that refers to a table.
    Indirect,
    /// So many descriptors in the ring's own table, then one that refers to a table with the rest.
    IndirectAfter(u16),
}

/// A used element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The head.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub len: u32,
}

/// Guest-physical addresses of the ring's areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// What a chain occupies until it comes back.
#[derive(Debug, Default)]
struct Held {
    descriptors: Vec<u16>,
    table: Option<(u64, u64)>,
}

/// The guest's side of one ring.
#[derive(Debug)]
pub struct Driver {
    memory: Arc<TestMemory>,
    ring: SplitRing,
    addresses: RingAddresses,
    event_idx: bool,
    indirect: bool,
    start: u16,
    /// Free descriptors, taken from the end.
    free: Vec<u16>,
    held: Vec<Option<Held>>,
    /// Where the next available entry goes (not yet published).
    next_avail: u16,
    /// What `avail.idx` says.
    published: u16,
    next_used: u16,
}

impl Driver {
    /// A ring of `size` entries in freshly allocated, zeroed areas.
    ///
    /// # Panics
    /// When the size is not one that a ring can have, or memory is short.
    #[must_use]
    pub fn new(memory: &Arc<TestMemory>, size: u16, event_idx: bool, indirect: bool) -> Driver {
        Driver::new_at(memory, size, event_idx, indirect, 0)
    }

    /// The same with both indexes at `start`, as after `start` requests.
    ///
    /// # Panics
    /// As [`Driver::new`].
    #[must_use]
    pub fn new_at(
        memory: &Arc<TestMemory>,
        size: u16,
        event_idx: bool,
        indirect: bool,
        start: u16,
    ) -> Driver {
        let (d, a, u) = area_lengths(size);
        let area = |len: usize, align| {
            let gpa = memory.alloc(len as u64, align);
            memory.write(gpa, &vec![0; len]);
            (gpa, memory.memory().slice(gpa, len as u64).expect("just allocated"))
        };
        let ((desc, d), (avail, a), (used, u)) = (area(d, 16), area(a, 2), area(u, 4));
        let ring = SplitRing::new(size, d, a, u).expect("the areas are a ring");
        ring.set_avail_idx(start);
        ring.set_used_idx(start);
        ring.set_used_event(start);
        ring.set_avail_event(start);
        Driver {
            memory: Arc::clone(memory),
            ring,
            addresses: RingAddresses { desc, avail, used },
            event_idx,
            indirect,
            start,
            free: (0..size).rev().collect(),
            held: (0..size).map(|_| None).collect(),
            next_avail: start,
            published: start,
            next_used: start,
        }
    }

    /// What a queue thread needs to serve this ring from its start position.
    #[must_use]
    pub fn setup(&self) -> RingSetup {
        let (d, a, u) = area_lengths(self.ring.size());
        let slice = |gpa, len: usize| {
            self.memory.memory().slice(gpa, len as u64).expect("the area lies in one region")
        };
        RingSetup {
            size: self.ring.size(),
            desc: slice(self.addresses.desc, d),
            avail: slice(self.addresses.avail, a),
            used: slice(self.addresses.used, u),
            next_avail: self.start,
            next_used: self.start,
            event_idx: self.event_idx,
            indirect: self.indirect,
        }
    }

    /// Where the areas are.
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    /// The memory that the ring lies in.
    #[must_use]
    pub fn memory(&self) -> &Arc<TestMemory> {
        &self.memory
    }

    /// The raw fields of the ring, both halves.
    #[must_use]
    pub fn ring(&self) -> &SplitRing {
        &self.ring
    }

    /// Number of free descriptors.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Number of chains that have not come back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.held.iter().filter(|h| h.is_some()).count()
    }

    /// Adds a chain of these buffers and its available entry; not yet visible to the device.
    /// `None` when descriptors are short.
    ///
    /// # Panics
    /// When the chain is empty or `IndirectAfter` leaves nothing for the table.
    pub fn add(&mut self, bufs: &[Buf], layout: Layout) -> Option<u16> {
        assert!(!bufs.is_empty(), "an empty chain has to be made by hand");
        let direct = match layout {
            Layout::Direct => bufs.len(),
            Layout::Indirect => 0,
            Layout::IndirectAfter(n) => usize::from(n),
        };
        let (direct, rest) = bufs.split_at(direct);
        assert!(!rest.is_empty() || layout == Layout::Direct, "nothing is left for the table");
        let needed = direct.len() + usize::from(!rest.is_empty());
        let from = self.free.len().checked_sub(needed)?;
        let mut held = Held { descriptors: self.free.split_off(from), table: None };
        held.descriptors.reverse();
        let mut descriptors: Vec<Descriptor> = direct.iter().map(|b| describe(*b)).collect();
        if !rest.is_empty() {
            let (gpa, len) = self.write_table(rest);
            held.table = Some((gpa, len));
            let len = u32::try_from(len).expect("a table is short");
            descriptors.push(Descriptor { addr: gpa, len, flags: INDIRECT, next: 0 });
        }
        for (i, mut d) in descriptors.into_iter().enumerate() {
            if let Some(next) = held.descriptors.get(i + 1) {
                d.flags |= NEXT;
                d.next = *next;
            }
            self.ring.set_descriptor(held.descriptors[i], d);
        }
        let head = held.descriptors[0];
        self.held[usize::from(head)] = Some(held);
        self.push_avail(head);
        Some(head)
    }

    /// Writes an indirect table with these buffers, chained in order; its address and length.
    fn write_table(&self, bufs: &[Buf]) -> (u64, u64) {
        let len = (bufs.len() * Descriptor::SIZE) as u64;
        let gpa = self.memory.alloc(len, 16);
        for (i, buf) in bufs.iter().enumerate() {
            let mut d = describe(*buf);
            if i + 1 < bufs.len() {
                d.flags |= NEXT;
                d.next = u16::try_from(i + 1).expect("a table is short");
            }
            self.write_descriptor_at(gpa + (i * Descriptor::SIZE) as u64, d);
        }
        (gpa, len)
    }

    /// Writes any descriptor into the ring's table (index masked).
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.ring.set_descriptor(index, descriptor);
    }

    /// Writes any descriptor anywhere in guest memory (indirect tables).
    pub fn write_descriptor_at(&self, gpa: u64, descriptor: Descriptor) {
        self.memory.write(gpa, &descriptor.to_bytes());
    }

    /// Appends any head to the available ring; not yet visible to the device.
    pub fn push_avail(&mut self, head: u16) {
        self.ring.set_avail_entry(self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Makes everything appended visible. Whether the device wants to be kicked for it (virtio
    /// 1.3, 2.7.13.4.1): by `avail_event`, or by the flag.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        self.ring.set_avail_idx(new);
        self.published = new;
        // The index must be visible before the device's wish is read: the device writes its wish,
        // then reads the index. One of the two sees the other.
        fence(Ordering::SeqCst);
        if old == new {
            false
        } else if self.event_idx {
            need_event(self.ring.avail_event(), new, old)
        } else {
            u32::from(self.ring.used_flags()) & VRING_USED_F_NO_NOTIFY == 0
        }
    }

    /// Sets `avail.idx` to anything.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.ring.set_avail_idx(idx);
        self.published = idx;
        self.next_avail = idx;
    }

    /// The next used element, if there is one; its descriptors become free.
    ///
    /// # Panics
    /// When the device returns a head that is not outstanding and was not made by hand.
    pub fn reap(&mut self) -> Option<Used> {
        if self.ring.used_idx() == self.next_used {
            return None;
        }
        let (id, len) = self.ring.used_entry(self.next_used);
        self.next_used = self.next_used.wrapping_add(1);
        let head = u16::try_from(id).expect("a head is 16 bits wide");
        if let Some(held) = self.held[usize::from(head)].take() {
            self.free.extend(held.descriptors.iter().rev());
            if let Some((gpa, len)) = held.table {
                self.memory.free(gpa, len);
            }
        }
        Some(Used { head, len })
    }

    /// The used index up to which [`reap`](Driver::reap) has come.
    #[must_use]
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Asks for no notifications (a hint, as in the specification).
    pub fn disable_interrupts(&self) {
        if self.event_idx {
            // As far away as possible: a full turn of the index.
            self.ring.set_used_event(self.next_used.wrapping_sub(1));
        } else {
            self.ring.set_avail_flags(flag(VRING_AVAIL_F_NO_INTERRUPT));
        }
    }

    /// Asks for a notification at the next used element. `true`: there is one already, and no
    /// notification may come for it.
    pub fn enable_interrupts(&self) -> bool {
        if self.event_idx {
            self.ring.set_used_event(self.next_used);
        } else {
            self.ring.set_avail_flags(0);
        }
        fence(Ordering::SeqCst);
        self.ring.used_idx() != self.next_used
    }
}

fn describe(buf: Buf) -> Descriptor {
    let flags = if buf.writable { WRITE } else { 0 };
    Descriptor { addr: buf.gpa, len: buf.len, flags, next: 0 }
}

/// `vring_need_event` of virtio 1.3, 2.7.7.2, written by its definition: walking from `old` to
/// `new`, is the step over `event` among those made?
fn need_event(event: u16, new: u16, old: u16) -> bool {
    let mut at = old;
    while at != new {
        if at == event {
            return true;
        }
        at = at.wrapping_add(1);
    }
    false
}
