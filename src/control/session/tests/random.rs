//! Any sequence of messages: no panic, no ring left running, and the next front-end is served.

use std::os::fd::AsRawFd;

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq;

use crate::control::testing::{
    ALL_FEATURES, FrontEnd, Memory, PROTOCOL_BIT, World, eventfd, pair, region,
};

const UVA: u64 = 0x7f00_0000_0000;

/// A step of a front-end that is mostly right: each number is small, so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Features(u64),
    Table(Vec<usize>),
    Add(usize),
    Remove(usize),
    Num(u32, u32),
    Base(u32, u32),
    Addresses(u32, u16),
    Kick(u16, Fd),
    Call(u16, Fd),
    Err(u16, Fd),
    Enable(u16, bool),
    GetBase(u32),
    Config(u32, Vec<u8>),
    Inflight(u16, u16),
    Reset,
    Owner,
    Work(u16, u16),
    Raw(u32, u32, Vec<u8>, usize),
}

#[derive(Clone, Copy, Debug)]
enum Fd {
    None,
    Event,
    File,
}

fn fd() -> impl Strategy<Value = Fd> {
    prop_oneof![1 => Just(Fd::None), 8 => Just(Fd::Event), 1 => Just(Fd::File)]
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0_u16..4;
    let any_queue = prop_oneof![20 => 0_u32..3, 1 => 3_u32..6, 1 => any::<u32>()];
    prop_oneof![
        2 => prop_oneof![Just(ALL_FEATURES), Just(ALL_FEATURES & !PROTOCOL_BIT), Just(1 << 59),
            any::<u64>().prop_map(|bits| bits & ALL_FEATURES | PROTOCOL_BIT)]
            .prop_map(Step::Features),
        3 => prop::collection::vec(0_usize..4, 1..4).prop_map(Step::Table),
        2 => (0_usize..4).prop_map(Step::Add),
        2 => (0_usize..4).prop_map(Step::Remove),
        4 => (any_queue.clone(), prop_oneof![9 => Just(64_u32), 1 => 0_u32..600])
            .prop_map(|(q, n)| Step::Num(q, n)),
        3 => (any_queue.clone(), 0_u32..70_000).prop_map(|(q, n)| Step::Base(q, n)),
        5 => (any_queue.clone(), 0_u16..5).prop_map(|(q, at)| Step::Addresses(q, at)),
        5 => (queue.clone(), fd()).prop_map(|(q, f)| Step::Kick(q, f)),
        3 => (queue.clone(), fd()).prop_map(|(q, f)| Step::Call(q, f)),
        1 => (queue.clone(), fd()).prop_map(|(q, f)| Step::Err(q, f)),
        8 => (queue.clone(), prop::bool::weighted(0.8)).prop_map(|(q, on)| Step::Enable(q, on)),
        2 => any_queue.prop_map(Step::GetBase),
        1 => (0_u32..64, prop::collection::vec(0_u8..3, 0..3))
            .prop_map(|(at, bytes)| Step::Config(at, bytes)),
        1 => (0_u16..6, prop_oneof![9 => Just(64_u16), 1 => any::<u16>()])
            .prop_map(|(queues, size)| Step::Inflight(queues, size)),
        1 => Just(Step::Reset),
        1 => Just(Step::Owner),
        6 => (queue, 1_u16..2000).prop_map(|(q, n)| Step::Work(q, n)),
        1 => (0_u32..46, 0_u32..16, prop::collection::vec(any::<u8>(), 0..64), 0_usize..3)
            .prop_map(|(r, flags, body, fds)| Step::Raw(r, flags | 1, body, fds)),
    ]
}

/// Memory that overlaps here and there: only some tables are right.
fn memories() -> Vec<Memory> {
    vec![
        Memory::new(0, 0x1_0000, UVA),
        Memory::new(0x10_0000, 0x1_0000, UVA + 0x1_0000),
        Memory::new(0x10_8000, 0x1_0000, UVA + 0x10_0000),
        Memory::new(0x40_0000, 0x4000, UVA),
    ]
}

/// Takes a step. `false` when the session has ended; that is an answer, too.
fn take(fe: &mut FrontEnd, world: &World, memories: &[Memory], step: &Step) -> bool {
    let answer = match step {
        Step::Features(bits) => fe.set_u64(FrontendReq::SET_FEATURES, *bits),
        Step::Table(which) => {
            let table: Vec<&Memory> = which.iter().map(|i| &memories[*i]).collect();
            fe.set_table(&table)
        }
        Step::Add(i) => fe.add_region(&memories[*i]),
        Step::Remove(i) => fe.remove_region(&memories[*i]),
        Step::Num(q, n) => fe.set_ring(FrontendReq::SET_VRING_NUM, *q, *n),
        Step::Base(q, n) => fe.set_ring(FrontendReq::SET_VRING_BASE, *q, *n),
        Step::Addresses(q, at) => fe.set_addresses(*q, memories[0].ring(*at)),
        Step::Kick(q, fd) => ring_fd(fe, FrontendReq::SET_VRING_KICK, *q, *fd, memories),
        Step::Call(q, fd) => ring_fd(fe, FrontendReq::SET_VRING_CALL, *q, *fd, memories),
        Step::Err(q, fd) => ring_fd(fe, FrontendReq::SET_VRING_ERR, *q, *fd, memories),
        Step::Enable(q, on) => fe.enable(*q, *on),
        Step::GetBase(q) => return fe.get_base(*q).is_some(),
        Step::Config(at, bytes) => fe.set_config(*at, bytes),
        Step::Inflight(queues, size) => match fe.get_inflight(*queues, *size) {
            Some((file, len)) => fe.set_inflight((&file, len), *queues, *size),
            None => return false,
        },
        Step::Reset => fe.tell(FrontendReq::RESET_DEVICE, &[], &[]),
        Step::Owner => fe.tell(FrontendReq::RESET_OWNER, &[], &[]),
        Step::Work(q, n) => {
            if world.running().contains(q) {
                world.threads[usize::from(*q) % world.threads.len()].complete(*q, *n);
            }
            Ok(())
        }
        Step::Raw(request, flags, body, fds) => {
            let event = eventfd();
            fe.send(*request, *flags, body, &vec![event.as_raw_fd(); *fds]);
            // Nobody knows whether this is answered; the next answer would be misread.
            return false;
        }
    };
    answer != Err(u64::MAX)
}

