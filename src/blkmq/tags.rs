//! The tags of one hctx: one slot per descriptor head, claimed by the guest's own number.
//!
//! Rules:
//! * **T1** The head is the tag. A slot is found by index; nothing is searched or allocated.
//! * **T2** A tag is claimed only when its slot is free. A head that the guest hands out twice
//!   touches nothing: the live bio goes on (I02).
//! * **T3** A slot moves along the edges below and no others (asserted in debug builds):
//!
//! ```text
//! Free -> Plugged -> Staged -> InFlight -> Done -> Taken -> Free
//!         Plugged -> InFlight | Leftover          (direct issue, or refused)
//!         Plugged -> Throttled -> Plugged         (held back by a limit: W1)
//!                    Staged -> Leftover -> InFlight -> Leftover   (refused; short, again)
//! Free -> FlushWait -> Syncing -> Done, Syncing -> FlushWait      (again)
//!         FlushWait -> Done                       (covered by somebody's sync)
//!                              InFlight -> FlushWait              (DATA, then flush: F5)
//!         Plugged, Staged -> Merged -> Done | FlushWait           (travels with its leader: M5)
//!                            Merged -> Leftover                   (leads the rest; split: M8)
//!                            InFlight -> Merged                   (travels with the rest: M8)
//! Free -> Done                                    (rejected while parsing)
//! ```
//! * **T4** The generation is bumped at each claim; a completion that carries another one, or that
//!   finds the slot not with the kernel, is stale (I36).
//! * **T5** A slot is in at most one list at a time, so one link per slot is enough. A link is a
//!   tag, not a pointer.
//! * **T6** Every move is counted, so that the number of bios in each stage is known at any
//!   instant and adds up to the depth (I03).

use super::merge::{Join, Run};
use super::sched::Item;
use super::{Ident, Request};
use crate::block::{Bio, Class, LaneId, Nanos, Op, Status, Tag};

mod ends;

pub(super) use ends::Alone;

/// The head is still in flight: the guest broke virtio 1.3, 2.7.13 (or the head is out of range).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagBusy;

/// The stage that a slot is in (T3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Not in use: the guest owns the head.
    Free,
    /// In the batch of the current sweep.
    Plugged,
    /// Held back by a limit.
    Throttled,
    /// Held by the scheduler.
    Staged,
    /// Refused or unfinished; goes before anything new.
    Leftover,
    /// Waits for a sync.
    FlushWait,
    /// The kernel works on its data.
    InFlight,
    /// The kernel syncs the image on its tag.
    Syncing,
    /// Part of another bio's request, wherever that is (M5).
    Merged,
    /// Finished, not yet fetched by the ring's owner.
    Done,
    /// Fetched by the ring's owner, not yet published.
    Taken,
}

const STATES: usize = State::Taken as usize + 1;

impl State {
    /// Whether T3 has an edge from `self` to `to`.
    fn leads_to(self, to: State) -> bool {
        use State as S;
        matches!(
            (self, to),
            (S::Free, S::Plugged | S::FlushWait | S::Done)
                | (S::Throttled, S::Plugged)
                | (S::Plugged, S::Throttled | S::Staged | S::InFlight | S::Leftover | S::Merged)
                | (S::Staged, S::InFlight | S::Leftover | S::Merged)
                | (S::Leftover, S::InFlight)
                | (S::InFlight, S::Leftover | S::FlushWait | S::Merged | S::Done)
                | (S::Merged, S::Leftover | S::FlushWait | S::Done)
                | (S::FlushWait, S::Syncing | S::Done)
                | (S::Syncing, S::FlushWait | S::Done)
                | (S::Done, S::Taken)
                | (S::Taken, S::Free)
        )
    }
}

/// The next slot of a list, as a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(u16);

impl Link {
    /// No tag has this number: a virtqueue holds at most 32768 heads (virtio 1.3, 2.7).
    pub(super) const NONE: Link = Link(u16::MAX);

    /// The link to a tag.
    pub(super) fn to(tag: Tag) -> Link {
        Link(tag.0)
    }

