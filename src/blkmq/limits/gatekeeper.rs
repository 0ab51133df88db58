//! Who of a disk's waiting bios goes next, on one thread.
//!
//! The bios themselves wait in lists of their owner, one for each hctx and direction. Here is
//! only which of these lists hold something, whose turn it is, and when.
//!
//! Rules:
//! * **P1** Each direction is a room of its own: a read does not wait for a limit on writes. Who
//!   finds others in its room waits behind them, whichever hctx they are of.
//! * **P2** The hctxs of a room take turns, bio by bio; within a hctx the first come is the first
//!   to go. When both rooms can go they take turns too.
//! * **P3** The first in line has booked (B4, B5). It goes at its time without being asked again,
//!   and the next one in line books then.
//! * **P4** Nobody is looked at twice within [`NAP`]: where bios are due more often than that,
//!   several go at a time. As every bucket holds at least 100 ms, this costs nothing of the rate.
//! * **P5** What a stop releases has gone: its cost stays (a debt), its place in line ends.

use core::time::Duration;

use super::limiter::{Direction, Limits};
use crate::blkmq::bits::Bits;
use crate::block::{HctxId, Nanos, Op};

/// The shortest sleep of the first in line (P4).
const NAP: Duration = Duration::from_micros(250);

/// The first in line, which has paid.
#[derive(Clone, Copy, Debug)]
struct Booked {
    hctx: HctxId,
    /// Not before this.
    due: Nanos,
}

/// What waits in one direction.
#[derive(Debug)]
struct Room {
    /// The hctxs with a list that may not be empty.
    waiting: Bits,
    /// Whether `waiting` has a member.
    occupied: bool,
    /// Whose turn it is (P2).
    cursor: usize,
    booked: Option<Booked>,
}

impl Room {
    fn wait(&mut self, hctx: HctxId) {
        self.waiting.insert(hctx.index());
        self.occupied = true;
    }

    fn leave(&mut self, hctx: HctxId) {
        self.waiting.remove(hctx.index());
        self.occupied = !self.waiting.is_empty();
    }

    fn book(&mut self, hctx: HctxId, due: Nanos, now: Nanos) {
        self.booked = Some(Booked { hctx, due: due.max(now + NAP) });
    }

    /// The hctx whose first goes now (P2, P3).
    fn next(
        &mut self,
        limits: &Limits,
        now: Nanos,
        mut front: impl FnMut(HctxId) -> Option<Op>,
    ) -> Option<HctxId> {
        if let Some(Booked { hctx, due }) = self.booked {
            if due > now {
                return None;
            }
            self.booked = None;
            self.cursor = hctx.index() + 1;
            if let Some(op) = front(hctx) {
                limits.depart(op, now);
            }
            return Some(hctx);
        }
        while self.occupied {
            let hctx = HctxId(u16::try_from(self.waiting.next_round(self.cursor)?).ok()?);
            let Some(op) = front(hctx) else {
                self.leave(hctx);
                continue;
            };
            let due = limits.book(op, now);
            if due > now {
                self.book(hctx, due, now);
                return None;
            }
            self.cursor = hctx.index() + 1;
            return Some(hctx);
        }
        None
    }
}

/// The waiting rooms of one disk on one thread.
#[derive(Debug)]
pub struct Gatekeeper {
    rooms: [Room; 2],
    /// Which room is asked first (P2).
    turn: Direction,
    /// The changes of the limits that the booked times know of.
    changes: u32,
}

impl Gatekeeper {
    /// Empty rooms for the hctxs `0..hctxs`. Allocates; nothing else does.
    #[must_use]
    pub fn new(hctxs: u16) -> Gatekeeper {
        let room = || Room {
            waiting: Bits::new(usize::from(hctxs)),
            occupied: false,
            cursor: 0,
            booked: None,
        };
        Gatekeeper { rooms: [room(), room()], turn: Direction::Read, changes: 0 }
    }

    /// Whether nobody waits. Until [`next`](Gatekeeper::next) has answered `None` once, it may be
    /// `false` although the last one has gone.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.rooms.iter().any(|room| room.occupied)
    }

    /// Whether every bio that arrives goes on, for nothing is limited and nobody waits.
    #[must_use]
    #[inline]
    pub fn is_open(&self, limits: &Limits) -> bool {
        limits.is_off() && self.is_empty()
    }

    /// A bio arrives. `true`: it has paid and goes on. `false`: its owner appends it to the list of
    /// its hctx and direction.
    ///
    /// # Panics
    /// When the hctx is not below the number given to [`new`](Gatekeeper::new).
    #[must_use = "it may have to wait"]
    pub fn arrive(&mut self, limits: &Limits, hctx: HctxId, op: Op, now: Nanos) -> bool {
        if self.is_open(limits) {
            return true;
        }
        let Some(direction) = Direction::of(op) else { return true };
        let room = &mut self.rooms[direction.index()];
        if !room.occupied {
            let due = limits.book(op, now);
            if due <= now {
                return true;
            }
            room.book(hctx, due, now);
        }
        room.wait(hctx);
        false
    }

    /// The next one that goes: the owner takes the first of this list and lets it go on, and asks
    /// again until the answer is `None`. `front` says what is first in a list.
    pub fn next(
        &mut self,
        limits: &Limits,
        now: Nanos,
        mut front: impl FnMut(HctxId, Direction) -> Option<Op>,
    ) -> Option<(HctxId, Direction)> {
        if self.is_empty() {
            return None;
        }
        self.follow(limits);
        let first = self.turn;
        let second = Direction::BOTH[1 - first.index()];
        for (direction, other) in [(first, second), (second, first)] {
            let room = &mut self.rooms[direction.index()];
            if let Some(hctx) = room.next(limits, now, |hctx| front(hctx, direction)) {
                self.turn = other;
                return Some((hctx, direction));
            }
        }
        None
    }

    /// The limits may have been raised: then who has booked goes no later than a newcomer would.
    fn follow(&mut self, limits: &Limits) {
        let changes = limits.changes();
        if changes == self.changes {
            return;
        }
        self.changes = changes;
        for direction in Direction::BOTH {
            if let Some(booked) = &mut self.rooms[direction.index()].booked {
                booked.due = booked.due.min(limits.tail(direction));
            }
        }
    }

    /// The hctx stops, and what waits on it goes at once (P5): the owner takes the first of the
    /// list in this direction and lets it go on, and asks again until the answer is `None`.
    pub fn release(
        &mut self,
        limits: &Limits,
        hctx: HctxId,
        now: Nanos,
        mut front: impl FnMut(HctxId, Direction) -> Option<Op>,
    ) -> Option<Direction> {
        for direction in Direction::BOTH {
            let room = &mut self.rooms[direction.index()];
            let Some(op) = front(hctx, direction) else {
                room.leave(hctx);
                continue;
            };
            match room.booked {
                Some(booked) if booked.hctx == hctx => room.booked = None,
                _ => limits.force(op, now),
            }
            return Some(direction);
        }
        None
    }

    /// When [`next`](Gatekeeper::next) should be asked, if nothing happens before: `Nanos(0)` for
    /// at once, `None` when nobody waits. After a change of the limits: at once.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        let occupied = self.rooms.iter().filter(|room| room.occupied);
        occupied.map(|room| room.booked.map_or(Nanos(0), |booked| booked.due)).min()
    }
}
