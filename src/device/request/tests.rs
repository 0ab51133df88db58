use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::blkmq::{FlushGate, FlushPolicy};
use crate::device::config_space::ConfigSpace;
use crate::device::mailbox::DiskId;
use crate::image::{Channel, Geometry, Image, Traits};
use crate::sys::ring::Descriptor;
use crate::sys::uring::Ring;
use crate::testkit::blk::{BlkDriver, Done, Framing, Request, UNTOUCHED};
use crate::testkit::driver::{Buf, Driver, Layout, NEXT, WRITE};
use crate::testkit::{GPA, TestMemory};

const CAPACITY: u64 = 4096;
const SERIAL: [u8; 20] = *b"serial-0123\0\0\0\0\0\0\0\0\0";

const RULES: Rules = Rules {
    capacity: CAPACITY,
    block: 512,
    read_only: false,
    flush: true,
    discard: true,
    write_zeroes: true,
    unmap: true,
    serial: SERIAL,
};
const READ_ONLY: Rules = Rules { read_only: true, ..RULES };
const BLOCK_4096: Rules = Rules { block: 4096, ..RULES };

/// A queue of 128 entries with both ends.
struct Bench {
    memory: Arc<TestMemory>,
    blk: BlkDriver,
    queue: VirtQueue,
    chain: Chain,
    slots: Slots,
}

impl Bench {
    fn new() -> Bench {
        let memory = Arc::new(TestMemory::new(8 << 20));
        let driver = Driver::new(&memory, 128, true, true);
        let queue = VirtQueue::new(driver.setup()).expect("a ring");
        let blk = BlkDriver::new(driver);
        Bench { memory, blk, queue, chain: Chain::new(), slots: Slots::new(128) }
    }

    fn fetch(&mut self, rules: &Rules, writeback: bool) -> Parsed {
        let _ = self.blk.publish();
        let head = self.queue.pop().expect("a sound ring").expect("an entry was added");
        let Bench { memory, queue, chain, slots, .. } = self;
        fetch(queue, memory.memory(), head, chain, rules, writeback, slots)
    }

    fn send(&mut self, request: &Request, framing: &Framing, rules: &Rules) -> (Tag, Parsed) {
        let head = self.blk.add_framed(request, framing).expect("room");
        (Tag(head), self.fetch(rules, true))
    }

    fn complete(&mut self, tag: Tag, status: Status) -> Done {
        let len = self.slots.finish(tag, status);
        self.queue.push_used(tag, len);
        let _ = self.queue.publish();
        self.blk.poll().expect("it was published")
    }

    /// Sends in plain framing; a verdict that needs no I/O is completed.
    fn judge(&mut self, request: &Request, rules: &Rules) -> Parsed {
        let (tag, parsed) = self.send(request, &Framing::plain(request), rules);
        let status = parsed.answer().unwrap_or(Status::IoErr);
        let done = self.complete(tag, status);
        assert_eq!((done.head, done.status), (tag.0, status as u8));
        parsed
    }
}

fn range(start: u64, sectors: u64) -> SectorRange {
    SectorRange::new(Sector(start), sectors, CAPACITY).expect("on the disk")
}

fn bio_op(parsed: Parsed) -> Option<Op> {
    match parsed {
        Parsed::Bio(bio) => Some(bio.op),
        _ => None,
    }
}

const UNSUPP: Parsed = Parsed::Reject(Reject::Unsupp);
const IOERR: Parsed = Parsed::Reject(Reject::IoErr);

#[test]
fn verdicts_stay_small_and_know_their_answer() {
    assert!(size_of::<Parsed>() <= 48);
    assert_eq!(UNSUPP.answer(), Some(Status::Unsupp));
    assert_eq!(IOERR.answer(), Some(Status::IoErr));
    assert_eq!(Parsed::GetId.answer(), Some(Status::Ok));
    assert_eq!(Parsed::Nothing.answer(), Some(Status::Ok));
    assert_eq!(Parsed::Broken(Breakage::NoStatus).answer(), None);
}

