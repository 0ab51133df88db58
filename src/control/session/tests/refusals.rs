//! Everything that is refused, told and untold; and what is not even a message.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::FrontendReq;

use super::super::SessionEnd;
use crate::control::testing::{
    ALL_FEATURES, DENIED, FrontEnd, Memory, World, eventfd, pair, region,
};
use crate::device::config_space::WRITEBACK_OFFSET;

const UVA: u64 = 0x7f00_0000_0000;
const END: u64 = UVA + 0x10_0000;

type Act = fn(&mut FrontEnd, &Memory) -> Result<(), u64>;

/// One front-end with ring 0 running and the others unknown.
fn prepared(world: &World, memory: &Memory, fe: &mut FrontEnd) {
    fe.negotiate();
    fe.set_table(&[memory]).expect("accepted");
    fe.start_ring(0, 128, memory);
    assert_eq!(world.running(), [0]);
}

/// A front-end that asks for replies is told, and both sides go on. One that does not is left with
/// a closed connection, and the reason in our log.
fn refused(reason: &str, act: Act) {
    let world = World::new(1, 4);
    let memory = Memory::new(0, 0x10_0000, UVA);
    let (mut fe, serving) = world.connect();
    prepared(&world, &memory, &mut fe);
    assert_eq!(act(&mut fe, &memory), Err(DENIED), "{reason}");
    assert_eq!(world.running(), [0], "{reason}");
    assert_eq!(fe.ask_u64(FrontendReq::GET_QUEUE_NUM), 4, "the session goes on");
    drop(fe);
    assert!(serving.end().is_clean());

    memory.set_used_index(0, 0);
    let (mut fe, serving) = world.connect();
    prepared(&world, &memory, &mut fe);
    fe.quiet = true;
    act(&mut fe, &memory).expect("sent");
    assert!(fe.receive().is_none(), "the connection is closed");
    let end = serving.end();
    assert!(matches!(end, SessionEnd::Refused { .. }), "{end}");
    assert_eq!(end.to_string(), reason);
    world.still_serves();
}

#[test]
fn features_that_were_not_offered() {
    refused("SET_FEATURES refused: feature bits 0x800000000000000 were not offered", |fe, _| {
        fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES | 1 << 59)
    });
    // RING_RESET, which QEMU's vhost-user-blk cannot pass on.
    refused("SET_FEATURES refused: feature bits 0x10000000000 were not offered", |fe, _| {
        fe.set_u64(FrontendReq::SET_FEATURES, ALL_FEATURES | 1 << 40)
    });
}

#[test]
fn protocol_features_that_were_not_offered() {
    // The library goes by what was sent, so the session can only go on if REPLY_ACK stays in.
    let why = "SET_PROTOCOL_FEATURES refused: protocol feature bits 0x2 were not offered";
    refused(why, |fe, _| fe.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, 0xb22b));
}

#[test]
fn rings_that_do_not_exist() {
    let why = |request: &str, index: u32| {
        format!("{request} refused: queue {index} does not exist, there are 4")
    };
    refused(&why("SET_VRING_NUM", 4), |fe, _| fe.set_ring(FrontendReq::SET_VRING_NUM, 4, 64));
    refused(&why("SET_VRING_BASE", u32::MAX), |fe, _| {
        fe.set_ring(FrontendReq::SET_VRING_BASE, u32::MAX, 0)
    });
    refused(&why("SET_VRING_ADDR", 256), |fe, m| fe.set_addresses(256, m.ring(0)));
    refused(&why("SET_VRING_ENABLE", 65536), |fe, _| {
        fe.set_ring(FrontendReq::SET_VRING_ENABLE, 65536, 1)
    });
    refused(&why("SET_VRING_KICK", 4), |fe, _| {
        fe.set_fd(FrontendReq::SET_VRING_KICK, 4, Some(&eventfd()))
    });
    refused(&why("SET_VRING_CALL", 255), |fe, _| {
        fe.set_fd(FrontendReq::SET_VRING_CALL, 255, Some(&eventfd()))
    });
    refused(&why("SET_VRING_ERR", 4), |fe, _| fe.set_fd(FrontendReq::SET_VRING_ERR, 4, None));
}

#[test]
fn ring_sizes_and_positions() {
    refused(
        "SET_VRING_NUM refused: ring size 100 is not a power of two between 1 and 256",
        |fe, _| fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 100),
    );
    refused(
        "SET_VRING_NUM refused: ring size 0 is not a power of two between 1 and 256",
        |fe, _| fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 0),
    );
    refused(
        "SET_VRING_NUM refused: ring size 512 is not a power of two between 1 and 256",
        |fe, _| fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 512),
    );
    refused("SET_VRING_BASE refused: ring position 65536 does not fit 16 bits", |fe, _| {
        fe.set_ring(FrontendReq::SET_VRING_BASE, 1, 65536)
    });
    refused("SET_VRING_BASE refused: queue 0 runs: its position may not change", |fe, _| {
        fe.set_ring(FrontendReq::SET_VRING_BASE, 0, 5)
    });
    refused("SET_VRING_NUM refused: queue 0 runs: its size may not change", |fe, _| {
        fe.set_ring(FrontendReq::SET_VRING_NUM, 0, 64)
    });
}

