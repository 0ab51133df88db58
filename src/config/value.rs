//! One function for each thing that can be said: words in, meaning out, or the refusal (C2).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::blkmq::sched::{BadTunable, Kind};
use crate::block::OnError;
use crate::image::{CacheMode, MAX_BLOCK_SIZE};

use super::error::{Fault, Refusal};
use super::word::{Key, Pair, Pairs, Place, Word, shown, wrong};
use super::{
    MAX_QUEUE_SIZE, MAX_SOCKET_PATH, SCHEDULERS, SERIAL_LEN, Sandbox, SchedulerConfig, Socket, User,
};

/// `discard`: whether the guest may give space back.
/// `werror`, as QEMU has it.
pub(super) const WERROR: [(&str, OnError); 3] = [
    (OnError::Report.name(), OnError::Report),
    (OnError::Enospc.name(), OnError::Enospc),
    (OnError::Stop.name(), OnError::Stop),
];
/// `rerror`: reading needs no space.
pub(super) const RERROR: [(&str, OnError); 2] = [WERROR[0], WERROR[2]];
pub(super) const DISCARD: [(&str, bool); 2] = [("unmap", true), ("ignore", false)];

/// `rotational`, and whatever else is on or off.
pub(super) const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// `nomerges`, as `queue/nomerges` in Linux.
pub(super) const NOMERGES: [(&str, u8); 3] = [("0", 0), ("1", 1), ("2", 2)];

/// `log-level`.
pub(super) const LOG_LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// `sandbox`.
pub(super) const SANDBOX: [(&str, Sandbox); 3] =
    [("on", Sandbox::On), ("report", Sandbox::Report), ("off", Sandbox::Off)];

const DEFAULT_QUEUE_SIZE: u16 = 1024;
const DEFAULT_SOCKET_MODE: u32 = 0o600;
const MIN_BLOCK: u32 = 512;
/// CPUs that a `cpu_set_t` can name (sched_setaffinity(2)).
const MAX_CPU: usize = 1023;
/// Digits of the path's hash in a default serial number.
const HASH_DIGITS: usize = 8;
/// Longest name of a disk or pool, in bytes.
const MAX_NAME: usize = 32;

