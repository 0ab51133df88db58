//! A connected socket, without waiting on it for longer than one wants to.
#![allow(unsafe_code, reason = "std can neither poll a socket nor send without waiting")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Whether something can be read (the end of the stream included) before so much time has passed, in
/// whole milliseconds, rounded up.
///
/// # Errors
/// What poll(2) answered.
pub fn is_readable_within(socket: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    loop {
        // SAFETY: one pollfd of ours.
        match unsafe { libc::poll(&raw mut poll, 1, millis) } {
            0 => return Ok(false),
            1 => return Ok(true),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Sends what there is room for, now; whatever the socket's own mode. Nobody at the other end is an
/// error, never a signal.
///
/// # Errors
/// What send(2) answered: `WouldBlock` when there is no room.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads at most `bytes.len()` bytes of `bytes`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_silent_socket_is_waited_for_and_no_longer() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let begin = Instant::now();
        let time = Duration::from_millis(20);
        assert!(!is_readable_within(ours.as_fd(), time).expect("asked"));
        assert!(begin.elapsed() >= time);
        assert_eq!(send_now(theirs.as_fd(), b"x").expect("room"), 1);
        let long = Duration::from_secs(20);
        assert!(is_readable_within(ours.as_fd(), long).expect("asked"), "a byte");
        assert_eq!((&ours).read(&mut [0]).expect("there"), 1);
        drop(theirs);
        assert!(is_readable_within(ours.as_fd(), long).expect("asked"), "the end");
        assert!(begin.elapsed() < long);
    }

    #[test]
    fn a_full_socket_and_a_closed_one_are_errors_at_once() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let page = [0; 4096];
        let full = loop {
            match send_now(ours.as_fd(), &page) {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        drop(theirs);
        let gone = send_now(ours.as_fd(), &page).expect_err("nobody reads");
        assert_eq!(gone.kind(), ErrorKind::BrokenPipe);
    }
}