#[test]
fn ring_addresses_outside_of_memory() {
    let why = |queue: u32, len: u32, part: &str, at: u64| {
        format!(
            "SET_VRING_ADDR refused: queue {queue}: {len} bytes of the {part} at \
             {at:#x} are not in one region"
        )
    };
    // A running ring stays where it is.
    refused(&why(0, 2048, "descriptor table", END - 2032), |fe, m| {
        let [_, avail, used] = m.ring(0);
        fe.set_addresses(0, [END - 2032, avail, used])
    });
    refused(&why(0, 262, "available ring", END - 260), |fe, m| {
        let [desc, _, used] = m.ring(0);
        fe.set_addresses(0, [desc, END - 260, used])
    });
    refused(&why(0, 1030, "used ring", END - 1028), |fe, m| {
        let [desc, avail, _] = m.ring(0);
        fe.set_addresses(0, [desc, avail, END - 1028])
    });
    refused(&why(1, 1024, "descriptor table", 0), |fe, m| {
        let [_, avail, used] = m.ring(1);
        let sized = fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 64);
        sized.and_then(|()| fe.set_addresses(1, [0, avail, used]))
    });
}

#[test]
fn a_ring_that_turns_out_to_be_outside_when_it_is_to_start() {
    let why = "SET_VRING_ENABLE refused: queue 1: 1024 bytes of the descriptor table at \
               0x10 are not in one region";
    refused(why, |fe, m| {
        let [_, avail, used] = m.ring(1);
        // Nothing is known of the size when the addresses come, so they are taken as they are.
        fe.set_addresses(1, [16, avail, used])?;
        fe.set_ring(FrontendReq::SET_VRING_NUM, 1, 64)?;
        fe.set_fd(FrontendReq::SET_VRING_KICK, 1, Some(&eventfd()))?;
        fe.enable(1, true)
    });
}

#[test]
fn memory_that_cannot_be() {
    let short = "memory region at guest address 0x10000000, 0x2000 bytes: \
                 the region is longer than its file";
    refused(&format!("ADD_MEM_REG refused: {short}"), |fe, _| {
        let mut memory = Memory::new(0x1000_0000, 0x1000, 0x1000_0000);
        memory.size = 0x2000;
        fe.add_region(&memory)
    });
    refused(&format!("SET_MEM_TABLE refused: {short}"), |fe, m| {
        let mut memory = Memory::new(0x1000_0000, 0x1000, 0x1000_0000);
        memory.size = 0x2000;
        fe.set_table(&[m, &memory])
    });
    let over = "memory regions overlap in guest addresses at 0x80000";
    refused(&format!("ADD_MEM_REG refused: {over}"), |fe, _| {
        fe.add_region(&Memory::new(0x8_0000, 0x1000, 0x1000))
    });
    refused(&format!("SET_MEM_TABLE refused: {over}"), |fe, m| {
        fe.set_table(&[&Memory::new(0x8_0000, 0x1000, 0x1000), m])
    });
    refused(
        "ADD_MEM_REG refused: memory regions overlap in front-end addresses at 0x7f0000080000",
        |fe, _| fe.add_region(&Memory::new(0x1000_0000, 0x1000, UVA + 0x8_0000)),
    );
    refused(
        "ADD_MEM_REG refused: memory region at guest address 0x10000000, 0x1000 bytes: \
         the region's offset is not a multiple of the page size",
        |fe, _| {
            let memory = Memory::new(0x1000_0000, 0x2000, 0x1000);
            let body = region([memory.gpa, 0x1000, memory.uva, 512]);
            fe.tell(FrontendReq::ADD_MEM_REG, &body, &[memory.file.as_raw_fd()])
        },
    );
    refused(
        "ADD_MEM_REG refused: memory region at guest address 0xfffffffffffff000, 0x2000 bytes: \
         the region is empty or its addresses overflow",
        |fe, _| fe.add_region(&Memory::new(0xffff_ffff_ffff_f000, 0x2000, 0x1000)),
    );
    refused(
        "ADD_MEM_REG refused: memory region at guest address 0x10000000, 0x0 bytes: \
         the region is empty or its addresses overflow",
        |fe, _| fe.add_region(&Memory::new(0x1000_0000, 0, 0x1000)),
    );
    refused(
        "REM_MEM_REG refused: there is no memory region at guest address 0x0 with 0x1000 bytes",
        |fe, _| fe.remove_region(&Memory::new(0, 0x1000, UVA)),
    );
}

