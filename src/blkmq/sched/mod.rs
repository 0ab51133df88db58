//! Schedulers: who goes next among the requests that wait.
//!
//! A domain owns one scheduler, on one thread, so nothing here is locked. The set is open and the
//! choice may change at run time, hence `dyn`; a virtual call costs a nanosecond or two.
//!
//! Contract, which a conformance test checks for every implementation:
//! * **C1** What was inserted comes out of [`next`](Scheduler::next) or
//!   [`drain`](Scheduler::drain), or is [`absorbed`](Scheduler::absorbed), exactly once; nothing
//!   else ever does.
//! * **C2** [`has_work`](Scheduler::has_work) promises that `next` at the same instant answers
//!   with a request. A scheduler that holds requests back answers `has_work` with `false` until it
//!   lets go; when time alone will do that, it says when ([`next_wake`](Scheduler::next_wake)).
//!   Where schedulers of several threads share tokens, another thread may be faster between the
//!   two calls, and `next` answers `None` after all. Then, as after `false`, this thread is in the
//!   [`take_wakes`](Scheduler::take_wakes) of whoever gives back what is missing, so it may sleep.
//! * **C3** [`done`](Scheduler::done) is called exactly once for each request that left by `next`
//!   and was not given back by [`requeue`](Scheduler::requeue).
//! * **C4** Containers are sized in [`attach`](Scheduler::attach); no other call allocates, except
//!   [`tunable`](Scheduler::tunable) and [`set_weight`](Scheduler::set_weight), which are no part
//!   of the data path.
//! * **C5** [`find`](Scheduler::find) names only a request that is held now, of the same hctx and
//!   the same kind of operation, that ends where the new one starts or starts where it ends.
//! * **C6** Where [`can_hold`](Scheduler::can_hold) says so, a disk that is held back by
//!   [`hold`](Scheduler::hold) is as if it had nothing, except for `drain`, `find` and
//!   `absorbed`; the others notice nothing.
//!
//! Requests are inserted one by one: with one owner there is no lock whose cost a batch would
//! share.

use std::fmt;

use super::{Ident, Wakes};
use crate::block::{Class, HctxId, LaneId, Nanos, Op};

mod bfq;
mod flat;
mod kyber;
mod mq_deadline;
mod none;
mod registry;
mod tree;

pub use bfq::Bfq;
pub use kyber::{Kyber, KyberShared};
pub use mq_deadline::MqDeadline;
pub use none::NoScheduler;
pub use registry::{BuildError, Kind};

/// What a scheduler knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Whose it is.
    pub id: Ident,
    /// The disk that it is for.
    pub lane: LaneId,
    /// What it does, and where: all of it, when several bios travel together.
    pub op: Op,
    /// The guest's priority class.
    pub class: Class,
    /// When its oldest bio was submitted.
    pub arrival: Nanos,
    /// When it was issued; meaningful in [`Scheduler::done`] only.
    pub issued: Nanos,
}

/// On which side of a held request a new one touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The held one ends where the new one starts.
    Back,
    /// The held one starts where the new one ends.
    Front,
}

/// Why a tunable was not read or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTunable {
    /// The scheduler has none of that name.
    Unknown,
    /// It does not take that value, but this.
    Value {
        /// As in "give `expected`".
        expected: &'static str,
    },
}

/// A policy. Time is an argument.
pub trait Scheduler: Send + fmt::Debug {
    /// The name by which an operator chooses it.
    fn name(&self) -> &'static str;

    /// Whether a request may go straight to the image when nothing waits, without being inserted.
    fn bypass(&self) -> bool {
        false
    }

    /// A hctx of `depth` tags joins, which belongs to the disk `lane`. May allocate.
    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16);

    /// A hctx with nothing waiting leaves.
    fn detach(&mut self, hctx: HctxId);

    /// Takes a request in.
    fn insert(&mut self, item: &Item, now: Nanos);

    /// The request that goes next.
    fn next(&mut self, now: Nanos) -> Option<Ident>;

    /// Takes a request back that `next` gave; it goes before the others of its hctx.
    fn requeue(&mut self, item: &Item);

    /// Whether `next` would answer at this instant (C2).
    fn has_work(&self, now: Nanos) -> bool;

    /// A request that `next` gave has ended.
    fn done(&mut self, item: &Item, now: Nanos);

    /// Gives everything up, each hctx's requests in the order in which they arrived. `done` is not
    /// called for what is still out; what that held of a shared state is given back here, so
    /// [`take_wakes`](Scheduler::take_wakes) has to be asked once more.
    fn drain(&mut self, out: &mut dyn FnMut(Ident));

    /// When [`next`](Scheduler::next) should be asked again although nothing was inserted or done.
    fn next_wake(&self) -> Option<Nanos> {
        None
    }

    /// A held request that `bio` could be joined with (C5). Whether it may is the core's to say.
    /// `bio` is not held, except when it has just grown: then it is never named itself.
    fn find(&mut self, bio: &Item) -> Option<(Ident, Side)> {
        let _ = bio;
        None
    }

    /// A held request took another bio in: it is `after` now, with the same id.
    fn grown(&mut self, before: &Item, after: &Item) {
        let _ = (before, after);
    }

    /// A held request became part of another held one, `into` (as it is after
    /// [`grown`](Scheduler::grown)): it will not come out by itself. Its place in line, if it is the
    /// earlier one, passes on to `into`.
    fn absorbed(&mut self, gone: &Item, into: &Item) {
        let _ = (gone, into);
    }

    /// How much of the domain a disk gets compared to the others: 1 to 1000, 100 unless said.
    fn set_weight(&mut self, lane: LaneId, weight: u16) {
        let _ = (lane, weight);
    }

    /// Whether [`hold`](Scheduler::hold) works: all disks are alike to it.
    fn can_hold(&self) -> bool {
        false
    }

    /// A disk has its share of what may be in flight: `next` passes over its requests, which stay in
    /// order, until it is let go (C6).
    fn hold(&mut self, lane: LaneId, held: bool) {
        let _ = (lane, held);
    }

    /// How many requests the domain keeps with the image at most; 0: as many as there are.
    fn set_depth(&mut self, hw_depth: u32) {
        let _ = hw_depth;
    }

    /// Threads whose schedulers of the same kind may go on since something was given back. To be
    /// asked after `done`, `requeue`, `drain` and `tunable`; never names the own thread, which looks
    /// again by itself after each of these.
    fn take_wakes(&mut self) -> Wakes {
        Wakes::default()
    }

    /// The names that [`tunable`](Scheduler::tunable) knows.
    fn tunables(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads a tunable, or sets it when `value` is given; answers with its value afterwards.
    ///
    /// # Errors
    /// [`BadTunable`]; nothing changed.
    fn tunable(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        let _ = (name, value);
        Err(BadTunable::Unknown)
    }
}

#[cfg(test)]
pub(in crate::blkmq) mod conformance;
