//! The disks of one queue thread: the domain of the core that they share, each one's channel into
//! its image, and the verb that connects them. The scheduler never sees the image; the image never sees the scheduler.

use std::io;
use std::sync::Arc;

use super::gather::Gather;
use super::queue::Queue;
use crate::blkmq::{Bios, Busy, Domain, Issue, LaneConfig, MergeSearch, Request};
use crate::block::{HctxId, LaneId, Nanos, Op, Outcome};
use crate::device::Disk;
use crate::device::mailbox::DiskId;
use crate::image::{self, Begun, Channel, Io, IoDone, Verb};
use crate::sys::guest::GuestBuf;
use crate::sys::token::IoKey;
use crate::sys::uring::Ring;

/// The thread's queues by slot.
pub(super) type Queues = [Option<Box<Queue>>];

/// A disk as one thread serves it.
pub(super) struct Lane {
    pub(super) disk: Arc<Disk>,
    pub(super) channel: Box<dyn Channel>,
}

/// The disks of a thread and the domain that they share. A disk's number is the same in both.
pub(super) struct Lanes {
    pub(super) domain: Domain,
    lanes: Vec<Lane>,
    /// Slot of each hctx in the thread's table of queues.
    slot_of: Vec<u16>,
    gather: Gather,
}

impl Lanes {
    /// No disks yet.
    pub(super) fn new(domain: Domain) -> Lanes {
        Lanes { domain, lanes: Vec::new(), slot_of: Vec::new(), gather: Gather::new() }
    }

    /// Where the disk of this number is, if it is here.
    pub(super) fn find(&self, disk: DiskId) -> Option<LaneId> {
        (0..).map(LaneId).zip(&self.lanes).find(|(_, l)| l.disk.id == disk).map(|(id, _)| id)
    }

    /// The place of a disk; made at its first queue on this thread.
    pub(super) fn open(&mut self, disk: &Arc<Disk>, ring: &mut Ring) -> io::Result<LaneId> {
        if let Some(lane) = self.find(disk.id) {
            return Ok(lane);
        }
        let number = u16::try_from(self.lanes.len()).map_err(io::Error::other)?;
        let channel = disk.image.open_channel(ring, number)?;
        let gate = Arc::clone(&disk.flush);
        let dsync = disk.image.traits().dsync;
        let weight = disk.tuning.weight();
        let limits = Arc::clone(&disk.limits);
        let on_error = disk.on_error;
        let lane = self.domain.add_lane(LaneConfig { gate, dsync, weight, limits, on_error });
        self.lanes.push(Lane { disk: Arc::clone(disk), channel });
        self.retune();
        Ok(lane)
    }

    /// Looks at what can be tuned, and passes it on to the core.
    pub(super) fn retune(&mut self) {
        self.domain.depth_changed();
        for (lane, of) in (0..).map(LaneId).zip(&self.lanes) {
            self.domain.set_weight(lane, of.disk.tuning.weight());
            let search = MergeSearch::of_nomerges(of.disk.pool.nomerges());
            self.domain.set_nomerges(lane, search.unwrap_or_default());
        }
    }

    /// How long the thread may look before it sleeps, in nanoseconds.
    pub(super) fn poll_max(&self) -> u64 {
        // The disks of a thread are of one pool.
        self.lanes.first().map_or(0, |of| u64::from(of.disk.pool.poll_max_us()) * 1000)
    }

    /// Closes all channels: the end of the thread.
    pub(super) fn close(&mut self, ring: &mut Ring) {
        for lane in &mut self.lanes {
            lane.channel.close(ring);
        }
    }

    /// Remembers in which slot of the thread the hctx's queue lies.
    pub(super) fn bind(&mut self, hctx: HctxId, slot: u16) {
        if self.slot_of.len() <= hctx.index() {
            self.slot_of.resize(hctx.index() + 1, u16::MAX);
        }
        self.slot_of[hctx.index()] = slot;
    }

    /// Dispatches what the core wants to dispatch, and collects what finished at once.
    pub(super) fn run(&mut self, queues: &mut Queues, ring: &mut Ring, now: Nanos) {
        let Lanes { domain, lanes, slot_of, gather } = self;
        let at = None;
        domain.run(now, &mut Issuer { lanes, ring, queues, slot_of, gather, at, done: false });
    }

    /// Takes in what the channels finished without the ring. Returns whether there was anything.
    #[inline(never)] // a loop of its own
    pub(super) fn poll(&mut self, queues: &mut Queues, now: Nanos) -> bool {
        let mut any = false;
        for lane in 0..self.lanes.len() {
            while let Some(done) = self.lanes[lane].channel.poll_done() {
                any = true;
                self.complete(queues, done, now);
            }
        }
        any
    }

    /// A completion that carried the bio's own token.
    pub(super) fn on_io(&mut self, queues: &mut Queues, key: IoKey, res: i32, now: Nanos) {
        let Some(queue) = queues.get(usize::from(key.slot)).and_then(Option::as_ref) else {
            return;
        };
        let Some(request) = self.domain.in_flight(queue.hctx, key.tag, key.generation) else {
            return;
        };
        let mut io = io_for(&request, key.slot, &[]);
        if u32::try_from(res).is_ok_and(|got| got < io.bytes) {
            let bios = self.domain.bios(queue.hctx, key.tag);
            io.bufs = self.gather.for_completion(&queue.slots, bios, request.done);
        }
        let outcome = self.lanes[queue.lane.index()].channel.finish(&io, res);
        self.complete(queues, IoDone { key, outcome }, now);
    }

