//! Both ends of a queue of 128 entries, for the tests of this room.

use std::sync::Arc;

use super::*;
use crate::testkit::TestMemory;
use crate::testkit::blk::{BlkDriver, Done, Framing, Request};
use crate::testkit::driver::Driver;

pub(super) const CAPACITY: u64 = 4096;
pub(super) const SERIAL: [u8; 20] = *b"serial-0123\0\0\0\0\0\0\0\0\0";

pub(super) const RULES: Rules = Rules {
    capacity: CAPACITY,
    block: 512,
    read_only: false,
    flush: true,
    discard: true,
    write_zeroes: true,
    unmap: true,
    buffers: BufferMask { addr: 0, len: 0 },
    serial: SERIAL,
};
pub(super) const READ_ONLY: Rules = Rules { read_only: true, ..RULES };
pub(super) const BLOCK_4096: Rules = Rules { block: 4096, ..RULES };

/// A queue of 128 entries with both ends.
pub(super) struct Bench {
    pub(super) memory: Arc<TestMemory>,
    pub(super) blk: BlkDriver,
    pub(super) queue: VirtQueue,
    pub(super) chain: Chain,
    pub(super) slots: Slots,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let memory = Arc::new(TestMemory::new(8 << 20));
        let driver = Driver::new(&memory, 128, true, true);
        let queue = VirtQueue::new(driver.setup()).expect("a ring");
        let blk = BlkDriver::new(driver);
        Bench { memory, blk, queue, chain: Chain::new(), slots: Slots::new(128) }
    }

    pub(super) fn fetch(&mut self, rules: &Rules, writeback: bool) -> Parsed {
        let _ = self.blk.publish();
        let head = self.queue.pop().expect("a sound ring").expect("an entry was added");
        let Bench { memory, queue, chain, slots, .. } = self;
        fetch(queue, memory.memory(), head, chain, rules, writeback, slots)
    }

    pub(super) fn send(
        &mut self,
        request: &Request,
        framing: &Framing,
        rules: &Rules,
    ) -> (Tag, Parsed) {
        let head = self.blk.add_framed(request, framing).expect("room");
        (Tag(head), self.fetch(rules, true))
    }

    pub(super) fn complete(&mut self, tag: Tag, status: Status) -> Done {
        let len = self.slots.finish(tag, status);
        self.queue.push_used(tag, len);
        let _ = self.queue.publish();
        self.blk.poll().expect("it was published")
    }

    /// Sends in plain framing; a verdict that needs no I/O is completed.
    pub(super) fn judge(&mut self, request: &Request, rules: &Rules) -> Parsed {
        let (tag, parsed) = self.send(request, &Framing::plain(request), rules);
        let status = parsed.answer().unwrap_or(Status::IoErr);
        let done = self.complete(tag, status);
        assert_eq!((done.head, done.status), (tag.0, status as u8));
        parsed
    }
}

pub(super) fn range(start: u64, sectors: u64) -> SectorRange {
    SectorRange::new(Sector(start), sectors, CAPACITY).expect("on the disk")
}

pub(super) fn bio_op(parsed: Parsed) -> Option<Op> {
    match parsed {
        Parsed::Bio(bio) => Some(bio.op),
        _ => None,
    }
}
