//! A service manager starts it: sockets that are there already, and what it says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::MIB;
use crate::common::admin::Admin;
use crate::common::client::{Client, Wish, serves};
use crate::common::daemon::{Daemon, PATIENCE, Scratch, eventually, finish, listens, program};
use crate::common::{foreign, note};

/// Runs the program with these sockets as a manager passes them: from descriptor 3 on, meant for it.
fn activated(sockets: [&UnixListener; 2], meant: &str, options: &[String]) -> Command {
    let duplicate = |socket: &UnixListener| {
        Stdio::from(OwnedFd::from(socket.try_clone().expect("a duplicate")))
    };
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID={meant} LISTEN_FDS=2 \
         LISTEN_FDNAMES=one:two exec \"$0\" \"$@\""
    );
    command.arg("-c").arg(script).arg(program()).args(options);
    command.stdin(duplicate(sockets[0])).stdout(duplicate(sockets[1])).stderr(Stdio::piped());
    command
}

fn listener(path: &Path) -> UnixListener {
    UnixListener::bind(path).expect("a free name")
}

/// Ends it by SIGTERM; it has to end well.
fn end(mut child: Child) -> String {
    foreign::kill(child.id(), libc::SIGTERM);
    let mut status = None;
    assert!(eventually(PATIENCE, || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    }));
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
    }
    assert!(status.expect("it has ended").success(), "{said}");
    said
}

#[test]
fn passed_sockets_go_to_whoever_has_their_path() {
    let scratch = Scratch::new();
    let (disk, admin) = (scratch.path("disk.sock"), scratch.path("admin.sock"));
    let sockets = [listener(&admin), listener(&disk)];
    let options = [
        format!("--socket-path={}", disk.display()),
        format!("--blk-file={}", scratch.image(MIB).display()),
        format!("--admin-socket={}", admin.display()),
    ];
    let child = activated([&sockets[0], &sockets[1]], "$$", &options).spawn().expect("a shell");
    serves(&disk);
    let disks = Admin::connect(&admin).call("disk.list", &json!({}));
    assert_eq!(disks["disks"][0]["sectors"], MIB / 512);
    let said = end(child);
    assert!(said.contains("passed by the service manager as two"), "{said}");
    assert!(disk.exists() && admin.exists(), "the files are the manager's");
    // Nobody has lost his place in the line: the manager starts it again for the next front-end.
    let waiting = std::os::unix::net::UnixStream::connect(&disk).expect("it listens");
    let child = activated([&sockets[0], &sockets[1]], "$$", &options).spawn().expect("a shell");
    drop(waiting);
    serves(&disk);
    end(child);
}

#[test]
fn sockets_for_somebody_else_are_not_touched() {
    let scratch = Scratch::new();
    let (disk, other) = (scratch.path("disk.sock"), scratch.path("other.sock"));
    let sockets = [listener(&disk), listener(&other)];
    let options = [
        format!("--socket-path={}", disk.display()),
        format!("--blk-file={}", scratch.image(MIB).display()),
    ];
    // It must not serve on it, and so the path is somebody else's.
    let ended = finish(activated([&sockets[0], &sockets[1]], "1", &options));
    assert!(!ended.status.success() && ended.stderr.contains("already served"), "{ended:?}");
}

#[test]
fn a_passed_descriptor_that_is_no_socket_is_refused() {
    let scratch = Scratch::new();
    let disk = scratch.path("disk.sock");
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"");
    command.arg(program()).arg(format!("--socket-path={}", disk.display()));
    command.arg(format!("--blk-file={}", scratch.image(MIB).display()));
    let ended = finish(command);
    assert!(!ended.status.success() && ended.stderr.contains("LISTEN_FDS"), "{ended:?}");
    assert!(!disk.exists());
}

