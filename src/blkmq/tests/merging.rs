//! Merging on random worlds: the world asserts I05 for each request and L12 for each answer; here it
//! is aimed at them. And two runs of one script, merged and not, that must not differ (I06).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, MergeConfig,
    MergeSearch, Request,
};
use crate::block::{
    Bio, Errno, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Status, Tag,
};
use crate::testkit::core_disk::{Faults, Rng, touch};
use crate::testkit::core_sim::{Config, World};

fn seeds(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(|i| Rng::new(i).next())
}

fn sequential(seed: u64) -> Config {
    Config { sequential: 900, depth: 48, flushes: 20, ..Config::new(seed) }
}

fn merged(world: &World) -> u64 {
    world.threads.iter().map(|t| t.disk.merged).sum()
}

fn count(world: &World, of: impl Fn(&crate::blkmq::MergeCounters) -> u64) -> u64 {
    let of = |t: &crate::testkit::core_sim::Thread| -> u64 {
        t.guests.iter().map(|g| of(t.domain.merge_counters(g.hctx))).sum()
    };
    world.threads.iter().map(of).sum()
}

#[test]
fn i05_a_sequential_world_merges_and_keeps_its_books() {
    let mut all = [0; 4];
    for seed in seeds(60) {
        let world = World::play(sequential(seed), 300);
        assert!(merged(&world) > 10, "seed {seed}: {}", merged(&world));
        assert_eq!(world.total(|g| g.errors), 0);
        all[0] += count(&world, |c| c.one_hit);
        all[1] += count(&world, |c| c.scanned);
        all[2] += count(&world, |c| c.absorbed);
        all[3] += count(&world, |c| c.tries);
    }
    let used = all.iter().zip([2000, 200, 80, 9000]).all(|(n, least)| *n > least);
    assert!(used, "every way to merge was used: {all:?}");
}

#[test]
fn i05_every_limit_holds_in_every_world() {
    let mut requests = 0;
    for seed in seeds(300) {
        let random = Config::random(seed);
        let world = World::play(Config { sequential: 800, ..random }, 200);
        let off = world.config.merging.search == MergeSearch::Off;
        assert!(!off || merged(&world) == 0, "nomerges is obeyed");
        requests += merged(&world);
    }
    assert!(requests > 1500, "there was something to check: {requests}");
}

#[test]
fn i07_short_transfers_of_merged_requests_lose_nothing() {
    for seed in seeds(100) {
        let faults = Faults { short: 500, again: 100, busy: 200, ..Faults::default() };
        let capacity = 3;
        let world = World::play(Config { faults, capacity, ..sequential(seed) }, 300);
        assert_eq!(world.total(|g| g.errors), 0);
        assert!(merged(&world) > 5);
    }
}

#[test]
fn i07_l12_only_bios_on_the_bad_range_fail() {
    let (mut failed, mut splits) = (0, 0);
    for seed in seeds(150) {
        let mut rng = Rng::new(seed);
        let bad = SectorRange::new(Sector(rng.below(60_000)), 5000, 1 << 20);
        let faults = Faults { short: 200, busy: 100, ..Faults::default() };
        let config = Config { bad, faults, flushes: 0, ..sequential(seed) };
        let world = World::play(config, 200);
        failed += world.total(|g| g.data_errors);
        let of = |t: &crate::testkit::core_sim::Thread| -> u64 {
            t.guests.iter().map(|g| t.domain.stats(g.hctx).splits).sum()
        };
        splits += world.threads.iter().map(of).sum::<u64>();
    }
    assert!(failed > 500 && splits > 50, "{failed} failed, {splits} requests were taken apart");
}

#[test]
fn i08_none_issues_requests_in_the_order_of_their_oldest_bios() {
    let mut joined = 0;
    for seed in seeds(100) {
        let faults = Faults { busy: 300, again: 100, short: 100, ..Faults::default() };
        let strays = false;
        let tight =
            Config { faults, capacity: 3, hw_depth: 4, flushes: 0, strays, ..sequential(seed) };
        let world = World::play(tight, 300);
        let disk = &world.threads[0].disk;
        for guest in &world.threads[0].guests {
            let accepted = &disk.accepted[&guest.hctx];
            assert!(accepted.is_sorted(), "seed {seed}: {accepted:?}");
            joined += guest.data - accepted.len() as u64;
        }
    }
    assert!(joined > 3000, "some were merged: {joined}");
}