#[test]
fn a_read_is_a_bio_and_its_data_reaches_the_guest() {
    let mut bench = Bench::new();
    let request = Request::read(8, 1024).with_ioprio(1 << 13);
    let (tag, parsed) = bench.send(&request, &Framing::plain(&request), &RULES);
    let op = Op::Read(range(8, 2));
    assert_eq!(parsed, Parsed::Bio(Bio { tag, op, fua: false, class: Class::RealTime }));
    assert_eq!((bench.slots.bytes(tag), bench.slots.bufs(tag).len()), (1024, 1));
    let data: Vec<u8> = (0..=255).cycle().take(1024).collect();
    bench.slots.bufs(tag)[0].copy_from(&data);
    let done = bench.complete(tag, Status::Ok);
    assert_eq!(done, Done { head: tag.0, status: 0, used_len: 1025, data });
}

#[test]
fn the_polite_bits_of_a_bio_follow_hint_and_cache_mode() {
    let mut bench = Bench::new();
    for (ioprio, class) in [
        (0, Class::BestEffort),
        (1 << 13 | 7, Class::RealTime),
        (2 << 13, Class::BestEffort),
        (3 << 13, Class::Idle),
        (4 << 13, Class::BestEffort),
        (0xffff_0000 | 3 << 13, Class::Idle),
    ] {
        for (rules, writeback, fua) in [
            (RULES, true, false),
            (RULES, false, true),
            (Rules { flush: false, ..RULES }, true, true),
        ] {
            for (request, durable) in [
                (Request::write(0, &[1; 512]), fua),
                (Request::discard(&[(0, 1, 0)]), fua),
                (Request::write_zeroes(&[(0, 1, 0)]), fua),
                (Request::read(0, 512), false),
                (Request::flush(), false),
            ] {
                let head = bench.blk.add(&request.with_ioprio(ioprio)).expect("room");
                let Parsed::Bio(bio) = bench.fetch(&rules, writeback) else { panic!("a bio") };
                assert_eq!((bio.fua, bio.class), (durable, class), "{:?}", bio.op);
                bench.complete(Tag(head), Status::Ok);
            }
        }
    }
}

#[test]
fn transfers_are_held_against_the_disk() {
    let mut bench = Bench::new();
    for (sector, len, verdict) in [
        (0, 512, Some((0, 1))),
        (CAPACITY - 1, 512, Some((CAPACITY - 1, 1))),
        (CAPACITY - 1, 1024, None),
        (CAPACITY, 512, None),
        (u64::MAX, 512, None),
        // 2^55 sectors are 2^64 bytes: a peer served sector 0 for it.
        (1 << 55, 512, None),
        (0, 511, None),
        (0, 513, None),
        (0, 1, None),
    ] {
        let write = Request::write(sector, &vec![1; len as usize]);
        let read = Request::read(sector, len);
        let want = verdict.map(|(s, n)| range(s, n));
        let (read, write) = (bench.judge(&read, &RULES), bench.judge(&write, &RULES));
        assert_eq!(bio_op(read), want.map(Op::Read));
        assert_eq!(bio_op(write), want.map(Op::Write));
        if want.is_none() {
            assert_eq!((read, write), (IOERR, IOERR));
        }
    }
}

#[test]
fn a_transfer_of_nothing_is_fine_within_the_disk() {
    let mut bench = Bench::new();
    for (sector, verdict) in
        [(0, Parsed::Nothing), (CAPACITY, Parsed::Nothing), (CAPACITY + 1, IOERR)]
    {
        assert_eq!(bench.judge(&Request::read(sector, 0), &RULES), verdict);
        assert_eq!(bench.judge(&Request::write(sector, &[]), &RULES), verdict);
    }
    assert_eq!(bench.judge(&Request::read(1, 0), &BLOCK_4096), IOERR);
}

