//! The one place that reads a clock.
#![allow(unsafe_code, reason = "clock_gettime has no wrapper that gives nanoseconds since boot")]

use crate::block::Nanos;

/// Now, on CLOCK_MONOTONIC. No system call: the kernel maps the clock into the process.
#[must_use]
pub fn now() -> Nanos {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours; CLOCK_MONOTONIC always exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    Nanos(ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn runs_with_the_standard_clock() {
        let (ours, theirs) = (now(), Instant::now());
        while theirs.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let passed = now().since(ours);
        assert!(passed >= 2_000_000, "{passed} ns");
        assert!(Duration::from_nanos(passed) <= theirs.elapsed() + Duration::from_millis(1));
    }
}
