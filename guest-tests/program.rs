//! The program as QEMU's document on vhost-user back-end programs describes it, plus our own
//! options: what it prints, when it refuses, how it starts and how it ends.

mod common;

#[path = "program/manager.rs"]
mod manager;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::client::{Client, Wish, serves};
use common::daemon::{
    Daemon, Ended, PATIENCE, Scratch, eventually, finish, is_socket, program, run,
};
use common::rng::{pattern, seed};

const MIB: u64 = 1 << 20;

/// The promised time to end or to be ready. The machine may be busy with other tests, so that
/// the tests allow four of it.
const SECOND: Duration = Duration::from_secs(4);

#[test]
fn capabilities_are_printed_whatever_else_is_said() {
    let others: [&[&str]; 6] = [
        &[],
        &["--socket-path=/nonexistent/s", "--fd=3"],
        &["--blk-file=/nonexistent", "--read-only"],
        &["--cache=nonsense", "--num-queues=0"],
        &["--no-such-option"],
        &["stray"],
    ];
    for other in others {
        for first in [true, false] {
            let mut arguments = other.to_vec();
            arguments.insert(if first { 0 } else { other.len() }, "--print-capabilities");
            let ended = run(&arguments);
            assert!(ended.status.success(), "{arguments:?}: {ended:?}");
            assert_eq!(
                ended.stdout.trim_end_matches('\n'),
                r#"{ "type": "block", "features": [ "read-only", "blk-file" ] }"#,
                "{arguments:?}"
            );
            assert_eq!(ended.stderr, "", "{arguments:?}");
        }
    }
}

/// A refusal: status not 0, exactly one line on stderr, nothing on stdout. Returns the line.
fn one_line(ended: &Ended) -> &str {
    assert!(!ended.status.success(), "must be refused: {ended:?}");
    assert!(ended.status.code().is_some(), "an exit, not a crash: {ended:?}");
    assert_eq!(ended.stdout, "", "stdout is not for errors");
    let line = ended.stderr.trim_end_matches('\n');
    assert!(!line.is_empty() && !line.contains('\n'), "one line: {:?}", ended.stderr);
    line
}

/// Runs with a good socket and a good image plus `options`, and wants a refusal that mentions
/// every one of `words`, before the socket exists.
fn refused(scratch: &Scratch, options: &[&str], words: &[&str]) {
    let image = scratch.image(MIB);
    refused_image(scratch, &image, options, words);
}

