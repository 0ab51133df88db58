//! The io_uring of one queue thread: the only thing the thread sleeps on.
//!
//! Operations (`ops`) are built straight into the submission queue; nothing is allocated per operation.
//! A loaded iteration costs one enter, an iteration that finds nothing to do costs none.
//!
//! Rules:
//! * R1 **Reserve.** The last [`RESERVE`] free submission entries are for polls, cancellations and
//!   syncs only, so that a flood of data cannot keep a thread from being woken or from syncing.
//! * R2 **Count.** A data operation carries `Token::Io` or `Token::Channel` and is counted from
//!   the push to its last completion. Polls and cancellations are not counted.
//! * R3 **Keep (S3, law L3).** Memory that data operations may touch is given to
//!   [`Ring::hold`]. A ring that is dropped first cancels and waits, bounded; when operations
//!   remain, what it holds is leaked: never unmapped under the kernel's hands.
//! * R4 **Nothing lost.** A refused enter (EAGAIN, EBUSY, EINTR) leaves the entries where they
//!   are: the next enter submits them.
//!
//! # What io_uring offers, and what is used
//!
//! Measured through the whole path, on 2 CPUs with a virtual disk, against the ring as it is; CPU is
//! time per request. The ratios are round by round, [least greatest].
//!
//! * **Registered files**: always (64 slots; a file beyond them goes by its descriptor).
//! * **Registered buffers** (`fixed`): when asked for. Direct I/O of 4 KiB takes 0.92 of the CPU, merged
//!   sequential reads 0.83, 128 KiB 0.74 [0.50 0.86] (reads) and 0.82 [0.57 0.91] (writes), because no
//!   page is looked up and taken a reference of. Without the option nothing changes (0.96 to 1.02).
//!   Not by default: the guest's memory is allocated at once (1.2 s for a GiB that nobody has touched,
//!   0.03 s for one that is there), stays in place, and counts against RLIMIT_MEMLOCK for each queue
//!   thread. Worse, pages that a balloon or free page reporting takes and gives back are others
//!   afterwards: the kernel would go on with the old ones, and the guest would read what it never wrote.
//!   Only who runs the virtual machine knows that it has no such device.
//! * **SINGLE_ISSUER, DEFER_TASKRUN, NO_SQARRAY** (`setup`): the best set that the kernel takes. Between
//!   them and COOP_TASKRUN no difference shows (medians of 0.92 to 1.05 of the CPU, where the same build
//!   beside itself shows 0.96 to 1.03); with none of them 1.04 for reads and 1.20 [1.00 1.48] for writes
//!   on the disk, 0.91 and 0.95 on a loop device, which is noise but for the writes.
//!   Deferred work also comes at one place, when the thread asks for it, and never in the midst of
//!   a sweep.
//! * **SQPOLL**: never. Reads from the disk, 32 at a time: 1.08 [1.03 1.20] of the requests for
//!   3.5 [3.3 3.9] of the CPU, 0.99 and 3.8 with the kernel's thread on the queue thread's CPU; one at a
//!   time 2.3 of the CPU. The null image, one at a time: 0.26 of the requests. A file on tmpfs, which
//!   the kernel's thread leaves to workers as well: 0.11 of what the queue thread's own copies reach.
//!   The queue thread already looks before it sleeps; a second one that looks takes a CPU from the guest.
//!   It would also read vectors after [`Ring::submit`] has returned, which callers rely on it not to.
//! * **IOPOLL**: never. A ring with it refuses to poll eventfds (EINVAL), so that kicks would need a
//!   second ring and the thread a second place to sleep. And it needs a driver with poll queues: tmpfs,
//!   ext4 and XFS on a virtio disk, and a loop device all answer EOPNOTSUPP.
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::token::Token;
use fixed::Fixed;
use gate::Gate;

mod fence;
mod fixed;
mod gate;
mod ops;
mod setup;
#[cfg(test)]
pub(crate) mod tests;

pub use setup::{MAX_DEPTH, MIN_DEPTH, with_halving};

/// Free submission entries that data operations leave to polls, cancellations and syncs (R1).
pub const RESERVE: usize = 2;

/// The most buffers one operation takes (UIO_MAXIOV of Linux). Of a longer list only so many are
/// transferred, which shows as a short transfer.
pub const MAX_BUFS: usize = 1024;

/// Slots of the registered file table. Files beyond it are used by descriptor.
const FILE_SLOTS: u32 = 64;

/// How long a dropped ring waits for its last completions before it leaks.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait when the kernel had no memory for a request and no completion may come.
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(3);

/// No submission entry is free for this kind of operation; nothing has happened. Submit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    /// What the operation was submitted with.
    pub token: Token,
    /// The kernel's answer: a count, a mask, 0, or a negated errno.
    pub res: i32,
    /// The operation goes on and will complete again (multishot). When a multishot poll completes
    /// without it, it has to be armed again.
    pub more: bool,
}

