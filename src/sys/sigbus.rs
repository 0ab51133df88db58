//! Memory that somebody else makes shorter must not end the process.
//!
//! Guest memory and the in-flight region are files of the front-end, mapped here. Who touches a page
//! of a mapping that is beyond the end of its file gets SIGBUS. That a file is long enough is checked
//! when it is mapped, but a front-end can cut it off at any time afterwards, unless it has sealed it as
//! QEMU does.
//!
//! Rules:
//! * **B1** Every mapping of a front-end's file stands in a table from before its first touch until
//!   after its last.
//! * **B2** A missing page of such a mapping is replaced by a page of zeroes, which is ours alone, and
//!   the access goes on. That is counted: what is behind the mapping is not the guest's memory any
//!   more, so whoever serves from it has to stop ([`Guard::is_lost`]).
//! * **B3** Any other SIGBUS (an address of nobody's, memory that the hardware lost) ends the process
//!   as it would have without us.
//! * **B4** The handler reads atomics and calls mmap and sigaction; nothing there locks or allocates.
//!   Entries of the table are never freed, only used again.
#![allow(unsafe_code, reason = "a signal handler, and the mapping that it makes")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// One mapping of the table.
#[derive(Debug)]
struct Entry {
    /// The next one; fixed once the entry is in the table.
    next: *const Entry,
    taken: AtomicBool,
    /// Address of the mapping; 0 while the rest changes.
    start: AtomicUsize,
    len: AtomicUsize,
    /// Page size of the file.
    page: AtomicUsize,
    /// Pages replaced.
    lost: AtomicU32,
}

// SAFETY: `next` is written before the entry is published and never again, and it points at an entry
// that is never freed (B4); all else is atomic.
unsafe impl Sync for Entry {}

/// The entries, the newest first.
static TABLE: AtomicPtr<Entry> = AtomicPtr::new(null_mut());

/// Pages replaced in the whole process.
static LOST: AtomicU32 = AtomicU32::new(0);

/// What SIGBUS did before, for whatever is not ours (B3).
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn entries() -> impl Iterator<Item = &'static Entry> {
    let mut next: *const Entry = TABLE.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: null, or an entry that was published by a release store and is never freed (B4).
        let entry: &'static Entry = unsafe { next.as_ref() }?;
        next = entry.next;
        Some(entry)
    })
}

/// Keeps a mapping in the table (B1). To be dropped before the mapping goes.
#[derive(Debug)]
pub struct Guard(&'static Entry);

impl Guard {
    /// Enters `len` bytes at `start`, a mapping of a file whose pages have `page` bytes.
    #[must_use]
    pub fn new(start: usize, len: usize, page: usize) -> Guard {
        let free = |entry: &&Entry| !entry.taken.swap(true, Ordering::AcqRel);
        let entry = entries().find(free).unwrap_or_else(add);
        entry.len.store(len, Ordering::Relaxed);
        entry.page.store(page, Ordering::Relaxed);
        entry.lost.store(0, Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        Guard(entry)
    }

    /// Whether pages of the mapping went missing and were replaced (B2).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire) != 0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// A new entry, taken.
fn add() -> &'static Entry {
    let entry: &'static mut Entry = Box::leak(Box::new(Entry {
        next: null(),
        taken: AtomicBool::new(true),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        lost: AtomicU32::new(0),
    }));
    let mut head = TABLE.load(Ordering::Acquire);
    loop {
        entry.next = head;
        let this: *mut Entry = entry;
        match TABLE.compare_exchange_weak(head, this, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return entry,
            Err(other) => head = other,
        }
    }
}

/// How many pages were replaced in the process so far: when it changes, somebody has lost memory.
#[must_use]
#[inline]
pub fn lost() -> u32 {
    LOST.load(Ordering::Acquire)
}

/// Begins to answer SIGBUS (B2, B3), once in the life of the process.
///
/// # Errors
/// What sigaction answered.
pub fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: an all-zero sigaction is a valid value: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as *const () as usize;
    // On the thread's alternate stack, if it has one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: both structures are valid; the handler only does what a handler may (B4).
    let rc = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // Who came second replaces our handler by itself: what was before the first one counts.
    let _ = BEFORE.set(before);
    Ok(())
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: that of a SIGBUS has an address.
    let (code, addr) = (info.si_code, unsafe { info.si_addr() }.addr());
    // SAFETY: errno of this thread; whoever was interrupted must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    if code != BUS_ADRERR || !replace(addr) {
        // The access happens again, and then ends as it would have without us (B3).
        let before = BEFORE.get().map_or(null(), std::ptr::from_ref);
        // SAFETY: null or what sigaction itself gave us; null changes nothing.
        let restored = unsafe { libc::sigaction(signal, before, null_mut()) };
        if before.is_null() || restored != 0 {
            // SAFETY: ends the process, which could only fault again and again.
            unsafe { libc::abort() };
        }
    }
    // SAFETY: as above.
    unsafe { *errno = kept };
}

/// "Nonexistent physical address" (`bits/siginfo-consts.h`): nothing is behind the page.
const BUS_ADRERR: libc::c_int = 2;

/// Puts a page of zeroes where `addr` is, if that is in a mapping of the table.
fn replace(addr: usize) -> bool {
    for entry in entries() {
        let start = entry.start.load(Ordering::Acquire);
        let (len, page) = (entry.len.load(Ordering::Relaxed), entry.page.load(Ordering::Relaxed));
        let inside = start != 0 && addr.wrapping_sub(start) < len && page.is_power_of_two();
        // A mapping that is being used does not go away (L3); an entry that changes is another's.
        if !inside || entry.start.load(Ordering::Acquire) != start {
            continue;
        }
        let at = std::ptr::with_exposed_provenance_mut(addr & !(page - 1));
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: replaces one whole page of a mapping that the table's entry keeps alive (B1); all
        // use of it is by raw pointers and expects any content (S2).
        let got = unsafe { libc::mmap(at, page, prot, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            return false;
        }
        entry.lost.fetch_add(1, Ordering::AcqRel);
        LOST.fetch_add(1, Ordering::AcqRel);
        return true;
    }
    false
}

#[cfg(test)]
#[path = "sigbus/tests.rs"]
mod tests;
