use self::world::{Device, Guest, MS, SECOND, World, ratio};
use super::*;
use crate::blkmq::sched::{NoScheduler, conformance};
use crate::block::{Class, Sector, SectorRange, Tag};
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;

#[path = "bfq_world.rs"]
mod world;

fn with(settings: &[(&str, &str)]) -> Bfq {
    let mut bfq = Bfq::new();
    for (name, value) in settings {
        bfq.tunable(name, Some(value)).expect("a good value");
    }
    bfq
}

fn fair() -> Box<dyn Scheduler> {
    Box::new(Bfq::new())
}

fn none() -> Box<dyn Scheduler> {
    Box::new(NoScheduler::new())
}

fn id(hctx: u16, tag: u16) -> Ident {
    Ident { hctx: HctxId(hctx), tag: Tag(tag) }
}

fn read(id: Ident, start: u64, sectors: u64) -> Item {
    let range = SectorRange::new(Sector(start), sectors, u64::MAX).expect("inside");
    Item {
        id,
        lane: LaneId(id.hctx.0),
        op: Op::Read(range),
        class: Class::BestEffort,
        arrival: Nanos(0),
        issued: Nanos(0),
    }
}

fn write(id: Ident, start: u64, sectors: u64) -> Item {
    let item = read(id, start, sectors);
    Item { op: Op::Write(item.op.range().expect("a range")), ..item }
}

/// Lanes of one hctx each.
fn lanes(mut bfq: Bfq, n: u16, depth: u16) -> Bfq {
    (0..n).for_each(|h| bfq.attach(HctxId(h), LaneId(h), depth));
    bfq
}

#[test]
fn bfq_keeps_the_contract_whatever_is_set() {
    conformance::check(|| Box::new(Bfq::new()));
    let joined = conformance::check_joining(|| Box::new(Bfq::rotational()));
    assert!(joined > 100, "{joined} requests were joined");
    conformance::check(|| Box::new(with(&[("slice_idle", "8")])));
    conformance::check(|| Box::new(with(&[("sorted", "1"), ("slice_idle_us", "500")])));
    conformance::check(|| Box::new(with(&[("strict_guarantees", "1"), ("slice_idle", "2")])));
    conformance::check(|| Box::new(with(&[("window", "16"), ("window_hold", "5")])));
    conformance::check(|| Box::new(with(&[("prio_aging_expire", "1"), ("max_budget", "64")])));
}

/// After a second to get going, shares over ten seconds.
fn shares(guests: Vec<Guest>, device: Device, seed: u64) -> Vec<f64> {
    let n = guests.len();
    let mut world = World::new(fair(), device, guests, seed);
    world.run(SECOND);
    world.forget();
    world.run(11 * SECOND);
    assert_eq!(world.stalls, 0, "I21: something waits and nothing goes");
    (0..n).map(|g| world.share(g)).collect()
}

#[test]
fn i21_service_is_in_proportion_to_weight() {
    let guest = |weight| Guest::reader(weight, 64, 8);
    for (seed, weights) in
        [vec![100, 200], vec![100, 100, 200, 400], vec![10, 1000], vec![7; 9]].iter().enumerate()
    {
        let guests = weights.iter().map(|w| guest(*w)).collect();
        let sum: u16 = weights.iter().sum();
        for (got, weight) in shares(guests, Device::FLASH, seed as u64).iter().zip(weights) {
            let due = ratio(u64::from(*weight), u64::from(sum));
            assert!((got / due - 1.0).abs() < 0.05, "{weights:?}: {weight} got {got}, not {due}");
        }
    }
}

#[test]
fn i21_sizes_and_directions_change_no_share() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let mut draw = |n| u16::try_from(1 + rng.below(n)).expect("small");
        let n = 2 + draw(6);
        let guests: Vec<Guest> = (0..n)
            .map(|_| {
                let (low, more) = (u64::from(draw(64)), u64::from(draw(256)));
                Guest {
                    weight: draw(10) * 100,
                    sectors: (low, low + more),
                    writes: u64::from(draw(1000)),
                    ..Guest::reader(100, 80 + draw(40), 0)
                }
            })
            .collect();
        let sum: u16 = guests.iter().map(|g| g.weight).sum();
        let got = shares(guests.clone(), Device::FLASH, seed);
        for (got, guest) in got.iter().zip(&guests) {
            let due = ratio(u64::from(guest.weight), u64::from(sum));
            assert!((got / due - 1.0).abs() < 0.05, "seed {seed}: {guest:?} got {got}, not {due}");
        }
    }
}

