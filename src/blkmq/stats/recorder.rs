//! The writing end of a queue's counters: what the core calls.

use std::sync::Arc;

use super::busy::{QueueWord, Word};
use super::histogram::Sizes;
use super::{Kind, QueueStats, Span, Stats};
use crate::block::{Nanos, Op, Status};

/// How a bio that ended had travelled (A2, A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It gave the request its tag; alone, or with others that had joined it.
    Head {
        /// How many bios the request had when it was first issued, itself included.
        bios: u16,
    },
    /// It had joined another's request, and ended with it.
    Member,
    /// It had joined another's request, which was taken apart or ended before: it was, or led, a
    /// request that counts as in progress but not as an I/O (A6).
    Piece,
}

/// A bio that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it did. The ranges do not matter: sectors are counted by [`Recorder::moved`].
    pub op: Op,
    /// Its answer.
    pub status: Status,
    /// When it was submitted; of one that led others, when the oldest of them was (A9).
    pub arrival: Nanos,
    /// When its request was issued, the last time; of no meaning for a flush.
    pub issued: Nanos,
    /// How it travelled.
    pub role: Role,
}

/// Batches of things that happen at the same time of the clock (A10).
#[derive(Debug, Default)]
struct Run {
    at: Nanos,
    size: u64,
}

impl Run {
    #[inline]
    fn one_more(&mut self, now: Nanos, sizes: &Sizes) {
        if now != self.at {
            self.end(sizes);
            self.at = now;
        }
        self.size = self.size.wrapping_add(1);
    }

    #[inline(never)] // once a batch
    fn end(&mut self, sizes: &Sizes) {
        if self.size > 0 {
            sizes.record(self.size);
            self.size = 0;
        }
    }
}

/// The only writer of a queue's counters (A1).
#[derive(Debug)]
pub struct Recorder {
    to: Arc<QueueStats>,
    /// As `QueueStats::live`.
    live: u64,
    busy: QueueWord,
    turn: Run,
    submission: Run,
}

/// One request in progress, in the half of the word that its operation belongs to.
const fn side(op: Op) -> u64 {
    if op.is_write() { 1 << 32 } else { 1 }
}

impl Recorder {
    /// Goes on with these counters.
    ///
    /// # Panics
    /// In debug builds, when they have another recorder, or had one that was dropped with
    /// something in progress.
    #[must_use]
    pub fn new(to: Arc<QueueStats>) -> Recorder {
        to.take();
        let busy = Word(to.busy.get());
        Recorder { to, live: 0, busy, turn: Run::default(), submission: Run::default() }
    }

    /// What it writes to.
    #[must_use]
    pub fn queue(&self) -> &Arc<QueueStats> {
        &self.to
    }

    /// A bio was submitted.
    #[inline]
    pub fn submitted(&mut self, op: Op, now: Nanos) {
        self.turn.one_more(now, &self.to.turns);
        if op == Op::Flush {
            return;
        }
        self.begin(op, now);
    }

    #[inline]
    fn begin(&mut self, op: Op, now: Nanos) {
        if self.live == 0 {
            self.busy(now);
        }
        // A queue has at most 2^15 heads: neither half overflows.
        self.live(self.live.wrapping_add(side(op)));
    }

    #[inline]
    fn live(&mut self, live: u64) {
        self.live = live;
        self.to.live.set(live);
    }

    /// A data bio that had been submitted joined another one's request.
    ///
    /// # Panics
    /// In debug builds, when nothing else is in progress that it could have joined.
    pub fn merged(&mut self, op: Op) {
        self.to.op(Kind::of(op)).merges.add(1);
        self.live(self.live - side(op));
        debug_assert_ne!(self.live, 0, "the request that it joined is in progress");
    }

    /// A bio that had joined another's request has to be issued again without that one: it is, or
    /// leads, a request that is in progress (A6).
    pub fn piece(&mut self, op: Op, now: Nanos) {
        self.begin(op, now);
    }

    /// A failed request of several bios was taken apart.
    pub fn split(&mut self) {
        self.to.splits.add(1);
    }

    /// A data request was issued.
    #[inline]
    pub fn issued(&mut self, now: Nanos) {
        self.submission.one_more(now, &self.to.submissions);
    }

    /// Sectors were moved (A3).
    #[inline]
    pub fn moved(&mut self, op: Op, sectors: u64) {
        self.to.op(Kind::of(op)).sectors.add(sectors);
    }

    /// A bio ended, which had been submitted.
    #[inline(always)] // else the compiler makes `bio` in memory, to be read at once
    pub fn ended(&mut self, bio: &Ended, now: Nanos) {
        let Recorder { to, .. } = &*self;
        let Ended { op, status, arrival, issued, role } = *bio;
        let kind = Kind::of(op);
        let age = now.since(arrival);
        if status != Status::Ok {
            to.failed.add(1);
        }
        let of = to.op(kind);
        of.spent(Span::QueueToComplete, age);
        of.bios.add(1);
        if op == Op::Flush {
            return;
        }
        of.spent(Span::QueueToIssue, issued.since(arrival));
        of.spent(Span::IssueToComplete, now.since(issued));
        match role {
            Role::Member => return,
            Role::Piece => of.nanos.add(age),
            Role::Head { bios } => {
                of.ios.add(1);
                of.nanos.add(age);
                if bios > 1 {
                    to.requests.record(u64::from(bios));
                }
            }
        }
        debug_assert!(self.live >= side(op), "what ends has begun");
        self.live(self.live.wrapping_sub(side(op)));
        if self.live == 0 {
            self.idle(now);
        }
    }

    #[inline(never)] // once a busy period
    fn busy(&mut self, now: Nanos) {
        self.busy = self.busy.enter(now);
        self.to.busy.set(self.busy.0);
        if let Some(disk) = &self.to.disk {
            disk.enter(now);
        }
    }

    #[inline(never)] // once a busy period
    fn idle(&mut self, now: Nanos) {
        self.busy = self.busy.leave(now);
        self.to.busy.set(self.busy.0);
        if let Some(disk) = &self.to.disk {
            disk.leave(now);
        }
    }

    /// A sync was issued, on the tag of a bio that was submitted at `arrival`.
    pub fn sync_issued(&mut self, op: Op, arrival: Nanos, now: Nanos) {
        if op == Op::Flush {
            self.to.op(Kind::Flush).spent(Span::QueueToIssue, now.since(arrival));
        }
    }

    /// A sync that had been issued at `issued` ended, well or not (A7).
    pub fn synced(&mut self, issued: Nanos, now: Nanos) {
        let took = now.since(issued);
        let syncs = self.to.op(Kind::Flush);
        syncs.ios.add(1);
        syncs.nanos.add(took);
        syncs.spent(Span::IssueToComplete, took);
    }

    /// A head was answered without I/O (A8).
    pub fn rejected(&mut self) {
        self.to.rejected.add(1);
    }

    /// So many requests have to be issued again.
    pub fn requeued(&mut self, requests: u64) {
        self.to.requeues.add(requests);
    }

    /// A failed request is kept for later.
    pub fn stalled(&mut self) {
        self.to.stalls.add(1);
    }

    /// The image refused a request.
    pub fn refused(&mut self) {
        self.to.refused.add(1);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        self.to.snapshot()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.turn.end(&self.to.turns);
        self.submission.end(&self.to.submissions);
        self.to.give_back();
    }
}
