//! From waiting to issued: leftovers first, then what is new, as far as credit and image allow.
//!
//! Rules:
//! * **D1** The sync of the flush machine is tried before all else. There is at most one, so it
//!   starves nobody, and it has a credit of its own: neither waiting writes nor a spent budget
//!   hold it up.
//! * **D2** What the image refused, or did not finish, waits on its hctx's leftovers and is issued
//!   before anything new of its disk. While a leftover of every disk is refused the scheduler is
//!   not asked: what leaves it can no longer be merged or ordered (I09).
//! * **D3** Data in flight in the pool never exceeds `hw_depth` (I04): each request has a credit,
//!   taken before the scheduler is asked, because what it names can no longer be merged or ordered.
//!   A short or repeated request gives its credit back while it waits.
//! * **D4** With no leftovers, nothing staged, a bypassing scheduler and a hctx that is not busy,
//!   the batch goes straight to the image. Otherwise it is staged behind what waits, so order
//!   holds under pressure too (I08).
//! * **D5** Each hctx carries a measure of pressure, 0 to 9: refused is `(7e + 16) / 8`, a clean
//!   list `7e / 8`. Eight clean lists bring any value to 0 (I13).
//! * **D6** Refused sets the disk's `blocked`, any completion clears it (Linux: SCHED_RESTART).
//!   While it is set there is no point in trying. When nothing of the domain is in flight no
//!   completion will come, so the flag does not count then (I10).
//! * **D7** A disk whose image refuses holds up no other. What the scheduler names for it joins its
//!   leftovers untried; so the guest that is refused loses its order, and nobody else anything.

use super::domain::Domain;
use super::lane::Lane;
use super::tags::State;
use super::{Bios, Busy, Ident, Issue};
use crate::block::{HctxId, LaneId, Nanos};

/// Times in a row that "again" (EAGAIN, EINTR) is believed. Each is a round trip through the
/// kernel, so this is far longer than a signal or a moment without memory, and still an end.
pub(super) const AGAIN_MAX: u8 = 100;

/// The measure of pressure of one hctx (D5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Busyness(u8);

impl Busyness {
    /// A list was issued to its end.
    pub(super) fn clean(&mut self) {
        self.0 = self.0 * 7 / 8;
    }

    /// A list was cut short.
    pub(super) fn refused(&mut self) {
        self.0 = (self.0 * 7 + 16) / 8;
    }

    /// 0 (no pressure) to 9.
    pub(super) fn level(self) -> u8 {
        self.0
    }
}

/// Why issuing stopped.
enum Stop {
    /// The image refused.
    Busy,
    /// The budget is spent.
    Credit,
}

impl Domain {
    /// Issues what can be issued now, and empties the batch of the sweep. To be called at the end
    /// of each sweep and whenever [`wants_run`](Domain::wants_run) says so. Answers how many
    /// requests were issued.
    pub fn run<I: Issue>(&mut self, now: Nanos, issue: &mut I) -> u32 {
        let before = self.issued;
        for lane in 0..self.lanes.len() {
            self.lanes[lane].blocked = false;
            self.run_sync(lane, now, issue);
        }
        self.share_out(now);
        self.run_parked(now);
        self.run_leftovers(now, issue);
        self.run_plug(now, issue);
        self.run_scheduler(now, issue);
        self.purse.end_run();
        u32::try_from(self.issued - before).unwrap_or(u32::MAX)
    }

    fn run_sync<I: Issue>(&mut self, lane: usize, now: Nanos, issue: &mut I) {
        let lane = &mut self.lanes[lane];
        let Some((id, start)) = lane.flush.prepare(&mut self.table, now) else { return };
        let hctx = self.table.get_mut(id.hctx);
        let request = hctx.tags.slot(id.tag).sync(id);
        if issue.issue(&request, Bios::none(&hctx.tags)).is_err() {
            hctx.stats.refused();
            lane.blocked = true;
            self.any_blocked = true;
            return; // F6
        }
        hctx.tags.set(id.tag, State::Syncing);
        let slot = hctx.tags.slot(id.tag);
        hctx.stats.sync_issued(slot.op, slot.arrival, now);
        lane.flush.issued(start, now);
        self.syncing += 1;
        self.issued += 1;
    }

