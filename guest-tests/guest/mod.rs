//! What the tests with a real guest share: the daemon under test, disk images, a QEMU or
//! User-mode Linux guest, and a way to run shell text inside that guest.
//!
//! Every test takes [`Session::start`] first. It makes the guest's kernel, initramfs and boot
//! disk once (`scripts/guest-image`) and holds the machine for this test alone: guests under
//! emulation need all of it. What a test proved it says with [`Session::proved`].
//!
//! Environment: `BLKMQ_DAEMON=PATH` runs another daemon than the one just built (it gets the
//! same options); `BLKMQ_ACCEL=kvm` or `tcg` decides what `scripts/guest-accel` finds out otherwise.

pub(crate) mod agent;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod fio;
pub(crate) mod process;
pub(crate) mod qmp;
pub(crate) mod uml;
pub(crate) mod vm;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// One test's hold on the machine, and its scratch directories.
pub(crate) struct Session {
    name: &'static str,
    begun: Instant,
    /// Sockets: a short path, because a socket's path has at most 107 bytes.
    sockets: tempfile::TempDir,
    /// Images and logs: on a real file system, because tmpfs may refuse O_DIRECT.
    scratch: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Session {
    /// Waits until no other guest test runs, and sees to it that the guest files exist.
    pub(crate) fn start(name: &'static str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        static MADE: OnceLock<()> = OnceLock::new();
        // A test that failed before says nothing about this one.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        MADE.get_or_init(|| drop(run_script("guest-image").expect("scripts/guest-image")));
        Session {
            name,
            begun: Instant::now(),
            sockets: tempfile::Builder::new()
                .prefix("blkmq")
                .tempdir()
                .expect("a directory in /tmp"),
            scratch: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                .expect("a scratch directory"),
            _alone: alone,
        }
    }

    /// A path for a socket of this test.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// A path for an image or a log of this test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Prints, also without `--nocapture`, what this test has shown to be true.
    pub(crate) fn proved(&self, what: &str) {
        say(&format!("{} [{:.1} s]: {what}", self.name, self.begun.elapsed().as_secs_f64()));
    }
}

/// Prints one line past libtest's capturing.
pub(crate) fn say(line: &str) {
    // Nobody reads it if stderr is closed: nothing to do about it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A file that `scripts/guest-image` or `scripts/uml-image` made.
pub(crate) fn made(name: &str) -> PathBuf {
    repository().join("target/guest").join(name)
}

/// The same as text, without the line end.
pub(crate) fn made_text(name: &str) -> String {
    let path = made(name);
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_string()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What QEMU runs guests with here: "kvm" or "tcg". Found out once.
pub(crate) fn accelerator() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| run_script("guest-accel").expect("scripts/guest-accel"))
}

/// Why a script did not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Its exit status; none if it could not be started or was killed.
    pub(crate) status: Option<i32>,
    /// What it said.
    pub(crate) text: String,
}

/// Runs a script of `scripts/` and gives its stdout.
pub(crate) fn run_script(name: &str) -> Result<String, Failure> {
    let output = Command::new(repository().join("scripts").join(name)).output();
    let output = output.map_err(|error| Failure { status: None, text: error.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(Failure { status: output.status.code(), text })
}
