//! Limits in the core: bios wait, go in time, and never hold a stop up (I22, I27).

use std::sync::Arc;

use crate::blkmq::limits::{Limit, LimitSet, Limits, LimitsConfig};
use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{Bio, HctxId, Nanos, Op, Outcome, Sector, SectorRange, Status, Tag};
use crate::testkit::core_disk::Rng;

const SECOND: u64 = 1_000_000_000;

/// Takes everything, and remembers it.
#[derive(Default)]
struct Taken(Vec<Request>);

impl Issue for Taken {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        self.0.push(*request);
        Ok(())
    }
}

fn iops(read: u64, write: u64) -> LimitsConfig {
    let limit = |rate| Limit { rate, ..Limit::default() };
    let iops = LimitSet { read: limit(read), write: limit(write), ..LimitSet::default() };
    LimitsConfig { iops, ..LimitsConfig::default() }
}

fn domain(hctxs: u16, limits: &LimitsConfig) -> (Domain, Arc<Limits>) {
    let limits = Arc::new(Limits::new(limits).expect("consistent"));
    let config = DomainConfig::alone(hctxs, 0);
    let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
    let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
    let of = LaneConfig { limits: Arc::clone(&limits), ..LaneConfig::new(gate, true) };
    let lane = domain.add_lane(of);
    (0..hctxs).for_each(|_| assert!(domain.add_hctx(lane, 256).is_some()));
    (domain, limits)
}

fn bio(tag: u16, write: bool) -> Bio {
    // Apart from one another, so that nothing merges.
    let range = SectorRange::new(Sector(u64::from(tag) * 64), 8, 1 << 20).expect("inside");
    let op = if write { Op::Write(range) } else { Op::Read(range) };
    Bio {
        tag: Tag(tag),
        op,
        fua: false,
        class: crate::block::Class::default(),
        segments: 1,
        alone: false,
    }
}

/// Ends everything in flight and gives the heads back; answers how many.
fn finish(domain: &mut Domain, taken: &mut Taken, now: Nanos) -> usize {
    for r in taken.0.drain(..) {
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, now).expect("live");
    }
    let mut n = 0;
    for h in 0..8 {
        while domain.has_done(HctxId(h)) {
            let (tag, status) = domain.take_done(HctxId(h)).expect("it has");
            assert_eq!(status, Status::Ok);
            domain.release(HctxId(h), tag);
            n += 1;
        }
    }
    n
}

/// A closed loop that always has 16 reads outstanding gets the rate, from the start and over ten
/// seconds, woken only when the domain asked for it.
#[test]
fn i22_a_backlogged_disk_gets_its_rate_and_no_more() {
    for rate in [100, 5_000, 100_000] {
        let (mut domain, _) = domain(1, &iops(rate, 0));
        let mut taken = Taken::default();
        let (mut now, mut served) = (Nanos(1), 0_u64);
        let mut free: Vec<u16> = (0..16).collect();
        while now.0 < 10 * SECOND {
            for tag in free.drain(..) {
                domain.submit(HctxId(0), bio(tag, false), now).expect("free");
            }
            domain.run(now, &mut taken);
            free.extend(taken.0.iter().map(|r| r.tag.0));
            served += finish(&mut domain, &mut taken, now) as u64;
            assert!(served <= rate / 10 + now.0 * rate / SECOND + 1, "I22: {served} at {now:?}");
            if free.is_empty() {
                let wake = domain.next_wake().expect("somebody waits");
                assert!(wake > now, "{wake:?} is not after {now:?}");
                now = wake;
            }
            domain.check_books();
        }
        assert!(served >= rate * 10 * 99 / 100, "I22: {served} of {}", rate * 10);
    }
}

#[test]
fn a_read_does_not_wait_for_a_limit_on_writes() {
    let (mut domain, _) = domain(1, &iops(0, 10));
    let mut taken = Taken::default();
    for tag in 0..20 {
        domain.submit(HctxId(0), bio(tag, tag % 2 == 0), Nanos(1)).expect("free");
    }
    domain.run(Nanos(1), &mut taken);
    let reads = taken.0.iter().filter(|r| matches!(r.op, Op::Read(_))).count();
    let writes = taken.0.len() - reads;
    assert_eq!(reads, 10);
    assert!((1..=2).contains(&writes), "a bucket of one operation, and one on top: {writes}");
    assert_eq!(usize::from(domain.gauges(HctxId(0)).throttled), 10 - writes);
    assert!(!domain.wants_run(Nanos(1)), "nothing to do until the next may go");
}

