//! One running virtqueue on its thread: from the available ring into the core, and from the core
//! back to the used ring.
//!
//! * Q1 A popped head goes into the core at once (`submit` or `reject`); a head that the core
//!   refuses is live already, so the guest broke the rules: the queue is broken (I02).
//! * Q2 A queue that is broken or stopping, or whose thread is to end, fetches nothing more; what it
//!   has fetched is finished (L4, L6).
//! * Q3 A batch of completions is published with one index store and at most one notification;
//!   only then are its tags free again (I02).
//! * Q4 A doorbell of the front-end never holds the thread up: one that may block is asked first
//!   whether it has room. Whether it may is asked once, because asking costs a system call.
//! * Q5 Where the image does its work while it is asked, a sweep is shorter: the guest takes the first
//!   answers in and sends the next requests while the thread works on the others. Otherwise
//!   both would wait for each other in turns.
//! * Q6 With an in-flight region, a head that goes into the core is marked first, a batch is taken out
//!   of the record after it was published, and what a predecessor left unanswered comes before
//!   anything new: it counts as fetched, so a queue that stops finishes it too (Q2).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use vmm_sys_util::eventfd::EventFd;

use crate::blkmq::Domain;
use crate::block::{HctxId, LaneId, Nanos, Op, QueueId, SectorRange, Status, Tag};
use crate::device::Disk;
use crate::device::inflight::{Start, Tracker};
use crate::device::mailbox::{QueueStart, QueueStopped};
use crate::device::request::{self, Parsed, Rules};
use crate::device::slots::Slots;
use crate::device::virtqueue::{Broken, Chain, Glance, Plain, Position, VirtQueue};
use crate::sys::fd;
use crate::sys::guest::GuestMemory;

/// Heads fetched from one queue before the next queue has its turn.
pub(super) const SWEEP_BUDGET: u16 = 64;

/// The same where the image works while it is asked (Q5).
const INLINE_BUDGET: u16 = 16;

/// The same in sectors: where requests are large, few of them keep the thread busy (Q5).
const INLINE_SECTORS: u64 = 512;

/// Answer to a `Stop` command: the drained queue.
pub(super) type StopReply = SyncSender<Option<Box<QueueStopped>>>;

/// A virtqueue that this thread owns.
pub(super) struct Queue {
    /// Number within the device.
    pub(super) id: QueueId,
    /// The hctx in the lane's domain.
    pub(super) hctx: HctxId,
    /// Which lane (disk) of the thread.
    pub(super) lane: LaneId,
    /// Which start of this slot: tells an old kick's completion from a new one's.
    pub(super) generation: u16,
    /// Worth a sweep: kicked, just started, or left with entries.
    pub(super) active: bool,
    /// The guest broke the ring's rules (Q2).
    pub(super) broken: bool,
    /// Someone waits for the drained queue (Q2).
    pub(super) stopping: Option<StopReply>,
    /// The thread is to end (Q2).
    pub(super) ending: bool,
    pub(super) kick: Option<EventFd>,
    call: Option<EventFd>,
    /// Whether a write to `call` may wait (Q4).
    call_blocks: bool,
    pub(super) err: Option<EventFd>,
    pub(super) slots: Slots,
    vq: VirtQueue,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    /// Where chains are looked for in it.
    glance: Glance,
    rules: Rules,
    published: Vec<Tag>,
    /// The record of what is in flight (Q6).
    inflight: Option<Box<Tracker>>,
    /// Heads and sectors of one sweep (Q5).
    budget: (u16, u64),
}

impl Queue {
    /// Takes over a queue that control has set up.
    ///
    /// # Errors
    /// The reason why the ring cannot be used.
    pub(super) fn new(
        start: QueueStart,
        lane: LaneId,
        hctx: HctxId,
        generation: u16,
    ) -> Result<Queue, String> {
        let size = start.ring.size;
        let mut ring = start.ring;
        let mut inflight = None;
        if let Some(part) = start.inflight {
            let at = Start { size, base: ring.next_avail, used: ring.next_used };
            let recovered = part.recover(at).map_err(|e| format!("in-flight region: {e}"))?;
            inflight = Some(Box::new(recovered.0));
            ring.next_avail = recovered.1;
        }
        let vq = VirtQueue::new(ring).map_err(|e| e.to_string())?;
        Ok(Queue {
            id: start.queue,
            hctx,
            lane,
            generation,
            active: true,
            broken: false,
            stopping: None,
            ending: false,
            kick: start.kick,
            call_blocks: may_block(start.call.as_ref()),
            call: start.call,
            err: start.err,
            budget: if start.disk.image.is_inline() {
                (INLINE_BUDGET, INLINE_SECTORS)
            } else {
                (SWEEP_BUDGET, u64::MAX)
            },
            slots: Slots::new(size),
            vq,
            rules: Rules::new(&start.disk, start.features),
            disk: start.disk,
            memory: start.memory,
            glance: Glance::default(),
            published: Vec::with_capacity(usize::from(size)),
            inflight,
        })
    }

