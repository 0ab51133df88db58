//! The interference experiment with real clients on one image: a reader of 4 KiB with one read out
//! at a time on one disk, writers of 64 KiB on the other, both disks of one pool of one daemon. The
//! scheduler changes over the admin socket while they work.
//!
//! Both disks open the one image (`share-rw`). The reader has its first half, the writers its second.
//! Every byte of the image says where it belongs and who wrote it: each read is checked as it comes,
//! and at the end the whole image is, past the daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use vhost_user_blkmq::blkmq::sched::Kind;
use vhost_user_blkmq::testkit::beside::Turn;

use super::admin::Admin;
use super::client::{Client, Wish};
use super::daemon::{Daemon, PATIENCE, Scratch, eventually, is_socket, program};
use super::rng::{Rng, mix, pattern};

/// Bytes of a read.
pub(crate) const READ: usize = 4096;
/// Bytes of a write.
pub(crate) const WRITE: usize = 64 << 10;
/// What each write begins with: its key with its address, and its slot.
const STAMP: usize = 16;
/// In place of a slot: what lies there from the beginning.
const NEVER: u64 = u64::MAX;
/// Writes of the fill that are out at a time.
const FILL: usize = 16;

/// What a case is.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name in tables.
    pub(crate) name: String,
    /// The pool's scheduler.
    pub(crate) kind: Kind,
    /// A tunable of it that is not at its default.
    pub(crate) tunable: Option<(&'static str, u64)>,
    /// Requests that the pool has with the image at a time; 0: any number.
    pub(crate) hw_depth: u32,
    /// Weights of reader and writers, for bfq.
    pub(crate) weights: (u16, u16),
    /// Whether the writers write.
    pub(crate) writers: bool,
}

impl Case {
    /// The scheduler as it comes on flash.
    pub(crate) fn new(kind: Kind) -> Case {
        let (name, hw_depth) = (kind.to_string(), kind.hw_depth(false));
        Case { name, kind, tunable: None, hw_depth, weights: (100, 100), writers: true }
    }
}

/// The measures of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes of the image; a multiple of two writes.
    pub(crate) size: u64,
    /// Writes that are out at a time, of all writers; at most as many as half the image has room for.
    pub(crate) out: usize,
    /// Time after a switch before anything counts.
    pub(crate) warm_up: Duration,
    /// Time that counts.
    pub(crate) window: Duration,
    /// Of content and addresses.
    pub(crate) seed: u64,
}

/// In which part of a turn we are.
const WARM: u8 = 0;
const COUNT: u8 = 1;
const STOP: u8 = 2;

/// The daemon with its two clients.
pub(crate) struct Bed {
    plan: Plan,
    file: File,
    reader: Client,
    writer: Client,
    admin: Admin,
    daemon: Daemon,
    turns: u64,
    _scratch: Scratch,
}

/// What block `block` of the reader's half holds.
fn read_block(seed: u64, block: u64) -> Vec<u8> {
    pattern(mix(seed) ^ block, READ)
}

/// What is written at `block` of the writers' half from `slot`, behind its stamp: it depends on the
/// slot alone, so that a write costs its writer only a stamp.
fn body(seed: u64, slot: u64, block: u64) -> Vec<u8> {
    let whose = if slot == NEVER { !block } else { slot };
    pattern(mix(seed ^ 0xb0d1) ^ whose, WRITE - STAMP)
}

fn stamp(seed: u64, slot: u64, block: u64) -> [u8; STAMP] {
    let mut bytes = [0; STAMP];
    bytes[..8].copy_from_slice(&(mix(seed) ^ block).to_le_bytes());
    bytes[8..].copy_from_slice(&slot.to_le_bytes());
    bytes
}

/// The writers' blocks by number, of the whole image.
fn blocks(size: u64) -> Range<u64> {
    let all = size / WRITE as u64;
    all / 2..all
}

fn config(scratch: &Scratch, image: &Path, ring: i32) -> (PathBuf, [PathBuf; 2], PathBuf) {
    let admin = scratch.path("admin.sock");
    let sockets = ["reader", "writers"].map(|name| scratch.path(&format!("{name}.sock")));
    // What the kernel says of seeks is often wrong of a virtual machine's disk; this is about flash.
    let mut text = format!(
        "admin-socket = {admin:?}\n[[pool]]\nname = \"p\"\nthreads = 1\nrotational = false\n"
    );
    for (name, socket) in ["reader", "writers"].iter().zip(&sockets) {
        text += &format!(
            "[[disk]]\nname = \"{name}\"\npool = \"p\"\nblk-file = {image:?}\nshare-rw = true\n\
             queue-size = {ring}\nsocket-path = {socket:?}\n"
        );
    }
    let file = scratch.path("pool.toml");
    std::fs::write(&file, text).expect("room");
    (file, sockets, admin)
}

