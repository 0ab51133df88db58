//! The life cycle of the process: what opens in which order, and what ends in which.
//!
//! * B1 Everything that can fail at the start fails before the socket exists: first the descriptor
//!   that was left to us (its number is free for others otherwise), then signals, image, queue
//!   threads, and the socket last. A socket that exists is served.
//!   When all is open the main thread closes the [`sandbox`]; the others have closed theirs.
//! * B2 The end goes the other way round: no new front-end, the session's socket is shut down and
//!   its rings drain (L6), the queue threads finish and are joined, the image is synced, and the
//!   socket's file goes. Whatever was accepted is finished and durable then.
//!   A service manager hears of both: when the first front-end could come, and when the end begins.
//! * B3 The process stays in the foreground and ends for a stop signal, or with the one connection
//!   that it was started with.

mod control_loop;
mod entrance;
mod figures;
mod inherited;
pub mod logging;
mod poller;
mod resize;
mod sandbox;
mod service;
mod steer;
mod supervisor;
mod threads;
mod watch;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info};

use self::control_loop::{Ended, Errands, Port};
use self::entrance::{Entrance, Listener};
use self::inherited::Inherited;
use self::resize::Resizer;
use self::service::Service;
use self::steer::Wheel;
use self::supervisor::Supervisor;
use crate::config::{Config, DiskConfig, Socket};
use crate::control::admin::AdminServer;
use crate::control::pool::PoolError;
use crate::image::OpenError;
use crate::sys::signal::{self, Signals};
use crate::sys::{sigbus, socket};

pub use entrance::EntranceError;
pub use sandbox::SandboxError;

/// Why a disk cannot be served (any longer). One line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
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
        "the image of {0} could not be synced at the end ({1}): check its storage; what the guest \
         wrote and did not flush may be lost"
    )]
    Sync(String, io::Error),
    /// The scheduler of a pool.
    #[error("pool {0}: {1}")]
    Pool(String, PoolError),
}

/// Serves the disks until SIGTERM, SIGINT, or the end of the last connection that there can be.
/// SIGHUP has the sizes of all images taken anew.
///
/// To be called on a process that has opened nothing and started no thread yet (B1).
///
/// # Errors
/// What kept it from starting, or from going on.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let adopted: Result<Vec<_>, _> = config.disks.iter().map(adopt).collect();
    let adopted = adopted?;
    let fds: Vec<_> = config.disks.iter().filter_map(fd).collect();
    let (env, pid) = (|name: &str| std::env::var_os(name), std::process::id());
    let inherited = Inherited::take(env, pid, &fds)?;
    sandbox::arm(config)?;
    let supervisor = Arc::new(Supervisor::new(env, pid));
    signal::ignore_sigpipe();
    sigbus::install().map_err(DaemonError::Loop)?;
    let signals = Signals::block().map_err(DaemonError::Loop)?;
    match socket::raise_descriptor_limit() {
        Ok(limit) => debug!("{limit} descriptors may be open"),
        // Enough for few queues; a front-end that needs more is told by its own error.
        Err(e) => debug!("cannot raise the limit of open descriptors: {e}"),
    }
    serve(config, Ways { adopted, inherited }, &signals, &supervisor)
}

/// The entrance that was left open for a disk, if one was.
fn adopt(disk: &DiskConfig) -> Result<Option<Entrance>, DaemonError> {
    Ok(fd(disk).map(entrance::adopt).transpose()?)
}

/// The number of the descriptor that was left open for a disk.
fn fd(disk: &DiskConfig) -> Option<RawFd> {
    match disk.socket {
        Socket::Fd(fd) => Some(fd),
        Socket::Path { .. } => None,
    }
}

/// The ways in of all disks, the adopted ones and the new ones.
fn ports(
    config: &Config,
    ways: &mut Ways,
    groups: &[Option<u32>],
    service: &Service,
) -> Result<Vec<Port>, DaemonError> {
    let mut ports = Vec::new();
    let Ways { adopted, inherited } = ways;
    let disks = config.disks.iter().zip(adopted.drain(..)).zip(groups);
    for (((disk, adopted), group), session) in disks.zip(service.sessions()) {
        let entrance = match (adopted, &disk.socket) {
            (Some(entrance), _) => entrance,
            (None, Socket::Path { path, mode, .. }) => {
                Entrance::Listener(match inherited.claim(path) {
                    Some(listener) => listener,
                    None => Listener::bind(path, *mode, *group)?,
                })
            }
            (None, Socket::Fd(_)) => unreachable!("run adopts it"),
        };
        ports.push(Port::new(entrance, session).map_err(DaemonError::Loop)?);
    }
    Ok(ports)
}

/// The admin socket, if it was asked for: the server, and the socket's file.
fn admin(
    config: &Config,
    inherited: &mut Inherited,
    service: &Service,
) -> Result<Option<(AdminServer, Listener)>, DaemonError> {
    let Some(path) = &config.admin_socket else { return Ok(None) };
    let listener = match inherited.claim(path) {
        Some(listener) => listener,
        None => Listener::bind(path, 0o600, None)?,
    };
    let socket = listener.duplicate().map_err(DaemonError::Loop)?;
    let server = AdminServer::start(socket, Arc::new(Wheel::new(service)));
    info!("the admin socket is {}", path.display());
    Ok(Some((server.map_err(DaemonError::Loop)?, listener)))
}

/// What was left open for us.
#[derive(Debug, Default)]
struct Ways {
    /// By number, for each disk.
    adopted: Vec<Option<Entrance>>,
    /// By path.
    inherited: Inherited,
}

/// What the control loop does besides.
struct Housekeeping<'a> {
    resizer: Resizer,
    supervisor: &'a Supervisor,
}

impl Errands for Housekeeping<'_> {
    fn signal(&mut self, signal: i32) -> bool {
        let resizes = signal == libc::SIGHUP;
        if resizes {
            self.resizer.take_all();
        }
        resizes
    }

    fn interval(&self) -> Option<Duration> {
        self.supervisor.interval()
    }

    fn beat(&mut self) {
        self.supervisor.alive();
    }
}

fn serve(
    config: &Config,
    mut ways: Ways,
    signals: &Signals,
    supervisor: &Arc<Supervisor>,
) -> Result<(), DaemonError> {
    let group = |disk: &DiskConfig| match &disk.socket {
        Socket::Path { group: Some(name), .. } => entrance::group(name).map(Some),
        _ => Ok(None),
    };
    let groups: Result<Vec<_>, _> = config.disks.iter().map(group).collect();
    let groups = groups?;
    let service = Service::start(config)?;
    let mut ports = ports(config, &mut ways, &groups, &service)?;
    for (line, port) in service.describe(config).iter().zip(&ports) {
        info!("{line} on {}", port.name());
    }
    let admin = admin(config, &mut ways.inherited, &service)?;
    ways.inherited.close();
    sandbox::close(config)?;
    supervisor.ready();
    let mut errands = Housekeeping { resizer: Resizer::new(&service, supervisor), supervisor };
    let ended = control_loop::run(&mut ports, signals, &mut errands);
    supervisor.stopping();
    drop(errands);
    drop(admin); // whoever steers is done before that goes which is steered
    match ended {
        Ok(Ended::Signal(number)) => info!("stopping on signal {number}"),
        Ok(Ended::Disconnected) => info!("stopping: the front-end has gone"),
        Ok(Ended::Failed(_)) => {}
        Err(_) => {} // main says it
    }
    let stopped = service.stop();
    drop(ports); // B2: the files go when everything is durable
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
