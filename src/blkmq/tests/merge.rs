//! Who joins whom, where it is looked for, and what becomes of them (M1 to M10), scene by scene.

use std::sync::{Arc, Mutex};

use super::*;
use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Busy, DomainConfig, FlushGate, FlushPolicy, Gauges, Issue, LaneConfig, Request,
};
use crate::block::{Bio, Class, Errno, Nanos, Outcome, Sector, Status};
use crate::testkit::alloc::allocations;

const H: HctxId = HctxId(0);
const T: Nanos = Nanos(5);

/// Takes `room` requests with their bios.
struct Room {
    room: usize,
    taken: Vec<(Request, Vec<u16>)>,
}

impl Room {
    fn new() -> Room {
        Room { room: usize::MAX, taken: Vec::new() }
    }

    fn bios(&self) -> Vec<Vec<u16>> {
        self.taken.iter().map(|(_, bios)| bios.clone()).collect()
    }
}

impl Issue for Room {
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        if self.room == 0 {
            return Err(Busy);
        }
        self.room -= 1;
        self.taken.push((*request, bios.map(|t| t.0).collect()));
        Ok(())
    }
}

fn domain_with(scheduler: Box<dyn Scheduler>, dsync: bool) -> Domain {
    let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
    let config = DomainConfig::alone(2, 0);
    let mut domain = Domain::new(config, scheduler);
    let lane = domain.add_lane(LaneConfig::new(gate, dsync));
    (0..2).for_each(|_| assert!(domain.add_hctx(lane, 256).is_some()));
    domain
}

fn domain() -> Domain {
    domain_with(Box::new(NoScheduler::new()), true)
}

fn run(start: u64, sectors: u64) -> SectorRange {
    SectorRange::new(Sector(start), sectors, 1 << 30).expect("inside")
}

fn put(domain: &mut Domain, tag: u16, op: Op) {
    domain.submit(H, Bio::new(Tag(tag), op), T).expect("a free head");
}

/// Writes of 8 sectors at these sectors, with the tags from 0.
fn writes(domain: &mut Domain, starts: &[u64]) {
    for (tag, start) in (0..).zip(starts) {
        put(domain, tag, Op::Write(run(*start, 8)));
    }
}

/// The bios of each request that comes out.
fn requests(domain: &mut Domain) -> Vec<Vec<u16>> {
    let mut room = Room::new();
    domain.run(T, &mut room);
    domain.check_books();
    room.bios()
}

fn end(domain: &mut Domain, r: &Request, outcome: Outcome) {
    domain.complete(r.hctx, r.tag, r.generation, outcome, Nanos(9)).expect("live");
    domain.check_books();
}

fn done(domain: &mut Domain) -> Vec<(u16, Status)> {
    std::iter::from_fn(|| domain.take_done(H)).map(|(tag, status)| (tag.0, status)).collect()
}

fn io_error() -> Outcome {
    Outcome::Failed(Errno(5))
}

#[test]
fn bios_join_on_both_sides_and_close_gaps() {
    for (starts, want) in [
        (&[0, 8, 16][..], vec![vec![0, 1, 2]]),
        (&[16, 8, 0], vec![vec![2, 1, 0]]),
        (&[0, 16, 8], vec![vec![0, 2, 1]]),
        (&[16, 0, 8], vec![vec![1, 2, 0]]),
        (&[0, 16, 32, 24, 8], vec![vec![0, 4, 1, 3, 2]]),
        (&[0, 9], vec![vec![0], vec![1]]),
        (&[0, 0], vec![vec![0], vec![1]]),
        (&[0, 4], vec![vec![0], vec![1]]),
        // One between two streams, not the newest.
        (&[0, 100, 8, 108, 16], vec![vec![0, 2, 4], vec![1, 3]]),
    ] {
        let mut domain = domain();
        writes(&mut domain, starts);
        assert_eq!(requests(&mut domain), want, "{starts:?}");
    }
}

