use super::channel::{BOUNCE_BUFS, BOUNCE_SIZE, ENDED_OPS, RawChannel, STEPPED_OPS};
use super::*;
use crate::block::{Errno, Outcome, Tag};
use crate::image::{Busy, Io, Verb};
use crate::sys::bounce::BouncePool;
use crate::sys::guest::GuestBuf;
use crate::sys::token::{IoKey, Token};
use crate::sys::uring::Cqe;
use crate::sys::uring::tests::first_rw_flags;
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

mod device;
mod faults;
mod in_memory;
mod opening;
mod resizing;
mod with_qemu;

const MIB: u64 = 1 << 20;
const EIO: Outcome = Outcome::Failed(Errno(libc::EIO));

fn key(tag: u16) -> IoKey {
    IoKey { slot: 2, tag: Tag(tag), generation: 5 }
}

fn temp(content: &[u8]) -> NamedTempFile {
    let mut named = NamedTempFile::new().expect("a temporary file");
    named.write_all(content).expect("room on the disk");
    named
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i / 512 + i % 251) % 256).expect("a byte") ^ seed).collect()
}

fn with(cache: CacheMode) -> OpenOptions {
    OpenOptions { cache, ..OpenOptions::default() }
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Tries until it succeeds: a lock that we gave up lives on for a moment when another test's child
/// process was just being made (it has our descriptors until it executes its program).
fn soon<T, E: std::fmt::Display>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt() {
            Ok(got) => return got,
            Err(e) => assert!(Instant::now() < deadline, "still refused: {e}"),
        }
        std::thread::yield_now();
    }
}

/// An image, a channel into it, and "guest memory": page-aligned, as large as asked for.
struct Bench {
    memory: BouncePool,
    channel: RawChannel,
    ring: Ring,
    image: RawImage,
}

impl Bench {
    fn new(path: &Path, options: &OpenOptions) -> Bench {
        let image = RawImage::open(path, options).expect("the image opens");
        let mut ring = Ring::new(128).expect("io_uring");
        let channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
        let memory = BouncePool::new(1, 4 << 20, 4096).expect("memory");
        Bench { memory, channel, ring, image }
    }

    /// A piece of the guest's memory.
    fn at(&self, offset: usize, len: usize) -> GuestBuf {
        self.memory.buf(0).skip(offset).take(len)
    }

    fn fill(&self, offset: usize, content: &[u8]) {
        self.at(offset, content.len()).copy_from(content);
    }

    fn content(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut got = vec![0; len];
        assert_eq!(self.at(offset, len).copy_to(&mut got), len);
        got
    }

    fn submit(&mut self, tag: u16, verb: Verb, bufs: &[GuestBuf]) -> Result<(), Busy> {
        let bytes = u32::try_from(bufs.iter().map(GuestBuf::len).sum::<usize>()).expect("small");
        self.channel.submit(&mut self.ring, &Io { key: key(tag), verb, bufs, bytes })
    }

    fn wait_cqe(&mut self) -> Cqe {
        // A wait may end without a completion (a new worker thread of the kernel is a signal).
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(cqe) = self.ring.pop() {
                return cqe;
            }
            assert!(Instant::now() < deadline, "nothing completed in 20 s");
            self.ring.submit_and_wait(Some(Duration::from_secs(20))).expect("the ring works");
        }
    }

    /// One operation to its end; also whether it went straight (with the bio's own token).
    fn once(&mut self, verb: Verb, bufs: &[GuestBuf]) -> (Outcome, bool) {
        self.submit(1, verb, bufs).expect("room");
        if let Some(done) = self.channel.poll_done() {
            assert_eq!(done.key, key(1));
            return (done.outcome, false);
        }
        let bytes = u32::try_from(bufs.iter().map(GuestBuf::len).sum::<usize>()).expect("small");
        loop {
            let cqe = self.wait_cqe();
            match cqe.token {
                Token::Io(k) => {
                    assert_eq!(k, key(1));
                    let io = Io { key: k, verb, bufs, bytes };
                    return (self.channel.finish(&io, cqe.res), true);
                }
                Token::Channel { op: n, .. } => {
                    let done = self.channel.on_channel_cqe(&mut self.ring, n, cqe.res);
                    if let Some(done) = done {
                        assert_eq!(done.key, key(1));
                        return (done.outcome, false);
                    }
                }
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }

    /// One operation that is expected to be done.
    fn done(&mut self, verb: Verb, bufs: &[GuestBuf]) {
        assert_eq!(self.once(verb, bufs).0, Outcome::Done, "{verb:?}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.ring.in_flight() == 0 {
            assert!(self.channel.is_idle(), "an operation or a buffer was lost");
        }
    }
}

fn read(offset: u64) -> Verb {
    Verb::Read { offset }
}

fn write(offset: u64) -> Verb {
    Verb::Write { offset, dsync: false }
}

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it is there").blocks()
}

