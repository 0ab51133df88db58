//! The process is killed after any of its stores to rings and in-flight region, and a new one goes on
//! from what the front-end kept (I33): random runs of the world.
#![allow(clippy::print_stderr, reason = "a failure has to show its seed")]

use super::shape::Shape;
use super::world::{Process, Running, World};
use crate::sys::steps;
use crate::testkit::disk::FaultRates;

const KEPT: Shape = Shape { inflight: true, ..Shape::CALM };

impl World {
    /// Lets thread `t` run once, as a process that is killed after that many stores. Whether it was.
    fn wake_until(&mut self, t: usize, last: u64) -> bool {
        let killed = steps::until(last, || self.wake(t)).is_none();
        if killed {
            self.restart();
        }
        killed
    }

    /// The process is gone, with everything that is not the guests', the image's or the record's.
    fn restart(&mut self) {
        self.threads.clear();
        self.sim.abandon();
        let threads = self.shape.threads;
        let Process { disk, mailboxes, threads } = Process::start(&self.sim, self.seed, threads);
        (self.disk, self.mailboxes, self.threads) = (disk, mailboxes, threads);
        self.asleep.fill(true);
        // The new one starts with the cache on; nobody claims anything of the old mode.
        self.epoch += 1;
        self.tally.kills += 1;
        for g in 0..self.guests.len() {
            // The front-end's word on the position is worth nothing.
            let next_avail = u16::try_from(self.rng.below(1 << 16)).expect("16 bits");
            let next_used = self.guests[g].driver.driver().ring().used_idx();
            self.guests[g].running = Running::No { next_avail, next_used };
            let record = self.record.as_ref().expect("kept");
            self.tally.again += record.marked(self.guests[g].queue) as u64;
            self.start(g);
        }
    }

    fn assert_record_is_empty(&self) {
        for guest in &self.guests {
            assert_eq!(self.record.as_ref().expect("kept").marked(guest.queue), 0);
        }
    }
}

fn run(seed: u64, shape: Shape, steps: u32, kills: u64) -> World {
    eprintln!("seed {seed:#x}");
    let mut world = World::new(seed, shape);
    for n in 0..steps {
        world.step();
        if world.rng.chance(kills, 100) {
            let t = usize::try_from(world.rng.below(u64::from(shape.threads))).expect("few");
            let last = world.rng.below(25);
            world.wake_until(t, last);
        }
        if n % 64 == 0 {
            world.check_durability();
        }
    }
    world.settle();
    world.check_durability();
    world.assert_record_is_empty();
    world
}

/// The kills of all runs, and the heads that were done again.
fn runs(seeds: std::ops::Range<u64>, shape: Shape) -> (u64, u64) {
    let (mut kills, mut again, mut stops) = (0, 0, 0);
    for seed in seeds {
        let tally = run(seed, shape, 1200, 8).tally;
        assert!(tally.completed > 30, "the run did something: {tally:?}");
        if shape.rates.error == 0 {
            assert_eq!(tally.failed, 0);
        }
        kills += tally.kills;
        again += tally.again;
        stops += tally.stops;
    }
    assert!(!shape.stops || stops > 50, "queues were stopped in between: {stops}");
    eprintln!("{kills} kills, {again} heads done again");
    (kills, again)
}

#[test]
fn i33_a_killed_process_loses_and_doubles_nothing() {
    let (kills, again) = runs(0..60, KEPT);
    assert!(kills > 1000 && again > 2000, "{kills} kills, {again} heads done again");
}

#[test]
fn i33_nor_do_several_threads_with_stops_and_merging() {
    let shape = Shape { threads: 2, queues: 4, stops: true, sequential: 60, ..KEPT };
    let (kills, again) = runs(100..140, shape);
    assert!(kills > 400 && again > 2000, "{kills} kills, {again} heads done again");
}

#[test]
fn i33_nor_with_a_slow_and_faulty_disk() {
    let rates = FaultRates { error: 20, short: 100, again: 50, busy: 200 };
    let shape = Shape { depth: 2, rates, stops: true, toggles: true, dsync: false, ..KEPT };
    let (kills, again) = runs(200..240, shape);
    assert!(kills > 400 && again > 2000, "{kills} kills, {again} heads done again");
}

#[test]
fn i33_the_record_changes_nothing_while_nobody_dies() {
    for seed in 300..330 {
        let world = run(seed, Shape { stops: true, sequential: 40, ..KEPT }, 1200, 0);
        assert_eq!((world.tally.failed, world.tally.kills), (0, 0));
    }
}
