//! The command line in two layers: [`Args`] is what was typed, [`Config`] is what is meant.
//!
//! * C1 `--print-capabilities` anywhere wins over everything else, even over mistakes
//!   (vhost-user.rst, "Backend program conventions").
//! * C2 `Args` holds the words as typed and knows no rule but spelling. Every value is read, and
//!   every contradiction refused, in one place: [`Config::try_from`]. Nobody checks again later.
//! * C3 A refusal is one line: what was wrong, and what to do instead.
//!
//! The room reads no file and asks the system for nothing, but for the working directory (the
//! default serial number depends on the image's absolute path).

mod args;
mod error;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::image::CacheMode;

pub use args::Args;
pub use error::ConfigError;

/// Bytes of a virtio-blk serial number (virtio 1.3, 5.2.6: GET_ID).
pub const SERIAL_LEN: usize = 20;

/// Most queues that may be offered.
pub const MAX_QUEUES: u16 = 256;

/// Biggest split ring (virtio 1.3, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Longest path of a Unix socket: `sun_path` without its closing NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// What `--print-capabilities` prints, to the byte as QEMU's own back-end does.
pub const CAPABILITIES: &str =
    "{ \"type\": \"block\", \"features\": [ \"read-only\", \"blk-file\" ] }\n";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print this text and end well.
    Print(String),
    /// Serve a disk.
    Serve(Box<Config>),
}

/// Where front-ends connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A socket file of our own.
    Path {
        /// Where it appears; at most [`MAX_SOCKET_PATH`] bytes.
        path: PathBuf,
        /// Its permissions, at most `0o777`.
        mode: u32,
        /// Name or number of the group that it is given to.
        group: Option<String>,
    },
    /// A descriptor that whoever started us left open: a listening or a connected socket.
    Fd(i32),
}

/// A disk to serve and how: everything checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where front-ends connect.
    pub socket: Socket,
    /// Path of the image, or `null:SIZE`.
    pub blk_file: String,
    /// Writes are refused.
    pub read_only: bool,
    /// Others may write the image while we serve it.
    pub share_rw: bool,
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
    /// Queue threads, 1 to `num_queues`.
    pub threads: u16,
    /// The CPU of each thread; empty for "anywhere".
    pub cpus: Vec<usize>,
    /// What to log; `None` leaves it to `RUST_LOG`, or else to the default (info).
    pub log_level: Option<log::LevelFilter>,
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// The one line that says what is wrong with it.
pub fn from_argv(argv: &[OsString]) -> Result<Command, ConfigError> {
    if argv.iter().skip(1).any(|word| word == "--print-capabilities") {
        return Ok(Command::Print(CAPABILITIES.to_owned())); // C1
    }
    match Args::from_argv(argv)? {
        args::Typed::Help(text) => Ok(Command::Print(text)),
        args::Typed::Args(args) => Ok(Command::Serve(Box::new(Config::try_from(*args)?))),
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Config, ConfigError> {
        let blk_file = value::image(args.blk_file)?;
        let num_queues =
            value::number("--num-queues", args.num_queues, MAX_QUEUES)?.unwrap_or(MAX_QUEUES);
        let (threads, cpus) = value::threads(args.threads, args.cpus, num_queues)?;
        let (logical_block, physical_block) =
            value::blocks(args.logical_block_size, args.physical_block_size)?;
        Ok(Config {
            socket: value::socket(args.socket_path, args.fd, args.socket_mode, args.socket_group)?,
            serial: value::serial(args.serial, &blk_file)?,
            blk_file,
            read_only: args.read_only,
            share_rw: args.share_rw,
            cache: value::cache(args.cache)?,
            unmap: value::one_of("--discard", args.discard, &value::DISCARD)?.unwrap_or(true),
            logical_block,
            physical_block,
            num_queues,
            queue_size: value::queue_size(args.queue_size)?,
            threads,
            cpus,
            log_level: value::one_of("--log-level", args.log_level, &value::LOG_LEVELS)?,
        })
    }
}

#[cfg(test)]
mod tests;
