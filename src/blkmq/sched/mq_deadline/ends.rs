//! Requests by where they end, to find the one that a new bio continues; and whether any starts
//! where it ends.
//!
//! A table of chains, newest first. A guest that knew the hash could put all its requests into
//! one chain, so only the newest few are looked at: a merge that is missed costs nothing but
//! itself. Taking one out does not walk the chain.

use super::entry::{Entries, Entry, Kind};
use crate::block::{HctxId, Sector};

use super::super::flat::{Cell, NIL};

/// How many of a chain are looked at.
const LOOKED_AT: usize = 8;

/// The upper bits of a hash, of which `shift` are cut off.
#[inline(always)]
fn hash(hctx: HctxId, kind: Kind, edge: Sector, shift: u32) -> usize {
    let who = u64::from(hctx.0) << 8 | kind as u64;
    // Multiplicative hashing (Fibonacci): the upper bits depend on all lower ones.
    let hash = edge.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ who.wrapping_mul(0xd6e8_feb8_6659_fd93);
    usize::try_from(hash >> shift).expect("the table is in memory")
}

/// How many requests start at places of one hash. Most bios have nobody behind them, and this says
/// so without a look into a tree.
#[derive(Debug)]
pub(super) struct Starts {
    counts: Vec<u32>,
    shift: u32,
}

impl Starts {
    /// Counts of no requests.
    pub(super) fn new() -> Starts {
        Starts { counts: vec![0; 2], shift: 63 }
    }

    /// Makes room for requests with cells below `end`, and counts those that are in anew.
    /// A control-time operation: it allocates.
    pub(super) fn grow(&mut self, end: Cell, all: &Entries, held: impl Fn(&Entry) -> bool) {
        let size = (8 * end as usize).next_power_of_two();
        if size > self.counts.len() {
            self.counts = vec![0; size];
            self.shift = 64 - size.trailing_zeros();
            (1..end).filter(|cell| held(&all[*cell])).for_each(|cell| self.insert(&all[cell]));
        }
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, entry: &Entry) {
        let start = entry.place.sector();
        self.counts[hash(entry.id.hctx, entry.kind, start, self.shift)] += 1;
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, entry: &Entry) {
        let start = entry.place.sector();
        self.counts[hash(entry.id.hctx, entry.kind, start, self.shift)] -= 1;
    }

    /// Whether one of this hctx and kind may start at a sector.
    #[inline(always)]
    pub(super) fn any(&self, hctx: HctxId, kind: Kind, start: Sector) -> bool {
        self.counts[hash(hctx, kind, start, self.shift)] > 0
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Ends {
    chains: Vec<Cell>,
    shift: u32,
}

impl Ends {
    /// A table for no requests.
    pub(super) fn new() -> Ends {
        Ends { chains: vec![NIL; 2], shift: 63 }
    }

    /// Makes room for requests with cells below `end`, and puts those in that were in before.
    /// A control-time operation: it allocates.
    pub(super) fn grow(&mut self, end: Cell, all: &mut Entries, held: impl Fn(&Entry) -> bool) {
        let size = (2 * end as usize).next_power_of_two();
        if size > self.chains.len() {
            self.chains = vec![NIL; size];
            self.shift = 64 - size.trailing_zeros();
            for cell in 1..end {
                if held(&all[cell]) {
                    self.insert(all, cell);
                }
            }
        }
    }

    #[inline(always)]
    fn chain(&self, hctx: HctxId, kind: Kind, end: Sector) -> usize {
        hash(hctx, kind, end, self.shift)
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, all: &mut Entries, cell: Cell) {
        let entry = &all[cell];
        let chain = self.chain(entry.id.hctx, entry.kind, entry.end);
        let older = self.chains[chain];
        self.chains[chain] = cell;
        all[cell].newer = NIL;
        all[cell].older = older;
        all[older].newer = cell; // if there is none, nobody reads it
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, all: &mut Entries, cell: Cell) {
        let (newer, older) = (all[cell].newer, all[cell].older);
        if newer == NIL {
            let entry = &all[cell];
            let chain = self.chain(entry.id.hctx, entry.kind, entry.end);
            self.chains[chain] = older;
        } else {
            all[newer].older = older;
        }
        all[older].newer = newer;
    }

    /// One of this hctx and kind that ends at a sector and that `fits`.
    #[inline(always)]
    pub(super) fn find(
        &self,
        all: &Entries,
        (hctx, kind, end): (HctxId, Kind, Sector),
        fits: impl Fn(&Entry) -> bool,
    ) -> Option<Cell> {
        let mut cell = self.chains[self.chain(hctx, kind, end)];
        for _ in 0..LOOKED_AT {
            if cell == NIL {
                return None;
            }
            let entry = &all[cell];
            if entry.end == end && fits(entry) {
                return Some(cell);
            }
            cell = entry.older;
        }
        None
    }
}
