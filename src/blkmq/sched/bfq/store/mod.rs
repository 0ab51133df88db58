//! What the lanes hold. Which of it goes first is said in `order`, rules O1 to O5.
//!
//! Rules:
//! * **O6** A request that absorbs an earlier one takes its place.
//! * **O7** A request is in one list, and in one tree as well when it is sorted and was not given back.

mod order;

pub(super) use order::Head;

use crate::blkmq::Ident;
use crate::blkmq::sched::Item;
use crate::blkmq::sched::flat::{Cell, Flat, NIL};
use crate::blkmq::sched::tree::{Nodes, Root};
use crate::block::{Class, HctxId, LaneId, Nanos, Op, Sector, SectorRange};

/// Given back, real-time, best-effort, idle.
const LEVELS: usize = 4;
const GIVEN_BACK: usize = 0;
const NO_HCTX: u16 = u16::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Held,
    /// With the image; whether the window counts it.
    Out {
        counted: bool,
    },
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    next: Cell,
    prev: Cell,
    /// Order of arrival; 0 for what was given back.
    seq: u64,
    arrival: Nanos,
    start: u64,
    end: u64,
    /// What its service costs, in units.
    pub(super) cost: u32,
    /// What was charged for it already, before it was given back.
    pub(super) paid: u32,
    pub(super) id: Ident,
    pub(super) lane: LaneId,
    pub(super) state: State,
    /// Which operation: only the same ones merge.
    kind: u8,
    level: u8,
}

impl Entry {
    fn of(id: Ident) -> Entry {
        Entry {
            next: NIL,
            prev: NIL,
            seq: 0,
            arrival: Nanos(0),
            start: 0,
            end: 0,
            cost: 0,
            paid: 0,
            id,
            lane: LaneId(0),
            state: State::Free,
            kind: 0,
            level: 0,
        }
    }

    pub(super) const fn is_write(&self) -> bool {
        self.kind != 0
    }

    fn level(&self) -> usize {
        usize::from(self.level)
    }
}

const fn kind(op: Op) -> u8 {
    match op {
        Op::Read(_) | Op::Flush => 0,
        Op::Write(_) => 1,
        Op::Discard(_) => 2,
        Op::WriteZeroes { unmap: false, .. } => 3,
        Op::WriteZeroes { unmap: true, .. } => 4,
    }
}

const fn level(class: Class) -> u8 {
    match class {
        Class::RealTime => 1,
        Class::BestEffort => 2,
        Class::Idle => 3,
    }
}

fn ends(op: Op) -> (u64, u64) {
    op.range().map_or((0, 0), |r: SectorRange| (r.start().0, r.end().0))
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    head: Cell,
    tail: Cell,
}

/// A hctx, when unsorted.
#[derive(Clone, Copy, Debug)]
struct Queue {
    lane: LaneId,
    lists: [List; LEVELS],
    /// The next hctx of the lane that has something (O3); itself in the ring or not.
    after: [u16; LEVELS],
    in_ring: [bool; LEVELS],
}

#[derive(Clone, Copy, Debug)]
struct Ring {
    head: u16,
    tail: u16,
}

/// A disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) queued: u32,
    pub(super) in_flight: u32,
    counts: [u32; LEVELS],
    /// None of a level came before this; that it is exact is not promised (O2).
    oldest: [Nanos; LEVELS],
    /// Unsorted: hctxs that have something. One that lost it to a merge is found out later.
    rings: [Ring; LEVELS],
    /// Sorted: by arrival, reads and others.
    fifo: [[List; 2]; LEVELS],
    /// Sorted: by sector.
    trees: [Root; LEVELS],
    /// Where the last request ended.
    position: u64,
}

impl Lane {
    const NEW: Lane = Lane {
        queued: 0,
        in_flight: 0,
        counts: [0; LEVELS],
        oldest: [Nanos(0); LEVELS],
        rings: [Ring { head: NO_HCTX, tail: NO_HCTX }; LEVELS],
        fifo: [[List { head: NIL, tail: NIL }; 2]; LEVELS],
        trees: [Root::new(); LEVELS],
        position: 0,
    };
}

#[derive(Clone, Copy)]
enum Spot {
    Front,
    Back,
    Before(Cell),
}

/// All requests of all lanes.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) entries: Flat<Entry>,
    nodes: Nodes,
    queues: Vec<Queue>,
    lanes: Vec<Lane>,
    sorted: bool,
    seq: u64,
    pub(super) queued: u32,
    pub(super) in_flight: u32,
}

impl Store {
    pub(super) fn new() -> Store {
        Store {
            entries: Flat::new(Entry::of(Ident::default())),
            nodes: Nodes::new(),
            queues: Vec::new(),
            lanes: Vec::new(),
            sorted: false,
            seq: 0,
            queued: 0,
            in_flight: 0,
        }
    }

