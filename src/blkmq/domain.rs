//! The hctxs that share one scheduler, on one thread: the face of the core.
//!
//! They belong to one disk or to several: each disk is a lane of the domain, with a flush machine
//! of its own, and what its image refuses holds up no other (D7).
//!
//! A thread drives it so: [`submit`](Domain::submit) what was popped, [`run`](Domain::run) at the
//! end of the sweep, [`complete`](Domain::complete) what the image finished,
//! [`take_done`](Domain::take_done) and publish, [`release`](Domain::release) what was published.
//! Then, as long as [`wants_run`](Domain::wants_run), `run` again before sleeping.
//!
//! To freeze one hctx (L6) its owner stops popping it and goes on driving the domain until
//! [`is_idle`](Domain::is_idle); the other hctxs are not held up. Whatever was submitted leaves by
//! itself: refused requests by the completions that make room, waiting flushes by their sync.

use std::sync::Arc;

use super::credit::{Credits, FairShare, Purse};
use super::dispatch::AGAIN_MAX;
use super::flush::{FlushMachine, Wakes};
use super::hctx::{Gauges, Hctx, Table};
use super::lane::{Lane, LaneConfig};
use super::limits::Gatekeeper;
use super::merge::MergeConfig;
use super::plug::Plug;
use super::sched::Scheduler;
use super::stats::{QueueStats, Stats};
use super::tags::State;
use super::watch::Watch;
use super::{Bios, Ident, Request};
use crate::block::{HctxId, LaneId, Nanos, Op, Outcome, SectorRange, Status, Tag};

/// What a domain is built from.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// The greatest number of hctxs at a time.
    pub max_hctxs: u16,
    /// The thread's index in the flush gates and among those who share credits. No two threads may
    /// use the same one.
    pub thread: u16,
    /// Each data request in flight holds one. The sync of a flush has one of its own.
    pub credits: Arc<Credits>,
}

impl DomainConfig {
    /// Of a thread that shares nothing with others. `hw_depth`: data requests that may be in flight
    /// at a time; 0 for as many as there are tags.
    #[must_use]
    pub fn alone(max_hctxs: u16, hw_depth: u32) -> DomainConfig {
        DomainConfig { max_hctxs, thread: 0, credits: Arc::new(Credits::new(1, hw_depth)) }
    }
}

/// The completion belongs to no request in flight: another generation, or nothing issued (I36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// The hctxs that share one scheduler.
#[derive(Debug)]
pub struct Domain {
    pub(super) table: Table,
    pub(super) plug: Plug,
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) lanes: Vec<Lane>,
    pub(super) purse: Purse,
    pub(super) shares: FairShare,
    /// The part of the depth that the disks share (Z1); 0: they do not.
    pub(super) share_of: u32,
    pub(super) thread: u16,
    /// Threads to wake for what a scheduler that is gone gave back.
    pub(super) wakes: Wakes,
    /// Leftovers on all hctxs.
    pub(super) leftovers: u32,
    /// Syncs with the kernel.
    pub(super) syncing: u32,
    /// A disk may be `blocked`.
    pub(super) any_blocked: bool,
    /// Where the next look for leftovers begins.
    pub(super) cursor: usize,
    /// Requests issued so far.
    pub(super) issued: u64,
    pub(super) watch: Watch,
}

impl Domain {
    /// A domain with no disks and no hctxs. Allocates; so do [`add_lane`](Domain::add_lane),
    /// [`add_hctx`](Domain::add_hctx), [`set_scheduler`](Domain::set_scheduler), and nothing else.
    #[must_use]
    pub fn new(config: DomainConfig, mut scheduler: Box<dyn Scheduler>) -> Domain {
        scheduler.set_depth(config.credits.depth());
        Domain {
            table: Table::new(config.max_hctxs),
            plug: Plug::new(),
            scheduler,
            lanes: Vec::new(),
            purse: Purse::new(config.credits, config.thread),
            shares: FairShare::new(),
            share_of: 0,
            thread: config.thread,
            wakes: Wakes::default(),
            leftovers: 0,
            syncing: 0,
            any_blocked: false,
            cursor: 0,
            issued: 0,
            watch: Watch::default(),
        }
    }

