//! Answers that a healthy disk does not give: shown to the channel directly.

use super::*;

/// A channel into any file, as if it were an image of `size` bytes.
fn pretend(file: File, size: u64, direct: bool) -> Bench {
    let named = temp(&[0; 512]);
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
    let opened = Arc::new(Opened {
        file,
        // Blocks so large that whatever a test asks for lies within the last one.
        extent: Extent::new(size, 1 << 20, true),
        alignment: direct.then_some(Alignment { memory: 512, offset: 512 }),
        unit: 1,
        block_device: false,
        in_memory: false,
        registers: false,
        traits: image.traits(),
    });
    let image = RawImage { opened, geometry: image.geometry() };
    let mut ring = Ring::new(128).expect("io_uring");
    let channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
    let memory = BouncePool::new(1, 4 << 20, 4096).expect("memory");
    Bench { memory, channel, ring, image }
}

fn dev_full() -> File {
    File::options().read(true).write(true).open("/dev/full").expect("it exists everywhere")
}

/// The answers `res`, one after the other, to the steps of one bounced transfer of `len` bytes.
fn answer(verb: Verb, len: usize, size: u64, answers: &[i32]) -> (Option<Outcome>, Vec<u8>) {
    let mut b = pretend(dev_full(), size, true);
    b.fill(0, &[0xee; 4 << 20]);
    let bufs = [b.at(1, len)];
    b.submit(1, verb, &bufs).expect("room");
    let mut ended = None;
    for res in answers {
        assert_eq!(ended, None, "ended before all answers were given");
        ended = b.channel.on_channel_cqe(&mut b.ring, 0, *res).map(|d| d.outcome);
    }
    let content = b.content(1, len);
    (ended, content)
}

#[test]
fn errors_of_the_kernel_go_to_their_own_operation() {
    for direct in [false, true] {
        let mut b = pretend(dev_full(), MIB, direct);
        let enospc = Outcome::Failed(Errno(libc::ENOSPC));
        let (straight, odd) = ([b.at(0, 4096)], [b.at(1, 4096)]);
        assert_eq!(b.once(write(0), &straight), (enospc, true));
        assert_eq!(b.once(write(0), &odd), (enospc, !direct));
        b.done(read(0), &straight);
        b.done(read(0), &odd);
        // Neither holes nor zeroed ranges: the promise of zeroes is kept by writing, and writing
        // fails here. The hint is done.
        b.channel.refuse_all_but_writing();
        let (offset, len) = (0, 4096);
        assert_eq!(b.once(Verb::WriteZeroes { offset, len, unmap: true }, &[]).0, enospc);
        b.done(Verb::Discard { offset, len }, &[]);
    }
}

#[test]
fn a_failed_sync_is_told_unless_flushes_are_noops() {
    // A character device cannot be synced.
    let mut b = pretend(dev_full(), MIB, false);
    assert_eq!(b.once(Verb::Sync, &[]), (Outcome::Failed(Errno(libc::EINVAL)), true));
    let e = b.image.sync().expect_err("refused");
    assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
    let named = temp(&[0; 512]);
    let image = RawImage::open(named.path(), &with(CacheMode::Unsafe)).expect("opens");
    let traits = image.traits();
    let opened =
        Opened { traits, file: dev_full(), ..Arc::into_inner(image.opened).expect("ours") };
    let image = RawImage { opened: Arc::new(opened), geometry: image.geometry };
    image.sync().expect("nothing to do");
}

