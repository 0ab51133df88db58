//! Which class goes next (P1, P2), and what counts as a class (P3).

use super::super::flat::{Cell, NIL};
use super::entry::{List, READ, Stage, WRITE};
use super::group::Terms;
use super::{GROUPS, MqDeadline};
use crate::block::{Class, Nanos};

const BEST_EFFORT: u8 = 1;

impl MqDeadline {
    /// The class that a request counts for (P3).
    #[inline(always)]
    pub(super) fn group_of(&self, class: Class) -> u8 {
        match class {
            Class::RealTime if self.classes => 0,
            Class::Idle if self.classes => 2,
            Class::RealTime | Class::BestEffort | Class::Idle => BEST_EFFORT,
        }
    }

    #[inline(always)]
    pub(super) fn terms(&self, now: Nanos, aged: Option<Nanos>) -> Terms<'_> {
        let depth = self.tunables.async_depth;
        let writes_may = depth == 0 || self.writes_out < depth;
        Terms { tunables: &self.tunables, now, writes_may, aged }
    }

    /// The highest class with anything, and whether there is another.
    #[inline(always)]
    pub(super) fn first_group(&self) -> Option<(usize, bool)> {
        let mut with = (0..GROUPS).filter(|g| self.groups[*g].outstanding > 0);
        let first = with.next()?;
        Some((first, with.next().is_some()))
    }

    /// The class that goes next, and whether only what is aged of it (P1, P2).
    #[inline(always)]
    pub(super) fn turn(&self, now: Nanos) -> Option<(usize, Terms<'_>)> {
        let (first, several) = self.first_group()?;
        if several && let Some(turn) = self.aged_turn(now) {
            return Some(turn);
        }
        let terms = self.terms(now, None);
        self.groups[first].can(&self.entries, &terms).then_some((first, terms))
    }

    /// P2.
    pub(super) fn aged_turn(&self, now: Nanos) -> Option<(usize, Terms<'_>)> {
        let terms = self.terms(now, Some(Nanos(now.0.checked_sub(self.tunables.prio_aging)?)));
        self.oldest(&terms).map(|(group, _)| (group, terms))
    }

    /// The class with the oldest request that may go, and that request.
    pub(super) fn oldest(&self, terms: &Terms) -> Option<(usize, Cell)> {
        let heads = (0..GROUPS).flat_map(|g| [READ, WRITE].map(|dir| (g, dir)));
        heads
            .filter_map(|(g, dir)| Some((g, self.groups[g].oldest(&self.entries, dir, terms)?)))
            .min_by_key(|(_, cell)| self.entries[*cell].seq)
    }

    /// Sorts everything into the classes that count now (P3): first all into one, in the order of
    /// arrival, and then apart if they are to be.
    fn regroup(&mut self) {
        let best = usize::from(BEST_EFFORT);
        for dir in [READ, WRITE] {
            for g in [0, 2] {
                let mut at = self.groups[best].lines[dir].fifo.head();
                loop {
                    let cell = self.groups[g].lines[dir].fifo.head();
                    if cell == NIL {
                        break;
                    }
                    at = List::later(&self.entries, at, self.entries[cell].seq);
                    self.regroup_one(cell, BEST_EFFORT, at);
                }
            }
            let mut cell = self.groups[best].lines[dir].fifo.head();
            while cell != NIL {
                let after = List::after(&self.entries, cell);
                let group = self.group_of(self.entries[cell].class);
                if group != BEST_EFFORT {
                    self.regroup_one(cell, group, NIL);
                }
                cell = after;
            }
        }
        self.groups.iter_mut().for_each(|g| g.outstanding = 0);
        for cell in 1..self.entries.end() {
            let group = self.group_of(self.entries[cell].class);
            let entry = &mut self.entries[cell];
            if entry.stage != Stage::Free {
                entry.group = group;
                self.groups[usize::from(group)].outstanding += 1;
            }
        }
    }

    fn regroup_one(&mut self, cell: Cell, group: u8, before: Cell) {
        let entry = self.entries[cell];
        let old = &mut self.groups[usize::from(entry.group)].lines[entry.dir()];
        old.sort_out(&mut self.nodes, cell);
        old.fifo.unlink(&mut self.entries, cell);
        self.entries[cell].group = group;
        let new = &mut self.groups[usize::from(group)].lines[entry.dir()];
        new.sort_in(&self.entries, &mut self.nodes, cell);
        new.fifo.insert_before(&mut self.entries, before, cell);
    }

    /// Looks again whether classes count, when a hctx joined or left.
    pub(super) fn count_lanes(&mut self) {
        let mut lanes = self.lanes.iter().flatten();
        let first = lanes.next();
        let classes = lanes.all(|lane| Some(lane) == first);
        if classes != self.classes {
            self.classes = classes;
            self.regroup();
        }
    }
}
