//! One front-end connection, from the first message to the last drained ring.
//!
//! A session is served by one thread with a blocking socket; only the socket's other end, or
//! [`SessionHandle::shutdown`] from another thread, ends the waiting. How a message ends:
//!
//! * S1 Done: acknowledged if the front-end asked for it; the session goes on.
//! * S2 Refused, and the front-end is told (it negotiated REPLY_ACK, set the need-reply flag, and
//!   the message is one whose answer can say no): the session goes on.
//! * S3 Refused, and the front-end cannot be told: it would go on under a wrong belief, so the
//!   session ends with the reason.
//! * S4 Malformed (the library's verdict) or unknown: the session ends with the reason.
//! * S5 A ring is lost (its thread ended): the session ends, told or not.
//!
//! However a session ends, every ring is drained before [`Session::serve`] returns, and the guest's
//! memory is dropped after that (L3, L6). A session logs at most two lines on its own account: its
//! first refusal of kind S2, and its end if that was not a plain disconnect.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};

use super::handler::Handler;
use super::herald::{self, Herald};
use super::pool::Pool;
use super::refusal::Refusal;
use crate::device::Disk;
use crate::sys::{fd, line};

/// What a front-end may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queues of the device, `1..=256` (a vhost-user message has 8 bits for some queue numbers):
    /// the answer to GET_QUEUE_NUM.
    pub num_queues: u16,
    /// Largest ring, in entries: a power of two, at most 32768 (virtio 1.3, 2.7).
    pub max_queue_size: u16,
}

/// Ends a session's waiting from another thread.
#[derive(Debug)]
pub struct SessionHandle(UnixStream);

impl SessionHandle {
    /// A handle on the session that is going to be served on `stream`.
    ///
    /// # Errors
    /// What dup(2) answered.
    pub fn new(stream: &UnixStream) -> io::Result<SessionHandle> {
        stream.try_clone().map(SessionHandle)
    }

    /// Ends the connection: the session finishes the message that it is working on, drains its
    /// rings and returns from [`Session::serve`] as [`SessionEnd::Disconnected`].
    pub fn shutdown(&self) {
        // Fails only when the connection has already ended, which is what is asked for.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The front-end closed the connection, or we did ([`SessionHandle::shutdown`]).
    #[error("the front-end disconnected")]
    Disconnected,
    /// A message was refused and the session could not go on (S3, S5).
    #[error("{request} refused: {why}")]
    Refused {
        /// The message's name.
        request: Request,
        /// Why.
        why: Refusal,
    },
    /// A message was malformed, unknown, or of a feature that was not negotiated (S4).
    #[error("{request}: {why}")]
    BadMessage {
        /// The message's name.
        request: Request,
        /// The library's verdict.
        why: Error,
    },
    /// A ring did not come back when the session ended.
    #[error("{0}")]
    Lost(Refusal),
    /// The socket failed, other than by being closed.
    #[error("the connection failed: {0}")]
    Socket(io::Error),
}

impl SessionEnd {
    /// Whether this is how a session ends when nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, SessionEnd::Disconnected)
    }
}

/// A message's number, printed as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(pub u32);

impl Request {
    fn known(self) -> Option<FrontendReq> {
        FrontendReq::try_from(self.0).ok()
    }

    /// Whether the library can answer this message with "no" (S2). The others carry their answer
    /// in the reply itself, or have none.
    fn can_be_denied(self) -> bool {
        matches!(
            self.known(),
            Some(
                FrontendReq::SET_OWNER
                    | FrontendReq::RESET_OWNER
                    | FrontendReq::RESET_DEVICE
                    | FrontendReq::SET_FEATURES
                    | FrontendReq::SET_PROTOCOL_FEATURES
                    | FrontendReq::SET_MEM_TABLE
                    | FrontendReq::ADD_MEM_REG
                    | FrontendReq::REM_MEM_REG
                    | FrontendReq::SET_VRING_NUM
                    | FrontendReq::SET_VRING_ADDR
                    | FrontendReq::SET_VRING_BASE
                    | FrontendReq::SET_VRING_KICK
                    | FrontendReq::SET_VRING_CALL
                    | FrontendReq::SET_VRING_ERR
                    | FrontendReq::SET_VRING_ENABLE
                    | FrontendReq::SET_CONFIG
                    | FrontendReq::SET_INFLIGHT_FD
            )
        )
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.known() {
            Some(request) => write!(f, "{request:?}"),
            None => write!(f, "message {}", self.0),
        }
    }
}

/// The header of the message that waits (three 32-bit words in host order: request, flags, size).
#[derive(Clone, Copy, Debug)]
struct Header {
    request: Request,
    need_reply: bool,
}

/// Flag in a header: the sender wants to hear how it went.
const NEED_REPLY: u32 = 1 << 3;

