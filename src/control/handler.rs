//! One method per vhost-user message: what each changes, and in which order.
//!
//! The library has checked the form of a message (length, flags, number of descriptors) when it
//! arrives here; everything it means is checked here, before anything changes. A method either
//! does all of what its message says, or refuses it with a reason.
//!
//! Names and meanings are those of QEMU's docs/interop/vhost-user.rst.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Backend, Error, GpuBackend, Result as WireResult, VhostUserBackendReqHandlerMut,
};
use vmm_sys_util::eventfd::EventFd;

use super::config;
use super::herald::Herald;
use super::memory::{MAX_SLOTS, MemoryTable, RegionSpec};
use super::refusal::Refusal;
use super::rings::{Rings, Uncovered};
use super::vring::RingAddresses;
use crate::block::Errno;
use crate::device::Disk;
use crate::device::inflight::{self, Region};
use crate::sys::fd::{self, Bell};

/// The protocol features that we do. What is not here is refused, whoever asks.
pub(super) const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// The state of one session: everything that the front-end told us.
pub(super) struct Handler {
    disk: Arc<Disk>,
    table: MemoryTable,
    /// Shared with the pool, which may move them to other threads.
    rings: Arc<Mutex<Rings>>,
    max_queue_size: u16,
    /// GET_FEATURES was sent: the library acknowledges only from then on.
    asked_features: bool,
    /// As sent, refused or not: what the library goes by.
    protocol_as_sent: u64,
    /// A duplicate of the descriptor that SET_BACKEND_REQ_FD is bringing.
    arriving: Option<OwnedFd>,
    /// Has the channel on which we may call the front-end, open as long as the session: a front-end
    /// takes its closing for our death.
    herald: Arc<Herald>,
}

impl Handler {
    pub(super) fn new(disk: Arc<Disk>, rings: Arc<Mutex<Rings>>, max_queue_size: u16) -> Handler {
        Handler {
            disk,
            table: MemoryTable::default(),
            rings,
            max_queue_size,
            asked_features: false,
            protocol_as_sent: 0,
            arriving: None,
            herald: Arc::default(),
        }
    }