#[test]
fn the_logical_block_is_the_smallest_unit() {
    let mut bench = Bench::new();
    for (sector, len, fine) in
        [(8, 4096, true), (7, 4096, false), (8, 512, false), (8, 4608, false)]
    {
        let read = bench.judge(&Request::read(sector, len), &BLOCK_4096);
        let write = bench.judge(&Request::write(sector, &vec![0; len as usize]), &BLOCK_4096);
        assert_eq!((bio_op(read).is_some(), bio_op(write).is_some()), (fine, fine));
        assert!(fine || (read, write) == (IOERR, IOERR));
    }
    assert_eq!(bench.judge(&Request::discard(&[(1, 8, 0)]), &BLOCK_4096), IOERR);
    assert_eq!(bench.judge(&Request::write_zeroes(&[(8, 1, 0)]), &BLOCK_4096), IOERR);
    let aligned = bench.judge(&Request::discard(&[(8, 8, 0)]), &BLOCK_4096);
    assert_eq!(bio_op(aligned), Some(Op::Discard(range(8, 8))));
}

#[test]
fn a_transfer_longer_than_the_kernel_moves_is_refused() {
    let mut bench = Bench::new();
    let rules = Rules { capacity: 1 << 40, ..RULES };
    // Many descriptors over the same memory: the sum is what counts.
    let len = 4 << 20;
    let gpa = bench.memory.alloc(16, 1);
    bench.memory.write(gpa, &Request::read(0, 0).header);
    for (last, op) in [(len - 4096, Some(0x7fff_f000)), (len - 3584, None)] {
        let mut bufs = vec![Buf::readable(gpa, 16)];
        bufs.extend([Buf::writable(GPA, len); 511]);
        bufs.push(Buf::writable(GPA, last));
        bufs.push(Buf::writable(gpa, 1));
        let head = bench.blk.driver_mut().add(&bufs, Layout::Indirect).expect("room");
        let parsed = bench.fetch(&rules, true);
        assert_eq!(bio_op(parsed).and_then(Op::range).map(SectorRange::bytes), op);
        assert!(op.is_some() || parsed == IOERR);
        bench.slots.finish(Tag(head), Status::IoErr);
        bench.memory.write(gpa, &[0]);
    }
}

#[test]
fn a_read_only_disk_refuses_writes_and_nothing_else() {
    let mut bench = Bench::new();
    for (request, verdict) in [
        (Request::write(0, &[0; 512]), IOERR),
        (Request::write(0, &[]), IOERR),
        (Request::discard(&[(0, 8, 0)]), IOERR),
        (Request::write_zeroes(&[(0, 8, 0)]), IOERR),
        (Request::get_id(20), Parsed::GetId),
    ] {
        assert_eq!(bench.judge(&request, &READ_ONLY), verdict);
    }
    assert_eq!(bio_op(bench.judge(&Request::flush(), &READ_ONLY)), Some(Op::Flush));
    let read = bench.judge(&Request::read(0, 512), &READ_ONLY);
    assert_eq!(bio_op(read), Some(Op::Read(range(0, 1))));
}

#[test]
fn unknown_types_and_what_was_not_negotiated_are_unsupported() {
    let mut bench = Bench::new();
    for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 26, 255, 1 << 31, u32::MAX] {
        assert_eq!(bench.judge(&Request::new(kind, 0), &RULES), UNSUPP, "type {kind}");
    }
    let plain = Rules { discard: false, write_zeroes: false, ..RULES };
    assert_eq!(bench.judge(&Request::discard(&[(0, 1, 0)]), &plain), UNSUPP);
    assert_eq!(bench.judge(&Request::write_zeroes(&[(0, 1, 0)]), &plain), UNSUPP);
    let read_only = Rules { read_only: true, ..plain };
    assert_eq!(bench.judge(&Request::discard(&[(0, 1, 0)]), &read_only), UNSUPP);
}

