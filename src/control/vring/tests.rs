use super::*;
use crate::control::memory::{MemoryTable, RegionSpec};
use crate::control::testing::{ALL_FEATURES, FakeThread, Memory, Told, World, eventfd};

const UVA: u64 = 0x7000_0000;

/// A ring with everything but its start, over one region of 64 KiB.
struct Bench {
    world: World,
    memory: Memory,
    table: MemoryTable,
    ring: Vring,
}

impl Bench {
    fn new() -> Bench {
        let world = World::new(1, 1);
        let memory = Memory::new(0x10_0000, 0x1_0000, UVA);
        let spec = RegionSpec { gpa: memory.gpa, size: memory.size, uva: UVA, offset: 0 };
        let copy = memory.file.try_clone().expect("a duplicate");
        let table = MemoryTable::default().added(spec, copy).expect("good");
        let mut ring = Vring::new(QueueId(3), world.disk.id, world.threads[0].mailbox.clone());
        ring.set_size(256, 256).expect("good");
        let [desc, avail, used] = memory.ring(0);
        ring.set_addresses(RingAddresses { desc, avail, used }).expect("stopped");
        Bench { world, memory, table, ring }
    }

    fn thread(&self) -> &FakeThread {
        &self.world.threads[0]
    }

    fn start(&mut self) -> Result<(), Refusal> {
        let (memory, disk) = (self.table.memory(), &self.world.disk);
        let ground = Ground { memory, features: ALL_FEATURES, disk, inflight: None };
        self.ring.start(&ground)
    }

    fn run(&mut self) {
        self.ring.kicked(Some(eventfd())).expect("stopped");
        self.start().expect("it can run");
        assert!(self.ring.is_running());
    }

    fn stop(&mut self) {
        self.ring.drain().expect("the thread lives");
        self.ring.drained().expect("the thread lives");
        assert!(!self.ring.is_running());
    }

    /// The refusal for addresses, as checked when they arrive and when the ring would start.
    fn misplaced(&mut self, desc: u64, avail: u64, used: u64) -> String {
        let addresses = RingAddresses { desc, avail, used };
        let early = self.ring.check(&addresses, self.table.memory()).expect_err("refused");
        self.ring.set_addresses(addresses).expect("stopped");
        self.ring.kicked(None).expect("stopped");
        let late = self.start().expect_err("refused");
        assert_eq!(early.to_string(), late.to_string());
        assert!(!self.ring.is_running());
        early.to_string()
    }
}

#[test]
fn sizes_are_powers_of_two_within_the_limit() {
    let mut ring = Bench::new().ring;
    for good in [1, 2, 64, 256] {
        ring.set_size(good, 256).expect("good");
    }
    for bad in [0, 3, 100, 257, 512, 65536, 65536 + 64] {
        let why = ring.set_size(bad, 256).expect_err("refused").to_string();
        assert_eq!(why, format!("ring size {bad} is not a power of two between 1 and 256"));
    }
}

#[test]
fn a_ring_lacks_something_until_it_has_all() {
    let bench = Bench::new();
    let mut ring = bench.ring;
    assert!(!ring.wants_to_run(true), "not started");
    ring.kicked(None).expect("stopped");
    assert!(ring.wants_to_run(true));
    assert!(!ring.wants_to_run(false), "not enabled");
    ring.set_enabled(true);
    assert!(ring.wants_to_run(false));
    let mut bare = Vring::new(QueueId(0), ring.disk, ring.mailbox.clone());
    bare.kicked(None).expect("stopped");
    assert!(!bare.wants_to_run(true), "no size, no addresses");
    bare.set_size(8, 256).expect("good");
    assert!(!bare.wants_to_run(true), "no addresses");
}

