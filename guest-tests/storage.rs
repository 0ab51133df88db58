//! Storage that fails: what the clients of the disk see, what those of its neighbours do not, and what
//! happens when it recovers. The storage is real: a tmpfs that is full.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::admin::Admin;
use common::client::{Client, Wish};
use common::daemon::{Daemon, PATIENCE, Scratch, eventually, is_socket, program};
use common::note;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Bytes of one write.
const CHUNK: usize = 256 << 10;
/// Writes of a client, which fill 16 MiB.
const CHUNKS: usize = 64;

/// A tmpfs of our own.
struct Small(PathBuf);

impl Small {
    /// `None`, and a note, where nobody may mount.
    fn mount(scratch: &Scratch, mebibytes: u64) -> Option<Small> {
        let at = scratch.path("small");
        fs::create_dir(&at).expect("a directory can be made");
        let size = format!("size={mebibytes}M");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Small(at));
        }
        note("no file system can be mounted here: full storage is not tried");
        None
    }

    fn resize(&self, mebibytes: u64) {
        let option = format!("remount,size={mebibytes}M");
        let done = Command::new("mount").args(["-o", &option]).arg(&self.0).status();
        assert!(done.expect("mount starts").success(), "the owner makes room");
    }

    fn image(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        File::create(&path)
            .and_then(|file| file.set_len(32 * MIB))
            .expect("sparse files need none");
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A daemon with a disk on the small file system and one beside it, in one pool.
struct Pair {
    daemon: Daemon,
    full: PathBuf,
    beside: PathBuf,
    admin: PathBuf,
    image: PathBuf,
}

impl Pair {
    fn start(scratch: &Scratch, small: &Small, lines: &str) -> Pair {
        let (image, other) = (small.image("full"), scratch.image(32 * MIB));
        let socket = |name: &str| scratch.path(&format!("{name}.sock"));
        let (full, beside, admin) = (socket("full"), socket("beside"), socket("admin"));
        let text = format!(
            "admin-socket = {admin:?}\n[[pool]]\nname = \"p\"\nhw-depth = 8\n\
             [[disk]]\nname = \"full\"\npool = \"p\"\nblk-file = {image:?}\nsocket-path = {full:?}\n{lines}\n\
             [[disk]]\nname = \"beside\"\npool = \"p\"\nblk-file = {other:?}\nsocket-path = {beside:?}\n"
        );
        let file = scratch.path("pair.toml");
        fs::write(&file, text).expect("room");
        let mut command = Command::new(program());
        command.arg(format!("--config={}", file.display()));
        let daemon = Daemon::spawn(scratch, command, full.clone());
        let there = || [&full, &beside, &admin].iter().all(|socket| is_socket(socket));
        assert!(eventually(PATIENCE, there), "{}", daemon.said());
        Pair { daemon, full, beside, admin, image }
    }

    /// A counter of the disk that is full.
    fn counter(&self, name: &str) -> u64 {
        let mut admin = Admin::connect(&self.admin);
        let stats: Value = admin.call("disk.stats", &json!({ "disk": "full" }));
        stats["total"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
    }
}

/// What chunk `n` holds.
fn content(n: usize) -> Vec<u8> {
    (0..CHUNK).map(|i| u8::try_from((i / 512 * 7 + n * 13) % 251).expect("small")).collect()
}

/// Sends all writes; some may be done already, well: how many.
fn begin(client: &mut Client) -> usize {
    for n in 0..CHUNKS {
        client.put(n * CHUNK, &content(n));
        client.begin_write(0, (n * CHUNK) as u64, n * CHUNK, CHUNK, n);
    }
    // What is begun goes out with the first look at what is done.
    let early = client.try_reap(0, Duration::ZERO).unwrap_or_default();
    assert!(early.iter().all(|(_, result)| *result == 0), "{early:?}");
    early.len()
}

fn client(socket: &Path) -> Client {
    Client::with_arena(socket, Wish::default(), CHUNKS * CHUNK).expect("it is served")
}

#[test]
fn a_disk_on_full_storage_waits_and_its_neighbour_does_not() {
    let scratch = Scratch::new();
    let Some(small) = Small::mount(&scratch, 6) else { return };
    let pair = Pair::start(&scratch, &small, "werror = \"enospc\"");
    let mut writer = client(&pair.full);
    let mut done = begin(&mut writer);
    assert!(eventually(PATIENCE, || pair.counter("stalls") > 0), "the storage is full");

    // The neighbour works as if nothing were the matter, for longer than one attempt takes.
    let mut beside = client(&pair.beside);
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_millis(1500) {
        let n = rounds % CHUNKS;
        assert_eq!(beside.write(0, (n * CHUNK) as u64, &content(n)), Ok(()));
        assert_eq!(beside.read(0, (n * CHUNK) as u64, CHUNK), Ok(content(n)));
        assert_eq!(beside.flush(0), Ok(()));
        rounds += 1;
    }
    assert!(rounds > 20, "{rounds} rounds beside a disk that waits");
    while let Ok(some) = writer.try_reap(0, Duration::from_millis(1)) {
        assert!(some.iter().all(|(_, result)| *result == 0), "nobody is told: {some:?}");
        done += some.len();
    }
    assert!(done < CHUNKS, "6 MiB do not hold 16");
    assert_eq!(pair.counter("failed"), 0);

    small.resize(64);
    while done < CHUNKS {
        let some = writer.reap(0);
        assert!(some.iter().all(|(_, result)| *result == 0), "{some:?}");
        done += some.len();
    }
    let file = File::open(&pair.image).expect("the image");
    for n in 0..CHUNKS {
        let mut found = vec![0; CHUNK];
        file.read_exact_at(&mut found, (n * CHUNK) as u64).expect("it is 32 MiB long");
        assert!(found == content(n), "chunk {n}");
    }
    note(&format!(
        "a full disk waited ({} stalls), {rounds} rounds beside it",
        pair.counter("stalls")
    ));
    drop((writer, beside));
    pair.daemon.stop();
}

#[test]
fn a_disk_on_full_storage_reports_unless_it_was_told_to_wait() {
    let scratch = Scratch::new();
    let Some(small) = Small::mount(&scratch, 6) else { return };
    let pair = Pair::start(&scratch, &small, "");
    let mut writer = client(&pair.full);
    let results: Vec<_> =
        (0..CHUNKS).map(|n| writer.write(0, (n * CHUNK) as u64, &content(n)).is_ok()).collect();
    let first_bad = results.iter().position(|fine| !fine).expect("6 MiB do not hold 16");
    assert!(first_bad >= 16, "what fits is written: {first_bad}");
    assert_eq!(pair.counter("stalls"), 0);
    assert!(pair.counter("failed") > 0);
    // What was written before, and while there was room, is there.
    for n in (0..CHUNKS).filter(|n| results[*n]) {
        assert_eq!(writer.read(0, (n * CHUNK) as u64, CHUNK), Ok(content(n)), "chunk {n}");
    }
    small.resize(64);
    assert_eq!(writer.write(0, (first_bad * CHUNK) as u64, &content(first_bad)), Ok(()));
    drop(writer);
    pair.daemon.stop();
}

#[test]
fn a_disk_that_waits_for_storage_can_be_stopped() {
    let scratch = Scratch::new();
    let Some(small) = Small::mount(&scratch, 6) else { return };
    let mut pair = Pair::start(&scratch, &small, "werror = \"stop\"");
    let mut writer = client(&pair.full);
    begin(&mut writer);
    assert!(eventually(PATIENCE, || pair.counter("stalls") > 0), "the storage is full");
    let begun = Instant::now();
    pair.daemon.signal(libc::SIGTERM);
    let status = pair.daemon.wait(PATIENCE).expect("a stop waits for no storage");
    note(&format!("stopped in {:?} with full storage: {status}", begun.elapsed()));
    assert!(begun.elapsed() < Duration::from_secs(5), "X3");
}
