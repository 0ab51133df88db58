//! A hardware context: one virtqueue as the core sees it, and the table of a domain's hctxs.

use std::sync::Arc;

use super::dispatch::Busyness;
use super::limits::Direction;
use super::merge::{Join, MergeConfig, Merging};
use super::sched::Item;
use super::stats::{Ended, Kind, QueueStats, Recorder, Role};
use super::tags::{Alone, State, TagList, TagSet};
use crate::block::{HctxId, LaneId, Nanos, Op, Status, Tag};

use super::Ident;

/// How many bios of a hctx are in each stage. They add up to the depth (I03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Heads that the guest may use.
    pub free: u16,
    /// Held back by a limit.
    pub throttled: u16,
    /// In the batch of the current sweep.
    pub plugged: u16,
    /// With the scheduler.
    pub staged: u16,
    /// Refused or unfinished, to be issued before anything else.
    pub leftover: u16,
    /// Waiting for a sync.
    pub flush_wait: u16,
    /// With the kernel: data.
    pub in_flight: u16,
    /// With the kernel: a sync on this hctx's tag.
    pub syncing: u16,
    /// Part of another bio's request, which is counted above.
    pub merged: u16,
    /// Finished and not yet released.
    pub done: u16,
}

impl Gauges {
    /// Bios that were submitted (or rejected) and not yet released.
    #[must_use]
    pub const fn claimed(&self) -> u16 {
        self.throttled
            + self.plugged
            + self.staged
            + self.leftover
            + self.flush_wait
            + self.in_flight
            + self.syncing
            + self.merged
            + self.done
    }
}

/// One virtqueue.
#[derive(Debug)]
pub(super) struct Hctx {
    pub(super) tags: TagSet,
    pub(super) leftovers: TagList,
    pub(super) flush_waiters: TagList,
    /// Held back by a limit, by direction (W1).
    pub(super) parked: [TagList; 2],
    done: TagList,
    pub(super) busy: Busyness,
    pub(super) stats: Recorder,
    pub(super) merging: Merging,
    /// The disk it belongs to.
    pub(super) lane: LaneId,
    depth: u16,
    /// It has to become idle, and does not wait for its storage any more (X3).
    pub(super) gives_up: bool,
}

impl Hctx {
    /// A hctx with nothing in it, that goes on with these counters. Allocates.
    pub(super) fn new(
        lane: LaneId,
        depth: u16,
        merging: MergeConfig,
        stats: Arc<QueueStats>,
    ) -> Hctx {
        Hctx {
            tags: TagSet::new(depth),
            leftovers: TagList::EMPTY,
            flush_waiters: TagList::EMPTY,
            parked: [TagList::EMPTY, TagList::EMPTY],
            done: TagList::EMPTY,
            busy: Busyness::default(),
            stats: Recorder::new(stats),
            merging: Merging::new(merging),
            lane,
            depth,
            gives_up: false,
        }
    }

    /// Number of tags.
    pub(super) fn depth(&self) -> u16 {
        self.depth
    }

    /// The request of this bio is ended: it is the scheduler's no more. `Some` when the scheduler
    /// has to be told.
    pub(super) fn unschedule(&mut self, id: Ident) -> Option<Item> {
        std::mem::take(&mut self.tags.slot_mut(id.tag).scheduled).then(|| self.item(id))
    }

    /// The operation of the first bio that a limit holds back in this direction.
    pub(super) fn first_parked(&self, direction: Direction) -> Option<Op> {
        let tag = self.parked[direction.index()].front()?;
        Some(self.tags.slot(tag).op)
    }

    /// What the scheduler is told of a request.
    pub(super) fn item(&self, id: Ident) -> Item {
        self.tags.slot(id.tag).item(id, self.lane)
    }

    /// The bio has its answer: it joins the list of what is done.
    pub(super) fn finish(&mut self, tag: Tag, status: Status, now: Nanos) {
        let slot = self.tags.answered(tag, status, &mut self.done);
        let (op, arrival) = (slot.op, slot.arrival);
        let issued = slot.issued_at().unwrap_or(arrival);
        let role = match slot.join {
            Join::May | Join::Never if status == Status::Ok && op != Op::Flush => {
                // Its sectors were counted as they were moved.
                let ended = Alone { kind: Kind::of(op), sectors: 0, arrival, issued };
                return self.stats.ended_alone(&ended, now);
            }
            Join::May | Join::Never => Role::Head { bios: 1 },
            Join::Led => Role::Head { bios: self.tags.runs[tag.index()].led },
            Join::Joined => Role::Member,
            Join::Piece => Role::Piece,
        };
        self.stats.ended(&Ended { op, status, arrival, issued, role }, now);
    }

    /// The request is done that the tag leads. When it is one bio that travelled alone, and straight to
    /// the image (nearly all are, where nothing merges), the bio has its answer: whether it is a
    /// write. `None`, and nothing has changed, for whatever else there is: several bios, a flush
    /// that follows, a scheduler.
    #[inline(always)] // for each request
    pub(super) fn finish_alone(&mut self, tag: Tag, now: Nanos) -> Option<bool> {
        let ended = self.tags.answered_alone(tag, &mut self.done)?;
        self.stats.ended_alone(&ended, now);
        Some(ended.kind != Kind::Read)
    }

