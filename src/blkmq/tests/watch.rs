use std::sync::Arc;

use super::*;
use crate::blkmq::sched::{Item, Scheduler};
use crate::blkmq::{
    Bios, Busy, DomainConfig, FlushGate, FlushPolicy, Ident, Issue, LaneConfig, Request,
};
use crate::block::{Bio, LaneId, Outcome, Sector, SectorRange, Status};
use crate::testkit::core_disk::{Faults, Rng};
use crate::testkit::core_sim::{Config, World};

const SECOND: u64 = 1_000_000_000;
const LIMIT: u64 = 30 * SECOND;

/// Takes what there is room for, and answers nothing by itself.
struct Room {
    taken: Vec<Request>,
    room: usize,
}

impl Issue for Room {
    fn issue(&mut self, request: &Request, _: Bios<'_>) -> Result<(), Busy> {
        if self.taken.len() == self.room {
            return Err(Busy);
        }
        self.taken.push(*request);
        Ok(())
    }
}

/// A scheduler that forgets: the bug that only a watchdog sees.
#[derive(Debug)]
struct Forgetful;

impl Scheduler for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }
    fn attach(&mut self, _: HctxId, _: LaneId, _: u16) {}
    fn detach(&mut self, _: HctxId) {}
    fn insert(&mut self, _: &Item, _: Nanos) {}
    fn next(&mut self, _: Nanos) -> Option<Ident> {
        None
    }
    fn requeue(&mut self, _: &Item) {}
    fn has_work(&self, _: Nanos) -> bool {
        false
    }
    fn done(&mut self, _: &Item, _: Nanos) {}
    fn drain(&mut self, _: &mut dyn FnMut(Ident)) {}
}

fn domain(scheduler: Box<dyn Scheduler>) -> Domain {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
    let mut domain = Domain::new(DomainConfig::alone(2, 0), scheduler);
    let lane = domain.add_lane(LaneConfig::new(Arc::new(gate), true));
    (0..2).for_each(|_| assert!(domain.add_hctx(lane, 8).is_some()));
    domain
}

fn none() -> Domain {
    domain(Box::new(crate::blkmq::sched::NoScheduler::new()))
}

fn submit(domain: &mut Domain, hctx: u16, tag: u16, op: Op, now: u64) {
    let bio = Bio { fua: op.is_write(), ..Bio::new(Tag(tag), op) };
    domain.submit(HctxId(hctx), bio, Nanos(now)).expect("a free head");
}

fn range() -> SectorRange {
    SectorRange::new(Sector(64), 8, 1 << 20).expect("inside")
}

fn look(domain: &mut Domain, now: u64) -> Vec<Overdue> {
    let mut found = Vec::new();
    domain.overdue(Nanos(now), LIMIT, &mut |bio| found.push(bio));
    found
}

#[test]
fn i32_a_stuck_bio_is_reported_once_and_left_alone() {
    let mut domain = none();
    let mut disk = Room { taken: Vec::new(), room: 8 };
    submit(&mut domain, 1, 5, Op::Write(range()), 7 * SECOND);
    domain.run(Nanos(8 * SECOND), &mut disk);
    assert_eq!(look(&mut domain, 37 * SECOND), [], "30 s are not more than 30 s");
    let before = domain.gauges(HctxId(1));
    let found = look(&mut domain, 38 * SECOND);
    let wanted = Overdue {
        hctx: HctxId(1),
        tag: Tag(5),
        generation: domain.generation(HctxId(1), Tag(5)),
        class: crate::block::Class::default(),
        op: Op::Write(range()),
        bios: 1,
        done: 0,
        fua: true,
        stage: Stage::InFlight,
        age: 31 * SECOND,
        since_issue: Some(30 * SECOND),
        again: 0,
        merged_into: None,
    };
    assert_eq!(found, [wanted]);
    (39..200).for_each(|s| assert_eq!(look(&mut domain, s * SECOND), [], "once"));
    assert_eq!(domain.gauges(HctxId(1)), before, "W3: nothing moved");
    assert!(!domain.has_done(HctxId(1)), "W3: nothing was completed");
    // The kernel's answer is taken as if nothing had been said, and the tag is watched anew.
    let r = disk.taken[0];
    let now = Nanos(200 * SECOND);
    assert_eq!(domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, now), Ok(()));
    assert_eq!(look(&mut domain, 300 * SECOND), [], "answered");
    assert_eq!(domain.take_done(HctxId(1)), Some((Tag(5), Status::Ok)));
    domain.release(HctxId(1), Tag(5));
    submit(&mut domain, 1, 5, Op::Read(range()), 300 * SECOND);
    assert_eq!(look(&mut domain, 331 * SECOND).len(), 1, "W2: another claim of the tag");
}

