use super::*;
use crate::testkit::TestMemory;
use proptest::prelude::*;

fn areas(memory: &TestMemory, size: u16) -> (GuestBuf, GuestBuf, GuestBuf) {
    let (d, a, u) = area_lengths(size);
    let area = |len: usize, align| {
        let gpa = memory.alloc(len as u64, align);
        memory.memory().slice(gpa, len as u64).expect("just allocated")
    };
    (area(d, 16), area(a, 2), area(u, 4))
}

#[test]
fn sizes_lengths_and_alignment_are_checked() {
    let memory = TestMemory::new(1 << 21);
    let (d, a, u) = areas(&memory, 8);
    let ring = |size, d, a, u| SplitRing::new(size, d, a, u).map(|r| r.size());
    assert_eq!(ring(8, d, a, u), Ok(8));
    for size in [0, 3, 7, 32769, 65535] {
        assert_eq!(ring(size, d, a, u), Err(RingError::Size));
    }
    assert_eq!(ring(8, d.take(127), a, u), Err(RingError::Short));
    assert_eq!(ring(8, d, a.take(21), u), Err(RingError::Short));
    assert_eq!(ring(8, d, a, u.take(69)), Err(RingError::Short));
    assert_eq!(ring(4, d.skip(8), a, u), Err(RingError::Alignment));
    assert_eq!(ring(4, d, a.skip(1), u), Err(RingError::Alignment));
    assert_eq!(ring(4, d, a, u.skip(2)), Err(RingError::Alignment));
    for size in [1, MAX_SIZE] {
        let (d, a, u) = areas(&memory, size);
        assert_eq!(ring(size, d, a, u), Ok(size));
    }
}

#[test]
fn fields_lie_where_the_specification_puts_them() {
    let memory = TestMemory::new(1 << 16);
    let (d, a, u) = areas(&memory, 4);
    let ring = SplitRing::new(4, d, a, u).expect("a ring");
    let bytes = |b: GuestBuf| {
        let mut v = vec![0; b.len()];
        assert_eq!(copy_once(b, &mut v), b.len());
        v
    };
    ring.set_avail_flags(0x0201);
    ring.set_avail_idx(0x0403);
    ring.set_avail_entry(5, 0x0605);
    ring.set_used_event(0x0807);
    assert_eq!(bytes(a), [1, 2, 3, 4, 0, 0, 5, 6, 0, 0, 0, 0, 7, 8]);
    assert_eq!(
        (ring.avail_flags(), ring.avail_idx(), ring.avail_entry(1), ring.used_event()),
        (0x0201, 0x0403, 0x0605, 0x0807)
    );

    ring.set_used_flags(0x0201);
    ring.set_used_idx(0x0403);
    ring.set_used_entry(4, 0x1413_1211, 0x1817_1615);
    ring.set_avail_event(0x0807);
    let mut want = vec![0; 38];
    want[..12].copy_from_slice(&[1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    want[36..].copy_from_slice(&[7, 8]);
    assert_eq!(bytes(u), want);
    assert_eq!((ring.used_flags(), ring.used_idx(), ring.avail_event()), (0x0201, 0x0403, 0x0807));
    assert_eq!(ring.used_entry(0), (0x1413_1211, 0x1817_1615));
}

#[test]
fn a_table_ends_where_it_ends() {
    let memory = TestMemory::new(1 << 16);
    let gpa = memory.alloc(64, 1);
    let table = memory.memory().slice(gpa, 47).expect("just allocated");
    let d = Descriptor { addr: 1 << 40, len: 7, flags: 3, next: 9 };
    memory.write(gpa + 16, &d.to_bytes());
    assert_eq!(read_descriptor(table, 1), Some(d));
    assert_eq!(read_descriptor(table, 2), None);
    assert_eq!(read_descriptor(table.skip(1), 0).map(|d| d.len), Some(0));
}

proptest! {
    #[test]
    fn a_descriptor_survives_its_bytes(addr: u64, len: u32, flags: u16, next: u16) {
        let d = Descriptor { addr, len, flags, next };
        prop_assert_eq!(Descriptor::from_bytes(d.to_bytes()), d);
        let memory = TestMemory::new(1 << 16);
        let (desc, a, u) = areas(&memory, 2);
        let ring = SplitRing::new(2, desc, a, u).expect("a ring");
        ring.set_descriptor(1, d);
        prop_assert_eq!(ring.descriptor(1), d);
        prop_assert_eq!(ring.descriptor(3), d);
        prop_assert_eq!(ring.descriptor(0), Descriptor::default());
    }

    #[test]
    fn copy_once_copies_what_is_there(data: Vec<u8>, room in 0_usize..64, offset in 0_u64..8) {
        let memory = TestMemory::new(1 << 16);
        let gpa = memory.alloc(4096, 16) + offset;
        memory.write(gpa, &data);
        let src = memory.memory().slice(gpa, data.len() as u64).expect("inside");
        let mut got = vec![0xaa; room];
        let n = data.len().min(room);
        prop_assert_eq!(copy_once(src, &mut got), n);
        let words = data.get(..16).map(|b| u128::from_le_bytes(b.try_into().expect("16 bytes")));
        let read = read_words(src).map(|[low, high]| u128::from(high) << 64 | u128::from(low));
        prop_assert_eq!(read, words);
        prop_assert_eq!(&got[..n], &data[..n]);
        prop_assert!(got[n..].iter().all(|b| *b == 0xaa));
    }
}
