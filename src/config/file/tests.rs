//! Each mistake in a file with its exact line, each way to write with its meaning.

use super::super::*;
use crate::blkmq::limits::Limit;
use crate::testkit::rng::Rng;

mod random;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let refused = |refusal: error::Refusal| refusal.in_file("disks.toml".into());
    file::words(text).and_then(meaning::config).map_err(refused)
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn refusal(text: &str) -> String {
    let line = parse(text).map(|config| panic!("{text}\ngave {config:?}")).unwrap_err().to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// A good disk in three lines, which `more` begins to follow in line 5.
fn disk(name: &str, more: &str) -> String {
    format!("[[disk]]\nname = \"{name}\"\nfd = 9{name}\nblk-file = \"/{name}\"\n{more}\n")
}

fn with(more: &str) -> Config {
    good(&disk("1", more))
}

#[test]
fn the_example_means_what_it_says() {
    let config = good(include_str!("../example.toml"));
    assert_eq!(config.log_level, Some(log::LevelFilter::Info));
    assert_eq!(config.admin_socket, Some("/run/blkmq/admin.sock".into()));
    assert_eq!(config.sandbox, Sandbox::On);
    assert_eq!(config.user, Some(User { name: "blkmq".into(), group: Some("kvm".into()) }));
    let tunable = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(
        config.pools,
        [
            PoolConfig {
                name: "slow".into(),
                threads: 2,
                cpus: vec![0, 2],
                scheduler: SchedulerConfig {
                    name: "bfq".into(),
                    tunables: tunable("slice_idle", "0"),
                },
                hw_depth: Some(32),
                poll_max_us: 0,
                nomerges: 0,
                rotational: Some(true),
            },
            PoolConfig {
                name: "fast".into(),
                threads: 4,
                cpus: vec![],
                scheduler: SchedulerConfig {
                    name: "kyber".into(),
                    tunables: tunable("read_lat_nsec", "1000000"),
                },
                hw_depth: None,
                poll_max_us: DEFAULT_POLL_US,
                nomerges: 0,
                rotational: None,
            },
        ]
    );
    let [web, db, scratch, fast] = &config.disks[..] else { panic!("four disks") };
    let path = |path: &str, mode, group: Option<&str>| Socket::Path {
        path: path.into(),
        mode,
        group: group.map(str::to_owned),
    };
    assert_eq!((web.name.as_str(), web.pool, web.weight), ("web", 0, 200));
    assert_eq!(web.socket, path("/run/blkmq/web.sock", 0o660, Some("kvm")));
    assert_eq!((web.blk_file.as_str(), &web.serial[..6]), ("/images/web.img", &b"web-1\0"[..]));
    assert_eq!((db.pool, db.weight, db.unmap), (0, 100, false));
    assert_eq!(db.socket, path("/run/blkmq/db.sock", 0o600, None));
    assert_eq!((db.logical_block, db.physical_block), (Some(4096), Some(4096)));
    assert_eq!(db.limits.iops.total, Limit { rate: 500, burst: 2000, burst_seconds: 10 });
    assert_eq!(db.limits.bps.read.rate, 10 << 20);
    assert_eq!((scratch.pool, scratch.weight, &scratch.socket), (0, 50, &Socket::Fd(3)));
    assert!(scratch.share_rw && !scratch.read_only);
    assert!(fast.registered_buffers && !scratch.registered_buffers);
    assert_eq!(scratch.limits.bps.total.rate, 100 << 20);
    assert_eq!((scratch.limits.iops.write.rate, scratch.limits.iops_size), (50, 4096));
    assert_eq!((fast.pool, fast.read_only, fast.num_queues), (1, true, 8));
    assert_eq!((fast.queue_size, fast.nr_requests), (256, Some(128)));
}

/// A file of one disk that says no more than a command line means the same.
#[test]
fn a_disk_that_says_little_has_the_defaults_of_the_command_line() {
    let argv = ["x", "--fd=91", "--blk-file=/1", "--name=1"].map(OsString::from);
    match from_argv(&argv) {
        Ok(Command::Serve(config)) => assert_eq!(*config, with("")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_may_be_written_in_several_ways() {
    let pool = |more| with(more).pools.remove(0);
    for more in ["cpus = [0, 2, 3]", "cpus = '0,2-3'", "cpus = [0, '2-3']", "cpus = [\n0,2,\n3]"] {
        assert_eq!(pool(more).cpus, [0, 2, 3], "{more}");
    }
    assert_eq!(pool("cpus = 5").cpus, [5]);
    for more in ["num-queues = 1_6", "num-queues = 0x10", "num-queues = '16'", "num-queues = +16"] {
        assert_eq!(with(more).disks[0].num_queues, 16, "{more}");
    }
    for (more, rotational) in [
        ("rotational = true", true),
        ("rotational = 'on'", true),
        ("rotational = false", false),
        ("rotational = \"off\"", false),
    ] {
        assert_eq!(pool(more).rotational, Some(rotational), "{more}");
    }
    let kyber = pool("scheduler = 'kyber,write_lat_nsec=5,read_lat_nsec=7'").scheduler;
    assert_eq!(kyber.tunables[0], ("write_lat_nsec".into(), "5".into()), "in the order said");
    for more in [
        "scheduler = { name = 'kyber', write_lat_nsec = 5, read_lat_nsec = '7' }",
        "[disk.scheduler]\nwrite_lat_nsec = 5\nname = 'kyber'\nread_lat_nsec = 7",
        "scheduler.name = 'kyber'\nscheduler.write_lat_nsec = 5\nscheduler.read_lat_nsec = 7",
    ] {
        assert_eq!(pool(more).scheduler, kyber, "{more}");
    }
    for more in [
        "throttle = 'iops-read=7,bps-read=2K'",
        "throttle = { iops-read = 7, bps-read = '2K' }",
        "[disk.throttle]\niops-read = '7'\nbps-read = 2048",
    ] {
        let limits = with(more).disks[0].limits;
        assert_eq!((limits.iops.read.rate, limits.bps.read.rate), (7, 2048), "{more}");
    }
    for mode in ["'0640'", "\"640\"", "0o640", "0o0640"] {
        let text =
            disk("1", &format!("socket-mode = {mode}")).replace("fd = 91", "socket-path='s'");
        let socket = good(&text).disks.remove(0).socket;
        let path = "s".into();
        assert_eq!(socket, Socket::Path { path, mode: 0o640, group: None }, "{mode}");
    }
    let group = disk("1", "socket-group = 107").replace("fd = 91", "socket-path='s'");
    assert!(matches!(&good(&group).disks[0].socket,
        Socket::Path { group: Some(group), .. } if group == "107"));
    let inline =
        "disk = [{ name = 'a', fd = 3, blk-file = 'x' }, { name='b', fd=4, blk-file='y' }]";
    assert_eq!(good(inline).disks.len(), 2);
}

#[test]
fn pools_come_as_declared_and_then_the_disks_own() {
    let text = "[[pool]]\nname = 'p'\n[[pool]]\nname = 'q'\nthreads = 300\n".replace("300", "256")
        + &disk("1", "pool = 'q'\nnum-queues = 200")
        + &disk("2", "threads = 2")
        + &disk("3", "pool = 'p'")
        + &disk("4", "pool = 'q'\nnum-queues = 56");
    let config = good(&text);
    let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["p", "q", "2"]);
    let of: Vec<_> = config.disks.iter().map(|disk| disk.pool).collect();
    assert_eq!(of, [1, 2, 0, 1]);
    assert_eq!(config.pools[1].threads, 256, "as many as the queues of all its disks");
}

#[test]
fn every_mistake_in_a_disk_has_its_line() {
    let pairs = "give NAME[,TUNABLE=VALUE]..., as in kyber,read_lat_nsec=1000000";
    let keys = "use name, pool, weight, socket-path, fd, socket-mode, socket-group, blk-file, \
                read-only, share-rw, registered-buffers, cache, discard, serial, logical-block-size, \
                physical-block-size, num-queues, queue-size, nr-requests, werror, rerror, throttle, \
                threads, cpus, scheduler, hw-depth, poll-max-us, nomerges, rotational";
    let table: &[(&str, &str)] = &[
        ("num-queus = 4", "5: num-queus: [[disk]] has no such key: did you mean num-queues?"),
        ("num_queues = 4", "5: num_queues: [[disk]] has no such key: did you mean num-queues?"),
        ("colour = 4", &format!("5: colour: [[disk]] has no such key: {keys}")),
        ("\"a\\nb\" = 4", &format!("5: a\\nb: [[disk]] has no such key: {keys}")),
        ("\n\nnum-queues = 0", "7: num-queues=0: give a number from 1 to 256"),
        ("num-queues = -1", "5: num-queues=-1: give a number from 1 to 256"),
        ("num-queues = '4k'", "5: num-queues=4k: give a number from 1 to 256"),
        ("num-queues = 1.5", "5: num-queues is a number with a fraction: give a number"),
        ("num-queues = true", "5: num-queues is true: give a number"),
        ("num-queues = []", "5: num-queues is a list: give a number"),
        ("num-queues = 2000-01-01", "5: num-queues is a date: give a number"),
        (
            "queue-size = 99999999999999999999999999",
            "5: queue-size=99999999999999999999999999: give a power of two from 1 to 32768",
        ),
        ("read-only = 'yes'", "5: read-only is a text: give true or false"),
        ("share-rw = 1", "5: share-rw is a number: give true or false"),
        ("rotational = 1", "5: rotational is a number: give true or false"),
        ("rotational = 'yes'", "5: rotational=yes: give one of on, off"),
        ("serial = 5", "5: serial is a number: give a text in quotes"),
        ("serial = 'a\u{e4}'", "5: serial=a\u{e4}: give at most 20 printable ASCII characters"),
        (
            "cache = 'fast'",
            "5: cache=fast: give one of none, writeback, writethrough, directsync, unsafe",
        ),
        ("discard = \"a\\nb\"", "5: discard=a\\nb: give one of unmap, ignore"),
        ("werror = 'ignore'", "5: werror=ignore: give one of report, enospc, stop"),
        ("rerror = 'enospc'", "5: rerror=enospc: give one of report, stop"),
        (
            "registered-buffers = true\ncache = 'writeback'",
            "6: cache=writeback goes through the page cache, where registered-buffers gain nothing: \
             use none or directsync, or drop registered-buffers",
        ),
        ("registered-buffers = 1", "5: registered-buffers is a number: give true or false"),
        ("cpus = true", "5: cpus is true: give a list, as in [0, 2] or \"0,2-3\""),
        ("cpus = [true]", "5: cpus is a list: give a list, as in [0, 2] or \"0,2-3\""),
        ("cpus = []", "5: cpus=: give CPU numbers from 0 to 1023, as in 0,2-3"),
        ("cpus = [\n1024]", "5: cpus=1024: give CPU numbers from 0 to 1023, as in 0,2-3"),
        (
            "threads = 2\ncpus = [0]",
            "6: cpus names 1 CPUs for 2 threads: name one for each thread, or leave threads out",
        ),
        (
            "num-queues = 2\nthreads = 3",
            "6: threads=3 is more than num-queues=2, and a queue has one thread: use at most 2 \
             threads",
        ),
        (
            "logical-block-size = 4096\nphysical-block-size = 512",
            "5: logical-block-size=4096 is more than physical-block-size=512: make the physical \
             size at least as big",
        ),
        ("scheduler = 'cfq'", "5: scheduler=cfq: give one of none, mq-deadline, kyber, bfq"),
        ("scheduler = {}", "5: scheduler=: give one of none, mq-deadline, kyber, bfq"),
        ("scheduler = 5", "5: scheduler is a number: give a text in quotes or a table"),
        ("scheduler = { name = 5 }", "5: name is a number: give a text in quotes"),
        ("scheduler = 'bfq,a'", &format!("5: scheduler=bfq,a: {pairs}")),
        ("scheduler = 'bfq,a=1,a=2'", "5: scheduler: a is said twice: say it once"),
        (
            "[disk.scheduler]\nname = 'bfq'\nslice_idle = 1.5",
            "7: scheduler.slice_idle is a number with a fraction: give a number or a text in quotes",
        ),
        (
            "[disk.scheduler]\nname = 'bfq'\nslice-idle = 1",
            "7: scheduler=slice-idle=1: give a tunable's name in lower case letters, digits and _",
        ),
        (
            "scheduler = { name = 'bfq', a = '' }",
            "5: scheduler=a=: give it a value, or leave it out",
        ),
        (
            "[disk.scheduler]\nname = 'kyber'\nread_lat_nsec = 5\nread_lat = 1",
            "8: scheduler: the scheduler kyber has no tunable read_lat: it takes read_lat_nsec, \
             write_lat_nsec, read_depth, write_depth, discard_depth, other_depth",
        ),
        (
            "scheduler = { name = 'kyber', read_lat_nsec = 0 }",
            "5: scheduler=read_lat_nsec=0: give nanoseconds, 1 to 60000000000",
        ),
        (
            "[disk.scheduler]\nname = 'kyber'\nread_depth = 9",
            "7: scheduler=read_depth=9: give nothing: it can only be read",
        ),
        ("throttle = 7", "5: throttle is a number: give a text in quotes or a table"),
        (
            "throttle = 'x'",
            "5: throttle=x: give KEY=VALUE[,KEY=VALUE]..., as in iops-total=500,bps-read=10M",
        ),
        (
            "[disk.throttle]\niops-total = 5\niops-totle = 7",
            "7: throttle=iops-totle=7: give a limit that there is: did you mean iops-total?",
        ),
        (
            "throttle = { iops-total = 5, iops-total-max = 3 }",
            "5: throttle: iops-total-max=3 is below iops-total=5: give at least 5, or drop \
             iops-total-max",
        ),
        ("nr-requests = 0", "5: nr-requests=0: give a number from 1 to 32768"),
        ("hw-depth = 100000", "5: hw-depth=100000: give a number from 0 to 65536"),
        ("nomerges = 3", "5: nomerges=3: give one of 0, 1, 2"),
        ("socket-path = '/s'", "3: socket-path and fd name two sockets: give only one of them"),
        (
            "socket-mode = '0600'",
            "5: socket-mode is about a socket file, and fd has none: drop it, or use socket-path",
        ),
        (
            "socket-mode = 660",
            "5: socket-mode is a number: give octal permissions, as in \"0660\" or 0o660",
        ),
        ("socket-group = true", "5: socket-group is true: give a group's name or number"),
        (
            "weight = 7",
            "5: weight=7 is a share among the disks of a pool, and this disk is alone: say pool = \
             \"NAME\" with a pool whose scheduler is bfq, or drop the weight",
        ),
        ("weight = 0", "5: weight=0: give a number from 1 to 1000"),
        ("weight = 1001", "5: weight=1001: give a number from 1 to 1000"),
        (
            "pool = 'p'",
            "5: pool=p: there is no such pool: declare it in a [[pool]], or leave pool out",
        ),
        (
            "pool = '1'",
            "5: pool=1: there is no such pool: declare it in a [[pool]], or leave pool out",
        ),
        ("log-level = 'info'", &format!("5: log-level: [[disk]] has no such key: {keys}")),
    ];
    for (more, line) in table {
        assert_eq!(refusal(&disk("1", more)), format!("disks.toml:{line}"), "{more}");
    }
}

#[test]
fn every_mistake_in_a_file_has_its_line() {
    let long = "x".repeat(108);
    let no_disk = "1: there is no disk: add a [[disk]] with name = \"NAME\", socket-path = \
                   \"PATH\" and blk-file = \"PATH\"";
    let names = "give up to 32 letters, digits, dots, underscores and hyphens, the first of them \
                 a letter or a digit";
    let slow = "[[pool]]\nname = 'slow'\n";
    let table: &[(String, &str)] = &[
        (String::new(), no_disk),
        ("log-level = 'info'".into(), no_disk),
        ("disk = []".into(), no_disk),
        (
            "[disk]\nname = 'a'".into(),
            "1: [disk] is one table, and there may be several: write [[disk]], once for each disk",
        ),
        (
            "[pool]".to_owned() + "\n" + &disk("1", ""),
            "1: [pool] is one table, and there may be several: write [[pool]], once for each pool",
        ),
        ("disk = 5".into(), "1: disk is a number: give tables"),
        ("disk = [\n5]".into(), "2: disk is a number: give tables"),
        (
            "\n[[disks]]\nname = 'a'".into(),
            "2: disks: the file's top has no such key: did you mean disk?",
        ),
        (
            "\nspeed = 5".into(),
            "2: speed: the file's top has no such key: use log-level, admin-socket, \
             sandbox, user, pool, disk",
        ),
        (
            "log-level = 'loud'\n".to_owned() + &disk("1", ""),
            "1: log-level=loud: give one of error, warn, info, debug, trace",
        ),
        ("log-level = 5".into(), "1: log-level is a number: give a text in quotes"),
        ("sandbox = true".into(), "1: sandbox is true: give a text in quotes"),
        (
            "sandbox = 'no'\n".to_owned() + &disk("1", ""),
            "1: sandbox=no: give one of on, report, off",
        ),
        ("user = true".into(), "1: user is true: give a user's name or number"),
        (
            format!("admin-socket = '{long}'\n") + &disk("1", ""),
            "1: admin-socket is 108 bytes long and a Unix socket's path has at most 107: use a \
             shorter one, a relative one for example",
        ),
        (
            "admin-socket = \"/a\\u0000b\"\n".to_owned() + &disk("1", ""),
            "1: admin-socket=/a\\u{0}b: give a path without NUL",
        ),
        ("\n[[disk]]\nfd = 3".into(), "2: this [[disk]] has no name: add name = \"NAME\""),
        (
            disk("1", "") + "[[pool]]\nthreads = 1",
            "6: this [[pool]] has no name: add name = \"NAME\"",
        ),
        ("[[disk]]\nname = 'a b'".into(), &format!("2: name=a b: {names}")),
        (
            "[[disk]]\nname = 'a'\nfd = 3".into(),
            "1: no image: give blk-file = \"PATH\", or blk-file = \"null:SIZE\" for an image of \
             nothing",
        ),
        ("[[disk]]\nname = 'a'\nblk-file = ''".into(), "3: blk-file=: give a path or null:SIZE"),
        (
            "[[disk]]\nname = 'a'\nblk-file = \"a\\u0000\"".into(),
            "3: blk-file=a\\u{0}: give a path without NUL",
        ),
        (
            "[[disk]]\nname = 'a'\nblk-file = 'x'".into(),
            "1: no socket: give socket-path = \"PATH\" to make one, or fd = FDNUM to use an open one",
        ),
        (
            disk("1", "") + &disk("2", "").replace("'2'", "'1'").replace("\"2\"", "\"1\""),
            "7: name=1: line 2 says the same: give each disk a name of its own",
        ),
        (
            disk("1", "") + &disk("2", "").replace("92", "91"),
            "8: fd=91: line 3 says the same: give each disk a socket of its own",
        ),
        (
            disk("1", "").replace("fd = 91", "socket-path = '/s'")
                + &disk("2", "").replace("fd = 92", "socket-path = '/s'"),
            "8: socket-path=/s: line 3 says the same: give each disk a socket of its own",
        ),
        (
            "admin-socket = '/s'\n".to_owned()
                + &disk("1", "").replace("fd = 91", "socket-path = '/s'"),
            "4: socket-path=/s is the path of the admin socket as well: give another",
        ),
        (
            disk("1", "serial = 'x'") + &disk("2", "serial = 'x'"),
            "10: serial=x: line 5 says the same: give each disk a serial number of its own",
        ),
        (
            format!("{slow}{slow}"),
            // The pools are read first; that there are no disks is found while reading.
            no_disk,
        ),
        (
            format!("{slow}{slow}{}", disk("1", "pool = 'slow'")),
            "4: name=slow: line 2 says the same: give each pool a name of its own",
        ),
        (
            slow.to_owned() + &disk("1", ""),
            "2: pool slow has no disk: say pool = \"slow\" in the [[disk]] that belongs there, or \
             remove it",
        ),
        (
            slow.to_owned() + &disk("1", "pool = 'slwo'"),
            "7: pool=slwo: there is no such pool: declare it in a [[pool]], or leave pool out",
        ),
        (
            slow.to_owned() + &disk("1", "pool = 'slo'"),
            "7: pool=slo: there is no such pool: did you mean slow?",
        ),
        (
            slow.to_owned() + &disk("1", "nomerges = 1\nhw-depth = 2\npool = 'slow'"),
            "7: nomerges holds for all disks of a pool, and this disk is in pool slow: say it in \
             the [[pool]]",
        ),
        (
            slow.to_owned() + &disk("1", "pool = 'slow'\nscheduler = 'bfq'"),
            "8: scheduler holds for all disks of a pool, and this disk is in pool slow: say it in \
             the [[pool]]",
        ),
        (
            "[[pool]]\nname = '1'\n".to_owned() + &disk("1", ""),
            "4: disk 1 would get a pool of its own by that name, and line 2 has another: say pool \
             = \"1\" to join it, or name one of them differently",
        ),
        (
            slow.to_owned() + &disk("1", "pool = 'slow'\nweight = 7"),
            "8: weight=7 needs the scheduler bfq, and pool slow has none: say scheduler = \"bfq\" \
             there, or drop the weight",
        ),
        (
            slow.to_owned() + "threads = 4\n" + &disk("1", "pool = 'slow'\nnum-queues = 3"),
            "3: threads=4 is more than the 3 queues that the pool's disks have together \
             (num-queues), and a queue has one thread: use at most 3 threads",
        ),
        (
            slow.to_owned()
                + "cpus = '0-300'\n"
                + &disk("1", "pool = 'slow'")
                + &disk("2", "pool = 'slow'"),
            "3: cpus=0-300: give at most 256 CPUs",
        ),
        (
            slow.to_owned() + "weight = 5\n" + &disk("1", "pool = 'slow'"),
            "3: weight: [[pool]] has no such key: use name, threads, cpus, scheduler, hw-depth, \
             poll-max-us, nomerges, rotational",
        ),
    ];
    for (text, line) in table {
        assert_eq!(refusal(text), format!("disks.toml:{line}"), "{text}");
    }
}

/// What is no TOML is told in the parser's words, but in one line and with its place.
#[test]
fn what_is_no_toml_has_its_line() {
    for (text, line) in [
        ("\n[[disk]\n", "2"),
        ("a = 1\na = 2\n", "2"),
        ("[[disk]]\nname = 'a\n", "2"),
        ("x", "1"),
        ("\n\nfd = 0660", "3"),
        ("a = [[[[[[[[[[", "1"),
        ("a = \"\\q\"", "1"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with(&format!("disks.toml:{line}: not TOML: ")), "{refusal}");
        assert!(refusal.ends_with(": correct this line"), "{refusal}");
    }
    assert_eq!(
        refusal("a = 1\na = 2\n"),
        "disks.toml:2: not TOML: duplicate key: correct this line"
    );
}

#[test]
fn one_image_has_one_writer_unless_all_share_it() {
    let of = |disks: [&str; 3]| {
        let disks = ["1", "2", "3"].into_iter().zip(disks);
        disks
            .map(|(name, more)| disk(name, more).replace(&format!("\"/{name}\""), "'/i'"))
            .collect()
    };
    let line = |n, first| {
        format!(
            "disks.toml:{n}: blk-file=/i: line {first} says the same: give each disk its own \
             image, or say read-only (or share-rw) in all of the disks that have it"
        )
    };
    let (read, share, both) =
        ("read-only = true", "share-rw = true", "read-only=true\nshare-rw=true");
    for disks in
        [[read, read, read], [share, share, share], [share, both, share], [both, read, both]]
    {
        let text: String = of(disks);
        assert_eq!(good(&text).disks.len(), 3);
    }
    let table = [
        (["", read, read], 9),
        ([read, "", read], 9),
        ([read, read, ""], 14),
        ([share, "", share], 9),
        ([both, read, share], 15),
    ];
    for (disks, at) in table {
        let text: String = of(disks);
        assert_eq!(refusal(&text), line(at, 4), "{disks:?}");
    }
    let nothing = disk("1", "") + &disk("2", "");
    let nothing = nothing.replace("\"/1\"", "'null:1G'").replace("\"/2\"", "'null:1G'");
    assert_eq!(good(&nothing).disks.len(), 2, "a null image keeps nothing");
}

#[test]
fn as_many_disks_as_one_process_serves() {
    let disks = |n: usize| -> String {
        let fd = |i: usize| format!("[[disk]]\nname='d{i}'\nfd={}\nblk-file='/d{i}'\n", i + 3);
        (0..n).map(fd).collect()
    };
    assert_eq!(good(&disks(MAX_DISKS)).disks.len(), MAX_DISKS);
    assert_eq!(
        refusal(&disks(MAX_DISKS + 1)),
        "disks.toml:1025: this is disk number 257, and one process serves at most 256: start \
         another one for the rest"
    );
}

fn from_file(path: &Path, more: &[&str]) -> Result<Command, ConfigError> {
    let mut argv = vec![OsString::from("x"), OsString::from("--config"), path.into()];
    argv.extend(more.iter().map(OsString::from));
    from_argv(&argv)
}

use std::path::Path;

#[test]
fn a_file_that_cannot_be_read_is_told_by_its_cause() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let line = |path: &Path| from_file(path, &[]).expect_err("no file").to_string();
    let check = |path: &Path, text: &str| {
        assert_eq!(line(path), format!("--config={}: {text}", path.display()));
    };
    check(&at("none"), "no such file: correct the path");
    check(&at("none/none"), "no such file: correct the path");
    check(dir.path(), "is a directory: name a file");
    check(&at(&"x".repeat(300)), "the path is too long: give a shorter one");
    std::os::unix::fs::symlink(at("loop"), at("loop")).expect("a link");
    check(&at("loop"), "its symbolic links run in a circle: correct the path");
    let permission = std::io::Error::from_raw_os_error(libc::EACCES);
    assert_eq!(
        error::unreadable("f".into(), &permission).to_string(),
        "--config=f: permission denied: let this user read it"
    );
    let odd = error::unreadable("f".into(), &std::io::Error::from_raw_os_error(libc::EIO));
    assert!(odd.to_string().starts_with("--config=f: Input/output error"), "{odd}");

    let (full, more) = (at("full"), at("more"));
    let comment = "#".repeat(usize::try_from(MAX_FILE_SIZE).expect("small"));
    std::fs::write(&full, &comment).expect("room");
    std::fs::write(&more, comment + "#").expect("room");
    assert!(line(&full).ends_with("and blk-file = \"PATH\""), "it was read whole");
    check(&more, "is bigger than 1 MiB: name a file of disks and pools");
    std::fs::write(at("bytes"), b"a = 1\nb = '\xff'\n").expect("room");
    assert_eq!(
        line(&at("bytes")),
        format!("{}:2: this is not UTF-8 text: save the file as UTF-8", at("bytes").display())
    );
}

#[test]
fn what_is_typed_of_the_process_wins_over_the_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "log-level = 'warn'\nadmin-socket = '/file'\n".to_owned() + &disk("1", "");
    std::fs::write(file.path(), text).expect("room");
    let serve = |more: &[&str]| match from_file(file.path(), more) {
        Ok(Command::Serve(config)) => (config.log_level, config.admin_socket),
        other => panic!("{other:?}"),
    };
    let (warn, trace) = (Some(log::LevelFilter::Warn), Some(log::LevelFilter::Trace));
    assert_eq!(serve(&[]), (warn, Some("/file".into())));
    assert_eq!(serve(&["--log-level=trace"]), (trace, Some("/file".into())));
    assert_eq!(serve(&["--admin-socket=/typed"]), (warn, Some("/typed".into())));
    let text = "sandbox = 'off'\nuser = 5\n".to_owned() + &disk("1", "");
    std::fs::write(file.path(), text).expect("room");
    let serve = |more: &[&str]| match from_file(file.path(), more) {
        Ok(Command::Serve(config)) => (config.sandbox, config.user.expect("said").name),
        other => panic!("{other:?}"),
    };
    assert_eq!(serve(&[]), (Sandbox::Off, "5".into()));
    assert_eq!(serve(&["--sandbox=on"]), (Sandbox::On, "5".into()));
    assert_eq!(serve(&["--user=6"]), (Sandbox::Off, "6".into()));
    let line = from_file(file.path(), &["--log-level=loud"]).expect_err("no level").to_string();
    assert_eq!(line, "--log-level=loud: give one of error, warn, info, debug, trace");
}
