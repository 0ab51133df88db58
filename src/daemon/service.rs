//! The disks, in their pools, from open to synced.
//!
//! A pool's threads and scheduler exist before the first session of one of its disks, and end when
//! no session of any is left. Disks that share no pool share nothing but the process.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::{error, info};

use super::DaemonError;
use super::control_loop::Serve;
use super::resize::Line;
use super::threads::{QueueThreads, mailboxes};
use super::watch::Watch;
use crate::blkmq::limits::Limits;
use crate::blkmq::stats::DiskStats;
use crate::blkmq::{ErrorPolicy, FlushGate, FlushPolicy};
use crate::config::{Config, DiskConfig};
use crate::control::pool::Pool;
use crate::control::{self, Session};
use crate::device::Disk;
use crate::device::config_space::ConfigSpace;
use crate::device::mailbox::{DiskId, Mailbox};
use crate::device::tuning::DiskTuning;
use crate::image::{self, Image, OpenOptions};

/// A disk that is being served.
#[derive(Clone, Debug)]
pub(super) struct DiskService {
    pub(super) disk: Arc<Disk>,
    pub(super) pool: Arc<Pool>,
    pub(super) limits: control::Limits,
    /// Path of the image, or `null:SIZE`.
    pub(super) image: String,
    pub(super) line: Arc<Line>,
}

/// A pool that is being served.
#[derive(Clone, Debug)]
pub(super) struct PoolService {
    pub(super) name: String,
    pub(super) pool: Arc<Pool>,
}

/// Everything that is being served.
#[derive(Debug)]
pub(super) struct Service {
    disks: Vec<DiskService>,
    pools: Vec<PoolService>,
    threads: Vec<QueueThreads>,
    /// After the threads that report to it.
    watch: Watch,
}

impl Service {
    /// Opens the images, starts the queue threads, and gives the pools their schedulers.
    pub(super) fn start(config: &Config) -> Result<Service, DaemonError> {
        let images: Result<Vec<_>, _> = config.disks.iter().map(open).collect();
        let images = images?;
        let mut service = Service {
            disks: Vec::new(),
            pools: Vec::new(),
            threads: Vec::new(),
            watch: Watch::start().map_err(DaemonError::Loop)?,
        };
        for (number, pool) in config.pools.iter().enumerate() {
            let members: Vec<_> = (0..)
                .zip(config.disks.iter().zip(&images))
                .filter(|(_, (disk, _))| disk.pool == number)
                .collect();
            let seeks = members.iter().any(|(_, (_, image))| image.is_rotational());
            let (mailboxes, inboxes) = mailboxes(pool.threads)?;
            let shared = Pool::new(mailboxes.clone(), pool.rotational.unwrap_or(seeks));
            let shared = Arc::new(shared);
            shared.tuning().set_nomerges(pool.nomerges);
            shared.tuning().set_poll_max_us(pool.poll_max_us);
            for (id, (config, image)) in members {
                let disk = Arc::new(disk(DiskId(id), config, &shared, image));
                let limits = control::Limits {
                    num_queues: config.num_queues,
                    max_queue_size: config.queue_size,
                };
                let image = config.blk_file.clone();
                let (pool, line) = (Arc::clone(&shared), Arc::default());
                service.disks.push(DiskService { disk, pool, limits, image, line });
            }
            let reports = service.watch.reports();
            let tuning = shared.tuning();
            let threads = QueueThreads::start(pool, tuning, mailboxes, inboxes, reports.as_ref())?;
            service.threads.push(threads);
            service.pools.push(PoolService { name: pool.name.clone(), pool: Arc::clone(&shared) });
            let scheduler = &pool.scheduler;
            shared
                .set_scheduler(&scheduler.name, &scheduler.tunables)
                .and_then(|()| shared.set_hw_depth(pool.hw_depth))
                .map_err(|e| DaemonError::Pool(pool.name.clone(), e))?;
        }
        // The order of the configuration is that of the disks' numbers.
        service.disks.sort_by_key(|served| served.disk.id.0);
        Ok(service)
    }

    /// The disks, in the order of the configuration.
    pub(super) fn disks(&self) -> Vec<DiskService> {
        self.disks.clone()
    }

    /// The pools, in the order of the configuration.
    pub(super) fn pools(&self) -> Vec<PoolService> {
        self.pools.clone()
    }

