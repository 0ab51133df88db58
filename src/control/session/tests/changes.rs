//! What may change while rings run, and how a session ends.

use std::io::Read;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::FrontendReq;

use super::super::SessionEnd;
use crate::block::Errno;
use crate::control::testing::{
    ALL_FEATURES, Bells, DENIED, EVENT_IDX, FrontEnd, Memory, Serving, Told, World, eventfd, pair,
};
use crate::device::config_space::WRITEBACK_OFFSET;

const UVA: u64 = 0x7f00_0000_0000;

/// A disk with one front-end and two running rings at position 10.
struct Bench {
    world: World,
    memory: Memory,
    fe: FrontEnd,
    serving: Serving,
    bells: Vec<Bells>,
}

impl Bench {
    fn new() -> Bench {
        let world = World::new(1, 4);
        let memory = Memory::new(0, 0x10_0000, UVA);
        let (mut fe, serving) = world.connect();
        fe.negotiate();
        fe.set_table(&[&memory]).expect("accepted");
        let bells = (0..2).map(|i| fe.start_ring(i, 128, &memory)).collect();
        let bench = Bench { world, memory, fe, serving, bells };
        for i in 0..2 {
            bench.world.threads[0].complete(i, 10);
        }
        bench.told();
        bench
    }

    fn told(&self) -> Vec<Told> {
        self.world.told()
    }

    fn end(self) {
        drop(self.fe);
        assert!(self.serving.end().is_clean());
        self.world.still_serves();
    }
}

fn start(queue: u16, position: u16) -> Told {
    Told::Start { queue, size: 128, avail: position, used: position }
}

fn restart() -> [Told; 4] {
    [Told::Stop(0), Told::Stop(1), start(0, 10), start(1, 10)]
}

/// Whether the front-end has been told anything it has not read yet.
fn silent(fe: &FrontEnd) -> bool {
    fe.stream.set_nonblocking(true).expect("a socket");
    let read = (&fe.stream).read(&mut [0]);
    fe.stream.set_nonblocking(false).expect("a socket");
    read.expect_err("no answer yet").kind() == std::io::ErrorKind::WouldBlock
}

#[test]
fn get_vring_base_drains_before_it_answers() {
    let mut bench = Bench::new();
    bench.world.threads[0].hold();
    bench.fe.send(FrontendReq::GET_VRING_BASE as u32, 1, &pair(0, 0), &[]);
    bench.world.threads[0].await_held(1);
    assert!(silent(&bench.fe), "requests are in flight");
    bench.world.threads[0].complete(0, 3);
    bench.world.threads[0].release();
    let (_, _, body) = bench.fe.receive().expect("answered");
    assert_eq!(body, pair(0, 13));
    assert_eq!(bench.world.running(), [1]);
    // Asked again, it says the same; a new kick starts the ring there.
    assert_eq!(bench.fe.get_base(0), Some(13));
    bench.told();
    bench.fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("accepted");
    assert_eq!(bench.told(), [start(0, 13)]);
    bench.end();
}

#[test]
fn a_paused_ring_keeps_everything() {
    let mut bench = Bench::new();
    bench.world.threads[0].hold();
    let body = pair(1, 0);
    bench.fe.send(FrontendReq::SET_VRING_ENABLE as u32, 1 | 8, &body, &[]);
    bench.world.threads[0].await_held(1);
    assert!(silent(&bench.fe), "requests are in flight");
    bench.world.threads[0].complete(1, 5);
    bench.world.threads[0].release();
    assert_eq!(bench.fe.receive().expect("acknowledged").2, [0; 8]);
    assert_eq!(bench.told(), [Told::Stop(1)]);
    bench.fe.enable(1, false).expect("it is off already");
    assert_eq!(bench.told(), []);
    bench.fe.enable(1, true).expect("accepted");
    assert_eq!(bench.told(), [start(1, 15)]);
    bench.fe.enable(1, true).expect("it is on already");
    assert_eq!(bench.told(), []);
    // The doorbells are the same as before the pause.
    bench.world.threads[0].with(1, |s| {
        s.call.as_ref().expect("kept").write(1).expect("room");
        bench.bells[1].kick.write(1).expect("room");
        assert_eq!(s.kick.as_ref().expect("kept").read().expect("kicked"), 1);
    });
    assert_eq!(bench.bells[1].call.read().expect("called"), 2, "once when it went on");
    bench.end();
}

