//! Every way to get a message wrong. A message whose form is broken ends its session; one whose
//! meaning cannot be followed is refused, and the session goes on. Neither harms the daemon.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use vhost_user_blkmq::testkit::{GPA, TestMemory, UVA_OFFSET};

use super::bench::{Bench, MEMORY, Plan, Victim, share, words};
use crate::common::note;
use crate::common::session::{
    Fate, NEED_REPLY, NO_FD, REPLY, RegionWords, Session, VERSION, config, header, mem_region,
    mem_table, request, ring_addresses, ring_state,
};

/// A session that negotiated, with guest memory shared and no ring known.
struct Wire {
    session: Session,
    memory: TestMemory,
}

impl Wire {
    fn tell(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) -> Fate {
        self.session.tell(request, payload, fds)
    }

    /// SET_MEM_TABLE with these regions and a descriptor of the memory file for each.
    fn table(&mut self, regions: &[RegionWords]) -> Fate {
        let file = self.memory.file();
        let fds = vec![file.as_raw_fd(); regions.len()];
        self.tell(request::SET_MEM_TABLE, &mem_table(regions), &fds)
    }

    /// ADD_MEM_REG with a descriptor of the memory file.
    fn add(&mut self, region: RegionWords) -> Fate {
        let file = self.memory.file();
        self.tell(request::ADD_MEM_REG, &mem_region(region), &[file.as_raw_fd()])
    }

    /// Ring 0 has 64 entries and gets these addresses (as offsets in the memory).
    fn ring_at(&mut self, desc: u64, used: u64, avail: u64) -> Fate {
        self.session.must(request::SET_VRING_NUM, &ring_state(0, 64), &[]);
        let base = GPA + UVA_OFFSET;
        let payload = ring_addresses(0, base + desc, base + used, base + avail);
        self.tell(request::SET_VRING_ADDR, &payload, &[])
    }
}

/// A region in the memory file.
fn region(gpa: u64, size: u64, offset: u64) -> RegionWords {
    RegionWords { gpa, size, uva: gpa + UVA_OFFSET, offset }
}

struct Case {
    name: &'static str,
    fate: Fate,
    make: fn(&mut Wire) -> Fate,
}

const fn refused(name: &'static str, make: fn(&mut Wire) -> Fate) -> Case {
    Case { name, fate: Fate::Refused, make }
}

const fn ends(name: &'static str, make: fn(&mut Wire) -> Fate) -> Case {
    Case { name, fate: Fate::Ended, make }
}

const fn fine(name: &'static str, make: fn(&mut Wire) -> Fate) -> Case {
    Case { name, fate: Fate::Accepted, make }
}

/// Sends each message on a session of its own, checks what became of it, that a refused session
/// goes on, and that the daemon is unharmed.
fn send_all(options: &[&str], cases: &[Case]) {
    let mut victim = Victim::new(options);
    for case in cases {
        note(case.name);
        let mut session = victim.session();
        let features = session.features().to_le_bytes();
        session.must(request::SET_FEATURES, &features, &[]);
        let memory = TestMemory::new(MEMORY);
        assert_eq!(share(&mut session, &memory), Fate::Accepted);
        let mut wire = Wire { session, memory };
        let fate = (case.make)(&mut wire);
        if case.fate == Fate::Ended {
            // The library may still say no before it gives up.
            assert_ne!(fate, Fate::Accepted, "{}", case.name);
            assert!(wire.session.ended(), "{}: the session ends", case.name);
        } else {
            assert_eq!(fate, case.fate, "{}", case.name);
            assert!(wire.session.number(request::GET_QUEUE_NUM) > 0, "{}: it goes on", case.name);
        }
        drop(wire);
        victim.unharmed(case.name);
    }
    victim.daemon.stop();
}