#[test]
fn i05_what_differs_stays_apart() {
    let zero = |s, unmap| Op::WriteZeroes { range: run(s, 8), unmap };
    let bio = |op| Bio::new(Tag(0), op);
    let plain = bio(Op::Write(run(0, 8)));
    let next = bio(Op::Write(run(8, 8)));
    let cases = [
        (plain, next, true),
        (bio(Op::Read(run(0, 8))), bio(Op::Read(run(8, 8))), true),
        (bio(Op::Discard(run(0, 8))), bio(Op::Discard(run(8, 8))), true),
        (bio(zero(0, true)), bio(zero(8, true)), true),
        (bio(zero(0, false)), bio(zero(8, false)), true),
        (bio(zero(0, true)), bio(zero(8, false)), false),
        (bio(zero(0, false)), bio(Op::Discard(run(8, 8))), false),
        (plain, bio(Op::Read(run(8, 8))), false),
        (plain, bio(zero(8, false)), false),
        (plain, Bio { fua: true, ..next }, false),
        (Bio { fua: true, ..plain }, Bio { fua: true, ..next }, true),
        (plain, Bio { class: Class::RealTime, ..next }, false),
        (Bio { class: Class::Idle, ..plain }, Bio { class: Class::Idle, ..next }, true),
        (plain, Bio { alone: true, ..next }, false),
        (Bio { alone: true, ..plain }, next, false),
        (Bio { segments: 255, ..plain }, next, true),
        (Bio { segments: 256, ..plain }, next, false),
        (Bio { segments: u16::MAX, ..plain }, next, false),
        (bio(Op::Write(run(0, 2048))), bio(Op::Write(run(2048, 1))), false),
        (bio(Op::Write(run(0, 2047))), bio(Op::Write(run(2047, 1))), true),
    ];
    for dsync in [true, false] {
        for (a, b, joined) in cases {
            for turned in [false, true] {
                let mut domain = domain_with(Box::new(NoScheduler::new()), dsync);
                let (first, second) = if turned { (b, a) } else { (a, b) };
                domain.submit(H, Bio { tag: Tag(1), ..first }, T).expect("free");
                domain.submit(H, Bio { tag: Tag(2), ..second }, T).expect("free");
                let merged = domain.gauges(H).merged;
                assert_eq!(merged == 1, joined, "{first:?} {second:?}");
            }
        }
    }
}

#[test]
fn i05_no_request_crosses_a_chunk_boundary() {
    let mut domain = domain();
    let config = MergeConfig { chunk_bytes: 16 * 512, ..MergeConfig::default() };
    domain.set_merging(LaneId(0), config);
    assert_eq!(domain.merging(LaneId(0)), config);
    writes(&mut domain, &[0, 8, 16, 24, 32, 40]);
    assert_eq!(requests(&mut domain), [[0, 1], [2, 3], [4, 5]]);
    // One bio that crosses is not ours to cut; nothing joins it.
    let mut domain = domain_with(Box::new(NoScheduler::new()), true);
    domain.set_merging(LaneId(0), config);
    writes(&mut domain, &[12, 20, 4]);
    assert_eq!(requests(&mut domain), [[0], [1], [2]]);
}

#[test]
fn i05_nothing_joins_across_a_flush_or_from_another_queue() {
    let mut domain = domain();
    put(&mut domain, 0, Op::Write(run(0, 8)));
    put(&mut domain, 1, Op::Flush);
    put(&mut domain, 2, Op::Write(run(8, 8)));
    domain.submit(HctxId(1), Bio::new(Tag(0), Op::Write(run(16, 8))), T).expect("free");
    // Of the same epoch again: behind the second, not behind the first.
    put(&mut domain, 3, Op::Write(run(16, 8)));
    let got: Vec<Vec<u16>> = requests(&mut domain);
    assert!(got.contains(&vec![2, 3]), "{got:?}");
    assert_eq!(got.iter().filter(|bios| !bios.is_empty()).count(), 3);
    assert_eq!(domain.gauges(HctxId(1)).merged, 0);
}

#[test]
fn i05_a_flush_of_one_queue_parts_nothing_of_another() {
    let mut domain = domain();
    put(&mut domain, 0, Op::Write(run(0, 8)));
    domain.submit(HctxId(1), Bio::new(Tag(0), Op::Flush), T).expect("free");
    put(&mut domain, 2, Op::Write(run(8, 8)));
    assert_eq!(domain.gauges(H).merged, 1, "joined with one that the flush had staged");
}

