//! The last steps of a tag: it has its answer, the ring's owner takes it, the guest has it back.
//!
//! Nearly every bio takes each of these steps once, and takes them in batches: so what can be done
//! for a batch (the counts of T6) is done once for it.

use super::{Durable, Join, Link, Slot, State, TagList, TagSet};
use crate::blkmq::complete::whole_sectors;
use crate::blkmq::stats::Kind;
use crate::block::{Nanos, Op, SectorRange, Status, Tag};

impl Slot {
    /// Whether a request that it leads is itself alone, and its end concerns nobody but the guest.
    #[inline]
    fn is_alone(&self) -> bool {
        let never_joined = matches!(self.join, Join::May | Join::Never);
        let ends_here = self.durable != Durable::FlushAfter && !self.scheduled;
        self.bios == 1 && never_joined && ends_here
    }

    /// What the others are counted as, and their sectors.
    #[inline(never)]
    fn seldom(&self) -> (Kind, u64) {
        (Kind::of(self.op), self.op.range().map_or(0, SectorRange::sectors))
    }

    /// It has its answer.
    #[inline(always)] // for each bio
    fn answer(&mut self, status: Status) -> Alone {
        (self.next, self.chain, self.status) = (Link::NONE, Link::NONE, status);
        self.state = State::Done;
        let (kind, all) = match self.op {
            Op::Read(range) => (Kind::Read, range.sectors()),
            Op::Write(range) => (Kind::Write, range.sectors()),
            _ => self.seldom(),
        };
        debug_assert!(whole_sectors(self.done) <= all, "what was done before is a part of it");
        let sectors = all.wrapping_sub(whole_sectors(self.done));
        Alone { kind, sectors, arrival: self.arrival, issued: self.issued }
    }
}

/// What is known of a bio that travelled alone and has its answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::blkmq) struct Alone {
    /// What it did.
    pub(in crate::blkmq) kind: Kind,
    /// Sectors that were moved with its end.
    pub(in crate::blkmq) sectors: u64,
    /// When it was submitted.
    pub(in crate::blkmq) arrival: Nanos,
    /// When it was issued, the last time.
    pub(in crate::blkmq) issued: Nanos,
}

impl TagSet {
    /// A bio has its answer and joins the list of those. What is known of it.
    pub(in crate::blkmq) fn answered(
        &mut self,
        tag: Tag,
        status: Status,
        done: &mut TagList,
    ) -> Slot {
        let slot = &mut self.slots[tag.index()];
        let from = slot.state;
        slot.answer(status);
        let known = *slot;
        self.moved(tag, from, State::Done);
        self.append(tag, done);
        known
    }

    /// A request with the kernel is done. When it is one bio, and nothing else is to be done about it,
    /// that has its answer. What is known of it; `None`, and nothing has changed, otherwise.
    #[inline(always)] // for each request
    pub(in crate::blkmq) fn answered_alone(
        &mut self,
        tag: Tag,
        done: &mut TagList,
    ) -> Option<Alone> {
        let slot = &mut self.slots[tag.index()];
        debug_assert_eq!(slot.state, State::InFlight, "{tag:?}");
        if !slot.is_alone() {
            return None;
        }
        let known = slot.answer(Status::Ok);
        self.moved(tag, State::InFlight, State::Done);
        self.append(tag, done);
        Some(known)
    }

    /// The same of a request that goes to the kernel and is done: at once.
    #[inline(always)] // for each request
    pub(in crate::blkmq) fn answered_at_once(
        &mut self,
        tag: Tag,
        now: Nanos,
        done: &mut TagList,
    ) -> Option<Alone> {
        let slot = &mut self.slots[tag.index()];
        if !slot.is_alone() {
            return None;
        }
        slot.issued = now;
        let from = slot.state;
        debug_assert!(from.leads_to(State::InFlight), "{tag:?}: {from:?} is not to be issued");
        let known = slot.answer(Status::Ok);
        self.follow(tag, from, State::InFlight);
        self.follow(tag, State::InFlight, State::Done);
        self.recount_moved(from, State::Done, 1);
        self.append(tag, done);
        Some(known)
    }

    /// A bio joins the list of those that have their answer.
    #[inline(always)] // for each bio
    fn append(&mut self, tag: Tag, done: &mut TagList) {
        if let Some(last) = done.tail.tag() {
            self.slots[last.index()].next = Link::to(tag);
        } else {
            done.head = Link::to(tag);
        }
        done.tail = Link::to(tag);
    }

    /// The first of those that have their answer goes to the ring's owner.
    #[inline]
    pub(in crate::blkmq) fn take(&mut self, done: &mut TagList) -> Option<(Tag, Status)> {
        let tag = done.head.tag()?;
        let slot = &mut self.slots[tag.index()];
        let from = std::mem::replace(&mut slot.state, State::Taken);
        let status = slot.status;
        done.head = slot.next;
        if done.is_empty() {
            done.tail = Link::NONE;
        }
        debug_assert_eq!(from, State::Done, "{tag:?} has its answer");
        self.moved(tag, State::Done, State::Taken);
        Some((tag, status))
    }

    /// All of those that have their answer go to the ring's owner, in order. How many.
    #[inline]
    pub(in crate::blkmq) fn take_all(
        &mut self,
        done: &mut TagList,
        mut each: impl FnMut(Tag, Status),
    ) -> u16 {
        let mut taken = 0_u16;
        let mut next = done.head;
        while let Some(tag) = next.tag() {
            let slot = &mut self.slots[tag.index()];
            let from = std::mem::replace(&mut slot.state, State::Taken);
            debug_assert_eq!(from, State::Done, "{tag:?} has its answer");
            next = slot.next;
            each(tag, slot.status);
            taken = taken.wrapping_add(1); // no more than there are heads
            self.follow(tag, State::Done, State::Taken);
        }
        *done = TagList::EMPTY;
        self.recount_moved(State::Done, State::Taken, taken);
        taken
    }

    /// The guest knows all these answers: the heads are its own again.
    ///
    /// # Panics
    /// As [`release`](TagSet::release).
    #[inline]
    pub(in crate::blkmq) fn release_all(&mut self, tags: impl Iterator<Item = Tag>) {
        let mut released = 0_u16;
        for tag in tags {
            let from = std::mem::replace(&mut self.slots[tag.index()].state, State::Free);
            debug_assert_eq!(from, State::Taken, "{tag:?}: {from:?} does not lead to Free here");
            released = released.wrapping_add(1);
            self.follow(tag, State::Taken, State::Free);
        }
        self.recount_moved(State::Taken, State::Free, released);
    }

    /// The guest knows the answer: the head is its own again.
    ///
    /// # Panics
    /// When the tag is not below the depth; in debug builds, when it was not taken.
    #[inline]
    pub(in crate::blkmq) fn release(&mut self, tag: Tag) {
        let from = std::mem::replace(&mut self.slots[tag.index()].state, State::Free);
        debug_assert_eq!(from, State::Taken, "{tag:?}: {from:?} does not lead to Free here");
        self.moved(tag, State::Taken, State::Free);
    }
}
