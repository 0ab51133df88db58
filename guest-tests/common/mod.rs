//! What the tests of the running program share: starting it, watching it, and two independent
//! drivers (libblkio and virtio-driver) that do I/O through its socket.
#![allow(dead_code, reason = "every test program uses its own part of this room")]

pub(crate) mod admin;
pub(crate) mod beside;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod driver;
pub(crate) mod foreign;
pub(crate) mod model;
pub(crate) mod peer;
pub(crate) mod rng;
pub(crate) mod session;

/// Says something about the run that a reader of the output should know, e.g. why it proves less
/// on this machine.
#[allow(clippy::print_stderr, reason = "a test's output is where a skipped proof is announced")]
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}
