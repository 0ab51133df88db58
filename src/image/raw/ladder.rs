//! Which way of the kernel a discard or a write-zeroes takes, and what follows a refusal.
//!
//! * W1 A promise of zeroes is kept by ways that leave zeroes, down to writing them. A discard is a
//!   hint: when no way is left it is done.
//! * W2 A way that the kernel does not have (EOPNOTSUPP, ENOTTY, ENOSYS at any time; EINVAL before
//!   the way ever worked) is not tried again, and the operation goes on with the next way.
//! * W3 Every other error is the answer: ENOSPC or EIO of one way is not hidden by another.
//!
//! A pure state machine; `channel` carries the steps out.

use crate::block::{Errno, Outcome};

/// What is to be achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The content may go.
    Discard,
    /// The range reads as zeroes; with `unmap` its space may go.
    Zero {
        /// The space may be given back.
        unmap: bool,
    },
}

/// One way to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// BLKDISCARD through the ring. What it leaves is undefined.
    DiscardCmd,
    /// FALLOC_FL_PUNCH_HOLE: the space goes, zeroes remain.
    Punch,
    /// FALLOC_FL_ZERO_RANGE: zeroes, space kept.
    ZeroRange,
    /// Writing zeroes.
    Write,
}

/// What this file has shown of a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Works,
    Refused,
}

/// What follows the kernel's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The operation ended so.
    End(Outcome),
    /// Try this.
    Try(Way),
}

/// What is known about the ways of one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ladder {
    discard_cmd: Seen,
    punch: Seen,
    zero_range: Seen,
}

impl Ladder {
    /// A file of which nothing is known, but whether discards through the ring are worth trying.
    pub(super) fn new(offers_discard_cmd: bool) -> Ladder {
        let discard_cmd = if offers_discard_cmd { Seen::Nothing } else { Seen::Refused };
        Ladder { discard_cmd, punch: Seen::Nothing, zero_range: Seen::Nothing }
    }

    /// A file of which every way but writing has been refused.
    #[cfg(test)]
    pub(super) fn refused() -> Ladder {
        let no = Seen::Refused;
        Ladder { discard_cmd: no, punch: no, zero_range: no }
    }

    fn seen(&mut self, way: Way) -> Option<&mut Seen> {
        match way {
            Way::DiscardCmd => Some(&mut self.discard_cmd),
            Way::Punch => Some(&mut self.punch),
            Way::ZeroRange => Some(&mut self.zero_range),
            Way::Write => None,
        }
    }

    /// The first way for `task` that has not been refused; `None` when only doing nothing is
    /// left, which happens to discards alone (W1).
    pub(super) fn first(&mut self, task: Task) -> Option<Way> {
        let ways: &[Way] = match task {
            Task::Discard => &[Way::DiscardCmd, Way::Punch],
            Task::Zero { unmap: true } => &[Way::Punch, Way::ZeroRange, Way::Write],
            Task::Zero { unmap: false } => &[Way::ZeroRange, Way::Write],
        };
        ways.iter().copied().find(|w| self.seen(*w).is_none_or(|s| *s != Seen::Refused))
    }

    /// What follows when `way` answered `res` (0 or a negated errno) to a step of `task`. Writing
    /// answers with counts and does not come here unless it failed.
    pub(super) fn after(&mut self, task: Task, way: Way, res: i32) -> Next {
        let Some(seen) = self.seen(way) else {
            return Next::End(outcome(res));
        };
        if res >= 0 {
            *seen = Seen::Works;
            return Next::End(Outcome::Done);
        }
        let missing = match res.saturating_neg() {
            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => true,
            libc::EINVAL => *seen != Seen::Works,
            _ => false,
        };
        if !missing {
            return Next::End(outcome(res));
        }
        *seen = Seen::Refused;
        match self.first(task) {
            Some(next) => Next::Try(next),
            None => Next::End(Outcome::Done),
        }
    }
}

