//! The tokens of one kind of request, shared by the threads of a pool: one word and the waiters.
//!
//! Rules:
//! * **KT1** A request in flight holds one token. A token is granted only while fewer are out than
//!   the current depth says; count and depth are one word, so this is exact (I19). After a shrink
//!   more may be out than the depth: none is granted until enough came back.
//! * **KT2** Who finds no token puts its thread into `waiting`, then looks at the word once more and,
//!   in the same step in which it sees that there is none, raises the flag in the word.
//! * **KT3** Who makes a token available (gives one back, widens the depth, gives up a claim) and
//!   finds the flag raised lowers it, and then collects `waiting`. Without the flag that is one
//!   atomic operation and nothing else.
//! * **KT4** A thread that holds none and has to wait has a *claim*: one token is kept for it, out of
//!   reach of those without. So a busy thread that takes its token back the moment it returned it
//!   cannot starve a sleeping one: who has a claim gets the first, second, ... token that comes
//!   back. Who has none holds a token, so its own completions keep it going. The price is at most
//!   one idle token for each waiting thread, for as long as that takes to wake up.
//!
//! *No wake-up is lost (KT2, KT3).* Each of the two atomics has one order of changes. Let a waiter
//! leave with "none" after it read the value `w` of the word, flag raised, by itself or by another,
//! and let `g` be the first later change that makes a token available to it. Nobody lowers the
//! flag but as KT3 says, so either `g` finds it raised, or it was lowered between `w` and `g`; in
//! both cases somebody lowers it after `w` and then swaps `waiting`. Were that swap before the
//! waiter's insertion, the insertion would have acquired what the swap released, the lowering, and
//! the waiter, which reads the word afterwards, could not have read the older `w`. So the swap
//! comes later and returns the waiter, unless another swap did. A waiter that finds itself still
//! in `waiting` need not insert itself again: if what it read was old, a swap has returned it and
//! its bell is on the way; the bell orders whatever it reads afterwards.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::blkmq::Wakes;

/// Tokens out: bits 0 to 15.
const TOKEN: u64 = 1;
/// Claims: bits 16 to 31.
const CLAIM: u64 = 1 << 16;
/// Depth: bits 32 to 47.
const DEPTH: u64 = 1 << 32;
/// Somebody is in `waiting`.
const FLAG: u64 = 1 << 48;
const FIELD: u64 = 0xffff;

/// One value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn used(self) -> u64 {
        self.0 & FIELD
    }

    fn claims(self) -> u64 {
        (self.0 / CLAIM) & FIELD
    }

    fn depth(self) -> u64 {
        (self.0 / DEPTH) & FIELD
    }

    /// Whether there is a token for somebody with or without a claim (KT1, KT4).
    fn free(self, claim: bool) -> bool {
        let kept = if claim { 0 } else { self.claims() };
        self.used() + kept < self.depth()
    }

    /// Whether somebody has to be called because of a token that became available (KT3).
    fn calls(self) -> bool {
        self.0 & FLAG != 0 && self.used() < self.depth()
    }
}

/// How a thread that has to wait stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds a token of this kind, so it will look again by itself some time.
    Holds,
    /// It holds none.
    Bare,
    /// It holds none and has a claim already.
    Claims,
}

/// The tokens of one kind, on cache lines of their own (two: processors prefetch pairs).
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Tokens {
    word: AtomicU64,
    waiting: Box<[AtomicU64]>,
}

impl Tokens {
    /// `depth` tokens for threads below `threads`.
    pub(super) fn new(threads: u16, depth: u16) -> Tokens {
        Tokens {
            word: AtomicU64::new(u64::from(depth) * DEPTH),
            waiting: (0..threads.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// How many may be out.
    pub(super) fn depth(&self) -> u16 {
        u16::try_from(self.load().depth()).unwrap_or(u16::MAX)
    }

    /// How many are out, and how many threads have a claim.
    #[cfg(test)]
    pub(super) fn books(&self) -> (u64, u64) {
        (self.load().used(), self.load().claims())
    }

    /// Whether [`take`](Tokens::take) would have succeeded a moment ago.
    pub(super) fn free(&self, claim: bool) -> bool {
        self.load().free(claim)
    }

    /// Takes a token, and redeems the claim if there is one.
    pub(super) fn take(&self, claim: bool) -> bool {
        let redeemed = if claim { CLAIM } else { 0 };
        self.change(|w| w.free(claim).then(|| w.0 + TOKEN - redeemed)).is_some()
    }

    /// Whether there is a token after all. If not, `thread` is among the waiters (KT2), and one
    /// that was [`Standing::Bare`] has a claim now (KT4).
    pub(super) fn wait(&self, thread: u16, standing: Standing) -> bool {
        let (cell, bit) = (&self.waiting[usize::from(thread / 64)], 1 << (thread % 64));
        if cell.load(Ordering::Relaxed) & bit == 0 {
            cell.fetch_or(bit, Ordering::AcqRel);
        }
        let claim = if standing == Standing::Bare { CLAIM } else { 0 };
        let mut free = false;
        self.change(|w| {
            free = w.free(standing == Standing::Claims);
            let next = (w.0 | FLAG) + claim;
            (!free && next != w.0).then_some(next)
        });
        free
    }

    /// Gives `n` tokens back (KT3). `thread`, who does that, looks again anyway.
    pub(super) fn give(&self, n: u16, thread: u16, wakes: &mut Wakes) {
        let given = u64::from(n) * TOKEN;
        let old = self.word.fetch_sub(given, Ordering::Relaxed);
        debug_assert!(Word(old).used() >= u64::from(n), "given back twice");
        if Word(old - given).calls() {
            self.call(thread, wakes);
        }
    }

    /// Gives up a claim (KT3, KT4).
    pub(super) fn renounce(&self, thread: u16, wakes: &mut Wakes) {
        let old = self.word.fetch_sub(CLAIM, Ordering::Relaxed);
        debug_assert!(Word(old).claims() > 0, "a claim that nobody had");
        if Word(old - CLAIM).calls() {
            self.call(thread, wakes);
        }
    }

    /// Sets the depth (KT1, KT3).
    pub(super) fn resize(&self, depth: u16, thread: u16, wakes: &mut Wakes) {
        let depth = u64::from(depth) * DEPTH;
        let new = self.change(|w| Some((w.0 & !(FIELD * DEPTH)) | depth));
        if new.is_some_and(Word::calls) {
            self.call(thread, wakes);
        }
    }

    #[cold]
    fn call(&self, thread: u16, wakes: &mut Wakes) {
        self.word.fetch_and(!FLAG, Ordering::Relaxed);
        for (i, cell) in self.waiting.iter().enumerate() {
            let own = if i == usize::from(thread / 64) { 1 << (thread % 64) } else { 0 };
            // A swap and no plain load first: see the proof at the head of the file.
            wakes.add_word(i, cell.swap(0, Ordering::AcqRel) & !own);
        }
    }

    /// Changes the word to what `next` makes of it, and answers with that; `None` when it declines.
    #[inline]
    fn change(&self, mut next: impl FnMut(Word) -> Option<u64>) -> Option<Word> {
        let mut old = self.load();
        loop {
            let new = next(old)?;
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.word.compare_exchange_weak(old.0, new, success, failure) {
                Ok(_) => return Some(Word(new)),
                Err(seen) => old = Word(seen),
            }
        }
    }
}
