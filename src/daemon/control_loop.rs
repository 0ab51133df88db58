//! The one control loop: it waits for signals, front-ends, and the end of a session.
//!
//! * E1 One session at a time at each port (disk). While it lasts the listener is not looked at:
//!   further front-ends wait in its backlog, and are served in turn.
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
use std::time::{Duration, Instant};

use log::{info, warn};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::entrance::{Entrance, Listener};
use super::poller::{Poller, Source};
use crate::sys::fd::borrow;
use crate::sys::sandbox;
use crate::sys::signal::Signals;

/// How long a listener rests after a failure (E4).
const REST: Duration = Duration::from_millis(500);

/// Serves one connection from beginning to end, on a thread of its own; the error says why it did
/// not end by being closed.
pub(super) type Serve = Arc<dyn Fn(UnixStream) -> Result<(), String> + Send + Sync>;

/// What the loop does besides, without waiting.
pub(super) trait Errands {
    /// Does what a signal asks for; `false`: it asks for the end.
    fn signal(&mut self, signal: i32) -> bool;

    /// How often [`beat`](Errands::beat) is called, at least; `None`: never, and nothing wakes the loop.
    fn interval(&self) -> Option<Duration>;

    /// The loop turns.
    fn beat(&mut self);
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This signal.
    Signal(i32),
    /// Every connection that there was is over.
    Disconnected,
    /// So it is, and one of them could not go on, for this reason.
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

/// One disk's way in: where front-ends come from, and what serves them.
pub(super) struct Port {
    entrance: Entrance,
    serve: Serve,
    /// Rung by the session when it ends.
    bell: Arc<EventFd>,
    session: Option<Running>,
    /// The listener is not looked at until then (E4).
    rests_until: Option<Instant>,
}

impl Port {
    /// A port at which nobody is served yet.
    ///
    /// # Errors
    /// What eventfd(2) answered.
    pub(super) fn new(entrance: Entrance, serve: Serve) -> io::Result<Port> {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Port { entrance, serve, bell, session: None, rests_until: None })
    }

    /// Where front-ends come from, for the log.
    pub(super) fn name(&self) -> String {
        self.entrance.name()
    }

    fn listener(&self) -> Option<&Listener> {
        match &self.entrance {
            Entrance::Listener(listener) => Some(listener),
            Entrance::Connected(_) => None,
        }
    }

    fn start_session(&mut self, stream: UnixStream) -> io::Result<()> {
        info!("a front-end has connected to {} (fd {})", self.entrance.name(), stream.as_raw_fd());
        let kept = stream.try_clone()?;
        let bell = Bell(Arc::clone(&self.bell));
        let serve = Arc::clone(&self.serve);
        let thread =
            std::thread::Builder::new().name("blkmq-session".to_owned()).spawn(move || {
                let _bell = bell;
                sandbox::enter(sandbox::Thread::Session).map_err(|e| {
                    warn!("a session cannot be closed in ({e}): its front-end is sent away");
                    e.to_string()
                })?;
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
}

struct ControlLoop<'a> {
    poller: Poller,
    signals: &'a Signals,
    errands: &'a mut dyn Errands,
    /// When the next [`Errands::beat`] is due.
    beats_at: Option<Instant>,
    ports: &'a mut [Port],
    /// Connections that we were started with and that have not ended.
    connections: usize,
    /// Why one of them ended, if it was not by being closed.
    failed: Option<String>,
}

/// Serves front-ends until a signal that is no errand, or until nobody can come any more: all ports
/// are connections, and the last one has ended. When it returns, no session runs. The entrances stay
/// open.
///
/// # Errors
/// What epoll or the making of a thread answered.
pub(super) fn run(
    ports: &mut [Port],
    signals: &Signals,
    errands: &mut dyn Errands,
) -> io::Result<Ended> {
    let poller = Poller::new()?;
    poller.add(Source::Signal, signals)?;
    let beats_at = errands.interval().map(|_| Instant::now());
    let (connections, failed) = (0, None);
    let mut control =
        ControlLoop { poller, signals, ports, errands, beats_at, connections, failed };
    let ended = control.open().and_then(|()| control.serve());
    control.end_sessions();
    ended
}

impl ControlLoop<'_> {
    fn open(&mut self) -> io::Result<()> {
        for (n, port) in (0..).zip(self.ports.iter_mut()) {
            self.poller.add(Source::Session(n), &borrow(&*port.bell))?;
            match &port.entrance {
                Entrance::Listener(listener) => self.poller.add(Source::Listener(n), listener)?,
                Entrance::Connected(stream) => {
                    let stream = stream.try_clone()?;
                    port.start_session(stream)?;
                    self.connections += 1;
                }
            }
        }
        Ok(())
    }

    fn serve(&mut self) -> io::Result<Ended> {
        let listens = self.ports.iter().any(|port| port.listener().is_some());
        loop {
            match self.poller.wait(self.patience())? {
                Some(Source::Signal) => {
                    if let Some(signal) = self.signals.take()?
                        && !self.errands.signal(signal)
                    {
                        return Ok(Ended::Signal(signal));
                    }
                }
                Some(Source::Listener(n)) => self.knocked(n)?,
                Some(Source::Session(n)) => self.session_ended(n)?,
                None => {}
            }
            self.end_rests()?;
            self.beat();
            if !listens && self.connections == 0 {
                return Ok(self.failed.take().map_or(Ended::Disconnected, Ended::Failed));
            }
        }
    }

    /// How long to wait at most, in milliseconds: until the first listener has rested, or the next beat.
    fn patience(&self) -> i32 {
        let rests = self.ports.iter().filter_map(|port| port.rests_until);
        let Some(first) = rests.chain(self.beats_at).min() else {
            return -1;
        };
        let left = first.saturating_duration_since(Instant::now()).as_millis();
        i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1)
    }

