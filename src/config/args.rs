//! The words as typed. Only spelling is checked here (C2).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use clap::error::ErrorKind;

use super::error::{Fault, Refusal};
use super::value;
use super::word::{DiskWords, Place, PoolWords, Settings, Word, Words};

/// The options as typed; one that was not typed is `None` or `false`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(
    name = "vhost-user-blkmq",
    version,
    about = "Serves disk images to virtual machines as vhost-user-blk devices",
    override_usage = "vhost-user-blkmq {--socket-path=PATH | --fd=FDNUM} --blk-file=PATH \
                      [OPTIONS]\n       vhost-user-blkmq --config=FILE [--log-level=LEVEL] \
                      [--admin-socket=PATH] [--sandbox=MODE] [--user=USER]",
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

    /// Register guest memory with the kernel: less work for each request with direct I/O. All of it is
    /// allocated and stays in place, so nothing may take any from the guest (no balloon)
    #[arg(long)]
    pub registered_buffers: bool,

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

    /// none, mq-deadline, kyber or bfq, and its tunables: NAME[,TUNABLE=VALUE]... [default: none]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub scheduler: Option<String>,

    /// Requests that the storage has at a time, 0 for any number [default: the scheduler's own]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub hw_depth: Option<String>,

    /// The longest that a queue thread looks for work before it sleeps, in microseconds, 0 for not at
    /// all; it finds out itself whether that pays [default: 100]
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub poll_max_us: Option<String>,

    /// Merging of requests: 0 all, 1 only the cheap ones, 2 none, as in Linux [default: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub nomerges: Option<String>,

    /// Requests of one queue that are taken in at a time [default: as many as its ring has]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub nr_requests: Option<String>,

    /// Whether seeks are dear on the storage: on or off [default: the kernel is asked]
    #[arg(long, value_name = "SWITCH", allow_hyphen_values = true)]
    pub rotational: Option<String>,

    /// Limits as in QEMU, KEY=VALUE[,KEY=VALUE]...: iops-total, iops-read, iops-write, bps-total,
    /// bps-read, bps-write, each also with -max and -max-length, and iops-size [default: none]
    #[arg(long, value_name = "LIMITS", allow_hyphen_values = true)]
    pub throttle: Option<String>,

    /// A write or discard that the storage failed: report it to the guest, or wait and try again,
    /// for enospc only or for every error (stop) [default: report]
    #[arg(long, value_name = "ACTION", allow_hyphen_values = true)]
    pub werror: Option<String>,

    /// The same of a read: report or stop [default: report]
    #[arg(long, value_name = "ACTION", allow_hyphen_values = true)]
    pub rerror: Option<String>,

    /// Permissions of the socket file, octal [default: 0600]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub socket_mode: Option<String>,

    /// Group of the socket file, by name or number
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true)]
    pub socket_group: Option<String>,

    /// What the disk is called in logs and on the admin socket [default: disk]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub name: Option<String>,

    /// Serve the disks of this TOML file; nothing else is said of disks then
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Answer to the operator on this Unix socket
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<OsString>,

    /// What the process may still do once everything is open: on, report (tell what on would kill)
    /// or off [default: on]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub sandbox: Option<String>,

    /// Become this user once everything is open: a name, or a number, with :GROUP perhaps
    #[arg(long, value_name = "USER", allow_hyphen_values = true)]
    pub user: Option<String>,

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

/// The place of everything here.
const HERE: Place = Place::CommandLine;

/// An option that was typed.
fn word<T>(name: &'static str, typed: Option<T>) -> Option<Word<T>> {
    typed.map(|text| Word { key: HERE.key(name), text })
}

