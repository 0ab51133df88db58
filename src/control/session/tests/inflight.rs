//! The in-flight region on its way: from us to the front-end, back to us, to the threads.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vhost::vhost_user::message::FrontendReq;

use crate::control::testing::{DENIED, FrontEnd, Memory, Told, World};
use crate::sys::memfd::memfd;

const SIZE: u16 = 128;

fn memory() -> Memory {
    Memory::new(0, 0x100_0000, 0x7f00_0000_0000)
}

/// Bytes of one queue's part in a region of ours.
const STRIDE: u64 = (16 + 16 * SIZE as u64).next_multiple_of(64);

fn prepared(world: &World, memory: &Memory) -> (FrontEnd, crate::control::testing::Serving) {
    let (mut fe, serving) = world.connect();
    fe.negotiate();
    fe.set_table(&[memory]).expect("accepted");
    (fe, serving)
}

fn has_part(world: &World, queue: u16) -> bool {
    world.threads[0].with(queue, |start| start.inflight.is_some())
}

/// Makes part `queue` of a region one that somebody used, with these heads marked.
fn mark(file: &File, queue: u16, used: u16, heads: &[u16]) {
    let at = u64::from(queue) * STRIDE;
    for (offset, word) in [(8, 1), (10, SIZE), (12, 0), (14, used)] {
        file.write_all_at(&u16::to_ne_bytes(word), at + offset).expect("memory");
    }
    for head in heads {
        file.write_all_at(&[1], at + 16 + 16 * u64::from(*head)).expect("memory");
    }
}

#[test]
fn a_region_goes_to_the_front_end_and_back_to_the_threads() {
    let world = World::new(1, 4);
    let memory = memory();
    let (mut fe, serving) = prepared(&world, &memory);
    fe.start_ring(0, u32::from(SIZE), &memory);
    assert!(!has_part(&world, 0), "nobody asked for a record");

    let (file, len) = fe.get_inflight(2, SIZE).expect("answered");
    assert_eq!((len, file.metadata().expect("open").len()), (2 * STRIDE, 2 * STRIDE));
    assert!(file.set_len(0).is_err(), "nobody can take it from under us");
    assert!(!has_part(&world, 0), "not before the front-end hands it in");
    world.told();
    fe.set_inflight((&file, len), 2, SIZE).expect("accepted");
    assert_eq!(world.told().len(), 2, "the ring that ran starts again");
    assert!(has_part(&world, 0));
    fe.start_ring(1, u32::from(SIZE), &memory);
    assert!(has_part(&world, 1));

    // What a thread gets is the part of its queue.
    mark(&file, 1, 40, &[7, 9]);
    let part = world.threads[0].take_inflight(1).expect("it has one");
    let start = crate::device::inflight::Start { size: SIZE, base: 99, used: 40 };
    let (mut tracker, at) = part.recover(start).expect("sound");
    assert_eq!((at, tracker.again().map(|head| head.0)), (42, Some(7)));

    // A reset takes it away.
    fe.tell(FrontendReq::RESET_DEVICE, &[], &[]).expect("accepted");
    fe.set_u64(FrontendReq::SET_FEATURES, crate::control::testing::ALL_FEATURES).expect("accepted");
    fe.start_ring(0, u32::from(SIZE), &memory);
    assert!(!has_part(&world, 0));
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn a_ring_without_a_part_does_not_start() {
    let world = World::new(1, 4);
    let memory = memory();
    let (mut fe, serving) = prepared(&world, &memory);
    let (file, len) = fe.get_inflight(1, SIZE).expect("answered");
    fe.set_inflight((&file, len), 1, SIZE).expect("accepted");
    fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 64).expect("accepted");
    fe.set_addresses(1, memory.ring(1)).expect("accepted");
    fe.set_fd(FrontendReq::SET_VRING_KICK, 1, None).expect("accepted");
    assert_eq!(fe.enable(1, true), Err(DENIED));
    assert_eq!(world.running(), [0; 0]);
    fe.start_ring(0, u32::from(SIZE), &memory);
    assert_eq!(world.running(), [0]);
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn regions_that_cannot_be_are_refused_and_change_nothing() {
    let world = World::new(1, 4);
    let memory = memory();
    let (mut fe, serving) = prepared(&world, &memory);
    let (good, len) = fe.get_inflight(2, SIZE).expect("answered");
    fe.set_inflight((&good, len), 2, SIZE).expect("accepted");
    fe.start_ring(0, u32::from(SIZE), &memory);
    world.told();

    let short = memfd(c"short", 64).expect("memory");
    assert_eq!(fe.set_inflight((&short, len), 2, SIZE), Err(DENIED), "a short file");
    assert_eq!(fe.set_inflight((&good, 64), 2, SIZE), Err(DENIED), "a short length");
    assert_eq!(fe.set_inflight((&good, 0), 2, SIZE), Err(DENIED), "no length");
    assert_eq!(fe.set_inflight((&good, u64::MAX), 2, SIZE), Err(DENIED), "any length");
    assert_eq!(fe.set_inflight((&good, len), 257, SIZE), Err(DENIED), "too many queues");
    assert_eq!(fe.set_inflight((&good, len), 2, 40_000), Err(DENIED), "too many entries");
    let (other, _) = fe.get_inflight(2, SIZE).expect("answered");
    mark(&other, 1, 0, &[]);
    other.write_all_at(&[9, 9], STRIDE + 8).expect("memory");
    assert_eq!(fe.set_inflight((&other, len), 2, SIZE), Err(DENIED), "version 0x909");
    mark(&other, 1, 0, &[]);
    assert_eq!(fe.set_inflight((&other, len), 2, 64), Err(DENIED), "another table");

    assert_eq!(world.told(), [], "the ring never noticed");
    assert!(has_part(&world, 0));
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn a_request_for_a_region_that_cannot_be_ends_the_session() {
    let world = World::new(1, 4);
    let memory = memory();
    for (queues, size) in [(0, SIZE), (257, SIZE), (1, 0), (1, 40_000)] {
        let (mut fe, serving) = prepared(&world, &memory);
        assert!(fe.get_inflight(queues, size).is_none(), "{queues} {size}");
        assert!(serving.end().to_string().starts_with("GET_INFLIGHT_FD"));
    }
    world.still_serves();
}

/// QEMU: base = used index; cloud-hypervisor: base = available index. The thread gets what they said
/// and the ring's own used index, and goes by the region.
#[test]
fn i33_a_second_process_gets_the_region_of_the_first() {
    let memory = memory();
    let first = World::new(1, 4);
    let (mut fe, serving) = prepared(&first, &memory);
    let (file, len) = fe.get_inflight(1, SIZE).expect("answered");
    drop(fe);
    assert!(serving.end().is_clean());
    mark(&file, 0, 1000, &[5]);
    memory.set_used_index(0, 1000);

    for base in [1000, 1003] {
        let second = World::new(1, 4);
        let (mut fe, serving) = prepared(&second, &memory);
        fe.set_inflight((&file, len), 1, SIZE).expect("accepted");
        let bells = crate::control::testing::Bells::new();
        fe.set_ring(FrontendReq::SET_VRING_NUM, 0, u32::from(SIZE)).expect("accepted");
        fe.set_ring(FrontendReq::SET_VRING_BASE, 0, base).expect("accepted");
        fe.set_addresses(0, memory.ring(0)).expect("accepted");
        fe.set_fd(FrontendReq::SET_VRING_CALL, 0, Some(&bells.call)).expect("accepted");
        fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&bells.kick)).expect("accepted");
        fe.enable(0, true).expect("accepted");
        let avail = u16::try_from(base).expect("16 bits");
        let told = second.told();
        assert_eq!(told, [Told::Start { queue: 0, size: SIZE, avail, used: 1000 }]);
        assert!(bells.call.read().is_ok(), "told of what the first did not announce");
        let part = second.threads[0].take_inflight(0).expect("it has one");
        let start = crate::device::inflight::Start { size: SIZE, base: avail, used: 1000 };
        assert_eq!(part.recover(start).expect("sound").1, 1001);
        drop(fe);
        assert!(serving.end().is_clean());
    }
}

