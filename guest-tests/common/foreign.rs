//! The few calls that have no safe form. The only file of the guest tests with `unsafe`.
#![allow(unsafe_code, reason = "signals, poll(2) and two crates' raw interfaces live here")]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::Duration;

use blkio::{Blkioq, Completion, Errno};

/// Sends `signal` to a process. Only for children of this test, which are not yet waited for, so
/// that the number cannot have been given to somebody else.
pub(crate) fn kill(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("process numbers are positive");
    // SAFETY: kill(2) touches no memory of ours.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
}

/// Waits until `fd` is readable. `false`: it did not become so in time.
pub(crate) fn readable(fd: RawFd, timeout: Duration) -> bool {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(timeout.as_millis()).expect("test timeouts are short");
    // SAFETY: `entry` is one pollfd, alive for the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, millis) };
    assert!(ready >= 0, "poll: {}", std::io::Error::last_os_error());
    ready > 0
}

/// Status flags (F_GETFL) of the file description behind `fd`.
pub(crate) fn file_status_flags(fd: RawFd) -> i32 {
    // SAFETY: F_GETFL takes no pointer.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    assert!(flags >= 0, "F_GETFL: {}", std::io::Error::last_os_error());
    flags
}

/// Sets or clears status flags of the file description behind `fd`.
pub(crate) fn set_file_status_flags(fd: RawFd, flags: i32) {
    // SAFETY: F_SETFL takes an integer.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
    assert_eq!(result, 0, "F_SETFL: {}", std::io::Error::last_os_error());
}

/// Collects at least one completion of a libblkio queue: pairs of user data and result (0 or a
/// negative errno). An error means that none came in time.
pub(crate) fn reap(queue: &mut Blkioq, timeout: Duration) -> Result<Vec<(usize, i32)>, Errno> {
    let mut room: [MaybeUninit<Completion>; 64] = [const { MaybeUninit::uninit() }; 64];
    let mut done = Vec::new();
    reap_each(queue, &mut room, Some(timeout), |tag, result| done.push((tag, result)))?;
    Ok(done)
}

/// As [`reap`], into room that is used again, as many as there are and fit. With a limit libblkio
/// reads the clock twice a call; without one it may wait for ever.
pub(crate) fn reap_each(
    queue: &mut Blkioq,
    room: &mut [MaybeUninit<Completion>],
    mut timeout: Option<Duration>,
    mut each: impl FnMut(usize, i32),
) -> Result<usize, Errno> {
    let count = queue.do_io(room, 1, timeout.as_mut(), None).map_err(|error| error.errno())?;
    for slot in room.iter().take(count) {
        // SAFETY: do_io has filled the first `count` entries.
        let completion = unsafe { slot.assume_init_ref() };
        each(completion.user_data, completion.ret);
    }
    Ok(count)
}

/// Submits what is queued and collects the completions that are there, without waiting.
pub(crate) fn look(queue: &mut Blkioq) -> Result<Vec<(usize, i32)>, Errno> {
    let mut room: [MaybeUninit<Completion>; 64] = [const { MaybeUninit::uninit() }; 64];
    let count = queue.do_io(&mut room, 0, None, None).map_err(|error| error.errno())?;
    // SAFETY: do_io has filled the first `count` entries.
    let ended = room.iter().take(count).map(|slot| unsafe { slot.assume_init_ref() });
    Ok(ended.map(|completion| (completion.user_data, completion.ret)).collect())
}

/// Takes queue memory out of the transport that owns it, as virtio-driver's own devices do.
///
/// The caller keeps the transport alive longer than the queue (field order), and the transport
/// never touches or moves this memory.
pub(crate) fn detach<'a>(memory: &mut [u8]) -> &'a mut [u8] {
    // SAFETY: pointer and length come from a slice; lifetime and aliasing as stated above.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr(), memory.len()) }
}
