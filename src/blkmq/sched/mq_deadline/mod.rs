//! Batches in the order of the disk, with deadlines: the policy of Linux's mq-deadline.
//!
//! For disks that seek. Requests go in batches sorted by place, reads before writes, and a request
//! that waited too long starts the next batch of its direction (rules Q1 to Q5, `group`).
//!
//! Rules:
//! * **P1** Classes: RealTime before BestEffort before Idle. A class is not served while a request
//!   of a higher one waits or is out.
//! * **P2** A request that waited `prio_aging_expire` is not held back by P1. Among classes with
//!   such requests, the one with the oldest goes: no class can starve another, not even one whose
//!   requests are all old. The question is asked only while two classes have requests, and asking
//!   it changes nothing. (Linux probes for such a request with the ordinary choice, which restarts
//!   batches that classes share even when nothing comes of it; batches here are each class's own.)
//! * **P3** A guest's classes order its own requests and nobody else's. With several disks in the
//!   domain a class would be a claim on the time of other guests, so then all requests are of one
//!   class. What waits or is out is counted anew when a second disk joins or the last but one
//!   leaves.
//! * **P4** Expiry triggers, and does not promise: it is looked at when a batch starts. With
//!   F = max(1, `fifo_batch`) and W = `writes_starved`, in one class and without `async_depth`: at
//!   most (W + 1) F - 1 requests go between a write's arrival and the first write; an expired read
//!   with r older ones before it goes after at most (F - 1) + F (r + r / W + 1) requests, or
//!   (F - 1) + F r when no writes wait; an expired write after at most (r + 1) (W + 1) F - 1.
//! * **P5** What is given back goes before everything, in no class and against no limit: it has
//!   been chosen already.
//! * **P6** `async_depth` is how many other requests than reads may be out at a time, 0 for any
//!   number. (In Linux it limits tags, so that writes leave some to reads. Here the guest's ring
//!   is the waiting room and takes nothing from anybody; what is left to protect is the queue of
//!   the device, in which a read waits behind the writes that are in it.)
//! * **P7** Requests are joined only with their like: same hctx, operation and class. The one that
//!   stays has the place in line of the earlier one.

mod classes;
mod ends;
mod entry;
mod group;
mod tunables;

use super::flat::{Cell, Flat, NIL};
use super::tree::{Nodes, Place};
use super::{BadTunable, Item, Scheduler, Side};
use crate::blkmq::Ident;
use crate::block::{HctxId, LaneId, Nanos};
use ends::{Ends, Starts};
use entry::{Entries, Entry, Kind, List, Stage, WRITE};
use group::{Group, Terms};
use tunables::Tunables;

/// As many as there are classes.
const GROUPS: usize = 3;
/// How many that start at one place are looked at: a missed merge costs nothing but itself.
const LOOKED_AT: usize = 8;

/// The scheduler named `mq-deadline`.
#[derive(Debug)]
pub struct MqDeadline {
    tunables: Tunables,
    entries: Entries,
    nodes: Nodes,
    ends: Ends,
    starts: Starts,
    groups: [Group; GROUPS],
    /// What was given back (P5).
    back: List,
    /// Of each hctx.
    lanes: Vec<Option<LaneId>>,
    /// Classes count: there is one disk at most (P3).
    classes: bool,
    /// Requests so far.
    seq: u64,
    /// Other requests than reads that are out (P6).
    writes_out: u32,
    /// When a request was last asked for.
    asked: Nanos,
}

impl MqDeadline {
    /// One with no hctxs and the usual tunables.
    #[must_use]
    pub fn new() -> MqDeadline {
        MqDeadline {
            tunables: Tunables::default(),
            entries: Flat::new(Entry::free(Ident::default())),
            nodes: Nodes::with_trees(2 * GROUPS),
            ends: Ends::new(),
            starts: Starts::new(),
            groups: std::array::from_fn(|_| Group::new()),
            back: List::new(),
            lanes: Vec::new(),
            classes: true,
            seq: 0,
            writes_out: 0,
            asked: Nanos(0),
        }
    }

    /// A request that was held takes leave of everything that finds it.
    fn unlink(&mut self, cell: Cell) {
        let entry = self.entries[cell];
        let line = &mut self.groups[usize::from(entry.group)].lines[entry.dir()];
        if entry.stage == Stage::Queued {
            line.sort_out(&mut self.nodes, cell);
            self.ends.remove(&mut self.entries, cell);
            self.starts.remove(&self.entries[cell]);
        }
        line.fifo.unlink(&mut self.entries, cell);
    }