fn refused_image(scratch: &Scratch, image: &Path, options: &[&str], words: &[&str]) {
    let socket = scratch.unique(".sock");
    let mut arguments = vec![
        format!("--socket-path={}", socket.display()),
        format!("--blk-file={}", image.display()),
    ];
    arguments.extend(options.iter().map(|o| (*o).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = run(&arguments);
    let line = one_line(&ended);
    for word in words {
        assert!(line.contains(word), "{options:?}: {word:?} is not in {line:?}");
    }
    assert!(fs::symlink_metadata(&socket).is_err(), "{options:?}: the socket appeared");
}

#[test]
fn wrong_values_are_refused_with_the_option_and_the_value() {
    let scratch = Scratch::new();
    let wrong = [
        ("--num-queues", "0"),
        ("--num-queues", "257"),
        ("--num-queues", "many"),
        ("--num-queues", "-1"),
        ("--queue-size", "100"),
        ("--queue-size", "0"),
        ("--queue-size", "65536"),
        ("--threads", "0"),
        ("--threads", "2000"),
        ("--cpus", "x"),
        ("--cpus", "3-1"),
        ("--cache", "fast"),
        ("--discard", "maybe"),
        ("--logical-block-size", "1000"),
        ("--logical-block-size", "256"),
        ("--physical-block-size", "0"),
        ("--serial", "longer-than-twenty-bytes"),
        ("--socket-mode", "999"),
        ("--socket-group", "no-such-group-here"),
        ("--log-level", "loud"),
        ("--sandbox", "perhaps"),
        ("--user", "no-such-user-here"),
        ("--scheduler", "cfq"),
        ("--hw-depth", "deep"),
        ("--nomerges", "3"),
        ("--nr-requests", "0"),
        ("--rotational", "maybe"),
        ("--throttle", "iops-total=fast"),
        ("--name", "a/b"),
    ];
    for (option, value) in wrong {
        refused(&scratch, &[&format!("{option}={value}")], &[option, value]);
    }
}

#[test]
fn contradictions_and_gaps_are_refused() {
    let scratch = Scratch::new();
    refused(&scratch, &["--fd=3"], &["--socket-path", "--fd"]);
    refused(&scratch, &["--no-such-option"], &["--no-such-option"]);
    refused(&scratch, &["--threads=4", "--num-queues=2"], &["--threads", "--num-queues"]);
    let sizes = ["--logical-block-size=4096", "--physical-block-size=512"];
    refused(&scratch, &sizes, &["--logical-block-size", "--physical-block-size"]);

    let image = scratch.image(MIB);
    let blk_file = format!("--blk-file={}", image.display());
    assert!(one_line(&run(&[&blk_file])).contains("--socket-path"), "no socket named");
    let socket = scratch.path("alone.sock");
    let socket_path = format!("--socket-path={}", socket.display());
    assert!(one_line(&run(&[&socket_path])).contains("--blk-file"), "no image named");
    assert!(!socket.exists());
    for fd in ["--fd=99", "--fd=-1", "--fd=x", "--fd=1"] {
        assert!(one_line(&run(&[fd, &blk_file])).contains("--fd"), "{fd}");
    }
}

#[test]
fn a_mistake_in_a_file_is_refused_with_its_place() {
    let scratch = Scratch::new();
    let file = scratch.path("disks.toml");
    let config = format!("--config={}", file.display());
    let ended = run(&[&config]);
    assert!(one_line(&ended).contains(&format!("{config}: no such file")), "{ended:?}");
    fs::write(&file, "[[disk]]\nname = 'a'\n\nnum-queus = 4\n").expect("the directory is ours");
    let ended = run(&[&config]);
    let place = format!("{}:4: num-queus: ", file.display());
    assert!(one_line(&ended).contains(&place) && one_line(&ended).contains("num-queues?"));
    assert_eq!(ended.status.code(), Some(2), "nothing was tried");
    let ended = run(&[&config, "--read-only"]);
    assert!(one_line(&ended).contains("--read-only") && one_line(&ended).contains("--config"));
}

#[test]
fn a_disk_from_a_file_is_served() {
    let scratch = Scratch::new();
    let (image, socket) = (scratch.image(MIB), scratch.path("from-a-file.sock"));
    let text = format!(
        "[[disk]]\nname = 'one'\nsocket-path = '{}'\nblk-file = '{}'\nnum-queues = 3\n",
        socket.display(),
        image.display()
    );
    let file = scratch.path("one.toml");
    fs::write(&file, text).expect("the directory is ours");
    let mut child = Command::new(program())
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    assert!(eventually(PATIENCE, || is_socket(&socket)));
    let client = Client::connect(&socket, Wish::queues(3));
    assert_eq!(client.property("max-queues"), 3);
    drop(client);
    serves(&socket);
    common::foreign::kill(child.id(), libc::SIGTERM);
    assert!(child.wait().expect("our child").success());
}

#[test]
fn unusable_images_are_refused() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing.img");
    refused_image(&scratch, &missing, &[], &["missing.img", "no such file"]);
    let empty = scratch.image(0);
    refused_image(&scratch, &empty, &[], &[&empty.display().to_string()]);
    let directory = scratch.path("directory");
    fs::create_dir(&directory).expect("a directory can be made");
    refused_image(&scratch, &directory, &[], &["directory"]);
    refused_image(&scratch, Path::new("/dev/null"), &[], &["/dev/null"]);
    refused_image(&scratch, Path::new("null:"), &[], &["null:"]);
    refused_image(&scratch, Path::new("null:much"), &[], &["null:much"]);
    refused_image(&scratch, Path::new("null:0"), &[], &["null:0"]);
}

#[test]
fn a_locked_image_is_refused_before_the_socket_exists() {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, MIB, &[]);
    let path = image.display().to_string();
    refused_image(&scratch, &image, &[], &["Failed to get \"write\" lock", &path, "--share-rw"]);
    daemon.stop();
}

