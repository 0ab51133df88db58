//! How a ring comes into being: which features, which depth, what when the kernel refuses.
//!
//! * U1 **Features.** The best set of setup flags that this kernel takes is found with tiny rings,
//!   so that a refused flag (EINVAL) cannot be mistaken for a refused depth.
//! * U2 **Halving.** A depth that is refused for want of memory (ENOMEM) or as too large (EINVAL)
//!   is halved and tried again down to [`MIN_DEPTH`]; below, the refusal is the answer.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::fence;

/// The smallest depth worth having: the reserve and one data operation fit several times.
pub const MIN_DEPTH: u32 = 8;

/// The largest depth that is asked for (IORING_MAX_ENTRIES of Linux).
pub const MAX_DEPTH: u32 = 32768;

/// How many completions fit per submission entry, so that multishot polls and bursts rarely
/// overflow the completion queue.
const CQ_FACTOR: u32 = 4;

/// A set of setup flags, from the best to the plainest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Linux 6.6: task work runs only when we ask, and there is no index array to go through.
    DeferNoArray,
    /// Linux 6.1: task work runs only when we ask.
    Defer,
    /// Linux 5.19: task work does not interrupt us.
    Coop,
    /// Anything older.
    Plain,
}

impl Flavour {
    const BEST_FIRST: [Flavour; 4] =
        [Flavour::DeferNoArray, Flavour::Defer, Flavour::Coop, Flavour::Plain];

    fn build(self, depth: u32) -> io::Result<IoUring> {
        let mut b = IoUring::builder();
        // A child must not inherit the mapping; the kernel clamps rather than refuses the CQ size.
        b.dontfork().setup_clamp().setup_cqsize(depth.saturating_mul(CQ_FACTOR));
        if self != Flavour::Plain {
            b.setup_submit_all().setup_taskrun_flag();
        }
        match self {
            Flavour::DeferNoArray => {
                b.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray();
            }
            Flavour::Defer => {
                b.setup_single_issuer().setup_defer_taskrun();
            }
            Flavour::Coop => {
                b.setup_coop_taskrun();
            }
            Flavour::Plain => {}
        }
        if fence::wanted() {
            b.setup_r_disabled();
        }
        b.build(depth)
    }
}

/// Tries `attempt` with `requested`, then half of it and so on (rule U2). Returns the first
/// success and its depth.
///
/// # Errors
/// The last refusal: one that is not about the depth, or the one at the smallest depth.
pub fn with_halving<T>(
    requested: u32,
    mut attempt: impl FnMut(u32) -> io::Result<T>,
) -> io::Result<(T, u32)> {
    let mut depth = requested;
    loop {
        match attempt(depth) {
            Ok(made) => return Ok((made, depth)),
            Err(e) if is_about_depth(&e) && depth / 2 >= MIN_DEPTH => depth /= 2,
            Err(e) => return Err(e),
        }
    }
}

fn is_about_depth(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EINVAL))
}

/// The best flavour of `candidates` that `works` accepts (rule U1): EINVAL means "try the next".
fn best_flavour(
    candidates: &[Flavour],
    mut works: impl FnMut(Flavour) -> io::Result<()>,
) -> io::Result<Flavour> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for &flavour in candidates {
        match works(flavour) {
            Ok(()) => return Ok(flavour),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refusal = e,
            Err(e) => return Err(e),
        }
    }
    Err(refusal)
}

/// A ring of at most `entries` submission entries with the best features of this kernel.
pub(super) fn build(entries: u32) -> io::Result<IoUring> {
    let flavour = best_flavour(&Flavour::BEST_FIRST, |f| f.build(MIN_DEPTH).map(drop))
        .map_err(|e| explain(&e))?;
    let requested = entries.clamp(MIN_DEPTH, MAX_DEPTH).next_power_of_two();
    let (ring, depth) =
        with_halving(requested, |depth| flavour.build(depth)).map_err(|e| explain(&e))?;
    if depth < requested {
        log::warn!("io_uring: depth reduced from {requested} to {depth} for want of memory");
    }
    let p = ring.params();
    if !(p.is_feature_nodrop() && p.is_feature_ext_arg() && p.is_feature_submit_stable()) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's io_uring is too old: Linux 5.13 or later is needed",
        ));
    }
    if fence::wanted() {
        fence::close(&ring).map_err(|e| explain(&e))?;
    }
    Ok(ring)
}

