//! One test for each defect that was found in another back-end, by name.
//!
//! The one that needs to look below the image (a flush that reaches the disk) is in `strace.rs`.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use vhost_user_blkmq::sys::ring::Descriptor;
use vhost_user_blkmq::sys::sigbus;
use vhost_user_blkmq::testkit::blk::{Framing, Request};
use vhost_user_blkmq::testkit::driver::NEXT;
use vmm_sys_util::eventfd::EventFd;

use super::bench::{Bench, DISK, Plan, QUIET, Victim};
use crate::common::client::LOST;
use crate::common::daemon::{Daemon, Scratch, eventually};
use crate::common::disk::Loop;
use crate::common::rng::pattern;
use crate::common::session::{Fate, NO_FD, config, request, ring_state};
use crate::common::{driver, foreign};

/// qemu-storage-daemon answers GET_VRING_BASE with requests in flight, writes payloads into guest
/// memory afterwards, and loses the completions.
#[test]
fn get_vring_base_answers_after_drain() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { size: 256, ..Plan::default() });
    let len = 256 << 10;
    for round in 0..10u64 {
        // Half are reads, so that a late one would write into guest memory.
        for i in 0..12u64 {
            let sector = i * 512;
            let request = if i % 2 == 0 {
                Request::write(sector, &pattern(round ^ i, len))
            } else {
                Request::read(sector, u32::try_from(len).expect("small"))
            };
            bench.queue(0).blk.add(&request).expect("room");
        }
        bench.queue(0).publish();
        bench.queue(0).ring_doorbell();
        let position = bench.stop_queue(0);
        let used = bench.queue(0).blk.driver().ring().used_idx();
        assert_eq!(position, used, "everything that was fetched has been answered");
        let image = bench.memory.read(vhost_user_blkmq::testkit::GPA, 8 << 20);
        let call = bench.queue(0).call.as_raw_fd();
        while foreign::readable(call, Duration::ZERO) {
            bench.queue(0).call.read().expect("readable");
        }
        std::thread::sleep(QUIET);
        assert_eq!(used, bench.queue(0).blk.driver().ring().used_idx(), "no late completion");
        assert!(!foreign::readable(call, Duration::ZERO), "no late notification");
        let later = bench.memory.read(vhost_user_blkmq::testkit::GPA, 8 << 20);
        assert!(image == later, "no late write into guest memory");
        bench.session.must(request::SET_VRING_BASE, &ring_state(0, u32::from(position)), &[]);
        bench.wire_queue(0);
        for _ in 0..12 {
            assert_eq!(bench.queue(0).wait().status, 0, "round {round}");
        }
    }
    drop(bench);
    victim.unharmed("GET_VRING_BASE under load");
    victim.daemon.stop();
}

/// SPDK executes both on a read-only device.
#[test]
fn read_only_refuses_discard_and_write_zeroes() {
    let scratch = Scratch::new();
    let image = scratch.image(DISK);
    let bytes = pattern(1, 65536);
    let file = std::fs::File::options().write(true).open(&image).expect("ours");
    file.write_all_at(&bytes, 0).expect("ours");
    let daemon = Daemon::start(&scratch, &image, &["--read-only"]);
    let mut bench = Bench::start(daemon.socket(), Plan::default());
    assert_ne!(bench.session.features() & 1 << 5, 0, "VIRTIO_BLK_F_RO");
    let offered = bench.session.features();
    // Not offered is unknown; offered is refused. Either way nothing happens.
    let wanted = |bit: u32| if offered & 1 << bit == 0 { 2 } else { 1 };
    let done = bench.queue(0).ask(&Request::discard(&[(0, 8, 0)]));
    assert_eq!((done.status, done.used_len), (wanted(13), 1));
    for unmap in [0, 1] {
        let done = bench.queue(0).ask(&Request::write_zeroes(&[(0, 8, unmap)]));
        assert_eq!((done.status, done.used_len), (wanted(14), 1));
    }
    assert_eq!(bench.queue(0).ask(&Request::write(0, &[1; 512])).status, 1);
    assert_eq!(bench.queue(0).ask(&Request::flush()).status, 0);
    let done = bench.queue(0).ask(&Request::read(0, 65536));
    assert!(done.status == 0 && done.data == bytes, "nothing changed");
    drop(bench);
    daemon.stop();
}

