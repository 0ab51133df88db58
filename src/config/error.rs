//! What can be wrong with a command line. Each text names the cause and the remedy (C3).

use super::MAX_SOCKET_PATH;

/// A command line that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A word that is no option, an option without its value, an option given twice.
    #[error("{0}")]
    Spelling(String),
    /// Neither `--socket-path` nor `--fd`.
    #[error("no socket: give --socket-path=PATH to make one, or --fd=FDNUM to use an open one")]
    NoSocket,
    /// Both `--socket-path` and `--fd`.
    #[error("--socket-path and --fd name two sockets: give only one of them")]
    TwoSockets,
    /// An option about the socket's file where there is none.
    #[error("{0} is about a socket file, and --fd has none: drop it, or use --socket-path")]
    NoSocketFile(&'static str),
    /// The socket's path does not fit into an address.
    #[error(
        "--socket-path is {0} bytes long and a Unix socket's path has at most {MAX_SOCKET_PATH}: \
         use a shorter one, a relative one for example"
    )]
    SocketPathLength(usize),
    /// No `--blk-file`.
    #[error("no image: give --blk-file=PATH, or --blk-file=null:SIZE for an image of nothing")]
    NoImage,
    /// An image path that cannot be shown in a message.
    #[error("--blk-file={0}: the path is not UTF-8: use another name or a symbolic link")]
    ImageName(String),
    /// A value outside what its option takes.
    #[error("{option}={value}: give {expected}")]
    Value {
        /// The option with its dashes.
        option: &'static str,
        /// As typed.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// A thread that would never have a queue.
    #[error(
        "--threads={threads} is more than --num-queues={queues}, and a queue has one thread: \
         use at most {queues} threads"
    )]
    IdleThreads {
        /// Threads asked for.
        threads: u16,
        /// Queues offered.
        queues: u16,
    },
    /// Threads and CPUs do not pair up.
    #[error(
        "--cpus names {cpus} CPUs for {threads} threads: name one for each thread, or leave \
         --threads out"
    )]
    CpuCount {
        /// Entries of the list.
        cpus: usize,
        /// Threads asked for.
        threads: u16,
    },
    /// A physical block cannot be smaller than a logical one.
    #[error(
        "--logical-block-size={logical} is more than --physical-block-size={physical}: make the \
         physical size at least as big"
    )]
    BlockSizes {
        /// In bytes.
        logical: u32,
        /// In bytes.
        physical: u32,
    },
}
