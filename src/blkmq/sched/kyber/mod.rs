//! kyber: short queues in the disk, so that what matters now does not wait behind what came before.
//!
//! After Linux's `block/kyber-iosched.c`. Requests are of four kinds (there: scheduling domains):
//! reads, writes, discards, and others, which are zeroings as there. What may be in flight of each
//! kind is limited by tokens; how many there are follows from measured latencies. Nothing is sorted.
//!
//! One instance for each queue thread of a pool, none of them locked; they share a
//! [`KyberShared`]. The files of this directory state their own rules: KT (`tokens`) and KL
//! (`latency`). Rules:
//! * **KY1** What leaves by `next` holds a token of its kind until `done` or `requeue`, or until
//!   `drain` gives up everything. At most 256 reads, 128 writes, 64 discards and 16 others are in
//!   flight in the pool, fewer when the latencies say so (I19).
//! * **KY2** Each hctx serves one kind for a batch of up to 16 reads, 8 writes, 1 discard, 1 other,
//!   then the next kind that has a request and a token. With all four waiting, at most 10 others
//!   go between two reads, 18 between two writes, 25 between two discards or others.
//! * **KY3** hctxs take turns, one request each. One that has nothing for which there is a token is
//!   passed over. Where that happened, and where a hctx reached a kind in vain (KY2), the next token
//!   of that kind goes to the hctxs in a line of its own for each kind, round and round those that
//!   missed one or can do nothing else. Otherwise the order in which tokens happen to come
//!   back would decide, and a hctx that also reads would hardly ever write. It is one such grant for
//!   as many misses as there were since the last, so a kind with few tokens does not jump the queue
//!   of the others.
//! * **KY4** No answer "nothing" (`next`, `has_work`) unless this thread is among the waiters of each
//!   kind that it has requests of. So its thread may sleep on that answer: whoever makes a token
//!   available names it in `take_wakes` (KT2, KT3). `has_work` registers too, so it needs no `next`
//!   before it.
//! * **KY5** There is no timer thread. The first completion after a fold sets a deadline 100 ms ahead;
//!   the first one after the deadline folds, by one compare-and-exchange (KL3). Where nothing
//!   completes there is nothing to fold, and nobody waits for a depth to change who does not wait
//!   for a completion as well.
//! * **KY6** Total latency begins at the insertion. A time before it, in which limits held a bio
//!   back, is the operator's wish and says nothing about the disk.
//! * **KY7** A hctx whose disk is held back (C6) is in no line, and a claim on a kind that nobody else
//!   here wants is given up.
//!
//! Linux lets asynchronous requests have only three quarters of the scheduler's tags, so that a
//! reader finds one to queue with at all. That has no counterpart here: a request queues with its
//! own head, so a writer cannot use up what a reader needs, and in flight the kinds have tokens of
//! their own.

use std::cell::Cell;
use std::mem::take;
use std::sync::Arc;

use super::{BadTunable, Item, Scheduler};
use crate::blkmq::bits::Bits;
use crate::blkmq::{Ident, Wakes};
use crate::block::{HctxId, LaneId, Nanos, Op};

mod latency;
mod queue;
mod shared;
mod tokens;

pub use shared::KyberShared;

use queue::Queue;
use tokens::Standing;

/// Kinds of requests: read, write, discard, other.
const KINDS: usize = 4;
/// Those of them whose latencies are measured: all but other.
const TIMED: usize = 3;
const MAX_DEPTH: [u16; KINDS] = [256, 128, 64, 16];
const BATCH: [u8; KINDS] = [16, 8, 1, 1];

const fn kind(op: Op) -> usize {
    match op {
        Op::Read(_) => 0,
        Op::Write(_) => 1,
        Op::Discard(_) => 2,
        Op::WriteZeroes { .. } | Op::Flush => 3,
    }
}

/// The members of a mask of kinds.
fn members(mut mask: u8) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lowest)
    })
}

