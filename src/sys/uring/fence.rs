//! What a ring can never be asked: no filter of system calls sees its operations, so the kernel itself
//! is told which there are (IORING_REGISTER_RESTRICTIONS, Linux 5.10), before the first.
//!
//! Whoever takes a queue thread over has the ring's memory, and may write any entry there. What is
//! left are transfers between files that the ring or the thread has and memory that it has: no
//! file is opened, no socket made or connected, no message sent, no descriptor passed on.
//!
//! Only in a process with a sandbox, whose other half it is; and for as long as the ring lives.

use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode, squeue};

use crate::sys::sandbox;

/// Operations that entries may have, of those that the kernel knows.
const OPERATIONS: [u8; 15] = [
    opcode::Nop::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::PollAdd::CODE,
    opcode::PollRemove::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Fallocate::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::UringCmd16::CODE,
    opcode::ReadvFixed::CODE,
    opcode::WritevFixed::CODE,
];

/// What may be registered (linux/io_uring.h): buffers and files, and the probe.
const REGISTRATIONS: [u8; 10] = [
    0,  // IORING_REGISTER_BUFFERS
    1,  // IORING_UNREGISTER_BUFFERS
    2,  // IORING_REGISTER_FILES
    3,  // IORING_UNREGISTER_FILES
    6,  // IORING_REGISTER_FILES_UPDATE
    8,  // IORING_REGISTER_PROBE
    13, // IORING_REGISTER_FILES2
    14, // IORING_REGISTER_FILES_UPDATE2
    15, // IORING_REGISTER_BUFFERS2
    16, // IORING_REGISTER_BUFFERS_UPDATE
];

/// The ring's own descriptor, which older kernels do not know (Linux 5.18).
const RING_DESCRIPTOR: [u8; 2] = [20, 21];

/// Whether a ring of this process gets a fence: it is made disabled then, and [`close`]d.
pub(super) fn wanted() -> bool {
    sandbox::is_confined()
}

/// Puts the fence around a ring that was made disabled, and enables it.
///
/// # Errors
/// What the kernel answered.
pub(super) fn close(ring: &IoUring) -> io::Result<()> {
    let submitter = ring.submitter();
    let mut probe = Probe::new();
    submitter.register_probe(&mut probe)?;
    let known = |code: &u8| probe.is_supported(*code);
    let operations: Vec<u8> = OPERATIONS.into_iter().filter(known).collect();
    let mut refusal = Ok(());
    for more in [&RING_DESCRIPTOR[..], &[]] {
        let mut list: Vec<_> = operations.iter().map(|code| Restriction::sqe_op(*code)).collect();
        let registrations = REGISTRATIONS.iter().chain(more);
        list.extend(registrations.map(|code| Restriction::register_op(*code)));
        let flags = squeue::Flags::FIXED_FILE | squeue::Flags::ASYNC | squeue::Flags::IO_LINK;
        list.push(Restriction::sqe_flags_allowed(flags.bits()));
        refusal = submitter.register_restrictions(&mut list);
        match &refusal {
            Ok(()) => return submitter.register_enable_rings(),
            // A number that this kernel does not know.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(_) => break,
        }
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::types;

    fn fenced() -> IoUring {
        let ring = IoUring::builder().setup_r_disabled().build(8).expect("a kernel with io_uring");
        close(&ring).expect("Linux 5.10");
        ring
    }

    /// The kernel's answer to one entry.
    #[allow(unsafe_code, reason = "entries that name nothing, or what outlives them")]
    fn answer(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: what the entries of these tests name is static, or nothing.
        unsafe { ring.submission().push(entry) }.expect("room");
        ring.submit_and_wait(1).expect("one entry");
        ring.completion().next().expect("waited for").result()
    }

    #[test]
    fn nothing_is_opened_through_a_fenced_ring() {
        let at = types::Fd(libc::AT_FDCWD);
        let open = opcode::OpenAt::new(at, c"/etc/passwd".as_ptr()).build();
        let socket = opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build();
        let nop = opcode::Nop::new().build();
        let mut free = IoUring::new(8).expect("a kernel with io_uring");
        assert!(answer(&mut free, &open) > 0 && answer(&mut free, &socket) > 0, "otherwise it is");
        let mut ring = fenced();
        assert_eq!(answer(&mut ring, &open), -libc::EACCES);
        assert_eq!(answer(&mut ring, &socket), -libc::EACCES);
        assert_eq!(answer(&mut ring, &nop), 0);
        let drained = opcode::Nop::new().build().flags(squeue::Flags::IO_DRAIN);
        assert_eq!(answer(&mut ring, &drained), -libc::EACCES, "a flag that is not ours");
    }

    #[test]
    fn a_fence_stays_and_lets_files_through() {
        let ring = fenced();
        let again = close(&ring).expect_err("it is enabled");
        assert_ne!(again.raw_os_error(), None);
        let submitter = ring.submitter();
        submitter.register_files_sparse(4).expect("files are registered");
        submitter.register_files_update(0, &[0]).expect("and changed");
        let denied = submitter.register_eventfd(0).expect_err("not ours");
        assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
        let denied = submitter.register_personality().expect_err("not ours");
        assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_disabled_ring_does_nothing_before_it_is_fenced() {
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(8).expect("io_uring");
        assert_eq!(ring.submit().expect_err("disabled").raw_os_error(), Some(libc::EBADFD));
    }
}
