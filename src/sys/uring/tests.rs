#![allow(unsafe_code, reason = "tests lend their own memory to the ring")]
use super::*;
use crate::block::Tag;
use crate::sys::fd::borrow;
use crate::sys::guest::GuestBuf;
use crate::sys::token::IoKey;
use crate::sys::zeroes;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

fn io(tag: u16) -> Token {
    Token::Io(IoKey { slot: 0, tag: Tag(tag), generation: 1 })
}

fn file(content: &[u8]) -> File {
    let mut f = tempfile::tempfile().expect("a temporary file");
    f.write_all(content).expect("room on the disk");
    f
}

/// Memory for operations of a test; lives longer than the ring by being declared first.
fn buf(memory: &mut [u8]) -> GuestBuf {
    // SAFETY: the caller keeps the memory until the operation has completed.
    unsafe { GuestBuf::from_raw(memory.as_mut_ptr(), memory.len()) }
}

fn wait(ring: &mut Ring) -> Cqe {
    // A wait may end without a completion (a new worker thread of the kernel is a signal).
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(cqe) = ring.pop() {
            return cqe;
        }
        assert!(Instant::now() < deadline, "nothing completed in 20 s");
        ring.submit_and_wait(Some(Duration::from_secs(20))).expect("the ring works");
    }
}

#[test]
fn reads_and_writes_with_one_buffer_and_with_several() {
    let mut a = vec![1u8; 4096];
    let mut b = vec![2u8; 512];
    let mut back = vec![0u8; 4608];
    let f = file(b"");
    let mut ring = Ring::new(8).expect("io_uring");
    let slot = ring.add_file(f.as_fd()).expect("a slot");

    let list = [buf(&mut a), buf(&mut b)];
    ring.write(io(1), slot, &list, 512, false).expect("room");
    assert_eq!(ring.in_flight(), 1);
    assert_eq!(wait(&mut ring), Cqe { token: io(1), res: 4608, more: false });
    assert_eq!(ring.in_flight(), 0);

    ring.read(io(2), slot, &[buf(&mut back)], 512).expect("room");
    assert_eq!(wait(&mut ring), Cqe { token: io(2), res: 4608, more: false });
    assert!(back[..4096].iter().all(|x| *x == 1) && back[4096..].iter().all(|x| *x == 2));

    // Scattered, from the end of the file: short.
    let list = [buf(&mut b), buf(&mut a)];
    ring.read(io(3), slot, &list, 4096).expect("room");
    assert_eq!(wait(&mut ring), Cqe { token: io(3), res: 1024, more: false });
    assert!(b.iter().all(|x| *x == 1) && a[..512].iter().all(|x| *x == 2));

    ring.fdatasync(io(4), slot).expect("room");
    assert_eq!(wait(&mut ring), Cqe { token: io(4), res: 0, more: false });
}

/// The `rw_flags` of the ring's first submission entry, as the kernel will see it.
pub(crate) fn first_rw_flags(ring: &Ring) -> i32 {
    const OFF_SQES: i64 = 0x1000_0000;
    const RW_FLAGS: usize = 28;
    let (fd, len) = (ring.io.as_raw_fd(), ring.depth() * 64);
    // SAFETY: a fresh read-only mapping of the ring's entries (io_uring_setup(2)).
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, OFF_SQES)
    };
    assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let field = at.wrapping_byte_add(RW_FLAGS).cast::<i32>();
    // SAFETY: the first entry is 64 bytes long, and a page is mapped.
    let flags = unsafe { field.read_volatile() };
    // SAFETY: the mapping was made above and nobody uses it any more.
    assert_eq!(unsafe { libc::munmap(at, len) }, 0);
    flags
}

