//! One function for each thing that can be said: words in, meaning out, or the refusal (C2).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::image::{CacheMode, MAX_BLOCK_SIZE};

use super::{ConfigError, MAX_QUEUE_SIZE, MAX_SOCKET_PATH, SERIAL_LEN, Socket};

/// `--discard`: whether the guest may give space back.
pub(super) const DISCARD: [(&str, bool); 2] = [("unmap", true), ("ignore", false)];

/// `--log-level`.
pub(super) const LOG_LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

const DEFAULT_QUEUE_SIZE: u16 = 1024;
const DEFAULT_SOCKET_MODE: u32 = 0o600;
const MIN_BLOCK: u32 = 512;
/// CPUs that a `cpu_set_t` can name (sched_setaffinity(2)).
const MAX_CPU: usize = 1023;
/// Digits of the path's hash in a default serial number.
const HASH_DIGITS: usize = 8;

fn wrong(option: &'static str, value: &str, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { option, value: value.to_owned(), expected: expected.into() }
}

/// A number without sign, blanks or leading plus. `None` for anything else.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A choice by name.
pub(super) fn one_of<T: Copy>(
    option: &'static str,
    typed: Option<String>,
    choices: &[(&'static str, T)],
) -> Result<Option<T>, ConfigError> {
    let Some(word) = typed else { return Ok(None) };
    let found = choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.map_or_else(|| Err(wrong(option, &word, format!("one of {}", names()))), |v| Ok(Some(v)))
}

/// A count from 1 to `max`.
pub(super) fn number(
    option: &'static str,
    typed: Option<String>,
    max: u16,
) -> Result<Option<u16>, ConfigError> {
    let Some(text) = typed else { return Ok(None) };
    match digits(&text) {
        Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
        _ => Err(wrong(option, &text, format!("a number from 1 to {max}"))),
    }
}

/// A power of two from `min` to `max`.
fn power_of_two(
    option: &'static str,
    typed: Option<String>,
    min: u32,
    max: u32,
) -> Result<Option<u32>, ConfigError> {
    let Some(text) = typed else { return Ok(None) };
    match digits::<u32>(&text) {
        Some(n) if n.is_power_of_two() && (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(wrong(option, &text, format!("a power of two from {min} to {max}"))),
    }
}

/// A cache mode by QEMU's name.
pub(super) fn cache(typed: Option<String>) -> Result<CacheMode, ConfigError> {
    let modes = CacheMode::ALL.map(|mode| (mode.name(), mode));
    Ok(one_of("--cache", typed, &modes)?.unwrap_or_default())
}

pub(super) fn queue_size(typed: Option<String>) -> Result<u16, ConfigError> {
    let size = power_of_two("--queue-size", typed, 1, u32::from(MAX_QUEUE_SIZE))?;
    Ok(size.map_or(DEFAULT_QUEUE_SIZE, |n| u16::try_from(n).expect("at most MAX_QUEUE_SIZE")))
}

/// Logical and physical block size.
pub(super) fn blocks(
    logical: Option<String>,
    physical: Option<String>,
) -> Result<(Option<u32>, Option<u32>), ConfigError> {
    let logical = power_of_two("--logical-block-size", logical, MIN_BLOCK, MAX_BLOCK_SIZE)?;
    let physical = power_of_two("--physical-block-size", physical, MIN_BLOCK, MAX_BLOCK_SIZE)?;
    match (logical, physical) {
        (Some(logical), Some(physical)) if logical > physical => {
            Err(ConfigError::BlockSizes { logical, physical })
        }
        sizes => Ok(sizes),
    }
}

/// Threads and their CPUs. A list alone asks for one thread on each of its CPUs.
pub(super) fn threads(
    threads: Option<String>,
    list: Option<String>,
    queues: u16,
) -> Result<(u16, Vec<usize>), ConfigError> {
    let threads = number("--threads", threads, super::MAX_QUEUES)?;
    let Some(list) = list else {
        let threads = threads.unwrap_or(1);
        return if threads > queues {
            Err(ConfigError::IdleThreads { threads, queues })
        } else {
            Ok((threads, Vec::new()))
        };
    };
    let cpus = cpu_list(&list).ok_or_else(|| {
        wrong("--cpus", &list, format!("CPU numbers from 0 to {MAX_CPU}, as in 0,2-3"))
    })?;
    let count = u16::try_from(cpus.len()).unwrap_or(u16::MAX);
    match threads {
        Some(threads) if count != threads => {
            Err(ConfigError::CpuCount { cpus: cpus.len(), threads })
        }
        _ if count > queues => Err(ConfigError::IdleThreads { threads: count, queues }),
        _ => Ok((count, cpus)),
    }
}

/// `0,2-3` as `[0, 2, 3]`. The same CPU twice is allowed: two threads share it.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (digits::<usize>(first)?, digits::<usize>(last)?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The one socket that was named.
pub(super) fn socket(
    path: Option<OsString>,
    fd: Option<String>,
    mode: Option<String>,
    group: Option<String>,
) -> Result<Socket, ConfigError> {
    let path = match (path, fd) {
        (Some(_), Some(_)) => return Err(ConfigError::TwoSockets),
        (None, None) => return Err(ConfigError::NoSocket),
        (None, Some(fd)) => {
            for (option, typed) in [("--socket-mode", &mode), ("--socket-group", &group)] {
                if typed.is_some() {
                    return Err(ConfigError::NoSocketFile(option));
                }
            }
            return socket_fd(&fd);
        }
        (Some(path), None) => path,
    };
    if path.is_empty() {
        return Err(wrong("--socket-path", "", "the path of a file"));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(ConfigError::SocketPathLength(path.len()));
    }
    if group.as_deref() == Some("") {
        return Err(wrong("--socket-group", "", "the name or the number of a group"));
    }
    Ok(Socket::Path { path: PathBuf::from(path), mode: socket_mode(mode)?, group })
}

/// The standard streams are not ours to serve on: logs and start errors go there.
fn socket_fd(text: &str) -> Result<Socket, ConfigError> {
    match digits(text) {
        Some(fd) if fd > 2 => Ok(Socket::Fd(fd)),
        _ => Err(wrong("--fd", text, "the number of an open descriptor, 3 or more")),
    }
}

fn socket_mode(typed: Option<String>) -> Result<u32, ConfigError> {
    let Some(text) = typed else { return Ok(DEFAULT_SOCKET_MODE) };
    let octal = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(wrong("--socket-mode", &text, "octal permissions up to 0777, as in 0660")),
    }
}

/// The image as one string, for messages and for opening.
pub(super) fn image(typed: Option<OsString>) -> Result<String, ConfigError> {
    match typed.map(OsString::into_string) {
        None => Err(ConfigError::NoImage),
        Some(Ok(path)) if path.is_empty() => Err(wrong("--blk-file", "", "a path or null:SIZE")),
        Some(Ok(path)) => Ok(path),
        Some(Err(raw)) => Err(ConfigError::ImageName(raw.to_string_lossy().into_owned())),
    }
}

/// The serial number as typed, or one that follows from the image's path: the start of its name
/// and a hash of the whole path, so that two images named alike differ in one guest. It stays
/// the same on every start, and on another host that has the image in the same place.
pub(super) fn serial(typed: Option<String>, image: &str) -> Result<[u8; SERIAL_LEN], ConfigError> {
    let text = match typed {
        Some(text)
            if text.len() <= SERIAL_LEN && text.bytes().all(|b| (b' '..=b'~').contains(&b)) =>
        {
            text
        }
        Some(text) => {
            return Err(wrong(
                "--serial",
                &text,
                format!("at most {SERIAL_LEN} printable ASCII characters"),
            ));
        }
        None => default_serial(image),
    };
    let mut serial = [0; SERIAL_LEN];
    serial[..text.len()].copy_from_slice(text.as_bytes());
    Ok(serial)
}

fn default_serial(image: &str) -> String {
    let (name, path) = match image.strip_prefix("null:") {
        Some(_) => ("null", PathBuf::from(image)),
        None => {
            let stem = Path::new(image).file_stem().and_then(|s| s.to_str());
            let path = std::path::absolute(image).unwrap_or_else(|_| PathBuf::from(image));
            (stem.unwrap_or("disk"), path)
        }
    };
    // udev writes the serial number into a link's name: letters, digits and a few marks only.
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(SERIAL_LEN - HASH_DIGITS - 1)
        .collect();
    format!("{name}-{:0HASH_DIGITS$x}", fnv1a(path.as_os_str().as_bytes()))
}

/// FNV-1a, 32 bits: fixed for ever, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}
