use super::entry::{READ, WRITE};
use super::*;
use crate::blkmq::sched::conformance;
use crate::block::{Class, Op, Sector, SectorRange, Tag};
use crate::testkit::core_disk::Rng;

const SECOND: u64 = 1_000_000_000;

pub(super) fn tune(s: &mut MqDeadline, name: &str, value: u64) {
    s.tunable(name, Some(&value.to_string())).expect("a tunable");
}

/// A scheduler with hctxs of 256 tags, and what was put into it. What `next` gives ends at once,
/// unless it is to stay out.
pub(super) struct Rig {
    pub(super) s: MqDeadline,
    items: Vec<Option<Item>>,
    waiting: usize,
    pub(super) class: Class,
    stays_out: bool,
}

impl Rig {
    /// Hctx h is of disk h modulo `lanes`; what is not said otherwise goes to hctx 0.
    pub(super) fn new(hctxs: u16, lanes: u16) -> Rig {
        let mut s = MqDeadline::new();
        (0..hctxs).for_each(|h| s.attach(HctxId(h), LaneId(h % lanes), 256));
        let items = vec![None; 256];
        Rig { s, items, waiting: 0, class: Class::default(), stays_out: false }
    }

    pub(super) fn tune(&mut self, name: &str, value: impl Into<u64>) -> &mut Rig {
        tune(&mut self.s, name, value.into());
        self
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn free(&self) -> Tag {
        let free = (0..256).find(|t| !self.s_holds(*t));
        Tag(free.expect("a free tag"))
    }

    fn s_holds(&self, tag: u16) -> bool {
        let id = Ident { hctx: HctxId(0), tag: Tag(tag) };
        self.s.entries[self.s.entries.cell(id)].stage != Stage::Free
    }

    pub(super) fn insert(&mut self, dir: usize, pos: u64, now: u64) -> Tag {
        let tag = self.free();
        self.insert_at(tag, dir, pos, now);
        tag
    }

    pub(super) fn insert_at(&mut self, tag: Tag, dir: usize, pos: u64, now: u64) {
        let range = range(pos, 1);
        let op = if dir == READ { Op::Read(range) } else { Op::Write(range) };
        let item = item(0, tag.0, 0, op, self.class);
        self.items[tag.index()] = Some(item);
        self.s.insert(&item, Nanos(now));
        self.waiting += 1;
    }

    pub(super) fn next(&mut self, now: u64) -> Option<Tag> {
        let promised = self.s.has_work(Nanos(now));
        let id = self.s.next(Nanos(now));
        assert_eq!(promised, id.is_some(), "C2");
        let id = id?;
        self.waiting -= 1;
        if !self.stays_out {
            self.end(id.tag, now);
        }
        Some(id.tag)
    }

    fn end(&mut self, tag: Tag, now: u64) {
        let item = self.items[tag.index()].expect("it was inserted");
        self.s.done(&item, Nanos(now));
    }

    fn all(&mut self, now: u64) -> Vec<u16> {
        std::iter::from_fn(|| self.next(now)).map(|tag| tag.0).collect()
    }

    pub(super) fn dir(&self, tag: Tag) -> usize {
        let item = self.items[tag.index()].expect("it was inserted");
        Kind::of(item.op).dir()
    }

    pub(super) fn place(&self, tag: Tag) -> Sector {
        let item = self.items[tag.index()].expect("it was inserted");
        item.op.range().expect("no flush").start()
    }

    pub(super) fn nth_of_batch(&self) -> u32 {
        self.s.groups[1].nth_of_batch()
    }
}

fn range(start: u64, sectors: u64) -> SectorRange {
    SectorRange::new(Sector(start), sectors, 1 << 40).expect("inside")
}

fn item(hctx: u16, tag: u16, lane: u16, op: Op, class: Class) -> Item {
    let id = Ident { hctx: HctxId(hctx), tag: Tag(tag) };
    Item { id, lane: LaneId(lane), op, class, arrival: Nanos(0), issued: Nanos(0) }
}

fn read(tag: u16, start: u64, sectors: u64) -> Item {
    item(0, tag, 0, Op::Read(range(start, sectors)), Class::BestEffort)
}

fn drained(s: &mut MqDeadline) -> Vec<u16> {
    let mut all = Vec::new();
    s.drain(&mut |id| all.push(id.tag.0));
    all
}

#[test]
fn deadline_keeps_the_contract() {
    let joins = conformance::check_joining(|| Box::new(MqDeadline::new()));
    assert!(joins > 2000, "{joins} requests were joined");
    conformance::check_joining(|| {
        let mut s = MqDeadline::new();
        tune(&mut s, "async_depth", 2);
        tune(&mut s, "fifo_batch", 3);
        tune(&mut s, "prio_aging_expire", 20);
        Box::new(s)
    });
}

#[test]
fn a_sweep_goes_over_the_disk_and_then_to_the_oldest() {
    let mut rig = Rig::new(1, 1);
    for (tag, pos) in [(0, 50), (1, 10), (2, 90), (3, 50)] {
        rig.insert_at(Tag(tag), READ, pos, 0);
    }
    assert_eq!(rig.next(0), Some(Tag(1)));
    assert_eq!(rig.next(0), Some(Tag(0)), "of two at one place the one that came first");
    rig.insert_at(Tag(4), READ, 20, 0);
    rig.insert_at(Tag(5), READ, 15, 0);
    assert_eq!(rig.all(0), [3, 2, 4, 5], "behind the sweep: at the oldest, not at the least");
    assert_eq!(rig.s.name(), "mq-deadline");
}

#[test]
fn i17_classes_go_in_their_order_until_they_age() {
    let mut rig = Rig::new(1, 1);
    for (tag, class) in [(0, Class::Idle), (1, Class::BestEffort), (2, Class::RealTime)] {
        rig.class = class;
        rig.insert_at(Tag(tag), READ, u64::from(tag), 0);
    }
    assert_eq!(rig.all(0), [2, 1, 0]);
    // The same, but nothing ends: a class waits for what is out of a higher one, too.
    rig.stays_out = true;
    for (tag, class) in [(0, Class::Idle), (1, Class::BestEffort), (2, Class::RealTime)] {
        rig.class = class;
        rig.insert_at(Tag(tag), WRITE, u64::from(tag), SECOND);
    }
    assert_eq!(rig.all(2 * SECOND), [2]);
    assert_eq!(rig.s.next_wake(), Some(Nanos(11 * SECOND)), "time alone would let it go");
    rig.end(Tag(2), 3 * SECOND);
    assert_eq!(rig.all(3 * SECOND), [1]);
    assert_eq!(rig.next(11 * SECOND - 1), None);
    assert_eq!(rig.s.next_wake(), Some(Nanos(11 * SECOND)));
    assert_eq!(rig.all(11 * SECOND), [0], "aged, so nothing holds it back");
    assert_eq!(rig.s.next_wake(), None);
}

/// Each class keeps the disk busy for itself and has requests that are old: they go in turn, and
/// none waits much longer than the age.
#[test]
fn i17_what_has_aged_is_served_whatever_the_others_have() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::new(1, 1);
        let mut since = [0; 256];
        let mut worst = [0; 3];
        // 60 wait at 4 a second: with strict classes the two lower ones would never go.
        for now in (0..200).map(|quarter| quarter * SECOND / 4) {
            while rig.waiting() < 60 {
                let class = [Class::RealTime, Class::BestEffort, Class::Idle][rng.index(3)];
                rig.class = class;
                let tag = rig.insert(usize::from(rng.chance(300)), rng.below(1 << 20), now);
                since[tag.index()] = now;
            }
            let tag = rig.next(now).expect("60 wait");
            let class = rig.items[tag.index()].expect("inserted").class as usize;
            worst[class] = worst[class].max(now - since[tag.index()]);
        }
        assert!(worst[2] >= 10 * SECOND, "seed {seed}: a lower class waits for its age");
        let limit = 30 * SECOND;
        assert!(worst.iter().all(|w| *w <= limit), "seed {seed}: {worst:?}");
    }
}

