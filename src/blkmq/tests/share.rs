//! Disks of a domain share its credits fairly under the schedulers that weigh nobody (I35).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::blkmq::sched::{Item, Kind, Scheduler};
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Ident, Issue, LaneConfig, Request,
};
use crate::block::{Bio, Class, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Tag};
use crate::testkit::rng::Rng;

const ALIKE: [Kind; 2] = [Kind::None, Kind::Kyber];
const TAGS: u16 = 64;

fn scheduler(kind: Kind) -> Box<dyn Scheduler> {
    kind.build(&[], 1, false).expect("defaults").remove(0)
}

/// Who is in flight, in the order of issue.
#[derive(Default)]
struct Device(VecDeque<(u16, u16)>);

impl Issue for Device {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        self.0.push_back((request.hctx.0, request.tag.0));
        Ok(())
    }
}

/// Disks with a hctx each, whose guests send reads as long as they have heads.
struct Pool {
    domain: Domain,
    device: Device,
    now: u64,
}

impl Pool {
    fn new(kind: Kind, disks: u16, hw_depth: u32) -> Pool {
        let mut domain = Domain::new(DomainConfig::alone(disks, hw_depth), scheduler(kind));
        for disk in 0..disks {
            let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
            let lane = domain.add_lane(LaneConfig::new(gate, true));
            assert_eq!(domain.add_hctx(lane, TAGS), Some(HctxId(disk)));
        }
        Pool { domain, device: Device::default(), now: 1 }
    }

    fn send(&mut self, disk: u16, count: u16) {
        let free = |tag: &u16| self.domain.is_free(HctxId(disk), Tag(*tag));
        let tags: Vec<u16> = (0..TAGS).filter(free).take(usize::from(count)).collect();
        for tag in tags {
            let start = Sector(u64::from(tag) * 64);
            let op = Op::Read(SectorRange::new(start, 8, 1 << 20).expect("inside"));
            let bio = Bio::new(Tag(tag), op);
            self.domain.submit(HctxId(disk), bio, Nanos(self.now)).expect("free");
        }
    }

    fn run(&mut self) {
        self.domain.run(Nanos(self.now), &mut self.device);
        self.domain.check_books();
    }

    /// The oldest one ends, and its head is free again. Whose it was.
    fn end_one(&mut self) -> Option<u16> {
        let (hctx, tag) = self.device.0.pop_front()?;
        let (id, head) = (HctxId(hctx), Tag(tag));
        let generation = self.domain.generation(id, head);
        let now = Nanos(self.now);
        self.domain.complete(id, head, generation, Outcome::Done, now).expect("in flight");
        while let Some((tag, _)) = self.domain.take_done(id) {
            self.domain.release(id, tag);
        }
        Some(hctx)
    }

    fn in_flight(&self, disk: u16) -> usize {
        self.device.0.iter().filter(|of| of.0 == disk).count()
    }
}

#[test]
fn i35_a_flood_leaves_the_neighbour_its_half() {
    for kind in ALIKE {
        let mut pool = Pool::new(kind, 2, 16);
        pool.send(0, TAGS);
        pool.run();
        assert_eq!(pool.in_flight(0), 16, "{kind}: alone it may have all");
        pool.send(1, TAGS);
        for _ in 0..200 {
            pool.run();
            pool.end_one();
            pool.send(0, TAGS);
            pool.send(1, TAGS);
            pool.now += 1000;
        }
        pool.run();
        assert_eq!((pool.in_flight(0), pool.in_flight(1)), (8, 8), "{kind}");
    }
}

#[test]
fn i35_who_wants_little_is_never_refused() {
    for kind in ALIKE {
        let mut pool = Pool::new(kind, 3, 32);
        pool.send(0, TAGS);
        pool.send(1, TAGS);
        pool.send(2, 1);
        for _ in 0..200 {
            pool.run();
            assert_eq!(pool.in_flight(2), 1, "{kind}: it goes in the run after it was sent");
            while pool.end_one() != Some(2) {
                pool.now += 1000;
                pool.run();
            }
            pool.send(0, TAGS);
            pool.send(1, TAGS);
            pool.send(2, 1);
            // A place has to be free for it: shares are of credits, and nobody gives one up.
            pool.end_one();
        }
    }
}

