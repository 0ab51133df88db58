//! Fair shares of the credits among the disks of a domain, where the scheduler weighs nobody.
//!
//! The arithmetic is [`FairShare`](super::credit::FairShare)'s (H1 to H5). Here:
//!
//! * **Z1** Shares are kept while there is a bound on what is in flight, the domain has several disks,
//!   and the scheduler can hold a disk back. One that weighs disks, or sorts all of them into one
//!   order, has its own idea of who goes.
//! * **Z2** A disk that has its share is held back in the scheduler: its requests wait there, in order,
//!   and the others' pass. It is let go when one of its requests comes back, when a neighbour has
//!   become idle, or when there are no shares any more.
//! * **Z3** A disk is held back only while it has requests in flight, or a neighbour's idleness is a
//!   question of time (`next_wake`): something will look again.
//! * **Z4** Leftovers are not asked: they had their turn. They count.
//! * **Z5** Who holds how much is counted while shares are kept. When that begins, what is with the
//!   kernel is counted anew.

use super::domain::Domain;
use super::tags::State;
use crate::block::{LaneId, Nanos};

impl Domain {
    /// The shares as they are now (Z1, Z2): at the start of a run, and when a disk becomes active.
    pub(super) fn share_out(&mut self, now: Nanos) {
        let shared = self.lanes.len() > 1 && self.scheduler.can_hold();
        let share_of = if shared { self.purse.depth_of() } else { 0 };
        let begins = share_of != 0 && self.share_of == 0;
        self.share_of = share_of;
        if share_of == 0 && !self.shares.has_full() {
            return;
        }
        if begins {
            self.recount_shares();
        }
        let Domain { shares, scheduler, .. } = self;
        shares.settle(self.share_of, now, &mut |lane, full| scheduler.hold(lane, full));
    }

    /// Who holds how much (Z5).
    fn recount_shares(&mut self) {
        self.shares.forget_held();
        for (_, hctx) in self.table.iter_ids() {
            self.shares.take(hctx.lane, hctx.tags.count(State::InFlight).into());
        }
    }

    /// A disk has something to issue.
    pub(super) fn asks(&mut self, lane: LaneId, now: Nanos) {
        if self.share_of != 0 && self.shares.asks(lane, now) {
            self.share_out(now);
        }
    }

    /// Whether a disk may have another one in flight, as far as shares go.
    #[inline(always)] // for each request
    pub(super) fn may_issue(&mut self, lane: LaneId, now: Nanos) -> bool {
        if self.share_of == 0 {
            return true;
        }
        self.asks(lane, now);
        !self.shares.is_full(lane)
    }

    /// A disk has one more in flight.
    #[inline(always)] // for each request
    pub(super) fn issued_for(&mut self, lane: LaneId, now: Nanos) {
        if self.share_of != 0 {
            self.takes_share(lane, now);
        }
    }

    #[inline(never)] // only where there are shares
    fn takes_share(&mut self, lane: LaneId, now: Nanos) {
        self.shares.take(lane, 1);
        self.asks(lane, now);
        if self.shares.fills(lane, self.share_of) {
            self.scheduler.hold(lane, true);
        }
    }

    /// One of a disk's has come back from the kernel: its credit goes back.
    #[inline(always)] // for each request
    pub(super) fn came_back(&mut self, lane: LaneId, now: Nanos) {
        self.purse.give_back();
        if self.share_of != 0 {
            self.leaves_share(lane, now);
        }
    }

    /// One of a disk's was issued and came back at once.
    #[inline(always)] // for each request
    pub(super) fn came_and_went(&mut self, lane: LaneId, now: Nanos) {
        self.purse.give_back();
        if self.share_of != 0 {
            self.takes_share(lane, now);
            self.leaves_share(lane, now);
        }
    }

    #[inline(never)] // only where there are shares
    fn leaves_share(&mut self, lane: LaneId, now: Nanos) {
        self.shares.give_back(lane, now);
        if self.shares.is_full(lane) {
            self.share_out(now);
        }
    }
}

#[cfg(test)]
#[path = "tests/share.rs"]
mod tests;
