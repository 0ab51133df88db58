//! The writing end of a queue's counters: what the core calls.

use std::sync::Arc;

use super::busy::{QueueWord, Word};
use super::histogram::Sizes;
use super::{Kind, QueueStats, Span, Stats, halves};
use crate::blkmq::tags::Alone;
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

/// Bios that ended alike and are not in the counters yet (A11).
#[derive(Debug)]
struct Alike {
    kind: Kind,
    arrival: Nanos,
    issued: Nanos,
    ended: Nanos,
    bios: u64,
    sectors: u64,
}

impl Alike {
    const NONE: Alike = Alike {
        kind: Kind::Read,
        arrival: Nanos(0),
        issued: Nanos(0),
        ended: Nanos(0),
        bios: 0,
        sectors: 0,
    };

    /// What they are of the requests in progress.
    fn live(&self) -> u64 {
        let side = if self.kind == Kind::Read { 1 } else { 1 << 32 };
        self.bios.wrapping_mul(side)
    }
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
    alike: Alike,
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
        let (turn, submission) = (Run::default(), Run::default());
        Recorder { to, live: 0, busy, turn, submission, alike: Alike::NONE }
    }

    /// What it writes to.
    #[must_use]
    pub fn queue(&self) -> &Arc<QueueStats> {
        &self.to
    }

    /// A bio was submitted.
    #[inline]
    pub fn submitted(&mut self, op: Op, now: Nanos) {
        if now != self.turn.at {
            self.next_turn(now);
        }
        self.turn.size = self.turn.size.wrapping_add(1);
        if op == Op::Flush {
            return;
        }
        self.begin(op, now);
    }

    #[inline(never)] // once a batch
    fn next_turn(&mut self, now: Nanos) {
        self.settle(); // a busy period may have ended before
        self.turn.end(&self.to.turns);
        self.turn.at = now;
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
        self.settle();
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

    /// A bio ended well that had travelled alone, and so many sectors were moved with its end: as
    /// [`moved`](Recorder::moved) and [`ended`](Recorder::ended), but it is counted with those that
    /// end alike, when the next ends otherwise or at [`settle`](Recorder::settle) (A11).
    #[inline(always)] // for each bio
    pub(in crate::blkmq) fn ended_alone(&mut self, bio: &Alone, now: Nanos) {
        let Alone { kind, sectors, arrival, issued } = *bio;
        let Alike { kind: k, arrival: a, issued: i, ended: e, .. } = self.alike;
        if k != kind || a != arrival || i != issued || e != now {
            self.settle();
            self.alike = Alike { kind, arrival, issued, ended: now, ..Alike::NONE };
        }
        self.alike.bios = self.alike.bios.wrapping_add(1);
        self.alike.sectors = self.alike.sectors.wrapping_add(sectors);
    }

    /// Counts what has ended and was not counted yet (A11).
    pub fn settle(&mut self) {
        if self.alike.bios > 0 {
            self.count_alike();
        }
    }

    #[inline(never)] // once a batch
    fn count_alike(&mut self) {
        let alike = std::mem::replace(&mut self.alike, Alike::NONE);
        let Alike { kind, arrival, issued, ended, bios, sectors } = alike;
        let of = self.to.op(kind);
        let age = ended.since(arrival);
        of.spent_each(Span::QueueToComplete, age, bios);
        of.spent_each(Span::QueueToIssue, issued.since(arrival), bios);
        of.spent_each(Span::IssueToComplete, ended.since(issued), bios);
        of.sectors.add(sectors);
        of.bios.add(bios);
        of.ios.add(bios);
        of.nanos.add(age.wrapping_mul(bios));
        self.leave(alike.live(), ended);
    }

    /// So much is in progress no more.
    #[inline]
    fn leave(&mut self, gone: u64, now: Nanos) {
        debug_assert!(self.live >= gone, "what ends has begun");
        self.live(self.live.wrapping_sub(gone));
        if self.live == 0 {
            self.idle(now);
        }
    }

    /// A bio ended, which had been submitted.
    pub fn ended(&mut self, bio: &Ended, now: Nanos) {
        self.settle();
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
        self.leave(side(op), now);
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
        let mut stats = self.to.snapshot();
        let Alike { kind, arrival, ended, bios, sectors, .. } = self.alike;
        if bios == 0 {
            return stats;
        }
        let op = match kind {
            Kind::Read => &mut stats.reads,
            Kind::Discard => &mut stats.discards,
            Kind::Write | Kind::Flush => &mut stats.writes,
        };
        op.bios += bios;
        op.ios += bios;
        op.sectors += sectors;
        op.nanos = op.nanos.wrapping_add(ended.since(arrival).wrapping_mul(bios));
        let live = self.live.wrapping_sub(self.alike.live());
        (stats.reads_in_progress, stats.writes_in_progress) = halves(live);
        if live == 0 {
            stats.busy = self.busy.leave(ended);
        }
        stats
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.settle();
        self.turn.end(&self.to.turns);
        self.submission.end(&self.to.submissions);
        self.to.give_back();
    }
}