/// The scheduler named `kyber`, on one queue thread.
#[derive(Debug)]
pub struct Kyber {
    shared: Arc<KyberShared>,
    thread: u16,
    queues: Vec<Option<Queue>>,
    /// For each kind, the hctxs that have some and whose disk is not held back.
    waiting: [Bits; KINDS],
    /// The disks that are held back (KY7).
    barred: Bits,
    /// The kinds of which there are some.
    wanted: u8,
    /// Tokens that requests of this thread hold.
    held: [u16; KINDS],
    /// The kinds for which this thread has a claim (KT4); always among those wanted.
    claims: Cell<u8>,
    /// The hctx after the one that was served last (KY3).
    cursor: usize,
    /// The same for each kind's own line, and the kinds that somebody missed.
    lines: [usize; KINDS],
    missed: u8,
    seq: u64,
    /// Tokens of earlier eras are given up (KY1).
    era: u32,
    wakes: Wakes,
}

impl Kyber {
    /// One with no hctxs, for the queue thread `thread` of the pool. At a time there must be only
    /// one for each thread, and all of a pool share one `KyberShared`. Before it is dropped while
    /// others go on it has to be drained, and its wakes taken.
    ///
    /// # Panics
    /// When `shared` was not made for so many threads.
    #[must_use]
    pub fn new(shared: Arc<KyberShared>, thread: u16) -> Kyber {
        assert!(thread < shared.threads, "the pool has {} threads", shared.threads);
        Kyber {
            shared,
            thread,
            queues: Vec::new(),
            waiting: [Bits::new(0), Bits::new(0), Bits::new(0), Bits::new(0)],
            barred: Bits::new(0),
            wanted: 0,
            held: [0; KINDS],
            claims: Cell::new(0),
            cursor: 0,
            lines: [0; KINDS],
            missed: 0,
            seq: 0,
            era: 1,
            wakes: Wakes::default(),
        }
    }

    fn queue(&mut self, hctx: HctxId) -> &mut Queue {
        self.queues[hctx.index()].as_mut().expect("the hctx was attached")
    }

    /// A list may have got its first member.
    fn filled(&mut self, hctx: HctxId, kind: usize) {
        let lane = self.queue(hctx).lane.index();
        if self.barred.contains(lane) {
            return;
        }
        self.waiting[kind].insert(hctx.index());
        self.wanted |= 1 << kind;
    }

    /// A list may have lost its last member.
    fn thinned(&mut self, hctx: HctxId, kind: usize) {
        if self.queue(hctx).has & 1 << kind == 0 {
            self.waiting[kind].remove(hctx.index());
            if self.waiting[kind].is_empty() {
                self.wanted &= !(1 << kind);
            }
        }
    }

    fn claims(&self, kind: usize) -> bool {
        self.claims.get() & 1 << kind != 0
    }

    /// The kinds that could go now. When there is none, this thread waits for each it wants (KY4).
    fn ready(&self) -> u8 {
        let tokens = &self.shared.tokens;
        let free =
            |mask: u8, kind: usize| mask | u8::from(tokens[kind].free(self.claims(kind))) << kind;
        match members(self.wanted).fold(0, free) {
            0 => members(self.wanted).fold(0, |mask, kind| mask | self.wait(kind) << kind),
            ready => ready,
        }
    }

    /// 1 when there is a token after all.
    fn wait(&self, kind: usize) -> u8 {
        let standing = match self.held[kind] {
            _ if self.claims(kind) => Standing::Claims,
            0 => Standing::Bare,
            _ => Standing::Holds,
        };
        let free = self.shared.tokens[kind].wait(self.thread, standing);
        if !free && standing == Standing::Bare {
            self.claims.set(self.claims.get() | 1 << kind);
        }
        u8::from(free)
    }

    /// The hctx whose turn it is among those that have one of these kinds; notes who is passed
    /// over (KY3).
    fn turn(&mut self, ready: u8) -> usize {
        let at = if self.cursor < self.queues.len() { self.cursor } else { 0 };
        let open =
            |queue: &Queue| queue.has & ready != 0 && !self.barred.contains(queue.lane.index());
        if self.queues[at].as_ref().is_some_and(open) {
            return at;
        }
        let nearest = |mask, from| {
            let next = |kind: usize| self.waiting[kind].next_from(from);
            members(mask).filter_map(next).min()
        };
        let turn = nearest(ready, at).or_else(|| nearest(ready, 0));
        let turn = turn.expect("what is wanted waits somewhere");
        let round = self.queues.len();
        let far = |hctx: usize| if hctx < at { hctx + round } else { hctx };
        for kind in members(self.wanted & !ready) {
            let bits = &self.waiting[kind];
            if bits.next_round(at).is_some_and(|hctx| far(hctx) < far(turn)) {
                self.missed |= 1 << kind;
            }
        }
        turn
    }

