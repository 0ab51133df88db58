//! A disk that changes its size while it is served.
//!
//! * Z1 **Growth is there before it is told.** The image is long enough, then requests may go there,
//!   then the front-end is told.
//! * Z2 **Shrinking is refused before it is done.** Requests beyond the new end are refused, those in
//!   flight finish, then a file is cut. When somebody else has cut it already, those in flight fail
//!   (reads) or make it longer again (writes), which nobody sees.
//! * Z3 A disk that would have no block left keeps the size that it had.
//! * Z4 One change of a disk at a time. The control loop is never held up: what SIGHUP asks for is done
//!   by a thread of its own, because the storage is asked and requests may have to be waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use log::{info, warn};

use super::service::{DiskService, Service};
use super::supervisor::Supervisor;
use crate::block::SECTOR_SIZE;
use crate::control::Herald;
use crate::control::pool::PoolError;
use crate::image::ResizeError;

/// Why a disk keeps its size.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It would lose content, and nobody said that it may.
    #[error(
        "{0} bytes are less than the disk has, and what is cut off is lost: give shrink as well, if \
         that is meant"
    )]
    Shrinks(u64),
    /// The image.
    #[error(transparent)]
    Image(#[from] ResizeError),
    /// The requests in flight did not come to an end.
    #[error("requests in flight could not be waited for ({0}): look at the log")]
    Unsettled(#[from] PoolError),
}

/// What became of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resized {
    /// Sectors before.
    pub(super) before: u64,
    /// Sectors now.
    pub(super) sectors: u64,
    /// A front-end is there that is told.
    pub(super) announced: bool,
}

/// What a disk needs for it: its turn (Z4), and who tells the front-end.
#[derive(Debug, Default)]
pub(super) struct Line {
    turn: Mutex<()>,
    herald: Mutex<Weak<Herald>>,
}

/// Whatever is under these locks is whole at any time.
fn whole<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// The session that is going to be served has this herald.
    pub(super) fn follow(&self, herald: &Arc<Herald>) {
        *whole(&self.herald) = Arc::downgrade(herald);
    }

    fn announce(&self, sectors: u64) -> bool {
        let herald = whole(&self.herald).upgrade();
        herald.is_some_and(|herald| herald.announce(sectors))
    }
}

/// Takes the size that the image has now, or gives it one of `bytes` first.
///
/// # Errors
/// [`Refused`]; the size is the one from before.
pub(super) fn resize(
    served: &DiskService,
    bytes: Option<u64>,
    may_shrink: bool,
) -> Result<Resized, Refused> {
    let _turn = whole(&served.line.turn);
    let before = served.disk.config.capacity();
    let done = match bytes {
        Some(bytes) if bytes / SECTOR_SIZE < before && !may_shrink => Err(Refused::Shrinks(bytes)),
        Some(bytes) => set(served, bytes),
        None => take(served),
    };
    if done.is_err() {
        // What the image goes by is in force.
        served.disk.config.set_capacity(served.disk.image.geometry().capacity);
    }
    done?;
    let sectors = served.disk.config.capacity();
    let announced = served.line.announce(sectors);
    Ok(Resized { before, sectors, announced })
}

/// Gives the image its size, then the disk.
fn set(served: &DiskService, bytes: u64) -> Result<(), Refused> {
    let (disk, sectors) = (&served.disk, bytes / SECTOR_SIZE);
    // Z2, should it become smaller. What the image refuses is put right by the caller.
    if (1..disk.config.capacity()).contains(&sectors) {
        disk.config.set_capacity(sectors);
        served.pool.settle(disk.id)?;
    }
    disk.image.set_len(bytes)?;
    take(served)
}

/// Gives the disk the size that its image has.
fn take(served: &DiskService) -> Result<(), Refused> {
    let (disk, before) = (&served.disk, served.disk.config.capacity());
    let sectors = disk.image.remeasure()?.capacity; // Z1, Z3
    disk.config.set_capacity(sectors);
    if sectors < before {
        served.pool.settle(disk.id)?; // Z2
    }
    Ok(())
}

/// Takes the sizes of all disks on a thread of its own (Z4), which is closed in as its maker is: by the
/// main thread's sandbox.
#[derive(Debug)]
pub(super) struct Resizer {
    disks: Arc<[DiskService]>,
    thread: Option<JoinHandle<()>>,
    /// How often it is still to be done: at most once more than the thread is at it.
    wanted: Arc<Mutex<u8>>,
    /// Told when it begins and when it is done.
    supervisor: Arc<Supervisor>,
}

impl Resizer {
    /// For what this service serves.
    pub(super) fn new(service: &Service, supervisor: &Arc<Supervisor>) -> Resizer {
        let supervisor = Arc::clone(supervisor);
        Resizer { disks: service.disks().into(), thread: None, wanted: Arc::default(), supervisor }
    }

    /// Takes the sizes of all disks soon: those that they have at this moment, or later ones.
    pub(super) fn take_all(&mut self) {
        {
            let mut wanted = whole(&self.wanted);
            *wanted = wanted.saturating_add(1).min(2);
            self.supervisor.reloading(); // before anybody can say that it is done
            if *wanted > 1 {
                return; // the thread looks again before it ends
            }
        }
        self.join();
        let (disks, wanted) = (Arc::clone(&self.disks), Arc::clone(&self.wanted));
        let supervisor = Arc::clone(&self.supervisor);
        let thread = std::thread::Builder::new().name("blkmq-resize".to_owned()).spawn(move || {
            loop {
                disks.iter().for_each(take_and_tell);
                let mut wanted = whole(&wanted);
                *wanted -= 1;
                if *wanted == 0 {
                    supervisor.ready();
                    return;
                }
            }
        });
        match thread {
            Ok(thread) => self.thread = Some(thread),
            Err(why) => {
                *whole(&self.wanted) = 0;
                self.supervisor.ready();
                warn!("the sizes of the disks were not taken ({why}): send SIGHUP again");
            }
        }
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread that takes the sizes of disks panicked");
        }
    }
}

impl Drop for Resizer {
    fn drop(&mut self) {
        self.join();
    }
}

fn take_and_tell(served: &DiskService) {
    match resize(served, None, true) {
        Ok(resized) => info!("{}: {}", served.disk.name, resized),
        Err(why) => warn!("{} keeps its size: {why}", served.disk.name),
    }
}

impl std::fmt::Display for Resized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Resized { before, sectors, announced } = self;
        if sectors == before {
            return write!(f, "still {sectors} sectors");
        }
        let how = if sectors < before { "shrunk" } else { "grown" };
        let told = if *announced { "is told" } else { "is not there, or does not listen" };
        write!(f, "{how} from {before} to {sectors} sectors; the front-end {told}")
    }
}

#[cfg(test)]
mod tests;
