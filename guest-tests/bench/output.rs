//! The whole run for programs: JSON, with the machine that it ran on.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::args::{Args, Seats};
use super::bar::Outcome;
use super::plot;
use super::scene::Pace;

/// What it ran on, as far as it explains figures.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    qemu_storage_daemon: Option<String>,
}

impl Machine {
    pub(crate) fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let model = first_after(&read("/proc/cpuinfo"), "model name");
        let version = Command::new("qemu-storage-daemon").arg("--version").output();
        Machine {
            cpu: model.unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            qemu_storage_daemon: version.ok().and_then(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().next().map(str::to_owned)
            }),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let peer = self.qemu_storage_daemon.as_deref().unwrap_or("no qemu-storage-daemon");
        format!("{} CPUs ({}), Linux {}, {peer}", self.cpus, self.cpu, self.kernel)
    }
}

/// What stands after `name` and a colon in its first line.
fn first_after(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

#[derive(Serialize)]
struct Report<'a> {
    machine: &'a Machine,
    seats: &'a Seats,
    pace: &'a Pace,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

fn json(machine: &Machine, seats: &Seats, pace: &Pace, outcome: &Outcome) -> String {
    let report = Report { machine, seats, pace, outcome };
    serde_json::to_string_pretty(&report).expect("plain data")
}

/// Writes the files that are asked for, and says which.
pub(crate) fn write(args: &Args, machine: &Machine, outcome: &Outcome) -> Result<(), String> {
    let put = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    if let Some(path) = &args.json {
        put(path, &json(machine, &args.seats()?, &args.pace(), outcome))?;
    }
    if let Some(path) = &args.svg {
        put(path, &plot::svg(&outcome.cells, &machine.line()))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::super::bar::testing::{cell, series};
    use super::*;

    #[test]
    fn json_has_every_round_of_everyone() {
        let cells = vec![cell(vec![series("ours", &[10.0, 20.0]), series("raw", &[5.0, 6.0])])];
        let outcome = Outcome { cells, ..Outcome::default() };
        let pace = Pace { rounds: 2, seconds: 0.5, poll: false };
        let seats = Seats { client: vec![0], backend: vec![1] };
        let text = json(&Machine::this(), &seats, &pace, &outcome);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let at = |pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/cells/0/series/0/rounds/1/iops"), 20_000.0);
        assert_eq!(at("/cells/0/series/1/raw"), true);
        assert_eq!(at("/cells/0/load/pattern"), "randread");
        assert_eq!(at("/seats/backend/0"), 1);
        assert_eq!(at("/pace/rounds"), 2);
        assert!(at("/machine/cpus").as_u64().is_some_and(|n| n > 0));
        assert!(at("/rows").as_array().is_some_and(Vec::is_empty));
    }

    #[test]
    fn the_machine_has_a_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(first_after(text, "model name").as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(first_after(text, "nothing"), None);
        let line = Machine::this().line();
        assert!(line.contains(" CPUs (") && line.contains("Linux "), "{line}");
    }
}
