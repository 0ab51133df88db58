//! Shell text run inside the guest, over the serial line that `scripts/guest/agent` serves.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a command printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Done {
    /// Exit status of the shell.
    pub(crate) status: i32,
    /// stdout and stderr together.
    pub(crate) output: String,
}

/// A command that runs in the guest; [`Agent::join`] waits for it.
#[must_use]
#[derive(Debug)]
pub(crate) struct Job {
    id: u64,
    script: String,
}

/// The line to the guest's agent.
pub(crate) struct Agent {
    to: Box<dyn Write + Send>,
    lines: Receiver<String>,
    next: u64,
    /// The last lines that came, for the report of a failure.
    heard: Vec<String>,
}

impl Agent {
    /// Speaks over these two ends. The guest need not be up yet.
    pub(crate) fn new(from: impl Read + Send + 'static, to: impl Write + Send + 'static) -> Self {
        let (sender, lines) = channel();
        // Ends with the line.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(length) if length > 0) {
                let line =
                    String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_string();
                bytes.clear();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Agent { to: Box::new(to), lines, next: 1, heard: Vec::new() }
    }

    /// Waits until the guest is up (again) and gives the id of this boot.
    pub(crate) fn ready(&mut self, within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            if let Some(boot) = self.line(end, "the guest to come up").strip_prefix("@READY ") {
                return boot.to_string();
            }
        }
    }

    /// Starts `script` in the background of the guest.
    pub(crate) fn start(&mut self, script: &str) -> Job {
        let id = self.next;
        self.next += 1;
        writeln!(self.to, "start {id} {}", base64(script.as_bytes()))
            .expect("the line to the guest");
        Job { id, script: script.to_string() }
    }

    /// Waits for a job's end.
    #[allow(clippy::needless_pass_by_value, reason = "a job is joined once")]
    pub(crate) fn join(&mut self, job: Job, within: Duration) -> Done {
        writeln!(self.to, "join {}", job.id).expect("the line to the guest");
        let end = Instant::now() + within;
        let waited_for = format!("the end of: {}", job.script);
        let (begin, done) = (format!("@OUT {}", job.id), format!("@END {} ", job.id));
        while self.line(end, &waited_for) != begin {}
        let mut output = String::new();
        loop {
            let line = self.line(end, &waited_for);
            if let Some(status) = line.strip_prefix(&done) {
                // The agent ends the output with a line end of its own.
                output.pop();
                return Done { status: status.parse().expect("an exit status"), output };
            }
            output.push_str(&line);
            output.push('\n');
        }
    }

    /// Runs `script` to its end; whatever its status.
    pub(crate) fn attempt(&mut self, script: &str, within: Duration) -> Done {
        let job = self.start(script);
        self.join(job, within)
    }

    /// Runs `script` (under `set -e`), which must succeed, and gives what it printed.
    pub(crate) fn run(&mut self, script: &str, within: Duration) -> String {
        let done = self.attempt(&format!("set -e\n{script}"), within);
        assert_eq!(done.status, 0, "in the guest: {script}\n{}", done.output);
        done.output.trim_end().to_string()
    }

    fn line(&mut self, end: Instant, waited_for: &str) -> String {
        match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if self.heard.len() == 20 {
                    self.heard.remove(0);
                }
                self.heard.push(line.clone());
                line
            }
            Err(RecvTimeoutError::Timeout) => {
                panic!("waited too long for {waited_for}\nlast heard: {:#?}", self.heard)
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the guest went away during {waited_for}\nlast heard: {:#?}", self.heard)
            }
        }
    }
}

/// RFC 4648, with padding: so any script is one word on the line.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = ALPHABET[(bits >> shift & 63) as usize];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[test]
fn base64_pads_as_rfc_4648_shows() {
    let shown = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
    for (plain, coded) in shown {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
}
