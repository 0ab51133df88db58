//! The requests of one class: two directions, each sorted by place and listed by arrival.
//!
//! Rules, of which [`Group::choose`] changes nothing and [`Group::take`] everything:
//! * **Q1** A batch goes on with the next request in its direction, at or after the last one's
//!   place, until `fifo_batch` of them went or there is none.
//! * **Q2** Otherwise a direction is chosen: reads, unless there are none, or unless writes wait
//!   too and were passed over `writes_starved` times.
//! * **Q3** A batch starts with the oldest request of its direction if that one has expired or
//!   nothing lies at or after the place where the direction's last batch ended; otherwise it goes
//!   on from that place.
//! * **Q4** Who asks for aged requests only gets one that is aged. The heads of the lists are the
//!   oldest, so they decide whether there is one.
//! * **Q5** While the limit on other requests than reads is reached, they are not there for Q1 and
//!   the choice of Q2, but they are counted as passed over.

use super::super::flat::{Cell, NIL};
use super::super::tree::{Nodes, Place, Root};
use super::Tunables;
use super::entry::{Entries, List, READ, WRITE};
use crate::blkmq::Ident;
use crate::block::Nanos;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By arrival.
    pub(super) fifo: List,
    root: Root,
    /// Where the last one that went was.
    from: Place,
    /// The first at or after that place, or nobody.
    next: Cell,
}

impl Line {
    /// Sorts a request in, which its owner lists.
    #[inline(always)]
    pub(super) fn sort_in(&mut self, all: &Entries, nodes: &mut Nodes, cell: Cell) {
        let place = all[cell].place;
        nodes.sort_in(&mut self.root, cell, place);
        if place >= self.from && (self.next == NIL || place < all[self.next].place) {
            self.next = cell;
        }
    }

    /// Takes a request out of the order.
    #[inline(always)]
    pub(super) fn sort_out(&mut self, nodes: &mut Nodes, cell: Cell) {
        let after = nodes.sort_out(&mut self.root, cell);
        self.next = if self.next == cell { after } else { self.next };
    }

    /// Takes a request out of everything since it goes.
    #[inline(always)]
    fn take(&mut self, all: &mut Entries, nodes: &mut Nodes, cell: Cell) {
        self.from = all[cell].place;
        let in_turn = self.next == cell;
        self.sort_out(nodes, cell);
        self.fifo.unlink(all, cell);
        // In turn, whatever is at or after the old place is at or after this one.
        if !in_turn {
            self.next = nodes.seek(self.root, self.from);
        }
    }

    /// Those that start at a place, in order of arrival.
    pub(super) fn starting_at(&self, nodes: &Nodes, place: Place) -> impl Iterator<Item = Ident> {
        nodes.all_at(self.root, place)
    }
}

/// What goes next, and what its going means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    cell: Cell,
    dir: usize,
    /// It starts a batch.
    fresh: bool,
    starved: u32,
}

/// What a choice depends on besides the requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) tunables: &'a Tunables,
    pub(super) now: Nanos,
    /// Other requests than reads may go (Q5).
    pub(super) writes_may: bool,
    /// Only what was inserted then or before may go (Q4).
    pub(super) aged: Option<Nanos>,
}

/// One class.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) lines: [Line; 2],
    /// Direction of the batch.
    dir: usize,
    /// How many of the batch went.
    batch: u32,
    /// How many times reads went first although writes waited.
    starved: u32,
    /// Requests that wait or are out.
    pub(super) outstanding: u32,
}

impl Group {
    pub(super) fn new() -> Group {
        let lines = [Line::default(), Line::default()];
        Group { lines, dir: WRITE, batch: 0, starved: 0, outstanding: 0 }
    }

    /// The oldest request of a direction, if it may go.
    #[inline(always)]
    pub(super) fn oldest(&self, all: &Entries, dir: usize, terms: &Terms) -> Option<Cell> {
        let head = self.lines[dir].fifo.head();
        let may = head != NIL && (dir == READ || terms.writes_may) && is_aged(all, head, terms);
        may.then_some(head)
    }

    /// Whether [`choose`](Group::choose) would answer: what it answers with is not older than the
    /// head of its list.
    #[inline(always)]
    pub(super) fn can(&self, all: &Entries, terms: &Terms) -> bool {
        self.oldest(all, READ, terms).is_some() || self.oldest(all, WRITE, terms).is_some()
    }

    /// Which request goes next.
    #[inline(always)]
    pub(super) fn choose(&self, all: &Entries, terms: &Terms) -> Option<Choice> {
        let may = self.dir == READ || terms.writes_may;
        let next = self.lines[self.dir].next;
        if next != NIL && self.batch < terms.tunables.fifo_batch && may && is_aged(all, next, terms)
        {
            let starved = self.starved;
            return Some(Choice { cell: next, dir: self.dir, fresh: false, starved }); // Q1
        }
        let (reads, writes) = (self.oldest(all, READ, terms), self.oldest(all, WRITE, terms));
        let (dir, head) = match (reads, writes) {
            (Some(_), Some(head)) if self.starved >= terms.tunables.writes_starved => (WRITE, head),
            (Some(head), _) => (READ, head),
            (None, Some(head)) => (WRITE, head),
            (None, None) => return None,
        }; // Q2
        let passed_over = u32::from(!self.lines[WRITE].fifo.is_empty());
        let starved = if dir == WRITE { 0 } else { self.starved.saturating_add(passed_over) };
        let next = self.lines[dir].next;
        let expired = terms.now >= all[head].expires;
        let cell = if expired || next == NIL || !is_aged(all, next, terms) { head } else { next };
        Some(Choice { cell, dir, fresh: true, starved }) // Q3
    }

    /// Lets a chosen request go.
    #[inline(always)]
    pub(super) fn take(&mut self, all: &mut Entries, nodes: &mut Nodes, choice: Choice) -> Cell {
        if choice.fresh {
            self.batch = 0;
        }
        self.dir = choice.dir;
        self.starved = choice.starved;
        self.batch += 1;
        self.lines[choice.dir].take(all, nodes, choice.cell);
        choice.cell
    }

    /// How many of the batch went.
    #[cfg(test)]
    pub(super) fn nth_of_batch(&self) -> u32 {
        self.batch
    }
}

fn is_aged(all: &Entries, cell: Cell, terms: &Terms) -> bool {
    terms.aged.is_none_or(|then| all[cell].inserted <= then)
}
