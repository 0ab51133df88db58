//! B-WF2Q+: which lane's turn it is, by weight (Valente and Checconi, "High Throughput Disk
//! Scheduling with Fair Bandwidth Distribution"; Linux: block/bfq-wf2q.c).
//!
//! All lanes are imagined to be served at the same time, each at a speed in proportion to its
//! weight. The virtual time V says how far that fluid service has come per unit of weight; a lane
//! that is stamped with S and F is served from S to F in it when it gets its budget.
//!
//! Rules:
//! * **V1** V grows by service / (sum of the weights that count), for all service, whoever got it.
//! * **V2** A lane that becomes active starts at S = max(V, its old F): idleness earns nothing, and
//!   going idle for a moment forgives nothing.
//! * **V3** F = S + budget / weight. When a turn ends, S moves on by what was really served.
//! * **V4** A lane is eligible when S <= V. Of the eligible ones that with the smallest F is next; if
//!   there are none, V jumps to the smallest S, so somebody always is (work conservation).
//! * **V5** A lane that goes idle ahead of the fluid (F > V) lingers: its weight counts until V has
//!   come to F. Without that V would run away from those who stay, and the next one that arrives
//!   would be stamped into the future.
//! * **V6** A turn may be cut at any request: S moves on, F stays, so a cut lane loses nothing. It is
//!   worth cutting when somebody is eligible whose F is before that of the turn: a rival. Who has
//!   such an F and is not eligible yet becomes a rival when V has come to its S.
//! * **V7** A new weight takes effect with the lane's next stamp, never in the middle of one.
//!
//! Bound (I21): while a lane has requests waiting, what it was served differs from its share of
//! all service by at most one budget and one request in either direction, however many lanes
//! there are. So over a window of W units the error of its share is at most
//! (largest budget + largest request) / W.

use crate::block::LaneId;

/// Fixed point of virtual time: 2^20 for one unit of service at weight 1. A unit at weight 1000 is
/// 1049 then, and 2^42 units (2 PiB) pass at weight 1 before the origin has to be moved.
const SHIFT: u32 = 20;
/// Where the origin is moved, and how far behind V it goes then: no stamp is that far from V.
const REBASE: u64 = 1 << 62;
const KEPT: u64 = 1 << 61;

/// Weights that a lane may have.
pub(super) const WEIGHTS: std::ops::RangeInclusive<u16> = 1..=1000;
/// The weight of a lane of which nothing was said.
pub(super) const WEIGHT: u16 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Active,
    /// V5.
    Lingering,
}

#[derive(Clone, Copy, Debug)]
struct Entity {
    start: u64,
    finish: u64,
    /// In force.
    weight: u16,
    /// From the next stamp on (V7).
    wanted: u16,
    state: State,
    /// Place in the list, unless idle.
    slot: u16,
}

impl Entity {
    const NEW: Entity =
        Entity { start: 0, finish: 0, weight: WEIGHT, wanted: WEIGHT, state: State::Idle, slot: 0 };

    /// What `service` is in this lane's virtual time.
    fn time(&self, service: u32) -> u64 {
        (u64::from(service) << SHIFT) / u64::from(self.weight)
    }
}

/// The lanes' stamps.
#[derive(Debug)]
pub(super) struct Wf2q {
    v: u64,
    /// Service that V does not contain yet: one division for many requests.
    owed: u64,
    /// Sum of the weights of the listed.
    weights: u64,
    /// F of the lane that was selected; 0: none was.
    finish: u64,
    /// The smallest S among those whose F is before that (V6).
    rival: Option<u64>,
    entities: Vec<Entity>,
    /// Who is active or lingers, in no order. A turn is worth many requests and a domain serves
    /// few disks, so the next lane is looked for in all of them.
    listed: Vec<u16>,
}

impl Wf2q {
    pub(super) const fn new() -> Wf2q {
        Wf2q {
            v: 0,
            owed: 0,
            weights: 0,
            finish: 0,
            rival: None,
            entities: Vec::new(),
            listed: Vec::new(),
        }
    }

    /// Makes room for a lane. A control-time operation: it allocates.
    pub(super) fn attach(&mut self, lane: LaneId) {
        if self.entities.len() <= lane.index() {
            self.entities.resize(lane.index() + 1, Entity::NEW);
        }
        self.listed.reserve(self.entities.len() - self.listed.len());
    }

    /// Gives a lane a weight (V7), which is brought into its range.
    pub(super) fn set_weight(&mut self, lane: LaneId, weight: u16) {
        self.attach(lane);
        self.entities[lane.index()].wanted = weight.clamp(*WEIGHTS.start(), *WEIGHTS.end());
    }

    /// A lane has something now (V2).
    pub(super) fn activate(&mut self, lane: LaneId, budget: u32) {
        self.catch_up();
        let v = self.v;
        let entity = &mut self.entities[lane.index()];
        debug_assert_ne!(entity.state, State::Active, "a lane becomes active once");
        if entity.state == State::Idle {
            entity.weight = entity.wanted;
            entity.slot = u16::try_from(self.listed.len()).expect("lanes are 16 bits wide");
            self.listed.push(lane.0);
            self.weights += u64::from(entity.weight);
        }
        entity.state = State::Active;
        entity.start = entity.finish.max(v);
        self.stamp(lane, budget);
        let Entity { start, finish, .. } = self.entities[lane.index()];
        if finish < self.finish {
            self.rival = Some(self.rival.map_or(start, |rival| rival.min(start)));
        }
    }

