//! Invariants on random worlds. The world itself asserts I01-I04, I07, I10, I23, I25, I26, I30,
//! I32 and I36 at every step; each test here aims it at one of them and asserts that the aim was
//! met, so that none passes for want of an opportunity.

use crate::blkmq::{MergeConfig, MergeSearch};
use crate::block::{Nanos, Op, Sector, SectorRange};
use crate::testkit::core_disk::{Faults, Rng};
use crate::testkit::core_sim::{Config, Thread, World};

fn seeds(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(|i| Rng::new(i).next())
}

fn read(sector: u64) -> Op {
    Op::Read(SectorRange::new(Sector(sector), 8, 1 << 20).expect("inside"))
}

fn write(sector: u64) -> Op {
    Op::Write(SectorRange::new(Sector(sector), 8, 1 << 20).expect("inside"))
}

#[test]
fn any_world_keeps_its_books() {
    for seed in seeds(400) {
        World::play(Config::random(seed), 300);
    }
}

#[test]
fn i01_every_head_completes_once() {
    for seed in seeds(60) {
        let world = World::play(Config::new(seed), 400);
        let (ok, all) = (world.total(|g| g.ok), world.total(|g| g.submitted));
        assert!(all > 100, "the world does something: {all}");
        assert_eq!(ok, all, "nothing fails on a good disk");
        assert_eq!(world.total(|g| g.errors), 0);
    }
}

#[test]
fn i02_a_live_head_cannot_be_claimed_again() {
    use crate::block::{Bio, Nanos, Outcome, Status, Tag};
    let config = Config { hctxs: 1, depth: 2, strays: false, ..Config::new(2) };
    let mut world = World::new(config);
    assert!(world.submit(0, 0, write(0), Vec::new()));
    assert!(world.submit(0, 0, Op::Flush, Vec::new()));
    let hctx = world.threads[0].guests[0].hctx;
    let Thread { domain, disk, .. } = &mut world.threads[0];
    let refuse = |domain: &mut crate::blkmq::Domain, n: u16| {
        let bio = Bio::new(Tag(n), read(0));
        let generation = domain.generation(hctx, Tag(n));
        assert_eq!(domain.submit(hctx, bio, Nanos(9)), Err(super::super::TagBusy));
        assert_eq!(domain.generation(hctx, Tag(n)), generation, "the live bio is untouched");
    };
    // Plugged (or staged by the flush), waiting for a sync, in flight, done, taken: each of them.
    (0..2).for_each(|n| refuse(domain, n));
    domain.run(Nanos(10), disk);
    (0..2).for_each(|n| refuse(domain, n));
    for n in 0..2 {
        let generation = domain.generation(hctx, Tag(n));
        assert_eq!(domain.complete(hctx, Tag(n), generation, Outcome::Done, Nanos(11)), Ok(()));
        refuse(domain, n);
    }
    let mut taken = Vec::new();
    while let Some((tag, status)) = domain.take_done(hctx) {
        assert_eq!(status, Status::Ok);
        refuse(domain, tag.0);
        taken.push(tag);
    }
    assert_eq!(taken.len(), 2);
    for tag in taken {
        domain.release(hctx, tag);
        let bio = Bio::new(tag, read(0));
        assert_eq!(domain.submit(hctx, bio, Nanos(12)), Ok(()), "released, so free");
    }
    let far = Bio::new(Tag(2), read(0));
    assert!(domain.submit(hctx, far, Nanos(12)).is_err(), "beyond the depth");
}

#[test]
fn i03_conservation_holds_on_a_bad_disk() {
    let faults = Faults { error: 20, short: 200, again: 200, busy: 300, at: None };
    for seed in seeds(60) {
        let world = World::play(Config { faults, threads: 2, ..Config::new(seed) }, 300);
        assert_eq!(world.total(|g| g.ok + g.errors), world.total(|g| g.submitted));
        let requeues: u64 =
            world.threads.iter().map(|t| t.domain.stats(t.guests[0].hctx).requeues).sum();
        assert!(requeues > 0, "the disk was bad");
    }
}

#[test]
fn i04_data_in_flight_stays_within_the_credits() {
    for seed in seeds(60) {
        let hw_depth = 1 + u32::try_from(seed % 5).expect("small");
        let config = Config { hw_depth, capacity: 100, ..Config::new(seed) };
        let world = World::play(config, 300);
        let most = world.threads[0].disk.most;
        assert_eq!(most, hw_depth as usize, "every credit is used, none is exceeded");
    }
}

#[test]
fn i07_only_the_failing_bio_fails() {
    let faults = Faults { error: 30, short: 300, ..Faults::default() };
    for seed in seeds(60) {
        // No flush: a failed sync would fail others, rightly.
        let config = Config { faults, flushes: 0, ..Config::new(seed) };
        let world = World::play(config, 300);
        let (errors, ok) = (world.total(|g| g.errors), world.total(|g| g.ok));
        assert!(errors > 0 && ok > errors, "some fail: {errors}, the others do not: {ok}");
    }
}