#[test]
fn an_unusable_socket_path_is_refused() {
    let scratch = Scratch::new();
    let image = scratch.image(MIB);
    let blk_file = format!("--blk-file={}", image.display());
    let nowhere = scratch.path("no/such/directory.sock");
    let file = scratch.path("file.sock");
    fs::write(&file, "precious").expect("a file can be written");
    let long = scratch.path(&"x".repeat(200));
    for path in [&nowhere, &file, &long] {
        let ended = run(&[&format!("--socket-path={}", path.display()), &blk_file]);
        let line = one_line(&ended);
        let named = line.contains(&path.display().to_string()) || line.contains("--socket-path");
        assert!(named, "{line}");
    }
    assert_eq!(fs::read(&file).expect("still there"), b"precious", "a file is not a stale socket");
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let scratch = Scratch::new();
    let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let socket = daemon.socket().to_owned();
    let other = scratch.image(MIB);
    let arguments =
        [format!("--socket-path={}", socket.display()), format!("--blk-file={}", other.display())];
    let ended = run(&[&arguments[0], &arguments[1]]);
    let line = one_line(&ended);
    assert!(line.contains(&socket.display().to_string()), "{line}");
    serves(&socket);

    daemon.signal(libc::SIGKILL);
    daemon.wait(PATIENCE).expect("SIGKILL ends everything");
    assert!(is_socket(&socket), "a killed process leaves its socket behind");
    let mut again = Command::new(program());
    again.args(&arguments);
    let second = Daemon::spawn(&scratch, again, socket.clone());
    serves(&socket);
    second.stop();
    assert!(fs::symlink_metadata(&socket).is_err(), "the socket is removed at the end");
}

#[test]
fn socket_mode_is_the_mode_of_the_socket() {
    let scratch = Scratch::new();
    for (option, mode) in [(Some("--socket-mode=0660"), 0o660), (None, 0o600)] {
        let options: Vec<&str> = option.into_iter().collect();
        let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &options);
        let metadata = fs::metadata(daemon.socket()).expect("it listens");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{option:?}");
        daemon.stop();
    }
}

#[test]
fn it_is_ready_within_a_second() {
    let scratch = Scratch::new();
    let best = (0..3)
        .map(|_| {
            let begin = Instant::now();
            let (daemon, _) = Daemon::on_new_image(&scratch, 64 * MIB, &[]);
            serves(daemon.socket());
            let took = begin.elapsed();
            daemon.stop();
            took
        })
        .min()
        .expect("three tries");
    assert!(best < Duration::from_secs(1), "the best of three starts took {best:?}");
}

/// Starts the program with `socket` as descriptor 7, image and the option.
fn with_fd(socket: OwnedFd, image: &Path) -> std::process::Child {
    // A shell moves its standard input to the number that the option names.
    Command::new("sh")
        .arg("-c")
        .arg("exec 7<&0 </dev/null; exec \"$0\" --fd=7 --blk-file=\"$1\"")
        .arg(program())
        .arg(image)
        .stdin(Stdio::from(socket))
        .spawn()
        .expect("a shell can be started")
}

#[test]
fn fd_takes_a_listening_socket() {
    let scratch = Scratch::new();
    let socket = scratch.path("listening.sock");
    let listener = UnixListener::bind(&socket).expect("a socket can be bound");
    let mut child = with_fd(listener.into(), &scratch.image(MIB));
    serves(&socket);
    serves(&socket);
    common::foreign::kill(child.id(), libc::SIGTERM);
    assert!(child.wait().expect("our child").success());
    assert!(is_socket(&socket), "a file that somebody else made stays");
}