    /// Tries what is left over, each hctx once (D2), but on disks that wait for their storage.
    fn run_leftovers<I: Issue>(&mut self, now: Nanos, issue: &mut I) {
        if self.leftovers == 0 {
            return;
        }
        self.end_stalls(now);
        // One that was refused does not hold up those of another hctx: each is tried once.
        let n = self.table.len();
        let first = self.cursor;
        for i in (first..n).chain(0..first.min(n)) {
            let Ok(id) = u16::try_from(i).map(HctxId) else { break };
            if self.table.find(id).is_some_and(|h| !h.leftovers.is_empty())
                && let Err(Stop::Credit) = self.run_leftovers_of(id, now, issue)
            {
                self.cursor = i; // the next run goes on here, so that nobody is always last
                return;
            }
        }
        self.cursor = if first + 1 < n { first + 1 } else { 0 };
    }

    fn run_leftovers_of<I: Issue>(
        &mut self,
        of: HctxId,
        now: Nanos,
        issue: &mut I,
    ) -> Result<(), Stop> {
        if self.is_stalled(self.table.get(of).lane) {
            return Ok(()); // X2
        }
        loop {
            let hctx = self.table.get_mut(of);
            // Off the list first: it may be done, and on another, when it is issued.
            let Some(tag) = hctx.tags.pop_front(&mut hctx.leftovers) else {
                hctx.busy.clean();
                return Ok(());
            };
            let lane = hctx.lane.index();
            if let Err(stop) = self.try_issue(Ident { hctx: of, tag }, now, issue) {
                let hctx = self.table.get_mut(of);
                hctx.tags.push_front(&mut hctx.leftovers, tag);
                return Err(stop);
            }
            self.lanes[lane].leftovers -= 1;
            self.leftovers -= 1;
        }
    }

    /// Direct issue (D4), or staging.
    fn run_plug<I: Issue>(&mut self, now: Nanos, issue: &mut I) {
        if self.plug.len() == 0 {
            return;
        }
        let mut direct =
            self.leftovers == 0 && self.scheduler.bypass() && !self.scheduler.has_work(now);
        for i in 0..self.plug.len() {
            let id = self.plug.get(i);
            let hctx = self.table.get(id.hctx);
            let (lane, level) = (hctx.lane, hctx.busy.level());
            if direct && level == 0 && self.may_issue(lane, now) {
                match self.try_issue(id, now, issue) {
                    Ok(()) => continue,
                    Err(Stop::Busy) => self.leave(id),
                    Err(Stop::Credit) => self.stage(id, now),
                }
                direct = false;
            } else {
                // Once one is staged all later ones are: they may be of the same hctx.
                direct = false;
                self.stage(id, now);
            }
        }
        self.plug.clear();
    }

    fn run_scheduler<I: Issue>(&mut self, now: Nanos, issue: &mut I) {
        while !self.all_held_up() && self.scheduler.has_work(now) {
            if !self.purse.try_take() {
                return;
            }
            let named = self.scheduler.next(now);
            let Some(id) = named.filter(|id| !self.is_held_up(*id)) else {
                self.purse.give_back();
                match named {
                    Some(id) => self.leave(id), // D7
                    None => return,             // another thread was faster
                }
                continue;
            };
            match self.issue_paid(id, now, issue) {
                Ok(()) => self.table.get_mut(id.hctx).busy.clean(),
                Err(_) => self.leave(id),
            }
        }
    }

    /// Whether every disk has leftovers, so that nothing new may go (D2).
    fn all_held_up(&self) -> bool {
        self.leftovers > 0 && self.lanes.iter().all(|lane| lane.leftovers > 0)
    }

    /// Whether the disk of a request has leftovers.
    fn is_held_up(&self, id: Ident) -> bool {
        self.leftovers > 0 && self.lanes[self.table.get(id.hctx).lane.index()].leftovers > 0
    }

    #[inline(always)] // for nearly each request where nothing schedules
    fn try_issue<I: Issue>(&mut self, id: Ident, now: Nanos, issue: &mut I) -> Result<(), Stop> {
        if !self.purse.try_take() {
            self.table.get_mut(id.hctx).busy.refused();
            return Err(Stop::Credit);
        }
        self.issue_paid(id, now, issue)
    }

