//! `bfq`: each disk of a pool gets its share of the device by weight, whatever the others ask for.
//!
//! After Linux's BFQ, in the form that serves guests: a lane, that is a disk, takes the place of a
//! process or a group, and its share is the operator's to say and nobody else's.
//!
//! Rules:
//! * **Q1** Lanes are served in turns, chosen by B-WF2Q+ over their weights (V1 to V7, `wf2q`), each
//!   as long as a budget that follows what the lane can use (T1 to T4, `turn`).
//! * **Q2** Service is counted in units of a sector, when a request goes. It costs the sectors that
//!   it moves, times `async_factor` unless it reads, and `base_cost` more (8, that is 4 KiB): what
//!   a request costs a flash disk even if it moves next to nothing, so that random 4 KiB and large
//!   sequential requests share its time rather than its bytes. (The model of Linux's iocost for a
//!   fast SSD says 1.4 us a request at 3.1 GB/s, which is 8.4 sectors. What a seek costs is T3's.)
//!   Discards and zeroings move nothing and count as [`UNMOVED`] sectors at most.
//! * **Q3** A turn is cut for a lane that has become eligible and is to end before it (V6): who asks
//!   for little need not wait for the large budget of another. Not while `slice_idle` is set: on
//!   such a disk every change costs more than it gives.
//! * **Q4** A lane's requests are ordered among themselves only (O1 to O6, `store`). What a guest
//!   says (classes) is heard there and nowhere else, so it changes nobody else's share (I34).
//! * **Q5** While a light lane is about, others fill the device less (H1 to H4, `window`).
//! * **Q6** With `strict_guarantees` one request is in flight at a time, so that the order in which
//!   requests are served is the order given here. It costs most of a flash disk's throughput.
//! * **Q7** Except as in Q5, Q6 and T4, whenever something waits, something goes.
//!
//! The way of a newly active light lane with share to spare: what is in flight, the rest of no turn
//! (Q3), other lanes that are to end before it, then itself.
//!
//! Of Linux's BFQ this is not offered: `low_latency` (weight-raising of interactive and soft
//! real-time processes), the detection of bursts and the merging of cooperating queues. They read
//! the habits of a process as it starts, opens files and plays media; a guest is many processes at
//! a time for weeks, in which nothing of that can be seen, and what can be taken for it would be a
//! way for a guest to raise its own share. Who asks for little is served soon without it (T2, Q3).
//!
//! | tunable | default | meaning |
//! | --- | --- | --- |
//! | `max_budget` | 0 | sectors; 0: 512, or 32768 when `sorted` (T2) |
//! | `timeout_sync` | 125 ms | longest turn (T1) |
//! | `async_factor` | 1 | what a written sector costs (Q2; Linux charges 3) |
//! | `base_cost` | 8 | sectors, for each request (Q2) |
//! | `slice_idle`, `slice_idle_us` | 0 | hold the device for a reader (T4); for disks that rotate |
//! | `strict_guarantees` | 0 | Q6 and T4 |
//! | `sorted` | 0 | order by sector within a turn (O4); for disks that rotate |
//! | `back_seek_max`, `back_seek_penalty` | 16384 KiB, 2 | O4 |
//! | `fifo_expire_sync`, `fifo_expire_async` | 125 ms, 250 ms | O5 |
//! | `prio_aging_expire` | 10000 ms | O2 |
//! | `window`, `window_async` | 0, 50 % | sectors; 0: 16 for each request of depth (H2) |
//! | `window_hold` | 10 ms | H1; 0: no window |

mod store;
mod tune;
mod turn;
mod wf2q;
mod window;

use self::store::{Head, State, Store};
use self::tune::Tune;
use self::turn::{End, Habit, Hold, Turn};
use self::wf2q::Wf2q;
use self::window::{FEW, Load, Window};
use super::{BadTunable, Item, Scheduler, Side};
use crate::blkmq::Ident;
use crate::block::{HctxId, LaneId, Nanos, Op};

/// What a discard or zeroing counts for at most, in sectors (Q2).
const UNMOVED: u64 = 256;