#[test]
fn parts_are_checked_over_their_full_extent() {
    let mut bench = Bench::new();
    let end = UVA + 0x1_0000;
    let [desc, avail, used] = bench.memory.ring(0);
    // 256 entries: 4096, 518 and 2054 bytes. Exactly fitting is right, one step on is not.
    for fits in [[end - 4096, avail, used], [desc, end - 518, used], [desc, avail, end - 2056]] {
        let [desc, avail, used] = fits;
        let addresses = RingAddresses { desc, avail, used };
        bench.ring.check(&addresses, bench.table.memory()).expect("fits");
    }
    let part = |name: &str, len: u32, at: u64| {
        format!("queue 3: {len} bytes of the {name} at {at:#x} are not in one region")
    };
    let at = end - 4096 + 16;
    assert_eq!(bench.misplaced(at, avail, used), part("descriptor table", 4096, at));
    let at = end - 516;
    assert_eq!(bench.misplaced(desc, at, used), part("available ring", 518, at));
    let at = end - 2052;
    assert_eq!(bench.misplaced(desc, avail, at), part("used ring", 2054, at));
    assert_eq!(bench.misplaced(0, avail, used), part("descriptor table", 4096, 0));
    let at = u64::MAX - 15;
    assert_eq!(bench.misplaced(at, avail, used), part("descriptor table", 4096, at));
}

#[test]
fn parts_are_aligned_in_this_process_too() {
    let mut bench = Bench::new();
    let [desc, avail, used] = bench.memory.ring(0);
    let odd = |name: &str, at: u64, align: u32| {
        format!("queue 3: the {name} at {at:#x} is not aligned to {align} bytes")
    };
    assert_eq!(bench.misplaced(desc + 8, avail, used), odd("descriptor table", desc + 8, 16));
    assert_eq!(bench.misplaced(desc, avail + 1, used), odd("available ring", avail + 1, 2));
    assert_eq!(bench.misplaced(desc, avail, used + 2), odd("used ring", used + 2, 4));
    // Aligned for the front-end, not for us: the region itself begins at an odd address there.
    let mut memory = Memory::new(0, 0x1_0000, UVA + 8);
    let spec = RegionSpec { gpa: 0, size: memory.size, uva: memory.uva, offset: 0 };
    bench.table = MemoryTable::default()
        .added(spec, memory.file.try_clone().expect("a duplicate"))
        .expect("good");
    memory.uva += 8;
    let [desc, avail, used] = memory.ring(0);
    assert_eq!(bench.misplaced(desc, avail, used), odd("descriptor table", desc, 16));
}

#[test]
fn the_thread_gets_what_the_front_end_said_and_gives_it_back() {
    let mut bench = Bench::new();
    let (call, err) = (eventfd(), eventfd());
    bench.memory.set_used_index(0, 0xfffe);
    bench.ring.set_base(40).expect("stopped");
    bench.ring.set_call(Some(call)).expect("stopped");
    bench.ring.set_err(Some(err)).expect("stopped");
    bench.run();
    let told = Told::Start { queue: 3, size: 256, avail: 40, used: 0xfffe };
    assert_eq!(bench.thread().told(), [told]);
    bench.thread().with(3, |start| {
        assert!(start.kick.is_some() && start.call.is_some() && start.err.is_some());
        assert_eq!(start.features, ALL_FEATURES);
        assert!(start.ring.event_idx && start.ring.indirect);
        let lens = [start.ring.desc, start.ring.avail, start.ring.used].map(|b| b.len());
        assert_eq!(lens, [4096, 518, 2054]);
        assert!(Arc::ptr_eq(&start.memory, bench.table.memory()));
    });
    bench.thread().complete(3, 7);
    bench.stop();
    assert_eq!(bench.ring.next_avail(), 47);
    assert!(bench.ring.call.is_some() && bench.ring.err.is_some());
    assert!(matches!(bench.ring.state, State::Ready { kick: Some(_) }));
    // It goes on where it was, whatever the guest writes over the used index meanwhile.
    bench.memory.set_used_index(0, 1234);
    bench.thread().told();
    bench.start().expect("it can run");
    let told = Told::Start { queue: 3, size: 256, avail: 47, used: 5 };
    assert_eq!(bench.thread().told(), [told]);
    bench.stop();
}

#[test]
fn a_ring_that_goes_on_is_announced_and_a_new_one_is_not() {
    let mut bench = Bench::new();
    let call = eventfd();
    let copy = call.try_clone().expect("a duplicate");
    bench.ring.set_call(Some(copy)).expect("stopped");
    bench.run();
    assert_eq!(call.read().expect_err("quiet").kind(), std::io::ErrorKind::WouldBlock);
    bench.thread().complete(3, 2);
    bench.stop();
    bench.start().expect("it can run");
    assert_eq!(call.read().expect("rung once"), 1);
    bench.stop();
    // The same when it is another session that goes on: only guest memory knows.
    bench.ring.halt();
    bench.ring.set_base(0).expect("stopped");
    bench.run();
    assert_eq!(call.read().expect("rung once"), 1);
    bench.stop();
}