    /// Issues a request for which a credit was taken; it is given back when the image refuses.
    #[inline(always)] // so that request and bios are never made in memory
    fn issue_paid<I: Issue>(&mut self, id: Ident, now: Nanos, issue: &mut I) -> Result<(), Stop> {
        let hctx = self.table.get_mut(id.hctx);
        let request = hctx.tags.slot(id.tag).request(id);
        if let Err(Busy) = issue.issue(&request, hctx.tags.bios(id.tag)) {
            hctx.busy.refused();
            hctx.stats.refused();
            self.lanes[hctx.lane.index()].blocked = true;
            self.any_blocked = true;
            self.purse.give_back();
            return Err(Stop::Busy);
        }
        hctx.stats.issued(now);
        let lane = hctx.lane;
        if issue.is_done() {
            let wrote = hctx.done_at_once(id.tag, now);
            self.done_at_once(id, lane, wrote, now);
        } else {
            hctx.tags.issued(id.tag, now);
            self.issued_for(lane, now);
        }
        self.issued = self.issued.wrapping_add(1);
        Ok(())
    }

    /// A request was done when it was issued. `wrote`: whether it was a write, of one that is wholly
    /// dealt with.
    #[inline(always)] // for each of them
    fn done_at_once(&mut self, id: Ident, lane: LaneId, wrote: Option<bool>, now: Nanos) {
        self.unblock(); // D6
        self.came_and_went(lane, now);
        match wrote {
            Some(false) => {}
            Some(true) => self.lanes[lane.index()].flush.wrote(), // E2
            None => self.request_done_in_parts(id, now),
        }
    }

    /// A request that was on its way and refused: it goes first next time (D2).
    fn leave(&mut self, id: Ident) {
        let hctx = self.table.get_mut(id.hctx);
        hctx.tags.set(id.tag, State::Leftover);
        hctx.tags.push_back(&mut hctx.leftovers, id.tag);
        self.lanes[hctx.lane.index()].leftovers += 1;
        self.leftovers += 1;
    }

    /// A request that the kernel gave back unfinished: it goes first next time (D2).
    pub(super) fn requeue(&mut self, id: Ident) {
        let hctx = self.table.get_mut(id.hctx);
        hctx.tags.set(id.tag, State::Leftover);
        hctx.tags.push_front(&mut hctx.leftovers, id.tag);
        hctx.stats.requeued(1);
        self.lanes[hctx.lane.index()].leftovers += 1;
        self.leftovers += 1;
    }

    fn stage(&mut self, id: Ident, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        hctx.tags.set(id.tag, State::Staged);
        hctx.tags.slot_mut(id.tag).scheduled = true;
        hctx.merging.staged(id.tag);
        let lane = hctx.lane;
        self.scheduler.insert(&hctx.item(id), now);
        self.asks(lane, now);
    }

    /// Hands the batch to the scheduler.
    pub(super) fn stage_plug(&mut self, now: Nanos) {
        for i in 0..self.plug.len() {
            self.stage(self.plug.get(i), now);
        }
        self.plug.clear();
    }

    /// Whether there is work that [`run`](Domain::run) could try now (I10). A thread must not sleep
    /// while this holds.
    #[must_use]
    pub fn wants_run(&self, now: Nanos) -> bool {
        if self.next_release().is_some_and(|at| at <= now) {
            return true; // W2
        }
        if self.shares.next_wake().is_some_and(|at| at <= now) {
            return true; // Z2
        }
        let with_kernel = self.purse.held() > 0 || self.syncing > 0;
        let held = |lane: &Lane| lane.blocked && with_kernel; // D6
        let mut open = false;
        for lane in self.lanes.iter().filter(|lane| !held(lane)) {
            if lane.flush.wants_run() {
                return true;
            }
            if lane.stalled.is_some_and(|until| until > now) {
                continue; // X2
            }
            open = open || lane.leftovers > 0 || self.has_new(now);
        }
        open && self.purse.worth_asking()
    }

    /// Whether something waits that was not tried yet.
    fn has_new(&self, now: Nanos) -> bool {
        self.plug.len() > 0 || self.scheduler.has_work(now)
    }
}

#[cfg(test)]
#[path = "tests/dispatch.rs"]
mod tests;
