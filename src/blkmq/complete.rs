//! The ends of requests: what becomes of the bios that travelled together.
//!
//! Every path is linear in the number of bios and allocates nothing. A request that is wholly done
//! answers all its bios (M5); one that is done in part answers those that are wholly inside and
//! leaves the others (M8, L10); one that failed is taken apart (M9, L12).
//!
//! * **E1** The scheduler hears of a request's end once. When pieces of it have to be issued again,
//!   that is when the request came back: the pieces are leftovers, and were never its own.
//! * **E2** A write is counted for the flush gate before the guest can know any of its answers (G1).

use super::Ident;
use super::domain::Domain;
use super::merge::{Join, Rest};
use super::tags::{Durable, State, TagList};
use crate::block::{Nanos, SECTOR_SIZE, SectorRange, Status};

/// The sectors that so many bytes fill.
pub(super) fn whole_sectors(bytes: u32) -> u64 {
    u64::from(bytes) / SECTOR_SIZE
}

impl Domain {
    /// All of a request is done.
    #[inline(always)] // at the end of nearly each request
    pub(super) fn request_done(&mut self, id: Ident, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        match hctx.finish_alone(id.tag, now) {
            Some(false) => {}
            Some(true) => self.lanes[hctx.lane.index()].flush.wrote(), // E2
            None => self.request_done_in_parts(id, now),
        }
    }

    /// The same for whatever else there is: several bios, a flush that follows, a scheduler.
    #[inline(never)]
    pub(super) fn request_done_in_parts(&mut self, id: Ident, now: Nanos) {
        self.request_ended(id, now);
        let hctx = self.table.get_mut(id.hctx);
        let slot = hctx.tags.slot(id.tag);
        let all = slot.op.range().map_or(0, SectorRange::sectors);
        hctx.stats.moved(slot.op, all.saturating_sub(whole_sectors(slot.done)));
        let issued = slot.issued;
        let mut next = Some(hctx.tags.dissolve(id.tag).first);
        while let Some(tag) = next {
            let tags = &mut self.table.get_mut(id.hctx).tags;
            next = tags.unlink(tag);
            tags.slot_mut(tag).issued = issued;
            self.bio_done(Ident { tag, ..id }, Status::Ok, now);
        }
    }

    /// A request failed. One bio fails; several are tried once more, each alone (M9).
    pub(super) fn request_failed(&mut self, id: Ident, now: Nanos) {
        self.request_ended(id, now);
        let hctx = self.table.get_mut(id.hctx);
        if hctx.tags.slot(id.tag).bios == 1 {
            self.bio_done(id, Status::IoErr, now);
            return;
        }
        let parts = hctx.tags.dissolve(id.tag);
        let mut alone = TagList::EMPTY;
        let mut next = Some(parts.first);
        while let Some(tag) = next {
            next = hctx.tags.unlink(tag);
            let slot = hctx.tags.slot_mut(tag);
            slot.again = 0;
            if slot.join == Join::Joined {
                slot.join = Join::Piece;
                hctx.stats.piece(slot.op, now);
            } else if slot.join == Join::May {
                slot.join = Join::Never;
            }
            hctx.tags.set(tag, State::Leftover);
            hctx.tags.push_back(&mut alone, tag);
        }
        hctx.tags.prepend(&alone, &mut hctx.leftovers);
        hctx.stats.requeued(u64::from(parts.bios));
        hctx.stats.split();
        self.lanes[hctx.lane.index()].leftovers += u32::from(parts.bios);
        self.leftovers += u32::from(parts.bios);
    }

    /// `more` bytes of a request are done, besides those that were (M8).
    pub(super) fn request_short(&mut self, id: Ident, more: u32, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        let slot = hctx.tags.slot_mut(id.tag);
        let before = slot.done;
        let done = before.saturating_add(more);
        if u64::from(done) >= slot.op.range().map_or(0, SectorRange::bytes) {
            self.request_done(id, now);
        } else if slot.bios == 1 {
            (slot.done, slot.again) = (done, 0);
            hctx.stats.moved(slot.op, whole_sectors(done) - whole_sectors(before));
            self.requeue(id);
        } else {
            hctx.stats.moved(slot.op, whole_sectors(done) - whole_sectors(before));
            self.request_ended(id, now);
            self.answer_first(id, done, now);
        }
    }

    /// Answers the bios that lie wholly in the first `done` bytes; the others are left over.
    fn answer_first(&mut self, id: Ident, mut done: u32, now: Nanos) {
        let tags = &mut self.table.get_mut(id.hctx).tags;
        let issued = tags.slot(id.tag).issued;
        let parts = tags.dissolve(id.tag);
        let (mut tag, mut bios, mut counted) = (parts.first, parts.bios, false);
        loop {
            let tags = &mut self.table.get_mut(id.hctx).tags;
            let bytes = tags.slot(tag).op.range().map_or(0, SectorRange::bytes);
            let Some(beyond) = u32::try_from(bytes).ok().and_then(|b| done.checked_sub(b)) else {
                break;
            };
            let Some(next) = tags.unlink(tag) else { break };
            tags.slot_mut(tag).issued = issued;
            counted |= tags.slot(tag).join != Join::Joined;
            self.bio_done(Ident { tag, ..id }, Status::Ok, now);
            (tag, bios, done) = (next, bios - 1, beyond);
        }
        let hctx = self.table.get_mut(id.hctx);
        if tag != id.tag && hctx.tags.slot(id.tag).state() == State::InFlight {
            let leader = hctx.tags.slot_mut(id.tag);
            leader.bios = 0;
            hctx.tags.set(id.tag, State::Merged);
        }
        hctx.tags.regroup(&parts, &Rest { first: tag, bios, done });
        let slot = hctx.tags.slot_mut(tag);
        slot.again = 0;
        if counted {
            // The one as which the request was in progress is answered (A6).
            slot.join = Join::Piece;
            hctx.stats.piece(slot.op, now);
        }
        self.requeue(Ident { tag, ..id });
    }

    /// What is owed at the end of a request, once, before any of its bios is answered (E1, E2).
    fn request_ended(&mut self, id: Ident, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        if hctx.tags.slot(id.tag).op.is_write() {
            // Failed ones too: part of the range may have been written.
            self.lanes[hctx.lane.index()].flush.wrote();
        }
        if let Some(item) = hctx.unschedule(id) {
            self.scheduler.done(&item, now);
        }
    }

    /// A bio has its answer, or waits for its flush (F5).
    fn bio_done(&mut self, id: Ident, status: Status, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        if hctx.tags.slot(id.tag).durable == Durable::FlushAfter && status == Status::Ok {
            hctx.tags.set(id.tag, State::FlushWait);
            let lane = hctx.lane.index();
            self.lanes[lane].flush.join(&mut self.table, id, now);
        } else {
            hctx.finish(id.tag, status, now);
        }
    }
}
