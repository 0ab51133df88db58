use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::bench::{BLOCK_4096, Bench, CAPACITY, READ_ONLY, RULES, SERIAL, bio_op, range};
use super::*;
use crate::blkmq::{FlushGate, FlushPolicy};
use crate::device::config_space::ConfigSpace;
use crate::device::mailbox::DiskId;
use crate::device::tuning::DiskTuning;
use crate::image::{Channel, Geometry, Image, Traits};
use crate::sys::uring::Ring;
use crate::testkit::GPA;
use crate::testkit::blk::{Done, Framing, Request, UNTOUCHED};
use crate::testkit::driver::{Buf, Layout};

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
    assert_eq!(parsed, Parsed::Bio(Bio { class: Class::RealTime, ..Bio::new(tag, op) }));
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
fn i37_transfers_are_held_against_the_disk() {
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
fn i37_the_logical_block_is_the_smallest_unit() {
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
fn i37_a_read_only_disk_refuses_writes_and_nothing_else() {
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
fn i37_unknown_types_and_what_was_not_negotiated_are_unsupported() {
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

/// Where the bio says how it travels.
fn shape(parsed: Parsed) -> (u16, bool) {
    let Parsed::Bio(bio) = parsed else { panic!("a bio: {parsed:?}") };
    (bio.segments, bio.alone)
}

#[test]
fn what_the_image_cannot_take_as_it_is_travels_alone() {
    let direct = Rules { buffers: BufferMask { addr: 511, len: 511 }, ..RULES };
    for (piece, alone) in [(1024, false), (512, false), (700, true), (256, true)] {
        let mut bench = Bench::new();
        // Where the buffers begin in memory is the test kit's choice: only whole pieces agree.
        for request in [Request::read(0, 2048), Request::write(0, &[1; 2048])] {
            let framing = Framing::pieces(&request, piece, Layout::Indirect);
            let (tag, parsed) = bench.send(&request, &framing, &direct);
            let bufs = bench.slots.bufs(tag);
            let aligned = direct.buffers.takes(bufs);
            assert_eq!(shape(parsed), (u16::try_from(bufs.len()).expect("few"), !aligned));
            assert!(!alone || !aligned, "lengths of {piece} are odd");
            let (_, parsed) = bench.send(&request, &framing, &RULES);
            assert!(!shape(parsed).1, "the page cache takes anything");
        }
    }
}

#[test]
fn several_ranges_travel_alone() {
    let mut bench = Bench::new();
    for (segments, alone) in [
        (&[(0, 8, 0)][..], false),
        (&[(0, 8, 0), (8, 0, 0)], false),
        (&[(0, 8, 0), (8, 8, 0)], true),
    ] {
        assert_eq!(shape(bench.judge(&Request::discard(segments), &RULES)), (0, alone));
        assert_eq!(shape(bench.judge(&Request::write_zeroes(segments), &RULES)), (0, alone));
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
fn i37_segments_have_flags_limits_and_a_length() {
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
fn i02_a_head_in_flight_is_not_taken_again() {
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
    let traits = Traits { read_only: true, flush_is_noop: false, exclusive: true, dsync: true };
    let disk = Disk {
        id: DiskId(0),
        name: "a-disk".to_owned(),
        image: Arc::new(Still(geometry, traits)),
        config: ConfigSpace::new(&geometry, &traits, 1),
        serial: SERIAL,
        writeback: AtomicBool::new(true),
        flush: Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false })),
        bells: Vec::new(),
        unmap: true,
        on_error: Default::default(),
        limits: Arc::default(),
        stats: crate::blkmq::stats::DiskStats::new(64),
        tuning: DiskTuning::default(),
        pool: Arc::default(),
    };
    let rules = Rules::new(&disk, 1 << VIRTIO_BLK_F_DISCARD);
    assert_eq!((rules.capacity, rules.block, rules.serial), (77, 4096, SERIAL));
    disk.config.set_capacity(85);
    assert_eq!(Rules::new(&disk, 0).capacity, 85, "a queue that starts now knows the size of now");
    assert!(rules.read_only && rules.discard && rules.unmap);
    assert!(!rules.write_zeroes && !rules.flush);
    let rules = Rules::new(&disk, 1 << VIRTIO_BLK_F_WRITE_ZEROES | 1 << VIRTIO_BLK_F_FLUSH);
    assert!(rules.write_zeroes && rules.flush && !rules.discard);
    assert!(!rules.write_through(true) && rules.write_through(false));
}