#[test]
fn i17_strict_order_on_random_requests() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::new(1, 1);
        rig.stays_out = true;
        let mut counts = [0_i32; 3];
        let mut out = Vec::new();
        let index = |rig: &Rig, tag: Tag| rig.items[tag.index()].expect("inserted").class as usize;
        for now in 0..400 {
            match rng.below(3) {
                0 if counts.iter().sum::<i32>() < 200 => {
                    rig.class = [Class::RealTime, Class::BestEffort, Class::Idle][rng.index(3)];
                    let tag = rig.insert(usize::from(rng.chance(300)), rng.below(1 << 20), now);
                    counts[index(&rig, tag)] += 1;
                }
                1 => {
                    if let Some(tag) = rig.next(now) {
                        let class = index(&rig, tag);
                        assert!(counts[..class].iter().all(|n| *n == 0), "seed {seed}: {counts:?}");
                        out.push(tag);
                    }
                }
                _ if !out.is_empty() => {
                    let tag = out.swap_remove(rng.index(out.len()));
                    counts[index(&rig, tag)] -= 1;
                    rig.end(tag, now);
                }
                _ => {}
            }
        }
    }
}

/// Two schedulers get the same requests of two disks; one guest says RealTime in one of them.
#[test]
fn i34_the_classes_of_a_guest_are_nothing_to_another() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let (mut plain, mut hinted) = (Rig::new(2, 2), Rig::new(2, 2));
        let mut busy = [false; 128];
        for now in 0..500 {
            let now = now * 10_000_000;
            let (tag, hctx) = (rng.index(128), u16::from(rng.chance(500)));
            if rng.chance(550) && !busy[tag] {
                let op = if rng.chance(600) { Op::Read } else { Op::Write };
                let op = op(range(rng.below(1 << 20), 8));
                let hint = [Class::RealTime, Class::BestEffort, Class::Idle][rng.index(3)];
                let tag = u16::try_from(tag).expect("small");
                let class = if hctx == 0 { hint } else { Class::BestEffort };
                hinted.s.insert(&item(hctx, tag, hctx, op, class), Nanos(now));
                plain.s.insert(&item(hctx, tag, hctx, op, Class::BestEffort), Nanos(now));
                busy[usize::from(tag)] = true;
            } else {
                let got = hinted.s.next(Nanos(now));
                assert_eq!(got, plain.s.next(Nanos(now)), "seed {seed}");
                if let Some(id) = got {
                    let ended = item(id.hctx.0, id.tag.0, 0, Op::Read(range(0, 1)), Class::Idle);
                    hinted.s.done(&ended, Nanos(now));
                    plain.s.done(&ended, Nanos(now));
                    busy[id.tag.index()] = false;
                }
            }
        }
    }
}

