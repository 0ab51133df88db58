//! A second independent driver: virtio-driver, one queue. It chooses the features and the framing
//! of each request, which libblkio does not.

use std::path::Path;
use std::time::{Duration, Instant};

use std::os::fd::AsRawFd;

use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{
    ByteValued, EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioFeatureFlags,
    VirtioTransport, iovec,
};

use super::client::LOST;
use super::foreign;

/// VIRTIO_BLK_T_IN.
pub(crate) const IN: u32 = 0;
/// VIRTIO_BLK_T_OUT.
pub(crate) const OUT: u32 = 1;
/// VIRTIO_BLK_T_FLUSH.
pub(crate) const FLUSH: u32 = 4;
/// VIRTIO_BLK_T_GET_ID.
pub(crate) const GET_ID: u32 = 8;
/// VIRTIO_BLK_T_DISCARD.
pub(crate) const DISCARD: u32 = 11;
/// VIRTIO_BLK_T_WRITE_ZEROES.
pub(crate) const WRITE_ZEROES: u32 = 13;

/// Every virtio-blk feature the driver may accept (bits 0 to 23), without CONFIG_WCE's effect.
pub(crate) const BLK: u64 = 0x00ff_ffff;

/// VIRTIO_RING_F_EVENT_IDX.
pub(crate) const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_RING_F_INDIRECT_DESC.
pub(crate) const INDIRECT: u64 = 1 << 28;
/// VIRTIO_F_VERSION_1.
pub(crate) const VERSION_1: u64 = 1 << 32;

/// Data bytes one frame has room for.
pub(crate) const DATA: usize = 8192;

/// Header, data and status of one request, in memory shared with the device.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Frame {
    header: [u8; 16],
    data: [u8; DATA],
    status: u8,
}

/// How one request came back.
#[derive(Clone)]
pub(crate) struct Answer {
    /// Status byte; 0xee if the device did not write it.
    pub(crate) status: u8,
    /// The data area.
    pub(crate) data: Vec<u8>,
}

/// A connection with one queue.
pub(crate) struct Driver {
    queue: Virtqueue<'static, Frame>,
    notifier: Box<dyn QueueNotifier>,
    call: std::sync::Arc<EventFd>,
    transport: VhostUser<VirtioBlkConfig, Frame>,
    /// Times the doorbell was rung.
    pub(crate) kicks: u64,
}

impl Driver {
    /// Connects, accepting at most `features`, with a ring of `size` entries.
    pub(crate) fn connect(socket: &Path, features: u64, size: u16) -> Driver {
        let path = socket.to_str().expect("test paths are UTF-8");
        let mut transport: VhostUser<VirtioBlkConfig, Frame> =
            VhostUser::new(path, features).expect("the daemon accepts the connection");
        let flags = VirtioFeatureFlags::from_bits_truncate(transport.get_features());
        let layout =
            VirtqueueLayout::new::<Frame>(1, usize::from(size), flags).expect("a power of two");
        let translator = transport.iova_translator();
        let memory = transport.alloc_queue_mem(&layout).expect("the region is accepted");
        let memory = foreign::detach(memory);
        let queue = Virtqueue::new(translator, memory, size, flags).expect("it fits");
        let mut queues = [queue];
        transport.setup_queues(&queues).expect("the ring is accepted");
        queues[0].set_used_notif_enabled(true);
        let [queue] = queues;
        let notifier = transport.get_submission_notifier(0);
        let call = transport.get_completion_fd(0);
        Driver { queue, notifier, call, transport, kicks: 0 }
    }

    /// Features that both sides accepted.
    pub(crate) fn features(&self) -> u64 {
        self.transport.get_features()
    }

    /// The config space as bytes.
    pub(crate) fn config(&self) -> Vec<u8> {
        let config = self.transport.get_config().expect("the config space can be read");
        config.as_slice().to_vec()
    }

    /// Puts a request into the ring without ringing. `to_device` and `from_device` are the lengths
    /// of the data descriptors, in this order; the data area is shared out among them.
    pub(crate) fn queue(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[u8],
        to_device: &[usize],
        from_device: &[usize],
    ) -> u16 {
        self.queue
            .add_request(|frame, add| {
                frame.header[0..4].copy_from_slice(&kind.to_le_bytes());
                frame.header[4..8].copy_from_slice(&0u32.to_le_bytes());
                frame.header[8..16].copy_from_slice(&sector.to_le_bytes());
                frame.data.fill(0xa5);
                frame.data[..data.len()].copy_from_slice(data);
                frame.status = 0xee;
                let piece =
                    |pointer: *mut u8, len| iovec { iov_base: pointer.cast(), iov_len: len };
                add(piece((&raw mut frame.header).cast(), 16), false)?;
                let base: *mut u8 = (&raw mut frame.data).cast();
                let mut at = 0;
                let lengths = to_device.iter().map(|&l| (l, false));
                for (len, writable) in lengths.chain(from_device.iter().map(|&l| (l, true))) {
                    assert!(at + len <= DATA, "the frame has room");
                    add(piece(base.wrapping_add(at), len), writable)?;
                    at += len;
                }
                add(piece(&raw mut frame.status, 1), true)
            })
            .expect("the ring has room")
    }

    /// Rings the doorbell if the device wants it.
    pub(crate) fn ring(&mut self) {
        if self.queue.avail_notif_needed() {
            self.notifier.notify().expect("an eventfd takes a write");
            self.kicks += 1;
        }
    }

    /// Waits for `count` completions by interrupt; returns the answers and how many times the
    /// call descriptor was read.
    pub(crate) fn collect(&mut self, count: usize) -> (Vec<(u16, Answer)>, u64) {
        let end = Instant::now() + LOST;
        let mut answers = Vec::new();
        let mut interrupts = 0;
        while answers.len() < count {
            if let Some(done) = self.queue.completions().next() {
                let answer = Answer { status: done.req.status, data: done.req.data.to_vec() };
                answers.push((done.id, answer));
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(left > Duration::ZERO, "{} of {count} completions", answers.len());
            if foreign::readable(self.call.as_raw_fd(), left) {
                interrupts += self.call.read().expect("poll said readable");
            }
        }
        (answers, interrupts)
    }

    /// One request from beginning to end.
    pub(crate) fn ask(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[u8],
        to_device: &[usize],
        from_device: &[usize],
    ) -> Answer {
        let head = self.queue(kind, sector, data, to_device, from_device);
        self.ring();
        let (mut answers, _) = self.collect(1);
        let (done, answer) = answers.pop().expect("one was waited for");
        assert_eq!(done, head, "the head that was made available comes back");
        answer
    }
}

/// One segment of a discard or write-zeroes request.
pub(crate) fn segment(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    bytes[12..16].copy_from_slice(&flags.to_le_bytes());
    bytes
}
