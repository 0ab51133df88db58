//! A queue thread and a front-end for the tests of this room.
//!
//! The fake thread keeps the rings that it was given, answers every command, and writes down what
//! it was told. "Work" is done by the test: [`FakeThread::complete`] moves a ring's position and
//! the used index in guest memory, as a real thread does by serving requests.

mod front_end;
mod thread;

pub(super) use front_end::{Bells, DENIED, FrontEnd, Memory, eventfd, pair, region};
pub(super) use thread::{FakeThread, Told};

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::pool::Pool;
use super::session::{Limits, Session, SessionEnd, SessionHandle};
use crate::blkmq::{FlushGate, FlushPolicy};
use crate::device::Disk;
use crate::device::config_space::ConfigSpace;
use crate::device::mailbox::{DiskId, Mailbox};
use crate::device::tuning::DiskTuning;
use crate::image::{Channel, Geometry, Image, Traits};
use crate::sys::uring::Ring;

pub(super) const PROTOCOL_BIT: u64 = 1 << 30;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// Bits that a driver of ours would take: all that matters to control.
pub(super) const ALL_FEATURES: u64 = VERSION_1
    | EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_CONFIG_WCE
    | 1 << VIRTIO_BLK_F_MQ
    | PROTOCOL_BIT;

/// An image that counts its syncs and fails them when told.
#[derive(Default)]
pub(super) struct FakeImage {
    pub(super) syncs: AtomicU32,
    pub(super) failing: AtomicBool,
}

impl Image for FakeImage {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: 2048,
            logical_block: 512,
            physical_block: 4096,
            discard_granularity: 4096,
        }
    }

    fn traits(&self) -> Traits {
        Traits { read_only: false, flush_is_noop: false, exclusive: true, dsync: true }
    }

    fn open_channel(&self, _ring: &mut Ring, _lane: u16) -> io::Result<Box<dyn Channel>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

/// A disk, its queue threads, and the sessions in front of it.
pub(super) struct World {
    pub(super) image: Arc<FakeImage>,
    pub(super) disk: Arc<Disk>,
    pub(super) threads: Vec<FakeThread>,
    pub(super) pool: Arc<Pool>,
    pub(super) limits: Limits,
}

impl World {
    pub(super) fn new(threads: usize, num_queues: u16) -> World {
        let image = Arc::new(FakeImage::default());
        let threads: Vec<FakeThread> = (0..threads).map(|_| FakeThread::new()).collect();
        let count = u16::try_from(threads.len()).expect("few");
        let policy = FlushPolicy { exclusive: true, noop: false };
        let disk = Arc::new(Disk {
            id: DiskId(60),
            name: "a-disk".to_owned(),
            image: Arc::clone(&image) as Arc<dyn Image>,
            config: ConfigSpace::new(&image.geometry(), &image.traits(), num_queues),
            serial: [0; 20],
            writeback: AtomicBool::new(true),
            flush: Arc::new(FlushGate::new(count, policy)),
            bells: threads.iter().map(|t| t.mailbox.bell()).collect(),
            unmap: true,
            on_error: Default::default(),
            limits: Arc::default(),
            stats: crate::blkmq::stats::DiskStats::new(64),
            tuning: DiskTuning::default(),
            pool: Arc::default(),
        });
        let limits = Limits { num_queues, max_queue_size: 256 };
        let mailboxes = threads.iter().map(|t| t.mailbox.clone()).collect();
        let pool = Arc::new(Pool::new(mailboxes, false));
        World { image, disk, threads, pool, limits }
    }

    pub(super) fn mailboxes(&self) -> Vec<Mailbox> {
        self.threads.iter().map(|t| t.mailbox.clone()).collect()
    }

    /// A front-end whose session runs on its own thread.
    pub(super) fn connect(&self) -> (FrontEnd, Serving) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let serving = self.serve(theirs);
        (FrontEnd::new(ours), serving)
    }

    pub(super) fn serve(&self, stream: UnixStream) -> Serving {
        let session = Session::new(Arc::clone(&self.disk), &self.pool, self.limits);
        let handle = SessionHandle::new(&stream).expect("a duplicate");
        let thread = std::thread::spawn(move || session.serve(stream));
        Serving { handle, thread }
    }

    pub(super) fn told(&self) -> Vec<Told> {
        self.threads.iter().flat_map(FakeThread::told).collect()
    }

    pub(super) fn running(&self) -> Vec<u16> {
        let mut all: Vec<u16> = self.threads.iter().flat_map(FakeThread::running).collect();
        all.sort_unstable();
        all
    }

    /// A well-behaved front-end can use the disk: what every bad session must leave true.
    pub(super) fn still_serves(&self) {
        assert_eq!(self.running(), [0; 0], "a session left rings running");
        self.told();
        let (mut fe, serving) = self.connect();
        let memory = Memory::new(0, 0x10_0000, 0x7f00_0000_0000);
        fe.negotiate();
        fe.set_table(&[&memory]).expect("accepted");
        fe.start_ring(0, 128, &memory);
        assert_eq!(self.running(), [0]);
        drop(fe);
        assert!(serving.end().is_clean());
        assert_eq!(self.running(), [0; 0]);
    }
}

/// A session that is being served.
pub(super) struct Serving {
    pub(super) handle: SessionHandle,
    thread: JoinHandle<SessionEnd>,
}

impl Serving {
    pub(super) fn end(self) -> SessionEnd {
        self.thread.join().expect("a session never panics")
    }
}