#[test]
fn i35_an_idle_neighbour_frees_its_share_in_time() {
    for kind in ALIKE {
        let mut pool = Pool::new(kind, 2, 16);
        pool.send(1, 1);
        pool.send(0, TAGS);
        pool.run();
        assert_eq!((pool.in_flight(0), pool.in_flight(1)), (8, 1), "{kind}");
        let at = pool.device.0.iter().position(|of| of.0 == 1).expect("it is in flight");
        pool.device.0.rotate_left(at);
        assert_eq!(pool.end_one(), Some(1));
        pool.run();
        assert_eq!(pool.in_flight(0), 8, "{kind}: it may come again");
        assert!(
            !pool.domain.wants_run(Nanos(pool.now)),
            "{kind}: there is nothing to do until then"
        );
        let wake = pool.domain.next_wake().expect("somebody is held back");
        assert!(wake.since(Nanos(pool.now)) <= 1_000_000_000, "{kind}: H2");
        pool.now = wake.0;
        assert!(pool.domain.wants_run(wake), "{kind}");
        pool.run();
        assert_eq!(pool.in_flight(0), 16, "{kind}");
    }
}

#[test]
fn shares_end_with_the_bound_and_with_a_scheduler_that_weighs() {
    for kind in ALIKE {
        for next in [Kind::MqDeadline, Kind::None, Kind::Kyber] {
            let mut pool = Pool::new(kind, 2, 16);
            pool.send(0, TAGS);
            pool.send(1, 4);
            pool.run();
            assert_eq!((pool.in_flight(0), pool.in_flight(1)), (8, 4), "{kind}");
            drop(pool.domain.set_scheduler(scheduler(next), Nanos(pool.now)));
            pool.run();
            let all = if next == Kind::MqDeadline { 12 } else { 8 };
            assert_eq!(pool.in_flight(0), all, "{kind} to {next}");
            let _ = pool.domain.purse.set_depth(0);
            pool.domain.depth_changed();
            pool.run();
            assert_eq!(pool.in_flight(0), 64, "{kind} to {next}");
            while pool.end_one().is_some() {}
            assert!(pool.domain.is_idle(HctxId(0)) && pool.domain.is_idle(HctxId(1)));
        }
    }
}

/// C6, in a seeded order: a disk that is held back does not come, the others come as ever, nothing
/// is lost, and each hctx keeps its order.
#[test]
fn c6_who_is_held_back_waits_in_order() {
    for kind in ALIKE {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut scheduler = scheduler(kind);
            assert!(scheduler.can_hold());
            for hctx in 0..6 {
                scheduler.attach(HctxId(hctx), LaneId(hctx % 3), TAGS);
            }
            let mut held = [false; 3];
            let mut waiting = vec![VecDeque::new(); 6];
            let mut sent = [0; 6];
            for _ in 0..600 {
                let hctx = u16::try_from(rng.below(6)).expect("few");
                let of = usize::from(hctx);
                match rng.below(8) {
                    0 => {
                        held[of % 3] ^= true;
                        scheduler.hold(LaneId(hctx % 3), held[of % 3]);
                    }
                    1..=4 if sent[of] < TAGS => {
                        let item = read(hctx, sent[of]);
                        scheduler.insert(&item, Nanos(1));
                        waiting[of].push_back(sent[of]);
                        sent[of] += 1;
                    }
                    _ => {
                        let due = |(of, w): (usize, &VecDeque<u16>)| !held[of % 3] && !w.is_empty();
                        let any = waiting.iter().enumerate().any(due);
                        assert_eq!(scheduler.has_work(Nanos(1)), any, "{kind} seed {seed}");
                        let next = scheduler.next(Nanos(1));
                        assert_eq!(next.is_some(), any, "C2: {kind} seed {seed}");
                        if let Some(id) = next {
                            assert!(!held[id.hctx.index() % 3], "C6: {kind} seed {seed}");
                            let first = waiting[id.hctx.index()].pop_front();
                            assert_eq!(first, Some(id.tag.0), "I08: {kind} seed {seed}");
                            scheduler.done(&read(id.hctx.0, id.tag.0), Nanos(2));
                        }
                    }
                }
            }
            let mut left = vec![VecDeque::new(); 6];
            scheduler.drain(&mut |id| left[id.hctx.index()].push_back(id.tag.0));
            assert_eq!(left, waiting, "C1: {kind} seed {seed}");
            assert!(!scheduler.has_work(Nanos(1)));
        }
    }
}

fn read(hctx: u16, tag: u16) -> Item {
    let range = SectorRange::new(Sector(u64::from(tag) * 64), 8, 1 << 20).expect("inside");
    Item {
        id: Ident { hctx: HctxId(hctx), tag: Tag(tag) },
        lane: LaneId(hctx % 3),
        op: Op::Read(range),
        class: Class::default(),
        arrival: Nanos(1),
        issued: Nanos(1),
    }
}
