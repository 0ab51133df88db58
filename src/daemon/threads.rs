//! The queue threads of a pool, from start to joined.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use log::error;

use super::DaemonError;
use crate::config::PoolConfig;
use crate::device::mailbox::{Inbox, Mailbox, mailbox};
use crate::device::queue_thread::{self, Stuck, ThreadConfig};
use crate::device::tuning::PoolTuning;

/// The queue threads; dropped, they finish what they have and are joined.
#[derive(Debug)]
pub(super) struct QueueThreads {
    mailboxes: Vec<Mailbox>,
    handles: Vec<JoinHandle<()>>,
}

/// The mailboxes of a pool's threads, and their ends.
///
/// # Errors
/// What eventfd(2) answered.
pub(super) fn mailboxes(threads: u16) -> Result<(Vec<Mailbox>, Vec<Inbox>), DaemonError> {
    let boxes: io::Result<Vec<_>> = (0..threads).map(|_| mailbox()).collect();
    Ok(boxes.map_err(DaemonError::Loop)?.into_iter().unzip())
}

impl QueueThreads {
    /// Starts a thread behind each mailbox.
    ///
    /// # Errors
    /// [`DaemonError::Thread`]; those that run are ended.
    pub(super) fn start(
        pool: &PoolConfig,
        tuning: &PoolTuning,
        mailboxes: Vec<Mailbox>,
        inboxes: Vec<Inbox>,
        reports: Option<&SyncSender<Stuck>>,
    ) -> Result<QueueThreads, DaemonError> {
        let mut threads = QueueThreads { mailboxes, handles: Vec::new() };
        for (index, inbox) in (0..pool.threads).zip(inboxes) {
            let cpus: Vec<usize> = pool.cpus.get(usize::from(index)).copied().into_iter().collect();
            let pinned = !cpus.is_empty();
            let (credits, reports) = (Arc::clone(tuning.credits()), reports.cloned());
            let config = ThreadConfig { index, credits, cpus, reports };
            let handle = queue_thread::spawn(config, inbox).map_err(|e| {
                let remedy = remedy(&e, pinned);
                DaemonError::Thread { index, cause: e, remedy }
            })?;
            threads.handles.push(handle);
        }
        Ok(threads)
    }
}

impl Drop for QueueThreads {
    fn drop(&mut self) {
        for mailbox in &self.mailboxes {
            // A thread that has ended already, or was never started, is not to be asked.
            let _ = mailbox.exit();
        }
        for (index, handle) in self.handles.drain(..).enumerate() {
            if handle.join().is_err() {
                error!("queue thread {index} panicked");
            }
        }
    }
}

/// What helps against the usual refusals of a thread that is pinned and makes an io_uring.
fn remedy(error: &io::Error, pinned: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) if pinned => {
            "give --cpus that exist and that this process may use (nproc, taskset -p)"
        }
        Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l)",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open descriptors (ulimit -n)",
        Some(libc::EAGAIN) => "raise the limit of processes and threads (ulimit -u)",
        _ => {
            "io_uring is needed: Linux 6.1 or newer, sysctl kernel.io_uring_disabled=0, and a \
             container whose seccomp profile lets it through"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_thread_has_a_remedy() {
        let remedy = |code, pinned| remedy(&io::Error::from_raw_os_error(code), pinned);
        assert!(remedy(libc::EINVAL, true).contains("--cpus"));
        assert!(remedy(libc::EINVAL, false).contains("io_uring"));
        assert!(remedy(libc::EPERM, true).contains("io_uring_disabled"));
        assert!(remedy(libc::ENOSYS, false).contains("6.1"));
        assert!(remedy(libc::ENOMEM, false).contains("ulimit -l"));
        assert!(remedy(libc::EMFILE, false).contains("ulimit -n"));
        assert!(remedy(libc::EAGAIN, false).contains("ulimit -u"));
    }
}