    /// The hctx to which the next token of a kind goes because of a miss (KY3).
    fn first_in_line(&self, kind: usize, ready: u8) -> Option<usize> {
        let bit = 1 << kind;
        let entitled = |hctx: &usize| {
            let queue = self.queues[*hctx].as_ref();
            queue.is_some_and(|q| q.missed & bit != 0 || q.has & ready & !bit == 0)
        };
        let (start, bits) = (self.lines[kind], &self.waiting[kind]);
        let walk =
            |from| std::iter::successors(bits.next_from(from), |hctx| bits.next_from(hctx + 1));
        walk(start).chain(walk(0).take_while(|hctx| *hctx < start)).find(entitled)
    }

    /// Serves the line of a kind that somebody missed, if there is a token (KY3).
    #[cold]
    fn serve_line(&mut self, ready: u8) -> Option<(usize, usize)> {
        for kind in members(self.missed & ready) {
            self.missed &= !(1 << kind);
            let Some(at) = self.first_in_line(kind, ready) else { continue };
            if self.take(kind) {
                self.lines[kind] = at + 1;
                let queue = self.queues[at].as_mut().expect("only an attached hctx waits");
                (queue.kind, queue.batch) = (u8::try_from(kind).unwrap_or(u8::MAX), 1);
                return Some((at, kind));
            }
            self.missed |= 1 << kind; // another thread was faster
        }
        None
    }

    fn take(&self, kind: usize) -> bool {
        let claim = self.claims(kind);
        let got = self.shared.tokens[kind].take(claim);
        if got && claim {
            self.claims.set(self.claims.get() & !(1 << kind));
        }
        got
    }

    /// Serves the hctx whose turn it is (KY2). `None`: another thread was faster.
    fn serve_turn(&mut self, ready: u8) -> Option<(usize, usize)> {
        let at = self.turn(ready);
        let queue = self.queues[at].as_ref().expect("only an attached hctx has a turn");
        let (has, mut kind, mut batch) = (queue.has, usize::from(queue.kind), queue.batch);
        let got = |kind: usize| has & ready & 1 << kind != 0 && self.take(kind);
        let (mut served, mut missed) = (true, 0);
        if batch >= BATCH[kind] || !got(kind) {
            batch = 0;
            served = (0..KINDS).any(|_| {
                kind = (kind + 1) % KINDS;
                let got = got(kind);
                missed |= if got { 0 } else { has & 1 << kind };
                got
            });
        }
        self.missed |= missed;
        let queue = self.queues[at].as_mut().expect("as above");
        queue.missed |= missed;
        queue.kind = u8::try_from(kind).unwrap_or(u8::MAX);
        queue.batch = batch + u8::from(served);
        served.then_some((at, kind))
    }

    /// Gives the token of a request back, if it has one. Whether it had.
    fn give_back(&mut self, id: Ident) -> bool {
        let era = self.era;
        let entry = self.queue(id.hctx).entry(id.tag);
        let kind = usize::from(entry.kind);
        if take(&mut entry.token) != era {
            return false;
        }
        self.held[kind] -= 1;
        self.shared.tokens[kind].give(1, self.thread, &mut self.wakes);
        true
    }
}