#[test]
fn every_stage_is_watched() {
    let mut domain = none();
    let mut disk = Room { taken: Vec::new(), room: 2 };
    submit(&mut domain, 0, 0, Op::Read(range()), 0);
    submit(&mut domain, 0, 1, Op::Read(range()), 0);
    submit(&mut domain, 1, 2, Op::Flush, 0); // the sync takes the first place
    domain.run(Nanos(1), &mut disk);
    submit(&mut domain, 1, 3, Op::Flush, 2);
    submit(&mut domain, 1, 4, Op::Discard(range()), 2);
    let stages: Vec<(u16, Stage)> =
        look(&mut domain, 40 * SECOND).iter().map(|o| (o.tag.0, o.stage)).collect();
    let wanted = [
        (0, Stage::InFlight),
        (1, Stage::Leftover),
        (2, Stage::Syncing),
        (3, Stage::FlushWait),
        (4, Stage::Plugged),
    ];
    assert_eq!(stages, wanted);
}

#[test]
fn a_scheduler_that_forgets_is_found_out() {
    let mut domain = domain(Box::new(Forgetful));
    let mut disk = Room { taken: Vec::new(), room: 8 };
    submit(&mut domain, 0, 3, Op::Read(range()), SECOND);
    domain.run(Nanos(SECOND), &mut disk);
    let found = look(&mut domain, 40 * SECOND);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].stage, found[0].since_issue), (Stage::Staged, None));
}

#[test]
fn the_report_says_how_far_it_got() {
    let mut domain = none();
    let mut disk = Room { taken: Vec::new(), room: 8 };
    submit(&mut domain, 0, 1, Op::Read(range()), 0);
    for outcome in [Outcome::Short(1000), Outcome::Again, Outcome::Again] {
        domain.run(Nanos(SECOND), &mut disk);
        let r = disk.taken.pop().expect("issued");
        domain.complete(r.hctx, r.tag, r.generation, outcome, Nanos(SECOND)).expect("live");
    }
    domain.run(Nanos(5 * SECOND), &mut disk);
    let found = look(&mut domain, 41 * SECOND);
    assert_eq!((found[0].done, found[0].again), (1000, 2));
    let text = "hctx 0, tag 1 (generation 1): read of 8 sectors at 64, 1000 bytes done, \
                InFlight after 41 s, issued 36 s ago, to be done again 2 times";
    assert_eq!(found[0].to_string(), text);
    assert_eq!(domain.stats(HctxId(0)).reads.sectors, 1, "what moved counts at once");
}

#[test]
fn an_idle_domain_wants_no_look() {
    let mut domain = none();
    let mut disk = Room { taken: Vec::new(), room: 8 };
    assert_eq!(domain.next_watch(), None);
    submit(&mut domain, 0, 1, Op::Read(range()), 10 * SECOND);
    assert_eq!(domain.next_watch(), Some(Nanos(11 * SECOND)));
    submit(&mut domain, 0, 2, Op::Read(range()), 10 * SECOND + 5);
    domain.run(Nanos(10 * SECOND), &mut disk);
    assert_eq!(domain.next_watch(), Some(Nanos(11 * SECOND)), "more work is no delay");
    assert_eq!(look(&mut domain, 11 * SECOND), []);
    assert_eq!(domain.next_watch(), Some(Nanos(12 * SECOND)));
    for r in std::mem::take(&mut disk.taken) {
        let now = Nanos(12 * SECOND);
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, now).expect("live");
        assert!(domain.next_watch().is_some(), "somebody has to take the answer");
        let (tag, _) = domain.take_done(HctxId(0)).expect("done");
        domain.release(HctxId(0), tag);
    }
    assert_eq!(domain.next_watch(), None, "W4: nothing to do, no wake-up");
    domain.reject(HctxId(0), Tag(0), Status::Unsupp).expect("a free head");
    assert_eq!(look(&mut domain, 90 * SECOND), [], "an answered head is not overdue");
    assert!(domain.take_done(HctxId(0)).is_some());
    assert_eq!(domain.next_watch(), None);
}

