//! Starts the program under test, watches what it holds, and ends it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_blkmq::sys::lock::is_held_by_others;

use super::foreign;

/// How long anything that should happen at once may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a state that has no event to wait for is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// The program under test. `BLKMQ_DAEMON` names another one with the same options.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("BLKMQ_DAEMON")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_vhost-user-blkmq")), PathBuf::from)
}

/// Looks every few milliseconds until `done` says so; `false` when patience ran out.
pub(crate) fn eventually(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(GLANCE);
    }
}

/// A directory of its own for every test, removed with it.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    counter: AtomicU32,
}

impl Scratch {
    /// A new empty directory below `TMPDIR`.
    pub(crate) fn new() -> Scratch {
        let dir = tempfile::Builder::new()
            .prefix("blkmq-")
            .tempdir()
            .expect("the temporary directory can be written");
        Scratch { dir, counter: AtomicU32::new(0) }
    }

    /// A path inside the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path that nobody else in this directory has.
    pub(crate) fn unique(&self, suffix: &str) -> PathBuf {
        self.path(&format!("{}{suffix}", self.counter.fetch_add(1, Ordering::Relaxed)))
    }

    /// A sparse image file of `size` bytes.
    pub(crate) fn image(&self, size: u64) -> PathBuf {
        let path = self.unique(".img");
        let file = File::create(&path).expect("an image can be created");
        file.set_len(size).expect("a sparse file can be grown");
        path
    }
}

/// What the daemon holds: the two numbers that a leak makes grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// Open descriptors.
    pub(crate) fds: usize,
    /// Private and file-backed resident memory, without guest memory shared with us (KiB).
    pub(crate) rss_kib: u64,
    /// Threads that it made.
    pub(crate) threads: usize,
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status.
    pub(crate) status: ExitStatus,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Daemon {
    /// Starts the program on `image` with more options; returns when its socket listens.
    pub(crate) fn start(scratch: &Scratch, image: &Path, options: &[&str]) -> Daemon {
        let socket = scratch.unique(".sock");
        let mut arguments = vec![
            format!("--socket-path={}", socket.display()),
            format!("--blk-file={}", image.display()),
        ];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let mut command = Command::new(program());
        command.args(&arguments);
        Daemon::spawn(scratch, command, socket)
    }

    /// Starts the program on a new sparse image of `size` bytes.
    pub(crate) fn on_new_image(
        scratch: &Scratch,
        size: u64,
        options: &[&str],
    ) -> (Daemon, PathBuf) {
        let image = scratch.image(size);
        (Daemon::start(scratch, &image, options), image)
    }

    /// Runs `command`, which will listen on `socket`; returns when it does.
    pub(crate) fn spawn(scratch: &Scratch, mut command: Command, socket: PathBuf) -> Daemon {
        let log = scratch.unique(".log");
        let left = made(&socket); // by a process that is gone
        let output = File::create(&log).expect("a log can be created");
        let error = output.try_clone().expect("a descriptor can be duplicated");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(error)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let mut daemon = Daemon { child, socket, log };
        let ready = eventually(PATIENCE, || {
            assert!(daemon.running(), "the daemon ended: {}", daemon.said());
            is_socket(&daemon.socket) && made(&daemon.socket) != left
        });
        assert!(ready, "it does not listen: {}", daemon.said());
        daemon
    }

    /// Ends it with SIGKILL and waits until nothing of it works on `image` any more: the kernel finishes
    /// what it was given, and keeps the image's locks until then (a successor would be refused). How
    /// long that took after the end of the process.
    pub(crate) fn kill(mut self, image: &Path) -> Duration {
        self.signal(libc::SIGKILL);
        self.wait(PATIENCE).expect("nothing survives that");
        let begin = Instant::now();
        await_unlocked(image);
        begin.elapsed()
    }

    /// Path of the vhost-user socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has not ended.
    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        foreign::kill(self.pid(), signal);
    }

    /// Waits for the end; `None` when it does not come in time.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let mut status = None;
        eventually(patience, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status
    }

    /// Ends it with SIGTERM and insists on success: no panic, nothing lost on the way out.
    pub(crate) fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let status = self.wait(PATIENCE).expect("SIGTERM ends the daemon");
        assert!(status.success(), "ended with {status}: {}", self.said());
    }

    /// What it holds now.
    pub(crate) fn vitals(&self) -> Vitals {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let fds = fs::read_dir(proc.join("fd")).expect("the daemon lives").count();
        // The kernel's own helpers of an io_uring come and go as it likes.
        let ours = |(_, name): &(u32, String)| !name.starts_with("iou-");
        let threads = self.threads().into_iter().filter(ours).count();
        let status = fs::read_to_string(proc.join("status")).expect("the daemon lives");
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|number| number.parse::<u64>().ok())
                .expect("the kernel prints this field")
        };
        Vitals { fds, rss_kib: field("RssAnon:") + field("RssFile:"), threads }
    }

    /// What it holds when nothing goes on any more: the same twice in a row.
    pub(crate) fn at_rest(&self) -> Vitals {
        let mut last = self.vitals();
        let calm = eventually(PATIENCE, || {
            thread::sleep(10 * GLANCE);
            let before = std::mem::replace(&mut last, self.vitals());
            before == last
        });
        assert!(calm, "it does not come to rest: {last:?}");
        last
    }

    /// Waits until descriptors and threads are back at `before`, and checks that memory did not
    /// grow by more than `slack_kib`.
    pub(crate) fn settles_at(&mut self, before: Vitals, slack_kib: u64) {
        let mut now = before;
        let calm = eventually(PATIENCE, || {
            assert!(self.running(), "the daemon died: {}", self.said());
            now = self.vitals();
            now.fds <= before.fds && now.threads <= before.threads
        });
        assert!(calm, "leaked: before {before:?}, now {now:?}, open: {:?}", self.open_files());
        assert!(
            now.rss_kib <= before.rss_kib + slack_kib,
            "memory grew: before {before:?}, now {now:?}"
        );
    }

    /// What its descriptors point at, for a failure message.
    pub(crate) fn open_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else {
            return Vec::new();
        };
        entries
            .filter_map(|e| fs::read_link(e.ok()?.path()).ok())
            .map(|target| target.display().to_string())
            .collect()
    }

    /// Numbers and names of its threads.
    pub(crate) fn threads(&self) -> Vec<(u32, String)> {
        let tasks = format!("/proc/{}/task", self.pid());
        let entries = fs::read_dir(tasks).expect("the daemon lives");
        entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = fs::read_to_string(path.join("comm")).ok()?;
                let number = path.file_name()?.to_str()?.parse().ok()?;
                Some((number, name.trim().to_owned()))
            })
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            super::note(&format!("the daemon said:\n{}", self.said()));
        }
        // It may have ended already; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until nobody holds QEMU's locks on the image ("writes", "lets nobody write").
