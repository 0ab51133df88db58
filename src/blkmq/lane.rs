//! A disk as a domain has it.

use std::sync::Arc;

use super::flush::{FlushGate, FlushMachine};
use super::limits::{Gatekeeper, Limits};
use super::merge::MergeConfig;
use super::stall::ErrorPolicy;
use crate::block::Nanos;

/// What a disk brings into a domain.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// What its threads share about flushes.
    pub gate: Arc<FlushGate>,
    /// A write can be issued so that its completion means durable, and reports its own failure
    /// and nobody else's. Without it a write-through write is DATA, then a flush (F5).
    pub dsync: bool,
    /// Its share of the domain, compared to the other disks': 1 to 1000.
    pub weight: u16,
    /// What its threads share of its limits.
    pub limits: Arc<Limits>,
    /// What becomes of operations that its storage failed.
    pub on_error: ErrorPolicy,
}

impl LaneConfig {
    /// A disk of the usual weight and without limits.
    #[must_use]
    pub fn new(gate: Arc<FlushGate>, dsync: bool) -> LaneConfig {
        let (limits, on_error) = (Arc::default(), ErrorPolicy::default());
        LaneConfig { gate, dsync, weight: 100, limits, on_error }
    }
}

/// One disk of the domain.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) flush: FlushMachine,
    pub(super) dsync: bool,
    pub(super) weight: u16,
    pub(super) limits: Arc<Limits>,
    pub(super) keeper: Gatekeeper,
    /// For hctxs to come.
    pub(super) merging: MergeConfig,
    /// Leftovers on all its hctxs.
    pub(super) leftovers: u32,
    /// Its image refused something, and nothing of the domain has completed since (D6).
    pub(super) blocked: bool,
    pub(super) on_error: ErrorPolicy,
    /// Its storage failed something; it is tried again then (X2).
    pub(super) stalled: Option<Nanos>,
}