/// The first in, the first out, on each hctx and direction.
#[test]
fn i22_what_waits_goes_in_order() {
    let (mut domain, _) = domain(2, &iops(1000, 0));
    let mut taken = Taken::default();
    for tag in 0..60 {
        for h in 0..2 {
            domain.submit(HctxId(h), bio(tag, false), Nanos(1)).expect("free");
        }
    }
    let mut now = Nanos(1);
    let mut order = Vec::new();
    while order.len() < 120 {
        domain.run(now, &mut taken);
        order.extend(taken.0.iter().map(|r| (r.hctx.0, r.tag.0)));
        finish(&mut domain, &mut taken, now);
        now = domain.next_wake().unwrap_or(now);
    }
    for h in 0..2 {
        let tags: Vec<u16> = order.iter().filter(|o| o.0 == h).map(|o| o.1).collect();
        assert_eq!(tags, (0..60).collect::<Vec<_>>(), "hctx {h}");
    }
}

/// A stop lets everything go at once although all of it waits for a limit, and what it cost is paid
/// by those who come later.
#[test]
fn i27_a_freeze_ends_although_everything_is_throttled() {
    let (mut domain, _) = domain(2, &iops(1, 1));
    let mut taken = Taken::default();
    for tag in 0..100 {
        domain.submit(HctxId(0), bio(tag, tag % 3 == 0), Nanos(1)).expect("free");
        domain.submit(HctxId(1), bio(tag, false), Nanos(1)).expect("free");
    }
    domain.run(Nanos(1), &mut taken);
    finish(&mut domain, &mut taken, Nanos(2));
    assert!(domain.gauges(HctxId(0)).throttled > 90);
    domain.release_parked(HctxId(0), Nanos(3));
    assert!(domain.wants_run(Nanos(3)));
    domain.run(Nanos(3), &mut taken);
    finish(&mut domain, &mut taken, Nanos(4));
    assert!(domain.is_idle(HctxId(0)), "I27: {:?}", domain.gauges(HctxId(0)));
    assert!(domain.gauges(HctxId(1)).throttled > 90, "the others go on waiting");
    let wake = domain.next_wake().expect("they wait");
    assert!(wake.0 > 50 * SECOND, "what was let go is a debt: {wake:?}");
    domain.check_books();
}

/// Raised limits let go at once what waited for the old ones.
#[test]
fn a_raised_limit_frees_who_waits() {
    let (mut domain, limits) = domain(1, &iops(1, 0));
    let mut taken = Taken::default();
    for tag in 0..50 {
        domain.submit(HctxId(0), bio(tag, false), Nanos(1)).expect("free");
    }
    domain.run(Nanos(1), &mut taken);
    finish(&mut domain, &mut taken, Nanos(2));
    limits.set(&LimitsConfig::default(), Nanos(10)).expect("consistent");
    domain.run(Nanos(11), &mut taken);
    finish(&mut domain, &mut taken, Nanos(12));
    assert!(domain.is_idle(HctxId(0)), "{:?}", domain.gauges(HctxId(0)));
}

/// Schedulers change and queues come to rest while bios wait; nothing is lost.
#[test]
fn i28_switches_leave_alone_what_waits_for_a_limit() {
    use crate::blkmq::sched::Kind;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let (mut domain, _) = domain(2, &iops(1 + rng.below(50_000), 1 + rng.below(50_000)));
        let mut taken = Taken::default();
        let (mut now, mut ended) = (Nanos(1), 0);
        for tag in 0..200 {
            for h in 0..2 {
                domain.submit(HctxId(h), bio(tag, rng.chance(300)), now).expect("free");
            }
            if rng.chance(100) {
                let kind = Kind::ALL[rng.index(Kind::ALL.len())];
                let next = kind.build(&[], 1, false).expect("defaults").remove(0);
                drop(domain.set_scheduler(next, now));
            }
            domain.run(now, &mut taken);
            ended += finish(&mut domain, &mut taken, now);
            now = Nanos(now.0 + rng.below(100_000));
            domain.check_books();
        }
        (0..2).for_each(|h| domain.release_parked(HctxId(h), now));
        while ended < 400 {
            let before = ended;
            domain.run(now, &mut taken);
            ended += finish(&mut domain, &mut taken, now);
            if ended == before {
                now = domain.next_wake().expect("somebody holds them back: seed {seed}");
            }
        }
        assert!(domain.is_idle(HctxId(0)) && domain.is_idle(HctxId(1)), "seed {seed}");
    }
}