/// A number without sign, blanks or leading plus. `None` for anything else.
pub(super) fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A choice by name.
pub(super) fn one_of<T: Copy>(
    word: Option<Word>,
    choices: &[(&'static str, T)],
) -> Result<Option<T>, Refusal> {
    let Some(word) = word else { return Ok(None) };
    let found = choices.iter().find(|(name, _)| *name == word.text).map(|(_, value)| *value);
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.map_or_else(|| Err(word.wrong(format!("one of {}", names()))), |v| Ok(Some(v)))
}

/// A count from `min` to `max`.
pub(super) fn number<T: Copy + Ord + std::str::FromStr + std::fmt::Display>(
    word: Option<Word>,
    min: T,
    max: T,
) -> Result<Option<T>, Refusal> {
    let Some(word) = word else { return Ok(None) };
    match digits(&word.text) {
        Some(n) if (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(word.wrong(format!("a number from {min} to {max}"))),
    }
}

/// A power of two from `min` to `max`.
fn power_of_two(word: Option<Word>, min: u32, max: u32) -> Result<Option<u32>, Refusal> {
    let Some(word) = word else { return Ok(None) };
    match digits::<u32>(&word.text) {
        Some(n) if n.is_power_of_two() && (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(word.wrong(format!("a power of two from {min} to {max}"))),
    }
}

/// A name that fits a file, a line and a command: it can be mistaken for no option and no
/// directory.
pub(super) fn name(word: Word) -> Result<String, Refusal> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let text = word.text.as_bytes();
    let first = text.first().is_some_and(u8::is_ascii_alphanumeric);
    if first && text.len() <= MAX_NAME && text.iter().all(|b| fits(*b)) {
        return Ok(word.text);
    }
    Err(word.wrong(format!(
        "up to {MAX_NAME} letters, digits, dots, underscores and hyphens, the first of them a \
         letter or a digit"
    )))
}

/// A cache mode by QEMU's name; `direct` when something else needs direct I/O.
pub(super) fn cache(word: Option<Word>, direct: bool) -> Result<CacheMode, Refusal> {
    let modes = CacheMode::ALL.map(|mode| (mode.name(), mode));
    let key = word.as_ref().map(|word| word.key);
    let mode = one_of(word, &modes)?.unwrap_or_default();
    match key.filter(|_| direct && !mode.direct()) {
        Some(key) => Err(key.place.refuse(Fault::NotDirect(key, mode))),
        None => Ok(mode),
    }
}

pub(super) fn queue_size(word: Option<Word>) -> Result<u16, Refusal> {
    let size = power_of_two(word, 1, u32::from(MAX_QUEUE_SIZE))?;
    Ok(size.map_or(DEFAULT_QUEUE_SIZE, |n| u16::try_from(n).expect("at most MAX_QUEUE_SIZE")))
}

/// Logical and physical block size.
pub(super) fn blocks(
    logical: Option<Word>,
    physical: Option<Word>,
) -> Result<(Option<u32>, Option<u32>), Refusal> {
    let place = logical.as_ref().map_or(Place::CommandLine, |word| word.key.place);
    let logical = power_of_two(logical, MIN_BLOCK, MAX_BLOCK_SIZE)?;
    let physical = power_of_two(physical, MIN_BLOCK, MAX_BLOCK_SIZE)?;
    match (logical, physical) {
        (Some(logical), Some(physical)) if logical > physical => {
            Err(place.refuse(Fault::BlockSizes { place, logical, physical }))
        }
        sizes => Ok(sizes),
    }
}

/// Threads and their CPUs. A list alone asks for one thread on each of its CPUs. `queues` is what
/// the disks of the pool have together, `shared` whether there may be several disks.
pub(super) fn threads(
    threads: Option<Word>,
    list: Option<Word>,
    queues: u32,
    shared: bool,
) -> Result<(u16, Vec<usize>), Refusal> {
    let said = threads.as_ref().or(list.as_ref()).map_or(Place::CommandLine, |w| w.key.place);
    let idle = |threads: u16| {
        said.refuse(match shared {
            false => Fault::IdleThreads { place: said, threads, queues },
            true => Fault::IdlePoolThreads { threads, queues },
        })
    };
    let threads = number(threads, 1, super::MAX_QUEUES)?;
    let Some(list) = list else {
        let threads = threads.unwrap_or(1);
        return if u32::from(threads) > queues {
            Err(idle(threads))
        } else {
            Ok((threads, Vec::new()))
        };
    };
    let cpus = cpu_list(&list.text)
        .ok_or_else(|| list.wrong(format!("CPU numbers from 0 to {MAX_CPU}, as in 0,2-3")))?;
    let count = u16::try_from(cpus.len()).unwrap_or(u16::MAX);
    let place = list.key.place;
    match threads {
        Some(threads) if count != threads => {
            Err(place.refuse(Fault::CpuCount { place, cpus: cpus.len(), threads }))
        }
        _ if u32::from(count) > queues => Err(idle(count)),
        None if count > super::MAX_QUEUES => {
            Err(list.wrong(format!("at most {} CPUs", super::MAX_QUEUES)))
        }
        _ => Ok((count, cpus)),
    }
}

/// `0,2-3` as `[0, 2, 3]`. The same CPU twice is allowed: two threads share it.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (digits::<usize>(first)?, digits::<usize>(last)?);
        // No more than are of use: the text may be long.
        if first > last || last > MAX_CPU || cpus.len() > usize::from(u16::MAX) {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// `[NAME,]KEY=VALUE[,KEY=VALUE]...` in its parts.
pub(super) fn pairs(word: &Word, with_head: bool) -> Result<Pairs, Refusal> {
    let mut parts = word.text.split(',');
    let head = if with_head { parts.next().unwrap_or_default() } else { "" };
    let mut pairs = Vec::new();
    for part in parts {
        match part.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                let (name, value) = (name.to_owned(), value.to_owned());
                pairs.push(Pair { key: word.key, name, value });
            }
            _ if with_head => {
                let text = "NAME[,TUNABLE=VALUE]..., as in kyber,read_lat_nsec=1000000";
                return Err(wrong(word.key, &word.text, text));
            }
            _ => {
                let text = "KEY=VALUE[,KEY=VALUE]..., as in iops-total=500,bps-read=10M";
                return Err(wrong(word.key, &word.text, text));
            }
        }
    }
    Ok(Pairs { key: word.key, head: head.to_owned(), pairs })
}

/// The first pair whose name another one had before it.
pub(super) fn no_pair_twice(pairs: &Pairs) -> Result<(), Refusal> {
    let mut names = std::collections::BTreeSet::new();
    match pairs.pairs.iter().find(|pair| !names.insert(&pair.name)) {
        Some(Pair { key, name, .. }) => {
            Err(key.place.refuse(Fault::PairTwice { key: *key, name: shown(name) }))
        }
        None => Ok(()),
    }
}

/// A scheduler and what it is told, which it has been asked about: one is made and thrown away.
pub(super) fn scheduler(pairs: Option<Pairs>) -> Result<SchedulerConfig, Refusal> {
    let Some(pairs) = pairs else {
        return Ok(SchedulerConfig { name: SCHEDULERS[0].to_owned(), tunables: Vec::new() });
    };
    let Ok(kind) = Kind::named(&pairs.head) else {
        let names = SCHEDULERS.join(", ");
        return Err(wrong(pairs.key, &pairs.head, format!("one of {names}")));
    };
    no_pair_twice(&pairs)?;
    for pair in &pairs.pairs {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if pair.name.is_empty() || !pair.name.bytes().all(fits) {
            return Err(pair.wrong("a tunable's name in lower case letters, digits and _"));
        }
    }
    let mut made = kind.build(&[], 1, false).unwrap_or_default();
    for pair in &pairs.pairs {
        let set = made
            .iter_mut()
            .try_for_each(|instance| instance.tunable(&pair.name, Some(&pair.value)).map(drop));
        set.map_err(|bad| match bad {
            BadTunable::Value { expected } => pair.wrong(expected),
            BadTunable::Unknown => {
                let why = kind.refusal(bad, &shown(&pair.name), &pair.value);
                pair.key.place.refuse(Fault::Tunable(pair.key, why.to_string()))
            }
        })?;
    }
    let tunables = pairs.pairs.into_iter().map(|pair| (pair.name, pair.value)).collect();
    Ok(SchedulerConfig { name: pairs.head, tunables })
}

/// The one socket that was named.
pub(super) fn socket(
    place: Place,
    path: Option<Word<OsString>>,
    fd: Option<Word>,
    mode: Option<Word>,
    group: Option<Word>,
) -> Result<Socket, Refusal> {
    let path = match (path, fd) {
        (Some(_), Some(fd)) => {
            return Err(fd.key.place.refuse(Fault::TwoSockets(place)));
        }
        (None, None) => return Err(place.refuse(Fault::NoSocket(place))),
        (None, Some(fd)) => {
            if let Some(word) = mode.or(group) {
                return Err(word.key.place.refuse(Fault::NoSocketFile(word.key)));
            }
            return match digits(&fd.text) {
                // The standard streams are not ours to serve on: logs and errors go there.
                Some(fd) if fd > 2 => Ok(Socket::Fd(fd)),
                _ => Err(fd.wrong("the number of an open descriptor, 3 or more")),
            };
        }
        (Some(path), None) => socket_path(path)?,
    };
    let group = match group {
        Some(word) if word.text.is_empty() => {
            return Err(word.wrong("the name or the number of a group"));
        }
        group => group.map(|word| word.text),
    };
    Ok(Socket::Path { path, mode: socket_mode(mode)?, group })
}

/// A path that fits into a socket's address.
pub(super) fn socket_path(path: Word<OsString>) -> Result<PathBuf, Refusal> {
    let Word { key, text } = path;
    if text.is_empty() {
        return Err(wrong(key, "", "the path of a file"));
    }
    if text.as_bytes().contains(&0) {
        return Err(wrong(key, &text.to_string_lossy(), "a path without NUL"));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(key.place.refuse(Fault::SocketPathLength(key, text.len())));
    }
    Ok(PathBuf::from(text))
}

/// Whom to become. Whether there is such a user the system is asked later.
pub(super) fn user(word: &Word) -> Result<User, Refusal> {
    let (user, group) = match word.text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (word.text.as_str(), None),
    };
    if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
        return Err(word.wrong("USER or USER:GROUP, each a name or a number"));
    }
    Ok(User { name: user.to_owned(), group: group.map(str::to_owned) })
}

