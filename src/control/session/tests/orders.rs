//! The orders in which real front-ends speak.

use std::os::fd::AsRawFd;

use vhost::vhost_user::message::FrontendReq;

use crate::control::testing::{
    ALL_FEATURES, Bells, FrontEnd, Memory, PROTOCOL_BIT, Told, World, eventfd,
};

const UVA: u64 = 0x7f00_0000_0000;

fn memory() -> Memory {
    Memory::new(0, 0x100_0000, UVA)
}

fn start(queue: u16, size: u16, avail: u16, used: u16) -> Told {
    Told::Start { queue, size, avail, used }
}

/// What QEMU says when the device is realized (vhost_dev_init).
fn qemu_realize(fe: &mut FrontEnd, queues: u16) {
    fe.quiet = true;
    assert_ne!(fe.ask_u64(FrontendReq::GET_FEATURES) & PROTOCOL_BIT, 0);
    let protocol = fe.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES);
    // MQ, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS;
    // nothing else.
    assert_eq!(protocol, 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15);
    fe.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, protocol & !(1 << 13)).expect("sent");
    assert!(fe.ask_u64(FrontendReq::GET_QUEUE_NUM) >= u64::from(queues));
    assert_eq!(fe.ask_u64(FrontendReq::GET_MAX_MEM_SLOTS), 509);
    fe.quiet = false;
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    fe.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]).expect("accepted");
    fe.quiet = true;
    fe.tell(FrontendReq::SET_OWNER, &[], &[]).expect("sent");
    assert_ne!(fe.ask_u64(FrontendReq::GET_FEATURES), 0);
    let masked = eventfd();
    for i in 0..queues {
        fe.set_fd(FrontendReq::SET_VRING_CALL, i, Some(&masked)).expect("sent");
        fe.set_fd(FrontendReq::SET_VRING_ERR, i, Some(&eventfd())).expect("sent");
    }
    assert_eq!(fe.get_config(0, 57).expect("answered").len(), 57);
}

/// What QEMU says when the guest's driver is ready (vhost_dev_start), then the real call eventfds.
fn qemu_start(fe: &mut FrontEnd, memories: &[&Memory], bases: &[u32], add: bool) -> Vec<Bells> {
    fe.quiet = false;
    fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES).expect("accepted");
    for memory in memories.iter().filter(|_| add) {
        fe.add_region(memory).expect("accepted");
    }
    fe.quiet = true;
    let bells: Vec<Bells> = bases.iter().map(|_| Bells::new()).collect();
    for (i, base) in (0_u16..).zip(bases) {
        let index = u32::from(i);
        fe.set_ring(FrontendReq::SET_VRING_NUM, index, 128).expect("sent");
        fe.set_ring(FrontendReq::SET_VRING_BASE, index, *base).expect("sent");
        fe.set_addresses(index, memories[0].ring(i)).expect("sent");
        fe.set_fd(FrontendReq::SET_VRING_KICK, i, Some(&bells[usize::from(i)].kick)).expect("sent");
    }
    fe.quiet = false;
    for i in 0..u16::try_from(bases.len()).expect("few") {
        fe.enable(i, true).expect("accepted");
        fe.set_fd(FrontendReq::SET_VRING_CALL, i, Some(&bells[usize::from(i)].call))
            .expect("accepted");
    }
    bells
}

