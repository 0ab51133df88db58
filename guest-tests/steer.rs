//! The block layer as an operator has it: several disks in a pool, weights, limits, and changes at
//! run time over the admin socket. The clients are libblkio on real sockets, the disks real files.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::admin::Admin;
use common::beside::{Bed, Case, Plan, READ, WRITE};
use common::client::{Client, Wish};
use common::daemon::{Daemon, PATIENCE, Scratch, eventually, is_socket, program};
use common::model::Load;
use common::note;
use common::rng::{Rng, seed};
use serde_json::json;
use vhost_user_blkmq::blkmq::sched::Kind;

const MIB: u64 = 1 << 20;
/// Bytes of each disk.
const SIZE: u64 = 32 * MIB;

/// One at a time: what is measured here is who gets how much of the machine.
static TURN: Mutex<()> = Mutex::new(());

/// A daemon that serves what the text says; `disks` are the names of its disks.
struct Fleet {
    daemon: Daemon,
    sockets: Vec<PathBuf>,
    admin: PathBuf,
    scratch: Scratch,
    _turn: MutexGuard<'static, ()>,
}

impl Fleet {
    /// `pool` and `disk` are lines of the configuration, the latter for each disk by number.
    fn start(pool: &str, disks: usize, disk: impl Fn(usize) -> String) -> Fleet {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = Scratch::new();
        let admin = scratch.path("admin.sock");
        let mut text = format!("admin-socket = {admin:?}\n[[pool]]\nname = \"p\"\n{pool}\n");
        let mut sockets = Vec::new();
        for n in 0..disks {
            let (image, socket) = (scratch.image(SIZE), scratch.path(&format!("d{n}.sock")));
            text += &format!(
                "[[disk]]\nname = \"d{n}\"\npool = \"p\"\nblk-file = {image:?}\n\
                 socket-path = {socket:?}\n{}\n",
                disk(n)
            );
            sockets.push(socket);
        }
        let file = scratch.path("fleet.toml");
        std::fs::write(&file, text).expect("room");
        let mut command = Command::new(program());
        command.arg(format!("--config={}", file.display()));
        let first = sockets[0].clone();
        let daemon = Daemon::spawn(&scratch, command, first);
        let there = || sockets.iter().chain([&admin]).all(|socket| is_socket(socket));
        assert!(eventually(PATIENCE, there), "{}", daemon.said());
        Fleet { daemon, sockets, admin, scratch, _turn: turn }
    }

    /// Gives the disks blocks to read.
    fn filled(self) -> Fleet {
        for socket in &self.sockets {
            let mut client = Client::connect(socket, Wish::default());
            for at in (0..SIZE).step_by(1 << 20) {
                assert_eq!(client.write(0, at, &[0x5a; 1 << 20]), Ok(()));
            }
        }
        self
    }

    fn stop(self) {
        self.daemon.stop();
        drop(self.scratch);
    }
}

/// Keeps `depth` reads of `bytes` at random places outstanding until `stop`; counts them.
fn reads(
    socket: &Path,
    depth: usize,
    bytes: usize,
    done: &AtomicU64,
    ready: &Barrier,
    stop: &AtomicBool,
) {
    let mut client = Client::connect(socket, Wish::default());
    let mut rng = Rng::new(seed());
    let places = client.capacity() / bytes as u64;
    ready.wait();
    for n in 0..depth {
        client.begin_read(0, rng.below(places) * bytes as u64, n * bytes, bytes, n);
    }
    let mut out = depth;
    while out > 0 {
        for (n, result) in client.reap(0) {
            assert_eq!(result, 0, "a read");
            done.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                out -= 1;
            } else {
                client.begin_read(0, rng.below(places) * bytes as u64, n * bytes, bytes, n);
            }
        }
    }
}

/// What each client of a closed loop gets done in `window`, after a moment to warm up.
fn closed_loops(fleet: &Fleet, depth: usize, bytes: usize, window: Duration) -> Vec<u64> {
    let counts: Vec<AtomicU64> = fleet.sockets.iter().map(|_| AtomicU64::new(0)).collect();
    let ready = Barrier::new(counts.len() + 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (socket, count) in fleet.sockets.iter().zip(&counts) {
            scope.spawn(|| reads(socket, depth, bytes, count, &ready, &stop));
        }
        ready.wait();
        std::thread::sleep(Duration::from_secs(1)); // the window begins in the steady state
        let look = || counts.iter().map(|c| c.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (begin, before) = (Instant::now(), look());
        std::thread::sleep(window);
        let (after, took) = (look(), begin.elapsed());
        stop.store(true, Ordering::Relaxed);
        let scale = window.as_secs_f64() / took.as_secs_f64();
        after
            .iter()
            .zip(before)
            .map(|(a, b)| {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "small positive counts"
                )]
                let scaled = ((a - b) as f64 * scale).round() as u64;
                scaled
            })
            .collect()
    })
}

