//! What the program asks of the kernel, seen from outside: the queue thread's system calls under
//! load, and that a flush of the guest arrives at the disk below the image.
//!
//! io_uring submits a sync inside the kernel, where strace does not see it. Two things do: the
//! flush counter of a block device below the image (a loop device), and the kernel's own trace
//! event of each submission. What the machine lacks is said and skipped.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::client::{Client, Wish};
use common::daemon::{Daemon, PATIENCE, Scratch, eventually};
use common::disk::Loop;
use common::driver::{self, Driver};
use common::model::Load;
use common::rng::{pattern, seed};
use common::{foreign, note};

const MIB: u64 = 1 << 20;

/// How the names of queue threads begin.
const QUEUE_THREAD: &str = "blkmq-q";

/// strace on some threads, until it is asked for what it saw.
struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// Attaches to these threads; `None` when strace cannot be used here.
    fn attach(scratch: &Scratch, threads: &[u32]) -> Option<Strace> {
        let output = scratch.unique(".strace");
        let log = scratch.unique(".strace.log");
        let mut command = Command::new("strace");
        command.arg("-o").arg(&output);
        for thread in threads {
            command.arg("-p").arg(thread.to_string());
        }
        let stderr = fs::File::create(&log).expect("a log can be created");
        let Ok(mut child) =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn()
        else {
            note("strace is not installed: system calls are not watched");
            return None;
        };
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let attached = eventually(PATIENCE, || {
            said().matches("attached").count() >= threads.len()
                || child.try_wait().expect("our child").is_some()
        });
        if !attached || child.try_wait().expect("our child").is_some() {
            let _ = child.kill();
            let _ = child.wait();
            note(&format!("strace cannot attach here: {}", said().trim()));
            return None;
        }
        Some(Strace { child, output })
    }

    /// Detaches; the calls that were seen, by name, and the lines.
    fn detach(mut self) -> (BTreeMap<String, usize>, String) {
        foreign::kill(self.child.id(), libc::SIGINT);
        self.child.wait().expect("our child");
        let text = fs::read_to_string(&self.output).expect("strace wrote it");
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            // With several threads each line starts with the number of one.
            let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let name = line.strip_prefix("<... ").map_or_else(
                || line.split_once('(').map(|(name, _)| name),
                // The second half of a call that was counted when it began.
                |_| None,
            );
            if let Some(name) = name {
                *calls.entry(name.to_owned()).or_insert(0) += 1;
            }
        }
        (calls, text)
    }
}

fn queue_threads(daemon: &Daemon) -> Vec<u32> {
    let threads = daemon.threads();
    let found: Vec<u32> = threads
        .iter()
        .filter(|(_, name)| name.starts_with(QUEUE_THREAD))
        .map(|(number, _)| *number)
        .collect();
    assert!(!found.is_empty(), "no thread is called {QUEUE_THREAD}*: {threads:?}");
    found
}

#[test]
fn a_loaded_queue_thread_only_enters_its_ring_and_rings_the_guest() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, 16 * MIB, &["--threads=2"]);
    let mut client = Client::connect(daemon.socket(), Wish::queues(4));
    let mut load = Load::new(seed(), 16 * MIB, 1);
    // Warm: whatever happens once has happened.
    load.run(&mut client, 500, 32);
    let Some(strace) = Strace::attach(&scratch, &queue_threads(&daemon)) else { return };
    let requests = 3000;
    load.run(&mut client, requests, 32);
    let (mut calls, text) = strace.detach();
    note(&format!("{requests} requests at depth 32, two queue threads: {calls:?}"));
    // How the kernel shows a wait that strace itself interrupted.
    calls.remove("restart_syscall");
    // A thread that looks for work lets others have its CPU from time to time.
    calls.remove("sched_yield");
    let enters = calls.remove("io_uring_enter").unwrap_or(0);
    let writes = calls.remove("write").unwrap_or(0);
    assert!(calls.is_empty(), "other calls on a queue thread: {calls:?}");
    assert!(enters > 0 && writes > 0, "{enters} enters, {writes} writes");
    let most = usize::try_from(requests).expect("small");
    assert!(enters <= 2 * most, "{enters} enters for {most} requests");
    assert!(writes <= most, "never more than one interrupt for a request: {writes}");
    for line in text.lines().filter(|line| line.contains("write(")) {
        let eventfd = line.contains(r#""\1\0\0\0\0\0\0\0", 8"#);
        assert!(eventfd || line.contains("unfinished"), "a write to something else: {line}");
    }
    load.check_all(&mut client);
    drop(client);
    daemon.stop();
}

