//! All rings of a device: they drain together and start together.
//!
//! What several rings depend on (memory, features) changes only while none of them runs: every
//! running ring is asked to stop before the first is waited for, so that they drain at the same
//! time; then the change is made; then every ring that may run starts again.

use std::sync::Arc;

use super::refusal::Refusal;
use super::vring::{Ground, Vring};
use crate::block::QueueId;
use crate::device::mailbox::{DiskId, Mailbox};
use crate::device::{Disk, inflight};
use crate::sys::guest::GuestMemory;

use vhost::vhost_user::message::VhostUserVirtioFeatures;

/// What becomes of a ring that should start but is not (wholly) in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncovered {
    /// It waits as Ready, and the message that was to start it is refused.
    Refuse,
    /// It waits as Ready. A front-end that changes a region removes it and adds it again, while the
    /// guest runs; the rings in it wait in between.
    Wait,
}

/// The rings of a device, and the ground that they share.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Vring>,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    /// `None` before SET_FEATURES (R3).
    features: Option<u64>,
    /// Where the queue threads record what is in flight, if the front-end keeps a record.
    inflight: Option<Arc<inflight::Region>>,
}

impl Rings {
    /// `queues` stopped rings; queue `i` is served by the thread behind mailbox `i % n`.
    ///
    /// # Panics
    /// Without a mailbox: a disk is served by at least one thread.
    #[must_use]
    pub fn new(disk: Arc<Disk>, mailboxes: &[Mailbox], queues: u16) -> Rings {
        assert!(!mailboxes.is_empty(), "a disk is served by at least one thread");
        let rings = (0..queues)
            .zip(mailboxes.iter().cycle())
            .map(|(i, mailbox)| Vring::new(QueueId(i), disk.id, mailbox.clone()))
            .collect();
        Rings { rings, disk, memory: Arc::default(), features: None, inflight: None }
    }

