//! A small QMP client: commands, and the events that come between the replies.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A reply may take long: stopping a device drains it.
const REPLY: Duration = Duration::from_secs(60);

/// A connection in command mode.
pub(crate) struct Qmp {
    stream: UnixStream,
    lines: Receiver<Value>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Takes the greeting and enters command mode.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let reader = BufReader::new(stream.try_clone().expect("dup"));
        let (sender, lines) = channel();
        // Ends with the connection.
        std::thread::spawn(move || {
            for line in reader.lines() {
                let Ok(line) = line else { return };
                let Ok(value) = serde_json::from_str(&line) else { continue };
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let mut qmp = Qmp { stream, lines, events: VecDeque::new() };
        let greeting = qmp.lines.recv_timeout(REPLY).expect("QEMU's greeting");
        assert!(greeting.get("QMP").is_some(), "not a greeting: {greeting}");
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    /// Runs a command that must succeed and gives what it returned.
    pub(crate) fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.try_run(command, arguments).unwrap_or_else(|error| panic!("QMP {command}: {error}"))
    }

    /// Runs a command; the error is QEMU's own text.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers write the arguments as json!({..}) in place"
    )]
    pub(crate) fn try_run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").map_err(|error| error.to_string())?;
        let end = Instant::now() + REPLY;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut value = self.lines.recv_timeout(left).map_err(|error| error.to_string())?;
            if value.get("event").is_some() {
                self.events.push_back(value);
            } else if let Some(error) = value.get("error") {
                return Err(error["desc"].as_str().unwrap_or("no description").to_string());
            } else {
                return Ok(value["return"].take());
            }
        }
    }

    /// Waits for an event of this name, whatever else comes. An event that came earlier and was
    /// not asked for yet counts.
    pub(crate) fn event(&mut self, name: &str, within: Duration) -> Value {
        let end = Instant::now() + within;
        loop {
            if let Some(found) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(found).expect("just found");
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(value) => self.events.push_back(value),
                Err(error) => panic!("no event {name} within {within:?}: {error}"),
            }
        }
    }
}
