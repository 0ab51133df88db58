//! Forbidden deeds, for tests that do them in a closed thread of a process of their own.

use std::io;

use io_uring::{IoUring, opcode, types};

/// Makes a system call with whatever arguments a test wants to see refused. They must be such that
/// nothing is written to this process when the call is made after all.
pub(crate) fn system_call(number: libc::c_long, args: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: by what is said above.
    let got = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got) }
}

/// An io_uring that was made while the thread was open.
pub(crate) struct OldRing(IoUring);

impl OldRing {
    pub(crate) fn new() -> OldRing {
        OldRing(IoUring::new(4).expect("a kernel with io_uring"))
    }

    /// Opens a file through it, where no filter sees the call.
    pub(crate) fn open(&mut self, path: &std::ffi::CStr) -> io::Result<()> {
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        // SAFETY: the path outlives the operation, which is waited for.
        unsafe { self.0.submission().push(&entry) }.expect("room");
        self.0.submit_and_wait(1)?;
        let answer = self.0.completion().next().expect("waited for").result();
        if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
    }
}