pub(crate) fn await_unlocked(image: &Path) {
    let image = File::open(image).expect("the image is there");
    let held = |byte| is_held_by_others(image.as_fd(), byte).expect("asked");
    assert!(eventually(PATIENCE, || !held(101) && !held(201)), "who still has the image?");
}

/// Which file it is, and when it got its name (inode numbers are used again).
fn made(path: &Path) -> Option<(u64, i64, i64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.ino(), m.ctime(), m.ctime_nsec()))
}

/// Whether `path` is a socket. One of ours can be connected to as soon as it is there.
pub(crate) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Whether a program that binds its socket to `path` itself listens there, without connecting: a
/// connection is a front-end already. (Ours binds another name and renames it.)
pub(crate) fn listens(path: &Path) -> bool {
    // Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
    let table = fs::read_to_string("/proc/net/unix").expect("this is Linux");
    let path = path.to_str().expect("test paths are UTF-8");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000") && fields.nth(3) == Some(path)
    })
}

/// Runs the program to its end with these arguments; panics if it does not end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    let mut command = Command::new(program());
    command.args(arguments);
    finish(command)
}

/// Runs a command to its end and collects what it printed; panics if it does not end.
pub(crate) fn finish(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    // A program that prints a page fits the pipe, so nothing is read before the end.
    let ended = eventually(PATIENCE, || child.try_wait().expect("our child").is_some());
    if !ended {
        child.kill().expect("it still runs");
    }
    let output = child.wait_with_output().expect("its pipes can be read");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(ended, "{command:?} goes on: {stdout} {stderr}");
    Ended { status: output.status, stdout, stderr }
}