/// The outcome of an answer that carries no count. A busy device is asked again.
pub(super) fn outcome(res: i32) -> Outcome {
    match Outcome::of_plain(res) {
        Outcome::Failed(Errno(libc::EBUSY)) => Outcome::Again,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [Task; 3] =
        [Task::Discard, Task::Zero { unmap: true }, Task::Zero { unmap: false }];
    const ANSWERS: [i32; 8] = [
        0,
        -libc::EOPNOTSUPP,
        -libc::ENOTTY,
        -libc::ENOSYS,
        -libc::EINVAL,
        -libc::ENOSPC,
        -libc::EIO,
        -libc::EAGAIN,
    ];
    const SEEN: [Seen; 3] = [Seen::Nothing, Seen::Works, Seen::Refused];

    fn every_ladder() -> impl Iterator<Item = Ladder> {
        SEEN.into_iter().flat_map(|discard_cmd| {
            SEEN.into_iter().flat_map(move |punch| {
                SEEN.into_iter().map(move |zero_range| Ladder { discard_cmd, punch, zero_range })
            })
        })
    }

    fn leaves_zeroes(way: Way) -> bool {
        way != Way::DiscardCmd
    }

    /// W1, over every state, task and answer.
    #[test]
    fn a_promise_of_zeroes_never_takes_a_discard_or_nothing() {
        for mut ladder in every_ladder() {
            for task in TASKS {
                let Some(way) = ladder.first(task) else {
                    assert_eq!(task, Task::Discard);
                    continue;
                };
                let zero = task != Task::Discard;
                assert!(!zero || leaves_zeroes(way));
                for res in ANSWERS {
                    match { ladder }.after(task, way, res) {
                        Next::Try(next) => assert!(!zero || leaves_zeroes(next)),
                        Next::End(Outcome::Done) => assert!(!zero || res == 0),
                        Next::End(_) => assert!(res < 0),
                    }
                }
            }
        }
    }

    /// W2 and W3, over every state, task and answer.
    #[test]
    fn only_a_missing_way_leads_to_another() {
        for mut ladder in every_ladder() {
            for task in TASKS {
                let Some(way) = ladder.first(task) else { continue };
                let worked = ladder.seen(way).is_none_or(|s| *s == Seen::Works);
                for res in ANSWERS {
                    let mut after = ladder;
                    let next = after.after(task, way, res);
                    let missing = way != Way::Write
                        && match -res {
                            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => true,
                            libc::EINVAL => !worked,
                            _ => false,
                        };
                    if missing {
                        assert_ne!(after.first(task), Some(way), "not tried again");
                        let expected = match after.first(task) {
                            Some(w) => Next::Try(w),
                            None => Next::End(Outcome::Done),
                        };
                        assert_eq!(next, expected);
                    } else {
                        assert_eq!(next, Next::End(outcome(res)), "{task:?} {way:?} {res}");
                    }
                }
            }
        }
    }

    #[test]
    fn ways_come_in_qemus_order_and_end() {
        let refuse_all = |task, offers| {
            let mut ladder = Ladder::new(offers);
            let mut ways = Vec::new();
            let mut way = ladder.first(task);
            while let Some(w) = way {
                ways.push(w);
                way = match ladder.after(task, w, -libc::EOPNOTSUPP) {
                    Next::Try(next) => Some(next),
                    Next::End(_) => None,
                };
            }
            ways
        };
        assert_eq!(refuse_all(Task::Discard, true), [Way::DiscardCmd, Way::Punch]);
        assert_eq!(refuse_all(Task::Discard, false), [Way::Punch]);
        let unmap = [Way::Punch, Way::ZeroRange, Way::Write];
        assert_eq!(refuse_all(Task::Zero { unmap: true }, true), unmap);
        assert_eq!(refuse_all(Task::Zero { unmap: false }, true), unmap[1..]);
    }

    #[test]
    fn two_first_tries_in_flight_are_both_forgiven() {
        let mut ladder = Ladder::new(false);
        let task = Task::Zero { unmap: false };
        for _ in 0..2 {
            let next = ladder.after(task, Way::ZeroRange, -libc::EINVAL);
            assert_eq!(next, Next::Try(Way::Write));
        }
        let mut ladder = Ladder::new(false);
        assert_eq!(ladder.after(task, Way::ZeroRange, 0), Next::End(Outcome::Done));
        let einval = Next::End(Outcome::Failed(Errno(libc::EINVAL)));
        assert_eq!(ladder.after(task, Way::ZeroRange, -libc::EINVAL), einval);
    }

    #[test]
    fn busy_is_asked_again() {
        assert_eq!(outcome(-libc::EBUSY), Outcome::Again);
        assert_eq!(outcome(-libc::EAGAIN), Outcome::Again);
        assert_eq!(outcome(-libc::EIO), Outcome::Failed(Errno(libc::EIO)));
        assert_eq!(outcome(0), Outcome::Done);
    }
}
