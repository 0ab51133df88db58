use proptest::prelude::*;

use super::*;
use crate::block::Sector;
use crate::sys::guest::GuestMemory;
use crate::testkit::{GPA, TestMemory};

/// `count` buffers of `len` bytes, one after the other, from `at`.
fn bufs(memory: &GuestMemory, at: u64, count: usize, len: u64) -> Vec<GuestBuf> {
    (0..count as u64).map(|i| memory.slice(GPA + at + i * len, len).expect("inside")).collect()
}

fn runs(bufs: &[GuestBuf]) -> Vec<(usize, usize)> {
    bufs.iter().map(|b| (b.addr().addr(), b.len())).collect()
}

fn range(start: u64, sectors: u64) -> SectorRange {
    SectorRange::new(Sector(start), sectors, 1 << 40).expect("on the disk")
}

const T: Tag = Tag(1);

#[test]
fn a_slot_is_two_cache_lines_and_a_small_bio_touches_one() {
    assert_eq!(size_of::<Slot>(), 128);
    let second_buf = std::mem::offset_of!(Slot, inline) + 2 * size_of::<GuestBuf>();
    assert_eq!(second_buf, 64);
}

#[test]
fn finish_says_what_was_written_and_frees() {
    let test = TestMemory::new(1 << 16);
    let memory = test.memory();
    let status = memory.slice(GPA + 7, 1).expect("inside");
    let data = bufs(memory, 0x100, 2, 512);
    let mut slots = Slots::new(4);
    for (status_byte, to_guest, used) in [
        (Status::Ok, true, 1025),
        (Status::Ok, false, 1),
        (Status::IoErr, true, 1),
        (Status::Unsupp, true, 1),
    ] {
        test.write(GPA, &[0xaa; 16]);
        assert!(!slots.is_busy(T));
        slots.claim(T, status);
        assert!(slots.is_busy(T));
        assert_eq!((slots.bytes(T), slots.bufs(T).len(), slots.range(T)), (0, 0, None));
        assert_eq!(slots.set_data(T, &data, 1024, to_guest), Ok(()));
        assert_eq!(slots.finish(T, status_byte), used);
        let mut want = [0xaa; 16];
        want[7] = status_byte as u8;
        assert_eq!(test.read(GPA, 16), want, "one byte and no other");
        assert!(!slots.is_busy(T));
    }
}

#[test]
#[should_panic(expected = "answered once")]
fn a_head_cannot_be_answered_twice() {
    let test = TestMemory::new(1 << 16);
    let mut slots = Slots::new(4);
    slots.claim(T, test.memory().slice(GPA, 1).expect("inside"));
    slots.finish(T, Status::Ok);
    slots.finish(T, Status::Ok);
}

#[test]
#[should_panic(expected = "busy head")]
fn a_busy_slot_cannot_be_claimed() {
    let test = TestMemory::new(1 << 16);
    let status = test.memory().slice(GPA, 1).expect("inside");
    let mut slots = Slots::new(4);
    slots.claim(T, status);
    slots.claim(T, status);
}

#[test]
fn an_empty_pool_is_back_pressure_until_a_bio_ends() {
    let test = TestMemory::new(1 << 20);
    let memory = test.memory();
    let status = memory.slice(GPA, 1).expect("inside");
    let many = bufs(memory, 0x100, INLINE_BUFS + 1, 512);
    let mut slots = Slots::new(64);
    let blocks = u16::try_from(DATA_BLOCKS).expect("few");
    for tag in (0..blocks).map(Tag) {
        assert!(slots.can_accept());
        slots.claim(tag, status);
        assert_eq!(slots.set_data(tag, &many, 512 * 6, true), Ok(()));
    }
    assert!(!slots.can_accept());
    let late = Tag(blocks);
    slots.claim(late, status);
    assert_eq!(slots.set_data(late, &many, 512 * 6, true), Err(NoRoom));
    assert_eq!((slots.bufs(late).len(), slots.bytes(late)), (0, 0));
    assert_eq!(slots.set_data(late, &many[..INLINE_BUFS], 512 * 5, true), Ok(()), "fits the slot");
    slots.finish(Tag(3), Status::Ok);
    assert!(slots.can_accept());
}

