//! The watchdog: finds bios that have been on their way for too long, says so once, and does
//! nothing else.
//!
//! Rules:
//! * **W1** Every bio that was submitted and has no answer is watched, with the kernel (a sick disk)
//!   or with us (a scheduler or a dispatcher that forgot it), but not while it waits for a limit. Of
//!   those that travel together the leader stands for all, with the age of the oldest.
//! * **W2** A bio is reported once. The mark lies in its slot and is cleared when the tag is
//!   claimed anew.
//! * **W3** Nothing is completed, cancelled or moved: while the kernel owns a bio its memory may
//!   still be written (I32), and the guests that wait have no timeout that an answer would help.
//! * **W4** A scan is due a second after the domain got something to do, and then each second while
//!   it has. It costs the tags of the hctxs that are not idle. With nothing to do none is due, so an
//!   idle thread sleeps.

use std::fmt;

use super::domain::Domain;
use super::tags::{Durable, Slot, State};
use crate::block::{Class, HctxId, Nanos, Op, Tag};

/// Time between two scans, in nanoseconds (W4).
const PERIOD: u64 = 1_000_000_000;

/// When the next scan is due.
const fn later(now: Nanos) -> Nanos {
    Nanos(now.0.saturating_add(PERIOD))
}

/// Where a bio is that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Held back by a limit.
    Throttled,
    /// In the batch of the current sweep.
    Plugged,
    /// With the scheduler.
    Staged,
    /// Refused or unfinished, to be issued before anything else.
    Leftover,
    /// Waiting for a sync.
    FlushWait,
    /// With the kernel: its data.
    InFlight,
    /// With the kernel: a sync on its tag.
    Syncing,
    /// Part of another bio's request.
    Merged,
    /// Finished, the guest does not know yet.
    Done,
}

impl Stage {
    fn of(state: State) -> Option<Stage> {
        match state {
            State::Plugged => Some(Stage::Plugged),
            State::Staged => Some(Stage::Staged),
            State::Leftover => Some(Stage::Leftover),
            State::FlushWait => Some(Stage::FlushWait),
            State::InFlight => Some(Stage::InFlight),
            State::Syncing => Some(Stage::Syncing),
            State::Throttled => Some(Stage::Throttled),
            State::Merged => Some(Stage::Merged),
            State::Done | State::Taken => Some(Stage::Done),
            State::Free => None,
        }
    }

    /// Whether a bio may grow too old there (W1).
    const fn is_watched(self) -> bool {
        !matches!(self, Stage::Throttled | Stage::Merged | Stage::Done)
    }
}

/// A bio that is on its way for too long, with all that the core knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Its hctx.
    pub hctx: HctxId,
    /// Its tag.
    pub tag: Tag,
    /// What its completion would carry.
    pub generation: u16,
    /// What it does; of several ranges, the one that is worked on; of several bios, all of them.
    pub op: Op,
    /// The guest's priority class.
    pub class: Class,
    /// Bios in the request that it leads: 1 when it is alone.
    pub bios: u16,
    /// Bytes of that range that were moved already.
    pub done: u32,
    /// Its completion, when it comes, must mean durable.
    pub fua: bool,
    /// Where it is.
    pub stage: Stage,
    /// Nanoseconds since it was submitted.
    pub age: u64,
    /// Nanoseconds since its data was issued, the last time; `None` when it never was, as a flush.
    pub since_issue: Option<u64>,
    /// Times in a row that the kernel answered "again".
    pub again: u8,
    /// The bio that leads the request of which it has become part.
    pub merged_into: Option<Tag>,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: u64| nanos / 1_000_000_000;
        let Overdue { hctx, tag, generation, op, stage, fua, .. } = self;
        write!(f, "hctx {}, {tag:?} (generation {generation}): ", hctx.0)?;
        let name = match op {
            Op::Read(_) => "read",
            Op::Write(_) => "write",
            Op::Flush => "flush",
            Op::Discard(_) => "discard",
            Op::WriteZeroes { .. } => "write-zeroes",
        };
        write!(f, "{name}{}", if *fua { " (durable)" } else { "" })?;
        if let Some(range) = op.range() {
            write!(f, " of {} sectors at {}", range.sectors(), range.start().0)?;
            if self.bios > 1 {
                write!(f, " in {} bios", self.bios)?;
            }
            write!(f, ", {} bytes done", self.done)?;
        }
        write!(f, ", {stage:?} after {} s", seconds(self.age))?;
        if let Some(nanos) = self.since_issue {
            write!(f, ", issued {} s ago", seconds(nanos))?;
        }
        if self.again > 0 {
            write!(f, ", to be done again {} times", self.again)?;
        }
        Ok(())
    }
}