/// The rule of `wf2q`, on the order of service: at no time is a lane that always has something
/// further from its share than one largest budget and one largest request.
#[test]
fn i21_the_lag_is_at_most_a_budget_and_a_request() {
    let mut worst = 0.0_f64;
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let n = 2 + rng.index(20);
        let mut bfq = lanes(Bfq::new(), u16::try_from(n).expect("few"), 64);
        let weights: Vec<u16> =
            (0..n).map(|_| u16::try_from(1 + rng.below(1000)).expect("small")).collect();
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        (0_u16..).zip(&weights).for_each(|(l, w)| bfq.set_weight(LaneId(l), *w));
        let mut served = vec![0_u64; n];
        let mut items = Vec::new();
        for h in 0..n {
            let h = u16::try_from(h).expect("few");
            items.push((0..16).map(|t| read(id(h, t), 0, 1 + rng.below(248))).collect::<Vec<_>>());
            items.last().expect("one").iter().for_each(|i| bfq.insert(i, Nanos(0)));
        }
        for step in 0..40_000 {
            let at = bfq.next(Nanos(step)).expect("all have something");
            let item = items[at.hctx.index()][at.tag.index()];
            served[at.hctx.index()] += World::service_of(item.op);
            bfq.done(&item, Nanos(step));
            let again = read(at, 0, 1 + rng.below(248));
            items[at.hctx.index()][at.tag.index()] = again;
            bfq.insert(&again, Nanos(step));
            let total: u64 = served.iter().sum();
            for (served, weight) in served.iter().zip(&weights) {
                let due = ratio(total * u64::from(*weight), sum);
                worst = worst.max((ratio(*served, 1) - due).abs());
            }
        }
    }
    assert!(worst <= 512.0 + 256.0, "the lag came to {worst} units");
    assert!(worst > 100.0, "a lag of {worst} units: nothing was measured");
}

/// Lanes that always have something and lanes that come and go, beside a fluid that serves all who
/// have something at the same time, each at a speed in proportion to its weight.
#[test]
fn i21_the_lag_behind_a_fluid_is_bounded_whoever_comes_and_goes() {
    let mut worst = 0.0_f64;
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let n = 2 + rng.index(8);
        let mut bfq = lanes(Bfq::new(), u16::try_from(n).expect("few"), 64);
        let weights: Vec<u16> =
            (0..n).map(|_| u16::try_from(50 + rng.below(400)).expect("small")).collect();
        (0_u16..).zip(&weights).for_each(|(l, w)| bfq.set_weight(LaneId(l), *w));
        let mut free: Vec<Vec<u16>> = vec![(0..64).collect(); n];
        let mut items = vec![vec![read(id(0, 0), 0, 1); 64]; n];
        let (mut fluid, mut held, mut served) = (vec![0.0; n], vec![0_u64; n], vec![0_u64; n]);
        let mut poured = vec![0.0; n];
        for step in 0..20_000 {
            for h in 0..n {
                let steady = h % 2 == 0;
                let burst = if steady { free[h].len() } else { rng.index(free[h].len() + 1) };
                if !steady && !rng.chance(20) {
                    continue;
                }
                for tag in free[h].drain(..burst) {
                    let at = id(u16::try_from(h).expect("few"), tag);
                    let item = read(at, 0, 1 + rng.below(120));
                    items[h][usize::from(tag)] = item;
                    bfq.insert(&item, Nanos(step));
                    held[h] += World::service_of(item.op);
                }
            }
            let at = bfq.next(Nanos(step)).expect("the first always has something");
            let h = at.hctx.index();
            let cost = World::service_of(items[h][at.tag.index()].op);
            served[h] += cost;
            bfq.done(&items[h][at.tag.index()], Nanos(step));
            free[h].push(at.tag.0);
            (0..n).for_each(|h| fluid[h] = ratio(held[h], 1) - poured[h]);
            let mut rest = ratio(cost, 1);
            while rest > 1e-6 {
                let flows = |l: &usize| fluid[*l] > 1e-6;
                let sum: f64 = (0..n).filter(flows).map(|l| f64::from(weights[l])).sum();
                let time = |l: usize| fluid[l] * sum / f64::from(weights[l]);
                let step = (0..n).filter(flows).map(time).fold(rest, f64::min);
                for l in (0..n).filter(flows).collect::<Vec<_>>() {
                    let drop = step * f64::from(weights[l]) / sum;
                    fluid[l] -= drop;
                    poured[l] += drop;
                }
                rest -= step;
            }
            for l in 0..n {
                worst = worst.max(poured[l] - ratio(served[l], 1));
            }
        }
    }
    assert!(worst <= 512.0 + 128.0, "the lag came to {worst} units");
    assert!(worst > 100.0, "a lag of {worst} units: nothing was measured");
}