#[test]
fn what_is_written_is_read_back_in_every_mode() {
    for cache in CacheMode::ALL {
        let named = temp(&vec![0; 1 << 20]);
        let mut b = Bench::new(named.path(), &with(cache));
        let data = pattern(8192, 0x5a);
        b.fill(0, &data);
        let bufs = [b.at(0, 4096), b.at(4096, 512), b.at(4608, 3584)];
        let (outcome, straight) = b.once(Verb::Write { offset: 65536, dsync: true }, &bufs);
        assert_eq!((outcome, straight), (Outcome::Done, true), "{cache}");
        b.done(Verb::Sync, &[]);
        let back = [b.at(16384, 8192)];
        assert_eq!(b.once(read(65536), &back), (Outcome::Done, true));
        assert_eq!(b.content(16384, 8192), data);
        let mut on_disk = vec![0; 8192];
        named.as_file().read_exact_at(&mut on_disk, 65536).expect("it is there");
        assert_eq!(on_disk, data);
        b.image.sync().expect("a healthy disk");
    }
}

#[test]
fn a_durable_write_is_durable_on_every_path() {
    for (cache, shift) in [(CacheMode::None, 0), (CacheMode::None, 1), (CacheMode::Unsafe, 0)] {
        for dsync in [false, true] {
            let named = temp(&[0; 4096]);
            let mut b = Bench::new(named.path(), &with(cache));
            let bufs = [b.at(shift, 512)];
            b.submit(1, Verb::Write { offset: 0, dsync }, &bufs).expect("room");
            let expected = if dsync && cache != CacheMode::Unsafe { libc::RWF_DSYNC } else { 0 };
            assert_eq!(first_rw_flags(&b.ring), expected, "{cache} {shift} {dsync}");
        }
    }
}

#[test]
fn a_flush_enters_the_kernel_unless_it_is_a_noop() {
    for cache in CacheMode::ALL {
        let named = temp(&[0; 4096]);
        let mut b = Bench::new(named.path(), &with(cache));
        let through_the_ring = b.once(Verb::Sync, &[]) == (Outcome::Done, true);
        assert_eq!(through_the_ring, cache != CacheMode::Unsafe, "{cache}");
        assert_eq!(b.image.traits().flush_is_noop, cache == CacheMode::Unsafe);
        assert_eq!(b.image.traits().dsync, cache.direct());
    }
}

#[test]
fn memory_that_direct_io_refuses_is_bounced() {
    let len = 3 * BOUNCE_SIZE + 1536;
    let content = pattern(1 << 20, 1);
    let named = temp(&content);
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    // An odd address, and pieces of odd lengths that add up to whole blocks.
    let bufs =
        [b.at(1, 3), b.at(4100, 0), b.at(5001, BOUNCE_SIZE), b.at(600_000, len - BOUNCE_SIZE - 3)];
    assert_eq!(b.once(read(4096), &bufs), (Outcome::Done, false));
    let got: Vec<u8> = [(1, 3), (5001, BOUNCE_SIZE), (600_000, len - BOUNCE_SIZE - 3)]
        .into_iter()
        .flat_map(|(at, n)| b.content(at, n))
        .collect();
    assert_eq!(got, content[4096..4096 + len]);
    assert_eq!(b.content(4, 100), [0; 100], "nothing beside the buffers");

    let data = pattern(len, 0x77);
    b.fill(1, &data[..3]);
    b.fill(5001, &data[3..3 + BOUNCE_SIZE]);
    b.fill(600_000, &data[3 + BOUNCE_SIZE..]);
    let verb = Verb::Write { offset: 8192, dsync: true };
    assert_eq!(b.once(verb, &bufs), (Outcome::Done, false));
    let mut on_disk = vec![0; 1 << 20];
    named.as_file().read_exact_at(&mut on_disk, 0).expect("it is there");
    assert_eq!(on_disk[8192..8192 + len], data);
    assert_eq!(on_disk[..8192], content[..8192]);
    assert_eq!(on_disk[8192 + len..], content[8192 + len..]);
}