/// Asserts that `counts` are in the ratio of `weights` within 5 %.
fn shares(weights: &[u64], counts: &[u64]) {
    let (sum, all) = (weights.iter().sum::<u64>(), counts.iter().sum::<u64>());
    note(&format!("weights {weights:?}: {counts:?} reads"));
    for (weight, count) in weights.iter().zip(counts) {
        let due = all * weight / sum;
        assert!(
            count.abs_diff(due) * 100 <= due * 5,
            "{counts:?} for {weights:?}: {count} of {due}"
        );
    }
}

#[test]
fn i21_two_guests_share_by_weight() {
    let weights = [100, 200];
    let pool = "scheduler = \"bfq\"\nhw-depth = 2";
    let fleet = Fleet::start(pool, 2, |n| format!("weight = {}", weights[n])).filled();
    shares(&weights, &closed_loops(&fleet, 96, 64 << 10, Duration::from_secs(10)));
    fleet.stop();
}

#[test]
fn i21_four_guests_share_by_weight_and_by_a_changed_one() {
    let weights = [100, 100, 200, 400];
    let pool = "scheduler = \"bfq\"\nhw-depth = 2";
    let fleet = Fleet::start(pool, 4, |n| format!("weight = {}", weights[n])).filled();
    shares(&weights, &closed_loops(&fleet, 96, 64 << 10, Duration::from_secs(10)));
    let mut admin = Admin::connect(&fleet.admin);
    admin.call("disk.set-weight", &json!({"disk": "d0", "weight": 400}));
    shares(&[400, 100, 200, 400], &closed_loops(&fleet, 96, 64 << 10, Duration::from_secs(5)));
    fleet.stop();
}

#[test]
fn i22_limits_hold_within_one_percent_over_ten_seconds() {
    let limits = ["iops-total=2000", "bps-read=4M", "iops-read=500"];
    let due = [20_000, 4 * MIB / 4096 * 10, 5_000];
    let fleet = Fleet::start("threads = 2", 3, |n| format!("throttle = \"{}\"", limits[n]));
    let counts = closed_loops(&fleet, 16, 4096, Duration::from_secs(10));
    note(&format!("limits {limits:?}: {counts:?} reads in 10 s, {due:?} due"));
    for (count, due) in counts.iter().zip(due) {
        assert!(count.abs_diff(due) * 100 <= due, "{counts:?} for {due:?}");
    }
    // A limit that is lifted is gone at once, and a stop waits for none.
    let mut admin = Admin::connect(&fleet.admin);
    admin.call("disk.set-limits", &json!({"disk": "d2", "limits": {}}));
    let counts = closed_loops(&fleet, 16, 4096, Duration::from_secs(1));
    assert!(counts[2] > 1_000, "{counts:?}");
    fleet.stop();
}