    /// A completion that carried a token of a channel.
    pub(super) fn on_channel(
        &mut self,
        queues: &mut Queues,
        ring: &mut Ring,
        (lane, op): (u16, u32),
        res: i32,
        now: Nanos,
    ) {
        let Some(lane) = self.lanes.get_mut(usize::from(lane)) else { return };
        if let Some(done) = lane.channel.on_channel_cqe(ring, op, res) {
            self.complete(queues, done, now);
        }
    }

    /// Wakes the threads that may go on since this one gave something back.
    pub(super) fn wake_others(&mut self) {
        let Some(lane) = self.lanes.first() else { return };
        // The threads of a pool serve all of its disks: each disk knows all the bells.
        for thread in self.domain.take_wakes() {
            if let Some(bell) = lane.disk.bells.get(usize::from(thread)) {
                bell.ring();
            }
        }
    }

    /// Tells the core how an operation ended.
    #[inline(always)] // for each of them
    fn complete(&mut self, queues: &mut Queues, done: IoDone, now: Nanos) {
        let key = done.key;
        let Some(queue) = queues.get_mut(usize::from(key.slot)).and_then(Option::as_mut) else {
            return;
        };
        // The core knows a stale completion by itself, and does nothing.
        let (hctx, tag, generation) = (queue.hctx, key.tag, key.generation);
        if done.outcome == Outcome::Done && queue.slots.has_more_ranges(tag) {
            // A discard with another range to go is not finished when this one is.
            let current = self.domain.in_flight(hctx, tag, generation).is_some();
            let more = current && queue.slots.next_range(tag);
            if let Some(next) = queue.slots.range(tag).filter(|_| more) {
                let _ = self.domain.rest(hctx, tag, generation, next, now);
                return;
            }
        }
        let _ = self.domain.complete(hctx, tag, generation, done.outcome, now);
    }
}

/// What the image is asked for a request: the part that is not done yet. `bufs` are its buffers.
#[inline(always)] // where the request is made: it has to be in memory only once
fn io_for<'b>(request: &Request, slot: u16, bufs: &'b [GuestBuf]) -> Io<'b> {
    let key = IoKey { slot, tag: request.tag, generation: request.generation };
    let (Op::Read(range) | Op::Write(range)) = request.op else {
        return Io { key, verb: verb_without_data(request.op), bufs: &[], bytes: 0 };
    };
    let done = u64::from(request.done);
    let offset = range.byte_offset() + done;
    let left = range.bytes().wrapping_sub(done);
    debug_assert!(u32::try_from(left).is_ok(), "what is done is less than the range");
    #[allow(
        clippy::cast_possible_truncation,
        reason = "one bio moves less than 2 GiB, and merging makes no longer request"
    )]
    let bytes = left as u32;
    let verb = match request.op {
        Op::Read(_) => Verb::Read { offset },
        _ => Verb::Write { offset, dsync: request.fua },
    };
    Io { key, verb, bufs, bytes }
}

#[inline(never)] // seldom
fn verb_without_data(op: Op) -> Verb {
    let (offset, len) = op.range().map_or((0, 0), |range| (range.byte_offset(), range.bytes()));
    match op {
        Op::Discard(_) => Verb::Discard { offset, len },
        Op::WriteZeroes { unmap, .. } => Verb::WriteZeroes { offset, len, unmap },
        Op::Flush | Op::Read(_) | Op::Write(_) => Verb::Sync,
    }
}

/// Where the requests of a hctx lead.
#[derive(Clone, Copy)]
struct Place<'a> {
    hctx: HctxId,
    slot: u16,
    lane: usize,
    queue: &'a Queue,
}

/// The core's one verb, on the real image.
struct Issuer<'a> {
    lanes: &'a mut [Lane],
    ring: &'a mut Ring,
    queues: &'a Queues,
    slot_of: &'a [u16],
    gather: &'a mut Gather,
    /// Of the request before: the next one is mostly of the same queue.
    at: Option<Place<'a>>,
    /// The request before is done.
    done: bool,
}

impl<'a> Issuer<'a> {
    #[inline(always)] // for each request
    fn place(&mut self, hctx: HctxId) -> Place<'a> {
        match self.at {
            Some(place) if place.hctx == hctx => place,
            _ => self.look_up(hctx),
        }
    }

    #[inline(never)] // once for each queue, where the queues do not alternate
    fn look_up(&mut self, hctx: HctxId) -> Place<'a> {
        let slot = self.slot_of[hctx.index()];
        let queue = self.queues[usize::from(slot)].as_deref().expect("a live hctx has its queue");
        let place = Place { hctx, slot, lane: queue.lane.index(), queue };
        self.at = Some(place);
        place
    }

    /// A request whose buffers have to be put together.
    #[inline(never)]
    fn issue_gathered(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        let Place { slot, lane, queue, .. } = self.place(request.hctx);
        if !self.gather.prepare(self.ring) {
            return Err(Busy);
        }
        let bufs = self.gather.for_submission(&queue.slots, bios, request.done);
        let io = io_for(request, slot, bufs);
        let begun = self.lanes[lane].channel.begin(self.ring, &io);
        begun.map(|begun| self.done = begun == Begun::Done).map_err(|image::Busy| Busy)
    }
}

impl Issue for Issuer<'_> {
    #[inline(always)] // so that the request is never made in memory
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        if request.done != 0 || bios.len() > 1 {
            return self.issue_gathered(request, bios);
        }
        let Place { slot, lane, queue, .. } = self.place(request.hctx);
        let io = io_for(request, slot, queue.slots.bufs(request.tag));
        let begun = self.lanes[lane].channel.begin(self.ring, &io);
        begun.map(|begun| self.done = begun == Begun::Done).map_err(|image::Busy| Busy)
    }

    #[inline(always)]
    fn is_done(&mut self) -> bool {
        self.done
    }
}