#[test]
fn the_page_cache_takes_any_memory() {
    let named = temp(&pattern(4096, 9));
    let mut b = Bench::new(named.path(), &with(CacheMode::Writeback));
    let bufs = [b.at(1, 3), b.at(77, 509)];
    assert_eq!(b.once(read(512), &bufs), (Outcome::Done, true));
    assert_eq!(b.content(1, 3), pattern(4096, 9)[512..515]);
}

#[test]
fn past_the_end_of_the_file_there_are_zeroes() {
    for cache in [CacheMode::None, CacheMode::Writeback] {
        for shift in [0, 1] {
            let content = pattern(1000, 3);
            let named = temp(&content);
            let mut b = Bench::new(named.path(), &with(cache));
            assert_eq!(b.image.geometry().capacity, 2);
            b.fill(0, &[0xff; 2048]);
            let whole = [b.at(shift, 700), b.at(shift + 700, 324)];
            b.done(read(0), &whole);
            assert_eq!(b.content(shift, 1000), content, "{cache} {shift}");
            assert_eq!(b.content(shift + 1000, 24), [0; 24]);
            assert_eq!(b.content(shift + 1024, 100), [0xff; 100]);
            b.fill(0, &[0xff; 2048]);
            let last = [b.at(shift, 512)];
            b.done(read(512), &last);
            assert_eq!(b.content(shift, 488), content[512..]);
            assert_eq!(b.content(shift + 488, 24), [0; 24]);
            // A write to the last block makes the file as long as the disk.
            b.fill(0, &[7; 1024]);
            b.done(write(512), &last);
            assert_eq!(named.as_file().metadata().expect("asked").len(), 1024);
            b.done(read(512), &last);
            assert_eq!(b.content(shift, 512), [7; 512]);
        }
    }
}

#[test]
fn a_file_that_was_cut_is_an_error_and_not_zeroes() {
    for (cache, shift) in [(CacheMode::None, 0), (CacheMode::None, 1), (CacheMode::Writeback, 0)] {
        let named = temp(&pattern(8192, 3));
        let mut b = Bench::new(named.path(), &with(cache));
        named.as_file().set_len(4096).expect("cut");
        let bufs = [b.at(shift, 8192)];
        let first = b.once(read(0), &bufs).0;
        let expected = if shift == 0 { Outcome::Short(4096) } else { EIO };
        assert_eq!(first, expected, "{cache} {shift}");
        assert_eq!(b.once(read(4096), &bufs).0, EIO);
    }
}

#[test]
fn discards_and_unmapped_zeroes_give_space_back() {
    for verb in [
        Verb::Discard { offset: MIB, len: MIB },
        Verb::WriteZeroes { offset: MIB, len: MIB, unmap: true },
    ] {
        for cache in [CacheMode::None, CacheMode::Writeback] {
            let content = pattern(3 << 20, 0x21);
            let named = temp(&content);
            named.as_file().sync_all().expect("allocated");
            let before = blocks(named.path());
            let mut b = Bench::new(named.path(), &with(cache));
            b.done(verb, &[]);
            assert_eq!(before - blocks(named.path()), MIB / 512, "{verb:?}");
            let mut now = vec![1; 3 << 20];
            named.as_file().read_exact_at(&mut now, 0).expect("it is there");
            assert!(now[1 << 20..2 << 20].iter().all(|x| *x == 0));
            assert_eq!(now[..1 << 20], content[..1 << 20]);
            assert_eq!(now[2 << 20..], content[2 << 20..]);
        }
    }
}

#[test]
fn zeroes_without_unmap_keep_their_space() {
    let content = pattern(3 << 20, 0x21);
    let named = temp(&content);
    named.as_file().sync_all().expect("allocated");
    let before = blocks(named.path());
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    b.done(Verb::WriteZeroes { offset: MIB, len: MIB, unmap: false }, &[]);
    assert!(blocks(named.path()) >= before);
    let bufs = [b.at(0, 3 << 20)];
    b.done(read(0), &bufs);
    let now = b.content(0, 3 << 20);
    assert!(now[1 << 20..2 << 20].iter().all(|x| *x == 0));
    assert_eq!((&now[..1 << 20], &now[2 << 20..]), (&content[..1 << 20], &content[2 << 20..]));
}

