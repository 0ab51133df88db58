//! What answers look like: the results of the methods, field by field.
//!
//! Fields are only ever added, so whoever reads an answer skips what it does not know. Units stand
//! in the names (`_ns`, `_bytes`), except where Linux has given the name already.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blkmq::limits::{Limit as CoreLimit, LimitSet as CoreSet, LimitsConfig};

/// Result of `version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of this protocol. It grows when something that worked ceases to.
    pub protocol: u32,
    /// Of the program.
    pub program: String,
    /// Every method that there is.
    pub methods: Vec<String>,
}

/// Result of `disk.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskList {
    /// In the order of the configuration.
    pub disks: Vec<DiskSummary>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSummary {
    /// The name by which methods choose it.
    pub name: String,
    /// Where its content lives.
    pub image: String,
    /// The pool that it belongs to.
    pub pool: String,
    /// Size, in sectors of 512 bytes.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// The guest cannot write.
    pub read_only: bool,
    /// Virtqueues.
    pub queues: u16,
    /// A front-end is there.
    pub connected: bool,
    /// What it gets compared to the others of its pool, 1 to 1000.
    pub weight: u16,
    /// Requests of each queue that may wait or be in flight; null: as many as its ring has.
    pub nr_requests: Option<u16>,
    /// Its limits.
    pub limits: Limits,
}

/// Limits of one disk. What is left out is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Operations per second.
    #[serde(skip_serializing_if = "is_default")]
    pub iops: LimitSet,
    /// Bytes per second.
    #[serde(skip_serializing_if = "is_default")]
    pub bps: LimitSet,
    /// An operation counts as one for every so many bytes of it; 0: always as one.
    #[serde(skip_serializing_if = "is_default")]
    pub iops_size: u64,
}

/// Limits of one measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSet {
    /// On reads and writes together.
    #[serde(skip_serializing_if = "is_default")]
    pub total: Limit,
    /// On reads.
    #[serde(skip_serializing_if = "is_default")]
    pub read: Limit,
    /// On writes, and whatever else changes the disk.
    #[serde(skip_serializing_if = "is_default")]
    pub write: Limit,
}

/// One limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Per second in the long run; 0: any amount.
    #[serde(skip_serializing_if = "is_default")]
    pub rate: u64,
    /// Per second while a burst lasts; 0: no bursts.
    #[serde(skip_serializing_if = "is_default")]
    pub burst: u64,
    /// How long a burst may last; 0 as 1.
    #[serde(skip_serializing_if = "is_default")]
    pub burst_seconds: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Limit> for CoreLimit {
    fn from(l: Limit) -> CoreLimit {
        CoreLimit { rate: l.rate, burst: l.burst, burst_seconds: l.burst_seconds }
    }
}

impl From<CoreLimit> for Limit {
    fn from(l: CoreLimit) -> Limit {
        Limit { rate: l.rate, burst: l.burst, burst_seconds: l.burst_seconds }
    }
}

impl From<LimitSet> for CoreSet {
    fn from(s: LimitSet) -> CoreSet {
        CoreSet { total: s.total.into(), read: s.read.into(), write: s.write.into() }
    }
}

impl From<CoreSet> for LimitSet {
    fn from(s: CoreSet) -> LimitSet {
        LimitSet { total: s.total.into(), read: s.read.into(), write: s.write.into() }
    }
}

impl From<Limits> for LimitsConfig {
    fn from(l: Limits) -> LimitsConfig {
        LimitsConfig { iops: l.iops.into(), bps: l.bps.into(), iops_size: l.iops_size }
    }
}

impl From<LimitsConfig> for Limits {
    fn from(l: LimitsConfig) -> Limits {
        Limits { iops: l.iops.into(), bps: l.bps.into(), iops_size: l.iops_size }
    }
}

/// Result of `disk.stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// Whose.
    pub disk: String,
    /// All queues together.
    pub total: Counters,
    /// Each queue; absent when not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<QueueStats>,
}

/// What one queue has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    /// Its number.
    pub queue: u16,
    /// The queue thread that it belongs to.
    pub thread: u16,
    /// The numbers.
    pub counters: Counters,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// As `/sys/block/X/stat`.
    pub iostat: Iostat,
    /// How many requests of the guest are in each stage now.
    pub gauges: Gauges,
    /// Requests issued again: after a short transfer, or because the kernel said "again".
    pub requeues: u64,
    /// Requests that the storage failed and that the disk keeps for later: see `werror`, `rerror`.
    pub stalls: u64,
    /// Times that the image could not take a request, which was offered again later.
    pub refused: u64,
    /// Requests of the guest that were answered with an error.
    pub failed: u64,
    /// Requests of the guest that were answered without I/O: malformed ones, and GET_ID.
    pub rejected: u64,
    /// Flushes that the guest asked for and got an answer to. `flush_ios` are fewer: many share
    /// one sync.
    pub flush_bios: u64,
    /// Latencies and batch sizes.
    pub histograms: Vec<Histogram>,
}

