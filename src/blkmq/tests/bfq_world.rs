//! Guests in closed loops, a device, and virtual time: what shares and latencies come to.

use crate::blkmq::Ident;
use crate::blkmq::sched::{Item, Scheduler};
use crate::block::{Class, HctxId, LaneId, Nanos, Op, Sector, SectorRange, Tag};
use crate::testkit::core_disk::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

/// What a disk's guest does all the time.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) weight: u16,
    /// Requests that it keeps going.
    pub(super) depth: u16,
    /// Sizes, in sectors.
    pub(super) sectors: (u64, u64),
    /// Writes among a thousand.
    pub(super) writes: u64,
    /// The longest pause between an end and the next request.
    pub(super) think: u64,
    /// Classes that it claims, at random.
    pub(super) classes: Vec<Class>,
    /// One request after the other, by sector.
    pub(super) sequential: bool,
}

impl Guest {
    pub(super) fn reader(weight: u16, depth: u16, sectors: u64) -> Guest {
        Guest {
            weight,
            depth,
            sectors: (sectors, sectors),
            writes: 0,
            think: 0,
            classes: vec![Class::BestEffort],
            sequential: false,
        }
    }

    pub(super) fn writer(weight: u16, depth: u16, sectors: u64) -> Guest {
        Guest { writes: 1000, ..Guest::reader(weight, depth, sectors) }
    }
}

/// The device: a fixed time for each request in parallel, and one line for what it moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    /// Requests that it is given at a time.
    pub(super) depth: u32,
    pub(super) fixed: u64,
    pub(super) per_request: u64,
    pub(super) per_sector: u64,
    /// What it takes longer when a request does not start where the last one ended.
    pub(super) seek: u64,
}

impl Device {
    /// 500 MB/s, 60 us.
    pub(super) const FLASH: Device =
        Device { depth: 32, fixed: 60_000, per_request: 8 * 1024, per_sector: 1024, seek: 0 };
    /// 160 MB/s, 8 ms for a seek.
    pub(super) const DISK: Device =
        Device { depth: 4, fixed: 0, per_request: 50_000, per_sector: 3200, seek: 8 * MS };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(u16, u16),
    End(u16, u16),
    Wake,
}

/// What became of a guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    pub(super) requests: u64,
    pub(super) sectors: u64,
    /// Units by the default costs.
    pub(super) service: u64,
    pub(super) latencies: Vec<u64>,
}

impl Fate {
    /// The latency that 99 of 100 requests keep.
    pub(super) fn p99(&self) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100]
    }
}

pub(super) struct World {
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) device: Device,
    pub(super) fates: Vec<Fate>,
    /// The lanes, in the order in which they were served, with the service so far of each.
    pub(super) order: Vec<u16>,
    /// Instants at which something waited, credit was there, nothing was in flight, and nothing
    /// went.
    pub(super) stalls: u64,
    pub(super) now: u64,
    guests: Vec<Guest>,
    rngs: Vec<Rng>,
    items: Vec<Vec<Item>>,
    cursors: Vec<u64>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    in_flight: u32,
    waiting: u32,
    /// When the line of the device is free, and where it is.
    free: u64,
    head: u64,
    wake: Option<u64>,
}

impl World {
    pub(super) fn new(
        mut scheduler: Box<dyn Scheduler>,
        device: Device,
        guests: Vec<Guest>,
        seed: u64,
    ) -> World {
        let (mut events, mut items, mut rngs) = (BinaryHeap::new(), Vec::new(), Vec::new());
        scheduler.set_depth(device.depth);
        for (lane, guest) in (0..).zip(&guests) {
            scheduler.set_weight(LaneId(lane), guest.weight);
            scheduler.attach(HctxId(lane), LaneId(lane), guest.depth);
            (0..guest.depth).for_each(|tag| events.push(Reverse((0, Event::Arrive(lane, tag)))));
            rngs.push(Rng::new(seed ^ (u64::from(lane) << 32)));
            let range = SectorRange::new(Sector(0), 1, 1).expect("inside");
            let item = Item {
                id: Ident { hctx: HctxId(lane), tag: Tag(0) },
                lane: LaneId(lane),
                op: Op::Read(range),
                class: Class::BestEffort,
                arrival: Nanos(0),
                issued: Nanos(0),
            };
            items.push(vec![item; usize::from(guest.depth)]);
        }
        World {
            scheduler,
            device,
            fates: vec![Fate::default(); guests.len()],
            order: Vec::new(),
            stalls: 0,
            now: 0,
            cursors: vec![0; guests.len()],
            rngs,
            items,
            guests,
            events,
            in_flight: 0,
            waiting: 0,
            free: 0,
            head: 0,
            wake: None,
        }
    }