impl Args {
    pub(super) fn from_argv(argv: &[OsString]) -> Result<Typed, Fault> {
        match Args::try_parse_from(argv) {
            Ok(args) => Ok(Typed::Args(Box::new(args))),
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                Ok(Typed::Help(e.render().to_string()))
            }
            Err(e) => Err(Fault::Spelling(one_line(&e.render().to_string()))),
        }
    }

    /// The first option typed that says something about a disk or its pool.
    fn of_a_disk(&self) -> Option<&'static str> {
        let is_some = Option::<String>::is_some;
        let typed = [
            ("socket-path", self.socket_path.is_some()),
            ("fd", is_some(&self.fd)),
            ("blk-file", self.blk_file.is_some()),
            ("read-only", self.read_only),
            ("share-rw", self.share_rw),
            ("registered-buffers", self.registered_buffers),
            ("cache", is_some(&self.cache)),
            ("discard", is_some(&self.discard)),
            ("serial", is_some(&self.serial)),
            ("logical-block-size", is_some(&self.logical_block_size)),
            ("physical-block-size", is_some(&self.physical_block_size)),
            ("num-queues", is_some(&self.num_queues)),
            ("queue-size", is_some(&self.queue_size)),
            ("threads", is_some(&self.threads)),
            ("cpus", is_some(&self.cpus)),
            ("scheduler", is_some(&self.scheduler)),
            ("hw-depth", is_some(&self.hw_depth)),
            ("poll-max-us", is_some(&self.poll_max_us)),
            ("nomerges", is_some(&self.nomerges)),
            ("nr-requests", is_some(&self.nr_requests)),
            ("rotational", is_some(&self.rotational)),
            ("werror", is_some(&self.werror)),
            ("rerror", is_some(&self.rerror)),
            ("throttle", is_some(&self.throttle)),
            ("socket-mode", is_some(&self.socket_mode)),
            ("socket-group", is_some(&self.socket_group)),
            ("name", is_some(&self.name)),
        ];
        typed.into_iter().find(|(_, typed)| *typed).map(|(name, _)| name)
    }

    /// The file that the disks are in, if one was named; nothing else is said of disks then.
    pub(super) fn file(&self) -> Result<Option<PathBuf>, Fault> {
        match (&self.config, self.of_a_disk()) {
            (Some(_), Some(name)) => Err(Fault::NotWithFile(name)),
            (file, _) => Ok(file.clone()),
        }
    }

    /// What is said of the process wins over what `words` say (C4).
    pub(super) fn over(self, mut words: Words) -> Words {
        words.log_level = word("log-level", self.log_level).or(words.log_level);
        words.admin_socket = word("admin-socket", self.admin_socket).or(words.admin_socket);
        words.sandbox = word("sandbox", self.sandbox).or(words.sandbox);
        words.user = word("user", self.user).or(words.user);
        words
    }

    /// One disk, which is alone in its pool.
    pub(super) fn disk(self) -> Result<Words, Refusal> {
        let pairs = |word: Option<Word>, head| word.map(|w| value::pairs(&w, head)).transpose();
        let settings = Settings {
            threads: word("threads", self.threads),
            cpus: word("cpus", self.cpus),
            scheduler: pairs(word("scheduler", self.scheduler), true)?,
            hw_depth: word("hw-depth", self.hw_depth),
            poll_max_us: word("poll-max-us", self.poll_max_us),
            nomerges: word("nomerges", self.nomerges),
            rotational: word("rotational", self.rotational),
        };
        let disk = DiskWords {
            place: HERE,
            name: word("name", self.name.or_else(|| Some(super::DEFAULT_NAME.to_owned()))),
            pool: None,
            weight: None,
            socket_path: word("socket-path", self.socket_path),
            fd: word("fd", self.fd),
            socket_mode: word("socket-mode", self.socket_mode),
            socket_group: word("socket-group", self.socket_group),
            blk_file: word("blk-file", self.blk_file),
            read_only: self.read_only,
            share_rw: self.share_rw,
            registered_buffers: self.registered_buffers,
            cache: word("cache", self.cache),
            discard: word("discard", self.discard),
            serial: word("serial", self.serial),
            logical_block_size: word("logical-block-size", self.logical_block_size),
            physical_block_size: word("physical-block-size", self.physical_block_size),
            num_queues: word("num-queues", self.num_queues),
            queue_size: word("queue-size", self.queue_size),
            nr_requests: word("nr-requests", self.nr_requests),
            werror: word("werror", self.werror),
            rerror: word("rerror", self.rerror),
            throttle: pairs(word("throttle", self.throttle), false)?,
            settings,
        };
        Ok(Words {
            log_level: word("log-level", self.log_level),
            admin_socket: word("admin-socket", self.admin_socket),
            sandbox: word("sandbox", self.sandbox),
            user: word("user", self.user),
            pools: Vec::<PoolWords>::new(),
            disks: vec![disk],
        })
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