/// The 17 fields of `/sys/block/X/stat` by name and in its order (Linux:
/// `Documentation/block/stat.rst`). Ticks are milliseconds, sectors have 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Linux's, and documented there")]
pub struct Iostat {
    pub read_ios: u64,
    pub read_merges: u64,
    pub read_sectors: u64,
    pub read_ticks: u64,
    pub write_ios: u64,
    pub write_merges: u64,
    pub write_sectors: u64,
    pub write_ticks: u64,
    pub in_flight: u64,
    pub io_ticks: u64,
    pub time_in_queue: u64,
    pub discard_ios: u64,
    pub discard_merges: u64,
    pub discard_sectors: u64,
    pub discard_ticks: u64,
    pub flush_ios: u64,
    pub flush_ticks: u64,
}

/// Requests of the guest by stage, at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Heads that the guest may use.
    pub free: u32,
    /// Held back by a limit.
    pub throttled: u32,
    /// In the batch of the current sweep.
    pub plugged: u32,
    /// With the scheduler.
    pub staged: u32,
    /// Refused or unfinished, to be issued before anything else.
    pub leftover: u32,
    /// Waiting for a sync.
    pub flush_wait: u32,
    /// With the kernel: data.
    pub in_flight: u32,
    /// With the kernel: a sync.
    pub syncing: u32,
    /// Part of another one's request.
    pub merged: u32,
    /// Finished, the guest does not know yet.
    pub done: u32,
}

/// What a histogram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// From the guest's request to its answer, in nanoseconds.
    QueueToComplete,
    /// From the guest's request to the image, in nanoseconds.
    QueueToIssue,
    /// From the image's beginning to its end, in nanoseconds.
    IssueToComplete,
    /// How many requests of the guest one look at its ring found.
    BatchSize,
}

/// How often which value occurred. Percentiles are the upper ends of their buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// What it is of.
    pub of: Measure,
    /// Of which operation; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<OpName>,
    /// Values seen.
    pub count: u64,
    /// Their mean.
    pub mean: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// 90 in 100.
    pub p90: u64,
    /// 99 in 100.
    pub p99: u64,
    /// 999 in 1000.
    pub p999: u64,
    /// The largest.
    pub max: u64,
    /// Pairs of a bucket's largest value and its count, without the empty ones; absent when not
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<(u64, u64)>>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum OpName {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// Result of `disk.inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Whose.
    pub disk: String,
    /// How many requests are in progress.
    pub total: u32,
    /// The oldest of them, oldest first.
    pub requests: Vec<RequestInProgress>,
}

/// A request of the guest that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInProgress {
    /// Its virtqueue.
    pub queue: u16,
    /// Its descriptor head.
    pub tag: u16,
    /// What it does.
    pub op: OpName,
    /// Where it begins, in sectors; absent for a flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector: Option<u64>,
    /// How long it is, in sectors; absent for a flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<u64>,
    /// Its priority class.
    pub class: ClassName,
    /// Where it is.
    pub stage: Stage,
    /// How long ago it arrived.
    pub age_ns: u64,
    /// The head whose request it has become part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<u16>,
}

/// The guest's priority classes, as Linux names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ClassName {
    RealTime,
    BestEffort,
    Idle,
}

/// The stages of [`Gauges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in Gauges")]
pub enum Stage {
    Throttled,
    Plugged,
    Staged,
    Leftover,
    FlushWait,
    InFlight,
    Syncing,
    Merged,
    Done,
}

/// Result of `disk.resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resized {
    /// Whose.
    pub disk: String,
    /// Its size now, in sectors of 512 bytes.
    pub sectors: u64,
    /// Its size before.
    pub before: u64,
    /// A front-end is there that is told. One that is not finds out when it asks.
    pub announced: bool,
}

/// Result of `pool.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolList {
    /// In the order of the configuration.
    pub pools: Vec<PoolSummary>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSummary {
    /// The name by which methods choose it.
    pub name: String,
    /// The names of its disks.
    pub disks: Vec<String>,
    /// Its queue threads.
    pub threads: u16,
    /// Its scheduler.
    pub scheduler: String,
    /// Requests that it may have in flight; 0: as many as the images take.
    pub hw_depth: u32,
    /// Nobody has said how many: they are what the scheduler thinks best.
    #[serde(default)]
    pub hw_depth_auto: bool,
    /// How little it merges.
    pub nomerges: u8,
    /// The longest that its threads look for work before they sleep, in microseconds; 0: never.
    #[serde(default)]
    pub poll_max_us: u32,
}

/// Result of `pool.get-scheduler`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerReport {
    /// Whose.
    pub pool: String,
    /// The scheduler's name.
    pub scheduler: String,
    /// Every scheduler that the pool could have.
    pub available: Vec<String>,
    /// Its tunables with their values.
    pub tunables: BTreeMap<String, String>,
}

/// Result of `pool.tunable`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunableValue {
    /// The value now.
    pub value: String,
}