impl Header {
    /// Waits for the next message and looks at its header; `None` at the end of the stream. A
    /// header that is not whole yet counts as unknown: the library judges it.
    fn peek(stream: &UnixStream) -> io::Result<Option<Header>> {
        let mut bytes = [0_u8; 12];
        if fd::peek(stream.as_fd(), &mut bytes)? == 0 {
            return Ok(None);
        }
        let [a, b, c, d, e, f, g, h, ..] = bytes;
        let flags = u32::from_ne_bytes([e, f, g, h]);
        let request = Request(u32::from_ne_bytes([a, b, c, d]));
        Ok(Some(Header { request, need_reply: flags & NEED_REPLY != 0 }))
    }
}

/// One front-end connection, before it is served.
pub struct Session {
    disk: Arc<Disk>,
    handler: Arc<Mutex<Handler>>,
    herald: Arc<Herald>,
    /// Refusals after which the session went on (S2).
    refused: u32,
}

impl Session {
    /// A session for `disk`, whose queues are served by the threads of its pool.
    #[must_use]
    pub fn new(disk: Arc<Disk>, pool: &Pool, limits: Limits) -> Session {
        let rings = pool.join(&disk, limits.num_queues);
        let handler = Handler::new(Arc::clone(&disk), rings, limits.max_queue_size);
        let herald = Arc::clone(handler.herald());
        Session { disk, handler: Arc::new(Mutex::new(handler)), herald, refused: 0 }
    }

    /// What tells the front-end of changes of the device.
    #[must_use]
    pub fn herald(&self) -> &Arc<Herald> {
        &self.herald
    }

    /// Serves the connection on the calling thread until it ends; then all rings are drained
    /// and the connection is closed. The thread should have signals blocked: the library takes an interrupted read for an error.
    pub fn serve(mut self, stream: UnixStream) -> SessionEnd {
        let connection = stream.try_clone();
        let end = self.run(stream);
        let end = match self.handler().close() {
            Err(why) if end.is_clean() => SessionEnd::Lost(why),
            _ => end,
        };
        // Only now may the front-end believe that nobody writes to its memory any more. Handles and
        // duplicates keep the socket open, so its end is said, not left to the last close.
        if let Ok(connection) = connection {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if !end.is_clean() {
            log::warn!("disk {}: the session ended: {end}", self.disk.id.0);
        }
        end
    }

    fn handler(&self) -> MutexGuard<'_, Handler> {
        // Only this thread ever locks it; the library wants a shared handler.
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&mut self, stream: UnixStream) -> SessionEnd {
        let prepared = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
        let look = match prepared {
            Ok(look) => look,
            Err(why) => return SessionEnd::Socket(why),
        };
        let mut library = BackendReqHandler::from_stream(stream, Arc::clone(&self.handler));
        loop {
            if let Err(why) = self.tell(&look) {
                return socket_end(why);
            }
            let header = match Header::peek(&look) {
                Ok(Some(header)) => header,
                Ok(None) => return SessionEnd::Disconnected,
                Err(why) => return socket_end(why),
            };
            if header.request.known() == Some(FrontendReq::SET_BACKEND_REQ_FD) {
                let fds = fd::peek_fds(look.as_fd()).unwrap_or_default();
                self.handler().arriving(fds.into_iter().next());
            }
            self.herald.begin();
            let done = library.handle_request();
            let running = self.handler().is_running();
            self.herald.end(running);
            if let Some(end) = done.err().and_then(|error| self.judge(header, error)) {
                return end;
            }
        }
    }

    /// Tells the front-end of a new size if it ought to know and is silent; when it speaks, another
    /// time.
    fn tell(&self, look: &UnixStream) -> io::Result<()> {
        while self.herald.is_due(self.disk.config.capacity()) {
            if line::is_readable_within(look.as_fd(), herald::QUIET)? {
                break;
            }
            self.herald.announce(self.disk.config.capacity());
        }
        Ok(())
    }

    /// Whether an error ends the session (S2-S5).
    fn judge(&mut self, header: Header, error: Error) -> Option<SessionEnd> {
        let request = header.request;
        let why = match error {
            Error::Disconnected => return Some(SessionEnd::Disconnected),
            Error::SocketBroken(why) | Error::SocketError(why) | Error::SocketRetry(why) => {
                return Some(socket_end(why));
            }
            Error::ReqHandlerError(inner) => match inner.downcast::<Refusal>() {
                Ok(why) => why,
                Err(inner) => {
                    let why = Error::ReqHandlerError(inner);
                    return Some(SessionEnd::BadMessage { request, why });
                }
            },
            why => return Some(SessionEnd::BadMessage { request, why }),
        };
        let told = header.need_reply && request.can_be_denied() && self.handler().acknowledges();
        if !told || why.is_fatal() {
            return Some(SessionEnd::Refused { request, why });
        }
        let level = if self.refused == 0 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "disk {}: {request} refused: {why}", self.disk.id.0);
        self.refused += 1;
        None
    }
}

/// A connection that the peer reset, or closed while we answered, has simply ended.
fn socket_end(why: io::Error) -> SessionEnd {
    match why.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => SessionEnd::Disconnected,
        _ => SessionEnd::Socket(why),
    }
}

#[cfg(test)]
mod tests;
