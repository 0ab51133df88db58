use super::blk::{BlkDriver, Framing, Request, UNTOUCHED};
use super::driver::{Buf, Driver, INDIRECT, Layout, NEXT, Used, WRITE};
use super::*;
use crate::sys::ring::Descriptor;

#[test]
fn the_file_and_the_mapping_are_the_same_memory() {
    let memory = TestMemory::with_regions(&[(0x1000, 0x1000), (0x2000, 0x2000), (1 << 32, 0x1000)]);
    memory.write(0x1ffe, b"over");
    assert_eq!(memory.read(0x2000, 2), b"er");
    let mut bytes = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&memory.file(), &mut bytes, 0xffe).expect("readable");
    assert_eq!(&bytes, b"over");
    assert_eq!(memory.regions()[2].offset, 0x3000);
    let (_, gpa) = memory.memory().slice_uva(memory.uva((1 << 32) + 5), 1).expect("mapped");
    assert_eq!(gpa, (1 << 32) + 5);
}

#[test]
fn freed_memory_is_whole_again() {
    let memory = TestMemory::new(0x10000);
    for _ in 0..3 {
        let pieces: Vec<(u64, u64)> =
            (1..100).map(|n| (memory.alloc(n, 1 << (n % 5)), n)).collect();
        for (i, (gpa, len)) in pieces.iter().enumerate() {
            assert!(pieces[..i].iter().all(|(g, l)| gpa + len <= *g || g + l <= *gpa));
        }
        for (gpa, len) in pieces.iter().rev() {
            memory.free(*gpa, *len);
        }
        let all = memory.alloc(0x10000, 1);
        assert_eq!(all, GPA);
        memory.free(all, 0x10000);
    }
}

#[test]
fn a_chain_lies_in_the_tables_as_asked() {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let mut driver = Driver::new(&memory, 4, false, true);
    let bufs =
        [Buf::readable(GPA, 16), Buf::writable(GPA + 0x100, 8), Buf::writable(GPA + 0x200, 1)];
    let head = driver.add(&bufs, Layout::IndirectAfter(1)).expect("room");
    let first = driver.ring().descriptor(head);
    assert_eq!(first, Descriptor { addr: GPA, len: 16, flags: NEXT, next: first.next });
    let table = driver.ring().descriptor(first.next);
    assert_eq!((table.len, table.flags), (32, INDIRECT));
    let second = memory.read(table.addr + 16, 16).try_into().expect("16 bytes");
    let want = Descriptor { addr: GPA + 0x200, len: 1, flags: WRITE, next: 0 };
    assert_eq!(Descriptor::from_bytes(second), want);
    assert_eq!(driver.add(&bufs, Layout::Direct), None);
    assert_eq!((driver.free(), driver.outstanding()), (2, 1));

    assert!(driver.publish());
    assert_eq!((driver.ring().avail_idx(), driver.ring().avail_entry(0)), (1, head));
    assert_eq!(driver.reap(), None);
    driver.ring().set_used_entry(0, u32::from(head), 9);
    driver.ring().set_used_idx(1);
    assert_eq!(driver.reap(), Some(Used { head, len: 9 }));
    assert_eq!((driver.free(), driver.outstanding()), (4, 0));
    assert!(!driver.publish(), "nothing new");
}

#[test]
fn kicks_are_sent_only_when_wanted() {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let mut flags = Driver::new(&memory, 4, false, false);
    flags.ring().set_used_flags(1);
    flags.push_avail(0);
    assert!(!flags.publish());
    let mut event = Driver::new_at(&memory, 4, true, false, 0xffff);
    event.ring().set_avail_event(0);
    event.push_avail(0);
    assert!(!event.publish(), "0xffff is passed, 0 is not");
    event.push_avail(1);
    event.push_avail(2);
    assert!(event.publish(), "0 is passed");
}

#[test]
fn a_request_is_framed_as_asked() {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let mut blk = BlkDriver::new(Driver::new(&memory, 16, false, true));
    let request = Request::write(7, b"eightbyt");
    let framing = Framing { readable: [3, 15].into(), writable: [].into(), layout: Layout::Direct };
    let head = blk.add_framed(&request, &framing).expect("room");
    let lens: Vec<u32> = (0..4).map(|i| blk.driver().ring().descriptor(head + i).len).collect();
    assert_eq!(lens, [3, 15, 6, 1]);
    assert!(blk.publish());
    assert_eq!(blk.poll(), None);
    blk.driver().ring().set_used_entry(0, u32::from(head), 1);
    blk.driver().ring().set_used_idx(1);
    let done = blk.poll().expect("it came back");
    assert_eq!((done.status, done.used_len, done.data), (UNTOUCHED, 1, vec![]));
}