#[test]
fn only_a_durable_write_says_so_to_the_kernel() {
    let mut a = vec![7u8; 512];
    for (dsync, several) in [(false, false), (true, false), (false, true), (true, true)] {
        let f = file(b"");
        let list = [buf(&mut a), buf(&mut a)];
        let list = if several { &list[..] } else { &list[..1] };
        let mut ring = Ring::new(8).expect("io_uring");
        let slot = ring.add_file(f.as_fd()).expect("a slot");
        ring.write(io(1), slot, list, 0, dsync).expect("room");
        assert_eq!(first_rw_flags(&ring), if dsync { libc::RWF_DSYNC } else { 0 });
        assert_eq!(wait(&mut ring).res, if several { 1024 } else { 512 });
    }
}

#[test]
fn zeroes_are_written_in_bounded_pieces() {
    zeroes::prepare().expect("zeroes");
    let f = file(&vec![9u8; 2 << 20]);
    let mut ring = Ring::new(8).expect("io_uring");
    let slot = ring.add_file(f.as_fd()).expect("a slot");
    ring.write_zeroes(io(1), slot, 512, 2 << 20).expect("room");
    assert_eq!(wait(&mut ring).res, 1 << 20);
    let mut got = vec![0u8; (1 << 20) + 1024];
    f.read_exact_at(&mut got, 0).expect("written");
    let (head, rest) = got.split_at(512);
    let (zero, tail) = rest.split_at(1 << 20);
    assert!(head.iter().chain(tail).all(|x| *x == 9) && zero.iter().all(|x| *x == 0));
}