/// ubiblk's queue thread panics.
#[test]
fn get_id_without_data_does_not_kill() {
    let mut victim = Victim::new(&["--serial=blkmq-serial"]);
    let mut bench = victim.bench(Plan::default());
    for len in [0, 1, 19, 20, 21, 4096] {
        let done = bench.queue(0).ask(&Request::get_id(len));
        assert_eq!(done.status, 0, "GET_ID into {len} bytes");
        assert_eq!(done.used_len, len.min(20) + 1, "GET_ID into {len} bytes");
        let mut serial = b"blkmq-serial".to_vec();
        serial.resize(20, 0);
        serial.truncate(usize::try_from(len).expect("small"));
        assert_eq!(done.data[..serial.len()], serial[..], "GET_ID into {len} bytes");
        assert!(done.data[serial.len()..].iter().all(|b| *b == 0xaa), "the rest is left alone");
    }
    drop(bench);
    victim.unharmed("GET_ID of any length");
    victim.daemon.stop();
}

/// libvhost-user gives the whole device up, until the front-end reconnects.
#[test]
fn malformed_chain_does_not_kill_the_device() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { queues: 4, ..Plan::default() });
    for q in 0..4 {
        bench.queue(q).serves(u64::from(q));
    }
    let wrong = Descriptor { addr: 0, len: 16, flags: NEXT, next: 5000 };
    let blk = &mut bench.queue(2).blk;
    blk.driver_mut().write_descriptor(40, wrong);
    blk.driver_mut().push_avail(40);
    bench.queue(2).publish();
    assert!(bench.queue(2).broken(), "that ring is given up");
    for q in [0, 1, 3] {
        bench.queue(q).serves(u64::from(q) + 10);
        assert!(!bench.queue(q).broken_now(), "and no other");
    }
    bench.stop_queue(2);
    bench.renew_queue(2, 0);
    bench.start_queue(2);
    bench.queue(2).serves(20);
    drop(bench);
    victim.unharmed("a malformed chain");
    victim.daemon.stop();
}

/// A peer clears O_NONBLOCK on QEMU's eventfd, which shares the file description, and hangs QEMU.
#[test]
fn kick_eventfd_flags_are_untouched() {
    let mut victim = Victim::new(&[]);
    for flags in [0, libc::EFD_NONBLOCK] {
        let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
        for index in 0..2 {
            let make = || EventFd::new(flags).expect("an eventfd");
            let queue = bench.queue(index);
            (queue.kick, queue.call, queue.err) = (make(), make(), make());
            bench.start_queue(index);
        }
        for index in 0..2 {
            for key in 0..10 {
                bench.queue(index).serves(key);
            }
            let queue = bench.queue(index);
            for fd in [&queue.kick, &queue.call, &queue.err] {
                let now = foreign::file_status_flags(fd.as_raw_fd());
                let nonblocking = now & libc::O_NONBLOCK != 0;
                assert_eq!(nonblocking, flags & libc::EFD_NONBLOCK != 0, "flags {now:#o}");
            }
        }
        bench.stop_queue(0);
        let now = foreign::file_status_flags(bench.queue(0).kick.as_raw_fd());
        assert_eq!(now & libc::O_NONBLOCK != 0, flags != 0, "after the ring was stopped, too");
        drop(bench);
        victim.unharmed("eventfds of both kinds");
    }
    victim.daemon.stop();
}

/// One peer panics on the eventfd write, another refuses the kick.
#[test]
fn polled_guest_without_call_fd() {
    let mut victim = Victim::new(&[]);
    for say_so in [true, false] {
        let mut bench = Bench::prepare(victim.daemon.socket(), Plan::event_idx());
        bench.announce_queue(0);
        if say_so {
            bench.session.must(request::SET_VRING_CALL, &NO_FD.to_le_bytes(), &[]);
        }
        let Bench { session, queues, .. } = &mut bench;
        let fate = session.ring_fd(request::SET_VRING_KICK, 0, Some(&queues[0].kick));
        assert_eq!(fate, Fate::Accepted);
        bench.enable_queue(0, true);
        for round in 0..50u64 {
            let queue = bench.queue(0);
            // Interrupts stay wanted as far as the ring says: there is just no way to send them.
            queue.blk.driver().enable_interrupts();
            let bytes = pattern(round, 512);
            queue.blk.add(&Request::write(round, &bytes)).expect("room");
            queue.publish();
            let mut done = None;
            assert!(
                eventually(LOST, || {
                    done = queue.blk.poll();
                    done.is_some()
                }),
                "round {round}"
            );
            assert_eq!(done.map(|d| d.status), Some(0));
        }
        drop(bench);
        victim.unharmed("a guest that polls");
    }
    victim.daemon.stop();
}

