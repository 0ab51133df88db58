//! A child process whose output goes to a file, that never outlives its test, and whose last
//! words are shown when the test fails.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::say;

/// Lines of a log that are shown when a test fails.
const LAST_WORDS: usize = 40;

/// A running child. Dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with stdout and stderr in the file `log`.
    ///
    /// It runs under `setpriv --pdeathsig`, so that it also dies with a test that is killed.
    pub(crate) fn start(name: &str, program: &Path, arguments: &[String], log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log file");
        let mut command = Self::command(program, arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("dup")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Process { name: name.to_string(), child, log }
    }

    /// The same with stdin and stdout as pipes; only stderr goes to `log`.
    pub(crate) fn start_piped(
        name: &str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> (Self, ChildStdin, ChildStdout) {
        let file = File::create(&log).expect("a log file");
        let mut command = Self::command(program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let input = child.stdin.take().expect("a piped stdin");
        let output = child.stdout.take().expect("a piped stdout");
        (Process { name: name.to_string(), child, log }, input, output)
    }

    fn command(program: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command
    }

    /// The process id; `setpriv` replaces itself, so it is the program's own.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// A signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.expect("sh").success(), "{} is gone already", self.name);
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + within;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that it printed so far.
    pub(crate) fn output(&self) -> String {
        read_lossy(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show_last_words(&self.name, &self.log);
        }
    }
}

/// Prints the end of a log.
pub(crate) fn show_last_words(name: &str, log: &Path) {
    let text = read_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    say(&format!("--- the end of what {name} printed ({} lines)", lines.len()));
    for line in lines.iter().skip(lines.len().saturating_sub(LAST_WORDS)) {
        say(&format!("    {}", line.escape_debug()));
    }
}

fn read_lossy(path: &Path) -> String {
    let mut bytes = Vec::new();
    // A log that is not there yet is an empty one.
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a host command to its end and gives its stdout; anything but success is a panic.
pub(crate) fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", concat!("/usr/local/sbin:/usr/local/bin:", "/usr/sbin:/usr/bin:/sbin:/bin"))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    if !output.status.success() {
        // Both streams: some tools explain themselves on stdout.
        let _ = std::io::stderr().write_all(&output.stdout);
        let _ = std::io::stderr().write_all(&output.stderr);
        panic!("{program} {arguments:?}: {}", output.status);
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}