    /// The rings, for the length of one message: nobody moves them meanwhile.
    fn rings(&self) -> MutexGuard<'_, Rings> {
        // Whoever panicked in there left a ring that is lost, which the next use finds out.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the library answers a message with the need-reply flag (REPLY_ACK is in force).
    pub(super) fn acknowledges(&self) -> bool {
        self.asked_features
            && self.protocol_as_sent & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// Lays ready the duplicate of the descriptor that the next message brings: the library takes
    /// the original and does not give it out (it neither is close-on-exec nor can be made so).
    pub(super) fn arriving(&mut self, fd: Option<OwnedFd>) {
        self.arriving = fd;
    }

    /// What tells the front-end of changes, once it has sent a channel.
    pub(super) fn herald(&self) -> &Arc<Herald> {
        &self.herald
    }

    /// Whether any ring runs.
    pub(super) fn is_running(&self) -> bool {
        self.rings().running() > 0
    }

    /// The end of the session: drains all rings.
    pub(super) fn close(&mut self) -> Result<(), Refusal> {
        self.rings().stop_all()
    }

    fn offered(&self) -> u64 {
        config::features(&self.disk) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn take_features(&mut self, features: u64) -> Result<(), Refusal> {
        let surplus = features & !self.offered();
        if surplus != 0 {
            return Err(Refusal::NotOffered { kind: "feature bits", bits: surplus });
        }
        self.rings().set_features(features)
    }

    fn take_table(&mut self, next: MemoryTable, uncovered: Uncovered) -> Result<(), Refusal> {
        if next.is_same(&self.table) {
            return Ok(());
        }
        self.table = next;
        self.rings().set_memory(Arc::clone(self.table.memory()), uncovered)
    }

    fn take_size(&mut self, index: u32, size: u32) -> Result<(), Refusal> {
        let max = self.max_queue_size;
        let mut rings = self.rings();
        rings.get(index)?.set_size(size, max)?;
        rings.start(index)
    }

    fn take_addresses(&mut self, index: u32, addresses: RingAddresses) -> Result<(), Refusal> {
        let mut rings = self.rings();
        let memory = Arc::clone(rings.memory());
        let ring = rings.get(index)?;
        // A front-end that turns dirty logging on or off sends the same addresses again.
        if ring.is_at(&addresses) {
            return rings.start(index);
        }
        ring.check(&addresses, &memory)?;
        rings.stop(index)?.set_addresses(addresses)?;
        rings.start(index)
    }

    fn take_kick(&mut self, index: u8, file: Option<File>) -> Result<(), Refusal> {
        let index = u32::from(index);
        let kick = bell("kick", Bell::Waited, file)?;
        let mut rings = self.rings();
        rings.stop(index)?.kicked(kick)?;
        rings.start(index)
    }

    fn take_call(&mut self, index: u8, file: Option<File>) -> Result<(), Refusal> {
        let call = bell("call", Bell::Rung, file)?;
        self.rings().get(u32::from(index))?.set_call(call)
    }

    fn take_err(&mut self, index: u8, file: Option<File>) -> Result<(), Refusal> {
        let err = bell("err", Bell::Rung, file)?;
        self.rings().get(u32::from(index))?.set_err(err)
    }

    /// Off means: stop fetching, finish what was fetched, keep everything. On goes on from there.
    fn take_enable(&mut self, index: u32, enable: bool) -> Result<(), Refusal> {
        let mut rings = self.rings();
        rings.get(index)?.set_enabled(enable);
        if enable {
            return rings.start(index);
        }
        rings.stop(index).map(|_| ())
    }

    /// The record of what is in flight, new or of our predecessor. What it says of a ring is looked at
    /// when that starts. A guest that had turned the cache off believes that it still is.
    fn take_inflight(&mut self, told: &VhostUserInflight, file: File) -> Result<(), Refusal> {
        let place = (told.mmap_offset, told.mmap_size);
        let region = Region::attach(file, place, told.num_queues, told.queue_size)?;
        let disk = Arc::clone(&self.disk);
        self.rings().set_inflight(region, |region| {
            let was_off = region.writeback() == Some(false);
            if was_off && disk.writeback.swap(false, Ordering::SeqCst) {
                make_durable(&disk)?;
            }
            region.set_writeback(disk.writeback.load(Ordering::SeqCst));
            Ok(())
        })
    }

    /// Drains before it answers (L6): after the answer nothing is written to guest memory and
    /// nobody is notified.
    fn give_base(&mut self, index: u32) -> Result<VhostUserVringState, Refusal> {
        let mut rings = self.rings();
        let ring = rings.stop(index)?;
        ring.halt();
        Ok(VhostUserVringState::new(index, u32::from(ring.next_avail())))
    }

    /// The only writable byte is `writeback`. Turning it off promises that everything written
    /// before is durable: so the new mode is stored first, then what was fetched in the old mode
    /// drains, then the image is synced, then the front-end is told.
    fn take_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Refusal> {
        match config::write(&self.disk, offset, bytes)? {
            config::Change::None => Ok(()),
            config::Change::CacheOn => {
                record_mode(&self.rings(), true);
                Ok(())
            }
            config::Change::CacheOff => {
                let disk = Arc::clone(&self.disk);
                self.rings().at_rest(Uncovered::Wait, |rings| {
                    make_durable(&disk)?;
                    record_mode(rings, false);
                    Ok(())
                })
            }
        }
    }
}

/// Keeps the cache mode for a successor of ours, if there is a place for it.
fn record_mode(rings: &Rings, writeback: bool) {
    if let Some(region) = rings.inflight() {
        region.set_writeback(writeback);
    }
}

/// Syncs the image. A failure latches (L9): the kernel tells of a lost write only once, and here
/// it has told us, so that no later flush could know.
fn make_durable(disk: &Disk) -> Result<(), Refusal> {
    if let Some(Errno(code)) = disk.flush.failed() {
        return Err(Refusal::Sync(io::Error::from_raw_os_error(code)));
    }
    let traits = disk.image.traits();
    if traits.read_only || traits.flush_is_noop {
        return Ok(());
    }
    disk.image.sync().map_err(|why| {
        disk.flush.latch(Errno(why.raw_os_error().unwrap_or(libc::EIO)));
        Refusal::Sync(why)
    })
}

/// A received descriptor as something to wait for or to ring.
fn bell(what: &'static str, bell: Bell, file: Option<File>) -> Result<Option<EventFd>, Refusal> {
    let Some(file) = file else { return Ok(None) };
    let refuse = |why| Refusal::Descriptor { what, why };
    fd::set_cloexec(fd::borrow(&file)).map_err(refuse)?;
    fd::check_bell(fd::borrow(&file), bell).map_err(refuse)?;
    Ok(Some(fd::into_eventfd(file)))
}

/// A refusal in the library's words: the reason travels inside.
fn wire<T>(done: Result<T, Refusal>) -> WireResult<T> {
    done.map_err(|why| Error::ReqHandlerError(io::Error::other(why)))
}

fn unsupported<T>(what: &'static str) -> WireResult<T> {
    wire(Err(Refusal::Unsupported(what)))
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> WireResult<()> {
        // The start of a session; the session started with the connection.
        Ok(())
    }

    fn reset_owner(&mut self) -> WireResult<()> {
        // Deprecated; the specification leaves "ignore" or "disable all rings".
        wire(self.rings().halt_all())
    }

    fn reset_device(&mut self) -> WireResult<()> {
        wire(self.rings().reset())
    }

    fn get_features(&mut self) -> WireResult<u64> {
        self.asked_features = true;
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> WireResult<()> {
        wire(self.take_features(features))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> WireResult<Option<Vec<VhostUserMemoryRegionBase>>> {
        let regions = regions.iter().map(RegionSpec::from).zip(files).collect();
        let next = wire(self.table.replaced(regions))?;
        wire(self.take_table(next, Uncovered::Refuse)).map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> WireResult<()> {
        wire(self.take_size(index, num))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> WireResult<()> {
        let addresses = RingAddresses { desc: descriptor, avail: available, used };
        wire(self.take_addresses(index, addresses))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> WireResult<()> {
        wire(self.rings().get(index).and_then(|ring| ring.set_base(base)))
    }

    fn get_vring_base(&mut self, index: u32) -> WireResult<VhostUserVringState> {
        wire(self.give_base(index))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        wire(self.take_kick(index, fd))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        wire(self.take_call(index, fd))
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        wire(self.take_err(index, fd))
    }

    fn get_protocol_features(&mut self) -> WireResult<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, features: u64) -> WireResult<()> {
        self.protocol_as_sent = features;
        match features & !PROTOCOL.bits() {
            0 => Ok(()),
            bits => wire(Err(Refusal::NotOffered { kind: "protocol feature bits", bits })),
        }
    }

    fn get_queue_num(&mut self) -> WireResult<u64> {
        Ok(u64::from(self.rings().count()))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> WireResult<()> {
        wire(self.take_enable(index, enable))
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> WireResult<Vec<u8>> {
        let bytes = wire(config::read(&self.disk, offset, size))?;
        self.herald.config_read(offset, &bytes);
        Ok(bytes)
    }

    fn set_config(
        &mut self,
        offset: u32,
        buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> WireResult<()> {
        wire(self.take_config(offset, buf))
    }

    fn set_backend_req_fd(&mut self, _library: Backend) {
        // The library's own copy is closed here; ours is the duplicate that was laid ready.
        self.herald.attach(self.arriving.take());
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> WireResult<()> {
        unsupported("a GPU channel")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> WireResult<File> {
        unsupported("SHARED_OBJECT")
    }

    fn get_inflight_fd(
        &mut self,
        inflight: &VhostUserInflight,
    ) -> WireResult<(VhostUserInflight, File)> {
        let (queues, size) = (inflight.num_queues, inflight.queue_size);
        let (file, len) = wire(inflight::create(queues, size).map_err(Refusal::from))?;
        Ok((VhostUserInflight::new(len, 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> WireResult<()> {
        wire(self.take_inflight(inflight, file))
    }

    fn get_max_mem_slots(&mut self) -> WireResult<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> WireResult<Option<VhostUserMemoryRegionBase>> {
        let next = wire(self.table.added(RegionSpec::from(&**region), fd))?;
        wire(self.take_table(next, Uncovered::Wait)).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> WireResult<()> {
        let next = wire(self.table.removed(&RegionSpec::from(&**region)))?;
        wire(self.take_table(next, Uncovered::Wait))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> WireResult<Option<File>> {
        unsupported("DEVICE_STATE")
    }

    fn check_device_state(&mut self) -> WireResult<()> {
        unsupported("DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> WireResult<VhostUserShMemConfig> {
        unsupported("SHMEM")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> WireResult<()> {
        unsupported("LOG_SHMFD")
    }
}
