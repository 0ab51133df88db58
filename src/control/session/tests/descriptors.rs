//! What happens to the descriptors that a front-end sends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::BackendReqHandler;
use vhost::vhost_user::message::FrontendReq;

use super::super::Handler;
use crate::control::testing::{Bells, FrontEnd, Memory, World, eventfd};
use crate::sys::fd;

/// What tells one open file from all others: its link, and the number of an eventfd.
fn identity(link: &str, info: &str) -> String {
    let number = info.lines().find(|l| l.starts_with("eventfd-id:")).unwrap_or("");
    format!("{link} {number}")
}

fn identity_of(fd: BorrowedFd<'_>) -> String {
    let n = fd.as_raw_fd();
    let link = std::fs::read_link(format!("/proc/self/fd/{n}")).expect("open");
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{n}")).expect("open");
    identity(&link.to_string_lossy(), &info)
}

/// The open flags of every descriptor of this process that is the same open file.
fn flags_of(wanted: &str) -> Vec<i32> {
    let mut flags = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        // Other tests open and close descriptors meanwhile.
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let name = entry.file_name();
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", name.display()))
        else {
            continue;
        };
        if identity(&link.to_string_lossy(), &info) == wanted {
            let line = info.lines().find_map(|l| l.strip_prefix("flags:")).expect("flags");
            flags.push(i32::from_str_radix(line.trim(), 8).expect("octal"));
        }
    }
    flags
}

fn assert_close_on_exec(fd: BorrowedFd<'_>, copies: usize) {
    let flags = flags_of(&identity_of(fd));
    assert_eq!(flags.len(), copies, "ours and the session's");
    assert!(flags.iter().all(|f| f & libc::O_CLOEXEC != 0), "{flags:?}");
}

#[test]
fn every_received_descriptor_is_close_on_exec() {
    let world = World::new(1, 2);
    let (mut fe, serving) = world.connect();
    let memory = Memory::new(0, 0x10_0000, 0x7000_0000);
    let added = Memory::new(0x1000_0000, 0x1000, 0x1000);
    fe.negotiate();
    fe.set_table(&[&memory]).expect("accepted");
    fe.add_region(&added).expect("accepted");
    // Ring 0 runs and its descriptors are with the queue thread; ring 1 waits, they are with us.
    let running = fe.start_ring(0, 64, &memory);
    let waiting = Bells::new();
    fe.set_fd(FrontendReq::SET_VRING_KICK, 1, Some(&waiting.kick)).expect("accepted");
    fe.set_fd(FrontendReq::SET_VRING_CALL, 1, Some(&waiting.call)).expect("accepted");
    let errs = [eventfd(), eventfd()];
    fe.set_fd(FrontendReq::SET_VRING_ERR, 0, Some(&errs[0])).expect("accepted");
    fe.set_fd(FrontendReq::SET_VRING_ERR, 1, Some(&errs[1])).expect("accepted");
    // SetCall and SetErr are in the mailbox until a stop comes behind them.
    fe.enable(0, false).expect("accepted");
    for bell in [&running.kick, &running.call, &waiting.kick, &waiting.call, &errs[0], &errs[1]] {
        assert_close_on_exec(fd::borrow(bell), 2);
    }
    assert_close_on_exec(memory.file.as_fd(), 2);
    assert_close_on_exec(added.file.as_fd(), 2);
    drop(fe);
    assert!(serving.end().is_clean());
    for bell in [&running.kick, &waiting.call, &errs[0]] {
        assert_close_on_exec(fd::borrow(bell), 1);
    }
    assert_close_on_exec(memory.file.as_fd(), 1);
}

#[test]
fn the_back_end_channel_is_kept_open_and_close_on_exec() {
    let world = World::new(1, 1);
    let (mut fe, serving) = world.connect();
    fe.negotiate();
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let channel = identity_of(theirs.as_fd());
        fe.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]).expect("accepted");
        drop(theirs);
        let flags = flags_of(&channel);
        assert_eq!(flags.len(), 1, "the session's copy, and no other");
        assert_ne!(flags[0] & libc::O_CLOEXEC, 0);
        drop(ours);
    }
    drop(fe);
    assert!(serving.end().is_clean());
}

#[test]
fn a_channel_belongs_to_the_message_that_brought_it() {
    let world = World::new(1, 1);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let rings = world.pool.join(&world.disk, 1);
    let handler = Handler::new(Arc::clone(&world.disk), rings, 256);
    let handler = Arc::new(Mutex::new(handler));
    let mut library = BackendReqHandler::from_stream(theirs, Arc::clone(&handler));
    let mut fe = FrontEnd::new(ours);
    fe.quiet = true;
    fe.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, 1 << 5).expect("sent");
    library.handle_request().expect("accepted");
    let (sent, _other) = UnixStream::pair().expect("a pair");
    fe.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[sent.as_raw_fd()]).expect("sent");
    library.handle_request().expect("accepted");
    let mut handler = handler.lock().expect("one thread");
    assert!(!handler.herald().is_attached(), "nothing was laid ready, so nothing is kept");
    handler.arriving(Some(sent.into()));
    handler.arriving(None);
    assert!(!handler.herald().is_attached());
}

#[test]
fn a_front_ends_flags_stay_as_they_were() {
    let world = World::new(1, 1);
    let (mut fe, serving) = world.connect();
    let memory = Memory::new(0, 0x10_0000, 0x7000_0000);
    fe.negotiate();
    fe.set_table(&[&memory]).expect("accepted");
    let bells = fe.start_ring(0, 64, &memory);
    for bell in [&bells.kick, &bells.call] {
        for flags in flags_of(&identity_of(fd::borrow(bell))) {
            assert_ne!(flags & libc::O_NONBLOCK, 0, "as it was made");
        }
    }
    drop(fe);
    assert!(serving.end().is_clean());
}
