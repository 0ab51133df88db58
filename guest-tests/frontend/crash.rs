//! Kill -9 under load (I33): the front-end keeps guest memory, rings and the in-flight region, and a
//! new process goes on. Every request comes back exactly once (the driver insists on it), and the disk
//! holds what was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vhost_user_blkmq::testkit::blk::Request;

use super::bench::{Bench, DISK, Plan};
use crate::common::client::LOST;
use crate::common::daemon::{Daemon, Scratch};
use crate::common::note;
use crate::common::rng::{Rng, pattern, seed};
use crate::common::session::{protocol, request, ring_state};

const QUEUES: u16 = 3;
const SIZE: u16 = 64;
/// Bytes of a slot: requests never overlap, because each works on a slot of its own.
const SLOT: u32 = 4096;
const SLOTS: usize = 1024;
const _: () = assert!(SLOTS as u64 * SLOT as u64 == DISK);

/// Which position a front-end gives after a crash.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// QEMU.
    Used,
    /// cloud-hypervisor.
    Avail,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read(usize),
    Write(usize, u64),
    Flush,
}

/// A guest under load whose device dies.
struct Story {
    scratch: Scratch,
    image: PathBuf,
    options: Vec<&'static str>,
    daemon: Option<Daemon>,
    bench: Bench,
    region: (File, u64),
    rng: Rng,
    seed: u64,
    /// By queue and head.
    sent: BTreeMap<(u32, u16), What>,
    /// What each slot holds: 0 for zeroes, else the key of its pattern.
    slots: Vec<u64>,
    busy: Vec<bool>,
    key: u64,
    completed: u64,
    survived: u64,
    /// Time that the kernel took to end what a killed process had begun.
    longest: Duration,
}

