//! The threads of the admin socket: one that lets clients in, and one for each client.
//!
//! The rules A1 to A6 stand in [`super`]. A client's thread waits for its client and for nobody
//! else, so there is nothing between clients that one could hold up. What unblocks such a thread,
//! reading or writing, is that its socket is shut down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use log::{debug, warn};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::lines::{Lines, MAX_LINE, Next};
use super::rpc::{self, Fault};
use super::seat::Seat;
use super::steer::Steer;
use crate::sys::sandbox;

/// Clients at a time, at most (A3).
const MAX_CLIENTS: usize = 8;

/// How long a client has to be quiet before another may have its place (A4).
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the listener rests after a failure, in milliseconds.
const REST_MS: i32 = 500;

/// What epoll says is ready.
const LISTENER: u64 = 1;
const BELL: u64 = 2;

/// The admin socket while it is served. Dropped, it stops.
#[derive(Debug)]
pub struct AdminServer {
    stopping: Arc<AtomicBool>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Serves the clients that come through `listener`, on threads of its own, which inherit the
    /// caller's signal mask. The socket's file, and who may open it, are the caller's affair.
    ///
    /// # Errors
    /// What eventfd, epoll or the making of a thread answered.
    pub fn start(listener: UnixListener, steer: Arc<dyn Steer>) -> io::Result<AdminServer> {
        AdminServer::with_patience(listener, steer, PATIENCE)
    }

    fn with_patience(
        listener: UnixListener,
        steer: Arc<dyn Steer>,
        patience: Duration,
    ) -> io::Result<AdminServer> {
        let mut door = Door::new(listener, steer, patience)?;
        let (stopping, bell) = (Arc::clone(&door.stopping), Arc::clone(&door.bell));
        let thread =
            std::thread::Builder::new().name("blkmq-admin".to_owned()).spawn(move || {
                let end = sandbox::enter(sandbox::Thread::Admin).and_then(|()| {
                    loop {
                        match door.turn() {
                            Ok(true) => {}
                            Ok(false) => break Ok(()),
                            Err(e) => break Err(e),
                        }
                    }
                });
                if let Err(e) = end {
                    warn!("the admin socket is closed: {e}");
                }
                door.close();
            })?;
        Ok(AdminServer { stopping, bell, thread: Some(thread) })
    }

    /// Ends all connections and waits for the calls that have begun (A6); no other begins.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        ring(&self.bell);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread of the admin socket panicked");
        }
    }
}

fn ring(bell: &EventFd) {
    // A full counter (EAGAIN) has rung already.
    let _ = bell.write(1);
}

/// A client, as the thread at the door knows it.
#[derive(Debug)]
struct Client {
    stream: Arc<UnixStream>,
    seat: Arc<Seat>,
    thread: JoinHandle<()>,
}

impl Client {
    fn shut(&self) {
        // Fails only when the client has ended the connection, which is what is asked for.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn join(self) {
        if self.thread.join().is_err() {
            warn!("the thread of an admin client panicked");
        }
    }
}

/// Lets clients in.
struct Door {
    listener: UnixListener,
    steer: Arc<dyn Steer>,
    patience: Duration,
    stopping: Arc<AtomicBool>,
    bell: Arc<EventFd>,
    epoll: Epoll,
    resting: bool,
    clients: Vec<Client>,
}

