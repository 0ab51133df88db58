use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vmm_sys_util::eventfd::EFD_NONBLOCK;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::*;

/// The open flags of a descriptor as the kernel tells them (octal in fdinfo).
fn kernel_flags(fd: BorrowedFd<'_>) -> i32 {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(path).expect("the descriptor is open");
    let line = text.lines().find_map(|l| l.strip_prefix("flags:")).expect("fdinfo has flags");
    i32::from_str_radix(line.trim(), 8).expect("octal")
}

fn eventfd() -> EventFd {
    EventFd::new(0).expect("an eventfd")
}

#[test]
fn close_on_exec_is_set_and_nothing_else_changes() {
    let event = eventfd();
    let fd = borrow(&event);
    let before = kernel_flags(fd);
    assert_eq!(before & libc::O_CLOEXEC, 0);
    set_cloexec(fd).expect("the descriptor is open");
    assert_eq!(kernel_flags(fd), before | libc::O_CLOEXEC);
}

#[test]
fn bells_are_things_that_poll_and_are_open_the_right_way() {
    let event = eventfd();
    check_bell(borrow(&event), Bell::Waited).expect("an eventfd can be waited for");
    check_bell(borrow(&event), Bell::Rung).expect("an eventfd can be rung");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    check_bell(reader.as_fd(), Bell::Waited).expect("the read end can be waited for");
    check_bell(writer.as_fd(), Bell::Rung).expect("the write end can be rung");
    let wrong = |fd: BorrowedFd<'_>, bell| check_bell(fd, bell).expect_err("refused").to_string();
    assert_eq!(wrong(reader.as_fd(), Bell::Rung), "it is open the wrong way round");
    assert_eq!(wrong(writer.as_fd(), Bell::Waited), "it is open the wrong way round");
    let file = tempfile::tempfile().expect("a file");
    assert_eq!(wrong(file.as_fd(), Bell::Waited), "it cannot be polled");
    assert_eq!(wrong(file.as_fd(), Bell::Rung), "it cannot be polled");
    let dir = File::open("/").expect("a directory");
    assert_eq!(wrong(dir.as_fd(), Bell::Waited), "it cannot be polled");
}

#[test]
fn checking_a_bell_leaves_its_flags_and_its_counter_alone() {
    let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    event.write(3).expect("room in the counter");
    let before = kernel_flags(borrow(&event));
    check_bell(borrow(&event), Bell::Waited).expect("usable");
    assert_eq!(kernel_flags(borrow(&event)), before);
    assert_eq!(event.read().expect("still readable"), 3);
}

#[test]
fn an_eventfd_made_from_a_file_is_the_same_counter() {
    let event = eventfd();
    let copy = borrow(&event).try_clone_to_owned().expect("a duplicate");
    let other = into_eventfd(File::from(copy));
    other.write(7).expect("room in the counter");
    assert_eq!(event.read().expect("the other wrote"), 7);
}

#[test]
fn ringing_never_blocks() {
    let event = eventfd();
    ring(&event);
    ring(&event);
    assert_eq!(event.read().expect("rung twice"), 2);
    event.write(u64::MAX - 1).expect("just as much as fits");
    ring(&event);
    assert_eq!(event.read().expect("full"), u64::MAX - 1);
}

#[test]
fn peeking_takes_nothing() {
    let (mut here, mut there) = UnixStream::pair().expect("a pair");
    there.write_all(b"hello").expect("room");
    let mut first = [0; 3];
    assert_eq!(peek(here.as_fd(), &mut first).expect("data waits"), 3);
    assert_eq!(&first, b"hel");
    let mut all = [0; 5];
    here.read_exact(&mut all).expect("all of it is still there");
    assert_eq!(&all, b"hello");
    drop(there);
    assert_eq!(peek(here.as_fd(), &mut first).expect("the end"), 0);
}

#[test]
fn peeked_descriptors_are_duplicates_with_close_on_exec() {
    let (here, there) = UnixStream::pair().expect("a pair");
    let event = eventfd();
    let sent = [event.as_raw_fd(), event.as_raw_fd()];
    there.send_with_fds(&[&b"x"[..]], &sent).expect("sent");
    let peeked = peek_fds(here.as_fd()).expect("data waits");
    assert_eq!(peeked.len(), 2);
    for fd in &peeked {
        assert_ne!(kernel_flags(fd.as_fd()) & libc::O_CLOEXEC, 0);
    }
    into_eventfd(File::from(peeked.into_iter().next().expect("two"))).write(1).expect("room");
    assert_eq!(event.read().expect("rung through the duplicate"), 1);
    // The message still has its own descriptor.
    let mut byte = [0_u8];
    let (n, file) = here.recv_with_fd(&mut byte).expect("the message");
    assert_eq!((n, byte[0]), (1, b'x'));
    into_eventfd(file.expect("attached")).write(5).expect("room");
    assert_eq!(event.read().expect("rung through the original"), 5);
}

#[test]
fn a_message_without_descriptors_has_none() {
    let (here, mut there) = UnixStream::pair().expect("a pair");
    there.write_all(b"x").expect("room");
    assert!(peek_fds(here.as_fd()).expect("data waits").is_empty());
}

#[test]
fn only_whole_descriptors_of_a_rights_message_count() {
    let mut control = [0_u8; CMSG_ROOM];
    control[0] = 16 + 6;
    control[8] = u8::try_from(libc::SOL_SOCKET).expect("small");
    control[12] = u8::try_from(libc::SCM_RIGHTS).expect("small");
    control[16] = 9;
    assert_eq!(attached(&control).collect::<Vec<_>>(), [9]);
    control[12] = u8::try_from(libc::SCM_CREDENTIALS).expect("small");
    assert_eq!(attached(&control).count(), 0);
    assert_eq!(attached(&[]).count(), 0);
}

#[test]
fn whether_a_write_may_wait_is_seen() {
    for (flags, waits) in [(0, true), (libc::EFD_NONBLOCK, false)] {
        let event = EventFd::new(flags).expect("an eventfd");
        assert_eq!(blocks(borrow(&event)), waits);
    }
}