#[test]
fn messages_of_a_broken_form() {
    send_all(
        &[],
        &[
            ends("request 0", |w| w.tell(0, &[], &[])),
            ends("an unknown request", |w| w.tell(99, &[0; 8], &[])),
            ends("the largest request", |w| w.tell(u32::MAX, &[], &[])),
            ends("a request that only back-ends send", |w| w.tell(4711, &[0; 8], &[])),
            ends("SET_FEATURES of 4 bytes", |w| w.tell(request::SET_FEATURES, &[0; 4], &[])),
            ends("SET_FEATURES of 16 bytes", |w| w.tell(request::SET_FEATURES, &[0; 16], &[])),
            ends("SET_VRING_NUM of no bytes", |w| w.tell(request::SET_VRING_NUM, &[], &[])),
            ends("SET_VRING_ADDR of 8 bytes", |w| w.tell(request::SET_VRING_ADDR, &[0; 8], &[])),
            ends("GET_FEATURES with a payload", |w| w.tell(request::GET_FEATURES, &[0; 8], &[])),
            ends("a memory table shorter than it says", |w| {
                let mut payload = mem_table(&words(&w.memory));
                payload[0] = 2;
                let file = w.memory.file();
                w.tell(request::SET_MEM_TABLE, &payload, &[file.as_raw_fd(); 2])
            }),
            ends("a memory table longer than it says", |w| {
                let mut payload = mem_table(&words(&w.memory));
                payload.extend([0; 32]);
                let file = w.memory.file();
                w.tell(request::SET_MEM_TABLE, &payload, &[file.as_raw_fd()])
            }),
            ends("a version of 0", |w| raw(w, &header(request::GET_FEATURES, 0, 0))),
            ends("a version of 2", |w| raw(w, &header(request::GET_FEATURES, 2, 0))),
            ends("a reply that nobody asked for", |w| {
                raw(w, &header(request::GET_FEATURES, VERSION | REPLY, 0))
            }),
            ends("a payload of 4 GiB", |w| {
                raw(w, &header(request::SET_CONFIG, VERSION | NEED_REPLY, u32::MAX))
            }),
            ends("a payload of 5000 bytes", |w| {
                let mut bytes = header(request::SET_CONFIG, VERSION | NEED_REPLY, 5000);
                bytes.resize(5012, 0);
                raw(w, &bytes)
            }),
        ],
    );
}

/// Sends bytes as they are and tells whether an end follows.
fn raw(wire: &mut Wire, bytes: &[u8]) -> Fate {
    if wire.session.send_raw(bytes, &[]) && wire.session.receive().is_some() {
        return Fate::Accepted;
    }
    Fate::Ended
}

#[test]
fn descriptors_missing_or_too_many() {
    send_all(
        &[],
        &[
            ends("a memory table without descriptors", |w| {
                let payload = mem_table(&words(&w.memory));
                w.tell(request::SET_MEM_TABLE, &payload, &[])
            }),
            ends("a memory table with three descriptors for one region", |w| {
                let payload = mem_table(&words(&w.memory));
                let file = w.memory.file();
                w.tell(request::SET_MEM_TABLE, &payload, &[file.as_raw_fd(); 3])
            }),
            ends("ADD_MEM_REG without a descriptor", |w| {
                let payload = mem_region(region(1 << 40, 4096, 0));
                w.tell(request::ADD_MEM_REG, &payload, &[])
            }),
            ends("SET_VRING_CALL that promises a descriptor", |w| {
                w.tell(request::SET_VRING_CALL, &0u64.to_le_bytes(), &[])
            }),
            ends("SET_VRING_KICK with two descriptors", |w| {
                let file = w.memory.file();
                let payload = 0u64.to_le_bytes();
                w.tell(request::SET_VRING_KICK, &payload, &[file.as_raw_fd(); 2])
            }),
            ends("GET_FEATURES with a descriptor", |w| {
                let file = w.memory.file();
                w.tell(request::GET_FEATURES, &[], &[file.as_raw_fd()])
            }),
            ends("SET_OWNER with 32 descriptors", |w| {
                let file = w.memory.file();
                w.tell(request::SET_OWNER, &[], &[file.as_raw_fd(); 32])
            }),
            ends("forty descriptors", |w| {
                let file = w.memory.file();
                let payload = mem_table(&words(&w.memory));
                w.tell(request::SET_MEM_TABLE, &payload, &[file.as_raw_fd(); 40])
            }),
            ends("SET_BACKEND_REQ_FD without a descriptor", |w| {
                w.tell(request::SET_BACKEND_REQ_FD, &[], &[])
            }),
        ],
    );
}