    pub(super) fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        self.entries.attach(hctx, depth, Entry::of);
        self.nodes.attach(hctx, depth);
        let new = Queue {
            lane,
            lists: [List::default(); LEVELS],
            after: [NO_HCTX; LEVELS],
            in_ring: [false; LEVELS],
        };
        if self.queues.len() <= hctx.index() {
            self.queues.resize(hctx.index() + 1, new);
        }
        self.queues[hctx.index()] = new;
        if self.lanes.len() <= lane.index() {
            self.lanes.resize(lane.index() + 1, Lane::NEW);
        }
    }

    /// A hctx with nothing waiting or in flight leaves.
    pub(super) fn detach(&mut self, hctx: HctxId) {
        for level in 0..LEVELS {
            self.leave_ring(hctx, level);
        }
        self.nodes.detach(hctx);
        self.entries.detach(hctx);
    }

    fn leave_ring(&mut self, hctx: HctxId, level: usize) {
        let lane = self.queues[hctx.index()].lane.index();
        let mut at = self.lanes[lane].rings[level].head;
        self.lanes[lane].rings[level] = Ring { head: NO_HCTX, tail: NO_HCTX };
        while at != NO_HCTX {
            let next = self.queues[usize::from(at)].after[level];
            self.queues[usize::from(at)].in_ring[level] = false;
            if at != hctx.0 {
                self.join_ring(at, level);
            }
            at = next;
        }
    }

    pub(super) fn lane_of(&self, hctx: HctxId) -> LaneId {
        self.queues[hctx.index()].lane
    }

    pub(super) fn lane(&self, lane: LaneId) -> &Lane {
        &self.lanes[lane.index()]
    }

    /// Takes a request in.
    pub(super) fn insert(&mut self, item: &Item, cost: u32) {
        self.seq += 1;
        let seq = self.seq;
        self.put(item, cost, seq, level(item.class), Spot::Back);
    }

    /// Takes a request back that went, to go before all of its lane (O1). It is paid for.
    pub(super) fn give_back(&mut self, item: &Item) {
        let cell = self.entries.cell(item.id);
        let cost = self.entries[cell].cost;
        self.put(item, cost, 0, 0, Spot::Front);
        self.entries[cell].paid = cost;
    }

    fn put(&mut self, item: &Item, cost: u32, seq: u64, level: u8, spot: Spot) {
        let cell = self.entries.cell(item.id);
        let lane = self.lane_of(item.id.hctx);
        let (start, end) = ends(item.op);
        let entry = &mut self.entries[cell];
        assert!(entry.state == State::Free, "a request is inserted once");
        *entry = Entry {
            seq,
            arrival: item.arrival,
            start,
            end,
            cost,
            lane,
            kind: kind(item.op),
            level,
            ..Entry::of(item.id)
        };
        self.link(cell, spot);
    }

    /// A request that was out is no longer.
    pub(super) fn landed(&mut self, cell: Cell) {
        let entry = &mut self.entries[cell];
        entry.state = State::Free;
        self.lanes[entry.lane.index()].in_flight -= 1;
        self.in_flight -= 1;
    }

    fn list(&mut self, entry: &Entry) -> &mut List {
        let level = entry.level();
        if self.sorted {
            let way = usize::from(level != GIVEN_BACK && entry.is_write());
            &mut self.lanes[entry.lane.index()].fifo[level][way]
        } else {
            &mut self.queues[entry.id.hctx.index()].lists[level]
        }
    }

    fn link(&mut self, cell: Cell, spot: Spot) {
        let entry = self.entries[cell];
        let level = entry.level();
        let mut list = *self.list(&entry);
        let (prev, next) = match spot {
            Spot::Front => (NIL, list.head),
            Spot::Back => (list.tail, NIL),
            Spot::Before(at) => (self.entries[at].prev, at),
        };
        (self.entries[cell].prev, self.entries[cell].next) = (prev, next);
        self.entries[cell].state = State::Held;
        *(if prev == NIL { &mut list.head } else { &mut self.entries[prev].next }) = cell;
        *(if next == NIL { &mut list.tail } else { &mut self.entries[next].prev }) = cell;
        *self.list(&entry) = list;
        let lane = &mut self.lanes[entry.lane.index()];
        let first = lane.counts[level] == 0;
        let oldest = if first { entry.arrival } else { lane.oldest[level].min(entry.arrival) };
        lane.oldest[level] = oldest;
        lane.counts[level] += 1;
        lane.queued += 1;
        self.queued += 1;
        if !self.sorted {
            self.join_ring(entry.id.hctx.0, level);
        } else if level != GIVEN_BACK {
            let root = &mut lane.trees[level];
            self.nodes.insert(root, entry.id, entry.lane, Sector(entry.start));
        }
    }

    fn unlink(&mut self, cell: Cell) {
        let entry = self.entries[cell];
        assert!(entry.state == State::Held, "only what is held goes");
        let mut list = *self.list(&entry);
        let Entry { prev, next, .. } = entry;
        *(if prev == NIL { &mut list.head } else { &mut self.entries[prev].next }) = next;
        *(if next == NIL { &mut list.tail } else { &mut self.entries[next].prev }) = prev;
        *self.list(&entry) = list;
        self.entries[cell].state = State::Free;
        let level = entry.level();
        let lane = &mut self.lanes[entry.lane.index()];
        lane.counts[level] -= 1;
        lane.queued -= 1;
        self.queued -= 1;
        if self.sorted && level != GIVEN_BACK {
            self.nodes.remove(&mut lane.trees[level], entry.id);
        }
    }

    fn join_ring(&mut self, hctx: u16, level: usize) {
        let queue = &mut self.queues[usize::from(hctx)];
        if queue.in_ring[level] {
            return;
        }
        queue.in_ring[level] = true;
        queue.after[level] = NO_HCTX;
        let ring = &mut self.lanes[queue.lane.index()].rings[level];
        let tail = std::mem::replace(&mut ring.tail, hctx);
        if tail == NO_HCTX {
            ring.head = hctx;
        } else {
            self.queues[usize::from(tail)].after[level] = hctx;
        }
    }

    /// Takes out what [`head`](Store::head) named.
    pub(super) fn take(&mut self, cell: Cell) -> Entry {
        self.unlink(cell);
        let entry = self.entries[cell];
        let level = entry.level();
        let lane = &mut self.lanes[entry.lane.index()];
        lane.position = entry.end;
        lane.in_flight += 1;
        self.in_flight += 1;
        if self.sorted {
            return entry;
        }
        // Round-robin: those before it in the ring have nothing, unless it goes by its age.
        loop {
            let head = self.lanes[entry.lane.index()].rings[level].head;
            let queue = &mut self.queues[usize::from(head)];
            let has_some = queue.lists[level].head != NIL;
            if head != entry.id.hctx.0 && has_some {
                return entry;
            }
            queue.in_ring[level] = false;
            let ring = &mut self.lanes[entry.lane.index()].rings[level];
            ring.head = queue.after[level];
            if ring.head == NO_HCTX {
                ring.tail = NO_HCTX;
            }
            if has_some {
                self.join_ring(head, level);
            }
            if head == entry.id.hctx.0 {
                return entry;
            }
        }
    }

    /// A held request has grown.
    pub(super) fn grown(&mut self, after: &Item, cost: u32) {
        let cell = self.entries.cell(after.id);
        let (start, end) = ends(after.op);
        let entry = &mut self.entries[cell];
        let moved = entry.start != start;
        (entry.start, entry.end, entry.cost) = (start, end, cost);
        let Entry { id, lane, level, .. } = *entry;
        if moved && self.nodes.holds(id) {
            let root = &mut self.lanes[lane.index()].trees[usize::from(level)];
            self.nodes.remove(root, id);
            self.nodes.insert(root, id, lane, Sector(start));
        }
    }

    /// A held request became part of another (O6).
    pub(super) fn absorbed(&mut self, gone: Ident, into: Ident) {
        let (gone, into) = (self.entries.cell(gone), self.entries.cell(into));
        let Entry { seq, level, arrival, paid, .. } = self.entries[gone];
        if seq < self.entries[into].seq {
            self.unlink(into);
            let entry = &mut self.entries[into];
            (entry.seq, entry.level) = (seq, level);
            entry.arrival = entry.arrival.min(arrival);
            self.link(into, Spot::Before(gone));
        }
        self.unlink(gone);
        self.entries[into].paid += paid;
    }

    /// Gives everything up, each hctx's in the order of arrival.
    pub(super) fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        let rows = if self.sorted { self.lanes.len() } else { self.queues.len() };
        for row in 0..rows {
            while let Some(cell) = self.earliest(row) {
                self.unlink(cell);
                out(self.entries[cell].id);
            }
        }
    }

    /// The earliest of a lane (sorted) or a hctx.
    fn earliest(&self, row: usize) -> Option<Cell> {
        let earliest = |lists: &[List]| {
            let heads = lists.iter().map(|list| list.head).filter(|cell| *cell != NIL);
            heads.min_by_key(|cell| self.entries[*cell].seq)
        };
        if self.sorted {
            earliest(self.lanes[row].fifo.as_flattened())
        } else {
            earliest(&self.queues[row].lists)
        }
    }

    /// Changes to sorted or back, with all that is held. A control-time operation: it allocates.
    pub(super) fn set_sorted(&mut self, sorted: bool) {
        if sorted == self.sorted {
            return;
        }
        let mut held = Vec::with_capacity(self.queued as usize);
        self.drain(&mut |id| held.push(id));
        let mut cells: Vec<Cell> = held.into_iter().map(|id| self.entries.cell(id)).collect();
        cells.sort_by_key(|cell| self.entries[*cell].seq); // stable: those given back keep theirs
        self.sorted = sorted;
        cells.into_iter().for_each(|cell| self.link(cell, Spot::Back));
    }
}

#[cfg(test)]
#[path = "../../../tests/bfq_store.rs"]
mod tests;
