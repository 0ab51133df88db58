//! The sandbox as one sees it from outside: what the kernel says of each thread, that nothing a disk
//! needs is forbidden, whom the process becomes, and what happens where the kernel lacks a part.
//!
//! That it kills is shown by the tests of `daemon::sandbox`, from inside.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::admin::Admin;
use common::client::{Client, Wish, serves};
use common::daemon::{
    Daemon, Ended, PATIENCE, Scratch, eventually, finish, is_socket, program, run,
};
use common::disk::Loop;
use common::model::Load;
use common::note;
use common::rng::seed;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::json;
use vhost_user_blkmq::blkmq::sched::Kind;

const MIB: u64 = 1 << 20;

/// A user that every system has.
const NOBODY: u32 = 65534;

/// What the kernel says of each thread of ours, by its name: the fields asked for.
fn statuses(daemon: &Daemon, fields: &[&str]) -> BTreeMap<String, Vec<String>> {
    let threads = daemon.threads();
    let ours = threads.into_iter().filter(|(_, name)| !name.starts_with("iou-"));
    ours.filter_map(|(number, name)| {
        let path = format!("/proc/{}/task/{number}/status", daemon.pid());
        let text = fs::read_to_string(path).ok()?; // it may just have ended
        let field = |wanted: &&str| {
            let line = text.lines().find_map(|line| line.strip_prefix(*wanted));
            let words = line.expect("a field of every kernel").split_whitespace();
            words.collect::<Vec<_>>().join(" ")
        };
        Some((name, fields.iter().map(field).collect()))
    })
    .collect()
}

/// The same as soon as all threads have them.
fn all_have(daemon: &Daemon, fields: &[&str], wanted: &[&str]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let same = eventually(PATIENCE, || {
        seen = statuses(daemon, fields);
        !seen.is_empty() && seen.values().all(|values| *values == *wanted)
    });
    assert!(same, "{fields:?} are not {wanted:?} everywhere: {seen:?}; {}", daemon.said());
    seen.into_keys().collect()
}

/// The daemon with an admin socket, one client on each of its sockets.
fn with_everybody(
    scratch: &Scratch,
    image: &Path,
    options: &[&str],
) -> (Daemon, Client, Admin, PathBuf) {
    let socket = scratch.unique(".admin");
    let admin = format!("--admin-socket={}", socket.display());
    let mut all = vec!["--threads=2", admin.as_str()];
    all.extend(options);
    let daemon = Daemon::start(scratch, image, &all);
    let client = Client::connect(daemon.socket(), Wish::queues(2));
    let mut admin = Admin::connect(&socket);
    admin.call("disk.list", &json!({}));
    (daemon, client, admin, socket)
}

#[test]
fn every_thread_is_closed() {
    let scratch = Scratch::new();
    let image = scratch.image(MIB);
    let (daemon, mut client, admin, _) = with_everybody(&scratch, &image, &[]);
    assert_eq!(client.write(0, 0, &[1; 512]), Ok(()));
    let names = all_have(
        &daemon,
        &["NoNewPrivs:", "Seccomp:", "CapEff:", "CapPrm:", "CapInh:", "CapAmb:"],
        &["1", "2", "0000000000000000", "0000000000000000", "0000000000000000", "0000000000000000"],
    );
    for name in ["q0", "q1", "watch", "session", "admin", "client"] {
        let name = format!("blkmq-{name}");
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert_eq!(names.len(), 7, "these and the main thread: {names:?}");
    assert!(eventually(PATIENCE, || daemon.said().contains("the sandbox is closed")));
    drop((client, admin));
    daemon.stop();

    let (daemon, client, admin, _) = with_everybody(&scratch, &image, &["--sandbox=off"]);
    all_have(&daemon, &["NoNewPrivs:", "Seccomp:"], &["0", "0"]);
    assert!(daemon.said().contains("the sandbox is off"), "{}", daemon.said());
    drop((client, admin));
    daemon.stop();
}

/// All that a disk does in its life: data of every kind, every scheduler, limits, another front-end.
/// Nothing of it would be killed, says the report.
fn lives(scratch: &Scratch, image: &Path, size: u64, options: &[&str]) {
    let is_null = image.to_str().is_some_and(|image| image.starts_with("null:"));
    let mut all = vec!["--sandbox=report"];
    all.extend(options);
    let (daemon, mut client, mut admin, _) = with_everybody(scratch, image, &all);
    let mut load = Load::new(seed(), size, 1);
    for kind in Kind::ALL {
        let name = json!({"pool": "disk", "scheduler": kind.name()});
        admin.call("pool.set-scheduler", &name);
        if is_null {
            assert_eq!(client.write(0, 0, &[1; 4096]), Ok(()));
            assert_eq!(client.flush(1), Ok(()));
            client.read(0, 0, 4096).expect("zeroes, or what was there");
        } else {
            load.run(&mut client, 300, 16);
        }
        admin.call("disk.stats", &json!({"disk": "disk"}));
        admin.call("disk.inspect", &json!({"disk": "disk"}));
    }
    drop(client);
    let mut client = Client::connect(daemon.socket(), Wish::queues(2));
    if !is_null {
        load.check_all(&mut client);
    }
    drop((client, admin));
    let said = daemon.said();
    assert!(said.contains("the sandbox is reporting"), "{said}");
    assert!(!said.contains("would kill"), "{image:?} {options:?}: {said}");
    let socket = daemon.socket().to_owned();
    daemon.stop();
    assert!(!socket.exists(), "its file is removed");
}

#[test]
fn nothing_that_a_disk_does_would_be_killed() {
    let scratch = Scratch::new();
    let size = 16 * MIB;
    lives(&scratch, Path::new("null:16M"), size, &[]);
    for cache in ["none", "writeback", "writethrough", "directsync", "unsafe"] {
        lives(&scratch, &scratch.image(size), size, &[&format!("--cache={cache}")]);
    }
    lives(&scratch, &scratch.image(size), size, &["--logical-block-size=512"]);
    lives(&scratch, &scratch.image(size), size, &["--registered-buffers"]);
    let limits = ["--throttle=iops-total=20000", "--poll-max-us=0", "--hw-depth=8"];
    lives(&scratch, &scratch.image(size), size, &limits);
    for cache in ["none", "writeback"] {
        let Some(device) = Loop::new(&scratch, size) else { return };
        lives(&scratch, device.path(), size, &[&format!("--cache={cache}")]);
    }
}

#[test]
fn an_image_in_memory_is_served() {
    let scratch = Scratch::new();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        note("there is no /dev/shm here");
        return;
    };
    let image = memory.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(16 * MIB)).expect("room");
    for cache in ["none", "writeback", "directsync"] {
        fs::remove_file(&image).expect("ours");
        fs::File::create(&image).and_then(|file| file.set_len(16 * MIB)).expect("room");
        lives(&scratch, &image, 16 * MIB, &[&format!("--cache={cache}")]);
    }
}