    /// A request is no longer here.
    #[inline(always)]
    fn forget(&mut self, cell: Cell) {
        let entry = &mut self.entries[cell];
        entry.stage = Stage::Free;
        self.groups[usize::from(entry.group)].outstanding -= 1;
    }
}

impl Default for MqDeadline {
    fn default() -> MqDeadline {
        MqDeadline::new()
    }
}

impl Scheduler for MqDeadline {
    fn name(&self) -> &'static str {
        "mq-deadline"
    }

    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        self.nodes.attach(hctx, depth);
        self.entries.attach(hctx, depth, Entry::free);
        let end = self.entries.end();
        let held = |e: &Entry| e.stage == Stage::Queued;
        self.ends.grow(end, &mut self.entries, held);
        self.starts.grow(end, &self.entries, held);
        if self.lanes.len() <= hctx.index() {
            self.lanes.resize(hctx.index() + 1, None);
        }
        self.lanes[hctx.index()] = Some(lane);
        self.count_lanes();
    }

    fn detach(&mut self, hctx: HctxId) {
        for cell in self.entries.cells_of(hctx) {
            if self.entries[cell].stage == Stage::Out {
                self.writes_out -= u32::from(self.entries[cell].dir() == WRITE);
                self.forget(cell);
            }
            let free = self.entries[cell].stage == Stage::Free;
            assert!(free, "a hctx leaves with nothing waiting");
        }
        self.nodes.detach(hctx);
        self.entries.detach(hctx);
        self.lanes[hctx.index()] = None;
        self.count_lanes();
    }

    #[inline]
    fn insert(&mut self, item: &Item, now: Nanos) {
        let range = item.op.range().expect("a flush does not come here");
        let kind = Kind::of(item.op);
        let group = self.group_of(item.class);
        let cell = self.entries.cell(item.id);
        self.seq += 1;
        let entry = &mut self.entries[cell];
        assert!(entry.stage == Stage::Free, "a request is inserted once");
        entry.kind = kind;
        entry.class = item.class;
        entry.group = group;
        entry.stage = Stage::Queued;
        entry.place = Place::new(item.lane, range.start());
        entry.end = range.end();
        entry.seq = self.seq;
        entry.inserted = now;
        entry.expires = Nanos(now.0.saturating_add(self.tunables.expire[kind.dir()]));
        let group = &mut self.groups[usize::from(group)];
        group.outstanding += 1;
        let line = &mut group.lines[kind.dir()];
        line.fifo.push_back(&mut self.entries, cell);
        line.sort_in(&self.entries, &mut self.nodes, cell);
        self.ends.insert(&mut self.entries, cell);
        self.starts.insert(&self.entries[cell]);
    }

    fn next(&mut self, now: Nanos) -> Option<Ident> {
        self.asked = now;
        let mut cell = self.back.head();
        if cell == NIL {
            let (group, terms) = self.turn(now)?;
            let choice = self.groups[group].choose(&self.entries, &terms)?;
            cell = self.groups[group].take(&mut self.entries, &mut self.nodes, choice);
            self.ends.remove(&mut self.entries, cell);
            self.starts.remove(&self.entries[cell]);
        } else {
            self.back.unlink(&mut self.entries, cell); // P5
        }
        let entry = &mut self.entries[cell];
        entry.stage = Stage::Out;
        self.writes_out += u32::from(entry.dir() == WRITE);
        Some(entry.id)
    }

    fn requeue(&mut self, item: &Item) {
        let cell = self.entries.cell(item.id);
        let entry = &mut self.entries[cell];
        assert!(entry.stage == Stage::Out, "only what went is given back");
        entry.stage = Stage::Back;
        self.writes_out -= u32::from(entry.dir() == WRITE);
        self.back.push_front(&mut self.entries, cell);
    }

    fn has_work(&self, now: Nanos) -> bool {
        !self.back.is_empty() || self.turn(now).is_some()
    }

    fn done(&mut self, item: &Item, _now: Nanos) {
        let cell = self.entries.cell(item.id);
        assert!(self.entries[cell].stage == Stage::Out, "only what went ends");
        self.writes_out -= u32::from(self.entries[cell].dir() == WRITE);
        self.forget(cell);
    }

    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        // What was given back takes its place among the others first.
        while !self.back.is_empty() {
            let cell = self.back.head();
            self.back.unlink(&mut self.entries, cell);
            let entry = self.entries[cell];
            let fifo = &mut self.groups[usize::from(entry.group)].lines[entry.dir()].fifo;
            let at = List::later(&self.entries, fifo.head(), entry.seq);
            fifo.insert_before(&mut self.entries, at, cell);
        }
        let tunables = self.tunables;
        let all = Terms { tunables: &tunables, now: Nanos(0), writes_may: true, aged: None };
        while let Some((_, cell)) = self.oldest(&all) {
            self.unlink(cell);
            self.forget(cell);
            out(self.entries[cell].id);
        }
    }

    fn next_wake(&self) -> Option<Nanos> {
        let (first, several) = self.first_group()?;
        let terms = self.terms(self.asked, None);
        if !several || !self.back.is_empty() || self.groups[first].can(&self.entries, &terms) {
            return None;
        }
        let (_, cell) = self.oldest(&terms)?;
        let since = self.entries[cell].inserted;
        let wake = Nanos(since.0.saturating_add(self.tunables.prio_aging));
        // One that had aged when it was last asked for was not held back by P1.
        (wake > self.asked).then_some(wake)
    }

    fn find(&mut self, bio: &Item) -> Option<(Ident, Side)> {
        let range = bio.op.range().filter(|r| !r.is_empty())?;
        let kind = Kind::of(bio.op);
        let key = (bio.id.hctx, kind, range.start());
        if let Some(cell) = self.ends.find(&self.entries, key, |e| e.takes(bio)) {
            return Some((self.entries[cell].id, Side::Back));
        }
        let (start, hctx) = (range.end(), bio.id.hctx);
        if !self.tunables.front_merges || !self.starts.any(hctx, kind, start) {
            return None;
        }
        let line = &self.groups[usize::from(self.group_of(bio.class))].lines[kind.dir()];
        let place = Place::new(bio.lane, start);
        let mut starting = line.starting_at(&self.nodes, place).take(LOOKED_AT);
        let id = starting.find(|id| self.entries[self.entries.cell(*id)].takes(bio))?;
        Some((id, Side::Front))
    }

    fn grown(&mut self, before: &Item, after: &Item) {
        debug_assert_eq!(before.id, after.id, "it stays itself");
        let cell = self.entries.cell(after.id);
        let range = after.op.range().expect("a flush does not come here");
        let entry = self.entries[cell];
        debug_assert_eq!(entry.stage, Stage::Queued, "only what is found grows");
        if entry.end != range.end() {
            self.ends.remove(&mut self.entries, cell);
            self.entries[cell].end = range.end();
            self.ends.insert(&mut self.entries, cell);
        }
        let place = Place::new(after.lane, range.start());
        if entry.place != place {
            let line = &mut self.groups[usize::from(entry.group)].lines[entry.dir()];
            line.sort_out(&mut self.nodes, cell);
            self.starts.remove(&self.entries[cell]);
            self.entries[cell].place = place;
            self.starts.insert(&self.entries[cell]);
            line.sort_in(&self.entries, &mut self.nodes, cell);
        }
    }

    fn absorbed(&mut self, gone: &Item, into: &Item) {
        let (gone, into) = (self.entries.cell(gone.id), self.entries.cell(into.id));
        let (old, new) = (self.entries[gone], self.entries[into]);
        if old.seq < new.seq {
            let fifo = &mut self.groups[usize::from(new.group)].lines[new.dir()].fifo;
            fifo.unlink(&mut self.entries, into);
            fifo.insert_before(&mut self.entries, gone, into);
            let entry = &mut self.entries[into];
            entry.seq = old.seq;
            entry.inserted = old.inserted;
        }
        self.entries[into].expires = old.expires.min(new.expires);
        self.unlink(gone);
        self.forget(gone);
    }

    fn tunables(&self) -> &'static [&'static str] {
        tunables::NAMES
    }

    fn tunable(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        self.tunables.tune(name, value)
    }
}

#[cfg(test)]
#[path = "../../tests/deadline.rs"]
mod tests;

#[cfg(test)]
#[path = "../../tests/deadline_model.rs"]
mod model;
