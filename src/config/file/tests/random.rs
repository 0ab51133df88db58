//! Random files: what is meant survives being written down, and nothing makes us panic.

use std::fmt::Write;

use super::*;
use crate::blkmq::limits::LimitSet;
use crate::blkmq::sched::Kind;

/// Printed when a test fails: the seed repeats it.
struct Seed(u64);

impl Drop for Seed {
    #[allow(clippy::print_stderr, reason = "a failing test names its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    let at = usize::try_from(rng.below(of.len() as u64)).expect("small");
    of[at].clone()
}

fn below(rng: &mut Rng, n: u16) -> u16 {
    u16::try_from(rng.below(u64::from(n))).expect("below n")
}

fn maybe<T>(rng: &mut Rng, value: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.chance(1, 2).then(|| value(rng))
}

/// A text with everything that has to be escaped.
fn text(rng: &mut Rng, longest: u64) -> String {
    let chars = ['a', 'Z', '9', '.', '/', '-', '_', ' ', '"', '\'', '\\', '#', '~', '='];
    (0..=rng.below(longest)).map(|_| pick(rng, &chars)).collect()
}

fn scheduler(rng: &mut Rng) -> SchedulerConfig {
    let name = pick(rng, &SCHEDULERS).to_owned();
    let kind = Kind::named(&name).expect("one of them");
    let mut made = kind.build(&[], 1, false).expect("nothing is asked").remove(0);
    let mut tunables = Vec::new();
    for tunable in kind.tunables().iter().filter(|_| rng.chance(1, 3)) {
        let value = made.tunable(tunable, None).expect("it has that");
        // Some can only be read.
        if made.tunable(tunable, Some(&value)).is_ok() {
            tunables.push(((*tunable).to_owned(), value));
        }
    }
    SchedulerConfig { name, tunables }
}

fn limit(rng: &mut Rng) -> Limit {
    let rate = 1 + rng.below(1 << 40);
    let burst = if rng.chance(1, 2) { rate + rng.below(rate) } else { 0 };
    let longest = 1_000_000_000_000_000_u64.checked_div(burst).unwrap_or(0);
    let burst_seconds = u32::try_from(rng.below(longest.min(100))).expect("small");
    Limit { rate, burst, burst_seconds }
}

fn limits(rng: &mut Rng) -> LimitsConfig {
    let mut set = || match rng.below(3) {
        0 => LimitSet::default(),
        1 => LimitSet { total: limit(rng), ..LimitSet::default() },
        _ => LimitSet { read: limit(rng), write: limit(rng), ..LimitSet::default() },
    };
    let (iops, bps) = (set(), set());
    let iops_size = if iops == LimitSet::default() { 0 } else { rng.below(1 << 20) };
    LimitsConfig { iops, bps, iops_size }
}

fn pool(rng: &mut Rng, name: String, queues: u16) -> PoolConfig {
    let threads = 1 + below(rng, queues.min(MAX_QUEUES));
    let cpus = if rng.chance(1, 2) { 0 } else { threads };
    PoolConfig {
        name,
        threads,
        cpus: (0..cpus).map(|_| usize::from(below(rng, 1024))).collect(),
        scheduler: scheduler(rng),
        hw_depth: maybe(rng, |rng| pick(rng, &[0, 1, 32, MAX_HW_DEPTH])),
        poll_max_us: pick(rng, &[0, 1, DEFAULT_POLL_US, MAX_POLL_US]),
        nomerges: pick(rng, &[0, 1, 2]),
        rotational: maybe(rng, |rng| rng.chance(1, 2)),
    }
}

