//! Unix sockets beyond what std offers: adopting a descriptor, binding without listening, asking
//! whether somebody serves a socket file, group names, and room for descriptors.
#![allow(unsafe_code, reason = "socket calls that std does not have")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Unix stream socket that accepts connections.
    Listening,
    /// A Unix stream socket with a peer.
    Connected,
    /// A Unix stream socket without either.
    Idle,
    /// Anything else.
    Other,
}

/// Whether somebody serves a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The socket that the file belonged to is closed.
    Dead,
    /// A socket answers, or would if it were not so busy.
    Alive,
}

fn check(code: libc::c_int) -> io::Result<libc::c_int> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

/// Makes the open descriptor `fd`, which the parent process left us, our own (and CLOEXEC).
///
/// To be called before the process opens anything: from then on a number that was not passed may
/// belong to somebody within the process, who would then lose it.
///
/// # Errors
/// EBADF when no such descriptor is open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no argument and touches no memory; a wrong number answers EBADF.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: F_SETFD takes an int.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by this function's contract nobody in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn int_option(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four");
    // SAFETY: `value` has room for the `len` bytes that the kernel may write.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    check(code).map(|_| value)
}

/// Tells a listening socket from a connected one (SO_ACCEPTCONN, socket(7)).
///
/// # Errors
/// What getsockopt(2) answered, except that the descriptor is no socket.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    match int_option(fd, libc::SO_DOMAIN) {
        Ok(libc::AF_UNIX) => {}
        Ok(_) => return Ok(Kind::Other),
        Err(e) if e.raw_os_error() == Some(libc::ENOTSOCK) => return Ok(Kind::Other),
        Err(e) => return Err(e),
    }
    if int_option(fd, libc::SO_TYPE)? != libc::SOCK_STREAM {
        return Ok(Kind::Other);
    }
    if int_option(fd, libc::SO_ACCEPTCONN)? != 0 {
        return Ok(Kind::Listening);
    }
    let stream = std::os::unix::net::UnixStream::from(fd.try_clone_to_owned()?);
    Ok(if stream.peer_addr().is_ok() { Kind::Connected } else { Kind::Idle })
}

fn unix_stream_socket() -> io::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers only.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, flags, 0) })?;
    // SAFETY: socket has just made it, and nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path as the kernel wants it, with its length.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).expect("a small number");
    // One byte stays for the NUL; an empty path would be an autobind (unix(7)).
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        return Err(ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let len = size_of::<libc::sa_family_t>() + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(len).expect("at most sockaddr_un")))
}

/// Whether clients can be told to connect to `path`: it fits an address.
///
/// # Errors
/// `InvalidInput` for an empty path, one with a NUL, or one of more than 107 bytes.
pub fn check_path(path: &Path) -> io::Result<()> {
    address(path).map(|_| ())
}

/// Makes the socket file `path`, which must not exist, with at most the permissions `mode`.
/// Nobody can connect before [`listen`]. The socket does not block.
///
/// # Errors
/// What socket(2), fchmod(2) or bind(2) answered.
pub fn bind(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let (address, len) = address(path)?;
    let socket = unix_stream_socket()?;
    // The file inherits the socket's own permissions, less the umask.
    File::from(socket.try_clone()?).set_permissions(std::fs::Permissions::from_mode(mode))?;
    // SAFETY: `address` is a sockaddr_un of at least `len` bytes.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket)
}

/// Lets clients connect to a bound socket.
///
/// # Errors
/// What listen(2) answered.
pub fn listen(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: listen(2) takes numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), libc::SOMAXCONN) }).map(|_| ())
}

/// Asks by connecting whether somebody serves the socket file `path`. Never blocks.
///
/// # Errors
/// What connect(2) answered, when that leaves the question open.
pub fn service(path: &Path) -> io::Result<Service> {
    let (address, len) = address(path)?;
    let socket = unix_stream_socket()?;
    // SAFETY: `address` is a sockaddr_un of at least `len` bytes.
    let code = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    match check(code) {
        Ok(_) => Ok(Service::Alive),
        Err(e) => match e.raw_os_error() {
            Some(libc::ECONNREFUSED) => Ok(Service::Dead),
            // A full backlog, and a socket of another type: somebody is there.
            Some(libc::EAGAIN | libc::EPROTOTYPE) => Ok(Service::Alive),
            _ => Err(e),
        },
    }
}

/// The number of the group `name`, which may be a number already. `None` when there is no such
/// group.
///
/// # Errors
/// What getgrnam_r(3) answered.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut names: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut found = std::ptr::null_mut();
        // SAFETY: all four buffers are ours, live through the call, and `names` says its length.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                names.as_mut_ptr(),
                names.len(),
                &raw mut found,
            )
        };
        match code {
            0 if found.is_null() => return Ok(None),
            // SAFETY: a result that is not null points to `entry`, which is filled then.
            0 => return Ok(Some(unsafe { (*found).gr_gid })),
            libc::ERANGE => names.resize(names.len() * 2, 0),
            libc::EINTR => {}
            libc::ENOENT | libc::ESRCH => return Ok(None),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// Raises the number of descriptors that the process may open as far as it may raise it itself,
/// and returns it. 256 queues with three eventfds each, and a descriptor for each of up to 509
/// memory regions, are more than the usual 1024.
///
/// # Errors
/// What getrlimit(2) or setrlimit(2) answered.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit of ours.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Whether the descriptor is closed on exec; every descriptor of ours is.
///
/// # Errors
/// What fcntl(2) answered.
pub fn is_cloexec<T: AsFd>(fd: &T) -> io::Result<bool> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) })?;
    Ok(flags & libc::FD_CLOEXEC != 0)
}

#[cfg(test)]
mod tests;