#[test]
fn limits_stay_within_what_the_kernel_takes() {
    let mut domain = domain();
    let config =
        MergeConfig { max_segments: u16::MAX, max_bytes: u32::MAX, ..MergeConfig::default() };
    domain.set_merging(LaneId(0), config);
    let MergeConfig { max_segments, max_bytes, .. } = domain.merging(LaneId(0));
    assert_eq!((max_segments, max_bytes), (1024, 0x7fff_f000));
    for tag in 0..3 {
        let op = Op::Read(run(u64::from(tag) * 8, 8));
        let bio = Bio { segments: 512, ..Bio::new(Tag(tag), op) };
        domain.submit(H, bio, T).expect("free");
    }
    assert_eq!(requests(&mut domain), [vec![0, 1], vec![2]]);
    let end_of_all = (i64::MAX as u64) / 512;
    let far = SectorRange::new(Sector(end_of_all - 8), 8, u64::MAX).expect("the last sectors");
    put(&mut domain, 10, Op::Write(far));
    let before = SectorRange::new(Sector(end_of_all - 16), 8, u64::MAX).expect("before them");
    put(&mut domain, 11, Op::Write(before));
    assert_eq!(requests(&mut domain), [[11, 10]]);
}

#[test]
fn nomerges_one_looks_at_the_newest_only_and_two_at_nothing() {
    for (level, want) in [
        (0, vec![vec![0, 2, 4], vec![1, 3]]),
        (1, vec![vec![0], vec![1, 3], vec![2], vec![4]]),
        (2, vec![vec![0], vec![1], vec![2], vec![3], vec![4]]),
    ] {
        let mut domain = domain();
        let search = MergeSearch::of_nomerges(level).expect("0 to 2");
        domain.set_nomerges(LaneId(0), search);
        // The last one follows 8, which is not the newest.
        for (tag, s) in [(0, 0), (1, 100), (2, 8), (3, 108), (4, 16)] {
            put(&mut domain, tag, Op::Write(run(s, 8)));
            if level == 1 && tag == 2 {
                put(&mut domain, 9, Op::Read(run(0, 8))); // another kind does not get in between
                domain.table.get_mut(H).merging.newest[1] = Latest::of(Tag(1), run(100, 8));
            }
        }
        let got: Vec<_> = requests(&mut domain).into_iter().filter(|b| *b != [9]).collect();
        assert_eq!(got, want, "level {level}");
        let tried = domain.merge_counters(H).tries;
        assert_eq!(tried > 0, level < 2, "level {level}");
    }
    assert_eq!(MergeSearch::of_nomerges(3), None);
    assert_eq!(MergeSearch::default(), MergeSearch::Full);
}

#[test]
fn i05_the_newest_eight_are_looked_at() {
    for (others, joins) in [(7, true), (8, false)] {
        let mut domain = domain();
        put(&mut domain, 0, Op::Write(run(0, 8)));
        (1..=others).for_each(|n| put(&mut domain, n, Op::Read(run(1000 * u64::from(n), 8))));
        // The newest write is a read's neighbour: forget the one-hit.
        domain.table.get_mut(H).merging.newest[1] = Latest::NONE;
        put(&mut domain, 20, Op::Write(run(8, 8)));
        assert_eq!(domain.gauges(H).merged == 1, joins, "{others} others");
    }
}

#[test]
fn who_is_not_waiting_any_more_is_not_joined() {
    let mut domain = domain();
    let mut room = Room::new();
    put(&mut domain, 0, Op::Write(run(0, 8)));
    domain.run(T, &mut room);
    put(&mut domain, 1, Op::Write(run(8, 8)));
    assert_eq!(domain.gauges(H).merged, 0, "the first is with the kernel");
    room.room = 0;
    domain.run(T, &mut room);
    assert_eq!(domain.gauges(H).leftover, 1);
    put(&mut domain, 2, Op::Write(run(16, 8)));
    put(&mut domain, 3, Op::Write(run(24, 8)));
    assert_eq!((domain.gauges(H).merged, domain.gauges(H).plugged), (1, 1), "refused: left alone");
    // A head that comes back is another bio.
    let first = room.taken[0].0;
    end(&mut domain, &first, Outcome::Done);
    assert_eq!(done(&mut domain), [(0, Status::Ok)]);
    domain.release(H, Tag(0));
    put(&mut domain, 0, Op::Read(run(500, 8)));
    put(&mut domain, 5, Op::Write(run(508, 8)));
    assert_eq!(domain.gauges(H).merged, 1);
}

