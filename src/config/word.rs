//! What was said, before anybody has asked what it means: words, each with its place.
//!
//! The command line and the file say the same things in the same words, so both become these, and
//! one path of functions gives them their meaning. A word knows where it stands, and a refusal
//! names the key as it is spelled there: `--num-queues` or `num-queues`.

use std::ffi::OsString;
use std::fmt;

use super::error::{Fault, Refusal};

/// Where something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the command line.
    CommandLine,
    /// In this line of the file, from 1.
    Line(usize),
}

impl Place {
    /// A key as it is spelled in this place.
    pub(super) const fn key(self, name: &'static str) -> Key {
        Key { name, place: self }
    }

    /// How `name` would be given a text here, for remedies.
    pub(super) fn text(self, name: &str, value: &str) -> String {
        match self {
            Place::CommandLine => format!("--{name}={value}"),
            Place::Line(_) => format!("{name} = \"{value}\""),
        }
    }

    /// How `name` would be given a number here, for remedies.
    pub(super) fn number(self, name: &str, value: &str) -> String {
        match self {
            Place::CommandLine => format!("--{name}={value}"),
            Place::Line(_) => format!("{name} = {value}"),
        }
    }

    /// A fault that shows here.
    pub(super) const fn refuse(self, fault: Fault) -> Refusal {
        Refusal { place: self, fault }
    }

    /// The line, 0 for the command line.
    pub(super) const fn line(self) -> usize {
        match self {
            Place::CommandLine => 0,
            Place::Line(line) => line,
        }
    }
}

/// The name of an option or of a key, and where it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Without dashes before it.
    pub name: &'static str,
    /// Where.
    pub place: Place,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dashes = if self.place == Place::CommandLine { "--" } else { "" };
        write!(f, "{dashes}{}", self.name)
    }
}

/// A value as said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<T = String> {
    pub(super) key: Key,
    pub(super) text: T,
}

impl Word {
    /// The refusal of a value that its key does not take.
    pub(super) fn wrong(&self, expected: impl Into<String>) -> Refusal {
        wrong(self.key, &self.text, expected)
    }
}

/// The refusal of `value`, or of a part of it.
pub(super) fn wrong(key: Key, value: &str, expected: impl Into<String>) -> Refusal {
    key.place.refuse(Fault::Value { key, value: shown(value), expected: expected.into() })
}

/// What may follow a `NAME`, or stand alone: `KEY=VALUE` several times, of several lines perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pairs {
    /// The key that has them.
    pub(super) key: Key,
    /// The `NAME`; empty where none belongs.
    pub(super) head: String,
    /// In the order in which they were said.
    pub(super) pairs: Vec<Pair>,
}

/// One `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The key that has it, in the pair's own place.
    pub(super) key: Key,
    pub(super) name: String,
    pub(super) value: String,
}

impl Pair {
    /// The refusal of this pair.
    pub(super) fn wrong(&self, expected: impl Into<String>) -> Refusal {
        wrong(self.key, &format!("{}={}", self.name, self.value), expected)
    }
}

/// Everything that was said.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) log_level: Option<Word>,
    pub(super) admin_socket: Option<Word<OsString>>,
    pub(super) sandbox: Option<Word>,
    pub(super) user: Option<Word>,
    pub(super) pools: Vec<PoolWords>,
    pub(super) disks: Vec<DiskWords>,
}

/// A pool that was declared.
#[derive(Debug)]
pub(super) struct PoolWords {
    pub(super) place: Place,
    pub(super) name: Option<Word>,
    pub(super) settings: Settings,
}

/// What a pool decides; a disk without one says it itself.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) threads: Option<Word>,
    pub(super) cpus: Option<Word>,
    pub(super) scheduler: Option<Pairs>,
    pub(super) hw_depth: Option<Word>,
    pub(super) poll_max_us: Option<Word>,
    pub(super) nomerges: Option<Word>,
    pub(super) rotational: Option<Word>,
}

