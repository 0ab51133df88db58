//! The bounds that the reference promises, and the policy against a plain model of it.
//!
//! The model is written for reading: queues and ordered sets, no cursors, no links.

use std::collections::{BTreeSet, VecDeque};

use super::entry::{READ, WRITE};
use super::tests::{Rig, tune};
use crate::block::{Class, Sector};
use crate::testkit::core_disk::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rq {
    pos: u64,
    number: u64,
    expires: u64,
}

/// The policy for one class, in plain words.
struct Model {
    batch_max: u32,
    starved_max: u32,
    expire: [u64; 2],
    fifo: [VecDeque<Rq>; 2],
    sorted: [BTreeSet<(u64, u64)>; 2],
    last_pos: [u64; 2],
    dir: usize,
    batch: u32,
    starved: u32,
    number: u64,
}

impl Model {
    fn new(batch_max: u32, starved_max: u32, expire: [u64; 2]) -> Model {
        Model {
            batch_max,
            starved_max,
            expire,
            fifo: Default::default(),
            sorted: Default::default(),
            last_pos: [0; 2],
            dir: WRITE,
            batch: 0,
            starved: 0,
            number: 0,
        }
    }

    fn add(&mut self, dir: usize, pos: u64, now: u64) -> u64 {
        self.number += 1;
        let rq = Rq { pos, number: self.number, expires: now + self.expire[dir] };
        self.fifo[dir].push_back(rq);
        self.sorted[dir].insert((pos, self.number));
        self.number
    }

    fn following(&self, dir: usize) -> Option<Rq> {
        let (_, number) = *self.sorted[dir].range((self.last_pos[dir], 0)..).next()?;
        self.fifo[dir].iter().find(|rq| rq.number == number).copied()
    }

    fn pick(&mut self, now: u64) -> Option<u64> {
        let goes_on = self.following(self.dir).filter(|_| self.batch < self.batch_max);
        let rq = if let Some(rq) = goes_on {
            rq
        } else {
            let dir = match (self.fifo[READ].is_empty(), self.fifo[WRITE].is_empty()) {
                (true, true) => return None,
                (false, true) => READ,
                (false, false) if self.starved < self.starved_max => {
                    self.starved += 1;
                    READ
                }
                (_, false) => {
                    self.starved = 0;
                    WRITE
                }
            };
            let oldest = self.fifo[dir][0];
            (self.dir, self.batch) = (dir, 0);
            self.following(dir).filter(|_| now < oldest.expires).unwrap_or(oldest)
        };
        self.batch += 1;
        self.fifo[self.dir].retain(|r| *r != rq);
        self.sorted[self.dir].remove(&(rq.pos, rq.number));
        self.last_pos[self.dir] = rq.pos;
        Some(rq.number)
    }
}

#[test]
fn the_model_agrees() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let batch = [0, 1, 3, 4, 16][rng.index(5)];
        let starved = u32::try_from(rng.below(4)).expect("small");
        let ms = |n: u64| n * 1_000_000;
        let expire = [1 + rng.below(50), 1 + rng.below(200)];
        let mut model = Model::new(batch, starved, expire.map(ms));
        let mut rig = Rig::new(1, 1);
        rig.tune("fifo_batch", batch).tune("writes_starved", starved);
        rig.tune("read_expire", expire[READ]).tune("write_expire", expire[WRITE]);
        let spread = [1 << 30, 40][rng.index(2)];
        let (mut numbers, mut went, mut now) = (vec![0; 256], 0, 0);
        for step in 0..800 {
            now += rng.below(400_000);
            // Waves, so that it is at times empty and at times deep.
            let fill = if step % 200 < 100 { 700 } else { 300 };
            if rng.chance(fill) && rig.waiting() < 256 {
                let dir = usize::from(rng.chance(400));
                let pos = rng.below(spread);
                let tag = rig.free();
                numbers[tag.index()] = model.add(dir, pos, now);
                rig.insert_at(tag, dir, pos, now);
            } else {
                let got = rig.next(now).map(|tag| numbers[tag.index()]);
                assert_eq!(got, model.pick(now), "seed {seed}, step {step}");
                went += u32::from(got.is_some());
            }
        }
        assert!(went > 250, "seed {seed}: {went}");
    }
}