#[test]
fn of_two_that_become_one_the_earlier_place_stays() {
    let mut domain = domain();
    // 0 and 3 become one when 4 closes the gap; the grown one is 3.
    writes(&mut domain, &[0, 100, 200, 16]);
    put(&mut domain, 4, Op::Write(run(8, 8)));
    assert_eq!(requests(&mut domain), [vec![0, 4, 3], vec![1], vec![2]]);
    let counters = *domain.merge_counters(H);
    assert_eq!((counters.absorbed, counters.one_hit + counters.scanned), (1, 1));
    let stats = domain.stats(H);
    assert_eq!((stats.writes.merges, stats.in_progress()), (2, 3));
}

#[test]
fn a_last_request_of_128_kib_hands_the_batch_on_unless_it_grows() {
    let mut domain = domain();
    put(&mut domain, 0, Op::Write(run(0, 256)));
    put(&mut domain, 1, Op::Write(run(256, 8)));
    assert_eq!((domain.gauges(H).staged, domain.gauges(H).merged), (0, 1), "it grows first");
    put(&mut domain, 2, Op::Write(run(9000, 8)));
    assert_eq!((domain.gauges(H).staged, domain.gauges(H).plugged), (1, 1));
    put(&mut domain, 3, Op::Write(run(264, 8)));
    assert_eq!(domain.gauges(H).merged, 2, "and can grow where it is");
    domain.set_nomerges(LaneId(0), MergeSearch::Off);
    put(&mut domain, 4, Op::Write(run(20_000, 256)));
    put(&mut domain, 5, Op::Write(run(30_000, 8)));
    assert_eq!(domain.gauges(H).plugged, 3, "nothing could grow: nothing is gained");
}

/// Notes what a scheduler is told, and finds what it is asked to find.
#[derive(Debug)]
struct Told {
    inner: NoScheduler,
    find: Option<(Ident, Side)>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn new() -> (Told, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        (Told { inner: NoScheduler::new(), find: None, log: Arc::clone(&log) }, log)
    }

    fn say(&self, what: String) {
        self.log.lock().expect("no panic").push(what);
    }
}

fn brief(item: &sched::Item) -> String {
    let range = item.op.range().expect("data");
    format!("{}[{}..{}]@{}", item.id.tag.0, range.start().0, range.end().0, item.arrival.0)
}

impl Scheduler for Told {
    fn name(&self) -> &'static str {
        "told"
    }
    fn attach(&mut self, hctx: HctxId, lane: LaneId, depth: u16) {
        self.inner.attach(hctx, lane, depth);
    }
    fn detach(&mut self, hctx: HctxId) {
        self.inner.detach(hctx);
    }
    fn insert(&mut self, item: &sched::Item, now: Nanos) {
        self.say(format!("insert {}", brief(item)));
        self.inner.insert(item, now);
    }
    fn next(&mut self, now: Nanos) -> Option<Ident> {
        self.inner.next(now)
    }
    fn requeue(&mut self, item: &sched::Item) {
        self.inner.requeue(item);
    }
    fn has_work(&self, now: Nanos) -> bool {
        self.inner.has_work(now)
    }
    fn done(&mut self, item: &sched::Item, _now: Nanos) {
        self.say(format!("done {}", brief(item)));
    }
    fn drain(&mut self, out: &mut dyn FnMut(Ident)) {
        self.inner.drain(out);
    }
    fn find(&mut self, _bio: &sched::Item) -> Option<(Ident, Side)> {
        self.find.take()
    }
    fn grown(&mut self, before: &sched::Item, after: &sched::Item) {
        self.say(format!("grown {} {}", brief(before), brief(after)));
    }
    fn absorbed(&mut self, gone: &sched::Item, into: &sched::Item) {
        self.inner.absorbed(gone, into);
        self.say(format!("absorbed {} {}", brief(gone), brief(into)));
    }
}

/// A domain whose scheduler holds writes at these sectors, submitted at 10, 20 and so on.
fn staged(starts: &[u64]) -> (Domain, Arc<Mutex<Vec<String>>>) {
    let (told, log) = Told::new();
    let mut domain = domain_with(Box::new(told), true);
    for (tag, start) in (0..).zip(starts) {
        let bio = Bio::new(Tag(tag), Op::Write(run(*start, 8)));
        domain.submit(H, bio, Nanos(10 + 10 * u64::from(tag))).expect("free");
    }
    domain.stage_plug(T);
    log.lock().expect("no panic").clear();
    (domain, log)
}

