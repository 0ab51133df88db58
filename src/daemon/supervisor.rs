//! What a service manager is told, and what it asks for: the protocol of sd_notify(3), in which a
//! datagram of `NAME=VALUE` lines goes to the socket that `NOTIFY_SOCKET` names.
//!
//! * N1 Without `NOTIFY_SOCKET` nothing is said; without `WATCHDOG_USEC` nothing is to be said again and
//!   again, and an idle process is not woken.
//! * N2 A manager that does not listen holds us up for [`PATIENCE`] at most, and is no reason to fail.
//! * N3 The connection is made at the start, so that nothing has to be opened later.
//!
//! No crate: those that there are wrap the same fifteen lines, and none makes N3 possible.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use log::{debug, warn};

/// How long a message may wait for room (N2).
const PATIENCE: Duration = Duration::from_millis(200);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says, which `get` looks up; `pid` is ours.
    pub(super) fn new(get: impl Fn(&str) -> Option<OsString>, pid: u32) -> Supervisor {
        let Some(address) = get("NOTIFY_SOCKET") else { return Supervisor::default() };
        let socket = match connect(&address) {
            Ok(socket) => Some(socket),
            Err(why) => {
                warn!("NOTIFY_SOCKET={}: {why}; nobody is told", address.display());
                None
            }
        };
        let number = |name| get(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        // Meant for somebody else who started us: not inherited on purpose.
        let ours = number("WATCHDOG_PID").is_none_or(|of| of == u64::from(pid));
        let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && ours);
        let watchdog = micros.map(Duration::from_micros).filter(|_| socket.is_some());
        Supervisor { socket, watchdog }
    }

    /// How often [`alive`](Supervisor::alive) has to be said: twice as often as the manager wants to hear
    /// it, as sd_watchdog_enabled(3) advises. `None`: never.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Everything is open and served (again).
    pub(super) fn ready(&self) {
        self.say("READY=1\n");
    }

    /// What was asked for by SIGHUP begins; ends with [`ready`](Supervisor::ready).
    pub(super) fn reloading(&self) {
        // Which of two reloads the next READY=1 belongs to is told by the time.
        let now = crate::sys::clock::now().0 / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now}\n"));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    /// The control loop turns.
    pub(super) fn alive(&self) {
        self.say("WATCHDOG=1\n");
    }

    fn say(&self, lines: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(why) = socket.send(lines.as_bytes()) {
            debug!("the service manager was not told {}: {why}", lines.trim_end()); // N2
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(Path::new(address))?,
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use super::*;

    /// A manager that listens, and what it puts into the environment.
    fn manager(more: &[(&str, &str)]) -> (tempfile::TempDir, UnixDatagram, Supervisor) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a free name");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("open");
        let path = path.into_os_string();
        let mut env: HashMap<String, OsString> = HashMap::new();
        env.insert("NOTIFY_SOCKET".to_owned(), path);
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        let supervisor = Supervisor::new(|name| env.get(name).cloned(), 77);
        (dir, socket, supervisor)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let n = socket.recv(&mut bytes).expect("something was said");
        String::from_utf8(bytes[..n].to_vec()).expect("text")
    }

    #[test]
    fn everything_is_said_in_the_managers_words() {
        let (_dir, socket, supervisor) = manager(&[]);
        supervisor.ready();
        assert_eq!(heard(&socket), "READY=1\n");
        supervisor.stopping();
        assert_eq!(heard(&socket), "STOPPING=1\n");
        supervisor.alive();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        supervisor.reloading();
        let lines = heard(&socket);
        let time = lines.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&lines);
        let first: u64 = time.trim_end().parse().expect("microseconds");
        supervisor.reloading();
        let lines = heard(&socket);
        let time = lines.rsplit('=').next().expect("a value").trim_end();
        assert!(time.parse::<u64>().expect("microseconds") >= first);
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("blkmq-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        let at = format!("@{name}");
        let get = |wanted: &str| (wanted == "NOTIFY_SOCKET").then(|| at.clone().into());
        Supervisor::new(get, 1).ready();
        assert_eq!(heard(&socket), "READY=1\n");
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_is_hungry() {
        let interval = |env: &[(&str, &str)]| manager(env).2.interval();
        let half = Some(Duration::from_millis(1500));
        assert_eq!(interval(&[("WATCHDOG_USEC", "3000000")]), half);
        assert_eq!(interval(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "77")]), half);
        assert_eq!(interval(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "78")]), None);
        for odd in ["0", "", "soon", "-1"] {
            assert_eq!(interval(&[("WATCHDOG_USEC", odd)]), None, "{odd}");
        }
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn without_a_manager_nobody_is_told_and_nothing_fails() {
        let nobody = Supervisor::new(|_| None, 1);
        nobody.ready();
        assert_eq!(nobody.interval(), None);
        for odd in ["", "vsock:2:1", "/nonexistent/notify"] {
            let get = |name: &str| {
                [("NOTIFY_SOCKET", odd), ("WATCHDOG_USEC", "1000000")]
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.into())
            };
            let supervisor = Supervisor::new(get, 1);
            supervisor.ready();
            assert_eq!(supervisor.interval(), None, "{odd}: nobody would hear it");
        }
    }

    #[test]
    fn a_manager_that_does_not_listen_holds_nobody_up() {
        let (_dir, socket, supervisor) = manager(&[]);
        let begin = Instant::now();
        let full = loop {
            let before = begin.elapsed();
            supervisor.alive();
            let took = begin.elapsed() - before;
            if took >= PATIENCE / 2 {
                break took;
            }
        };
        assert!(full < 100 * PATIENCE, "{full:?}");
        drop(socket);
        supervisor.ready();
    }
}
