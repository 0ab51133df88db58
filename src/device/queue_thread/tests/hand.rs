//! Turned by hand, the loop serves what it is given and says when it may sleep.

use super::*;
use crate::blkmq::FlushPolicy;
use crate::blkmq::sched::{Kind, NoScheduler};
use crate::block::QueueId;
use crate::device::mailbox::mailbox;
use crate::device::queue_thread::tests::world::disk_on;
use crate::testkit::TestMemory;
use crate::testkit::blk::{BlkDriver, Request};
use crate::testkit::disk::SimDisk;
use crate::testkit::driver::Driver;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[test]
fn a_turn_serves_what_was_kicked() {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let mut guest = BlkDriver::new(Driver::new(&memory, 8, true, true));
    let kick = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let (mailbox, inbox) = mailbox().expect("an eventfd");
    let sim = SimDisk::new(8, 4, 1);
    let policy = FlushPolicy { exclusive: true, noop: true };
    let disk = disk_on(&sim, &[mailbox], policy, Arc::default());
    let mut hand =
        ByHand::new(inbox, Arc::clone(disk.pool.credits())).expect("io_uring works here");
    let start = QueueStart {
        queue: QueueId(0),
        ring: guest.driver().setup(),
        memory: Arc::clone(memory.memory()),
        kick: Some(kick.try_clone().expect("a descriptor")),
        call: None,
        err: None,
        features: disk.config.features(),
        disk: Arc::new(disk),
        inflight: None,
    };
    hand.start(start).expect("the ring is sound");
    let old = hand.set_scheduler(Box::new(NoScheduler::new()), Nanos(1));
    assert_eq!(old.name(), Kind::None.name());

    for round in 0..3 {
        guest.add(&Request::flush()).expect("room");
        assert!(guest.publish(), "each turn ends with asking for a kick");
        kick.write(1).expect("room in the counter");
        hand.turn(Nanos(round + 1)).expect("a sound ring");
        let done = guest.poll().expect("it came back");
        assert_eq!((done.status, guest.poll()), (0, None));
    }
}