#[test]
fn zeroes_are_written_where_the_kernel_has_no_other_way() {
    for cache in [CacheMode::None, CacheMode::Writeback] {
        for unmap in [false, true] {
            let content = pattern(4 << 20, 0x66);
            let named = temp(&content);
            let mut b = Bench::new(named.path(), &with(cache));
            b.channel.refuse_all_but_writing();
            let (offset, len) = (512u64, 2 * MIB + 1536);
            b.done(Verb::WriteZeroes { offset, len, unmap }, &[]);
            let mut now = vec![1; 4 << 20];
            named.as_file().read_exact_at(&mut now, 0).expect("it is there");
            let end = 512 + (2 << 20) + 1536;
            assert!(now[512..end].iter().all(|x| *x == 0));
            assert_eq!((&now[..512], &now[end..]), (&content[..512], &content[end..]));
        }
    }
}

#[test]
fn zeroes_reach_the_end_of_a_file_that_is_no_whole_block() {
    for refuse in [false, true] {
        let named = temp(&pattern(1000, 3));
        let mut b = Bench::new(named.path(), &OpenOptions::default());
        if refuse {
            b.channel.refuse_all_but_writing();
        }
        b.done(Verb::WriteZeroes { offset: 512, len: 512, unmap: false }, &[]);
        assert_eq!(named.as_file().metadata().expect("asked").len(), 1024);
        let bufs = [b.at(0, 1024)];
        b.fill(0, &[0xff; 1024]);
        b.done(read(0), &bufs);
        assert_eq!(b.content(0, 512), pattern(1000, 3)[..512]);
        assert_eq!(b.content(512, 512), [0; 512]);
    }
}

#[test]
fn a_discard_without_a_way_is_done_and_changes_nothing() {
    let content = pattern(8192, 3);
    let named = temp(&content);
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    b.channel.refuse_all_but_writing();
    b.done(Verb::Discard { offset: 0, len: 8192 }, &[]);
    assert_eq!(b.ring.in_flight(), 0);
    assert_eq!(std::fs::read(named.path()).expect("it is there"), content);
}

#[test]
fn a_read_only_image_changes_in_no_way() {
    for shift in [0, 1] {
        let content = pattern(8192, 3);
        let named = temp(&content);
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let mut b = Bench::new(named.path(), &options);
        assert!(b.image.traits().read_only);
        let bufs = [b.at(shift, 512)];
        b.done(read(0), &bufs);
        b.done(Verb::Sync, &[]);
        assert_eq!(b.once(write(0), &bufs).0, Outcome::Failed(Errno(libc::EBADF)));
        let rofs = Outcome::Failed(Errno(libc::EROFS));
        let (offset, len) = (0, 512);
        assert_eq!(b.once(Verb::Discard { offset, len }, &[]).0, rofs);
        assert_eq!(b.once(Verb::WriteZeroes { offset, len, unmap: true }, &[]).0, rofs);
        assert_eq!(std::fs::read(named.path()).expect("it is there"), content);
    }
}

#[test]
fn an_empty_pool_is_busy_and_recovers() {
    let named = temp(&pattern(1 << 20, 3));
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    for round in 0..3 {
        for i in 0..BOUNCE_BUFS {
            let buf = [b.at(1 + i * 8192, 4096)];
            b.submit(u16::try_from(i).expect("small"), read(4096), &buf).expect("a buffer");
        }
        let one_more = [b.at(500_001, 4096)];
        assert_eq!(b.submit(99, read(0), &one_more), Err(Busy), "round {round}");
        // What needs no buffer still goes.
        let aligned = [b.at(1 << 20, 4096)];
        b.submit(98, read(0), &aligned).expect("straight");
        let mut tags = Vec::new();
        while b.ring.in_flight() > 0 {
            let cqe = b.wait_cqe();
            assert_eq!(cqe.res, 4096);
            if let Token::Channel { op: n, .. } = cqe.token {
                let done = b.channel.on_channel_cqe(&mut b.ring, n, cqe.res).expect("one step");
                assert_eq!(done.outcome, Outcome::Done);
                tags.push(usize::from(done.key.tag.0));
            }
        }
        tags.sort_unstable();
        assert_eq!(tags, (0..BOUNCE_BUFS).collect::<Vec<_>>());
    }
}