#[test]
fn new_memory_moves_all_rings_at_once() {
    let mut bench = Bench::new();
    let more = Memory::new(0x1000_0000, 0x1000, 0x1000);
    bench.fe.set_table(&[&bench.memory, &more]).expect("accepted");
    assert_eq!(bench.told(), restart());
    bench.world.threads[0].with(0, |s| assert_eq!(s.memory.regions().len(), 2));
    // The same table again, in another order, is no change.
    bench.fe.set_table(&[&more, &bench.memory]).expect("accepted");
    assert_eq!(bench.told(), []);
    bench.fe.remove_region(&more).expect("accepted");
    assert_eq!(bench.told(), restart());
    bench.fe.add_region(&more).expect("accepted");
    assert_eq!(bench.told(), restart());
    bench.end();
}

#[test]
fn a_region_that_is_removed_and_added_again_loses_nothing() {
    let mut bench = Bench::new();
    bench.fe.remove_region(&bench.memory).expect("the rings wait");
    assert_eq!(bench.told(), [Told::Stop(0), Told::Stop(1)]);
    // The whole guest moves, and the region comes back elsewhere in guest addresses.
    bench.memory.gpa = 0x4000_0000;
    bench.fe.add_region(&bench.memory).expect("accepted");
    assert_eq!(bench.told(), [start(0, 10), start(1, 10)]);
    bench.world.threads[0].with(0, |s| assert_eq!(s.memory.regions()[0].gpa(), 0x4000_0000));
    bench.end();
}

#[test]
fn a_table_that_loses_a_ring_is_refused_and_the_ring_waits() {
    let mut bench = Bench::new();
    let short = Memory::new(0, 0x4000, UVA);
    assert_eq!(bench.fe.set_table(&[&short]), Err(DENIED));
    assert_eq!(bench.told(), [Told::Stop(0), Told::Stop(1), start(0, 10)]);
    bench.memory.set_used_index(1, 10);
    bench.fe.set_table(&[&bench.memory]).expect("accepted");
    assert_eq!(bench.world.running(), [0, 1]);
    assert!(bench.told().contains(&start(1, 10)));
    bench.end();
}

#[test]
fn a_refused_table_changes_nothing() {
    let mut bench = Bench::new();
    let twice = Memory::new(0x1000, 0x10_0000, 0x1000);
    assert_eq!(bench.fe.set_table(&[&bench.memory, &twice]), Err(DENIED));
    assert_eq!(bench.fe.add_region(&twice), Err(DENIED));
    assert_eq!(bench.fe.remove_region(&twice), Err(DENIED));
    assert_eq!(bench.told(), []);
    assert_eq!(bench.world.running(), [0, 1]);
    bench.end();
}

#[test]
fn bells_change_under_running_rings() {
    let mut bench = Bench::new();
    let call = eventfd();
    bench.fe.set_fd(FrontendReq::SET_VRING_CALL, 0, Some(&call)).expect("accepted");
    bench.fe.set_fd(FrontendReq::SET_VRING_ERR, 0, Some(&eventfd())).expect("accepted");
    bench.fe.set_fd(FrontendReq::SET_VRING_CALL, 1, None).expect("accepted");
    // A stop comes after them in the mailbox, so they have been seen.
    bench.fe.enable(1, false).expect("accepted");
    let told = [Told::Call(0, true), Told::Err(0, true), Told::Call(1, false), Told::Stop(1)];
    assert_eq!(bench.told(), told);
    bench.world.threads[0].with(0, |s| s.call.as_ref().expect("set").write(9).expect("room"));
    assert_eq!(call.read().expect("called"), 9);
    // A new doorbell needs the ring back for a moment.
    let kick = eventfd();
    bench.fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&kick)).expect("accepted");
    assert_eq!(bench.told(), [Told::Stop(0), start(0, 10)]);
    kick.write(4).expect("room");
    bench.world.threads[0].with(0, |s| {
        assert_eq!(s.kick.as_ref().expect("set").read().expect("kicked"), 4);
    });
    bench.fe.set_fd(FrontendReq::SET_VRING_KICK, 0, None).expect("accepted");
    bench.world.threads[0].with(0, |s| assert!(s.kick.is_none() && s.call.is_some()));
    bench.end();
}