/// The scheduler named `bfq`.
#[derive(Debug)]
pub struct Bfq {
    store: Store,
    stamps: Wf2q,
    habits: Vec<Habit>,
    window: Window,
    tune: Tune,
    /// Runs whenever something waits, and while the device is held (T4).
    turn: Option<Turn>,
    /// The latest time that was said.
    clock: Nanos,
}

impl Bfq {
    /// One with no hctxs.
    #[must_use]
    pub fn new() -> Bfq {
        Bfq {
            store: Store::new(),
            stamps: Wf2q::new(),
            habits: Vec::new(),
            window: Window::new(),
            tune: Tune::new(),
            turn: None,
            clock: Nanos(0),
        }
    }

    /// One with no hctxs for a disk that rotates: sorted, and with the budgets that go with it.
    #[must_use]
    pub fn rotational() -> Bfq {
        let mut bfq = Bfq::new();
        bfq.tune.sorted = true;
        bfq.store.set_sorted(true);
        bfq
    }

    /// Q2.
    fn cost(&self, op: Op) -> u32 {
        let sectors = op.range().map_or(0, |range| range.sectors());
        let service = match op {
            Op::Read(_) | Op::Flush => sectors,
            Op::Write(_) => sectors.saturating_mul(self.tune.async_factor),
            Op::Discard(_) | Op::WriteZeroes { .. } => {
                sectors.min(UNMOVED) * self.tune.async_factor
            }
        };
        u32::try_from(service.saturating_add(self.tune.base_cost)).unwrap_or(u32::MAX)
    }

    /// A lane got its first request: it is active, or goes on with the turn that is held for it.
    fn wake(&mut self, lane: LaneId, now: Nanos) {
        self.habits[lane.index()].came_back(now, &self.tune);
        if let Some(turn) = &mut self.turn
            && turn.hold != Hold::No
        {
            if turn.let_go(now, &self.tune) {
                self.end(End::Idled);
            } else if turn.lane == lane {
                turn.hold = Hold::No;
            }
        }
        if !self.stamps.is_active(lane) {
            self.stamps.activate(lane, self.habits[lane.index()].budget(&self.tune));
        }
        if self.turn.is_none() {
            self.begin();
        } else {
            self.yield_to_rival();
        }
    }

    /// Q3.
    fn yield_to_rival(&mut self) {
        if let Some(turn) = self.turn
            && self.tune.slice_idle == 0
            && self.stamps.has_rival()
        {
            self.stamps.cut(turn.lane, turn.used);
            let habit = &mut self.habits[turn.lane.index()];
            habit.left = turn.budget.saturating_sub(turn.used);
            habit.used += turn.used;
            self.begin();
        }
    }

    /// The next turn.
    fn begin(&mut self) {
        self.turn = self.stamps.select().map(|lane| {
            let habit = &self.habits[lane.index()];
            let budget = if habit.left > 0 { habit.left } else { habit.budget(&self.tune) };
            Turn::new(lane, budget)
        });
    }

    /// Ends the turn that runs.
    fn end(&mut self, end: End) {
        let Some(turn) = self.turn.take() else { return };
        let mut used = turn.used;
        if end == End::TimedOut && self.tune.sorted {
            used = used.max(turn.budget); // T3
            self.stamps.serve(used - turn.used);
        }
        let lane = self.store.lane(turn.lane);
        let habit = &mut self.habits[turn.lane.index()];
        habit.learn(end, habit.used + used, lane.in_flight > 0, &self.tune);
        if lane.queued > 0 {
            self.stamps.renew(turn.lane, used, habit.budget(&self.tune));
        } else {
            self.stamps.leave(turn.lane, used);
        }
    }

