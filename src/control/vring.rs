//! What control knows of a ring, and who has it.
//!
//! ```text
//!             SET_VRING_KICK            all of R1-R5
//!   Stopped -----------------> Ready -----------------> Running
//!      ^                        ^  ^                       |
//!      | GET_VRING_BASE, reset  |  | the thread gives back | stop asked (pause, new memory,
//!      +------------------------+  +------ Draining <------+ new features, GET_VRING_BASE)
//! ```
//!
//! A ring's position and its descriptors have one owner at a time: this struct while the ring does
//! not run, the queue thread while it does. They are handed over by value ([`QueueStart`]) and come
//! back by value ([`QueueStopped`]) when everything that was fetched is published.
//!
//! A ring may run when
//! * R1 it was started by SET_VRING_KICK (with or without a descriptor),
//! * R2 its size and its addresses are known and lie in guest memory over their full extent,
//! * R3 the features are known,
//! * R4 it is enabled: by SET_VRING_ENABLE, or from the start when the front-end did not negotiate
//!   VHOST_USER_F_PROTOCOL_FEATURES,
//! * R5 the guest has not broken it since it was last stopped.
//!
//! A ring that loses one of these drains and waits as Ready, with everything it had; it goes on at
//! the same position when it has them again.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use vmm_sys_util::eventfd::EventFd;

use super::refusal::Refusal;
use crate::block::QueueId;
use crate::device::mailbox::{DiskId, Mailbox, QueueStart, QueueStopped, ThreadGone};
use crate::device::virtqueue::RingSetup;
use crate::device::{Disk, inflight};
use crate::sys::fd;
use crate::sys::guest::{GuestBuf, GuestMemory};

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Where the parts of a ring are, as the front-end's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// The parts of a ring as checked host memory.
struct Parts {
    desc: GuestBuf,
    avail: GuestBuf,
    used: GuestBuf,
}

impl RingAddresses {
    /// Finds the parts of a ring of `size` entries, over their full extent and aligned
    /// (virtio 1.3, 2.7: 16n, 6+2n and 6+8n bytes, aligned to 16, 2 and 4).
    fn locate(&self, queue: QueueId, memory: &GuestMemory, size: u16) -> Result<Parts, Refusal> {
        let n = u64::from(size);
        let part =
            |part: &'static str, address: u64, len: u64, align: usize| {
                let (buf, _) = memory
                    .slice_uva(address, len)
                    .map_err(|_| Refusal::RingAddress { queue, part, address, len })?;
                // The host address is what the ring's atomics need aligned; it can differ from the
                // front-end's when a region itself is not aligned there.
                if !buf.addr().addr().is_multiple_of(align) {
                    return Err(Refusal::RingAlignment { queue, part, address, align });
                }
                Ok(buf)
            };
        Ok(Parts {
            desc: part("descriptor table", self.desc, 16 * n, 16)?,
            avail: part("available ring", self.avail, 6 + 2 * n, 2)?,
            used: part("used ring", self.used, 6 + 8 * n, 4)?,
        })
    }
}

/// Who has the ring.
#[derive(Debug)]
enum State {
    /// Nobody: it was not started, or GET_VRING_BASE stopped it.
    Stopped,
    /// Control: it was started and waits for what it still lacks (R2-R5).
    Ready {
        /// The guest's doorbell; `None` when the front-end sent none.
        kick: Option<EventFd>,
    },
    /// The queue thread, with the position and the descriptors.
    Running,
    /// The queue thread, which was asked to give it back.
    Draining(Receiver<Option<Box<QueueStopped>>>),
}

/// What a ring needs besides its own words to run.
pub struct Ground<'a> {
    /// The generation of guest memory.
    pub memory: &'a Arc<GuestMemory>,
    /// Virtio feature bits that the driver accepted.
    pub features: u64,
    /// The disk behind the ring.
    pub disk: &'a Arc<Disk>,
    /// The record of what is in flight, if the front-end keeps one.
    pub inflight: Option<&'a inflight::Region>,
}

/// A ring as control sees it.
#[derive(Debug)]
pub struct Vring {
    id: QueueId,
    disk: DiskId,
    mailbox: Mailbox,
    size: Option<u16>,
    addresses: Option<RingAddresses>,
    next_avail: u16,
    /// `None`: what guest memory says when the ring starts.
    next_used: Option<u16>,
    enabled: bool,
    broken: bool,
    call: Option<EventFd>,
    err: Option<EventFd>,
    state: State,
}