impl Settings {
    /// The first thing said, if anything was.
    pub(super) fn first(&self) -> Option<Key> {
        let Settings { threads, cpus, scheduler, hw_depth, poll_max_us, nomerges, rotational } =
            self;
        let words = [threads, cpus, hw_depth, poll_max_us, nomerges, rotational];
        let mut keys: Vec<Key> = words.into_iter().flatten().map(|word| word.key).collect();
        keys.extend(scheduler.as_ref().map(|pairs| pairs.key));
        keys.into_iter().min_by_key(|key| key.place.line())
    }
}

/// A disk.
#[derive(Debug)]
pub(super) struct DiskWords {
    pub(super) place: Place,
    pub(super) name: Option<Word>,
    pub(super) pool: Option<Word>,
    pub(super) weight: Option<Word>,
    pub(super) socket_path: Option<Word<OsString>>,
    pub(super) fd: Option<Word>,
    pub(super) socket_mode: Option<Word>,
    pub(super) socket_group: Option<Word>,
    pub(super) blk_file: Option<Word<OsString>>,
    pub(super) read_only: bool,
    pub(super) share_rw: bool,
    pub(super) registered_buffers: bool,
    pub(super) cache: Option<Word>,
    pub(super) discard: Option<Word>,
    pub(super) serial: Option<Word>,
    pub(super) logical_block_size: Option<Word>,
    pub(super) physical_block_size: Option<Word>,
    pub(super) num_queues: Option<Word>,
    pub(super) queue_size: Option<Word>,
    pub(super) nr_requests: Option<Word>,
    pub(super) werror: Option<Word>,
    pub(super) rerror: Option<Word>,
    pub(super) throttle: Option<Pairs>,
    pub(super) settings: Settings,
}

/// The longest part of a value that a message repeats, in characters.
const SHOWN: usize = 120;

/// A value as it can stand in a line: control characters are spelled out, and it has an end.
pub(super) fn shown(text: &str) -> String {
    let mut line = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN {
            line.push_str("...");
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The candidate that `typed` is most likely a slip of, if any is close.
pub(super) fn meant<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Nothing that we know is so long; the comparison need not meet a whole file.
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_lowercase().replace('_', "-");
    let close = |name: &str| (distance(&typed, name), name.len() / 3);
    candidates
        .into_iter()
        .map(|name| (close(name), name))
        .filter(|((steps, most), _)| steps <= most)
        .min_by_key(|((steps, _), _)| *steps)
        .map(|(_, name)| name)
}

/// How many letters have to be put in, left out or changed to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(shown("a\n\u{2028}\u{e4}\"\\"), "a\\n\\u{2028}\u{e4}\"\\");
        let long = shown(&"\n".repeat(1 << 20));
        assert_eq!(long, "\\n".repeat(SHOWN) + "...");
        assert_eq!(shown(&"x".repeat(SHOWN)), "x".repeat(SHOWN));
    }

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let keys = ["name", "num-queues", "queue-size", "fd"];
        for (typed, found) in [
            ("num-queus", Some("num-queues")),
            ("num_queues", Some("num-queues")),
            ("Name", Some("name")),
            ("queue-sizes", Some("queue-size")),
            ("fx", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(meant(typed, keys), found, "{typed}");
        }
        assert_eq!(meant(&"x".repeat(1 << 20), keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_key_is_spelled_as_where_it_stands() {
        let (typed, written) = (Place::CommandLine, Place::Line(3));
        assert_eq!(typed.key("fd").to_string(), "--fd");
        assert_eq!(written.key("fd").to_string(), "fd");
        assert_eq!(typed.text("pool", "a"), "--pool=a");
        assert_eq!(written.text("pool", "a"), "pool = \"a\"");
        assert_eq!((typed.number("fd", "3"), written.number("fd", "3")), {
            ("--fd=3".to_owned(), "fd = 3".to_owned())
        });
    }
}