#[test]
fn i21_a_lone_lane_has_the_device_to_itself() {
    let run = |scheduler, guests| {
        let mut world = World::new(scheduler, Device::FLASH, guests, 1);
        world.run(SECOND);
        world
    };
    let lone = || vec![Guest::writer(1, 64, 128)];
    let bfq = run(fair(), lone());
    let unfair = run(none(), lone());
    assert_eq!(bfq.fates[0].requests, unfair.fates[0].requests, "with nobody else");
    // And beside one that is idle nearly always it loses next to nothing.
    let rare = Guest { think: 100 * MS, ..Guest::reader(1000, 1, 8) };
    let bfq = run(fair(), vec![Guest::writer(1, 64, 128), rare]);
    assert_eq!(bfq.stalls, 0);
    assert!(bfq.fates[1].requests > 5);
    let part = ratio(bfq.fates[0].requests, unfair.fates[0].requests);
    assert!(part > 0.9, "{part} of what it has alone");
}

#[test]
fn i21_idleness_earns_nothing() {
    // One has been busy for ten seconds when the other comes. From then on they share.
    let mut bfq = lanes(Bfq::new(), 2, 64);
    let mut served = [0_u64; 2];
    let mut items = vec![Vec::new(); 2];
    for (h, held) in (0..).zip(&mut items) {
        *held = (0..64).map(|t| read(id(h, t), 0, 8)).collect::<Vec<Item>>();
    }
    items[0].iter().for_each(|i| bfq.insert(i, Nanos(0)));
    for step in 0..100_000 {
        if step == 50_000 {
            assert_eq!(served[1], 0);
            served[0] = 0;
            items[1].iter().for_each(|i| bfq.insert(i, Nanos(step)));
        }
        let at = bfq.next(Nanos(step)).expect("there is always something");
        served[at.hctx.index()] += 16;
        let item = items[at.hctx.index()][at.tag.index()];
        bfq.done(&item, Nanos(step));
        bfq.insert(&item, Nanos(step));
        if step > 50_000 {
            let ahead = served[1].saturating_sub(served[0]);
            assert!(ahead <= 2 * (512 + 16), "it took {ahead} units for its idleness");
        }
    }
    assert!(served[0].abs_diff(served[1]) <= 2 * (512 + 16), "{served:?}");
}

#[test]
fn i21_who_leaves_and_comes_back_at_once_takes_no_more_than_its_share() {
    // It goes idle after each request and is back before the next is chosen (V5).
    let mut bfq = lanes(Bfq::new(), 2, 64);
    let heavy: Vec<Item> = (0..64).map(|t| read(id(0, t), 0, 8)).collect();
    let light = read(id(1, 0), 0, 8);
    heavy.iter().for_each(|i| bfq.insert(i, Nanos(0)));
    bfq.insert(&light, Nanos(0));
    let mut served = [0_u64; 2];
    for step in 1..100_000 {
        let at = bfq.next(Nanos(step)).expect("there is always something");
        served[at.hctx.index()] += 16;
        let item = if at.hctx.0 == 0 { heavy[at.tag.index()] } else { light };
        bfq.done(&item, Nanos(step));
        bfq.insert(&item, Nanos(step));
    }
    let share = ratio(served[1], served[0] + served[1]);
    assert!((share - 0.5).abs() < 0.01, "{served:?}");
}