#[test]
fn systemd_socket_activate_starts_it_for_the_first_front_end() {
    let scratch = Scratch::new();
    let disk = scratch.path("disk.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&disk).arg(program());
    command.arg(format!("--socket-path={}", disk.display()));
    command.arg(format!("--blk-file={}", scratch.image(MIB).display()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        note("systemd-socket-activate is not installed: only our own imitation of it was shown");
        return;
    };
    assert!(eventually(PATIENCE, || listens(&disk)));
    serves(&disk);
    end(child);
    assert!(disk.exists(), "the file is the manager's");
}

/// A manager that listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(scratch: &Scratch) -> Manager {
        let path = scratch.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a free name");
        socket.set_read_timeout(Some(PATIENCE)).expect("open");
        Manager { socket, path }
    }

    /// The next message, by name.
    fn hears(&self) -> BTreeMap<String, String> {
        let mut bytes = [0; 400];
        let n = self.socket.recv(&mut bytes).expect("something is said in time");
        let text = String::from_utf8(bytes[..n].to_vec()).expect("text");
        let pair = |line: &str| {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            (name.to_owned(), value.to_owned())
        };
        text.lines().map(pair).collect()
    }

    fn hears_only(&self, name: &str) {
        assert_eq!(self.hears(), BTreeMap::from([(name.to_owned(), "1".to_owned())]));
    }

    fn starts(&self, scratch: &Scratch, image: &Path, more: &[(&str, &str)]) -> Daemon {
        let socket = scratch.unique(".sock");
        let mut command = Command::new(program());
        command.arg(format!("--socket-path={}", socket.display()));
        command.arg(format!("--blk-file={}", image.display()));
        command.env("NOTIFY_SOCKET", &self.path).envs(more.iter().copied());
        Daemon::spawn(scratch, command, socket)
    }
}

#[test]
fn the_manager_hears_of_the_beginning_of_reloads_and_of_the_end() {
    let scratch = Scratch::new();
    let (manager, image) = (Manager::new(&scratch), scratch.image(MIB));
    let daemon = manager.starts(&scratch, &image, &[]);
    manager.hears_only("READY");
    fs::File::options().write(true).open(&image).and_then(|f| f.set_len(2 * MIB)).expect("room");
    daemon.signal(libc::SIGHUP);
    let reload = manager.hears();
    assert_eq!(reload["RELOADING"], "1");
    assert!(reload["MONOTONIC_USEC"].parse::<u64>().is_ok_and(|time| time > 0), "{reload:?}");
    manager.hears_only("READY");
    // Ready means done: the disk has its new size.
    let client = Client::connect(daemon.socket(), Wish::queues(1));
    assert_eq!(client.capacity(), 2 * MIB);
    drop(client);
    daemon.signal(libc::SIGTERM);
    manager.hears_only("STOPPING");
    daemon.stop();
}

#[test]
fn the_watchdog_hears_of_it_in_time_and_nobody_else_does() {
    let scratch = Scratch::new();
    let (manager, image) = (Manager::new(&scratch), scratch.image(MIB));
    let begin = Instant::now();
    let daemon = manager.starts(&scratch, &image, &[("WATCHDOG_USEC", "400000")]);
    manager.hears_only("READY");
    let mut count = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        manager.hears_only("WATCHDOG");
        count += 1;
    }
    // The first comes at once, the others 200 ms apart; fewer only on a machine that is too busy.
    let most = begin.elapsed().as_millis() / 200 + 1;
    assert!(count >= 3 && count <= most, "{count} times, {most} at most");
    daemon.stop();

    while manager.socket.set_nonblocking(true).is_ok() && manager.socket.recv(&mut [0; 99]).is_ok()
    {
    }
    manager.socket.set_nonblocking(false).expect("open");
    let daemon = manager.starts(&scratch, &image, &[]);
    manager.hears_only("READY");
    let silent = Duration::from_millis(700);
    assert!(!foreign::readable(manager.socket.as_raw_fd(), silent));
    daemon.stop();
}
