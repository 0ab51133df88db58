use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::device::virtqueue::VirtQueue;
use crate::testkit::driver::{Buf, Driver, INDIRECT, Layout, NEXT, WRITE};
use crate::testkit::{GPA, TestMemory};

fn memory() -> Arc<TestMemory> {
    Arc::new(TestMemory::new(1 << 21))
}

fn queue(driver: &Driver) -> VirtQueue {
    VirtQueue::new(driver.setup()).expect("the driver's ring is a ring")
}

/// What a chain must be judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    /// A defect, and whether a status byte is left.
    Answerable(ChainError, bool),
    Lost(ChainError),
}

#[derive(Clone, Copy, Debug)]
enum Defect {
    None,
    Loop,
    NextBeyond,
    NotNegotiated,
    WithNext,
    Nested,
    TableLength,
    TableOutside,
    Empty,
    BufferOutside,
    Order,
}

/// A chain on its way into the tables: lengths, and how many descriptors are direct.
#[derive(Clone, Debug)]
struct Shape {
    bufs: Vec<(u64, u32, bool)>,
    direct: usize,
    table: Option<u64>,
}

const MEMORY: u64 = 0x20000;

fn shape() -> impl Strategy<Value = Shape> {
    let lengths =
        |n| prop::collection::vec((0..MEMORY - 128, prop_oneof![8 => 1_u32..128, 1 => Just(0)]), n);
    let table = prop::option::weighted(0.5, 0..MEMORY - 0x2000);
    (lengths(1..6), lengths(1..6), any::<Index>(), table).prop_map(|(r, w, cut, table)| {
        let all = |v: Vec<(u64, u32)>, writable| {
            v.into_iter().map(move |(at, len)| (GPA + at, len, writable))
        };
        let bufs: Vec<_> = all(r, false).chain(all(w, true)).collect();
        let direct = if table.is_some() { cut.index(bufs.len()) } else { bufs.len() };
        Shape { bufs, direct, table: table.map(|at| GPA + at) }
    })
}

fn defect() -> impl Strategy<Value = Defect> {
    prop_oneof![
        8 => Just(Defect::None),
        1 => Just(Defect::Loop),
        1 => Just(Defect::NextBeyond),
        1 => Just(Defect::NotNegotiated),
        1 => Just(Defect::WithNext),
        1 => Just(Defect::Nested),
        1 => Just(Defect::TableLength),
        1 => Just(Defect::TableOutside),
        1 => Just(Defect::Empty),
        1 => Just(Defect::BufferOutside),
        1 => Just(Defect::Order),
    ]
}

/// Spoils the chain's buffers; what it must be judged to be.
fn spoil_bufs(shape: &mut Shape, defect: Defect, at: Index) -> Verdict {
    match defect {
        Defect::Empty => {
            shape.bufs.iter_mut().for_each(|b| b.1 = 0);
            Verdict::Lost(ChainError::Empty)
        }
        Defect::BufferOutside => {
            let i = at.index(shape.bufs.len());
            let len = shape.bufs[i].1.max(1);
            shape.bufs[i].0 = GPA + MEMORY + 1 - u64::from(len);
            shape.bufs[i].1 = len;
            let last = shape.bufs.iter().rposition(|b| b.1 > 0);
            let last_is_writable = last.is_some_and(|l| shape.bufs[l].2);
            Verdict::Answerable(ChainError::BadAddress, last_is_writable && last != Some(i))
        }
        Defect::Order => {
            let last = shape.bufs.len() - 1;
            shape.bufs[last].1 = 5;
            shape.bufs.insert(last, (GPA, 3, true));
            shape.bufs.insert(last + 1, (GPA, 3, false));
            if shape.table.is_none() {
                shape.direct = shape.bufs.len();
            }
            Verdict::Answerable(ChainError::ReadableAfterWritable, true)
        }
        _ => Verdict::Sound,
    }
}

/// Spoils the descriptors of one table (`len` entries long, `from` belongs to it).
fn spoil_links(part: &mut [Descriptor], len: u16, defect: Defect, at: Index) -> Option<ChainError> {
    let i = at.index(part.len());
    match defect {
        Defect::Loop => {
            let last = part.len() - 1;
            part[last].flags |= NEXT;
            part[last].next = if i == 0 { 0 } else { part[i - 1].next };
            Some(ChainError::TooLong)
        }
        Defect::NextBeyond => {
            part[i].flags |= NEXT;
            part[i].next = len + u16::try_from(i).expect("short");
            Some(ChainError::NextOutOfRange)
        }
        _ => None,
    }
}