/// Whether these tests run as root, who may become somebody else.
fn is_root() -> bool {
    let root =
        fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        note("only root can become another user");
    }
    root
}

/// The scratch directory, given to nobody.
fn open_to_nobody(scratch: &Scratch) {
    let dir = scratch.path("");
    chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("root may");
}

#[test]
fn it_becomes_the_user_that_is_named() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    open_to_nobody(&scratch);
    // Only root may open the image: it is open before.
    let image = scratch.image(MIB);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).expect("ours");
    for (options, gid) in [
        (&["--user=65534:12345"][..], "12345"),
        (&["--user=65534:12345", "--sandbox=off"], "12345"),
        (&["--user=nobody:root", "--sandbox=report"], "0"),
    ] {
        let (daemon, mut client, admin, socket) = with_everybody(&scratch, &image, options);
        let fields = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"];
        let uids = ["65534"; 4].join(" ");
        let none = "0000000000000000";
        all_have(&daemon, &fields, &[&uids, &[gid; 4].join(" "), "", none, none]);
        assert_eq!(client.write(0, 0, &[1; 512]), Ok(()));
        assert_eq!(client.flush(0), Ok(()));
        drop((client, admin));
        let said = daemon.said();
        assert!(!said.contains("would kill"), "{said}");
        let sockets = [daemon.socket().to_owned(), socket];
        daemon.stop();
        for socket in sockets {
            assert!(!socket.exists(), "the directory is nobody's, so the file goes");
        }
    }
}

fn refused(ended: &Ended, words: &[&str]) {
    assert!(!ended.status.success() && ended.status.code().is_some(), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in {:?}", ended.stderr);
    }
}

#[test]
fn a_user_that_cannot_be_is_refused_before_the_socket_exists() {
    let scratch = Scratch::new();
    let socket = format!("--socket-path={}", scratch.path("s").display());
    let ended = run(&[&socket, "--blk-file=null:1M", "--user=no-such-user-here"]);
    refused(&ended, &["--user=no-such-user-here", "no such user"]);
    assert!(!scratch.path("s").exists());
}

/// The program, where anybody may run it.
fn for_anybody(scratch: &Scratch) -> PathBuf {
    let copy = scratch.path("program");
    fs::copy(program(), &copy).expect("room");
    copy
}

fn as_nobody(scratch: &Scratch, options: &[&str]) -> (Command, PathBuf) {
    let socket = scratch.unique(".sock");
    let mut command = Command::new(scratch.path("program"));
    command.uid(NOBODY).gid(NOBODY);
    command.arg(format!("--socket-path={}", socket.display())).args(options);
    (command, socket)
}

