//! What an operator can see and change: the socket asks for it, the daemon supplies it.

use super::shape::{DiskStats, DiskSummary, Inspection, PoolSummary, Resized, SchedulerReport};
use crate::blkmq::limits::LimitsConfig;

/// Why something was not shown or not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SteerError {
    /// No disk has that name.
    #[error("there is no disk `{0}`: disk.list names them all")]
    NoSuchDisk(String),
    /// No pool has that name.
    #[error("there is no pool `{0}`: pool.list names them all")]
    NoSuchPool(String),
    /// A value that is never right: an unknown scheduler or tunable, a limit that contradicts
    /// another. The text says what would be. Nothing has changed.
    #[error("{0}")]
    Invalid(String),
    /// A value that may be right, but not here and now. Nothing has changed.
    #[error("{cause}: {remedy}")]
    Refused {
        /// Why not.
        cause: String,
        /// What helps.
        remedy: String,
    },
    /// A queue thread did not answer in time. What was asked for may still come to pass.
    #[error("no answer in time ({0}): what was asked for may still happen, so look again")]
    Unanswered(String),
}

/// Everything that can be seen and changed at run time.
///
/// Calls come from several threads at once. A call may block for the answer of a queue thread, but
/// only for a bounded time: the end of the admin socket waits for the calls that have begun.
pub trait Steer: Send + Sync {
    /// All disks.
    fn disks(&self) -> Vec<DiskSummary>;

    /// All pools.
    fn pools(&self) -> Vec<PoolSummary>;

    /// What a disk has done so far; with its `queues` one by one, and with the `buckets` of its
    /// histograms, only when asked for.
    ///
    /// # Errors
    /// [`SteerError`].
    fn disk_stats(&self, disk: &str, queues: bool, buckets: bool) -> Result<DiskStats, SteerError>;

    /// The requests that a disk has in progress: the `most` oldest of them, oldest first.
    ///
    /// # Errors
    /// [`SteerError`].
    fn inspect(&self, disk: &str, most: u32) -> Result<Inspection, SteerError>;

    /// Replaces all limits of a disk.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_limits(&self, disk: &str, limits: LimitsConfig) -> Result<(), SteerError>;

    /// Sets what a disk gets compared to the others of its pool, 1 to 1000.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_weight(&self, disk: &str, weight: u16) -> Result<(), SteerError>;

    /// Sets how many requests of each queue of a disk may wait or be in flight, at least 1; `None`
    /// for as many as its ring has entries.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_nr_requests(&self, disk: &str, requests: Option<u16>) -> Result<(), SteerError>;

    /// Takes the size that the image of a disk has now, or makes it `size` bytes long first; only with
    /// `shrink` may the disk become smaller by that. Waits for the storage, and when the disk becomes
    /// smaller for the requests in flight.
    ///
    /// # Errors
    /// [`SteerError`].
    fn resize(&self, disk: &str, size: Option<u64>, shrink: bool) -> Result<Resized, SteerError>;

    /// The scheduler of a pool, and what it could have instead.
    ///
    /// # Errors
    /// [`SteerError`].
    fn scheduler(&self, pool: &str) -> Result<SchedulerReport, SteerError>;

    /// Gives a pool another scheduler, with these tunables (name, value) set before it begins.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_scheduler(
        &self,
        pool: &str,
        name: &str,
        tunables: &[(String, String)],
    ) -> Result<(), SteerError>;

    /// Reads a tunable of a pool's scheduler, or sets it when `value` is given; answers with its
    /// value afterwards.
    ///
    /// # Errors
    /// [`SteerError`].
    fn tunable(&self, pool: &str, name: &str, value: Option<&str>) -> Result<String, SteerError>;

    /// Sets how many requests a pool may have in flight; 0 for as many as the images take, `None`
    /// for what its scheduler thinks best, whichever that is.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_hw_depth(&self, pool: &str, depth: Option<u32>) -> Result<(), SteerError>;

    /// Sets how little a pool merges, as Linux's `nomerges`: 0 all that can be, 1 only what is
    /// cheap to find, 2 nothing.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_nomerges(&self, pool: &str, level: u8) -> Result<(), SteerError>;

    /// Sets the longest that the threads of a pool look for work before they sleep, in
    /// microseconds; 0: not at all.
    ///
    /// # Errors
    /// [`SteerError`].
    fn set_poll_max_us(&self, pool: &str, most: u32) -> Result<(), SteerError>;
}
