use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::sys::ring::MAX_SIZE;
use crate::testkit::driver::{Buf, Driver, Layout};
use crate::testkit::{GPA, TestMemory};

fn memory() -> Arc<TestMemory> {
    Arc::new(TestMemory::new(1 << 21))
}

fn queue(driver: &Driver) -> VirtQueue {
    VirtQueue::new(driver.setup()).expect("the driver's ring is a ring")
}

fn buf() -> [Buf; 1] {
    [Buf::writable(GPA, 1)]
}

#[test]
fn a_bad_setup_is_refused() {
    let driver = Driver::new(&memory(), 8, false, false);
    let with = |change: fn(&mut RingSetup)| {
        let mut setup = driver.setup();
        change(&mut setup);
        VirtQueue::new(setup).map(|q| q.size())
    };
    assert_eq!(with(|_| ()), Ok(8));
    assert_eq!(with(|s| s.size = 6), Err(RingError::Size));
    assert_eq!(with(|s| s.size = 16), Err(RingError::Short));
    assert_eq!(with(|s| s.used = s.used.skip(1)), Err(RingError::Short));
}

#[test]
fn every_size_works_across_the_wrap_of_the_index() {
    for size in (0..=15).map(|n| 1_u16 << n) {
        let mut driver = Driver::new_at(&memory(), size, true, false, 0_u16.wrapping_sub(size));
        let mut queue = queue(&driver);
        for round in 0..3 {
            let heads: Vec<u16> =
                std::iter::from_fn(|| driver.add(&buf(), Layout::Direct)).collect();
            assert_eq!(heads.len(), usize::from(size));
            let _ = driver.publish();
            assert_eq!(queue.pending(), Ok(size));
            for head in &heads {
                assert_eq!(queue.pop(), Ok(Some(Tag(*head))), "size {size}, round {round}");
                queue.push_used(Tag(*head), u32::from(*head) + 7);
            }
            assert_eq!(queue.pop(), Ok(None));
            assert_eq!(driver.reap(), None, "nothing is published yet");
            assert!(queue.unpublished());
            let _ = queue.publish();
            for head in &heads {
                let used = driver.reap().expect("published");
                assert_eq!((used.head, used.len), (*head, u32::from(*head) + 7));
            }
            assert_eq!(driver.reap(), None);
        }
        let end = 0_u16.wrapping_sub(size).wrapping_add(size.wrapping_mul(3));
        assert_eq!(queue.position(), Position { next_avail: end, next_used: end });
    }
}

#[test]
fn the_largest_ring_is_addressed_to_its_end() {
    let driver = Driver::new(&memory(), MAX_SIZE, true, false);
    driver.ring().set_used_entry(MAX_SIZE - 1, 1, 2);
    assert_eq!(driver.ring().used_entry(MAX_SIZE - 1), (1, 2));
    let mut queue = queue(&driver);
    assert!(!queue.enable_notifications());
    assert_eq!(driver.ring().avail_event(), 0);
}

#[test]
fn an_index_too_far_ahead_breaks_the_queue_for_good() {
    for (ahead, verdict) in
        [(4, Ok(4)), (5, Err(Broken::AvailIndex)), (0x8000, Err(Broken::AvailIndex))]
    {
        let mut driver = Driver::new_at(&memory(), 4, false, false, 0xfffe);
        let mut queue = queue(&driver);
        driver.set_avail_idx(0xfffe_u16.wrapping_add(ahead));
        assert_eq!(queue.pending(), verdict);
        if let Err(how) = verdict {
            driver.set_avail_idx(0xfffe);
            assert_eq!(queue.pop(), Err(how));
            assert_eq!(queue.broken(), Some(how));
            assert_eq!(queue.position().next_avail, 0xfffe);
            driver.set_avail_idx(0xffff);
            assert!(!queue.enable_notifications(), "nothing will be fetched");
        }
    }
}

#[test]
fn an_index_behind_what_was_fetched_breaks_the_queue() {
    let mut driver = Driver::new(&memory(), 4, false, false);
    let mut queue = queue(&driver);
    driver.push_avail(0);
    let _ = driver.publish();
    assert_eq!(queue.pop(), Ok(Some(Tag(0))));
    driver.set_avail_idx(0);
    assert_eq!(queue.pop(), Err(Broken::AvailIndex));
}

#[test]
fn a_head_beyond_the_table_breaks_the_queue() {
    let mut driver = Driver::new(&memory(), 4, false, false);
    let mut queue = queue(&driver);
    for head in [3, 4, 1] {
        driver.push_avail(head);
    }
    let _ = driver.publish();
    assert_eq!(queue.pop(), Ok(Some(Tag(3))));
    assert_eq!(queue.pop(), Err(Broken::Head));
    assert_eq!(queue.pop(), Err(Broken::Head), "not the next entry");
    queue.declare_broken();
    assert_eq!(queue.broken(), Some(Broken::Head), "the first reason stays");
    // What was fetched is still answered.
    queue.push_used(Tag(3), 1);
    assert!(queue.publish());
    assert_eq!(driver.ring().used_idx(), 1);
}

