//! What an operator may change, with the names and defaults of the original.

use super::super::BadTunable;

/// The names, as an operator writes them.
pub(super) const NAMES: &[&str] = &[
    "read_expire",
    "write_expire",
    "writes_starved",
    "fifo_batch",
    "front_merges",
    "prio_aging_expire",
    "async_depth",
];

const NUMBER: &str = "a number from 0 to 2147483647";
const SWITCH: &str = "0 or 1";

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// The values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunables {
    /// Of reads, then of others, in nanoseconds.
    pub(super) expire: [u64; 2],
    pub(super) writes_starved: u32,
    pub(super) fifo_batch: u32,
    pub(super) front_merges: bool,
    /// In nanoseconds.
    pub(super) prio_aging: u64,
    pub(super) async_depth: u32,
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            expire: [500 * MS, 5000 * MS],
            writes_starved: 2,
            fifo_batch: 16,
            front_merges: true,
            prio_aging: 10_000 * MS,
            async_depth: 0,
        }
    }
}

impl Tunables {
    /// Reads one, or sets it.
    pub(super) fn tune(&mut self, name: &str, value: Option<&str>) -> Result<String, BadTunable> {
        match name {
            "read_expire" => millis(&mut self.expire[0], value),
            "write_expire" => millis(&mut self.expire[1], value),
            "writes_starved" => number(&mut self.writes_starved, value),
            "fifo_batch" => number(&mut self.fifo_batch, value),
            "front_merges" => switch(&mut self.front_merges, value),
            "prio_aging_expire" => millis(&mut self.prio_aging, value),
            "async_depth" => number(&mut self.async_depth, value),
            _ => Err(BadTunable::Unknown),
        }
    }
}

fn parse(value: &str) -> Result<u32, BadTunable> {
    let number = value.parse().ok().filter(|n| *n <= i32::MAX.unsigned_abs());
    number.ok_or(BadTunable::Value { expected: NUMBER })
}

fn number(of: &mut u32, value: Option<&str>) -> Result<String, BadTunable> {
    if let Some(value) = value {
        *of = parse(value)?;
    }
    Ok(of.to_string())
}

fn millis(of: &mut u64, value: Option<&str>) -> Result<String, BadTunable> {
    if let Some(value) = value {
        *of = u64::from(parse(value)?) * MS;
    }
    Ok((*of / MS).to_string())
}

fn switch(of: &mut bool, value: Option<&str>) -> Result<String, BadTunable> {
    match value {
        None => {}
        Some("0") => *of = false,
        Some("1") => *of = true,
        Some(_) => return Err(BadTunable::Value { expected: SWITCH }),
    }
    Ok(u32::from(*of).to_string())
}