#[test]
fn short_straight_transfers_count_whole_blocks() {
    let mut b = pretend(dev_full(), MIB, true);
    let bufs = [b.at(0, 4096)];
    for verb in [read(0), write(0)] {
        let io = Io { key: key(1), verb, bufs: &bufs, bytes: 4096 };
        for (res, outcome) in [
            (4096, Outcome::Done),
            (512, Outcome::Short(512)),
            (1300, Outcome::Short(1024)),
            (511, EIO),
            (0, EIO),
            (-libc::ENOSPC, Outcome::Failed(Errno(libc::ENOSPC))),
            (-libc::EAGAIN, Outcome::Again),
            (-libc::EINTR, Outcome::Again),
            (-libc::EBUSY, Outcome::Again),
        ] {
            assert_eq!(b.channel.finish(&io, res), outcome, "{verb:?} {res}");
        }
    }
    let mut cached = pretend(dev_full(), MIB, false);
    let io = Io { key: key(1), verb: read(0), bufs: &bufs, bytes: 4096 };
    assert_eq!(cached.channel.finish(&io, 1300), Outcome::Short(1300));
}

#[test]
fn a_short_read_is_the_end_of_the_file_only_at_its_end() {
    for (size, res, outcome) in [
        (5000u64, 904, Outcome::Done),
        // The tail was written since, so the file has grown: this may or may not be its end.
        (5000, 1024, Outcome::Short(1024)),
        (5000, 1000, Outcome::Short(512)),
        (5001, 904, Outcome::Short(512)),
        (4096, 0, Outcome::Done),
        (4097, 0, EIO),
    ] {
        let mut b = pretend(dev_full(), size, true);
        b.fill(0, &[0xee; 2048]);
        let bufs = [b.at(0, 1000), b.at(1000, 1048)];
        let io = Io { key: key(1), verb: read(4096), bufs: &bufs, bytes: 2048 };
        assert_eq!(b.channel.finish(&io, res), outcome, "{size} {res}");
        let kept =
            if outcome == Outcome::Done { usize::try_from(res).expect("small") } else { 2048 };
        let content = b.content(0, 2048);
        assert!(content[..kept].iter().all(|x| *x == 0xee));
        assert!(content[kept..].iter().all(|x| *x == 0));
    }
}

#[test]
fn short_bounced_transfers_go_on_inside() {
    let whole = i32::try_from(BOUNCE_SIZE).expect("small");
    let len = BOUNCE_SIZE + 4096;
    let far = 64 * MIB;
    for verb in [read(0), write(0)] {
        let answer = |answers: &[i32]| answer(verb, len, far, answers).0;
        assert_eq!(answer(&[whole, 4096]), Some(Outcome::Done));
        // 1300 counts as 1024: the steps that follow start there.
        assert_eq!(answer(&[1300]), None);
        assert_eq!(answer(&[1300, whole, 3072]), Some(Outcome::Done));
        assert_eq!(answer(&[whole, 511]), Some(EIO));
        assert_eq!(answer(&[whole, 0]), Some(EIO));
        assert_eq!(answer(&[whole, -libc::EAGAIN]), Some(Outcome::Again));
        assert_eq!(answer(&[-libc::EBUSY]), Some(Outcome::Again));
        let enospc = Outcome::Failed(Errno(libc::ENOSPC));
        assert_eq!(answer(&[whole, -libc::ENOSPC]), Some(enospc));
    }
}

#[test]
fn a_bounced_read_past_the_end_is_zeroes_to_its_own_end() {
    let whole = i32::try_from(BOUNCE_SIZE).expect("small");
    let len = 2 * BOUNCE_SIZE + 4096;
    let size = BOUNCE_SIZE as u64 + 1000;
    let (ended, content) = answer(read(0), len, size, &[whole, 1000]);
    assert_eq!(ended, Some(Outcome::Done));
    // The answers are pretended: the pool's buffer is all zeroes.
    assert!(content.iter().all(|x| *x == 0));
    let (ended, content) = answer(read(0), len, size, &[whole, 512]);
    assert_eq!(ended, None, "not at the end yet");
    assert!(content[BOUNCE_SIZE + 512..].iter().all(|x| *x == 0xee));
    // Beyond the length at open, in a file that has grown: what follows may be data.
    let (ended, content) = answer(read(0), len, size, &[whole, 2048]);
    assert_eq!(ended, None, "perhaps not at the end yet");
    assert!(content[BOUNCE_SIZE + 2048..].iter().all(|x| *x == 0xee));
    let (ended, content) = answer(read(0), len, size, &[whole, 2048, 0]);
    assert_eq!(ended, Some(Outcome::Done));
    assert!(content.iter().all(|x| *x == 0));
}