#[test]
fn more_tasks_than_slots_are_busy_and_recover() {
    let named = temp(&vec![1; 1 << 20]);
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    let task = Verb::WriteZeroes { offset: 0, len: 4096, unmap: false };
    for i in 0..STEPPED_OPS {
        b.submit(u16::try_from(i).expect("small"), task, &[]).expect("a slot");
    }
    assert_eq!(b.submit(99, task, &[]), Err(Busy));
    let odd = [b.at(1, 512)];
    assert_eq!(b.submit(99, read(0), &odd), Err(Busy), "no slot, and the buffer came back");
    let mut ended = 0;
    while b.ring.in_flight() > 0 {
        let cqe = b.wait_cqe();
        let Token::Channel { op: n, .. } = cqe.token else { panic!("{cqe:?}") };
        let done = b.channel.on_channel_cqe(&mut b.ring, n, cqe.res).expect("one step");
        assert_eq!(done.outcome, Outcome::Done);
        ended += 1;
    }
    assert_eq!(ended, STEPPED_OPS);
    b.done(read(0), &odd);
}

#[test]
fn a_full_ring_is_busy_and_loses_nothing() {
    let named = temp(&pattern(8192, 3));
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
    let memory = BouncePool::new(1, 65536, 4096).expect("memory");
    let mut ring = Ring::new(8).expect("io_uring");
    let mut channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
    let straight = [memory.buf(0).take(4096)];
    let odd = [memory.buf(0).skip(4097).take(4096)];
    let io = |verb, bufs| Io { key: key(1), verb, bufs, bytes: 4096 };
    while channel.submit(&mut ring, &io(read(0), &straight)) == Ok(()) {}
    assert_eq!(channel.submit(&mut ring, &io(read(0), &odd)), Err(Busy));
    let zeroes = Verb::WriteZeroes { offset: 0, len: 512, unmap: true };
    assert_eq!(channel.submit(&mut ring, &io(zeroes, &[])), Err(Busy));
    assert!(channel.is_idle(), "refusals hold nothing");
    channel.submit(&mut ring, &io(Verb::Sync, &[])).expect("a sync has the reserve");
    while ring.in_flight() > 0 {
        ring.submit_and_wait(None).expect("the ring works");
        while ring.pop().is_some() {}
    }
    channel.submit(&mut ring, &io(read(0), &odd)).expect("room again");
    channel.close(&mut ring);
}

#[test]
fn several_channels_on_one_ring_know_their_own() {
    let (a, b) = (temp(&[1; 4096]), temp(&[2; 4096]));
    let mut ring = Ring::new(8).expect("io_uring");
    let memory = BouncePool::new(2, 4096, 4096).expect("memory");
    let mut channels = Vec::new();
    for (i, named) in [&a, &b].into_iter().enumerate() {
        let lane = u16::try_from(i).expect("few");
        let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
        let mut channel = image.open_channel(&mut ring, lane).expect("a channel");
        let bufs = [memory.buf(i).skip(1).take(512)];
        let io = Io { key: key(9), verb: read(0), bufs: &bufs, bytes: 512 };
        channel.submit(&mut ring, &io).expect("room");
        channels.push(channel);
    }
    let mut ended = 0;
    while ended < 2 {
        ring.submit_and_wait(None).expect("the ring works");
        while let Some(cqe) = ring.pop() {
            let Token::Channel { lane, op } = cqe.token else { panic!("{cqe:?}") };
            let mine = &mut channels[usize::from(lane)];
            let done = mine.on_channel_cqe(&mut ring, op, cqe.res);
            assert_eq!(done.map(|d| (d.key, d.outcome)), Some((key(9), Outcome::Done)));
            ended += 1;
        }
    }
    for (i, content) in [1u8, 2].into_iter().enumerate() {
        let mut got = [0; 514];
        memory.buf(i).copy_to(&mut got);
        assert_eq!((got[0], got[1], got[512], got[513]), (0, content, content, 0));
    }
    for mut channel in channels {
        channel.close(&mut ring);
    }
}