    /// Name of the disk.
    pub(super) fn disk_name(&self) -> &str {
        &self.disk.name
    }

    /// The generation of guest memory that the queue's buffers lie in.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether entries may arrive without a kick.
    pub(super) fn is_unkicked(&self) -> bool {
        self.kick.is_none() && self.fetches()
    }

    /// Whether another bio may be fetched: there is a slot for it, and not as many as the operator
    /// allows are in the core already.
    fn has_room(&self, domain: &Domain) -> bool {
        self.allowed(domain) > 0 && self.slots.can_accept()
    }

    /// How many more bios may be in the core.
    fn allowed(&self, domain: &Domain) -> u16 {
        let most = self.disk.tuning.nr_requests();
        most.map_or(u16::MAX, |most| most.saturating_sub(domain.claimed(self.hctx)))
    }

    fn fetches(&self) -> bool {
        !self.broken && !self.ending && self.stopping.is_none()
    }

    /// Whether something of a predecessor is still to be given to the core (Q6).
    pub(super) fn has_more(&self) -> bool {
        !self.broken && self.inflight.as_ref().is_some_and(|inflight| inflight.has_more())
    }

    /// The next head for the core: one of a predecessor, else one that the guest has sent.
    #[inline]
    fn next_head(&mut self) -> Result<Option<Tag>, Broken> {
        if let Some(inflight) = &mut self.inflight {
            let again = inflight.again();
            if again.is_some() || !self.fetches() {
                return Ok(again);
            }
        }
        self.vq.pop()
    }

    /// Fetches up to its budget of bios into the core. Afterwards `active` says whether more
    /// may be waiting. Returns how many heads were fetched.
    #[inline(never)] // a loop of its own
    pub(super) fn sweep(&mut self, domain: &mut Domain, chain: &mut Chain, now: Nanos) -> u16 {
        if self.fetches() {
            return self.fetch_some(domain, chain, now);
        }
        if !self.has_more() {
            self.active = false;
            return 0;
        }
        let fetched = self.fetch_some(domain, chain, now);
        // Nobody waits for a limit in a queue that someone waits for.
        domain.release_parked(self.hctx, now);
        fetched
    }

    fn fetch_some(&mut self, domain: &mut Domain, chain: &mut Chain, now: Nanos) -> u16 {
        self.vq.disable_notifications();
        let writeback = self.disk.writeback.load(Ordering::Relaxed);
        self.rules.set_capacity(self.disk.config.capacity());
        let mut fetched = 0;
        let (heads, sectors) = self.budget;
        let mut taken = 0_u64;
        // Nothing ends during a sweep, so each head that is fetched takes one of the places.
        let places = self.allowed(domain);
        let most = heads.min(places);
        while taken < sectors {
            if fetched == most || !self.slots.can_accept() {
                // Unless the budget is spent this is back-pressure (L5): a completion frees a block
                // and marks the queue active.
                self.active = fetched == heads && self.has_new();
                return fetched;
            }
            match self.next_head() {
                Ok(Some(tag)) => {
                    fetched = fetched.wrapping_add(1); // below the budget
                    let Some(moved) = self.accept(tag, writeback, domain, chain, now) else {
                        self.break_queue();
                        return fetched;
                    };
                    // Fewer than 2^16 heads, fewer than 2^32 sectors each.
                    taken = taken.wrapping_add(moved);
                }
                Ok(None) => {
                    self.active = false;
                    return fetched;
                }
                Err(_) => {
                    self.break_queue();
                    return fetched;
                }
            }
        }
        self.active = self.has_new();
        fetched
    }

    /// Whether there is something that was not fetched yet, as far as a look shows.
    fn has_new(&self) -> bool {
        self.fetches() && self.vq.has_pending() || self.has_more()
    }

    /// Gives one head to the core (Q1). How many sectors it moves; `None` when the queue is broken.
    #[inline(always)] // the bio is known where it is parsed
    fn accept(
        &mut self,
        tag: Tag,
        writeback: bool,
        domain: &mut Domain,
        chain: &mut Chain,
        now: Nanos,
    ) -> Option<u64> {
        let plain = self.vq.plain(&self.memory, tag, &mut self.glance);
        let taken = match plain {
            Some(plain) if plain.to_guest => {
                self.accept_plain::<false>(plain, tag, writeback, domain, now)
            }
            Some(plain) => self.accept_plain::<true>(plain, tag, writeback, domain, now),
            None => None,
        };
        match taken {
            Some(sectors) => sectors,
            None => self.accept_other(tag, writeback, domain, chain, now),
        }
    }

    /// The same of a plain chain. `None` when it is none of the usual ones.
    #[inline(always)] // once for each of two kinds
    fn accept_plain<const WRITE: bool>(
        &mut self,
        plain: Plain,
        tag: Tag,
        writeback: bool,
        domain: &mut Domain,
        now: Nanos,
    ) -> Option<Option<u64>> {
        // The slots are claimed and freed with the tags: a live head is no usual one (Q1).
        let of = request::accept::<WRITE>(plain, tag, &self.rules, writeback, &mut self.slots)?;
        self.mark(tag);
        let taken = domain.submit(self.hctx, of.bio::<WRITE>(tag), now);
        Some(taken.is_ok().then_some(of.range.sectors()))
    }

