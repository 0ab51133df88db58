//! A warm sweep allocates nothing, whatever the guest sends (L8, `blkmq`'s law of no allocation).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::blkmq::{FlushGate, FlushPolicy};
use crate::block::{Nanos, QueueId};
use crate::device::config_space::ConfigSpace;
use crate::device::inflight::{self, Region};
use crate::device::mailbox::{DiskId, QueueStart, mailbox};
use crate::device::queue_thread::QueueThread;
use crate::device::tuning::{DiskTuning, PoolTuning};
use crate::device::{Disk, MAX_QUEUES};
use crate::image::{Image, OpenOptions, open};
use crate::sys::uring::Ring;
use crate::testkit::TestMemory;
use crate::testkit::alloc::allocations;
use crate::testkit::blk::{BlkDriver, Done, Framing, Request};
use crate::testkit::driver::{Driver, Layout};

/// A file of noise, served with direct I/O through a real ring.
pub(super) fn raw_image() -> (tempfile::NamedTempFile, Arc<dyn Image>) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(1 << 20).expect("room for a megabyte");
    let path = file.path().to_str().expect("a plain name");
    let image = open(path, &OpenOptions::default()).expect("the file can be served");
    (file, image)
}

fn null_image() -> Arc<dyn Image> {
    open("null:1M", &OpenOptions::default()).expect("null needs nothing")
}

/// Every kind of request, good and bad, short and long.
fn requests() -> Vec<(Request, Layout, u32)> {
    let mut all = Vec::new();
    for layout in [Layout::Direct, Layout::Indirect] {
        for (request, piece) in [
            (Request::read(0, 4096), 4096),
            (Request::write(8, &[7; 8192]), 8192),
            (Request::read(16, 16 * 512), 512),
            (Request::read(1, 513 * 512), 1 << 20),
            (Request::flush(), 512),
            (Request::get_id(20), 512),
            (Request::discard(&[(0, 8, 0), (16, 8, 0), (64, 8, 0)]), 512),
            (Request::write_zeroes(&[(32, 8, 1), (40, 16, 0)]), 512),
            // Neighbours: they travel together.
            (Request::write(512, &[1; 4096]), 4096),
            (Request::write(520, &[2; 8192]), 4096),
            (Request::write(504, &[3; 4096]), 4096),
            (Request::read(128, 4096), 4096),
            (Request::read(136, 4096), 4096),
            (Request::new(99, 0), 512),
            (Request::read(1 << 55, 512), 512),
        ] {
            all.push((request, layout, piece));
        }
    }
    all
}

pub(super) struct Bench {
    thread: QueueThread,
    pub(super) guests: Vec<BlkDriver>,
    now: u64,
}

impl Bench {
    pub(super) fn new(image: Arc<dyn Image>, queues: u16) -> Bench {
        let (mailbox, inbox) = mailbox().expect("an eventfd");
        let ring = Ring::new(64).expect("io_uring works on the test machine");
        let pool = Arc::new(PoolTuning::default());
        let thread = QueueThread::new(0, ring, inbox, Arc::clone(pool.credits()));
        let mut thread = thread.expect("the mailbox can be watched");
        let policy = FlushPolicy { exclusive: true, noop: image.traits().flush_is_noop };
        let disk = Arc::new(Disk {
            id: DiskId(0),
            name: "a-disk".to_owned(),
            config: ConfigSpace::new(&image.geometry(), &image.traits(), MAX_QUEUES),
            image,
            serial: *b"a serial of 20 chars",
            writeback: AtomicBool::new(true),
            flush: Arc::new(FlushGate::new(1, policy)),
            bells: vec![mailbox.bell()],
            unmap: true,
            on_error: Default::default(),
            limits: Arc::default(),
            stats: crate::blkmq::stats::DiskStats::new(64),
            tuning: DiskTuning::default(),
            pool,
        });
        let memory = Arc::new(TestMemory::new(16 << 20));
        let mut guests = Vec::new();
        let (file, len) = inflight::create(queues.max(1), 128).expect("memory");
        let region = Region::attach(file, (0, len), queues.max(1), 128).expect("ours");
        for queue in 0..queues {
            let driver = Driver::new(&memory, 128, queue % 2 == 0, true);
            let start = QueueStart {
                queue: QueueId(queue),
                ring: driver.setup(),
                memory: Arc::clone(memory.memory()),
                kick: None,
                call: None,
                err: None,
                features: disk.config.features(),
                disk: Arc::clone(&disk),
                // One of them is recorded.
                inflight: if queue == 1 { region.part(QueueId(queue)) } else { None },
            };
            thread.start(start).expect("the queue can run");
            let mut guest = BlkDriver::new(driver);
            // The first one's buffers are copied by direct I/O, the others' are not.
            guest.set_align(if queue == 0 { 1 } else { 4096 });
            guests.push(guest);
        }
        Bench { thread, guests, now: 0 }
    }

    /// Sends every request on every queue; the allocations that serving them took.
    fn round(&mut self) -> u64 {
        let all = requests();
        for guest in &mut self.guests {
            for (request, layout, piece) in &all {
                let framing = Framing::pieces(request, *piece, *layout);
                guest.add_framed(request, &framing).expect("room");
            }
        }
        self.work(all.len() * self.guests.len(), drop)
    }

    /// Serves the `expected` requests that were added; the answers to them.
    pub(super) fn serve(&mut self, expected: usize) -> Vec<Done> {
        let mut answers = Vec::new();
        self.work(expected, |done| answers.push(done));
        answers
    }

    /// Serves `expected` requests; the allocations that this took.
    fn work(&mut self, expected: usize, mut each: impl FnMut(Done)) -> u64 {
        for guest in &mut self.guests {
            guest.publish();
        }
        for queue in self.thread.queues.iter_mut().flatten() {
            queue.active = true;
        }
        let (mut taken, mut answered) = (0, 0);
        while answered < expected {
            self.now += 1000;
            let now = Nanos(self.now);
            let mut may_sleep = false;
            taken += allocations(|| may_sleep = self.thread.iterate(now) && !self.thread.rearm());
            for guest in &mut self.guests {
                while let Some(done) = guest.poll() {
                    each(done);
                    answered += 1;
                }
            }
            // With everything answered nothing would ever wake us.
            let wait = may_sleep && answered < expected;
            let ring = &mut self.thread.ring;
            taken += allocations(|| {
                let entered = if wait { ring.submit_and_wait(None) } else { ring.submit() };
                entered.expect("the ring works");
            });
            assert!(!wait || !ring.has_unsubmitted(), "I11: nothing written sleeps");
        }
        taken
    }
}

fn a_warm_bench_allocates_nothing(image: Arc<dyn Image>) {
    let mut bench = Bench::new(image, 3);
    for _ in 0..3 {
        bench.round();
    }
    let taken: u64 = (0..20).map(|_| bench.round()).sum();
    assert_eq!(taken, 0);
    for queue in bench.thread.queues.iter().flatten().filter(|q| q.id != QueueId(0)) {
        let stats = bench.thread.lanes.domain.stats(queue.hctx);
        assert!(stats.writes.merges >= 2 * 20, "and bios were merged: {}", stats.writes.merges);
    }
}

#[test]
fn a_warm_sweep_on_the_null_image_allocates_nothing() {
    a_warm_bench_allocates_nothing(null_image());
}

#[test]
fn i11_a_warm_sweep_on_a_file_allocates_nothing_and_submits_before_it_sleeps() {
    let (_file, image) = raw_image();
    a_warm_bench_allocates_nothing(image);
}
