//! The life of a ring: started, disabled, stopped, moved and started again, in every order that a
//! front-end may choose, without losing or doubling a request.

use std::fs;

use vhost_user_blkmq::testkit::blk::Request;
use vmm_sys_util::eventfd::EventFd;

use super::bench::{Bench, Plan, QUIET, Victim, share};
use crate::common::client::LOST;
use crate::common::daemon::eventually;
use crate::common::foreign;
use crate::common::rng::pattern;
use crate::common::session::{Fate, NO_FD, request, ring_state};

/// Clock ticks (10 ms) of processor time that a process has used.
pub(crate) fn cpu_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit_once(')').expect("the name is in brackets").1;
    let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
    field(11).expect("utime") + field(12).expect("stime")
}

/// Requests that were made available before the device could know of them are served without a
/// kick: QEMU's guest may have put them there while the connection was down.
#[test]
fn requests_from_before_the_start_are_served() {
    let mut victim = Victim::new(&[]);
    let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
    bench.announce_queue(0);
    let bytes = pattern(5, 512);
    bench.queue(0).blk.add(&Request::write(7, &bytes)).expect("room");
    bench.queue(0).blk.publish();
    bench.wire_queue(0);
    bench.enable_queue(0, true);
    assert_eq!(bench.queue(0).wait().status, 0);
    assert!(bench.queue(0).ask(&Request::read(7, 512)).data == bytes);
    drop(bench);
    victim.unharmed("requests from before the start");
    victim.daemon.stop();
}

#[test]
fn a_disabled_ring_waits_and_loses_nothing() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    bench.queue(0).serves(1);
    bench.enable_queue(0, false);
    for sector in 0..8 {
        let request = Request::write(sector, &pattern(sector, 512));
        bench.queue(0).blk.add(&request).expect("room");
    }
    bench.queue(0).publish();
    bench.queue(0).ring_doorbell();
    bench.queue(1).serves(500);
    std::thread::sleep(QUIET);
    assert!(bench.queue(0).blk.poll().is_none(), "a disabled ring is not served");
    bench.enable_queue(0, true);
    for _ in 0..8 {
        assert_eq!(bench.queue(0).wait().status, 0);
    }
    for sector in 0..8 {
        assert!(bench.queue(0).ask(&Request::read(sector, 512)).data == pattern(sector, 512));
    }
    drop(bench);
    victim.unharmed("a disabled ring");
    victim.daemon.stop();
}

#[test]
fn a_kick_before_the_addresses_harms_nobody() {
    let mut victim = Victim::new(&[]);
    let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
    bench.wire_queue(0);
    bench.queue(0).ring_doorbell();
    bench.enable_queue(0, true);
    bench.queue(0).ring_doorbell();
    bench.announce_queue(0);
    bench.queue(0).serves(1);
    drop(bench);
    victim.unharmed("a kick before the addresses");
    victim.daemon.stop();
}

#[test]
fn the_position_of_a_stopped_ring_is_the_one_it_was_given() {
    let mut victim = Victim::new(&[]);
    let mut session = victim.session();
    for position in [0u16, 1, 0x8000, 0xffff] {
        session.must(request::SET_VRING_BASE, &ring_state(3, u32::from(position)), &[]);
        for _ in 0..2 {
            let reply = session.ask(request::GET_VRING_BASE, &ring_state(3, 0)).expect("answer");
            assert_eq!(reply.payload, ring_state(3, u32::from(position)));
        }
    }
    drop(session);
    victim.unharmed("positions of stopped rings");
    victim.daemon.stop();
}

/// Indexes wrap at 65536; rings start anywhere.
#[test]
fn rings_start_anywhere_and_wrap() {
    let mut victim = Victim::new(&[]);
    for plan in [Plan::default(), Plan::event_idx()] {
        let mut bench = victim.bench(Plan { base: 0xffe0, queues: 1, ..plan });
        for key in 0..40 {
            bench.queue(0).serves(key);
        }
        let wrapped = 0xffe0u16.wrapping_add(80);
        assert_eq!(bench.stop_queue(0), wrapped);
        drop(bench);
    }
    victim.unharmed("rings that wrap");
    victim.daemon.stop();
}

