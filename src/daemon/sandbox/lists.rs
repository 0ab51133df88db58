//! What each kind of thread may ask of the kernel once everything is open.
//!
//! A list is what the code does after that point, and nothing that it does before. Each is sorted by
//! name, and a kind has the lists that [`of`] names. Threads that are made by closed ones inherit
//! the filters of their makers, so a maker's own filter also allows what those may do.
//!
//! No list has `execve`, `fork`, `socket`, `connect`, `bind`, `kill`, `ptrace`, `io_uring_setup` or a
//! call that opens a file. A planned restart, which has to start a successor, cannot be a row in
//! [`MAIN`]: what is executed here would inherit these filters and could open nothing itself. It
//! belongs to a process that stays outside (the service manager, or a child that is made before the
//! sandbox closes) and that is handed the descriptors.

use super::call::{Cond, Row, Rule, call};
use crate::sys::sandbox::Thread;

/// Memory that code may be executed from is never made.
const NOT_EXECUTABLE: Rule = Rule::If(&[&[Cond::Bits(2, bits(libc::PROT_EXEC), 0)]]);

/// Files are not looked for any more. What asks all the same (a panic that looks for the names of
/// functions, the C library for the number of CPUs) gets along without an answer.
const REFUSED: Rule = Rule::Refuse(libc::EACCES);

/// A number as an argument carries it.
const fn bits(number: libc::c_int) -> u64 {
    number.cast_unsigned() as u64
}

/// Of every thread: memory, waiting for each other, the clock, log lines, and the end.
pub(super) const BASE: &[Row] = &[
    call!(SYS_brk),
    call!(SYS_clock_gettime),
    call!(SYS_clock_nanosleep),
    call!(SYS_close),
    call!(SYS_exit),
    call!(SYS_exit_group),
    call!(SYS_faccessat, REFUSED),
    call!(SYS_faccessat2, REFUSED),
    // std looks whether what it closes is open, where overflows are checked as well.
    call!(SYS_fcntl, Rule::If(&[&[Cond::Is(1, bits(libc::F_GETFD))]])),
    call!(SYS_futex),
    call!(SYS_getcwd, REFUSED),
    call!(SYS_getpid),
    call!(SYS_getrandom),
    call!(SYS_gettid),
    call!(SYS_madvise),
    call!(SYS_mmap, NOT_EXECUTABLE),
    call!(SYS_mprotect, NOT_EXECUTABLE),
    call!(SYS_mremap),
    call!(SYS_munmap),
    call!(SYS_nanosleep),
    call!(SYS_newfstatat, REFUSED),
    call!(SYS_openat, REFUSED),
    call!(SYS_readlinkat, REFUSED),
    call!(SYS_restart_syscall),
    // A crash ends with the signal that it began with.
    call!(
        SYS_rt_sigaction,
        Rule::If(&[
            &[Cond::Is(0, bits(libc::SIGABRT))],
            &[Cond::Is(0, bits(libc::SIGBUS))],
            &[Cond::Is(0, bits(libc::SIGSEGV))],
        ])
    ),
    call!(SYS_rt_sigprocmask),
    call!(SYS_rt_sigreturn),
    call!(SYS_sched_getaffinity),
    call!(SYS_sched_yield),
    call!(SYS_sigaltstack),
    call!(SYS_statx, REFUSED),
    // abort(3), and nobody but ourselves.
    call!(SYS_tgkill, Rule::If(&[&[Cond::OwnProcess(0), Cond::Is(2, bits(libc::SIGABRT))]])),
    call!(SYS_write),
    call!(SYS_writev),
];