#[test]
fn i34_what_waits_is_of_one_class_once_another_disk_joins() {
    let mut rig = Rig::new(1, 1);
    rig.stays_out = true;
    let classes = [Class::BestEffort, Class::RealTime, Class::Idle, Class::RealTime, Class::Idle];
    for (tag, class) in (0..).zip(classes) {
        rig.class = class;
        rig.insert_at(Tag(tag), READ, 100 - u64::from(tag), 0);
    }
    assert_eq!(rig.next(0), Some(Tag(3)), "the least of the RealTime ones");
    rig.s.attach(HctxId(1), LaneId(1), 4);
    let other = item(1, 0, 1, Op::Read(range(0, 1)), Class::BestEffort);
    rig.s.insert(&other, Nanos(0));
    // In the order of the disk, although a RealTime one is out; then the other disk.
    let order: Vec<_> = std::iter::from_fn(|| rig.s.next(Nanos(0))).collect();
    let order: Vec<_> = order.iter().map(|id| (id.hctx.0, id.tag.0)).collect();
    assert_eq!(order, [(0, 4), (0, 2), (0, 1), (0, 0), (1, 0)]);
    for tag in 0..5 {
        rig.end(Tag(tag), 0);
    }
    rig.s.done(&other, Nanos(0));
    // When the other one leaves, what waits has its class again.
    for (tag, class) in (0..).zip(classes) {
        rig.class = class;
        rig.insert_at(Tag(tag), WRITE, 100 - u64::from(tag), 0);
    }
    rig.s.detach(HctxId(1));
    assert_eq!(rig.next(0), Some(Tag(3)));
    assert_eq!(rig.next(0), Some(Tag(1)));
    assert_eq!(rig.next(0), None, "RealTime is out");
    rig.end(Tag(3), 0);
    rig.end(Tag(1), 0);
    assert_eq!(rig.next(0), Some(Tag(0)));
    rig.end(Tag(0), 0);
    assert_eq!(drained(&mut rig.s), [2, 4], "and the order of arrival");
}