#[test]
fn who_has_become_part_of_a_request_says_of_which() {
    let mut domain = none();
    let mut disk = Room { taken: Vec::new(), room: 8 };
    let at = |n: u64| SectorRange::new(Sector(n * 8), 8, 1 << 20).expect("inside");
    let show = |domain: &Domain| {
        let mut all = Vec::new();
        let mut show = |o: Overdue| all.push((o.tag.0, o.stage, o.merged_into.map(|t| t.0)));
        domain.in_progress(HctxId(0), Nanos(3), &mut show);
        all
    };
    for (tag, place) in [(6, 1), (2, 0), (4, 2), (1, 9)] {
        submit(&mut domain, 0, tag, Op::Read(at(place)), 1);
    }
    domain.run(Nanos(2), &mut disk);
    let wanted = [
        (1, Stage::InFlight, None),
        (6, Stage::InFlight, None),
        (2, Stage::Merged, Some(6)),
        (4, Stage::Merged, Some(6)),
    ];
    assert_eq!(show(&domain), wanted, "in the order of the tags, parts behind the whole");
    for r in std::mem::take(&mut disk.taken) {
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, Nanos(3)).expect("live");
    }
    let done = |tag| (tag, Stage::Done, None);
    assert_eq!(show(&domain), [1, 2, 4, 6].map(done), "each has an answer of its own");
}

/// In random worlds with a bad disk: every bio that the books know is shown, once, and each part
/// behind its leader.
#[test]
fn an_inspection_shows_every_bio_once() {
    let (mut shown, mut parts) = (0, 0);
    for seed in 0..40 {
        let faults = Faults { error: 20, short: 200, again: 100, busy: 300, at: None };
        let config = Config { faults, sequential: 900, depth: 48, ..Config::new(seed) };
        let mut world = World::new(config);
        for _ in 0..150 {
            world.step();
            let now = Nanos(world.now);
            for thread in &world.threads {
                for guest in &thread.guests {
                    let mut seen = std::collections::BTreeSet::new();
                    let mut leader = None;
                    thread.domain.in_progress(guest.hctx, now, &mut |o: Overdue| {
                        assert!(seen.insert(o.tag), "seed {seed}: twice: {o}");
                        match o.merged_into {
                            None => leader = Some(o.tag),
                            Some(into) => assert_eq!(leader, Some(into), "seed {seed}: {o}"),
                        }
                        assert_eq!(o.merged_into.is_some(), o.stage == Stage::Merged);
                        parts += u32::from(o.merged_into.is_some());
                    });
                    let gauges = thread.domain.gauges(guest.hctx);
                    assert_eq!(seen.len(), usize::from(48 - gauges.free), "seed {seed}");
                    shown += seen.len();
                }
            }
        }
    }
    assert!(shown > 10_000 && parts > 1_000, "{shown} bios, {parts} of them parts");
}

/// In random worlds with a bad disk: watching at random moments changes nothing, every report is
/// of a bio that has no answer, and none comes twice.
#[test]
fn i32_watching_changes_no_world() {
    let mut reports = 0;
    for seed in 0..60 {
        let faults = Faults { error: 20, short: 200, again: 200, busy: 300, at: None };
        let config = Config { faults, threads: 2, ..Config::new(seed) };
        let plain = World::play(config, 200);
        let mut world = World::new(config);
        let mut rng = Rng::new(seed);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            world.step();
            let now = Nanos(world.now);
            for (t, thread) in world.threads.iter_mut().enumerate() {
                if rng.chance(500) {
                    let before: Vec<_> =
                        thread.guests.iter().map(|g| thread.domain.gauges(g.hctx)).collect();
                    thread.domain.overdue(now, 150, &mut |o: Overdue| {
                        assert!(o.age > 150, "seed {seed}: {o}");
                        let claim = (t, o.hctx, o.tag, o.generation);
                        assert!(seen.insert(claim), "seed {seed}: twice: {o}");
                    });
                    let after: Vec<_> =
                        thread.guests.iter().map(|g| thread.domain.gauges(g.hctx)).collect();
                    assert_eq!(before, after, "seed {seed}");
                }
            }
        }
        world.drain();
        world.check_stats();
        let books = |w: &World| w.total(|g| g.ok * 1000 + g.errors);
        assert_eq!((books(&plain), plain.now), (books(&world), world.now), "seed {seed}");
        reports += seen.len();
        assert!(world.threads.iter().all(|t| t.domain.next_watch().is_none()), "seed {seed}");
    }
    assert!(reports > 100, "something was slow: {reports}");
}