#[test]
fn get_id_fills_what_there_is_room_for() {
    let mut bench = Bench::new();
    for len in [0, 1, 11, 19, 20, 21, 64] {
        let request = Request::get_id(len);
        for framing in [Framing::plain(&request), Framing::pieces(&request, 3, Layout::Indirect)] {
            let (tag, parsed) = bench.send(&request, &framing, &RULES);
            assert_eq!(parsed, Parsed::GetId);
            let done = bench.complete(tag, Status::Ok);
            let n = len.min(20);
            assert_eq!((done.status, done.used_len), (0, n + 1));
            let (id, rest) = done.data.split_at(n as usize);
            assert_eq!(id, &SERIAL[..n as usize]);
            assert!(rest.iter().all(|b| *b == 0xaa), "what is longer than an id stays as it was");
        }
    }
}

#[test]
fn discards_and_zeroes_name_their_ranges() {
    let mut bench = Bench::new();
    let segments = [(8, 8, 0), (100, 0, 0), (16, 24, 0)];
    for (request, op) in [
        (Request::discard(&segments), Op::Discard(range(8, 8))),
        (Request::write_zeroes(&segments), Op::WriteZeroes { range: range(8, 8), unmap: false }),
    ] {
        let (tag, parsed) = bench.send(&request, &Framing::plain(&request), &RULES);
        assert_eq!(bio_op(parsed), Some(op));
        assert_eq!(bench.slots.range(tag), Some(range(8, 8)));
        assert!(bench.slots.next_range(tag), "the range of no sectors is skipped");
        assert_eq!(bench.slots.range(tag), Some(range(16, 24)));
        assert!(!bench.slots.next_range(tag));
        assert_eq!(bench.complete(tag, Status::Ok).used_len, 1);
    }
}

#[test]
fn unmap_is_a_permission_of_all_segments() {
    let mut bench = Bench::new();
    for (flags, allowed, unmap) in [
        ([1, 1], true, true),
        ([1, 0], true, false),
        ([0, 1], true, false),
        ([0, 0], true, false),
        ([1, 1], false, false),
    ] {
        let request = Request::write_zeroes(&[(0, 1, flags[0]), (8, 1, flags[1]), (9, 0, 0)]);
        let parsed = bench.judge(&request, &Rules { unmap: allowed, ..RULES });
        assert_eq!(bio_op(parsed), Some(Op::WriteZeroes { range: range(0, 1), unmap }));
    }
}

#[test]
fn an_ignored_discard_is_judged_and_then_answered() {
    let mut bench = Bench::new();
    let ignore = Rules { unmap: false, ..RULES };
    assert_eq!(bench.judge(&Request::discard(&[(0, 8, 0), (8, 8, 0)]), &ignore), Parsed::Nothing);
    assert_eq!(bench.judge(&Request::discard(&[(0, 8, 1)]), &ignore), UNSUPP);
    assert_eq!(bench.judge(&Request::discard(&[(CAPACITY, 8, 0)]), &ignore), IOERR);
}

#[test]
fn segments_have_flags_limits_and_a_length() {
    let mut bench = Bench::new();
    let big = Rules { capacity: 1 << 40, ..RULES };
    let (most, more) = (MAX_DISCARD_SECTORS, MAX_DISCARD_SECTORS + 1);
    let (most_zeroes, more_zeroes) = (MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SECTORS + 1);
    for (request, verdict) in [
        (Request::discard(&[(0, 8, 1)]), UNSUPP),
        (Request::discard(&[(0, 8, 2)]), UNSUPP),
        (Request::discard(&[(0, 8, 0), (0, 8, 1 << 31)]), UNSUPP),
        (Request::write_zeroes(&[(0, 8, 2)]), UNSUPP),
        (Request::write_zeroes(&[(0, 8, 3)]), UNSUPP),
        (Request::discard(&[(0, more, 0)]), IOERR),
        (Request::write_zeroes(&[(0, more_zeroes, 0)]), IOERR),
        (Request::discard(&[(1 << 40, 1, 0)]), IOERR),
        (Request::discard(&[(0, 8, 0), (u64::MAX, 1, 0)]), IOERR),
        (Request::discard(&[(0, 0, 0)]), Parsed::Nothing),
        (Request::write_zeroes(&[(5, 0, 1), (6, 0, 0)]), Parsed::Nothing),
        (Request::discard(&[]), IOERR),
        (Request::discard(&vec![(0, 1, 0); MAX_RANGES + 1]), IOERR),
    ] {
        assert_eq!(bench.judge(&request, &big), verdict, "{:?}", request.out);
    }
    for (request, sectors) in [
        (Request::discard(&[(0, most, 0)]), most),
        (Request::write_zeroes(&[(0, most_zeroes, 1)]), most_zeroes),
        (Request::discard(&vec![(0, 7, 0); MAX_RANGES]), 7),
    ] {
        let op = bio_op(bench.judge(&request, &big)).and_then(Op::range);
        assert_eq!(op.map(SectorRange::sectors), Some(u64::from(sectors)));
    }
    for cut in [1, 8, 15, 17, 31] {
        let mut request = Request::discard(&[(0, 1, 0), (1, 1, 0)]);
        request.out.truncate(cut);
        assert_eq!(bench.judge(&request, &big), IOERR);
    }
    assert!(bench.slots.can_accept(), "every block came back");
}

