//! What can be wrong with what was said. Each text names the cause and the remedy (C3).

use std::path::PathBuf;

use super::word::{Key, Place};
use super::{MAX_DISKS, MAX_FILE_SIZE, MAX_SOCKET_PATH};
use crate::image::CacheMode;

/// A configuration that means nothing: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The command line is at fault.
    #[error("{0}")]
    Typed(Fault),
    /// The file is.
    #[error("{}:{line}: {fault}", .file.display())]
    InFile {
        /// As it was named.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong in this line.
        fault: Fault,
    },
    /// The file cannot be read at all.
    #[error("--config={}: {cause}: {remedy}", .file.display())]
    Unreadable {
        /// As it was named.
        file: PathBuf,
        /// What keeps us from reading it.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// A fault and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) place: Place,
    pub(super) fault: Fault,
}

impl Refusal {
    /// With the name of the file in which the place is.
    pub(super) fn in_file(self, file: PathBuf) -> ConfigError {
        match self.place {
            Place::CommandLine => ConfigError::Typed(self.fault),
            Place::Line(line) => ConfigError::InFile { file, line, fault: self.fault },
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A word that is no option, an option without its value, an option given twice.
    #[error("{0}")]
    Spelling(String),
    /// An option about disks beside a file of disks.
    #[error(
        "--{0} is about one disk, and --config names a file of disks: say {0} in that file, or \
         drop --config"
    )]
    NotWithFile(&'static str),
    /// Neither a path nor a descriptor.
    #[error(
        "no socket: give {} to make one, or {} to use an open one",
        .0.text("socket-path", "PATH"), .0.number("fd", "FDNUM")
    )]
    NoSocket(Place),
    /// Both of them.
    #[error(
        "{} and {} name two sockets: give only one of them",
        .0.key("socket-path"), .0.key("fd")
    )]
    TwoSockets(Place),
    /// Something about the socket's file where there is none.
    #[error(
        "{0} is about a socket file, and {fd} has none: drop it, or use {path}",
        fd = .0.place.key("fd"), path = .0.place.key("socket-path")
    )]
    NoSocketFile(Key),
    /// A socket's path does not fit into an address.
    #[error(
        "{0} is {1} bytes long and a Unix socket's path has at most {MAX_SOCKET_PATH}: use a \
         shorter one, a relative one for example"
    )]
    SocketPathLength(Key, usize),
    /// A disk's socket and the admin socket have the same path.
    #[error("{key}={path} is the path of the admin socket as well: give another")]
    AdminSocket {
        /// Whose path it is.
        key: Key,
        /// The path of both.
        path: String,
    },
    /// No image.
    #[error(
        "no image: give {}, or {} for an image of nothing",
        .0.text("blk-file", "PATH"), .0.text("blk-file", "null:SIZE")
    )]
    NoImage(Place),
    /// An image path that cannot be shown in a message.
    #[error("{key}={path}: the path is not UTF-8: use another name or a symbolic link")]
    ImageName {
        /// Where it was said.
        key: Key,
        /// As far as it can be shown.
        path: String,
    },
    /// A value outside what its key takes.
    #[error("{key}={value}: give {expected}")]
    Value {
        /// What takes something else.
        key: Key,
        /// As said.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// A thread that would never have a queue of the disk.
    #[error(
        "{}={threads} is more than {}={queues}, and a queue has one thread: use at most {queues} \
         threads",
        .place.key("threads"), .place.key("num-queues")
    )]
    IdleThreads {
        /// Where the threads were asked for.
        place: Place,
        /// Threads asked for.
        threads: u16,
        /// Queues offered.
        queues: u32,
    },
    /// A thread that would never have a queue of the pool's disks.
    #[error(
        "threads={threads} is more than the {queues} queues that the pool's disks have together \
         (num-queues), and a queue has one thread: use at most {queues} threads"
    )]
    IdlePoolThreads {
        /// Threads asked for.
        threads: u16,
        /// Queues offered by all disks of the pool.
        queues: u32,
    },
    /// Threads and CPUs do not pair up.
    #[error(
        "{} names {cpus} CPUs for {threads} threads: name one for each thread, or leave {} out",
        .place.key("cpus"), .place.key("threads")
    )]
    CpuCount {
        /// Where the CPUs were named.
        place: Place,
        /// Entries of the list.
        cpus: usize,
        /// Threads asked for.
        threads: u16,
    },
    /// A physical block cannot be smaller than a logical one.
    #[error(
        "{}={logical} is more than {}={physical}: make the physical size at least as big",
        .place.key("logical-block-size"), .place.key("physical-block-size")
    )]
    BlockSizes {
        /// Where.
        place: Place,
        /// In bytes.
        logical: u32,
        /// In bytes.
        physical: u32,
    },
    /// The same key twice in one list of pairs.
    #[error("{key}: {name} is said twice: say it once")]
    PairTwice {
        /// The option whose list it is.
        key: Key,
        /// What is said twice.
        name: String,
    },
    /// Registered buffers with the page cache, which copies anyway.
    #[error(
        "{0}={1} goes through the page cache, where {of} gain nothing: use none or directsync, or \
         drop {of}",
        of = .0.place.key("registered-buffers")
    )]
    NotDirect(Key, CacheMode),
    /// A tunable that the scheduler does not have: the scheduler's own words.
    #[error("{0}: {1}")]
    Tunable(Key, String),
    /// Limits that contradict each other: the cause and the remedy are the text.
    #[error("{0}: {1}")]
    Limits(Key, String),
    /// The file is not what TOML calls text.
    #[error("this is not UTF-8 text: save the file as UTF-8")]
    NotText,
    /// The file is not TOML.
    #[error("not TOML: {0}: correct this line")]
    NotToml(String),
    /// A key that means nothing where it stands.
    #[error("{key}: {table} has no such key: {hint}")]
    UnknownKey {
        /// As written.
        key: String,
        /// Where it stands.
        table: &'static str,
        /// The key that was meant, or those that there are.
        hint: String,
    },
    /// A value of another type.
    #[error("{key} is {is}: give {expected}")]
    Type {
        /// The key.
        key: String,
        /// What it was given.
        is: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// `[disk]` for `[[disk]]`.
    #[error("[{0}] is one table, and there may be several: write [[{0}]], once for each {0}")]
    NotAList(&'static str),
    /// A file that serves nothing.
    #[error(
        "there is no disk: add a [[disk]] with name = \"NAME\", socket-path = \"PATH\" and \
         blk-file = \"PATH\""
    )]
    NoDisks,
    /// More disks than one process serves.
    #[error(
        "this is disk number {}, and one process serves at most {MAX_DISKS}: start another one \
         for the rest", MAX_DISKS + 1
    )]
    TooManyDisks,
    /// A disk or pool without a name.
    #[error("this [[{0}]] has no name: add name = \"NAME\"")]
    NoName(&'static str),
    /// What may be there once only.
    #[error("{key}={value}: line {line} says the same: {remedy}")]
    Twice {
        /// The key.
        key: Key,
        /// The value of both.
        value: String,
        /// Where it was said first.
        line: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// A disk in a pool that is not there.
    #[error("pool={pool}: there is no such pool: {hint}")]
    UnknownPool {
        /// As said.
        pool: String,
        /// The name that was meant, or how to make it.
        hint: String,
    },
    /// A disk of a pool says what its pool says for all.
    #[error(
        "{key} holds for all disks of a pool, and this disk is in pool {pool}: say it in the \
         [[pool]]"
    )]
    PoolSays {
        /// What was said.
        key: Key,
        /// The disk's pool.
        pool: String,
    },
    /// A pool without disks.
    #[error(
        "pool {0} has no disk: say pool = \"{0}\" in the [[disk]] that belongs there, or remove it"
    )]
    EmptyPool(String),
    /// The pool that a disk would get has the name of another.
    #[error(
        "disk {name} would get a pool of its own by that name, and line {line} has another: say \
         pool = \"{name}\" to join it, or name one of them differently"
    )]
    OwnPool {
        /// The disk.
        name: String,
        /// Where the pool is declared.
        line: usize,
    },
    /// A weight with nobody to share with.
    #[error(
        "weight={0} is a share among the disks of a pool, and this disk is alone: say pool = \
         \"NAME\" with a pool whose scheduler is bfq, or drop the weight"
    )]
    WeightAlone(u16),
    /// A weight that the scheduler does not know.
    #[error(
        "weight={weight} needs the scheduler bfq, and pool {pool} has {scheduler}: say scheduler \
         = \"bfq\" there, or drop the weight"
    )]
    WeightIgnored {
        /// As said.
        weight: u16,
        /// The disk's pool.
        pool: String,
        /// The pool's scheduler.
        scheduler: String,
    },
}

/// Why a file cannot be read, and the remedy, by what the kernel answered.
pub(super) fn unreadable(file: PathBuf, error: &std::io::Error) -> ConfigError {
    let (cause, remedy) = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ("no such file", "correct the path"),
        Some(libc::EACCES | libc::EPERM) => ("permission denied", "let this user read it"),
        Some(libc::EISDIR) => ("is a directory", "name a file"),
        Some(libc::ELOOP) => ("its symbolic links run in a circle", "correct the path"),
        Some(libc::ENAMETOOLONG) => ("the path is too long", "give a shorter one"),
        Some(libc::EMFILE | libc::ENFILE) => {
            ("too many descriptors are open", "raise their limit (ulimit -n)")
        }
        _ => return ConfigError::Unreadable { file, cause: error.to_string(), remedy: "copy it" },
    };
    ConfigError::Unreadable { file, cause: cause.to_owned(), remedy }
}

/// A file that can be no list of disks.
pub(super) fn too_big(file: PathBuf) -> ConfigError {
    let cause = format!("is bigger than {} MiB", MAX_FILE_SIZE >> 20);
    ConfigError::Unreadable { file, cause, remedy: "name a file of disks and pools" }
}
