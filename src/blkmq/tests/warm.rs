//! The warm path allocates nothing, and how long it takes.

use std::sync::Arc;

use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, MergeSearch,
    Request,
};
use crate::block::{Bio, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Tag};
use crate::testkit::alloc::allocations;

/// Takes everything up to a fixed number, without allocating.
struct Fixed {
    held: Vec<Request>,
    room: usize,
}

impl Issue for Fixed {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        if self.held.len() == self.room {
            return Err(Busy);
        }
        self.held.push(*request);
        Ok(())
    }
}

fn bio(tag: u16, op: Op) -> Bio {
    Bio::new(Tag(tag), op)
}

fn domain(hctxs: u16) -> Domain {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
    let config = DomainConfig::alone(hctxs, 0);
    let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
    let lane = domain.add_lane(LaneConfig::new(Arc::new(gate), true));
    (0..hctxs).for_each(|_| assert!(domain.add_hctx(lane, 128).is_some()));
    domain
}

/// Submits on every hctx, runs until all is done, publishes and releases.
fn sweep(domain: &mut Domain, disk: &mut Fixed, hctxs: u16, per: u16, flush: bool) {
    let range = range(8);
    let op = |tag| if tag % 2 == 0 { Op::Read(range) } else { Op::Write(range) };
    sweep_of(domain, disk, hctxs, per, flush, op);
}

fn range(sector: u64) -> SectorRange {
    SectorRange::new(Sector(sector), 8, 1 << 20).expect("inside")
}

fn sweep_of(
    domain: &mut Domain,
    disk: &mut Fixed,
    hctxs: u16,
    per: u16,
    flush: bool,
    op: impl Fn(u16) -> Op,
) {
    for h in 0..hctxs {
        for tag in 0..per {
            domain.submit(HctxId(h), bio(tag, op(tag)), Nanos(1)).expect("a free head");
        }
        if flush {
            domain.submit(HctxId(h), bio(per, Op::Flush), Nanos(1)).expect("a free head");
        }
    }
    domain.run(Nanos(1), disk);
    while let Some(r) = disk.held.pop() {
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, Nanos(2)).expect("live");
        if disk.held.is_empty() && domain.wants_run(Nanos(2)) {
            domain.run(Nanos(2), disk);
        }
    }
    for h in 0..hctxs {
        while let Some((tag, _)) = domain.take_done(HctxId(h)) {
            domain.release(HctxId(h), tag);
        }
        assert!(domain.is_idle(HctxId(h)));
    }
}

#[test]
fn a_warm_sweep_allocates_nothing() {
    let mut domain = domain(4);
    let mut disk = Fixed { held: Vec::with_capacity(600), room: 600 };
    let all = allocations(|| {
        for _ in 0..100 {
            sweep(&mut domain, &mut disk, 4, 32, true);
            disk.room = 7; // refusals, leftovers, staging, turns
            sweep(&mut domain, &mut disk, 4, 100, true);
            disk.room = 600;
        }
    });
    assert_eq!(all, 0);
    assert!(domain.stats(HctxId(0)).refused > 0, "there was pressure");
    assert!(domain.stats(HctxId(0)).flushes > 0, "and there were syncs");
}

/// Run by hand: `cargo test --release --lib how_long -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
#[allow(clippy::print_stdout, reason = "a measurement prints")]
fn how_long_a_bio_takes() {
    let mut domain = domain(1);
    let mut disk = Fixed { held: Vec::with_capacity(128), room: 128 };
    for (name, room) in [("direct", 128), ("under pressure", 8)] {
        disk.room = room;
        let start = std::time::Instant::now();
        let rounds = 500_000u32;
        (0..rounds).for_each(|_| sweep(&mut domain, &mut disk, 1, 32, false));
        let each = start.elapsed().as_nanos() / u128::from(rounds * 32);
        println!("{name}: {each} ns for submit, run, complete, take, release");
    }
}

/// Run by hand, as above. The best of many runs, each long enough for the clock.
#[test]
#[ignore = "a measurement, not a test"]
#[allow(clippy::print_stdout, reason = "a measurement prints")]
fn how_long_merging_takes() {
    let far = |tag: u16| Op::Read(range(1000 + u64::from(tag) * 37 % 128 * 64));
    let next = |tag: u16| Op::Read(range(1000 + u64::from(tag) * 8));
    let ops: [(&str, &dyn Fn(u16) -> Op); 2] = [("nobody touches", &far), ("all touch", &next)];
    let searches = [MergeSearch::Off, MergeSearch::OneHit, MergeSearch::Full];
    for (what, op) in ops {
        for per in [32, 96] {
            for search in searches {
                let mut domain = domain(1);
                let mut disk = Fixed { held: Vec::with_capacity(128), room: 128 };
                let mut best = u128::MAX;
                for _ in 0..60 {
                    let start = std::time::Instant::now();
                    for round in 0..2000 {
                        // Set anew, it never rests.
                        if round % 20 == 0 {
                            domain.set_nomerges(LaneId(0), MergeSearch::Off);
                            domain.set_nomerges(LaneId(0), search);
                        }
                        sweep_of(&mut domain, &mut disk, 1, per, false, op);
                    }
                    best = best.min(start.elapsed().as_nanos() / 200 / u128::from(per));
                }
                let (whole, tenth) = (best / 10, best % 10);
                println!("{what}, {per} at a time, {search:?}: {whole}.{tenth} ns a bio");
            }
        }
    }
}