#[test]
fn a_header_cut_short_is_answered() {
    let mut bench = Bench::new();
    for len in 0..16 {
        let mut request = Request::read(0, 512);
        request.header.truncate(len);
        let framing = Framing { readable: [5, 4].into(), ..Framing::default() };
        let (tag, parsed) = bench.send(&request, &framing, &RULES);
        assert_eq!(parsed, IOERR, "{len} bytes");
        assert_eq!(bench.complete(tag, Status::IoErr).status, 1);
    }
}

#[test]
fn a_chain_without_a_status_byte_breaks_the_queue() {
    let mut bench = Bench::new();
    let gpa = bench.memory.alloc(4096, 16);
    bench.memory.write(gpa, &Request::flush().header);
    let outside = GPA + (8 << 20);
    for (bufs, how) in [
        (vec![Buf::readable(gpa, 16)], Breakage::NoStatus),
        (vec![Buf::readable(gpa, 16), Buf::writable(gpa, 0)], Breakage::NoStatus),
        (
            vec![Buf::readable(gpa, 16), Buf::writable(outside, 1)],
            Breakage::Chain(ChainError::BadAddress),
        ),
        (
            vec![Buf::readable(gpa, 16), Buf::writable(gpa, 512), Buf::writable(outside - 1, 2)],
            Breakage::Chain(ChainError::BadAddress),
        ),
        (vec![Buf::readable(gpa, 0)], Breakage::Chain(ChainError::Empty)),
    ] {
        let head = bench.blk.driver_mut().add(&bufs, Layout::Direct).expect("room");
        assert_eq!(bench.fetch(&RULES, true), Parsed::Broken(how));
        assert!(!bench.slots.is_busy(Tag(head)), "the slot is untouched");
    }
}

#[test]
fn a_defect_that_leaves_a_status_byte_is_answered() {
    let mut bench = Bench::new();
    let gpa = bench.memory.alloc(4096, 16);
    bench.memory.write(gpa, &Request::read(0, 0).header);
    let (head, status) = (Buf::readable(gpa, 16), Buf::writable(gpa + 100, 1));
    for bufs in [
        vec![head, Buf::writable(GPA + (8 << 20) - 511, 512), status],
        vec![Buf::readable(1, 16), Buf::writable(GPA, 512), status],
        vec![head, Buf::writable(GPA, 512), head, status],
        [vec![head], vec![Buf::writable(GPA, 512); 515], vec![status]].concat(),
        [vec![head], vec![Buf::writable(GPA, 512); 900], vec![status]].concat(),
    ] {
        bench.memory.write(gpa + 99, &[UNTOUCHED; 3]);
        let layout = if bufs.len() > 100 { Layout::Indirect } else { Layout::Direct };
        let head = bench.blk.driver_mut().add(&bufs, layout).expect("room");
        assert_eq!(bench.fetch(&RULES, true), IOERR);
        assert_eq!(bench.slots.finish(Tag(head), Status::IoErr), 1);
        assert_eq!(bench.memory.read(gpa + 99, 3), [UNTOUCHED, 1, UNTOUCHED]);
    }
    assert!(bench.slots.can_accept());
}