    /// After a request of the turn that runs went: whether it goes on (T1, T4).
    fn review(&mut self, read: bool, now: Nanos) {
        let Some(turn) = &mut self.turn else { return };
        let quick = self.habits[turn.lane.index()].is_quick(&self.tune);
        let late = turn.is_late(now, &self.tune);
        let may_idle = self.tune.slice_idle > 0 && turn.used < turn.budget && !late;
        if self.store.lane(turn.lane).queued == 0 {
            if may_idle && (self.tune.strict_guarantees || (read && quick)) {
                turn.hold = Hold::Flight;
                return;
            }
            self.end(End::Empty);
        } else if turn.used >= turn.budget {
            self.end(End::Exhausted);
        } else if late {
            self.end(End::TimedOut);
        } else {
            return self.yield_to_rival();
        }
        self.begin();
    }

    /// Whether a request may go now (H2, H3).
    fn may_go(&self, load: &Load, now: Nanos) -> bool {
        let in_force = |until: Nanos| now < until;
        self.is_exempt(load.lane)
            || !self.window.until(load.lane, &self.tune).is_some_and(in_force)
            || self.window.has_room(load, &self.tune)
    }

    fn is_exempt(&self, lane: LaneId) -> bool {
        let lane = self.store.lane(lane);
        lane.in_flight == 0 && lane.queued <= FEW
    }

    fn head(&self, lane: LaneId, expired: bool, now: Nanos) -> Option<(Head, Load)> {
        let head = self.store.head(lane, now, &self.tune, expired)?;
        Some((head, self.load(head)))
    }

    fn load(&self, head: Head) -> Load {
        let entry = &self.store.entries[head.cell];
        Load { lane: entry.lane, cost: entry.cost, write: entry.is_write() }
    }

    /// Counts a request as being in flight no more.
    fn landed(&mut self, id: Ident) {
        let cell = self.store.entries.cell(id);
        let entry = &self.store.entries[cell];
        let State::Out { counted } = entry.state else {
            debug_assert!(false, "only what went comes back");
            return;
        };
        if counted {
            let load = self.load(Head { cell, overdue: false });
            self.window.back(&load);
        }
        self.store.landed(cell);
    }

    /// Lets go of a device that is held.
    fn stop_idling(&mut self) {
        if self.turn.is_some_and(|turn| turn.hold != Hold::No) {
            self.end(End::Idled);
            self.begin();
        }
    }

    fn is_alone_in_strictness(&self) -> bool {
        self.tune.strict_guarantees && self.store.in_flight > 0 // Q6
    }
}

impl Default for Bfq {
    fn default() -> Bfq {
        Bfq::new()
    }
}