    /// The tag that it leads to.
    pub(super) fn tag(self) -> Option<Tag> {
        (self != Link::NONE).then_some(Tag(self.0))
    }
}

/// A list of tags, first in, first out. The links are in the slots (T5).
#[derive(Debug)]
pub(super) struct TagList {
    head: Link,
    tail: Link,
}

impl TagList {
    /// A list of no tags.
    pub(super) const EMPTY: TagList = TagList { head: Link::NONE, tail: Link::NONE };

    /// The first tag.
    pub(super) fn front(&self) -> Option<Tag> {
        self.head.tag()
    }

    /// Whether the list holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.head == Link::NONE
    }
}

/// What the core knows of one bio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// What is to be done next: the bio's operation, or its next range. Of a bio that leads others:
    /// the operation of them all (M5).
    pub(super) op: Op,
    /// When the bio was submitted, or the oldest that it leads.
    pub(super) arrival: Nanos,
    /// When its data was issued the last time; [`NEVER`] before the first.
    pub(super) issued: Nanos,
    /// Claims of this slot so far, modulo 2^16.
    pub(super) generation: u16,
    next: Link,
    /// The next bio of the same request, in sector order.
    pub(super) chain: Link,
    /// Bios in the request that this one leads: 1 when it is alone, 0 when another leads it.
    pub(super) bios: u16,
    /// Data buffers of the request that it leads.
    pub(super) segments: u16,
    /// Flushes that the hctx had seen before the bio, modulo 2^16 (M3).
    pub(super) epoch: u16,
    /// Bytes of the request, from its start, that are finished. Only the first bio of a request
    /// has any: the ones before it were answered.
    pub(super) done: u32,
    state: State,
    /// Whether it may be joined with others.
    pub(super) join: Join,
    /// How it becomes durable.
    pub(super) durable: Durable,
    /// Priority class.
    pub(super) class: Class,
    /// Times in a row that the kernel answered "again" without progress.
    pub(super) again: u8,
    /// The answer, once `Done`.
    pub(super) status: Status,
    /// The scheduler has seen it and must be told of its end.
    pub(super) scheduled: bool,
    /// The watchdog has reported it (W2).
    pub(super) reported: bool,
}

/// The time of issue of what was not issued.
const NEVER: Nanos = Nanos(u64::MAX);

/// How a bio becomes durable that has to be when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// It need not.
    No,
    /// The kernel's completion must mean durable.
    Itself,
    /// A flush has to follow before the bio is answered (F5).
    FlushAfter,
}

impl Slot {
    /// The stage that the bio is in.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether the operation transfers bytes, so that it may be done in part.
    pub(super) fn moves_data(&self) -> bool {
        matches!(self.op, Op::Read(_) | Op::Write(_))
    }

    /// When its data was issued the last time, if it was.
    pub(super) fn issued_at(&self) -> Option<Nanos> {
        (self.issued != NEVER).then_some(self.issued)
    }

    /// The request that works on the bio's data.
    #[inline]
    pub(super) fn request(&self, Ident { hctx, tag }: Ident) -> Request {
        let Slot { generation, op, done, .. } = *self;
        let fua = self.durable == Durable::Itself;
        Request { hctx, tag, generation, op, fua, done }
    }

    /// What the scheduler is told of the bio.
    pub(super) fn item(&self, id: Ident, lane: LaneId) -> Item {
        let Slot { op, class, arrival, .. } = *self;
        let issued = self.issued_at().unwrap_or_default();
        Item { id, lane, op, class, arrival, issued }
    }

    /// The request that syncs the image on the bio's tag.
    pub(super) fn sync(&self, Ident { hctx, tag }: Ident) -> Request {
        let generation = self.generation;
        Request { hctx, tag, generation, op: Op::Flush, fua: false, done: 0 }
    }
}

const _: () = assert!(size_of::<Slot>() == 64, "a slot is a cache line");

