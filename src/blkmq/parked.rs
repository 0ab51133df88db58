//! Where bios wait that a limit holds back, before plug and scheduler.
//!
//! * **W1** A bio that may not go yet waits on its hctx, in order of arrival, reads and writes
//!   apart. It holds its head, so the guest's own ring is what fills up (L5). It is not in the
//!   scheduler, so no switch of schedulers waits for it, and it merges when it goes, not before.
//! * **W2** Whose turn it is, and when, the gatekeeper of the disk says (P1 to P5, `limits`). What may
//!   go enters the batch as if it had just been fetched.
//! * **W3** When a hctx has to become idle (stop, end) everything that waits on it goes at once; its
//!   cost is a debt of the disk. So no freeze ever waits for a limit (I27).

use super::Ident;
use super::domain::Domain;
use super::limits::Direction;
use super::tags::State;
use crate::block::{HctxId, Nanos, Op};

impl Domain {
    /// Holds a plugged bio back (W1); `false` when it may go on.
    #[inline(never)] // where there are no limits, nobody comes here
    pub(super) fn park(&mut self, id: Ident, op: Op, now: Nanos) -> bool {
        let hctx = self.table.get_mut(id.hctx);
        let lane = &mut self.lanes[hctx.lane.index()];
        if lane.keeper.arrive(&lane.limits, id.hctx, op, now) {
            return false;
        }
        let Some(direction) = Direction::of(op) else { return false };
        hctx.tags.set(id.tag, State::Throttled);
        hctx.tags.push_back(&mut hctx.parked[direction.index()], id.tag);
        true
    }

    /// Lets everything go whose time has come (W2).
    pub(super) fn run_parked(&mut self, now: Nanos) {
        for lane in 0..self.lanes.len() {
            while let Some((hctx, direction)) = self.next_parked(lane, now) {
                self.unpark(hctx, direction, now);
            }
        }
    }

    fn next_parked(&mut self, lane: usize, now: Nanos) -> Option<(HctxId, Direction)> {
        let Domain { lanes, table, .. } = self;
        let lane = &mut lanes[lane];
        lane.keeper.next(&lane.limits, now, |id, direction| {
            table.find(id).and_then(|hctx| hctx.first_parked(direction))
        })
    }

    fn unpark(&mut self, id: HctxId, direction: Direction, now: Nanos) {
        let hctx = self.table.get_mut(id);
        let list = &mut hctx.parked[direction.index()];
        let Some(tag) = hctx.tags.pop_front(list) else { return };
        hctx.tags.set(tag, State::Plugged);
        let op = hctx.tags.slot(tag).op;
        let Some(range) = op.range() else { return }; // what has none does not wait here
        self.unlimited(Ident { hctx: id, tag }, op, range, now);
    }

    /// Lets everything go that waits on a hctx for a limit (W3) or for the storage (X3): its owner
    /// wants it idle and submits nothing more. To be followed by a [`run`](Domain::run).
    pub fn release_parked(&mut self, id: HctxId, now: Nanos) {
        self.give_up(id);
        loop {
            let Domain { lanes, table, .. } = self;
            let Some(lane) = table.find(id).map(|hctx| hctx.lane) else { return };
            let lane = &mut lanes[lane.index()];
            let direction = lane.keeper.release(&lane.limits, id, now, |id, direction| {
                table.find(id).and_then(|hctx| hctx.first_parked(direction))
            });
            let Some(direction) = direction else { return };
            self.unpark(id, direction, now);
        }
    }

    /// When the first of those that wait may go; in the past when one may now.
    pub(super) fn next_release(&self) -> Option<Nanos> {
        self.lanes.iter().filter_map(|lane| lane.keeper.next_wake()).min()
    }
}

#[cfg(test)]
#[path = "tests/parked.rs"]
mod tests;
