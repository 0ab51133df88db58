//! A thread that looks for work finds it, whatever the ring says meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crate::blkmq::FlushPolicy;
use crate::block::QueueId;
use crate::device::mailbox::{QueueStart, mailbox};
use crate::device::queue_thread::QueueThread;
use crate::device::queue_thread::tests::world::disk_on;
use crate::sys::clock;
use crate::sys::uring::Ring;
use crate::testkit::TestMemory;
use crate::testkit::blk::{BlkDriver, Request};
use crate::testkit::disk::SimDisk;
use crate::testkit::driver::Driver;

/// A thread with a queue that nobody kicks, and its guest.
fn bench() -> (QueueThread, BlkDriver) {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let guest = BlkDriver::new(Driver::new(&memory, 8, true, true));
    let (mailbox, inbox) = mailbox().expect("an eventfd");
    let policy = FlushPolicy { exclusive: true, noop: true };
    let disk = disk_on(&SimDisk::new(8, 4, 1), &[mailbox], policy, Arc::default());
    let ring = Ring::new(8).expect("io_uring works here");
    let credits = Arc::clone(disk.pool.credits());
    let mut thread = QueueThread::new(0, ring, inbox, credits).expect("the mailbox can be watched");
    let start = QueueStart {
        queue: QueueId(0),
        ring: guest.driver().setup(),
        memory: Arc::clone(memory.memory()),
        kick: None,
        call: None,
        err: None,
        inflight: None,
        features: disk.config.features(),
        disk: Arc::new(disk),
    };
    thread.start(start).expect("the ring is sound");
    while !thread.iterate(clock::now()) {}
    (thread, guest)
}

/// The sign may stay up for ever when nothing is wanted (WA3).
#[test]
fn i10_a_sign_that_stays_up_hides_no_request() {
    for nags in [false, true] {
        let (mut thread, mut guest) = bench();
        thread.ring.nags = nags;
        thread.poller.always(2_000_000_000);
        for _ in 0..3 {
            guest.add(&Request::flush()).expect("room");
            let _ = guest.publish();
            let before = clock::now();
            thread.wait(before).expect("the ring works");
            let took = clock::now().since(before);
            assert!(took < 1_000_000_000, "it was there at once, and found after {took} ns");
            while !thread.iterate(clock::now()) {}
            let done = guest.poll().expect("it was served");
            assert_eq!((done.status, guest.poll()), (0, None));
        }
    }
}

#[test]
fn looking_ends_with_the_window() {
    for nags in [false, true] {
        let (mut thread, _guest) = bench();
        thread.ring.nags = nags;
        thread.poller.always(50_000);
        let start = clock::now();
        let found = thread.look(start, 50_000).expect("the ring works");
        let Some(end) = found else { panic!("there is nothing") };
        let contended = thread.poller.begin(0, end) == 0;
        assert!(end.since(start) >= 50_000 || contended, "{} ns", end.since(start));
        // A ring that nobody kicks is looked at again soon.
        assert!(thread.longest_sleep(end).is_some_and(|most| most <= Duration::from_micros(100)));
    }
}
