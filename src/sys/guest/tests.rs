use std::os::unix::fs::FileExt;

use super::*;

const PAGE: u64 = 4096;

fn file(len: u64) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(len).expect("room");
    file
}

fn region(gpa: u64, pages: u64, uva: u64) -> Arc<Region> {
    let size = pages * PAGE;
    Arc::new(Region::map(gpa, size, uva, file(size), 0).expect("a good region"))
}

fn memory(regions: Vec<Arc<Region>>) -> GuestMemory {
    GuestMemory::new(regions).expect("no overlap")
}

fn refusal(gpa: u64, size: u64, uva: u64, file: File, offset: u64) -> String {
    Region::map(gpa, size, uva, file, offset).expect_err("refused").to_string()
}

#[test]
fn a_region_is_its_file() {
    let backing = file(3 * PAGE);
    backing.write_all_at(b"below", PAGE - 5).expect("written");
    backing.write_all_at(b"first", PAGE).expect("written");
    let copy = backing.try_clone().expect("a duplicate");
    let region = Region::map(0x10_0000, 2 * PAGE, 0x7000, backing, PAGE).expect("a good region");
    assert_eq!((region.gpa(), region.size(), region.uva()), (0x10_0000, 2 * PAGE, 0x7000));
    let memory = memory(vec![Arc::new(region)]);
    let mut word = [0; 5];
    let buf = memory.slice(0x10_0000, 5).expect("inside");
    assert_eq!(buf.copy_to(&mut word), 5);
    assert_eq!(&word, b"first");
    memory.slice(0x10_0000 + 2 * PAGE - 3, 3).expect("inside").copy_from(b"end");
    let mut end = [0; 3];
    copy.read_exact_at(&mut end, 3 * PAGE - 3).expect("read");
    assert_eq!(&end, b"end");
}

#[test]
fn bad_regions_are_refused_with_their_reason() {
    let gone = "the region is empty or its addresses overflow";
    assert_eq!(refusal(0, 0, 0, file(PAGE), 0), gone);
    assert_eq!(refusal(u64::MAX - 10, PAGE, 0, file(PAGE), 0), gone);
    assert_eq!(refusal(0, PAGE, u64::MAX - 10, file(PAGE), 0), gone);
    let short = "the region is longer than its file";
    assert_eq!(refusal(0, PAGE + 1, 0, file(PAGE), 0), short);
    assert_eq!(refusal(0, PAGE, 0, file(PAGE), PAGE), short);
    assert_eq!(refusal(0, PAGE, 0, file(PAGE), u64::MAX), "the region's offset overflows");
    let odd = "the region's offset is not a multiple of the page size";
    assert_eq!(refusal(0, PAGE, 0, file(3 * PAGE), 512), odd);
}

#[test]
fn the_last_page_may_be_partial() {
    let region = Region::map(0, 100, 0, file(100), 0).expect("a good region");
    let memory = memory(vec![Arc::new(region)]);
    memory.slice(0, 100).expect("inside").zero();
    assert_eq!(memory.slice(0, 101).expect_err("outside"), BadAddress);
}

#[test]
fn mappings_are_whole_pages_of_their_file() {
    const HUGE: u64 = 2 << 20;
    let place = |o, s, p| place(o, s, p).expect("no overflow");
    assert_eq!(place(0, 4096, PAGE), Placement { offset: 0, skew: 0, len: 4096 });
    assert_eq!(place(8192, 100, PAGE), Placement { offset: 8192, skew: 0, len: 4096 });
    // The part of a huge page above the legacy video hole, as a front-end may cut it.
    let usize_of = |n: u64| usize::try_from(n).expect("64-bit");
    let part = place(0xc_0000, HUGE - 0xc_0000, HUGE);
    assert_eq!(part, Placement { offset: 0, skew: 0xc_0000, len: usize_of(HUGE) });
    let part = place(HUGE + 0xc_0000, HUGE, HUGE);
    assert_eq!(part, Placement { offset: HUGE, skew: 0xc_0000, len: usize_of(2 * HUGE) });
    assert_eq!(super::place(PAGE - 1, u64::MAX - 10, PAGE), None);
}

#[test]
fn overlap_is_refused_and_adjoining_is_not() {
    let twice = vec![region(0, 2, 0), region(PAGE, 2, 0x10_0000)];
    assert_eq!(GuestMemory::new(twice).expect_err("overlap"), BadAddress);
    let memory = memory(vec![region(2 * PAGE, 1, 0x10_0000), region(0, 2, 0)]);
    assert_eq!(memory.regions()[0].gpa(), 0);
    assert_eq!(memory.regions()[1].gpa(), 2 * PAGE);
}