impl Vring {
    /// A stopped ring that the thread behind `mailbox` will serve.
    #[must_use]
    pub fn new(id: QueueId, disk: DiskId, mailbox: Mailbox) -> Vring {
        Vring {
            id,
            disk,
            mailbox,
            size: None,
            addresses: None,
            next_avail: 0,
            next_used: None,
            enabled: false,
            broken: false,
            call: None,
            err: None,
            state: State::Stopped,
        }
    }

    /// The ring's number.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Whether a queue thread has the ring.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running | State::Draining(_))
    }

    /// Whether SET_VRING_ENABLE turned the ring on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Position of the next available entry to fetch, as last known here.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    /// A size that is not a power of two in `1..=max`, or a change while the ring runs.
    pub fn set_size(&mut self, size: u32, max: u16) -> Result<(), Refusal> {
        let refusal = Refusal::RingSize { size, max };
        let Some(n) = u16::try_from(size).ok().filter(|n| n.is_power_of_two() && *n <= max) else {
            return Err(refusal);
        };
        if self.is_running() && self.size != Some(n) {
            return Err(Refusal::RingRuns(self.id, "its size"));
        }
        self.size = Some(n);
        Ok(())
    }

    /// Whether SET_VRING_ADDR would change anything.
    #[must_use]
    pub fn is_at(&self, addresses: &RingAddresses) -> bool {
        self.addresses.as_ref() == Some(addresses)
    }

    /// Checks addresses as far as it is possible now: when the size and the memory are known.
    ///
    /// # Errors
    /// A part that is not in one region of guest memory, or not aligned.
    pub fn check(&self, addresses: &RingAddresses, memory: &GuestMemory) -> Result<(), Refusal> {
        match self.size {
            Some(size) if !memory.regions().is_empty() => {
                addresses.locate(self.id, memory, size).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// SET_VRING_ADDR, for a ring that does not run. The used index is read from the new place.
    ///
    /// # Errors
    /// The ring runs.
    pub fn set_addresses(&mut self, addresses: RingAddresses) -> Result<(), Refusal> {
        if self.is_running() {
            return Err(Refusal::RingRuns(self.id, "its addresses"));
        }
        self.addresses = Some(addresses);
        self.next_used = None;
        Ok(())
    }

    /// SET_VRING_BASE, for a ring that does not run.
    ///
    /// # Errors
    /// A position that does not fit 16 bits, or the ring runs.
    pub fn set_base(&mut self, base: u32) -> Result<(), Refusal> {
        let base = u16::try_from(base).map_err(|_| Refusal::RingBase(base))?;
        if self.is_running() {
            return Err(Refusal::RingRuns(self.id, "its position"));
        }
        self.next_avail = base;
        self.next_used = None;
        Ok(())
    }

    /// SET_VRING_KICK, for a ring that does not run: from now on it is started (R1).
    ///
    /// # Errors
    /// The ring runs.
    pub fn kicked(&mut self, kick: Option<EventFd>) -> Result<(), Refusal> {
        if self.is_running() {
            return Err(Refusal::RingRuns(self.id, "its kick descriptor"));
        }
        self.state = State::Ready { kick };
        Ok(())
    }

    /// SET_VRING_CALL, running or not.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn set_call(&mut self, call: Option<EventFd>) -> Result<(), Refusal> {
        if self.is_running() {
            return self.mailbox.set_call(self.disk, self.id, call).map_err(|e| self.lost(e));
        }
        self.call = call;
        Ok(())
    }

    /// SET_VRING_ERR, running or not.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn set_err(&mut self, err: Option<EventFd>) -> Result<(), Refusal> {
        if self.is_running() {
            return self.mailbox.set_err(self.disk, self.id, err).map_err(|e| self.lost(e));
        }
        self.err = err;
        Ok(())
    }

    /// SET_VRING_ENABLE: only the word (R4). Whoever clears it drains the ring.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether the ring waits for nothing but memory that covers it (all of R1-R5 but that).
    #[must_use]
    pub fn wants_to_run(&self, enabled_from_start: bool) -> bool {
        matches!(self.state, State::Ready { .. })
            && self.size.is_some()
            && self.addresses.is_some()
            && (self.enabled || enabled_from_start)
            && !self.broken
    }

    /// Hands a ring that [wants to run](Vring::wants_to_run) to its queue thread.
    ///
    /// # Errors
    /// A part outside of guest memory: the ring stays Ready. A refusal of the thread: the ring is
    /// Stopped, its descriptors are gone. [`Refusal::QueueLost`].
    pub fn start(&mut self, ground: &Ground<'_>) -> Result<(), Refusal> {
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else {
            return Ok(());
        };
        let parts = addresses.locate(self.id, ground.memory, size)?;
        let State::Ready { kick } = &mut self.state else {
            return Ok(());
        };
        let part = ground.inflight.map(|all| all.part(self.id).ok_or(Refusal::NoInflight(self.id)));
        let part = part.transpose()?;
        let kick = kick.take();
        let next_used = self.next_used.unwrap_or_else(|| used_index(&parts.used));
        // A ring that goes on may have used buffers that the guest was never told of: they were
        // announced while the front-end was away, to a descriptor that nobody listens to any more.
        if let Some(call) = &self.call
            && (self.next_avail, next_used) != (0, 0)
        {
            fd::ring(call);
        }
        let start = QueueStart {
            queue: self.id,
            ring: RingSetup {
                size,
                desc: parts.desc,
                avail: parts.avail,
                used: parts.used,
                next_avail: self.next_avail,
                next_used,
                event_idx: ground.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
                indirect: ground.features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            },
            memory: Arc::clone(ground.memory),
            kick,
            call: self.call.take(),
            err: self.err.take(),
            features: ground.features,
            disk: Arc::clone(ground.disk),
            inflight: part,
        };
        self.state = State::Stopped;
        match self.mailbox.start(start) {
            Ok(Ok(())) => {
                self.state = State::Running;
                Ok(())
            }
            Ok(Err(why)) => Err(Refusal::QueueStart(self.id, why)),
            Err(gone) => Err(self.lost(gone)),
        }
    }

    /// Asks the queue thread to drain the ring and give it back, without waiting. Nothing happens
    /// to a ring that does not run. Follow with [`Vring::drained`].
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn drain(&mut self) -> Result<(), Refusal> {
        if matches!(self.state, State::Running) {
            let answer =
                self.mailbox.stop_later(self.disk, self.id).map_err(|gone| self.lost(gone))?;
            self.state = State::Draining(answer);
        }
        Ok(())
    }

    /// Waits until a ring that drains is back; it is then Ready where it was.
    ///
    /// # Errors
    /// [`Refusal::QueueLost`].
    pub fn drained(&mut self) -> Result<(), Refusal> {
        let answer = match &self.state {
            State::Draining(answer) => answer.recv(),
            _ => return Ok(()),
        };
        let Ok(Some(back)) = answer else {
            return Err(self.lost(ThreadGone));
        };
        self.next_avail = back.next_avail;
        self.next_used = Some(back.next_used);
        self.broken = back.broken;
        self.call = back.call;
        self.err = back.err;
        self.state = State::Ready { kick: back.kick };
        Ok(())
    }

    /// The end of GET_VRING_BASE: the ring is Stopped until the next SET_VRING_KICK. Its position
    /// stays; a broken ring may start again (R5). Call and err stay: front-ends send them once.
    pub fn halt(&mut self) {
        debug_assert!(!self.is_running(), "drained first");
        self.state = State::Stopped;
        self.next_used = None;
        self.broken = false;
    }

    /// The ring as it was when the device was new (RESET_DEVICE), but for call and err.
    pub fn reset(&mut self) {
        debug_assert!(!self.is_running(), "drained first");
        *self = Vring {
            call: self.call.take(),
            err: self.err.take(),
            ..Vring::new(self.id, self.disk, self.mailbox.clone())
        };
    }

    /// Another thread serves the ring from its next start on.
    pub fn set_mailbox(&mut self, mailbox: Mailbox) {
        debug_assert!(!self.is_running(), "drained first");
        self.mailbox = mailbox;
    }

    /// The thread that had the ring is gone: so are position and descriptors.
    fn lost(&mut self, gone: ThreadGone) -> Refusal {
        self.state = State::Stopped;
        Refusal::QueueLost(self.id, gone)
    }
}

/// The used index in guest memory (virtio 1.3, 2.7.8: flags, then idx, little-endian).
fn used_index(used: &GuestBuf) -> u16 {
    let mut idx = [0; 2];
    used.skip(2).take(2).copy_to(&mut idx);
    u16::from_le_bytes(idx)
}

#[cfg(test)]
mod tests;
