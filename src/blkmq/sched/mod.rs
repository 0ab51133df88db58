//! Schedulers: who goes next among the requests that wait.
//!
//! A domain owns one scheduler, on one thread, so nothing here is locked. The set is open and the
//! choice may change at run time, hence `dyn`; a virtual call costs a nanosecond or two.
//!
//! Contract, which a conformance test checks for every implementation:
//! * **C1** What was inserted comes out of [`next`](Scheduler::next) or
//!   [`drain`](Scheduler::drain) exactly once; nothing else ever does.
//! * **C2** [`has_work`](Scheduler::has_work) promises that `next` at the same instant answers
//!   with a request. A scheduler that holds requests back for a time says so with
//!   [`next_wake`](Scheduler::next_wake), and answers `has_work` with `false` until then.
//! * **C3** [`done`](Scheduler::done) is called exactly once for each request that left by `next`
//!   and was not given back by [`requeue`](Scheduler::requeue).
//! * **C4** Containers are sized in [`attach`](Scheduler::attach); no other call allocates, except
//!   [`tunable`](Scheduler::tunable), which is no part of the data path.
//!
//! Requests are inserted one by one: with one owner there is no lock whose cost a batch would
//! share.

use std::fmt;

use super::Ident;
use crate::block::{Class, HctxId, Nanos, Op};

mod none;

pub use none::NoScheduler;

/// What a scheduler knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Whose it is.
    pub id: Ident,
    /// What it does, and where.
    pub op: Op,
    /// The guest's priority class.
    pub class: Class,
    /// When it was submitted.
    pub arrival: Nanos,
}

/// The scheduler has no such tunable, or not with that value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTunable;

/// A policy. Time is an argument.
pub trait Scheduler: Send + fmt::Debug {
    /// The name by which an operator chooses it.
    fn name(&self) -> &'static str;

    /// Whether a request may go straight to the image when nothing waits, without being inserted.
    fn bypass(&self) -> bool {
        false
    }

    /// A hctx of `depth` tags joins. May allocate.
    fn attach(&mut self, hctx: HctxId, depth: u16);

    /// A hctx with nothing waiting leaves.
    fn detach(&mut self, hctx: HctxId);

    /// Takes a request in.
    fn insert(&mut self, item: &Item, now: Nanos);

    /// The request that goes next.
    fn next(&mut self, now: Nanos) -> Option<Ident>;

    /// Takes a request back that `next` gave; it goes before the others of its hctx.
    fn requeue(&mut self, item: &Item);

    /// Whether `next` would answer (C2).
    fn has_work(&self) -> bool;

    /// A request that `next` gave has ended.
    fn done(&mut self, item: &Item, now: Nanos);

    /// Gives everything up, each hctx's requests in the order in which they would have gone.
    fn drain(&mut self, out: &mut dyn FnMut(Ident));

    /// When [`next`](Scheduler::next) should be asked again although nothing was inserted or done.
    fn next_wake(&self) -> Option<Nanos> {
        None
    }

    /// Reads a tunable, or sets it when `value` is given; answers with its value afterwards.
    ///
    /// # Errors
    /// [`BadTunable`].
    fn tunable(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        let _ = (name, value);
        Err(BadTunable)
    }
}

#[cfg(test)]
pub(in crate::blkmq) mod conformance;
