//! Sockets that a service manager made for us: socket activation, sd_listen_fds(3).
//!
//! * A1 `LISTEN_PID` says whether the sockets are for us; there are `LISTEN_FDS` of them, from descriptor 3
//!   on. Those that `--fd` names are taken by that.
//! * A2 Each of the others belongs to the disk (or the admin socket) whose path it listens on. So one
//!   configuration serves with a manager and without, and no names have to agree (`LISTEN_FDNAMES` is
//!   for messages only).
//! * A3 Its file is the manager's: permissions, group and removal are not ours.
//! * A4 A socket that belongs to nothing is said and closed.

use std::ffi::OsString;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::{info, warn};

use super::entrance::{self, Entrance, EntranceError, Listener};

/// Where passed descriptors begin (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// The sockets that nobody has claimed yet, with the manager's names.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<(String, Listener)>);

impl Inherited {
    /// Takes over what was passed, as the environment says, which `get` looks up; `pid` is ours. To be
    /// called before anything is opened, and after the descriptors in `taken` were adopted.
    ///
    /// # Errors
    /// [`EntranceError::Activation`]: a descriptor is not what it is said to be.
    pub(super) fn take(
        get: impl Fn(&str) -> Option<OsString>,
        pid: u32,
        taken: &[RawFd],
    ) -> Result<Inherited, EntranceError> {
        let number = |name| get(name).and_then(|text| text.to_str()?.parse::<u32>().ok());
        let count = match (number("LISTEN_PID"), number("LISTEN_FDS")) {
            (Some(of), Some(count)) if of == pid => count,
            _ => 0,
        };
        let names = get("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.to_string_lossy();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for n in 0..count {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            let fd = RawFd::try_from(n).unwrap_or(RawFd::MAX).saturating_add(FIRST);
            if taken.contains(&fd) {
                continue;
            }
            match entrance::adopt(fd) {
                Ok(Entrance::Listener(listener)) => sockets.push((name.to_owned(), listener)),
                Ok(Entrance::Connected(_)) => {
                    let why = "it is connected: name it with --fd, or set Accept=no".to_owned();
                    return Err(EntranceError::Activation(fd, name.to_owned(), why));
                }
                Err(why) => {
                    return Err(EntranceError::Activation(fd, name.to_owned(), why.to_string()));
                }
            }
        }
        Ok(Inherited(sockets))
    }

    /// The socket that listens on this path, if it was passed (A2).
    pub(super) fn claim(&mut self, path: &Path) -> Option<Listener> {
        let found = self
            .0
            .iter()
            .position(|(_, listener)| listener.path().is_some_and(|bound| is_same(&bound, path)))?;
        let (name, listener) = self.0.swap_remove(found);
        info!("{} was passed by the service manager as {name}", path.display());
        Some(listener)
    }

    /// Says which sockets belong to nothing, and closes them (A4).
    pub(super) fn close(self) {
        for (name, listener) in self.0 {
            warn!("no disk has the socket {} that was passed as {name}", listener.name());
        }
    }
}

/// Whether two paths are one socket file.
fn is_same(bound: &Path, path: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    bound == path || matches!((identity(bound), identity(path)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// As if a manager had passed `count` descriptors, named by `names`.
    fn take(count: &str, names: &str, pid: u32, taken: &[RawFd]) -> Result<Inherited, String> {
        let env = [("LISTEN_PID", "42"), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)];
        let get = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        Inherited::take(get, pid, taken).map_err(|why| why.to_string())
    }

    #[test]
    fn what_is_meant_for_somebody_else_is_left_alone() {
        assert!(take("1", "", 43, &[]).expect("nothing").0.is_empty());
        assert!(take("0", "", 42, &[]).expect("nothing").0.is_empty());
        for odd in ["", "-1", "three"] {
            assert!(take(odd, "", 42, &[]).expect("nothing").0.is_empty(), "{odd}");
        }
        let nobody = Inherited::take(|_| None, 42, &[]).expect("nothing");
        assert!(nobody.0.is_empty());
        assert!(take("1", "", 42, &[FIRST]).expect("nothing").0.is_empty(), "--fd has it");
    }

    #[test]
    fn a_socket_belongs_to_whoever_has_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let listen = |name: &str| {
            let fd = UnixListener::bind(at(name)).expect("a free name").into_raw_fd();
            match entrance::adopt(fd).expect("it listens") {
                Entrance::Listener(listener) => (name.to_owned(), listener),
                Entrance::Connected(_) => panic!("it listens"),
            }
        };
        let mut inherited = Inherited(vec![listen("a"), listen("b"), listen("c")]);
        std::os::unix::fs::symlink(at("b"), at("other")).expect("a link");
        assert!(inherited.claim(&at("none")).is_none());
        let b = inherited.claim(&at("other")).expect("the same file");
        assert_eq!(b.path(), Some(at("b")));
        assert!(inherited.claim(&at("b")).is_none(), "once");
        let a = inherited.claim(&at("a")).expect("passed");
        drop((a, b));
        assert!(at("a").exists() && at("b").exists(), "A3");
        inherited.close();
        assert!(UnixStream::connect(at("c")).is_err(), "A4");
    }

    #[test]
    fn what_is_not_what_it_is_said_to_be_is_refused_by_name() {
        // Far above what a test has open.
        let high = (FIRST..1_000_000)
            .rev()
            .find(|fd| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err());
        let why = entrance::adopt(high.expect("a free number")).expect_err("not open");
        let text = EntranceError::Activation(3, "gold".to_owned(), why.to_string()).to_string();
        assert!(
            text.contains("gold") && text.contains("LISTEN_FDS") && !text.contains('\n'),
            "{text}"
        );
    }
}