impl Story {
    fn begin(options: &[&'static str]) -> Story {
        let seed = seed();
        let scratch = Scratch::new();
        let image = scratch.image(DISK);
        let daemon = Daemon::start(&scratch, &image, options);
        let queues = u32::from(QUEUES);
        let plan = Plan { queues, size: SIZE, base: 0xffc0, ..Plan::event_idx() };
        let mut bench = Bench::prepare(daemon.socket(), plan);
        bench.reconnect(daemon.socket(), protocol::INFLIGHT_SHMFD);
        let region = bench.session.get_inflight(QUEUES, SIZE);
        bench.session.set_inflight(&region.0, region.1, QUEUES, SIZE);
        for q in 0..queues {
            bench.start_queue(q);
        }
        Story {
            scratch,
            image,
            options: options.to_vec(),
            daemon: Some(daemon),
            bench,
            region,
            rng: Rng::new(seed),
            seed,
            sent: BTreeMap::new(),
            slots: vec![0; SLOTS],
            busy: vec![false; SLOTS],
            key: 0,
            completed: 0,
            survived: 0,
            longest: Duration::ZERO,
        }
    }

    /// Some requests on one queue, made visible together.
    fn send(&mut self) {
        let q = u32::try_from(self.rng.below(u64::from(QUEUES))).expect("few");
        for _ in 0..=self.rng.below(12) {
            if self.bench.queue(q).blk.driver().free() < 4 {
                break;
            }
            let slot = self.rng.index(SLOTS);
            if self.busy[slot] {
                continue;
            }
            let sector = (slot as u64) * u64::from(SLOT / 512);
            let (request, what) = match self.rng.below(20) {
                0 => (Request::flush(), What::Flush),
                1..=6 => (Request::read(sector, SLOT), What::Read(slot)),
                _ => {
                    self.key += 1;
                    let bytes = pattern(self.key, SLOT as usize);
                    (Request::write(sector, &bytes), What::Write(slot, self.key))
                }
            };
            self.busy[slot] = !matches!(what, What::Flush);
            let head = self.bench.queue(q).blk.add(&request).expect("room was checked");
            let before = self.sent.insert((q, head), what);
            assert!(before.is_none(), "a free head");
        }
        self.bench.queue(q).publish();
    }

    /// Takes what came back; how many.
    fn take(&mut self) -> u64 {
        let before = self.completed;
        for q in 0..u32::from(QUEUES) {
            while let Some(done) = self.bench.queue(q).blk.poll() {
                let what = self.sent.remove(&(q, done.head)).expect("sent, and back once");
                assert_eq!(done.status, 0, "seed {}: {what:?} failed", self.seed);
                match what {
                    What::Read(slot) => {
                        self.busy[slot] = false;
                        assert!(done.data == self.content(slot), "seed {}: {what:?}", self.seed);
                    }
                    What::Write(slot, key) => {
                        self.busy[slot] = false;
                        self.slots[slot] = key;
                    }
                    What::Flush => {}
                }
                self.completed += 1;
            }
        }
        self.completed - before
    }

    fn content(&self, slot: usize) -> Vec<u8> {
        match self.slots[slot] {
            0 => vec![0; SLOT as usize],
            key => pattern(key, SLOT as usize),
        }
    }

    /// Works until `count` more requests have come back.
    fn work(&mut self, count: u64) {
        let end = Instant::now() + LOST;
        let until = self.completed + count;
        while self.completed < until {
            assert!(Instant::now() < end, "seed {}: stuck with {:?}", self.seed, self.sent);
            self.send();
            self.take();
        }
    }

    /// Waits for all that is on its way. By interrupt, so that one that was due and never came shows.
    fn settle(&mut self) {
        let end = Instant::now() + LOST;
        while !self.sent.is_empty() {
            assert!(Instant::now() < end, "seed {}: never came back: {:?}", self.seed, self.sent);
            if self.take() > 0 {
                continue;
            }
            let q = self.sent.keys().next().expect("not empty").0;
            let queue = self.bench.queue(q);
            if !queue.blk.driver().enable_interrupts() {
                let fd = std::os::fd::AsRawFd::as_raw_fd(&queue.call);
                let called = crate::common::foreign::readable(fd, LOST);
                assert!(called, "seed {}: no interrupt on queue {q}", self.seed);
                queue.call.read().expect("readable");
            }
        }
    }

    /// Kill -9 in the middle of it, a new process, and the front-end goes on there.
    fn kill(&mut self, base: Base) {
        let waited = self.daemon.take().expect("it runs").kill(&self.image);
        self.longest = self.longest.max(waited);
        self.survived += self.sent.len() as u64;
        // What was published before the end may be seen now or later.
        if self.rng.below(2) == 0 {
            self.take();
        }
        let options = &self.options;
        self.daemon = Some(Daemon::start(&self.scratch, &self.image, options));
        let socket = self.daemon.as_ref().expect("just started").socket().to_path_buf();
        self.bench.reconnect(&socket, protocol::INFLIGHT_SHMFD);
        let (file, len) = &self.region;
        self.bench.session.set_inflight(file, *len, QUEUES, SIZE);
        for q in 0..u32::from(QUEUES) {
            self.announce(q, base);
            self.bench.wire_queue(q);
            self.bench.enable_queue(q, true);
        }
    }

    fn announce(&mut self, q: u32, base: Base) {
        let ring = self.bench.queue(q).blk.driver().ring();
        let position = match base {
            Base::Used => ring.used_idx(),
            Base::Avail => ring.avail_idx(),
        };
        let session = &mut self.bench.session;
        session.must(request::SET_VRING_NUM, &ring_state(q, u32::from(SIZE)), &[]);
        session.must(request::SET_VRING_BASE, &ring_state(q, u32::from(position)), &[]);
        self.bench.announce_addresses(q);
    }

    /// Everything is on the disk; a planned stop leaves nothing in flight.
    fn end(mut self) -> (u64, u64) {
        self.settle();
        for slot in 0..SLOTS {
            let sector = (slot as u64) * u64::from(SLOT / 512);
            let done = self.bench.queue(0).ask(&Request::read(sector, SLOT));
            assert!(done.data == self.content(slot), "seed {}: slot {slot}", self.seed);
        }
        for _ in 0..20 {
            self.send();
        }
        for q in 0..u32::from(QUEUES) {
            let position = self.bench.stop_queue(q);
            let used = self.bench.queue(q).blk.driver().ring().used_idx();
            assert_eq!(position, used, "everything that was fetched is answered");
        }
        assert_eq!(self.marked(), 0, "a planned stop leaves nothing in flight");
        drop(self.bench);
        self.daemon.expect("it runs").stop();
        (self.completed, self.survived)
    }

    /// Heads that the region says are in flight.
    fn marked(&self) -> usize {
        let mut bytes = vec![0; usize::try_from(self.region.1).expect("small")];
        std::os::unix::fs::FileExt::read_exact_at(&self.region.0, &mut bytes, 0).expect("memory");
        let parts = bytes.chunks(bytes.len() / usize::from(QUEUES));
        parts.map(|p| p[16..].chunks(16).take(SIZE.into()).filter(|e| e[0] != 0).count()).sum()
    }
}

/// Kills of one test: `BLKMQ_KILLS`, else enough to meet every stage of a request.
fn kills() -> u64 {
    std::env::var("BLKMQ_KILLS").map_or(25, |n| n.parse().expect("BLKMQ_KILLS is a number"))
}

fn i33(what: &str, options: &[&'static str]) {
    let mut story = Story::begin(options);
    for n in 0..kills() {
        let count = story.rng.below(300);
        story.work(count);
        story.send();
        if story.rng.below(2) == 0 {
            std::thread::sleep(Duration::from_micros(story.rng.below(2000)));
        }
        story.kill([Base::Used, Base::Avail][usize::from(n % 2 == 1)]);
    }
    let longest = story.longest.as_millis();
    let (completed, survived) = story.end();
    assert!(survived > kills(), "the kills met requests on their way: {survived}");
    note(&format!(
        "{what}: {} kills, {completed} requests, {survived} of them on their way at a kill; \
         the kernel let go of the image at most {longest} ms later",
        kills()
    ));
}

#[test]
fn i33_kill_nine_loses_and_doubles_nothing() {
    i33("direct I/O", &[]);
}

#[test]
fn i33_kill_nine_with_threads_and_the_page_cache() {
    i33("two threads, page cache", &["--threads=2", "--cache=writeback"]);
}

#[test]
fn i33_kill_nine_with_a_scheduler_in_write_through() {
    i33("bfq, write-through", &["--scheduler=bfq", "--cache=writethrough"]);
}

#[test]
fn i33_kill_nine_with_limits() {
    i33("limits", &["--throttle=iops-total=3000", "--scheduler=mq-deadline"]);
}