/// Stop and start at the position that came back, many times, with requests waiting each time.
#[test]
fn stop_and_cont_lose_nothing() {
    let mut victim = Victim::new(&[]);
    // Room for all of them: a stop may come before the device has fetched anything.
    let mut bench = victim.bench(Plan { size: 1024, ..Plan::event_idx() });
    let mut sent = 0u64;
    let mut back = 0u64;
    for _ in 0..30 {
        for _ in 0..6 {
            let request = Request::write(sent % 512, &pattern(sent, 512));
            bench.queue(0).blk.add(&request).expect("room");
            sent += 1;
        }
        bench.queue(0).publish();
        let position = bench.stop_queue(0);
        let used = bench.queue(0).blk.driver().ring().used_idx();
        assert_eq!(position, used, "everything that was fetched is answered");
        while let Some(done) = bench.queue(0).blk.poll() {
            assert_eq!(done.status, 0);
            back += 1;
        }
        assert_eq!(u64::from(position), back & 0xffff, "nothing twice, nothing lost");
        bench.session.must(request::SET_VRING_BASE, &ring_state(0, u32::from(position)), &[]);
        bench.wire_queue(0);
    }
    while back < sent {
        assert_eq!(bench.queue(0).wait().status, 0);
        back += 1;
    }
    for sector in 0..sent {
        assert!(bench.queue(0).ask(&Request::read(sector, 512)).data == pattern(sector, 512));
    }
    drop(bench);
    victim.unharmed("stop and cont");
    victim.daemon.stop();
}

#[test]
fn the_memory_table_may_be_sent_again_under_load() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    for round in 0..20u64 {
        for i in 0..8 {
            let request = Request::write(i, &pattern(round ^ i, 512));
            bench.queue(0).blk.add(&request).expect("room");
        }
        bench.queue(0).publish();
        let Bench { session, memory, .. } = &mut bench;
        assert_eq!(share(session, memory), Fate::Accepted, "the same table");
        let extra = vhost_user_blkmq::testkit::TestMemory::with_regions(&[(1 << 40, 65536)]);
        let words = super::bench::words(&extra)[0];
        let file = extra.file();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let payload = crate::common::session::mem_region(words);
        session.must(request::ADD_MEM_REG, &payload, &[fd]);
        session.must(request::REM_MEM_REG, &payload, &[]);
        for _ in 0..8 {
            assert_eq!(bench.queue(0).wait().status, 0, "round {round}");
        }
        bench.queue(1).serves(round);
    }
    drop(bench);
    victim.unharmed("memory tables under load");
    victim.daemon.stop();
}

#[test]
fn the_call_descriptor_may_change_under_load() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    for round in 0..50u64 {
        let Bench { session, queues, .. } = &mut bench;
        let other = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
        let old = std::mem::replace(&mut queues[0].call, other);
        for i in 0..4 {
            queues[0].blk.add(&Request::write(i, &pattern(round, 512))).expect("room");
        }
        queues[0].publish();
        assert_eq!(
            session.ring_fd(request::SET_VRING_CALL, 0, Some(&queues[0].call)),
            Fate::Accepted
        );
        // Up to the acknowledgement either may ring; from then on only the new one.
        for _ in 0..4 {
            if !foreign::readable(std::os::fd::AsRawFd::as_raw_fd(&old), std::time::Duration::ZERO)
            {
                break;
            }
            old.read().expect("readable");
        }
        let mut left = 4;
        while left > 0 {
            if queues[0].blk.poll().is_some() {
                left -= 1;
            }
        }
        queues[0].serves(round);
    }
    drop(bench);
    victim.unharmed("changing call descriptors");
    victim.daemon.stop();
}