#[test]
fn disks_are_swept_one_after_the_other() {
    let mut rig = Rig::new(3, 3);
    for (tag, hctx, pos) in [(0, 2, 5), (1, 0, 900), (2, 1, 7), (3, 0, 3), (4, 1, 6)] {
        let read = item(hctx, tag, hctx, Op::Read(range(pos, 1)), Class::BestEffort);
        rig.s.insert(&read, Nanos(0));
    }
    let order = std::iter::from_fn(|| rig.s.next(Nanos(0))).map(|id| id.tag.0);
    assert_eq!(order.collect::<Vec<_>>(), [3, 1, 4, 2, 0]);
}

#[test]
fn partners_are_of_one_sort_and_touch() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 16);
    s.attach(HctxId(1), LaneId(0), 16);
    s.insert(&read(0, 100, 10), Nanos(0));
    let id = read(0, 0, 1).id;
    assert_eq!(s.find(&read(1, 110, 4)), Some((id, Side::Back)));
    assert_eq!(s.find(&read(1, 96, 4)), Some((id, Side::Front)));
    for (start, sectors) in [(111, 1), (109, 1), (100, 10), (95, 4), (97, 4), (110, 0), (100, 0)] {
        assert_eq!(s.find(&read(1, start, sectors)), None, "{start} {sectors}");
    }
    let (back, front) = (range(110, 4), range(96, 4));
    for at in [back, front] {
        let others = [Op::Write(at), Op::Discard(at), Op::WriteZeroes { range: at, unmap: true }];
        for op in others {
            assert_eq!(s.find(&item(0, 1, 0, op, Class::BestEffort)), None, "another operation");
        }
        assert_eq!(s.find(&item(0, 1, 0, Op::Read(at), Class::Idle)), None, "another class");
        let elsewhere = item(1, 1, 0, Op::Read(at), Class::BestEffort);
        assert_eq!(s.find(&elsewhere), None, "another hctx");
    }
    let zeroes = |tag, start, unmap| {
        let op = Op::WriteZeroes { range: range(start, 4), unmap };
        item(0, tag, 0, op, Class::BestEffort)
    };
    s.insert(&zeroes(2, 200, true), Nanos(0));
    assert_eq!(s.find(&zeroes(3, 204, false)), None, "another flag");
    assert_eq!(s.find(&zeroes(3, 204, true)).map(|(id, _)| id.tag), Some(Tag(2)));
    tune(&mut s, "front_merges", 0);
    assert_eq!(s.find(&read(1, 96, 4)), None, "switched off");
    assert_eq!(s.find(&read(1, 110, 4)), Some((id, Side::Back)));
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(2)), "at first batches are of writes");
    assert_eq!(s.next(Nanos(0)), Some(id));
    assert_eq!(s.find(&read(1, 110, 4)), None, "what went is no partner");
    s.requeue(&read(0, 100, 10));
    assert_eq!(s.find(&read(1, 110, 4)), None, "nor is what was given back");
}

#[test]
fn what_waits_is_found_after_another_hctx_joined() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 4);
    s.insert(&read(0, 100, 10), Nanos(0));
    s.insert(&read(1, 200, 10), Nanos(0));
    s.attach(HctxId(1), LaneId(0), 500);
    s.detach(HctxId(1));
    s.attach(HctxId(2), LaneId(0), 900);
    for (tag, start) in [(0, 100), (1, 200)] {
        let id = read(tag, 0, 1).id;
        assert_eq!(s.find(&read(2, start + 10, 4)), Some((id, Side::Back)));
        assert_eq!(s.find(&read(2, start - 4, 4)), Some((id, Side::Front)));
    }
    let order: Vec<u16> = std::iter::from_fn(|| s.next(Nanos(0))).map(|id| id.tag.0).collect();
    assert_eq!(order, [0, 1]);
    assert_eq!(s.find(&read(2, 110, 4)), None);
}