fn socket_mode(word: Option<Word>) -> Result<u32, Refusal> {
    let Some(word) = word else { return Ok(DEFAULT_SOCKET_MODE) };
    let octal = word.text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(&word.text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(word.wrong("octal permissions up to 0777, as in 0660")),
    }
}

/// The image as one string, for messages and for opening.
pub(super) fn image(place: Place, word: Option<Word<OsString>>) -> Result<(Key, String), Refusal> {
    let Some(Word { key, text }) = word else {
        return Err(place.refuse(Fault::NoImage(place)));
    };
    match text.into_string() {
        Ok(path) if path.is_empty() => Err(wrong(key, "", "a path or null:SIZE")),
        Ok(path) if path.contains('\0') => Err(wrong(key, &path, "a path without NUL")),
        Ok(path) => Ok((key, path)),
        Err(raw) => {
            let path = shown(&raw.to_string_lossy());
            Err(key.place.refuse(Fault::ImageName { key, path }))
        }
    }
}

/// The serial number as typed, or one that follows from the image's path: the start of its name
/// and a hash of the whole path, so that two images named alike differ in one guest. It stays
/// the same on every start, and on another host that has the image in the same place.
pub(super) fn serial(word: Option<Word>, image: &str) -> Result<[u8; SERIAL_LEN], Refusal> {
    let text = match word {
        Some(word) => {
            let printable = word.text.bytes().all(|b| (b' '..=b'~').contains(&b));
            if word.text.len() > SERIAL_LEN || !printable {
                return Err(word.wrong(format!("at most {SERIAL_LEN} printable ASCII characters")));
            }
            word.text
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
