//! The daemon under test.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Session;
use super::disk::Disk;
use super::process::Process;

/// Within this time a daemon listens, or the test has failed.
const START: Duration = Duration::from_secs(10);
/// Within this time after SIGTERM a daemon without work ends. It promises one second; the rest
/// is for a machine that is busy with something else.
const END: Duration = Duration::from_secs(5);

/// A running daemon that serves one image.
pub(crate) struct Daemon {
    process: Process,
    socket: PathBuf,
    foreign: bool,
}

impl Daemon {
    /// Starts it with `--socket-path` and `--blk-file` for `disk` and the further `options`, and
    /// waits until it listens. `name` makes its socket and log distinct.
    pub(crate) fn start(session: &Session, name: &str, disk: &Disk, options: &[&str]) -> Self {
        let socket = session.socket(name);
        let mut arguments = vec![
            format!("--socket-path={}", socket.display()),
            format!("--blk-file={}", disk.path().display()),
        ];
        arguments.extend(options.iter().map(ToString::to_string));
        let stand_in = std::env::var_os("BLKMQ_DAEMON").map(PathBuf::from);
        let foreign = stand_in.is_some();
        let program =
            stand_in.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_vhost-user-blkmq")));
        let log = session.file(&format!("{name}.log"));
        let process = Process::start(name, &program, &arguments, log);
        let mut daemon = Daemon { process, socket, foreign };
        daemon.wait_until_listening();
        daemon
    }

    /// The socket's file appears when the daemon listens: that is its promise.
    fn wait_until_listening(&mut self) {
        let end = Instant::now() + START;
        while !self.socket.exists() {
            self.assert_alive();
            assert!(Instant::now() < end, "the daemon does not listen: {}", self.process.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the daemon is another one than ours (see `BLKMQ_DAEMON`).
    pub(crate) fn foreign(&self) -> bool {
        self.foreign
    }

    /// Asserts that it still runs.
    pub(crate) fn assert_alive(&mut self) {
        assert!(self.process.alive(), "the daemon ended: {}", self.process.output());
    }

    /// SIGHUP: it takes the size of its image anew.
    pub(crate) fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// SIGKILL: it does nothing any more.
    pub(crate) fn kill(mut self) {
        self.assert_alive();
        self.process.kill();
    }

    /// Ends it with SIGTERM: it must go at once and with status 0.
    pub(crate) fn finish(mut self) {
        self.assert_alive();
        if self.foreign {
            // How a peer ends is not the subject.
            return self.process.kill();
        }
        self.process.terminate();
        let status = self.process.ended(END).expect("the daemon ignores SIGTERM");
        assert!(status.success(), "the daemon ended with {status}: {}", self.process.output());
    }
}
