//! Correct requests in every framing that the specification allows: what the device must not take
//! for granted (virtio 1.3, 2.7.4.1), and the lengths that it reports.

use vhost_user_blkmq::testkit::blk::{Framing, Request};
use vhost_user_blkmq::testkit::driver::Layout;

use super::bench::{Bench, DISK, Plan, Victim};
use crate::common::rng::{Rng, pattern, seed};

fn layouts() -> [Layout; 3] {
    [Layout::Direct, Layout::Indirect, Layout::IndirectAfter(1)]
}

#[test]
fn any_framing_of_header_data_and_status() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { size: 256, ..Plan::default() });
    let bytes = pattern(9, 4096);
    for layout in layouts() {
        for piece in [1000, 512, 333, 100] {
            let write = Request::write(8, &bytes);
            let done = bench.queue(0).ask_framed(&write, &Framing::pieces(&write, piece, layout));
            assert_eq!((done.status, done.used_len), (0, 1), "{layout:?} {piece}");
            let read = Request::read(8, 4096);
            let done = bench.queue(0).ask_framed(&read, &Framing::pieces(&read, piece, layout));
            assert_eq!((done.status, done.used_len), (0, 4097), "{layout:?} {piece}");
            assert!(done.data == bytes, "{layout:?} {piece}");
        }
    }
    // Header and data in one descriptor, data and status in one descriptor.
    let write = Request::write(16, &bytes);
    assert_eq!(bench.queue(0).ask_framed(&write, &Framing::default()).status, 0);
    let read = Request::read(16, 4096);
    let done = bench.queue(0).ask_framed(&read, &Framing::default());
    assert!(done.status == 0 && done.data == bytes, "one readable, one writable descriptor");
    drop(bench);
    victim.unharmed("framings");
    victim.daemon.stop();
}

#[test]
fn random_framings_of_random_requests() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let mut victim = Victim::new(&[]);
    for plan in [Plan::default(), Plan::event_idx()] {
        let mut bench = victim.bench(Plan { size: 128, ..plan });
        for round in 0..300 {
            let sectors = 1 + rng.below(16);
            let sector = rng.below(DISK / 512 - sectors);
            let len = u32::try_from(sectors * 512).expect("small");
            let bytes = pattern(rng.next(), usize::try_from(len).expect("small"));
            let requests = [Request::write(sector, &bytes), Request::read(sector, len)];
            for request in requests {
                let mut framing = Framing::default();
                for _ in 0..rng.below(6) {
                    let cut = u32::try_from(1 + rng.below(u64::from(len) / 2)).expect("small");
                    framing.readable.push_back(cut);
                    framing.writable.push_back(cut);
                }
                framing.layout = if rng.below(2) == 0 { Layout::Direct } else { Layout::Indirect };
                let done = bench.queue(0).ask_framed(&request, &framing);
                assert_eq!(done.status, 0, "seed {seed}, round {round}");
                assert!(
                    request.in_len == 0 || done.data == bytes,
                    "seed {seed}, round {round}: {framing:?}"
                );
            }
        }
        drop(bench);
    }
    victim.unharmed("random framings");
    victim.daemon.stop();
}

/// Windows' driver: a transfer of 2 MiB in 512 pieces of a page, on a ring of 128.
#[test]
fn chains_longer_than_the_ring() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { size: 128, ..Plan::default() });
    let bytes = pattern(3, 2 << 20);
    let write = Request::write(0, &bytes);
    let framing = Framing::pieces(&write, 4096, Layout::Indirect);
    assert_eq!(bench.queue(0).ask_framed(&write, &framing).status, 0);
    let read = Request::read(0, 2 << 20);
    let framing = Framing::pieces(&read, 4096, Layout::Indirect);
    let done = bench.queue(0).ask_framed(&read, &framing);
    assert_eq!((done.status, done.used_len), (0, (2 << 20) + 1));
    assert!(done.data == bytes);
    drop(bench);
    victim.unharmed("long chains");
    victim.daemon.stop();
}

/// More long chains at once than the device has room for: it takes as many as it can, and the
/// others after them.
#[test]
fn more_long_chains_than_there_is_room_for() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan { size: 256, queues: 1, ..Plan::default() });
    let bytes = pattern(4, 64 << 10);
    for round in 0..60u64 {
        let request = Request::write(round * 128, &bytes);
        let framing = Framing::pieces(&request, 512, Layout::Indirect);
        bench.queue(0).blk.add_framed(&request, &framing).expect("room");
    }
    bench.queue(0).publish();
    for _ in 0..60 {
        assert_eq!(bench.queue(0).wait().status, 0);
    }
    for round in [0u64, 31, 59] {
        let done = bench.queue(0).ask(&Request::read(round * 128, 64 << 10));
        assert!(done.data == bytes, "chain {round}");
    }
    drop(bench);
    victim.unharmed("many long chains");
    victim.daemon.stop();
}

#[test]
fn a_full_ring_of_requests() {
    let mut victim = Victim::new(&[]);
    for plan in [Plan::default(), Plan::event_idx()] {
        let mut bench = victim.bench(Plan { size: 256, ..plan });
        for round in 0..20u64 {
            fill(&mut bench, round);
        }
        drop(bench);
    }
    victim.unharmed("full rings");
    victim.daemon.stop();
}

/// As many reads through tables as the ring has entries, all at once.
fn fill(bench: &mut Bench, round: u64) {
    let q = u32::try_from(round % 2).expect("small");
    let request = Request::read(round, 512);
    for _ in 0..256 {
        let framing = Framing::indirect(&request);
        bench.queue(q).blk.add_framed(&request, &framing).expect("one descriptor each");
    }
    assert!(bench.queue(q).blk.add_framed(&request, &Framing::indirect(&request)).is_none());
    bench.queue(q).publish();
    for _ in 0..256 {
        let done = bench.queue(q).wait();
        assert_eq!((done.status, done.used_len), (0, 513), "round {round}");
    }
}

/// Nothing happens, with success, and no byte is touched.
#[test]
fn requests_of_no_bytes_are_fine() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    for request in [Request::read(0, 0), Request::write(0, &[])] {
        let done = bench.queue(0).ask(&request);
        assert_eq!((done.status, done.used_len), (0, 1), "{request:?}");
    }
    drop(bench);
    victim.unharmed("requests of no bytes");
    victim.daemon.stop();
}
