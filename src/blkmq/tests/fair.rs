use super::*;
use crate::testkit::rng::Rng;

const SECOND: u64 = 1_000_000_000;

fn shares(lanes: u16) -> FairShare {
    let mut shares = FairShare::new();
    (0..lanes).for_each(|_| shares.add());
    shares
}

/// As a run does: the disk asks, takes when it is not held back, and is held back when it is full.
fn ask(shares: &mut FairShare, lane: u16, depth: u32, now: u64) -> bool {
    let lane = LaneId(lane);
    if shares.asks(lane, Nanos(now)) {
        settle(shares, depth, now);
    }
    let may = !shares.is_full(lane) && (depth == 0 || shares.held(lane) < depth);
    if may {
        shares.take(lane, 1);
        let _ = shares.fills(lane, depth);
    }
    may
}

fn settle(shares: &mut FairShare, depth: u32, now: u64) -> Vec<(u16, bool)> {
    let mut told = Vec::new();
    shares.settle(depth, Nanos(now), &mut |lane, full| told.push((lane.0, full)));
    told
}

/// How many a disk gets when it asks until it is refused.
fn fill(shares: &mut FairShare, lane: u16, depth: u32, now: u64) -> u32 {
    (0..depth).take_while(|_| ask(shares, lane, depth, now)).count().try_into().expect("few")
}

#[test]
fn i35_alone_a_disk_may_hold_all() {
    let mut shares = shares(3);
    assert_eq!(fill(&mut shares, 1, 64, 0), 64);
    assert!(!shares.has_full(), "there is no neighbour to hold it back for");
    assert_eq!(shares.next_wake(), None);
    assert_eq!(shares.share(0), u32::MAX, "no limit");
}

#[test]
fn i35_a_newcomer_gets_its_share_as_others_come_back() {
    let mut shares = shares(2);
    assert_eq!(fill(&mut shares, 0, 64, 0), 64);
    assert!(ask(&mut shares, 1, 64, 10), "as far as shares go; a credit has to come back first");
    assert!(shares.is_full(LaneId(0)), "it has more than its share now");
    for left in (32..64).rev() {
        assert!(!ask(&mut shares, 0, 64, 20));
        shares.give_back(LaneId(0), Nanos(20));
        assert_eq!(shares.held(LaneId(0)), left);
        assert_eq!(settle(&mut shares, 64, 20), []);
    }
    assert!(!ask(&mut shares, 0, 64, 20), "32 is its share");
    shares.give_back(LaneId(0), Nanos(20));
    assert_eq!(settle(&mut shares, 64, 20), [(0, false)]);
    assert!(ask(&mut shares, 0, 64, 20));
    assert_eq!(fill(&mut shares, 1, 64, 20), 31);
    assert!(shares.is_full(LaneId(0)) && shares.is_full(LaneId(1)));
    assert_eq!(settle(&mut shares, 0, 20), [(0, false), (1, false)], "no depth, no shares");
    assert!(!shares.has_full());
}

#[test]
fn i35_an_idle_neighbour_frees_its_share() {
    let mut shares = shares(2);
    assert!(ask(&mut shares, 1, 8, 0));
    assert_eq!(fill(&mut shares, 0, 8, 0), 4);
    assert_eq!(shares.next_wake(), Some(Nanos(SECOND)));
    assert_eq!(settle(&mut shares, 8, SECOND), []);
    assert_eq!(shares.active(), 2, "its request is still out");
    shares.give_back(LaneId(1), Nanos(SECOND + 5));
    assert_eq!(settle(&mut shares, 8, 2 * SECOND), []);
    let wake = shares.next_wake().expect("it may be idle soon");
    assert_eq!(wake, Nanos(2 * SECOND + 5));
    assert_eq!(settle(&mut shares, 8, wake.0), [(0, false)]);
    assert_eq!((shares.active(), shares.next_wake()), (1, None));
    assert_eq!(fill(&mut shares, 0, 8, wake.0), 4, "all eight");
}

#[test]
fn who_held_disks_back_may_go() {
    let mut shares = shares(2);
    assert!(ask(&mut shares, 1, 8, 0));
    assert_eq!(fill(&mut shares, 0, 8, 0), 4);
    shares.forget();
    assert!(!shares.has_full());
    assert_eq!(settle(&mut shares, 8, 0), [(0, true)], "and the next one hears of it");
}

#[test]
fn i35_a_share_is_rounded_up_and_four_at_least() {
    for (depth, lanes, share) in [(10, 4, 4), (64, 3, 22), (5, 2, 4), (1, 2, 4), (256, 7, 37)] {
        let mut shares = shares(lanes);
        for lane in 0..lanes {
            assert!(shares.asks(LaneId(lane), Nanos(0)));
        }
        assert_eq!(shares.share(depth), share, "{depth} for {lanes}");
    }
}

/// Disks that come, go and are slow, in a seeded order: what is newly taken is within the share.
#[test]
fn i35_nobody_takes_beyond_its_share() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let lanes = u16::try_from(1 + rng.below(5)).expect("few");
        let depth = u32::try_from(1 + rng.below(64)).expect("few");
        let mut shares = shares(lanes);
        let mut now = 0;
        // When each last asked or gave back, by the plain definition.
        let mut last = vec![None; usize::from(lanes)];
        for _ in 0..2000 {
            let pause = if rng.chance(1, 50) { 2 * SECOND } else { SECOND / 100 };
            now += rng.below(pause);
            settle(&mut shares, depth, now);
            let lane = u16::try_from(rng.below(u64::from(lanes))).expect("few");
            let held = shares.held(LaneId(lane));
            if rng.chance(1, 3) {
                if held > 0 {
                    shares.give_back(LaneId(lane), Nanos(now));
                    last[usize::from(lane)] = Some(now);
                    settle(&mut shares, depth, now);
                }
                continue;
            }
            last[usize::from(lane)] = Some(now);
            let got = ask(&mut shares, lane, depth, now);
            let is_active = |(i, last): (usize, &Option<u64>)| {
                let held = shares.held(LaneId(u16::try_from(i).expect("few")));
                last.is_some_and(|t| held > 0 || now < t + SECOND)
            };
            let active = last.iter().enumerate().filter(|l| is_active(*l)).count();
            assert_eq!(shares.active() as usize, active, "H2 (seed {seed})");
            let active = u32::try_from(active).expect("few");
            let share = if active == 1 { depth } else { depth.div_ceil(active).max(4).min(depth) };
            assert_eq!(got, held < share, "H1: {held} of {share} (seed {seed})");
            assert!(shares.next_wake().is_none_or(|wake| wake > Nanos(now)), "(seed {seed})");
        }
    }
}
