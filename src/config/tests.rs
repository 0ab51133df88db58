//! The table of what can be typed: each mistake with its exact line, each option with its meaning.

use super::*;

fn argv(words: &[&str]) -> Vec<OsString> {
    std::iter::once("vhost-user-blkmq").chain(words.iter().copied()).map(OsString::from).collect()
}

fn serve(words: &[&str]) -> Config {
    match from_argv(&argv(words)) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{words:?} gave {other:?}"),
    }
}

/// The two options without which nothing is served, and then `words`.
fn with_basics(words: &[&str]) -> Config {
    serve(&[&["--socket-path=/run/s", "--blk-file=/images/disk.img"], words].concat())
}

fn refusal(words: &[&str]) -> String {
    let line = from_argv(&argv(words)).expect_err("this cannot be served").to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn every_mistake_has_its_line() {
    let socket = "--socket-path=/run/s";
    let image = "--blk-file=/images/disk.img";
    let long = format!("--socket-path=/{}", "x".repeat(107));
    let table: &[(&[&str], &str)] = &[
        (&[], "no image: give --blk-file=PATH, or --blk-file=null:SIZE for an image of nothing"),
        (
            &[image],
            "no socket: give --socket-path=PATH to make one, or --fd=FDNUM to use an open one",
        ),
        (
            &[image, socket, "--fd=3"],
            "--socket-path and --fd name two sockets: give only one of them",
        ),
        (
            &[socket],
            "no image: give --blk-file=PATH, or --blk-file=null:SIZE for an image of nothing",
        ),
        (&[socket, "--blk-file="], "--blk-file=: give a path or null:SIZE"),
        (&[image, "--socket-path="], "--socket-path=: give the path of a file"),
        (
            &[image, &long],
            "--socket-path is 108 bytes long and a Unix socket's path has at most 107: use a \
             shorter one, a relative one for example",
        ),
        (&[image, "--fd=2"], "--fd=2: give the number of an open descriptor, 3 or more"),
        (&[image, "--fd=-1"], "--fd=-1: give the number of an open descriptor, 3 or more"),
        (&[image, "--fd=x"], "--fd=x: give the number of an open descriptor, 3 or more"),
        (
            &[image, "--fd=99999999999"],
            "--fd=99999999999: give the number of an open descriptor, 3 or more",
        ),
        (
            &[image, "--fd=3", "--socket-mode=0660"],
            "--socket-mode is about a socket file, and --fd has none: drop it, or use \
             --socket-path",
        ),
        (
            &[image, "--fd=3", "--socket-group=kvm"],
            "--socket-group is about a socket file, and --fd has none: drop it, or use \
             --socket-path",
        ),
        (
            &[image, "--fd=3", "--fd=4"],
            "the argument '--fd <FDNUM>' cannot be used multiple times; try '--help'",
        ),
        (
            &[image, socket, "--socket-group="],
            "--socket-group=: give the name or the number of a group",
        ),
        (
            &[image, socket, "--socket-mode=0999"],
            "--socket-mode=0999: give octal permissions up to 0777, as in 0660",
        ),
        (
            &[image, socket, "--socket-mode=1777"],
            "--socket-mode=1777: give octal permissions up to 0777, as in 0660",
        ),
        (
            &[image, socket, "--socket-mode=+7"],
            "--socket-mode=+7: give octal permissions up to 0777, as in 0660",
        ),
        (
            &[image, socket, "--socket-mode="],
            "--socket-mode=: give octal permissions up to 0777, as in 0660",
        ),
        (&[image, socket, "--num-queues=0"], "--num-queues=0: give a number from 1 to 256"),
        (&[image, socket, "--num-queues=257"], "--num-queues=257: give a number from 1 to 256"),
        (&[image, socket, "--num-queues=+4"], "--num-queues=+4: give a number from 1 to 256"),
        (&[image, socket, "--num-queues="], "--num-queues=: give a number from 1 to 256"),
        (
            &[image, socket, "--queue-size=100"],
            "--queue-size=100: give a power of two from 1 to 32768",
        ),
        (
            &[image, socket, "--queue-size=65536"],
            "--queue-size=65536: give a power of two from 1 to 32768",
        ),
        (&[image, socket, "--queue-size=0"], "--queue-size=0: give a power of two from 1 to 32768"),
        (&[image, socket, "--threads=0"], "--threads=0: give a number from 1 to 256"),
        (
            &[image, socket, "--threads=4", "--num-queues=2"],
            "--threads=4 is more than --num-queues=2, and a queue has one thread: use at most 2 \
             threads",
        ),
        (
            &[image, socket, "--cpus=0-2", "--num-queues=2"],
            "--threads=3 is more than --num-queues=2, and a queue has one thread: use at most 2 \
             threads",
        ),
        (
            &[image, socket, "--threads=2", "--cpus=0"],
            "--cpus names 1 CPUs for 2 threads: name one for each thread, or leave --threads out",
        ),
        (
            &[image, socket, "--cpus=3-1"],
            "--cpus=3-1: give CPU numbers from 0 to 1023, as in 0,2-3",
        ),
        (
            &[image, socket, "--cpus=0,,1"],
            "--cpus=0,,1: give CPU numbers from 0 to 1023, as in 0,2-3",
        ),
        (
            &[image, socket, "--cpus=1024"],
            "--cpus=1024: give CPU numbers from 0 to 1023, as in 0,2-3",
        ),
        (
            &[image, socket, "--cache=fast"],
            "--cache=fast: give one of none, writeback, writethrough, directsync, unsafe",
        ),
        (&[image, socket, "--discard=on"], "--discard=on: give one of unmap, ignore"),
        (
            &[image, socket, "--serial=123456789012345678901"],
            "--serial=123456789012345678901: give at most 20 printable ASCII characters",
        ),
        (
            &[image, socket, "--serial=\u{e4}"],
            "--serial=\u{e4}: give at most 20 printable ASCII characters",
        ),
        (
            &[image, socket, "--logical-block-size=256"],
            "--logical-block-size=256: give a power of two from 512 to 65536",
        ),
        (
            &[image, socket, "--physical-block-size=4194304"],
            "--physical-block-size=4194304: give a power of two from 512 to 65536",
        ),
        (
            &[image, socket, "--logical-block-size=4096", "--physical-block-size=512"],
            "--logical-block-size=4096 is more than --physical-block-size=512: make the physical \
             size at least as big",
        ),
        (
            &[image, socket, "--log-level=loud"],
            "--log-level=loud: give one of error, warn, info, debug, trace",
        ),
        (
            &[image, socket, "--blk-fil=x"],
            "unexpected argument '--blk-fil' found; a similar argument exists: '--blk-file'",
        ),
        (&[image, socket, "--qq"], "unexpected argument '--qq' found; try '--help'"),
        (&[image, socket, "extra"], "unexpected argument 'extra' found; try '--help'"),
        (
            &[image, "--socket-path"],
            "a value is required for '--socket-path <PATH>' but none was supplied; try '--help'",
        ),
        (
            &[image, socket, "--read-only=maybe"],
            "unexpected value 'maybe' for '--read-only' found; no more were expected; try '--help'",
        ),
    ];
    for (words, line) in table {
        assert_eq!(refusal(words), *line, "{words:?}");
    }
}

#[test]
fn the_defaults_are_what_the_help_says() {
    let config = with_basics(&[]);
    let serial = config.serial;
    assert_eq!(
        config,
        Config {
            socket: Socket::Path { path: "/run/s".into(), mode: 0o600, group: None },
            blk_file: "/images/disk.img".into(),
            read_only: false,
            share_rw: false,
            cache: CacheMode::None,
            unmap: true,
            logical_block: None,
            physical_block: None,
            serial,
            num_queues: 256,
            queue_size: 1024,
            threads: 1,
            cpus: vec![],
            log_level: None,
        }
    );
}

#[test]
fn every_option_reaches_its_field() {
    let config = serve(&[
        "--fd=7",
        "--blk-file",
        "null:1G",
        "--read-only",
        "--share-rw",
        "--cache=directsync",
        "--discard=ignore",
        "--serial=-A b~",
        "--logical-block-size=4096",
        "--physical-block-size=8192",
        "--num-queues=4",
        "--queue-size=256",
        "--threads=3",
        "--cpus=0,2-3",
        "--log-level=debug",
    ]);
    assert_eq!(
        config,
        Config {
            socket: Socket::Fd(7),
            blk_file: "null:1G".into(),
            read_only: true,
            share_rw: true,
            cache: CacheMode::Directsync,
            unmap: false,
            logical_block: Some(4096),
            physical_block: Some(8192),
            serial: *b"-A b~\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            num_queues: 4,
            queue_size: 256,
            threads: 3,
            cpus: vec![0, 2, 3],
            log_level: Some(log::LevelFilter::Debug),
        }
    );
    assert_eq!(
        with_basics(&["--socket-mode=660", "--socket-group=kvm"]).socket,
        Socket::Path { path: "/run/s".into(), mode: 0o660, group: Some("kvm".into()) }
    );
}

#[test]
fn a_cpu_list_alone_asks_for_a_thread_on_each() {
    let config = with_basics(&["--cpus=5,1-2,1"]);
    assert_eq!((config.threads, config.cpus), (4, vec![5, 1, 2, 1]));
}

#[test]
fn capabilities_win_over_every_mistake() {
    for words in [
        &["--print-capabilities"][..],
        &["--no-such-option", "--print-capabilities"],
        &["--fd=1", "--socket-path=/s", "--print-capabilities", "--help"],
        &["--blk-file", "--print-capabilities"],
        &["--", "--print-capabilities"],
    ] {
        match from_argv(&argv(words)) {
            Ok(Command::Print(text)) => assert_eq!(
                text,
                "{ \"type\": \"block\", \"features\": [ \"read-only\", \"blk-file\" ] }\n"
            ),
            other => panic!("{words:?} gave {other:?}"),
        }
    }
    let json: serde_json::Value = serde_json::from_str(CAPABILITIES).expect("it is JSON");
    assert_eq!(json["type"], "block");
}

#[test]
fn the_program_name_is_not_an_option() {
    let words = [OsString::from("--print-capabilities")];
    assert_eq!(from_argv(&words).expect_err("no options at all"), ConfigError::NoImage);
}

#[test]
fn help_names_every_option_and_version_is_the_packages() {
    let Ok(Command::Print(help)) = from_argv(&argv(&["--help"])) else {
        panic!("no help");
    };
    for option in [
        "--socket-path <PATH>",
        "--fd <FDNUM>",
        "--print-capabilities",
        "--blk-file <PATH>",
        "--read-only",
        "--share-rw",
        "--cache <MODE>",
        "--discard <ACTION>",
        "--serial <TEXT>",
        "--logical-block-size <BYTES>",
        "--physical-block-size <BYTES>",
        "--num-queues <N>",
        "--queue-size <N>",
        "--threads <N>",
        "--cpus <LIST>",
        "--socket-mode <MODE>",
        "--socket-group <GROUP>",
        "--log-level <LEVEL>",
        "--help",
        "--version",
    ] {
        assert!(help.contains(option), "{option} is missing in:\n{help}");
    }
    let Ok(Command::Print(version)) = from_argv(&argv(&["--version"])) else {
        panic!("no version");
    };
    assert_eq!(version, format!("vhost-user-blkmq {}\n", env!("CARGO_PKG_VERSION")));
}

fn default_serial(image: &str) -> String {
    let serial = serve(&["--fd=3", &format!("--blk-file={image}")]).serial;
    String::from_utf8(serial.to_vec()).expect("ASCII").trim_end_matches('\0').to_owned()
}

#[test]
fn a_default_serial_follows_from_the_path() {
    // Fixed for ever: guests name their disks by it (/dev/disk/by-id).
    assert_eq!(default_serial("/images/disk.img"), "disk-e0d63225");
    assert_eq!(default_serial("null:1G"), "null-f781cb22");
    assert_ne!(default_serial("/a/disk.img"), default_serial("/b/disk.img"));
    assert_eq!(default_serial("/a/./disk.img"), default_serial("/a/disk.img"));
    let odd = default_serial("/a/a name that is long \u{e4}.img");
    assert_eq!((odd.len(), &odd[..12]), (SERIAL_LEN, "a_name_that-"));
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let words =
        [argv(&["--fd=3"]), vec![OsString::from_vec(b"--blk-file=/a\xff".to_vec())]].concat();
    assert_eq!(
        from_argv(&words).expect_err("no text").to_string(),
        "--blk-file=/a\u{fffd}: the path is not UTF-8: use another name or a symbolic link"
    );
}