#[test]
fn a_guest_may_poll_both_ways() {
    let mut bench = Bench::new();
    for i in 2..4 {
        let index = u32::from(i);
        bench.fe.set_ring(FrontendReq::SET_VRING_NUM, index, 128).expect("accepted");
        bench.fe.set_addresses(index, bench.memory.ring(i)).expect("accepted");
        bench.fe.set_fd(FrontendReq::SET_VRING_KICK, i, None).expect("accepted");
        bench.fe.enable(i, true).expect("accepted");
    }
    assert_eq!(bench.world.running(), [0, 1, 2, 3]);
    bench.world.threads[0].with(2, |s| assert!(s.kick.is_none() && s.call.is_none()));
    assert_eq!(bench.fe.get_base(2), Some(0));
    bench.end();
}

#[test]
fn the_same_addresses_again_are_no_change_and_others_are() {
    let mut bench = Bench::new();
    bench.fe.set_addresses(0, bench.memory.ring(0)).expect("accepted");
    bench.fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 128).expect("accepted");
    assert_eq!(bench.told(), []);
    bench.memory.set_used_index(3, 99);
    bench.fe.set_addresses(0, bench.memory.ring(3)).expect("accepted");
    let moved = Told::Start { queue: 0, size: 128, avail: 10, used: 99 };
    assert_eq!(bench.told(), [Told::Stop(0), moved]);
    bench.end();
}

#[test]
fn new_features_reach_running_rings() {
    let mut bench = Bench::new();
    bench.fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES).expect("accepted");
    assert_eq!(bench.told(), []);
    bench.fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES & !EVENT_IDX).expect("accepted");
    assert_eq!(bench.told(), restart());
    bench.world.threads[0].with(1, |s| {
        assert!(!s.ring.event_idx && s.ring.indirect);
        assert_eq!(s.features, ALL_FEATURES & !EVENT_IDX);
    });
    bench.end();
}

#[test]
fn turning_the_cache_off_drains_and_syncs_before_the_answer() {
    let mut bench = Bench::new();
    let (disk, image) = (bench.world.disk.clone(), bench.world.image.clone());
    bench.fe.set_config(WRITEBACK_OFFSET, &[1]).expect("no change");
    assert_eq!(image.syncs.load(Ordering::SeqCst), 0);
    bench.world.threads[0].hold();
    let mut body = Vec::new();
    for word in [WRITEBACK_OFFSET, 1, 0] {
        body.extend(word.to_ne_bytes());
    }
    body.push(0);
    bench.fe.send(FrontendReq::SET_CONFIG as u32, 1 | 8, &body, &[]);
    bench.world.threads[0].await_held(2);
    assert!(silent(&bench.fe));
    assert!(!disk.writeback.load(Ordering::SeqCst), "stored first");
    assert_eq!(image.syncs.load(Ordering::SeqCst), 0, "writes are in flight");
    bench.world.threads[0].release();
    assert_eq!(bench.fe.receive().expect("acknowledged").2, [0; 8]);
    assert_eq!(image.syncs.load(Ordering::SeqCst), 1);
    assert_eq!(bench.told(), restart());
    bench.fe.set_config(WRITEBACK_OFFSET, &[1]).expect("accepted");
    assert!(disk.writeback.load(Ordering::SeqCst));
    assert_eq!(bench.told(), [], "turning it on needs nothing");
    bench.end();
}

#[test]
fn a_failed_sync_is_an_error_and_the_cache_stays_off() {
    let mut bench = Bench::new();
    let (disk, image) = (bench.world.disk.clone(), bench.world.image.clone());
    image.failing.store(true, Ordering::SeqCst);
    assert_eq!(bench.fe.set_config(WRITEBACK_OFFSET, &[0]), Err(DENIED));
    assert!(!disk.writeback.load(Ordering::SeqCst));
    assert_eq!(bench.told(), restart(), "the rings go on");
    assert_eq!(disk.flush.failed(), Some(Errno(libc::EIO)), "no later flush may say OK");
    // It stays so even if the next sync would succeed: what was lost is lost.
    image.failing.store(false, Ordering::SeqCst);
    bench.fe.set_config(WRITEBACK_OFFSET, &[1]).expect("accepted");
    assert_eq!(bench.fe.set_config(WRITEBACK_OFFSET, &[0]), Err(DENIED));
    assert_eq!(image.syncs.load(Ordering::SeqCst), 1);
    assert_eq!(bench.fe.get_config(WRITEBACK_OFFSET, 1).expect("answered"), [0]);
    bench.end();
}

