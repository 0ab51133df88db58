//! The batch of the current sweep.
//!
//! It is filled while rings are popped and emptied at the latest when the sweep ends
//! ([`Domain::run`](super::Domain::run)). It never waits for more: there is no timer.

use super::Ident;

/// Bios of one hctx after which the batch is handed on (Linux: BLK_MAX_REQUEST_COUNT).
pub(super) const PLUG_MAX: usize = 32;
/// The same, when the batch holds bios of several hctxs.
pub(super) const PLUG_MAX_SEVERAL: usize = 64;

/// The batch: a fixed array.
#[derive(Debug)]
pub(super) struct Plug {
    entries: Box<[Ident; PLUG_MAX_SEVERAL]>,
    len: usize,
    /// The last one is long enough to be handed on before another one comes.
    grown: bool,
}

impl Plug {
    /// An empty batch.
    pub(super) fn new() -> Plug {
        let entries = Box::new([Ident::default(); PLUG_MAX_SEVERAL]);
        Plug { entries, len: 0, grown: false }
    }

    /// Bios in the batch.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether `next` must wait for the batch to be handed on.
    #[inline]
    pub(super) fn is_full(&self, next: Ident) -> bool {
        if self.grown {
            return true;
        }
        // Fewer never fill it, whosever they are.
        if self.len < PLUG_MAX {
            return false;
        }
        let others = |e: &Ident| e.hctx != next.hctx;
        let several = self.entries[..self.len].iter().any(others);
        self.len >= if several { PLUG_MAX_SEVERAL } else { PLUG_MAX }
    }

    /// Whether the last one is as long as a batch lets one grow.
    pub(super) fn set_grown(&mut self, grown: bool) {
        self.grown = grown;
    }

    /// Appends a bio; the caller has looked at [`is_full`](Plug::is_full). `grown`: as for
    /// [`set_grown`](Plug::set_grown).
    #[inline]
    pub(super) fn push(&mut self, id: Ident, grown: bool) {
        self.entries[self.len] = id;
        self.grown = grown;
        self.len = self.len.wrapping_add(1); // it was inside the batch
    }

    /// The bio at position `i`, in order of arrival.
    #[inline]
    pub(super) fn get(&self, i: usize) -> Ident {
        debug_assert!(i < self.len, "no bio has that place");
        self.entries[i]
    }

    /// The bio that came last.
    pub(super) fn last(&self) -> Option<Ident> {
        self.entries[..self.len].last().copied()
    }

    /// The request of `gone` is part of another now. When that is in the batch too, it takes the
    /// earlier of the two places (M6).
    pub(super) fn absorb(&mut self, gone: Ident, into: Ident) {
        let place = |id| self.entries[..self.len].iter().position(|e| *e == id);
        let (gone, into_at) = (place(gone), place(into));
        let Some(gone) = gone else { return };
        let remove = match into_at {
            Some(at) if at > gone => {
                self.entries[gone] = into;
                at
            }
            _ => gone,
        };
        self.entries.copy_within(remove + 1..self.len, remove);
        self.len -= 1;
    }

    /// Empties the batch.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.grown = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{HctxId, Tag};

    fn id(hctx: u16, tag: u16) -> Ident {
        Ident { hctx: HctxId(hctx), tag: Tag(tag) }
    }

    #[test]
    fn one_queue_fills_it_at_32_and_several_at_64() {
        let mut plug = Plug::new();
        for n in 0..32 {
            assert!(!plug.is_full(id(0, n)));
            plug.push(id(0, n), false);
        }
        assert!(plug.is_full(id(0, 32)));
        assert!(!plug.is_full(id(1, 0)), "a second queue widens the batch");
        for n in 0..32 {
            assert!(!plug.is_full(id(1, n)));
            plug.push(id(1, n), false);
        }
        assert!(plug.is_full(id(0, 33)));
        assert_eq!((plug.get(0), plug.get(63)), (id(0, 0), id(1, 31)));
        plug.clear();
        assert_eq!(plug.len(), 0);
        assert!(!plug.is_full(id(2, 0)));
    }

    #[test]
    fn of_two_that_join_the_earlier_place_stays() {
        let all = |plug: &Plug| (0..plug.len()).map(|i| plug.get(i).tag.0).collect::<Vec<_>>();
        let mut plug = Plug::new();
        assert_eq!(plug.last(), None);
        (0..5).for_each(|n| plug.push(id(0, n), false));
        plug.absorb(id(0, 1), id(0, 3));
        assert_eq!(all(&plug), [0, 3, 2, 4]);
        plug.absorb(id(0, 4), id(0, 0));
        assert_eq!(all(&plug), [0, 3, 2]);
        plug.absorb(id(0, 2), id(1, 9)); // joined one that is staged
        assert_eq!((all(&plug), plug.last()), (vec![0, 3], Some(id(0, 3))));
        plug.absorb(id(1, 0), id(0, 0));
        assert_eq!(all(&plug), [0, 3], "who is not here does not leave");
    }

    #[test]
    fn behind_a_long_one_the_next_must_wait() {
        let mut plug = Plug::new();
        plug.push(id(0, 0), true);
        assert!(plug.is_full(id(0, 1)) && plug.is_full(id(1, 1)));
        plug.clear();
        assert!(!plug.is_full(id(0, 1)), "it has gone");
    }

    #[test]
    fn after_a_mixed_batch_the_narrow_limit_holds_again() {
        let mut plug = Plug::new();
        plug.push(id(0, 0), false);
        plug.push(id(1, 0), false);
        plug.clear();
        (0..32).for_each(|n| plug.push(id(1, n), false));
        assert!(plug.is_full(id(1, 32)));
    }
}