#[test]
fn the_reserve_is_for_polls_cancellations_and_syncs() {
    let mut memory = vec![0u8; 512];
    let f = file(&[1u8; 512]);
    let event = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
    let mut ring = Ring::new(MIN_DEPTH).expect("io_uring");
    let slot = ring.add_file(f.as_fd()).expect("a slot");
    let room = ring.sq_free();
    assert_eq!(room, ring.depth() - RESERVE);
    let b = buf(&mut memory);
    for i in 0..room {
        let tag = u16::try_from(i).expect("small");
        ring.read(io(tag), slot, &[b], 0).expect("room");
    }
    assert_eq!(ring.sq_free(), 0);
    assert_eq!(ring.read(io(99), slot, &[b], 0), Err(Full));
    assert_eq!(ring.write(io(99), slot, &[b], 0, false), Err(Full));
    assert_eq!(ring.fallocate(io(99), slot, 0, 0, 1), Err(Full));
    assert_eq!(ring.write_zeroes(io(99), slot, 0, 1), Err(Full));
    assert_eq!(ring.discard_cmd(io(99), slot, 0, 1), Err(Full));
    assert_eq!(ring.in_flight(), room, "a refusal counts nothing");
    ring.poll_multishot(Token::Mailbox, borrow(&event)).expect("the reserve");
    ring.fdatasync(io(100), slot).expect("the reserve");
    assert_eq!(ring.cancel(Token::Mailbox), Err(Full));
    ring.submit().expect("the ring works");
    assert_eq!(ring.sq_free(), room);
    for _ in 0..=room {
        assert!(wait(&mut ring).res >= 0);
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_poll_fires_at_once_and_again_and_never_reads() {
    // Blocking on purpose: a front-end may share its eventfd in blocking mode.
    let event = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
    event.write(1).expect("a wake-up before the poll");
    let mut ring = Ring::new(8).expect("io_uring");
    let kick = Token::Kick { slot: 3, generation: 9 };
    ring.poll_multishot(kick, borrow(&event)).expect("room");
    for n in 1..=3 {
        let cqe = wait(&mut ring);
        assert_eq!((cqe.token, cqe.more), (kick, true), "wake-up {n}");
        assert!(!ring.has_completions());
        event.write(1).expect("the next wake-up");
    }
    assert_eq!(wait(&mut ring).token, kick);
    assert_eq!(event.read().expect("the counter is untouched"), 4);
    assert_eq!(ring.in_flight(), 0, "polls are not counted");

    ring.cancel(kick).expect("room");
    let mut ended = Vec::from([wait(&mut ring), wait(&mut ring)]);
    ended.sort_by_key(|c| c.token.encode());
    let ends = Cqe { token: kick, res: -libc::ECANCELED, more: false };
    assert_eq!(ended, [ends, Cqe { token: Token::Ignore, res: 0, more: false }]);
}

#[test]
fn another_threads_write_ends_the_sleep() {
    let event = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
    let remote = event.try_clone().expect("a second descriptor");
    let mut ring = Ring::new(8).expect("io_uring");
    ring.poll_multishot(Token::Mailbox, borrow(&event)).expect("room");
    ring.submit().expect("the ring works");
    assert_eq!(ring.pop(), None);
    let thread = std::thread::spawn(move || remote.write(1).expect("a wake-up"));
    assert_eq!(wait(&mut ring).token, Token::Mailbox);
    thread.join().expect("the writer ends");
}

#[test]
fn a_wait_is_bounded() {
    let mut ring = Ring::new(8).expect("io_uring");
    let start = Instant::now();
    ring.submit_and_wait(Some(Duration::from_millis(20))).expect("a timeout is no error");
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(ring.pop(), None);
}

#[test]
fn answers_of_enter_are_told_apart() {
    let refused = |e| Err(io::Error::from_raw_os_error(e));
    assert_eq!(verdict(3, &Ok(3)), Verdict::Entered);
    assert_eq!(verdict(0, &Ok(0)), Verdict::Entered);
    assert_eq!(verdict(3, &Ok(1)), Verdict::Partly);
    assert_eq!(verdict(3, &Ok(0)), Verdict::NoMemory);
    assert_eq!(verdict(3, &refused(libc::EINTR)), Verdict::Woken);
    assert_eq!(verdict(3, &refused(libc::ETIME)), Verdict::Woken);
    assert_eq!(verdict(3, &refused(libc::EAGAIN)), Verdict::NoMemory);
    assert_eq!(verdict(3, &refused(libc::ENOMEM)), Verdict::NoMemory);
    assert_eq!(verdict(3, &refused(libc::EBUSY)), Verdict::ReapFirst);
    assert_eq!(verdict(3, &refused(libc::EEXIST)), Verdict::Broken);
}

#[test]
fn more_completions_than_the_queue_holds_all_arrive() {
    let mut memory = vec![0u8; 512];
    let f = file(&[1u8; 512]);
    let mut ring = Ring::new(MIN_DEPTH).expect("io_uring");
    let slot = ring.add_file(f.as_fd()).expect("a slot");
    let b = buf(&mut memory);
    let mut pushed = 0u16;
    while pushed < 500 {
        match ring.read(io(pushed), slot, &[b], 0) {
            Ok(()) => pushed += 1,
            Err(Full) => {
                let before = ring.in_flight();
                ring.submit().expect("the ring works");
                if ring.sq_free() == 0 {
                    // The kernel wants completions reaped first.
                    assert!(ring.pop().is_some() && ring.in_flight() < before);
                    ring.submit().expect("the ring works");
                }
            }
        }
    }
    while ring.in_flight() > 0 {
        assert_eq!(wait(&mut ring).res, 512);
    }
    assert_eq!(ring.pop(), None);
}

#[test]
fn files_beyond_the_table_are_used_by_descriptor() {
    let mut memory = vec![0u8; 4];
    let mut ring = Ring::new(8).expect("io_uring");
    let mut slots = Vec::new();
    for i in 0..FILE_SLOTS + 2 {
        let f = file(&i.to_le_bytes());
        // The ring has its own reference: `f` is closed here.
        slots.push(ring.add_file(f.as_fd()).expect("a slot"));
    }
    for (i, slot) in slots.iter().enumerate() {
        ring.read(io(0), *slot, &[buf(&mut memory)], 0).expect("room");
        assert_eq!(wait(&mut ring).res, 4);
        assert_eq!(memory, u32::try_from(i).expect("small").to_le_bytes());
    }
    assert_eq!(ring.loose.len(), 2);
    for slot in &slots {
        ring.remove_file(*slot);
    }
    assert!(ring.loose.is_empty() && ring.table.iter().all(|taken| !taken));
    ring.read(io(0), slots[0], &[buf(&mut memory)], 0).expect("room");
    assert_eq!(wait(&mut ring).res, -libc::EBADF, "a removed file is gone");
}

#[test]
fn a_dropped_ring_closes_its_files_at_once() {
    let mut at_once = 0;
    for _ in 0..20 {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let event = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
        let mut ring = Ring::new(8).expect("io_uring");
        ring.add_file(writer.as_fd()).expect("a slot");
        drop(writer);
        ring.poll_multishot(Token::Mailbox, borrow(&event)).expect("room");
        ring.submit().expect("the ring works");
        drop(ring);
        // The pipe hangs up when its last writer is gone.
        let mut ask = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, ours, and no waiting.
        assert!(unsafe { libc::poll(&raw mut ask, 1, 0) } >= 0);
        at_once += usize::from(ask.revents & libc::POLLHUP != 0);
    }
    // Not every time: a child process of another test may hold a copy for a moment.
    assert!(at_once >= 5, "{at_once} of 20");
}

#[test]
fn what_is_held_is_released_by_identity() {
    let mut ring = Ring::new(8).expect("io_uring");
    let (a, b) = (Arc::new(5u32), Arc::new(5u32));
    ring.hold(Arc::clone(&a));
    ring.hold(Arc::clone(&b));
    ring.hold(Arc::clone(&a));
    ring.release(&a);
    assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (2, 2));
    drop(ring);
    assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (1, 1));
}

