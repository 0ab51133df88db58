//! Sessions over a real socket, with a fake queue thread behind and a scripted front-end before.

use super::*;

mod changes;
mod descriptors;
mod inflight;
mod orders;
mod random;
mod reference;
mod refusals;
mod resize;

#[test]
fn requests_are_printed_by_name() {
    assert_eq!(Request(8).to_string(), "SET_VRING_NUM");
    assert_eq!(Request(99).to_string(), "message 99");
    assert_eq!(Request(0).to_string(), "message 0");
}

#[test]
fn a_closed_connection_is_a_clean_end() {
    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe] {
        assert!(socket_end(kind.into()).is_clean());
    }
    let end = socket_end(io::Error::from_raw_os_error(libc::ENOMEM));
    assert!(!end.is_clean());
    assert!(end.to_string().starts_with("the connection failed: "), "{end}");
}
