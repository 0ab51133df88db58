//! How a run of the world is shaped, and what is noted of it.

use crate::testkit::disk::FaultRates;
use crate::testkit::model::FlushPoint;

/// What the guest remembers of a request on its way.
#[derive(Debug)]
pub(super) enum Sent {
    Read { start: usize, len: usize },
    Write { start: usize, len: usize, value: u64, through: Option<u64> },
    Flush(FlushPoint),
    GetId,
    Malformed,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) failed_flushes: u64,
    pub(super) stops: u64,
    /// How often the process was killed, and the heads that its successors found marked.
    pub(super) kills: u64,
    pub(super) again: u64,
}

/// How a run is shaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) threads: u16,
    pub(super) queues: u16,
    pub(super) depth: usize,
    pub(super) rates: FaultRates,
    pub(super) stops: bool,
    pub(super) toggles: bool,
    /// The image takes durable writes.
    pub(super) dsync: bool,
    /// Requests that follow the newest one on the disk, in 100.
    pub(super) sequential: u64,
    /// Sectors that fail, and nothing else does.
    pub(super) bad: Option<(usize, usize)>,
    /// The front-end keeps an in-flight region.
    pub(super) inflight: bool,
}

impl Shape {
    /// A few queues on one thread, a good disk, and nothing else happens.
    pub(super) const CALM: Shape = Shape {
        threads: 1,
        queues: 3,
        depth: 64,
        rates: FaultRates { error: 0, short: 0, again: 0, busy: 0 },
        stops: false,
        toggles: false,
        dsync: true,
        sequential: 0,
        bad: None,
        inflight: false,
    };
}