#[test]
fn fd_takes_a_connected_socket() {
    let scratch = Scratch::new();
    let (ours, theirs) = UnixStream::pair().expect("a pair can be made");
    let mut child = with_fd(theirs.into(), &scratch.image(MIB));
    let mut session = common::session::Session::over(ours);
    session.negotiate();
    assert_ne!(session.features(), 0, "a session is served");
    drop(session);
    let ended = eventually(PATIENCE, || child.try_wait().expect("our child").is_some());
    assert!(ended, "with its only connection gone there is nothing left to serve");
    assert!(child.wait().expect("our child").success());
}

#[test]
fn fd_with_a_connection_that_talks_nonsense_is_a_failure() {
    let scratch = Scratch::new();
    let (mut ours, theirs) = UnixStream::pair().expect("a pair can be made");
    let mut child = with_fd(theirs.into(), &scratch.image(MIB));
    ours.write_all(&[0xff; 12]).expect("the daemon reads");
    let ended = eventually(PATIENCE, || child.try_wait().expect("our child").is_some());
    assert!(ended, "the connection cannot go on");
    assert_eq!(child.wait().expect("our child").code(), Some(1));
}

#[test]
fn fd_refuses_what_is_no_socket() {
    let scratch = Scratch::new();
    let file = fs::File::open(scratch.image(MIB)).expect("our file");
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec \"$0\" --fd=7 --blk-file=\"$1\" 7<\"$1\"");
    drop(file);
    command.arg(program()).arg(scratch.image(MIB));
    let ended = finish(command);
    assert!(one_line(&ended).contains("--fd"), "{ended:?}");
}

/// With many writes in flight, `signal` ends the daemon in time, with success, and every write
/// that was answered is in the file, as is every one that the device had accepted.
fn ends_well(signal: i32) {
    let scratch = Scratch::new();
    let (mut daemon, image) = Daemon::on_new_image(&scratch, 64 * MIB, &["--cache=writeback"]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    let blocks = 64usize;
    let len = 128 << 10;
    let key = seed();
    let wide = |n: usize| u64::try_from(n).expect("small");
    let block = |n: usize| pattern(key ^ wide(n), len);
    for n in 0..blocks - 1 {
        client.put(n * len, &block(n));
        client.begin_write(0, wide(n * len), n * len, len, n);
    }
    let mut answered: Vec<usize> = client.reap(0).iter().map(|(n, _)| *n).collect();
    let begin = Instant::now();
    daemon.signal(signal);
    let status = daemon.wait(PATIENCE).expect("the signal ends it");
    let took = begin.elapsed();
    assert!(status.success(), "{status}: {}", daemon.said());
    assert!(took < SECOND, "it took {took:?}");
    assert!(fs::symlink_metadata(daemon.socket()).is_err(), "the socket is gone");
    while let Ok(more) = client.try_reap(0, Duration::from_millis(50)) {
        answered.extend(more.iter().map(|(n, _)| *n));
    }
    assert!(!answered.is_empty(), "some were answered before the signal");
    let file = fs::File::open(&image).expect("the image is there");
    for n in answered {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, wide(n * len)).expect("inside");
        assert!(bytes == block(n), "write {n} was answered and is not in the file");
    }
}

#[test]
fn sigterm_ends_it_with_everything_accepted_finished() {
    ends_well(libc::SIGTERM);
}

#[test]
fn sigint_ends_it_with_everything_accepted_finished() {
    ends_well(libc::SIGINT);
}

#[test]
fn an_idle_daemon_ends_at_once() {
    let scratch = Scratch::new();
    for connected in [false, true] {
        let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
        let client = connected.then(|| Client::connect(daemon.socket(), Wish::queues(2)));
        let begin = Instant::now();
        daemon.signal(libc::SIGTERM);
        let status = daemon.wait(PATIENCE).expect("it ends");
        assert!(status.success(), "{status}");
        assert!(begin.elapsed() < SECOND, "it took {:?}", begin.elapsed());
        drop(client);
    }
}

#[test]
fn a_second_front_end_is_served_after_the_first() {
    let scratch = Scratch::new();
    let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    serves(daemon.socket());
    let before = daemon.at_rest();
    serves(daemon.socket());
    serves(daemon.socket());
    daemon.settles_at(before, 4096);
    daemon.stop();
}