#[test]
fn memory_tables_that_cannot_be() {
    send_all(
        &[],
        &[
            refused("a region longer than its file", |w| w.table(&[region(GPA, MEMORY + 4096, 0)])),
            refused("a region that starts behind the end of its file", |w| {
                w.table(&[region(GPA, 4096, MEMORY)])
            }),
            ends("a region whose end in the file overflows", |w| {
                w.table(&[region(GPA, 4096, u64::MAX - 4095)])
            }),
            refused("regions that overlap for the guest", |w| {
                let mut second = region(GPA + 4096, 8192, 0);
                second.uva += 1 << 30;
                w.table(&[region(GPA, 8192, 0), second])
            }),
            refused("the same region twice", |w| {
                w.table(&[region(GPA, 8192, 0), region(GPA, 8192, 0)])
            }),
            refused("regions that overlap for the front-end", |w| {
                let mut second = region(1 << 40, 8192, 0);
                second.uva = GPA + UVA_OFFSET + 4096;
                w.table(&[region(GPA, 8192, 0), second])
            }),
            ends("a region of no bytes", |w| w.table(&[region(GPA, 0, 0)])),
            ends("a region whose end overflows", |w| {
                let mut far = region(GPA, 8192, 0);
                far.gpa = u64::MAX - 4095;
                w.table(&[far])
            }),
            ends("a table of no regions", |w| w.table(&[])),
            ends("33 regions", |w| {
                let many: Vec<RegionWords> =
                    (0..33).map(|i| region(GPA + (i << 20), 4096, i << 12)).collect();
                let file = w.memory.file();
                let fds = vec![file.as_raw_fd(); 33];
                w.tell(request::SET_MEM_TABLE, &mem_table(&many), &fds)
            }),
            fine("32 regions", |w| {
                let many: Vec<RegionWords> =
                    (0..32).map(|i| region(GPA + (i << 20), 4096, i << 12)).collect();
                w.table(&many)
            }),
            fine("regions in any order", |w| {
                w.table(&[region(1 << 40, 8192, 0), region(GPA, 8192, 8192)])
            }),
            fine("the same table again", |w| w.table(&words(&w.memory))),
            refused("a descriptor that cannot be mapped", |w| {
                let (ours, _theirs) = UnixStream::pair().expect("a pair");
                let payload = mem_table(&[region(GPA, 4096, 0)]);
                w.tell(request::SET_MEM_TABLE, &payload, &[ours.as_raw_fd()])
            }),
            refused("a descriptor that may not be written", |w| {
                let file = File::open("/proc/self/exe").expect("ourselves");
                let payload = mem_table(&[region(GPA, 4096, 0)]);
                w.tell(request::SET_MEM_TABLE, &payload, &[file.as_raw_fd()])
            }),
            fine("one more region", |w| w.add(region(1 << 40, 8192, 0))),
            refused("one more region over another", |w| w.add(region(GPA + 8192, 8192, 0))),
            refused("the removal of a region that is not there", |w| {
                let payload = mem_region(region(1 << 41, 8192, 0));
                w.tell(request::REM_MEM_REG, &payload, &[])
            }),
            fine("the removal of a region that is there", |w| {
                let payload = mem_region(words(&w.memory)[0]);
                w.tell(request::REM_MEM_REG, &payload, &[])
            }),
        ],
    );
}

