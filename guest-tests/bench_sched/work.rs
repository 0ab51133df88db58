//! What is measured: a scheduler by itself, and a whole domain over a disk that takes everything.

use std::sync::Arc;

use vhost_user_blkmq::blkmq::sched::{Item, Kind, Scheduler};
use vhost_user_blkmq::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Ident, Issue, LaneConfig,
    MergeSearch, Request,
};
use vhost_user_blkmq::block::{
    Bio, Class, HctxId, LaneId, Nanos, Op, Outcome, Sector, SectorRange, Tag,
};
use vhost_user_blkmq::testkit::rng::Rng;

/// Sectors of a request: 4 KiB.
const SECTORS: u64 = 8;
/// Sectors of the disk. A power of two, so that wrapping around it is cheap.
const CAPACITY: u64 = 1 << 32;
/// From one request to the next.
const STEP: u64 = 1000;
/// How long the disk takes: within every latency target of kyber.
const SERVICE: u64 = 50_000;

/// Where the requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Anywhere, a quarter of them writes, and so that no two ever touch.
    Random,
    /// Reads, each where the one before ends.
    Sequential,
}

/// Gives one operation after the other.
struct Source {
    pattern: Pattern,
    rng: Rng,
    at: u64,
}

impl Source {
    fn new(pattern: Pattern) -> Source {
        Source { pattern, rng: Rng::new(0x0b5e_55ed), at: 0 }
    }

    fn op(&mut self) -> Op {
        let range =
            |start| SectorRange::new(Sector(start), SECTORS, CAPACITY).expect("on the disk");
        if self.pattern == Pattern::Sequential {
            let start = self.at;
            self.at = (start + SECTORS) % CAPACITY;
            return Op::Read(range(start));
        }
        let word = self.rng.word();
        // Every other 4 KiB only: neighbours would be joined.
        let at = range((word >> 8) % (CAPACITY / SECTORS / 2) * SECTORS * 2);
        if word.is_multiple_of(4) { Op::Write(at) } else { Op::Read(at) }
    }
}

fn build(kind: Kind) -> Box<dyn Scheduler> {
    let mut made = kind.build(&[], 1, false).expect("no tunable is given");
    made.pop().expect("one for the one thread")
}

/// The disks of a shape, one hctx each, and the heads of each.
fn shape(disks: u16, depth: u16) -> (impl Iterator<Item = u16> + Clone, u16) {
    assert!(disks > 0 && depth.is_multiple_of(disks), "every disk has as many heads");
    (0..disks, depth / disks)
}

/// A scheduler by itself, in which `depth` requests wait all the time.
pub(crate) struct Alone {
    scheduler: Box<dyn Scheduler>,
    /// By hctx, then by tag.
    items: Vec<Vec<Item>>,
    source: Source,
    now: u64,
}

impl Alone {
    /// `depth` requests in all, spread evenly over `disks`.
    pub(crate) fn new(kind: Kind, disks: u16, depth: u16) -> Alone {
        let mut scheduler = build(kind);
        let mut source = Source::new(Pattern::Random);
        let (all, heads) = shape(disks, depth);
        scheduler.set_depth(kind.hw_depth(false));
        for disk in all.clone() {
            scheduler.attach(HctxId(disk), LaneId(disk), heads);
            scheduler.set_weight(LaneId(disk), 100);
        }
        let mut item = |hctx, tag| Item {
            id: Ident { hctx: HctxId(hctx), tag: Tag(tag) },
            lane: LaneId(hctx),
            op: source.op(),
            class: Class::BestEffort,
            arrival: Nanos(0),
            issued: Nanos(0),
        };
        let items: Vec<Vec<Item>> =
            all.map(|hctx| (0..heads).map(|tag| item(hctx, tag)).collect()).collect();
        items.iter().flatten().for_each(|item| scheduler.insert(item, Nanos(0)));
        Alone { scheduler, items, source, now: 0 }
    }

