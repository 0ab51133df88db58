//! What was said becomes what is meant: [`Args`] and the file are what was said, [`Config`] is
//! what is meant.
//!
//! * C1 `--print-capabilities` anywhere wins over everything else, even over mistakes
//!   (vhost-user.rst, "Backend program conventions").
//! * C2 Command line and file become the same words, as said, and know no rule but spelling. Every
//!   value is read, and every contradiction refused, by one path of functions that both take.
//!   Nobody checks again later. What a scheduler takes, the scheduler is asked.
//! * C3 A refusal is one line: what was wrong, and what to do instead. In a file it begins with
//!   the file's name and the line.
//! * C4 The command line serves one disk, or with `--config` those of a file; then it says nothing
//!   of disks, and what it says of the process (`--log-level`, `--admin-socket`, `--sandbox`,
//!   `--user`) wins over the file.
//!
//! But for that file the room reads none, and it asks the system for nothing, but for the working
//! directory (the default serial number depends on the image's absolute path).
//!
//! # The file
//!
//! TOML. Keys are the names of the command line's options; `[[disk]]` also has `pool` and `weight`.
//!
#![doc = concat!("```toml\n", include_str!("example.toml"), "```")]

mod args;
mod error;
mod file;
mod meaning;
mod throttle;
mod value;
mod word;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::blkmq::limits::LimitsConfig;
use crate::block::OnError;
use crate::image::CacheMode;

pub use args::Args;
pub use error::{ConfigError, Fault};
pub use word::{Key, Place};

/// Bytes of a virtio-blk serial number (virtio 1.3, 5.2.6: GET_ID).
pub const SERIAL_LEN: usize = 20;

/// Most queues that may be offered, and most threads of a pool.
pub const MAX_QUEUES: u16 = 256;

/// Biggest split ring (virtio 1.3, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Most disks of one process (L7).
pub const MAX_DISKS: usize = 256;

/// Most requests that the storage of a pool may have at a time, when that is limited.
pub const MAX_HW_DEPTH: u32 = 65536;

/// The longest time that threads may be told to look for work before they sleep, in microseconds.
pub const MAX_POLL_US: u32 = 10_000;

/// The same unless said: about what it takes to wake two sleeping CPUs of a virtual machine, the
/// guest's and ours, so that a wait which only looking can shorten is found.
pub const DEFAULT_POLL_US: u32 = 100;

/// Biggest weight of a disk.
pub const MAX_WEIGHT: u16 = 1000;

/// The weight of a disk that says none, as of a control group in Linux.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Longest path of a Unix socket: `sun_path` without its closing NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// Biggest file of disks, in bytes (L7).
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// The schedulers by name; the first is the default.
pub const SCHEDULERS: [&str; 4] = ["none", "mq-deadline", "kyber", "bfq"];

/// What the one disk of a command line is called unless it says so.
pub const DEFAULT_NAME: &str = "disk";

/// What `--print-capabilities` prints, to the byte as QEMU's own back-end does.
pub const CAPABILITIES: &str =
    "{ \"type\": \"block\", \"features\": [ \"read-only\", \"blk-file\" ] }\n";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print this text and end well.
    Print(String),
    /// Serve disks.
    Serve(Box<Config>),
}

/// Where front-ends connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A socket file of our own.
    Path {
        /// Where it appears; at most [`MAX_SOCKET_PATH`] bytes. No other disk has it.
        path: PathBuf,
        /// Its permissions, at most `0o777`.
        mode: u32,
        /// Name or number of the group that it is given to.
        group: Option<String>,
    },
    /// A descriptor that whoever started us left open: a listening or a connected socket. No other
    /// disk has it.
    Fd(i32),
}

/// What the process may still do once everything is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// What each thread needs; for anything else the process is killed, or answered an error.
    #[default]
    On,
    /// The same, but what would kill is refused with EPERM and told on stderr.
    Report,
    /// Whatever the user may do who runs it.
    Off,
}

/// Whom the process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name or number.
    pub name: String,
    /// Name or number of the group; `None`: the user's own.
    pub group: Option<String>,
}

/// What to serve and how: everything checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to log; `None` leaves it to `RUST_LOG`, or else to the default (info).
    pub log_level: Option<log::LevelFilter>,
    /// Where the operator connects; at most [`MAX_SOCKET_PATH`] bytes, and no disk's path.
    pub admin_socket: Option<PathBuf>,
    /// What it may do once everything is open.
    pub sandbox: Sandbox,
    /// Whom it becomes then; `None`: nobody else.
    pub user: Option<User>,
    /// Never empty; each has a disk, and a name of its own.
    pub pools: Vec<PoolConfig>,
    /// Never empty, at most [`MAX_DISKS`]; each has a name of its own.
    pub disks: Vec<DiskConfig>,
}