#[test]
fn i34_classes_move_nothing_between_lanes() {
    let order = |classes: Vec<Class>| {
        let liar = Guest { classes, ..Guest::reader(100, 32, 64) };
        let honest = Guest { sectors: (1, 200), ..Guest::writer(200, 32, 0) };
        let mut world = World::new(fair(), Device::FLASH, vec![liar, honest], 3);
        world.run(SECOND);
        (world.order, world.fates[1].latencies.clone())
    };
    let plain = order(vec![Class::BestEffort]);
    assert!(plain.0.len() > 1000);
    let all = vec![Class::RealTime, Class::BestEffort, Class::Idle];
    assert!(order(all.clone()) == plain, "I34: the other lane was served at other times");
    assert!(order(vec![Class::RealTime]) == plain, "I34: nor for being real-time always");
    assert!(order(vec![Class::Idle]) == plain, "I34: nor for being idle always");
}

/// The reader's p99, and how much the writers wrote, in a second.
fn reader_beside_writers(scheduler: Box<dyn Scheduler>, writers: u16) -> (u64, u64) {
    let guests = vec![Guest::writer(100, writers, 128), Guest::reader(100, 1, 8)];
    let mut world = World::new(scheduler, Device::FLASH, guests, 7);
    world.run(3 * SECOND);
    assert_eq!(world.stalls, 0);
    (world.fates[1].p99(), world.fates[0].sectors)
}

#[test]
fn a_lone_reader_is_not_held_up_by_writers() {
    for writers in [16, 64] {
        let unfair = reader_beside_writers(none(), writers);
        let bfq = reader_beside_writers(fair(), writers);
        assert!(bfq.0 * 10 <= unfair.0, "{writers}: p99 {} ns, with none {} ns", bfq.0, unfair.0);
        assert!(bfq.1 * 10 > unfair.1 * 3, "{writers}: writers got {} of {}", bfq.1, unfair.1);
    }
}

#[test]
fn many_heavy_lanes_do_not_hold_a_light_one_up_either() {
    // With eight the reader's share is a ninth, and at times it waits for the rest of a turn.
    for (heavy, better) in [(4, 10), (8, 5)] {
        let mut guests = vec![Guest::writer(100, 32, 128); heavy];
        guests.push(Guest::reader(100, 1, 8));
        let p99 = |scheduler| {
            let mut world = World::new(scheduler, Device::FLASH, guests.clone(), 7);
            world.run(2 * SECOND);
            world.fates[heavy].p99()
        };
        let (unfair, bfq) = (p99(none()), p99(fair()));
        assert!(bfq * better <= unfair, "{heavy}: p99 {bfq} ns, with none {unfair} ns");
    }
}

#[test]
fn nobody_starves() {
    // A lane of the least weight beside 30 of the greatest, and its lowest class beside its others.
    let mut guests = vec![Guest::reader(1000, 8, 8); 30];
    guests.push(Guest { classes: vec![Class::RealTime, Class::Idle], ..Guest::reader(1, 2, 8) });
    let mut world = World::new(fair(), Device::FLASH, guests, 1);
    world.run(20 * SECOND);
    let due = 20 * SECOND / (16 * 1024 * 30_000);
    let got = world.fates[30].requests;
    assert!(got + 2 >= due, "{got} requests of {due}");
}

#[test]
fn a_turn_ends_when_it_has_lasted_for_too_long() {
    let mut bfq = lanes(with(&[("timeout_sync", "10"), ("max_budget", "4096")]), 2, 64);
    (0..64).for_each(|t| bfq.insert(&read(id(0, t), 0, 1), Nanos(0)));
    (0..64).for_each(|t| bfq.insert(&read(id(1, t), 0, 1), Nanos(0)));
    // 6 ms a request: a turn has two, whatever its budget.
    let order: Vec<u16> =
        (0..24).map(|i| bfq.next(Nanos(i * 6 * MS)).expect("some").hctx.0).collect();
    let longest = order.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
    assert!(longest <= Some(3), "{order:?}");
    let first = order.iter().filter(|h| **h == 0).count();
    assert!((10..=14).contains(&first), "{order:?}");
}