fn random_disk(rng: &mut Rng, index: u16) -> DiskConfig {
    let logical = maybe(rng, |rng| pick(rng, &[512, 4096]));
    let cache = pick(rng, &CacheMode::ALL);
    let mut serial = [0; SERIAL_LEN];
    for (at, byte) in serial.iter_mut().zip(format!("{index}").bytes().chain(text(rng, 16).bytes()))
    {
        *at = byte;
    }
    DiskConfig {
        name: format!("d{index}.{}", pick(rng, &["a", "B-", "_"])),
        pool: 0,
        socket: if rng.chance(1, 4) {
            Socket::Fd(3 + i32::from(index))
        } else {
            Socket::Path {
                path: format!("/{index}{}", text(rng, 90)).into(),
                mode: u32::from(below(rng, 0o1000)),
                group: maybe(rng, |rng| text(rng, 10)),
            }
        },
        blk_file: format!("/{index}{}", text(rng, 200)),
        read_only: rng.chance(1, 2),
        share_rw: rng.chance(1, 2),
        registered_buffers: cache.direct() && rng.chance(1, 2),
        cache,
        unmap: rng.chance(1, 2),
        logical_block: logical,
        physical_block: maybe(rng, |rng| pick(rng, &[4096, 65536])),
        serial,
        num_queues: 1 + below(rng, MAX_QUEUES),
        queue_size: 1 << below(rng, 16),
        weight: DEFAULT_WEIGHT,
        limits: limits(rng),
        werror: pick(rng, &[OnError::Report, OnError::Enospc, OnError::Stop]),
        rerror: pick(rng, &[OnError::Report, OnError::Stop]),
        nr_requests: maybe(rng, |rng| 1 + below(rng, MAX_QUEUE_SIZE)),
    }
}