#[test]
fn i26_merged_write_through_is_durable() {
    for seed in seeds(100) {
        let faults = Faults { short: 100, again: 100, busy: 100, ..Faults::default() };
        let dsync = seed % 2 == 0;
        let world = World::play(Config { fua: true, dsync, faults, ..sequential(seed) }, 200);
        assert_eq!(world.total(|g| g.errors), 0);
        assert!(merged(&world) > 5);
    }
}

const SECTORS: u64 = 256;
const QUEUE: u16 = 32;

/// A disk with content, which transfers as much as the seed wants and fails where it is bad.
struct Disk {
    content: Vec<u8>,
    /// The guest's buffers, by tag.
    data: BTreeMap<Tag, Vec<u8>>,
    flights: Vec<(Request, Vec<Tag>)>,
    bad: Option<SectorRange>,
    rng: Rng,
    merged: u64,
}

impl Issue for Disk {
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        if self.rng.chance(200) {
            return Err(Busy);
        }
        self.merged += u64::from(bios.len() > 1);
        self.flights.push((*request, bios.collect()));
        Ok(())
    }
}

impl Disk {
    /// Carries out a flight, in part or not at all.
    fn finish(&mut self) -> (Request, Outcome) {
        let i = self.rng.index(self.flights.len());
        let (request, bios) = self.flights.swap_remove(i);
        let range = request.op.range().expect("data");
        let rest = u32::try_from(range.bytes()).expect("small") - request.done;
        if self.bad.is_some_and(|bad| touch(range, bad)) {
            return (request, Outcome::Failed(Errno(libc::EIO)));
        }
        let moves = matches!(request.op, Op::Read(_) | Op::Write(_));
        let (n, outcome) = match self.rng.below(10) {
            0 => return (request, Outcome::Again),
            1..=3 if moves && rest > 1 => {
                let n = 1 + u32::try_from(self.rng.below(u64::from(rest) - 1)).expect("small");
                (n, Outcome::Short(n))
            }
            _ => (rest, Outcome::Done),
        };
        let start = usize::try_from(range.byte_offset()).expect("small");
        let (from, to) = (request.done as usize, (request.done + n) as usize);
        let mut at = 0;
        for tag in bios {
            for byte in self.data.get_mut(&tag).expect("live") {
                if (from..to).contains(&at) {
                    match request.op {
                        Op::Read(_) => *byte = self.content[start + at],
                        _ => self.content[start + at] = *byte,
                    }
                }
                at += 1;
            }
        }
        (request, outcome)
    }
}

/// A guest that follows a script and never lets two bios that conflict be live together.
struct Player {
    domain: Domain,
    disk: Disk,
    live: BTreeMap<Tag, (usize, Op)>,
    free: Vec<Tag>,
    /// Per step of the script: the answer, and what a read found.
    answers: BTreeMap<usize, (Status, Vec<u8>)>,
}

impl Player {
    fn new(seed: u64, search: MergeSearch, bad: Option<SectorRange>) -> Player {
        let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
        let config = DomainConfig::alone(1, 0);
        let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
        let lane = domain.add_lane(LaneConfig::new(gate, true));
        domain.set_merging(lane, MergeConfig { search, ..MergeConfig::default() });
        assert_eq!((domain.add_hctx(lane, QUEUE), lane), (Some(HctxId(0)), LaneId(0)));
        let content = (0..SECTORS * 512).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let (data, flights, rng) = (BTreeMap::new(), Vec::new(), Rng::new(seed ^ 0xd15c));
        let disk = Disk { content, data, flights, bad, rng, merged: 0 };
        let (live, free) = (BTreeMap::new(), (0..QUEUE).map(Tag).collect());
        Player { domain, disk, live, free, answers: BTreeMap::new() }
    }

    /// Lets the disk finish something, or the core run.
    fn go_on(&mut self) {
        if self.disk.flights.is_empty() {
            assert!(self.domain.wants_run(Nanos(1)), "I10");
            self.domain.run(Nanos(1), &mut self.disk);
            return;
        }
        let (r, outcome) = self.disk.finish();
        self.domain.complete(r.hctx, r.tag, r.generation, outcome, Nanos(1)).expect("live");
        while let Some((tag, status)) = self.domain.take_done(HctxId(0)) {
            let (step, op) = self.live.remove(&tag).expect("answered once");
            let data = self.disk.data.remove(&tag).expect("its buffer");
            let read = matches!(op, Op::Read(_)) && status == Status::Ok;
            self.answers.insert(step, (status, if read { data } else { Vec::new() }));
            self.domain.release(HctxId(0), tag);
            self.free.push(tag);
        }
        self.domain.check_books();
    }

