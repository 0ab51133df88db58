//! The flush machine of one disk in one domain. A flush owns no data and never enters plug or scheduler, so it
//! cannot wait behind writes that wait.
//!
//! Rules (those of the shared half, G1 to G7, are at the head of `gate.rs`):
//! * **F1** A flush is answered OK only if a successful sync covers it: one that started after
//!   every write which completed before the flush arrived (L11, I23).
//! * **F2** One sync answers every waiter it covers, whoever issued it; late-comers take the next
//!   one. So K concurrent flushes cost at most two syncs (I24).
//! * **F3** The sync travels as a request with the tag of the first waiter, borrowed. While it is
//!   in flight that waiter is not answered, whatever the gate says: the kernel still holds its tag
//!   (I32).
//! * **F4** A failed sync fails every waiter of every thread, and every flush from then on (L9,
//!   I25).
//! * **F5** Write-through discards and zeroes, and writes where the image has no durable write that
//!   reports its own failure (page cache), are DATA, then a flush: when the data is done the bio
//!   joins the waiters, and is answered when it is covered (I26). Other write-through writes are
//!   issued as durable writes and need nothing here.
//! * **F6** Who holds the gate and meets Busy keeps it: others could only meet the same image.
//!   What the sync covers is read again at each try, so waiting costs no coverage.

use std::sync::Arc;

use super::Ident;
use super::dispatch::AGAIN_MAX;
use super::hctx::Table;
use super::tags::State;
use crate::block::{Errno, LaneId, Nanos, Outcome, Status};

mod gate;

pub(super) use gate::Arrival;
pub use gate::{FlushGate, FlushPolicy, MAX_THREADS, Wakes};

/// Where this domain stands with the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to do with it.
    Idle,
    /// Another holder will wake this thread.
    Parked,
    /// Holds the gate; the sync is not issued yet.
    Holding,
    /// The sync is with the kernel. It covers what was counted up to `start`.
    Syncing { start: u64, since: Nanos },
}

/// The flush machine of one disk in one domain.
#[derive(Debug)]
pub(super) struct FlushMachine {
    gate: Arc<FlushGate>,
    lane: LaneId,
    thread: u16,
    waiters: u32,
    phase: Phase,
    wakes: Wakes,
    again: u8,
}

impl FlushMachine {
    /// A machine with no waiters, for a disk on the thread with this index in the gate.
    pub(super) fn new(gate: Arc<FlushGate>, lane: LaneId, thread: u16) -> FlushMachine {
        let wakes = Wakes::default();
        FlushMachine { gate, lane, thread, waiters: 0, phase: Phase::Idle, wakes, again: 0 }
    }

    /// A write, discard or zeroing has completed; the guest does not know yet (G1).
    pub(super) fn wrote(&mut self) {
        self.gate.wrote(self.thread);
    }

    /// A bio in `FlushWait` joins: it is answered at once, or waits for a sync (F1).
    pub(super) fn join(&mut self, table: &mut Table, id: Ident, now: Nanos) {
        let hctx = table.get_mut(id.hctx);
        match self.gate.arrive(self.thread) {
            Arrival::Covered => hctx.finish(id.tag, Status::Ok, now),
            Arrival::Failed => hctx.finish(id.tag, Status::IoErr, now),
            Arrival::Wait(need) => {
                hctx.tags.set_need(id.tag, need);
                hctx.tags.push_back(&mut hctx.flush_waiters, id.tag);
                self.waiters += 1;
            }
        }
    }

    /// Whether [`prepare`](FlushMachine::prepare) could get further than last time.
    pub(super) fn wants_run(&self) -> bool {
        self.waiters > 0 && matches!(self.phase, Phase::Idle | Phase::Holding)
    }

    /// Whether the sync is with the kernel.
    pub(super) fn is_syncing(&self) -> bool {
        matches!(self.phase, Phase::Syncing { .. })
    }

    /// Answers whom somebody's sync covers, or everybody once the latch is set (F2, F4).
    fn settle(&mut self, table: &mut Table, now: Nanos) {
        if self.waiters == 0 || self.is_syncing() {
            return; // F3
        }
        let failed = self.gate.failed().is_some();
        let status = if failed { Status::IoErr } else { Status::Ok };
        for hctx in table.iter_mut().filter(|hctx| hctx.lane == self.lane) {
            while let Some(tag) = hctx.flush_waiters.front() {
                // Waiters arrived in order, and `sum` never falls: the first uncovered ends it.
                if !failed && !self.gate.covers(hctx.tags.need(tag)) {
                    break;
                }
                hctx.tags.pop_front(&mut hctx.flush_waiters);
                hctx.finish(tag, status, now);
                self.waiters -= 1;
            }
        }
    }

    /// The waiter whose tag a sync may borrow now, and what that sync would cover; `None` when
    /// there is nothing to sync or another thread does it.
    pub(super) fn prepare(&mut self, table: &mut Table, now: Nanos) -> Option<(Ident, u64)> {
        self.settle(table, now);
        if self.waiters == 0 {
            if self.phase == Phase::Holding {
                self.phase = Phase::Idle;
                self.wakes.add(self.gate.release());
            }
            return None;
        }
        if self.phase == Phase::Idle {
            let taken = self.gate.take(self.thread);
            self.phase = if taken { Phase::Holding } else { Phase::Parked };
            self.again = 0;
            // Between the look at `synced` and taking the gate a sync may have ended that covers
            // everybody here; a second one for the same waiters would break F2.
            self.settle(table, now);
            if taken && self.waiters == 0 {
                return self.prepare(table, now);
            }
        }
        if self.phase != Phase::Holding {
            return None;
        }
        let id = table.first_flush_waiter(self.lane)?;
        Some((id, self.gate.start()))
    }

    /// The sync that [`prepare`](FlushMachine::prepare) described was accepted.
    pub(super) fn issued(&mut self, start: u64, now: Nanos) {
        debug_assert_eq!(self.phase, Phase::Holding);
        self.phase = Phase::Syncing { start, since: now };
    }

    /// The sync on the borrowed tag has ended.
    pub(super) fn completed(&mut self, table: &mut Table, id: Ident, outcome: Outcome, now: Nanos) {
        let Phase::Syncing { start, since } = self.phase else {
            unreachable!("a tag is Syncing only while the machine is");
        };
        let hctx = table.get_mut(id.hctx);
        hctx.tags.set(id.tag, State::FlushWait);
        hctx.stats.synced(since, now);
        let result = match outcome {
            Outcome::Done => Ok(()),
            Outcome::Again if self.again < AGAIN_MAX => {
                self.again += 1;
                hctx.stats.requeued(1);
                self.phase = Phase::Holding;
                return;
            }
            // A sync moves no bytes: a short one says nothing that could be relied on.
            Outcome::Again | Outcome::Short(_) => Err(Errno(libc::EIO)),
            Outcome::Failed(errno) => Err(errno),
        };
        self.phase = Phase::Idle;
        self.wakes.add(self.gate.finish(start, result));
        self.settle(table, now);
    }

    /// Another thread let go of the gate and named this one in its wakes.
    pub(super) fn gate_changed(&mut self, table: &mut Table, now: Nanos) {
        if self.phase == Phase::Parked {
            self.phase = Phase::Idle;
        }
        self.settle(table, now);
    }

    /// The threads to wake since the last call.
    pub(super) fn take_wakes(&mut self) -> Wakes {
        std::mem::take(&mut self.wakes)
    }
}