fn put_at(domain: &mut Domain, tag: u16, start: u64) {
    domain.submit(H, Bio::new(Tag(tag), Op::Write(run(start, 8))), Nanos(90)).expect("free");
}

#[test]
fn a_scheduler_hears_of_growth_and_of_what_was_absorbed() {
    let (mut domain, log) = staged(&[0, 100, 16]);
    put_at(&mut domain, 5, 108);
    put_at(&mut domain, 6, 8); // joins 2 at its front, and 0 touches it then
    let want = [
        "grown 1[100..108]@20 1[100..116]@20",
        "grown 2[16..24]@30 2[8..24]@30",
        "grown 2[8..24]@30 2[0..24]@10",
        "absorbed 0[0..8]@10 2[0..24]@10",
    ];
    assert_eq!(*log.lock().expect("no panic"), want);
    let mut room = Room::new();
    assert_eq!(domain.run(T, &mut room), 2);
    assert_eq!(room.bios(), [vec![0, 6, 2], vec![1, 5]], "the place of 0 passed on to 2");
    log.lock().expect("no panic").clear();
    for (r, _) in &room.taken {
        end(&mut domain, r, Outcome::Done);
    }
    let want = ["done 2[0..24]@10", "done 1[100..116]@20"];
    assert_eq!(*log.lock().expect("no panic"), want, "once for each that left by next");
    let stats = domain.stats(H);
    assert_eq!((stats.writes.ios, stats.writes.merges, stats.in_progress()), (2, 3, 0));
    assert_eq!(stats.writes.sectors, 40);
}

#[test]
fn one_of_the_batch_becomes_part_of_one_that_is_staged() {
    // On either side: the batch holds 5, the scheduler 0; 6 closes the gap.
    for (five, six, order) in [(16, 8, [0, 6, 5]), (0, 8, [5, 6, 0])] {
        let zero = 16 - five;
        let (mut domain, log) = staged(&[zero, 500]);
        put_at(&mut domain, 5, five);
        put_at(&mut domain, 6, six);
        assert_eq!(domain.gauges(H).plugged, 0, "nothing is left in the batch");
        let log = log.lock().expect("no panic");
        assert_eq!(log.len(), 1, "one growth and nobody gone: {log:?}");
        assert!(log[0].ends_with("0[0..24]@10"), "{log:?}");
        assert_eq!(requests(&mut domain), [order.to_vec(), vec![1]]);
    }
}

#[test]
fn the_schedulers_own_index_is_asked_last_and_not_believed() {
    let id = |hctx, tag| Ident { hctx: HctxId(hctx), tag: Tag(tag) };
    for (named, joins) in [
        (id(0, 0), true),   // out of the newest eight, and it touches
        (id(0, 5), false),  // does not touch
        (id(1, 0), false),  // another queue
        (id(0, 50), false), // not held
        (id(0, 30), false), // itself
    ] {
        let starts: Vec<u64> = (0..9).map(|n| n * 1000).collect();
        let (told, _) = Told::new();
        let mut domain =
            domain_with(Box::new(Told { find: Some((named, Side::Back)), ..told }), true);
        writes(&mut domain, &starts);
        domain.stage_plug(T);
        let told = Told { find: Some((named, Side::Back)), ..Told::new().0 };
        drop(domain.set_scheduler(Box::new(told), T));
        put(&mut domain, 30, Op::Write(run(8, 8)));
        assert_eq!(domain.gauges(H).merged == 1, joins, "{named:?}");
        assert_eq!(domain.merge_counters(H).found, u64::from(joins));
    }
}

#[test]
fn a_switch_of_schedulers_keeps_what_was_merged() {
    let (mut domain, _) = staged(&[0, 100, 8, 16]);
    drop(domain.set_scheduler(Box::new(NoScheduler::new()), T));
    put_at(&mut domain, 9, 24);
    assert_eq!(requests(&mut domain), [vec![0, 2, 3, 9], vec![1]]);
}

