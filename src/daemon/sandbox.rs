//! The sandbox: what each thread may still do once everything is open.
//!
//! * X1 **On unless said otherwise.** `--sandbox=off` is the only way around it. A kernel without
//!   system call filters is an error that names that option; one without Landlock is a warning,
//!   because the filters stand alone then.
//! * X2 **Everything is opened before.** Images, sockets, rings and threads of the start exist when the
//!   main thread closes itself; queue threads close themselves as soon as they have their ring. So
//!   nothing that is configured can be forbidden by it.
//! * X3 **Who is inside is who can be talked to.** A front-end reaches a session and its queue threads,
//!   an operator a client's thread: none of them can open a file, make a socket or a process, or
//!   reach another process. What is left to them is what they hold: the disks of this process,
//!   and the memory of the front-ends that are connected.
//! * X4 **Landlock stands behind the filters**, which see no operation of an io_uring. Nobody
//!   may open anything by name; the main thread may remove the socket files at the end.
//!
//! `lists` has the calls of each kind of thread, `call` makes filters of them, and what happens in a
//! thread is [`crate::sys::sandbox`].

mod call;
mod lists;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};
use log::{info, warn};
use seccompiler::SeccompAction;

use crate::config::{Config, Sandbox, Socket, User};
use crate::sys::sandbox::privileges::{self, Ids};
use crate::sys::sandbox::{self, CallName, Policy, Thread, Walls};
use crate::sys::socket;

/// Why the sandbox cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No system call filters.
    #[error(
        "this kernel cannot filter system calls ({0}): use one with CONFIG_SECCOMP_FILTER (Linux \
         4.14 or newer, and a container that lets seccomp(2) through), or say --sandbox=off"
    )]
    NoSeccomp(io::Error),
    /// Filters for another kind of machine.
    #[error("there are no system call filters for this machine ({0}): say --sandbox=off")]
    NoFilter(String),
    /// Landlock is there and fails.
    #[error("Landlock refuses its rules ({0}): say --sandbox=off, and report it")]
    Landlock(#[from] RulesetError),
    /// `--user` names nobody.
    #[error("--user={0}: there is no such user: give one of /etc/passwd, or a number")]
    NoUser(String),
    /// `--user` names a number without a group.
    #[error("--user={0}: the system does not know its group: give it as --user={0}:GROUP")]
    NoGroupOf(String),
    /// `--user` names a group that is none.
    #[error("--user: there is no group {0}: give one of /etc/group, or a number")]
    NoGroup(String),
    /// The data base of users.
    #[error("--user={0}: cannot look it up ({1}): give numbers, as in --user=107:36")]
    Lookup(String, io::Error),
    /// Only root may become somebody else.
    #[error("--user={0}: this process may not become another user: start it as root, or as {0}")]
    NotRoot(String),
    /// A thread could not give something away.
    #[error("the sandbox cannot be closed ({0}): look at limits of memory and descriptors")]
    Enter(io::Error),
}

/// Decides what threads give away. To be called before there are any, and before the main thread opens
/// anything: what is asked of the system here cannot be asked later.
///
/// # Errors
/// Whatever keeps the sandbox from being had; nothing is given away then.
pub(super) fn arm(config: &Config) -> Result<(), SandboxError> {
    let policy = policy(config)?;
    if policy.confined || policy.ids.is_some() {
        sandbox::arm(policy).map_err(SandboxError::Enter)?;
    }
    Ok(())
}

/// Closes the main thread.
///
/// # Errors
/// What the kernel answered: nothing may be served then.
pub(super) fn close(config: &Config) -> Result<(), SandboxError> {
    let Ids { uid, gid } = sandbox::ids().unwrap_or_else(privileges::current);
    let landlock = match sandbox::landlock_version() {
        Some(version) => format!("Landlock {version}"),
        None => "no Landlock".to_owned(),
    };
    let state = match config.sandbox {
        Sandbox::Off => "off".to_owned(),
        Sandbox::On => format!("closed: system call filters, {landlock}"),
        Sandbox::Report => format!("reporting: system call filters, {landlock}"),
    };
    // From here on nothing can be asked any more.
    sandbox::enter(Thread::Main).map_err(SandboxError::Enter)?;
    info!("the sandbox is {state}; user {uid}, group {gid}");
    Ok(())
}

