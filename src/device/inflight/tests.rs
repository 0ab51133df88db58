//! The protocol against a guest that counts: a device that is killed after any of its stores, and its
//! successor after any of its own; and regions that nobody of ours has written.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::device::virtqueue::VirtQueue;
use crate::sys::steps;
use crate::testkit::TestMemory;
use crate::testkit::driver::{Buf, Driver, Layout};
use crate::testkit::rng::Rng;

const SIZE: u16 = 8;
const Q: QueueId = QueueId(0);
/// Near the end, so that all indexes wrap.
const FIRST: u16 = 65_530;
/// Requests of a run.
const TOTAL: u32 = 18;

/// A guest, its ring, and the region that its front-end keeps.
struct Rig {
    memory: Arc<TestMemory>,
    driver: Driver,
    file: File,
    len: u64,
    /// Head to request.
    sent: BTreeMap<u16, u32>,
    next: u32,
    /// In the order in which they were first fetched.
    fetched: Vec<u32>,
    answered: BTreeSet<u32>,
}

impl Rig {
    fn new() -> Rig {
        let memory = Arc::new(TestMemory::new(1 << 16));
        let driver = Driver::new_at(&memory, SIZE, true, false, FIRST);
        let (file, len) = create(1, SIZE).expect("memory");
        let (sent, fetched, answered) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        let mut rig = Rig { memory, driver, file, len, sent, next: 1, fetched, answered };
        rig.send(5);
        rig
    }

    /// The guest takes what came back.
    fn take(&mut self) {
        while let Some(used) = self.driver.reap() {
            let id = self.sent.remove(&used.head).expect("each head comes back once (I33)");
            assert!(self.fetched.contains(&id), "{id} was answered and never done");
            assert!(self.answered.insert(id), "{id} was answered twice");
        }
    }

    /// The guest sends so many more. A request's number is the length of its buffer.
    fn send(&mut self, count: u32) {
        for _ in 0..count {
            let more = self.next <= TOTAL && self.driver.free() > 0;
            if !more {
                break;
            }
            let head = self.driver.add(&[Buf::readable(0, self.next)], Layout::Direct);
            self.sent.insert(head.expect("room was checked"), self.next);
            self.next += 1;
        }
        self.driver.publish();
    }

    fn part(&self) -> Part {
        let file = self.file.try_clone().expect("a descriptor");
        let region = Region::attach(file, (0, self.len), 1, SIZE).expect("one of ours");
        region.part(Q).expect("the first")
    }

    /// The device does a request.
    fn work(&mut self, head: Tag) -> u32 {
        let id = self.driver.ring().descriptor(head.0).len;
        assert_eq!(self.sent.get(&head.0), Some(&id), "done only while the guest waits for it");
        if !self.fetched.contains(&id) {
            self.fetched.push(id);
        }
        id
    }

    /// A device's life until there is nothing to do. Newer requests overtake older ones, and
    /// the oldest comes last.
    fn live(&mut self) {
        let mut setup = self.driver.setup();
        setup.next_used = self.driver.ring().used_idx();
        // What a front-end says is right before the first life, and stale later.
        let start = Start { size: SIZE, base: FIRST, used: setup.next_used };
        let (mut tracker, next_avail) = self.part().recover(start).expect("our own record");
        setup.next_avail = next_avail;
        let mut vq = VirtQueue::new(setup).expect("a ring");
        let mut old: Vec<usize> = Vec::new();
        let mut live: Vec<Tag> = Vec::new();
        loop {
            while live.len() < 5 {
                let again = tracker.again();
                let was_again = again.is_some();
                let Some(head) = again.or_else(|| vq.pop().expect("a sound ring")) else { break };
                tracker.mark(head);
                let id = self.work(head);
                if was_again {
                    old.push(self.fetched.iter().position(|f| *f == id).expect("just put there"));
                }
                live.push(head);
            }
            if live.is_empty() {
                self.take();
                self.send(3);
                if !vq.has_pending() {
                    break;
                }
                continue;
            }
            let batch = live.split_off(live.len() - 3.min(live.len()));
            for head in &batch {
                vq.push_used(*head, 0);
                tracker.link(*head);
            }
            let _ = vq.publish();
            tracker.published(&batch, vq.position().next_used);
            self.take();
            self.send(2);
        }
        assert!(old.is_sorted(), "done again in the order of the first time: {old:?}");
        assert!(!tracker.has_more());
    }

    fn finish(mut self) {
        self.live();
        self.take();
        assert!(self.sent.is_empty(), "never came back: {:?}", self.sent);
        assert_eq!(self.answered.len(), usize::try_from(TOTAL).expect("few"));
        let Part(words) = self.part();
        assert!((0..SIZE).all(|head| words.inflight(head) == 0), "nothing is in flight");
        assert_eq!(words.used_idx(), self.driver.ring().used_idx());
        let _ = self.memory;
    }
}