    pub(super) fn service_of(op: Op) -> u64 {
        op.range().map_or(0, |r| r.sectors()) + 8
    }

    fn arrive(&mut self, lane: u16, tag: u16) {
        let i = usize::from(lane);
        let (guest, rng) = (&self.guests[i], &mut self.rngs[i]);
        let (low, high) = guest.sectors;
        let sectors = low + rng.below(high - low + 1);
        let start = if guest.sequential {
            self.cursors[i] += sectors;
            self.cursors[i] - sectors
        } else {
            rng.below(1 << 22)
        };
        let range = SectorRange::new(Sector(start), sectors, u64::MAX).expect("inside");
        let write = rng.chance(guest.writes);
        let item = Item {
            id: Ident { hctx: HctxId(lane), tag: Tag(tag) },
            lane: LaneId(lane),
            op: if write { Op::Write(range) } else { Op::Read(range) },
            class: guest.classes[rng.index(guest.classes.len())],
            arrival: Nanos(self.now),
            issued: Nanos(0),
        };
        self.items[i][usize::from(tag)] = item;
        self.waiting += 1;
        self.scheduler.insert(&item, Nanos(self.now));
    }

    fn end(&mut self, lane: u16, tag: u16) {
        let i = usize::from(lane);
        let item = self.items[i][usize::from(tag)];
        self.in_flight -= 1;
        self.fates[i].latencies.push(self.now - item.arrival.0);
        self.scheduler.done(&item, Nanos(self.now));
        let pause = self.rngs[i].below(self.guests[i].think + 1);
        self.events.push(Reverse((self.now + pause, Event::Arrive(lane, tag))));
    }

    fn dispatch(&mut self) {
        let now = Nanos(self.now);
        while self.in_flight < self.device.depth {
            let promised = self.scheduler.has_work(now);
            let next = self.scheduler.next(now);
            assert_eq!(promised, next.is_some(), "C2 at {now:?}");
            let Some(id) = next else { break };
            let item = &mut self.items[id.hctx.index()][id.tag.index()];
            item.issued = now;
            let range = item.op.range().expect("no flush");
            let fate = &mut self.fates[id.hctx.index()];
            fate.requests += 1;
            fate.sectors += range.sectors();
            fate.service += Self::service_of(item.op);
            self.order.push(id.hctx.0);
            let place = range.start().0 + (u64::from(id.hctx.0) << 24);
            let seek = if place == self.head { 0 } else { self.device.seek };
            self.head = place + range.sectors();
            let busy = self.device.per_request + seek + range.sectors() * self.device.per_sector;
            self.free = self.free.max(self.now) + busy;
            let at = self.free + self.device.fixed;
            self.events.push(Reverse((at, Event::End(id.hctx.0, id.tag.0))));
            self.in_flight += 1;
            self.waiting -= 1;
        }
        if self.waiting > 0 && self.in_flight == 0 {
            self.stalls += 1;
        }
        if self.waiting > 0
            && self.in_flight < self.device.depth
            && let Some(wake) = self.scheduler.next_wake()
        {
            assert!(wake.0 > self.now, "C2: a wake in the past");
            if self.wake != Some(wake.0) {
                self.wake = Some(wake.0);
                self.events.push(Reverse((wake.0, Event::Wake)));
            }
        }
    }

    /// Goes on until `until`; `seen` looks after every instant.
    pub(super) fn run_with(&mut self, until: u64, mut seen: impl FnMut(&World)) {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at > until {
                self.events.push(Reverse((at, event)));
                break;
            }
            self.now = at;
            match event {
                Event::Arrive(lane, tag) => self.arrive(lane, tag),
                Event::End(lane, tag) => self.end(lane, tag),
                Event::Wake => {}
            }
            // What happens at the same instant happens before anything is sent.
            if self.events.peek().is_none_or(|Reverse((next, _))| *next > at) {
                self.dispatch();
                seen(self);
            }
        }
        self.now = until;
    }

    pub(super) fn run(&mut self, until: u64) {
        self.run_with(until, |_| {});
    }

    /// Forgets what has been, so that what is measured begins now.
    pub(super) fn forget(&mut self) {
        self.fates.iter_mut().for_each(|fate| *fate = Fate::default());
        self.order.clear();
    }

    /// A guest's part of all service.
    pub(super) fn share(&self, guest: usize) -> f64 {
        let total: u64 = self.fates.iter().map(|fate| fate.service).sum();
        ratio(self.fates[guest].service, total)
    }
}

/// `a / b`.
#[expect(clippy::cast_precision_loss, reason = "counts of a test are small")]
pub(super) fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}
