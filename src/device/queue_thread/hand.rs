//! A queue thread that is turned by hand: the caller is the thread, and time is what it says.
//!
//! For programs that measure the loop and must not measure the guest: both run on one thread, turn
//! by turn. It does what [`QueueThread::run`] does, except that it hands over where that one sleeps.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use super::{QueueThread, RING_ENTRIES};
use crate::blkmq::credit::Credits;
use crate::blkmq::sched::Scheduler;
use crate::block::Nanos;
use crate::device::mailbox::{Inbox, QueueStart};
use crate::sys::clock;
use crate::sys::uring::Ring;

/// A queue thread without a thread.
pub struct ByHand(QueueThread);

impl std::fmt::Debug for ByHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ByHand({})", self.0.index)
    }
}

impl ByHand {
    /// The thread of number 0 of a pool with these credits, on the thread that calls.
    ///
    /// # Errors
    /// What the kernel answered to creating its io_uring.
    pub fn new(inbox: Inbox, credits: Arc<Credits>) -> io::Result<ByHand> {
        QueueThread::new(0, Ring::new(RING_ENTRIES)?, inbox, credits).map(ByHand)
    }

    /// Uses this scheduler from now on; answers with the one before.
    pub fn set_scheduler(&mut self, next: Box<dyn Scheduler>, now: Nanos) -> Box<dyn Scheduler> {
        self.0.lanes.domain.set_scheduler(next, now)
    }

    /// Takes a queue over.
    ///
    /// # Errors
    /// The reason why it cannot be served.
    pub fn start(&mut self, start: QueueStart) -> Result<(), String> {
        self.0.start(start)
    }

    /// From one sleep to the next, at `now`: waits until there is something (the caller has seen to
    /// that), then serves until nothing is left to do.
    ///
    /// # Errors
    /// What made the ring unusable.
    #[inline(never)] // so that what is beneath it can be told from the rest by name
    pub fn turn(&mut self, now: Nanos) -> io::Result<()> {
        let thread = &mut self.0;
        thread.ring.submit_and_wait(thread.longest_sleep(now))?;
        loop {
            black_box(clock::now()); // the caller's time is used, and this one's cost is seen
            if thread.iterate(now) && !thread.rearm() {
                return Ok(());
            }
            thread.ring.submit()?;
        }
    }
}

#[cfg(test)]
#[path = "tests/hand.rs"]
mod tests;