    /// Adds a disk. A control-time operation.
    ///
    /// # Panics
    /// Beyond 65536 disks.
    pub fn add_lane(&mut self, config: LaneConfig) -> LaneId {
        let id = LaneId(u16::try_from(self.lanes.len()).expect("disks are few"));
        let LaneConfig { gate, dsync, weight, limits, on_error } = config;
        let keeper = Gatekeeper::new(self.table.max());
        let flush = FlushMachine::new(gate, id, self.thread);
        let merging = MergeConfig::default();
        self.lanes.push(Lane {
            flush,
            dsync,
            weight,
            limits,
            keeper,
            merging,
            leftovers: 0,
            blocked: false,
            on_error,
            stalled: None,
        });
        self.shares.add();
        self.scheduler.set_weight(id, weight);
        id
    }

    /// Adds a hctx of a disk, with the tags `0..depth` and counters of its own. A control-time
    /// operation; `None` when the table is full.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn add_hctx(&mut self, lane: LaneId, depth: u16) -> Option<HctxId> {
        self.add_hctx_with(lane, depth, Arc::new(QueueStats::new()))
    }

    /// As [`add_hctx`](Domain::add_hctx), with counters that were there before and will be
    /// afterwards ([`DiskStats`](super::DiskStats)).
    ///
    /// # Panics
    /// When there is no such disk; in debug builds, when another hctx writes these counters.
    pub fn add_hctx_with(
        &mut self,
        lane: LaneId,
        depth: u16,
        stats: Arc<QueueStats>,
    ) -> Option<HctxId> {
        assert!(lane.index() < self.lanes.len(), "the disk is in the domain");
        let merging = self.merging(lane);
        let id = self.table.add(Hctx::new(lane, depth, merging, stats))?;
        self.scheduler.attach(id, lane, depth);
        Some(id)
    }

    /// Removes a hctx and answers with its counters. `None`, and nothing changes, when there is no
    /// such hctx or it is not idle.
    pub fn remove_hctx(&mut self, id: HctxId) -> Option<Stats> {
        if !self.table.find(id)?.is_idle() {
            return None;
        }
        self.scheduler.detach(id);
        self.table.remove(id).map(|hctx| hctx.stats.snapshot())
    }

    /// Takes the end of an issued request in.
    ///
    /// Done and failed bios become available to [`take_done`](Domain::take_done), except that a
    /// write-through discard or zeroing waits for its flush first (F5). What is short or to be
    /// done again goes before everything else in the next run; "again" without progress ends as an
    /// error after 100 times in a row. When several bios travelled together, each is answered when
    /// all of it is done, and a failure is found out again for each of them alone (M8, M9).
    ///
    /// # Errors
    /// [`Stale`]: nothing changed.
    #[inline(always)] // with the outcome as its caller knows it
    pub fn complete(
        &mut self,
        id: HctxId,
        tag: Tag,
        generation: u16,
        outcome: Outcome,
        now: Nanos,
    ) -> Result<(), Stale> {
        let ident = Ident { hctx: id, tag };
        let hctx = self.table.find(id).ok_or(Stale)?;
        let state = hctx.tags.with_kernel(tag, generation).ok_or(Stale)?;
        let lane = hctx.lane;
        self.unblock(); // D6
        if state == State::Syncing {
            self.syncing -= 1;
            self.lanes[lane.index()].flush.completed(&mut self.table, ident, outcome, now);
            return Ok(());
        }
        self.came_back(lane, now);
        if outcome == Outcome::Done {
            self.request_done(ident, now);
        } else {
            self.request_not_done(ident, outcome, now);
        }
        Ok(())
    }

    #[inline(never)] // seldom
    fn request_not_done(&mut self, ident: Ident, outcome: Outcome, now: Nanos) {
        if let Outcome::Failed(errno) = outcome
            && self.stalls(ident, errno, now)
        {
            return;
        }
        let slot = self.table.get_mut(ident.hctx).tags.slot_mut(ident.tag);
        match outcome {
            Outcome::Done => self.request_done(ident, now),
            Outcome::Failed(_) => self.request_failed(ident, now),
            Outcome::Short(n) if slot.moves_data() => self.request_short(ident, n, now),
            // What is short without moving data has made no progress that could be told.
            Outcome::Again | Outcome::Short(_) if slot.again < AGAIN_MAX => {
                slot.again += 1;
                self.requeue(ident);
            }
            Outcome::Again | Outcome::Short(_) => self.request_failed(ident, now),
        }
    }

    /// Instead of [`complete`](Domain::complete) with `Done`: this range is done, the bio has
    /// another one, which is issued before everything else in the next run.
    ///
    /// # Errors
    /// [`Stale`]: nothing changed.
    ///
    /// # Panics
    /// In debug builds, when the bio is no discard or zeroing.
    pub fn rest(
        &mut self,
        id: HctxId,
        tag: Tag,
        generation: u16,
        next: SectorRange,
        now: Nanos,
    ) -> Result<(), Stale> {
        let ident = Ident { hctx: id, tag };
        let state = self.with_kernel(ident, generation)?;
        self.unblock(); // D6
        debug_assert_eq!(state, State::InFlight, "a flush has no ranges");
        debug_assert!(self.bios(id, tag).len() == 1, "who has several ranges travels alone");
        let hctx = self.table.get_mut(id);
        let slot = hctx.tags.slot_mut(tag);
        hctx.stats.moved(slot.op, slot.op.range().map_or(0, SectorRange::sectors));
        slot.again = 0;
        match &mut slot.op {
            Op::Discard(range) | Op::WriteZeroes { range, .. } => *range = next,
            Op::Read(_) | Op::Write(_) | Op::Flush => debug_assert!(false, "one range only"),
        }
        let lane = hctx.lane;
        self.lanes[lane.index()].limits.force(slot.op, now); // B6 of `limits`
        self.came_back(lane, now);
        self.requeue(ident);
        Ok(())
    }

    /// Something of the domain has completed: there may be room again (D6).
    #[inline]
    pub(super) fn unblock(&mut self) {
        if self.any_blocked {
            self.any_blocked = false;
            self.lanes.iter_mut().for_each(|lane| lane.blocked = false);
        }
    }

    fn with_kernel(&self, id: Ident, generation: u16) -> Result<State, Stale> {
        let hctx = self.table.find(id.hctx).ok_or(Stale)?;
        hctx.tags.with_kernel(id.tag, generation).ok_or(Stale)
    }

    /// The request that the kernel works on under this key; `None` when the key is stale.
    #[must_use]
    #[inline]
    pub fn in_flight(&self, id: HctxId, tag: Tag, generation: u16) -> Option<Request> {
        let ident = Ident { hctx: id, tag };
        let state = self.with_kernel(ident, generation).ok()?;
        let slot = self.table.get(id).tags.slot(tag);
        Some(if state == State::Syncing { slot.sync(ident) } else { slot.request(ident) })
    }

    /// The bios of the request that this tag leads, as they are handed to
    /// [`Issue::issue`](super::Issue::issue): in sector order. A tag that leads nothing is itself
    /// the only one.
    ///
    /// # Panics
    /// When there is no such hctx or tag.
    #[must_use]
    #[inline]
    pub fn bios(&self, id: HctxId, tag: Tag) -> Bios<'_> {
        self.table.get(id).tags.bios(tag)
    }

    /// Whether the head is the guest's to hand out: `false` for one that is live (T2) or that the
    /// hctx does not have.
    #[must_use]
    pub fn is_free(&self, id: HctxId, tag: Tag) -> bool {
        self.table.find(id).is_some_and(|hctx| hctx.tags.is_free(tag))
    }

    /// The next finished bio of a hctx, in the order in which they finished. Its tag stays claimed
    /// until [`release`](Domain::release).
    ///
    /// # Panics
    /// When there is no such hctx.
    #[inline]
    pub fn take_done(&mut self, id: HctxId) -> Option<(Tag, Status)> {
        let taken = self.table.get_mut(id).take_done()?;
        self.watch.ended(1);
        Some(taken)
    }

    /// All finished bios of a hctx: as [`take_done`](Domain::take_done), one after the other.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[inline]
    pub fn take_all_done(&mut self, id: HctxId, each: impl FnMut(Tag, Status)) {
        let taken = self.table.get_mut(id).take_all_done(each);
        self.watch.ended(taken);
    }

    /// Gives taken tags back to the guest, as [`release`](Domain::release).
    ///
    /// # Panics
    /// As [`release`](Domain::release).
    #[inline]
    pub fn release_all(&mut self, id: HctxId, tags: impl Iterator<Item = Tag>) {
        self.table.get_mut(id).tags.release_all(tags);
    }

    /// Gives a taken tag back to the guest. Only after the used index that contains it is
    /// published (I02).
    ///
    /// # Panics
    /// When there is no such hctx or tag; in debug builds, when the tag was not taken.
    #[inline]
    pub fn release(&mut self, id: HctxId, tag: Tag) {
        self.table.get_mut(id).tags.release(tag);
    }

    /// Whether [`take_done`](Domain::take_done) would answer.
    #[must_use]
    pub fn has_done(&self, id: HctxId) -> bool {
        self.table.find(id).is_some_and(Hctx::has_done)
    }

    /// Whether nothing of this hctx is anywhere: every head is the guest's. True of a hctx that
    /// does not exist.
    #[must_use]
    pub fn is_idle(&self, id: HctxId) -> bool {
        self.table.find(id).is_none_or(Hctx::is_idle)
    }

    /// When [`run`](Domain::run) should be called although nothing happens until then.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        // Without a credit nothing could go then: whatever brings one will ask again.
        let credit = |_: &Nanos| self.purse.worth_asking();
        let scheduled = self.scheduler.next_wake().filter(credit);
        let shares = self.shares.next_wake();
        let attempt = self.next_attempt();
        scheduled.into_iter().chain(shares).chain(attempt).chain(self.next_release()).min()
    }

    /// The threads that may go on since this one gave something back, as indexes in the flush
    /// gates: ring their mailboxes, and let each call [`gate_changed`](Domain::gate_changed). The own
    /// index may be among them. To be asked after `complete` and `run`.
    #[must_use]
    pub fn take_wakes(&mut self) -> Wakes {
        let mut wakes = std::mem::take(&mut self.wakes);
        wakes.add(self.scheduler.take_wakes());
        wakes.add(self.purse.settle());
        for lane in &mut self.lanes {
            wakes.add(lane.flush.take_wakes());
        }
        wakes
    }

    /// Another thread gave something back (see [`take_wakes`](Domain::take_wakes)). Answers flushes
    /// that its sync covers; the next run may sync for the others.
    pub fn gate_changed(&mut self, now: Nanos) {
        for lane in &mut self.lanes {
            lane.flush.gate_changed(&mut self.table, now);
        }
    }

    /// The generation that a tag has now: what its completions carry.
    ///
    /// # Panics
    /// When there is no such hctx or tag.
    #[must_use]
    pub fn generation(&self, id: HctxId, tag: Tag) -> u16 {
        self.table.get(id).tags.slot(tag).generation
    }

    /// The counters of a hctx now.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    pub fn stats(&self, id: HctxId) -> Stats {
        self.table.get(id).stats.snapshot()
    }

    /// The counters of a hctx as any thread may read them.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    pub fn queue_stats(&self, id: HctxId) -> &Arc<QueueStats> {
        self.table.get(id).stats.queue()
    }

    /// How many bios of a hctx were submitted (or rejected) and not yet released.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    #[inline]
    pub fn claimed(&self, id: HctxId) -> u16 {
        self.table.get(id).claimed()
    }

    /// How many bios of a hctx are in each stage.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    pub fn gauges(&self, id: HctxId) -> Gauges {
        self.table.get(id).gauges()
    }

    /// Pressure on a hctx, 0 (none) to 9 (D5).
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    pub fn busy(&self, id: HctxId) -> u8 {
        self.table.get(id).busy.level()
    }
}
