//! What accounting costs: the core driven in a loop with an image that takes everything.

use std::sync::Arc;

use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{Bio, HctxId, Nanos, Op, Outcome, Sector, SectorRange, Tag};

/// Takes everything.
#[derive(Default)]
struct Null {
    held: Vec<Request>,
}

impl Issue for Null {
    fn issue(&mut self, request: &Request, _: Bios<'_>) -> Result<(), Busy> {
        self.held.push(*request);
        Ok(())
    }
}

/// One sweep of `batch` bios, all times different. Answers how many bios finished.
fn sweep(domain: &mut Domain, null: &mut Null, batch: u16, now: &mut u64) -> u64 {
    for tag in 0..batch {
        let start = Sector(u64::from(tag) * 64);
        let range = SectorRange::new(start, 8, 1 << 20).expect("inside");
        let op = if tag % 2 == 0 { Op::Read(range) } else { Op::Write(range) };
        domain.submit(HctxId(0), Bio::new(Tag(tag), op), Nanos(*now)).expect("a free head");
    }
    domain.run(Nanos(*now), null);
    *now += 40_000 + (*now >> 3) % 65_536;
    let mut done = 0;
    for r in null.held.drain(..) {
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, Nanos(*now)).expect("live");
    }
    while let Some((tag, _)) = domain.take_done(HctxId(0)) {
        domain.release(HctxId(0), tag);
        done += 1;
    }
    *now += 3_000;
    done
}

/// Run by hand: `cargo test --release --lib what_accounting_costs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
#[allow(clippy::print_stdout, reason = "a measurement prints")]
fn what_accounting_costs() {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
    let config = DomainConfig::alone(1, 0);
    let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
    let lane = domain.add_lane(LaneConfig::new(Arc::new(gate), true));
    assert!(domain.add_hctx(lane, 128).is_some());
    let mut null = Null::default();
    let mut now = 1;
    for batch in [1u16, 8, 32, 128] {
        let rounds = 2_048 / u32::from(batch);
        // The least of many short runs: whatever else the machine does only adds.
        let least = (0..5_000).map(|_| {
            let start = std::time::Instant::now();
            let done: u64 =
                (0..rounds).map(|_| sweep(&mut domain, &mut null, batch, &mut now)).sum();
            start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(done).expect("small"))
        });
        let least = least.fold(f64::MAX, f64::min);
        println!("batches of {batch}: {least:.1} ns a bio");
    }
}
