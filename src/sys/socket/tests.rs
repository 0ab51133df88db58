//! Each helper against the kernel's own answer.

use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn kinds_are_told_apart() {
    let dir = folder();
    let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
    assert_eq!(kind(listener.as_fd()).expect("a socket"), Kind::Listening);
    let (a, b) = UnixStream::pair().expect("a pair");
    assert_eq!(kind(a.as_fd()).expect("a socket"), Kind::Connected);
    drop(b);
    assert_eq!(kind(a.as_fd()).expect("a socket"), Kind::Connected, "its end is still to be read");
    let idle = unix_stream_socket().expect("a socket");
    assert_eq!(kind(idle.as_fd()).expect("a socket"), Kind::Idle);
    let datagram = UnixDatagram::unbound().expect("a socket");
    assert_eq!(kind(datagram.as_fd()).expect("a socket"), Kind::Other);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    assert_eq!(kind(tcp.as_fd()).expect("a socket"), Kind::Other);
    let file = tempfile::tempfile().expect("a file");
    assert_eq!(kind(file.as_fd()).expect("not an error"), Kind::Other);
}

#[test]
fn an_adopted_descriptor_is_ours_and_closes_on_exec() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let fd = ours.into_raw_fd();
    // SAFETY: F_SETFD takes an int; the descriptor is open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).expect("open");
    let adopted = adopt(fd).expect("it is open");
    assert!(is_cloexec(&adopted).expect("it is open"));
    drop(adopted);
    use std::io::Read;
    assert_eq!((&theirs).read(&mut [0; 1]).expect("the end"), 0, "dropping it closes it");
}

#[test]
fn a_number_that_is_not_open_is_refused() {
    let error = adopt(1_000_000).expect_err("nobody opens so many");
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn a_bound_socket_cannot_be_reached_before_it_listens() {
    let dir = folder();
    let path = dir.path().join("s");
    let socket = bind(&path, 0o640).expect("a socket");
    let mode = std::fs::symlink_metadata(&path).expect("the file").mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "never looser than asked: {mode:o}");
    assert_eq!(service(&path).expect("an answer"), Service::Dead);
    listen(socket.as_fd()).expect("it listens");
    assert_eq!(service(&path).expect("an answer"), Service::Alive);
    drop(socket);
    assert_eq!(service(&path).expect("an answer"), Service::Dead);
    assert_eq!(bind(&path, 0o600).expect_err("it exists").kind(), ErrorKind::AddrInUse);
}

#[test]
fn somebody_else_is_somebody() {
    let dir = folder();
    let path = dir.path().join("d");
    let _datagram = UnixDatagram::bind(&path).expect("a socket");
    assert_eq!(service(&path).expect("an answer"), Service::Alive);
    let missing = service(&dir.path().join("none")).expect_err("no file");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_full_backlog_is_alive() {
    let dir = folder();
    let path = dir.path().join("s");
    let socket = bind(&path, 0o600).expect("a socket");
    // SAFETY: listen(2) takes numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), 0) }).expect("it listens");
    let _waiting = UnixStream::connect(&path).expect("room for one");
    assert_eq!(service(&path).expect("an answer"), Service::Alive);
}

#[test]
fn addresses_have_bounds() {
    let long = "x".repeat(107);
    assert!(address(Path::new(&long)).is_ok_and(|(_, len)| len == 110));
    for bad in [String::new(), "x".repeat(108), "a\0b".to_owned()] {
        let error = address(Path::new(&bad)).expect_err("no address");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn groups_by_name_and_by_number() {
    assert_eq!(group_id("root").expect("a data base"), Some(0));
    assert_eq!(group_id("1234").expect("a number"), Some(1234));
    assert_eq!(group_id("no such group").expect("a data base"), None);
    assert_eq!(group_id("a\0b").expect("no group"), None);
}

#[test]
fn the_descriptor_limit_goes_up_to_the_hard_one() {
    let raised = raise_descriptor_limit().expect("allowed");
    assert_eq!(raise_descriptor_limit().expect("allowed"), raised);
    assert!(raised >= 1024);
}