impl Scheduler for Bfq {
    fn name(&self) -> &'static str {
        "bfq"
    }

    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        self.store.attach(hctx, lane, depth);
        self.stamps.attach(lane);
        if self.habits.len() <= lane.index() {
            self.habits.resize(lane.index() + 1, Habit::NEW);
        }
    }

    fn detach(&mut self, hctx: HctxId) {
        for cell in self.store.entries.cells_of(hctx) {
            let entry = &self.store.entries[cell];
            if matches!(entry.state, State::Out { .. }) {
                self.landed(entry.id);
            }
        }
        let lane = self.store.lane_of(hctx);
        if self.store.lane(lane).in_flight == 0 && self.turn.is_some_and(|t| t.lane == lane) {
            self.stop_idling();
        }
        self.store.detach(hctx);
    }

    fn insert(&mut self, item: &Item, now: Nanos) {
        self.clock = now;
        self.store.insert(item, self.cost(item.op));
        let lane = self.store.lane_of(item.id.hctx);
        let of = self.store.lane(lane);
        let first = of.queued == 1;
        if of.queued + of.in_flight <= FEW {
            self.window.light(lane, now); // H1
        }
        if first {
            self.wake(lane, now);
        }
    }

    fn next(&mut self, now: Nanos) -> Option<Ident> {
        self.clock = now;
        if self.store.queued == 0 || self.is_alone_in_strictness() {
            return None;
        }
        if self.turn?.hold != Hold::No {
            if !self.turn?.let_go(now, &self.tune) {
                return None;
            }
            self.stop_idling();
        }
        let lane = self.turn?.lane;
        self.store.refresh(lane, now, &self.tune);
        let (head, load) = self.head(lane, self.turn?.expired, now)?;
        if !self.may_go(&load, now) {
            return None;
        }
        let counted = !self.is_exempt(lane);
        if counted {
            self.window.sent(&load);
        }
        let entry = self.store.take(head.cell);
        self.store.entries[head.cell].state = State::Out { counted };
        let due = entry.cost.saturating_sub(entry.paid);
        self.stamps.serve(due);
        let turn = self.turn.as_mut()?;
        turn.used = turn.used.saturating_add(due);
        turn.began.get_or_insert(now);
        turn.expired |= head.overdue;
        self.review(!load.write, now);
        Some(entry.id)
    }

    fn requeue(&mut self, item: &Item) {
        self.landed(item.id);
        self.store.give_back(item);
        let lane = self.store.lane_of(item.id.hctx);
        if self.store.lane(lane).queued == 1 {
            self.wake(lane, self.clock);
        }
    }

    fn has_work(&self, now: Nanos) -> bool {
        let Some(turn) = &self.turn else { return false };
        if self.store.queued == 0 || self.is_alone_in_strictness() {
            return false;
        }
        let (lane, expired) = if turn.hold == Hold::No {
            (Some(turn.lane), turn.expired)
        } else if turn.let_go(now, &self.tune) {
            (self.stamps.peek(Some(turn.lane)), false)
        } else {
            return false;
        };
        let head = lane.and_then(|lane| self.head(lane, expired, now));
        head.is_some_and(|(_, load)| self.may_go(&load, now))
    }

    fn done(&mut self, item: &Item, now: Nanos) {
        self.clock = now;
        self.landed(item.id);
        let lane = self.store.lane_of(item.id.hctx);
        let of = self.store.lane(lane);
        if of.in_flight > 0 || of.queued > 0 {
            return;
        }
        self.habits[lane.index()].went_quiet(now);
        if let Some(turn) = &mut self.turn
            && turn.lane == lane
            && turn.hold == Hold::Flight
        {
            turn.hold = Hold::Until(Nanos(now.0.saturating_add(self.tune.slice_idle)));
        }
    }

    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        self.store.drain(out);
        if self.turn.is_some() {
            self.end(End::Empty);
        }
        for lane in 0..self.habits.len() {
            let habit = &mut self.habits[lane];
            (habit.left, habit.used) = (0, 0);
            let lane = LaneId(u16::try_from(lane).expect("lanes are 16 bits wide"));
            if self.stamps.is_active(lane) {
                self.stamps.leave(lane, 0);
            }
        }
    }

    fn next_wake(&self) -> Option<Nanos> {
        let turn = self.turn?;
        if self.store.queued == 0 || self.is_alone_in_strictness() {
            return None;
        }
        let held = turn.lets_go(&self.tune);
        held.or_else(|| {
            let (_, load) = self.head(turn.lane, turn.expired, self.clock)?;
            let until = self.window.until(turn.lane, &self.tune);
            until.filter(|_| !self.may_go(&load, self.clock))
        })
    }

    fn find(&mut self, bio: &Item) -> Option<(Ident, Side)> {
        self.store.find(bio)
    }

    fn grown(&mut self, _before: &Item, after: &Item) {
        self.store.grown(after, self.cost(after.op));
    }

    fn absorbed(&mut self, gone: &Item, into: &Item) {
        self.store.absorbed(gone.id, into.id);
    }

    fn set_weight(&mut self, lane: LaneId, weight: u16) {
        self.stamps.set_weight(lane, weight);
    }

    fn set_depth(&mut self, hw_depth: u32) {
        self.window.set_depth(hw_depth);
    }

    fn tunables(&self) -> &'static [&'static str] {
        &tune::NAMES
    }

    fn tunable(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        let now = self.tune.access(name, value)?;
        if value.is_some() {
            self.stop_idling();
            self.store.set_sorted(self.tune.sorted);
        }
        Ok(now.to_string())
    }
}

#[cfg(test)]
#[path = "../../tests/bfq.rs"]
mod tests;
