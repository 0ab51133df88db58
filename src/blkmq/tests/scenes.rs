//! Small scenes, each with a disk that takes exactly as much as the scene needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::blkmq::sched::{Item, NoScheduler, Scheduler};
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Ident, Issue, LaneConfig,
    MergeSearch, Request,
};
use crate::block::{Bio, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Status, Tag};

/// Takes `room` requests and refuses from then on.
#[derive(Default)]
struct Room {
    room: usize,
    taken: Vec<Request>,
    refused: usize,
}

impl Issue for Room {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        if self.room == 0 {
            self.refused += 1;
            return Err(Busy);
        }
        self.room -= 1;
        self.taken.push(*request);
        Ok(())
    }
}

fn domain_with(scheduler: Box<dyn Scheduler>, hctxs: u16, hw_depth: u32) -> Domain {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
    let config = DomainConfig::alone(hctxs, hw_depth);
    let mut domain = Domain::new(config, scheduler);
    let lane = domain.add_lane(LaneConfig::new(Arc::new(gate), true));
    // What is issued is what was submitted: bio for bio.
    domain.set_nomerges(lane, MergeSearch::Off);
    for n in 0..hctxs {
        assert_eq!(domain.add_hctx(lane, 256), Some(HctxId(n)));
    }
    domain
}

fn domain(hctxs: u16) -> Domain {
    domain_with(Box::new(NoScheduler::new()), hctxs, 0)
}

fn write(tag: u16) -> Bio {
    let range = SectorRange::new(Sector(u64::from(tag) * 8), 8, 1 << 20).expect("inside");
    Bio::new(Tag(tag), Op::Write(range))
}

fn submit(domain: &mut Domain, hctx: u16, tags: std::ops::Range<u16>) {
    for tag in tags {
        domain.submit(HctxId(hctx), write(tag), Nanos(1)).expect("a free head");
    }
}

fn done(domain: &mut Domain, r: &Request) {
    domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, Nanos(2)).expect("live");
}

fn tags(requests: &[Request]) -> Vec<(u16, u16)> {
    requests.iter().map(|r| (r.hctx.0, r.tag.0)).collect()
}

#[test]
fn i08_order_holds_across_direct_staged_and_left_over() {
    let mut domain = domain(1);
    submit(&mut domain, 0, 0..100); // more than the batch: the first part is staged
    let mut disk = Room { room: 40, ..Room::default() };
    assert_eq!(domain.run(Nanos(1), &mut disk), 40);
    submit(&mut domain, 0, 100..110);
    disk.room = 200;
    assert_eq!(domain.run(Nanos(1), &mut disk), 70);
    assert_eq!(tags(&disk.taken), (0..110).map(|t| (0, t)).collect::<Vec<_>>());
}

#[test]
fn what_was_begun_goes_before_what_was_refused() {
    let mut domain = domain(1);
    let mut disk = Room { room: 1, ..Room::default() };
    submit(&mut domain, 0, 0..2);
    domain.run(Nanos(1), &mut disk);
    let first = disk.taken[0];
    let short = Outcome::Short(512);
    domain.complete(first.hctx, first.tag, first.generation, short, Nanos(2)).expect("live");
    disk.room = 2;
    domain.run(Nanos(2), &mut disk);
    assert_eq!(tags(&disk.taken), [(0, 0), (0, 0), (0, 1)]);
}

/// A scheduler that counts how often it is asked.
#[derive(Debug)]
struct Asked {
    inner: NoScheduler,
    next: Arc<AtomicU64>,
    ended: Arc<Mutex<Vec<Ident>>>,
}

impl Scheduler for Asked {
    fn name(&self) -> &'static str {
        "asked"
    }
    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        self.inner.attach(hctx, lane, depth);
    }
    fn detach(&mut self, hctx: HctxId) {
        self.inner.detach(hctx);
    }
    fn insert(&mut self, item: &Item, now: Nanos) {
        self.inner.insert(item, now);
    }
    fn next(&mut self, now: Nanos) -> Option<Ident> {
        self.next.fetch_add(1, Ordering::Relaxed);
        self.inner.next(now)
    }
    fn requeue(&mut self, item: &Item) {
        self.inner.requeue(item);
    }
    fn has_work(&self, now: Nanos) -> bool {
        self.inner.has_work(now)
    }
    fn done(&mut self, item: &Item, _now: Nanos) {
        self.ended.lock().expect("no panic").push(item.id);
    }
    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        self.inner.drain(out);
    }
}

