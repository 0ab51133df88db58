//! A stretch of zeroes to write from: read-only, shared by all, costing no memory.
#![allow(unsafe_code, reason = "an anonymous mapping of our own")]

use std::io;
use std::ptr;
use std::sync::OnceLock;

/// How many zeroes there are, in bytes: the largest single write of zeroes.
pub const MAX: u32 = 1 << 20;

/// Address of the mapping, which is never unmapped. `usize` so that it may be shared.
static ZEROES: OnceLock<usize> = OnceLock::new();

/// Makes the zeroes exist, so that later use cannot fail.
///
/// # Errors
/// What mmap answered.
pub fn prepare() -> io::Result<()> {
    if ZEROES.get().is_some() {
        return Ok(());
    }
    // Private and never written: every page is the kernel's one page of zeroes. Read-only, so
    // that a mistake stops the process instead of turning promised zeroes into something else.
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let addr = unsafe {
        libc::mmap(
            ptr::null_mut(),
            MAX as usize,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Of two threads here at once the loser's mapping stays unused.
    let _ = ZEROES.set(addr as usize);
    Ok(())
}

/// Address and length of at most `len` zeroes, page-aligned. Length 0 before [`prepare`].
#[must_use]
pub(super) fn take(len: u64) -> (*const u8, u32) {
    match ZEROES.get() {
        Some(addr) => (*addr as *const u8, u32::try_from(len).unwrap_or(MAX).min(MAX)),
        None => (ptr::null(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_zero_aligned_and_bounded() {
        prepare().expect("an anonymous mapping");
        prepare().expect("twice is fine");
        let (addr, len) = take(u64::MAX);
        assert_eq!(len, MAX);
        assert_eq!(addr as usize % 4096, 0);
        assert_eq!(take(512), (addr, 512));
        // SAFETY: MAX readable bytes, mapped for ever.
        let all = unsafe { std::slice::from_raw_parts(addr, len as usize) };
        assert!(all.iter().all(|b| *b == 0));
    }
}
