//! The file of disks and pools: TOML becomes words, each with its line.
//!
//! A key has the name of the option that says the same on the command line. Every value may be
//! written as there, in quotes; numbers and what is on or off may also stand as TOML has them.
//! What a section takes is known by what is asked of it ([`Section`]), so that a key which nobody
//! asked for is unknown, and no list of keys can be out of date.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::error::{self, ConfigError, Fault, Refusal};
use super::word::{
    DiskWords, Key, Pair, Pairs, Place, PoolWords, Settings, Word, Words, meant, shown, wrong,
};
use super::{MAX_DISKS, MAX_FILE_SIZE, value};

const DISK: &str = "[[disk]]";
const POOL: &str = "[[pool]]";

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes))
        .map_err(|e| error::unreadable(path.to_owned(), &e))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(error::too_big(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        Place::Line(line).refuse(Fault::NotText).in_file(path.to_owned())
    })
}

/// What a file says.
pub(super) fn words(text: &str) -> Result<Words, Refusal> {
    let lines = Lines::new(text);
    let top = DeTable::parse(text).map_err(|e| {
        let place = lines.place(e.span().map_or(0, |span| span.start));
        let message = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        place.refuse(Fault::NotToml(shown(&message)))
    })?;
    let mut top = Section::new(&lines, "the file's top", Place::Line(1), top.get_ref());
    let log_level = top.text("log-level")?;
    let admin_socket = top.path("admin-socket")?;
    let sandbox = top.text("sandbox")?;
    let user = top.word("user", "a user's name or number", number)?;
    let pools = top.sections("pool", POOL)?.into_iter().map(pool).collect::<Result<_, _>>()?;
    let disks = top.sections("disk", DISK)?;
    top.finish()?;
    match (disks.first(), disks.get(MAX_DISKS)) {
        (None, _) => return Err(Place::Line(1).refuse(Fault::NoDisks)),
        (_, Some(disk)) => return Err(disk.place.refuse(Fault::TooManyDisks)),
        _ => {}
    }
    let disks = disks.into_iter().map(disk).collect::<Result<_, _>>()?;
    Ok(Words { log_level, admin_socket, sandbox, user, pools, disks })
}

fn pool(mut section: Section) -> Result<PoolWords, Refusal> {
    let (place, name) = (section.place, section.text("name")?);
    let settings = settings(&mut section)?;
    section.finish()?;
    Ok(PoolWords { place, name, settings })
}

/// What a pool decides, said of the pool or of a disk that has its own.
fn settings(section: &mut Section) -> Result<Settings, Refusal> {
    Ok(Settings {
        threads: section.number("threads")?,
        cpus: section.list("cpus")?,
        scheduler: section.pairs("scheduler", true)?,
        hw_depth: section.number("hw-depth")?,
        poll_max_us: section.number("poll-max-us")?,
        nomerges: section.number("nomerges")?,
        rotational: section.switch("rotational")?,
    })
}

fn disk(mut section: Section) -> Result<DiskWords, Refusal> {
    let words = DiskWords {
        place: section.place,
        name: section.text("name")?,
        pool: section.text("pool")?,
        weight: section.number("weight")?,
        socket_path: section.path("socket-path")?,
        fd: section.number("fd")?,
        socket_mode: section.octal("socket-mode")?,
        socket_group: section.word("socket-group", "a group's name or number", number)?,
        blk_file: section.path("blk-file")?,
        read_only: section.flag("read-only")?,
        share_rw: section.flag("share-rw")?,
        registered_buffers: section.flag("registered-buffers")?,
        cache: section.text("cache")?,
        discard: section.text("discard")?,
        serial: section.text("serial")?,
        logical_block_size: section.number("logical-block-size")?,
        physical_block_size: section.number("physical-block-size")?,
        num_queues: section.number("num-queues")?,
        queue_size: section.number("queue-size")?,
        nr_requests: section.number("nr-requests")?,
        werror: section.text("werror")?,
        rerror: section.text("rerror")?,
        throttle: section.pairs("throttle", false)?,
        settings: settings(&mut section)?,
    };
    section.finish()?;
    Ok(words)
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Lines(std::iter::once(0).chain(ends).collect())
    }

    /// The line of a byte.
    fn place(&self, at: usize) -> Place {
        Place::Line(self.0.partition_point(|start| *start <= at))
    }
}

/// One entry of a section.
struct Entry<'a> {
    place: Place,
    name: &'a str,
    value: &'a DeValue<'a>,
}

