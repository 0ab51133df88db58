//! Reports of requests that are on their way for too long: one line for each, from a thread that
//! may wait for the log when queue threads may not.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use log::{error, warn};

use crate::device::queue_thread::Stuck;
use crate::sys::sandbox;

/// Reports that may wait to be logged. Those beyond are dropped: the log is full of them already.
const WAITING: usize = 64;

/// The thread that logs. Dropped, it is joined; everybody who reports has to be gone by then.
#[derive(Debug)]
pub(super) struct Watch {
    reports: Option<SyncSender<Stuck>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn start() -> io::Result<Watch> {
        let (reports, inbox) = sync_channel(WAITING);
        let thread =
            std::thread::Builder::new().name("blkmq-watch".to_owned()).spawn(move || {
                match sandbox::enter(sandbox::Thread::Watch) {
                    Ok(()) => log_all(&inbox),
                    Err(e) => error!("requests that are stuck are not reported: {e}"),
                }
            })?;
        Ok(Watch { reports: Some(reports), thread: Some(thread) })
    }

    /// Where queue threads report.
    pub(super) fn reports(&self) -> Option<SyncSender<Stuck>> {
        self.reports.clone()
    }
}

fn log_all(inbox: &Receiver<Stuck>) {
    for Stuck { disk, queue, bio } in inbox {
        warn!(
            "{disk}, queue {}: stuck: {bio}; it is waited for, look at the storage (or at \
             disk.inspect on the admin socket)",
            queue.0
        );
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reports = None;
        if let Some(thread) = self.thread.take() {
            // It only logs; a panic in the logger was shown by the panic itself.
            let _ = thread.join();
        }
    }
}