#[test]
fn a_halted_ring_reads_the_used_index_anew() {
    let mut bench = Bench::new();
    bench.run();
    bench.thread().complete(3, 9);
    bench.stop();
    bench.ring.halt();
    assert!(!bench.ring.wants_to_run(true));
    bench.memory.set_used_index(0, 0);
    bench.ring.set_base(0).expect("stopped");
    bench.thread().told();
    bench.run();
    let told = Told::Start { queue: 3, size: 256, avail: 0, used: 0 };
    assert_eq!(bench.thread().told(), [told]);
    bench.stop();
}

#[test]
fn what_the_thread_has_control_does_not_change() {
    let mut bench = Bench::new();
    bench.run();
    let ring = &mut bench.ring;
    ring.set_size(256, 256).expect("nothing changes");
    let runs = |what: &str| format!("queue 3 runs: {what} may not change");
    let why = |done: Result<(), Refusal>| done.expect_err("refused").to_string();
    assert_eq!(why(ring.set_size(128, 256)), runs("its size"));
    assert_eq!(why(ring.set_base(1)), runs("its position"));
    assert_eq!(why(ring.kicked(None)), runs("its kick descriptor"));
    let elsewhere = RingAddresses { desc: 0, avail: 0, used: 0 };
    assert_eq!(why(ring.set_addresses(elsewhere)), runs("its addresses"));
    assert_eq!(why(ring.set_base(65536)), "ring position 65536 does not fit 16 bits");
    bench.stop();
}

#[test]
fn bells_change_while_the_ring_runs() {
    let mut bench = Bench::new();
    bench.run();
    bench.thread().told();
    bench.ring.set_call(Some(eventfd())).expect("the thread lives");
    bench.ring.set_call(None).expect("the thread lives");
    bench.ring.set_err(Some(eventfd())).expect("the thread lives");
    bench.stop();
    let told = [Told::Call(3, true), Told::Call(3, false), Told::Err(3, true), Told::Stop(3)];
    assert_eq!(bench.thread().told(), told);
    assert!(bench.ring.call.is_none() && bench.ring.err.is_some());
}

#[test]
fn a_refused_start_leaves_a_stopped_ring() {
    let mut bench = Bench::new();
    bench.thread().refuse(Some("no room"));
    bench.ring.kicked(Some(eventfd())).expect("stopped");
    let why = bench.start().expect_err("refused");
    assert_eq!(why.to_string(), "queue 3 could not start: no room");
    assert!(!why.is_fatal());
    assert!(!bench.ring.wants_to_run(true), "its descriptors went with the start");
    bench.thread().refuse(None);
    bench.run();
    bench.stop();
}

#[test]
fn a_broken_ring_waits_for_its_reset() {
    let mut bench = Bench::new();
    bench.run();
    bench.thread().breaks(true);
    bench.stop();
    assert!(!bench.ring.wants_to_run(true));
    bench.ring.halt();
    bench.ring.kicked(None).expect("stopped");
    assert!(bench.ring.wants_to_run(true), "its reset makes it whole");
}

#[test]
fn a_ring_whose_thread_ended_is_lost() {
    let mut bench = Bench::new();
    bench.run();
    bench.world.threads[0].die();
    let why = bench.ring.drain().expect_err("nobody there");
    assert_eq!(why.to_string(), "queue 3 is lost: the queue thread has ended");
    assert!(why.is_fatal());
    assert!(!bench.ring.is_running());
    bench.ring.drained().expect("nothing to wait for");
    bench.ring.kicked(None).expect("stopped");
    assert!(bench.start().expect_err("nobody there").is_fatal());
}

#[test]
fn reset_forgets_all_but_where_to_announce() {
    let mut bench = Bench::new();
    bench.ring.set_call(Some(eventfd())).expect("stopped");
    bench.ring.set_enabled(true);
    bench.ring.set_base(9).expect("stopped");
    bench.run();
    bench.stop();
    bench.ring.reset();
    assert_eq!(bench.ring.next_avail(), 0);
    assert!(!bench.ring.is_enabled());
    assert!(bench.ring.size.is_none() && bench.ring.addresses.is_none());
    assert!(bench.ring.call.is_some());
}