/// Wherever the look begins, the answer is that of a look without a hint.
#[test]
fn a_look_nearby_finds_what_any_look_finds() {
    let memory = memory(vec![region(0, 2, 0), region(2 * PAGE, 1, 0), region(9 * PAGE, 1, 0)]);
    let same = |a: GuestBuf, b: GuestBuf| (a.addr(), a.len()) == (b.addr(), b.len());
    for at in [0, 1, PAGE, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE, 9 * PAGE, 10 * PAGE, u64::MAX] {
        for len in [0, 1, 2, PAGE, 2 * PAGE, u64::MAX] {
            let want = memory.slice(at, len);
            for mut near in [0, 1, 2, 3, usize::MAX] {
                match (memory.slice_near(&mut near, at, len), want) {
                    (Ok(got), Ok(want)) => {
                        assert!(same(got, want), "{at} {len}");
                        assert!(near < 3, "it was found in one of them");
                    }
                    (got, want) => assert_eq!(got.is_ok(), want.is_ok(), "{at} {len}"),
                }
            }
        }
    }
    let mut near = 2;
    assert!(memory.slice_near(&mut near, PAGE, 8).is_ok() && near == 0, "it is remembered");
}

#[test]
fn slices_stay_inside_one_region() {
    let memory = memory(vec![region(0, 1, 0), region(PAGE, 1, 0x10_0000), region(4 * PAGE, 1, 0)]);
    assert_eq!(memory.slice(0, PAGE).expect("inside").len(), 4096);
    let outside = |gpa, len| memory.slice(gpa, len).expect_err("outside");
    assert_eq!(outside(PAGE - 1, 2), BadAddress, "crosses a border");
    assert_eq!(outside(2 * PAGE, 1), BadAddress, "in the gap");
    assert_eq!(outside(4 * PAGE, PAGE + 1), BadAddress, "past the end");
    assert_eq!(outside(5 * PAGE, 0), BadAddress, "one past the end is outside");
    assert_eq!(outside(u64::MAX, 2), BadAddress, "overflow");
    assert_eq!(GuestMemory::default().slice(0, 1).expect_err("nothing is mapped"), BadAddress);
}

#[test]
fn translation_walks_over_adjoining_regions_only() {
    let memory = memory(vec![region(0, 1, 0), region(PAGE, 1, 0x10_0000), region(4 * PAGE, 1, 0)]);
    let pieces = |gpa, len| {
        let mut lens = Vec::new();
        memory
            .translate(gpa, len, |b| {
                lens.push(b.len());
                true
            })
            .map(|()| lens)
    };
    assert_eq!(pieces(10, 20), Ok(vec![20]));
    assert_eq!(pieces(PAGE - 10, 30), Ok(vec![10, 20]));
    assert_eq!(pieces(0, 2 * PAGE), Ok(vec![4096, 4096]));
    assert_eq!(pieces(0, 2 * PAGE + 1), Err(BadAddress));
    assert_eq!(pieces(2 * PAGE - 1, 2), Err(BadAddress));
    assert_eq!(pieces(u64::MAX, 2), Err(BadAddress));
    assert_eq!(memory.translate(0, 2 * PAGE, |_| false), Err(BadAddress), "each may stop");
}

#[test]
fn front_end_addresses_find_their_guest_address() {
    let memory = memory(vec![region(0, 1, 0x7000_0000), region(PAGE, 2, 0x5000_0000)]);
    let (buf, gpa) = memory.slice_uva(0x5000_0010, 100).expect("inside");
    assert_eq!((buf.len(), gpa), (100, PAGE + 0x10));
    let (same, _) = memory.slice_uva(0x5000_0010, 1).expect("inside");
    assert_eq!(same.addr(), memory.slice(PAGE + 0x10, 1).expect("inside").addr());
    let outside = |uva, len| memory.slice_uva(uva, len).expect_err("outside");
    assert_eq!(outside(0x5000_0000 + 2 * PAGE - 1, 2), BadAddress);
    assert_eq!(outside(0x6000_0000, 1), BadAddress);
    assert_eq!(outside(u64::MAX, 1), BadAddress);
}

#[test]
fn buffers_shrink_and_never_grow() {
    let memory = memory(vec![region(0, 1, 0)]);
    let buf = memory.slice(0, 10).expect("inside");
    buf.copy_from(b"0123456789");
    let mut out = [0; 4];
    assert_eq!(buf.skip(3).copy_to(&mut out), 4);
    assert_eq!(&out, b"3456");
    assert_eq!(buf.take(2).copy_to(&mut out), 2);
    assert_eq!(buf.skip(11).len(), 0);
    assert_eq!(buf.take(11).len(), 10);
    assert_eq!(buf.take(3).copy_from(b"abcdef"), 3);
    assert_eq!(buf.skip(2).copy_to(&mut out), 4);
    assert_eq!(&out, b"c345");
    buf.skip(9).write_u8(b'!');
    buf.take(1).zero();
    let mut all = [0; 10];
    buf.copy_to(&mut all);
    assert_eq!(&all, b"\0bc345678!");
    GuestBuf::EMPTY.zero();
    GuestBuf::EMPTY.write_u8(1);
    assert_eq!(GuestBuf::EMPTY.copy_from(b"x"), 0);
}

#[test]
fn a_generation_keeps_its_mappings() {
    let first = region(0, 1, 0);
    let old = memory(vec![Arc::clone(&first)]);
    let buf = old.slice(0, 4).expect("inside");
    let next = memory(vec![first, region(PAGE, 1, 0x10_0000)]);
    drop(old);
    buf.copy_from(b"kept");
    let mut out = [0; 4];
    next.slice(0, 4).expect("inside").copy_to(&mut out);
    assert_eq!(&out, b"kept");
}