    /// So many requests go, end, and come back as others.
    pub(crate) fn run(&mut self, requests: u64) {
        for _ in 0..requests {
            self.now += STEP;
            let now = Nanos(self.now);
            let id = self.scheduler.next(now).expect("as many wait as there are heads");
            let item = &mut self.items[id.hctx.index()][id.tag.index()];
            item.issued = now;
            self.scheduler.done(item, now);
            item.arrival = now;
            item.op = self.source.op();
            self.scheduler.insert(item, now);
        }
    }
}

/// A disk that takes everything and says nothing.
struct Null {
    held: Vec<Request>,
    issued: u64,
}

impl Issue for Null {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        self.held.push(*request);
        self.issued += 1;
        Ok(())
    }
}

/// A domain from the guests' heads to the disk and back.
pub(crate) struct Whole {
    domain: Domain,
    disk: Null,
    source: Source,
    disks: u16,
    heads: u16,
    now: u64,
    bios: u64,
}

impl Whole {
    /// `depth` heads in all, spread evenly over `disks`.
    pub(crate) fn new(kind: Kind, disks: u16, depth: u16, pattern: Pattern) -> Whole {
        let (all, heads) = shape(disks, depth);
        let config = DomainConfig::alone(disks, kind.hw_depth(false));
        let mut domain = Domain::new(config, build(kind));
        for _ in all {
            let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
            let lane = LaneConfig::new(Arc::new(gate), true);
            let lane = domain.add_lane(lane);
            domain.add_hctx(lane, heads).expect("room for every disk");
        }
        let held = Vec::with_capacity(usize::from(depth));
        let (disk, source) = (Null { held, issued: 0 }, Source::new(pattern));
        Whole { domain, disk, source, disks, heads, now: 0, bios: 0 }
    }

    /// How hard it is tried to merge, from now on. Ends a rest of the search.
    pub(crate) fn search(&mut self, search: MergeSearch) {
        (0..self.disks).for_each(|disk| self.domain.set_nomerges(LaneId(disk), search));
    }

    /// Submissions and bios so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.disk.issued, self.bios)
    }

    /// Every head makes its way, all of them at a time, until there were so many bios.
    pub(crate) fn run(&mut self, bios: u64) {
        let depth = u64::from(self.disks) * u64::from(self.heads);
        for _ in 0..bios / depth {
            for hctx in 0..self.disks {
                (0..self.heads).for_each(|tag| self.submit(HctxId(hctx), Tag(tag)));
            }
            loop {
                self.domain.run(Nanos(self.now), &mut self.disk);
                if self.disk.held.is_empty() {
                    break;
                }
                self.now += SERVICE;
                for r in self.disk.held.drain(..) {
                    let now = Nanos(self.now);
                    let end = self.domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, now);
                    end.expect("it is in flight");
                }
            }
            for hctx in (0..self.disks).map(HctxId) {
                while let Some((tag, _)) = self.domain.take_done(hctx) {
                    self.domain.release(hctx, tag);
                }
                assert!(self.domain.is_idle(hctx), "everything ends");
            }
        }
    }

    /// The guest of the only disk has all heads out at first, and then again each one that comes
    /// back, while the disk finishes one request at a time.
    pub(crate) fn run_refilled(&mut self, bios: u64) {
        assert_eq!(self.disks, 1);
        let hctx = HctxId(0);
        (0..self.heads).for_each(|tag| self.submit(hctx, Tag(tag)));
        while self.bios < bios {
            self.domain.run(Nanos(self.now), &mut self.disk);
            self.now += SERVICE;
            let r = self.disk.held.remove(0);
            let now = Nanos(self.now);
            let end = self.domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, now);
            end.expect("it is in flight");
            while let Some((tag, _)) = self.domain.take_done(hctx) {
                self.domain.release(hctx, tag);
                self.submit(hctx, tag);
            }
        }
    }

    fn submit(&mut self, hctx: HctxId, tag: Tag) {
        self.now += STEP;
        self.bios += 1;
        let bio = Bio::new(tag, self.source.op());
        self.domain.submit(hctx, bio, Nanos(self.now)).expect("a free head");
    }
}
