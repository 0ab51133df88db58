//! The interference experiment: two guests on one flash disk, one of which waits for each 4 KiB
//! read while the other keeps the disk full of 64 KiB writes.
//!
//! The core is the real one, a [`Domain`] with a lane for each guest; the disk is [`Ssd`], time is
//! virtual, and the addresses come from a seed, so the same setup gives the same figures.
//!
//! Both guests are closed loops without time to think: what ends is replaced at once.
//!
//! On [`SsdConfig::consumer`], 120 s, seed 1; the writers get 655 to 657 MB/s in every row:
//!
//! | scheduler | reads/s | p50 ms | p99 ms | p99.9 ms |
//! | --- | --- | --- | --- | --- |
//! | none | 12 | 77.6 | 79.6 | 80.8 |
//! | mq-deadline (no bound) | 12 | 77.6 | 79.6 | 80.8 |
//! | mq-deadline, 64 at a time | 594 | 1.6 | 3.4 | 4.3 |
//! | kyber | 1106 | 0.9 | 2.6 | 3.1 |
//! | bfq, 32 at a time | 1108 | 0.9 | 2.6 | 3.1 |
//!
//! What it hangs on: kyber gives the disk 128 writes, fewer than the `contexts` of this one, so that
//! a read is looked at when it comes. It does not go lower here, because writers that never stop are
//! late by their own total time, which lets their depth grow to its maximum and not shrink. On a
//! disk that takes one command after the other no more than 1023 / 128 would be won; bfq's window
//! does not depend on that. With one write outstanding for each writer there is nothing to win.

use std::fmt::Write;
use std::sync::Arc;

use super::{Full, Ssd, SsdConfig};
use crate::blkmq::sched::Kind;
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{
    Bio, HctxId, Nanos, Op, Outcome, SECTOR_SIZE, Sector, SectorRange, Status, Tag,
};
use crate::testkit::rng::Rng;

/// Sectors of each guest's disk: 256 GiB.
const CAPACITY: u64 = 1 << 29;
const READER: HctxId = HctxId(0);
const WRITER: HctxId = HctxId(1);
const READ: u64 = 8;
const WRITE: u64 = 128;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The scheduler, with its defaults.
    pub kind: Kind,
    /// Requests that the core keeps with the disk; 0: no bound.
    pub hw_depth: u32,
    /// Writers in the second guest.
    pub writers: u16,
    /// Writes that each of them keeps outstanding.
    pub depth: u16,
    /// Seconds before anything counts.
    pub warm_up: u64,
    /// Seconds that count, at least 1.
    pub seconds: u64,
    /// Of the addresses.
    pub seed: u64,
    /// The disk.
    pub ssd: SsdConfig,
}

impl Setup {
    /// A scheduler as it comes, beside 16 writers with 64 writes outstanding each: a virtqueue of
    /// 1024, full.
    #[must_use]
    pub const fn new(kind: Kind, seconds: u64, seed: u64) -> Setup {
        let hw_depth = kind.hw_depth(false);
        let (writers, depth, warm_up, ssd) = (16, 64, 2, SsdConfig::consumer());
        Setup { kind, hw_depth, writers, depth, warm_up, seconds, seed, ssd }
    }

    /// The runs of the experiment: every scheduler as it comes, and mq-deadline as Linux has it,
    /// without a bound of its own on what the disk is given.
    #[must_use]
    pub fn all(seconds: u64, seed: u64) -> Vec<Setup> {
        let as_it_comes = |kind| Setup::new(kind, seconds, seed);
        let mut all: Vec<Setup> = Kind::ALL.map(as_it_comes).into();
        all.insert(1, Setup { hw_depth: 0, ..as_it_comes(Kind::MqDeadline) });
        all
    }

    /// Its name in tables and plots.
    #[must_use]
    pub fn name(&self) -> String {
        match (self.kind, self.hw_depth) {
            (Kind::MqDeadline | Kind::Bfq, 0) => format!("{} (no bound)", self.kind),
            _ => self.kind.to_string(),
        }
    }
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// See [`Setup::name`].
    pub name: String,
    /// See [`Setup::hw_depth`].
    pub hw_depth: u32,
    /// See [`Setup::seconds`].
    pub seconds: u64,
    /// How long each read took, in nanoseconds, the shortest first.
    pub latencies: Vec<u64>,
    /// Bytes whose writes ended.
    pub written: u64,
}

impl Row {
    /// Reads in a second.
    #[must_use]
    pub fn iops(&self) -> u64 {
        self.latencies.len() as u64 / self.seconds
    }

    /// Written megabytes in a second.
    #[must_use]
    pub fn write_rate(&self) -> u64 {
        self.written / 1_000_000 / self.seconds
    }

    /// The latency in nanoseconds that `permille` of 1000 reads do not exceed: the nearest rank.
    ///
    /// # Panics
    /// When there was no read.
    #[must_use]
    pub fn percentile(&self, permille: usize) -> u64 {
        let rank = (self.latencies.len() * permille).div_ceil(1000);
        self.latencies[rank.saturating_sub(1)]
    }
}

