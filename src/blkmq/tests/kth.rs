//! The k-th operation goes wrong, for every k of a clean run and every way to go wrong.

use crate::testkit::core_disk::{Fault, Faults};
use crate::testkit::core_sim::{Config, World};

const STEPS: u32 = 300;

fn config(fua: bool) -> Config {
    // A fault that never comes: up to its k-th operation a run is the same as the clean one.
    let faults = Faults { at: Some((u64::MAX, Fault::Error)), ..Faults::default() };
    let hctxs = 2;
    Config { threads: 2, hctxs, depth: 6, capacity: 4, fua, flushes: 150, faults, ..Config::new(7) }
}

/// Operations of a clean run, which make the loop over k complete.
fn operations(config: Config) -> u64 {
    let world = World::play(config, STEPS);
    assert_eq!(world.total(|g| g.errors), 0);
    let attempts = world.image.borrow().attempts;
    assert!(attempts > 100, "the run does enough: {attempts}");
    attempts
}

fn play(config: Config, k: u64, fault: Fault) -> World {
    let faults = Faults { at: Some((k, fault)), ..Faults::default() };
    let world = World::play(Config { faults, ..config }, STEPS);
    assert!(world.image.borrow().attempts > k, "operation {k} happened");
    world
}

/// The k-th operation meets something that is no error: nobody notices.
fn nobody_notices(fault: Fault) {
    for fua in [false, true] {
        for k in 0..operations(config(fua)) {
            let world = play(config(fua), k, fault);
            assert_eq!(world.total(|g| g.errors), 0, "{fault:?} at {k}");
            assert_eq!(world.gate.failed(), None, "{fault:?} at {k}");
        }
    }
}

/// The same, where most requests are merged ones.
fn nobody_notices_when_merged(fault: Fault) {
    let config = Config { sequential: 950, flushes: 40, depth: 24, ..config(false) };
    let mut errors = 0;
    for k in 0..operations(config) {
        let world = play(config, k, fault);
        errors += world.total(|g| g.data_errors);
        if fault == Fault::Error {
            assert!(world.total(|g| g.data_errors) <= 1, "one bio at most, at {k}");
        } else {
            assert_eq!(world.total(|g| g.errors), 0, "{fault:?} at {k}");
        }
    }
    // A request that was merged is tried again in pieces, and those go well.
    assert!(fault != Fault::Error || errors > 0, "some travelled alone");
}

#[test]
fn the_kth_operation_of_a_merging_world_goes_wrong() {
    for fault in [Fault::Short, Fault::Again, Fault::Busy, Fault::Error] {
        nobody_notices_when_merged(fault);
    }
}

#[test]
fn the_kth_operation_is_short() {
    nobody_notices(Fault::Short);
}

#[test]
fn the_kth_operation_has_to_be_done_again() {
    nobody_notices(Fault::Again);
}

#[test]
fn the_kth_operation_is_refused() {
    nobody_notices(Fault::Busy);
}

#[test]
fn the_kth_operation_takes_very_long() {
    nobody_notices(Fault::Delay);
}

#[test]
fn the_kth_operation_fails() {
    for fua in [false, true] {
        let (mut data, mut syncs, mut refused) = (0, 0, 0);
        for k in 0..operations(config(fua)) {
            let world = play(config(fua), k, Fault::Error);
            let errors = world.total(|g| g.data_errors);
            if world.image.borrow().failed_syncs > 0 {
                syncs += 1;
                assert_eq!(world.gate.failed().map(|e| e.0), Some(libc::EIO));
                let waiting = world.total(|g| g.flush_errors) + errors;
                assert!(waiting >= 1, "the sync had a waiter, at {k}");
            } else if errors == 0 {
                // The attempt was turned down for lack of room before it could fail.
                refused += 1;
                assert_eq!(world.total(|g| g.errors), 0);
            } else {
                data += 1;
                assert_eq!(world.total(|g| g.errors), 1, "one bio fails, at {k}");
                assert_eq!(world.gate.failed(), None, "a failed transfer is no failed sync");
            }
        }
        assert!(data > 30 && syncs > 3, "{data} data errors, {syncs} syncs, {refused} refused");
    }
}
