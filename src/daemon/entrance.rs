//! Where front-ends come in: a socket file of our own, or a descriptor that was left to us.
//!
//! * D1 A socket file that nobody serves any more is replaced. One that somebody serves, and
//!   anything that is no socket, is left alone and refused.
//! * D2 Two starters of the same path cannot both win: looking, replacing and listening happen
//!   under the lock of `PATH.lock`, which exists only meanwhile.
//! * D3 The file has its group and its permissions, and the socket listens, before the file has its
//!   name: whoever sees the file can connect.
//! * D4 We remove the file at the end, while the socket still listens (so that D1 protects it from
//!   starters), and only if it is still the one that we made.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use log::{info, warn};

use crate::sys::socket::{self, Kind, Service};

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// D1: somebody serves it.
    #[error(
        "{0} is already served by another process: stop that one, or give another --socket-path"
    )]
    Live(PathBuf),
    /// D1: a file that we must not remove.
    #[error("{0} exists and is not a socket: remove it, or give another --socket-path")]
    NotASocket(PathBuf),
    /// The question whether it is served has no answer.
    #[error("cannot tell whether {0} is in use ({1}): remove it, or give another --socket-path")]
    Unclear(PathBuf, io::Error),
    /// The lock of D2.
    #[error("cannot lock {0} ({1}): make its directory, or let this user write there")]
    Lock(PathBuf, io::Error),
    /// Making the socket file.
    #[error("cannot make the socket {0} ({1}): give a --socket-path that this user may write")]
    Bind(PathBuf, io::Error),
    /// Giving it away.
    #[error(
        "cannot give {0} the group or permissions asked for ({1}): give a --socket-group that \
         this user is in"
    )]
    Permissions(PathBuf, io::Error),
    /// A group that nobody knows.
    #[error("--socket-group={0}: there is no such group: give one of /etc/group, or a number")]
    NoGroup(String),
    /// The data base of groups.
    #[error("--socket-group={0}: cannot look it up ({1}): give the group's number")]
    Group(String, io::Error),
    /// A descriptor of the service manager's.
    #[error("LISTEN_FDS: descriptor {0} ({1}) cannot be used: {2}")]
    Activation(RawFd, String, String),
    /// `--fd` names nothing.
    #[error("--fd={0} is not open ({1}): pass a socket there, or use --socket-path")]
    NotOpen(RawFd, io::Error),
    /// `--fd` names something else.
    #[error("--fd={0} is not a Unix stream socket: pass a listening or a connected one")]
    WrongKind(RawFd),
    /// `--fd` names a socket that does nothing.
    #[error("--fd={0} is a socket that neither listens nor is connected: call listen(2) on it")]
    Idle(RawFd),
    /// The kernel refused to tell, or to set the blocking mode.
    #[error("--fd={0} cannot be used ({1}): pass a listening or a connected Unix socket")]
    Unusable(RawFd, io::Error),
}

/// The way in.
#[derive(Debug)]
pub(super) enum Entrance {
    /// Front-ends come and go, one at a time.
    Listener(Listener),
    /// The one front-end is there; when it goes, so do we.
    Connected(UnixStream),
}

/// A socket that listens, and its file if the file is ours.
#[derive(Debug)]
pub(super) struct Listener {
    // Dropped in this order: the file goes while the socket still listens (D4).
    file: Option<SocketFile>,
    socket: UnixListener,
}

/// Takes over the descriptor that the parent process left us.
///
/// # Errors
/// When it is not open or nothing that front-ends can come through.
pub(super) fn adopt(fd: RawFd) -> Result<Entrance, EntranceError> {
    let owned = socket::adopt(fd).map_err(|e| EntranceError::NotOpen(fd, e))?;
    let unusable = |e| EntranceError::Unusable(fd, e);
    match socket::kind(owned.as_fd()).map_err(unusable)? {
        Kind::Listening => {
            let socket = UnixListener::from(owned);
            socket.set_nonblocking(true).map_err(unusable)?;
            Ok(Entrance::Listener(Listener { file: None, socket }))
        }
        Kind::Connected => {
            let stream = UnixStream::from(owned);
            stream.set_nonblocking(false).map_err(unusable)?;
            Ok(Entrance::Connected(stream))
        }
        Kind::Idle => Err(EntranceError::Idle(fd)),
        Kind::Other => Err(EntranceError::WrongKind(fd)),
    }
}

/// The number of the group called `name`.
///
/// # Errors
/// When there is none.
pub(super) fn group(name: &str) -> Result<u32, EntranceError> {
    match socket::group_id(name) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => Err(EntranceError::NoGroup(name.to_owned())),
        Err(e) => Err(EntranceError::Group(name.to_owned(), e)),
    }
}