/// Several peers leave it at 0, or count what was not written.
#[test]
fn used_len_is_right() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    let cases = [
        (Request::read(0, 512), 0, 513),
        (Request::read(0, 65536), 0, 65537),
        (Request::write(0, &[1; 4096]), 0, 1),
        (Request::flush(), 0, 1),
        (Request::get_id(20), 0, 21),
        (Request::discard(&[(0, 8, 0)]), 0, 1),
        (Request::write_zeroes(&[(0, 8, 0)]), 0, 1),
        (Request::read(DISK / 512, 512), 1, 1),
        (Request::write(u64::MAX, &[1; 512]), 1, 1),
        (Request::new(77, 0), 2, 1),
    ];
    for (request, status, used_len) in cases {
        for framing in [Framing::plain(&request), Framing::indirect(&request)] {
            let done = bench.queue(0).ask_framed(&request, &framing);
            assert_eq!((done.status, done.used_len), (status, used_len), "{request:?}");
        }
    }
    drop(bench);
    victim.unharmed("lengths");
    victim.daemon.stop();
}

/// A peer reports "write through" while it caches, so that guests never flush.
#[test]
fn write_cache_reported_as_write_back() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    let features = bench.session.features();
    assert_ne!(features & 1 << 9, 0, "VIRTIO_BLK_F_FLUSH");
    assert_ne!(features & 1 << 11, 0, "VIRTIO_BLK_F_CONFIG_WCE");
    assert_eq!(bench.session.config(32, 1), Some(vec![1]));
    // And it can be switched, which two peers offer and do not do.
    for mode in [0, 1, 0, 1] {
        bench.session.must(request::SET_CONFIG, &config(32, 1, &[mode]), &[]);
        assert_eq!(bench.session.config(32, 1), Some(vec![mode]));
        bench.queue(0).serves(u64::from(mode));
    }
    drop(bench);
    victim.unharmed("the write cache switched");
    victim.daemon.stop();
}

/// The switch does something: seen at a block device below the image, whose flushes are counted.
#[test]
fn config_wce_is_acted_on() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, DISK) else { return };
    let daemon = Daemon::start(&scratch, disk.path(), &[]);
    let mut bench = Bench::start(daemon.socket(), Plan::default());
    assert_eq!(bench.queue(0).ask(&Request::write(0, &[1; 4096])).status, 0);
    let before = disk.flushes();
    bench.session.must(request::SET_CONFIG, &config(32, 1, &[0]), &[]);
    let switched = disk.flushes();
    assert!(switched > before, "what was written before is made durable by the switch");
    assert_eq!(bench.queue(0).ask(&Request::write(8, &[2; 4096])).status, 0);
    let through = disk.flushes();
    assert!(through > switched, "write-through: durable when answered");
    bench.session.must(request::SET_CONFIG, &config(32, 1, &[1]), &[]);
    let before = disk.flushes();
    assert_eq!(bench.queue(0).ask(&Request::write(16, &[3; 4096])).status, 0);
    assert_eq!(disk.flushes(), before, "write-back again");
    drop(bench);
    daemon.stop();
}

/// Whoever connects next may be the same guest, whose front-end lost the connection: a guest that
/// switched the cache off does not flush, and nobody tells us its choice again.
#[test]
fn a_write_cache_switched_off_stays_off_over_a_reconnect() {
    let victim = Victim::new(&[]);
    let mut session = victim.session();
    session.must(request::SET_CONFIG, &config(32, 1, &[0]), &[]);
    drop(session);
    let mut session = victim.session();
    assert_eq!(session.config(32, 1), Some(vec![0]));
    drop(session);
    victim.daemon.stop();
}

/// Seen in a peer: answered OK with whatever the buffer held.
#[test]
fn reads_past_the_end_are_refused() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    let end = DISK / 512;
    for (sector, len) in [(end, 512), (end - 1, 1024), (end + 1, 512), (1 << 54, 512), (0, 5 << 20)]
    {
        let done = bench.queue(0).ask(&Request::read(sector, len));
        assert_eq!((done.status, done.used_len), (1, 1), "{len} bytes at sector {sector}");
        assert!(done.data.iter().all(|b| *b == 0xaa), "the buffer is left alone");
    }
    assert_eq!(bench.queue(0).ask(&Request::read(end - 1, 512)).status, 0, "the last sector");
    drop(bench);
    victim.unharmed("reads past the end");
    victim.daemon.stop();
}