/// Every scheduler, tunable and depth changes under a load that knows what every sector holds.
#[test]
fn i28_everything_changes_under_a_verifying_client() {
    let fleet = Fleet::start("threads = 2\nrotational = false", 2, |_| String::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for socket in &fleet.sockets {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = Client::connect(socket, Wish::queues(4));
                let mut load = Load::new(seed(), SIZE, 1);
                while !stop.load(Ordering::Relaxed) {
                    load.run(&mut client, 500, 32);
                }
            });
        }
        let mut admin = Admin::connect(&fleet.admin);
        let mut rng = Rng::new(seed());
        let pool = json!({"pool": "p"});
        for _ in 0..100 {
            let names = ["none", "mq-deadline", "kyber", "bfq"];
            let name = names[usize::try_from(rng.below(4)).expect("small")];
            admin.call("pool.set-scheduler", &json!({"pool": "p", "scheduler": name}));
            let depth = Some(rng.below(10)).filter(|depth| *depth < 9);
            admin.call("pool.set-hw-depth", &json!({"pool": "p", "hw_depth": depth}));
            let is = &admin.call("pool.list", &json!({}))["pools"][0];
            assert_eq!(is["hw_depth_auto"], depth.is_none(), "{is}");
            let own = u64::from(Kind::named(name).expect("one of them").hw_depth(false));
            assert_eq!(is["hw_depth"], depth.unwrap_or(own), "{is}");
            let looks = rng.below(200);
            admin.call("pool.set-poll-max-us", &json!({"pool": "p", "poll_max_us": looks}));
            admin.call("pool.set-nomerges", &json!({"pool": "p", "nomerges": rng.below(3)}));
            let some = 1 + rng.below(40);
            admin.call("disk.set-nr-requests", &json!({"disk": "d0", "nr_requests": some}));
            let is = &admin.call("pool.list", &json!({}))["pools"][0];
            assert_eq!(is["poll_max_us"], looks, "{is}");
            let report = admin.call("pool.get-scheduler", &pool);
            assert_eq!(report["scheduler"], name);
            for (tunable, value) in report["tunables"].as_object().expect("an object") {
                let set = json!({"pool": "p", "name": tunable, "value": value});
                let answer = admin.answer("pool.tunable", &set);
                let fine = answer["error"].is_null()
                    || answer["error"]["message"].as_str().is_some_and(|m| m.contains("read"));
                assert!(fine, "{set}: {answer}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut admin = Admin::connect(&fleet.admin);
    for disk in ["d0", "d1"] {
        let stats = admin.call("disk.stats", &json!({"disk": disk}));
        assert_eq!(stats["total"]["iostat"]["in_flight"], 0, "I30: {stats}");
    }
    fleet.stop();
}

/// What the counters say is what the client did.
#[test]
fn i30_counters_agree_with_the_client() {
    let fleet = Fleet::start("", 1, |_| String::new());
    let mut client = Client::connect(&fleet.sockets[0], Wish::default());
    for n in 0..50 {
        assert_eq!(client.read(0, n * 8192, 4096), Ok(vec![0; 4096]));
        assert_eq!(client.write(0, n * 8192, &[7; 8192]), Ok(()));
    }
    assert_eq!(client.flush(0), Ok(()));
    let mut admin = Admin::connect(&fleet.admin);
    let stats = admin.call("disk.stats", &json!({"disk": "d0"}));
    let line = &stats["total"]["iostat"];
    assert_eq!((&line["read_ios"], &line["read_sectors"]), (&json!(50), &json!(400)));
    assert_eq!((&line["write_ios"], &line["write_sectors"]), (&json!(50), &json!(800)));
    assert_eq!((&line["flush_ios"], &line["in_flight"]), (&json!(1), &json!(0)));
    let seen = admin.call("disk.inspect", &json!({"disk": "d0"}));
    assert_eq!(seen["total"], 0);
    fleet.stop();
}

/// What `ci/bench-interference` measures on a real image, for a moment: a reader beside writers
/// under each scheduler, every byte checked.
#[test]
fn g4_a_reader_beside_writers_under_every_scheduler_and_all_data_is_right() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bed = bed();
    for kind in Kind::ALL {
        let turn = bed.turn(&Case::new(kind)).expect("both work");
        assert!(turn.write_rate() > 0.0, "{kind}: {turn:?}");
        assert!(turn.millis(500) <= turn.millis(1000) && turn.iops() > 0.0, "{kind}");
    }
    let alone = Case { writers: false, ..Case::new(Kind::None) };
    assert!(bed.turn(&alone).expect("it works").write_rate().abs() < f64::EPSILON);
    let over = bed.finish().expect("all is right");
    assert!((1..=SIZE / 2 / WRITE as u64).contains(&over), "{over}");
}

/// It would see a wrong byte that is read, and a write that went to another place.
#[test]
fn g4_the_experiment_sees_wrong_data() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let alone = Case { writers: false, ..Case::new(Kind::None) };
    let mut one = bed();
    for block in 0..SIZE / 2 / READ as u64 {
        one.file().write_all_at(&[0; 8], (block + 1) * READ as u64 - 8).expect("room");
    }
    let why = one.turn(&alone).expect_err("wrong bytes were read");
    assert!(why.contains("wrong data at byte"), "{why}");
    assert!(one.finish().expect_err("they are still there").contains("at byte 4088 "));
    let two = bed();
    let mut block = vec![0; WRITE];
    two.file().read_exact_at(&mut block, SIZE / 2).expect("it is there");
    two.file().write_all_at(&block, SIZE - WRITE as u64).expect("room");
    let why = two.finish().expect_err("this belongs elsewhere");
    assert!(why.contains(&format!("at byte {} ", SIZE - WRITE as u64)), "{why}");
}

fn bed() -> Bed {
    let image = tempfile::NamedTempFile::new().expect("the temporary directory can be written");
    image.as_file().set_len(SIZE).expect("room");
    let (warm_up, window) = (Duration::from_millis(100), Duration::from_millis(200));
    let plan = Plan { size: SIZE, out: 64, warm_up, window, seed: seed() };
    let file = image.as_file().try_clone().expect("a descriptor");
    Bed::start(image.path(), file, plan).expect("it starts")
}
