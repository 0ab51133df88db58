//! Signals as something to read: no handler, no interrupted system call, no race.
#![allow(unsafe_code, reason = "signal sets and signalfd(2) have no safe interface in std")]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Length of `struct signalfd_siginfo` (signalfd(2)).
const SIGINFO_LEN: usize = 128;

/// SIGTERM, SIGINT and SIGHUP, taken away from the calling thread and from every thread that it starts
/// afterwards. They wait in a descriptor instead.
#[derive(Debug)]
pub struct Signals {
    fd: File,
}

impl Signals {
    /// Blocks these signals. To be called before any other thread is started: a thread that does
    /// not block them would be ended by them, and the process with it.
    ///
    /// # Errors
    /// What pthread_sigmask(3) or signalfd(2) answered.
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset writes a whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has just initialised it.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            // SAFETY: the set is initialised and ours alone.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set outlives the call; no old mask is asked for.
        let code =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
        // SAFETY: the set outlives the call; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just made it, and nobody else knows the number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Signals { fd: File::from(fd) })
    }

    /// The number of a signal that has arrived, if one has. Never blocks.
    ///
    /// # Errors
    /// What read(2) answered.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut info = [0; SIGINFO_LEN];
        match (&self.fd).read(&mut info) {
            // ssi_signo is the first field, a u32.
            Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Signals {
    /// Readable when a signal has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A front-end that goes away while we write to it is an error of that write, not our end.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no code of ours; the disposition is process-wide and never changed back.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

#[cfg(test)]
impl Signals {
    /// Signals that a test sends itself: each 128 bytes written, the number first, is one.
    pub(crate) fn pretend() -> (Signals, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("open");
        (Signals { fd: File::from(OwnedFd::from(ours)) }, theirs)
    }

    /// The bytes that read as `signal`.
    pub(crate) fn siginfo(signal: i32) -> [u8; SIGINFO_LEN] {
        let mut info = [0; SIGINFO_LEN];
        info[..4].copy_from_slice(&signal.to_ne_bytes());
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a signal to the calling thread only: the test runner's other threads do not block it.
    fn raise_here(signal: i32) {
        // SAFETY: pthread_self is this very thread.
        let me = unsafe { libc::pthread_self() };
        // SAFETY: the thread lives and blocks the signal.
        let code = unsafe { libc::pthread_kill(me, signal) };
        assert_eq!(code, 0);
    }

    #[test]
    fn a_signal_waits_in_the_descriptor() {
        let signals = Signals::block().expect("a signalfd");
        assert_eq!(signals.take().expect("readable"), None);
        raise_here(libc::SIGTERM);
        assert_eq!(signals.take().expect("readable"), Some(libc::SIGTERM));
        raise_here(libc::SIGINT);
        assert_eq!(signals.take().expect("readable"), Some(libc::SIGINT));
        raise_here(libc::SIGHUP);
        assert_eq!(signals.take().expect("readable"), Some(libc::SIGHUP));
        assert_eq!(signals.take().expect("readable"), None);
    }

    #[test]
    fn threads_started_later_inherit_the_block() {
        let _signals = Signals::block().expect("a signalfd");
        let started = std::thread::spawn(|| {
            raise_here(libc::SIGTERM);
            // Alive: the signal is pending here and ends with the thread.
            Signals::block().expect("a signalfd").take().expect("readable")
        });
        assert_eq!(started.join().expect("it lives"), Some(libc::SIGTERM));
    }

    #[test]
    fn a_closed_pipe_is_an_error_of_the_write() {
        use std::io::Write;
        use std::os::unix::net::UnixStream;
        ignore_sigpipe();
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        let error = ours.write(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
