use super::*;
use crate::control::memory::{MemoryTable, RegionSpec};
use crate::control::testing::{ALL_FEATURES, Memory, PROTOCOL_BIT, Told, World, eventfd};
use crate::control::vring::RingAddresses;

const UVA: u64 = 0x7000_0000;

fn generation(memory: &Memory) -> Arc<GuestMemory> {
    let spec = RegionSpec { gpa: memory.gpa, size: memory.size, uva: memory.uva, offset: 0 };
    let copy = memory.file.try_clone().expect("a duplicate");
    let table = MemoryTable::default().added(spec, copy).expect("good");
    Arc::clone(table.memory())
}

/// Rings over two threads, all told everything, none started yet.
fn rings(world: &World, memory: &Memory, queues: u16) -> Rings {
    let mut rings = Rings::new(Arc::clone(&world.disk), &world.mailboxes(), queues);
    rings.set_memory(generation(memory), Uncovered::Refuse).expect("nothing runs");
    rings.set_features(ALL_FEATURES).expect("nothing runs");
    for i in 0..queues {
        let ring = rings.get(u32::from(i)).expect("exists");
        ring.set_size(64, 256).expect("good");
        let [desc, avail, used] = memory.ring(i);
        ring.set_addresses(RingAddresses { desc, avail, used }).expect("stopped");
        ring.kicked(Some(eventfd())).expect("stopped");
        ring.set_enabled(true);
    }
    rings
}

#[test]
fn queues_are_dealt_out_over_the_threads() {
    let world = World::new(2, 5);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 5);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    assert_eq!(world.threads[0].running(), [0, 2, 4]);
    assert_eq!(world.threads[1].running(), [1, 3]);
    assert_eq!((rings.count(), rings.running()), (5, 5));
    let why = rings.get(5).expect_err("there are five").to_string();
    assert_eq!(why, "queue 5 does not exist, there are 5");
    rings.get(u32::MAX).expect_err("there are five");
}

#[test]
fn rings_drain_at_the_same_time() {
    let world = World::new(2, 4);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 4);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    world.threads.iter().for_each(|t| t.hold());
    let stopping = std::thread::spawn(move || rings.stop_all());
    // All four are asked before any has answered.
    world.threads.iter().for_each(|t| t.await_held(2));
    world.threads.iter().for_each(|t| t.release());
    stopping.join().expect("no panic").expect("all came back");
    assert_eq!(world.running(), [0; 0]);
}

#[test]
fn nothing_runs_while_something_changes() {
    let world = World::new(2, 4);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 4);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    let seen = rings.at_rest(Uncovered::Refuse, |_| Ok(world.running())).expect("it is fine");
    assert_eq!(seen, [0; 0]);
    assert_eq!(world.running(), [0, 1, 2, 3]);
    // They go on even if the change itself failed.
    let no = rings.at_rest::<()>(Uncovered::Refuse, |_| Err(Refusal::Unsupported("that")));
    assert_eq!(no.expect_err("refused").to_string(), "that is not offered");
    assert_eq!(world.running(), [0, 1, 2, 3]);
}

#[test]
fn a_generation_without_the_ring_leaves_it_waiting() {
    let world = World::new(1, 2);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 2);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    // The first ring ends at 0x4000, the second lies behind that.
    let short = Memory::new(0, 0x4000, UVA);
    let why = rings.set_memory(generation(&short), Uncovered::Refuse).expect_err("refused");
    assert!(why.to_string().contains("descriptor table at 0x70004000"), "{why}");
    assert_eq!(world.running(), [0]);
    rings.set_memory(generation(&short), Uncovered::Wait).expect("it may wait");
    assert_eq!(world.running(), [0]);
    world.told();
    rings.set_memory(generation(&memory), Uncovered::Refuse).expect("both are covered");
    assert_eq!(world.running(), [0, 1]);
    let starts = world.told();
    assert!(starts.contains(&Told::Start { queue: 1, size: 64, avail: 0, used: 0 }), "{starts:?}");
}

#[test]
fn new_features_restart_and_the_same_do_not() {
    let world = World::new(1, 1);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 1);
    rings.start_all(Uncovered::Refuse).expect("it can run");
    world.told();
    rings.set_features(ALL_FEATURES).expect("nothing changes");
    assert_eq!(world.told(), []);
    rings.set_features(PROTOCOL_BIT).expect("accepted");
    assert_eq!(world.told().len(), 2, "one stop, one start");
    world.threads[0].with(0, |start| {
        assert_eq!(start.features, PROTOCOL_BIT);
        assert!(!start.ring.event_idx && !start.ring.indirect);
    });
}

#[test]
fn without_protocol_features_rings_are_enabled() {
    let world = World::new(1, 1);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 1);
    rings.get(0).expect("exists").set_enabled(false);
    rings.start_all(Uncovered::Refuse).expect("nothing to do");
    assert_eq!(rings.running(), 0);
    rings.set_features(ALL_FEATURES & !PROTOCOL_BIT).expect("accepted");
    assert_eq!(rings.running(), 1);
}

#[test]
fn reset_and_halt_leave_nothing_running() {
    let world = World::new(1, 2);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut first = rings(&world, &memory, 2);
    first.start_all(Uncovered::Refuse).expect("all can run");
    first.halt_all().expect("the thread lives");
    first.start_all(Uncovered::Refuse).expect("nothing to do");
    assert_eq!((world.running().len(), first.features()), (0, Some(ALL_FEATURES)));
    drop(first);
    let mut second = rings(&world, &memory, 2);
    second.start_all(Uncovered::Refuse).expect("all can run");
    second.reset().expect("the thread lives");
    second.start_all(Uncovered::Refuse).expect("nothing to do");
    assert_eq!((world.running().len(), second.features()), (0, None));
    assert_eq!(second.memory().regions().len(), 1, "guest memory stays");
}

#[test]
fn no_ring_outlives_the_session() {
    let world = World::new(2, 4);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 4);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    drop(rings);
    assert_eq!(world.running(), [0; 0]);
}

#[test]
fn one_lost_ring_does_not_keep_the_others() {
    let mut world = World::new(2, 4);
    let memory = Memory::new(0, 0x2_0000, UVA);
    let mut rings = rings(&world, &memory, 4);
    rings.start_all(Uncovered::Refuse).expect("all can run");
    world.threads[0].die();
    assert!(rings.stop_all().expect_err("two are lost").is_fatal());
    assert_eq!(world.threads[1].running(), [0; 0]);
    assert_eq!(rings.running(), 0);
}
