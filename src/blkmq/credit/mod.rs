//! The in-flight budget of a pool (`hw_depth`), shared by its threads: atomics, nothing else.
//!
//! A credit is the right to have one request with the kernel. Without a budget all requests go
//! there at once, and no scheduler of ours has anything left to order.
//!
//! Rules:
//! * **V1** A credit is taken before a request is issued and given back when it has left the
//!   kernel. At most `depth` are out (I04). A smaller depth takes effect as they come back.
//! * **V2** How many are out, the depth, and whether somebody waits are one word, so each decision
//!   is one read-modify-write of it.
//! * **V3** A thread that gets none joins the waiters: its bit first, then, by compare-exchange
//!   against the very word that says "none", the mark in the word.
//! * **V4** Before it sleeps each thread *settles*: when the word has the mark and credits
//!   are free, it clears the mark, takes all bits, and hands one credit to each waiter in turn,
//!   from its own number on and itself last. They are woken. Who is left without is put back. Itself
//!   it waits only if its last run was refused: a run tries whatever it has.
//! * **V5** While others wait, a thread that holds its share (depth / threads) or more gets nothing:
//!   it waits as well. So what comes back goes to those who have less, and a thread that is
//!   never idle cannot keep the others out. While nobody else waits there are no shares: one busy
//!   thread may use all. (Who waits is read without order: a wrong answer moves one credit.)
//! * **V6** What was handed over and is not needed any more goes back at the end of a run that was
//!   not refused.
//! * **V7** Without a limit each thread only counts its own. When a limit comes, a thread brings
//!   what it has out into the word the next time it takes or gives; until then that is on top of
//!   the depth.
//! * **V8** A thread that wants a credit sleeps only as a waiter. A run that got one, and gave it back
//!   because the image refused, or whose request came back to be repeated, leaves work behind and
//!   no waiter: such a thread runs again ([`Credits::worth_asking`]).
//! * **V9** A thread that has no others beside it has nobody to wait for and no use for any of this:
//!   it counts by itself, in its purse, and looks only at the depth.
//!
//! *No wake-up is lost.* Let W have been refused and sleep. Its bit was inserted before it saw, at
//! a place p in the order of the changes of the word, the mark together with "none" (V3). The mark
//! stays until somebody clears it and then takes the bits. All changes of a word of bits are
//! read-modify-writes too. If the taking comes after W's insertion, W is handed a credit and woken,
//! or put back, with the mark, as if it had been refused then. If it comes before, then W's
//! insertion acquires what the taking released, which is that the mark was cleared before; so that
//! clearing is not after p. Hence as long as W has not been served, the mark is there after p.
//! "None" at p means one of two things. Either all credits were out: each that comes back later
//! does so after p, by a thread that settles afterwards and sees the mark. Or W held its share:
//! then W itself settles after p (before it sleeps), and sees it. When somebody settles with the
//! mark there and finds no free credit, all are out again, and the argument repeats with whoever
//! gives the next one back. A greater depth is set in the same word, by one who settles afterwards.
//!
//! *Giving back is one read-modify-write* of the word, and nothing else is looked at: the
//! classic danger, a look at a second word that is older than the change of the first, is not
//! there. Settling costs one load when there is no mark.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::flush::{MAX_THREADS, Wakes};

mod fair;
mod purse;

pub(super) use purse::Purse;

pub use fair::{FairShare, IDLE, MIN_SHARE};

/// The greatest depth that is a limit.
pub const MAX_DEPTH: u32 = (1 << 31) - 1;

/// What the word says (V2). Bits 0 to 31: credits out; 32 to 62: depth, 0 for no limit; 63: mark.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const MARK: u64 = 1 << 63;
    const DEPTH_SHIFT: u32 = 32;

    fn new(depth: u32) -> Word {
        Word(u64::from(depth.min(MAX_DEPTH)) << Word::DEPTH_SHIFT)
    }

    fn out(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }

    fn depth(self) -> u32 {
        u32::try_from((self.0 & !Word::MARK) >> Word::DEPTH_SHIFT).unwrap_or(MAX_DEPTH)
    }

    fn is_limited(self) -> bool {
        self.depth() != 0
    }

    fn is_marked(self) -> bool {
        self.0 & Word::MARK != 0
    }

    fn has_free(self) -> bool {
        !self.is_limited() || self.out() < self.depth()
    }

    fn marked(self) -> Word {
        Word(self.0 | Word::MARK)
    }

    fn one_more_out(self) -> Word {
        Word(self.0 + 1)
    }

    fn with_depth(self, depth: u32) -> Word {
        Word(Word::new(depth).0 | self.0 & (Word::MARK | u64::from(u32::MAX)))
    }
}

/// What one thread has, on cache lines of its own (two: processors prefetch pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Cell {
    /// Credits that the thread holds. Only it stores here.
    held: AtomicU32,
    /// Those of `held` that are not in the word (V7). Only the thread stores here.
    loose: AtomicU32,
    /// Handed over by others, in the word but not in `held` (V4).
    handed: AtomicU32,
    /// The last time it asked in this run it was refused. Only the thread stores here.
    refused: AtomicBool,
    /// Its last run was refused. Only the thread stores here.
    waits: AtomicBool,
}

