//! Random runs of the world: whatever happens, the invariants hold.
#![allow(clippy::print_stderr, reason = "a failure has to show its seed")]

use super::shape::Shape;
use super::world::World;
use crate::device::slots::RANGE_BLOCKS;
use crate::testkit::disk::FaultRates;

const CALM: Shape = Shape::CALM;
/// Four queues of one disk on two threads that share its flush gate.
const SPREAD: Shape = Shape { threads: 2, queues: 4, ..CALM };
const NO_FAULTS: FaultRates = CALM.rates;

fn run(seed: u64, shape: Shape, steps: u32) -> World {
    eprintln!("seed {seed:#x}");
    let mut world = World::new(seed, shape);
    for n in 0..steps {
        world.step();
        if n % 64 == 0 {
            world.check_durability();
        }
    }
    world.settle();
    world.check_durability();
    world
}

#[test]
fn i01_i10_i12_every_head_comes_back_once_without_a_spare_kick() {
    for seed in 0..60 {
        let world = run(seed, CALM, 1500);
        assert_eq!(world.tally.failed, 0);
        assert!(world.tally.completed > 100, "the run did something: {:?}", world.tally);
    }
}

#[test]
fn i04_i09_a_disk_of_depth_one_starves_nobody() {
    for seed in 100..130 {
        let shape = Shape { depth: 1, rates: FaultRates { busy: 300, ..NO_FAULTS }, ..CALM };
        assert_eq!(run(seed, shape, 1500).tally.failed, 0);
    }
}

#[test]
fn i07_short_and_repeated_operations_are_not_seen_by_the_guest() {
    for seed in 200..240 {
        let rates = FaultRates { short: 200, again: 100, busy: 50, error: 0 };
        assert_eq!(run(seed, Shape { rates, ..CALM }, 1500).tally.failed, 0);
    }
}

#[test]
fn i23_i25_errors_reach_the_guest_and_lose_nothing_durable() {
    let mut failed = 0;
    for seed in 300..360 {
        let rates = FaultRates { error: 30, short: 50, again: 20, busy: 20 };
        failed += run(seed, Shape { rates, ..CALM }, 1500).tally.failed;
    }
    assert!(failed > 100, "the faults struck");
}

#[test]
fn i26_write_through_means_durable() {
    for seed in 400..460 {
        run(seed, Shape { toggles: true, dsync: seed % 2 == 0, ..CALM }, 1500);
    }
}

#[test]
fn i27_queues_stop_and_start_under_load_and_lose_nothing() {
    let mut stops = 0;
    for seed in 500..560 {
        let rates = FaultRates { short: 50, busy: 100, ..NO_FAULTS };
        let shape = Shape { stops: true, toggles: true, depth: 4, rates, ..CALM };
        let world = run(seed, shape, 1500);
        assert_eq!(world.tally.failed, 0);
        stops += world.tally.stops;
    }
    assert!(stops > 100, "queues were stopped: {stops}");
}

#[test]
fn i23_a_flush_covers_the_writes_of_the_other_thread() {
    let mut completed = 0;
    for seed in 600..760 {
        let world = run(seed, SPREAD, 1500);
        assert_eq!(world.tally.failed, 0);
        completed += world.tally.completed;
    }
    assert!(completed > 16_000, "the runs did something: {completed}");
}

#[test]
fn i24_threads_of_depth_one_share_one_sync_and_starve_nobody() {
    for seed in 800..860 {
        let rates = FaultRates { busy: 300, short: 100, again: 100, error: 0 };
        assert_eq!(run(seed, Shape { depth: 1, rates, ..SPREAD }, 1500).tally.failed, 0);
    }
}

#[test]
fn i25_a_failed_sync_is_told_to_the_waiters_of_both_threads() {
    let mut failed = 0;
    for seed in 900..980 {
        let rates = FaultRates { error: 20, short: 50, again: 20, busy: 20 };
        failed += run(seed, Shape { rates, threads: 3, ..SPREAD }, 1500).tally.failed_flushes;
    }
    assert!(failed > 100, "syncs failed: {failed}");
}

#[test]
fn i27_queues_of_two_threads_stop_and_start_under_load() {
    let mut stops = 0;
    for seed in 1000..1100 {
        let rates = FaultRates { short: 50, busy: 100, again: 50, error: 0 };
        let shape = Shape { stops: true, toggles: true, depth: 4, rates, ..SPREAD };
        let world = run(seed, shape, 1500);
        assert_eq!(world.tally.failed, 0);
        stops += world.tally.stops;
    }
    assert!(stops > 200, "queues were stopped: {stops}");
}

/// Guests whose requests follow each other.
const STREAMS: Shape = Shape { sequential: 90, ..CALM };

#[test]
fn i06_merged_requests_move_the_right_bytes() {
    let mut merges = 0;
    for seed in 1200..1260 {
        let rates = FaultRates { short: 200, again: 50, busy: 100, error: 0 };
        let shape = Shape { rates, depth: 8, ..STREAMS };
        let world = run(seed, shape, 1500);
        assert_eq!(world.tally.failed, 0);
        merges += world.merges();
    }
    assert!(merges > 1000, "requests were merged: {merges}");
}

#[test]
fn i07_l12_of_merged_requests_only_those_on_a_bad_sector_fail() {
    let (mut failed, mut merges) = (0, 0);
    for seed in 1300..1360 {
        let bad = Some((40, 43));
        let rates = FaultRates { busy: 50, ..NO_FAULTS };
        let world = run(seed, Shape { bad, rates, ..STREAMS }, 1500);
        failed += world.tally.failed;
        merges += world.merges();
    }
    assert!(failed > 200 && merges > 1000, "{failed} failed, {merges} were merged");
}

#[test]
fn i26_merged_write_through_is_durable() {
    let mut merges = 0;
    for seed in 1400..1440 {
        let world = run(seed, Shape { toggles: true, dsync: seed % 2 == 0, ..STREAMS }, 1500);
        merges += world.merges();
    }
    assert!(merges > 500, "requests were merged: {merges}");
}

/// Range blocks run out before heads do: what waits in the ring must not keep the thread awake.
#[test]
fn a_queue_without_room_for_another_bio_sleeps_until_one_is_finished() {
    for seed in 0..8 {
        let mut world = World::new(seed, Shape { queues: 1, ..CALM });
        (0..RANGE_BLOCKS + 4).for_each(|i| world.add_split_discard(0, 2 * i));
        world.kick(0);
        assert!((0..4).any(|_| world.iterate()), "the thread never sleeps");
        assert_eq!(world.tally.completed, 0, "nothing has finished yet");
        world.settle();
        assert_eq!((world.tally.completed, world.tally.failed), (RANGE_BLOCKS as u64 + 4, 0));
    }
}
