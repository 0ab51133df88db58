//! Each thread gives away what it does not need any more, once, when everything it needs is open.
//!
//! What that is the daemon decides and says with [`arm`], before it starts a thread. A thread then
//! says with [`enter`] which kind it is. In a process that was never armed that does nothing.
//!
//! * G1 **By itself.** Linux keeps ids, capabilities, Landlock domains and system call filters for
//!   each thread. A thread that starts before everything is open (a queue thread does) closes
//!   itself before it serves anything; the main thread closes itself last. Threads that are made by
//!   a closed one inherit all that, and enter to give away the rest.
//! * G2 **Only in, never out.** Nothing here can be taken back, by nobody in the process, and the
//!   filters allow no call that would try.
//! * G3 **In this order**: ids (which takes capabilities), no new privileges, Landlock,
//!   capabilities, system calls last, because the filters allow none of those before.
#![allow(unsafe_code, reason = "prctl and asking for Landlock's version have no safe interface")]

pub mod privileges;
mod report;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::sync::OnceLock;

use landlock::RulesetCreated;
use seccompiler::BpfProgram;

use self::privileges::Ids;

/// The kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thread {
    /// The one that waits for signals and front-ends.
    Main,
    /// Serves one front-end's connection.
    Session,
    /// Serves virtqueues: the only one that meets what a guest wrote, at every request.
    Queue,
    /// Logs for queue threads.
    Watch,
    /// Lets clients of the admin socket in.
    Admin,
    /// Serves one of them.
    Client,
}

impl Thread {
    /// All of them.
    pub const ALL: [Thread; 6] = [
        Thread::Main,
        Thread::Session,
        Thread::Queue,
        Thread::Watch,
        Thread::Admin,
        Thread::Client,
    ];

    /// The kind in words, for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Thread::Main => "main",
            Thread::Session => "session",
            Thread::Queue => "queue",
            Thread::Watch => "watch",
            Thread::Admin => "admin",
            Thread::Client => "admin client",
        }
    }

    /// The kind whose threads make these, when they are closed already (G1). The makers' filters
    /// have to allow what these may do.
    #[must_use]
    pub const fn maker(self) -> Option<Thread> {
        match self {
            Thread::Session => Some(Thread::Main),
            Thread::Client => Some(Thread::Admin),
            Thread::Main | Thread::Queue | Thread::Watch | Thread::Admin => None,
        }
    }
}

/// What a kind of thread keeps.
#[derive(Default)]
pub struct Walls {
    /// What it may reach by name; `None` where the kernel has no Landlock.
    pub landlock: Option<RulesetCreated>,
    /// What it may ask of the kernel: all of them judge each call, the strictest wins. Installed in
    /// this order, so only the last may forbid to install.
    pub filters: Vec<BpfProgram>,
}

/// Number and name of a system call.
pub type CallName = (libc::c_long, &'static str);

/// What every thread gives away.
pub struct Policy {
    /// Whom to become.
    pub ids: Option<Ids>,
    /// Whether privileges go, and walls come: all but the ids.
    pub confined: bool,
    /// What a filter with the action "trap" finds is refused and told, with these names.
    pub report: Option<&'static [CallName]>,
    /// By kind.
    pub walls: Vec<(Thread, Walls)>,
}

static ARMED: OnceLock<Policy> = OnceLock::new();

/// Decides what threads give away that [`enter`] from now on. To be called once, by a process that
/// has no other thread yet.
///
/// # Errors
/// `AlreadyExists` for a second policy; what sigaction(2) answered.
pub fn arm(policy: Policy) -> io::Result<()> {
    let reports = policy.report.is_some();
    ARMED.set(policy).map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))?;
    if reports { report::catch() } else { Ok(()) }
}

/// Whether threads that enter give away more than their ids.
#[must_use]
pub fn is_confined() -> bool {
    ARMED.get().is_some_and(|policy| policy.confined)
}

/// Whom threads become that enter; `None` when they stay who they are.
#[must_use]
pub fn ids() -> Option<Ids> {
    ARMED.get().and_then(|policy| policy.ids)
}

/// Closes the calling thread. Does nothing in a process that is not armed.
///
/// # Errors
/// What the kernel answered. The thread must not serve anything then.
pub fn enter(thread: Thread) -> io::Result<()> {
    let Some(policy) = ARMED.get() else { return Ok(()) };
    report::this_is(thread);
    let walls = policy.walls.iter().find(|(of, _)| *of == thread).map(|(_, walls)| walls);
    if thread.maker().is_none() {
        if let Some(ids) = policy.ids {
            privileges::become_user(ids)?;
        }
        if policy.confined {
            no_new_privileges()?;
            if let Some(rules) = walls.and_then(|walls| walls.landlock.as_ref()) {
                rules.try_clone()?.restrict_self().map_err(io::Error::other)?;
            }
            privileges::drop_capabilities()?;
        }
    }
    for filter in walls.iter().flat_map(|walls| &walls.filters) {
        seccompiler::apply_filter(filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Nothing that is executed gives this thread more than it has.
fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers only.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel filters system calls and can kill for them (Linux 4.14).
///
/// # Errors
/// What seccomp(2) answered: ENOSYS or EINVAL without filters, EOPNOTSUPP without the action.
pub fn seccomp_works() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads the action, which lives during the call.
    let rc = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The version of Landlock's interface that the kernel has; `None` when it has none, or was booted
/// without.
#[must_use]
pub fn landlock_version() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes no ruleset and only answers a number.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0 as libc::size_t,
            VERSION,
        )
    };
    u32::try_from(rc).ok().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_armed_stays_open() {
        for thread in Thread::ALL {
            enter(thread).expect("nothing is done");
        }
        std::fs::File::open("/etc/passwd").expect("nothing keeps it from that");
    }

    #[test]
    fn the_makers_of_threads_are_made_outside() {
        for thread in Thread::ALL {
            if let Some(maker) = thread.maker() {
                assert_eq!(maker.maker(), None, "{thread:?} would inherit from two");
            }
        }
    }

    #[test]
    fn the_kernel_of_the_tests_has_what_is_tested() {
        seccomp_works().expect("filters");
        assert!(landlock_version().is_some_and(|version| version >= 1));
    }
}