#[test]
fn sorted_a_slow_turn_is_charged_whole() {
    // One reads in sequence, the other seeks all the time. By sectors the second would have to have
    // as many, and the first would wait for it nearly always; by time both get half of it.
    let guests =
        || vec![Guest { sequential: true, ..Guest::reader(100, 8, 256) }, Guest::reader(100, 8, 8)];
    let mut world = World::new(Box::new(Bfq::rotational()), Device::DISK, guests(), 5);
    world.run(20 * SECOND);
    let alone = 20 * SECOND / (256 * 3200 + 50_000);
    let part = ratio(world.fates[0].requests, alone);
    assert!((0.35..0.65).contains(&part), "the sequential one got {part} of the disk");
    assert!(world.fates[1].requests > 400, "{}", world.fates[1].requests);
}

#[test]
fn a_held_device_waits_for_its_reader_and_lets_go_in_time() {
    let mut bfq = lanes(with(&[("slice_idle", "8"), ("max_budget", "1024")]), 2, 8);
    bfq.insert(&read(id(0, 0), 0, 1), Nanos(0));
    bfq.insert(&read(id(1, 0), 0, 1), Nanos(0));
    assert_eq!(bfq.next(Nanos(0)), Some(id(0, 0)));
    assert!(!bfq.has_work(Nanos(0)), "it may come back when its request ends");
    assert_eq!(bfq.next(Nanos(1)), None);
    assert_eq!(bfq.next_wake(), Some(Nanos(125 * MS)), "at the latest at the end of the turn");
    bfq.done(&read(id(0, 0), 0, 1), Nanos(MS));
    assert_eq!(bfq.next_wake(), Some(Nanos(9 * MS)));
    bfq.insert(&read(id(0, 1), 1, 1), Nanos(2 * MS));
    assert!(bfq.has_work(Nanos(2 * MS)));
    assert_eq!(bfq.next(Nanos(2 * MS)), Some(id(0, 1)), "it came back");
    bfq.done(&read(id(0, 1), 1, 1), Nanos(3 * MS));
    assert!(!bfq.has_work(Nanos(11 * MS - 1)));
    assert_eq!(bfq.next(Nanos(11 * MS - 1)), None);
    assert!(bfq.has_work(Nanos(11 * MS)), "it did not");
    assert_eq!(bfq.next(Nanos(11 * MS)), Some(id(1, 0)));
    assert_eq!(bfq.next_wake(), None, "nobody waits");
}

#[test]
fn nobody_is_waited_for_who_wrote_or_takes_long_or_when_it_is_switched_off() {
    let second_goes = |bfq: Bfq, first: Item| {
        let mut bfq = lanes(bfq, 2, 8);
        bfq.insert(&first, Nanos(0));
        bfq.insert(&read(id(1, 0), 0, 1), Nanos(0));
        assert_eq!(bfq.next(Nanos(0)), Some(id(0, 0)));
        bfq.next(Nanos(0)).is_some()
    };
    assert!(second_goes(Bfq::new(), read(id(0, 0), 0, 1)));
    assert!(!second_goes(with(&[("slice_idle", "8")]), read(id(0, 0), 0, 1)));
    assert!(second_goes(with(&[("slice_idle", "8")]), write(id(0, 0), 0, 1)));
    let strict = with(&[("slice_idle", "8"), ("strict_guarantees", "1")]);
    assert!(!second_goes(strict, write(id(0, 0), 0, 1)));

    let mut bfq = lanes(with(&[("slice_idle", "8")]), 2, 8);
    let item = read(id(0, 0), 0, 1);
    for i in 1..20 {
        let now = Nanos(i * 1000 * MS);
        bfq.insert(&item, now);
        assert_eq!(bfq.next(now), Some(item.id));
        bfq.done(&item, now);
    }
    let now = Nanos(20_000 * MS);
    bfq.insert(&item, now);
    bfq.insert(&read(id(1, 0), 0, 1), now);
    assert!(bfq.next(now).is_some() && bfq.next(now).is_some(), "it takes a second each time");
}

#[test]
fn switching_the_idling_off_lets_go() {
    let mut bfq = lanes(with(&[("slice_idle", "8")]), 2, 8);
    bfq.insert(&read(id(0, 0), 0, 1), Nanos(0));
    bfq.insert(&read(id(1, 0), 0, 1), Nanos(0));
    assert_eq!(bfq.next(Nanos(0)), Some(id(0, 0)));
    assert_eq!(bfq.next(Nanos(0)), None);
    bfq.tunable("slice_idle", Some("0")).expect("a good value");
    assert_eq!(bfq.next(Nanos(0)), Some(id(1, 0)));
}

