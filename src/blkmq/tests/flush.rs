//! The flush machine on several threads that share one gate, interleaved by the seed.

use crate::block::{Errno, LaneId, Nanos, Op, Sector, SectorRange};
use crate::testkit::core_disk::{Faults, Rng};
use crate::testkit::core_sim::{Config, World};

fn seeds(n: u64) -> impl Iterator<Item = u64> {
    (1000..1000 + n).map(|i| Rng::new(i).next())
}

fn write(sector: u64) -> Op {
    Op::Write(SectorRange::new(Sector(sector), 8, 1 << 20).expect("inside"))
}

fn threads(seed: u64, threads: u16) -> Config {
    Config { threads, flushes: 300, strays: false, ..Config::new(seed) }
}

fn syncs(world: &World) -> u64 {
    world.image.borrow().syncs
}

#[test]
fn i23_a_flush_covers_every_write_that_completed_before_it() {
    let mut all = 0;
    for seed in seeds(200) {
        for exclusive in [true, false] {
            let faults = Faults { busy: 100, again: 50, ..Faults::default() };
            let world = World::play(Config { exclusive, faults, ..threads(seed, 4) }, 200);
            assert_eq!(world.total(|g| g.flush_errors), 0);
            all += syncs(&world);
        }
    }
    assert!(all > 2000, "there was much to sync: {all}");
}

#[test]
fn i24_the_first_flush_syncs_and_a_clean_image_needs_no_second() {
    let mut world = World::new(threads(1, 2));
    let flush = |world: &mut World, t| {
        assert!(world.submit(t, 0, Op::Flush, Vec::new()));
        world.drain();
        syncs(world)
    };
    assert!(world.gate.is_dirty(), "what a predecessor left behind is not known");
    assert_eq!(flush(&mut world, 0), 1, "the first one syncs although nothing was written");
    assert_eq!(flush(&mut world, 1), 1, "nothing is newer");
    assert!(!world.gate.is_dirty());
    assert!(world.submit(1, 0, write(0), Vec::new()));
    world.drain();
    assert!(world.gate.is_dirty());
    assert_eq!(flush(&mut world, 0), 2, "a write of another thread counts");
    assert_eq!(flush(&mut world, 0), 2);
}

#[test]
fn i24_a_shared_image_syncs_for_each_flush() {
    let mut world = World::new(Config { exclusive: false, ..threads(1, 2) });
    for n in 1..5 {
        assert!(world.submit(0, 0, Op::Flush, Vec::new()));
        world.drain();
        assert_eq!(syncs(&world), n);
        assert!(world.gate.is_dirty(), "others may write at any time");
    }
}

#[test]
fn i24_concurrent_flushes_share_at_most_two_syncs() {
    for seed in seeds(100) {
        for exclusive in [true, false] {
            let config = Config { exclusive, hctxs: 2, depth: 16, ..threads(seed, 4) };
            let mut world = World::new(config);
            assert!(world.submit(0, 0, Op::Flush, Vec::new()));
            world.run(0);
            assert_eq!(syncs(&world), 1, "the first one is on its way");
            // A write that completes after it started, so that it covers nobody else.
            assert!(world.submit(1, 0, write(0), Vec::new()));
            world.run(1);
            world.complete(1, 0);
            world.publish(1, 0);
            for t in 0..4 {
                for g in 0..2 {
                    (0..14).for_each(|_| assert!(world.submit(t, g, Op::Flush, Vec::new())));
                }
                world.run(t);
            }
            world.drain();
            assert_eq!(world.total(|g| g.ok), 114);
            assert_eq!(syncs(&world), 2, "all the others share the second");
        }
    }
}

#[test]
fn i25_a_failed_sync_reaches_every_waiter_and_latches() {
    for seed in seeds(100) {
        let mut world = World::new(threads(seed, 3));
        world.threads[0].disk.faults.at = Some((0, crate::testkit::core_disk::Fault::Error));
        assert!(world.submit(0, 0, Op::Flush, Vec::new()));
        world.run(0);
        for t in 0..3 {
            (0..4).for_each(|_| assert!(world.submit(t, 1, Op::Flush, Vec::new())));
            world.run(t);
        }
        world.drain();
        assert_eq!(world.gate.failed(), Some(Errno(libc::EIO)));
        assert_eq!(world.total(|g| g.flush_errors), 13, "the runner and all who waited");
        assert_eq!(syncs(&world), 1, "no sync is tried on a failed image");
        for t in 0..3 {
            assert!(world.submit(t, 0, Op::Flush, Vec::new()));
            assert!(world.submit(t, 0, write(0), Vec::new()));
            world.run(t);
        }
        world.drain();
        assert_eq!(world.total(|g| g.flush_errors), 16, "and every flush from then on");
        assert_eq!(world.total(|g| g.ok), 3, "writes go on");
    }
}

#[test]
fn i25_a_latch_set_by_control_reaches_who_waits() {
    let mut world = World::new(threads(5, 2));
    assert!(world.submit(0, 0, Op::Flush, Vec::new()));
    world.run(0);
    assert!(world.submit(1, 0, Op::Flush, Vec::new()));
    world.run(1);
    world.gate.latch(Errno(libc::ENOSPC));
    world.gate.latch(Errno(libc::EIO));
    assert_eq!(world.gate.failed(), Some(Errno(libc::ENOSPC)), "the first error stays");
    // The sync in flight succeeds, but its tag belongs to the kernel until then (I32).
    world.run(0);
    world.threads[0].domain.gate_changed(Nanos(9));
    world.publish(0, 0);
    assert_eq!(world.total(|g| g.ok + g.errors), 0, "not answered while the kernel has it (F3)");
    world.drain();
    assert_eq!(world.total(|g| g.flush_errors), 2);
}

