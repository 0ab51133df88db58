//! Where a thread runs.
#![allow(unsafe_code, reason = "CPU sets have no wrapper in std")]

use std::io;
use std::mem::MaybeUninit;

/// The largest CPU number that can be named, exclusive (CPU_SETSIZE of glibc).
pub const MAX_CPUS: usize = 1024;

/// Lets the calling thread run on these CPUs only.
///
/// # Errors
/// `InvalidInput` for an empty list or a number of [`MAX_CPUS`] or more; otherwise what
/// sched_setaffinity answered (EINVAL when none of the CPUs exists or is allowed).
pub fn pin_current_thread(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() || cpus.iter().any(|c| *c >= MAX_CPUS) {
        let why = format!("CPU numbers must lie in 0..{MAX_CPUS}, and at least one is needed");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut set = empty_set();
    for &cpu in cpus {
        // SAFETY: the set is initialised and the number is below CPU_SETSIZE (checked above).
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set is ours and of the size given; 0 means the calling thread.
    let rc = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs that the calling thread may run on, in ascending order.
///
/// # Errors
/// What sched_getaffinity answered.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = empty_set();
    // SAFETY: the set is ours and of the size given; the kernel fills it.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the set is initialised and every number is below CPU_SETSIZE.
    Ok((0..MAX_CPUS).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: a CPU set is an array of integers, for which all bits zero is the empty set.
    unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_only_there() {
        std::thread::spawn(|| {
            let all = allowed_cpus().expect("the kernel tells");
            let last = *all.last().expect("at least one CPU");
            pin_current_thread(&[last]).expect("an allowed CPU");
            assert_eq!(allowed_cpus().expect("the kernel tells"), [last]);
        })
        .join()
        .expect("the thread's assertions hold");
    }

    #[test]
    fn impossible_sets_are_refused() {
        for bad in [&[][..], &[MAX_CPUS], &[0, usize::MAX]] {
            let e = pin_current_thread(bad).expect_err("refused");
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
        }
        // No machine of ours has this CPU.
        let e = pin_current_thread(&[MAX_CPUS - 1]).expect_err("no such CPU");
        assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
    }
}
