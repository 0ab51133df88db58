//! File descriptors: borrowing, flags, and what a front-end sent with a message.
//!
//! A descriptor that somebody else sent shares its file description with them. So:
//!
//! * D1 File *status* flags (`O_NONBLOCK` and the like) are never changed: they belong to the
//!   description, and the other side would see the change (a QEMU whose kick eventfd became
//!   blocking hangs). Only the close-on-exec flag is set: it belongs to our descriptor alone.
//! * D2 A descriptor is looked at before it is used: what cannot be polled or written is refused
//!   where it arrives, not discovered by a queue thread.
#![allow(unsafe_code, reason = "raw descriptors from crates that predate std::os::fd")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// The descriptor of a value that only knows `AsRawFd`, for as long as the value is borrowed.
#[must_use]
pub fn borrow<T: AsRawFd + ?Sized>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the descriptor open, and the result cannot outlive the borrow.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Marks a descriptor close-on-exec (D1: the one flag that is ours to set).
///
/// # Errors
/// What fcntl(2) answered.
pub fn set_cloexec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: reads a flag of a descriptor that the borrow keeps open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sets a flag of a descriptor that the borrow keeps open.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same descriptor as an eventfd. Ask [`check_bell`] first whether it can serve as one.
#[must_use]
pub fn into_eventfd(file: File) -> EventFd {
    // SAFETY: the descriptor comes from a File, which gives up its ownership of it here.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

/// What a descriptor that carries notifications is going to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// We wait for it: it must be open for reading.
    Waited,
    /// We ring it: it must be open for writing.
    Rung,
}

/// Whether a descriptor can carry notifications in this direction (D2): something that polls
/// (an eventfd, a pipe, a socket; not a regular file) and is open the right way.
///
/// # Errors
/// `InvalidInput` with the reason, or what fcntl(2) answered.
pub fn check_bell(fd: BorrowedFd<'_>, bell: Bell) -> io::Result<()> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_string());
    // SAFETY: reads the flags of a descriptor that the borrow keeps open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let (events, wrong) = match bell {
        Bell::Waited => (EventSet::IN, libc::O_WRONLY),
        Bell::Rung => (EventSet::OUT, libc::O_RDONLY),
    };
    if flags & libc::O_ACCMODE == wrong {
        return Err(invalid("it is open the wrong way round"));
    }
    // epoll is the judge of what can be polled: it refuses files that would always be "ready".
    Epoll::new()?
        .ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(events, 0))
        .map_err(|_| invalid("it cannot be polled"))
}

/// Whether a write to the descriptor may wait: `O_NONBLOCK` is not set, nor ours to set (D1).
#[must_use]
pub fn blocks(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: reads the flags of a descriptor that the borrow keeps open.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags < 0 || flags & libc::O_NONBLOCK == 0
}

/// Rings an eventfd that others made, without blocking: one whose counter is full has been rung
/// already. (A write to a full one waits, if it [`blocks`].)
pub fn ring(event: &EventFd) {
    let mut poll = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd of ours, which outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if ready == 1 && poll.revents & libc::POLLOUT != 0 {
        // Gone meanwhile: then nobody listens.
        let _ = event.write(1);
    }
}

/// Copies the first bytes that wait on a socket without taking them. Waits for the first byte.
/// Returns how many there were, 0 at the end of the stream.
///
/// # Errors
/// What recv(2) answered.
pub fn peek(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
        let n = unsafe {
            libc::recv(socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_PEEK)
        };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Bytes of a control message's header (`struct cmsghdr` on 64-bit hosts).
const CMSG_HEADER: usize = 16;

/// Room for one control message with the 32 descriptors that a vhost-user message may carry.
const CMSG_ROOM: usize = CMSG_HEADER + 32 * 4;

/// Duplicates (close-on-exec) of the descriptors attached to the first bytes that wait on a
/// socket; the message stays where it is, with its own descriptors. Waits for the first byte.
///
/// # Errors
/// What recvmsg(2) answered.
pub fn peek_fds(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut byte = 0_u8;
    let mut control = [0_u8; CMSG_ROOM];
    let mut vector = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeroes is a msghdr that points at nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    let flags = libc::MSG_PEEK | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the kernel writes into the byte and the control buffer, within the lengths given.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let used = message.msg_controllen.min(control.len());
    Ok(attached(&control[..used]).map(own).collect())
}

/// The descriptors named by the first control message, if that is what it carries.
fn attached(control: &[u8]) -> impl Iterator<Item = i32> {
    let word = |at: usize| {
        control.get(at..at + 4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    };
    let rights = word(8) == libc::SOL_SOCKET && word(12) == libc::SCM_RIGHTS;
    // The length's low half is enough: it cannot exceed CMSG_ROOM.
    let end = usize::try_from(word(0)).unwrap_or(0).min(control.len());
    let end = if rights { end } else { 0 };
    (CMSG_HEADER..end).step_by(4).filter(move |at| at + 4 <= end).map(word)
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, and it is named once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests;