/// SPDK multiplies in 32 bits: 0x0080_0001 sectors become 512 bytes.
#[test]
fn discard_length_is_not_cut_to_32_bits() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    let bytes = pattern(8, 4096);
    assert_eq!(bench.queue(0).ask(&Request::write(0, &bytes)).status, 0);
    for sectors in [0x0080_0001, u32::MAX, 0x8000_0000] {
        assert_eq!(bench.queue(0).ask(&Request::discard(&[(0, sectors, 0)])).status, 1);
        assert_eq!(bench.queue(0).ask(&Request::write_zeroes(&[(0, sectors, 0)])).status, 1);
    }
    assert!(bench.queue(0).ask(&Request::read(0, 4096)).data == bytes, "nothing happened");
    drop(bench);
    victim.unharmed("long discards");
    victim.daemon.stop();
}

/// yc-libvhost-server aborts when the used index in guest memory is not the one it expects.
#[test]
fn a_used_index_of_any_value_does_not_kill() {
    let mut victim = Victim::new(&[]);
    for used in [1u16, 63, 64, 1000, 0xffff] {
        let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
        bench.queue(0).blk.driver().ring().set_used_idx(used);
        bench.announce_queue(0);
        bench.wire_queue(0);
        bench.enable_queue(0, true);
        bench.start_queue(1);
        bench.queue(0).blk.add(&Request::read(0, 512)).expect("room");
        bench.queue(0).publish();
        bench.queue(0).ring_doorbell();
        bench.queue(1).serves(u64::from(used));
        drop(bench);
        victim.unharmed("a foreign used index");
    }
    victim.daemon.stop();
}

/// A peer's buffer grows with what the guest's descriptors claim.
#[test]
fn large_claims_do_not_make_the_daemon_allocate() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { size: 256, ..Plan::default() });
    for _ in 0..20 {
        // 12 MiB each, all of it past the end.
        let request = Request::read(DISK / 512, 12 << 20);
        let done = bench.queue(0).ask(&request);
        assert_eq!(done.status, 1);
    }
    drop(bench);
    victim.unharmed("large claims");
    victim.daemon.stop();
}

/// The features that no front-end can do without, and those that must never be offered.
#[test]
fn offered_features_are_the_promised_ones() {
    let victim = Victim::new(&[]);
    let session = victim.session();
    let offered = session.features();
    // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES.
    for bit in [2, 6, 9, 10, 11, 12, 13, 14] {
        assert_ne!(offered & 1 << bit, 0, "virtio-blk feature {bit}");
    }
    for wanted in [driver::INDIRECT, driver::EVENT_IDX, driver::VERSION_1] {
        assert_ne!(offered & wanted, 0, "{wanted:#x}");
    }
    // RO on a writable disk; RING_RESET, which QEMU does not pass on.
    for bit in [5, 40] {
        assert_eq!(offered & 1 << bit, 0, "feature {bit}");
    }
    use crate::common::session::protocol::{
        BACKEND_REQ, CONFIG, CONFIGURE_MEM_SLOTS, MQ, REPLY_ACK, RESET_DEVICE,
    };
    for wanted in [BACKEND_REQ, CONFIG, CONFIGURE_MEM_SLOTS, MQ, REPLY_ACK, RESET_DEVICE] {
        assert_ne!(session.protocol() & wanted, 0, "protocol feature {wanted:#x}");
    }
    drop(session);
    victim.daemon.stop();
}

/// Every back-end that maps guest memory plainly dies of SIGBUS when the front-end shortens its file.
#[test]
fn memory_that_is_cut_off_breaks_its_own_queues_only() {
    // This process has the memory mapped, too.
    sigbus::install().expect("a handler");
    let mut victim = Victim::new(&[]);
    for pages in [0, 1, 40, 1000] {
        let mut bench = victim.bench(Plan::default());
        bench.queue(0).serves(1);
        bench.queue(1).serves(2);
        let len = u32::try_from(DISK / 2).expect("small");
        for n in 0..4 {
            bench.queue(n % 2).blk.add(&Request::read(0, len / 8)).expect("room");
        }
        bench.memory.file().set_len(pages * 4096).expect("it is not sealed");
        for n in 0..2 {
            bench.queue(n).publish();
            bench.queue(n).ring_doorbell();
        }
        // Where nothing is left, the rings are gone for certain.
        for n in 0..2 {
            let err = bench.queue(n).err.as_raw_fd();
            let told = foreign::readable(err, if pages == 0 { LOST } else { QUIET });
            assert!(told || pages > 0, "queue {n} has no memory and is not broken");
        }
        drop(bench);
    }
    victim.unharmed("memory that was cut off");
}