#[test]
fn qemu_boots_stops_goes_on_and_ends() {
    let world = World::new(2, 256);
    let (mut fe, serving) = world.connect();
    let (low, high) = (memory(), Memory::new(0x1_0000_0000, 0x10_0000, UVA + 0x2_0000_0000));
    qemu_realize(&mut fe, 2);
    assert_eq!(world.told(), [], "nothing runs before the driver is ready");
    let _bells = qemu_start(&mut fe, &[&low, &high], &[0, 0], true);
    let told = world.threads[0].told();
    assert_eq!(told, [start(0, 128, 0, 0), Told::Call(0, true)]);
    let told = world.threads[1].told();
    assert_eq!(told, [start(1, 128, 0, 0), Told::Call(1, true)]);
    world.threads[0].with(0, |s| assert!(s.kick.is_some() && s.call.is_some() && s.err.is_some()));
    world.threads[0].complete(0, 300);
    world.threads[1].complete(1, 5);
    // stop: the positions are read back; cont: they are given again.
    let bases = [fe.get_base(0).expect("answered"), fe.get_base(1).expect("answered")];
    assert_eq!(bases, [300, 5]);
    assert_eq!(world.running(), [0; 0]);
    world.told();
    let _bells = qemu_start(&mut fe, &[&low], &bases, false);
    assert_eq!(world.threads[0].told()[0], start(0, 128, 300, 300));
    assert_eq!(world.threads[1].told()[0], start(1, 128, 5, 5));
    world.threads[0].with(0, |s| assert!(s.err.is_some(), "sent only once, kept"));
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn cloud_hypervisor_boots_resets_pauses_and_ends() {
    let world = World::new(1, 4);
    let (mut fe, serving) = world.connect();
    let memory = memory();
    fe.quiet = true;
    fe.tell(FrontendReq::SET_OWNER, &[], &[]).expect("sent");
    fe.ask_u64(FrontendReq::GET_FEATURES);
    let protocol = fe.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES);
    fe.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, protocol).expect("sent");
    fe.quiet = false;
    assert_eq!(fe.ask_u64(FrontendReq::GET_QUEUE_NUM), 4);
    assert_eq!(fe.get_config(0, 60).expect("answered").len(), 60);
    for round in 0..2 {
        fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES).expect("accepted");
        fe.set_table(&[&memory]).expect("accepted");
        for i in 0..4 {
            fe.set_ring(FrontendReq::SET_VRING_NUM, i, 256).expect("accepted");
        }
        for i in 0..4 {
            let bells = Bells::new();
            memory.set_used_index(i, 0);
            fe.set_addresses(u32::from(i), memory.ring(i)).expect("accepted");
            fe.set_ring(FrontendReq::SET_VRING_BASE, u32::from(i), 0).expect("accepted");
            fe.set_fd(FrontendReq::SET_VRING_CALL, i, Some(&bells.call)).expect("accepted");
            fe.set_fd(FrontendReq::SET_VRING_KICK, i, Some(&bells.kick)).expect("accepted");
        }
        assert_eq!(world.running(), [0; 0], "not enabled yet");
        for i in 0..4 {
            fe.enable(i, true).expect("accepted");
        }
        let expected: Vec<Told> = (0..4).map(|i| start(i, 256, 0, 0)).collect();
        assert_eq!(world.told(), expected, "round {round}");
        world.threads[0].complete(2, 77);
        // The guest resets the device.
        for i in 0..4 {
            fe.enable(i, false).expect("accepted");
            let done = if i == 2 { 77 } else { 0 };
            assert_eq!(fe.get_base(u32::from(i)), Some(done));
        }
        assert_eq!(world.running(), [0; 0]);
        world.told();
    }
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn libblkio_adds_regions_polls_and_just_closes() {
    let world = World::new(1, 256);
    let (mut fe, serving) = world.connect();
    let (rings, data) = (memory(), Memory::new(0x5000_0000, 0x10_0000, 0x5000_0000));
    fe.negotiate();
    fe.add_region(&rings).expect("accepted");
    fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 256).expect("accepted");
    fe.set_ring(FrontendReq::SET_VRING_BASE, 0, 0).expect("accepted");
    fe.set_addresses(0, rings.ring(0)).expect("accepted");
    fe.set_fd(FrontendReq::SET_VRING_CALL, 0, None).expect("a polled queue has no call");
    fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("accepted");
    fe.enable(0, true).expect("accepted");
    world.threads[0].with(0, |s| assert!(s.call.is_none() && s.kick.is_some()));
    world.threads[0].complete(0, 3);
    world.told();
    // Memory of the application, added while the queue runs.
    fe.add_region(&data).expect("accepted");
    assert_eq!(world.told(), [Told::Stop(0), start(0, 256, 3, 3)]);
    world.threads[0].with(0, |s| assert_eq!(s.memory.regions().len(), 2));
    drop(fe);
    assert!(serving.end().is_clean());
    world.still_serves();
}

