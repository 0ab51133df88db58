//! What is kept of one request, and lists of them.

use super::super::flat::{Cell, Flat, NIL};
use super::super::{Item, tree::Place};
use crate::blkmq::Ident;
use crate::block::{Class, Nanos, Op, Sector};

/// Index of the direction that only reads have.
pub(super) const READ: usize = 0;
/// Index of the direction of all that changes the disk.
pub(super) const WRITE: usize = 1;

/// Operations that can be joined with their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Read,
    Write,
    Discard,
    Zeroes,
    ZeroesUnmap,
}

impl Kind {
    pub(super) const fn of(op: Op) -> Kind {
        match op {
            Op::Read(_) => Kind::Read,
            Op::Write(_) | Op::Flush => Kind::Write,
            Op::Discard(_) => Kind::Discard,
            Op::WriteZeroes { unmap: false, .. } => Kind::Zeroes,
            Op::WriteZeroes { unmap: true, .. } => Kind::ZeroesUnmap,
        }
    }

    pub(super) const fn dir(self) -> usize {
        if matches!(self, Kind::Read) { READ } else { WRITE }
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not here at all.
    Free,
    /// In the tree, the list and the chain of its class and direction.
    Queued,
    /// Given back: in the list of those that go first, or while everything leaves, in that of its
    /// class and direction.
    Back,
    /// It went, and has not ended.
    Out,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: Ident,
    pub(super) kind: Kind,
    /// The guest's.
    pub(super) class: Class,
    /// Index of the class that it counts for.
    pub(super) group: u8,
    pub(super) stage: Stage,
    pub(super) place: Place,
    pub(super) end: Sector,
    /// Its number in the order of arrival.
    pub(super) seq: u64,
    pub(super) inserted: Nanos,
    pub(super) expires: Nanos,
    /// Neighbours in a [`List`].
    prev: Cell,
    next: Cell,
    /// Neighbours in a chain of [`Ends`](super::ends::Ends).
    pub(super) newer: Cell,
    pub(super) older: Cell,
}

impl Entry {
    pub(super) fn free(id: Ident) -> Entry {
        Entry {
            id,
            kind: Kind::Read,
            class: Class::default(),
            group: 0,
            stage: Stage::Free,
            place: Place::default(),
            end: Sector(0),
            seq: 0,
            inserted: Nanos(0),
            expires: Nanos(0),
            prev: NIL,
            next: NIL,
            newer: NIL,
            older: NIL,
        }
    }

    #[inline(always)]
    pub(super) fn dir(&self) -> usize {
        self.kind.dir()
    }

    /// Whether `bio` is of the same sort, so that place alone decides about a merge, and another.
    #[inline(always)]
    pub(super) fn takes(&self, bio: &Item) -> bool {
        self.id.hctx == bio.id.hctx
            && self.id.tag != bio.id.tag
            && self.kind == Kind::of(bio.op)
            && self.class == bio.class
    }
}

pub(super) type Entries = Flat<Entry>;

/// A list of requests; a request is in one at most. What has no neighbour writes to nobody's cell
/// instead of asking, and nobody reads that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    head: Cell,
    tail: Cell,
}

impl List {
    pub(super) const fn new() -> List {
        List { head: NIL, tail: NIL }
    }

    pub(super) const fn head(&self) -> Cell {
        self.head
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    #[inline(always)]
    pub(super) fn push_back(&mut self, all: &mut Entries, cell: Cell) {
        let last = self.tail;
        all[cell].prev = last;
        all[cell].next = NIL;
        all[last].next = cell;
        self.head = if last == NIL { cell } else { self.head };
        self.tail = cell;
    }

    /// Puts one before `at`, or at the end when that is nobody.
    pub(super) fn insert_before(&mut self, all: &mut Entries, at: Cell, cell: Cell) {
        if at == NIL {
            self.push_back(all, cell);
            return;
        }
        let prev = all[at].prev;
        all[cell].prev = prev;
        all[cell].next = at;
        all[at].prev = cell;
        all[prev].next = cell;
        self.head = if prev == NIL { cell } else { self.head };
    }

    pub(super) fn push_front(&mut self, all: &mut Entries, cell: Cell) {
        self.insert_before(all, self.head, cell);
    }

    #[inline(always)]
    pub(super) fn unlink(&mut self, all: &mut Entries, cell: Cell) {
        let (prev, next) = (all[cell].prev, all[cell].next);
        all[prev].next = next;
        all[next].prev = prev;
        self.head = if prev == NIL { next } else { self.head };
        self.tail = if next == NIL { prev } else { self.tail };
    }

    /// The one after another.
    pub(super) fn after(all: &Entries, cell: Cell) -> Cell {
        all[cell].next
    }

    /// The first, at `from` or after it, that arrived after number `seq`.
    pub(super) fn later(all: &Entries, mut from: Cell, seq: u64) -> Cell {
        while from != NIL && all[from].seq < seq {
            from = all[from].next;
        }
        from
    }
}
