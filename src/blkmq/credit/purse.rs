//! One thread's hand on the credits of its pool.

use std::sync::Arc;

use super::Credits;
use crate::blkmq::flush::Wakes;

/// What a thread holds of the credits, and all that it asks of them. A thread that has no others
/// beside it counts here, and the shared words are left alone but for the depth (V9).
#[derive(Debug)]
pub(in crate::blkmq) struct Purse {
    credits: Arc<Credits>,
    thread: u16,
    /// There is no other thread.
    alone: bool,
    /// Credits that a thread without others holds.
    held: u32,
}

impl Purse {
    /// An empty one, of the thread with this number.
    pub(in crate::blkmq) fn new(credits: Arc<Credits>, thread: u16) -> Purse {
        let alone = credits.is_single();
        Purse { credits, thread, alone, held: 0 }
    }

    /// Whether a thread without others may have another one.
    #[inline(always)]
    fn has_room(&self) -> bool {
        let depth = self.credits.depth();
        depth == 0 || self.held < depth
    }

    /// Takes a credit ([`Credits::try_take`]).
    #[inline(always)] // for each request
    #[must_use = "without a credit nothing may be issued"]
    pub(in crate::blkmq) fn try_take(&mut self) -> bool {
        if !self.alone {
            return self.credits.try_take(self.thread);
        }
        if !self.has_room() {
            return false;
        }
        self.held = self.held.wrapping_add(1); // no more than there are heads
        true
    }

    /// Gives one back ([`Credits::give_back`]).
    #[inline(always)] // for each request
    pub(in crate::blkmq) fn give_back(&mut self) {
        if self.alone {
            self.held -= 1;
        } else {
            self.credits.give_back(self.thread);
        }
    }

    /// Whether to run before sleeping ([`Credits::worth_asking`]).
    pub(in crate::blkmq) fn worth_asking(&self) -> bool {
        if self.alone { self.has_room() } else { self.credits.worth_asking(self.thread) }
    }

    /// A run ends ([`Credits::end_run`]).
    pub(in crate::blkmq) fn end_run(&self) {
        if !self.alone {
            self.credits.end_run(self.thread);
        }
    }

    /// The thread is about to sleep, or has given back ([`Credits::settle`]).
    #[must_use = "they sleep"]
    pub(in crate::blkmq) fn settle(&self) -> Wakes {
        if self.alone { Wakes::default() } else { self.credits.settle(self.thread) }
    }

    /// Credits that the thread holds: its requests with the kernel.
    pub(in crate::blkmq) fn held(&self) -> u32 {
        if self.alone { self.held } else { self.credits.held(self.thread) }
    }

    /// Changes the depth of the pool ([`Credits::set_depth`]).
    #[cfg(test)]
    pub(in crate::blkmq) fn set_depth(&self, depth: u32) -> Wakes {
        self.credits.set_depth(depth)
    }

    /// The depth of the pool; 0 for no limit.
    pub(in crate::blkmq) fn depth(&self) -> u32 {
        self.credits.depth()
    }

    /// The part of it that is this thread's ([`Credits::depth_of`]).
    pub(in crate::blkmq) fn depth_of(&self) -> u32 {
        self.credits.depth_of(self.thread)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/purse.rs"]
mod tests;