impl Listener {
    /// Listens on a socket file of our own.
    ///
    /// # Errors
    /// When the path is taken (D1) or cannot be written.
    pub(super) fn bind(
        path: &Path,
        mode: u32,
        group: Option<u32>,
    ) -> Result<Listener, EntranceError> {
        let lock = StartLock::take(path)?;
        clear(path)?;
        let bind = |e| EntranceError::Bind(path.to_owned(), e);
        // D3. Bound under a passing name (by the directory, since the name may be too long for an
        // address), and renamed when everything is ready.
        socket::check_path(path).map_err(bind)?;
        let dir =
            path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let as_place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(dir);
        let dir = as_place.map_err(bind)?;
        // The lock's inode number is ours alone in this directory, as long as we hold the lock.
        let number = lock.file.metadata().map_err(bind)?.ino();
        let passing = format!("/proc/self/fd/{}/.blkmq-{number:x}", dir.as_raw_fd());
        let passing = Path::new(&passing);
        match fs::remove_file(passing) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(bind(e)),
            _ => {} // at most what a crash left there
        }
        let socket = UnixListener::from(socket::bind(passing, mode).map_err(bind)?);
        let made = SocketFile::of(passing).map_err(bind)?;
        // The group first: chown would clear no bits of a socket, but a wider mode must not meet
        // the old group.
        lchown(passing, None, group)
            .and_then(|()| fs::set_permissions(passing, Permissions::from_mode(mode)))
            .map_err(|e| EntranceError::Permissions(path.to_owned(), e))?;
        socket::listen(socket.as_fd()).map_err(bind)?;
        fs::rename(passing, path).map_err(bind)?;
        let file = made.renamed(path);
        drop(lock);
        Ok(Listener { file: Some(file), socket })
    }

    /// Another descriptor of the socket, without its file.
    ///
    /// # Errors
    /// What dup(2) answered.
    pub(super) fn duplicate(&self) -> io::Result<UnixListener> {
        self.socket.try_clone()
    }

    /// The next front-end, if one waits. Its stream blocks and closes on exec.
    ///
    /// # Errors
    /// What accept4(2) answered, other than that nobody is there (any more).
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {
                    Ok(None)
                }
                _ => Err(e),
            },
        }
    }

    /// The path that it listens on, if it has one.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match &self.file {
            Some(file) => Some(file.path.clone()),
            None => self.socket.local_addr().ok()?.as_pathname().map(Path::to_owned),
        }
    }

    /// Where it listens, for messages.
    pub(super) fn name(&self) -> String {
        let path = self.path().map(|path| path.display().to_string());
        path.unwrap_or_else(|| "an inherited socket".to_owned())
    }
}

impl Entrance {
    /// Where front-ends come in, for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Entrance::Listener(listener) => listener.name(),
            Entrance::Connected(_) => "the connection that was passed".to_owned(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// D1: makes the way free, if it may be.
fn clear(path: &Path) -> Result<(), EntranceError> {
    let unclear = |e| EntranceError::Unclear(path.to_owned(), e);
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unclear(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(EntranceError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match socket::service(path) {
        Ok(Service::Alive) => Err(EntranceError::Live(path.to_owned())),
        Ok(Service::Dead) => {
            info!("{}: replacing the socket of a process that is gone", path.display());
            fs::remove_file(path).map_err(|e| EntranceError::Bind(path.to_owned(), e))
        }
        // Removed by its owner between the two looks.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(unclear(e)),
    }
}

/// The lock of D2. Whoever holds it removes the file on letting go, so the one who waited on the
/// removed file has to look whether its lock is still the one behind the name.
#[derive(Debug)]
struct StartLock {
    path: PathBuf,
    file: File,
}

impl StartLock {
    fn take(socket: &Path) -> Result<StartLock, EntranceError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        StartLock::at(&path).map_err(|e| EntranceError::Lock(path, e))
    }

    fn at(path: &Path) -> io::Result<StartLock> {
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            file.lock()?;
            let ours = file.metadata()?;
            match fs::symlink_metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(StartLock { path: path.to_owned(), file });
                }
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
}

impl Drop for StartLock {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            warn!("cannot remove {} ({e}): it is harmless, but of no use", self.path.display());
        }
    }
}

/// The socket file that we made, to be removed at the end (D4).
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }

    /// The same file under its new name.
    fn renamed(mut self, path: &Path) -> SocketFile {
        path.clone_into(&mut self.path);
        self
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => {
                if let Err(e) = fs::remove_file(&self.path) {
                    warn!("cannot remove {} ({e})", self.path.display());
                }
            }
            // Somebody removed or replaced it: nothing of ours is left.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