#[test]
fn strict_guarantees_have_one_request_in_flight() {
    let mut bfq = lanes(with(&[("strict_guarantees", "1")]), 2, 8);
    (0..2).for_each(|h| bfq.insert(&read(id(h, 0), 0, 8), Nanos(0)));
    let first = bfq.next(Nanos(0)).expect("two wait");
    assert!(!bfq.has_work(Nanos(0)));
    assert_eq!((bfq.next(Nanos(0)), bfq.next_wake()), (None, None));
    bfq.done(&read(first, 0, 8), Nanos(1));
    assert!(bfq.next(Nanos(1)).is_some());
}

#[test]
fn writes_cost_what_is_said() {
    let share = |factor: &str| {
        let guests = vec![Guest::writer(100, 64, 64), Guest::reader(100, 64, 64)];
        let bfq = Box::new(with(&[("async_factor", factor)]));
        let mut world = World::new(bfq, Device::FLASH, guests, 2);
        world.run(3 * SECOND);
        ratio(world.fates[1].sectors, world.fates[0].sectors)
    };
    assert!((share("1") - 1.0).abs() < 0.05);
    let thrice = f64::from(3 * 64 + 8) / f64::from(64 + 8);
    assert!((share("3") / thrice - 1.0).abs() < 0.05, "{}", share("3"));
    let bfq = Bfq::new();
    let all = SectorRange::new(Sector(0), 1 << 40, 1 << 40).expect("inside");
    assert_eq!(bfq.cost(Op::Discard(all)), 256 + 8, "what moves nothing costs little");
    assert_eq!(bfq.cost(Op::WriteZeroes { range: all, unmap: false }), 256 + 8);
    assert_eq!(bfq.cost(Op::Write(all)), u32::MAX);
}

#[test]
fn a_newly_active_light_lane_goes_before_the_rest_of_a_heavy_turn() {
    let mut bfq = lanes(with(&[("window_hold", "0")]), 2, 64);
    let light = read(id(1, 0), 0, 8);
    bfq.insert(&light, Nanos(0));
    assert_eq!(bfq.next(Nanos(0)), Some(light.id));
    bfq.done(&light, Nanos(0));
    let heavy: Vec<Item> = (0..64).map(|t| read(id(0, t), 0, 128)).collect();
    heavy.iter().for_each(|i| bfq.insert(i, Nanos(0)));
    for _ in 0..14 {
        assert_eq!(bfq.next(Nanos(1)).expect("64 wait").hctx, HctxId(0));
    }
    bfq.insert(&light, Nanos(2));
    assert_eq!(bfq.next(Nanos(2)), Some(light.id), "in the middle of a turn");
    assert_eq!(bfq.next(Nanos(2)).expect("more wait").hctx, HctxId(0));
}

#[test]
fn what_is_given_back_is_not_charged_twice() {
    // One lane's requests are all given back once, and each still gets half of the service.
    let mut bfq = lanes(Bfq::new(), 2, 64);
    let items = |h| (0..64).map(move |t| read(id(h, t), 0, 128));
    items(0).chain(items(1)).for_each(|i| bfq.insert(&i, Nanos(0)));
    let mut served = [0_u64; 2];
    let mut given_back = [false; 64];
    for i in 0..4000 {
        let at = bfq.next(Nanos(i)).expect("all come back");
        let item = read(at, 0, 128);
        if at.hctx.0 == 0 && !given_back[at.tag.index()] {
            given_back[at.tag.index()] = true;
            bfq.requeue(&item);
            continue;
        }
        given_back[at.tag.index()] = false;
        served[at.hctx.index()] += 1;
        bfq.done(&item, Nanos(i));
        bfq.insert(&item, Nanos(i));
    }
    let share = ratio(served[0], served[0] + served[1]);
    assert!((share - 0.5).abs() < 0.01, "{served:?}");
}