#[test]
fn the_next_front_end_goes_on_where_the_last_one_left() {
    let world = World::new(1, 2);
    let memory = memory();
    let mut position = 0;
    for _ in 0..5 {
        let (mut fe, serving) = world.connect();
        fe.negotiate();
        fe.set_table(&[&memory]).expect("accepted");
        let bells = Bells::new();
        fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 64).expect("accepted");
        fe.set_ring(FrontendReq::SET_VRING_BASE, 0, u32::from(position)).expect("accepted");
        fe.set_addresses(0, memory.ring(0)).expect("accepted");
        fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&bells.kick)).expect("accepted");
        fe.enable(0, true).expect("accepted");
        assert_eq!(world.told(), [start(0, 64, position, position)]);
        world.threads[0].complete(0, 20_000);
        position = position.wrapping_add(20_000);
        drop(fe);
        assert!(serving.end().is_clean());
        assert_eq!(world.told(), [Told::Stop(0)]);
    }
}

#[test]
fn there_are_256_queues() {
    let world = World::new(3, 256);
    let (mut fe, serving) = world.connect();
    let memory = memory();
    fe.negotiate();
    assert_eq!(fe.ask_u64(FrontendReq::GET_QUEUE_NUM), 256);
    fe.set_table(&[&memory]).expect("accepted");
    for i in 0..256 {
        fe.start_ring(i, 256, &memory);
    }
    assert_eq!(world.running(), (0..256).collect::<Vec<_>>());
    assert_eq!(world.threads[2].running().len(), 85);
    // All of them move to the next generation together.
    world.told();
    fe.add_region(&Memory::new(0x8000_0000, 0x1000, 0x1000)).expect("accepted");
    assert_eq!(world.told().len(), 512);
    assert_eq!(world.running().len(), 256);
    drop(fe);
    assert!(serving.end().is_clean());
    assert_eq!(world.running(), [0; 0]);
}

#[test]
fn a_front_end_without_protocol_features_gets_enabled_rings() {
    let world = World::new(1, 1);
    let (mut fe, serving) = world.connect();
    let memory = memory();
    fe.quiet = true;
    fe.tell(FrontendReq::SET_OWNER, &[], &[]).expect("sent");
    fe.ask_u64(FrontendReq::GET_FEATURES);
    fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES & !PROTOCOL_BIT).expect("sent");
    fe.set_table(&[&memory]).expect("sent");
    fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 64).expect("sent");
    fe.set_addresses(0, memory.ring(0)).expect("sent");
    fe.set_ring(FrontendReq::SET_VRING_BASE, 0, 0).expect("sent");
    fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("sent");
    assert_eq!(fe.get_base(0), Some(0), "answered after all of it");
    assert_eq!(world.told(), [start(0, 64, 0, 0), Told::Stop(0)]);
    drop(fe);
    assert!(serving.end().is_clean());
}

#[test]
fn the_last_thing_that_a_ring_lacks_starts_it() {
    // Each step may be the last one; the specification fixes no order among them.
    const STEPS: usize = 5;
    for last in 0..STEPS {
        let world = World::new(1, 1);
        let (mut fe, serving) = world.connect();
        let (memory, bells) = (memory(), Bells::new());
        fe.negotiate();
        for step in (0..STEPS).map(|i| (last + 1 + i) % STEPS) {
            assert_eq!(world.running(), [0; 0], "something is missing before step {step}");
            match step {
                0 => fe.set_table(&[&memory]),
                1 => fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 64),
                2 => fe.set_addresses(0, memory.ring(0)),
                3 => fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&bells.kick)),
                _ => fe.enable(0, true),
            }
            .expect("accepted in any order");
        }
        assert_eq!(world.told(), [start(0, 64, 0, 0)], "step {last} started it");
        drop(fe);
        assert!(serving.end().is_clean());
    }
}

#[test]
fn features_may_come_last() {
    let world = World::new(1, 1);
    let (mut fe, serving) = world.connect();
    let memory = memory();
    fe.quiet = true;
    fe.ask_u64(FrontendReq::GET_FEATURES);
    fe.set_table(&[&memory]).expect("sent");
    fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 64).expect("sent");
    fe.set_addresses(0, memory.ring(0)).expect("sent");
    fe.set_fd(FrontendReq::SET_VRING_KICK, 0, Some(&eventfd())).expect("sent");
    assert_eq!(fe.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES) & 1, 1, "answered after all of it");
    assert_eq!(world.told(), []);
    fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES & !PROTOCOL_BIT).expect("sent");
    fe.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES);
    assert_eq!(world.told(), [start(0, 64, 0, 0)]);
    drop(fe);
    assert!(serving.end().is_clean());
}
