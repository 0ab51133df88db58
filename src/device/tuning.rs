//! What an operator may change while disks are served, where queue threads look for it.
//!
//! Whoever changes a value rings the threads with [`Command::Retune`](super::mailbox::Command), and
//! they look again; a thread that opens a disk later finds the values as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};

use crate::blkmq::credit::Credits;

/// Of a pool.
#[derive(Debug)]
pub struct PoolTuning {
    credits: Arc<Credits>,
    nomerges: AtomicU8,
    poll_max_us: AtomicU32,
}

impl Default for PoolTuning {
    /// Of a single thread, with all that it has in flight, and everything merged.
    fn default() -> PoolTuning {
        PoolTuning::new(1)
    }
}

impl PoolTuning {
    /// Of so many threads, numbered from 0, without a bound and with everything merged.
    ///
    /// # Panics
    /// As [`Credits::new`].
    #[must_use]
    pub fn new(threads: u16) -> PoolTuning {
        PoolTuning {
            credits: Arc::new(Credits::new(threads, 0)),
            nomerges: AtomicU8::new(0),
            poll_max_us: AtomicU32::new(0),
        }
    }

    /// What its threads share of the bound on requests in flight.
    #[must_use]
    pub fn credits(&self) -> &Arc<Credits> {
        &self.credits
    }

    /// Requests that the pool may have in flight; 0 for as many as there are.
    #[must_use]
    pub fn hw_depth(&self) -> u32 {
        self.credits.depth()
    }

    /// Changes it. Who waits for a credit is not woken: the `Retune` that follows does that.
    pub fn set_hw_depth(&self, depth: u32) {
        let _ = self.credits.set_depth(depth);
    }

    /// The longest that its threads look for work before they sleep, in microseconds; 0: not at all.
    #[must_use]
    pub fn poll_max_us(&self) -> u32 {
        self.poll_max_us.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set_poll_max_us(&self, most: u32) {
        self.poll_max_us.store(most, Ordering::Relaxed);
    }

    /// How little is merged, as Linux's `queue/nomerges`: 0 all, 1 what is cheap to find, 2 none.
    #[must_use]
    pub fn nomerges(&self) -> u8 {
        self.nomerges.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set_nomerges(&self, level: u8) {
        self.nomerges.store(level, Ordering::Relaxed);
    }
}

/// Of a disk.
#[derive(Debug)]
pub struct DiskTuning {
    weight: AtomicU16,
    /// 0: none.
    nr_requests: AtomicU16,
}

impl Default for DiskTuning {
    fn default() -> DiskTuning {
        DiskTuning::new(100, None)
    }
}

impl DiskTuning {
    /// With this weight (1 to 1000), and this bound on the requests of a queue.
    #[must_use]
    pub fn new(weight: u16, nr_requests: Option<u16>) -> DiskTuning {
        let nr_requests = nr_requests.unwrap_or(0);
        DiskTuning { weight: weight.into(), nr_requests: nr_requests.into() }
    }

    /// Its share of its pool, compared to the other disks'.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set_weight(&self, weight: u16) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Requests of one queue that may wait or be in flight, at least 1; `None` for as many as its
    /// ring has. The others stay in the guest's ring.
    #[must_use]
    pub fn nr_requests(&self) -> Option<u16> {
        Some(self.nr_requests.load(Ordering::Relaxed)).filter(|n| *n > 0)
    }

    /// Changes it.
    pub fn set_nr_requests(&self, most: Option<u16>) {
        self.nr_requests.store(most.unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_found() {
        let pool = PoolTuning::new(3);
        assert_eq!((pool.hw_depth(), pool.nomerges()), (0, 0));
        pool.set_hw_depth(32);
        pool.set_nomerges(2);
        assert_eq!((pool.hw_depth(), pool.nomerges()), (32, 2));
        assert_eq!(pool.credits().depth(), 32, "the threads see it");
        assert_eq!(pool.poll_max_us(), 0);
        pool.set_poll_max_us(20);
        assert_eq!(pool.poll_max_us(), 20);
        let disk = DiskTuning::new(300, Some(4));
        assert_eq!((disk.weight(), disk.nr_requests()), (300, Some(4)));
        disk.set_weight(1);
        disk.set_nr_requests(None);
        assert_eq!((disk.weight(), disk.nr_requests()), (1, None));
        assert_eq!(DiskTuning::default().nr_requests(), None, "unless said otherwise");
    }
}