#[test]
fn more_regions_than_there_are_slots() {
    let mut victim = Victim::new(&[]);
    let mut session = victim.session();
    let slots = session.number(request::GET_MAX_MEM_SLOTS);
    assert_eq!(slots, 509);
    let memory = TestMemory::new(1 << 20);
    let file = memory.file();
    for i in 0..slots + 1 {
        let payload = mem_region(region((i + 1) << 32, 4096, 0));
        let fate = session.tell(request::ADD_MEM_REG, &payload, &[file.as_raw_fd()]);
        let wanted = if i < slots { Fate::Accepted } else { Fate::Refused };
        assert_eq!(fate, wanted, "region {i} of {slots}");
    }
    drop(session);
    victim.unharmed("510 regions");
    victim.daemon.stop();
}

#[test]
fn ring_sizes_and_numbers_that_cannot_be() {
    send_all(
        &["--num-queues=2", "--queue-size=256"],
        &[
            refused("a ring of 0 entries", |w| num(w, 0, 0)),
            refused("a ring of 100 entries", |w| num(w, 0, 100)),
            refused("a ring of 65535 entries", |w| num(w, 0, 65535)),
            refused("a ring of 65536 entries", |w| num(w, 0, 65536)),
            refused("a ring of 2^31 entries", |w| num(w, 0, 1 << 31)),
            refused("a ring larger than the limit", |w| num(w, 0, 512)),
            fine("a ring as large as the limit", |w| num(w, 0, 256)),
            fine("a ring of one entry", |w| num(w, 1, 1)),
            refused("the size of ring 2 of 2", |w| num(w, 2, 64)),
            refused("the size of ring 256", |w| num(w, 256, 64)),
            refused("the size of ring 2^32 - 1", |w| num(w, u32::MAX, 64)),
            refused("the position of ring 2 of 2", |w| {
                w.tell(request::SET_VRING_BASE, &ring_state(2, 0), &[])
            }),
            refused("a position of 65536", |w| {
                w.tell(request::SET_VRING_BASE, &ring_state(0, 65536), &[])
            }),
            refused("the addresses of ring 2 of 2", |w| {
                let base = GPA + UVA_OFFSET;
                let payload = ring_addresses(2, base, base + 8192, base + 4096);
                w.tell(request::SET_VRING_ADDR, &payload, &[])
            }),
            refused("enabling ring 2 of 2", |w| {
                w.tell(request::SET_VRING_ENABLE, &ring_state(2, 1), &[])
            }),
            refused("a call for ring 2 of 2", |w| {
                w.tell(request::SET_VRING_CALL, &(2 | NO_FD).to_le_bytes(), &[])
            }),
            refused("a kick for ring 255 of 2", |w| {
                w.tell(request::SET_VRING_KICK, &(255 | NO_FD).to_le_bytes(), &[])
            }),
            ends("GET_VRING_BASE of ring 2 of 2", |w| {
                w.tell(request::GET_VRING_BASE, &ring_state(2, 0), &[])
            }),
            ends("enabling with a 2", |w| {
                w.tell(request::SET_VRING_ENABLE, &ring_state(0, 2), &[])
            }),
        ],
    );
}

fn num(wire: &mut Wire, index: u32, size: u32) -> Fate {
    wire.tell(request::SET_VRING_NUM, &ring_state(index, size), &[])
}

