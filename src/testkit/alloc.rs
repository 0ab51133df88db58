//! The allocator of test builds: the system's, with a count per thread.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; test builds only")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // No destructor and a constant start value, so access neither allocates nor fails early.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that is being torn down has no counter any more; nobody measures there.
    let _ = COUNT.try_with(|c| c.set(c.get() + 1));
}

// SAFETY: every call is passed on to `System` unchanged, which keeps the contract of the trait;
// counting touches only a thread-local integer and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `ptr` came from `System`, since all of this allocator's memory does.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// How many times the calling thread allocated (or grew an allocation) while `work` ran.
pub(crate) fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

#[test]
fn an_allocation_is_seen() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7u64)))), 1);
    let mut v: Vec<u8> = Vec::with_capacity(16);
    assert_eq!(allocations(|| v.extend_from_slice(&[0; 16])), 0);
    assert!(allocations(|| v.extend_from_slice(&[0; 64])) >= 1);
}
