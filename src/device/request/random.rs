//! Requests in random framings with their verdicts, and memory without any sense.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::bench::{Bench, CAPACITY, RULES, bio_op};
use super::*;
use crate::sys::ring::Descriptor;
use crate::testkit::blk::{Framing, Request};
use crate::testkit::driver::{Driver, Layout, NEXT, WRITE};
use crate::testkit::{GPA, TestMemory};

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
                Ok(Some(op)) => {
                    let segments = u16::try_from(bench.slots.bufs(tag).len()).expect("few");
                    Parsed::Bio(Bio { segments, ..Bio::new(tag, op) })
                }
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