#[test]
fn i33_a_device_that_is_never_killed_answers_each_head_once() {
    Rig::new().finish();
}

#[test]
fn i33_whatever_store_is_the_last_each_head_is_answered_once() {
    for takes in [true, false] {
        let mut deaths = 0;
        for first in 0.. {
            let mut killed = 0;
            for second in 0..40 {
                let mut rig = Rig::new();
                if steps::until(first, || rig.live()).is_some() {
                    break;
                }
                killed += 1;
                // The guest looks at its ring meanwhile, or not.
                if takes {
                    rig.take();
                    rig.send(1);
                }
                let _ = steps::until(second, || rig.live());
                rig.finish();
            }
            deaths += killed;
            if killed == 0 {
                break;
            }
        }
        assert!(deaths > 4000, "every store was the last once: {deaths}");
    }
}

#[test]
fn i33_a_device_that_dies_again_and_again_comes_to_an_end() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::new();
        for _ in 0..rng.below(30) {
            let last = rng.below(60);
            let _ = steps::until(last, || rig.live());
            if rng.chance(1, 2) {
                rig.take();
                rig.send(u32::try_from(rng.below(4)).expect("small"));
            }
        }
        rig.finish();
    }
}

/// A used region with heads 3, 1 and 2 in flight, fetched in this order, and the last batch (4, then
/// 5) published up to index 10.
fn used_region() -> QueueWords {
    let (file, len) = create(1, SIZE).expect("memory");
    let region = Region::attach(file, (0, len), 1, SIZE).expect("ours");
    let part = region.part(Q).expect("the first");
    let (mut tracker, at) = part.recover(Start { size: SIZE, base: 8, used: 8 }).expect("fresh");
    assert_eq!(at, 8, "a fresh region says nothing, so the front-end's word counts");
    for head in [3, 4, 1, 5, 2] {
        tracker.mark(Tag(head));
    }
    for head in [4, 5] {
        tracker.link(Tag(head));
    }
    tracker.published(&[Tag(4), Tag(5)], 10);
    tracker.words
}

fn recover(words: QueueWords, size: u16, used: u16) -> Result<(Vec<u16>, u16), Unusable> {
    let (mut tracker, at) = Part(words).recover(Start { size, base: 777, used })?;
    let again = std::iter::from_fn(|| tracker.again()).map(|tag| tag.0).collect();
    Ok((again, at))
}

#[test]
fn i33_what_was_in_flight_comes_again_in_order_and_says_where_to_go_on() {
    assert_eq!(recover(used_region(), SIZE, 10).expect("sound"), (vec![3, 1, 2], 13));

    // Published, and not cleared any more.
    let words = used_region();
    words.set_next(1, 5);
    words.set_last_batch_head(1);
    assert_eq!(recover(words, SIZE, 11).expect("sound"), (vec![3, 2], 13));

    // The counter goes on behind the greatest.
    let (mut tracker, _) =
        Part(used_region()).recover(Start { size: SIZE, base: 0, used: 10 }).expect("sound");
    tracker.mark(Tag(6));
    assert!(tracker.words.counter(6) > tracker.words.counter(2));
    let before = tracker.words.counter(3);
    tracker.mark(Tag(3));
    assert_eq!(tracker.words.counter(3), before, "a head keeps its place");
}

#[test]
fn i33_a_region_without_a_marked_head_follows_the_ring() {
    let words = used_region();
    for head in [1, 2, 3] {
        words.set_inflight(head, false);
    }
    // As after a reset of the guest: the ring begins anew, far from the region's index.
    assert_eq!(recover(words, SIZE, 40_000).expect("nothing to say"), (vec![], 40_000));
}

#[test]
fn a_region_that_cannot_be_right_is_refused_and_left_alone() {
    type Break = fn(&QueueWords);
    let cases: &[(&str, Break, u16, u16)] = &[
        ("a mark of two", |w| w.scribble_inflight(6, 2), SIZE, 10),
        ("a head beyond the ring", |_| (), 2, 10),
        ("used too far", |_| (), SIZE, 19),
        ("used behind", |_| (), SIZE, 9),
        ("a list that leaves the table", |w| w.set_last_batch_head(SIZE), SIZE, 11),
        ("a next that leaves the table", |w| w.set_next(5, 60_000), SIZE, 12),
        ("a list that is a loop", |w| w.set_next(4, 5), SIZE, 13),
        ("version 2", |w| w.set_version(2), SIZE, 10),
        ("features", |w| w.set_features(1), SIZE, 10),
        ("another table", |w| w.set_desc_num(SIZE - 1), SIZE, 10),
        ("a ring that is larger", |_| (), 16, 10),
    ];
    for (what, break_it, size, used) in cases {
        let words = used_region();
        break_it(&words);
        let before = words.bytes();
        let memory = words.twin();
        recover(words, *size, *used).expect_err(what);
        assert_eq!(memory.bytes(), before, "{what}: nothing was written");
    }
}