    /// The same of one that is issued now; when it is not alone it is with the kernel afterwards.
    #[inline(always)] // as finish_alone()
    pub(super) fn done_at_once(&mut self, tag: Tag, now: Nanos) -> Option<bool> {
        let Some(ended) = self.tags.answered_at_once(tag, now, &mut self.done) else {
            self.tags.issued(tag, now);
            return None;
        };
        self.stats.ended_alone(&ended, now);
        Some(ended.kind != Kind::Read)
    }

    /// A claimed bio is answered without having been worked on.
    pub(super) fn answer(&mut self, tag: Tag, status: Status) {
        self.tags.slot_mut(tag).status = status;
        self.stats.rejected();
        self.tags.push_back(&mut self.done, tag);
    }

    /// The next finished bio; its tag stays claimed.
    pub(super) fn take_done(&mut self) -> Option<(Tag, Status)> {
        self.stats.settle(); // A11
        self.tags.take(&mut self.done)
    }

    /// All finished bios, one after the other; their tags stay claimed. How many.
    #[inline]
    pub(super) fn take_all_done(&mut self, each: impl FnMut(Tag, Status)) -> u16 {
        self.stats.settle(); // A11
        self.tags.take_all(&mut self.done, each)
    }

    /// Whether something is finished and not yet taken.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether every head is the guest's.
    pub(super) fn is_idle(&self) -> bool {
        self.tags.count(State::Free) == self.depth
    }

    /// Heads that are not the guest's.
    pub(super) fn claimed(&self) -> u16 {
        self.depth - self.tags.count(State::Free)
    }

    /// The stages as numbers.
    pub(super) fn gauges(&self) -> Gauges {
        let count = |state| self.tags.count(state);
        Gauges {
            free: count(State::Free),
            throttled: count(State::Throttled),
            plugged: count(State::Plugged),
            staged: count(State::Staged),
            leftover: count(State::Leftover),
            flush_wait: count(State::FlushWait),
            in_flight: count(State::InFlight),
            syncing: count(State::Syncing),
            merged: count(State::Merged),
            done: count(State::Done) + count(State::Taken),
        }
    }
}

/// The hctxs of a domain, by id.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<Box<Hctx>>>,
    max: usize,
}

impl Table {
    /// A table with room for `max` hctxs.
    pub(super) fn new(max: u16) -> Table {
        Table { slots: Vec::new(), max: usize::from(max) }
    }

    /// The greatest number of hctxs.
    pub(super) fn max(&self) -> u16 {
        u16::try_from(self.max).unwrap_or(u16::MAX)
    }

    /// Number of ids in use so far.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts a hctx into the first empty place.
    pub(super) fn add(&mut self, hctx: Hctx) -> Option<HctxId> {
        let i = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if i == self.max {
            return None;
        }
        if i == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[i] = Some(Box::new(hctx));
        u16::try_from(i).ok().map(HctxId)
    }

    /// Takes a hctx out.
    pub(super) fn remove(&mut self, id: HctxId) -> Option<Hctx> {
        self.slots.get_mut(id.index())?.take().map(|hctx| *hctx)
    }

    /// The hctx with this id, if there is one.
    #[inline]
    pub(super) fn find(&self, id: HctxId) -> Option<&Hctx> {
        self.slots.get(id.index())?.as_deref()
    }

    /// The hctx with this id.
    ///
    /// # Panics
    /// When there is none: ids come from [`add`](Table::add) and end with removal.
    #[inline]
    pub(super) fn get(&self, id: HctxId) -> &Hctx {
        self.find(id).expect("the hctx is in the table")
    }

    /// The hctx with this id, to change.
    ///
    /// # Panics
    /// As [`get`](Table::get).
    #[inline]
    pub(super) fn get_mut(&mut self, id: HctxId) -> &mut Hctx {
        self.slots
            .get_mut(id.index())
            .and_then(Option::as_deref_mut)
            .expect("the hctx is in the table")
    }

    /// All hctxs with their ids.
    pub(super) fn iter_ids(&self) -> impl Iterator<Item = (HctxId, &Hctx)> {
        (0..).zip(&self.slots).filter_map(|(i, hctx)| Some((HctxId(i), hctx.as_deref()?)))
    }

    /// All hctxs with their ids, to change.
    pub(super) fn iter_ids_mut(&mut self) -> impl Iterator<Item = (HctxId, &mut Hctx)> {
        (0..).zip(&mut self.slots).filter_map(|(i, hctx)| Some((HctxId(i), hctx.as_deref_mut()?)))
    }

    /// All hctxs.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Hctx> {
        self.slots.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// The id of the first hctx at or after `from`, going round, for which `pick` holds.
    pub(super) fn find_round(&self, from: usize, pick: impl Fn(&Hctx) -> bool) -> Option<HctxId> {
        let n = self.slots.len();
        let i = (from..n)
            .chain(0..from.min(n))
            .find(|i| self.slots[*i].as_deref().is_some_and(&pick))?;
        u16::try_from(i).ok().map(HctxId)
    }

    /// The bio of a disk whose tag a sync borrows.
    pub(super) fn first_flush_waiter(&self, lane: LaneId) -> Option<Ident> {
        let hctx = self.find_round(0, |h| h.lane == lane && !h.flush_waiters.is_empty())?;
        Some(Ident { hctx, tag: self.get(hctx).flush_waiters.front()? })
    }
}