/// Any configuration that can be said.
fn random_config(rng: &mut Rng) -> Config {
    let mut disks: Vec<_> = (0..1 + below(rng, 6)).map(|i| random_disk(rng, i)).collect();
    let declared = usize::from(below(rng, 3)).min(disks.len());
    // The first disks fill the pools, so that none is empty; the others go anywhere.
    let mut pools = Vec::new();
    let mut own = declared;
    for (i, disk) in disks.iter_mut().enumerate() {
        disk.pool = if i < declared {
            i
        } else if declared > 0 && rng.chance(1, 2) {
            usize::from(below(rng, 3)) % declared
        } else {
            own += 1;
            own - 1
        };
    }
    for index in 0..own {
        let members: Vec<_> = disks.iter().filter(|disk| disk.pool == index).collect();
        let queues = members.iter().map(|disk| disk.num_queues).sum();
        let name = if index < declared { format!("p{index}") } else { members[0].name.clone() };
        pools.push(pool(rng, name, queues));
    }
    for disk in &mut disks {
        if disk.pool < declared && pools[disk.pool].scheduler.name == "bfq" {
            disk.weight = 1 + below(rng, MAX_WEIGHT);
        }
    }
    Config {
        log_level: maybe(rng, |rng| pick(rng, &value::LOG_LEVELS).1),
        admin_socket: maybe(rng, |_| "/run/a d\"min".into()),
        sandbox: pick(rng, &value::SANDBOX).1,
        user: maybe(rng, |rng| User {
            name: format!("u{}", below(rng, 100)),
            group: maybe(rng, |rng| format!("{}", below(rng, 100))),
        }),
        pools,
        disks,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(out, "{key} = {value}").expect("a String takes all");
}

fn number(rng: &mut Rng, n: u64) -> String {
    match rng.below(3) {
        0 => n.to_string(),
        1 => format!("{n:#x}"),
        _ => format!("'{n}'"),
    }
}

/// What a pool says, one of the ways that there are.
fn render_settings(rng: &mut Rng, out: &mut String, pool: &PoolConfig) {
    let cpus: Vec<String> = pool.cpus.iter().map(usize::to_string).collect();
    match (cpus.is_empty(), rng.chance(1, 2)) {
        (true, _) => line(out, "threads", pool.threads),
        (false, true) => line(out, "cpus", format!("[{}]", cpus.join(", "))),
        (false, false) => line(out, "cpus", quoted(&cpus.join(","))),
    }
    let SchedulerConfig { name, tunables } = &pool.scheduler;
    let pairs = |quote: &str, equals: &str| {
        let pair =
            |(name, value): &(String, String)| format!("{name}{equals}{quote}{value}{quote}");
        tunables.iter().map(pair).collect::<Vec<_>>()
    };
    if rng.chance(1, 2) {
        let words = [vec![name.clone()], pairs("", "=")].concat();
        line(out, "scheduler", quoted(&words.join(",")));
    } else {
        let quote = pick(rng, &["", "'"]);
        let words = [vec![format!("name = '{name}'")], pairs(quote, " = ")].concat();
        line(out, "scheduler", format!("{{ {} }}", words.join(", ")));
    }
    if let Some(depth) = pool.hw_depth {
        line(out, "hw-depth", number(rng, depth.into()));
    }
    line(out, "poll-max-us", number(rng, pool.poll_max_us.into()));
    line(out, "nomerges", number(rng, pool.nomerges.into()));
    if let Some(rotational) = pool.rotational {
        line(out, "rotational", rotational);
    }
}

fn render_limits(rng: &mut Rng, out: &mut String, limits: &LimitsConfig) {
    let mut pairs = vec![("iops-size".to_owned(), limits.iops_size)];
    for (measure, set) in [("iops", &limits.iops), ("bps", &limits.bps)] {
        for (of, limit) in [("total", &set.total), ("read", &set.read), ("write", &set.write)] {
            pairs.push((format!("{measure}-{of}"), limit.rate));
            pairs.push((format!("{measure}-{of}-max"), limit.burst));
            pairs.push((format!("{measure}-{of}-max-length"), limit.burst_seconds.into()));
        }
    }
    pairs.retain(|(_, value)| *value > 0);
    if pairs.is_empty() {
        return;
    }
    let pair = |(key, value): &(String, u64)| format!("{key}={value}");
    let words: Vec<_> = pairs.iter().map(pair).collect();
    let words = words.join(",");
    line(out, "throttle", if rng.chance(1, 2) { quoted(&words) } else { format!("{{{words}}}") });
}

fn render_disk(rng: &mut Rng, out: &mut String, disk: &DiskConfig, pools: &[PoolConfig]) {
    let pool = &pools[disk.pool];
    out.push_str("[[disk]]\n");
    line(out, "name", quoted(&disk.name));
    if pool.name == disk.name {
        render_settings(rng, out, pool);
    } else {
        line(out, "pool", quoted(&pool.name));
        if pool.scheduler.name == "bfq" {
            line(out, "weight", disk.weight);
        }
    }
    match &disk.socket {
        Socket::Fd(fd) => line(out, "fd", fd),
        Socket::Path { path, mode, group } => {
            line(out, "socket-path", quoted(path.to_str().expect("text")));
            line(out, "socket-mode", pick(rng, &[format!("'{mode:04o}'"), format!("{mode:#o}")]));
            if let Some(group) = group {
                line(out, "socket-group", quoted(group));
            }
        }
    }
    line(out, "blk-file", quoted(&disk.blk_file));
    line(out, "read-only", disk.read_only);
    line(out, "share-rw", disk.share_rw);
    line(out, "registered-buffers", disk.registered_buffers);
    line(out, "cache", quoted(disk.cache.name()));
    line(out, "werror", quoted(disk.werror.name()));
    line(out, "rerror", quoted(disk.rerror.name()));
    line(out, "discard", quoted(if disk.unmap { "unmap" } else { "ignore" }));
    let serial: Vec<u8> = disk.serial.iter().copied().take_while(|b| *b != 0).collect();
    line(out, "serial", quoted(std::str::from_utf8(&serial).expect("ASCII")));
    for (key, value) in [
        ("logical-block-size", disk.logical_block),
        ("physical-block-size", disk.physical_block),
        ("nr-requests", disk.nr_requests.map(u32::from)),
        ("num-queues", Some(disk.num_queues.into())),
        ("queue-size", Some(disk.queue_size.into())),
    ] {
        if let Some(value) = value {
            line(out, key, number(rng, value.into()));
        }
    }
    render_limits(rng, out, &disk.limits);
}

fn render(rng: &mut Rng, config: &Config) -> String {
    let mut out = String::new();
    if let Some(level) = config.log_level {
        line(&mut out, "log-level", quoted(&level.to_string().to_lowercase()));
    }
    if let Some(path) = &config.admin_socket {
        line(&mut out, "admin-socket", quoted(path.to_str().expect("text")));
    }
    let (mode, _) = value::SANDBOX[config.sandbox as usize];
    if config.sandbox != Sandbox::On || rng.chance(1, 2) {
        line(&mut out, "sandbox", quoted(mode));
    }
    if let Some(User { name, group }) = &config.user {
        let group = group.iter().map(|group| format!(":{group}")).collect::<String>();
        line(&mut out, "user", quoted(&format!("{name}{group}")));
    }
    let own = |pool: &PoolConfig| config.disks.iter().any(|disk| disk.name == pool.name);
    for pool in config.pools.iter().filter(|pool| !own(pool)) {
        out.push_str("[[pool]]\n");
        line(&mut out, "name", quoted(&pool.name));
        render_settings(rng, &mut out, pool);
    }
    for disk in &config.disks {
        render_disk(rng, &mut out, disk, &config.pools);
    }
    out
}

#[test]
fn what_is_meant_survives_being_written_down() {
    for seed in 0..400 {
        let _seed = Seed(seed);
        let mut rng = Rng::new(seed);
        let config = random_config(&mut rng);
        let text = render(&mut rng, &config);
        assert_eq!(good(&text), config, "{text}");
    }
}

/// Whatever a file holds, the answer is a configuration or one line that names the file.
fn answers(text: &str) -> bool {
    match parse(text) {
        Ok(_) => true,
        Err(e) => {
            let line = e.to_string();
            assert_eq!(line.lines().count(), 1, "{line}\n{text}");
            assert!(line.starts_with("disks.toml:") && line.len() < 2000, "{line}\n{text}");
            false
        }
    }
}

#[test]
fn no_file_makes_us_panic() {
    let soup = [
        "[",
        "]",
        "[[disk]]\n",
        "[[pool]]\n",
        "{",
        "}",
        "=",
        ",",
        "\n",
        "'",
        "\"",
        "\"\"\"",
        "\\",
        "#",
        ".",
        "-",
        "0",
        "9",
        "0x",
        "1e9",
        "true",
        "inf",
        "\u{0}",
        "\u{7f}",
        "\u{e4}",
        "\u{2028}",
        "\r",
        "name",
        "pool",
        "fd",
        "throttle",
        "scheduler",
        "cpus",
        "disk",
        " ",
    ];
    let example = include_str!("../../example.toml");
    let (mut whole, mut broken) = (0, 0);
    for seed in 0..600 {
        let _seed = Seed(seed);
        let mut rng = Rng::new(seed);
        let text: String = (0..rng.below(60)).map(|_| pick(&mut rng, &soup)).collect();
        answers(&text);
        // The example with a few places changed, and one of the good files likewise.
        let base = if rng.chance(1, 2) {
            example.to_owned()
        } else {
            let config = random_config(&mut rng);
            render(&mut rng, &config)
        };
        let mut chars: Vec<char> = base.chars().collect();
        for _ in 0..rng.below(4) {
            let at = usize::try_from(rng.below(chars.len() as u64)).expect("small");
            let to = (at + usize::from(below(&mut rng, 8))).min(chars.len());
            chars.splice(at..to, pick(&mut rng, &soup).chars());
        }
        match answers(&chars.into_iter().collect::<String>()) {
            true => whole += 1,
            false => broken += 1,
        }
    }
    assert!(whole > 100 && broken > 100, "{whole} whole, {broken} broken: both have to be tried");
}
