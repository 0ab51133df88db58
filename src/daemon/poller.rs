//! What the control loop waits for.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use epoll::{ControlOptions, Event, Events};

/// Something that became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Source {
    /// SIGTERM or SIGINT.
    Signal = 1,
    /// A front-end knocks.
    Listener = 2,
    /// The session thread is about to end.
    Session = 3,
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
        let event = Event::new(Events::EPOLLIN, source as u64);
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
            Ok(_) => Ok(match events[0].data {
                1 => Some(Source::Signal),
                2 => Some(Source::Listener),
                3 => Some(Source::Session),
                other => unreachable!("nobody added {other}"),
            }),
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
        poller.add(Source::Session, &borrow(&bell)).expect("added");
        assert_eq!(poller.wait(0).expect("no error"), None);
        bell.write(1).expect("room");
        assert_eq!(poller.wait(-1).expect("no error"), Some(Source::Session));
        assert_eq!(poller.wait(-1).expect("level triggered"), Some(Source::Session));
        poller.remove(&borrow(&bell)).expect("it was in");
        assert_eq!(poller.wait(0).expect("no error"), None);
        assert!(poller.remove(&borrow(&bell)).is_err());
    }
}