/// A file as the ring knows it: an index into the registered table, or a descriptor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSlot {
    number: RawFd,
    flags: Flags,
}

/// One thread's ring. Made, used and dropped on one thread (not `Send`).
pub struct Ring {
    io: IoUring,
    gate: Gate,
    in_flight: usize,
    held: Vec<Arc<dyn Send + Sync>>,
    /// Which slots of the registered table are taken; empty when there is no table.
    table: Vec<bool>,
    /// Duplicates of the files that found no slot.
    loose: Vec<OwnedFd>,
    uring_cmd: bool,
    fixed: Fixed,
    patience: Duration,
    cancels: bool,
    /// The sign that an enter is wanted never goes down.
    #[cfg(test)]
    pub(crate) nags: bool,
    thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in flight)", self.in_flight)
    }
}

// The ring: making, files, what it keeps.
impl Ring {
    /// A ring with room for about `entries` submissions, for the calling thread.
    ///
    /// The depth is rounded up to a power of two, clamped to [`MIN_DEPTH`]`..=`[`MAX_DEPTH`], and
    /// halved while the kernel lacks memory for it.
    ///
    /// # Errors
    /// One line that says why there can be no ring here, and the remedy.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let io = setup::build(entries)?;
        let table = register_table(&io);
        let known = setup::Known::of(&io);
        let gate = Gate::new(&io);
        Ok(Ring {
            io,
            gate,
            in_flight: 0,
            held: Vec::new(),
            table: if table { vec![false; FILE_SLOTS as usize] } else { Vec::new() },
            loose: Vec::new(),
            uring_cmd: known.uring_cmd,
            fixed: Fixed::new(known.vectored_fixed),
            patience: PATIENCE,
            cancels: true,
            #[cfg(test)]
            nags: false,
            thread: PhantomData,
        })
    }

    /// How many submission entries the ring has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.io.params().sq_entries() as usize
    }

    /// Makes a file known to the ring. The ring has its own reference: `fd` may be closed.
    ///
    /// # Errors
    /// What the kernel answered to registering or duplicating the descriptor.
    pub fn add_file(&mut self, fd: BorrowedFd<'_>) -> io::Result<FileSlot> {
        if let Some(i) = self.table.iter().position(|taken| !taken) {
            let index = u32::try_from(i).map_err(io::Error::other)?;
            self.io.submitter().register_files_update(index, &[fd.as_raw_fd()])?;
            self.table[i] = true;
            let number = RawFd::try_from(index).map_err(io::Error::other)?;
            return Ok(FileSlot { number, flags: Flags::FIXED_FILE });
        }
        let own = fd.try_clone_to_owned()?;
        let number = own.as_raw_fd();
        self.loose.push(own);
        Ok(FileSlot { number, flags: Flags::empty() })
    }

    /// Forgets a file. Operations in flight on it go on.
    pub fn remove_file(&mut self, file: FileSlot) {
        if file.flags.is_empty() {
            self.loose.retain(|own| own.as_raw_fd() != file.number);
        } else if let Ok(index) = u32::try_from(file.number) {
            // A failure leaves the old file in the slot until the next one replaces it.
            let _ = self.io.submitter().register_files_update(index, &[-1]);
            if let Some(taken) = self.table.get_mut(index as usize) {
                *taken = false;
            }
        }
    }

    /// Keeps `what` alive until [`release`](Ring::release), or for ever if the kernel may still
    /// touch it when the ring is dropped (R3).
    pub fn hold<T: Send + Sync + 'static>(&mut self, what: Arc<T>) {
        self.held.push(what);
    }

    /// Lets go of what was held once. The caller knows that no operation in flight names it.
    pub fn release<T: Send + Sync + 'static>(&mut self, what: &Arc<T>) {
        let address = Arc::as_ptr(what).cast::<()>();
        if let Some(i) = self.held.iter().position(|h| Arc::as_ptr(h).cast::<()>() == address) {
            self.held.swap_remove(i);
        }
    }

    /// Data operations pushed and not completed (R2).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

/// What the caller of enter has to do about the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The kernel took everything (and waited, if asked).
    Entered,
    /// The kernel took some entries and returned early: enter again for the rest.
    Partly,
    /// A signal or the time limit ended the wait.
    Woken,
    /// No memory for a request. The entries are still ours; a completion may free some.
    NoMemory,
    /// The completion queue overflows: reap first.
    ReapFirst,
    /// The ring is unusable: a bug or a kernel limit that retrying does not lift.
    Broken,
}

fn verdict(pending: u32, answer: &io::Result<u32>) -> Verdict {
    match answer {
        Ok(n) if *n >= pending => Verdict::Entered,
        Ok(0) => Verdict::NoMemory,
        Ok(_) => Verdict::Partly,
        Err(e) => match e.raw_os_error() {
            Some(libc::EINTR | libc::ETIME) => Verdict::Woken,
            Some(libc::EAGAIN | libc::ENOMEM) => Verdict::NoMemory,
            Some(libc::EBUSY) => Verdict::ReapFirst,
            _ => Verdict::Broken,
        },
    }
}

