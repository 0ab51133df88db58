//! A lane's turn: how long it lasts, and how much the lane is to have the next time.
//!
//! Rules:
//! * **T1** A turn ends when its budget is used up, when it has lasted for `timeout_sync`, or when
//!   the lane has nothing left. The last request may exceed the budget; what was used counts.
//! * **T2** Budgets follow what a lane can use (Linux: `__bfq_bfqq_recalc_budget`), between a 32nd
//!   of `max_budget` and all of it: used up, four times as much; timed out, twice; nothing left,
//!   what was used; nothing came while the device was held, four 32nds less, or twice as much when
//!   requests are still in flight. A lane begins with the least, so that who asks for little is
//!   served soon (its F is near) and who asks for much has it three turns later.
//! * **T3** Sorted, a turn that timed out is charged all of its budget: what it used up is the
//!   disk's time. A disk that seeks for one lane would otherwise owe all others that time.
//! * **T4** With `slice_idle`, the device is held for a lane that has nothing more at the moment,
//!   until `slice_idle` after its last completion: if it has budget and time left, read last, and
//!   usually comes back within `slice_idle`. With `strict_guarantees`, whatever it did last and
//!   however it behaves. Nobody is kept waiting for it when nobody else has something.

use super::tune::Tune;
use crate::block::{LaneId, Nanos};

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The budget was used up.
    Exhausted,
    /// It took too long.
    TimedOut,
    /// The lane has nothing left.
    Empty,
    /// The device was held for the lane, in vain.
    Idled,
}

/// What the device is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing: the lane has requests.
    No,
    /// The lane's requests in flight, and what it may ask for when it has seen them.
    Flight,
    /// The lane's next request, until then.
    Until(Nanos),
}

/// The turn that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) lane: LaneId,
    /// Units that it may use.
    pub(super) budget: u32,
    /// Units that it has used.
    pub(super) used: u32,
    /// When its first request went.
    pub(super) began: Option<Nanos>,
    /// An overdue request was served (O5).
    pub(super) expired: bool,
    pub(super) hold: Hold,
}

impl Turn {
    pub(super) const fn new(lane: LaneId, budget: u32) -> Turn {
        Turn { lane, budget, used: 0, began: None, expired: false, hold: Hold::No }
    }

    /// Whether it has lasted for long enough.
    pub(super) fn is_late(&self, now: Nanos, tune: &Tune) -> bool {
        self.began.is_some_and(|began| now.since(began) >= tune.timeout_sync)
    }

    /// When the device is let go; `None` when it is not held.
    pub(super) fn lets_go(&self, tune: &Tune) -> Option<Nanos> {
        let began = self.began.unwrap_or(Nanos(0));
        let late = Nanos(began.0.saturating_add(tune.timeout_sync));
        match self.hold {
            Hold::No => None,
            Hold::Flight => Some(late),
            Hold::Until(when) => Some(when.min(late)),
        }
    }

    /// Whether the device is held no longer.
    pub(super) fn let_go(&self, now: Nanos, tune: &Tune) -> bool {
        self.lets_go(tune).is_some_and(|when| when <= now)
    }
}

/// What is remembered of a lane between its turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    /// Units that it is to have in a turn (T2); 0: not known yet.
    budget: u32,
    /// Of the budget that it was stamped with, what an interrupted turn has left over.
    pub(super) left: u32,
    /// What that turn has used.
    pub(super) used: u32,
    /// How long it takes to come back once it has seen all its requests end; a moving average.
    think: u64,
    /// Since when it has had nothing.
    quiet: Option<Nanos>,
}

impl Habit {
    pub(super) const NEW: Habit = Habit { budget: 0, left: 0, used: 0, think: 0, quiet: None };

    /// Units that it is to have in its next turn.
    pub(super) fn budget(&self, tune: &Tune) -> u32 {
        self.budget.clamp(tune.min_budget(), tune.max_budget())
    }

