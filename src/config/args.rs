//! The words as typed. Only spelling is checked here (C2).

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use super::ConfigError;

/// The options as typed; one that was not typed is `None` or `false`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(
    name = "vhost-user-blkmq",
    version,
    about = "Serves a disk image to one virtual machine as a vhost-user-blk device",
    override_usage = "vhost-user-blkmq {--socket-path=PATH | --fd=FDNUM} --blk-file=PATH [OPTIONS]",
    max_term_width = 100
)]
pub struct Args {
    /// Listen on this Unix socket; a file that a dead process left there is replaced
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<OsString>,

    /// Use this open descriptor: a listening Unix socket, or one connected to a front-end
    #[arg(long, value_name = "FDNUM", allow_hyphen_values = true)]
    pub fd: Option<String>,

    /// Print what this program can do as JSON and end; all other options are ignored
    #[arg(long)]
    pub print_capabilities: bool,

    /// The image: a raw file, a block device, or null:SIZE (reads zeroes, drops writes)
    #[arg(long, value_name = "PATH")]
    pub blk_file: Option<OsString>,

    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,

    /// Let others write the image at the same time (a cluster file system in the guest)
    #[arg(long)]
    pub share_rw: bool,

    /// none (O_DIRECT), writeback, writethrough, directsync or unsafe, as in QEMU [default: none]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub cache: Option<String>,

    /// What a discard does to the image: unmap or ignore [default: unmap]
    #[arg(long, value_name = "ACTION", allow_hyphen_values = true)]
    pub discard: Option<String>,

    /// Serial number shown to the guest, up to 20 ASCII characters [default: from the path]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub serial: Option<String>,

    /// Smallest unit of a transfer, in bytes [default: the image's own]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub logical_block_size: Option<String>,

    /// Unit in which the storage works best, in bytes [default: the image's own]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub physical_block_size: Option<String>,

    /// The most queues that a front-end may use, 1 to 256 [default: 256]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub num_queues: Option<String>,

    /// The biggest ring that a front-end may use, a power of two up to 32768 [default: 1024]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub queue_size: Option<String>,

    /// Threads that serve the queues [default: one for each entry of --cpus, else 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub threads: Option<String>,

    /// Pin the threads: one CPU for each, as in 0,2-3
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpus: Option<String>,

    /// Permissions of the socket file, octal [default: 0600]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub socket_mode: Option<String>,

    /// Group of the socket file, by name or number
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true)]
    pub socket_group: Option<String>,

    /// What to log on stderr: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true)]
    pub log_level: Option<String>,
}

/// What the words spell.
#[derive(Debug)]
pub(super) enum Typed {
    /// `--help` or `--version`: the text.
    Help(String),
    /// Options.
    Args(Box<Args>),
}

impl Args {
    pub(super) fn from_argv(argv: &[OsString]) -> Result<Typed, ConfigError> {
        match Args::try_parse_from(argv) {
            Ok(args) => Ok(Typed::Args(Box::new(args))),
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                Ok(Typed::Help(e.render().to_string()))
            }
            Err(e) => Err(ConfigError::Spelling(one_line(&e.render().to_string()))),
        }
    }
}

/// clap's page on a mistake as one line (C3): the cause, then its tips or, without one, the way
/// to the help text. The usage line is left out.
fn one_line(page: &str) -> String {
    let mut parts: Vec<String> = page
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|text| text.trim_start_matches("error: ").trim_start_matches("tip: ").to_owned())
        .filter(|text| !text.is_empty() && !text.starts_with("Usage:"))
        .collect();
    if parts.len() > 2 {
        parts.pop_if(|last| last.starts_with("For more information"));
    }
    let mut line = parts.join("; ");
    if let Some(at) = line.find("For more information, try") {
        line.replace_range(at..at + "For more information, try".len(), "try");
    }
    line.truncate(line.trim_end_matches('.').len());
    line
}
