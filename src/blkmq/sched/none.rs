//! No policy: first in, first out on each hctx, and round-robin over hctxs.
//!
//! Rules:
//! * **N1** On one hctx requests leave in the order in which they came (I08). Of two that became
//!   one, the earlier place stays (M6).
//! * **N2** Each hctx that has something gets one turn before any other gets its next: with N of
//!   them, at most N - 1 others go between two of one hctx (I14).
//! * **N3** While nothing waits a request need not come here at all (direct issue).
//! * **N4** The hctxs of a disk that is held back have no turns (C6).

use super::{Item, Scheduler};
use crate::blkmq::Ident;
use crate::blkmq::bits::Bits;
use crate::block::{HctxId, LaneId, Nanos, Tag};

/// A ring of tags that can hold every tag of its hctx.
#[derive(Debug)]
struct Fifo {
    lane: LaneId,
    tags: Box<[Tag]>,
    head: usize,
    len: usize,
}

impl Fifo {
    fn new(lane: LaneId, depth: u16) -> Fifo {
        let size = usize::from(depth).next_power_of_two();
        Fifo { lane, tags: vec![Tag(0); size].into_boxed_slice(), head: 0, len: 0 }
    }

    fn push_back(&mut self, tag: Tag) {
        assert!(self.len < self.tags.len(), "a hctx cannot hold more requests than tags");
        let mask = self.tags.len() - 1;
        self.tags[(self.head + self.len) & mask] = tag;
        self.len += 1;
    }

    fn push_front(&mut self, tag: Tag) {
        assert!(self.len < self.tags.len(), "a hctx cannot hold more requests than tags");
        let mask = self.tags.len() - 1;
        self.head = self.head.wrapping_sub(1) & mask;
        self.tags[self.head] = tag;
        self.len += 1;
    }

    fn slot(&mut self, i: usize) -> &mut Tag {
        let mask = self.tags.len() - 1;
        &mut self.tags[(self.head + i) & mask]
    }

    /// The place of a tag. Looked for from the end: who is asked for came lately.
    fn place(&mut self, tag: Tag) -> Option<usize> {
        (0..self.len).rev().find(|i| *self.slot(*i) == tag)
    }

    /// `gone` leaves; `into` takes the earlier of the two places.
    fn absorb(&mut self, gone: Tag, into: Tag) {
        let Some(gone) = self.place(gone) else { return };
        let remove = match self.place(into) {
            Some(at) if at > gone => {
                *self.slot(gone) = into;
                at
            }
            _ => gone,
        };
        for i in remove + 1..self.len {
            *self.slot(i - 1) = *self.slot(i);
        }
        self.len -= 1;
    }

    fn pop_front(&mut self) -> Option<Tag> {
        if self.len == 0 {
            return None;
        }
        let mask = self.tags.len() - 1;
        let tag = self.tags[self.head];
        self.head = (self.head + 1) & mask;
        self.len -= 1;
        Some(tag)
    }
}

/// The scheduler named `none`.
#[derive(Debug)]
pub struct NoScheduler {
    queues: Vec<Option<Fifo>>,
    /// Those that have something and whose disk is not held back.
    waiting: Bits,
    /// The disks that are held back (N4).
    held: Bits,
    /// The hctx after the one that was served last (N2).
    cursor: usize,
}

impl NoScheduler {
    /// One with no hctxs.
    #[must_use]
    pub fn new() -> NoScheduler {
        NoScheduler { queues: Vec::new(), waiting: Bits::new(0), held: Bits::new(0), cursor: 0 }
    }

    fn queue(&mut self, hctx: HctxId) -> &mut Fifo {
        self.queues[hctx.index()].as_mut().expect("the hctx was attached")
    }

    /// A queue has something.
    fn filled(&mut self, hctx: HctxId) {
        let lane = self.queue(hctx).lane.index();
        if !self.held.contains(lane) {
            self.waiting.insert(hctx.index());
        }
    }
}

impl Default for NoScheduler {
    fn default() -> NoScheduler {
        NoScheduler::new()
    }
}

impl Scheduler for NoScheduler {
    fn name(&self) -> &'static str {
        "none"
    }

    fn bypass(&self) -> bool {
        true
    }

    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        let i = hctx.index();
        if i >= self.queues.len() {
            self.queues.resize_with(i + 1, || None);
        }
        if !self.waiting.holds(i + 1) {
            self.waiting.grow(i + 1);
        }
        if !self.held.holds(lane.index() + 1) {
            self.held.grow(lane.index() + 1);
        }
        self.queues[i] = Some(Fifo::new(lane, depth));
    }

    fn detach(&mut self, hctx: HctxId) {
        self.waiting.remove(hctx.index());
        self.queues[hctx.index()] = None;
    }

    fn insert(&mut self, item: &Item, _now: Nanos) {
        self.queue(item.id.hctx).push_back(item.id.tag);
        self.filled(item.id.hctx);
    }

    fn next(&mut self, _now: Nanos) -> Option<Ident> {
        let i = self.waiting.next_round(self.cursor)?;
        let queue = self.queues[i].as_mut().expect("only an attached hctx waits");
        let tag = queue.pop_front().expect("a hctx waits only with something in it");
        if queue.len == 0 {
            self.waiting.remove(i);
        }
        self.cursor = i + 1;
        let hctx = HctxId(u16::try_from(i).expect("ids are 16 bits wide"));
        Some(Ident { hctx, tag })
    }

    fn requeue(&mut self, item: &Item) {
        self.queue(item.id.hctx).push_front(item.id.tag);
        self.filled(item.id.hctx);
    }

    fn has_work(&self, _now: Nanos) -> bool {
        !self.waiting.is_empty()
    }

    fn done(&mut self, _item: &Item, _now: Nanos) {}

    fn absorbed(&mut self, gone: &Item, into: &Item) {
        self.queue(gone.id.hctx).absorb(gone.id.tag, into.id.tag);
    }

    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        for (i, queue) in self.queues.iter_mut().enumerate() {
            let hctx = HctxId(u16::try_from(i).expect("ids are 16 bits wide"));
            while let Some(tag) = queue.as_mut().and_then(Fifo::pop_front) {
                out(Ident { hctx, tag });
            }
            self.waiting.remove(i);
        }
    }

    fn can_hold(&self) -> bool {
        true
    }

    fn hold(&mut self, lane: LaneId, held: bool) {
        if !self.held.holds(lane.index() + 1) {
            return; // no hctx of it has ever been here
        }
        self.held.set(lane.index(), held);
        for (i, queue) in self.queues.iter().enumerate() {
            if let Some(queue) = queue.as_ref().filter(|queue| queue.lane == lane) {
                self.waiting.set(i, !held && queue.len > 0);
            }
        }
    }
}

#[cfg(test)]
#[path = "../tests/none.rs"]
mod tests;