    /// Whose rings they are.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.disk.id
    }

    /// How many rings there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.rings.len()).unwrap_or(u16::MAX)
    }

    /// How many rings a queue thread has now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.rings.iter().filter(|r| r.is_running()).count()
    }

    /// The ring of this number.
    ///
    /// # Errors
    /// [`Refusal::QueueIndex`].
    pub fn get(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        let queues = self.count();
        usize::try_from(index)
            .ok()
            .and_then(|i| self.rings.get_mut(i))
            .ok_or(Refusal::QueueIndex { index, queues })
    }

    /// The generation that rings start on.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The feature bits that rings start with.
    #[must_use]
    pub fn features(&self) -> Option<u64> {
        self.features
    }

    /// Starts one ring if it may run; nothing happens to a ring that still lacks something.
    ///
    /// # Errors
    /// The ring is not in guest memory, or its thread did not take it.
    pub fn start(&mut self, index: u32) -> Result<(), Refusal> {
        let Some(features) = self.features else { return Ok(()) };
        let memory = Arc::clone(&self.memory);
        let disk = Arc::clone(&self.disk);
        let inflight = self.inflight.clone();
        let ring = self.get(index)?;
        // Without memory there is nothing yet that the ring could be outside of (R2).
        if memory.regions().is_empty() || !ring.wants_to_run(enabled_from_start(features)) {
            return Ok(());
        }
        let inflight = inflight.as_deref();
        ring.start(&Ground { memory: &memory, features, disk: &disk, inflight })
    }

    /// Drains one ring; it is then Ready, or whatever it was if it did not run.
    ///
    /// # Errors
    /// [`Refusal::QueueIndex`], [`Refusal::QueueLost`].
    pub fn stop(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        let ring = self.get(index)?;
        ring.drain()?;
        ring.drained()?;
        Ok(ring)
    }

    /// Drains all rings that run, at the same time.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`], after all others have drained.
    pub fn stop_all(&mut self) -> Result<(), Refusal> {
        let mut first = Ok(());
        for step in [Vring::drain, Vring::drained] {
            for ring in &mut self.rings {
                let done = step(ring);
                first = first.and(done);
            }
        }
        first
    }

    /// Starts every ring that may run.
    ///
    /// # Errors
    /// The first ring that could not start, after all others have.
    pub fn start_all(&mut self, uncovered: Uncovered) -> Result<(), Refusal> {
        let mut first = Ok(());
        for index in 0..u32::from(self.count()) {
            match self.start(index) {
                Err(Refusal::RingAddress { .. }) if uncovered == Uncovered::Wait => {}
                done => first = first.and(done),
            }
        }
        first
    }

    /// Does something while no ring runs; the rings go on afterwards, whatever came of it.
    ///
    /// # Errors
    /// What `change` answered, else the first ring that could not stop or start.
    pub fn at_rest<T>(
        &mut self,
        uncovered: Uncovered,
        change: impl FnOnce(&mut Rings) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.stop_all()?;
        let done = change(self);
        let started = self.start_all(uncovered);
        done.and_then(|value| started.map(|()| value))
    }

    /// Moves the rings to the next generation of guest memory.
    ///
    /// # Errors
    /// A ring that the generation does not cover (with [`Uncovered::Refuse`]), or that could not
    /// stop or start.
    pub fn set_memory(
        &mut self,
        memory: Arc<GuestMemory>,
        uncovered: Uncovered,
    ) -> Result<(), Refusal> {
        self.at_rest(uncovered, |rings| {
            rings.memory = memory;
            Ok(())
        })
    }

    /// Moves the rings to other threads: queue `i` is served by the thread behind mailbox `i % n`
    /// from now on. Rings that run drain and go on there.
    ///
    /// # Errors
    /// A ring that could not stop or start.
    ///
    /// # Panics
    /// Without a mailbox.
    pub fn set_mailboxes(&mut self, mailboxes: &[Mailbox]) -> Result<(), Refusal> {
        assert!(!mailboxes.is_empty(), "a disk is served by at least one thread");
        self.at_rest(Uncovered::Wait, |rings| {
            for (ring, mailbox) in rings.rings.iter_mut().zip(mailboxes.iter().cycle()) {
                ring.set_mailbox(mailbox.clone());
            }
            Ok(())
        })
    }

    /// Gives the rings the features that the driver accepted; rings that run start again with them.
    ///
    /// # Errors
    /// A ring that could not stop or start.
    pub fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        if self.features == Some(features) {
            return Ok(());
        }
        self.at_rest(Uncovered::Wait, |rings| {
            rings.features = Some(features);
            Ok(())
        })
    }

    /// Where the rings record what is in flight.
    #[must_use]
    pub fn inflight(&self) -> Option<&inflight::Region> {
        self.inflight.as_deref()
    }

    /// Gives the rings a region to record in what is in flight, and does something more with it; rings
    /// that run start again then.
    ///
    /// # Errors
    /// What `also` answered, else a ring that could not stop or start.
    pub fn set_inflight(
        &mut self,
        region: inflight::Region,
        also: impl FnOnce(&inflight::Region) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.at_rest(Uncovered::Wait, |rings| also(rings.inflight.insert(Arc::new(region))))
    }

    /// Drains all rings and turns them off (RESET_OWNER). A SET_VRING_KICK starts them again.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn halt_all(&mut self) -> Result<(), Refusal> {
        self.stop_all()?;
        for ring in &mut self.rings {
            ring.halt();
            ring.set_enabled(false);
        }
        Ok(())
    }

    /// Drains all rings and forgets what they were told (RESET_DEVICE), the features and the
    /// in-flight region. Guest memory stays.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn reset(&mut self) -> Result<(), Refusal> {
        self.stop_all()?;
        self.rings.iter_mut().for_each(Vring::reset);
        self.features = None;
        self.inflight = None;
        Ok(())
    }
}

impl Drop for Rings {
    /// No ring outlives its session (L3: the thread still uses guest memory until it has drained).
    fn drop(&mut self) {
        if let Err(why) = self.stop_all() {
            log::error!("disk {}: {why}", self.disk.id.0);
        }
    }
}

/// R4: a front-end that does not know SET_VRING_ENABLE gets enabled rings.
fn enabled_from_start(features: u64) -> bool {
    features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0
}

#[cfg(test)]
mod tests;
