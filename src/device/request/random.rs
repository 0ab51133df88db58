//! Requests in random framings with their verdicts, and memory without any sense.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;

use super::bench::{BLOCK_4096, Bench, CAPACITY, READ_ONLY, RULES, bio_op};
use super::*;
use crate::device::virtqueue::Glance;
use crate::sys::ring::Descriptor;
use crate::testkit::blk::{Framing, Request};
use crate::testkit::driver::{Driver, INDIRECT, Layout, NEXT, WRITE};
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

/// What the quick way makes of the chain at `tag`, if it takes it at all.
fn quick(
    queue: &VirtQueue,
    memory: &GuestMemory,
    tag: Tag,
    glance: &mut Glance,
    rules: &Rules,
    writeback: bool,
    slots: &mut Slots,
) -> Option<Parsed> {
    let plain = queue.plain(memory, tag, glance)?;
    if plain.to_guest {
        let of = accept::<false>(plain, tag, rules, writeback, slots)?;
        Some(Parsed::Bio(of.bio::<false>(tag)))
    } else {
        let of = accept::<true>(plain, tag, rules, writeback, slots)?;
        Some(Parsed::Bio(of.bio::<true>(tag)))
    }
}

/// Holds the quick way (R6) against the other on the chain at `tag`: what it takes it takes as the
/// other does, and the slot is filled alike; what it leaves it leaves as it was. Whether it took it.
fn both_ways_agree(
    queue: &VirtQueue,
    memory: &GuestMemory,
    tag: Tag,
    (rules, writeback): (&Rules, bool),
    slots: &mut [Slots; 2],
) -> Result<bool, TestCaseError> {
    let [ours, theirs] = slots;
    let mut glance = Glance::default();
    // The first look learns where to look.
    let (first, second) = (
        quick(queue, memory, tag, &mut glance, rules, writeback, ours),
        quick(queue, memory, tag, &mut glance, rules, writeback, ours),
    );
    prop_assert_eq!(first, None, "nothing is known of the memory yet");
    let parsed = fetch(queue, memory, tag, &mut Chain::new(), rules, writeback, theirs);
    let Some(taken) = second else {
        prop_assert!(!ours.is_busy(tag), "the slot is untouched");
        return Ok(false);
    };
    prop_assert_eq!(taken, parsed);
    let place = |b: &GuestBuf| (b.addr(), b.len());
    let bufs = |s: &Slots| s.bufs(tag).iter().map(place).collect::<Vec<_>>();
    prop_assert_eq!(bufs(ours), bufs(theirs));
    prop_assert_eq!(ours.bytes(tag), theirs.bytes(tag));
    prop_assert!(!ours.has_more_ranges(tag));
    let again = quick(queue, memory, tag, &mut glance, rules, writeback, ours);
    prop_assert_eq!(again, None, "a busy head is left to the other way, which refuses it");
    prop_assert_eq!(ours.finish(tag, Status::Ok), theirs.finish(tag, Status::Ok));
    Ok(true)
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

/// A chain of three that is nearly as drivers send it: each part is off from time to time.
#[derive(Clone, Debug)]
struct Nearly {
    header: (u32, u32, u64),
    descriptors: [Descriptor; 3],
    head: u16,
    indirect: Option<(u32, u16)>,
    size: u16,
}

fn nearly() -> impl Strategy<Value = Nearly> {
    let off = || 0_u8..40;
    let kind = prop_oneof![8 => Just(VIRTIO_BLK_T_IN), 8 => Just(VIRTIO_BLK_T_OUT), 1 => 0_u32..20];
    let sector =
        prop_oneof![12 => 0..CAPACITY / 8, 1 => CAPACITY - 9..CAPACITY + 2, 1 => any::<u64>()];
    let lens = (
        prop_oneof![20 => Just(16_u32), 1 => 0_u32..40],
        prop_oneof![12 => (1_u32..9).prop_map(|n| n * 512), 2 => 0_u32..2000, 1 => any::<u32>()],
        prop_oneof![20 => Just(1_u32), 1 => 0_u32..600],
    );
    let indirect = prop_oneof![3 => Just(None), 2 => Just(Some((48, 0))),
        1 => (0_u32..6, 0_u16..4).prop_map(|(n, flags)| Some((n * 16, flags)))];
    let size = prop_oneof![12 => Just(16_u16), 1 => Just(1), 1 => Just(2), 1 => Just(4)];
    (
        kind,
        any::<u32>(),
        sector,
        lens,
        [off(), off(), off(), off()],
        any::<[u16; 3]>(),
        indirect,
        size,
    )
        .prop_map(|(kind, ioprio, sector, lens, off, wild, indirect, size)| {
            let to_guest = if kind == VIRTIO_BLK_T_IN { WRITE } else { 0 };
            let flags = [NEXT, NEXT | to_guest, WRITE];
            let lens = [lens.0, lens.1, lens.2];
            let mut descriptors = [Descriptor::default(); 3];
            for (i, d) in (0_u16..).zip(&mut descriptors) {
                let at = usize::from(i);
                let flags = if off[at] == 0 { wild[at] % 8 } else { flags[at] };
                let next = if off[at] == 1 { wild[at] % 20 } else { i + 1 };
                let addr = match off[at] {
                    2 => u64::from(wild[at]) << 30,
                    3 => GPA + 0x10000 - u64::from(wild[at] % 64), // over a border, or nearly
                    4 => GPA + 0x20000 + u64::from(wild[at] % 0x800),
                    _ => GPA + 0x1000 + u64::from(i) * 0x2000,
                };
                *d = Descriptor { addr, len: lens[at], flags, next };
            }
            let head = if off[3] == 0 { wild[0] % size } else { 0 };
            Nearly { header: (kind, ioprio, sector), descriptors, head, indirect, size }
        })
}

impl Nearly {
    /// A queue of which nothing else is known, with this chain.
    fn lay_out(&self, negotiated: bool) -> (Arc<TestMemory>, VirtQueue) {
        let memory = Arc::new(TestMemory::with_regions(&[
            (GPA, 0x10000),
            (GPA + 0x10000, 0x1000),
            (GPA + 0x20000, 0x1000),
        ]));
        assert_eq!(memory.alloc(0x10000, 1), GPA);
        let driver = Driver::new(&memory, self.size, true, negotiated);
        let (kind, ioprio, sector) = self.header;
        let header = [&kind.to_le_bytes()[..], &ioprio.to_le_bytes(), &sector.to_le_bytes()];
        let at = self.descriptors[0].addr;
        if memory.memory().slice(at, 16).is_ok() {
            memory.write(at, &header.concat());
        }
        let first = if self.size == 16 { self.head.min(12) } else { 0 };
        if let Some((len, flags)) = self.indirect {
            let table = GPA + 0x8000;
            for (i, d) in (0..).zip(self.descriptors) {
                driver.write_descriptor_at(table + i * 16, d);
            }
            let d = Descriptor { addr: table, len, flags: flags | INDIRECT, next: 0 };
            driver.write_descriptor(self.head, d);
        } else {
            for (i, mut d) in (0..).zip(self.descriptors) {
                if self.size == 16 && d.next == i + 1 {
                    d.next += first;
                }
                driver.write_descriptor((first + i) % self.size, d);
            }
        }
        let queue = VirtQueue::new(driver.setup()).expect("a ring");
        (memory, queue)
    }

    fn tag(&self) -> Tag {
        let direct = if self.size == 16 { self.head.min(12) } else { 0 };
        Tag(if self.indirect.is_some() { self.head } else { direct })
    }
}

const QUICK_RULES: [Rules; 4] = [
    RULES,
    READ_ONLY,
    BLOCK_4096,
    Rules { buffers: BufferMask { addr: 511, len: 511 }, flush: false, ..RULES },
];

#[test]
fn the_quick_way_takes_most_of_what_drivers_send() {
    let mut taken = 0;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..500 {
        let nearly = nearly().new_tree(&mut runner).expect("a value").current();
        let (memory, queue) = nearly.lay_out(true);
        let mut slots = [Slots::new(16), Slots::new(16)];
        let judged = (&RULES, true);
        let agreed = both_ways_agree(&queue, memory.memory(), nearly.tag(), judged, &mut slots);
        taken += u32::from(agreed.expect("both ways agree"));
    }
    assert!((150..450).contains(&taken), "{taken} of 500: neither all nor nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn both_ways_agree_on_what_is_nearly_usual(
        nearly in nearly(), rules in 0_usize..4, writeback: bool, negotiated: bool,
    ) {
        let (memory, queue) = nearly.lay_out(negotiated);
        let mut slots = [Slots::new(16), Slots::new(16)];
        let judged = (&QUICK_RULES[rules], writeback);
        both_ways_agree(&queue, memory.memory(), nearly.tag(), judged, &mut slots)?;
    }

    #[test]
    fn both_ways_agree_on_anything(wild in wild()) {
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
        let mut slots = [Slots::new(16), Slots::new(16)];
        both_ways_agree(&queue, memory.memory(), Tag(wild.head), (&RULES, true), &mut slots)?;
    }
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