/// The older names that some architectures have for calls of [`BASE`].
#[cfg(target_arch = "x86_64")]
pub(super) const BASE_OLD: &[Row] = &[
    call!(SYS_access, REFUSED),
    call!(SYS_lstat, REFUSED),
    call!(SYS_open, REFUSED),
    call!(SYS_readlink, REFUSED),
    call!(SYS_stat, REFUSED),
    call!(SYS_time),
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const BASE_OLD: &[Row] = &[];

/// A queue thread: its io_uring, which it has already, and what it does itself for an image in
/// memory. Files are added to the ring by number (`io_uring_register`) when a disk comes to this
/// thread; the ring's own operations pass no filter, so Landlock stands behind this list.
pub(super) const QUEUE: &[Row] = &[
    // A file that finds no place in the ring's table is kept as a descriptor of its own; and whether
    // a bell may block is asked before it is rung.
    call!(
        SYS_fcntl,
        Rule::If(&[
            &[Cond::Is(1, bits(libc::F_DUPFD_CLOEXEC))],
            &[Cond::Is(1, bits(libc::F_GETFL))],
        ])
    ),
    call!(SYS_io_uring_enter),
    call!(SYS_io_uring_register),
    call!(SYS_ppoll),
    call!(SYS_preadv),
    call!(SYS_preadv2),
    call!(SYS_pwritev),
    call!(SYS_pwritev2),
];

/// One front-end's connection: messages with descriptors, guest memory, the in-flight region, and the
/// image's locks.
pub(super) const SESSION: &[Row] = &[
    call!(SYS_epoll_create1),
    call!(SYS_epoll_ctl),
    call!(SYS_eventfd2),
    call!(
        SYS_fcntl,
        Rule::If(&[
            &[Cond::Is(1, bits(libc::F_ADD_SEALS))],
            &[Cond::Is(1, bits(libc::F_DUPFD_CLOEXEC))],
            &[Cond::Is(1, bits(libc::F_GETFD))],
            &[Cond::Is(1, bits(libc::F_GETFL))],
            &[Cond::Is(1, bits(libc::F_GET_SEALS))],
            &[Cond::Is(1, bits(libc::F_OFD_GETLK))],
            &[Cond::Is(1, bits(libc::F_OFD_SETLK))],
            &[Cond::Is(1, bits(libc::F_SETFD))],
        ])
    ),
    // A guest that turns its write cache off has what it wrote made durable.
    call!(SYS_fdatasync),
    call!(SYS_fstat),
    call!(SYS_fstatfs),
    call!(SYS_ftruncate),
    call!(SYS_getpeername),
    call!(SYS_getsockname),
    call!(SYS_getsockopt),
    call!(SYS_ioctl, Rule::If(&[&[Cond::Is(1, libc::FIONBIO)]])),
    call!(SYS_lseek),
    call!(SYS_memfd_create),
    call!(SYS_newfstatat),
    call!(SYS_ppoll),
    call!(SYS_read),
    call!(SYS_recvfrom),
    call!(SYS_recvmsg),
    call!(SYS_sendmsg),
    call!(SYS_sendto),
    call!(SYS_setsockopt),
    call!(SYS_shutdown),
    call!(SYS_statx),
];

/// A client of the admin socket: lines to and fro, and the sizes of images that are open, asked and
/// made.
pub(super) const CLIENT: &[Row] = &[
    call!(SYS_eventfd2),
    call!(
        SYS_fcntl,
        Rule::If(&[
            &[Cond::Is(1, bits(libc::F_DUPFD_CLOEXEC))],
            &[Cond::Is(1, bits(libc::F_GETFD))],
            &[Cond::Is(1, bits(libc::F_GETFL))],
            &[Cond::Is(1, bits(libc::F_OFD_GETLK))],
            &[Cond::Is(1, bits(libc::F_OFD_SETLK))],
        ])
    ),
    call!(SYS_fdatasync),
    call!(SYS_fstat),
    call!(SYS_ftruncate),
    call!(SYS_ioctl, Rule::If(&[&[Cond::Is(1, BLKGETSIZE64)], &[Cond::Is(1, libc::FIONBIO)]])),
    call!(SYS_lseek),
    call!(SYS_newfstatat),
    call!(SYS_ppoll),
    call!(SYS_read),
    call!(SYS_recvfrom),
    call!(SYS_sendto),
    call!(SYS_shutdown),
    call!(SYS_statx),
];

/// The size of a block device (linux/fs.h: `_IOR(0x12, 114, size_t)`, the same on all 64-bit hosts
/// that seccompiler knows).
const BLKGETSIZE64: u64 = 0x8008_1272;

/// Whoever lets others in and makes their threads.
pub(super) const DOOR: &[Row] = &[
    call!(SYS_accept4),
    call!(SYS_clone, Rule::If(&[&[Cond::Bits(0, THREAD_MASK, THREAD)]])),
    // Its flags lie in memory, where no filter sees them. The C library falls back to clone.
    call!(SYS_clone3, Rule::Refuse(libc::ENOSYS)),
    call!(SYS_epoll_create1),
    call!(SYS_epoll_ctl),
    call!(SYS_epoll_pwait),
    call!(SYS_eventfd2),
    call!(SYS_fcntl, Rule::If(&[&[Cond::Is(1, bits(libc::F_DUPFD_CLOEXEC))]])),
    call!(SYS_getsockname),
    // The new thread's name, and its own filters.
    call!(
        SYS_prctl,
        Rule::If(&[
            &[Cond::Is(0, bits(libc::PR_SET_NAME))],
            &[Cond::Is(0, bits(libc::PR_SET_NO_NEW_PRIVS))],
            &[Cond::Is(0, bits(libc::PR_SET_VMA))],
        ])
    ),
    call!(SYS_read),
    call!(SYS_recvfrom),
    call!(SYS_rseq),
    call!(SYS_seccomp, Rule::If(&[&[Cond::Is(0, libc::SECCOMP_SET_MODE_FILTER as u64)]])),
    call!(SYS_sendto),
    call!(SYS_set_robust_list),
    call!(SYS_shutdown),
];

/// What makes a thread and nothing else: neither a process nor a namespace.
const THREAD: u64 = bits(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND);
const THREAD_MASK: u64 = THREAD
    | bits(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_VFORK
            | libc::CLONE_PTRACE,
    );

/// The main thread: beside its door the end of the process, when images are synced and the sockets'
/// files removed (which ones, Landlock says); and what the thread does that it makes for SIGHUP, which
/// asks for the sizes of images.
pub(super) const MAIN: &[Row] = &[
    call!(SYS_fdatasync),
    call!(SYS_fsync),
    call!(SYS_ioctl, Rule::If(&[&[Cond::Is(1, BLKGETSIZE64)]])),
    call!(SYS_lseek),
    call!(SYS_newfstatat),
    call!(SYS_statx),
    call!(SYS_unlinkat),
];

/// The older names that some architectures have for calls of the lists above.
#[cfg(target_arch = "x86_64")]
pub(super) mod old {
    use super::{Row, call};

    pub(in super::super) const WAITS: &[Row] = &[call!(SYS_poll)];
    pub(in super::super) const DOOR: &[Row] = &[call!(SYS_epoll_wait)];
    pub(in super::super) const MAIN: &[Row] = &[call!(SYS_lstat), call!(SYS_unlink)];
}
#[cfg(not(target_arch = "x86_64"))]
pub(super) mod old {
    use super::Row;

    pub(in super::super) const WAITS: &[Row] = &[];
    pub(in super::super) const DOOR: &[Row] = &[];
    pub(in super::super) const MAIN: &[Row] = &[];
}

/// The lists of a kind of thread; those of what it makes are not among them.
pub(super) fn of(thread: Thread) -> &'static [&'static [Row]] {
    match thread {
        Thread::Main => &[BASE, BASE_OLD, DOOR, old::DOOR, MAIN, old::MAIN],
        Thread::Session => &[BASE, BASE_OLD, SESSION, old::WAITS],
        Thread::Queue => &[BASE, BASE_OLD, QUEUE, old::WAITS],
        Thread::Watch => &[BASE, BASE_OLD],
        Thread::Admin => &[BASE, BASE_OLD, DOOR, old::DOOR],
        Thread::Client => &[BASE, BASE_OLD, CLIENT, old::WAITS],
    }
}