#[test]
fn a_request_that_grew_is_found_and_sorted_by_what_it_is_now() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 16);
    s.insert(&read(0, 100, 10), Nanos(0));
    s.insert(&read(1, 90, 5), Nanos(0));
    s.grown(&read(0, 100, 10), &read(0, 100, 20));
    assert_eq!(s.find(&read(2, 110, 4)), None);
    assert_eq!(s.find(&read(2, 120, 4)).map(|(id, _)| id.tag), Some(Tag(0)));
    s.grown(&read(0, 100, 20), &read(0, 80, 40));
    assert_eq!(s.find(&read(2, 96, 4)), None);
    assert_eq!(s.find(&read(2, 76, 4)), Some((read(0, 0, 1).id, Side::Front)));
    assert_eq!(s.find(&read(0, 80, 40)), None, "never itself");
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(0)), "it starts first now");
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(1)));
}

#[test]
fn who_absorbs_an_earlier_one_takes_its_place_in_line() {
    const MS: u64 = 1_000_000;
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 16);
    s.insert(&read(0, 500, 8), Nanos(0));
    s.insert(&read(1, 300, 8), Nanos(100 * MS));
    s.insert(&read(2, 100, 8), Nanos(200 * MS));
    s.insert(&read(3, 108, 4), Nanos(300 * MS));
    // 4 joins 3 and 0, which came first: 4 is what remains, and stands where 0 stood.
    s.insert(&read(4, 492, 8), Nanos(400 * MS));
    s.grown(&read(4, 492, 8), &read(4, 492, 16));
    s.absorbed(&read(0, 500, 8), &read(4, 492, 16));
    assert_eq!(s.next(Nanos(450 * MS)).map(|id| id.tag), Some(Tag(2)), "nothing has expired");
    s.insert(&read(0, 600, 8), Nanos(450 * MS));
    tune(&mut s, "fifo_batch", 1);
    let order = [4, 0, 1, 3].map(|tag| (tag, s.next(Nanos(500 * MS)).map(|id| id.tag.0)));
    assert_eq!(
        order,
        [4, 0, 1, 3].map(|tag| (tag, Some(tag))),
        "it expired with the one it took in"
    );
    assert_eq!(s.next(Nanos(500 * MS)), None);
}

#[test]
fn who_absorbs_a_later_one_keeps_its_place() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 16);
    (0..4).for_each(|tag| s.insert(&read(tag, 100 * u64::from(tag), 100), Nanos(0)));
    s.grown(&read(1, 100, 100), &read(1, 100, 200));
    s.absorbed(&read(2, 200, 100), &read(1, 100, 200));
    s.grown(&read(3, 300, 100), &read(3, 100, 300));
    s.absorbed(&read(1, 100, 200), &read(3, 100, 300));
    s.insert(&read(1, 7, 1), Nanos(0));
    assert_eq!(drained(&mut s), [0, 3, 1]);
    assert!(!s.has_work(Nanos(0)));
}

#[test]
fn what_is_given_back_goes_first_and_drains_in_its_place() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 16);
    (0..4).for_each(|tag| s.insert(&read(tag, 10 * u64::from(tag), 1), Nanos(0)));
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(0)));
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(1)));
    s.requeue(&read(1, 10, 1));
    assert_eq!(s.next(Nanos(0)).map(|id| id.tag), Some(Tag(1)));
    s.requeue(&read(0, 0, 1));
    s.requeue(&read(1, 10, 1));
    assert_eq!(drained(&mut s), [0, 1, 2, 3]);
    assert_eq!(s.next(Nanos(0)), None);
    (0..4).for_each(|tag| s.insert(&read(tag, 10 * u64::from(tag), 1), Nanos(0)));
}