    /// The same of any head.
    #[inline(never)]
    fn accept_other(
        &mut self,
        tag: Tag,
        writeback: bool,
        domain: &mut Domain,
        chain: &mut Chain,
        now: Nanos,
    ) -> Option<u64> {
        let Queue { vq, memory, rules, slots, disk, .. } = self;
        // After the head was found: a guest that has seen a new size has read it before it sent this.
        // What does not fit the size that the sweep began with comes here.
        rules.set_capacity(disk.config.capacity());
        let parsed = request::fetch(vq, memory, tag, chain, rules, writeback, slots);
        if matches!(parsed, Parsed::Broken(_)) {
            return None;
        }
        self.mark(tag);
        let Parsed::Bio(bio) = parsed else {
            let status = parsed.answer()?;
            return domain.reject(self.hctx, tag, status).is_ok().then_some(0);
        };
        let moves = matches!(bio.op, Op::Read(_) | Op::Write(_));
        let sectors = bio.op.range().filter(|_| moves).map_or(0, SectorRange::sectors);
        domain.submit(self.hctx, bio, now).is_ok().then_some(sectors)
    }

    /// The head goes into the core (Q6).
    #[inline(always)]
    fn mark(&mut self, tag: Tag) {
        if let Some(inflight) = &mut self.inflight {
            inflight.mark(tag);
        }
    }

    /// Declares the queue broken: nothing is fetched until the next reset, nobody else is harmed.
    fn break_queue(&mut self) {
        self.vq.declare_broken();
        self.broken = true;
        self.active = false;
        if let Some(err) = &self.err {
            // The front-end's eventfd may be full or gone; it only misses a hint (Q4).
            fd::ring(err);
        }
    }

    /// Declares the queue broken when the front-end has taken its memory away.
    pub(super) fn look_for_lost_memory(&mut self) {
        if !self.broken && self.memory.is_lost() {
            self.break_queue();
        }
    }

    /// Announces used buffers at `call` from now on. There may be some that were announced to the
    /// old one: tells the new one.
    pub(super) fn set_call(&mut self, call: Option<EventFd>) {
        self.call_blocks = may_block(call.as_ref());
        self.call = call;
        self.announce();
    }

    /// Answers everything that the core has finished (Q3).
    pub(super) fn publish(&mut self, domain: &mut Domain) {
        domain.take_all_done(self.hctx, |tag, status| self.finish(tag, status));
        if self.published.is_empty() {
            return;
        }
        if let Some(inflight) = &mut self.inflight {
            self.published.iter().for_each(|tag| inflight.link(*tag));
        }
        let notify = self.vq.publish();
        if let Some(inflight) = &mut self.inflight {
            inflight.published(&self.published, self.vq.position().next_used);
        }
        domain.release_all(self.hctx, self.published.drain(..));
        // A block may have become free, or the guest may have been waiting for a head. What it sends
        // from now on is found by a look or a kick (I12).
        self.active |= self.has_new();
        if notify {
            self.announce();
        }
    }

    /// Tells the guest that there are used buffers, if it listens.
    fn announce(&self) {
        match &self.call {
            Some(call) if self.call_blocks => fd::ring(call), // Q4
            // Full or gone: the guest has an interrupt pending, or nobody listens any more.
            Some(call) => drop(call.write(1)),
            None => {}
        }
    }

    #[inline]
    fn finish(&mut self, tag: Tag, status: Status) {
        let len = self.slots.finish(tag, status);
        self.vq.push_used(tag, len);
        self.published.push(tag);
    }

    /// Looks whether the guest has sent something that could be fetched now; if so it is worth a
    /// sweep.
    #[inline]
    pub(super) fn look(&mut self, domain: &Domain) -> bool {
        if self.vq.has_pending() && self.fetches() && self.has_room(domain) {
            self.active = true;
        }
        self.active
    }

    /// Asks the guest to kick again. `true` when entries arrived meanwhile: sweep again (I12).
    ///
    /// Not while there is no room for another bio: what waits in the ring cannot be fetched, so it
    /// must neither cause kicks nor keep the thread awake. The completion that makes room marks the
    /// queue active.
    pub(super) fn rearm(&mut self, domain: &Domain) -> bool {
        if self.fetches() && self.has_room(domain) && self.vq.enable_notifications() {
            self.active = true;
        }
        self.active
    }

    /// The drained queue, for control.
    pub(super) fn into_stopped(self) -> (QueueStopped, Arc<GuestMemory>) {
        let Position { next_avail, next_used } = self.vq.position();
        let stopped = QueueStopped {
            next_avail,
            next_used,
            broken: self.broken,
            kick: self.kick,
            call: self.call,
            err: self.err,
        };
        (stopped, self.memory)
    }
}

/// Whether ringing may wait (Q4).
fn may_block(bell: Option<&EventFd>) -> bool {
    bell.is_some_and(|bell| fd::blocks(fd::borrow(bell)))
}