#[test]
fn a_long_list_is_bounced_in_part() {
    let mut b = pretend(dev_full(), MIB, true);
    let bufs: Vec<_> = (0..1025).map(|i| b.at(i * 3, 3)).collect();
    let asked = 1025 * 3;
    b.submit(1, read(0), &bufs).expect("room");
    let done = b.channel.on_channel_cqe(&mut b.ring, 0, 3072).expect("one step");
    assert_eq!(done.outcome, Outcome::Short(3072));
    assert!(asked > 3072);
}

#[test]
fn a_step_without_room_makes_room() {
    let named = temp(&pattern(1 << 20, 3));
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
    let memory = BouncePool::new(1, 1 << 20, 4096).expect("memory");
    let mut ring = Ring::new(8).expect("io_uring");
    let mut channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
    let odd = [memory.buf(0).skip(1).take(2 * BOUNCE_SIZE)];
    let bytes = u32::try_from(2 * BOUNCE_SIZE).expect("small");
    let io = Io { key: key(1), verb: read(0), bufs: &odd, bytes };
    channel.submit(&mut ring, &io).expect("room");
    while !ring.has_completions() {
        ring.submit_and_wait(None).expect("the ring works");
    }
    let cqe = ring.pop().expect("the first step");
    // Meanwhile the submission queue fills up.
    let small = [memory.buf(0).skip(512 * 1024).take(512)];
    let filler = Io { key: key(2), verb: read(0), bufs: &small, bytes: 512 };
    while channel.submit(&mut ring, &filler) == Ok(()) {}
    let Token::Channel { op: n, .. } = cqe.token else { panic!("{cqe:?}") };
    assert_eq!(channel.on_channel_cqe(&mut ring, n, cqe.res), None);
    let mut ended = None;
    while ring.in_flight() > 0 {
        ring.submit_and_wait(None).expect("the ring works");
        while let Some(cqe) = ring.pop() {
            if let Token::Channel { op: n, .. } = cqe.token {
                ended = channel.on_channel_cqe(&mut ring, n, cqe.res);
            }
        }
    }
    assert_eq!(ended.map(|d| d.outcome), Some(Outcome::Done));
    let mut got = vec![0; 2 * BOUNCE_SIZE];
    odd[0].copy_to(&mut got);
    assert_eq!(got, pattern(1 << 20, 3)[..2 * BOUNCE_SIZE]);
}

#[test]
fn a_closed_channel_leaves_nothing_in_the_ring() {
    let named = temp(&[0; 4096]);
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
    let mut ring = Ring::new(8).expect("io_uring");
    for _ in 0..200 {
        let mut channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
        let buffers = channel.bounce_memory().expect("direct I/O has buffers");
        channel.close(&mut ring);
        drop(channel);
        assert!(buffers.upgrade().is_none());
    }
}

#[test]
fn a_channel_that_goes_first_leaves_its_buffers_to_the_ring() {
    let named = temp(&pattern(4096, 3));
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("opens");
    let memory = BouncePool::new(1, 8192, 4096).expect("memory");
    let mut ring = Ring::new(8).expect("io_uring");
    let mut channel = RawChannel::open(&image.opened, &mut ring, 0).expect("a channel");
    let odd = [memory.buf(0).skip(1).take(512)];
    let io = Io { key: key(1), verb: read(0), bufs: &odd, bytes: 512 };
    channel.submit(&mut ring, &io).expect("room");
    let buffers = channel.bounce_memory().expect("direct I/O has buffers");
    drop((channel, image));
    let kept = buffers.upgrade().expect("the ring holds them");
    drop(kept);
    drop(ring);
    assert!(buffers.upgrade().is_none(), "drained, then let go");
}
