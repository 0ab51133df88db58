//! The bios of one request, chained in sector order through their slots (M5).
//!
//! A link is a tag of the same hctx. The leader need not be the first: who joins at the front
//! becomes the first and does not lead.

use super::{Join, Side};
use crate::blkmq::tags::{Link, State, TagSet};
use crate::block::{SectorRange, Tag};

/// What the leader of several bios remembers besides its slot.
#[derive(Clone, Copy, Debug)]
pub(in crate::blkmq) struct Run {
    /// The leader's own range.
    own: SectorRange,
    first: Tag,
    last: Tag,
    /// Bios of the request when it was first issued; of [`Join::Led`].
    pub(in crate::blkmq) led: u16,
}

/// The bios of one request, in sector order.
#[derive(Clone, Debug)]
pub struct Bios<'a> {
    tags: &'a TagSet,
    next: Option<Tag>,
    left: u16,
}

impl<'a> Bios<'a> {
    /// No bios: a request without data of its own.
    pub(in crate::blkmq) fn none(tags: &'a TagSet) -> Bios<'a> {
        Bios { tags, next: None, left: 0 }
    }
}

impl Iterator for Bios<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        let tag = self.next?;
        self.next = self.tags.slot(tag).chain.tag();
        self.left -= 1;
        Some(tag)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Bios<'_> {}

/// What is left of a request when its first bios are finished.
#[derive(Clone, Copy, Debug)]
pub(in crate::blkmq) struct Rest {
    /// The bio that leads it.
    pub(in crate::blkmq) first: Tag,
    /// How many bios it has.
    pub(in crate::blkmq) bios: u16,
    /// Bytes of the first one that are finished.
    pub(in crate::blkmq) done: u32,
}

/// A request that was taken apart (see [`TagSet::dissolve`]).
#[derive(Clone, Copy, Debug)]
pub(in crate::blkmq) struct Parts {
    /// The first bio in sector order; the others follow by [`TagSet::unlink`].
    pub(in crate::blkmq) first: Tag,
    last: Tag,
    /// All of them together.
    whole: Option<SectorRange>,
    pub(in crate::blkmq) bios: u16,
}

impl TagSet {
    /// The bios of the request that `leader` leads.
    pub(in crate::blkmq) fn bios(&self, leader: Tag) -> Bios<'_> {
        let left = self.slot(leader).bios;
        Bios { tags: self, next: Some(self.ends(leader).0), left }
    }

    /// The first and the last bio of a request.
    fn ends(&self, leader: Tag) -> (Tag, Tag) {
        if self.slot(leader).bios == 1 {
            return (leader, leader);
        }
        let run = self.runs[leader.index()];
        (run.first, run.last)
    }

    /// The request that `gone` leads becomes part of the one that `into` leads, on that side of it.
    pub(super) fn join(&mut self, into: Tag, gone: Tag, side: Side) {
        let (first, last) = self.ends(into);
        let (gone_first, gone_last) = self.ends(gone);
        let lost = *self.slot(gone);
        if lost.bios > 1 {
            let own = self.runs[gone.index()].own;
            self.slot_mut(gone).op = lost.op.with_range(own);
        }
        let slot = self.slot_mut(gone);
        (slot.bios, slot.join, slot.scheduled) = (0, Join::Joined, false);
        self.set(gone, State::Merged);
        let (before, after, first, last) = match side {
            Side::Back => (last, gone_first, first, gone_last),
            Side::Front => (gone_last, first, gone_first, last),
        };
        self.slot_mut(before).chain = Link::to(after);
        let slot = self.slot_mut(into);
        let own = slot.op.range().unwrap_or_default();
        let whole = lost.op.range().and_then(|range| union(own, range));
        slot.op = slot.op.with_range(whole.unwrap_or(own));
        slot.arrival = slot.arrival.min(lost.arrival);
        slot.segments += lost.segments;
        let begun = slot.bios == 1;
        slot.bios += lost.bios;
        let run = &mut self.runs[into.index()];
        (run.first, run.last) = (first, last);
        if begun {
            run.own = own;
        }
    }

    /// Takes a request apart: its leader stands for itself again. The chain is as it was.
    pub(in crate::blkmq) fn dissolve(&mut self, leader: Tag) -> Parts {
        let (first, last) = self.ends(leader);
        let slot = *self.slot(leader);
        if slot.bios > 1 {
            let own = self.runs[leader.index()].own;
            let leader = self.slot_mut(leader);
            leader.op = slot.op.with_range(own);
            leader.bios = 1;
        }
        Parts { first, last, whole: slot.op.range(), bios: slot.bios }
    }

    /// Takes the first bio off the chain of a dissolved request; answers with the next.
    pub(in crate::blkmq) fn unlink(&mut self, tag: Tag) -> Option<Tag> {
        let slot = self.slot_mut(tag);
        slot.bios = 1;
        std::mem::replace(&mut slot.chain, Link::NONE).tag()
    }

    /// Makes what is left of a dissolved request a request again, led by its first bio (M8).
    pub(in crate::blkmq) fn regroup(&mut self, parts: &Parts, rest: &Rest) {
        let slot = self.slot_mut(rest.first);
        let own = slot.op.range().unwrap_or_default();
        if let Some(whole) = parts.whole {
            let sectors = whole.end().0 - own.start().0;
            // It ends where the checked range ended.
            let range = SectorRange::new(own.start(), sectors, u64::MAX);
            slot.op = slot.op.with_range(range.unwrap_or(own));
        }
        (slot.bios, slot.done) = (rest.bios, rest.done);
        let run = &mut self.runs[rest.first.index()];
        (run.own, run.first, run.last) = (own, rest.first, parts.last);
    }
}

impl Default for Run {
    fn default() -> Run {
        Run { own: SectorRange::default(), first: Tag(0), last: Tag(0), led: 1 }
    }
}

/// The run that two runs that touch make together.
fn union(a: SectorRange, b: SectorRange) -> Option<SectorRange> {
    let start = a.start().min(b.start());
    SectorRange::new(start, a.sectors().checked_add(b.sectors())?, u64::MAX)
}