#[test]
fn a_declared_breakage_stops_fetching_at_once() {
    let mut driver = Driver::new(&memory(), 4, false, false);
    let mut queue = queue(&driver);
    driver.push_avail(0);
    driver.push_avail(1);
    let _ = driver.publish();
    assert_eq!(queue.pop(), Ok(Some(Tag(0))));
    queue.declare_broken();
    assert_eq!(queue.pop(), Err(Broken::Chain));
    assert_eq!(queue.pending(), Err(Broken::Chain));
}

#[test]
fn the_index_is_loaded_once_a_sweep() {
    let mut driver = Driver::new(&memory(), 4, false, false);
    let mut queue = queue(&driver);
    driver.push_avail(0);
    driver.push_avail(1);
    let _ = driver.publish();
    assert_eq!(queue.pop(), Ok(Some(Tag(0))));
    driver.set_avail_idx(0x7777);
    assert_eq!(queue.pop(), Ok(Some(Tag(1))), "known from the first load");
    assert_eq!(queue.pop(), Err(Broken::AvailIndex));
}

#[test]
fn notifications_follow_the_flag() {
    let mut driver = Driver::new(&memory(), 4, false, false);
    let mut queue = queue(&driver);
    assert!(!queue.publish(), "nothing was pushed");
    driver.disable_interrupts();
    queue.push_used(Tag(0), 1);
    assert!(!queue.publish(), "a polled guest is never notified");
    assert!(driver.enable_interrupts(), "the element is there");
    queue.push_used(Tag(1), 1);
    queue.push_used(Tag(2), 1);
    assert!(queue.publish());
    assert!(!queue.publish(), "once for a batch");

    queue.disable_notifications();
    driver.push_avail(0);
    assert!(!driver.publish(), "no kick is wanted");
    assert!(queue.enable_notifications(), "the entry came unseen");
    assert_eq!(queue.pop(), Ok(Some(Tag(0))));
    assert!(!queue.enable_notifications());
    driver.push_avail(1);
    assert!(driver.publish(), "now one is");
}

#[test]
fn kicks_follow_the_event_index() {
    let mut driver = Driver::new_at(&memory(), 8, true, false, 0xffff);
    let mut queue = queue(&driver);
    assert!(!queue.enable_notifications());
    driver.push_avail(0);
    assert!(driver.publish());
    driver.push_avail(1);
    assert!(!driver.publish(), "one kick was asked for");
    assert_eq!(queue.pop(), Ok(Some(Tag(0))));
    assert!(queue.enable_notifications(), "an entry is left");
    assert_eq!(queue.pop(), Ok(Some(Tag(1))));
    assert!(!queue.enable_notifications());
    assert_eq!(driver.ring().avail_event(), 1);
    assert_eq!(driver.ring().used_flags(), 0, "the flag is not used with event indexes");
    queue.disable_notifications();
    assert_eq!(driver.ring().used_flags(), 0);
}

#[test]
fn the_first_batch_of_a_new_owner_is_always_announced() {
    let driver = Driver::new_at(&memory(), 8, true, false, 10);
    // The driver waits for element 9, which an earlier owner published and did not announce.
    driver.ring().set_used_event(9);
    let mut queue = queue(&driver);
    queue.push_used(Tag(0), 1);
    assert!(queue.publish());
    queue.push_used(Tag(0), 1);
    assert!(!queue.publish(), "from then on the event index decides");
}

proptest! {
    #[test]
    fn a_notification_is_due_when_the_event_is_passed(
        old: u16, batch in 1_u16..300, event_near in 0_u16..600, far: Option<u16>,
    ) {
        let event = far.unwrap_or_else(|| old.wrapping_sub(300).wrapping_add(event_near));
        let passed = (0..batch).any(|i| old.wrapping_add(i) == event);
        prop_assert_eq!(need_event(event, old.wrapping_add(batch), old), passed);
    }

    #[test]
    fn publish_notifies_when_the_event_is_passed(
        start: u16, batches in prop::collection::vec((1_u16..9, 0_u16..12), 1..40),
    ) {
        let driver = Driver::new_at(&memory(), 8, true, false, start);
        let mut queue = queue(&driver);
        queue.push_used(Tag(0), 1);
        prop_assert!(queue.publish());
        for (batch, event) in batches {
            let old = queue.position().next_used;
            let event = old.wrapping_add(event).wrapping_sub(2);
            driver.ring().set_used_event(event);
            (0..batch).for_each(|i| queue.push_used(Tag(i % 8), 1));
            let passed = (0..batch).any(|i| old.wrapping_add(i) == event);
            prop_assert_eq!(queue.publish(), passed);
            prop_assert_eq!(driver.ring().used_idx(), old.wrapping_add(batch));
        }
    }
}
