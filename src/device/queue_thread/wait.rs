//! Step 5 of the loop: from nothing to do to something to do.
//!
//! * WA1 What was written to the submission queue goes before anything else (T2).
//! * WA2 While the thread looks it yields its CPU every [`YIELD_EVERY`] and makes no other system call
//!   (but see WA3), and the guests are not asked to kick.
//! * WA3 The kernel's sign that an enter is wanted may stay up when nothing is (it is put up by whoever
//!   adds work, perhaps after the work was done). So a sign that an enter did not take down is no
//!   event: the thread goes on looking, and enters again each time it looks at the clock.
//! * WA4 It sleeps in one place, its io_uring, after it has asked the guests to kick and looked once more
//!   (I12); at most until time alone makes work: a limit, a scheduler, the watch, a ring that nobody
//!   kicks.

use std::io;
use std::time::Duration;

use super::QueueThread;
use crate::block::Nanos;
use crate::sys::clock;

/// The longest sleep of a thread with a ring that nobody kicks (T3): short against a disk's
/// latency, long against a look at a ring.
const UNKICKED_PAUSE: Duration = Duration::from_micros(100);

/// How often a thread that looks lets others have its CPU, in nanoseconds (WA2).
const YIELD_EVERY: u64 = 4_000;

/// Looks between two readings of the clock: some hundred nanoseconds.
const LOOKS: u32 = 16;

impl QueueThread {
    /// How long the thread may sleep when nothing completes; `None` for as long as that takes. What
    /// waits for time alone (a limit, a scheduler that holds back, the watch) says until when.
    pub(super) fn longest_sleep(&self, now: Nanos) -> Option<Duration> {
        let unkicked = self.queues.iter().flatten().any(|q| q.is_unkicked());
        let pause = unkicked.then_some(UNKICKED_PAUSE);
        let domain = &self.lanes.domain;
        let wake = domain.next_wake().into_iter().chain(domain.next_watch()).min();
        let wake = wake.map(|at| Duration::from_nanos(at.since(now)));
        pause.into_iter().chain(wake).min()
    }

    /// Waits until there may be something to do: looks, then sleeps.
    pub(super) fn wait(&mut self, now: Nanos) -> io::Result<()> {
        let mut now = now;
        let window = self.poller.begin(self.ring.in_flight(), now);
        if window > 0 {
            self.ring.submit()?;
            match self.look(now, window)? {
                None => {
                    self.poller.found();
                    return Ok(());
                }
                Some(later) => now = later,
            }
        }
        if self.rearm() {
            return self.ring.submit();
        }
        self.ring.submit_and_wait(self.longest_sleep(now))?;
        self.poller.woke(clock::now());
        Ok(())
    }

    /// Looks for something to do for so many nanoseconds, and no longer than the thread may sleep.
    /// When nothing came, the time at which it stopped.
    ///
    /// # Errors
    /// What made the ring unusable.
    fn look(&mut self, start: Nanos, window: u64) -> io::Result<Option<Nanos>> {
        let most = self
            .longest_sleep(start)
            .map_or(u64::MAX, |most| u64::try_from(most.as_nanos()).unwrap_or(u64::MAX));
        let end = start + Duration::from_nanos(window.min(most));
        let mut next_yield = start + Duration::from_nanos(YIELD_EVERY);
        let mut stale = self.ring.needs_enter(); // WA3: the caller has just entered
        loop {
            for _ in 0..LOOKS {
                if self.ring.has_completions() || !stale && self.ring.needs_enter() {
                    return Ok(None);
                }
                for queue in self.queues.iter_mut().flatten() {
                    if queue.look(&self.lanes.domain) {
                        return Ok(None);
                    }
                }
                std::hint::spin_loop();
            }
            if stale {
                self.ring.submit()?;
                stale = self.ring.needs_enter();
            }
            let now = clock::now();
            if now >= end {
                return Ok(Some(now));
            }
            if now >= next_yield {
                std::thread::yield_now();
                let after = clock::now();
                if self.poller.yielded(after.since(now)) {
                    return Ok(Some(after));
                }
                next_yield = after + Duration::from_nanos(YIELD_EVERY);
            }
        }
    }

    /// Asks every guest to kick. `true` when one of them was quicker (I12).
    pub(super) fn rearm(&mut self) -> bool {
        let mut again = false;
        for queue in self.queues.iter_mut().flatten() {
            again |= queue.rearm(&self.lanes.domain);
        }
        again
    }
}

#[cfg(test)]
#[path = "tests/wait.rs"]
mod tests;
