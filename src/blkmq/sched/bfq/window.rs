//! How much may be with the image at a time while somebody is in a hurry.
//!
//! Whose turn it is decides nothing for a request that finds the device full: it waits for all that
//! is in there. So while a *light* lane is about, one that has only a few requests at a time and
//! hence waits for each, the others fill the device less.
//!
//! Rules:
//! * **H1** A lane is light while at most [`FEW`] of its requests wait or are in flight. The window
//!   is in force for a lane for `window_hold` after a request of another, light lane came.
//! * **H2** In force, what was sent under it stays within `window` units in flight, writes within
//!   `window_async` per cent of those. A request larger than that goes alone.
//! * **H3** A light lane's request is sent regardless when none of that lane is in flight.
//! * **H4** The window never changes whose turn it is. Whoever's turn it is waits, and nobody goes
//!   past, so shares stay as they are. Nothing in flight: no wait. Nobody light: no window.
//!
//! What a guest can do to others by being light is therefore to lower their depth, never their
//! share; with the depth that the operator gave the disk the window grows.

use super::tune::Tune;
use crate::block::{LaneId, Nanos};

/// See H1.
pub(super) const FEW: u32 = 4;
/// Units in flight for each request of depth: those of a 4 KiB request.
const UNITS_PER_REQUEST: u64 = 16;
/// The depth of a disk of which nothing was said (that of SATA's command queue).
const DEPTH: u64 = 32;

/// A light lane, and when it was last seen.
type Seen = Option<(LaneId, Nanos)>;

/// What is in flight, and who is light.
#[derive(Debug)]
pub(super) struct Window {
    depth: u64,
    /// The two that were seen last, the newer one first: one of them is another.
    seen: [Seen; 2],
    /// Units in flight that H2 counts.
    all: u64,
    writes: u64,
}

/// A request that wants to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) lane: LaneId,
    pub(super) cost: u32,
    pub(super) write: bool,
}

impl Window {
    pub(super) const fn new() -> Window {
        Window { depth: DEPTH, seen: [None; 2], all: 0, writes: 0 }
    }

    /// How many requests the image is given at a time; 0: nothing is known.
    pub(super) fn set_depth(&mut self, depth: u32) {
        self.depth = if depth == 0 { DEPTH } else { u64::from(depth) };
    }

    /// A request of a light lane came.
    pub(super) fn light(&mut self, lane: LaneId, now: Nanos) {
        if let [Some((newest, _)), _] = self.seen
            && newest != lane
        {
            self.seen[1] = self.seen[0];
        }
        self.seen[0] = Some((lane, now));
    }

    /// Until when the window is in force for a lane, as far as is known.
    pub(super) fn until(&self, lane: LaneId, tune: &Tune) -> Option<Nanos> {
        let other = self.seen.iter().flatten().find(|(seen, _)| *seen != lane)?;
        (tune.window_hold > 0).then(|| Nanos(other.1.0.saturating_add(tune.window_hold)))
    }

    /// Whether there is room (H2).
    pub(super) fn has_room(&self, load: &Load, tune: &Tune) -> bool {
        let window = match tune.window {
            0 => self.depth * UNITS_PER_REQUEST,
            said => said,
        };
        let cost = u64::from(load.cost);
        let writes_fit = !load.write
            || self.writes == 0
            || self.writes + cost <= window * tune.window_async / 100;
        self.all == 0 || (self.all + cost <= window && writes_fit)
    }

    /// It was sent, and counts.
    pub(super) fn sent(&mut self, load: &Load) {
        self.all += u64::from(load.cost);
        self.writes += if load.write { u64::from(load.cost) } else { 0 };
    }

    /// It is no longer in flight.
    pub(super) fn back(&mut self, load: &Load) {
        self.all -= u64::from(load.cost);
        self.writes -= if load.write { u64::from(load.cost) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LaneId = LaneId(0);
    const B: LaneId = LaneId(1);
    const C: LaneId = LaneId(2);

    fn load(cost: u32, write: bool) -> Load {
        Load { lane: A, cost, write }
    }

    #[test]
    fn only_another_light_lane_puts_the_window_in_force() {
        let tune = Tune::new();
        let mut window = Window::new();
        assert_eq!(window.until(A, &tune), None);
        window.light(A, Nanos(5));
        assert_eq!(window.until(A, &tune), None, "its own haste");
        assert_eq!(window.until(B, &tune), Some(Nanos(10_000_005)));
        window.light(B, Nanos(7));
        window.light(B, Nanos(8));
        assert_eq!(window.until(A, &tune), Some(Nanos(10_000_008)));
        assert_eq!(window.until(B, &tune), Some(Nanos(10_000_005)));
        window.light(C, Nanos(9));
        assert_eq!(window.until(A, &tune), Some(Nanos(10_000_009)));
        assert_eq!(window.until(C, &tune), Some(Nanos(10_000_008)));
        let off = Tune { window_hold: 0, ..tune };
        assert_eq!(window.until(A, &off), None);
    }

    #[test]
    fn writes_have_half_of_it_and_what_is_too_large_goes_alone() {
        let tune = Tune::new();
        let mut window = Window::new();
        assert!(window.has_room(&load(1 << 30, true), &tune), "nothing is in flight");
        window.sent(&load(136, true));
        assert!(!window.has_room(&load(136, true), &tune), "272 of 256");
        assert!(window.has_room(&load(120, true), &tune), "256 of 256");
        assert!(window.has_room(&load(376, false), &tune), "512 of 512");
        assert!(!window.has_room(&load(377, false), &tune));
        window.set_depth(64);
        assert!(window.has_room(&load(376, true), &tune));
        assert!(!window.has_room(&load(377, true), &tune));
        window.set_depth(0);
        assert!(!window.has_room(&load(136, true), &tune));
        window.back(&load(136, true));
        window.sent(&load(500, false));
        assert!(!window.has_room(&load(16, true), &tune), "writes do not exceed the whole either");
        window.back(&load(500, false));
        assert_eq!((window.all, window.writes), (0, 0));
    }
}