#[test]
fn a_head_in_flight_is_not_taken_again() {
    let mut bench = Bench::new();
    let request = Request::read(0, 512);
    let (tag, first) = bench.send(&request, &Framing::plain(&request), &RULES);
    assert_eq!(bio_op(first), Some(Op::Read(range(0, 1))));
    let before = (bench.slots.bufs(tag)[0].addr(), bench.slots.bytes(tag));
    bench.blk.driver_mut().push_avail(tag.0);
    assert_eq!(bench.fetch(&RULES, true), Parsed::Broken(Breakage::HeadBusy));
    assert_eq!((bench.slots.bufs(tag)[0].addr(), bench.slots.bytes(tag)), before);
    assert_eq!(bench.complete(tag, Status::Ok).used_len, 513, "the first one goes on");
}

#[test]
fn windows_sends_chains_longer_than_the_queue() {
    // 516 descriptors on a queue of 128: header, 514 of data (a partial page at both ends), status.
    let mut bench = Bench::new();
    let bytes: u32 = 512 + 512 * 4096 + 3584;
    let mut writable = vec![512];
    writable.extend([4096; 512]);
    writable.push(3584);
    let request = Request::read(0, bytes);
    let framing =
        Framing { readable: [16].into(), writable: writable.into(), layout: Layout::Indirect };
    let rules = Rules { capacity: 1 << 20, ..RULES };
    let (tag, parsed) = bench.send(&request, &framing, &rules);
    assert_eq!(bio_op(parsed).and_then(Op::range).map(SectorRange::bytes), Some(bytes.into()));
    assert_eq!((bench.slots.bufs(tag).len(), bench.slots.bytes(tag)), (514, bytes));
    let data: Vec<u8> = (0..bytes).map(|i| (i / 512 % 251) as u8).collect();
    let mut rest = &data[..];
    for buf in bench.slots.bufs(tag) {
        rest = &rest[buf.copy_from(rest)..];
    }
    let done = bench.complete(tag, Status::Ok);
    assert_eq!((done.status, done.used_len), (0, bytes + 1));
    assert!(done.data == data, "every byte where the guest wants it");
}

/// Cuts a length at random places.
fn cuts() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        prop::collection::vec(1_u32..40, 0..12),
        prop::collection::vec(1_u32..2000, 0..4),
        Just(vec![1; 17]),
    ]
}

fn framing() -> impl Strategy<Value = Framing> {
    let layout =
        prop_oneof![Just(Layout::Direct), Just(Layout::Indirect), Just(Layout::IndirectAfter(1)),];
    (cuts(), cuts(), layout).prop_map(|(readable, writable, layout)| Framing {
        readable: readable.into(),
        writable: writable.into(),
        layout,
    })
}

