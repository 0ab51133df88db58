//! The disk and the queue threads that serve it, from open to synced.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use log::{error, info};

use super::DaemonError;
use super::control_loop::Serve;
use crate::blkmq::{FlushGate, FlushPolicy};
use crate::config::{Config, DiskConfig, PoolConfig};
use crate::control::pool::Pool;
use crate::control::{Limits, Session};
use crate::device::Disk;
use crate::device::config_space::ConfigSpace;
use crate::device::mailbox::{DiskId, Inbox, Mailbox, mailbox};
use crate::device::queue_thread::{self, ThreadConfig};
use crate::image::{self, Image, OpenOptions};

/// One disk per process: its number.
const DISK: DiskId = DiskId(0);

/// A disk that is being served.
#[derive(Debug)]
pub(super) struct Service {
    disk: Arc<Disk>,
    pool: Arc<Pool>,
    threads: QueueThreads,
    limits: Limits,
}

impl Service {
    /// Opens the image and starts the queue threads.
    pub(super) fn start(config: &Config) -> Result<Service, DaemonError> {
        let (pool, config) = (&config.pools[0], &config.disks[0]);
        let image = image::open(
            &config.blk_file,
            &OpenOptions {
                read_only: config.read_only,
                cache: config.cache,
                logical_block: config.logical_block,
                physical_block: config.physical_block,
                share_rw: config.share_rw,
            },
        )?;
        let boxes: Result<Vec<_>, _> = (0..pool.threads).map(|_| mailbox()).collect();
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
            boxes.map_err(DaemonError::Loop)?.into_iter().unzip();
        let disk = Arc::new(disk(config, image, &mailboxes));
        let shared = Arc::new(Pool::new(mailboxes.clone(), false));
        let threads = QueueThreads::start(pool, mailboxes, inboxes)?;
        let limits = Limits { num_queues: config.num_queues, max_queue_size: config.queue_size };
        Ok(Service { disk, pool: shared, threads, limits })
    }

    /// What a session thread does.
    pub(super) fn session(&self) -> Serve {
        let disk = Arc::clone(&self.disk);
        let pool = Arc::clone(&self.pool);
        let limits = self.limits;
        Arc::new(move |stream: UnixStream| {
            let session = Session::new(Arc::clone(&disk), &pool, limits);
            let end = session.serve(stream);
            if !end.is_clean() {
                return Err(end.to_string()); // logged by the session itself
            }
            info!("the front-end has disconnected");
            Ok(())
        })
    }

    /// What is served, for the log.
    pub(super) fn describe(&self, config: &Config) -> String {
        let (threads, config) = (config.pools[0].threads, &config.disks[0]);
        let geometry = self.disk.image.geometry();
        let access = if config.read_only { "read-only" } else { "read-write" };
        format!(
            "serving {} ({} sectors, {}-byte blocks, {access}, cache {}, {threads} queue threads)",
            config.blk_file, geometry.capacity, geometry.logical_block, config.cache
        )
    }

    /// Ends the queue threads and makes everything durable. No session may run any more.
    pub(super) fn stop(self) -> Result<(), DaemonError> {
        drop(self.threads);
        let traits = self.disk.image.traits();
        if traits.read_only || traits.flush_is_noop {
            return Ok(());
        }
        let synced = self.disk.image.sync();
        match self.disk.flush.failed() {
            // L9: the kernel tells of a lost write once; a sync that works now is no excuse.
            Some(e) => Err(DaemonError::Sync(io::Error::from_raw_os_error(e.0))),
            None => synced.map_err(DaemonError::Sync),
        }
    }
}

fn disk(config: &DiskConfig, image: Arc<dyn Image>, mailboxes: &[Mailbox]) -> Disk {
    let (geometry, traits) = (image.geometry(), image.traits());
    let threads = u16::try_from(mailboxes.len()).expect("as many as the pool has threads");
    let policy = FlushPolicy { exclusive: traits.exclusive, noop: traits.flush_is_noop };
    Disk {
        id: DISK,
        config: ConfigSpace::new(&geometry, &traits, config.num_queues),
        image,
        serial: config.serial,
        writeback: AtomicBool::new(config.cache.initial_writeback()),
        flush: Arc::new(FlushGate::new(threads, policy)),
        bells: mailboxes.iter().map(Mailbox::bell).collect(),
        unmap: config.unmap,
    }
}

/// The queue threads; dropped, they finish what they have and are joined.
#[derive(Debug)]
struct QueueThreads {
    mailboxes: Vec<Mailbox>,
    handles: Vec<JoinHandle<()>>,
}

impl QueueThreads {
    fn start(
        config: &PoolConfig,
        mailboxes: Vec<Mailbox>,
        inboxes: Vec<Inbox>,
    ) -> Result<QueueThreads, DaemonError> {
        let mut threads = QueueThreads { mailboxes, handles: Vec::new() };
        for (index, inbox) in (0..config.threads).zip(inboxes) {
            let cpus: Vec<usize> =
                config.cpus.get(usize::from(index)).copied().into_iter().collect();
            let pinned = !cpus.is_empty();
            let handle = queue_thread::spawn(ThreadConfig { index, cpus }, inbox).map_err(|e| {
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
    use crate::block::Errno;

    fn on_file(image: &std::path::Path) -> Service {
        let argv = ["x".to_owned(), "--fd=9".to_owned(), format!("--blk-file={}", image.display())];
        let argv: Vec<_> = argv.into_iter().map(Into::into).collect();
        match crate::config::from_argv(&argv) {
            Ok(crate::config::Command::Serve(config)) => Service::start(&config).expect("it opens"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flush_that_failed_is_not_forgotten_at_the_end() {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(1 << 20).expect("room");
        on_file(image.path()).stop().expect("nothing is lost");
        let service = on_file(image.path());
        service.disk.flush.latch(Errno(libc::ENOSPC));
        let end = service.stop().expect_err("what a flush lost is lost");
        assert!(matches!(&end, DaemonError::Sync(e) if e.raw_os_error() == Some(libc::ENOSPC)));
    }

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