/// Eight bios in one request, led by the third: 0 and 1 joined at the front.
fn eight(fua: bool, dsync: bool) -> (Domain, Room, Request) {
    let mut domain = domain_with(Box::new(NoScheduler::new()), dsync);
    for (tag, start) in [(2, 16), (1, 8), (0, 0), (3, 24), (4, 32), (5, 40), (6, 48), (7, 56)] {
        let bio = Bio { fua, ..Bio::new(Tag(tag), Op::Write(run(start, 8))) };
        domain.submit(H, bio, Nanos(1)).expect("free");
    }
    let mut room = Room::new();
    assert_eq!(domain.run(T, &mut room), 1);
    let (request, bios) = room.taken.remove(0);
    assert_eq!(bios, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((request.tag, request.op), (Tag(2), Op::Write(run(0, 64))));
    assert_eq!((request.fua, request.done), (fua && dsync, 0));
    (domain, room, request)
}

#[test]
fn i01_all_bios_of_a_finished_request_are_answered() {
    let (mut domain, _, request) = eight(false, true);
    let gauges = Gauges { free: 248, in_flight: 1, merged: 7, ..Gauges::default() };
    assert_eq!(domain.gauges(H), gauges);
    assert!(domain.bios(H, request.tag).map(|t| t.0).eq(0..8));
    end(&mut domain, &request, Outcome::Done);
    assert_eq!(done(&mut domain), (0..8).map(|t| (t, Status::Ok)).collect::<Vec<_>>());
    let stats = domain.stats(H);
    let writes = stats.writes;
    assert_eq!((writes.ios, writes.merges, writes.sectors, writes.nanos), (1, 7, 64, 8));
    assert_eq!(stats.in_progress(), 0);
}

#[test]
fn i07_a_short_transfer_answers_the_prefix_at_any_byte() {
    const BIO: u32 = 4096;
    for n in (1..8 * BIO).step_by(509).chain((0..8).map(|i| i * BIO)).filter(|n| *n > 0) {
        let (mut domain, mut room, request) = eight(false, true);
        end(&mut domain, &request, Outcome::Short(n));
        let whole = u16::try_from(n / BIO).expect("small");
        assert_eq!(done(&mut domain), (0..whole).map(|t| (t, Status::Ok)).collect::<Vec<_>>());
        assert_eq!(domain.gauges(H).leftover, 1);
        assert_eq!(domain.run(T, &mut room), 1);
        let (rest, bios) = room.taken.remove(0);
        assert!(bios.iter().copied().eq(whole..8), "at {n}: {bios:?}");
        let range = run(u64::from(whole) * 8, 64 - u64::from(whole) * 8);
        assert_eq!((rest.tag, rest.op), (Tag(whole), Op::Write(range)));
        assert_eq!(rest.done, n % BIO);
        // Short once more, within the same bio or beyond it; then done.
        let left = 8 * BIO - n;
        if left > 1 {
            end(&mut domain, &rest, Outcome::Short(left - 1));
            assert_eq!(done(&mut domain), (whole..7).map(|t| (t, Status::Ok)).collect::<Vec<_>>());
            domain.run(T, &mut room);
            let (last, bios) = room.taken.remove(0);
            assert_eq!((last.done, bios), (BIO - 1, vec![7]));
            end(&mut domain, &last, Outcome::Done);
        } else {
            end(&mut domain, &rest, Outcome::Done);
        }
        assert_eq!(done(&mut domain), [(7, Status::Ok)]);
        let stats = domain.stats(H);
        assert_eq!((stats.writes.ios + stats.writes.merges, stats.writes.sectors), (8, 64));
        assert_eq!(stats.in_progress(), 0);
        (0..8).for_each(|t| domain.release(H, Tag(t)));
        assert!(domain.is_idle(H));
    }
}

#[test]
fn a_short_count_that_is_all_means_done() {
    for n in [8 * 4096, u32::MAX] {
        let (mut domain, _, request) = eight(false, true);
        end(&mut domain, &request, Outcome::Short(n));
        assert_eq!(done(&mut domain).len(), 8);
    }
}

#[test]
fn i07_a_failed_request_is_taken_apart_and_only_the_bad_bio_fails() {
    let (mut domain, mut room, request) = eight(false, true);
    put(&mut domain, 20, Op::Write(run(900, 8)));
    // Some of it is done already, and what is done stays done.
    end(&mut domain, &request, Outcome::Short(4096 + 100));
    assert_eq!(done(&mut domain), [(0, Status::Ok)]);
    domain.run(T, &mut room);
    let (rest, _) = room.taken.remove(0);
    assert_eq!(room.taken.remove(0).1, [20], "after what was begun");
    end(&mut domain, &rest, io_error());
    assert_eq!((domain.gauges(H).leftover, domain.gauges(H).merged), (7, 0));
    put(&mut domain, 21, Op::Write(run(64, 8))); // would fit behind the last
    assert_eq!(domain.run(T, &mut room), 8);
    let order: Vec<u16> = room.taken.iter().map(|(r, _)| r.tag.0).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 21], "in order, alone, and before anything new");
    assert_eq!(room.taken[0].0.done, 100, "what is finished stays finished");
    for (r, bios) in std::mem::take(&mut room.taken) {
        assert_eq!(bios.len(), 1);
        assert_eq!(r.done, if r.tag == Tag(1) { 100 } else { 0 });
        let bad = r.tag == Tag(4);
        end(&mut domain, &r, if bad { io_error() } else { Outcome::Done });
    }
    let failed: Vec<_> = done(&mut domain).into_iter().filter(|(_, s)| *s != Status::Ok).collect();
    assert_eq!(failed, [(4, Status::IoErr)]);
    let stats = domain.stats(H);
    assert_eq!((stats.failed, stats.writes.ios + stats.writes.merges), (1, 9));
    assert_eq!((stats.splits, stats.in_progress()), (1, 1));
}

