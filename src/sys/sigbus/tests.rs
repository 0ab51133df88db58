//! Pages that go missing under us: real files, really cut off.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::sys::guest::{GuestMemory, Region};
use crate::sys::memfd::memfd;

const PAGE: u64 = 4096;
const LEN: usize = 4096;

fn memory(pages: u64) -> (std::fs::File, GuestMemory) {
    let file = memfd(c"cut", pages * PAGE).expect("memory");
    let copy = file.try_clone().expect("a descriptor");
    let region = Region::map(0, pages * PAGE, 0, copy, 0).expect("it maps");
    (file, GuestMemory::new(vec![Arc::new(region)]).expect("one region"))
}

#[test]
fn a_page_that_is_cut_off_reads_as_zeroes_and_is_told() {
    install().expect("a handler");
    let (file, mine) = memory(4);
    let (_other_file, other) = memory(4);
    let all = mine.slice(0, 4 * PAGE).expect("inside");
    all.copy_from(&[7; 4 * LEN]);
    assert!(!mine.is_lost());
    let before = lost();

    file.set_len(2 * PAGE).expect("it is not sealed");
    let mut bytes = vec![1; 4 * LEN];
    all.copy_to(&mut bytes);
    assert!(bytes[..2 * LEN].iter().all(|b| *b == 7), "what is there is there");
    assert!(bytes[2 * LEN..].iter().all(|b| *b == 0), "what is not is zeroes");
    assert!(mine.is_lost() && !other.is_lost(), "whose memory it was is known");
    assert!(lost() >= before + 2, "each page once");

    // The replacement is memory like any other, and nobody else's.
    all.skip(3 * LEN).write_u8(9);
    all.copy_to(&mut bytes);
    assert_eq!(bytes[3 * LEN], 9);
    assert_eq!(file.metadata().expect("open").len(), 2 * PAGE);
}

#[test]
fn an_entry_is_used_again_and_begins_anew() {
    install().expect("a handler");
    let count = || entries().count();
    drop(memory(1));
    let before = count();
    for _ in 0..100 {
        let (file, gone) = memory(1);
        file.set_len(0).expect("it is not sealed");
        let mut byte = [1];
        gone.slice(0, 1).expect("inside").copy_to(&mut byte);
        assert_eq!((byte, gone.is_lost()), ([0], true));
    }
    // Other tests map memory at the same time, but not hundreds.
    assert!(count() < before + 50, "{before} entries, then {}", count());
    assert!(!memory(1).1.is_lost());
}

#[test]
fn many_threads_lose_their_memory_at_once() {
    install().expect("a handler");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50 {
                    let (file, mine) = memory(3);
                    let cut = round % 3;
                    file.set_len(cut * PAGE).expect("it is not sealed");
                    for page in 0..3 {
                        mine.slice(page * PAGE + 5, 1).expect("inside").write_u8(3);
                    }
                    assert!(mine.is_lost());
                }
            });
        }
    });
}

/// Not a test by itself: the next one runs it in a process of its own, which it ends.
#[test]
#[ignore = "run by the test below"]
fn child_that_touches_a_page_of_nobody() {
    install().expect("a handler");
    let file = memfd(c"nobody", PAGE).expect("memory");
    let offset = vm_memory::FileOffset::new(file.try_clone().expect("a descriptor"), 0);
    let mapping = vm_memory::MmapRegion::<()>::from_file(offset, 4096).expect("it maps");
    file.set_len(0).expect("it is not sealed");
    // SAFETY: the mapping is there and one page long; what it is touched for is the signal.
    let byte = unsafe { std::ptr::read_volatile(mapping.as_ptr()) };
    panic!("there is nothing behind the page, and it reads as {byte}");
}

#[test]
fn another_sigbus_ends_the_process_as_ever() {
    let name = "sys::sigbus::tests::child_that_touches_a_page_of_nobody";
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .expect("it starts");
    assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
}