fn chained(bufs: &[(u64, u32, bool)]) -> Vec<Descriptor> {
    let count = u16::try_from(bufs.len()).expect("short");
    (1..=count)
        .zip(bufs)
        .map(|(next, (addr, len, writable))| {
            let flags = if *writable { WRITE } else { 0 } | if next < count { NEXT } else { 0 };
            Descriptor { addr: *addr, len: *len, flags, next }
        })
        .collect()
}

/// Writes the chain with its defect; what it must be judged to be. The head is 0.
fn write_chain(driver: &Driver, shape: &mut Shape, defect: Defect, at: Index) -> Verdict {
    let mut verdict = spoil_bufs(shape, defect, at);
    let (direct, rest) = shape.bufs.split_at(shape.direct);
    let mut direct = chained(direct);
    if let Some(last) = direct.last_mut().filter(|_| shape.table.is_some()) {
        last.flags |= NEXT;
    }
    if let Some(gpa) = shape.table {
        let mut table = chained(rest);
        let len = u16::try_from(table.len()).expect("short");
        let mut refers =
            Descriptor { addr: gpa, len: u32::from(len) * 16, flags: INDIRECT, next: 0 };
        if let Some(e) = spoil_links(&mut table, len, defect, at) {
            verdict = Verdict::Lost(e);
        }
        let lost = match defect {
            Defect::NotNegotiated => Some(ChainError::IndirectNotNegotiated),
            Defect::WithNext => {
                refers.flags |= NEXT;
                Some(ChainError::IndirectWithNext)
            }
            Defect::Nested => {
                table[at.index(usize::from(len))].flags |= INDIRECT;
                Some(ChainError::NestedIndirect)
            }
            Defect::TableLength => {
                refers.len = if at.index(2) == 0 { 0 } else { refers.len + 8 };
                Some(ChainError::IndirectLength)
            }
            Defect::TableOutside => {
                refers.addr = GPA + MEMORY - u64::from(refers.len) + 1;
                Some(ChainError::IndirectAddress)
            }
            _ => None,
        };
        verdict = lost.map_or(verdict, Verdict::Lost);
        for (i, d) in (0..).zip(&table) {
            driver.write_descriptor_at(gpa + i * 16, *d);
        }
        // The WRITE flag of such a descriptor means nothing (C4).
        refers.flags |= if at.index(3) == 0 { WRITE } else { 0 };
        direct.push(refers);
    } else if let Some(e) = spoil_links(&mut direct, 16, defect, at) {
        verdict = Verdict::Lost(e);
    }
    for (i, d) in (0..).zip(&direct) {
        driver.write_descriptor(i, *d);
    }
    verdict
}

fn content(pieces: &[GuestBuf]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for piece in pieces {
        let (at, len) = (piece.addr().addr(), piece.len());
        runs.push((at, len));
    }
    runs
}

/// The host pieces of the buffers of one direction, as translation gives them one by one.
fn expected(memory: &GuestMemory, shape: &Shape, writable: bool) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    for (gpa, len, _) in shape.bufs.iter().filter(|b| b.2 == writable && b.1 > 0) {
        let pieces = memory.translate(*gpa, u64::from(*len), |piece| {
            runs.push((piece.addr().addr(), piece.len()));
            true
        });
        assert_eq!(pieces, Ok(()));
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_chain_gets_the_verdict_it_must_get(
        mut shape in shape(), defect in defect(), at: Index,
    ) {
        // Two adjoining regions: buffers and tables run over the border at times.
        let half = MEMORY / 2;
        let memory = Arc::new(TestMemory::with_regions(&[
            (GPA, half), (GPA + half, half), (GPA + 2 * MEMORY, 0x1000),
        ]));
        // The ring is in the third region, so that no buffer overwrites it.
        let low = memory.alloc(half, 1);
        let high = memory.alloc(half, 1);
        prop_assert_eq!((low, high), (GPA, GPA + half));
        let indirect = !matches!(defect, Defect::NotNegotiated);
        let driver = Driver::new(&memory, 16, false, indirect);
        let verdict = write_chain(&driver, &mut shape, defect, at);
        let queue = queue(&driver);
        let mut chain = Chain::new();
        let got = queue.chain(memory.memory(), Tag(0), &mut chain);
        match verdict {
            Verdict::Lost(e) => prop_assert_eq!(got, Err(e)),
            Verdict::Answerable(e, has_status) => {
                prop_assert_eq!(got, Ok(()));
                prop_assert_eq!(chain.defect(), Some(e));
                prop_assert_eq!(chain.take_status().is_some(), has_status);
                prop_assert!(!chain.take_readable(&mut [0]));
            }
            Verdict::Sound if shape.bufs.iter().all(|b| b.1 == 0) => {
                prop_assert_eq!(got, Err(ChainError::Empty));
            }
            Verdict::Sound => {
                prop_assert_eq!(got, Ok(()));
                prop_assert_eq!(chain.defect(), None);
                let mut writable = expected(memory.memory(), &shape, true);
                prop_assert_eq!(content(chain.readable()), expected(memory.memory(), &shape, false));
                prop_assert_eq!(content(chain.writable()), &writable[..]);
                let status = chain.take_status().map(|s| (s.addr().addr(), s.len()));
                let last = writable.last_mut().map(|(at, len)| { *len -= 1; (*at + *len, 1) });
                prop_assert_eq!(status, last);
                writable.retain(|(_, len)| *len > 0);
                prop_assert_eq!(content(chain.writable()), &writable[..]);
            }
        }
    }
}