/// The slots of one hctx.
#[derive(Debug)]
pub(super) struct TagSet {
    slots: Box<[Slot]>,
    /// What the slots of leaders have no room for; read only of those who lead or led others.
    pub(super) runs: Box<[Run]>,
    /// The count of completed writes that a sync has to cover; meaningful in `FlushWait`.
    needs: Box<[u64]>,
    /// Flushes that the hctx has seen (M3).
    pub(super) epoch: u16,
    counts: [u16; STATES],
}

impl TagSet {
    /// `depth` free tags, `0..depth`.
    pub(super) fn new(depth: u16) -> TagSet {
        let slot = Slot {
            op: Op::Flush,
            arrival: Nanos(0),
            issued: NEVER,
            generation: 0,
            next: Link::NONE,
            chain: Link::NONE,
            bios: 1,
            segments: 0,
            epoch: 0,
            done: 0,
            state: State::Free,
            join: Join::Never,
            durable: Durable::No,
            class: Class::BestEffort,
            again: 0,
            status: Status::Ok,
            scheduled: false,
            reported: false,
        };
        let mut counts = [0; STATES];
        counts[State::Free as usize] = depth;
        let slots = vec![slot; usize::from(depth)].into_boxed_slice();
        let runs = vec![Run::default(); usize::from(depth)].into_boxed_slice();
        let needs = vec![0; usize::from(depth)].into_boxed_slice();
        TagSet { slots, runs, needs, epoch: 0, counts }
    }

    /// How many slots are in `state` (T6).
    #[inline]
    pub(super) fn count(&self, state: State) -> u16 {
        self.counts[state as usize]
    }

    /// Takes a free slot for `bio` (T2, T4).
    #[inline(always)] // what the caller knows of the bio is not stored to be loaded again
    pub(super) fn claim(
        &mut self,
        bio: &Bio,
        durable: Durable,
        now: Nanos,
        to: State,
    ) -> Result<(), TagBusy> {
        let slot = self.slots.get_mut(bio.tag.index()).ok_or(TagBusy)?;
        if slot.state != State::Free {
            return Err(TagBusy);
        }
        slot.op = bio.op;
        slot.durable = durable;
        slot.class = bio.class;
        slot.chain = Link::NONE;
        slot.bios = 1;
        slot.segments = bio.segments;
        slot.epoch = self.epoch;
        slot.done = 0;
        slot.join = if bio.alone { Join::Never } else { Join::May };
        slot.arrival = now;
        slot.issued = NEVER;
        slot.generation = slot.generation.wrapping_add(1);
        slot.again = 0;
        slot.scheduled = false;
        slot.reported = false;
        slot.state = to;
        self.moved(bio.tag, State::Free, to);
        Ok(())
    }

    /// Whether the kernel works on this very claim of the tag, and how (T4).
    #[inline]
    pub(super) fn with_kernel(&self, tag: Tag, generation: u16) -> Option<State> {
        let slot = self.slots.get(tag.index())?;
        let with_kernel = matches!(slot.state, State::InFlight | State::Syncing);
        (with_kernel && slot.generation == generation).then_some(slot.state)
    }

    /// Whether the tag exists and can be claimed.
    pub(super) fn is_free(&self, tag: Tag) -> bool {
        self.slots.get(tag.index()).is_some_and(|slot| slot.state == State::Free)
    }

    /// The slot of a tag.
    ///
    /// # Panics
    /// When the tag is not below the depth.
    #[inline]
    pub(super) fn slot(&self, tag: Tag) -> &Slot {
        &self.slots[tag.index()]
    }

    /// The slot of a tag, to change.
    ///
    /// # Panics
    /// When the tag is not below the depth.
    #[inline]
    pub(super) fn slot_mut(&mut self, tag: Tag) -> &mut Slot {
        &mut self.slots[tag.index()]
    }

    /// The request that the tag leads goes to the kernel.
    #[inline]
    pub(super) fn issued(&mut self, tag: Tag, now: Nanos) {
        let slot = &mut self.slots[tag.index()];
        slot.issued = now;
        if slot.bios > 1 && slot.join == Join::May {
            slot.join = Join::Led;
            self.runs[tag.index()].led = slot.bios;
        }
        self.set(tag, State::InFlight);
    }