    /// What a session thread does, for each disk in the order of the configuration.
    pub(super) fn sessions(&self) -> impl Iterator<Item = Serve> {
        self.disks.iter().map(|served| {
            let DiskService { disk, pool, limits, line, .. } = served;
            let (disk, pool, limits) = (Arc::clone(disk), Arc::clone(pool), *limits);
            let line = Arc::clone(line);
            let serve: Serve = Arc::new(move |stream: UnixStream| {
                let session = Session::new(Arc::clone(&disk), &pool, limits);
                line.follow(session.herald());
                let end = session.serve(stream);
                if !end.is_clean() {
                    return Err(end.to_string()); // logged by the session itself
                }
                info!("the front-end of {} has disconnected", disk.name);
                Ok(())
            });
            serve
        })
    }

    /// What is served, a line for each disk, for the log.
    pub(super) fn describe(&self, config: &Config) -> Vec<String> {
        let line = |(served, of): (&DiskService, &DiskConfig)| {
            let geometry = served.disk.image.geometry();
            let access = if of.read_only { "read-only" } else { "read-write" };
            let pool = &config.pools[of.pool];
            format!(
                "serving {} ({} sectors, {}-byte blocks, {access}, cache {}, pool {}, scheduler \
                 {}, {} queue threads)",
                of.blk_file,
                served.disk.config.capacity(),
                geometry.logical_block,
                of.cache,
                pool.name,
                pool.scheduler.name,
                pool.threads
            )
        };
        self.disks.iter().zip(&config.disks).map(line).collect()
    }

    /// Ends the queue threads and makes everything durable. No session may run any more.
    ///
    /// # Errors
    /// The first disk that could not be synced, after all others have been.
    pub(super) fn stop(self) -> Result<(), DaemonError> {
        drop(self.threads);
        drop(self.watch);
        let mut first = Ok(());
        for served in &self.disks {
            if let Err(why) = make_durable(&served.disk) {
                error!("{}: the last sync failed: {why}", served.disk.name);
                first = first.and_then(|()| Err(DaemonError::Sync(served.disk.name.clone(), why)));
            }
        }
        first
    }
}

fn make_durable(disk: &Disk) -> io::Result<()> {
    let traits = disk.image.traits();
    if traits.read_only || traits.flush_is_noop {
        return Ok(());
    }
    let synced = disk.image.sync();
    match disk.flush.failed() {
        // L9: the kernel tells of a lost write once; a sync that works now is no excuse.
        Some(e) => Err(io::Error::from_raw_os_error(e.0)),
        None => synced,
    }
}

fn open(config: &DiskConfig) -> Result<Arc<dyn Image>, DaemonError> {
    let options = OpenOptions {
        read_only: config.read_only,
        cache: config.cache,
        logical_block: config.logical_block,
        physical_block: config.physical_block,
        share_rw: config.share_rw,
        registered_buffers: config.registered_buffers,
    };
    Ok(image::open(&config.blk_file, &options)?)
}

fn disk(id: DiskId, config: &DiskConfig, pool: &Pool, image: &Arc<dyn Image>) -> Disk {
    let (geometry, traits) = (image.geometry(), image.traits());
    let limits = Limits::new(&config.limits).expect("the configuration was checked");
    let threads = u16::try_from(pool.mailboxes().len()).expect("as many as were asked for");
    let policy = FlushPolicy { exclusive: traits.exclusive, noop: traits.flush_is_noop };
    Disk {
        id,
        name: config.name.clone(),
        config: ConfigSpace::new(&geometry, &traits, config.num_queues),
        image: Arc::clone(image),
        serial: config.serial,
        writeback: AtomicBool::new(config.cache.initial_writeback()),
        flush: Arc::new(FlushGate::new(threads, policy)),
        bells: pool.mailboxes().iter().map(Mailbox::bell).collect(),
        unmap: config.unmap,
        on_error: ErrorPolicy { read: config.rerror, write: config.werror },
        limits: Arc::new(limits),
        stats: DiskStats::new(config.num_queues),
        tuning: DiskTuning::new(config.weight, config.nr_requests),
        pool: Arc::clone(pool.tuning()),
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
        service.disks[0].disk.flush.latch(Errno(libc::ENOSPC));
        let end = service.stop().expect_err("what a flush lost is lost");
        assert!(matches!(&end, DaemonError::Sync(_, e) if e.raw_os_error() == Some(libc::ENOSPC)));
    }
}