fn ring_fd(
    fe: &mut FrontEnd,
    request: FrontendReq,
    queue: u16,
    fd: Fd,
    memories: &[Memory],
) -> Result<(), u64> {
    match fd {
        Fd::None => fe.set_fd(request, queue, None),
        Fd::Event => fe.set_fd(request, queue, Some(&eventfd())),
        Fd::File => fe.set_fd(request, queue, Some(&memories[0].file)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_breaks_a_session(steps in prop::collection::vec(step(), 1..60)) {
        let world = World::new(2, 4);
        let memories = memories();
        let (mut fe, serving) = world.connect();
        fe.negotiate();
        for step in &steps {
            if !take(&mut fe, &world, &memories, step) {
                break;
            }
        }
        drop(fe);
        serving.end();
        world.still_serves();
    }

    /// Bytes that may or may not be messages.
    #[test]
    fn no_bytes_break_a_session(
        messages in prop::collection::vec(
            (0_u32..48, prop_oneof![Just(1_u32), Just(9), any::<u32>()],
             prop::collection::vec(any::<u8>(), 0..80), 0_usize..4),
            1..8,
        ),
    ) {
        let world = World::new(1, 4);
        let (mut fe, serving) = world.connect();
        fe.negotiate();
        let event = eventfd();
        for (request, flags, body, fds) in &messages {
            fe.send(*request, *flags, body, &vec![event.as_raw_fd(); *fds]);
        }
        fe.stream.shutdown(std::net::Shutdown::Write).expect("connected");
        serving.end();
        world.still_serves();
    }
}

/// Positions survive any mixture of pauses, new memory, new features and new descriptors: what the
/// front-end reads back at the end is what was done.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Work(u16),
    Pause,
    Memory,
    Features,
    Kick,
    Call,
    Cache,
    MoveAway,
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        4 => (1_u16..3000).prop_map(Disturbance::Work),
        1 => Just(Disturbance::Pause),
        1 => Just(Disturbance::Memory),
        1 => Just(Disturbance::Features),
        1 => Just(Disturbance::Kick),
        1 => Just(Disturbance::Call),
        1 => Just(Disturbance::Cache),
        1 => Just(Disturbance::MoveAway),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn positions_survive_everything(all in prop::collection::vec(disturbance(), 1..40)) {
        let world = World::new(1, 1);
        let (mut fe, serving) = world.connect();
        let memory = Memory::new(0, 0x10_0000, UVA);
        let other = Memory::new(0x1000_0000, 0x1000, 0x1000);
        fe.negotiate();
        fe.set_table(&[&memory]).expect("accepted");
        fe.start_ring(0, 128, &memory);
        let mut done = 0_u16;
        let (mut two, mut full, mut cached) = (false, true, true);
        for what in all {
            match what {
                Disturbance::Work(n) => {
                    world.threads[0].complete(0, n);
                    done = done.wrapping_add(n);
                }
                Disturbance::Pause => {
                    fe.enable(0, false).expect("accepted");
                    fe.enable(0, true).expect("accepted");
                }
                Disturbance::Memory => {
                    two = !two;
                    let table = [&memory, &other];
                    fe.set_table(&table[..1 + usize::from(two)]).expect("accepted");
                }
                Disturbance::Features => {
                    full = !full;
                    let bits = if full { ALL_FEATURES } else { ALL_FEATURES & !(1 << 29) };
                    fe.set_u64(FrontendReq::SET_FEATURES, bits).expect("accepted");
                }
                Disturbance::Kick => {
                    let kick = eventfd();
                    fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&kick)).expect("accepted");
                }
                Disturbance::Call => {
                    fe.set_fd(FrontendReq::SET_VRING_CALL, 0, None).expect("accepted");
                }
                Disturbance::Cache => {
                    cached = !cached;
                    fe.set_config(32, &[u8::from(cached)]).expect("accepted");
                }
                Disturbance::MoveAway => {
                    fe.remove_region(&memory).expect("accepted");
                    prop_assert_eq!(world.running(), [0; 0]);
                    let body = region(memory.words());
                    fe.tell(FrontendReq::ADD_MEM_REG, &body, &[memory.file.as_raw_fd()])
                        .expect("accepted");
                }
            }
            prop_assert_eq!(world.running(), [0]);
            world.threads[0].with(0, |s| {
                assert_eq!((s.ring.next_avail, s.ring.next_used), (done, done));
            });
        }
        let body = fe.ask(FrontendReq::GET_VRING_BASE, &pair(0, 0)).expect("answered");
        prop_assert_eq!(body, pair(0, u32::from(done)));
        drop(fe);
        prop_assert!(serving.end().is_clean());
    }
}