#[test]
fn ring_addresses_that_cannot_be() {
    // For 64 entries: 1024 bytes of descriptors, 134 of available ring, 518 of used ring.
    send_all(
        &[],
        &[
            fine("a good ring", |w| w.ring_at(0, 8192, 4096)),
            refused("a table that leaves its region", |w| w.ring_at(MEMORY - 1008, 8192, 4096)),
            fine("a table that just fits", |w| w.ring_at(MEMORY - 1024, 8192, 4096)),
            refused("an available ring that leaves its region", |w| {
                w.ring_at(0, 8192, MEMORY - 130)
            }),
            refused("a used ring that leaves its region", |w| w.ring_at(0, MEMORY - 516, 4096)),
            refused("a table outside of memory", |w| w.ring_at(1 << 40, 8192, 4096)),
            refused("a used ring outside of memory", |w| w.ring_at(0, 1 << 40, 4096)),
            refused("an available ring just behind the memory", |w| w.ring_at(0, 8192, MEMORY)),
            refused("a table whose end overflows", |w| {
                w.session.must(request::SET_VRING_NUM, &ring_state(0, 64), &[]);
                let base = GPA + UVA_OFFSET;
                let payload = ring_addresses(0, u64::MAX - 15, base + 8192, base + 4096);
                w.tell(request::SET_VRING_ADDR, &payload, &[])
            }),
            ends("a table off its alignment of 16", |w| w.ring_at(8, 8192, 4096)),
            ends("a used ring off its alignment of 4", |w| w.ring_at(0, 8194, 4096)),
            ends("an available ring off its alignment of 2", |w| w.ring_at(0, 8192, 4097)),
        ],
    );
}

#[test]
fn features_and_config_that_cannot_be() {
    send_all(
        &[],
        &[
            refused("features that were not offered", |w| {
                w.tell(request::SET_FEATURES, &u64::MAX.to_le_bytes(), &[])
            }),
            refused("VIRTIO_F_RING_RESET, which is never offered", |w| {
                let wanted = w.session.features() | 1 << 40;
                w.tell(request::SET_FEATURES, &wanted.to_le_bytes(), &[])
            }),
            fine("the same features again", |w| {
                let wanted = w.session.features();
                w.tell(request::SET_FEATURES, &wanted.to_le_bytes(), &[])
            }),
            fine("the owner again", |w| w.tell(request::SET_OWNER, &[], &[])),
            fine("no owner", |w| w.tell(request::RESET_OWNER, &[], &[])),
            fine("a device reset", |w| w.tell(request::RESET_DEVICE, &[], &[])),
            fine("turning the write cache off", |w| {
                w.tell(request::SET_CONFIG, &config(32, 1, &[0]), &[])
            }),
            refused("writing the capacity", |w| {
                w.tell(request::SET_CONFIG, &config(0, 8, &[1; 8]), &[])
            }),
            refused("writing behind the write cache", |w| {
                w.tell(request::SET_CONFIG, &config(33, 1, &[1]), &[])
            }),
            refused("writing more than the write cache", |w| {
                w.tell(request::SET_CONFIG, &config(32, 4, &[1; 4]), &[])
            }),
            ends("writing nothing", |w| w.tell(request::SET_CONFIG, &config(32, 0, &[]), &[])),
            ends("a config that is shorter than it says", |w| {
                w.tell(request::SET_CONFIG, &config(32, 4, &[1]), &[])
            }),
            ends("in-flight memory, which was not negotiated", |w| {
                w.tell(request::GET_INFLIGHT_FD, &[0; 24], &[])
            }),
            ends("a dirty log, which was not negotiated", |w| {
                let file = w.memory.file();
                w.tell(request::SET_LOG_BASE, &[0; 16], &[file.as_raw_fd()])
            }),
        ],
    );
}

#[test]
fn config_space_by_any_offset_and_size() {
    let mut victim = Victim::new(&[]);
    let mut session = victim.session();
    let whole = session.config(0, 60).expect("QEMU's and cloud-hypervisor's way");
    assert_eq!(whole[0..8], (super::bench::DISK / 512).to_le_bytes());
    for (offset, size) in [(0, 57), (0, 8), (32, 1), (8, 4), (20, 40), (59, 1)] {
        let part = session.config(offset, size).expect("inside");
        let from = usize::try_from(offset).expect("small");
        let to = from + usize::try_from(size).expect("small");
        assert_eq!(part, whole[from..to], "{size} bytes at {offset}");
    }
    let large = session.config(0, 256).expect("SPDK's initiator asks for 256 bytes");
    assert_eq!(large.len(), 256, "the size that was asked for");
    assert_eq!(large[..60], whole);
    drop(session);
    victim.unharmed("odd reads of config space");
    victim.daemon.stop();
}