impl Bed {
    /// Serves the image, which `file` has open, and fills it.
    pub(crate) fn start(image: &Path, file: File, plan: Plan) -> Result<Bed, String> {
        assert!(plan.size.is_multiple_of(2 * WRITE as u64), "two halves of whole writes");
        assert!(blocks(plan.size).count() >= plan.out.max(1), "a place for each write");
        let scratch = Scratch::new();
        // A write takes up to three descriptors.
        let ring = i32::try_from((4 * plan.out).next_power_of_two().max(256)).expect("small");
        let (config, sockets, admin) = config(&scratch, image, ring);
        let mut command = Command::new(program());
        command.arg(format!("--config={}", config.display()));
        let daemon = Daemon::spawn(&scratch, command, sockets[0].clone());
        let there = || sockets.iter().chain([&admin]).all(|socket| is_socket(socket));
        assert!(eventually(PATIENCE, there), "{}", daemon.said());
        let wish = Wish { size: ring, ..Wish::default() };
        let reader = Client::connect(&sockets[0], Wish::default());
        let arena = WRITE * plan.out.max(FILL);
        let writer = Client::with_arena(&sockets[1], wish, arena)?;
        let admin = Admin::connect(&admin);
        let mut bed =
            Bed { plan, file, reader, writer, admin, daemon, turns: 0, _scratch: scratch };
        bed.fill()?;
        for slot in 0..plan.out {
            bed.writer.put(slot * WRITE + STAMP, &body(plan.seed, slot as u64, 0));
        }
        Ok(bed)
    }

    /// Writes the whole image once through the daemon: past the page cache, as everything later.
    fn fill(&mut self) -> Result<(), String> {
        let Plan { size, seed, .. } = self.plan;
        let (writers, client) = (blocks(size), &mut self.writer);
        let content = |block: u64| {
            if writers.contains(&block) {
                return [&stamp(seed, NEVER, block)[..], &body(seed, NEVER, block)].concat();
            }
            let each = (WRITE / READ) as u64;
            (block * each..(block + 1) * each).flat_map(|b| read_block(seed, b)).collect()
        };
        let mut next = 0;
        let mut begin = |client: &mut Client, slot: usize| {
            let more = next < writers.end;
            if more {
                client.put(slot * WRITE, &content(next));
                client.begin_write(0, next * WRITE as u64, slot * WRITE, WRITE, slot);
                next += 1;
            }
            more
        };
        let mut out = (0..FILL).filter(|slot| begin(client, *slot)).count();
        while out > 0 {
            for (slot, result) in client.reap(0) {
                ended(result, "a write of the fill")?;
                out -= usize::from(!begin(client, slot));
            }
        }
        client.flush(0).map_err(|error| format!("the flush after the fill failed: {error}"))
    }

    /// Makes the pool what the case says, and checks that it is.
    fn switch(admin: &mut Admin, case: &Case) {
        let Case { kind, hw_depth, weights: (reader, writers), .. } = case;
        let tunables: BTreeMap<_, _> = case.tunable.into_iter().collect();
        let set = json!({"pool": "p", "scheduler": kind.name(), "tunables": tunables});
        admin.call("pool.set-scheduler", &set);
        admin.call("pool.set-hw-depth", &json!({"pool": "p", "hw_depth": hw_depth}));
        if *kind == Kind::Bfq {
            admin.call("disk.set-weight", &json!({"disk": "reader", "weight": reader}));
            admin.call("disk.set-weight", &json!({"disk": "writers", "weight": writers}));
        }
        let pool = admin.call("pool.list", &json!({}))["pools"][0].take();
        let is = (pool["scheduler"].as_str(), pool["hw_depth"].as_u64());
        assert_eq!(is, (Some(kind.name()), Some(u64::from(*hw_depth))), "{pool}");
    }

    /// One turn: both clients work as the pool was, it becomes what the case says, and after the
    /// warm-up it counts.
    pub(crate) fn turn(&mut self, case: &Case) -> Result<Turn, String> {
        let Bed { plan, reader, writer, admin, .. } = self;
        self.turns += 1;
        let seed = mix(plan.seed ^ self.turns);
        let phase = &AtomicU8::new(WARM);
        let (reads, written, took) = std::thread::scope(|scope| {
            let write = || write_until_stop(writer, plan, seed, phase);
            let writing = case.writers.then(|| scope.spawn(write));
            let reading = scope.spawn(|| read_until_stop(reader, plan, !seed, phase));
            Bed::switch(admin, case);
            std::thread::sleep(plan.warm_up);
            let begin = Instant::now();
            phase.store(COUNT, Ordering::Relaxed);
            std::thread::sleep(plan.window);
            phase.store(STOP, Ordering::Relaxed);
            let took = begin.elapsed();
            let written = writing.map_or(Ok(0), |w| w.join().expect("the writers end"));
            (reading.join().expect("the reader ends"), written, took)
        });
        let nanos = u64::try_from(took.as_nanos()).expect("a short time");
        Turn::new(reads?, written?, nanos).map_err(|why| format!("{}: {why}", case.name))
    }