fn asked() -> (Box<Asked>, Arc<AtomicU64>, Arc<Mutex<Vec<Ident>>>) {
    let (next, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let scheduler =
        Asked { inner: NoScheduler::new(), next: Arc::clone(&next), ended: Arc::clone(&ended) };
    (Box::new(scheduler), next, ended)
}

#[test]
fn i09_the_scheduler_is_not_asked_while_something_is_left_over() {
    let (scheduler, next, _) = asked();
    let mut domain = domain_with(scheduler, 2, 0);
    let mut disk = Room { room: 1, ..Room::default() };
    submit(&mut domain, 0, 0..4);
    domain.run(Nanos(1), &mut disk);
    assert_eq!(next.load(Ordering::Relaxed), 2, "one went, one was refused");
    assert_eq!((domain.gauges(HctxId(0)).leftover, domain.gauges(HctxId(0)).staged), (1, 2));
    submit(&mut domain, 1, 0..4);
    domain.run(Nanos(1), &mut disk);
    assert_eq!(next.load(Ordering::Relaxed), 2, "not asked");
    assert_eq!(disk.refused, 2, "only the leftover was tried");
    disk.room = 1;
    domain.run(Nanos(1), &mut disk);
    assert_eq!(tags(&disk.taken), [(0, 0), (0, 1)], "the leftover went first");
    assert_eq!(next.load(Ordering::Relaxed), 3);
}

#[test]
fn a_scheduler_hears_of_each_end_once() {
    let (scheduler, _, ended) = asked();
    let mut domain = domain_with(scheduler, 1, 0);
    let mut disk = Room { room: 100, ..Room::default() };
    submit(&mut domain, 0, 0..3);
    domain.run(Nanos(1), &mut disk);
    let first = disk.taken[0];
    for outcome in [Outcome::Short(512), Outcome::Again, Outcome::Done] {
        domain.complete(first.hctx, first.tag, first.generation, outcome, Nanos(2)).expect("live");
        domain.run(Nanos(2), &mut disk);
    }
    let id = Ident { hctx: HctxId(0), tag: Tag(0) };
    assert_eq!(*ended.lock().expect("no panic"), [id], "not for a part, not for a retry");
}

#[test]
fn i10_blocked_until_a_completion_or_nothing_is_in_flight() {
    let mut domain = domain(1);
    let mut disk = Room { room: 2, ..Room::default() };
    submit(&mut domain, 0, 0..5);
    assert!(domain.wants_run(Nanos(9)), "a batch waits");
    domain.run(Nanos(1), &mut disk);
    assert!(!domain.wants_run(Nanos(9)), "refused, and two completions will come");
    let (a, b) = (disk.taken[0], disk.taken[1]);
    done(&mut domain, &a);
    assert!(domain.wants_run(Nanos(9)), "a completion made room");
    domain.run(Nanos(2), &mut disk);
    assert!(!domain.wants_run(Nanos(9)));
    done(&mut domain, &b);
    domain.run(Nanos(2), &mut disk);
    assert!(domain.wants_run(Nanos(9)), "refused with nothing in flight: nobody else will wake us");
    disk.room = 3;
    domain.run(Nanos(2), &mut disk);
    assert_eq!(disk.taken.len(), 5);
    assert!(!domain.wants_run(Nanos(9)));
}

#[test]
fn i10_a_returned_credit_is_work() {
    let mut domain = domain_with(Box::new(NoScheduler::new()), 1, 2);
    let mut disk = Room { room: 100, ..Room::default() };
    submit(&mut domain, 0, 0..3);
    assert_eq!(domain.run(Nanos(1), &mut disk), 2);
    assert!(!domain.wants_run(Nanos(9)), "no credit");
    let first = disk.taken[0];
    done(&mut domain, &first);
    assert!(domain.wants_run(Nanos(9)));
    assert_eq!(domain.run(Nanos(1), &mut disk), 1);
}

#[test]
fn i14_queues_take_turns_under_pressure() {
    const N: u16 = 5;
    let mut domain = domain(N);
    let mut disk = Room::default();
    for hctx in 0..N {
        submit(&mut domain, hctx, 0..60);
    }
    domain.run(Nanos(1), &mut disk);
    let mut reaped = 0;
    while disk.taken.len() < usize::from(N) * 60 {
        disk.room = 1;
        domain.run(Nanos(1), &mut disk);
        if let Some(r) = disk.taken.get(reaped).copied() {
            done(&mut domain, &r);
            reaped += 1;
        }
    }
    // The first request was on its way when pressure began; turns are taken from then on.
    let order: Vec<u16> = disk.taken.iter().skip(1).map(|r| r.hctx.0).collect();
    let mut last = [0usize; N as usize];
    for (i, hctx) in order.iter().enumerate() {
        let of = usize::from(*hctx);
        let gap = i - last[of];
        assert!(gap <= usize::from(N), "hctx {hctx} waited for {gap} others at {i}");
        last[of] = i;
    }
}

#[test]
fn a_leftover_of_one_queue_does_not_hold_up_anothers() {
    /// Refuses one hctx only, as a spent bounce pool would.
    struct Partial(u16, Vec<Request>);
    impl Issue for Partial {
        fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
            if request.hctx.0 == self.0 {
                return Err(Busy);
            }
            self.1.push(*request);
            Ok(())
        }
    }
    let mut domain = domain(4);
    let mut none = Room::default();
    for hctx in 0..3 {
        submit(&mut domain, hctx, 0..1);
        domain.run(Nanos(1), &mut none);
    }
    // The first is left over, the others are staged behind it. Let all three be left over.
    let mut one = Room { room: 3, ..Room::default() };
    domain.run(Nanos(1), &mut one);
    for r in &one.taken {
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Again, Nanos(1)).expect("live");
    }
    let mut partial = Partial(0, Vec::new());
    domain.run(Nanos(1), &mut partial);
    assert_eq!(tags(&partial.1), [(1, 0), (2, 0)]);
    assert_eq!(domain.gauges(HctxId(0)).leftover, 1);
    // What is new waits, of any hctx and even for direct issue: I09 holds for the domain.
    submit(&mut domain, 3, 0..1);
    domain.run(Nanos(1), &mut partial);
    assert_eq!((partial.1.len(), domain.gauges(HctxId(3)).staged), (2, 1));
}

