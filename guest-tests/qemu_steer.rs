//! The block layer changes under a guest that works.

use std::time::{Duration, Instant};

use serde_json::json;

use super::admin::Admin;
use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::Disk;
use super::guest::fio::Fio;
use super::guest::vm::Guest;

/// Requests that the guest finishes between two switches.
const BETWEEN: u64 = 100;

/// Longer than any I/O takes, shorter than a guest calls a hang.
const STALL: Duration = Duration::from_secs(20);

/// Requests that the disk has finished.
fn served(admin: &mut Admin) -> u64 {
    let line =
        &admin.call("disk.stats", &json!({"disk": "disk", "queues": false}))["total"]["iostat"];
    let count = |name: &str| line[name].as_u64().expect("a count");
    count("read_ios") + count("write_ios")
}

#[test]
fn i28_fifty_switches_under_fio_lose_nothing() {
    let session = Session::start("i28_fifty_switches_under_fio_lose_nothing");
    let disk = Disk::sparse(session.file("disk"), 128);
    let socket = session.socket("admin");
    let admin = format!("--admin-socket={}", socket.display());
    let mut daemon = Daemon::start(&session, "daemon", &disk, &["--threads=2", &admin]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();
    let mut admin = Admin::connect(&socket);

    let job = vm.start_fio(&Fio::verify("/dev/vda", 2, 48));
    let mut slowest = Duration::ZERO;
    for round in 0..50 {
        // Each comes after each other one, and queues gather on one thread and spread again.
        let names = ["mq-deadline", "kyber", "bfq", "none"];
        let name = names[(round + round / names.len()) % names.len()];
        let so_far = served(&mut admin);
        let begin = Instant::now();
        while served(&mut admin) < so_far + BETWEEN {
            assert!(begin.elapsed() < STALL, "nothing moves before switch {round}");
            std::thread::sleep(Duration::from_millis(1)); // the counters give no event
        }
        let begin = Instant::now();
        admin.call("pool.set-scheduler", &json!({"pool": "disk", "scheduler": name}));
        slowest = slowest.max(begin.elapsed());
        let now = admin.call("pool.get-scheduler", &json!({"pool": "disk"}));
        assert_eq!(now["scheduler"], name);
        daemon.assert_alive();
    }
    let report = vm.join_fio(job);
    assert!(slowest < STALL, "a switch took {slowest:?}");
    let stats = admin.call("disk.stats", &json!({"disk": "disk"}));
    assert_eq!(stats["total"]["iostat"]["in_flight"], 0, "I30: {stats}");
    assert_eq!(stats["total"]["failed"], 0);
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "fifty switches of the scheduler in the middle of fio, the slowest in {slowest:?}: all {} \
         written blocks verified",
        report.writes
    ));
}