/// A table and what has not been asked of it yet.
struct Section<'a> {
    lines: &'a Lines,
    title: &'static str,
    place: Place,
    entries: Vec<Entry<'a>>,
    /// What has been asked for.
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn new(
        lines: &'a Lines,
        title: &'static str,
        place: Place,
        table: &'a DeTable<'a>,
    ) -> Section<'a> {
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| Entry {
            place: lines.place(name.span().start),
            name: name.get_ref(),
            value: value.get_ref(),
        };
        // By name in the table, in the file's order here.
        let mut table: Vec<_> = table.iter().collect();
        table.sort_by_key(|(name, _)| name.span().start);
        let entries = table.into_iter().map(entry).collect();
        Section { lines, title, place, entries, known: Vec::new() }
    }

    fn take(&mut self, name: &'static str) -> Option<(Key, &'a DeValue<'a>)> {
        self.known.push(name);
        let at = self.entries.iter().position(|entry| entry.name == name)?;
        let entry = self.entries.remove(at);
        Some((entry.place.key(name), entry.value))
    }

    /// Refuses what nobody has asked for.
    fn finish(self) -> Result<(), Refusal> {
        let Some(entry) = self.entries.first() else { return Ok(()) };
        let hint = match meant(entry.name, self.known.iter().copied()) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("use {}", self.known.join(", ")),
        };
        let key = shown(entry.name);
        Err(entry.place.refuse(Fault::UnknownKey { key, table: self.title, hint }))
    }

    /// A value that is a text, by whatever of `others` its type is one.
    fn word(
        &mut self,
        name: &'static str,
        expected: &'static str,
        others: impl Fn(&DeValue) -> Option<String>,
    ) -> Result<Option<Word>, Refusal> {
        let Some((key, value)) = self.take(name) else { return Ok(None) };
        match value {
            DeValue::String(text) => Ok(Some(Word { key, text: text.to_string() })),
            other => match others(other) {
                Some(text) => Ok(Some(Word { key, text })),
                None => Err(mistyped(key, value, expected)),
            },
        }
    }

    fn text(&mut self, name: &'static str) -> Result<Option<Word>, Refusal> {
        self.word(name, "a text in quotes", |_| None)
    }

    fn path(&mut self, name: &'static str) -> Result<Option<Word<OsString>>, Refusal> {
        let word = self.word(name, "a path in quotes", |_| None)?;
        Ok(word.map(|Word { key, text }| Word { key, text: text.into() }))
    }

    fn number(&mut self, name: &'static str) -> Result<Option<Word>, Refusal> {
        self.word(name, "a number", number)
    }

    fn switch(&mut self, name: &'static str) -> Result<Option<Word>, Refusal> {
        self.word(name, "true or false", |value| match value {
            DeValue::Boolean(on) => Some(if *on { "on" } else { "off" }.to_owned()),
            _ => None,
        })
    }

    /// Octal digits, or a number that is written as octal: 0660 is none in TOML, and 660 in
    /// decimal would be taken for something else than it looks like.
    fn octal(&mut self, name: &'static str) -> Result<Option<Word>, Refusal> {
        self.word(name, "octal permissions, as in \"0660\" or 0o660", |value| match value {
            DeValue::Integer(n) if n.radix() == 8 => Some(n.as_str().to_owned()),
            _ => None,
        })
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, Refusal> {
        match self.take(name) {
            None => Ok(false),
            Some((_, DeValue::Boolean(on))) => Ok(*on),
            Some((key, value)) => Err(mistyped(key, value, "true or false")),
        }
    }

    /// Numbers, or words as on the command line, with commas between them.
    fn list(&mut self, name: &'static str) -> Result<Option<Word>, Refusal> {
        let expected = "a list, as in [0, 2] or \"0,2-3\"";
        self.word(name, expected, |value| match value {
            DeValue::Array(items) => {
                let word = |item: &Spanned<DeValue>| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    other => number(other),
                };
                let words: Option<Vec<String>> = items.iter().map(word).collect();
                words.map(|words| words.join(","))
            }
            other => number(other),
        })
    }

    /// Pairs as on the command line, or as a table; the table has the head as `name`.
    fn pairs(&mut self, name: &'static str, with_head: bool) -> Result<Option<Pairs>, Refusal> {
        let Some((key, value)) = self.take(name) else { return Ok(None) };
        let table = match value {
            DeValue::String(text) => {
                let word = Word { key, text: text.to_string() };
                return value::pairs(&word, with_head).map(Some);
            }
            DeValue::Table(table) => table,
            other => return Err(mistyped(key, other, "a text in quotes or a table")),
        };
        let mut section = Section::new(self.lines, name, key.place, table);
        let mut head = String::new();
        if with_head {
            head = section.text("name")?.map(|word| word.text).unwrap_or_default();
        }
        let mut pairs = Vec::new();
        for Entry { place, name: of, value } in section.entries {
            let key = place.key(name);
            let value = match value {
                DeValue::String(text) => text.to_string(),
                other => number(other).ok_or_else(|| {
                    let key = format!("{key}.{}", shown(of));
                    mistyped_as(place, key, other, "a number or a text in quotes")
                })?,
            };
            if value.is_empty() {
                return Err(wrong(key, &format!("{of}="), "it a value, or leave it out"));
            }
            pairs.push(Pair { key, name: of.to_owned(), value });
        }
        Ok(Some(Pairs { key, head, pairs }))
    }

    /// The tables of `[[name]]`.
    fn sections(
        &mut self,
        name: &'static str,
        title: &'static str,
    ) -> Result<Vec<Section<'a>>, Refusal> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some((_, DeValue::Array(items))) => items,
            Some((key, DeValue::Table(_))) => {
                return Err(key.place.refuse(Fault::NotAList(name)));
            }
            Some((key, other)) => return Err(mistyped(key, other, "tables")),
        };
        let mut sections = Vec::new();
        for item in items {
            let place = self.lines.place(item.span().start);
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self.lines, title, place, table));
                }
                other => return Err(mistyped(place.key(name), other, "tables")),
            }
        }
        Ok(sections)
    }
}

/// A whole number in decimal, whatever it was written in.
fn number(value: &DeValue) -> Option<String> {
    let DeValue::Integer(n) = value else { return None };
    let decimal = |n: &DeInteger| i128::from_str_radix(n.as_str(), n.radix()).ok();
    Some(decimal(n).map_or_else(|| n.to_string(), |n| n.to_string()))
}

fn mistyped(key: Key, value: &DeValue, expected: &'static str) -> Refusal {
    mistyped_as(key.place, key.to_string(), value, expected)
}

fn mistyped_as(place: Place, key: String, value: &DeValue, expected: &'static str) -> Refusal {
    let is = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    place.refuse(Fault::Type { key, is, expected })
}

#[cfg(test)]
mod tests;
