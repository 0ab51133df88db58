use super::super::tune::Tune;
use super::*;
use crate::blkmq::sched::Side;
use crate::block::Tag;
use crate::testkit::core_disk::Rng;

const MS: u64 = 1_000_000;

fn id(hctx: u16, tag: u16) -> Ident {
    Ident { hctx: HctxId(hctx), tag: Tag(tag) }
}

fn item(id: Ident, start: u64, class: Class, arrival: u64) -> Item {
    let range = SectorRange::new(Sector(start), 8, u64::MAX).expect("inside");
    Item {
        id,
        lane: LaneId(0),
        op: Op::Read(range),
        class,
        arrival: Nanos(arrival),
        issued: Nanos(0),
    }
}

fn write(of: Item) -> Item {
    Item { op: Op::Write(of.op.range().expect("a range")), ..of }
}

/// One lane.
fn store(hctxs: u16, sorted: bool) -> Store {
    let mut store = Store::new();
    (0..hctxs).for_each(|h| store.attach(HctxId(h), LaneId(0), 32));
    store.set_sorted(sorted);
    store
}

fn put(store: &mut Store, items: &[Item]) {
    items.iter().for_each(|item| store.insert(item, 16));
}

fn pop(store: &mut Store, now: u64, tune: &Tune) -> Option<Ident> {
    store.refresh(LaneId(0), Nanos(now), tune);
    let head = store.head(LaneId(0), Nanos(now), tune, true)?;
    let entry = store.take(head.cell);
    store.entries[head.cell].state = State::Out { counted: false };
    store.landed(head.cell);
    Some(entry.id)
}

fn all(store: &mut Store, now: u64) -> Vec<(u16, u16)> {
    let tune = Tune::new();
    let one = || pop(store, now, &tune).map(|id| (id.hctx.0, id.tag.0));
    std::iter::from_fn(one).collect()
}

#[test]
fn unsorted_hctxs_take_turns_in_order_of_arrival() {
    let mut store = store(3, false);
    let be = |h, t| item(id(h, t), 1000 - u64::from(t), Class::BestEffort, 0);
    put(&mut store, &[be(0, 0), be(0, 1), be(0, 2), be(2, 0), be(2, 1), be(1, 7)]);
    assert_eq!(all(&mut store, 0), [(0, 0), (2, 0), (1, 7), (0, 1), (2, 1), (0, 2)]);
    assert_eq!((store.queued, store.in_flight), (0, 0));
}

#[test]
fn classes_go_in_order_and_what_came_back_before_them() {
    for sorted in [false, true] {
        let mut store = store(1, sorted);
        let of = |t, class| item(id(0, t), 0, class, 0);
        put(&mut store, &[of(0, Class::Idle), of(1, Class::BestEffort), of(2, Class::RealTime)]);
        put(&mut store, &[of(3, Class::BestEffort), of(4, Class::Idle)]);
        let head = store.head(LaneId(0), Nanos(0), &Tune::new(), true).expect("five wait");
        store.take(head.cell);
        store.entries[head.cell].state = State::Out { counted: false };
        store.landed(head.cell);
        put(&mut store, &[of(5, Class::RealTime)]);
        store.give_back(&of(2, Class::Idle));
        assert_eq!(store.entries[head.cell].paid, 16);
        let order: Vec<u16> = all(&mut store, 0).iter().map(|(_, t)| *t).collect();
        assert_eq!(order, [2, 5, 1, 3, 0, 4], "sorted: {sorted}");
    }
}

#[test]
fn i17_age_goes_before_class() {
    for sorted in [false, true] {
        let mut store = store(2, sorted);
        let old = 10_000 * MS;
        let of = |h, t, class, arrival| item(id(h, t), 0, class, arrival);
        put(&mut store, &[of(0, 0, Class::Idle, 5), of(0, 1, Class::Idle, 9)]);
        put(&mut store, &[of(1, 0, Class::BestEffort, 7), of(1, 1, Class::BestEffort, 8)]);
        put(&mut store, &[of(0, 2, Class::RealTime, 10), of(1, 2, Class::RealTime, 11)]);
        let tune = Tune::new();
        let mut next = |now: u64| pop(&mut store, now, &tune).map(|id| (id.hctx.0, id.tag.0));
        assert_eq!(next(old + 4), Some((0, 2)), "nothing is old enough");
        assert_eq!(next(old + 5), Some((0, 0)), "an idle one is");
        assert_eq!(next(old + 7), Some((1, 0)));
        assert_eq!(next(old + 7), Some((1, 2)), "the next of either is not");
        assert_eq!(next(old + 9), Some((0, 1)), "an idle one is, the best-effort one not in line");
        assert_eq!(next(old + 9), Some((1, 1)));
        assert_eq!(next(old + 9), None);
    }
}

