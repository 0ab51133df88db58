//! Switches and moves, with threads that write down what they are told.

use super::*;
use crate::control::testing::{Memory, Told, World};

/// Two threads, one front-end, `rings` running rings at position 10.
fn world(rings: u16) -> (World, crate::control::testing::FrontEnd, Memory) {
    let world = World::new(2, rings);
    let (mut fe, _serving) = world.connect();
    let memory = Memory::new(0, 0x10_0000, 0x7f00_0000_0000);
    fe.negotiate();
    fe.set_table(&[&memory]).expect("accepted");
    for n in 0..rings {
        fe.start_ring(n, 128, &memory);
    }
    (world, fe, memory)
}

fn told(world: &World, thread: usize) -> Vec<Told> {
    world.threads[thread].told()
}

fn running(world: &World) -> [Vec<u16>; 2] {
    [world.threads[0].running(), world.threads[1].running()]
}

#[test]
fn a_gathering_scheduler_finds_all_queues_on_the_first_thread() {
    let (world, _fe, _memory) = world(4);
    assert_eq!(running(&world), [vec![0, 2], vec![1, 3]]);
    let _ = (told(&world, 0), told(&world, 1));
    world.pool.set_scheduler("mq-deadline", &[]).expect("it exists");
    assert_eq!(running(&world), [vec![0, 1, 2, 3], vec![]]);
    assert_eq!(world.pool.scheduler(), Kind::MqDeadline);
    let first = told(&world, 0);
    let scheduler = first.iter().position(|t| *t == Told::Scheduler("mq-deadline"));
    let started = first.iter().rposition(|t| matches!(t, Told::Start { .. }));
    assert!(scheduler > started, "P3: after the queues came: {first:?}");
    assert_eq!(
        told(&world, 1),
        [Told::Stop(1), Told::Stop(3), Told::Scheduler("none"), Told::Retune]
    );
    world.pool.set_scheduler("kyber", &[]).expect("it exists");
    assert_eq!(running(&world), [vec![0, 2], vec![1, 3]]);
    assert_eq!(told(&world, 0).first(), Some(&Told::Scheduler("kyber")), "P3: before they leave");
    assert_eq!(told(&world, 1).first(), Some(&Told::Scheduler("kyber")));
}

#[test]
fn a_queue_that_moves_goes_on_where_it_was() {
    let (world, _fe, _memory) = world(2);
    world.threads[1].complete(1, 5);
    world.pool.set_scheduler("mq-deadline", &[]).expect("it exists");
    let at = world.threads[0].with(1, |start| (start.ring.next_avail, start.ring.next_used));
    assert_eq!(at, (5, 5));
}

#[test]
fn what_is_refused_changes_nothing() {
    let (world, _fe, _memory) = world(2);
    let _ = (told(&world, 0), told(&world, 1));
    let wrong = [("read_expire".to_owned(), "soon".to_owned())];
    for (name, tunables, word) in [
        ("cfq", &[][..], "cfq"),
        ("mq-deadline", &wrong[..], "read_expire"),
        ("none", &wrong[..], "none"),
    ] {
        let refusal = world.pool.set_scheduler(name, tunables).expect_err("refused").to_string();
        assert!(refusal.contains(word) && !refusal.contains('\n'), "{refusal}");
    }
    assert_eq!(running(&world), [vec![0], vec![1]]);
    assert_eq!((told(&world, 0), told(&world, 1)), (vec![], vec![]));
    assert_eq!(world.pool.scheduler(), Kind::None);
}

#[test]
fn a_session_that_begins_later_finds_the_pool_as_it_is() {
    let world = World::new(2, 2);
    world.pool.set_scheduler("mq-deadline", &[]).expect("it exists");
    let (mut fe, _serving) = world.connect();
    let memory = Memory::new(0, 0x10_0000, 0x7f00_0000_0000);
    fe.negotiate();
    fe.set_table(&[&memory]).expect("accepted");
    fe.start_ring(0, 128, &memory);
    fe.start_ring(1, 128, &memory);
    assert_eq!(running(&world), [vec![0, 1], vec![]]);
}

#[test]
fn tunables_reach_every_instance_and_depth_every_thread() {
    let (world, _fe, _memory) = world(2);
    world.pool.set_scheduler("kyber", &[]).expect("it exists");
    let _ = (told(&world, 0), told(&world, 1));
    let set = world.pool.tunable("read_lat_nsec", Some("3000000")).expect("it has that");
    assert_eq!(set, "3000000");
    let tune = Told::Tune("read_lat_nsec".to_owned(), Some("3000000".to_owned()));
    assert_eq!((told(&world, 0), told(&world, 1)), (vec![tune.clone()], vec![tune]));
    let again = [("read_lat_nsec".to_owned(), "4000000".to_owned())];
    world.pool.set_scheduler("kyber", &again).expect("it has that");
    assert_eq!(world.pool.tunable("read_lat_nsec", None).expect("it has that"), "4000000");
    let _ = (told(&world, 0), told(&world, 1));
    world.pool.set_hw_depth(Some(7)).expect("the threads live");
    assert_eq!(world.pool.tuning().hw_depth(), 7);
    assert_eq!((told(&world, 0), told(&world, 1)), (vec![Told::Retune], vec![Told::Retune]));
}

#[test]
fn the_depth_follows_the_scheduler_unless_it_was_said() {
    let (world, _fe, _memory) = world(1);
    assert_eq!(world.pool.tuning().hw_depth(), 0, "none has no bound");
    world.pool.set_scheduler("mq-deadline", &[]).expect("it exists");
    assert_eq!(world.pool.tuning().hw_depth(), Kind::MqDeadline.hw_depth(false));
    world.pool.set_hw_depth(Some(5)).expect("the threads live");
    world.pool.set_scheduler("none", &[]).expect("it exists");
    assert_eq!(world.pool.tuning().hw_depth(), 5, "the operator's word stays");
    assert!(!world.pool.is_hw_depth_auto());
    world.pool.set_hw_depth(None).expect("the threads live");
    assert_eq!(world.pool.tuning().hw_depth(), 0);
    assert!(world.pool.is_hw_depth_auto());
    world.pool.set_scheduler("bfq", &[]).expect("it exists");
    assert_eq!(world.pool.tuning().hw_depth(), Kind::Bfq.hw_depth(false), "follows again");
}

/// Sessions come and go, rings start and stop, while the scheduler changes: nobody waits for ever
/// and every ring is where it belongs in the end.
#[test]
fn i28_switches_and_sessions_interleave() {
    let world = World::new(2, 4);
    std::thread::scope(|scope| {
        let switching = scope.spawn(|| {
            for n in 0..60 {
                let kind = Kind::ALL[n % Kind::ALL.len()];
                world.pool.set_scheduler(kind.name(), &[]).expect("it exists");
            }
        });
        for _ in 0..20 {
            let (mut fe, serving) = world.connect();
            let memory = Memory::new(0, 0x10_0000, 0x7f00_0000_0000);
            fe.negotiate();
            fe.set_table(&[&memory]).expect("accepted");
            for n in 0..4 {
                fe.start_ring(n, 128, &memory);
            }
            drop(fe);
            assert!(serving.end().is_clean());
        }
        switching.join().expect("no panic");
    });
    assert_eq!(world.running(), [0; 0], "P4: no ring is left behind");
    world.still_serves();
}
