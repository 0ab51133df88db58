//! "Fail the k-th operation", for every k of a clean run and every kind of failure: complete, not
//! sampled.

use super::shape::{Shape, Tally};
use super::world::World;
use crate::testkit::disk::Fault;

const SEED: u64 = 0x5eed;
const SHAPE: Shape = Shape { queues: 2, depth: 16, ..Shape::CALM };

/// Also: the operations, and the merged requests that failed.
fn run(fault: Option<(u64, Fault)>) -> (Tally, u64, u64) {
    let mut world = World::new(SEED, SHAPE);
    if let Some((k, fault)) = fault {
        world.sim.fail_kth(k, fault);
    }
    for _ in 0..700 {
        world.step();
    }
    world.settle();
    world.check_durability();
    (world.tally, world.sim.started(), world.splits())
}

#[test]
fn every_operation_may_fail_and_only_its_own_bio_suffers() {
    let (clean, operations, _) = run(None);
    assert_eq!((clean.failed, operations > 80), (0, true), "{clean:?}, {operations} operations");
    for k in 0..operations {
        for errno in [libc::EIO, libc::ENOSPC] {
            let (tally, _, splits) = run(Some((k, Fault::Error(errno))));
            let data = tally.failed - tally.failed_flushes;
            // A failed data operation is one bio's failure (L12); a failed sync is that of all who
            // waited for it and, latched, of those who come later (L9), but of no data.
            assert!(data == 1 && tally.failed_flushes == 0 || data == 0, "k={k}: {tally:?}");
            // What failed for several at once goes well when each is tried alone (M9).
            assert_eq!(tally.failed > 0, splits == 0, "the guest was told: k={k}, {tally:?}");
        }
    }
}

#[test]
fn every_operation_may_be_short_repeated_or_slow_and_nobody_notices() {
    let (_, operations, _) = run(None);
    for k in 0..operations {
        for fault in [Fault::Short, Fault::Again, Fault::Slow] {
            let (tally, _, _) = run(Some((k, fault)));
            assert_eq!(tally.failed, 0, "k={k}, {fault:?}");
        }
    }
}