#[test]
fn again_without_progress_ends_as_an_error() {
    let mut domain = domain(1);
    let mut disk = Room { room: 1000, ..Room::default() };
    submit(&mut domain, 0, 0..1);
    domain.run(Nanos(1), &mut disk);
    let r = disk.taken[0];
    let again = |domain: &mut Domain, disk: &mut Room, outcome| {
        domain.complete(r.hctx, r.tag, r.generation, outcome, Nanos(2)).expect("live");
        domain.run(Nanos(2), disk);
    };
    (0..100).for_each(|_| again(&mut domain, &mut disk, Outcome::Again));
    again(&mut domain, &mut disk, Outcome::Short(512)); // progress: counted anew
    (0..100).for_each(|_| again(&mut domain, &mut disk, Outcome::Again));
    assert!(!domain.has_done(HctxId(0)));
    again(&mut domain, &mut disk, Outcome::Again);
    assert_eq!(domain.take_done(HctxId(0)), Some((Tag(0), Status::IoErr)));
    assert_eq!(domain.stats(HctxId(0)).requeues, 201);
}

#[test]
fn a_sync_that_never_starts_fails_and_latches() {
    let mut domain = domain(1);
    let mut disk = Room { room: 1000, ..Room::default() };
    let flush = Bio::new(Tag(0), Op::Flush);
    domain.submit(HctxId(0), flush, Nanos(1)).expect("a free head");
    for _ in 0..=100 {
        assert!(domain.wants_run(Nanos(9)));
        assert_eq!(domain.run(Nanos(1), &mut disk), 1);
        let r = *disk.taken.last().expect("the sync");
        assert_eq!((r.op, r.fua), (Op::Flush, false));
        domain.complete(r.hctx, r.tag, r.generation, Outcome::Again, Nanos(2)).expect("live");
    }
    assert_eq!(domain.take_done(HctxId(0)), Some((Tag(0), Status::IoErr)));
    assert_eq!(disk.taken.len(), 101);
}

