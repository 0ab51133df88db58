//! The system calls of a ring: io_uring_enter(2), through the registered descriptor if there is
//! one. The crate's own submitter forgets a registered ring descriptor with every borrow.
#![allow(unsafe_code, reason = "system calls without a wrapper in the crates we use")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring};

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_rsrc_update` of linux/io_uring.h.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

/// Where a ring is entered. Belongs to the thread that made it, as the registration does.
pub(super) struct Gate {
    ring_fd: RawFd,
    enter_fd: RawFd,
    enter_flags: EnterFlags,
}

impl Gate {
    /// The gate of `ring`, registered with the calling thread when the kernel can (Linux 5.18).
    pub(super) fn new(ring: &IoUring) -> Gate {
        let ring_fd = ring.as_raw_fd();
        match register(ring_fd) {
            Some(index) => {
                Gate { ring_fd, enter_fd: index, enter_flags: EnterFlags::REGISTERED_RING }
            }
            None => Gate { ring_fd, enter_fd: ring_fd, enter_flags: EnterFlags::empty() },
        }
    }

    /// Submits `to_submit` entries, runs task work, and waits for `want` completions, at most
    /// for `limit`. Returns how many entries the kernel took.
    #[inline]
    pub(super) fn enter(
        &self,
        to_submit: u32,
        want: u32,
        limit: Option<&Timespec>,
    ) -> io::Result<u32> {
        let flags = self.enter_flags | EnterFlags::GETEVENTS;
        let rc = match limit {
            None => self.call(to_submit, want, flags, ptr::null(), 0),
            Some(ts) => {
                let args = SubmitArgs::new().timespec(ts);
                let arg = ptr::from_ref(&args).cast();
                self.call(to_submit, want, flags | EnterFlags::EXT_ARG, arg, size_of_val(&args))
            }
        };
        u32::try_from(rc).map_err(|_| io::Error::last_os_error())
    }

    #[inline]
    fn call(
        &self,
        to_submit: u32,
        want: u32,
        flags: EnterFlags,
        arg: *const libc::c_void,
        len: usize,
    ) -> libc::c_long {
        // SAFETY: the descriptor is the ring's (the owner of this gate keeps it open); `arg` is
        // null or points at a live SubmitArgs of `len` bytes. What the submitted entries name is
        // kept by S3.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                want,
                flags.bits(),
                arg,
                len,
            )
        }
    }

    /// Gives the registration back: it would keep the ring alive until the thread ends.
    pub(super) fn close(&mut self) {
        if !self.enter_flags.is_empty() {
            if let Ok(offset) = u32::try_from(self.enter_fd) {
                let mut update = RsrcUpdate { offset, resv: 0, data: 0 };
                // A failure leaves the registration to the end of the thread: nothing to do.
                let _ = update_ring_fds(self.ring_fd, UNREGISTER_RING_FDS, &mut update);
            }
            self.enter_fd = self.ring_fd;
            self.enter_flags = EnterFlags::empty();
        }
    }
}

/// Registers the ring's descriptor with the calling thread; the index, if the kernel gave one.
fn register(ring_fd: RawFd) -> Option<RawFd> {
    let data = u64::try_from(ring_fd).ok()?;
    let mut update = RsrcUpdate { offset: u32::MAX, resv: 0, data };
    let done = update_ring_fds(ring_fd, REGISTER_RING_FDS, &mut update);
    (done == 1).then(|| RawFd::try_from(update.offset).ok()).flatten()
}

fn update_ring_fds(ring_fd: RawFd, opcode: libc::c_uint, update: &mut RsrcUpdate) -> libc::c_long {
    // SAFETY: one element of the right layout, which the kernel reads and fills during the call.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring_fd,
            opcode,
            ptr::from_mut(update),
            1 as libc::c_uint,
        )
    }
}
