//! Limits of one disk: operations and bytes per second, with bursts, after QEMU's throttling
//! (`throttling.iops-total` and its family; QEMU: `docs/throttle.txt`).

/// One limit. All zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// What may pass per second in the long run; 0 for any amount.
    pub rate: u64,
    /// What may pass per second while a burst lasts; 0 when there are no bursts.
    pub burst: u64,
    /// How long a burst may last, in seconds; 0 as 1.
    pub burst_seconds: u32,
}

/// The limits of one measure (operations, or bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSet {
    /// On reads and writes together.
    pub total: Limit,
    /// On reads.
    pub read: Limit,
    /// On writes, and whatever else changes the disk.
    pub write: Limit,
}

/// All limits of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Operations per second.
    pub iops: LimitSet,
    /// Bytes per second.
    pub bps: LimitSet,
    /// An operation counts as one for every so many bytes of it, rounded up; 0: always as one.
    pub iops_size: u64,
}