#[test]
fn a_request_that_is_again_and_again_not_started_is_taken_apart_too() {
    let (mut domain, mut room, request) = eight(false, true);
    let mut request = request;
    for _ in 0..=100 {
        end(&mut domain, &request, Outcome::Again);
        domain.run(T, &mut room);
        request = room.taken.remove(0).0;
    }
    assert_eq!((request.tag, room.taken.len()), (Tag(0), 7), "each by itself now");
    assert_eq!(request.op, Op::Write(run(0, 8)));
}

#[test]
fn the_scheduler_hears_once_of_a_request_that_comes_back_in_pieces() {
    for outcome in [Outcome::Short(4096), Outcome::Short(100), io_error()] {
        let (mut domain, log) = staged(&[8, 16, 0, 24]);
        let mut room = Room::new();
        assert_eq!(domain.run(T, &mut room), 1);
        log.lock().expect("no panic").clear();
        let first = room.taken.remove(0).0;
        end(&mut domain, &first, outcome);
        assert_eq!(*log.lock().expect("no panic"), ["done 0[0..32]@10"], "{outcome:?}");
        domain.run(T, &mut room);
        for (r, _) in std::mem::take(&mut room.taken) {
            end(&mut domain, &r, Outcome::Done);
        }
        assert_eq!(done(&mut domain).len(), 4);
        assert_eq!(log.lock().expect("no panic").len(), 1, "{outcome:?}");
    }
}

#[test]
fn i26_each_bio_of_a_merged_write_through_waits_for_the_flush() {
    let (mut domain, mut room, request) = eight(true, false);
    end(&mut domain, &request, Outcome::Done);
    assert_eq!((domain.gauges(H).flush_wait, done(&mut domain).len()), (8, 0));
    assert_eq!(domain.run(T, &mut room), 1);
    let (sync, bios) = room.taken.remove(0);
    assert_eq!((sync.op, bios.len()), (Op::Flush, 0));
    end(&mut domain, &sync, Outcome::Done);
    assert_eq!(done(&mut domain).len(), 8, "one sync for all");
    assert_eq!(domain.stats(H).flushes, 1);
}

#[test]
fn i36_only_the_leader_is_with_the_kernel() {
    let (mut domain, _, request) = eight(false, true);
    for tag in (0..8).map(Tag).filter(|t| *t != request.tag) {
        let generation = domain.generation(H, tag);
        let stale = domain.complete(H, tag, generation, Outcome::Done, T);
        assert_eq!(stale, Err(crate::blkmq::Stale));
        assert_eq!(domain.submit(H, Bio::new(tag, Op::Flush), T), Err(crate::blkmq::TagBusy));
    }
    // After a short transfer another one leads, and the old name is stale.
    end(&mut domain, &request, Outcome::Short(100));
    let mut room = Room::new();
    domain.run(T, &mut room);
    let stale = domain.complete(H, request.tag, request.generation, Outcome::Done, T);
    assert_eq!(stale, Err(crate::blkmq::Stale));
}

