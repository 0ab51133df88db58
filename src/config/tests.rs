//! The table of what can be typed: each mistake with its exact line, each option with its meaning.

use super::*;
use crate::blkmq::limits::Limit;

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
        (
            &[image, socket, "--registered-buffers", "--cache=unsafe"],
            "--cache=unsafe goes through the page cache, where --registered-buffers gain nothing: \
             use none or directsync, or drop --registered-buffers",
        ),
        (&[image, socket, "--discard=on"], "--discard=on: give one of unmap, ignore"),
        (&[image, socket, "--werror=ignore"], "--werror=ignore: give one of report, enospc, stop"),
        (&[image, socket, "--rerror=enospc"], "--rerror=enospc: give one of report, stop"),
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
        (&[image, socket, "--sandbox=perhaps"], "--sandbox=perhaps: give one of on, report, off"),
        (&[image, socket, "--user="], "--user=: give USER or USER:GROUP, each a name or a number"),
        (
            &[image, socket, "--user=me:"],
            "--user=me:: give USER or USER:GROUP, each a name or a number",
        ),
        (
            &[image, socket, "--user=me:us:them"],
            "--user=me:us:them: give USER or USER:GROUP, each a name or a number",
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
fn every_mistake_about_the_block_layer_has_its_line() {
    let schedulers = "give one of none, mq-deadline, kyber, bfq";
    let pairs = "give NAME[,TUNABLE=VALUE]..., as in kyber,read_lat_nsec=1000000";
    let names = "give up to 32 letters, digits, dots, underscores and hyphens, the first of them \
                 a letter or a digit";
    let long = "x".repeat(33);
    let table: &[(&str, &str, String)] = &[
        ("--scheduler", "cfq", schedulers.into()),
        ("--scheduler", "", schedulers.into()),
        ("--scheduler", "kyber,", pairs.into()),
        ("--scheduler", "kyber,a", pairs.into()),
        ("--scheduler", "kyber,a=", pairs.into()),
        ("--scheduler", "kyber,=1", pairs.into()),
        ("--poll-max-us", "10001", "give a number from 0 to 10000".into()),
        ("--poll-max-us", "long", "give a number from 0 to 10000".into()),
        ("--hw-depth", "-1", "give a number from 0 to 65536".into()),
        ("--hw-depth", "65537", "give a number from 0 to 65536".into()),
        ("--hw-depth", "", "give a number from 0 to 65536".into()),
        ("--nomerges", "3", "give one of 0, 1, 2".into()),
        ("--nomerges", "on", "give one of 0, 1, 2".into()),
        ("--nr-requests", "0", "give a number from 1 to 32768".into()),
        ("--nr-requests", "32769", "give a number from 1 to 32768".into()),
        ("--rotational", "yes", "give one of on, off".into()),
        (
            "--throttle",
            "fast",
            "give KEY=VALUE[,KEY=VALUE]..., as in iops-total=500,bps-read=10M".into(),
        ),
        ("--admin-socket", "", "give the path of a file".into()),
        ("--name", "", names.into()),
        ("--name", "..", names.into()),
        ("--name", "-a", names.into()),
        ("--name", "a/b", names.into()),
        ("--name", "\u{e4}", names.into()),
        ("--name", &long, names.into()),
        ("--cpus", &"0,".repeat(70_000), "give CPU numbers from 0 to 1023, as in 0,2-3".into()),
    ];
    for (option, value, remedy) in table {
        let typed = format!("{option}={value}");
        let line = refusal(&["--socket-path=/s", "--blk-file=/b", &typed]);
        let start = typed.chars().take(120).collect::<String>();
        assert!(line.starts_with(&start) && line.ends_with(&format!(": {remedy}")), "{line}");
        assert!(typed.len() > 120 || line == format!("{typed}: {remedy}"), "{line}");
    }
    let also: &[(&str, &str)] = &[
        ("--scheduler=kyber,a=1,b=2,a=3", "--scheduler: a is said twice: say it once"),
        (
            "--scheduler=bfq,Slice=1",
            "--scheduler=Slice=1: give a tunable's name in lower case letters, digits and _",
        ),
        (
            "--scheduler=kyber,read_lat_nsec=5,slice_idle=1",
            "--scheduler: the scheduler kyber has no tunable slice_idle: it takes read_lat_nsec, \
             write_lat_nsec, read_depth, write_depth, discard_depth, other_depth",
        ),
        ("--scheduler=none,x=1", "--scheduler: the scheduler none has no tunable x: it takes none"),
        (
            "--scheduler=kyber,read_lat_nsec=soon",
            "--scheduler=read_lat_nsec=soon: give nanoseconds, 1 to 60000000000",
        ),
        (
            "--admin-socket=/s",
            "--socket-path=/s is the path of the admin socket as well: give another",
        ),
        ("--weight=5", "unexpected argument '--weight' found; try '--help'"),
        ("--pool=a", "unexpected argument '--pool' found; try '--help'"),
        (
            "--throttle=iops-total=5,iops-read=5",
            "--throttle: iops-total holds for reads and writes together, so that iops-read cannot \
             stand beside it: give the total alone, or iops-read and iops-write",
        ),
    ];
    for (typed, line) in also {
        assert_eq!(refusal(&["--socket-path=/s", "--blk-file=/b", typed]), *line);
    }
    let long = format!("--admin-socket=/{}", "x".repeat(107));
    assert_eq!(
        refusal(&["--socket-path=/s", "--blk-file=/b", &long]),
        "--admin-socket is 108 bytes long and a Unix socket's path has at most 107: use a shorter \
         one, a relative one for example"
    );
}

/// Every option there is, but for those that say something of the whole process.
#[test]
fn a_file_of_disks_stands_no_option_about_one_disk() {
    use clap::CommandFactory;
    let mut options = 0;
    for argument in Args::command().get_arguments() {
        let name = argument.get_long().expect("all are long");
        let of_all = ["config", "log-level", "admin-socket", "sandbox", "user"];
        if of_all.contains(&name) || name == "print-capabilities" {
            continue;
        }
        options += 1;
        let takes = argument.get_action().takes_values();
        let typed = if takes { format!("--{name}=1") } else { format!("--{name}") };
        assert_eq!(
            refusal(&["--config=/nonexistent", &typed]),
            format!(
                "--{name} is about one disk, and --config names a file of disks: say {name} in \
                 that file, or drop --config"
            )
        );
    }
    assert_eq!(options, 27);
}

#[test]
fn the_defaults_are_what_the_help_says() {
    let config = with_basics(&[]);
    let serial = config.disks[0].serial;
    assert_eq!(
        config,
        Config {
            log_level: None,
            admin_socket: None,
            sandbox: Sandbox::On,
            user: None,
            pools: vec![PoolConfig {
                name: "disk".into(),
                threads: 1,
                cpus: vec![],
                scheduler: SchedulerConfig { name: "none".into(), tunables: vec![] },
                hw_depth: None,
                poll_max_us: DEFAULT_POLL_US,
                nomerges: 0,
                rotational: None,
            }],
            disks: vec![DiskConfig {
                name: "disk".into(),
                pool: 0,
                socket: Socket::Path { path: "/run/s".into(), mode: 0o600, group: None },
                blk_file: "/images/disk.img".into(),
                read_only: false,
                share_rw: false,
                registered_buffers: false,
                cache: CacheMode::None,
                unmap: true,
                werror: OnError::Report,
                rerror: OnError::Report,
                logical_block: None,
                physical_block: None,
                serial,
                num_queues: 256,
                queue_size: 1024,
                weight: 100,
                limits: LimitsConfig::default(),
                nr_requests: None,
            }],
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
        "--werror=enospc",
        "--rerror=stop",
        "--registered-buffers",
        "--serial=-A b~",
        "--logical-block-size=4096",
        "--physical-block-size=8192",
        "--num-queues=4",
        "--queue-size=256",
        "--threads=3",
        "--cpus=0,2-3",
        "--scheduler=mq-deadline,read_expire=100,writes_starved=1",
        "--hw-depth=32",
        "--poll-max-us=50",
        "--nomerges=2",
        "--nr-requests=64",
        "--rotational=on",
        "--throttle=iops-total=500,iops-total-max=900,iops-total-max-length=5,bps-write=10M",
        "--admin-socket=/run/admin",
        "--name=A.b_c-1",
        "--log-level=debug",
        "--sandbox=report",
        "--user=blkmq:36",
    ]);
    let mut limits = LimitsConfig::default();
    limits.iops.total = Limit { rate: 500, burst: 900, burst_seconds: 5 };
    limits.bps.write = Limit { rate: 10 << 20, ..Limit::default() };
    let tunable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        config,
        Config {
            log_level: Some(log::LevelFilter::Debug),
            admin_socket: Some("/run/admin".into()),
            sandbox: Sandbox::Report,
            user: Some(User { name: "blkmq".into(), group: Some("36".into()) }),
            pools: vec![PoolConfig {
                name: "A.b_c-1".into(),
                threads: 3,
                cpus: vec![0, 2, 3],
                scheduler: SchedulerConfig {
                    name: "mq-deadline".into(),
                    tunables: vec![tunable("read_expire", "100"), tunable("writes_starved", "1")],
                },
                hw_depth: Some(32),
                poll_max_us: 50,
                nomerges: 2,
                rotational: Some(true),
            }],
            disks: vec![DiskConfig {
                name: "A.b_c-1".into(),
                pool: 0,
                socket: Socket::Fd(7),
                blk_file: "null:1G".into(),
                read_only: true,
                share_rw: true,
                registered_buffers: true,
                cache: CacheMode::Directsync,
                unmap: false,
                werror: OnError::Enospc,
                rerror: OnError::Stop,
                logical_block: Some(4096),
                physical_block: Some(8192),
                serial: *b"-A b~\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                num_queues: 4,
                queue_size: 256,
                weight: 100,
                limits,
                nr_requests: Some(64),
            }],
        }
    );
    assert_eq!(
        with_basics(&["--socket-mode=660", "--socket-group=kvm"]).disks[0].socket,
        Socket::Path { path: "/run/s".into(), mode: 0o660, group: Some("kvm".into()) }
    );
    let pool = &with_basics(&["--hw-depth=0", "--rotational=off"]).pools[0];
    assert_eq!((pool.hw_depth, pool.rotational), (Some(0), Some(false)), "said, not left open");
}

#[test]
fn a_cpu_list_alone_asks_for_a_thread_on_each() {
    let pool = with_basics(&["--cpus=5,1-2,1"]).pools.remove(0);
    assert_eq!((pool.threads, pool.cpus), (4, vec![5, 1, 2, 1]));
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
    assert_eq!(
        from_argv(&words).expect_err("no options at all"),
        ConfigError::Typed(Fault::NoImage(Place::CommandLine))
    );
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
        "--scheduler <NAME>",
        "--hw-depth <N>",
        "--poll-max-us <US>",
        "--nomerges <N>",
        "--nr-requests <N>",
        "--rotational <SWITCH>",
        "--werror <ACTION>",
        "--rerror <ACTION>",
        "--throttle <LIMITS>",
        "--name <NAME>",
        "--config <FILE>",
        "--admin-socket <PATH>",
        "--socket-mode <MODE>",
        "--socket-group <GROUP>",
        "--sandbox <MODE>",
        "--user <USER>",
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
    let serial = serve(&["--fd=3", &format!("--blk-file={image}")]).disks[0].serial;
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