    /// The count of completed writes that a sync has to cover for a bio in `FlushWait`.
    pub(super) fn need(&self, tag: Tag) -> u64 {
        self.needs[tag.index()]
    }

    /// The same, to be changed.
    pub(super) fn set_need(&mut self, tag: Tag, need: u64) {
        self.needs[tag.index()] = need;
    }

    /// All slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Tag, &Slot)> {
        (0..).zip(&self.slots).map(|(i, slot)| (Tag(i), slot))
    }

    /// All slots, to look at and to mark as reported.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Tag, &mut Slot)> {
        (0..).zip(&mut self.slots).map(|(i, slot)| (Tag(i), slot))
    }

    /// Moves a tag along an edge of T3.
    #[inline]
    pub(super) fn set(&mut self, tag: Tag, to: State) {
        let from = std::mem::replace(&mut self.slots[tag.index()].state, to);
        debug_assert!(from.leads_to(to), "{tag:?}: {from:?} does not lead to {to:?}");
        self.moved(tag, from, to);
    }

    /// A slot went from one stage to another (T6). It was counted in `from`, and all counts together
    /// are the depth, 16 bits.
    #[inline(always)] // mostly the stages are known, and so is where they are counted
    fn moved(&mut self, tag: Tag, from: State, to: State) {
        self.follow(tag, from, to);
        self.recount_moved(from, to, 1);
    }

    /// So many slots went from one stage to another.
    #[inline(always)] // as moved()
    fn recount_moved(&mut self, from: State, to: State, slots: u16) {
        let [from, to] = [from as usize, to as usize];
        self.counts[from] = self.counts[from].wrapping_sub(slots);
        self.counts[to] = self.counts[to].wrapping_add(slots);
    }

    /// Tells the tests who goes where.
    #[inline(always)]
    fn follow(&self, tag: Tag, from: State, to: State) {
        #[cfg(test)]
        super::tests::grammar::moved(self.slots.as_ptr().addr(), tag.0, from, to);
        let _ = (tag, from, to);
    }

    /// No request counts as the scheduler's any more: it is going to be replaced.
    pub(super) fn unschedule(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.scheduled = false);
    }

    /// The stages counted anew, slot by slot, to hold against the running counts (T6).
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        let mut counts = [0; STATES];
        self.slots.iter().for_each(|slot| counts[slot.state as usize] += 1);
        counts == self.counts
    }

    /// Appends a tag to a list.
    #[inline]
    pub(super) fn push_back(&mut self, list: &mut TagList, tag: Tag) {
        self.slots[tag.index()].next = Link::NONE;
        match list.tail.tag() {
            Some(last) => self.slots[last.index()].next = Link(tag.0),
            None => list.head = Link(tag.0),
        }
        list.tail = Link(tag.0);
    }

    /// Puts a tag before all others of a list.
    pub(super) fn push_front(&mut self, list: &mut TagList, tag: Tag) {
        self.slots[tag.index()].next = list.head;
        if list.is_empty() {
            list.tail = Link(tag.0);
        }
        list.head = Link(tag.0);
    }

    /// Puts a list, in its order, before what another holds.
    pub(super) fn prepend(&mut self, first: &TagList, list: &mut TagList) {
        let Some(last) = first.tail.tag() else { return };
        self.slots[last.index()].next = list.head;
        if list.is_empty() {
            list.tail = first.tail;
        }
        list.head = first.head;
    }

    /// Takes the first tag of a list.
    #[inline]
    pub(super) fn pop_front(&mut self, list: &mut TagList) -> Option<Tag> {
        let tag = list.head.tag()?;
        list.head = self.slots[tag.index()].next;
        if list.is_empty() {
            list.tail = Link::NONE;
        }
        Some(tag)
    }
}

#[cfg(test)]
#[path = "tests/tags.rs"]
mod tests;