#[test]
fn i08_none_keeps_the_order_of_each_queue() {
    for seed in seeds(60) {
        let faults = Faults { busy: 300, again: 100, short: 100, ..Faults::default() };
        let config = Config {
            faults,
            capacity: 3,
            hw_depth: 4,
            flushes: 0,
            strays: false,
            merging: MergeConfig { search: MergeSearch::Off, ..MergeConfig::default() },
            ..Config::new(seed)
        };
        let world = World::play(config, 300);
        for guest in &world.threads[0].guests {
            let accepted = &world.threads[0].disk.accepted[&guest.hctx];
            assert_eq!(accepted, &(1..=guest.data).collect::<Vec<u64>>());
        }
    }
}

#[test]
fn i10_nothing_waits_for_a_wake_that_never_comes() {
    // `drain` runs the core only when it asks; a tight disk makes it ask for every reason it has.
    for seed in seeds(100) {
        let faults = Faults { busy: 600, again: 300, short: 100, ..Faults::default() };
        let config = Config {
            faults,
            capacity: 1,
            hw_depth: 1,
            threads: 3,
            flushes: 400,
            ..Config::new(seed)
        };
        let world = World::play(config, 200);
        assert!(world.is_idle());
    }
}

#[test]
fn i27_a_frozen_queue_runs_dry_while_others_go_on() {
    for seed in seeds(60) {
        let faults = Faults { busy: 300, short: 100, again: 100, ..Faults::default() };
        let mut world = World::new(Config { faults, strays: false, ..Config::new(seed) });
        (0..50).for_each(|_| world.step());
        world.threads[0].guests[1].frozen = true;
        let (before, hctx) = (world.threads[0].guests[0].ok, world.threads[0].guests[1].hctx);
        let mut steps = 0;
        while !world.threads[0].domain.is_idle(hctx) {
            world.step();
            steps += 1;
            assert!(steps < 10_000, "seed {seed}: the frozen queue does not run dry");
        }
        let gauges = world.threads[0].domain.gauges(hctx);
        assert_eq!((gauges.free, gauges.claimed()), (16, 0), "all gauges are 0");
        (0..100).for_each(|_| world.step());
        assert!(world.threads[0].guests[0].ok > before, "the neighbours were served");
        assert!(world.threads[0].domain.is_idle(hctx), "and nothing came back to life");
        world.threads[0].guests[1].frozen = false;
        (0..100).for_each(|_| world.step());
        world.drain();
        world.check_stats();
    }
}

#[test]
fn i27_freeze_ends_even_when_all_was_refused() {
    let mut world = World::new(Config { strays: false, ..Config::new(27) });
    world.threads[0].disk.capacity = 0;
    for n in 0..8 {
        (0..3).for_each(|g| assert!(world.submit(0, g, write(n), Vec::new())));
    }
    assert!(world.submit(0, 0, Op::Flush, Vec::new()));
    world.run(0);
    let domain = &world.threads[0].domain;
    let held: u16 = world.threads[0].guests.iter().map(|g| domain.gauges(g.hctx).claimed()).sum();
    assert_eq!((held, world.threads[0].disk.flights.len()), (25, 0));
    world.threads[0].disk.capacity = 2;
    world.drain();
    assert!(world.is_idle());
    assert_eq!(world.total(|g| g.ok), 25);
}

#[test]
fn i30_the_counters_agree_with_the_guests() {
    for seed in seeds(60) {
        let world = World::play(Config::new(seed), 300);
        let domain = &world.threads[0].domain;
        for guest in &world.threads[0].guests {
            let s = domain.stats(guest.hctx);
            assert!(s.reads.ios > 0 && s.writes.ios > 0 && s.discards.ios > 0);
            assert!(
                s.io_ticks(Nanos(world.now)) > 0 && s.reads.nanos >= s.reads.ios,
                "no request takes no time"
            );
        }
        let syncs: u64 = world.threads[0].guests.iter().map(|g| domain.stats(g.hctx).flushes).sum();
        assert_eq!(syncs, world.image.borrow().syncs, "flushes are the syncs really issued");
    }
}

#[test]
fn i32_and_i36_stale_completions_change_nothing() {
    use crate::block::{HctxId, Nanos, Outcome, Tag};
    let mut world = World::new(Config { strays: false, ..Config::new(32) });
    assert!(world.submit(0, 0, write(0), Vec::new()));
    let hctx = world.threads[0].guests[0].hctx;
    let tag = *world.threads[0].disk.bios.keys().map(|(_, t)| t).next().expect("one bio");
    let Thread { domain, disk, .. } = &mut world.threads[0];
    let generation = domain.generation(hctx, tag);
    let stale = |domain: &mut crate::blkmq::Domain, hctx, tag, generation| {
        let before = domain.gauges(HctxId(0));
        let answer = domain.complete(hctx, tag, generation, Outcome::Done, Nanos(2));
        assert_eq!(answer, Err(crate::blkmq::Stale));
        let range = SectorRange::default();
        assert_eq!(domain.rest(hctx, tag, generation, range, Nanos(9)), Err(crate::blkmq::Stale));
        assert_eq!(domain.gauges(HctxId(0)), before);
        assert!(!domain.has_done(HctxId(0)));
    };
    stale(domain, hctx, tag, generation); // not issued yet
    domain.run(Nanos(2), disk);
    stale(domain, hctx, tag, generation.wrapping_add(1));
    stale(domain, hctx, Tag(99), generation);
    stale(domain, HctxId(3), tag, generation);
    world.drain();
}
