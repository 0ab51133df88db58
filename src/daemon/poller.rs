//! What the control loop waits for.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use epoll::{ControlOptions, Event, Events};

/// Something that became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// SIGTERM or SIGINT.
    Signal,
    /// A front-end knocks at the port of this number.
    Listener(u32),
    /// The session thread of the port of this number is about to end.
    Session(u32),
}

impl Source {
    /// The word that epoll keeps for us.
    fn word(self) -> u64 {
        match self {
            Source::Signal => 1 << 32,
            Source::Listener(n) => 2 << 32 | u64::from(n),
            Source::Session(n) => 3 << 32 | u64::from(n),
        }
    }

    fn of(word: u64) -> Source {
        let port = u32::try_from(word & 0xffff_ffff).expect("32 bits");
        match word >> 32 {
            1 => Source::Signal,
            2 => Source::Listener(port),
            3 => Source::Session(port),
            other => unreachable!("nobody added {other}"),
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Poller {
    fd: RawFd,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller { fd: epoll::create(true)? })
    }

    pub(super) fn add(&self, source: Source, fd: &impl AsFd) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN, source.word());
        epoll::ctl(self.fd, ControlOptions::EPOLL_CTL_ADD, fd.as_fd().as_raw_fd(), event)
    }

    pub(super) fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        let event = Event::new(Events::empty(), 0);
        epoll::ctl(self.fd, ControlOptions::EPOLL_CTL_DEL, fd.as_fd().as_raw_fd(), event)
    }

    /// The next thing that is ready; `None` after `timeout` milliseconds (-1 waits for ever) or
    /// an interruption.
    pub(super) fn wait(&self, timeout: i32) -> io::Result<Option<Source>> {
        let mut events = [Event::new(Events::empty(), 0)];
        match epoll::wait(self.fd, timeout, &mut events) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(Source::of(events[0].data))),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // Closing an epoll instance has no error that anybody could act on.
        let _ = epoll::close(self.fd);
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::sys::fd::borrow;

    #[test]
    fn what_is_ready_is_named_until_it_is_taken_out() {
        let poller = Poller::new().expect("an epoll instance");
        let bell = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        poller.add(Source::Session(7), &borrow(&bell)).expect("added");
        assert_eq!(poller.wait(0).expect("no error"), None);
        bell.write(1).expect("room");
        assert_eq!(poller.wait(-1).expect("no error"), Some(Source::Session(7)));
        assert_eq!(poller.wait(-1).expect("level triggered"), Some(Source::Session(7)));
        poller.remove(&borrow(&bell)).expect("it was in");
        assert_eq!(poller.wait(0).expect("no error"), None);
        assert!(poller.remove(&borrow(&bell)).is_err());
    }
}
