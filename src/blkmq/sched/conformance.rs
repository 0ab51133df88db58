//! The contract of [`Scheduler`], checked on any implementation (C1, C2, C4, C5).
//!
//! The core is played as far as it matters here: it asks for a partner when a bio comes, joins the
//! two if it likes, and goes on as long as what came of it touches another one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Scheduler, Side};
use crate::blkmq::Ident;
use crate::block::{Class, HctxId, LaneId, Nanos, Op, Sector, SectorRange, Tag};
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;

const DEPTH: u16 = 32;
const SECTORS: u64 = 1 << 20;

fn range_of(item: &Item) -> SectorRange {
    item.op.range().expect("no flush is ever scheduled")
}

/// The same operation on another range.
fn with_range(op: Op, range: SectorRange) -> Op {
    match op {
        Op::Read(_) => Op::Read(range),
        Op::Write(_) => Op::Write(range),
        Op::Discard(_) => Op::Discard(range),
        Op::WriteZeroes { unmap, .. } => Op::WriteZeroes { range, unmap },
        Op::Flush => Op::Flush,
    }
}

/// What a request becomes that takes in another one, on that side of it.
fn joined(held: &Item, new: &Item, side: Side) -> Item {
    let (first, second) = match side {
        Side::Back => (range_of(held), range_of(new)),
        Side::Front => (range_of(new), range_of(held)),
    };
    assert_eq!(first.end(), second.start(), "C5: they touch on that side");
    let range = SectorRange::new(first.start(), first.sectors() + second.sectors(), SECTORS);
    let op = with_range(held.op, range.expect("inside"));
    Item { op, arrival: held.arrival.min(new.arrival), ..*held }
}

/// Plays many seeded runs on fresh schedulers.
pub(in crate::blkmq) fn check(make: impl Fn() -> Box<dyn Scheduler>) {
    (0..200).for_each(|seed| {
        run(make(), seed);
    });
}

/// As [`check`], of a scheduler that finds partners; answers how many requests were joined.
pub(in crate::blkmq) fn check_joining(make: impl Fn() -> Box<dyn Scheduler>) -> u64 {
    (0..200).map(|seed| run(make(), seed)).sum()
}

struct World {
    s: Box<dyn Scheduler>,
    rng: Rng,
    seed: u64,
    now: u64,
    /// Requests that are held, with the number of the oldest bio in each.
    held: BTreeMap<Ident, (Item, u64)>,
    out: Vec<Item>,
    /// Bios that travel in the request of another.
    parts: BTreeMap<Ident, Vec<Ident>>,
    busy: BTreeSet<Ident>,
    /// Requests that were given back, whose place in line is nobody's promise.
    given_back: BTreeSet<Ident>,
    bios: u64,
    joins: u64,
}

fn run(mut s: Box<dyn Scheduler>, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let hctxs = 1 + small(&mut rng, if seed.is_multiple_of(3) { 70 } else { 3 });
    let lanes = if seed % 4 == 1 { 1 } else { 3 };
    (0..hctxs).for_each(|h| s.attach(HctxId(h), LaneId(h % lanes), DEPTH));
    let (held, out, parts) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    let (busy, given_back) = (BTreeSet::new(), BTreeSet::new());
    let mut w =
        World { s, rng, seed, now: 0, held, out, parts, busy, given_back, bios: 0, joins: 0 };
    for _ in 0..600 {
        w.now += w.rng.below(1_000_000);
        match w.rng.below(8) {
            0..=3 => w.submit(hctxs, lanes),
            4 | 5 => w.next(),
            6 => w.give_back(),
            _ => w.end(),
        }
    }
    if seed.is_multiple_of(2) {
        w.drain();
    } else {
        w.empty();
    }
    assert!(w.held.is_empty(), "C1: {:?} never came out, seed {seed}", w.held);
    assert!(!w.s.has_work(Nanos(w.now)), "C2: empty, seed {seed}");
    (0..hctxs).for_each(|h| w.s.detach(HctxId(h)));
    w.joins
}