/// A ring with a read in flight that only a writer or a cancellation ends.
fn stuck(memory: &mut [u8], pipe: &std::io::PipeReader, held: &Arc<u8>) -> Ring {
    let mut ring = Ring::new(8).expect("io_uring");
    let slot = ring.add_file(pipe.as_fd()).expect("a slot");
    ring.hold(Arc::clone(held));
    ring.read(io(1), slot, &[buf(memory)], 0).expect("room");
    ring.submit().expect("the ring works");
    assert_eq!((ring.pop(), ring.in_flight()), (None, 1));
    ring
}

#[test]
fn a_dropped_ring_cancels_what_it_can() {
    let mut memory = vec![0u8; 512];
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let held = Arc::new(0u8);
    let ring = stuck(&mut memory, &reader, &held);
    let start = Instant::now();
    drop(ring);
    assert!(start.elapsed() < PATIENCE, "cancelled, not waited for");
    assert_eq!(Arc::strong_count(&held), 1, "drained: nothing to keep");
}

#[test]
fn a_ring_that_cannot_drain_leaks_what_the_kernel_may_touch() {
    // Leaked on purpose, as the held memory is: the kernel may still write to it.
    let memory: &'static mut [u8] = Vec::leak(vec![0u8; 512]);
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let held = Arc::new(0u8);
    let mut ring = stuck(memory, &reader, &held);
    ring.cancels = false;
    ring.patience = Duration::from_millis(30);
    let start = Instant::now();
    drop(ring);
    assert!(start.elapsed() >= Duration::from_millis(30), "it waited first");
    assert_eq!(Arc::strong_count(&held), 2, "kept for ever (L3)");
}

#[test]
fn a_dropped_ring_waits_for_a_completion_that_comes() {
    let mut memory = vec![0u8; 4];
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let held = Arc::new(0u8);
    let mut ring = stuck(&mut memory, &reader, &held);
    ring.cancels = false;
    writer.write_all(b"done").expect("room in the pipe");
    drop(ring);
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(&memory, b"done");
}

#[test]
fn an_unused_ring_needs_no_system_call() {
    let mut ring = Ring::new(8).expect("io_uring");
    assert!(!ring.needs_enter());
    let event = EventFd::new(EFD_CLOEXEC).expect("an eventfd");
    ring.poll_multishot(Token::Mailbox, borrow(&event)).expect("room");
    assert!(ring.needs_enter());
    ring.submit().expect("the ring works");
    assert!(!ring.needs_enter());
}

#[test]
fn depths_are_powers_of_two_within_limits() {
    assert_eq!(Ring::new(0).expect("io_uring").depth(), MIN_DEPTH as usize);
    assert_eq!(Ring::new(100).expect("io_uring").depth(), 128);
}