/// The guest turned write-back off and was told so; then we died.
#[test]
fn i33_the_cache_mode_of_the_guest_survives() {
    let memory = memory();
    let syncs = |world: &World| world.image.syncs.load(std::sync::atomic::Ordering::SeqCst);
    let first = World::new(1, 4);
    let (mut fe, serving) = prepared(&first, &memory);
    let (file, len) = fe.get_inflight(1, SIZE).expect("answered");
    fe.set_inflight((&file, len), 1, SIZE).expect("accepted");
    fe.set_config(32, &[0]).expect("accepted");
    drop(fe);
    assert!(serving.end().is_clean());

    let second = World::new(1, 4);
    let (mut fe, serving) = prepared(&second, &memory);
    assert_eq!(fe.get_config(32, 1), Some(vec![1]), "as it begins");
    fe.set_inflight((&file, len), 1, SIZE).expect("accepted");
    assert_eq!((fe.get_config(32, 1), syncs(&second)), (Some(vec![0]), 1), "as the guest knows it");
    // A sync that fails must not be told as a success.
    fe.set_config(32, &[1]).expect("accepted");
    second.image.failing.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(fe.set_config(32, &[0]), Err(DENIED));
    drop(fe);
    assert!(serving.end().is_clean());

    let third = World::new(1, 4);
    let (mut fe, serving) = prepared(&third, &memory);
    fe.set_inflight((&file, len), 1, SIZE).expect("accepted");
    assert_eq!((fe.get_config(32, 1), syncs(&third)), (Some(vec![1]), 0), "what it was told last");
    drop(fe);
    assert!(serving.end().is_clean());
}