#[test]
fn async_depth_leaves_the_device_to_reads() {
    let mut rig = Rig::new(1, 1);
    rig.tune("async_depth", 2_u32);
    rig.stays_out = true;
    (0..6).for_each(|tag| rig.insert_at(Tag(tag), WRITE, u64::from(tag), 0));
    assert_eq!(rig.all(0), [0, 1], "two are out, has_work says no");
    rig.insert_at(Tag(10), READ, 0, 0);
    rig.insert_at(Tag(11), READ, 1, 0);
    assert_eq!(rig.all(0), [10, 11], "reads go on");
    rig.end(Tag(0), 0);
    assert_eq!(rig.all(0), [2], "one ended, one goes");
    rig.s.requeue(&item(0, 2, 0, Op::Write(range(2, 1)), Class::BestEffort));
    assert_eq!(rig.s.next(Nanos(0)).map(|id| id.tag), Some(Tag(2)), "no second time");
    rig.tune("async_depth", 0_u32);
    assert_eq!(rig.all(0), [3, 4, 5], "no limit");
    rig.tune("async_depth", 1_u32);
    (1..6).for_each(|tag| rig.end(Tag(tag), 0));
    rig.insert_at(Tag(7), WRITE, 7, 0);
    rig.insert_at(Tag(8), WRITE, 8, 0);
    assert_eq!(rig.all(0), [7]);
    assert_eq!(rig.s.next_wake(), None, "an end will say go, not the time");
    assert_eq!(drained(&mut rig.s), [8], "a limit holds nobody from leaving");
}

#[test]
fn tunables_of_the_original_with_its_defaults() {
    let defaults = [
        ("read_expire", "500"),
        ("write_expire", "5000"),
        ("writes_starved", "2"),
        ("fifo_batch", "16"),
        ("front_merges", "1"),
        ("prio_aging_expire", "10000"),
        ("async_depth", "0"),
    ];
    let mut s = MqDeadline::default();
    assert_eq!(s.tunables(), defaults.map(|(name, _)| name));
    for (name, value) in defaults {
        assert_eq!(s.tunable(name, None).as_deref(), Ok(value), "{name}");
        for good in ["0", "1"] {
            assert_eq!(s.tunable(name, Some(good)).as_deref(), Ok(good), "{name}");
        }
        for bad in ["", "-1", "2147483648", "x", "1.5"] {
            let refused = s.tunable(name, Some(bad));
            assert!(matches!(refused, Err(BadTunable::Value { .. })), "{name} {bad}");
            assert_eq!(s.tunable(name, None).as_deref(), Ok("1"), "{name}: nothing changed");
        }
        let most = s.tunable(name, Some("2147483647"));
        assert_eq!(most.is_ok(), name != "front_merges", "{name}");
    }
    assert_eq!(s.tunable("low_latency", None), Err(BadTunable::Unknown));
}

#[test]
fn a_guest_that_piles_up_one_chain_loses_merges_and_nothing_else() {
    let mut s = MqDeadline::new();
    s.attach(HctxId(0), LaneId(0), 64);
    // All end at one place, which is the same chain whatever the hash.
    (0..40)
        .for_each(|tag| s.insert(&read(tag, 1000 - u64::from(tag), 1 + u64::from(tag)), Nanos(0)));
    let found = s.find(&read(50, 1001, 1)).expect("the newest will do");
    assert_eq!((found.0.tag, found.1), (Tag(39), Side::Back));
    let mut others =
        (0..40).map(|tag| (tag, item(0, 50, 0, Op::Write(range(1001, 1)), Class::Idle)));
    assert!(others.all(|(_, write)| s.find(&write).is_none()));
    assert_eq!(drained(&mut s), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_hctx_that_leaves_with_requests_out_is_forgotten() {
    let mut rig = Rig::new(2, 1);
    rig.stays_out = true;
    rig.tune("async_depth", 1_u32);
    let op = Op::Write(range(0, 1));
    rig.s.insert(&item(1, 0, 0, op, Class::RealTime), Nanos(0));
    assert!(rig.s.next(Nanos(0)).is_some());
    rig.insert_at(Tag(0), WRITE, 5, 0);
    assert_eq!(rig.next(0), None, "its class and its credit are taken");
    rig.s.detach(HctxId(1));
    assert_eq!(rig.next(0), Some(Tag(0)));
}

#[test]
#[should_panic(expected = "a request is inserted once")]
fn inserting_twice_is_a_bug() {
    let mut rig = Rig::new(1, 1);
    rig.insert_at(Tag(0), READ, 0, 0);
    rig.insert_at(Tag(0), WRITE, 0, 0);
}

#[test]
#[should_panic(expected = "only what went ends")]
fn the_end_of_what_waits_is_a_bug() {
    let mut rig = Rig::new(1, 1);
    rig.insert_at(Tag(0), READ, 0, 0);
    rig.end(Tag(0), 0);
}