fn small(rng: &mut Rng, n: u64) -> u16 {
    u16::try_from(rng.below(n)).expect("small")
}

impl World {
    fn item(&mut self, id: Ident, lanes: u16) -> Item {
        let rng = &mut self.rng;
        let op = |rng: &mut Rng, range| match rng.below(5) {
            0 | 1 => Op::Read(range),
            2 => Op::Write(range),
            3 => Op::Discard(range),
            _ => Op::WriteZeroes { range, unmap: rng.chance(500) },
        };
        let range = SectorRange::new(Sector(rng.below(SECTORS / 2)), 1 + rng.below(64), SECTORS);
        let range = range.expect("inside");
        let class = match rng.below(3) {
            0 => Class::RealTime,
            1 => Class::BestEffort,
            _ => Class::Idle,
        };
        let mut item = Item {
            id,
            lane: LaneId(id.hctx.0 % lanes),
            op: op(rng, range),
            class,
            arrival: Nanos(self.now),
            issued: Nanos(0),
        };
        // Half of them touch something that is held, and one in three of these both sides of a gap.
        let near = self.held.range(Ident { hctx: id.hctx, tag: Tag(0) }..).next();
        if let (true, Some((_, (held, _)))) = (rng.chance(500), near) {
            let at = range_of(held);
            let beside = match rng.below(3) {
                0 => SectorRange::new(at.end(), range.sectors(), SECTORS),
                1 => SectorRange::new(Sector(at.start().0.saturating_sub(8)), 8, SECTORS),
                _ => SectorRange::new(Sector(at.end().0 + 8), range.sectors(), SECTORS),
            };
            item.op = with_range(held.op, beside.unwrap_or(range));
            item.class = if rng.chance(900) { held.class } else { item.class };
        }
        item
    }

    fn submit(&mut self, hctxs: u16, lanes: u16) {
        let hctx = HctxId(small(&mut self.rng, u64::from(hctxs)));
        let id = Ident { hctx, tag: Tag(small(&mut self.rng, u64::from(DEPTH))) };
        if !self.busy.insert(id) {
            return;
        }
        let item = self.item(id, lanes);
        self.bios += 1;
        match self.partner(&item) {
            Some((held, side)) if self.rng.chance(800) => self.join(held, &item, side),
            _ => {
                let now = Nanos(self.now);
                assert_eq!(allocations(|| self.s.insert(&item, now)), 0, "C4");
                self.held.insert(id, (item, self.bios));
            }
        }
    }

    fn partner(&mut self, item: &Item) -> Option<(Ident, Side)> {
        let mut found = None;
        assert_eq!(allocations(|| found = self.s.find(item)), 0, "C4");
        let (id, side) = found?;
        let seed = self.seed;
        assert_ne!(id, item.id, "C5: nobody is his own partner, seed {seed}");
        let Some((held, _)) = self.held.get(&id) else {
            panic!("C5: {id:?} is not held, seed {seed}");
        };
        assert_eq!(id.hctx, item.id.hctx, "C5: of one hctx, seed {seed}");
        assert_eq!(
            with_range(held.op, range_of(item)),
            item.op,
            "C5: of the same kind, seed {seed}"
        );
        joined(held, item, side);
        Some((id, side))
    }

    /// A bio becomes part of a held request, which may now touch another one.
    fn join(&mut self, held: Ident, bio: &Item, side: Side) {
        let (before, number) = self.held[&held];
        let after = joined(&before, bio, side);
        assert_eq!(allocations(|| self.s.grown(&before, &after)), 0, "C4");
        self.held.insert(held, (after, number));
        self.parts.entry(held).or_default().push(bio.id);
        self.joins += 1;
        let mut item = after;
        while let Some((other, side)) = self.partner(&item) {
            item = self.absorb(item, other, side);
        }
    }