#[test]
fn a_bio_of_several_ranges_is_issued_range_by_range() {
    let mut domain = domain(1);
    let mut disk = Room { room: 10, ..Room::default() };
    let range = |s| SectorRange::new(Sector(s), 4, 1 << 20).expect("inside");
    let op = Op::WriteZeroes { range: range(0), unmap: true };
    let bio = Bio::new(Tag(3), op);
    domain.submit(HctxId(0), bio, Nanos(1)).expect("a free head");
    domain.run(Nanos(1), &mut disk);
    let r = disk.taken[0];
    assert_eq!(domain.rest(r.hctx, r.tag, r.generation, range(100), Nanos(9)), Ok(()));
    assert_eq!(
        domain.rest(r.hctx, r.tag, r.generation, range(200), Nanos(9)),
        Err(crate::blkmq::Stale)
    );
    domain.run(Nanos(1), &mut disk);
    assert_eq!(disk.taken[1].op, Op::WriteZeroes { range: range(100), unmap: true });
    done(&mut domain, &r);
    assert_eq!(domain.stats(HctxId(0)).writes.sectors, 8);
    assert_eq!(domain.take_done(HctxId(0)), Some((Tag(3), Status::Ok)));
}

#[test]
fn write_through_asks_for_durable_writes_only() {
    let mut domain = domain(1);
    let mut disk = Room { room: 10, ..Room::default() };
    let range = SectorRange::new(Sector(0), 4, 1 << 20).expect("inside");
    let ops = [Op::Read(range), Op::Write(range), Op::Discard(range)];
    for (tag, op) in (0..).zip(ops) {
        let bio = Bio { fua: true, ..Bio::new(Tag(tag), op) };
        domain.submit(HctxId(0), bio, Nanos(1)).expect("a free head");
    }
    domain.run(Nanos(1), &mut disk);
    assert_eq!(disk.taken.iter().map(|r| r.fua).collect::<Vec<_>>(), [false, true, false]);
    for r in disk.taken.clone() {
        done(&mut domain, &r);
    }
    let gauges = domain.gauges(HctxId(0));
    assert_eq!((gauges.done, gauges.flush_wait), (2, 1), "the discard waits for its flush");
}

#[test]
fn a_table_gives_ids_back() {
    let mut domain = domain(2);
    assert_eq!(domain.add_hctx(LaneId(0), 8), None, "the table is full");
    submit(&mut domain, 1, 0..1);
    assert_eq!(domain.remove_hctx(HctxId(1)), None, "not idle");
    let mut disk = Room { room: 10, ..Room::default() };
    domain.run(Nanos(1), &mut disk);
    let r = disk.taken[0];
    done(&mut domain, &r);
    assert_eq!(domain.take_done(HctxId(1)), Some((Tag(0), Status::Ok)));
    assert_eq!(domain.remove_hctx(HctxId(1)), None, "not released");
    domain.release(HctxId(1), Tag(0));
    let stats = domain.remove_hctx(HctxId(1)).expect("idle");
    assert_eq!((stats.writes.ios, stats.writes.sectors), (1, 8));
    assert_eq!(domain.remove_hctx(HctxId(1)), None, "gone");
    assert!(domain.is_idle(HctxId(1)));
    assert_eq!(domain.add_hctx(LaneId(0), 4), Some(HctxId(1)));
    assert_eq!(domain.gauges(HctxId(1)).free, 4);
}

#[test]
fn rejected_heads_pass_through_in_order_of_their_answers() {
    let mut domain = domain(1);
    let h = HctxId(0);
    assert_eq!(domain.reject(h, Tag(5), Status::Unsupp), Ok(()));
    assert_eq!(domain.reject(h, Tag(4), Status::IoErr), Ok(()));
    assert!(domain.reject(h, Tag(5), Status::Ok).is_err());
    assert!(domain.has_done(h) && !domain.is_idle(h) && !domain.wants_run(Nanos(9)));
    assert_eq!(domain.take_done(h), Some((Tag(5), Status::Unsupp)));
    assert_eq!(domain.take_done(h), Some((Tag(4), Status::IoErr)));
    assert_eq!(domain.take_done(h), None);
    domain.release(h, Tag(5));
    domain.release(h, Tag(4));
    assert!(domain.is_idle(h));
    assert_eq!(domain.stats(h).rejected, 2);
}
