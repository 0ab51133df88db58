//! The whole life cycle in this process, with the null image and a real vhost-user front-end.

use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

use super::*;
use crate::config::{Command, from_argv};

/// Far longer than anything here takes: only a defect waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(options: &[String]) -> Config {
    let argv: Vec<_> = std::iter::once("vhost-user-blkmq".to_owned())
        .chain(options.iter().cloned())
        .map(Into::into)
        .collect();
    match from_argv(&argv) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{options:?} gave {other:?}"),
    }
}

struct Running {
    dir: tempfile::TempDir,
    raise: UnixStream,
    thread: JoinHandle<Result<(), DaemonError>>,
}

impl Running {
    fn start(options: &[&str]) -> Running {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = format!("--socket-path={}", dir.path().join("s").display());
        let mut all = vec![socket];
        all.extend(options.iter().map(|o| (*o).to_owned()));
        Running::with(dir, &all, None)
    }

    fn with(dir: tempfile::TempDir, options: &[String], adopted: Option<Entrance>) -> Running {
        let config = config(options);
        let (signals, raise) = Signals::pretend();
        let ways = Ways { adopted: vec![adopted], ..Ways::default() };
        let thread = std::thread::spawn(move || serve(&config, ways, &signals, &Arc::default()));
        Running { dir, raise, thread }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Connects as soon as the socket is there.
    fn connect(&self) -> UnixStream {
        let begin = std::time::Instant::now();
        loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).expect("open");
                    return stream;
                }
                Err(e) => assert!(begin.elapsed() < PATIENCE && !self.thread.is_finished(), "{e}"),
            }
            std::thread::yield_now();
        }
    }

    fn stop(mut self) -> Result<(), DaemonError> {
        self.raise.write_all(&Signals::siginfo(libc::SIGTERM)).expect("room");
        self.end()
    }

    fn end(self) -> Result<(), DaemonError> {
        let ended = self.thread.join().expect("no panic");
        assert!(!self.dir.path().join("s").exists(), "the socket's file is gone");
        ended
    }
}

/// A front-end that gets an answer.
fn greet(stream: UnixStream) -> Frontend {
    let frontend = Frontend::from_stream(stream, 1);
    frontend.set_owner().expect("sent");
    assert_ne!(frontend.get_features().expect("an answer"), 0);
    frontend
}

#[test]
fn front_ends_come_and_go_until_the_signal() {
    let daemon = Running::start(&["--blk-file=null:1M", "--threads=2"]);
    for _ in 0..5 {
        drop(greet(daemon.connect()));
    }
    let _connected = greet(daemon.connect());
    daemon.stop().expect("a good end");
}

#[test]
fn a_connected_socket_is_served_until_it_ends() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let fd = theirs.into_raw_fd();
    let adopted = entrance::adopt(fd).expect("connected");
    let options = [format!("--fd={fd}"), "--blk-file=null:1M".to_owned()];
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Running::with(dir, &options, Some(adopted));
    drop(greet(ours));
    daemon.end().expect("a good end");
}

#[test]
fn a_bad_message_ends_the_session_and_not_the_process() {
    let daemon = Running::start(&["--blk-file=null:1M"]);
    let mut stream = daemon.connect();
    stream.write_all(&[0xff; 12]).expect("sent");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
    drop(greet(daemon.connect()));
    daemon.stop().expect("a good end");
}

#[test]
fn what_fails_at_the_start_fails_before_the_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = format!("--blk-file={}", dir.path().join("none.img").display());
    for (option, word) in [
        (missing.as_str(), "none.img"),
        ("--blk-file=null:x", "null:x"),
        ("--cpus=1023", "--cpus"),
        ("--socket-group=no such group", "--socket-group"),
    ] {
        let image = if option.starts_with("--blk") { option } else { "--blk-file=null:1M" };
        let mut options = vec![image];
        if option != image {
            options.push(option);
        }
        let error = Running::start(&options).end().expect_err("it cannot start");
        let line = error.to_string();
        assert!(line.contains(word) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn a_taken_path_ends_the_threads_again() {
    let daemon = Running::start(&["--blk-file=null:1M"]);
    drop(greet(daemon.connect()));
    let socket = format!("--socket-path={}", daemon.socket().display());
    let options = [socket, "--blk-file=null:1M".to_owned(), "--threads=3".to_owned()];
    let (signals, _raise) = Signals::pretend();
    let ways = Ways { adopted: vec![None], ..Ways::default() };
    let ended = serve(&config(&options), ways, &signals, &Arc::default());
    let error = ended.expect_err("it is served");
    assert!(matches!(error, DaemonError::Entrance(EntranceError::Live(_))), "{error}");
    assert!(Path::new(&daemon.socket()).exists());
    daemon.stop().expect("a good end");
}