/// A request with the verdict it must get under [`RULES`]: mostly sound, sometimes not.
fn request() -> impl Strategy<Value = (Request, Result<Option<Op>, Reject>)> {
    let sector = prop_oneof![10 => 0..CAPACITY, 1 => any::<u64>()];
    let sectors = prop_oneof![10 => 1_u32..9, 1 => Just(0)];
    let spare = prop_oneof![10 => Just(0_u32), 1 => 1_u32..512];
    let kind = prop_oneof![
        4 => Just(VIRTIO_BLK_T_IN),
        4 => Just(VIRTIO_BLK_T_OUT),
        2 => Just(VIRTIO_BLK_T_FLUSH),
        2 => Just(VIRTIO_BLK_T_DISCARD),
        2 => Just(VIRTIO_BLK_T_WRITE_ZEROES),
        1 => 20_u32..,
    ];
    let flags = prop_oneof![8 => Just(0_u32), 3 => Just(1), 1 => any::<u32>()];
    (kind, sector, sectors, spare, flags).prop_map(|(kind, sector, sectors, spare, flags)| {
        let on_disk = SectorRange::new(Sector(sector), sectors.into(), CAPACITY);
        let len = sectors * 512 + spare;
        let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let op = |make: &dyn Fn(SectorRange) -> Op| match on_disk {
            None => Err(Reject::IoErr),
            Some(range) => Ok((!range.is_empty()).then(|| make(range))),
        };
        let aligned = |verdict| if spare == 0 { verdict } else { Err(Reject::IoErr) };
        let segment = [(sector, sectors, flags)];
        match kind {
            VIRTIO_BLK_T_IN => (Request::read(sector, len), aligned(op(&Op::Read))),
            VIRTIO_BLK_T_OUT => (Request::write(sector, &data), aligned(op(&Op::Write))),
            VIRTIO_BLK_T_FLUSH => (Request::flush(), Ok(Some(Op::Flush))),
            VIRTIO_BLK_T_DISCARD => {
                let verdict = if flags == 0 { op(&Op::Discard) } else { Err(Reject::Unsupp) };
                (Request::discard(&segment), verdict)
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let zeroes = |range| Op::WriteZeroes { range, unmap: flags == 1 };
                let verdict = if flags < 2 { op(&zeroes) } else { Err(Reject::Unsupp) };
                (Request::write_zeroes(&segment), verdict)
            }
            unknown => (Request::new(unknown, sector), Err(Reject::Unsupp)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_request_gets_its_verdict_in_every_framing(
        requests in prop::collection::vec((request(), framing()), 1..12),
    ) {
        let mut bench = Bench::new();
        for ((request, verdict), framing) in requests {
            let (tag, parsed) = bench.send(&request, &framing, &RULES);
            let want = match verdict {
                Ok(Some(op)) => Parsed::Bio(Bio { tag, op, fua: false, class: Class::BestEffort }),
                Ok(None) => Parsed::Nothing,
                Err(reject) => Parsed::Reject(reject),
            };
            prop_assert_eq!(parsed, want);
            let bufs = bench.slots.bufs(tag).to_vec();
            let mut used_len = 1;
            match bio_op(parsed) {
                Some(Op::Read(range)) => {
                    prop_assert_eq!(u64::from(bench.slots.bytes(tag)), range.bytes());
                    used_len += bench.slots.bytes(tag);
                    (1..).zip(&bufs).for_each(|(i, b)| {
                        b.zero();
                        b.write_u8(i);
                    });
                }
                Some(Op::Write(_)) => {
                    let mut data = vec![0; request.out.len()];
                    let mut at = 0;
                    bufs.iter().for_each(|b| at += b.copy_to(&mut data[at..]));
                    prop_assert_eq!(at, data.len());
                    prop_assert_eq!(&data, &request.out);
                }
                _ => prop_assert!(bufs.is_empty()),
            }
            let status = parsed.answer().unwrap_or(Status::Ok);
            let done = bench.complete(tag, status);
            prop_assert_eq!((done.status, done.used_len), (status as u8, used_len));
            if used_len > 1 {
                let firsts: Vec<u8> = done.data.iter().copied().filter(|b| *b != 0).collect();
                let want: Vec<u8> = (1..).take(bufs.len()).collect();
                prop_assert_eq!(firsts, want, "all of the guest's buffer and nothing else");
            } else {
                prop_assert!(done.data.iter().all(|b| *b == 0xaa), "no data was written");
            }
        }
        prop_assert_eq!(bench.blk.driver().free(), 128);
    }
}

#[derive(Clone, Debug)]
struct Wild {
    table: Vec<Descriptor>,
    memory: Vec<(Index, Vec<u8>)>,
    head: u16,
}

fn wild() -> impl Strategy<Value = Wild> {
    let descriptor = (any::<u64>(), any::<u32>(), any::<u16>(), any::<u16>(), 0_u8..20).prop_map(
        |(addr, len, flags, next, tame)| {
            // Mostly near enough to be followed somewhere.
            let addr = if tame > 0 { GPA + addr % 0x10000 } else { addr };
            let len = if tame > 1 { len % 1025 } else { len };
            let flags = if tame > 2 { flags & (NEXT | WRITE) } else { flags };
            let next = if tame > 3 { next % 16 } else { next };
            Descriptor { addr, len, flags, next }
        },
    );
    (
        prop::collection::vec(descriptor, 16),
        prop::collection::vec((any::<Index>(), prop::collection::vec(0_u8..16, 16..64)), 0..8),
        0_u16..16,
    )
        .prop_map(|(table, memory, head)| Wild { table, memory, head })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn nothing_in_memory_makes_the_parser_panic(wild in wild()) {
        let memory = Arc::new(TestMemory::with_regions(&[(GPA, 0x10000), (GPA + 0x20000, 0x1000)]));
        prop_assert_eq!(memory.alloc(0x10000, 1), GPA);
        let driver = Driver::new(&memory, 16, true, true);
        for (index, bytes) in &wild.memory {
            memory.write(GPA + index.index(0x10000 - 64) as u64, bytes);
        }
        for (i, d) in (0..).zip(&wild.table) {
            driver.write_descriptor(i, *d);
        }
        let queue = VirtQueue::new(driver.setup()).expect("a ring");
        let mut slots = Slots::new(16);
        let mut chain = Chain::new();
        let tag = Tag(wild.head);
        let parsed = fetch(&queue, memory.memory(), tag, &mut chain, &RULES, true, &mut slots);
        prop_assert_eq!(slots.is_busy(tag), !matches!(parsed, Parsed::Broken(_)));
        if let Parsed::Bio(bio) = parsed {
            let bytes: usize = slots.bufs(tag).iter().map(GuestBuf::len).sum();
            prop_assert_eq!(bytes, slots.bytes(tag) as usize);
            if let Op::Read(range) | Op::Write(range) = bio.op {
                prop_assert_eq!(range.bytes(), bytes as u64);
            }
            prop_assert!(bio.op.range().is_none_or(|r| r.end().0 <= CAPACITY && !r.is_empty()));
        }
        if slots.is_busy(tag) {
            slots.finish(tag, parsed.answer().unwrap_or(Status::Ok));
        }
        prop_assert!(slots.can_accept());
    }
}

/// An image that only knows what it is.
struct Still(Geometry, Traits);

impl Image for Still {
    fn geometry(&self) -> Geometry {
        self.0
    }

    fn traits(&self) -> Traits {
        self.1
    }

    fn open_channel(&self, _: &mut Ring, _: u16) -> io::Result<Box<dyn Channel>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn rules_come_from_the_disk_and_the_negotiation() {
    let geometry = Geometry {
        capacity: 77,
        logical_block: 4096,
        physical_block: 4096,
        discard_granularity: 4096,
    };
    let traits = Traits { read_only: true, flush_is_noop: false, exclusive: true };
    let disk = Disk {
        id: DiskId(0),
        image: Arc::new(Still(geometry, traits)),
        config: ConfigSpace::new(&geometry, &traits, 1),
        serial: SERIAL,
        writeback: AtomicBool::new(true),
        flush: Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false })),
        bells: Vec::new(),
        unmap: true,
    };
    let rules = Rules::new(&disk, 1 << VIRTIO_BLK_F_DISCARD);
    assert_eq!((rules.capacity, rules.block, rules.serial), (77, 4096, SERIAL));
    assert!(rules.read_only && rules.discard && rules.unmap);
    assert!(!rules.write_zeroes && !rules.flush);
    let rules = Rules::new(&disk, 1 << VIRTIO_BLK_F_WRITE_ZEROES | 1 << VIRTIO_BLK_F_FLUSH);
    assert!(rules.write_zeroes && rules.flush && !rules.discard);
    assert!(!rules.write_through(true) && rules.write_through(false));
}