/// What disks share that live on one piece of storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Up to 32 letters, digits and `._-`, the first of them a letter or a digit.
    pub name: String,
    /// Queue threads, 1 to [`MAX_QUEUES`], and at most the queues of its disks together.
    pub threads: u16,
    /// The CPU of each thread; empty for "anywhere".
    pub cpus: Vec<usize>,
    /// Who goes next.
    pub scheduler: SchedulerConfig,
    /// Requests that the storage has at a time, up to [`MAX_HW_DEPTH`]; 0 for any number, `None`
    /// for what the scheduler thinks best.
    pub hw_depth: Option<u32>,
    /// The longest that its threads look for work before they sleep, in microseconds, up to
    /// [`MAX_POLL_US`]; 0: not at all.
    pub poll_max_us: u32,
    /// Merging, as `queue/nomerges` in Linux: 0 all of it, 1 only what costs no search, 2 none.
    pub nomerges: u8,
    /// Whether seeks are dear; `None`: ask the kernel.
    pub rotational: Option<bool>,
}

/// A scheduler and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// One of [`SCHEDULERS`].
    pub name: String,
    /// Name and value, in the order in which they were said, no name twice. The scheduler has each
    /// of them and takes the value.
    pub tunables: Vec<(String, String)>,
}

/// A disk to serve and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Up to 32 letters, digits and `._-`, the first of them a letter or a digit.
    pub name: String,
    /// Index of its pool in [`Config::pools`].
    pub pool: usize,
    /// Where front-ends connect.
    pub socket: Socket,
    /// Path of the image, or `null:SIZE`.
    pub blk_file: String,
    /// Writes are refused.
    pub read_only: bool,
    /// Others may write the image while we serve it.
    pub share_rw: bool,
    /// Guest memory is registered with the kernel; only with direct I/O.
    pub registered_buffers: bool,
    /// Use of host caches.
    pub cache: CacheMode,
    /// Whether the guest may give space back.
    pub unmap: bool,
    /// `blk_size` in bytes, a power of two from 512 to 65536; `None` takes the image's own.
    pub logical_block: Option<u32>,
    /// Physical block size in bytes, a power of two from 512 to 65536 and at least
    /// `logical_block`; `None` takes the image's own.
    pub physical_block: Option<u32>,
    /// Answer to GET_ID, padded with NUL.
    pub serial: [u8; SERIAL_LEN],
    /// The most queues that a front-end may use, 1 to [`MAX_QUEUES`].
    pub num_queues: u16,
    /// The biggest ring that a front-end may use, a power of two, 1 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Its share among the disks of its pool, 1 to [`MAX_WEIGHT`]; other than
    /// [`DEFAULT_WEIGHT`] only under bfq.
    pub weight: u16,
    /// Operations and bytes per second; they keep QEMU's rules.
    pub limits: LimitsConfig,
    /// What becomes of a write, discard or zeroing that the storage failed.
    pub werror: OnError,
    /// The same of a read; never [`OnError::Enospc`].
    pub rerror: OnError,
    /// Requests of one queue that are taken in at a time, 1 to [`MAX_QUEUE_SIZE`]; `None`: as many
    /// as its ring has.
    pub nr_requests: Option<u16>,
}

/// Reads a command line, the program's name first, and the file that it names.
///
/// # Errors
/// The one line that says what is wrong with it.
pub fn from_argv(argv: &[OsString]) -> Result<Command, ConfigError> {
    if argv.iter().skip(1).any(|word| word == "--print-capabilities") {
        return Ok(Command::Print(CAPABILITIES.to_owned())); // C1
    }
    let args = match Args::from_argv(argv).map_err(ConfigError::Typed)? {
        args::Typed::Help(text) => return Ok(Command::Print(text)),
        args::Typed::Args(args) => *args,
    };
    let path = args.file().map_err(ConfigError::Typed)?;
    let words = match &path {
        Some(path) => {
            let text = file::read(path)?;
            file::words(&text).map(|words| args.over(words))
        }
        None => args.disk(),
    };
    let config = words.and_then(meaning::config);
    let config = config.map_err(|refusal| refusal.in_file(path.unwrap_or_default()))?;
    Ok(Command::Serve(Box::new(config)))
}

#[cfg(test)]
mod tests;
