//! The one control loop: it waits for signals, front-ends, and the end of a session.
//!
//! * E1 One session at a time. While it lasts the listener is not looked at: further front-ends
//!   wait in its backlog, and are served in turn.
//! * E2 The loop never blocks but in epoll, so a stop signal is noticed at once, whatever a
//!   session does. A session is joined only after it has rung the bell.
//! * E3 A stop ends the session by shutting its socket down: the session sees the end of the
//!   stream, drains its rings, and returns.
//! * E4 A failed accept, or a session that cannot start (no descriptors, no memory, no thread), is
//!   no reason to end and none to spin: the listener rests for a while.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use log::{info, warn};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::entrance::{Entrance, Listener};
use super::poller::{Poller, Source};
use crate::sys::fd::borrow;
use crate::sys::signal::StopSignals;

/// How long the listener rests after a failure (E4), in milliseconds.
const REST_MS: i32 = 500;

/// Serves one connection from beginning to end, on a thread of its own; the error says why it did
/// not end by being closed.
pub(super) type Serve = Arc<dyn Fn(UnixStream) -> Result<(), String> + Send + Sync>;

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This signal.
    Signal(i32),
    /// The one connection that there was is over.
    Disconnected,
    /// The one connection that there was could not go on, for this reason.
    Failed(String),
}

/// Rings when it is dropped: at the end of a session, however it ends.
struct Bell(Arc<EventFd>);

impl Drop for Bell {
    fn drop(&mut self) {
        // A full counter (EAGAIN) has rung already.
        let _ = self.0.write(1);
    }
}

/// The session that runs.
struct Running {
    stream: UnixStream,
    thread: JoinHandle<Result<(), String>>,
}

impl Running {
    fn join(self) -> Result<(), String> {
        self.thread.join().unwrap_or_else(|_| {
            warn!("the session thread panicked");
            Err("its thread panicked".to_owned())
        })
    }
}

struct ControlLoop<'a> {
    poller: Poller,
    signals: &'a StopSignals,
    bell: Arc<EventFd>,
    serve: Serve,
    session: Option<Running>,
}

/// Serves front-ends until a stop signal, or until the one connection ends. When it returns, no
/// session runs. The entrance stays open.
///
/// # Errors
/// What epoll, eventfd or the making of a thread answered.
pub(super) fn run(entrance: &Entrance, signals: &StopSignals, serve: Serve) -> io::Result<Ended> {
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let poller = Poller::new()?;
    poller.add(Source::Signal, signals)?;
    poller.add(Source::Session, &borrow(&*bell))?;
    let mut control = ControlLoop { poller, signals, bell, serve, session: None };
    let ended = match entrance {
        Entrance::Listener(listener) => control.listen(listener),
        Entrance::Connected(stream) => control.one_connection(stream),
    };
    control.end_session();
    ended
}

impl ControlLoop<'_> {
    fn listen(&mut self, listener: &Listener) -> io::Result<Ended> {
        self.poller.add(Source::Listener, listener)?;
        let mut resting = false;
        loop {
            match self.poller.wait(if resting { REST_MS } else { -1 })? {
                Some(Source::Signal) => {
                    if let Some(signal) = self.signals.take()? {
                        return Ok(Ended::Signal(signal));
                    }
                }
                Some(Source::Listener) => {
                    let next = listener.accept().and_then(|stream| match stream {
                        Some(stream) => self.start_session(stream).map(|()| true),
                        None => Ok(false),
                    });
                    if !matches!(next, Ok(false)) {
                        self.poller.remove(listener)?; // E1, E4
                    }
                    if let Err(e) = next {
                        warn!("cannot serve a front-end: {e}");
                        resting = true;
                    }
                }
                Some(Source::Session) => {
                    // Its reason was logged; the next front-end may do better.
                    let _ = self.reap_session();
                    self.poller.add(Source::Listener, listener)?;
                }
                None if resting => {
                    self.poller.add(Source::Listener, listener)?;
                    resting = false;
                }
                None => {}
            }
        }
    }

    fn one_connection(&mut self, stream: &UnixStream) -> io::Result<Ended> {
        self.start_session(stream.try_clone()?)?;
        loop {
            match self.poller.wait(-1)? {
                Some(Source::Signal) => {
                    if let Some(signal) = self.signals.take()? {
                        return Ok(Ended::Signal(signal));
                    }
                }
                Some(Source::Session) => {
                    let end = self.reap_session();
                    return Ok(end.map_or_else(Ended::Failed, |()| Ended::Disconnected));
                }
                Some(Source::Listener) | None => {}
            }
        }
    }

    fn start_session(&mut self, stream: UnixStream) -> io::Result<()> {
        info!("a front-end has connected (fd {})", stream.as_raw_fd());
        let kept = stream.try_clone()?;
        let bell = Bell(Arc::clone(&self.bell));
        let serve = Arc::clone(&self.serve);
        let thread =
            std::thread::Builder::new().name("blkmq-session".to_owned()).spawn(move || {
                let _bell = bell;
                serve(stream)
            })?;
        self.session = Some(Running { stream: kept, thread });
        Ok(())
    }

    /// The session has rung: takes it down, and answers the bell.
    fn reap_session(&mut self) -> Result<(), String> {
        let end = self.session.take().map_or(Ok(()), Running::join);
        // Nothing to read means that the bell was answered before.
        let _ = self.bell.read();
        end
    }

    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            // E3. A front-end that is gone has shut it down already.
            let _ = session.stream.shutdown(Shutdown::Both);
            // Its reason was logged; whoever ends it now has a reason of its own.
            let _ = session.join();
        }
    }
}

#[cfg(test)]
mod tests;