#[test]
fn merging_reaches_the_scheduler() {
    let mut bfq = lanes(Bfq::rotational(), 1, 8);
    bfq.insert(&read(id(0, 0), 100, 8), Nanos(0));
    assert_eq!(bfq.find(&read(id(0, 1), 108, 8)), Some((id(0, 0), Side::Back)));
    assert_eq!(bfq.find(&read(id(0, 1), 92, 8)), Some((id(0, 0), Side::Front)));
    bfq.grown(&read(id(0, 0), 100, 8), &read(id(0, 0), 100, 16));
    assert_eq!(bfq.find(&read(id(0, 1), 108, 8)), None);
    assert_eq!(bfq.find(&read(id(0, 1), 116, 8)), Some((id(0, 0), Side::Back)));
    assert_eq!(bfq.next(Nanos(0)), Some(id(0, 0)));
    let cell = bfq.store.entries.cell(id(0, 0));
    assert_eq!(bfq.store.entries[cell].cost, 24, "charged for all of it");
    bfq.done(&read(id(0, 0), 100, 16), Nanos(1));
    assert_eq!(bfq.window.until(LaneId(1), &bfq.tune), Some(Nanos(10 * MS)));
}

#[test]
fn a_lane_that_goes_and_comes_keeps_its_weight_and_its_debts() {
    let mut bfq = Bfq::new();
    bfq.set_weight(LaneId(1), 900);
    let mut bfq = lanes(bfq, 2, 64);
    let heavy: Vec<Item> = (0..64).map(|t| read(id(0, t), 0, 8)).collect();
    heavy.iter().for_each(|i| bfq.insert(i, Nanos(0)));
    bfq.insert(&read(id(1, 0), 0, 8), Nanos(0));
    let mut out = Vec::new();
    (0..4).for_each(|_| out.extend(bfq.next(Nanos(0))));
    let mut drained = 0;
    bfq.drain(&mut |_| drained += 1);
    assert_eq!(out.len() + drained, 65);
    assert!(!bfq.has_work(Nanos(0)));
    (0..2).for_each(|h| bfq.detach(HctxId(h)));
    assert_eq!((bfq.store.in_flight, bfq.next_wake()), (0, None));
    let mut bfq = lanes(bfq, 2, 64);
    let mut served = [0_u64; 2];
    let light: Vec<Item> = (0..64).map(|t| read(id(1, t), 0, 8)).collect();
    heavy.iter().chain(&light).for_each(|i| bfq.insert(i, Nanos(0)));
    for _ in 0..50_000 {
        let at = bfq.next(Nanos(0)).expect("there is always something");
        served[at.hctx.index()] += 1;
        let item = read(at, 0, 8);
        bfq.done(&item, Nanos(0));
        bfq.insert(&item, Nanos(0));
    }
    assert!((ratio(served[1], served[0] + served[1]) - 0.9).abs() < 0.01, "{served:?}");
}

#[test]
fn nothing_allocates_once_everybody_is_there() {
    for bfq in [Bfq::new(), Bfq::rotational(), with(&[("slice_idle", "1")])] {
        let mut bfq = lanes(bfq, 256, 16);
        let mut rng = Rng::new(1);
        let count = allocations(|| {
            for round in 0..50 {
                for h in 0..256 {
                    let t = u16::try_from(rng.below(16)).expect("small");
                    let at = id(h, t);
                    let state = bfq.store.entries[bfq.store.entries.cell(at)].state;
                    if state == State::Free {
                        bfq.insert(&read(at, rng.below(1 << 30), 8), Nanos(round * MS));
                    }
                }
                for i in 0..200 {
                    let now = Nanos(round * MS + i * 5000);
                    if let Some(at) = bfq.next(now) {
                        bfq.done(&read(at, 0, 8), now);
                    }
                }
            }
            bfq.drain(&mut |_| {});
        });
        assert_eq!(count, 0);
    }
}

#[test]
fn tunables_are_read_and_set_by_name() {
    let mut bfq = Bfq::default();
    assert_eq!(bfq.name(), "bfq");
    assert!(!bfq.bypass());
    for name in bfq.tunables() {
        let value = bfq.tunable(name, None).expect("it is in the list");
        assert_eq!(bfq.tunable(name, Some(&value)), Ok(value), "{name}");
    }
    assert_eq!(bfq.tunable("low_latency", Some("1")), Err(BadTunable::Unknown));
    assert_eq!(bfq.tunable("timeout_sync", Some(" 50 ")), Ok("50".to_owned()));
    let expected = "milliseconds, 1 to 10000";
    assert_eq!(bfq.tunable("timeout_sync", Some("0")), Err(BadTunable::Value { expected }));
    assert_eq!(bfq.tunable("timeout_sync", None), Ok("50".to_owned()));
}