#[test]
fn a_loop_costs_a_bounded_walk() {
    let memory = memory();
    let driver = Driver::new(&memory, 32768, false, true);
    let table = memory.alloc(0xffff * 16, 16);
    let d = Descriptor { addr: GPA, len: 1, flags: NEXT | WRITE, next: 0 };
    driver.write_descriptor_at(table, d);
    driver.write_descriptor(7, d);
    driver.write_descriptor(0, d);
    let refers = Descriptor { addr: table, len: 0xffff * 16, flags: INDIRECT, next: 0 };
    driver.write_descriptor(9, refers);
    let queue = queue(&driver);
    let mut chain = Chain::new();
    for head in [0, 7, 9] {
        let got = queue.chain(memory.memory(), Tag(head), &mut chain);
        assert_eq!(got, Err(ChainError::TooLong));
        assert_eq!(chain.writable_bytes(), 32768, "as many steps as a chain may have");
    }
}

#[test]
fn an_indirect_chain_is_bounded_on_a_small_queue() {
    let memory = memory();
    let mut driver = Driver::new(&memory, 2, false, true);
    let queue = queue(&driver);
    let mut chain = Chain::new();
    for (count, got) in [(1024, Ok(())), (1025, Err(ChainError::TooLong))] {
        let head = driver.add(&vec![Buf::writable(GPA, 1); count], Layout::Indirect).expect("room");
        assert_eq!(queue.chain(memory.memory(), Tag(head), &mut chain), got);
    }
}

#[test]
fn too_many_pieces_still_leave_the_status_byte() {
    let memory = memory();
    let mut driver = Driver::new(&memory, 2, false, true);
    let queue = queue(&driver);
    let mut chain = Chain::new();
    let mut bufs = vec![Buf::writable(GPA, 1); MAX_PIECES - 1];
    bufs.push(Buf::writable(GPA + 0x999, 1));
    for defect in [None, Some(ChainError::TooManyPieces)] {
        let head = driver.add(&bufs, Layout::Indirect).expect("room");
        assert_eq!(queue.chain(memory.memory(), Tag(head), &mut chain), Ok(()));
        assert_eq!(chain.defect(), defect);
        let status = chain.take_status().expect("a status byte");
        status.write_u8(0x5a);
        assert_eq!(memory.read(GPA + 0x999, 1), [0x5a]);
        memory.write(GPA + 0x999, &[0]);
        bufs.insert(0, Buf::writable(GPA, 1));
    }
}

#[test]
fn a_copied_chain_does_not_change_under_the_devices_feet() {
    let memory = memory();
    let mut driver = Driver::new(&memory, 4, false, false);
    let queue = queue(&driver);
    let bufs = [Buf::readable(GPA, 16), Buf::writable(GPA + 64, 5)];
    let head = driver.add(&bufs, Layout::Direct).expect("room");
    let mut chain = Chain::new();
    assert_eq!(queue.chain(memory.memory(), Tag(head), &mut chain), Ok(()));
    for i in 0..4 {
        let wild = Descriptor { addr: u64::MAX, len: u32::MAX, flags: 7, next: 0xffff };
        driver.write_descriptor(i, wild);
    }
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 5));
    assert_eq!((chain.readable()[0].len(), chain.writable()[0].len()), (16, 5));
}
