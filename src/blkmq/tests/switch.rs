//! Schedulers change under load (I28), and several disks share a domain (D7).

use std::sync::Arc;

use crate::blkmq::sched::{Kind, NoScheduler, Scheduler};
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{Bio, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Tag};
use crate::testkit::core_disk::Rng;
use crate::testkit::core_sim::{Config, World};

/// One instance for each of `threads` threads, sharing what the kind shares.
fn instances(kind: Kind, threads: u16) -> Vec<Box<dyn Scheduler>> {
    let mut made = kind.build(&[], threads, false).expect("defaults");
    while made.len() < usize::from(threads) {
        made.extend(kind.build(&[], 1, false).expect("defaults"));
    }
    made
}

fn switch(world: &mut World, rng: &mut Rng) {
    let kind = Kind::ALL[rng.index(Kind::ALL.len())];
    let threads = u16::try_from(world.threads.len()).expect("few");
    let now = Nanos(world.now);
    for (thread, next) in world.threads.iter_mut().zip(instances(kind, threads)) {
        let mut old = thread.domain.set_scheduler(next, now);
        assert!(!old.has_work(now), "what it held has moved");
        old.drain(&mut |id| panic!("{id:?} was left behind"));
        thread.domain.check_books();
    }
}

/// A thousand switches among all schedulers under random load: nothing is lost or done twice (the
/// world sees to it), and everything comes to rest.
#[test]
fn i28_a_thousand_switches_lose_nothing() {
    let mut switches = 0;
    for seed in (0..25).map(|n| Rng::new(n).next()) {
        let mut rng = Rng::new(seed ^ 0x51);
        let mut world = World::new(Config::random(seed));
        for _ in 0..40 {
            for _ in 0..rng.below(12) {
                world.step();
            }
            switch(&mut world, &mut rng);
            switches += 1;
        }
        world.drain();
        world.check_stats();
        assert_eq!(world.total(|g| g.ok + g.errors), world.total(|g| g.submitted), "seed {seed}");
    }
    assert_eq!(switches, 1000);
}

/// Takes what each disk has room for.
struct Rooms {
    room: Vec<usize>,
    taken: Vec<(u16, u16)>,
    of: Vec<usize>,
}

impl Issue for Rooms {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        let room = &mut self.room[self.of[request.hctx.index()]];
        *room = room.checked_sub(1).ok_or(Busy)?;
        self.taken.push((request.hctx.0, request.tag.0));
        Ok(())
    }
}

/// Two disks, a hctx each.
fn two_disks(scheduler: Box<dyn Scheduler>, hw_depth: u32) -> Domain {
    let mut domain = Domain::new(DomainConfig::alone(2, hw_depth), scheduler);
    for lane in 0..2 {
        let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
        let added = domain.add_lane(LaneConfig::new(gate, true));
        assert_eq!(added, LaneId(lane));
        assert_eq!(domain.add_hctx(added, 64), Some(HctxId(lane)));
    }
    domain
}

fn submit(domain: &mut Domain, hctx: u16, tags: std::ops::Range<u16>) {
    for tag in tags {
        let range = SectorRange::new(Sector(u64::from(tag) * 64), 8, 1 << 20).expect("inside");
        let bio = Bio::new(Tag(tag), Op::Read(range));
        domain.submit(HctxId(hctx), bio, Nanos(1)).expect("free");
    }
}

#[test]
fn a_disk_whose_image_refuses_holds_up_no_other() {
    for kind in Kind::ALL {
        let mut domain = two_disks(instances(kind, 1).remove(0), 0);
        let mut rooms = Rooms { room: vec![0, 64], taken: Vec::new(), of: vec![0, 1] };
        submit(&mut domain, 0, 0..20);
        submit(&mut domain, 1, 0..20);
        domain.run(Nanos(2), &mut rooms);
        let of = |rooms: &Rooms, hctx| rooms.taken.iter().filter(|t| t.0 == hctx).count();
        // bfq lets no disk have the whole device, so some go when others have ended.
        let mut ended = 0;
        while of(&rooms, 1) < 20 {
            assert!(ended < rooms.taken.len(), "{kind}: D7, {} went", of(&rooms, 1));
            end(&mut domain, rooms.taken[ended]);
            ended += 1;
            domain.run(Nanos(2), &mut rooms);
        }
        assert_eq!(of(&rooms, 0), 0, "{kind}: its image takes nothing");
        assert!(!domain.wants_run(Nanos(2)), "{kind}: the other's completions will try again");
        rooms.room[0] = 64;
        while of(&rooms, 0) < 20 {
            assert!(ended < rooms.taken.len(), "{kind}: D6");
            end(&mut domain, rooms.taken[ended]);
            ended += 1;
            domain.run(Nanos(3), &mut rooms);
        }
        domain.check_books();
    }
}

fn end(domain: &mut Domain, (hctx, tag): (u16, u16)) {
    let generation = domain.generation(HctxId(hctx), Tag(tag));
    domain.complete(HctxId(hctx), Tag(tag), generation, Outcome::Done, Nanos(3)).expect("live");
}

/// What is in flight at a switch is not the new scheduler's: it is not told of its end, and what
/// waits keeps its order of arrival.
#[test]
fn i28_what_waits_moves_in_order_and_what_flies_is_let_go() {
    let mut domain = two_disks(Box::new(NoScheduler::new()), 4);
    let mut rooms = Rooms { room: vec![64, 64], taken: Vec::new(), of: vec![0, 1] };
    submit(&mut domain, 0, 0..20);
    domain.run(Nanos(2), &mut rooms);
    assert_eq!(rooms.taken.len(), 4, "the budget");
    drop(domain.set_scheduler(Box::new(NoScheduler::new()), Nanos(3)));
    let _ = domain.purse.set_depth(0);
    domain.depth_changed();
    assert!(domain.wants_run(Nanos(3)), "what waits goes on without a kick");
    domain.run(Nanos(3), &mut rooms);
    let expected: Vec<(u16, u16)> = (0..20).map(|t| (0, t)).collect();
    assert_eq!(rooms.taken, expected);
    for tag in 0..20 {
        let generation = domain.generation(HctxId(0), Tag(tag));
        domain.complete(HctxId(0), Tag(tag), generation, Outcome::Done, Nanos(4)).expect("live");
    }
    domain.check_books();
}

#[test]
fn a_smaller_budget_drains_down() {
    let mut domain = two_disks(Box::new(NoScheduler::new()), 8);
    let mut rooms = Rooms { room: vec![64, 64], taken: Vec::new(), of: vec![0, 1] };
    submit(&mut domain, 0, 0..20);
    domain.run(Nanos(2), &mut rooms);
    let _ = domain.purse.set_depth(2);
    domain.depth_changed();
    for (done, tag) in (0..20).enumerate() {
        let generation = domain.generation(HctxId(0), Tag(tag));
        domain.complete(HctxId(0), Tag(tag), generation, Outcome::Done, Nanos(4)).expect("live");
        domain.run(Nanos(4), &mut rooms);
        let flying = rooms.taken.len() - done - 1;
        assert!(flying <= 7usize.saturating_sub(done).max(2), "{done}: {flying} in flight");
    }
    assert_eq!(rooms.taken.len(), 20);
}