#[test]
fn whoever_has_no_privileges_has_the_sandbox_as_well() {
    if !is_root() {
        return; // then all other tests show it
    }
    let scratch = Scratch::new();
    open_to_nobody(&scratch);
    for_anybody(&scratch);
    let image = scratch.image(MIB);
    chown(&image, Some(NOBODY), Some(NOBODY)).expect("root may");
    let blk_file = format!("--blk-file={}", image.display());
    let (command, socket) = as_nobody(&scratch, &[&blk_file]);
    let daemon = Daemon::spawn(&scratch, command, socket.clone());
    let mut client = Client::connect(&socket, Wish::queues(2));
    assert_eq!(client.write(0, 0, &[1; 512]), Ok(()));
    let uids = ["65534"; 4].join(" ");
    all_have(&daemon, &["Uid:", "NoNewPrivs:", "Seccomp:"], &[&uids, "1", "2"]);
    drop(client);
    daemon.stop();
    assert!(!is_socket(&socket));

    // Whom it is already it may become, and nobody else.
    let (command, socket) = as_nobody(&scratch, &[&blk_file, "--user=65534:65534"]);
    let daemon = Daemon::spawn(&scratch, command, socket);
    serves(daemon.socket());
    daemon.stop();
    let (command, _) = as_nobody(&scratch, &[&blk_file, "--user=1:1"]);
    refused(&finish(command), &["--user=1:1", "start it as root"]);
}

/// Runs `work` on a thread for which, and for whose children, the kernel has no such call.
fn without<T: Send + 'static>(call: libc::c_long, work: impl FnOnce() -> T + Send + 'static) -> T {
    let arch = std::env::consts::ARCH.try_into().expect("one that is known");
    let calls = BTreeMap::from([(call, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, missing, arch);
    let filter: BpfProgram = filter.and_then(TryInto::try_into).expect("a small one");
    let thread = std::thread::spawn(move || {
        apply_filter(&filter).expect("the kernel filters");
        work()
    });
    thread.join().expect("no panic")
}

#[test]
fn a_kernel_without_landlock_is_a_warning() {
    let daemon = without(libc::SYS_landlock_create_ruleset, || {
        let scratch = Scratch::new();
        let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
        serves(daemon.socket());
        (daemon, scratch)
    });
    let (daemon, _scratch) = daemon;
    let said = daemon.said();
    assert!(said.contains("WARN") && said.contains("this kernel has no Landlock"), "{said}");
    assert!(said.contains("the sandbox is closed: system call filters, no Landlock"), "{said}");
    all_have(&daemon, &["NoNewPrivs:", "Seccomp:", "CapEff:"], &["1", "2", "0000000000000000"]);
    daemon.stop();
}

#[test]
fn a_kernel_without_filters_is_an_error_that_names_the_way_out() {
    let ended = without(libc::SYS_seccomp, || {
        let scratch = Scratch::new();
        let socket = format!("--socket-path={}", scratch.path("s").display());
        run(&[&socket, "--blk-file=null:1M"])
    });
    refused(&ended, &["cannot filter system calls", "--sandbox=off"]);
    without(libc::SYS_seccomp, || {
        let scratch = Scratch::new();
        let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &["--sandbox=off"]);
        serves(daemon.socket());
        daemon.stop();
    });
}

/// The operator's socket is for whoever runs the process, and a front-end's can be opened to others
/// without opening it.
#[test]
fn the_sockets_are_apart() {
    let scratch = Scratch::new();
    let options = ["--socket-mode=0666", "--sandbox=on"];
    let (daemon, client, admin, socket) = with_everybody(&scratch, Path::new("null:1M"), &options);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(daemon.socket()), mode(&socket)), (0o666, 0o600));
    drop((client, admin));
    daemon.stop();
    let both = scratch.path("both").display().to_string();
    let ended = run(&[
        &format!("--socket-path={both}"),
        &format!("--admin-socket={both}"),
        "--blk-file=null:1M",
    ]);
    refused(&ended, &["admin socket"]);
}

/// More disks on one thread than its ring has places for files: the others are kept as descriptors.
#[test]
fn many_disks_on_one_thread_are_served() {
    let scratch = Scratch::new();
    let mut text = "sandbox = \"report\"\n[[pool]]\nname = \"p\"\n".to_owned();
    let disks = 66;
    let socket = |n: u32| scratch.path(&format!("d{n}.sock"));
    for n in 0..disks {
        text += &format!(
            "[[disk]]\nname = \"d{n}\"\npool = \"p\"\nblk-file = {:?}\nsocket-path = {:?}\n",
            scratch.image(MIB),
            socket(n)
        );
    }
    let file = scratch.path("many.toml");
    fs::write(&file, text).expect("room");
    let mut command = Command::new(program());
    command.arg(format!("--config={}", file.display()));
    let daemon = Daemon::spawn(&scratch, command, socket(disks - 1));
    let mut clients: Vec<_> =
        (0..disks).map(|n| Client::connect(&socket(n), Wish::default())).collect();
    for (n, client) in (0_u8..).zip(&mut clients) {
        assert_eq!(client.write(0, 0, &[n; 512]), Ok(()));
    }
    for (n, client) in (0_u8..).zip(&mut clients) {
        assert_eq!(client.read(0, 0, 512), Ok(vec![n; 512]));
    }
    drop(clients);
    let said = daemon.said();
    assert!(!said.contains("would kill"), "{said}");
    daemon.stop();
}