#[test]
fn reset_device_forgets_the_rings() {
    let mut bench = Bench::new();
    bench.fe.tell(FrontendReq::RESET_DEVICE, &[], &[]).expect("accepted");
    assert_eq!(bench.told(), [Told::Stop(0), Told::Stop(1)]);
    assert_eq!(bench.fe.get_base(0), Some(0));
    bench.memory.set_used_index(0, 0);
    bench.fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES).expect("accepted");
    bench.fe.start_ring(0, 64, &bench.memory);
    let fresh = Told::Start { queue: 0, size: 64, avail: 0, used: 0 };
    assert_eq!(bench.told()[0], fresh, "the memory is still there");
    bench.end();
}

#[test]
fn reset_owner_turns_the_rings_off() {
    let mut bench = Bench::new();
    bench.fe.tell(FrontendReq::RESET_OWNER, &[], &[]).expect("accepted");
    assert_eq!(bench.told(), [Told::Stop(0), Told::Stop(1)]);
    bench.fe.tell(FrontendReq::SET_OWNER, &[], &[]).expect("accepted");
    bench.fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("accepted");
    assert_eq!(bench.told(), [], "not enabled");
    bench.fe.enable(0, true).expect("accepted");
    assert_eq!(bench.told(), [start(0, 10)]);
    bench.end();
}

#[test]
fn a_session_ends_only_when_its_rings_have_drained() {
    let bench = Bench::new();
    bench.world.threads[0].hold();
    drop(bench.fe);
    bench.world.threads[0].await_held(2);
    assert_eq!(bench.world.running(), [0, 1]);
    bench.world.threads[0].release();
    assert!(bench.serving.end().is_clean());
    bench.world.still_serves();
}

#[test]
fn a_session_can_be_ended_from_another_thread() {
    let mut bench = Bench::new();
    bench.serving.handle.shutdown();
    assert!(bench.fe.receive().is_none(), "the connection is closed");
    assert!(bench.serving.end().is_clean());
    assert_eq!(bench.world.running(), [0; 0]);
    bench.world.still_serves();
}

#[test]
fn a_session_that_was_ended_still_finishes_its_message() {
    let bench = Bench::new();
    bench.world.threads[0].hold();
    bench.fe.send(FrontendReq::GET_VRING_BASE as u32, 1, &pair(0, 0), &[]);
    bench.world.threads[0].await_held(1);
    bench.serving.handle.shutdown();
    bench.world.threads[0].release();
    let end = bench.serving.end();
    assert!(end.is_clean(), "{end}");
    assert_eq!(bench.world.running(), [0; 0]);
}

#[test]
fn a_dead_queue_thread_ends_the_session() {
    let mut bench = Bench::new();
    bench.world.threads[0].die();
    assert_eq!(bench.fe.enable(0, false), Err(DENIED), "told before the end");
    assert!(bench.fe.receive().is_none());
    let end = bench.serving.end();
    let SessionEnd::Refused { request, why } = &end else { panic!("{end}") };
    assert_eq!(request.to_string(), "SET_VRING_ENABLE");
    assert!(why.is_fatal());
}

#[test]
fn a_dead_queue_thread_is_noticed_at_the_end_at_the_latest() {
    let mut bench = Bench::new();
    bench.world.threads[0].die();
    drop(bench.fe);
    let end = bench.serving.end();
    assert!(matches!(end, SessionEnd::Lost(_)), "{end}");
}

#[test]
fn a_thread_that_refuses_a_ring_refuses_the_message() {
    let mut bench = Bench::new();
    bench.world.threads[0].refuse(Some("no room"));
    bench.fe.enable(0, false).expect("accepted");
    assert_eq!(bench.fe.enable(0, true), Err(DENIED));
    bench.world.threads[0].refuse(None);
    bench.fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("accepted");
    assert_eq!(bench.world.running(), [0, 1]);
    bench.end();
}