    fn submit(&mut self, step: usize, op: Op) {
        let range = op.range().expect("data");
        let conflicts = |(_, other): &(usize, Op)| {
            let both = !matches!((op, other), (Op::Read(_), Op::Read(_)));
            both && touch(range, other.range().expect("data"))
        };
        while self.free.is_empty() || self.live.values().any(conflicts) {
            self.go_on();
        }
        let tag = self.free.swap_remove(self.disk.rng.index(self.free.len()));
        let bytes = usize::try_from(range.bytes()).expect("small");
        let fill = match op {
            Op::Write(_) => u8::try_from(step % 255 + 1).expect("small"),
            _ => 0,
        };
        self.disk.data.insert(tag, vec![fill; bytes]);
        self.live.insert(tag, (step, op));
        self.domain.submit(HctxId(0), Bio::new(tag, op), Nanos(1)).expect("free");
    }

    fn play(mut self, script: &[Op]) -> Player {
        for (step, op) in script.iter().enumerate() {
            self.submit(step, *op);
            if self.disk.rng.chance(100) {
                self.domain.run(Nanos(1), &mut self.disk);
            }
        }
        while !self.live.is_empty() {
            self.go_on();
        }
        self
    }
}

/// Streams in both directions, and holes that are filled.
fn script(seed: u64) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    let mut at = 0;
    (0..300)
        .map(|_| {
            let sectors = 1 + rng.below(4);
            at = match rng.below(8) {
                0 => rng.below(SECTORS),
                1 => at + 3,
                2 => at.saturating_sub(9),
                _ => at,
            };
            at = if at + sectors > SECTORS { 0 } else { at };
            let range = SectorRange::new(Sector(at), sectors, SECTORS).expect("inside");
            at += sectors;
            match (seed + at / 32) % 4 {
                0 => Op::Read(range),
                1 if rng.chance(300) => Op::WriteZeroes { range, unmap: rng.chance(500) },
                2 if rng.chance(100) => Op::Read(range),
                _ => Op::Write(range),
            }
        })
        .collect()
}

#[test]
fn i06_merged_or_not_the_image_and_what_was_read_are_the_same() {
    let mut requests = 0;
    for seed in seeds(80) {
        let script = script(seed);
        let plain = Player::new(seed, MergeSearch::Off, None).play(&script);
        assert_eq!(plain.disk.merged, 0);
        for search in [MergeSearch::Full, MergeSearch::OneHit] {
            let merged = Player::new(seed, search, None).play(&script);
            assert!(merged.disk.content == plain.disk.content, "seed {seed}: the image differs");
            assert!(merged.answers == plain.answers, "seed {seed}: a read differs");
            requests += merged.disk.merged;
        }
        assert!(plain.answers.values().all(|(status, _)| *status == Status::Ok));
    }
    assert!(requests > 2000, "there were merged requests: {requests}");
}

#[test]
fn i06_i07_a_bad_range_fails_the_same_bios_merged_or_not() {
    let (mut failures, mut splits) = (0, 0);
    for seed in seeds(80) {
        let script = script(seed);
        let bad = SectorRange::new(Sector(Rng::new(seed).below(250)), 3, SECTORS);
        let plain = Player::new(seed, MergeSearch::Off, bad).play(&script);
        let merged = Player::new(seed, MergeSearch::Full, bad).play(&script);
        // What a failed write left is anybody's guess.
        let mut tainted = vec![false; usize::try_from(SECTORS * 512).expect("small")];
        for (step, op) in script.iter().enumerate() {
            let (status, found) = &plain.answers[&step];
            assert_eq!(*status, merged.answers[&step].0, "seed {seed}, step {step}: {op:?}");
            let range = op.range().expect("data");
            let from = usize::try_from(range.byte_offset()).expect("small");
            let bytes = from..from + usize::try_from(range.bytes()).expect("small");
            if *status != Status::Ok {
                tainted[bytes].fill(true);
                failures += 1;
                continue;
            }
            let other = &merged.answers[&step].1;
            let clean = |(i, _): &(usize, _)| !tainted[from + i];
            let same = found.iter().zip(other).enumerate().filter(clean).all(|(_, (a, b))| a == b);
            assert!(same, "seed {seed}, step {step}: {op:?} found something else");
        }
        let pairs = plain.disk.content.iter().zip(&merged.disk.content).zip(&tainted);
        assert!(pairs.into_iter().all(|((a, b), tainted)| *tainted || a == b), "seed {seed}");
        splits += merged.domain.stats(HctxId(0)).splits;
    }
    assert!(failures > 100 && splits > 50, "{failures} failures, {splits} splits");
}