// Entering and reaping.
impl Ring {
    #[inline]
    fn pending(&mut self) -> u32 {
        let sq = self.io.submission();
        u32::try_from(sq.len()).unwrap_or(u32::MAX)
    }

    /// Whether something was pushed that the kernel has not taken.
    #[must_use]
    pub fn has_unsubmitted(&mut self) -> bool {
        self.pending() > 0
    }

    /// Whether [`submit`](Ring::submit) would make a system call.
    #[inline]
    #[must_use]
    pub fn needs_enter(&mut self) -> bool {
        #[cfg(test)]
        if self.nags {
            return true;
        }
        let sq = self.io.submission();
        !sq.is_empty() || sq.taskrun() || sq.cq_overflow()
    }

    /// Hands everything pushed to the kernel and lets finished operations post their completions,
    /// without waiting. No system call when there is neither.
    ///
    /// When the kernel lacks memory or completions must be reaped first, entries stay queued for
    /// the next call (R4).
    ///
    /// # Errors
    /// Only what makes the ring unusable.
    #[inline]
    pub fn submit(&mut self) -> io::Result<()> {
        if !self.needs_enter() {
            return Ok(());
        }
        loop {
            let pending = self.pending();
            let answer = self.gate.enter(pending, 0, None);
            match verdict(pending, &answer) {
                Verdict::Partly => {}
                Verdict::Woken if pending > 0 => {}
                Verdict::Broken => return answer.map(drop),
                _ => return Ok(()),
            }
        }
    }

    /// As [`submit`](Ring::submit), then sleeps until there is a completion, at most for `limit`.
    /// Returns at once when completions wait already. May return without a completion (a signal,
    /// want of memory): the caller looks and comes again.
    ///
    /// # Errors
    /// Only what makes the ring unusable.
    pub fn submit_and_wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        if self.has_completions() {
            return self.submit();
        }
        let limit = limit.map(Timespec::from);
        loop {
            let pending = self.pending();
            let answer = self.gate.enter(pending, 1, limit.as_ref());
            match verdict(pending, &answer) {
                Verdict::Entered | Verdict::Woken => return Ok(()),
                Verdict::Partly => {}
                Verdict::NoMemory => {
                    let pause = Timespec::from(NO_MEMORY_PAUSE);
                    return self.enter_empty(1, Some(&pause));
                }
                Verdict::ReapFirst => return self.enter_empty(0, None),
                Verdict::Broken => return answer.map(drop),
            }
        }
    }

    fn enter_empty(&mut self, want: u32, limit: Option<&Timespec>) -> io::Result<()> {
        let answer = self.gate.enter(0, want, limit);
        match verdict(0, &answer) {
            Verdict::Broken => answer.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether [`pop`](Ring::pop) has something to give.
    #[inline]
    #[must_use]
    pub fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty()
    }

    /// The next completion, without a system call.
    #[inline]
    pub fn pop(&mut self) -> Option<Cqe> {
        loop {
            let cqe = self.io.completion().next()?;
            let more = cqueue::more(cqe.flags());
            let Some(token) = Token::decode(cqe.user_data()) else {
                debug_assert!(false, "a completion nobody asked for: {cqe:?}");
                continue;
            };
            if matches!(token, Token::Io(_) | Token::Channel { .. }) && !more {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            return Some(Cqe { token, res: cqe.result(), more });
        }
    }

    /// Cancels what can be cancelled and waits for the rest, at most for the ring's patience.
    fn drain(&mut self) {
        let deadline = Instant::now() + self.patience;
        if self.cancels {
            let any = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            // A full queue or an old kernel only means that we wait instead.
            let _ = self.push(any, Token::Ignore, 0);
        }
        while self.in_flight > 0 {
            while self.pop().is_some() {}
            let left = deadline.saturating_duration_since(Instant::now());
            if self.in_flight == 0 || left.is_zero() {
                return;
            }
            if self.submit_and_wait(Some(left)).is_err() {
                return;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.drain();
        }
        if self.in_flight > 0 {
            log::error!("io_uring: {} operations never completed; leaking", self.in_flight);
            for kept in self.held.drain(..) {
                std::mem::forget(kept);
            }
        } else if !self.table.is_empty() {
            // Closing the ring would let go of the files some time later, and with them of the
            // image locks. Polls do not use the table, so nothing has to be waited for.
            let _ = self.io.submitter().unregister_files();
        }
        self.gate.close();
    }
}

/// Registers an empty file table; `false` when the kernel has none for us.
fn register_table(io: &IoUring) -> bool {
    io.submitter().register_files_sparse(FILE_SLOTS).is_ok()
        || io.submitter().register_files(&[-1; FILE_SLOTS as usize]).is_ok()
}