/// A reset in the middle: the device forgets the rings, and they can be set up again.
#[test]
fn a_device_reset_under_load() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    for round in 0..10u64 {
        for i in 0..16 {
            bench.queue(0).blk.add(&Request::write(i, &pattern(round, 512))).expect("room");
        }
        bench.queue(0).publish();
        bench.session.must(request::RESET_DEVICE, &[], &[]);
        let used = bench.queue(0).blk.driver().ring().used_idx();
        std::thread::sleep(QUIET / 3);
        assert_eq!(used, bench.queue(0).blk.driver().ring().used_idx(), "after the answer: rest");
        // A reset takes the features back, too.
        bench.accept_features();
        for q in 0..2 {
            bench.renew_queue(q, 0);
            bench.start_queue(q);
            bench.queue(q).serves(round);
        }
    }
    drop(bench);
    victim.unharmed("device resets");
    victim.daemon.stop();
}

/// The front-end closes the connection while everything runs; the next one finds nothing of it.
#[test]
fn a_connection_that_ends_under_load() {
    let mut victim = Victim::new(&[]);
    for round in 0..20u64 {
        let mut bench = victim.bench(Plan { size: 256, ..Plan::default() });
        for q in 0..2 {
            for i in 0..64 {
                let request = Request::write(i * 16, &pattern(round, 8192));
                bench.queue(q).blk.add(&request).expect("room");
            }
            bench.queue(q).publish();
        }
    }
    victim.unharmed("connections that end under load");
    victim.daemon.stop();
}

/// Whatever comes first and whatever last: once everything was said, the ring runs. Only the word
/// that turns it on is the last one, as in every front-end.
#[test]
fn every_order_of_the_set_up_messages() {
    let seed = crate::common::rng::seed();
    let mut rng = crate::common::rng::Rng::new(seed);
    let mut victim = Victim::new(&[]);
    for _ in 0..40 {
        let mut order = ["memory", "NUM", "BASE", "ADDR", "KICK", "CALL"];
        for i in (1..order.len()).rev() {
            order.swap(i, rng.index(i + 1));
        }
        let mut bench = Bench::negotiated(victim.daemon.socket(), Plan::event_idx());
        for step in order {
            match step {
                "memory" => {
                    let Bench { session, memory, .. } = &mut bench;
                    assert_eq!(share(session, memory), Fate::Accepted, "{order:?}");
                }
                "NUM" => bench.session.must(request::SET_VRING_NUM, &ring_state(0, 64), &[]),
                "BASE" => bench.session.must(request::SET_VRING_BASE, &ring_state(0, 0), &[]),
                "ADDR" => bench.announce_addresses(0),
                _ => {
                    let Bench { session, queues, .. } = &mut bench;
                    let (what, fd) = match step {
                        "KICK" => (request::SET_VRING_KICK, &queues[0].kick),
                        _ => (request::SET_VRING_CALL, &queues[0].call),
                    };
                    let fate = session.ring_fd(what, 0, Some(fd));
                    assert_eq!(fate, Fate::Accepted, "seed {seed}: {order:?}");
                }
            }
        }
        bench.enable_queue(0, true);
        bench.queue(0).serves(1);
        drop(bench);
    }
    victim.unharmed("set-up in any order");
    victim.daemon.stop();
}

#[test]
fn all_256_queues_are_served() {
    let victim = Victim::new(&["--threads=3"]);
    let Victim { mut daemon, scratch, .. } = victim;
    let mut first = None;
    for _ in 0..3 {
        let mut bench =
            Bench::start(daemon.socket(), Plan { queues: 256, size: 16, ..Plan::default() });
        assert_eq!(bench.session.number(request::GET_QUEUE_NUM), 256);
        for q in 0..256 {
            bench.queue(q).serves(u64::from(q));
        }
        // All of them at once.
        for q in 0..256 {
            let request = Request::read(u64::from(q), 1024);
            bench.queue(q).blk.add(&request).expect("room");
            bench.queue(q).publish();
        }
        for q in 0..256 {
            assert_eq!(bench.queue(q).wait().status, 0, "queue {q}");
        }
        drop(bench);
        // What the first round leaves behind (memory kept by the allocator) is all there is.
        let before = *first.get_or_insert_with(|| daemon.at_rest());
        daemon.settles_at(before, 8 << 10);
    }
    crate::common::client::serves(daemon.socket());
    daemon.stop();
    drop(scratch);
}

