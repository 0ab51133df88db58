//! `throttle`: limits in QEMU's words (`throttling.*` of `-drive`, docs/throttle.txt of QEMU).
//!
//! A key is a measure (`iops`, `bps`), a direction (`total`, `read`, `write`), and nothing, `-max`
//! or `-max-length`; `iops-size` stands beside them. QEMU's rules hold ([`check`]):
//! * H1 A total excludes a limit of one direction of the same measure.
//! * H2 A burst (`-max`) needs its rate and is not below it.
//! * H3 A length (`-max-length`, seconds) needs its burst, and both together have a limit.
//! * H4 `iops-size` needs a limit of operations.
//!
//! 0 is no limit, as in QEMU.

use crate::blkmq::limits::{Limit, LimitSet, LimitsConfig};

use super::error::{Fault, Refusal};
use super::value::{digits, no_pair_twice};
use super::word::{Pair, Pairs, meant};

/// The biggest rate, burst, or burst times its length (QEMU: `THROTTLE_VALUE_MAX`).
const MAX: u64 = 1_000_000_000_000_000;

const MEASURES: [&str; 2] = ["iops", "bps"];
const DIRECTIONS: [&str; 3] = ["total", "read", "write"];
const OPERATION_SIZE: &str = "iops-size";

/// What a key names.
enum Slot<'a> {
    /// Operations, or operations per second.
    Count(&'a mut u64),
    /// Bytes, or bytes per second.
    Bytes(&'a mut u64),
    /// A burst's length.
    Seconds(&'a mut u32),
}

/// The limits that a list of pairs asks for.
pub(super) fn limits(pairs: Option<Pairs>) -> Result<LimitsConfig, Refusal> {
    let mut limits = LimitsConfig::default();
    let Some(pairs) = pairs else { return Ok(limits) };
    no_pair_twice(&pairs)?;
    for pair in &pairs.pairs {
        set(&mut limits, pair)?;
    }
    check(&limits).map_err(|why| pairs.key.place.refuse(Fault::Limits(pairs.key, why)))?;
    Ok(limits)
}

fn set(limits: &mut LimitsConfig, pair: &Pair) -> Result<(), Refusal> {
    let text = pair.value.as_str();
    match slot(limits, &pair.name) {
        Some(Slot::Count(n)) => match digits(text) {
            Some(value) if value <= MAX => *n = value,
            _ => return Err(pair.wrong(format!("a number from 0 to {MAX}"))),
        },
        Some(Slot::Bytes(n)) => match bytes(text) {
            Some(value) => *n = value,
            None => {
                let text = format!("bytes from 0 to {MAX}, with K, M, G or T if you like");
                return Err(pair.wrong(text));
            }
        },
        Some(Slot::Seconds(n)) => match digits(text) {
            Some(value) if value >= 1 => *n = value,
            _ => return Err(pair.wrong(format!("seconds from 1 to {}", u32::MAX))),
        },
        None => return Err(unknown(pair)),
    }
    Ok(())
}

/// The number that `name` is about.
fn slot<'a>(limits: &'a mut LimitsConfig, name: &str) -> Option<Slot<'a>> {
    if name == OPERATION_SIZE {
        return Some(Slot::Bytes(&mut limits.iops_size));
    }
    let (measure, rest) = name.split_once('-')?;
    let (direction, part) = rest.split_once('-').unwrap_or((rest, ""));
    let set = match measure {
        "iops" => &mut limits.iops,
        "bps" => &mut limits.bps,
        _ => return None,
    };
    let limit = match direction {
        "total" => &mut set.total,
        "read" => &mut set.read,
        "write" => &mut set.write,
        _ => return None,
    };
    let amount = match part {
        "" if rest == direction => &mut limit.rate,
        "max" => &mut limit.burst,
        "max-length" => return Some(Slot::Seconds(&mut limit.burst_seconds)),
        _ => return None,
    };
    Some(if measure == "iops" { Slot::Count(amount) } else { Slot::Bytes(amount) })
}

/// Every key that there is.
fn names() -> Vec<String> {
    let mut names = Vec::new();
    for measure in MEASURES {
        for direction in DIRECTIONS {
            for part in ["", "-max", "-max-length"] {
                names.push(format!("{measure}-{direction}{part}"));
            }
        }
    }
    names.push(OPERATION_SIZE.to_owned());
    names
}

fn unknown(pair: &Pair) -> Refusal {
    let names = names();
    match meant(&pair.name, names.iter().map(String::as_str)) {
        Some(name) => pair.wrong(format!("a limit that there is: did you mean {name}?")),
        None => pair.wrong(
            "iops-total, iops-read, iops-write, bps-total, bps-read, bps-write, one of these with \
             -max or -max-length, or iops-size",
        ),
    }
}

/// Bytes as QEMU reads them: suffixes are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let shift = match suffix {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    digits::<u64>(number)?.checked_mul(1 << shift).filter(|n| *n <= MAX)
}

/// QEMU's rules; the error is the cause and the remedy.
fn check(limits: &LimitsConfig) -> Result<(), String> {
    for (measure, set) in MEASURES.into_iter().zip([&limits.iops, &limits.bps]) {
        let LimitSet { total, read, write } = set;
        for (direction, part) in DIRECTIONS.into_iter().zip([total, read, write]).skip(1) {
            if total.rate > 0 && part.rate > 0 {
                return Err(format!(
                    "{measure}-total holds for reads and writes together, so that \
                     {measure}-{direction} cannot stand beside it: give the total alone, or \
                     {measure}-read and {measure}-write" // H1
                ));
            }
        }
        for (direction, limit) in DIRECTIONS.into_iter().zip([total, read, write]) {
            check_burst(&format!("{measure}-{direction}"), limit)?;
        }
    }
    let LimitSet { total, read, write } = &limits.iops;
    if limits.iops_size > 0 && [total, read, write].iter().all(|limit| limit.rate == 0) {
        return Err(format!(
            "{OPERATION_SIZE} says how operations are counted, and none are limited: give \
             iops-total, iops-read or iops-write as well, or drop it" // H4
        ));
    }
    Ok(())
}

/// H2 and H3 of the limit called `name`.
fn check_burst(name: &str, limit: &Limit) -> Result<(), String> {
    let Limit { rate, burst, burst_seconds } = *limit;
    if burst > 0 && rate == 0 {
        return Err(format!("{name}-max needs {name}: give both, or drop {name}-max"));
    }
    if burst > 0 && burst < rate {
        return Err(format!(
            "{name}-max={burst} is below {name}={rate}: give at least {rate}, or drop {name}-max"
        ));
    }
    if burst_seconds > 0 && burst == 0 {
        return Err(format!("{name}-max-length needs {name}-max: give both, or drop the length"));
    }
    let most = MAX.checked_div(burst).unwrap_or(MAX);
    if u64::from(burst_seconds) > most {
        return Err(format!(
            "{name}-max-length={burst_seconds} is too long for {name}-max={burst}: give at most \
             {most}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