#[test]
fn i26_write_through_means_durable_at_completion() {
    for seed in seeds(150) {
        let faults = Faults { short: 100, again: 100, busy: 100, ..Faults::default() };
        let config = Config { fua: true, faults, flushes: 20, ..threads(seed, 3) };
        let world = World::play(config, 200);
        assert!(syncs(&world) > 0, "discards and zeroes need one");
        assert_eq!(world.total(|g| g.errors), 0);
    }
}

#[test]
fn i26_without_durable_writes_a_flush_follows_each() {
    for seed in seeds(150) {
        let faults = Faults { short: 100, again: 100, busy: 100, ..Faults::default() };
        let config = Config { fua: true, dsync: false, faults, flushes: 0, ..threads(seed, 3) };
        let world = World::play(config, 200);
        assert!(syncs(&world) > 0, "writes need one");
        assert_eq!(world.total(|g| g.errors), 0);
    }
}

#[test]
fn i26_a_failed_sync_fails_the_write_that_it_was_for() {
    let mut world = World::new(Config { fua: true, dsync: false, ..threads(3, 1) });
    world.threads[0].disk.faults.at = Some((1, crate::testkit::core_disk::Fault::Error));
    let range = SectorRange::new(Sector(0), 8, 1 << 20).expect("inside");
    assert!(world.submit(0, 0, Op::Write(range), Vec::new()));
    world.drain();
    assert_eq!((world.total(|g| g.data_errors), syncs(&world)), (1, 1));
}

#[test]
fn i26_a_failed_sync_fails_the_write_through_discard() {
    let mut world = World::new(Config { fua: true, ..threads(3, 1) });
    world.threads[0].disk.faults.at = Some((1, crate::testkit::core_disk::Fault::Error));
    let range = SectorRange::new(Sector(0), 8, 1 << 20).expect("inside");
    assert!(world.submit(0, 0, Op::Discard(range), Vec::new()));
    world.drain();
    assert_eq!((world.total(|g| g.data_errors), syncs(&world)), (1, 1));
}

#[test]
fn no_op_flushes_never_reach_the_image() {
    for seed in seeds(30) {
        let world = World::play(
            Config { noop: true, fua: seed.is_multiple_of(2), ..threads(seed, 2) },
            200,
        );
        assert_eq!(syncs(&world), 0);
        assert!(!world.gate.is_dirty());
        assert_eq!(world.total(|g| g.errors), 0);
        assert!(world.total(|g| g.submitted - g.data) > 10, "there were flushes");
    }
}

#[test]
fn a_flush_does_not_wait_behind_writes_that_wait() {
    let mut world = World::new(Config { hw_depth: 1, capacity: 100, ..threads(9, 1) });
    (0..10).for_each(|n| assert!(world.submit(0, 0, write(n), Vec::new())));
    world.run(0);
    assert_eq!(world.threads[0].disk.flights.len(), 1, "the budget is spent");
    assert!(world.submit(0, 1, Op::Flush, Vec::new()));
    world.run(0);
    let sync = world.threads[0].disk.flights.iter().position(|f| f.request.op == Op::Flush);
    world.complete(0, sync.expect("the sync has a credit of its own"));
    world.publish(0, 1);
    assert_eq!(world.threads[0].guests[1].ok, 1, "answered before the ten writes");
    assert_eq!(world.total(|g| g.ok), 1);
    world.drain();
}

#[test]
fn two_domains_of_one_thread_may_share_an_index() {
    // One domain per hctx on one thread: both use the thread's cell and its bit. The wakes name
    // the thread itself, and must be passed to both.
    use crate::blkmq::sched::NoScheduler;
    use crate::blkmq::{
        Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
    };
    use crate::block::{Bio, Nanos, Outcome, Status, Tag};
    use std::sync::Arc;

    struct Keep(Vec<Request>);
    impl Issue for Keep {
        fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
            self.0.push(*request);
            Ok(())
        }
    }
    let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
    let make = || {
        let config = DomainConfig::alone(1, 0);
        let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
        let gate = Arc::clone(&gate);
        domain.add_lane(LaneConfig::new(gate, true));
        domain
    };
    let mut domains = [make(), make()];
    let mut disk = Keep(Vec::new());
    let bio = Bio::new(Tag(0), Op::Flush);
    for domain in &mut domains {
        let hctx = domain.add_hctx(LaneId(0), 1).expect("room");
        domain.submit(hctx, bio, Nanos(1)).expect("a free head");
        domain.run(Nanos(1), &mut disk);
    }
    let [first, second] = &mut domains;
    assert_eq!(disk.0.len(), 1, "one sync for both");
    let sync = disk.0[0];
    assert!(!second.wants_run(Nanos(9)), "parked");
    first.complete(sync.hctx, sync.tag, sync.generation, Outcome::Done, Nanos(2)).expect("live");
    let wakes: Vec<u16> = first.take_wakes().collect();
    assert_eq!(wakes, [0]);
    second.gate_changed(Nanos(2));
    // Both arrived before the sync started, so the one sync answers the second as well... unless
    // it arrived after the start: then it runs its own.
    if second.wants_run(Nanos(9)) {
        second.run(Nanos(3), &mut disk);
        let sync = disk.0[1];
        second
            .complete(sync.hctx, sync.tag, sync.generation, Outcome::Done, Nanos(4))
            .expect("live");
    }
    for domain in &mut domains {
        assert_eq!(domain.take_done(crate::block::HctxId(0)), Some((Tag(0), Status::Ok)));
    }
}
