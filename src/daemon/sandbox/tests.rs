//! The lists are well-formed, and what they forbid is forbidden: each deed is tried in a process of its
//! own, by a thread of each kind, and has the end that is written here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::call::{Cond, Row, Rule};
use super::*;
use crate::config::{Command as Asked, from_argv};
use crate::sys::sandbox::testing::{OldRing, system_call};

const EVERY: [&[Row]; 11] = [
    lists::BASE,
    lists::BASE_OLD,
    lists::QUEUE,
    lists::SESSION,
    lists::CLIENT,
    lists::DOOR,
    lists::MAIN,
    lists::WANTED,
    lists::old::WAITS,
    lists::old::DOOR,
    lists::old::MAIN,
];

fn config(options: &[String]) -> Config {
    let argv = std::iter::once("vhost-user-blkmq".to_owned()).chain(options.iter().cloned());
    match from_argv(&argv.map(Into::into).collect::<Vec<_>>()) {
        Ok(Asked::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn with(options: &[&str]) -> Config {
    let basics = ["--blk-file=null:1M", "--socket-path=/run/blkmq-test/s"];
    config(&basics.iter().chain(options).map(|o| (*o).to_owned()).collect::<Vec<_>>())
}

#[test]
fn every_list_is_sorted_and_every_call_is_known() {
    let mut names = std::collections::BTreeMap::new();
    for list in EVERY {
        let sorted: BTreeSet<_> = list.iter().map(Row::name).collect();
        let listed: Vec<_> = list.iter().map(Row::name).collect();
        assert_eq!(listed, sorted.into_iter().collect::<Vec<_>>(), "sorted, and none twice");
        for row in list {
            assert!((0..1024).contains(&row.number), "{}: {}", row.name(), row.number);
            let known = names.insert(row.number, row.name());
            assert!(known.is_none_or(|name| name == row.name()), "{} has two names", row.number);
            if let Rule::If(lists) = row.rule {
                assert!(!lists.is_empty() && lists.iter().all(|list| !list.is_empty()));
            }
            if let Rule::Refuse(code) = row.rule {
                assert!((1..4096).contains(&code));
            }
        }
    }
}

/// What the kinds may do: their own lists and those of what they make.
fn rules_of(thread: Thread) -> std::collections::BTreeMap<libc::c_long, Vec<Rule>> {
    let made = Thread::ALL.into_iter().filter(|other| other.maker() == Some(thread));
    let kinds = std::iter::once(thread).chain(made);
    call::union(kinds.flat_map(lists::of).flat_map(|list| list.iter()))
}

#[test]
fn nothing_that_an_intruder_wants_is_on_a_list() {
    for thread in Thread::ALL {
        let rules = rules_of(thread);
        for row in lists::WANTED {
            assert!(!rules.contains_key(&row.number), "{thread:?} may {}", row.name());
        }
        let not_executable = Rule::If(&[&[Cond::Bits(2, 4, 0)]]);
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(rules[&call], [not_executable], "{thread:?}: {call}");
        }
        assert_eq!(rules[&libc::SYS_openat], [Rule::Refuse(libc::EACCES)], "{thread:?}");
        assert!(!rules.contains_key(&libc::SYS_pkey_mprotect), "{thread:?}");
    }
    let unconfined = |thread, call| rules_of(thread).get(&call) == Some(&vec![Rule::Any]);
    for call in [libc::SYS_io_uring_enter, libc::SYS_write, libc::SYS_preadv, libc::SYS_pwritev2] {
        assert!(unconfined(Thread::Queue, call), "F3: {call} is of the data path");
    }
    for call in [libc::SYS_unlinkat, libc::SYS_accept4] {
        assert!(unconfined(Thread::Main, call) && !unconfined(Thread::Session, call), "{call}");
    }
}

#[test]
fn filters_are_small_and_end_with_the_one_that_kills() {
    for thread in Thread::ALL {
        let made = filters(thread, SeccompAction::KillProcess).expect("a machine that is known");
        let steps: usize = made.iter().map(Vec::len).sum();
        // The kernel takes 32768 in one thread, with all that it inherits.
        assert!(steps < 1000, "{thread:?}: {steps}");
        let last = made.last().expect("at least one").last().expect("not empty");
        assert_eq!(last.k, libc::SECCOMP_RET_KILL_PROCESS, "{thread:?}: whatever is on no list");
    }
}

#[test]
fn off_gives_nothing_away_but_the_user() {
    let policy = policy(&with(&["--sandbox=off"])).expect("nothing is asked");
    assert!(!policy.confined && policy.walls.is_empty() && policy.ids.is_none());
    let policy = super::policy(&with(&["--sandbox=on"])).expect("the tests' kernel can");
    assert!(policy.confined && policy.report.is_none() && policy.walls.len() == Thread::ALL.len());
    let policy = super::policy(&with(&["--sandbox=report"])).expect("the tests' kernel can");
    let names = policy.report.expect("names");
    assert!(names.contains(&(libc::SYS_socket, "socket")) && names.len() > 100);
}

#[test]
fn whoever_is_named_is_looked_up() {
    let asked = |user: &str| {
        let ids = ids(with(&[&format!("--user={user}")]).user.as_ref().expect("said"));
        ids.map_err(|why| why.to_string())
    };
    let refusal = |user: &str| asked(user).expect_err("nobody");
    assert!(refusal("no-such-user").contains("--user=no-such-user: there is no such user"));
    assert!(refusal("4000000000").contains("--user=4000000000:GROUP"));
    assert!(refusal("root:no-such-group").contains("no group no-such-group"));
    let named = asked("root:0");
    if privileges::current().uid == 0 {
        assert_eq!(named, Ok(Ids { uid: 0, gid: 0 }));
        assert_eq!(asked("12345:54321"), Ok(Ids { uid: 12345, gid: 54321 }));
        assert_eq!(asked("root"), Ok(Ids { uid: 0, gid: 0 }));
    } else {
        assert!(named.expect_err("not ours to become").contains("root"));
    }
}

#[test]
fn the_directories_are_those_of_our_own_sockets() {
    let named = |options: &[&str]| {
        socket_directories(&config(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>()))
    };
    let image = "--blk-file=null:1M";
    assert_eq!(named(&[image, "--socket-path=s"]), [PathBuf::from(".")]);
    assert_eq!(named(&[image, "--fd=5"]), Vec::<PathBuf>::new());
    assert_eq!(
        named(&[image, "--socket-path=/run/a/s", "--admin-socket=/run/b/s"]),
        [PathBuf::from("/run/a"), PathBuf::from("/run/b")]
    );
    assert_eq!(named(&[image, "--socket-path=/a/s", "--admin-socket=/a/t"]).len(), 1);
}

/// How a deed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Error(i32),
    Signal(i32),
}

const KILLED: End = End::Signal(libc::SIGSYS);
const REFUSED: End = End::Error(libc::EACCES);

/// In the environment of a process that is to do a deed: mode, kind of thread, deed.
const DEED: &str = "BLKMQ_TEST_DEED";
/// A directory of its own: the sockets' directory is `sockets` in it.
const PLACE: &str = "BLKMQ_TEST_PLACE";

fn number(call: libc::c_long, args: [u64; 6]) -> io::Result<()> {
    system_call(call, args).map(drop)
}

/// Does it. `ring` was made when the thread was open.
fn deed(name: &str, ring: &mut OldRing, place: &Path) -> io::Result<()> {
    let bits = |flags: i32| u64::from(flags.cast_unsigned());
    let anonymous = bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let executable = bits(libc::PROT_READ | libc::PROT_EXEC);
    match name {
        "open" => File::open("/etc/passwd").map(drop),
        "create" => File::create(place.join("new")).map(drop),
        "stat" => fs::metadata("/etc/passwd").map(drop),
        "remove a socket" => fs::remove_file(place.join("sockets/s")),
        "remove a file" => fs::remove_file(place.join("file")),
        "socket" => UnixDatagram::unbound().map(drop),
        "network" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "process" => Command::new("/bin/true").status().map(drop),
        "thread" => std::thread::Builder::new().spawn(|| ()).map(|t| t.join().expect("empty")),
        "exec" => number(libc::SYS_execve, [0; 6]),
        "fork" => number(libc::SYS_clone, [bits(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        "namespace" => number(libc::SYS_clone, [bits(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0]),
        "memory" => number(libc::SYS_mmap, [0, 4096, 1, anonymous, u64::MAX, 0]),
        "code" => number(libc::SYS_mmap, [0, 4096, executable, anonymous, u64::MAX, 0]),
        "code later" => number(libc::SYS_mprotect, [0, 0, executable, 0, 0, 0]),
        "kill" => number(libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        "abort others" => number(libc::SYS_tgkill, [999_999_999, 1, 6, 0, 0, 0]),
        "abort" => std::process::abort(),
        "ptrace" => number(libc::SYS_ptrace, [16, 0, 0, 0, 0, 0]),
        "read others" => number(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]),
        "ring" => number(libc::SYS_io_uring_setup, [0; 6]),
        "open through the ring" => ring.open(c"/etc/passwd"),
        "dumpable" => number(libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        "become root" => number(libc::SYS_setresuid, [0; 6]),
        "type for the operator" => number(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]),
        "signals to others" => number(libc::SYS_fcntl, [0, bits(libc::F_SETOWN), 1, 0, 0, 0]),
        "new filter" => number(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]),
        "many allocations" => {
            let many: Vec<Vec<u8>> = (1..200).map(|n| vec![1; n * 4096]).collect();
            drop(std::hint::black_box(many));
            Ok(())
        }
        "backtrace" => {
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            (trace.len() > 10).then_some(()).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
        }
        "twice a socket" => {
            let _ = UnixDatagram::unbound();
            UnixDatagram::unbound().map(drop)
        }
        other => panic!("an unknown deed: {other}"),
    }
}

/// Not a test by itself: what [`tried`] runs in a process of its own.
#[test]
#[allow(clippy::exit, reason = "a closed thread says how its deed ended, and nothing else does")]
fn in_a_child() {
    let (Ok(asked), Ok(place)) = (std::env::var(DEED), std::env::var(PLACE)) else { return };
    let place = PathBuf::from(place);
    let mut words = asked.splitn(3, '/').map(str::to_owned);
    let mut word = || words.next().expect("three words");
    let (mode, kind, name) = (word(), word(), word());
    let socket = format!("--socket-path={}", place.join("sockets/s").display());
    arm(&config(&[mode, socket, "--blk-file=null:1M".to_owned()])).expect("it can be had");
    let kind = Thread::ALL.into_iter().find(|t| t.name() == kind).expect("a kind");
    let work = move |mut ring: OldRing| -> ! {
        sandbox::enter(kind).expect("it closes");
        let end = deed(&name, &mut ring, &place);
        std::process::exit(match end {
            Ok(()) => 42,
            Err(e) => 100 + e.raw_os_error().unwrap_or(100),
        })
    };
    let thread = std::thread::spawn(move || {
        let ring = OldRing::new();
        match kind.maker() {
            None => work(ring),
            Some(maker) => {
                sandbox::enter(maker).expect("it closes");
                let made = std::thread::spawn(move || work(ring));
                made.join().map_or((), |never| never)
            }
        }
    });
    thread.join().expect("it exits");
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(42), _) => End::Done,
        (Some(code), _) => End::Error(code - 100),
        (_, signal) => End::Signal(signal.expect("one of both")),
    }
}

/// How a deed ended, and what was said on stderr.
fn tried(mode: &str, thread: Thread, name: &str) -> (End, String) {
    let place = tempfile::tempdir().expect("a directory");
    fs::create_dir(place.path().join("sockets")).expect("ours");
    for file in ["file", "sockets/s"] {
        File::create(place.path().join(file)).expect("ours");
    }
    let output = Command::new(std::env::current_exe().expect("the tests"))
        .args(["daemon::sandbox::tests::in_a_child", "--exact", "--nocapture", "--test-threads=1"])
        .env(DEED, format!("{mode}/{}/{name}", thread.name()))
        .env(PLACE, place.path())
        .output()
        .expect("it starts");
    (end(output.status), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_thread_is_killed_for_what_no_thread_may() {
    for thread in Thread::ALL {
        for name in [
            "socket",
            "network",
            "process",
            "exec",
            "fork",
            "namespace",
            "code",
            "code later",
            "kill",
            "abort others",
            "ptrace",
            "read others",
            "ring",
            "dumpable",
            "become root",
            "type for the operator",
            "signals to others",
        ] {
            let (end, said) = tried("--sandbox=on", thread, name);
            assert_eq!(end, KILLED, "{thread:?}: {name}: {said}");
        }
    }
}

#[test]
fn what_a_thread_may_it_can() {
    use Thread::{Main, Queue, Session, Watch};
    for thread in Thread::ALL {
        for (name, expected) in [
            ("open", REFUSED),
            ("create", REFUSED),
            ("memory", End::Done),
            ("many allocations", End::Done),
            ("backtrace", End::Done),
            ("abort", End::Signal(libc::SIGABRT)),
        ] {
            let (end, said) = tried("--sandbox=on", thread, name);
            assert_eq!(end, expected, "{thread:?}: {name}: {said}");
        }
    }
    for (thread, name, expected) in [
        (Main, "thread", End::Done),
        (Session, "thread", KILLED),
        (Queue, "thread", KILLED),
        (Watch, "thread", KILLED),
        (Main, "stat", End::Done),
        (Queue, "stat", REFUSED),
        (Main, "remove a socket", End::Done),
        (Session, "remove a socket", KILLED),
        (Queue, "remove a socket", KILLED),
        (Main, "remove a file", REFUSED), // by Landlock: it is in another directory
        (Queue, "new filter", KILLED),
        // No filter sees it: Landlock refuses.
        (Queue, "open through the ring", REFUSED),
    ] {
        let (end, said) = tried("--sandbox=on", thread, name);
        assert_eq!(end, expected, "{thread:?}: {name}: {said}");
    }
}

/// The same deeds, so that the ends above are the sandbox's doing.
#[test]
fn without_the_sandbox_they_succeed() {
    for name in [
        "open",
        "create",
        "socket",
        "network",
        "process",
        "thread",
        "code",
        "code later",
        "remove a socket",
        "remove a file",
        "open through the ring",
        "dumpable",
    ] {
        let (end, said) = tried("--sandbox=off", Thread::Queue, name);
        assert_eq!(end, End::Done, "{name}: {said}");
    }
    let (end, _) = tried("--sandbox=off", Thread::Queue, "exec");
    assert_eq!(end, End::Error(libc::EFAULT), "there is nothing at the null pointer");
}

#[test]
fn a_report_tells_and_refuses_and_goes_on() {
    for thread in Thread::ALL {
        let (end, said) = tried("--sandbox=report", thread, "twice a socket");
        assert_eq!(end, End::Error(libc::EPERM), "{thread:?}: {said}");
        let line = format!(
            "vhost-user-blkmq: sandbox: --sandbox=on would kill the process: a thread of kind \
             \"{}\" made system call {} (socket), refused with EPERM",
            thread.name(),
            libc::SYS_socket
        );
        assert_eq!(said.lines().filter(|said| *said == line).count(), 1, "told once: {said}");
    }
    let (end, said) = tried("--sandbox=report", Thread::Queue, "code");
    assert_eq!(end, End::Error(libc::EPERM), "{said}");
    assert!(said.contains("(mmap)"), "{said}");
    let (end, said) = tried("--sandbox=report", Thread::Queue, "open");
    assert_eq!(end, REFUSED, "{said}");
    assert!(!said.contains("would kill"), "--sandbox=on would not: {said}");
}
