//! The core: a block layer as a pure state machine, in the spirit of Linux's blk-mq.
//!
//! No guest memory, no descriptor, no clock, no thread, no `unsafe`, no allocation after
//! construction, no log line. Time is an argument. The core asks for one verb of the world,
//! [`Issue::issue`], so it runs whole in a simulator.
//!
//! ```text
//! submit -> plug -> scheduler -> issue -> (kernel) -> complete -> done -> release
//!      (merge)^ \-- direct issue --^  ^-- leftovers <-- refused, short, again, split
//! flush  -> flush machine --------^        (one sync per image, shared by threads)
//! ```
//!
//! Laws of the room; the files state their own rules by letter:
//! * **K1** The head is the tag, and a tag is claimed once at a time (T1 to T6, `tags`).
//! * **K2** Every claimed tag comes out of [`Domain::take_done`] exactly once, and every stage is
//!   counted, so that nothing can be lost unseen (I01, I03).
//! * **K3** Busy is not an error and never reaches the guest (L5; D1 to D6, `dispatch`).
//! * **K4** There is no idle thread with work and credit: [`Domain::wants_run`] (I10).
//! * **K5** A flush is answered OK only when it is covered (F1 to F6, `flush`; G1 to G7, `gate`).
//! * **K6** Neighbours travel together and are answered one by one: who is merged fails only for
//!   itself (L12; M1 to M10, `merge`).
//! * **K7** Policy is the scheduler's alone (C1 to C4, `sched`), and it never sees a flush.
//! * **K8** What is in flight in a pool is bounded for all its threads together (I04; V1 to V9,
//!   `credit`).

use crate::block::{HctxId, Op, Tag};

mod bits;
mod complete;
pub mod credit;
mod dispatch;
mod domain;
mod flush;
mod hctx;
mod lane;
pub mod limits;
mod merge;
mod parked;
mod plug;
pub mod sched;
mod share;
mod stall;
pub mod stats;
mod submit;
mod switch;
mod tags;
mod watch;

pub use domain::{Domain, DomainConfig, Stale};
pub use flush::{FlushGate, FlushPolicy, MAX_THREADS, Wakes};
pub use hctx::Gauges;
pub use lane::LaneConfig;
pub use merge::{Bios, MAX_SEGMENTS, MergeConfig, MergeCounters, MergeSearch};
pub use stall::ErrorPolicy;
pub use stats::{
    Batch, Bucket, DiskStats, Distribution, Ended, IoStat, Kind, OpStats, QueueStats, Recorder,
    Role, Span, Stats,
};
pub use tags::TagBusy;
pub use watch::{Overdue, Stage};

/// A bio's name within its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident {
    /// The hctx.
    pub hctx: HctxId,
    /// The head.
    pub tag: Tag,
}

impl Default for Ident {
    fn default() -> Ident {
        Ident { hctx: HctxId(0), tag: Tag(0) }
    }
}

/// One dispatch unit, on its way to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The hctx that the completion has to name.
    pub hctx: HctxId,
    /// The tag that the completion has to name.
    pub tag: Tag,
    /// The generation that the completion has to carry.
    pub generation: u16,
    /// What to do. [`Op::Flush`]: sync the image; the tag is borrowed from a bio that waits for
    /// it and may itself be a discard. A bio of several ranges is issued range by range, and the
    /// range here is the one to work on. Of several bios that travel together: the range of them all.
    pub op: Op,
    /// Bytes from the start of the range that are finished already: an earlier issue was short.
    /// Less than the first bio has. Always 0 where nothing is transferred.
    pub done: u32,
    /// The completion of this write must mean durable. Never set with another operation: what
    /// else has to be durable is followed by a flush of the core's own.
    pub fua: bool,
}

/// The image cannot take the request now. Nothing has happened; it will be offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The one verb that the core asks of the world.
pub trait Issue {
    /// Starts a request, to be answered by exactly one [`Domain::complete`] or [`Domain::rest`]
    /// after the call has returned (but see [`is_done`](Issue::is_done)). `bios` are those that it consists of, in sector order and
    /// without a gap, so that their data is the request's data; a sync has none.
    ///
    /// # Errors
    /// [`Busy`] is back-pressure (L5), not failure.
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy>;

    /// Asked after each request that was taken, unless it is a sync: whether it is done already, all
    /// of it. Then nobody answers it any more. Only of reads and writes.
    fn is_done(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
