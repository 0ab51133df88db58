//! What an operator may change while disks are served, where queue threads look for it.
//!
//! Whoever changes a value rings the threads with [`Command::Retune`](super::mailbox::Command), and
//! they look again; a thread that opens a disk later finds the values as they are.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};

/// Of a pool.
#[derive(Debug, Default)]
pub struct PoolTuning {
    hw_depth: AtomicU32,
    nomerges: AtomicU8,
}

impl PoolTuning {
    /// With this number of requests in flight (0: no bound), and this level of `nomerges` (0 to 2).
    #[must_use]
    pub const fn new(hw_depth: u32, nomerges: u8) -> PoolTuning {
        PoolTuning { hw_depth: AtomicU32::new(hw_depth), nomerges: AtomicU8::new(nomerges) }
    }

    /// Requests that each of its domains may have in flight; 0 for as many as there are.
    #[must_use]
    pub fn hw_depth(&self) -> u32 {
        self.hw_depth.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set_hw_depth(&self, depth: u32) {
        self.hw_depth.store(depth, Ordering::Relaxed);
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
        let pool = PoolTuning::new(32, 1);
        assert_eq!((pool.hw_depth(), pool.nomerges()), (32, 1));
        pool.set_hw_depth(0);
        pool.set_nomerges(2);
        assert_eq!((pool.hw_depth(), pool.nomerges()), (0, 2));
        let disk = DiskTuning::new(300, Some(4));
        assert_eq!((disk.weight(), disk.nr_requests()), (300, Some(4)));
        disk.set_weight(1);
        disk.set_nr_requests(None);
        assert_eq!((disk.weight(), disk.nr_requests()), (1, None));
        assert_eq!(DiskTuning::default().nr_requests(), None, "unless said otherwise");
    }
}
