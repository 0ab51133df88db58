//! The life cycle of the process: what opens in which order, and what ends in which.
//!
//! * B1 Everything that can fail at the start fails before the socket exists: first the descriptor
//!   that was left to us (its number is free for others otherwise), then signals, image, queue
//!   threads, and the socket last. A socket that exists is served.
//! * B2 The end goes the other way round: no new front-end, the session's socket is shut down and
//!   its rings drain (L6), the queue threads finish and are joined, the image is synced, and the
//!   socket's file goes. Whatever was accepted is finished and durable then.
//! * B3 The process stays in the foreground and ends for a stop signal, or with the one connection
//!   that it was started with.

mod control_loop;
mod entrance;
pub mod logging;
mod poller;
mod service;

use std::io;

use log::{debug, info};

use self::control_loop::Ended;
use self::entrance::{Entrance, Listener};
use self::service::Service;
use crate::config::{Config, Socket};
use crate::image::OpenError;
use crate::sys::signal::{self, StopSignals};
use crate::sys::socket;

pub use entrance::EntranceError;

/// Why a disk cannot be served (any longer). One line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    /// The image.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// A queue thread.
    #[error("cannot start queue thread {index} ({cause}): {remedy}")]
    Thread {
        /// Its number.
        index: u16,
        /// What the kernel answered.
        cause: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Signals, epoll, the making of a session thread.
    #[error("the control loop failed ({0}): raise the limits of descriptors and threads")]
    Loop(io::Error),
    /// The one connection, which `--fd` named.
    #[error("the connection that was passed could not go on ({0}): look at its front-end")]
    Session(String),
    /// The last sync.
    #[error(
        "the image could not be synced at the end ({0}): check its storage; what the guest wrote \
         and did not flush may be lost"
    )]
    Sync(io::Error),
}

/// Serves the disk until SIGTERM, SIGINT, or the end of the one connection that `--fd` named.
///
/// To be called on a process that has opened nothing and started no thread yet (B1).
///
/// # Errors
/// What kept it from starting, or from going on.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let adopted = match config.disks[0].socket {
        Socket::Fd(fd) => Some(entrance::adopt(fd)?),
        Socket::Path { .. } => None,
    };
    signal::ignore_sigpipe();
    let signals = StopSignals::block().map_err(DaemonError::Loop)?;
    match socket::raise_descriptor_limit() {
        Ok(limit) => debug!("{limit} descriptors may be open"),
        // Enough for few queues; a front-end that needs more is told by its own error.
        Err(e) => debug!("cannot raise the limit of open descriptors: {e}"),
    }
    serve(config, adopted, &signals)
}

fn serve(
    config: &Config,
    adopted: Option<Entrance>,
    signals: &StopSignals,
) -> Result<(), DaemonError> {
    let group = match &config.disks[0].socket {
        Socket::Path { group: Some(name), .. } => Some(entrance::group(name)?),
        _ => None,
    };
    let service = Service::start(config)?;
    let entrance = match (adopted, &config.disks[0].socket) {
        (Some(entrance), _) => entrance,
        (None, Socket::Path { path, mode, .. }) => {
            Entrance::Listener(Listener::bind(path, *mode, group)?)
        }
        (None, Socket::Fd(_)) => unreachable!("run adopts it"),
    };
    info!("{} on {}", service.describe(config), entrance.name());
    let ended = control_loop::run(&entrance, signals, service.session());
    match ended {
        Ok(Ended::Signal(number)) => info!("stopping on signal {number}"),
        Ok(Ended::Disconnected) => info!("stopping: the front-end has gone"),
        Ok(Ended::Failed(_)) => {}
        Err(_) => {} // main says it
    }
    let stopped = service.stop();
    drop(entrance); // B2: the file goes when everything is durable
    let ended = ended.map_err(DaemonError::Loop)?;
    stopped?;
    if let Ended::Failed(why) = ended {
        return Err(DaemonError::Session(why));
    }
    info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests;