#[test]
fn an_idle_queue_thread_makes_no_calls() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let mut client = Client::connect(daemon.socket(), Wish::queues(2));
    assert_eq!(client.write(0, 0, &[1; 512]), Ok(()));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let Some(strace) = Strace::attach(&scratch, &queue_threads(&daemon)) else { return };
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (calls, _) = strace.detach();
    let made: usize = calls.values().sum();
    // The wait that strace found, and its second begin after strace interrupted it.
    assert!(made <= 4, "{calls:?}");
    drop(client);
    daemon.stop();
}

/// cloud-hypervisor's back-end answers OK to a flush, which has no data descriptor, without
/// doing anything.
#[test]
fn flush_with_header_and_status_only_reaches_fdatasync() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, 4 * MIB) else { return };
    for mode in ["none", "writeback"] {
        let daemon = Daemon::start(&scratch, disk.path(), &[&format!("--cache={mode}")]);
        let mut driver = Driver::connect(daemon.socket(), driver::BLK | driver::VERSION_1, 16);
        for round in 0..5u64 {
            let before = disk.flushes();
            let bytes = pattern(round, 4096);
            let written = driver.ask(driver::OUT, round * 8, &bytes, &[4096], &[]);
            assert_eq!(written.status, 0);
            if mode == "none" {
                assert_eq!(disk.flushes(), before, "a write alone does not flush");
            }
            // Header and status: two descriptors, no data.
            assert_eq!(driver.ask(driver::FLUSH, 0, &[], &[], &[]).status, 0);
            let after = disk.flushes();
            assert!(after > before, "{mode}, round {round}: {after} flushes at the disk");
        }
        note(&format!("cache={mode}: every flush of five arrived at the disk below"));
        drop(driver);
        daemon.stop();
    }
}

/// A request is durable when it is answered: by mode, or because the guest switched the write
/// cache off, or because it cannot flush.
#[test]
fn write_through_reaches_the_disk_with_each_write() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, 4 * MIB) else { return };
    let all = driver::BLK | driver::VERSION_1;
    let no_flush = all & !(1 << 9) & !(1 << 11);
    for (mode, features) in
        [("directsync", all), ("writethrough", all), ("none", no_flush), ("writeback", no_flush)]
    {
        let daemon = Daemon::start(&scratch, disk.path(), &[&format!("--cache={mode}")]);
        let mut driver = Driver::connect(daemon.socket(), features, 16);
        for round in 0..5u64 {
            let (flushes, writes) = (disk.flushes(), disk.writes());
            let bytes = pattern(round, 4096);
            assert_eq!(driver.ask(driver::OUT, round * 8, &bytes, &[4096], &[]).status, 0);
            assert!(disk.writes() > writes, "{mode} {round}: the data is at the disk");
            assert!(disk.flushes() > flushes, "{mode} {round}: and so is a flush");
        }
        drop(driver);
        daemon.stop();
    }
}

#[test]
fn unsafe_never_flushes() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, 4 * MIB) else { return };
    let daemon = Daemon::start(&scratch, disk.path(), &["--cache=unsafe"]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    let before = disk.flushes();
    for round in 0..5 {
        assert_eq!(client.write(0, round * 4096, &[1; 4096]), Ok(()));
        assert_eq!(client.flush(0), Ok(()));
    }
    assert_eq!(disk.flushes(), before);
    drop(client);
    daemon.stop();
}

