use super::*;
use crate::testkit::core_disk::Rng;

fn lanes(weights: &[u16]) -> Wf2q {
    let mut stamps = Wf2q::new();
    (0..).zip(weights).for_each(|(l, w)| stamps.set_weight(LaneId(l), *w));
    stamps
}

/// Lets lanes that always have something take `turns` turns of `budget`; how many each got.
fn turns(stamps: &mut Wf2q, n: usize, turns: u32, budget: u32) -> Vec<u32> {
    let mut got = vec![0; n];
    for _ in 0..turns {
        let lane = stamps.select().expect("all are active");
        got[lane.index()] += 1;
        stamps.serve(budget);
        stamps.renew(lane, budget, budget);
    }
    got
}

#[test]
fn turns_go_by_weight_and_evenly() {
    let mut stamps = lanes(&[100, 100, 200, 400]);
    (0..4).for_each(|l| stamps.activate(LaneId(l), 10));
    for _ in 0..50 {
        assert_eq!(turns(&mut stamps, 4, 8, 10), [1, 1, 2, 4]);
    }
}

#[test]
fn weights_are_brought_into_range_and_take_effect_with_the_next_stamp() {
    let mut stamps = lanes(&[0, 2000]);
    (0..2).for_each(|l| stamps.activate(LaneId(l), 10));
    assert_eq!(stamps.weights, 1 + 1000);
    stamps.set_weight(LaneId(0), 1000);
    assert_eq!(stamps.weights, 1 + 1000, "V7");
    let before = stamps.entities[0].finish;
    assert_eq!(before, 10 << SHIFT, "V7");
    turns(&mut stamps, 2, 2000, 10);
    assert_eq!(stamps.weights, 2000);
    let got = turns(&mut stamps, 2, 1000, 10);
    assert!(got[0].abs_diff(500) <= 1, "{got:?}");
}

#[test]
fn an_idle_lane_comes_back_at_v_and_one_ahead_of_it_where_it_was() {
    let mut stamps = lanes(&[100, 100]);
    (0..2).for_each(|l| stamps.activate(LaneId(l), 10));
    let first = stamps.select().expect("both are active");
    stamps.serve(100);
    stamps.leave(first, 100);
    assert_eq!(stamps.entities[first.index()].state, State::Lingering, "V5");
    assert_eq!(stamps.weights, 200, "V5");
    let finish = stamps.entities[first.index()].finish;
    stamps.activate(first, 10);
    assert_eq!(stamps.entities[first.index()].start, finish, "V2: it has had its share");
    assert_eq!(stamps.weights, 200);
    stamps.leave(first, 0);
    let other = stamps.select().expect("one is active");
    assert_ne!(other, first);
    stamps.serve(1000);
    stamps.renew(other, 1000, 10);
    assert_eq!(stamps.select(), Some(other));
    assert_eq!((stamps.weights, stamps.entities[first.index()].state), (100, State::Idle));
    stamps.activate(first, 10);
    assert_eq!(stamps.entities[first.index()].start, stamps.v, "V2: idleness earned nothing");
}

#[test]
fn the_fluid_never_runs_away_from_those_who_stay() {
    // Lanes come and go at random; who stays is never further behind V than one budget.
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let weights: Vec<u16> =
            (0..8).map(|_| u16::try_from(1 + rng.below(1000)).expect("small")).collect();
        let mut stamps = lanes(&weights);
        stamps.activate(LaneId(0), 1000);
        for _ in 0..5000 {
            let lane = LaneId(u16::try_from(1 + rng.below(7)).expect("small"));
            if !stamps.is_active(lane) {
                stamps.activate(lane, 1 + u32::try_from(rng.below(1000)).expect("small"));
            }
            let chosen = stamps.select().expect("the first is always active");
            let used = 1 + u32::try_from(rng.below(1000)).expect("small");
            stamps.serve(used);
            if chosen.0 != 0 && rng.chance(600) {
                stamps.leave(chosen, used);
            } else if rng.chance(300) {
                stamps.cut(chosen, used);
            } else {
                stamps.renew(chosen, used, 1 + u32::try_from(rng.below(1000)).expect("small"));
            }
            stamps.catch_up();
            let stays = stamps.entities[0];
            let behind = stamps.v.saturating_sub(stays.start);
            let budget = (2000 << SHIFT) / u64::from(stays.weight);
            assert!(behind <= budget, "seed {seed}: {} units behind", behind >> SHIFT);
        }
    }
}

#[test]
fn what_peek_says_select_does() {
    let mut stamps = lanes(&[10, 20, 30]);
    assert_eq!((stamps.peek(None), stamps.select()), (None, None));
    (0..3).for_each(|l| stamps.activate(LaneId(l), 50));
    for i in 0..100 {
        let said = stamps.peek(None);
        let lane = stamps.select().expect("all are active");
        assert_eq!(said, Some(lane));
        assert_ne!(stamps.peek(said), said);
        stamps.serve(i);
        stamps.renew(lane, i, 50);
    }
}

#[test]
fn a_cut_turn_keeps_its_end() {
    let mut stamps = lanes(&[100, 100]);
    stamps.activate(LaneId(0), 1000);
    assert_eq!(stamps.select(), Some(LaneId(0)));
    let finish = stamps.entities[0].finish;
    stamps.serve(300);
    stamps.activate(LaneId(1), 50);
    assert!(stamps.has_rival());
    stamps.cut(LaneId(0), 300);
    assert_eq!(stamps.entities[0].finish, finish);
    assert_eq!(stamps.select(), Some(LaneId(1)));
    stamps.serve(50);
    stamps.renew(LaneId(1), 50, 1000);
    assert_eq!(stamps.select(), Some(LaneId(0)), "and goes on");
    assert!(!stamps.has_rival(), "the other is to end later now");
}

#[test]
fn who_had_its_share_becomes_a_rival_when_the_others_had_theirs() {
    let mut stamps = lanes(&[100, 100]);
    stamps.activate(LaneId(1), 50);
    assert_eq!(stamps.select(), Some(LaneId(1)));
    stamps.activate(LaneId(0), 1000);
    stamps.serve(50);
    stamps.leave(LaneId(1), 50);
    assert_eq!(stamps.select(), Some(LaneId(0)));
    stamps.activate(LaneId(1), 50);
    assert!(!stamps.has_rival(), "V is at 25, it has had 50");
    stamps.serve(49);
    assert!(!stamps.has_rival());
    stamps.serve(1);
    assert!(stamps.has_rival(), "both have had 50");
    stamps.cut(LaneId(0), 50);
    assert_eq!(stamps.select(), Some(LaneId(1)));
}

#[test]
fn the_origin_moves_and_nobody_notices() {
    let mut stamps = lanes(&[100, 300]);
    (0..2).for_each(|l| stamps.activate(LaneId(l), 10));
    turns(&mut stamps, 2, 7, 10);
    let far = REBASE - (40 << SHIFT) / 400;
    let ahead = far - stamps.v;
    stamps.v += ahead;
    for entity in &mut stamps.entities {
        entity.start += ahead;
        entity.finish += ahead;
    }
    let got = turns(&mut stamps, 2, 4000, 10);
    assert!(stamps.v < REBASE && stamps.v >= KEPT);
    assert!(got[0].abs_diff(1000) <= 1, "{got:?}");
}
