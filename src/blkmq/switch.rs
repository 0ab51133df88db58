//! What may change while a domain runs: its scheduler, and what steers it. Control-time operations.
//!
//! * **X1** A switch moves what waits, in order of arrival, and lets go of what is in flight: those
//!   requests count as nobody's, and the new scheduler never hears of their end (C3). So a switch
//!   takes as long as it takes to move, whatever the slowest I/O does (I28).
//! * **X2** It happens between two runs, on the thread of the domain, so nobody dispatches meanwhile.

use super::domain::Domain;
use super::sched::Scheduler;
use crate::block::{LaneId, Nanos};

impl Domain {
    /// Replaces the scheduler between two runs, and answers with the old one, empty. What waited in
    /// it waits in the new one, each hctx's requests in order of arrival. What is in flight stays
    /// so: the new scheduler never hears of it, so nobody waits for the slowest of them (I28). A
    /// control-time operation.
    pub fn set_scheduler(
        &mut self,
        mut next: Box<dyn Scheduler>,
        now: Nanos,
    ) -> Box<dyn Scheduler> {
        for (i, lane) in (0..).zip(&self.lanes) {
            next.set_weight(LaneId(i), lane.weight);
        }
        for (id, hctx) in self.table.iter_ids() {
            next.attach(id, hctx.lane, hctx.depth());
        }
        next.set_depth(self.purse.depth());
        self.stage_plug(now);
        let Domain { table, scheduler, .. } = self;
        table.iter_mut().for_each(|hctx| hctx.tags.unschedule());
        scheduler.drain(&mut |id| {
            let hctx = table.get_mut(id.hctx);
            hctx.tags.slot_mut(id.tag).scheduled = true;
            next.insert(&hctx.item(id), now);
        });
        for (id, _) in self.table.iter_ids() {
            self.scheduler.detach(id);
        }
        self.shares.forget(); // the next run holds back whom it has to (Z2)
        // What the old one gives back to those that shared with it, is theirs to know.
        self.wakes.add(self.scheduler.take_wakes());
        std::mem::replace(&mut self.scheduler, next)
    }

    /// The scheduler, to look at and to tune.
    pub fn scheduler_mut(&mut self) -> &mut dyn Scheduler {
        &mut *self.scheduler
    }

    /// Changes a disk's share (see [`Scheduler::set_weight`]).
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn set_weight(&mut self, lane: LaneId, weight: u16) {
        self.lanes[lane.index()].weight = weight;
        self.scheduler.set_weight(lane, weight);
    }

    /// The number of credits has changed ([`Credits::set_depth`](super::credit::Credits::set_depth)):
    /// the scheduler is told.
    pub fn depth_changed(&mut self) {
        self.scheduler.set_depth(self.purse.depth());
    }
}
