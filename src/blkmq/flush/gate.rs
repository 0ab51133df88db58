//! What the threads that serve one image share about flushes: atomics, nothing else.
//!
//! The problem: a guest's flush, accepted on any thread, promises that every write which completed
//! before it, on any thread, is durable (L11). One sync covers them all, so concurrent flushes
//! should share one; but never one that began too early.
//!
//! Rules:
//! * **G1** Each thread counts the writes (and discards, and zeroes) that it completed, in a cell
//!   that only it stores to, *before* the guest can see the completion. `sum` is 1 plus all cells.
//! * **G2** A flush reads `need = sum` when it arrives. A sync reads `start = sum` before it is
//!   issued. A successful sync covers exactly the flushes with `need <= start`.
//! * **G3** At most one sync is in flight per image: whoever sets `held` may issue one (I24).
//! * **G4** `synced` is the greatest `start` of a successful sync. It begins at 0 and `sum` at 1,
//!   so the first flush always syncs: a predecessor may have died with written data unsynced.
//! * **G5** A flush with `need <= synced` is answered without a sync, but only when nobody else can
//!   write the image (`exclusive`). Otherwise each arriving flush counts as a write, so that only a
//!   sync which began after its arrival covers it.
//! * **G6** A failed sync latches (L9): from then on every flush fails, until the image is
//!   reopened with a new gate. The kernel reports lost data once; a later good sync proves nothing.
//! * **G7** Who finds the gate held puts itself into `waiting` and then tries once more; who lets
//!   go of the gate clears `held` first and then collects `waiting`.
//!
//! *Coverage (G2) holds although `sum` is no snapshot.* Let the sync have read `a[i]` and the
//! flush `b[i]`, with `sum a >= sum b`. Either `a[i] >= b[i]` for all i: then each write counted
//! at the flush's arrival was counted, hence had completed, before the sync was issued (the cells
//! are stored with release and loaded with acquire). Or `a[i] > b[i]` for some i: then the sync's
//! read of cell i came after the flush's, and the sync was issued after the flush had arrived. The
//! fences make this formal: the flush has a SeqCst fence before its reads and the sync one after
//! its reads; were the sync's fence the earlier one, the flush's read of i could not be the older.
//! The guest itself carries the order from a completion on one thread to a flush on another
//! (used ring, its own barriers, available ring).
//!
//! *No wake-up is lost (G7).* All changes of a word of `waiting` are atomic read-modify-writes, so
//! they have one order. If the waiter's insertion comes before the holder's swap, the swap returns
//! the waiter. If it comes after, it acquires what the swap released, which is that `held` was
//! cleared before; so the waiter's second try takes the gate, or finds another holder, whose swap
//! comes later still.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};

use crate::block::Errno;

/// The greatest number of threads that may share one gate.
pub const MAX_THREADS: u16 = 256;
const WORDS: usize = MAX_THREADS as usize / 64;

/// How flushes of an image work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Nobody else can write the image (G5).
    pub exclusive: bool,
    /// Flushes have nothing to do and are answered at once.
    pub noop: bool,
}

/// A set of thread indexes whose waiting flushes have to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes([u64; WORDS]);

impl Wakes {
    /// Whether nobody has to be woken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Wakes::default()
    }

    pub(in crate::blkmq) fn add(&mut self, other: Wakes) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine |= more;
        }
    }

    /// Adds the threads `64 * word` and up, one for each bit.
    pub(in crate::blkmq) fn add_word(&mut self, word: usize, bits: u64) {
        self.0[word] |= bits;
    }
}

impl Iterator for Wakes {
    type Item = u16;

    /// Takes the smallest index out of the set.
    fn next(&mut self) -> Option<u16> {
        let (i, word) = self.0.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        u16::try_from(i * 64 + bit as usize).ok()
    }
}

/// The verdict on a flush that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::blkmq) enum Arrival {
    /// Nothing newer than the last good sync, or flushes are no-ops.
    Covered,
    /// The latch is set (G6).
    Failed,
    /// A sync has to cover this count of writes.
    Wait(u64),
}

/// One thread's count, on cache lines of its own (two: processors prefetch pairs).
#[repr(align(128))]
#[derive(Debug)]
struct Cell(AtomicU64);

/// The gate of one image.
#[derive(Debug)]
pub struct FlushGate {
    policy: FlushPolicy,
    cells: Box<[Cell]>,
    held: AtomicBool,
    synced: AtomicU64,
    failed: AtomicI32,
    /// As many words as the threads need.
    waiting: Box<[AtomicU64]>,
}