/// Concurrent flushes share a sync, and none of them is answered without one.
#[test]
fn concurrent_flushes_share_a_sync() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, 4 * MIB) else { return };
    let daemon = Daemon::start(&scratch, disk.path(), &["--threads=2"]);
    let mut client = Client::connect(daemon.socket(), Wish::queues(4));
    let before = disk.flushes();
    for round in 0..20u64 {
        assert_eq!(client.write(0, round * 4096, &[1; 4096]), Ok(()));
        for tag in 0..32 {
            client.begin_flush(tag % 4, tag);
        }
        for q in 0..4 {
            let mut left = 8;
            while left > 0 {
                for (_, result) in client.reap(q) {
                    assert_eq!(result, 0);
                    left -= 1;
                }
            }
        }
    }
    let flushes = disk.flushes() - before;
    note(&format!("20 rounds of 32 concurrent flushes: {flushes} flushes at the disk"));
    assert!(flushes >= 20, "each round has new data to make durable");
    assert!(flushes <= 20 * 8, "they were not merged: {flushes}");
    drop(client);
    daemon.stop();
}

/// The kernel's trace events of io_uring, in an instance of our own.
struct Tracing {
    mount: PathBuf,
    instance: PathBuf,
}

impl Tracing {
    /// `None` when tracing cannot be had.
    fn new(scratch: &Scratch) -> Option<Tracing> {
        let mount = scratch.path("tracing");
        fs::create_dir(&mount).expect("a directory can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tracefs", "none"])
            .arg(&mount)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            note("tracefs cannot be mounted here: submissions are not traced");
            return None;
        }
        let instance = mount.join(format!("instances/blkmq-{}", std::process::id()));
        let tracing = Tracing { mount, instance };
        let event = tracing.instance.join("events/io_uring/io_uring_submit_req/enable");
        let on = fs::create_dir(&tracing.instance).and_then(|()| fs::write(event, "1"));
        if let Err(error) = on {
            note(&format!("the kernel does not trace io_uring here: {error}"));
            return None;
        }
        Some(tracing)
    }

    /// The submissions of these threads so far whose operation is `operation`.
    fn count(&self, threads: &[u32], operation: &str) -> usize {
        let text = fs::read_to_string(self.instance.join("trace")).expect("the instance exists");
        let word = format!("opcode {operation},");
        let of_ours = |line: &&str| {
            // "  name-NUMBER  [cpu] flags time: event: ..."
            let head = line.split('[').next().unwrap_or_default();
            let number = head.trim_end().rsplit('-').next().and_then(|n| n.parse().ok());
            number.is_some_and(|n: u32| threads.contains(&n))
        };
        text.lines().filter(|line| line.contains(&word)).filter(of_ours).count()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // Nothing of it may stay behind, and nothing can be done if it does.
        let _ = fs::remove_dir(&self.instance);
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

/// The same proof for an image file, where no device counts: the queue thread submits an fsync.
#[test]
fn a_flush_on_a_file_submits_an_fsync() {
    let scratch = Scratch::new();
    let Some(tracing) = Tracing::new(&scratch) else { return };
    let (daemon, _) = Daemon::on_new_image(&scratch, 4 * MIB, &[]);
    let threads = queue_threads(&daemon);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    for round in 0..5usize {
        let offset = u64::try_from(round).expect("small") * 4096;
        assert_eq!(client.write(0, offset, &[1; 4096]), Ok(()));
        assert_eq!(tracing.count(&threads, "FSYNC"), round, "a write alone does not sync");
        assert_eq!(client.flush(0), Ok(()));
        assert_eq!(tracing.count(&threads, "FSYNC"), round + 1, "one flush, one fsync");
    }
    drop(client);
    daemon.stop();
}

/// The tools of this file see what they should see.
#[test]
fn the_flush_counter_counts() {
    let scratch = Scratch::new();
    let Some(disk) = Loop::new(&scratch, MIB) else { return };
    let before = disk.flushes();
    write_and_sync(disk.path());
    assert!(disk.flushes() > before, "fdatasync on a block device is a flush");
}

fn write_and_sync(device: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(device).expect("root may");
    file.write_all_at(&[1; 4096], 0).expect("a device can be written");
    file.sync_data().expect("a device can be synced");
}
