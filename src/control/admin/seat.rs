//! A client's place: whether it is being worked for, and whether it may be taken away.
//!
//! Two threads look at it: the client's own, and the one that lets clients in.
//!
//! ```text
//! Quiet --begin--> Working --rest--> Quiet        a line; reading and writing count as quiet
//! Quiet --evict--> Leaving                        another client needs the place (A4)
//! Quiet, Working --leave--> Leaving               the end of the server (A6)
//! any --gone--> Gone                              the thread is about to end
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is done for it, since then: it has not sent a line, or not taken its answer.
    Quiet(Instant),
    /// A call is being made.
    Working,
    /// No call begins any more.
    Leaving,
    /// Its thread can be joined.
    Gone,
}

/// A place.
#[derive(Debug)]
pub(super) struct Seat(Mutex<Phase>);

impl Seat {
    pub(super) fn new() -> Seat {
        Seat(Mutex::new(Phase::Quiet(Instant::now())))
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // Every change is one assignment, so a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call is about to be made; whether it may be.
    pub(super) fn begin(&self) -> bool {
        let mut phase = self.phase();
        if let Phase::Quiet(_) = *phase {
            *phase = Phase::Working;
        }
        *phase == Phase::Working
    }

    /// The calls of a line have been made, or its answer has been taken.
    pub(super) fn rest(&self) {
        let mut phase = self.phase();
        if let Phase::Quiet(_) | Phase::Working = *phase {
            *phase = Phase::Quiet(Instant::now());
        }
    }

    /// How long it has been quiet; `None` when it is not.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        match *self.phase() {
            Phase::Quiet(since) => Some(since.elapsed()),
            Phase::Working | Phase::Leaving | Phase::Gone => None,
        }
    }

    /// Takes the place away if it has been quiet for `patience`.
    pub(super) fn evict(&self, patience: Duration) -> bool {
        let mut phase = self.phase();
        let patient = matches!(*phase, Phase::Quiet(since) if since.elapsed() >= patience);
        if patient {
            *phase = Phase::Leaving;
        }
        patient
    }

    /// Takes the place away, after the call that is being made.
    pub(super) fn leave(&self) {
        let mut phase = self.phase();
        if *phase != Phase::Gone {
            *phase = Phase::Leaving;
        }
    }

    /// The thread is about to end.
    pub(super) fn go(&self) {
        *self.phase() = Phase::Gone;
    }

    /// Whether its thread can be joined without waiting.
    pub(super) fn is_gone(&self) -> bool {
        *self.phase() == Phase::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiet_seat_is_taken_away() {
        let seat = Seat::new();
        assert!(!seat.evict(Duration::from_secs(3600)), "not quiet for long enough");
        assert!(seat.begin() && seat.begin(), "a batch begins several times");
        assert_eq!(seat.quiet_for(), None);
        assert!(!seat.evict(Duration::ZERO), "a call is being made");
        seat.rest();
        assert!(seat.quiet_for().is_some() && seat.evict(Duration::ZERO));
        assert!(!seat.begin() && !seat.evict(Duration::ZERO), "it is taken");
    }

    #[test]
    fn whoever_leaves_does_not_come_back() {
        let seat = Seat::new();
        assert!(seat.begin());
        seat.leave();
        seat.rest();
        assert!(!seat.begin() && !seat.is_gone());
        seat.go();
        seat.leave();
        seat.rest();
        assert!(seat.is_gone() && !seat.begin() && !seat.evict(Duration::ZERO));
    }
}