impl FlushGate {
    /// A gate for `threads` threads, numbered from 0.
    ///
    /// # Panics
    /// When there are more than [`MAX_THREADS`].
    #[must_use]
    pub fn new(threads: u16, policy: FlushPolicy) -> FlushGate {
        assert!(threads <= MAX_THREADS, "a gate serves at most {MAX_THREADS} threads");
        FlushGate {
            policy,
            cells: (0..threads).map(|_| Cell(AtomicU64::new(0))).collect(),
            held: AtomicBool::new(false),
            synced: AtomicU64::new(0),
            failed: AtomicI32::new(0),
            waiting: (0..threads.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Makes every flush fail from now on (G6): for a control thread whose own sync failed.
    /// Flushes that wait are answered when the sync in flight ends.
    pub fn latch(&self, errno: Errno) {
        // The first error stays. 0 means "none" here, so an errno of 0 is made visible as EIO.
        let code = if errno.0 > 0 { errno.0 } else { libc::EIO };
        let _ = self.failed.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The error that latched, if one did.
    #[must_use]
    pub fn failed(&self) -> Option<Errno> {
        match self.failed.load(Ordering::Acquire) {
            0 => None,
            code => Some(Errno(code)),
        }
    }

    /// Whether a write was completed that no successful sync covers: what a control thread asks
    /// before it decides on a last sync. With a shared image, or before the first sync, yes.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.policy.noop
            && (!self.policy.exclusive || self.sum() > self.synced.load(Ordering::Acquire))
    }

    /// Counts a completed write of `thread` (G1). Only that thread may call this.
    pub(in crate::blkmq) fn wrote(&self, thread: u16) {
        let cell = &self.cells[usize::from(thread)].0;
        // Only this thread stores to the cell, so load and store need not be one operation.
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    fn sum(&self) -> u64 {
        1 + self.cells.iter().map(|cell| cell.0.load(Ordering::Acquire)).sum::<u64>()
    }

    /// A flush arrives on `thread` (G2, G5, G6). Only that thread may call this.
    pub(in crate::blkmq) fn arrive(&self, thread: u16) -> Arrival {
        if self.policy.noop {
            return Arrival::Covered;
        }
        if self.failed().is_some() {
            return Arrival::Failed;
        }
        if !self.policy.exclusive {
            self.wrote(thread);
        }
        fence(Ordering::SeqCst); // pairs with the one in `start` (coverage)
        let need = self.sum();
        if self.covers(need) { Arrival::Covered } else { Arrival::Wait(need) }
    }

    /// Whether a successful sync covers a flush that needs `need` (G2).
    pub(in crate::blkmq) fn covers(&self, need: u64) -> bool {
        need <= self.synced.load(Ordering::Acquire)
    }

    /// Takes the gate, or makes sure that `thread` is in the wakes of whoever holds it (G3, G7).
    pub(in crate::blkmq) fn take(&self, thread: u16) -> bool {
        if self.try_take() {
            return true;
        }
        let bit = 1 << (thread % 64);
        self.waiting[usize::from(thread / 64)].fetch_or(bit, Ordering::AcqRel);
        // The bit stays even when the second try succeeds: another domain of the same thread may
        // rely on it. At worst a thread is woken for nothing.
        self.try_take()
    }

    fn try_take(&self) -> bool {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// What a sync that is issued right after this call covers (G2). For the holder.
    pub(in crate::blkmq) fn start(&self) -> u64 {
        let start = self.sum();
        fence(Ordering::SeqCst); // pairs with the one in `arrive` (coverage)
        start
    }

    /// The holder's sync ended: publishes the result, lets go of the gate, and says whom to wake.
    pub(in crate::blkmq) fn finish(&self, start: u64, result: Result<(), Errno>) -> Wakes {
        match result {
            Ok(()) => {
                self.synced.fetch_max(start, Ordering::AcqRel);
            }
            Err(errno) => self.latch(errno),
        }
        self.release()
    }

    /// Lets go of the gate without a sync (G7). For the holder.
    pub(in crate::blkmq) fn release(&self) -> Wakes {
        self.held.store(false, Ordering::Release);
        // A plain load first would be cheaper and wrong: only the swap orders `held` before a
        // later insertion (see the head of the file).
        let mut wakes = Wakes::default();
        for (to, word) in wakes.0.iter_mut().zip(&self.waiting) {
            *to = word.swap(0, Ordering::AcqRel);
        }
        wakes
    }
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/gate.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "../tests/gate_loom.rs"]
mod loom_tests;