    /// V3 and V7.
    fn stamp(&mut self, lane: LaneId, budget: u32) {
        let entity = &mut self.entities[lane.index()];
        self.weights = self.weights - u64::from(entity.weight) + u64::from(entity.wanted);
        entity.weight = entity.wanted;
        entity.finish = entity.start + entity.time(budget);
    }

    /// The lane in service was served (V1).
    pub(super) fn serve(&mut self, service: u32) {
        self.owed += u64::from(service);
    }

    /// Its turn is over, it got `served`, and it is to have `budget` next time (V3).
    pub(super) fn renew(&mut self, lane: LaneId, served: u32, budget: u32) {
        self.catch_up();
        let entity = &mut self.entities[lane.index()];
        entity.start += entity.time(served);
        self.stamp(lane, budget);
    }

    /// Its turn was cut after `served` (V6).
    pub(super) fn cut(&mut self, lane: LaneId, served: u32) {
        self.catch_up();
        let entity = &mut self.entities[lane.index()];
        entity.start += entity.time(served);
        entity.finish = entity.finish.max(entity.start);
    }

    /// An active lane has nothing more, and got `served` since it was stamped (V5).
    pub(super) fn leave(&mut self, lane: LaneId, served: u32) {
        self.catch_up();
        let entity = &mut self.entities[lane.index()];
        debug_assert_eq!(entity.state, State::Active, "only who is there leaves");
        entity.finish = entity.start + entity.time(served);
        entity.state = State::Lingering;
        if entity.finish <= self.v {
            self.forget(lane.index());
        }
    }

    /// Brings V up to the service given so far (V1).
    fn catch_up(&mut self) {
        self.v = self.virtual_time();
        self.owed = 0;
        if self.v >= REBASE {
            let past = self.v - KEPT;
            self.v = KEPT;
            self.finish = self.finish.saturating_sub(past);
            self.rival = self.rival.map(|rival| rival.saturating_sub(past));
            for entity in &mut self.entities {
                entity.start = entity.start.saturating_sub(past);
                entity.finish = entity.finish.saturating_sub(past);
            }
        }
    }

    fn virtual_time(&self) -> u64 {
        self.v + if self.owed == 0 { 0 } else { (self.owed << SHIFT) / self.weights.max(1) }
    }

    fn forget(&mut self, lane: usize) {
        let entity = &mut self.entities[lane];
        entity.state = State::Idle;
        self.weights -= u64::from(entity.weight);
        let slot = usize::from(entity.slot);
        self.listed.swap_remove(slot);
        if let Some(moved) = self.listed.get(slot) {
            self.entities[usize::from(*moved)].slot =
                u16::try_from(slot).expect("lanes are 16 bits wide");
        }
    }

    /// The lane whose turn it is, if any is active (V4).
    pub(super) fn select(&mut self) -> Option<LaneId> {
        self.catch_up();
        let (mut best, mut best_finish) = (None, u64::MAX);
        let (mut soonest, mut soonest_finish) = (u64::MAX, u64::MAX);
        let mut i = 0;
        while let Some(lane) = self.listed.get(i).copied() {
            let entity = &self.entities[usize::from(lane)];
            if entity.state == State::Lingering {
                if entity.finish <= self.v {
                    self.forget(usize::from(lane));
                    continue; // another one is in its place
                }
            } else if entity.start > self.v {
                soonest = soonest.min(entity.start);
                soonest_finish = soonest_finish.min(entity.finish);
            } else if (entity.finish, Some(lane)) < (best_finish, best) {
                (best, best_finish) = (Some(lane), entity.finish);
            }
            i += 1;
        }
        (self.finish, self.rival) = (0, None);
        let lane = if let Some(lane) = best {
            LaneId(lane)
        } else {
            let lane = self.peek(None)?;
            self.v = soonest;
            best_finish = self.entities[lane.index()].finish;
            lane
        };
        self.finish = best_finish;
        if soonest_finish < best_finish {
            let sooner = self.active(None).filter(|(_, e)| e.finish < best_finish);
            self.rival = sooner.map(|(_, e)| e.start).min();
        }
        Some(lane)
    }

    /// What [`select`](Wf2q::select) would answer if `without` had left.
    pub(super) fn peek(&self, without: Option<LaneId>) -> Option<LaneId> {
        let v = self.virtual_time().max(self.active(without).map(|(_, e)| e.start).min()?);
        let eligible = self.active(without).filter(|(_, e)| e.start <= v);
        eligible.min_by_key(|(lane, e)| (e.finish, *lane)).map(|(lane, _)| LaneId(lane))
    }

    fn active(&self, without: Option<LaneId>) -> impl Iterator<Item = (u16, &Entity)> {
        let of = |lane: &u16| (*lane, &self.entities[usize::from(*lane)]);
        let counts = move |lane: u16| without != Some(LaneId(lane));
        let listed = self.listed.iter().map(of);
        listed.filter(move |(lane, e)| e.state == State::Active && counts(*lane))
    }

    /// Whether an active lane would be chosen before the one in service (V6).
    pub(super) fn has_rival(&self) -> bool {
        self.rival.is_some_and(|start| start <= self.virtual_time())
    }

    /// Whether a lane has been activated and has not left.
    pub(super) fn is_active(&self, lane: LaneId) -> bool {
        self.entities[lane.index()].state == State::Active
    }
}

#[cfg(test)]
#[path = "../../tests/bfq_wf2q.rs"]
mod tests;