impl Cell {
    fn new() -> Cell {
        let zero = || AtomicU32::new(0);
        let no = || AtomicBool::new(false);
        Cell { held: zero(), loose: zero(), handed: zero(), refused: no(), waits: no() }
    }

    fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    fn set_held(&self, n: u32) {
        self.held.store(n, Ordering::Relaxed);
    }

    fn loose(&self) -> u32 {
        self.loose.load(Ordering::Relaxed)
    }
}

/// The credits of one pool.
#[derive(Debug)]
pub struct Credits {
    word: AtomicU64,
    cells: Box<[Cell]>,
    /// As many words as the threads need.
    waiting: Box<[AtomicU64]>,
}

impl Credits {
    /// `depth` credits for `threads` threads, numbered from 0; 0 for as many as are asked for.
    ///
    /// # Panics
    /// When there are no threads, or more than [`MAX_THREADS`].
    #[must_use]
    pub fn new(threads: u16, depth: u32) -> Credits {
        assert!((1..=MAX_THREADS).contains(&threads), "credits serve 1 to {MAX_THREADS} threads");
        Credits {
            word: AtomicU64::new(Word::new(depth).0),
            cells: (0..threads).map(|_| Cell::new()).collect(),
            waiting: (0..threads.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn swap(&self, from: Word, to: Word) -> Result<(), Word> {
        let swap =
            self.word.compare_exchange_weak(from.0, to.0, Ordering::AcqRel, Ordering::Acquire);
        swap.map(|_| ()).map_err(Word)
    }

    fn is_single(&self) -> bool {
        self.cells.len() == 1
    }

    fn share(&self, depth: u32) -> u32 {
        depth / u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is a credit for `thread` (V5).
    fn may_have(&self, word: Word, thread: u16) -> bool {
        let held = self.cells[usize::from(thread)].held();
        word.has_free()
            && (!word.is_marked() || held < self.share(word.depth()) || !self.others_wait(thread))
    }

    fn others_wait(&self, thread: u16) -> bool {
        let own = |i: usize| if i == usize::from(thread / 64) { 1 << (thread % 64) } else { 0 };
        let mut words = self.waiting.iter().enumerate();
        words.any(|(i, word)| word.load(Ordering::Relaxed) & !own(i) != 0)
    }

    /// Takes a credit for a request of `thread`, or makes sure that the thread is woken when it
    /// should try again. Only that thread may call this.
    #[must_use = "without a credit nothing may be issued"]
    pub fn try_take(&self, thread: u16) -> bool {
        let cell = &self.cells[usize::from(thread)];
        let word = self.word();
        if !word.is_limited() {
            cell.loose.store(cell.loose() + 1, Ordering::Relaxed);
            cell.set_held(cell.held() + 1);
            return true;
        }
        self.bring_in(cell);
        let got = self.take_handed(cell) || self.take_free(thread, word) || self.wait(thread);
        cell.refused.store(!got, Ordering::Relaxed);
        cell.set_held(cell.held() + u32::from(got));
        got
    }

    /// V7.
    fn bring_in(&self, cell: &Cell) {
        let loose = cell.loose();
        if loose != 0 {
            cell.loose.store(0, Ordering::Relaxed);
            self.word.fetch_add(u64::from(loose), Ordering::AcqRel);
        }
    }

    fn take_handed(&self, cell: &Cell) -> bool {
        // Only the thread itself takes away, so what was seen stays.
        let some = cell.handed.load(Ordering::Acquire) != 0;
        if some {
            cell.handed.fetch_sub(1, Ordering::AcqRel);
        }
        some
    }

    fn take_free(&self, thread: u16, mut word: Word) -> bool {
        while self.may_have(word, thread) {
            match self.swap(word, word.one_more_out()) {
                Ok(()) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// Joins the waiters, unless there is a credit after all (V3).
    fn wait(&self, thread: u16) -> bool {
        self.insert(thread);
        let mut word = self.word();
        loop {
            let may = self.may_have(word, thread);
            if !may && word.is_marked() {
                return false;
            }
            let to = if may { word.one_more_out() } else { word.marked() };
            match self.swap(word, to) {
                // The bit stays when there was one. At worst the thread is woken for nothing.
                Ok(()) => return may,
                Err(seen) => word = seen,
            }
        }
    }

    fn insert(&self, thread: u16) {
        self.waiting[usize::from(thread / 64)].fetch_or(1 << (thread % 64), Ordering::AcqRel);
    }

    /// Whether [`try_take`](Credits::try_take) might succeed: a hint that changes nothing.
    #[must_use]
    pub fn has_credit(&self, thread: u16) -> bool {
        let cell = &self.cells[usize::from(thread)];
        let word = self.word();
        self.may_have(word, thread) || cell.handed.load(Ordering::Relaxed) != 0
    }

    /// Whether a thread with something to issue should run before it sleeps: there may be a credit,
    /// or the thread is not among those who wait for one (V8).
    #[must_use]
    pub fn worth_asking(&self, thread: u16) -> bool {
        let waits = || self.cells[usize::from(thread)].waits.load(Ordering::Relaxed);
        self.has_credit(thread) || !waits()
    }

    /// A request of `thread` left the kernel, or did not go there. Only that thread may call this,
    /// and settles before it sleeps.
    ///
    /// # Panics
    /// When the thread holds none.
    pub fn give_back(&self, thread: u16) {
        let cell = &self.cells[usize::from(thread)];
        cell.set_held(cell.held() - 1);
        if cell.loose() != 0 {
            cell.loose.store(cell.loose() - 1, Ordering::Relaxed);
            return;
        }
        self.word.fetch_sub(1, Ordering::AcqRel);
    }

    /// A run of `thread` ends, which has asked for all the credits that it has a use for (V6). Only
    /// that thread may call this, and settles before it sleeps.
    pub fn end_run(&self, thread: u16) {
        let cell = &self.cells[usize::from(thread)];
        let refused = cell.refused.load(Ordering::Relaxed);
        cell.refused.store(false, Ordering::Relaxed);
        cell.waits.store(refused, Ordering::Relaxed);
        // One that was refused has been rung for what it was handed since, and will run again.
        if !refused && cell.handed.load(Ordering::Relaxed) != 0 {
            let unused = cell.handed.swap(0, Ordering::AcqRel);
            self.word.fetch_sub(u64::from(unused), Ordering::AcqRel);
        }
    }

    /// `thread` is about to sleep, or has given back: credits that are free go to those who wait
    /// (V4). The answer is whom to wake, to run again; the thread itself may be among them. Only
    /// that thread may call this, as often as it likes, and after the last that it gave back.
    #[must_use = "they sleep"]
    pub fn settle(&self, thread: u16) -> Wakes {
        let i = usize::from(thread);
        let satisfied = !self.cells[i].waits.load(Ordering::Relaxed);
        self.hand_out(i + 1, satisfied.then_some(i))
    }

    /// Hands free credits to those who wait, in turn from `first` on (V4), and not to `satisfied`,
    /// whose bit is an old one.
    fn hand_out(&self, first: usize, satisfied: Option<usize>) -> Wakes {
        let mut wakes = Wakes::default();
        let word = self.word();
        if !(word.is_marked() && word.has_free()) {
            return wakes;
        }
        self.word.fetch_and(!Word::MARK, Ordering::AcqRel);
        let mut sets = [0; MAX_THREADS as usize / 64];
        for (set, word) in sets.iter_mut().zip(&self.waiting) {
            *set = word.swap(0, Ordering::AcqRel);
        }
        let n = self.cells.len();
        for i in (first.min(n)..n).chain(0..first.min(n)) {
            let waits = sets[i / 64] & 1 << (i % 64) != 0 && Some(i) != satisfied;
            if waits && self.hand_to(i) {
                wakes.add_word(i / 64, 1 << (i % 64));
            }
        }
        wakes
    }

    /// Hands a credit to thread `i`, or puts it back among those who wait.
    fn hand_to(&self, i: usize) -> bool {
        let mut word = self.word();
        let mut inserted = false;
        loop {
            let free = word.has_free();
            if !free && !inserted {
                self.waiting[i / 64].fetch_or(1 << (i % 64), Ordering::AcqRel);
                inserted = true;
                word = self.word();
                continue;
            }
            if !free && word.is_marked() {
                return false;
            }
            let to = if free { word.one_more_out() } else { word.marked() };
            match self.swap(word, to) {
                Ok(()) if free => {
                    self.cells[i].handed.fetch_add(1, Ordering::AcqRel);
                    return true;
                }
                Ok(()) => return false,
                Err(seen) => word = seen,
            }
        }
    }

    /// Changes the depth; 0 for no limit. A control-time operation; the answer is whom to wake.
    #[must_use = "they sleep"]
    pub fn set_depth(&self, depth: u32) -> Wakes {
        let mut word = self.word();
        while let Err(seen) = self.swap(word, word.with_depth(depth)) {
            word = seen;
        }
        let mut wakes = self.hand_out(0, None);
        if self.is_single() {
            wakes.add_word(0, 1); // V9: it has left no mark
        }
        wakes
    }

    /// The depth; 0 for no limit.
    #[must_use]
    #[inline]
    pub fn depth(&self) -> u32 {
        self.word().depth()
    }

    /// The part of the depth that `thread` may have for its disks: all of it while no other thread
    /// wants any (V5), at least 1; 0 for no limit.
    #[must_use]
    pub fn depth_of(&self, thread: u16) -> u32 {
        let depth = self.depth();
        let alone = depth == 0 || self.is_single() || !self.others_wait(thread);
        if alone { depth } else { self.share(depth).max(1) }
    }

    /// Credits that `thread` holds: its requests with the kernel.
    #[must_use]
    pub fn held(&self, thread: u16) -> u32 {
        self.cells[usize::from(thread)].held()
    }

    /// Credits that the threads hold. Exact while none of them takes or gives.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.cells.iter().map(Cell::held).sum()
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/credit.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "../tests/credit_loom.rs"]
mod loom_tests;