    /// Two held requests become one, either of them.
    fn absorb(&mut self, item: Item, other: Ident, side: Side) -> Item {
        let ((other, at), (_, number)) = (self.held[&other], self.held[&item.id]);
        let (before, gone, side) = if self.rng.chance(500) {
            (other, item, side)
        } else if side == Side::Back {
            (item, other, Side::Front)
        } else {
            (item, other, Side::Back)
        };
        let after = joined(&before, &gone, side);
        assert_eq!(allocations(|| self.s.grown(&before, &after)), 0, "C4");
        assert_eq!(allocations(|| self.s.absorbed(&gone, &after)), 0, "C4");
        self.held.remove(&gone.id);
        self.held.insert(after.id, (after, number.min(at)));
        if self.given_back.remove(&gone.id) {
            self.given_back.insert(after.id);
        }
        let mut more = self.parts.remove(&gone.id).unwrap_or_default();
        more.push(gone.id);
        self.parts.entry(after.id).or_default().append(&mut more);
        self.joins += 1;
        after
    }

    fn next(&mut self) {
        let now = Nanos(self.now);
        let promised = self.s.has_work(now);
        let mut got = None;
        assert_eq!(allocations(|| got = self.s.next(now)), 0, "C4");
        assert_eq!(promised, got.is_some(), "C2: seed {}", self.seed);
        if let Some(id) = got {
            let (item, _) = self.left(id);
            self.out.push(item);
            self.given_back.remove(&id);
        }
    }

    fn left(&mut self, id: Ident) -> (Item, u64) {
        let seed = self.seed;
        self.held.remove(&id).unwrap_or_else(|| panic!("C1: {id:?} was not held, seed {seed}"))
    }

    fn give_back(&mut self) {
        if !self.out.is_empty() {
            let i = self.rng.index(self.out.len());
            let item = self.out.swap_remove(i);
            assert_eq!(allocations(|| self.s.requeue(&item)), 0, "C4");
            self.given_back.insert(item.id);
            self.held.insert(item.id, (item, 0));
        }
    }

    fn end(&mut self) {
        if !self.out.is_empty() {
            let i = self.rng.index(self.out.len());
            let item = self.out.swap_remove(i);
            let now = Nanos(self.now);
            assert_eq!(allocations(|| self.s.done(&item, now)), 0, "C4");
            self.free(item.id);
        }
    }

    fn free(&mut self, id: Ident) {
        self.busy.remove(&id);
        for part in self.parts.remove(&id).unwrap_or_default() {
            self.busy.remove(&part);
        }
    }

    /// All leave at once, those of each hctx in the order in which they came.
    fn drain(&mut self) {
        let mut all = Vec::with_capacity(self.held.len());
        assert_eq!(allocations(|| self.s.drain(&mut |id| all.push(id))), 0, "C4");
        let mut last: BTreeMap<HctxId, u64> = BTreeMap::new();
        for id in all {
            let (_, number) = self.left(id);
            if !self.given_back.contains(&id) {
                let before = last.insert(id.hctx, number).unwrap_or(0);
                assert!(before < number, "drained out of order, seed {}", self.seed);
            }
        }
    }

    /// Everything that is held comes out by itself, when what is out ends and time passes.
    fn empty(&mut self) {
        while !self.held.is_empty() {
            let before = self.held.len();
            while let Some(id) = self.s.next(Nanos(self.now)) {
                let (item, _) = self.left(id);
                self.out.push(item);
            }
            let ended = self.out.len();
            self.out.drain(..).for_each(|item| self.s.done(&item, Nanos(self.now)));
            if self.held.len() == before && ended == 0 {
                let seed = self.seed;
                let wake = self.s.next_wake();
                let wake = wake.unwrap_or_else(|| {
                    panic!("C2: held back, and nobody will say go: seed {seed}")
                });
                assert!(wake.0 > self.now, "C2: a wake in the past, seed {seed}");
                self.now = wake.0;
            }
        }
        self.out.drain(..).for_each(|item| self.s.done(&item, Nanos(self.now)));
    }
}