/// Nothing that a front-end sent can end up in a child process.
#[test]
fn every_descriptor_is_close_on_exec() {
    let victim = Victim::new(&[]);
    let open = || -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{}/fd", victim.daemon.pid())).expect("it lives");
        fds.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect()
    };
    // What whoever started us left open is not the program's.
    let inherited = open();
    let mut bench = victim.bench(Plan::default());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    bench.session.must(request::SET_BACKEND_REQ_FD, &[], &[fd]);
    bench.queue(0).serves(1);
    let mut seen = 0;
    for name in open().into_iter().filter(|name| !inherited.contains(name)) {
        let info = format!("/proc/{}/fdinfo/{name}", victim.daemon.pid());
        let info = fs::read_to_string(info).expect("it lives");
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).expect("always there");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
        assert_ne!(flags & libc::O_CLOEXEC, 0, "descriptor {name}: {info}");
        seen += 1;
    }
    // Memory, the channel, and three eventfds for each of two rings, at the least.
    assert!(seen >= 8, "{seen} descriptors");
    drop((bench, ours));
    victim.daemon.stop();
}

#[test]
fn an_idle_daemon_uses_no_processor_time() {
    let victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::event_idx());
    bench.queue(0).serves(1);
    bench.queue(1).serves(1);
    std::thread::sleep(QUIET * 3);
    let before = cpu_time(victim.daemon.pid());
    std::thread::sleep(QUIET * 15);
    let spent = cpu_time(victim.daemon.pid()) - before;
    assert!(spent <= 2, "{spent} ticks of 10 ms in 450 ms of rest");
}

/// Writing to a blocking eventfd whose counter is full waits for the front-end, for ever.
#[test]
fn doorbells_that_are_full_hold_nobody_up() {
    let mut victim = Victim::new(&[]);
    let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
    let queue = bench.queue(0);
    for bell in [&mut queue.call, &mut queue.err] {
        *bell = EventFd::new(libc::EFD_CLOEXEC).expect("an eventfd");
        bell.write(u64::MAX - 1).expect("what a counter holds");
    }
    bench.start_queue(0);
    bench.start_queue(1);
    let queue = bench.queue(0);
    queue.blk.add(&Request::read(0, 512)).expect("room");
    queue.publish();
    assert!(eventually(LOST, || queue.blk.poll().is_some()), "the request comes back");
    bench.queue(1).serves(1);
    // An entry that does not exist breaks the ring, which is said on the other bell.
    bench.queue(0).blk.driver_mut().push_avail(5000);
    bench.queue(0).publish();
    bench.queue(0).ring_doorbell();
    bench.queue(1).serves(2);
    bench.stop_queue(0);
    drop(bench);
    victim.unharmed("full doorbells");
    victim.daemon.stop();
}

/// Bit 8 of SET_VRING_KICK: the device is to look at the ring by itself.
#[test]
fn a_ring_without_a_kick_descriptor_is_served() {
    let mut victim = Victim::new(&[]);
    for plan in [Plan::default(), Plan::event_idx()] {
        let mut bench = Bench::prepare(victim.daemon.socket(), plan);
        bench.announce_queue(0);
        let call = bench.queue(0).call.try_clone().expect("a descriptor");
        let fate = bench.session.ring_fd(request::SET_VRING_CALL, 0, Some(&call));
        assert_eq!(fate, Fate::Accepted);
        bench.session.must(request::SET_VRING_KICK, &NO_FD.to_le_bytes(), &[]);
        bench.enable_queue(0, true);
        for key in 0..20 {
            bench.queue(0).serves(key);
        }
        bench.stop_queue(0);
        drop(bench);
        victim.unharmed("a ring without a kick");
    }
    victim.daemon.stop();
}
