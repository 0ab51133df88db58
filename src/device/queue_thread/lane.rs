//! One disk on one queue thread: its domain of the core, its channel into the image, and the verb
//! that connects them. The scheduler never sees the image; the image never sees the scheduler.

use std::sync::Arc;

use super::queue::Queue;
use crate::blkmq::{Busy, Domain, Issue, Request};
use crate::block::{HctxId, Nanos, Op, Outcome};
use crate::device::Disk;
use crate::image::{self, Channel, Io, IoDone, Verb};
use crate::sys::token::IoKey;
use crate::sys::uring::Ring;

/// The thread's queues by slot.
pub(super) type Queues = [Option<Box<Queue>>];

/// A disk as one thread serves it.
pub(super) struct Lane {
    pub(super) disk: Arc<Disk>,
    pub(super) domain: Domain,
    pub(super) channel: Box<dyn Channel>,
    /// Slot of each hctx in the thread's table of queues.
    pub(super) slot_of: Vec<u16>,
}

impl Lane {
    /// Remembers in which slot of the thread the hctx's queue lies.
    pub(super) fn bind(&mut self, hctx: HctxId, slot: u16) {
        if self.slot_of.len() <= hctx.index() {
            self.slot_of.resize(hctx.index() + 1, u16::MAX);
        }
        self.slot_of[hctx.index()] = slot;
    }

    /// Dispatches what the core wants to dispatch, and collects what finished at once.
    pub(super) fn run(&mut self, queues: &mut Queues, ring: &mut Ring, now: Nanos) {
        let Lane { domain, channel, slot_of, .. } = self;
        let mut issuer = Issuer { channel: &mut **channel, ring, queues, slot_of };
        domain.run(now, &mut issuer);
    }

    /// Takes in what the channel finished without the ring. Returns whether there was anything.
    pub(super) fn poll(&mut self, queues: &mut Queues, now: Nanos) -> bool {
        let mut any = false;
        while let Some(done) = self.channel.poll_done() {
            any = true;
            self.complete(queues, done, now);
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
        let io = io_for(&request, queue, key.slot);
        let outcome = self.channel.finish(&io, res);
        self.complete(queues, IoDone { key, outcome }, now);
    }

    /// A completion that carried a token of the channel.
    pub(super) fn on_channel(
        &mut self,
        queues: &mut Queues,
        ring: &mut Ring,
        op: u32,
        res: i32,
        now: Nanos,
    ) {
        if let Some(done) = self.channel.on_channel_cqe(ring, op, res) {
            self.complete(queues, done, now);
        }
    }

    /// Wakes the threads whose flushes waited for a sync of this one.
    pub(super) fn wake_flush_waiters(&mut self) {
        for thread in self.domain.take_wakes() {
            if let Some(bell) = self.disk.bells.get(usize::from(thread)) {
                bell.ring();
            }
        }
    }

    /// Tells the core how an operation ended, after the slot has taken note of its progress.
    fn complete(&mut self, queues: &mut Queues, done: IoDone, now: Nanos) {
        let key = done.key;
        let Some(queue) = queues.get_mut(usize::from(key.slot)).and_then(Option::as_mut) else {
            return;
        };
        let Some(request) = self.domain.in_flight(queue.hctx, key.tag, key.generation) else {
            return;
        };
        // Stale completions were filtered out above: the request is with the kernel under this key,
        // so the core takes both answers.
        let (hctx, tag, generation) = (queue.hctx, key.tag, key.generation);
        match (request.op, done.outcome) {
            (Op::Read(_) | Op::Write(_), Outcome::Short(n)) => queue.slots.advance(tag, n),
            (Op::Discard(_) | Op::WriteZeroes { .. }, Outcome::Done) => {
                // A discard with another range to go is not finished when this one is.
                let more = queue.slots.next_range(tag);
                if let Some(next) = queue.slots.range(tag).filter(|_| more) {
                    let _ = self.domain.rest(hctx, tag, generation, next);
                    return;
                }
            }
            _ => {}
        }
        let _ = self.domain.complete(hctx, tag, generation, done.outcome, now);
    }
}

/// What the image is asked for a request: the part of the bio that is not done yet.
fn io_for<'q>(request: &Request, queue: &'q Queue, slot: u16) -> Io<'q> {
    let tag = request.tag;
    let key = IoKey { slot, tag, generation: request.generation };
    let plain = |verb| Io { key, verb, bufs: &[], bytes: 0 };
    match request.op {
        Op::Read(range) | Op::Write(range) => {
            let bytes = queue.slots.bytes(tag);
            let offset = range.byte_offset() + (range.bytes() - u64::from(bytes));
            let verb = match request.op {
                Op::Read(_) => Verb::Read { offset },
                _ => Verb::Write { offset, dsync: request.fua },
            };
            Io { key, verb, bufs: queue.slots.bufs(tag), bytes }
        }
        Op::Flush => plain(Verb::Sync),
        Op::Discard(range) => {
            plain(Verb::Discard { offset: range.byte_offset(), len: range.bytes() })
        }
        Op::WriteZeroes { range, unmap } => {
            plain(Verb::WriteZeroes { offset: range.byte_offset(), len: range.bytes(), unmap })
        }
    }
}

/// The core's one verb, on the real image.
struct Issuer<'a> {
    channel: &'a mut dyn Channel,
    ring: &'a mut Ring,
    queues: &'a mut Queues,
    slot_of: &'a [u16],
}

impl Issue for Issuer<'_> {
    fn issue(&mut self, request: &Request) -> Result<(), Busy> {
        let slot = self.slot_of[request.hctx.index()];
        let queue = self.queues[usize::from(slot)].as_deref().expect("a live hctx has its queue");
        let io = io_for(request, queue, slot);
        self.channel.submit(self.ring, &io).map_err(|image::Busy| Busy)
    }
}
