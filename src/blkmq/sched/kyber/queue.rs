//! What waits on one hctx: a list for each kind of request, linked through the tags.

use super::KINDS;
use crate::block::{LaneId, Nanos, Tag};

const NONE: u16 = u16::MAX;

/// What is kept of a request, from its insertion to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its place among all that were inserted.
    pub(super) seq: u64,
    /// When it was inserted.
    pub(super) since: Nanos,
    /// In which era of the scheduler it took the token that it holds; 0: it holds none.
    pub(super) token: u32,
    prev: u16,
    next: u16,
    /// Its kind.
    pub(super) kind: u8,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u16,
    tail: u16,
}

/// The requests of one hctx. A list is in the order of `seq`, always.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) lane: LaneId,
    entries: Box<[Entry]>,
    lists: [List; KINDS],
    /// Which lists have something, one bit for each.
    pub(super) has: u8,
    /// The kind that is being served, and for how many requests in a row it was.
    pub(super) kind: u8,
    pub(super) batch: u8,
    /// The kinds whose turn came when there was no token.
    pub(super) missed: u8,
}

impl Queue {
    pub(super) fn new(lane: LaneId, depth: u16) -> Queue {
        let entry = Entry { seq: 0, since: Nanos(0), token: 0, prev: NONE, next: NONE, kind: 0 };
        Queue {
            lane,
            entries: vec![entry; usize::from(depth)].into_boxed_slice(),
            lists: [List { head: NONE, tail: NONE }; KINDS],
            has: 0,
            kind: 0,
            batch: 0,
            missed: 0,
        }
    }

    pub(super) fn entry(&mut self, tag: Tag) -> &mut Entry {
        &mut self.entries[tag.index()]
    }

    /// A new request, behind all others of its kind.
    pub(super) fn push(&mut self, tag: Tag, kind: usize, seq: u64, now: Nanos) {
        let tail = self.lists[kind].tail;
        let next = NONE;
        let kind_of = u8::try_from(kind).unwrap_or(u8::MAX);
        self.entries[tag.index()] =
            Entry { seq, since: now, token: 0, prev: tail, next, kind: kind_of };
        self.link(tail, tag.0, NONE, kind);
    }

    /// A request that was out returns to its place: before the others, unless they were out too.
    pub(super) fn put_back(&mut self, tag: Tag) {
        let entry = self.entries[tag.index()];
        let kind = usize::from(entry.kind);
        let (mut prev, mut at) = (NONE, self.lists[kind].head);
        while at != NONE && self.entries[usize::from(at)].seq < entry.seq {
            prev = at;
            at = self.entries[usize::from(at)].next;
        }
        self.link(prev, tag.0, at, kind);
    }

    /// The oldest of a kind comes out.
    pub(super) fn pop(&mut self, kind: usize) -> Option<Tag> {
        let tag = self.front(kind)?;
        self.unlink(tag);
        Some(tag)
    }

    /// The oldest of all kinds comes out.
    pub(super) fn pop_oldest(&mut self) -> Option<Tag> {
        let heads = (0..KINDS).filter_map(|kind| self.front(kind));
        let tag = heads.min_by_key(|tag| self.entries[tag.index()].seq)?;
        self.unlink(tag);
        Some(tag)
    }

    /// `gone` became part of `into`, which takes the earlier place of the two.
    pub(super) fn absorb(&mut self, gone: Tag, into: Tag) {
        let (old, new) = (self.entries[gone.index()], self.entries[into.index()]);
        debug_assert_eq!(old.kind, new.kind, "only requests of one kind become one");
        self.unlink(gone);
        if old.seq < new.seq {
            self.unlink(into);
            let entry = self.entry(into);
            (entry.seq, entry.since) = (old.seq, old.since.min(new.since));
            let kind = usize::from(old.kind);
            let next = match old.prev {
                NONE => self.lists[kind].head,
                prev => self.entries[usize::from(prev)].next,
            };
            self.link(old.prev, into.0, next, kind);
        }
    }

    fn front(&self, kind: usize) -> Option<Tag> {
        let head = self.lists[kind].head;
        (head != NONE).then_some(Tag(head))
    }

    fn link(&mut self, prev: u16, tag: u16, next: u16, kind: usize) {
        let entry = &mut self.entries[usize::from(tag)];
        (entry.prev, entry.next) = (prev, next);
        match prev {
            NONE => self.lists[kind].head = tag,
            prev => self.entries[usize::from(prev)].next = tag,
        }
        match next {
            NONE => self.lists[kind].tail = tag,
            next => self.entries[usize::from(next)].prev = tag,
        }
        self.has |= 1 << kind;
    }

    fn unlink(&mut self, tag: Tag) {
        let Entry { prev, next, kind, .. } = self.entries[tag.index()];
        let list = &mut self.lists[usize::from(kind)];
        match prev {
            NONE => list.head = next,
            prev => self.entries[usize::from(prev)].next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.entries[usize::from(next)].prev = prev,
        }
        if list.head == NONE {
            self.has &= !(1 << kind);
        }
    }
}