/// Far more than any run lasts.
const NEVER: u64 = 1_000_000;

fn bound_of_writes(batch: u32, starved: u32) -> u32 {
    (starved + 1) * batch.max(1) - 1
}

/// How many reads go between the arrival of a write and the first write: `before` reads went
/// before it came, and as many wait all the time.
fn reads_before_a_write(batch: u32, starved: u32, before: u32, seed: u64) -> u32 {
    let mut rng = Rng::new(seed);
    let mut rig = Rig::new(1, 1);
    rig.tune("fifo_batch", batch).tune("writes_starved", starved);
    rig.tune("read_expire", NEVER).tune("write_expire", NEVER);
    let mut place = 0;
    let mut pos = |rng: &mut Rng| {
        place += 8;
        if seed.is_multiple_of(2) { rng.below(1_000_000) } else { place }
    };
    for _ in 0..64 {
        rig.insert(READ, pos(&mut rng), 0);
    }
    for now in 0..before {
        rig.next(u64::from(now)).expect("64 wait");
        rig.insert(READ, pos(&mut rng), u64::from(now));
    }
    let write = rig.insert(WRITE, rng.below(1_000_000), u64::from(before));
    let mut reads = 0;
    while rig.next(u64::from(before + reads)).expect("65 wait") != write {
        rig.insert(READ, pos(&mut rng), u64::from(before + reads));
        reads += 1;
        assert!(reads < 1000, "seed {seed}: never");
    }
    reads
}

#[test]
fn i15_a_write_waits_for_so_many_reads_and_no_more() {
    assert_eq!(bound_of_writes(16, 2), 47, "with the defaults");
    for (batch, starved) in [(16, 2), (1, 2), (0, 2), (4, 1), (16, 0), (8, 3)] {
        let bound = bound_of_writes(batch, starved);
        let mut worst = 0;
        for seed in 0..200 {
            let before = u32::try_from(seed / 2).expect("small");
            let reads = reads_before_a_write(batch, starved, before, seed);
            assert!(reads <= bound, "({batch}, {starved}), seed {seed}: {reads} > {bound}");
            worst = worst.max(reads);
        }
        assert_eq!(worst, bound, "({batch}, {starved}): the bound is exact");
    }
}

/// How many requests go after the last of `rank` + 1 requests of direction `dir` has expired and
/// before it goes: they lie below the sweep, all others above, so nothing but expiry saves them.
fn after_expiry(dir: usize, batch: u32, starved: u32, rank: u64, mixed: bool, before: u32) -> u32 {
    const MS: u64 = 1_000_000;
    let mut rig = Rig::new(1, 1);
    rig.tune("fifo_batch", batch).tune("writes_starved", starved);
    rig.tune("read_expire", 1000_u32).tune("write_expire", 1000_u32);
    let mut place = 1000;
    let mut above = |rig: &mut Rig, dir, now| {
        place += 8;
        rig.insert(dir, place, now)
    };
    let first = above(&mut rig, dir, 0);
    assert_eq!(rig.next(0), Some(first), "the sweep is above 1000 now");
    let old: Vec<_> = (0..=rank).map(|r| rig.insert(dir, r, 0)).collect();
    for _ in 0..40 {
        above(&mut rig, dir, 1);
        if mixed {
            above(&mut rig, 1 - dir, 1);
        }
    }
    for _ in 0..before {
        let tag = rig.next(2).expect("many wait");
        let dir = rig.dir(tag);
        assert!(!old.contains(&tag), "nothing has expired yet");
        above(&mut rig, dir, 2);
    }
    let mut went = 0;
    loop {
        let tag = rig.next(1000 * MS).expect("many wait");
        if Some(&tag) == old.last() {
            return went;
        }
        let dir = rig.dir(tag);
        above(&mut rig, dir, 1000 * MS);
        went += 1;
        assert!(went < 10_000, "never");
    }
}