fn explain(e: &io::Error) -> io::Error {
    let remedy = match e.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a seccomp filter hides it",
        Some(libc::EPERM) => {
            "io_uring is forbidden here: see the sysctl kernel.io_uring_disabled, \
             or the container's seccomp profile"
        }
        Some(libc::ENOMEM) => "not enough locked memory: raise RLIMIT_MEMLOCK",
        Some(libc::EMFILE | libc::ENFILE) => "too many open files: raise RLIMIT_NOFILE",
        _ => "the ring could not be set up",
    };
    io::Error::new(e.kind(), format!("io_uring: {e}: {remedy}"))
}

/// Which operations the kernel knows, of those that not every kernel knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The one that carries block-device discards (it still has to be tried: Linux before 6.12 knows
    /// the operation but not the command).
    pub(super) uring_cmd: bool,
    /// Vectors into registered memory (Linux 6.15).
    pub(super) vectored_fixed: bool,
}

impl Known {
    /// Asks the kernel; one that cannot be asked knows none.
    pub(super) fn of(ring: &IoUring) -> Known {
        let mut probe = Probe::new();
        if ring.submitter().register_probe(&mut probe).is_err() {
            return Known::default();
        }
        Known {
            uring_cmd: probe.is_supported(opcode::UringCmd16::CODE),
            vectored_fixed: probe.is_supported(opcode::ReadvFixed::CODE)
                && probe.is_supported(opcode::WritevFixed::CODE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn errno(e: i32) -> io::Error {
        io::Error::from_raw_os_error(e)
    }

    proptest! {
        /// I29: n injected failures give depth >> n, or a clean error.
        #[test]
        fn i29_n_failures_halve_the_depth_n_times(
            log in 3u32..=15, failures in 0u32..20, no_memory: bool,
        ) {
            let requested = 1 << log;
            let why = if no_memory { libc::ENOMEM } else { libc::EINVAL };
            let mut left = failures;
            let mut tried = Vec::new();
            let got = with_halving(requested, |depth| {
                tried.push(depth);
                if left == 0 {
                    return Ok(depth);
                }
                left -= 1;
                Err(errno(why))
            });
            for pair in tried.windows(2) {
                prop_assert_eq!(pair[0] / 2, pair[1]);
            }
            match got {
                Ok((made, depth)) => {
                    prop_assert_eq!(made, depth);
                    prop_assert_eq!(depth, requested >> failures);
                }
                Err(e) => {
                    prop_assert_eq!(e.raw_os_error(), Some(why));
                    prop_assert!(failures > log - 3);
                    prop_assert_eq!(tried.last(), Some(&MIN_DEPTH));
                }
            }
        }
    }

    #[test]
    fn other_refusals_are_not_retried() {
        let mut calls = 0;
        let got: io::Result<((), u32)> = with_halving(256, |_| {
            calls += 1;
            Err(errno(libc::EPERM))
        });
        assert_eq!(got.expect_err("refused").raw_os_error(), Some(libc::EPERM));
        assert_eq!(calls, 1);
    }

    #[test]
    fn an_old_kernel_gets_the_flavour_it_knows() {
        for (i, &oldest) in Flavour::BEST_FIRST.iter().enumerate() {
            let known = &Flavour::BEST_FIRST[i..];
            let got = best_flavour(&Flavour::BEST_FIRST, |f| {
                if known.contains(&f) { Ok(()) } else { Err(errno(libc::EINVAL)) }
            });
            assert_eq!(got.expect("one is known"), oldest);
        }
        let none = best_flavour(&Flavour::BEST_FIRST, |_| Err(errno(libc::EINVAL)));
        assert_eq!(none.expect_err("none").raw_os_error(), Some(libc::EINVAL));
        let hidden = best_flavour(&Flavour::BEST_FIRST, |_| Err(errno(libc::ENOSYS)));
        assert_eq!(hidden.expect_err("hidden").raw_os_error(), Some(libc::ENOSYS));
    }

    #[test]
    fn every_flavour_that_builds_serves_a_nop() {
        let mut built = 0;
        for flavour in Flavour::BEST_FIRST {
            let Ok(mut ring) = flavour.build(MIN_DEPTH) else { continue };
            built += 1;
            let entry = opcode::Nop::new().build().user_data(7);
            #[allow(unsafe_code, reason = "a no-op refers to nothing")]
            // SAFETY: a no-op names no memory and no file.
            unsafe {
                ring.submission().push(&entry).expect("room");
            }
            ring.submit_and_wait(1).expect("a no-op completes");
            assert_eq!(ring.completion().next().map(|c| c.user_data()), Some(7));
        }
        assert!(built >= 1, "no flavour at all on this kernel");
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (e, word) in [
            (libc::ENOSYS, "seccomp"),
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EMFILE, "RLIMIT_NOFILE"),
        ] {
            let text = explain(&errno(e)).to_string();
            assert!(text.contains(word), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
