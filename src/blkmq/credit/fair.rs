//! Fair shares of one thread's depth among its disks, when nobody weighs them.
//!
//! After Linux's shared tags (`hctx_may_queue`): equal numbers of requests, not equal time.
//!
//! Rules:
//! * **H1** While several disks are active, one of them holds at most [`FairShare::share`] of the
//!   depth: the depth divided by their number, rounded up, and [`MIN_SHARE`] at least (I35). Alone
//!   it may hold all.
//! * **H2** A disk is active from the first request on that it asks for, and no longer when it has held
//!   nothing and asked for nothing for [`IDLE`]. So an idle neighbour costs nothing.
//! * **H3** Nothing is taken from who has more than its share: it gets no more until enough of its
//!   requests have come back.
//! * **H4** On several threads each shares out its own part of the depth (all of it while no other one
//!   wants any), among the disks that are active on it. The answer is about shares only; whether a
//!   credit is there is for `Credits` to say.
//! * **H5** A disk that has its share while others are active is full, and somebody remembers that for
//!   it: each change is told once.

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
    /// It is held back (H5).
    full: bool,
    /// When it last asked or gave back; meaningful while it is active.
    last: Nanos,
}

/// Who of one thread's disks holds how much of the depth.
#[derive(Debug)]
pub struct FairShare {
    lanes: Vec<Lane>,
    active: u32,
    /// Disks that are held back.
    full: u32,
    /// No disk becomes inactive before this.
    check: Nanos,
}

impl Default for FairShare {
    fn default() -> FairShare {
        FairShare::new()
    }
}

impl FairShare {
    /// Shares for nobody yet.
    #[must_use]
    pub const fn new() -> FairShare {
        FairShare { lanes: Vec::new(), active: 0, full: 0, check: Nanos(u64::MAX) }
    }

    /// One more disk, with the next number. Allocates; nothing else does.
    pub fn add(&mut self) {
        self.lanes.push(Lane::default());
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

    /// A disk has a request and would issue it. Whether that makes it active, so that the others'
    /// shares are smaller now.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn asks(&mut self, lane: LaneId, now: Nanos) -> bool {
        let lane = &mut self.lanes[lane.index()];
        lane.last = now;
        self.check = self.check.min(now + IDLE);
        let new = !lane.active;
        if new {
            lane.active = true;
            self.active += 1;
        }
        new
    }

    /// Whether a disk is held back (H5).
    ///
    /// # Panics
    /// When there is no such disk.
    #[must_use]
    pub fn is_full(&self, lane: LaneId) -> bool {
        self.lanes[lane.index()].full
    }

    /// Whether any disk is.
    #[must_use]
    pub fn has_full(&self) -> bool {
        self.full > 0
    }

    /// Whether a disk has just got its share of `depth`: from now on it is held back.
    ///
    /// # Panics
    /// When there is no such disk.
    #[must_use = "somebody has to hold it back"]
    pub fn fills(&mut self, lane: LaneId, depth: u32) -> bool {
        let share = self.share(depth);
        let lane = &mut self.lanes[lane.index()];
        let fills = self.active > 1 && !lane.full && lane.held >= share;
        lane.full |= fills;
        self.full += u32::from(fills);
        fills
    }

    /// Who is held back from now on, by the shares of `depth` as they are (H1, H2, H5); 0: nobody.
    /// `tell` hears of each change.
    pub fn settle(&mut self, depth: u32, now: Nanos, tell: &mut dyn FnMut(LaneId, bool)) {
        self.expire(now);
        let share = self.share(depth);
        let several = self.active > 1;
        for (id, lane) in (0..).map(LaneId).zip(&mut self.lanes) {
            let full = several && lane.held >= share;
            if full != lane.full {
                lane.full = full;
                self.full = if full { self.full + 1 } else { self.full - 1 };
                tell(id, full);
            }
        }
    }

    /// Nobody is held back any more: who was told has gone.
    pub fn forget(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.full = false);
        self.full = 0;
    }

    /// So many of the disk's requests are issued.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn take(&mut self, lane: LaneId, requests: u32) {
        self.lanes[lane.index()].held += requests;
    }

    /// Nobody holds anything: who does is about to be counted anew.
    pub fn forget_held(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.held = 0);
    }

    /// A request of the disk came back.
    ///
    /// # Panics
    /// When there is no such disk, or it holds none.
    pub fn give_back(&mut self, lane: LaneId, now: Nanos) {
        let lane = &mut self.lanes[lane.index()];
        lane.held -= 1;
        lane.last = now; // no earlier than `check` expects
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

    /// When to [`settle`](FairShare::settle) although nothing came back: somebody is held back for a
    /// neighbour who may be idle by then. Later than the `now` of the last one.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        (self.full > 0).then_some(self.check)
    }

    /// Time has passed (H2). Looks at the disks only when one of them may have become idle.
    fn expire(&mut self, now: Nanos) {
        if now < self.check {
            return;
        }
        self.check = Nanos(u64::MAX);
        for lane in self.lanes.iter_mut().filter(|lane| lane.active) {
            let end = if lane.held > 0 { now + IDLE } else { lane.last + IDLE };
            if end <= now {
                lane.active = false;
                self.active -= 1;
            } else {
                self.check = self.check.min(end);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/fair.rs"]
mod tests;