#[test]
fn the_longest_bio_fits_and_a_longer_one_does_not() {
    let test = TestMemory::new(1 << 20);
    let memory = test.memory();
    let mut slots = Slots::new(2);
    slots.claim(T, memory.slice(GPA, 1).expect("inside"));
    let data = bufs(memory, 0, MAX_SEGMENTS + 1, 512);
    assert_eq!(slots.set_data(T, &data, 0, true), Err(NoRoom));
    let bytes = 514 * 512;
    assert_eq!(slots.set_data(T, &data[1..], bytes, true), Ok(()));
    assert_eq!(runs(slots.bufs(T)), runs(&data[1..]));
    assert_eq!(slots.bytes(T), bytes);
    assert_eq!(slots.finish(T, Status::Ok), bytes + 1);
}

#[test]
fn ranges_come_one_after_the_other() {
    let test = TestMemory::new(1 << 16);
    let status = test.memory().slice(GPA, 1).expect("inside");
    let mut slots = Slots::new(4);
    for count in [1, 2, MAX_RANGES as u64] {
        slots.claim(T, status);
        assert_eq!(slots.range(T), None);
        for i in 0..count {
            assert_eq!(slots.add_range(T, range(i * 8, i + 1)), Ok(()));
        }
        assert_eq!((slots.bytes(T), slots.bufs(T).len()), (0, 0), "a range is not data");
        for i in 0..count {
            assert_eq!(slots.range(T), Some(range(i * 8, i + 1)));
            assert_eq!(slots.has_more_ranges(T), i + 1 < count);
            assert_eq!(slots.next_range(T), i + 1 < count);
        }
        assert_eq!(slots.range(T), None);
        assert!(!slots.next_range(T), "and stays at the end");
        assert_eq!(slots.finish(T, Status::Ok), 1);
        assert!(slots.can_accept());
    }
    slots.claim(T, status);
    let added = (0..300).take_while(|i| slots.add_range(T, range(*i, 1)).is_ok()).count();
    assert_eq!(added, MAX_RANGES);
}

#[test]
fn range_blocks_are_back_pressure_too() {
    let test = TestMemory::new(1 << 16);
    let status = test.memory().slice(GPA, 1).expect("inside");
    let mut slots = Slots::new(64);
    let blocks = u16::try_from(RANGE_BLOCKS).expect("few");
    for tag in (0..blocks).map(Tag) {
        assert!(slots.can_accept());
        slots.claim(tag, status);
        assert_eq!(slots.add_range(tag, range(0, 1)), Ok(()));
        assert_eq!(slots.add_range(tag, range(1, 1)), Ok(()));
    }
    assert!(!slots.can_accept());
    slots.claim(Tag(blocks), status);
    assert_eq!(slots.add_range(Tag(blocks), range(0, 1)), Ok(()));
    assert_eq!(slots.add_range(Tag(blocks), range(1, 1)), Err(NoRoom));
    slots.finish(Tag(0), Status::IoErr);
    assert!(slots.can_accept());
}

