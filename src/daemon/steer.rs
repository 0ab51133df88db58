//! What the admin socket can see and change, answered from the disks and pools that are served.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::info;

use super::resize;
use super::service::{DiskService, PoolService, Service};
use crate::blkmq::limits::LimitsConfig;
use crate::blkmq::sched::Kind;
use crate::control::admin::shape::{
    DiskStats, DiskSummary, Inspection, PoolSummary, Resized, SchedulerReport,
};
use crate::control::admin::{Steer, SteerError};
use crate::control::pool::PoolError;
use crate::device::Disk;

/// The operator's hands on a [`Service`].
#[derive(Clone, Debug)]
pub(super) struct Wheel {
    disks: Arc<[DiskService]>,
    pools: Arc<[PoolService]>,
}

impl From<PoolError> for SteerError {
    fn from(why: PoolError) -> SteerError {
        match why {
            PoolError::Build(why) => SteerError::Invalid(why.to_string()),
            PoolError::Thread(_) | PoolError::Move(_) => SteerError::Refused {
                cause: why.to_string(),
                remedy: "look at the log; a front-end that lost a queue has to connect again"
                    .to_owned(),
            },
        }
    }
}

impl Wheel {
    /// For what this service serves.
    pub(super) fn new(service: &Service) -> Wheel {
        Wheel { disks: service.disks().into(), pools: service.pools().into() }
    }

    fn disk(&self, name: &str) -> Result<&DiskService, SteerError> {
        let found = self.disks.iter().find(|served| served.disk.name == name);
        found.ok_or_else(|| SteerError::NoSuchDisk(name.to_owned()))
    }

    fn pool(&self, name: &str) -> Result<&PoolService, SteerError> {
        let found = self.pools.iter().find(|pool| pool.name == name);
        found.ok_or_else(|| SteerError::NoSuchPool(name.to_owned()))
    }

    /// The disks of a pool.
    fn members(&self, pool: &PoolService) -> impl Iterator<Item = &Arc<Disk>> {
        let of = |served: &&DiskService| Arc::ptr_eq(&served.pool, &pool.pool);
        self.disks.iter().filter(of).map(|served| &served.disk)
    }
}

impl Steer for Wheel {
    fn disks(&self) -> Vec<DiskSummary> {
        let summary = |served: &DiskService| {
            let disk = &served.disk;
            let geometry = disk.image.geometry();
            let pool = self.pools.iter().find(|pool| Arc::ptr_eq(&pool.pool, &served.pool));
            DiskSummary {
                name: disk.name.clone(),
                image: served.image.clone(),
                pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
                sectors: disk.config.capacity(),
                block_size: geometry.logical_block,
                read_only: disk.image.traits().read_only,
                queues: served.limits.num_queues,
                connected: served.pool.has_session(disk.id),
                weight: disk.tuning.weight(),
                nr_requests: disk.tuning.nr_requests(),
                limits: disk.limits.config().into(),
            }
        };
        self.disks.iter().map(summary).collect()
    }

    fn pools(&self) -> Vec<PoolSummary> {
        let summary = |pool: &PoolService| PoolSummary {
            name: pool.name.clone(),
            disks: self.members(pool).map(|disk| disk.name.clone()).collect(),
            threads: u16::try_from(pool.pool.mailboxes().len()).unwrap_or(u16::MAX),
            scheduler: pool.pool.scheduler().name().to_owned(),
            hw_depth: pool.pool.tuning().hw_depth(),
            hw_depth_auto: pool.pool.is_hw_depth_auto(),
            nomerges: pool.pool.tuning().nomerges(),
            poll_max_us: pool.pool.tuning().poll_max_us(),
        };
        self.pools.iter().map(summary).collect()
    }

    fn disk_stats(&self, disk: &str, queues: bool, buckets: bool) -> Result<DiskStats, SteerError> {
        let served = self.disk(disk)?;
        super::figures::disk_stats(served, queues, buckets)
    }

    fn inspect(&self, disk: &str, most: u32) -> Result<Inspection, SteerError> {
        let served = self.disk(disk)?;
        super::figures::inspect(served, most)
    }

    fn set_limits(&self, disk: &str, limits: LimitsConfig) -> Result<(), SteerError> {
        let served = self.disk(disk)?;
        let set = served.disk.limits.set(&limits, crate::sys::clock::now());
        set.map_err(|why| SteerError::Invalid(why.to_string()))?;
        Ok(served.pool.retune()?)
    }

    fn set_weight(&self, disk: &str, weight: u16) -> Result<(), SteerError> {
        let served = self.disk(disk)?;
        if served.pool.scheduler() != Kind::Bfq {
            return Err(SteerError::Refused {
                cause: format!("the scheduler {} shares without weights", served.pool.scheduler()),
                remedy: "give its pool bfq first (pool.set-scheduler)".to_owned(),
            });
        }
        served.disk.tuning.set_weight(weight);
        Ok(served.pool.retune()?)
    }

    fn set_nr_requests(&self, disk: &str, requests: Option<u16>) -> Result<(), SteerError> {
        let served = self.disk(disk)?;
        served.disk.tuning.set_nr_requests(requests);
        Ok(served.pool.retune()?)
    }

    fn resize(&self, disk: &str, size: Option<u64>, shrink: bool) -> Result<Resized, SteerError> {
        let served = self.disk(disk)?;
        let done = resize::resize(served, size, shrink).map_err(|why| {
            let why = why.to_string(); // a cause, and behind the last colon the remedy
            let (cause, remedy) = why.rsplit_once(": ").unwrap_or((&why, "look at the log"));
            SteerError::Refused { cause: cause.to_owned(), remedy: remedy.to_owned() }
        })?;
        info!("{disk}: {done}");
        let resize::Resized { before, sectors, announced } = done;
        Ok(Resized { disk: disk.to_owned(), sectors, before, announced })
    }

    fn scheduler(&self, pool: &str) -> Result<SchedulerReport, SteerError> {
        let of = self.pool(pool)?;
        let (kind, tunables) = of.pool.tunables()?;
        Ok(SchedulerReport {
            pool: pool.to_owned(),
            scheduler: kind.name().to_owned(),
            available: Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            tunables: tunables.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    fn set_scheduler(
        &self,
        pool: &str,
        name: &str,
        tunables: &[(String, String)],
    ) -> Result<(), SteerError> {
        Ok(self.pool(pool)?.pool.set_scheduler(name, tunables)?)
    }

    fn tunable(&self, pool: &str, name: &str, value: Option<&str>) -> Result<String, SteerError> {
        Ok(self.pool(pool)?.pool.tunable(name, value)?)
    }

    fn set_hw_depth(&self, pool: &str, depth: Option<u32>) -> Result<(), SteerError> {
        Ok(self.pool(pool)?.pool.set_hw_depth(depth)?)
    }

    fn set_nomerges(&self, pool: &str, level: u8) -> Result<(), SteerError> {
        let pool = &self.pool(pool)?.pool;
        pool.tuning().set_nomerges(level);
        Ok(pool.retune()?)
    }

    fn set_poll_max_us(&self, pool: &str, most: u32) -> Result<(), SteerError> {
        let pool = &self.pool(pool)?.pool;
        pool.tuning().set_poll_max_us(most);
        Ok(pool.retune()?)
    }
}