/// Calls that are on no list and that somebody who got in would like: with their names in the report
/// of what would be killed.
pub(super) const WANTED: &[Row] = &[
    call!(SYS_bind),
    call!(SYS_bpf),
    call!(SYS_capset),
    call!(SYS_chdir),
    call!(SYS_chroot),
    call!(SYS_connect),
    call!(SYS_execve),
    call!(SYS_execveat),
    call!(SYS_fchmod),
    call!(SYS_fchown),
    call!(SYS_init_module),
    call!(SYS_io_uring_setup),
    call!(SYS_kexec_load),
    call!(SYS_keyctl),
    call!(SYS_kill),
    call!(SYS_linkat),
    call!(SYS_listen),
    call!(SYS_mkdirat),
    call!(SYS_mount),
    call!(SYS_open_by_handle_at),
    call!(SYS_openat2),
    call!(SYS_perf_event_open),
    call!(SYS_personality),
    call!(SYS_pidfd_getfd),
    call!(SYS_pidfd_open),
    call!(SYS_pivot_root),
    call!(SYS_process_vm_readv),
    call!(SYS_process_vm_writev),
    call!(SYS_ptrace),
    call!(SYS_renameat2),
    call!(SYS_setns),
    call!(SYS_setresgid),
    call!(SYS_setresuid),
    call!(SYS_shmat),
    call!(SYS_socket),
    call!(SYS_socketpair),
    call!(SYS_symlinkat),
    call!(SYS_truncate),
    call!(SYS_umask),
    call!(SYS_unshare),
    call!(SYS_userfaultfd),
    call!(SYS_wait4),
];
