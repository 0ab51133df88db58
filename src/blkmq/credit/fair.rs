//! Fair shares of one thread's depth among its disks, when nobody weighs them.
//!
//! After Linux's shared tags (`hctx_may_queue`): equal numbers of requests, not equal time.
//!
//! Rules:
//! * **H1** While several disks are active, one of them holds at most [`FairShare::share`] of the
//!   depth: the depth divided by their number, rounded up, and [`MIN_SHARE`] at least (I35). Alone
//!   it may hold all.
//! * **H2** A disk is active from its first request on, and no longer when it has held nothing and
//!   asked for nothing for [`IDLE`]. So an idle neighbour costs nothing.
//! * **H3** Nothing is taken from who has more than its share: it gets no more until enough of its
//!   requests have come back.
//! * **H4** On several threads each shares out its own depth, among the disks that are active on it.
//!   The answer is about shares only; whether a credit is there is for `Credits` to say.

use core::time::Duration;

use crate::block::{LaneId, Nanos};

/// What a share is at least.
pub const MIN_SHARE: u32 = 4;

/// After how long without a request a disk is not counted any more.
pub const IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    held: u32,
    active: bool,
    /// When it last asked or gave back; meaningful while it is active.
    last: Nanos,
}

/// Who of one thread's disks holds how much of the depth.
#[derive(Debug)]
pub struct FairShare {
    lanes: Box<[Lane]>,
    active: u32,
    /// No disk becomes inactive before this.
    check: Nanos,
    /// Somebody was refused since the number of active disks last fell.
    refused: bool,
}

impl FairShare {
    /// Shares for the disks `0..lanes`. Allocates; nothing else does.
    #[must_use]
    pub fn new(lanes: u16) -> FairShare {
        let lanes = vec![Lane::default(); usize::from(lanes)].into_boxed_slice();
        FairShare { lanes, active: 0, check: Nanos(u64::MAX), refused: false }
    }

    /// What one disk may hold of `depth` now (H1); 0, no limit, stays no limit.
    #[must_use]
    pub fn share(&self, depth: u32) -> u32 {
        match (depth, self.active) {
            (0, _) => u32::MAX,
            (_, 0 | 1) => depth,
            _ => depth.div_ceil(self.active).max(MIN_SHARE),
        }
    }

    /// A disk has a request and would issue it: whether it may, as far as shares go. Follow with
    /// [`take`](FairShare::take) when it does.
    ///
    /// # Panics
    /// When there is no such disk.
    #[must_use = "its share may be spent"]
    pub fn may_take(&mut self, lane: LaneId, depth: u32, now: Nanos) -> bool {
        self.touch(lane, now);
        self.expire(now);
        let may = self.lanes[lane.index()].held < self.share(depth);
        self.refused |= !may;
        may
    }

    /// The disk's request is issued.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn take(&mut self, lane: LaneId) {
        self.lanes[lane.index()].held += 1;
    }

    /// A request of the disk came back.
    ///
    /// # Panics
    /// When there is no such disk, or it holds none.
    pub fn give_back(&mut self, lane: LaneId, now: Nanos) {
        self.lanes[lane.index()].held -= 1;
        self.touch(lane, now);
    }

    /// What a disk holds.
    ///
    /// # Panics
    /// When there is no such disk.
    #[must_use]
    pub fn held(&self, lane: LaneId) -> u32 {
        self.lanes[lane.index()].held
    }

    /// The number of active disks.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active
    }

    /// When somebody who was refused should ask again although nothing came back: a neighbour may
    /// be idle by then. Later than the `now` of the last [`expire`](FairShare::expire).
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        (self.refused && self.active > 1).then_some(self.check)
    }

    fn touch(&mut self, lane: LaneId, now: Nanos) {
        let lane = &mut self.lanes[lane.index()];
        lane.last = now;
        if !lane.active {
            lane.active = true;
            self.active += 1;
        }
        self.check = self.check.min(now + IDLE);
    }

    /// Time has passed (H2): to be called in each run. Looks at the disks only when one of them may
    /// have become idle.
    pub fn expire(&mut self, now: Nanos) {
        if now < self.check {
            return;
        }
        self.check = Nanos(u64::MAX);
        for lane in self.lanes.iter_mut().filter(|lane| lane.active) {
            let end = if lane.held > 0 { now + IDLE } else { lane.last + IDLE };
            if end <= now {
                lane.active = false;
                self.active -= 1;
                self.refused = false;
            } else {
                self.check = self.check.min(end);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/fair.rs"]
mod tests;