fn bound_after_expiry(dir: usize, batch: u32, starved: u32, rank: u32, mixed: bool) -> u32 {
    let f = batch.max(1);
    match (mixed, dir) {
        (false, _) => (f - 1) + f * rank,
        (true, READ) => (f - 1) + f * (rank + rank / starved.max(1) + 1),
        (true, _) => (rank + 1) * (starved + 1) * f - 1,
    }
}

#[test]
fn i16_an_expired_request_waits_for_so_many_others_and_no_more() {
    let bounds = [(READ, true), (READ, false), (WRITE, true)];
    let bounds = bounds.map(|(dir, mixed)| bound_after_expiry(dir, 16, 2, 0, mixed));
    assert_eq!(bounds, [31, 15, 47], "with the defaults, the oldest");
    for (batch, starved) in [(16, 2), (4, 2), (1, 2), (0, 2), (8, 3), (4, 1)] {
        for (dir, mixed) in [(READ, true), (READ, false), (WRITE, true), (WRITE, false)] {
            for rank in 0..6 {
                let case = format!("({batch}, {starved}) {dir} {mixed} rank {rank}");
                let bound = bound_after_expiry(dir, batch, starved, rank, mixed);
                let went = (0..100).map(|before| {
                    after_expiry(dir, batch, starved, u64::from(rank), mixed, before)
                });
                let worst = went.max().expect("a hundred");
                assert!(worst <= bound, "{case}: {worst} > {bound}");
                assert!(rank > 0 || worst == bound, "{case}: {worst}, the bound {bound} is exact");
            }
        }
    }
}

#[test]
fn i18_a_batch_goes_one_way_and_ends() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::new(1, 1);
        let batch = u32::try_from(rng.below(20)).expect("small");
        rig.tune("fifo_batch", batch).tune("read_expire", rng.below(20));
        let (mut last, mut now, mut long) = (None, 0, 0);
        for _ in 0..600 {
            now += rng.below(1_000_000);
            if rng.chance(550) && rig.waiting() < 250 {
                let dir = usize::from(rng.chance(300));
                rig.insert(dir, rng.below(100_000), now);
            } else if let Some(tag) = rig.next(now) {
                let (this, nth) = ((rig.dir(tag), rig.place(tag)), rig.nth_of_batch());
                assert!(nth <= batch.max(1), "seed {seed}: {nth} in a batch of {batch}");
                if nth > 1 {
                    let (dir, place): (usize, Sector) = last.expect("one before");
                    assert_eq!(this.0, dir, "seed {seed}: one direction");
                    assert!(this.1 >= place, "seed {seed}: one way");
                    long += 1;
                }
                last = Some(this);
            }
        }
        assert!(batch < 4 || long > 50, "seed {seed}: {long} in batches");
    }
}

/// Within a class of several, the bounds are those of the class: what waits in another one and
/// may not go does not disturb its batches.
#[test]
fn i17_a_lower_class_that_waits_does_not_disturb_the_batches_of_a_higher() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let mut model = Model::new(16, 2, [500, 5000].map(|ms| ms * 1_000_000));
        let mut rig = Rig::new(1, 1);
        tune(&mut rig.s, "prio_aging_expire", NEVER);
        let idle = rig.free();
        rig.class = Class::Idle;
        rig.insert_at(idle, READ, 7, 0);
        rig.class = Class::RealTime;
        let mut numbers = vec![0; 256];
        for now in 0..500 {
            let (dir, pos, tag) = (usize::from(rng.chance(400)), rng.below(1000), rig.free());
            numbers[tag.index()] = model.add(dir, pos, now);
            rig.insert_at(tag, dir, pos, now);
            if rng.chance(800) {
                let tag = rig.next(now).expect("one was inserted");
                assert_eq!(Some(numbers[tag.index()]), model.pick(now), "seed {seed}");
            }
        }
        while let Some(number) = model.pick(500) {
            assert_eq!(rig.next(500).map(|tag| numbers[tag.index()]), Some(number));
        }
        assert_eq!(rig.next(500), Some(idle), "seed {seed}");
    }
}