impl Scheduler for Kyber {
    fn name(&self) -> &'static str {
        "kyber"
    }

    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        let i = hctx.index();
        if i >= self.queues.len() {
            self.queues.resize_with(i + 1, || None);
        }
        self.waiting.iter_mut().filter(|bits| !bits.holds(i + 1)).for_each(|b| b.grow(i + 1));
        if !self.barred.holds(lane.index() + 1) {
            self.barred.grow(lane.index() + 1);
        }
        self.queues[i] = Some(Queue::new(lane, depth));
    }

    fn detach(&mut self, hctx: HctxId) {
        debug_assert_eq!(self.queue(hctx).has, 0, "a hctx with nothing waiting leaves");
        self.queues[hctx.index()] = None;
    }

    fn insert(&mut self, item: &Item, now: Nanos) {
        let kind = kind(item.op);
        let seq = self.seq;
        self.seq += 1;
        let queue = self.queue(item.id.hctx);
        let first = queue.has & 1 << kind == 0;
        queue.push(item.id.tag, kind, seq, now);
        if first {
            self.filled(item.id.hctx, kind);
        }
    }

    fn next(&mut self, _now: Nanos) -> Option<Ident> {
        loop {
            let ready = self.ready();
            if ready == 0 {
                self.missed |= self.wanted;
                return None;
            }
            let lined = if self.missed & ready == 0 { None } else { self.serve_line(ready) };
            // Each failure is another thread's success.
            let Some((at, kind)) = lined.or_else(|| self.serve_turn(ready)) else { continue };
            self.cursor = at + 1;
            let hctx = HctxId(u16::try_from(at).expect("ids are 16 bits wide"));
            let era = self.era;
            let queue = self.queue(hctx);
            let tag = queue.pop(kind).expect("it has one of this kind");
            queue.entry(tag).token = era;
            queue.missed &= !(1 << kind);
            self.held[kind] += 1;
            self.thinned(hctx, kind);
            return Some(Ident { hctx, tag });
        }
    }

    fn requeue(&mut self, item: &Item) {
        self.give_back(item.id);
        self.queue(item.id.hctx).put_back(item.id.tag);
        self.filled(item.id.hctx, kind(item.op));
    }

    fn has_work(&self, _now: Nanos) -> bool {
        self.wanted != 0 && self.ready() != 0
    }

    fn done(&mut self, item: &Item, now: Nanos) {
        if self.give_back(item.id) {
            let since = self.queue(item.id.hctx).entry(item.id.tag).since;
            let times = (now.since(since), now.since(item.issued));
            self.shared.record(self.thread, kind(item.op), times, now, &mut self.wakes);
        }
    }

    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        for (i, queue) in self.queues.iter_mut().enumerate() {
            let hctx = HctxId(u16::try_from(i).expect("ids are 16 bits wide"));
            let Some(queue) = queue.as_mut() else { continue };
            while let Some(tag) = queue.pop_oldest() {
                out(Ident { hctx, tag });
            }
            queue.missed = 0;
            self.waiting.iter_mut().for_each(|bits| bits.remove(i));
        }
        (self.wanted, self.missed) = (0, 0);
        self.era = self.era.checked_add(1).unwrap_or(1);
        for (kind, held) in take(&mut self.held).into_iter().enumerate().filter(|(_, n)| *n > 0) {
            self.shared.tokens[kind].give(held, self.thread, &mut self.wakes);
        }
        for kind in members(self.claims.take()) {
            self.shared.tokens[kind].renounce(self.thread, &mut self.wakes);
        }
    }

    fn absorbed(&mut self, gone: &Item, into: &Item) {
        self.queue(gone.id.hctx).absorb(gone.id.tag, into.id.tag);
    }

    fn can_hold(&self) -> bool {
        true
    }

    fn hold(&mut self, lane: LaneId, held: bool) {
        if !self.barred.holds(lane.index() + 1) {
            return; // no hctx of it has ever been here
        }
        self.barred.set(lane.index(), held);
        for (i, queue) in self.queues.iter().enumerate() {
            if let Some(queue) = queue.as_ref().filter(|queue| queue.lane == lane) {
                for (kind, waiting) in self.waiting.iter_mut().enumerate() {
                    waiting.set(i, !held && queue.has & 1 << kind != 0);
                }
            }
        }
        let wants = |mask, kind: usize| mask | u8::from(!self.waiting[kind].is_empty()) << kind;
        self.wanted = (0..KINDS).fold(0, wants);
        let idle = self.claims.get() & !self.wanted;
        self.claims.set(self.claims.get() & self.wanted);
        for kind in members(idle) {
            self.shared.tokens[kind].renounce(self.thread, &mut self.wakes);
        }
        self.missed &= self.wanted;
    }

    fn take_wakes(&mut self) -> Wakes {
        take(&mut self.wakes)
    }

    fn tunables(&self) -> &'static [&'static str] {
        &shared::TUNABLES
    }

    fn tunable(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        self.shared.tunable(name, value)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../../tests/kyber.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "../../tests/kyber_loom.rs"]
mod loom_tests;
