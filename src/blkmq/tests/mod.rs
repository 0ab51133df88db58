//! The core as a whole: invariants by number (the catalogue of the design reference), on the
//! seeded world of `testkit::core_sim` and on small hand-made scenes.

mod flush;
pub(super) mod grammar;
mod interference;
mod invariants;
mod kth;
mod merging;
mod scenes;
mod stats_cost;
mod switch;
mod warm;

use super::Domain;
use super::tags::State;
use crate::block::{HctxId, LaneId};

impl Domain {
    /// Counts everything anew and compares (I03, I04).
    pub(crate) fn check_books(&self) {
        let mut by_lane = vec![0; self.lanes.len()];
        let mut held = vec![0; self.lanes.len()];
        let (mut leftovers, mut in_flight, mut syncing) = (0, 0, 0);
        for i in 0..self.table.len() {
            let id = HctxId(u16::try_from(i).expect("ids are 16 bits wide"));
            let Some(hctx) = self.table.find(id) else { continue };
            assert!(hctx.tags.recount(), "I03: the running counts are those of the slots");
            leftovers += u32::from(hctx.tags.count(State::Leftover));
            by_lane[hctx.lane.index()] += u32::from(hctx.tags.count(State::Leftover));
            in_flight += u32::from(hctx.tags.count(State::InFlight));
            held[hctx.lane.index()] += u32::from(hctx.tags.count(State::InFlight));
            syncing += u32::from(hctx.tags.count(State::Syncing));
            let has_leftovers = hctx.tags.count(State::Leftover) > 0;
            assert_eq!(!hctx.leftovers.is_empty(), has_leftovers, "I03: leftovers");
            let parked = hctx.parked.iter().any(|list| !list.is_empty());
            assert_eq!(parked, hctx.tags.count(State::Throttled) > 0, "I03: parked");
            assert!(hctx.busy.level() <= 9, "I13: pressure is at most 9");
        }
        assert_eq!(self.leftovers, leftovers, "I03: leftovers of the domain");
        assert_eq!(self.purse.held(), in_flight, "I04: credits spent");
        assert_eq!(self.syncing, syncing, "I03: syncs of the domain");
        let machines = self.lanes.iter().filter(|lane| lane.flush.is_syncing()).count();
        assert_eq!(u32::try_from(machines), Ok(syncing), "I24: one sync at most on each disk");
        let counted: Vec<u32> = self.lanes.iter().map(|lane| lane.leftovers).collect();
        assert_eq!(by_lane, counted, "I03: leftovers of each disk");
        if self.share_of != 0 {
            let lanes = (0..).map(LaneId).take(held.len());
            let counted: Vec<u32> = lanes.map(|lane| self.shares.held(lane)).collect();
            assert_eq!(held, counted, "I35: what each disk holds");
        }
    }
}