fn policy(config: &Config) -> Result<Policy, SandboxError> {
    let ids = config.user.as_ref().map(ids).transpose()?;
    let off_list = match config.sandbox {
        Sandbox::Off => {
            return Ok(Policy { ids, confined: false, report: None, walls: Vec::new() });
        }
        Sandbox::On => SeccompAction::KillProcess,
        Sandbox::Report => SeccompAction::Trap,
    };
    sandbox::seccomp_works().map_err(SandboxError::NoSeccomp)?;
    if sandbox::landlock_version().is_none() {
        warn!(
            "this kernel has no Landlock: the sandbox is system call filters alone, which do not see \
             what a thread asks of its io_uring (CONFIG_SECURITY_LANDLOCK, and lsm=landlock,...)"
        );
    }
    let directories = socket_directories(config);
    let mut walls = Vec::new();
    for thread in Thread::ALL {
        let filters = filters(thread, off_list.clone())
            .map_err(|why| SandboxError::NoFilter(format!("{}: {why}", std::env::consts::ARCH)))?;
        let landlock = match thread {
            Thread::Main => rules(&directories)?,
            // Theirs is their maker's.
            Thread::Session | Thread::Client => None,
            Thread::Queue | Thread::Watch | Thread::Admin => rules(&[])?,
        };
        walls.push((thread, Walls { landlock, filters }));
    }
    let report = (config.sandbox == Sandbox::Report).then(names);
    Ok(Policy { ids, confined: true, report, walls })
}

/// The filters of a kind of thread: its own lists, and those of what it makes (G1).
fn filters(
    thread: Thread,
    off_list: SeccompAction,
) -> Result<Vec<seccompiler::BpfProgram>, seccompiler::BackendError> {
    let made = Thread::ALL.into_iter().filter(|other| other.maker() == Some(thread));
    let kinds = std::iter::once(thread).chain(made);
    let rows = kinds.flat_map(lists::of).flat_map(|list| list.iter());
    call::filters(&call::union(rows), off_list)
}

/// Names of calls, for the report. Made once, for the rest of the process's life.
fn names() -> &'static [CallName] {
    let listed = Thread::ALL.into_iter().flat_map(lists::of).flat_map(|list| list.iter());
    let mut names: Vec<CallName> =
        listed.chain(lists::WANTED).map(|row| (row.number, row.name())).collect();
    names.sort_unstable();
    names.dedup();
    names.leak()
}

/// Nothing may be reached by name, but files in these directories be removed. `None` without
/// Landlock.
fn rules(directories: &[PathBuf]) -> Result<Option<RulesetCreated>, SandboxError> {
    if sandbox::landlock_version().is_none() {
        return Ok(None);
    }
    // The newest that the crate knows; of an older kernel's Landlock all that it has is taken.
    let abi = ABI::V10;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(directories, AccessFs::RemoveFile))?;
    Ok(Some(rules))
}

/// Where our socket files are.
fn socket_directories(config: &Config) -> Vec<PathBuf> {
    let disks = config.disks.iter().filter_map(|disk| match &disk.socket {
        Socket::Path { path, .. } => Some(path),
        Socket::Fd(_) => None,
    });
    let parent = |path: &PathBuf| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => Path::new(".").to_owned(),
    };
    let mut all: Vec<_> = disks.chain(&config.admin_socket).map(parent).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Whom `--user` means.
fn ids(user: &User) -> Result<Ids, SandboxError> {
    let said = match &user.group {
        Some(group) => format!("{}:{group}", user.name),
        None => user.name.clone(),
    };
    let lookup = |why| SandboxError::Lookup(said.clone(), why);
    let found = privileges::user_ids(&user.name).map_err(lookup)?;
    let (uid, own) = found.ok_or_else(|| SandboxError::NoUser(user.name.clone()))?;
    let gid = match &user.group {
        None => own.ok_or_else(|| SandboxError::NoGroupOf(user.name.clone()))?,
        Some(group) => {
            let found = socket::group_id(group).map_err(lookup)?;
            found.ok_or_else(|| SandboxError::NoGroup(group.clone()))?
        }
    };
    let ids = Ids { uid, gid };
    let now = privileges::current();
    if now.uid != 0 && now != ids { Err(SandboxError::NotRoot(said)) } else { Ok(ids) }
}