#[test]
fn no_region_makes_recovery_panic_or_invent_heads() {
    let mut accepted = 0;
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let words = used_region();
        let mut bytes = words.bytes();
        for _ in 0..rng.below(6) {
            let at = rng.below(bytes.len() as u64);
            let value = [0, 1, u8::try_from(rng.below(256)).expect("a byte")];
            let value = value[usize::try_from(rng.below(3)).expect("small")];
            bytes[usize::try_from(at).expect("small")] = value;
        }
        words.scribble(&bytes);
        let used = 10_u16.wrapping_add(u16::try_from(rng.below(6)).expect("small"));
        if let Ok((again, at)) = recover(words, SIZE, used) {
            accepted += 1;
            let different: BTreeSet<_> = again.iter().collect();
            assert_eq!(different.len(), again.len(), "seed {seed}");
            assert!(again.iter().all(|head| *head < SIZE), "seed {seed}");
            let count = u16::try_from(again.len()).expect("few");
            // Only an unused region lets the front-end say where to go on.
            assert!(at == used.wrapping_add(count) || (again.is_empty() && at == 777));
        }
    }
    assert!((1000..19_000).contains(&accepted), "both happen: {accepted}");
}

#[test]
fn both_strides_are_taken_and_parts_do_not_overlap() {
    for stride in [16 + 16 * 4, 128_u64] {
        let len = 3 * stride;
        let file = memfd::memfd(c"peer", len).expect("memory");
        let region = Region::attach(file, (0, len), 3, 4).expect("a peer's");
        let parts: Vec<_> = (0..3).map(|q| region.words(QueueId(q)).expect("there")).collect();
        for (part, mark) in parts.iter().zip(1..) {
            part.scribble(&[mark; 16 + 16 * 4]);
        }
        for (part, mark) in parts.iter().zip(1..) {
            assert_eq!(part.bytes(), [mark; 16 + 16 * 4]);
        }
        assert!(region.part(QueueId(3)).is_none());
    }
}

#[test]
fn regions_of_ours_are_aligned_zeroed_and_fixed() {
    let (file, len) = create(3, 128).expect("memory");
    assert_eq!(len, 3 * (16_u64 + 16 * 128).next_multiple_of(64));
    assert!(file.set_len(64).is_err(), "sealed");
    let twin = file.try_clone().expect("a descriptor");
    let region = Region::attach(twin, (0, len), 3, 128).expect("ours");
    assert_eq!(region.stride % 64, 0);
    assert!(region.words(QueueId(2)).expect("there").bytes().iter().all(|b| *b == 0));
}

#[test]
fn the_cache_mode_stays_in_the_region() {
    let (file, len) = create(1, SIZE).expect("memory");
    let attach = || {
        let twin = file.try_clone().expect("a descriptor");
        Region::attach(twin, (0, len), 1, SIZE).expect("ours")
    };
    assert_eq!(attach().writeback(), None, "nobody was here");
    for on in [false, true] {
        attach().set_writeback(on);
        assert_eq!(attach().writeback(), Some(on));
        // Neither does a start forget it, nor does it look like a mark.
        let start = Start { size: SIZE, base: 3, used: 3 };
        let (tracker, at) = attach().part(Q).expect("there").recover(start).expect("sound");
        assert_eq!((at, tracker.has_more(), attach().writeback()), (3, false, Some(on)));
    }
    attach().words(Q).expect("there").set_padding(0, 77);
    assert_eq!(attach().writeback(), None, "not ours");
}

#[test]
fn messages_that_make_no_sense_are_refused() {
    for (queues, size) in [(0, 8), (257, 8), (1, 0), (1, 32769), (u16::MAX, u16::MAX)] {
        assert!(matches!(create(queues, size), Err(Unusable::Shape { .. })), "{queues} {size}");
    }
    let attach = |offset, len, queues, size| {
        let file = memfd::memfd(c"region", 8192).expect("memory");
        Region::attach(file, (offset, len), queues, size)
    };
    assert!(matches!(attach(0, 8192, 0, 8), Err(Unusable::Shape { .. })));
    assert!(matches!(attach(0, 143, 1, 8), Err(Unusable::Size { .. })), "too short");
    assert!(matches!(attach(0, 2 * 148, 2, 8), Err(Unusable::Size { .. })), "not aligned");
    assert!(matches!(attach(0, 16384, 1, 8), Err(Unusable::Memory(_))), "a short file");
    assert!(matches!(attach(17, 144, 1, 8), Err(Unusable::Memory(_))), "within a page");
    let region = attach(4096, 144, 1, 8).expect("at the second page");
    region.words(Q).expect("there").set_version(7);
    let words = region.words(Q).expect("there");
    assert!(matches!(check_header(&words), Err(Unusable::Version { version: 7, .. })));
}