#[test]
fn sorted_the_nearest_goes_first_and_behind_is_further() {
    let mut store = store(2, true);
    let at = |t, start| item(id(t % 2, t), start, Class::BestEffort, 0);
    put(&mut store, &[at(0, 5000), at(1, 100_000), at(2, 4000), at(3, 90_000), at(4, 1 << 40)]);
    store.lanes[0].position = 96_000;
    // 6000 behind is as far as 12000; 4000 ahead is nearer.
    let order: Vec<u16> = all(&mut store, 0).iter().map(|(_, t)| *t).collect();
    // From 100008: 10008 behind counts as 20016, the far one is much further. Then beyond the reach
    // of back_seek_max nothing lies behind, so the sweep ends at the far one and starts again.
    assert_eq!(order, [1, 3, 4, 2, 0]);
}

#[test]
fn sorted_reach_backwards_ends() {
    let mut tune = Tune::new();
    for (max, first) in [("5", 1), ("4", 0)] {
        tune.access("back_seek_max", Some(max)).expect("a good value");
        let mut store = store(1, true);
        let at = |t, start| item(id(0, t), start, Class::BestEffort, 0);
        put(&mut store, &[at(0, 100), at(1, 990)]);
        store.lanes[0].position = 1000;
        assert_eq!(pop(&mut store, 0, &tune), Some(id(0, first)), "{max} KiB");
    }
}

#[test]
fn sorted_one_overdue_request_goes_first_in_each_turn() {
    let mut store = store(1, true);
    let tune = Tune::new();
    let at = |t, start, arrival| item(id(0, t), start, Class::BestEffort, arrival);
    put(&mut store, &[at(0, 50, 10 * MS), at(1, 5000, 0), write(at(2, 9000, 0)), at(3, 60, MS)]);
    let head = |store: &Store, now: u64, expired| {
        let head = store.head(LaneId(0), Nanos(now), &tune, expired).expect("four wait");
        (store.entries[head.cell].id.tag.0, head.overdue)
    };
    assert_eq!(head(&store, 125 * MS, false), (0, false), "nobody waited for longer");
    assert_eq!(head(&store, 125 * MS + 1, false), (0, false), "the first read is not overdue");
    assert_eq!(head(&store, 136 * MS, false), (0, true));
    assert_eq!(head(&store, 251 * MS, false), (0, true), "the most overdue");
    assert_eq!(head(&store, 251 * MS, true), (0, false), "once in a turn");
    let first = store.entries.cell(id(0, 0));
    store.take(first);
    assert_eq!(head(&store, 251 * MS, false), (1, true));
    assert_eq!(head(&store, 251 * MS, true), (3, false), "by sector");
    let second = store.entries.cell(id(0, 1));
    store.take(second);
    let third = store.entries.cell(id(0, 3));
    store.take(third);
    assert_eq!(head(&store, 250 * MS + 1, false), (2, true), "writes after twice the time");
}

#[test]
fn c5_find_names_what_touches_and_fits() {
    let mut store = store(2, true);
    let at = |h, t, start| item(id(h, t), start, Class::BestEffort, 0);
    put(&mut store, &[at(0, 0, 100), at(1, 1, 100), write(at(0, 2, 116)), at(0, 3, 200)]);
    assert_eq!(store.find(&at(0, 9, 108)), Some((id(0, 0), Side::Back)));
    assert_eq!(store.find(&at(1, 9, 108)), Some((id(1, 1), Side::Back)), "of its hctx");
    assert_eq!(store.find(&write(at(0, 9, 108))), Some((id(0, 2), Side::Front)));
    assert_eq!(store.find(&write(at(1, 9, 108))), None);
    assert_eq!(store.find(&at(0, 9, 192)), Some((id(0, 3), Side::Front)));
    assert_eq!(store.find(&at(0, 9, 107)), None, "overlapping is not touching");
    assert_eq!(store.find(&at(0, 9, 208)), Some((id(0, 3), Side::Back)));
    let rt = item(id(0, 9), 208, Class::RealTime, 0);
    assert_eq!(store.find(&rt), None, "of its class");
    assert_eq!(store.find(&at(0, 3, 208)), None, "not itself");
    let mut unsorted = self::store(1, false);
    put(&mut unsorted, &[at(0, 0, 100)]);
    assert_eq!(unsorted.find(&at(0, 9, 108)), None, "the core looks by itself");
}