#[test]
fn memory_that_is_not_memory() {
    let (reason, act): (&str, Act) = (
        "ADD_MEM_REG refused: memory region at guest address 0x10000000, 0x1000 bytes: \
         the region is longer than its file",
        |fe, _| {
            let body = region([0x1000_0000, 0x1000, 0x1000, 0]);
            fe.tell(FrontendReq::ADD_MEM_REG, &body, &[eventfd().as_raw_fd()])
        },
    );
    refused(reason, act);
}

#[test]
fn descriptors_that_cannot_carry_a_notification() {
    refused(
        "SET_VRING_KICK refused: the kick descriptor is unusable: it cannot be polled",
        |fe, m| fe.set_fd(FrontendReq::SET_VRING_KICK, 1, Some(&m.file)),
    );
    refused(
        "SET_VRING_CALL refused: the call descriptor is unusable: it cannot be polled",
        |fe, m| fe.set_fd(FrontendReq::SET_VRING_CALL, 0, Some(&m.file)),
    );
    refused(
        "SET_VRING_ERR refused: the err descriptor is unusable: it is open the wrong way round",
        |fe, _| {
            let (reader, _writer) = std::io::pipe().expect("a pipe");
            fe.set_fd(FrontendReq::SET_VRING_ERR, 0, Some(&reader))
        },
    );
}

#[test]
fn config_space_that_is_not_writable() {
    let why = |len: usize, offset: u32| {
        format!(
            "SET_CONFIG refused: config space, {len} bytes at offset {offset}: \
             only writeback (1 byte at 32) can be written"
        )
    };
    refused(&why(1, 0), |fe, _| fe.set_config(0, &[1]));
    refused(&why(2, 32), |fe, _| fe.set_config(WRITEBACK_OFFSET, &[1, 1]));
    refused(&why(60, 0), |fe, _| fe.set_config(0, &[0; 60]));
}

/// A message after which the session must end with this reason, whatever the front-end asked for.
fn ends(reason: &str, act: impl FnOnce(&mut FrontEnd, &Memory)) {
    let world = World::new(1, 4);
    let memory = Memory::new(0, 0x10_0000, UVA);
    let (mut fe, serving) = world.connect();
    prepared(&world, &memory, &mut fe);
    act(&mut fe, &memory);
    assert!(fe.receive().is_none(), "the connection is closed: {reason}");
    let end = serving.end();
    assert!(!end.is_clean());
    assert_eq!(end.to_string(), reason);
    world.still_serves();
}

#[test]
fn a_base_of_a_ring_that_does_not_exist() {
    // The answer has no room for "no".
    ends("GET_VRING_BASE refused: queue 4 does not exist, there are 4", |fe, _| {
        assert_eq!(fe.get_base(4), None);
    });
}

#[test]
fn messages_that_are_not_offered() {
    ends("SET_STATUS: invalid message", |fe, _| fe.send(39, 1 | 8, &[0; 8], &[]));
    ends("GET_STATUS: invalid message", |fe, _| fe.send(40, 1, &[], &[]));
    ends("SEND_RARP: invalid message", |fe, _| fe.send(19, 1, &[0; 8], &[]));
    ends("SET_LOG_BASE: inactive protocol operation: 2", |fe, m| {
        fe.send(FrontendReq::SET_LOG_BASE as u32, 1 | 8, &[0; 16], &[m.file.as_raw_fd()]);
    });
    ends("GPU_SET_SOCKET refused: a GPU channel is not offered", |fe, _| {
        let (_ours, theirs) = UnixStream::pair().expect("a pair");
        fe.send(FrontendReq::GPU_SET_SOCKET as u32, 1, &[], &[theirs.as_raw_fd()]);
    });
}

#[test]
fn messages_of_features_that_were_forced() {
    // The library believes what was sent; we still do not do it.
    let forced = |request: FrontendReq, body: &'static [u8], fd: bool| {
        move |fe: &mut FrontEnd, m: &Memory| {
            let all = 0xf_ffff;
            assert_eq!(fe.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, all), Err(DENIED));
            let fds = if fd { vec![m.file.as_raw_fd()] } else { vec![] };
            fe.send(request as u32, 1, body, &fds);
        }
    };
    ends(
        "SET_LOG_BASE refused: LOG_SHMFD is not offered",
        forced(FrontendReq::SET_LOG_BASE, &[1; 16], true),
    );
}