/// Something to pass off as an eventfd.
type Open = fn() -> OwnedFd;

#[test]
fn descriptors_that_are_no_eventfds() {
    let mut victim = Victim::new(&[]);
    let open: [(&str, Open); 4] = [
        ("/dev/null", || {
            File::options().read(true).write(true).open("/dev/null").expect("exists").into()
        }),
        ("a file", || tempfile::tempfile().expect("a file").into()),
        ("a directory", || File::open("/").expect("exists").into()),
        ("the read end of a pipe whose writer is gone", || {
            std::io::pipe().expect("a pipe").0.into()
        }),
    ];
    for (name, make) in open {
        for what in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
            note(&format!("{name} for request {what}"));
            let mut bench = Bench::prepare(victim.daemon.socket(), Plan::default());
            bench.announce_queue(0);
            bench.wire_queue(0);
            bench.enable_queue(0, true);
            bench.start_queue(1);
            let fd = make();
            let fate = bench.session.ring_fd(what, 0, Some(&fd));
            let before = super::rings::cpu_time(victim.daemon.pid());
            for key in 0..20 {
                bench.queue(1).serves(key);
            }
            if fate == Fate::Refused && what != request::SET_VRING_KICK {
                bench.queue(0).serves(1);
            }
            std::thread::sleep(super::bench::QUIET * 10);
            let spent = super::rings::cpu_time(victim.daemon.pid()) - before;
            assert!(spent <= 15, "{name}: the daemon spins: {spent} ticks");
            drop((bench, fd));
            victim.unharmed(name);
        }
    }
    victim.daemon.stop();
}

#[test]
fn connections_that_break_off() {
    let mut victim = Victim::new(&[]);
    let half = {
        let mut bytes = header(request::SET_MEM_TABLE, VERSION, 40);
        bytes.extend([0; 20]);
        bytes
    };
    let pieces: [(&str, &[u8]); 5] = [
        ("nothing at all", &[]),
        ("one byte of a header", &[1]),
        ("eleven bytes of a header", &half[..11]),
        ("a header without its payload", &half[..12]),
        ("half a payload", &half),
    ];
    for (name, bytes) in pieces {
        note(name);
        for close_write_only in [false, true] {
            let mut stream =
                UnixStream::connect(victim.daemon.socket()).expect("the daemon listens");
            stream.write_all(bytes).expect("a short write");
            if close_write_only {
                stream.shutdown(Shutdown::Write).expect("connected");
                assert!(Session::over(stream).ended(), "{name}: the daemon hangs up, too");
            }
        }
        victim.unharmed(name);
    }
    victim.daemon.stop();
}

#[test]
fn a_flood_of_connections() {
    let mut victim = Victim::new(&[]);
    for _ in 0..300 {
        drop(UnixStream::connect(victim.daemon.socket()).expect("the daemon listens"));
    }
    victim.unharmed("300 connections that say nothing");
    for _ in 0..100 {
        drop(victim.session());
    }
    victim.unharmed("100 connections that negotiate and go");
    for _ in 0..30 {
        let mut bench = victim.bench(Plan::default());
        bench.queue(0).serves(1);
    }
    victim.unharmed("30 connections that do I/O and go");
    victim.daemon.stop();
}

/// A message that arrives byte by byte is a message.
#[test]
fn a_slow_front_end_is_served() {
    let mut victim = Victim::new(&[]);
    let mut session = Session::connect(victim.daemon.socket());
    for byte in header(request::GET_FEATURES, VERSION, 0) {
        let mut stream = session.stream();
        stream.write_all(&[byte]).expect("connected");
    }
    let reply = session.receive().expect("an answer");
    assert_ne!(reply.number(), 0);
    drop(session);
    victim.unharmed("a slow front-end");
    victim.daemon.stop();
}
