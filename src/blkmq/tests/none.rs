use super::*;
use crate::blkmq::sched::{BadTunable, conformance};
use crate::block::{Class, LaneId, Op, Sector, SectorRange};

fn item(hctx: u16, tag: u16) -> Item {
    let range = SectorRange::new(Sector(0), 1, 1).expect("inside");
    let id = Ident { hctx: HctxId(hctx), tag: Tag(tag) };
    let class = Class::default();
    Item { id, lane: LaneId(0), op: Op::Read(range), class, arrival: Nanos(0), issued: Nanos(0) }
}

#[test]
fn none_keeps_the_contract() {
    conformance::check(|| Box::new(NoScheduler::new()));
}

#[test]
fn i14_turns_go_round_whatever_joins() {
    let mut s = NoScheduler::new();
    (0..3).for_each(|h| s.attach(HctxId(h), LaneId(0), 8));
    for h in [0, 2] {
        (0..4).for_each(|t| s.insert(&item(h, t), Nanos(0)));
    }
    let mut got = Vec::new();
    for i in 0..12 {
        if i == 2 {
            (0..4).for_each(|t| s.insert(&item(1, t), Nanos(0)));
        }
        let id = s.next(Nanos(0)).expect("twelve were inserted");
        got.push((id.hctx.0, id.tag.0));
    }
    let turns: Vec<u16> = got.iter().map(|(h, _)| *h).collect();
    assert_eq!(turns, [0, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1]);
    assert_eq!(s.next(Nanos(0)), None);
}

#[test]
fn what_is_given_back_goes_first() {
    let mut s = NoScheduler::new();
    s.attach(HctxId(0), LaneId(0), 3);
    (0..3).for_each(|t| s.insert(&item(0, t), Nanos(0)));
    let first = s.next(Nanos(0)).expect("three");
    s.requeue(&item(first.hctx.0, first.tag.0));
    let order: Vec<u16> = std::iter::from_fn(|| s.next(Nanos(0))).map(|id| id.tag.0).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn of_two_that_became_one_the_earlier_place_stays() {
    // Every pair, at every position of the ring's head.
    for turn in 0..8u16 {
        for (gone, into) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).filter(|(a, b)| a != b)
        {
            let mut s = NoScheduler::new();
            s.attach(HctxId(0), LaneId(0), 8);
            for t in 0..turn {
                s.insert(&item(0, t), Nanos(0));
                s.next(Nanos(0)).expect("just inserted");
            }
            (0..5).for_each(|t| s.insert(&item(0, t), Nanos(0)));
            s.absorbed(&item(0, gone), &item(0, into));
            let order: Vec<u16> =
                std::iter::from_fn(|| s.next(Nanos(0))).map(|i| i.tag.0).collect();
            let mut want: Vec<u16> = (0..5).collect();
            if gone < into {
                want.swap(usize::from(gone), usize::from(into));
            }
            want.retain(|t| *t != gone);
            assert_eq!(order, want, "{gone} into {into}");
            assert!(!s.has_work(Nanos(0)));
        }
    }
}

#[test]
#[should_panic(expected = "a hctx cannot hold more requests than tags")]
fn more_requests_than_tags_is_a_bug() {
    let mut s = NoScheduler::new();
    s.attach(HctxId(0), LaneId(0), 2);
    (0..3).for_each(|t| s.insert(&item(0, t), Nanos(0)));
}

#[test]
fn none_has_no_tunables() {
    let mut s = NoScheduler::default();
    assert_eq!(s.name(), "none");
    assert_eq!(s.tunable("fifo_batch", Some("16")), Err(BadTunable::Unknown));
    assert_eq!(s.next_wake(), None);
}
