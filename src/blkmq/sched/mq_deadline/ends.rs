//! Requests by where they end, to find the one that a new bio continues.
//!
//! A table of chains, newest first. A guest that knew the hash could put all its requests into
//! one chain, so only the newest few are looked at: a merge that is missed costs nothing but
//! itself. Taking one out does not walk the chain.

use super::entry::{Entries, Entry, Kind};
use crate::block::{HctxId, Sector};

use super::super::flat::{Cell, NIL};

/// How many of a chain are looked at.
const LOOKED_AT: usize = 8;

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

    fn chain(&self, hctx: HctxId, kind: Kind, end: Sector) -> usize {
        let who = u64::from(hctx.0) << 8 | kind as u64;
        // Multiplicative hashing (Fibonacci): the upper bits depend on all lower ones.
        let hash =
            end.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ who.wrapping_mul(0xd6e8_feb8_6659_fd93);
        usize::try_from(hash >> self.shift).expect("the table is in memory")
    }

    pub(super) fn insert(&mut self, all: &mut Entries, cell: Cell) {
        let entry = &all[cell];
        let chain = self.chain(entry.id.hctx, entry.kind, entry.end);
        let older = self.chains[chain];
        self.chains[chain] = cell;
        all[cell].newer = NIL;
        all[cell].older = older;
        if older != NIL {
            all[older].newer = cell;
        }
    }

    pub(super) fn remove(&mut self, all: &mut Entries, cell: Cell) {
        let Entry { newer, older, .. } = all[cell];
        if newer == NIL {
            let entry = &all[cell];
            let chain = self.chain(entry.id.hctx, entry.kind, entry.end);
            self.chains[chain] = older;
        } else {
            all[newer].older = older;
        }
        if older != NIL {
            all[older].newer = newer;
        }
    }

    /// One of this hctx and kind that ends at a sector and that `fits`.
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