#[derive(Clone, Debug)]
enum Step {
    Claim { tag: u16, count: usize, len: u64 },
    Ranges { tag: u16, count: u64 },
    NextRange { tag: u16 },
    Finish { tag: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let tag = 0_u16..8;
    let count = prop_oneof![4 => 1_usize..8, 1 => 1..=MAX_SEGMENTS];
    prop_oneof![
        3 => (tag.clone(), count, 1_u64..9)
            .prop_map(|(tag, count, len)| Step::Claim { tag, count, len }),
        1 => (tag.clone(), 1_u64..=MAX_RANGES as u64)
            .prop_map(|(tag, count)| Step::Ranges { tag, count }),
        4 => tag.clone().prop_map(|tag| Step::NextRange { tag }),
        2 => tag.prop_map(|tag| Step::Finish { tag }),
    ]
}

/// What a busy head must show: its data byte by byte, or its ranges.
#[derive(Clone, Debug, Default)]
struct Model {
    bytes: Vec<usize>,
    ranges: Vec<SectorRange>,
    vector: Option<*const GuestBuf>,
}

fn check(slots: &Slots, models: &[Option<Model>]) {
    let mut vectors: Vec<(usize, usize)> = Vec::new();
    for (tag, model) in (0..).map(Tag).zip(models) {
        assert_eq!(slots.is_busy(tag), model.is_some());
        let Some(model) = model else { continue };
        let bufs = slots.bufs(tag);
        let bytes: Vec<usize> = runs(bufs).iter().flat_map(|(at, len)| *at..at + len).collect();
        assert_eq!(bytes, model.bytes);
        assert_eq!(slots.bytes(tag) as usize, bytes.len());
        assert_eq!(slots.range(tag), model.ranges.first().copied());
        if let Some(vector) = model.vector {
            assert_eq!(bufs.as_ptr(), vector, "the vector has moved");
        }
        if !bufs.is_empty() {
            let at = bufs.as_ptr().addr();
            vectors.push((at, at + size_of_val(bufs)));
        }
    }
    vectors.sort_unstable();
    assert!(vectors.windows(2).all(|w| w[0].1 <= w[1].0), "two slots share a vector");
}

proptest! {
    #[test]
    fn slots_never_alias_and_keep_what_they_were_given(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let test = TestMemory::new(1 << 16);
        let memory = test.memory();
        let status = memory.slice(GPA, 1).expect("inside");
        let mut slots = Slots::new(8);
        let mut models: Vec<Option<Model>> = vec![None; 8];
        for step in steps {
            match step {
                Step::Claim { tag, count, len } if models[usize::from(tag)].is_none() => {
                    let data = bufs(memory, u64::from(tag) * 16, count, len);
                    let bytes: Vec<_> =
                        runs(&data).iter().flat_map(|(at, len)| *at..at + len).collect();
                    slots.claim(Tag(tag), status);
                    let total = u32::try_from(bytes.len()).expect("short");
                    prop_assert_eq!(slots.set_data(Tag(tag), &data, total, true), Ok(()));
                    let vector = Some(slots.bufs(Tag(tag)).as_ptr());
                    models[usize::from(tag)] = Some(Model { bytes, vector, ..Model::default() });
                }
                Step::Ranges { tag, count } if models[usize::from(tag)].is_none() => {
                    let ranges: Vec<_> = (0..count).map(|i| range(i * 3, u64::from(tag) + 1)).collect();
                    slots.claim(Tag(tag), status);
                    for r in &ranges {
                        prop_assert_eq!(slots.add_range(Tag(tag), *r), Ok(()));
                    }
                    models[usize::from(tag)] = Some(Model { ranges, ..Model::default() });
                }
                Step::NextRange { tag } => {
                    let Some(model) = &mut models[usize::from(tag)] else { continue };
                    if model.ranges.is_empty() {
                        continue;
                    }
                    model.ranges.remove(0);
                    prop_assert_eq!(slots.has_more_ranges(Tag(tag)), !model.ranges.is_empty());
                    prop_assert_eq!(slots.next_range(Tag(tag)), !model.ranges.is_empty());
                }
                Step::Finish { tag } if models[usize::from(tag)].is_some() => {
                    slots.finish(Tag(tag), Status::Ok);
                    models[usize::from(tag)] = None;
                }
                _ => continue,
            }
            check(&slots, &models);
        }
        for (tag, _) in models.iter().enumerate().filter(|(_, m)| m.is_some()) {
            slots.finish(Tag(u16::try_from(tag).expect("few")), Status::Ok);
        }
        prop_assert_eq!((slots.data.free.len(), slots.ranges.free.len()), (8, 8));
    }
}
