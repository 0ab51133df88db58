//! The end of a thread.

use super::shape::Shape;
use super::world::World;
use crate::testkit::disk::FaultRates;

/// A guest that always has something on its way cannot keep a thread from ending.
#[test]
fn a_thread_that_is_to_end_fetches_nothing_more() {
    let rates = FaultRates::default();
    let shape = Shape { queues: 1, depth: 16, rates, ..Shape::CALM };
    for seed in 0..8 {
        let mut world = World::new(seed, shape);
        for n in 0..400 {
            if n == 100 {
                world.ask_to_end();
            }
            for _ in 0..4 {
                world.add(0);
            }
            world.kick(0);
            world.iterate();
            world.pass(2_000);
        }
        assert!(world.threads[0].queues.iter().all(Option::is_none), "the queue was let go");
        assert!(world.tally.completed > 0, "the guest was served before");
    }
}