#[test]
fn a_front_end_waits_for_the_one_before_it() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let mut first = Client::connect(daemon.socket(), Wish::default());
    assert_eq!(first.write(0, 0, &[7; 512]), Ok(()));
    let socket = daemon.socket().to_owned();
    let second = std::thread::spawn(move || {
        let mut second = Client::connect(&socket, Wish::default());
        second.read(0, 0, 512)
    });
    for _ in 0..100 {
        assert_eq!(first.write(0, 0, &[8; 512]), Ok(()), "the first one is served on");
    }
    assert_eq!(first.write(0, 0, &[9; 512]), Ok(()));
    drop(first);
    assert_eq!(second.join().expect("it is served"), Ok(vec![9; 512]));
    daemon.stop();
}

#[test]
fn it_ends_although_a_front_end_is_in_the_middle_of_a_message() {
    let scratch = Scratch::new();
    let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let session = common::session::Session::connect(daemon.socket());
    let header = common::session::header(common::session::request::SET_FEATURES, 1, 8);
    assert!(session.send_raw(&header[..7], &[]));
    let begin = Instant::now();
    daemon.signal(libc::SIGTERM);
    let status = daemon.wait(PATIENCE).expect("it ends");
    assert!(status.success() && begin.elapsed() < SECOND, "{status} after {:?}", begin.elapsed());
}

#[test]
fn the_queue_limits_are_what_the_options_say() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &["--num-queues=3"]);
    let client = Client::connect(daemon.socket(), Wish::queues(3));
    assert_eq!(client.property("max-queues"), 3);
    drop(client);
    let refusal = Client::try_connect(daemon.socket(), Wish::queues(4));
    assert!(refusal.is_err(), "four queues of three");
    daemon.stop();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let client = Client::connect(daemon.socket(), Wish::queues(1));
    assert_eq!(client.property("max-queues"), 256, "the front-end chooses");
    drop(client);
    daemon.stop();
}

#[test]
fn it_runs_in_the_foreground_and_says_nothing_on_stdout() {
    let scratch = Scratch::new();
    let image = scratch.image(MIB);
    let socket = scratch.path("quiet.sock");
    let stdout = scratch.path("stdout");
    let mut child = Command::new(program())
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--blk-file={}", image.display()))
        .stdin(Stdio::null())
        .stdout(fs::File::create(&stdout).expect("a file can be made"))
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    assert!(eventually(PATIENCE, || is_socket(&socket)));
    serves(&socket);
    assert!(child.try_wait().expect("our child").is_none(), "it has not gone to the background");
    common::foreign::kill(child.id(), libc::SIGTERM);
    assert!(child.wait().expect("our child").success());
    assert_eq!(fs::read(&stdout).expect("there"), b"");
}

/// A limit or a busy machine may refuse the descriptors and the thread of one session. That is
/// no reason to leave those that come later without a disk.
#[test]
fn a_front_end_that_cannot_be_served_now_ends_nothing() {
    let scratch = Scratch::new();
    let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    serves(daemon.socket());
    daemon.at_rest();
    let numbers: Vec<u32> = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .expect("the daemon lives")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let limit = |soft: u32| {
        let process = format!("--pid={}", daemon.pid());
        let status = Command::new("prlimit").arg(process).arg(format!("--nofile={soft}:")).status();
        assert!(status.expect("util-linux is there").success());
    };
    // Room for the connection itself, and for nothing that its session needs.
    let free = (0..).find(|n| !numbers.contains(n)).expect("some number is free");
    limit(free + 1);
    let mut refused = UnixStream::connect(daemon.socket()).expect("the daemon listens");
    refused.set_read_timeout(Some(PATIENCE)).expect("open");
    assert_eq!(refused.read(&mut [0]).expect("the connection is closed"), 0);
    limit(1024);
    assert!(daemon.running(), "{}", daemon.said());
    serves(daemon.socket());
    daemon.stop();
}