/// The rows as text.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<24}{:>9}{:>9}{:>9}{:>10}{:>10}{:>10}{:>11}\n",
        "scheduler", "hw_depth", "reads", "IOPS", "p50 ms", "p99 ms", "p99.9 ms", "write MB/s"
    );
    for row in rows {
        let Row { name, hw_depth, .. } = row;
        let hw_depth = if *hw_depth == 0 { "-".to_owned() } else { hw_depth.to_string() };
        let (reads, iops, rate) = (row.latencies.len(), row.iops(), row.write_rate());
        let [p50, p99, p999] = [500, 990, 999].map(|permille| millis(row.percentile(permille)));
        let line = writeln!(
            text,
            "{name:<24}{hw_depth:>9}{reads:>9}{iops:>9}{p50:>10.3}{p99:>10.3}{p999:>10.3}{rate:>11}"
        );
        line.expect("a string takes all");
    }
    text
}

/// Nanoseconds as milliseconds.
pub(super) fn millis(nanos: u64) -> f64 {
    let micros = u32::try_from(nanos / 1000).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

/// A command's name: hctx, tag, generation.
type Key = (HctxId, Tag, u16);

struct Device {
    ssd: Ssd<Key>,
    now: Nanos,
}

impl Issue for Device {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        let (write, range) = match request.op {
            Op::Read(range) => (false, range),
            Op::Write(range) => (true, range),
            other => unreachable!("nobody asked for {other:?}"),
        };
        // One disk after the other.
        let base = u64::from(request.hctx.0) * CAPACITY * SECTOR_SIZE;
        let key = (request.hctx, request.tag, request.generation);
        let at = base + range.byte_offset();
        self.ssd.submit(key, write, at, range.bytes(), self.now).map_err(|Full| Busy)
    }
}

struct World {
    domain: Domain,
    device: Device,
    rng: Rng,
    /// When the read that is out was submitted.
    asked: Nanos,
    /// From when on things count.
    from: Nanos,
    row: Row,
}

impl World {
    fn new(setup: &Setup) -> World {
        let scheduler = setup.kind.build(&[], 1, false).expect("defaults").remove(0);
        let config = DomainConfig::alone(2, setup.hw_depth);
        let mut domain = Domain::new(config, scheduler);
        for depth in [1, (setup.writers * setup.depth).max(1)] {
            let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
            let lane = domain.add_lane(LaneConfig::new(gate, true));
            domain.add_hctx(lane, depth).expect("the table has room for two");
        }
        let row = Row {
            name: setup.name(),
            hw_depth: setup.hw_depth,
            seconds: setup.seconds,
            latencies: Vec::new(),
            written: 0,
        };
        let device = Device { ssd: Ssd::new(setup.ssd), now: Nanos(0) };
        let from = Nanos(setup.warm_up * 1_000_000_000);
        World { domain, device, rng: Rng::new(setup.seed), asked: Nanos(0), from, row }
    }

    /// The next bio of whoever has this tag: anywhere on the guest's disk.
    fn submit(&mut self, hctx: HctxId, tag: Tag) {
        let sectors = if hctx == READER { READ } else { WRITE };
        let start = Sector(self.rng.below(CAPACITY / sectors) * sectors);
        let range = SectorRange::new(start, sectors, CAPACITY).expect("inside");
        let op = if hctx == READER { Op::Read(range) } else { Op::Write(range) };
        let now = self.device.now;
        self.domain.submit(hctx, Bio::new(tag, op), now).expect("the tag is free");
        if hctx == READER {
            self.asked = now;
        }
    }

    /// One sweep: what has ended is answered and replaced, and what can go goes.
    fn sweep(&mut self) {
        let now = self.device.now;
        while let Some((hctx, tag, generation)) = self.device.ssd.take_done() {
            let live = self.domain.complete(hctx, tag, generation, Outcome::Done, now);
            live.expect("each command ends once");
        }
        for hctx in [READER, WRITER] {
            while let Some((tag, status)) = self.domain.take_done(hctx) {
                assert_eq!(status, Status::Ok, "nothing fails here");
                self.domain.release(hctx, tag);
                self.count(hctx);
                self.submit(hctx, tag);
            }
        }
        self.run();
    }

    fn run(&mut self) {
        let now = self.device.now;
        self.domain.run(now, &mut self.device);
        while self.domain.wants_run(now) {
            let issued = self.domain.run(now, &mut self.device);
            assert!(issued > 0, "work and credit, and nothing goes");
        }
        // There is one thread, which has just looked.
        let _ = self.domain.take_wakes();
    }

    fn count(&mut self, hctx: HctxId) {
        if self.device.now < self.from {
            return;
        }
        if hctx == READER {
            self.row.latencies.push(self.device.now.since(self.asked));
        } else {
            self.row.written += WRITE * SECTOR_SIZE;
        }
    }

    /// Goes to the next thing that happens; whether it lies before `end`.
    fn step(&mut self, end: Nanos) -> bool {
        let wake = self.domain.next_wake().filter(|wake| *wake > self.device.now);
        let next = [self.device.ssd.next_event(), wake].into_iter().flatten().min();
        let next = next.expect("a closed loop never comes to rest");
        self.device.now = next;
        self.device.ssd.advance(next);
        self.sweep();
        next < end
    }
}

/// Runs the experiment once.
///
/// # Panics
/// When the core breaks its word: a command ends twice, or work and credit lie idle.
#[must_use]
pub fn run(setup: &Setup) -> Row {
    let mut world = World::new(setup);
    world.submit(READER, Tag(0));
    for tag in 0..setup.writers * setup.depth {
        world.submit(WRITER, Tag(tag));
    }
    world.run();
    let end = Nanos((setup.warm_up + setup.seconds) * 1_000_000_000);
    while world.step(end) {}
    world.row.latencies.sort_unstable();
    world.row
}
