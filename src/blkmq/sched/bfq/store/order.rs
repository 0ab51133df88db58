//! Which request of a lane goes first when it is the lane's turn.
//!
//! Rules:
//! * **O1** Levels: what was given back, then real-time, best-effort, idle. Nothing of a level goes
//!   while a higher one has something, except O2.
//! * **O2** The oldest request of best-effort, and after it of idle, goes before all when it has
//!   waited for `prio_aging_expire`. So no level starves.
//! * **O3** Unsorted: first in, first out on a hctx, round-robin over the lane's hctxs.
//! * **O4** Sorted: the request nearest to where the lane's last one ended. One that lies behind is
//!   `back_seek_penalty` times as far, and out of reach beyond `back_seek_max`; with nothing ahead
//!   and nothing in reach behind, the sweep starts again at the front.
//! * **O5** Sorted: once in a turn a request that waited for longer than `fifo_expire_sync` (reads)
//!   or `fifo_expire_async` goes first, the most overdue one. So every turn takes one, and with r
//!   more overdue ones a request waits r turns more.

use super::super::tune::Tune;
use super::{GIVEN_BACK, LEVELS, Lane, NO_HCTX, Queue, Store, ends, kind, level};
use crate::blkmq::Ident;
use crate::blkmq::sched::flat::{Cell, NIL};
use crate::blkmq::sched::tree::Place;
use crate::blkmq::sched::{Item, Side};
use crate::block::{LaneId, Nanos, Sector};

/// How many requests that start at one place are looked at for a merge.
const LOOKS: usize = 4;

/// The request that goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::blkmq::sched::bfq) struct Head {
    pub(in crate::blkmq::sched::bfq) cell: Cell,
    /// It goes first by O5.
    pub(in crate::blkmq::sched::bfq) overdue: bool,
}

impl Store {
    /// The hctxs of a ring that have something, in turn.
    fn ring(&self, lane: LaneId, level: usize) -> impl Iterator<Item = &Queue> {
        let head = self.lanes[lane.index()].rings[level].head;
        let some = |h: u16| (h != NO_HCTX).then(|| &self.queues[usize::from(h)]);
        std::iter::successors(some(head), move |q| some(q.after[level]))
            .filter(move |q| q.lists[level].head != NIL)
    }

    /// The request that came first of all of a level.
    fn first(&self, lane: LaneId, level: usize) -> Option<Cell> {
        let key = |cell: &Cell| (self.entries[*cell].arrival, self.entries[*cell].seq);
        if self.sorted {
            let heads = self.lanes[lane.index()].fifo[level].map(|list| list.head);
            heads.into_iter().filter(|c| *c != NIL).min_by_key(key)
        } else {
            self.ring(lane, level).map(|q| q.lists[level].head).min_by_key(key)
        }
    }

    fn may_be_aged(&self, lane: LaneId, level: usize, now: Nanos, tune: &Tune) -> bool {
        let lane = &self.lanes[lane.index()];
        lane.counts[level] > 0 && now.since(lane.oldest[level]) >= tune.prio_aging_expire
    }

    /// Makes what O2 looks at exact where it matters.
    pub(in crate::blkmq::sched::bfq) fn refresh(&mut self, lane: LaneId, now: Nanos, tune: &Tune) {
        for level in 2..LEVELS {
            if self.may_be_aged(lane, level, now, tune)
                && let Some(first) = self.first(lane, level)
            {
                self.lanes[lane.index()].oldest[level] = self.entries[first].arrival;
            }
        }
    }

    /// The request of a lane that goes first; `expired`: O5 has been used in this turn.
    pub(in crate::blkmq::sched::bfq) fn head(
        &self,
        of: LaneId,
        now: Nanos,
        tune: &Tune,
        expired: bool,
    ) -> Option<Head> {
        let lane = &self.lanes[of.index()];
        let top = (0..LEVELS).find(|level| lane.counts[*level] > 0)?;
        if top != GIVEN_BACK {
            for level in (2..LEVELS).filter(|level| *level > top) {
                if self.may_be_aged(of, level, now, tune)
                    && let Some(cell) = self.first(of, level)
                    && now.since(self.entries[cell].arrival) >= tune.prio_aging_expire
                {
                    return Some(Head { cell, overdue: false });
                }
            }
        }
        let plain = |cell| Head { cell, overdue: false };
        if !self.sorted {
            return self.ring(of, top).next().map(|q| plain(q.lists[top].head));
        }
        if top == GIVEN_BACK {
            return Some(plain(lane.fifo[top][0].head));
        }
        let overdue = if expired { None } else { self.overdue(lane, top, now, tune) };
        overdue.or_else(|| self.nearest(of, top, tune).map(plain))
    }

    /// O5.
    fn overdue(&self, lane: &Lane, level: usize, now: Nanos, tune: &Tune) -> Option<Head> {
        let [sync, other] = lane.fifo[level];
        let due = |cell: Cell, expire: u64| {
            let late = now.since(self.entries[cell].arrival).checked_sub(expire)?;
            (cell != NIL && late > 0).then_some((late, cell))
        };
        let late = due(sync.head, tune.fifo_expire_sync);
        let cell = late.max(due(other.head, tune.fifo_expire_async))?.1;
        Some(Head { cell, overdue: true })
    }

    /// O4.
    fn nearest(&self, of: LaneId, level: usize, tune: &Tune) -> Option<Cell> {
        let lane = &self.lanes[of.index()];
        let (root, position) = (lane.trees[level], lane.position);
        let cell = |id: Ident| self.entries.cell(id);
        let next = self.nodes.first_from(root, Place::new(of, Sector(position)));
        let behind = match next {
            Some(next) => self.nodes.before(next),
            None => self.nodes.last(root),
        };
        let back = behind.and_then(|id| {
            let distance = position - self.entries[cell(id)].start;
            let far = distance.saturating_mul(tune.back_seek_penalty);
            (distance <= tune.back_seek_max).then_some((far, id))
        });
        let ahead = next.map_or(u64::MAX, |id| self.entries[cell(id)].start - position);
        let id = match back {
            // Of those at one place the first to come, as ahead.
            Some((far, id)) if far < ahead => self.nodes.first_from(root, self.nodes.place(id)),
            _ => next.or_else(|| self.nodes.first(root)),
        };
        id.map(cell)
    }

    /// A held request that touches `bio`; only where requests are sorted.
    pub(in crate::blkmq::sched::bfq) fn find(&self, bio: &Item) -> Option<(Ident, Side)> {
        if !self.sorted {
            return None;
        }
        let of = self.lane_of(bio.id.hctx);
        let root = self.lanes[of.index()].trees[usize::from(level(bio.class))];
        let (start, end) = ends(bio.op);
        let entry = |id: Ident| &self.entries[self.entries.cell(id)];
        let fits =
            |id: &Ident| id.hctx == bio.id.hctx && *id != bio.id && entry(*id).kind == kind(bio.op);
        let from = self.nodes.first_from(root, Place::new(of, Sector(start)));
        let last = from.map_or_else(|| self.nodes.last(root), |id| self.nodes.before(id));
        let back = std::iter::successors(last, |id| self.nodes.before(*id))
            .take(LOOKS)
            .find(|id| fits(id) && entry(*id).end == start);
        if let Some(id) = back {
            return Some((id, Side::Back));
        }
        let next = self.nodes.first_from(root, Place::new(of, Sector(end)));
        std::iter::successors(next, |id| self.nodes.after(*id))
            .take(LOOKS)
            .take_while(|id| entry(*id).start == end)
            .find(fits)
            .map(|id| (id, Side::Front))
    }
}