/// When to look (W4).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Bios that were claimed and not yet taken.
    held: u32,
    due: Nanos,
}

impl Watch {
    /// A bio was submitted.
    pub(super) fn begun(&mut self, now: Nanos) {
        if self.held == 0 {
            self.due = later(now);
        }
        self.held = self.held.wrapping_add(1); // no more than there are heads
    }

    /// The answers of so many bios were taken.
    pub(super) fn ended(&mut self, bios: u16) {
        self.held -= u32::from(bios);
    }
}

impl Domain {
    /// When [`overdue`](Domain::overdue) should be called next; `None` when there is nothing to
    /// watch. A moment in the past means now.
    #[must_use]
    pub fn next_watch(&self) -> Option<Nanos> {
        (self.watch.held > 0).then_some(self.watch.due)
    }

    /// Reports each bio that was submitted longer than `limit` nanoseconds ago, has no answer yet, and was not
    /// reported before. Changes nothing that matters to any bio (W3).
    pub fn overdue(&mut self, now: Nanos, limit: u64, report: &mut impl FnMut(Overdue)) {
        self.watch.due = later(now);
        for (id, hctx) in self.table.iter_ids_mut() {
            if hctx.is_idle() {
                continue;
            }
            for (tag, slot) in hctx.tags.iter_mut() {
                let Some(found) = look(id, tag, slot, now) else { continue };
                if found.stage.is_watched() && found.age > limit && !slot.reported {
                    slot.reported = true;
                    report(found);
                }
            }
        }
    }

    /// Shows every bio of a hctx that the guest has no answer to, in whatever stage: for an operator
    /// who asks; those that have become part of another one's request right after that one. Costs the
    /// tags of the hctx; marks nothing.
    pub fn in_progress(&self, id: HctxId, now: Nanos, show: &mut impl FnMut(Overdue)) {
        let tags = &self.table.get(id).tags;
        for (tag, slot) in tags.iter() {
            let Some(found) = look(id, tag, slot, now) else { continue };
            if found.stage == Stage::Merged {
                continue; // with its leader
            }
            show(found);
            // A leader that is answered leads nobody, whatever its slot still says.
            if slot.bios < 2 || found.stage == Stage::Done {
                continue;
            }
            for part in tags.bios(tag) {
                let found = look(id, part, tags.slot(part), now);
                if let Some(found) = found.filter(|found| found.stage == Stage::Merged) {
                    show(Overdue { merged_into: Some(tag), ..found });
                }
            }
        }
    }
}

/// What is known of a bio; `None` when the guest has the head.
fn look(hctx: HctxId, tag: Tag, slot: &Slot, now: Nanos) -> Option<Overdue> {
    Some(Overdue {
        hctx,
        tag,
        generation: slot.generation,
        op: slot.op,
        class: slot.class,
        bios: slot.bios,
        done: slot.done,
        fua: slot.durable != Durable::No,
        stage: Stage::of(slot.state())?,
        age: now.since(slot.arrival),
        since_issue: slot.issued_at().map(|at| now.since(at)),
        again: slot.again,
        merged_into: None,
    })
}

#[cfg(test)]
#[path = "tests/watch.rs"]
mod tests;
