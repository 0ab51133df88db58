//! Images that lie in memory: done at once, by the thread itself (C6).

use super::*;
use crate::sys::memfd::memfd;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// A file of tmpfs, and a path that names it as long as it is open.
fn in_memory(content: &[u8]) -> (File, PathBuf) {
    let file = memfd(c"testkit", content.len() as u64).expect("a memfd");
    file.write_all_at(content, 0).expect("room");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}

fn at_once(b: &mut Bench, verb: Verb, bufs: &[GuestBuf]) -> Outcome {
    b.submit(1, verb, bufs).expect("room");
    let done = b.channel.poll_done().expect("over when it is accepted");
    assert!(!b.ring.has_unsubmitted() && b.ring.in_flight() == 0, "nothing went to the ring");
    done.outcome
}

#[test]
fn transfers_are_over_when_they_are_accepted() {
    for cache in [CacheMode::Writeback, CacheMode::Writethrough] {
        let (file, path) = in_memory(&pattern(65536, 3));
        let mut b = Bench::new(&path, &with(cache));
        assert!(b.image.is_inline());
        let bufs = [b.at(0, 4096), b.at(20_480, 512), b.at(8192, 3584)];
        assert_eq!(at_once(&mut b, read(4096), &bufs), Outcome::Done);
        let expected = pattern(65536, 3);
        assert_eq!(b.content(0, 4096), expected[4096..8192]);
        assert_eq!(b.content(20_480, 512), expected[8192..8704]);
        assert_eq!(b.content(8192, 3584), expected[8704..12_288]);
        b.fill(0, &pattern(4096, 9));
        let bufs = [b.at(0, 4096)];
        assert_eq!(at_once(&mut b, Verb::Write { offset: 512, dsync: true }, &bufs), Outcome::Done);
        let mut found = vec![0; 4096];
        file.read_exact_at(&mut found, 512).expect("it is there");
        assert_eq!(found, pattern(4096, 9));
    }
}

#[test]
fn the_kernels_answer_is_the_outcome() {
    let (file, path) = in_memory(&pattern(16_384, 3));
    let mut b = Bench::new(&path, &with(CacheMode::Writeback));
    let bufs = [b.at(0, 8192)];
    file.set_len(12_288).expect("shorter");
    assert_eq!(at_once(&mut b, read(8192), &bufs), Outcome::Short(4096), "C3");
    let beyond = [b.at(0, 4096)];
    assert_eq!(at_once(&mut b, read(12_288), &beyond), EIO, "C3: silence is no data");
    let read_only = OpenOptions { read_only: true, ..with(CacheMode::Writeback) };
    drop(b);
    let mut b = soon(|| RawImage::open(&path, &read_only).map(|_| Bench::new(&path, &read_only)));
    let bufs = [b.at(0, 4096)];
    let refused = at_once(&mut b, Verb::Write { offset: 0, dsync: false }, &bufs);
    assert_eq!(refused, Outcome::Failed(Errno(libc::EBADF)), "the file is open for reading");
}

#[test]
fn what_nobody_asks_for_is_bounded() {
    let (_file, path) = in_memory(&pattern(16_384, 3));
    let mut b = Bench::new(&path, &with(CacheMode::Writeback));
    let bufs = [b.at(0, 512)];
    for tag in 0..ENDED_OPS {
        b.submit(u16::try_from(tag).expect("small"), read(0), &bufs).expect("room");
    }
    assert_eq!(b.submit(999, read(0), &bufs), Err(Busy), "and nothing has happened");
    for tag in 0..ENDED_OPS {
        let done = b.channel.poll_done().expect("each once");
        assert_eq!(
            (done.key, done.outcome),
            (key(u16::try_from(tag).expect("small")), Outcome::Done)
        );
    }
    assert_eq!(b.channel.poll_done(), None);
    b.done(Verb::Sync, &[]);
    b.done(Verb::Discard { offset: 0, len: 4096 }, &[]);
    let first = [b.at(0, 4096)];
    b.done(read(0), &first);
    assert_eq!(b.content(0, 4096), [0; 4096], "the others go through the ring");
}
