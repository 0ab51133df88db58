//! The contract of [`Scheduler`], checked on any implementation (C1, C2, C4).

use std::collections::BTreeSet;

use super::{Item, Scheduler};
use crate::blkmq::Ident;
use crate::block::{Class, HctxId, LaneId, Nanos, Op, Sector, SectorRange, Tag};
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;

const DEPTH: u16 = 32;

fn item(rng: &mut Rng, id: Ident, now: u64) -> Item {
    let start = Sector(rng.below(1 << 20));
    let range = SectorRange::new(start, 1 + rng.below(64), 1 << 21).expect("inside");
    let op = match rng.below(4) {
        0 | 1 => Op::Read(range),
        2 => Op::Write(range),
        _ => Op::Discard(range),
    };
    let class = match rng.below(3) {
        0 => Class::RealTime,
        1 => Class::BestEffort,
        _ => Class::Idle,
    };
    Item { id, lane: LaneId(id.hctx.0 % 3), op, class, arrival: Nanos(now), issued: Nanos(0) }
}

/// Plays many seeded runs on fresh schedulers.
pub(in crate::blkmq) fn check(make: impl Fn() -> Box<dyn Scheduler>) {
    (0..200).for_each(|seed| run(make(), seed));
}

fn run(mut s: Box<dyn Scheduler>, seed: u64) {
    let mut rng = Rng::new(seed);
    let hctxs = u16::try_from(1 + rng.below(70)).expect("small");
    (0..hctxs).for_each(|h| s.attach(HctxId(h), LaneId(h % 3), DEPTH));
    let mut held: BTreeSet<Ident> = BTreeSet::new();
    let mut out: Vec<Item> = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    let mut now = 0;
    for _ in 0..600 {
        now += rng.below(1_000_000);
        match rng.below(8) {
            0..=3 => {
                let hctx = HctxId(u16::try_from(rng.below(u64::from(hctxs))).expect("small"));
                let tag = Tag(u16::try_from(rng.below(u64::from(DEPTH))).expect("small"));
                let id = Ident { hctx, tag };
                if held.contains(&id) || out.iter().any(|i| i.id == id) {
                    continue;
                }
                items.retain(|i| i.id != id);
                let item = item(&mut rng, id, now);
                assert_eq!(allocations(|| s.insert(&item, Nanos(now))), 0, "C4");
                items.push(item);
                held.insert(id);
            }
            4 | 5 => {
                let promised = s.has_work(Nanos(now));
                let mut got = None;
                assert_eq!(allocations(|| got = s.next(Nanos(now))), 0, "C4");
                assert_eq!(promised, got.is_some(), "C2: seed {seed}");
                if let Some(id) = got {
                    assert!(held.remove(&id), "C1: {id:?} was not held, seed {seed}");
                    let at = items.iter().position(|i| i.id == id).expect("inserted");
                    out.push(items.swap_remove(at));
                }
            }
            6 if !out.is_empty() => {
                let i = rng.index(out.len());
                let item = out.swap_remove(i);
                s.requeue(&item);
                held.insert(item.id);
                items.push(item);
            }
            _ if !out.is_empty() => {
                let i = rng.index(out.len());
                let item = out.swap_remove(i);
                s.done(&item, Nanos(now));
            }
            _ => {}
        }
    }
    if seed.is_multiple_of(2) {
        s.drain(&mut |id| assert!(held.remove(&id), "C1: {id:?} was not held, seed {seed}"));
    } else {
        empty(&mut *s, &mut held, &mut out, &items, now, seed);
    }
    assert!(held.is_empty(), "C1: {held:?} never came out, seed {seed}");
    assert!(!s.has_work(Nanos(now)), "C2: empty, seed {seed}");
    (0..hctxs).for_each(|h| s.detach(HctxId(h)));
}

/// Everything that is held comes out by itself, when what is out ends and time passes.
fn empty(
    s: &mut dyn Scheduler,
    held: &mut BTreeSet<Ident>,
    out: &mut Vec<Item>,
    items: &[Item],
    mut now: u64,
    seed: u64,
) {
    while !held.is_empty() {
        let before = held.len();
        while let Some(id) = s.next(Nanos(now)) {
            assert!(held.remove(&id), "C1: {id:?} was not held, seed {seed}");
            out.extend(items.iter().find(|i| i.id == id));
        }
        let ended = out.len();
        out.drain(..).for_each(|item| s.done(&item, Nanos(now)));
        if held.len() == before && ended == 0 {
            let wake = s.next_wake().expect("C2: held back, and nobody will say go: seed {seed}");
            assert!(wake.0 > now, "C2: a wake in the past, seed {seed}");
            now = wake.0;
        }
    }
    out.drain(..).for_each(|item| s.done(&item, Nanos(now)));
}