#[test]
fn malformed_messages() {
    ends("message 200: invalid message", |fe, _| fe.send(200, 1, &[], &[]));
    ends("message 0: invalid message", |fe, _| fe.send(0, 1, &[], &[]));
    ends("SET_FEATURES: invalid message", |fe, _| fe.send(2, 1 | 8, &[0; 4], &[]));
    ends("SET_FEATURES: invalid message", |fe, _| fe.send(2, 1 | 8, &[], &[]));
    ends("SET_FEATURES: invalid message", |fe, _| fe.send(2, 2, &[0; 8], &[]));
    ends("SET_OWNER: invalid message", |fe, _| fe.send(3, 1, &[0; 8], &[]));
    ends("SET_VRING_ENABLE: invalid parameters", |fe, _| fe.send(18, 1 | 8, &pair(0, 2), &[]));
    ends("SET_VRING_KICK: invalid message", |fe, _| fe.send(12, 1 | 8, &[0; 8], &[]));
    ends("SET_VRING_KICK: invalid message", |fe, _| {
        let body = 0x100_u64.to_ne_bytes();
        fe.send(12, 1 | 8, &body, &[eventfd().as_raw_fd()]);
    });
    ends("SET_VRING_NUM: invalid message", |fe, _| {
        fe.send(8, 1 | 8, &pair(1, 64), &[eventfd().as_raw_fd()]);
    });
    ends("SET_MEM_TABLE: invalid message", |fe, _| fe.send(5, 1, &pair(0, 0), &[]));
    ends("SET_MEM_TABLE: invalid message", |fe, m| {
        // Two regions, one descriptor.
        let mut body = pair(2, 0).to_vec();
        body.extend([0; 64]);
        fe.send(5, 1, &body, &[m.file.as_raw_fd()]);
    });
    ends("SET_MEM_TABLE: invalid message", |fe, m| {
        // A region of no bytes.
        let mut body = pair(1, 0).to_vec();
        body.extend([0; 32]);
        fe.send(5, 1, &body, &[m.file.as_raw_fd()]);
    });
    ends("ADD_MEM_REG: invalid parameters", |fe, m| {
        fe.send(37, 1 | 8, &region(m.words()), &[]);
    });
    ends("SET_BACKEND_REQ_FD: socket is not AF_UNIX", |fe, _| {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        fe.quiet = true;
        let _ = fe.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[tcp.as_raw_fd()]);
    });
    ends("GET_CONFIG: invalid message", |fe, _| fe.send(24, 1, &[0; 4], &[]));
}

#[test]
fn misaligned_rings_never_get_here() {
    let world = World::new(1, 4);
    let memory = Memory::new(0, 0x10_0000, UVA);
    for (desc, avail, used) in [(8, 0, 0), (0, 1, 0), (0, 0, 2)] {
        let (mut fe, serving) = world.connect();
        fe.negotiate();
        fe.set_table(&[&memory]).expect("accepted");
        let [d, a, u] = memory.ring(0);
        assert_eq!(fe.set_addresses(0, [d + desc, a + avail, u + used]), Err(u64::MAX));
        assert_eq!(serving.end().to_string(), "SET_VRING_ADDR: invalid message");
    }
    world.still_serves();
}

#[test]
fn a_message_that_stops_in_the_middle() {
    let world = World::new(1, 4);
    for sent in [1, 11, 12, 19] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let serving = world.serve(theirs);
        let mut message = Vec::new();
        for word in [2_u32, 1, 8] {
            message.extend(word.to_ne_bytes());
        }
        message.extend([0; 8]);
        (&ours).write_all(&message[..sent]).expect("room");
        ours.shutdown(Shutdown::Write).expect("connected");
        let end = serving.end();
        assert!(matches!(end, SessionEnd::BadMessage { .. }), "{sent} bytes: {end}");
    }
    world.still_serves();
}

#[test]
fn a_message_that_says_it_is_longer_than_allowed() {
    let world = World::new(1, 4);
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let serving = world.serve(theirs);
    for word in [2_u32, 1, 0x1001] {
        ours.write_all(&word.to_ne_bytes()).expect("room");
    }
    assert_eq!(serving.end().to_string(), "SET_FEATURES: invalid message");
    world.still_serves();
}

#[test]
fn a_config_that_cannot_be_read_is_answered_with_nothing() {
    let world = World::new(1, 4);
    let (mut fe, serving) = world.connect();
    fe.negotiate();
    // SPDK's initiator asks for 256 bytes, an old cloud-hypervisor at another base.
    assert_eq!(fe.get_config(0, 256).expect("answered").len(), 256);
    let words = fe.get_config(0, 16).expect("answered");
    assert_eq!(fe.get_config(0x100, 16).expect("answered"), words);
    drop(fe);
    assert!(serving.end().is_clean());
}
