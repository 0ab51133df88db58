//! A pool: the queue threads of some disks, the scheduler that the disks share, and which thread
//! serves which queue.
//!
//! Rules:
//! * **P1** A scheduler that gathers (it has to see all requests) runs on the first thread, and all
//!   queues of the pool are there; any other has an instance on each thread, and queue `i` of disk
//!   `d` is served by thread `(d + i) mod n`.
//! * **P2** A switch builds the new scheduler first: what can be refused is refused before anything
//!   changes. Then the threads change theirs between two sweeps; nothing waits for I/O in flight.
//! * **P3** Queues move between threads as everything moves, by value: drained on the old thread,
//!   started on the new one. They move to the first thread before a gathering scheduler comes, and
//!   away from it after it has gone, so that it never sees a part of the requests only.
//! * **P4** One change of a pool at a time; a session that begins meanwhile waits for its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::refusal::Refusal;
use super::rings::{Rings, Uncovered};
use crate::blkmq::sched::{BuildError, Kind};
use crate::device::Disk;
use crate::device::mailbox::{DiskId, Mailbox, QueueReport, ThreadGone};
use crate::device::tuning::PoolTuning;

/// Why a pool could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No such scheduler or tunable, or not with that value. Nothing changed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A queue thread is gone.
    #[error(transparent)]
    Thread(#[from] ThreadGone),
    /// A queue did not come along to its new thread.
    #[error("a queue could not move to another thread: {0}")]
    Move(#[from] Refusal),
}

/// What may change.
#[derive(Debug)]
struct State {
    kind: Kind,
    /// As the operator wants it; `None` leaves it to the scheduler.
    hw_depth: Option<u32>,
    /// The rings of every session, of all disks.
    rings: Vec<(DiskId, Weak<Mutex<Rings>>)>,
}

/// Some disks, their threads, and their scheduler.
#[derive(Debug)]
pub struct Pool {
    mailboxes: Vec<Mailbox>,
    rotational: bool,
    tuning: Arc<PoolTuning>,
    state: Mutex<State>,
}

impl Pool {
    /// The pool of the threads behind these mailboxes, which have the scheduler that they start
    /// with, `none`. `rotational`: its disks are on something that has to seek.
    ///
    /// # Panics
    /// Without a mailbox: a pool has at least one thread. With more than there may be threads
    /// ([`MAX_THREADS`](crate::blkmq::MAX_THREADS)).
    #[must_use]
    pub fn new(mailboxes: Vec<Mailbox>, rotational: bool) -> Pool {
        assert!(!mailboxes.is_empty(), "a pool has at least one thread");
        let state = State { kind: Kind::None, hw_depth: None, rings: Vec::new() };
        let threads = u16::try_from(mailboxes.len()).unwrap_or(u16::MAX);
        let tuning = Arc::new(PoolTuning::new(threads));
        Pool { mailboxes, rotational, tuning, state: Mutex::new(state) }
    }

    /// The threads, by number.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// The scheduler that the pool has now.
    #[must_use]
    pub fn scheduler(&self) -> Kind {
        self.state().kind
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a change leaves the queues wherever they are, and all of them served.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads among which queues are spread under a scheduler (P1).
    fn threads(&self, kind: Kind) -> &[Mailbox] {
        if kind.gathers() { &self.mailboxes[..1] } else { &self.mailboxes }
    }

    /// The threads that serve the queues of a disk, from its queue 0 on, over and over. Each disk
    /// begins with another one, so that disks of one queue do not all meet on one thread.
    fn places(&self, kind: Kind, disk: DiskId) -> Vec<Mailbox> {
        let mut places = self.threads(kind).to_vec();
        let first = disk.0 as usize % places.len();
        places.rotate_left(first);
        places
    }

    /// The rings of a new session on a disk of this pool.
    #[must_use]
    pub fn join(&self, disk: &Arc<Disk>, queues: u16) -> Arc<Mutex<Rings>> {
        let mut state = self.state();
        let mailboxes = self.places(state.kind, disk.id);
        let rings = Arc::new(Mutex::new(Rings::new(Arc::clone(disk), &mailboxes, queues)));
        state.rings.retain(|(_, old)| old.strong_count() > 0);
        state.rings.push((disk.id, Arc::downgrade(&rings)));
        rings
    }

    /// Replaces the scheduler under load (P2, P3), with these tunables. When it is the one that the
    /// pool has, only the tunables are set.
    ///
    /// # Errors
    /// [`PoolError`]. After [`PoolError::Build`] everything is as before.
    pub fn set_scheduler(
        &self,
        name: &str,
        tunables: &[(String, String)],
    ) -> Result<(), PoolError> {
        let kind = Kind::named(name)?;
        let threads = u16::try_from(self.mailboxes.len()).unwrap_or(u16::MAX);
        let made = kind.build(tunables, threads, self.rotational)?;
        let mut state = self.state();
        let before = state.kind;
        if kind == before {
            drop(made);
            for (name, value) in tunables {
                self.tune_all(kind, name, Some(value))?;
            }
            return Ok(());
        }
        if kind.gathers() {
            self.place(&mut state, kind)?;
        }
        let mut rest = Kind::None.build(&[], threads, self.rotational)?;
        rest.drain(..made.len());
        for (mailbox, scheduler) in self.mailboxes.iter().zip(made.into_iter().chain(rest)) {
            drop(mailbox.set_scheduler(scheduler)?);
        }
        state.kind = kind;
        if !kind.gathers() && before.gathers() {
            self.place(&mut state, kind)?;
        }
        self.adjust_depth(&state)
    }

    /// Moves every queue to the thread where it belongs under this scheduler (P3).
    fn place(&self, state: &mut State, kind: Kind) -> Result<(), Refusal> {
        if self.mailboxes.len() == 1 {
            return Ok(());
        }
        let mut first = Ok(());
        for rings in state.rings.iter().filter_map(|(_, rings)| rings.upgrade()) {
            let mut rings = rings.lock().unwrap_or_else(PoisonError::into_inner);
            let places = self.places(kind, rings.disk());
            let moved = rings.set_mailboxes(&places);
            first = first.and(moved);
        }
        first
    }

    /// Reads a tunable of the scheduler, or sets it when there is a value; answers with its value
    /// afterwards.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn tunable(&self, name: &str, value: Option<&str>) -> Result<String, PoolError> {
        let state = self.state();
        self.tune_all(state.kind, name, value)
    }

    fn tune_all(&self, kind: Kind, name: &str, value: Option<&str>) -> Result<String, PoolError> {
        let mut answer = String::new();
        for mailbox in self.threads(kind) {
            let tuned = mailbox.tune(name, value)?;
            answer = tuned.map_err(|bad| kind.refusal(bad, name, value.unwrap_or_default()))?;
        }
        Ok(answer)
    }

    /// What can be tuned of the pool.
    #[must_use]
    pub fn tuning(&self) -> &Arc<PoolTuning> {
        &self.tuning
    }

    /// Has all threads look at the tuning of pool and disks.
    ///
    /// # Errors
    /// [`PoolError::Thread`].
    pub fn retune(&self) -> Result<(), PoolError> {
        for mailbox in &self.mailboxes {
            mailbox.retune()?;
        }
        Ok(())
    }

    /// What the queues of a disk have in progress, with the number of the thread that has them.
    ///
    /// # Errors
    /// [`PoolError::Thread`].
    pub fn inspect(&self, disk: DiskId) -> Result<Vec<(u16, QueueReport)>, PoolError> {
        // Nobody moves queues meanwhile, so each is seen once.
        let _state = self.state();
        let mut all = Vec::new();
        for (thread, mailbox) in (0..).zip(&self.mailboxes) {
            all.extend(mailbox.inspect(disk)?.into_iter().map(|report| (thread, report)));
        }
        Ok(all)
    }

    /// Lets everything finish that has been fetched from the queues of a disk up to now; they go on
    /// then.
    ///
    /// # Errors
    /// [`PoolError::Move`], after all others have finished.
    pub fn settle(&self, disk: DiskId) -> Result<(), PoolError> {
        // Nobody moves queues meanwhile, so each is seen once.
        let state = self.state();
        let mut first = Ok(());
        for rings in state.rings.iter().filter(|(of, _)| *of == disk) {
            let Some(rings) = rings.1.upgrade() else { continue };
            let mut rings = rings.lock().unwrap_or_else(PoisonError::into_inner);
            let done = rings.at_rest(Uncovered::Wait, |_| Ok(()));
            first = first.and(done);
        }
        Ok(first?)
    }

    /// Whether a front-end is connected to this disk.
    #[must_use]
    pub fn has_session(&self, disk: DiskId) -> bool {
        self.state().rings.iter().any(|(of, rings)| *of == disk && rings.strong_count() > 0)
    }

    /// The scheduler, and all its tunables with their values.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn tunables(&self) -> Result<(Kind, Vec<(String, String)>), PoolError> {
        let state = self.state();
        let value = |name: &&str| {
            self.tune_all(state.kind, name, None).map(|value| ((*name).to_owned(), value))
        };
        let values: Result<_, _> = state.kind.tunables().iter().map(value).collect();
        Ok((state.kind, values?))
    }

    /// Sets how many requests the pool may have in flight; `None` for what its scheduler thinks
    /// best, 0 for any number.
    ///
    /// # Errors
    /// [`PoolError::Thread`].
    pub fn set_hw_depth(&self, depth: Option<u32>) -> Result<(), PoolError> {
        let mut state = self.state();
        state.hw_depth = depth;
        self.adjust_depth(&state)
    }

    /// Whether the number of requests in flight is left to the scheduler.
    #[must_use]
    pub fn is_hw_depth_auto(&self) -> bool {
        self.state().hw_depth.is_none()
    }

    fn adjust_depth(&self, state: &State) -> Result<(), PoolError> {
        let depth = state.hw_depth.unwrap_or_else(|| state.kind.hw_depth(self.rotational));
        self.tuning.set_hw_depth(depth);
        self.retune()
    }
}

#[cfg(test)]
mod tests;