    fn beat(&mut self) {
        let now = Instant::now();
        if let Some(interval) = self.errands.interval()
            && self.beats_at.is_some_and(|due| due <= now)
        {
            self.errands.beat();
            self.beats_at = Some(now + interval);
        }
    }

    fn knocked(&mut self, n: u32) -> io::Result<()> {
        let port = &mut self.ports[n as usize];
        let Some(listener) = port.listener() else { return Ok(()) };
        let next = match listener.accept() {
            Ok(None) => return Ok(()),
            Ok(Some(stream)) => {
                self.poller.remove(listener)?; // E1
                port.start_session(stream)
            }
            Err(e) => {
                self.poller.remove(listener)?;
                Err(e)
            }
        };
        if let Err(e) = next {
            warn!("cannot serve a front-end of {}: {e}", port.entrance.name());
            port.rests_until = Some(Instant::now() + REST); // E4
        }
        Ok(())
    }

    fn session_ended(&mut self, n: u32) -> io::Result<()> {
        let port = &mut self.ports[n as usize];
        let end = port.reap_session();
        match &port.entrance {
            // Its reason was logged; the next front-end may do better.
            Entrance::Listener(listener) => self.poller.add(Source::Listener(n), listener),
            Entrance::Connected(stream) => {
                // The descriptor stays ours; whoever is at its other end sees the end.
                let _ = stream.shutdown(Shutdown::Both);
                self.connections -= 1;
                self.failed = self.failed.take().or_else(|| end.err());
                Ok(())
            }
        }
    }

    fn end_rests(&mut self) -> io::Result<()> {
        for (n, port) in (0..).zip(self.ports.iter_mut()) {
            let Some(until) = port.rests_until else { continue };
            if until <= Instant::now()
                && let Some(listener) = port.listener()
            {
                self.poller.add(Source::Listener(n), listener)?;
                port.rests_until = None;
            }
        }
        Ok(())
    }

    fn end_sessions(&mut self) {
        let sessions: Vec<_> = self.ports.iter_mut().filter_map(|p| p.session.take()).collect();
        for session in &sessions {
            // E3. A front-end that is gone has shut it down already.
            let _ = session.stream.shutdown(Shutdown::Both);
        }
        for session in sessions {
            // Its reason was logged; whoever ends it now has a reason of its own.
            let _ = session.join();
        }
    }
}

#[cfg(test)]
mod tests;
