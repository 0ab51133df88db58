//! Guests that break the rules, next to one that does not.

use super::shape::Shape;
use super::world::World;
use crate::testkit::blk::Request;

const SHAPE: Shape = Shape { queues: 2, depth: 16, ..Shape::CALM };

/// Lets guest 0 do `harm`, and shows that its queue, and only its queue, is broken; that what was
/// fetched before is answered; and that the queue works again after a reset.
fn harms_only_itself(harm: impl FnOnce(&mut World)) {
    let mut world = World::new(0xbad, SHAPE);
    for _ in 0..8 {
        world.add(0);
        world.add(1);
    }
    world.kick(0);
    world.kick(1);
    world.iterate();
    assert_eq!((world.errors(0), world.errors(1)), (0, 0));
    harm(&mut world);
    for _ in 0..8 {
        world.add(1);
    }
    world.kick(0);
    world.kick(1);
    world.settle();
    assert_eq!((world.errors(0), world.errors(1)), (1, 0));
    let stopped = world.stop_now(0);
    assert!(stopped.broken);
    assert!(!world.stop_now(1).broken);
}

#[test]
fn i02_a_live_head_given_twice_breaks_the_queue_and_not_the_request() {
    harms_only_itself(|world| {
        let head = world.guests[0]
            .driver
            .driver()
            .ring()
            .avail_entry(world.guests[0].driver.driver().setup().next_avail);
        world.guests[0].driver.driver_mut().push_avail(head);
    });
}

#[test]
fn a_head_beyond_the_table_breaks_the_queue() {
    harms_only_itself(|world| world.guests[0].driver.driver_mut().push_avail(32));
}

#[test]
fn an_available_index_too_far_ahead_breaks_the_queue() {
    harms_only_itself(|world| {
        let driver = world.guests[0].driver.driver_mut();
        let idx = driver.ring().avail_idx();
        driver.set_avail_idx(idx.wrapping_add(33));
    });
}

#[test]
fn a_chain_without_a_status_byte_breaks_the_queue() {
    use crate::testkit::driver::{Buf, Layout};
    harms_only_itself(|world| {
        let header = Request::read(0, 512).header;
        let memory = std::sync::Arc::clone(world.guests[0].driver.driver().memory());
        let gpa = memory.alloc(16, 16);
        memory.write(gpa, &header);
        let buf = Buf { gpa, len: 16, writable: false };
        let driver = world.guests[0].driver.driver_mut();
        driver.add(&[buf], Layout::Direct).expect("room for one descriptor");
    });
}