impl Door {
    fn new(listener: UnixListener, steer: Arc<dyn Steer>, patience: Duration) -> io::Result<Door> {
        listener.set_nonblocking(true)?;
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN, BELL);
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), event)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = Vec::with_capacity(MAX_CLIENTS);
        let mut door =
            Door { listener, steer, patience, stopping, bell, epoll, resting: true, clients };
        door.rest(false)?;
        Ok(door)
    }

    /// Looks away from the listener, or back to it.
    fn rest(&mut self, resting: bool) -> io::Result<()> {
        if resting != self.resting {
            let operation = if resting { ControlOperation::Delete } else { ControlOperation::Add };
            let event = EpollEvent::new(EventSet::IN, LISTENER);
            self.epoll.ctl(operation, self.listener.as_raw_fd(), event)?;
            self.resting = resting;
        }
        Ok(())
    }

    /// Waits for something and sees to it. `false` at the end.
    fn turn(&mut self) -> io::Result<bool> {
        let timeout = if self.resting { REST_MS } else { -1 };
        let mut events = [EpollEvent::default()];
        match self.epoll.wait(timeout, &mut events) {
            Ok(0) => self.rest(false)?,
            Ok(_) if events[0].data() == BELL => {
                // Nothing to read means that it was answered before.
                let _ = self.bell.read();
                self.reap();
            }
            Ok(_) => {
                // A failure (no descriptors, no threads) is no reason to end, and none to spin.
                if let Err(e) = self.accept() {
                    warn!("cannot serve an admin client: {e}");
                    self.rest(true)?;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(!self.stopping.load(Ordering::Acquire))
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.listener.accept() {
            Ok((stream, _)) => self.admit(stream),
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {
                    Ok(())
                }
                _ => Err(e),
            },
        }
    }

    fn admit(&mut self, stream: UnixStream) -> io::Result<()> {
        self.reap();
        if self.clients.len() >= MAX_CLIENTS && !self.make_room() {
            debug!("an admin client was turned away: there are {MAX_CLIENTS} already");
            say(&stream, rpc::farewell(&Fault::Crowded)); // its socket is empty: no waiting
            hang_up(&stream);
            return Ok(());
        }
        let stream = Arc::new(stream);
        let seat = Arc::new(Seat::new());
        let steer = Arc::clone(&self.steer);
        let (theirs, place) = (Arc::clone(&stream), Arc::clone(&seat));
        let leaving = Leaving { seat: Arc::clone(&seat), bell: Arc::clone(&self.bell) };
        let thread =
            std::thread::Builder::new().name("blkmq-client".to_owned()).spawn(move || {
                let _leaving = leaving;
                match sandbox::enter(sandbox::Thread::Client) {
                    Ok(()) => serve(&theirs, &place, &*steer),
                    Err(e) => warn!("an admin client cannot be closed in ({e}) and is sent away"),
                }
                hang_up(&theirs);
            })?;
        self.clients.push(Client { stream, seat, thread });
        Ok(())
    }

    /// Takes the place of the client that has been quiet longest, if that is long enough (A4).
    fn make_room(&mut self) -> bool {
        let quiet = self.clients.iter().enumerate();
        let longest = quiet.filter_map(|(i, c)| Some((c.seat.quiet_for()?, i))).max();
        let Some((_, index)) = longest.filter(|(_, i)| self.clients[*i].seat.evict(self.patience))
        else {
            return false;
        };
        let client = self.clients.swap_remove(index);
        client.shut();
        client.join(); // no call is being made, and none begins: it ends at once
        true
    }

    /// Takes down the threads of clients that have gone.
    fn reap(&mut self) {
        for client in self.clients.extract_if(.., |client| client.seat.is_gone()) {
            client.join();
        }
    }

    /// A6.
    fn close(self) {
        for client in &self.clients {
            client.seat.leave();
            client.shut();
        }
        for client in self.clients {
            client.join();
        }
    }
}

/// Reports that a client's thread ends, however it ends.
struct Leaving {
    seat: Arc<Seat>,
    bell: Arc<EventFd>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.seat.go();
        ring(&self.bell);
    }
}

/// Sends a line; whether it was taken.
fn say(mut stream: &UnixStream, mut line: Vec<u8>) -> bool {
    line.push(b'\n');
    stream.write_all(&line).is_ok()
}

/// Works for a client until it goes, or is sent away. The errors of its socket are its own affair.
fn serve(stream: &UnixStream, seat: &Seat, steer: &dyn Steer) {
    let mut lines = Lines::new(stream);
    loop {
        let answer = match lines.next() {
            Ok(Next::Line(line)) if line.trim_ascii().is_empty() => continue,
            Ok(Next::Line(line)) => rpc::answer(line, steer, &mut || seat.begin()),
            Ok(Next::TooLong) => {
                let why = format!("the line has more than {MAX_LINE} bytes");
                say(stream, rpc::farewell(&Fault::Request(why)));
                return;
            }
            Ok(Next::End) | Err(_) => return,
        };
        seat.rest();
        if let Some(answer) = answer {
            if !say(stream, answer) {
                return;
            }
            seat.rest();
        }
    }
}

/// Ends a connection so that the client reads what was said to it and then the end: closing a Unix
/// socket with something unread in it would reset the connection instead. Never blocks: nothing
/// more can come after the shutdown.
fn hang_up(mut stream: &UnixStream) {
    // Fails only when the connection has ended already.
    let _ = stream.shutdown(Shutdown::Both);
    let mut rest = [0; 4096];
    while matches!(stream.read(&mut rest), Ok(n) if n > 0) {}
}

#[cfg(test)]
mod tests;