#[test]
fn what_grows_at_the_front_moves_and_what_absorbs_takes_the_earlier_place() {
    for sorted in [false, true] {
        let mut store = store(1, sorted);
        let at = |t, start, arrival| item(id(0, t), start, Class::BestEffort, arrival);
        put(&mut store, &[at(0, 800, 1), at(1, 24, 2), at(2, 16, 3), at(3, 500, 4)]);
        let mut grown = at(2, 16, 3);
        grown.op = Op::Read(SectorRange::new(Sector(16), 16, u64::MAX).expect("inside"));
        store.grown(&grown, 24);
        store.absorbed(id(0, 1), id(0, 2));
        let cell = store.entries.cell(id(0, 2));
        let entry = store.entries[cell];
        assert_eq!((entry.start, entry.end, entry.cost), (16, 32, 24));
        assert_eq!((entry.seq, entry.arrival), (2, Nanos(2)));
        let mut front = grown;
        front.op = Op::Read(SectorRange::new(Sector(600), 16, u64::MAX).expect("inside"));
        if sorted {
            store.grown(&front, 24); // as if it had moved: the tree follows
        }
        assert_eq!(store.queued, 3);
        let order: Vec<u16> = all(&mut store, 0).iter().map(|(_, t)| *t).collect();
        assert_eq!(order, if sorted { [3, 2, 0] } else { [0, 2, 3] });
    }
}

#[test]
fn a_merge_may_empty_a_hctx_of_a_class() {
    let mut store = store(2, false);
    let of = |h, t| item(id(h, t), 0, Class::BestEffort, 0);
    put(&mut store, &[of(0, 0), of(0, 1)]);
    let head = store.head(LaneId(0), Nanos(0), &Tune::new(), true).expect("two wait");
    store.take(head.cell);
    store.entries[head.cell].state = State::Out { counted: false };
    store.landed(head.cell);
    store.give_back(&of(0, 0));
    put(&mut store, &[of(1, 0)]);
    store.absorbed(id(0, 1), id(0, 0)); // into the one that was given back
    assert_eq!(all(&mut store, 0), [(0, 0), (1, 0)]);
    put(&mut store, &[of(0, 5), of(1, 5)]);
    assert_eq!(all(&mut store, 0).len(), 2, "and it comes again");
}

#[test]
fn i28_drain_and_resorting_keep_the_order_of_arrival() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut store = store(4, rng.chance(500));
        let mut arrived: Vec<Vec<u16>> = vec![Vec::new(); 4];
        for now in 0..60 {
            let hctx = rng.index(4);
            let tag = u16::try_from(arrived[hctx].len()).expect("few");
            if tag == 32 {
                continue;
            }
            let class = [Class::RealTime, Class::BestEffort, Class::Idle][rng.index(3)];
            let h = u16::try_from(hctx).expect("few");
            let item = item(id(h, tag), rng.below(1 << 30), class, now);
            put(&mut store, &[if rng.chance(500) { write(item) } else { item }]);
            arrived[hctx].push(tag);
            if rng.chance(50) {
                let sorted = rng.chance(500);
                store.set_sorted(sorted);
            }
        }
        let mut drained: Vec<Vec<u16>> = vec![Vec::new(); 4];
        store.drain(&mut |id| drained[id.hctx.index()].push(id.tag.0));
        assert_eq!(drained, arrived, "seed {seed}");
        assert_eq!(store.queued, 0);
        (0..4).for_each(|h| store.detach(HctxId(h)));
    }
}

#[test]
fn a_hctx_leaves_the_round_and_the_others_stay() {
    let mut store = store(3, false);
    let be = |h, t| item(id(h, t), 0, Class::BestEffort, 0);
    put(&mut store, &[be(0, 0), be(1, 0), be(2, 0), be(1, 1)]);
    let (gone, into) = (id(1, 1), id(1, 0));
    store.absorbed(gone, into);
    let cell = store.entries.cell(into);
    store.take(cell);
    store.entries[cell].state = State::Out { counted: false };
    store.landed(cell);
    store.detach(HctxId(1)); // empty, and still in the round
    assert_eq!(all(&mut store, 0), [(0, 0), (2, 0)]);
}
