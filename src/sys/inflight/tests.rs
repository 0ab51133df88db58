//! The fields lie where the specification has them, and nothing outside of the region is reached.

use super::*;
use std::os::unix::fs::FileExt;

fn region(size: u64) -> (File, Arc<InflightMemory>) {
    let file = memfd::memfd(c"inflight", size).expect("memory");
    let twin = file.try_clone().expect("a descriptor");
    (file, Arc::new(InflightMemory::map(twin, 0, size).expect("it maps")))
}

#[test]
fn fields_lie_where_the_specification_has_them() {
    let (file, memory) = region(4096);
    let part = memory.part(64, 4).expect("inside");
    part.set_features(0x0102_0304_0506_0708);
    part.set_version(0x1112);
    part.set_desc_num(0x2122);
    part.set_last_batch_head(0x3132);
    part.set_used_idx(0x4142);
    part.set_inflight(2, true);
    part.set_padding(2, 0x71);
    part.set_next(2, 0x5152);
    part.set_counter(2, 0x6162_6364_6566_6768);
    let mut bytes = [0; 16 + 4 * 16];
    file.read_exact_at(&mut bytes, 64).expect("a shared mapping");

    let mut want = Vec::new();
    want.extend(0x0102_0304_0506_0708_u64.to_ne_bytes());
    for word in [0x1112_u16, 0x2122, 0x3132, 0x4142] {
        want.extend(word.to_ne_bytes());
    }
    want.extend([0; 32]);
    want.extend([1, 0x71, 0, 0, 0, 0]);
    want.extend(0x5152_u16.to_ne_bytes());
    want.extend(0x6162_6364_6566_6768_u64.to_ne_bytes());
    want.extend([0; 16]);
    assert_eq!(bytes[..], want[..]);

    let read = (part.features(), part.version(), part.desc_num(), part.last_batch_head());
    assert_eq!(read, (0x0102_0304_0506_0708, 0x1112, 0x2122, 0x3132));
    let read = (part.used_idx(), part.inflight(2), part.next(2), part.counter(2));
    assert_eq!(read, (0x4142, 1, 0x5152, 0x6162_6364_6566_6768));
    assert_eq!((part.inflight(1), part.padding(2), part.inflight(3)), (0, 0x71, 0));
}

#[test]
fn a_part_lies_inside_and_aligned_or_is_none() {
    let (_file, memory) = region(4096);
    assert_eq!(memory.len(), 4096);
    assert!(memory.part(4096 - 16 - 64, 4).is_some());
    for (offset, entries) in [(4096 - 16 - 64 + 8, 4), (4, 4), (0, 256), (usize::MAX, 1)] {
        assert!(memory.part(offset, entries).is_none(), "{offset}, {entries}");
    }
}

#[test]
#[should_panic(expected = "a head is inside the table")]
fn a_head_beyond_the_table_is_never_reached() {
    let (_file, memory) = region(4096);
    let _ = memory.part(0, 4).expect("inside").counter(4);
}

#[test]
fn what_is_mapped_cannot_be_cut_off() {
    let (file, memory) = region(8192);
    assert!(file.set_len(0).is_err(), "sealed");
    assert_eq!(memory.part(4096, 4).expect("inside").version(), 0);
}

#[test]
fn a_region_that_is_not_there_is_refused() {
    for (len, offset, size) in [(4096, 0, 8192), (8192, 4096, 8192), (4096, 0, 0), (8192, 100, 64)]
    {
        let file = memfd::memfd(c"short", len).expect("memory");
        assert!(InflightMemory::map(file, offset, size).is_err(), "{len} {offset} {size}");
    }
    let file = memfd::memfd(c"far", 4096).expect("memory");
    assert!(InflightMemory::map(file, u64::MAX - 4095, 8192).is_err(), "the sum overflows");
}

#[test]
fn the_hook_sees_each_store() {
    let (_file, memory) = region(4096);
    let part = memory.part(0, 4).expect("inside");
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&seen);
    crate::sys::steps::watching(
        move || count.set(count.get() + 1),
        || {
            part.set_counter(1, 5);
            part.set_inflight(1, true);
            part.set_next(1, 0);
        },
    );
    part.set_used_idx(1);
    assert_eq!(seen.get(), 3);
}