    /// The image, to look at or to harm past the daemon.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Ends the daemon and checks every byte of the image. Answers with the blocks that were
    /// written over.
    pub(crate) fn finish(mut self) -> Result<u64, String> {
        for disk in ["reader", "writers"] {
            let stats = self.admin.call("disk.stats", &json!({"disk": disk}));
            assert_eq!(stats["total"]["iostat"]["in_flight"], 0, "{stats}");
        }
        let Bed { plan: Plan { size, seed, out, .. }, file, reader, writer, daemon, .. } = self;
        drop((reader, writer));
        daemon.stop();
        let at = |error: std::io::Error| format!("the image cannot be read: {error}");
        let mut bytes = vec![0; WRITE];
        let writers = blocks(size);
        for block in 0..writers.start {
            file.read_exact_at(&mut bytes, block * WRITE as u64).map_err(at)?;
            let first = block * (WRITE / READ) as u64;
            for (block, bytes) in (first..).zip(bytes.chunks(READ)) {
                same(bytes, &read_block(seed, block), block * READ as u64)?;
            }
        }
        let mut over = 0;
        for block in writers.clone() {
            file.read_exact_at(&mut bytes, block * WRITE as u64).map_err(at)?;
            let slot = u64::from_le_bytes(bytes[8..STAMP].try_into().expect("eight bytes"));
            // Whose place it is (see `place`), or nobody's yet.
            let known = slot == NEVER || slot == (block - writers.start) % out.max(1) as u64;
            let want = [&stamp(seed, slot, block)[..], &body(seed, slot, block)].concat();
            same(&bytes, &want, block * WRITE as u64)?;
            if !known {
                return Err(format!("block {block} of the image was written from slot {slot}"));
            }
            over += u64::from(slot != NEVER);
        }
        Ok(over)
    }
}

fn ended(result: i32, what: &str) -> Result<(), String> {
    if result == 0 { Ok(()) } else { Err(format!("{what} failed: {result}")) }
}

/// Compares what lies at `offset` of the image with what should.
fn same(bytes: &[u8], want: &[u8], offset: u64) -> Result<(), String> {
    match bytes.iter().zip(want).position(|(a, b)| a != b) {
        None if bytes.len() == want.len() => Ok(()),
        None => Err(format!("{} bytes at {offset} instead of {}", bytes.len(), want.len())),
        Some(n) => Err(format!(
            "wrong data at byte {} of the image: {:#04x} instead of {:#04x}",
            offset + n as u64,
            bytes[n],
            want[n]
        )),
    }
}

/// One read at a time, anywhere in the reader's half; the latencies of those that end while it
/// counts. Each is checked.
fn read_until_stop(
    client: &mut Client,
    plan: &Plan,
    seed: u64,
    phase: &AtomicU8,
) -> Result<Vec<u64>, String> {
    let mut rng = Rng::new(seed);
    let mut latencies = Vec::new();
    while phase.load(Ordering::Relaxed) != STOP {
        let block = rng.below(plan.size / 2 / READ as u64);
        let offset = block * READ as u64;
        let begin = Instant::now();
        client.begin_read(0, offset, 0, READ, 0);
        let done = client.reap(0);
        let took = begin.elapsed();
        if phase.load(Ordering::Relaxed) == COUNT {
            latencies.push(u64::try_from(took.as_nanos()).expect("a short time"));
        }
        assert_eq!(done.len(), 1, "one read, one completion");
        ended(done[0].1, "a read")?;
        same(&client.get(0, READ), &read_block(plan.seed, block), offset)?;
    }
    Ok(latencies)
}

/// Where a slot may write: every `out`th place is its own, so that no two writes to a place are out
/// at a time.
fn place(rng: &mut Rng, plan: &Plan, slot: usize) -> u64 {
    let Range { start, end } = blocks(plan.size);
    let (out, slot) = (plan.out as u64, slot as u64);
    let own = (end - start - slot).div_ceil(out);
    start + slot + out * rng.below(own)
}

/// Keeps all slots writing; answers with the bytes whose writes ended while it counted.
fn write_until_stop(
    client: &mut Client,
    plan: &Plan,
    seed: u64,
    phase: &AtomicU8,
) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let mut begin = |client: &mut Client, slot: usize| {
        let block = place(&mut rng, plan, slot);
        client.put(slot * WRITE, &stamp(plan.seed, slot as u64, block));
        client.begin_write(0, block * WRITE as u64, slot * WRITE, WRITE, slot);
    };
    for slot in 0..plan.out {
        begin(client, slot);
    }
    let (mut out, mut written) = (plan.out, 0);
    while out > 0 {
        for (slot, result) in client.reap(0) {
            ended(result, "a write")?;
            match phase.load(Ordering::Relaxed) {
                STOP => {
                    out -= 1;
                    continue;
                }
                COUNT => written += WRITE as u64,
                _ => {}
            }
            begin(client, slot);
        }
    }
    Ok(written)
}
