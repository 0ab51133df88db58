//! A test that holds the source against the architecture: arrows, budgets, and the unsafe room.
//!
//! The rules, each checked over the real tree and each shown to fail on a small bad one:
//! * Y1 Nothing points up: a room names only the rooms that [`ARROWS`] allows.
//! * Y2 The core is pure: `blkmq` names no clock, thread, file, log or system call.
//! * Y3 `unsafe` stands in `sys` and `testkit` only.
//! * Y4 Only `main.rs` prints or exits.
//! * Y5 A file has at most 500 lines of production, a function at most 70.
//! * Y6 Every file belongs to the program (some `mod` names it) and begins by saying what it is.
//! * Y7 Source is ASCII, so that what is read is what is compiled.
//! * Y8 Tests are at least 0.8 of production, in lines of code.
//!
//! Test code is what `#[cfg(test)]` guards, as an item or as a file; Y1, Y2, Y4 and Y5 leave it
//! alone. This room itself counts as neither.

mod rules;
mod source;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;

use rules::Report;

/// What each room may name of the others. A longer path allows only that part.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["config", "daemon"]),
    (
        "config",
        &[
            "image::CacheMode",
            "image::MAX_BLOCK_SIZE",
            "blkmq::limits",
            "blkmq::sched",
            "block::OnError",
        ],
    ),
    (
        "daemon",
        &[
            "config",
            "control",
            "device",
            "image",
            "sys",
            "blkmq::ErrorPolicy",
            "blkmq::FlushGate",
            "blkmq::FlushPolicy",
            "blkmq::limits",
            "blkmq::sched",
            "blkmq::stats",
            "blkmq::Gauges",
            "blkmq::Overdue",
            "blkmq::Stage",
            "block",
        ],
    ),
    (
        "control",
        &[
            "device::mailbox",
            "device::Disk",
            "device::config_space",
            "device::inflight",
            "device::virtqueue::RingSetup",
            "device::MAX_QUEUES",
            "device::tuning",
            "blkmq::limits",
            "blkmq::sched",
            "blkmq::stats",
            "sys",
            "block",
        ],
    ),
    ("device", &["blkmq", "image", "sys", "block"]),
    ("blkmq", &["block"]),
    ("image", &["block", "sys"]),
    ("sys", &["block::Tag", "block::Nanos"]),
    ("block", &[]),
];

/// What the core may not name (Y2): whatever has an effect or an answer of its own.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "libc",
    "log",
    "vmm_sys_util",
    "vm_memory",
    "io_uring",
];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
/// Tests per production line, in hundredths.
const MIN_TEST_PERCENT: usize = 80;

/// Files by path, `/` between the parts.
type Files = BTreeMap<String, String>;

/// Every `.rs` file below `root/dir`.
fn read(root: &Path, dir: &str, files: &mut Files) {
    let entries = match std::fs::read_dir(root.join(dir)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => panic!("{dir}: {e}"),
    };
    for entry in entries {
        let entry = entry.expect("a readable directory");
        let name = entry.file_name().into_string().expect("names are text");
        let path = format!("{dir}/{name}");
        if entry.file_type().expect("a readable directory").is_dir() {
            read(root, &path, files);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(root.join(&path)).expect("source is UTF-8");
            files.insert(path, text);
        }
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    read(root, "src", &mut files);
    read(root, "guest-tests", &mut files);
    let Report { faults, production, tests } = rules::check(&files);
    let weight = format!("{production} lines of production, {tests} of tests");
    assert!(faults.is_empty(), "{weight}\n{}\n", faults.join("\n"));
}

#[cfg(test)]
mod tests;