    /// T2. `used` counts from when the lane was stamped.
    pub(super) fn learn(&mut self, end: End, used: u32, in_flight: bool, tune: &Tune) {
        let now = self.budget(tune);
        self.budget = match end {
            End::Exhausted => now.saturating_mul(4),
            End::TimedOut => now.saturating_mul(2),
            End::Idled if in_flight => now.saturating_mul(2),
            End::Idled => now.saturating_sub(4 * tune.min_budget()),
            End::Empty => used,
        };
        self.budget = self.budget(tune);
        (self.left, self.used) = (0, 0);
    }

    /// All its requests have ended, and it has none waiting.
    pub(super) fn went_quiet(&mut self, now: Nanos) {
        self.quiet = Some(now);
    }

    /// It has something again (Linux: `bfq_update_io_thinktime`, an eighth of each sample).
    pub(super) fn came_back(&mut self, now: Nanos, tune: &Tune) {
        if let Some(since) = self.quiet.take() {
            let sample = now.since(since).min(2 * tune.slice_idle);
            self.think = (7 * self.think + sample) / 8;
        }
    }

    /// Whether holding the device for it is worth it (T4).
    pub(super) fn is_quick(&self, tune: &Tune) -> bool {
        self.think <= tune.slice_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_follow_what_a_lane_can_use() {
        let tune = Tune::new();
        let mut habit = Habit::NEW;
        let mut after = |end, used, in_flight| {
            habit.learn(end, used, in_flight, &tune);
            habit.budget(&tune)
        };
        assert_eq!(after(End::Exhausted, 40, true), 64);
        assert_eq!(after(End::TimedOut, 40, true), 128);
        assert_eq!(after(End::Exhausted, 300, true), 512);
        assert_eq!(after(End::Exhausted, 600, true), 512, "bounded");
        assert_eq!(after(End::Idled, 10, false), 512 - 4 * 16);
        assert_eq!(after(End::Empty, 136, true), 136);
        assert_eq!(after(End::Idled, 10, true), 272);
        assert_eq!(after(End::Empty, 9, false), 16, "not less than the least");
        assert_eq!(after(End::Idled, 9, false), 16);
    }

    #[test]
    fn a_turn_lets_go_in_time_and_at_the_latest_when_it_is_late() {
        let tune = Tune { timeout_sync: 100, ..Tune::new() };
        let mut turn = Turn::new(LaneId(0), 10);
        assert!(!turn.is_late(Nanos(1000), &tune), "it has not begun");
        turn.began = Some(Nanos(1000));
        assert!(!turn.is_late(Nanos(1099), &tune));
        assert!(turn.is_late(Nanos(1100), &tune));
        assert_eq!(turn.lets_go(&tune), None);
        turn.hold = Hold::Flight;
        assert_eq!(turn.lets_go(&tune), Some(Nanos(1100)));
        turn.hold = Hold::Until(Nanos(1050));
        assert!(!turn.let_go(Nanos(1049), &tune));
        assert!(turn.let_go(Nanos(1050), &tune));
        turn.hold = Hold::Until(Nanos(2000));
        assert_eq!(turn.lets_go(&tune), Some(Nanos(1100)));
    }

    #[test]
    fn who_takes_long_to_come_back_is_not_waited_for() {
        let tune = Tune { slice_idle: 1000, ..Tune::new() };
        let mut habit = Habit::NEW;
        habit.came_back(Nanos(5), &tune);
        assert!(habit.is_quick(&tune), "nothing is known yet");
        for _ in 0..8 {
            habit.went_quiet(Nanos(0));
            habit.came_back(Nanos(1_000_000), &tune);
        }
        assert!(!habit.is_quick(&tune));
        for _ in 0..8 {
            habit.went_quiet(Nanos(0));
            habit.came_back(Nanos(100), &tune);
        }
        assert!(habit.is_quick(&tune), "and it may change its ways");
    }
}