#[test]
fn a_search_that_does_not_pay_rests_and_comes_back() {
    let mut domain = domain();
    let mut room = Room::new();
    let mut next = 0_u64;
    // Batches of two that do not touch; every second bio has something to look at.
    let mut batch = |domain: &mut Domain, touching: bool| {
        put(domain, 0, Op::Write(run(next, 8)));
        put(domain, 1, Op::Write(run(next + if touching { 8 } else { 100 }, 8)));
        next += 1000;
        let merged = domain.gauges(H).merged;
        domain.run(T, &mut room);
        for (r, _) in room.taken.drain(..) {
            domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, T).expect("live");
        }
        while let Some((tag, _)) = domain.take_done(H) {
            domain.release(H, tag);
        }
        merged
    };
    let window = u32::from(WINDOW);
    // 1 in 100 is enough.
    for i in 0..window {
        batch(&mut domain, i % 99 == 0);
    }
    assert_eq!(domain.merge_counters(H).rests, 0);
    for _ in 0..window {
        batch(&mut domain, false);
    }
    assert_eq!(domain.merge_counters(H).rests, 1);
    assert!(!domain.table.get_mut(H).merging.searches());
    assert_eq!(batch(&mut domain, true), 1, "the one-hit look goes on");
    for _ in 2..REST {
        batch(&mut domain, false);
    }
    assert_eq!(domain.table.get(H).merging.rest, 0);
    assert!(domain.table.get_mut(H).merging.searches(), "for the next window");
    for _ in 0..window {
        batch(&mut domain, false);
    }
    assert_eq!(domain.merge_counters(H).rests, 2);
    // Saying the same again changes nothing; who changes how to search wants it now.
    domain.set_nomerges(LaneId(0), MergeSearch::Full);
    assert_eq!(domain.table.get(H).merging.rest, REST);
    domain.set_nomerges(LaneId(0), MergeSearch::Off);
    domain.set_nomerges(LaneId(0), MergeSearch::Full);
    assert!(domain.table.get_mut(H).merging.searches());
}

#[test]
fn nothing_is_allocated_whatever_becomes_of_a_merged_request() {
    let (told, _) = (NoScheduler::new(), ());
    let mut domain = domain_with(Box::new(told), false);
    struct Fixed(Vec<Request>);
    impl Issue for Fixed {
        fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
            assert!(bios.len() <= 33);
            self.0.push(*request);
            Ok(())
        }
    }
    let mut disk = Fixed(Vec::with_capacity(256));
    let outcomes = [Outcome::Done, Outcome::Short(5000), io_error(), Outcome::Again];
    let all = allocations(|| {
        for round in 0..64_usize {
            for tag in 0..64_u16 {
                // Two streams, one of them backwards, and gaps that close.
                let at = u64::from(if tag % 2 == 0 { tag } else { 200 - (tag ^ 2) });
                let fua = round % 2 == 0;
                let bio = Bio { fua, ..Bio::new(Tag(tag), Op::Write(run(at * 4, 8))) };
                domain.submit(H, bio, T).expect("free");
                if tag % 16 == 0 {
                    domain.stage_plug(T);
                }
            }
            domain.run(T, &mut disk);
            let mut n = round;
            while let Some(r) = disk.0.pop() {
                let outcome = if r.op == Op::Flush { Outcome::Done } else { outcomes[n % 4] };
                let end = domain.complete(r.hctx, r.tag, r.generation, outcome, T);
                end.expect("live");
                n += 1;
                if disk.0.is_empty() && domain.wants_run(T) {
                    domain.run(T, &mut disk);
                }
            }
            while let Some((tag, _)) = domain.take_done(H) {
                domain.release(H, tag);
            }
            assert!(domain.is_idle(H));
        }
    });
    assert_eq!(all, 0);
    let counters = domain.merge_counters(H);
    let splits = domain.stats(H).splits;
    assert!(splits > 10 && counters.absorbed > 10, "{splits} splits, {counters:?}");
}
