//! The seeded world around the core: guests, threads, one image, virtual time.
//!
//! Several domains (threads) share one flush gate; each has guests (hctxs) that submit, a disk that
//! answers in any order, and wakes that arrive late. After every step the books are checked, and
//! [`World::drain`] drives a thread only when the core says that it wants to run: a lost wake-up
//! ends there. Every panic names the seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::core_disk::{Disk, Flight, Image, Progress, Rng, touch};
pub(crate) use super::core_guest::{Config, Guest};
use super::core_guest::{Live, SeedGuard};
use crate::blkmq::credit::Credits;
use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Batch, Distribution, Domain, DomainConfig, FlushGate, FlushPolicy, Kind, LaneConfig,
    QueueStats, Span, Stale, Stats, TagBusy,
};
use crate::block::{Bio, Class, Nanos, Op, Outcome, Sector, SectorRange, Status, Tag};

/// One queue thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) domain: Domain,
    pub(crate) guests: Vec<Guest>,
    pub(crate) disk: Disk,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) now: u64,
    rng: Rng,
    pub(crate) gate: Arc<FlushGate>,
    pub(crate) image: Rc<RefCell<Image>>,
    pub(crate) threads: Vec<Thread>,
    /// Writes that were answered OK, in order.
    acked: Vec<usize>,
    /// Rung mailboxes, by thread.
    bells: Vec<u16>,
    /// The newest range, and one that was left out before it.
    newest: SectorRange,
    hole: Option<SectorRange>,
    /// The newest operation.
    kind: u64,
}

impl World {
    pub(crate) fn new(config: Config) -> World {
        let policy = FlushPolicy { exclusive: config.exclusive, noop: config.noop };
        let gate = Arc::new(FlushGate::new(config.threads, policy));
        let image = Rc::new(RefCell::new(Image::default()));
        let credits = Arc::new(Credits::new(config.threads, config.hw_depth));
        let thread = |t: u16| {
            let credits = Arc::clone(&credits);
            let of = DomainConfig { max_hctxs: config.hctxs, thread: t, credits };
            let mut domain = Domain::new(of, Box::new(NoScheduler::new()));
            let gate = Arc::clone(&gate);
            let lane = domain.add_lane(LaneConfig::new(gate, config.dsync));
            domain.set_merging(lane, config.merging);
            let guests = (0..config.hctxs).map(|_| {
                let hctx = domain.add_hctx(lane, config.depth).expect("the table has room");
                Guest::new(hctx, config.depth)
            });
            let guests = guests.collect();
            let seed = config.seed.wrapping_add(u64::from(t) + 1);
            let mut disk = Disk::new(Rc::clone(&image), seed, config.capacity, config.faults);
            disk.dsync = config.dsync;
            (disk.merging, disk.bad) = (config.merging, config.bad);
            Thread { domain, guests, disk }
        };
        let threads = (0..config.threads).map(thread).collect();
        let rng = Rng::new(config.seed);
        let (acked, bells) = (Vec::new(), Vec::new());
        let newest = SectorRange::default();
        World {
            config,
            now: 1,
            rng,
            gate,
            image,
            threads,
            acked,
            bells,
            newest,
            hole: None,
            kind: 0,
        }
    }

    fn nanos(&self) -> Nanos {
        Nanos(self.now)
    }

    /// A random step, then the books.
    pub(crate) fn step(&mut self) {
        self.advance();
        let t = self.rng.index(self.threads.len());
        match self.rng.below(12) {
            0..=3 => self.sweep(t),
            4..=6 => {
                for _ in 0..=self.rng.below(8) {
                    self.complete_one(t);
                }
                if self.rng.chance(700) {
                    self.run_if_wanted(t);
                }
            }
            7 => self.run_if_wanted(t),
            8 | 9 => {
                let g = self.rng.index(self.threads[t].guests.len());
                self.publish(t, g);
            }
            10 => self.ring_one(),
            _ if self.config.strays => self.stray(t),
            _ => {}
        }
        self.check();
    }

    fn advance(&mut self) {
        let later = self.now + self.rng.below(50);
        self.time(later);
    }

    fn time(&mut self, now: u64) {
        let passed = now - self.now;
        self.now = now;
        for Thread { domain, guests, disk } in &mut self.threads {
            disk.now = now;
            for guest in guests.iter_mut() {
                let busy = domain.stats(guest.hctx).in_progress() > 0;
                guest.busy += if busy { passed } else { 0 };
            }
        }
    }

    /// Pops some bios of some hctxs, then runs the domain, as a queue thread does.
    fn sweep(&mut self, t: usize) {
        for g in 0..self.threads[t].guests.len() {
            if self.threads[t].guests[g].frozen || self.rng.chance(400) {
                continue;
            }
            for _ in 0..self.rng.below(40) {
                if !self.submit_random(t, g) {
                    break;
                }
            }
        }
        self.run(t);
    }

    pub(crate) fn run(&mut self, t: usize) {
        let now = self.nanos();
        let thread = &mut self.threads[t];
        thread.domain.run(now, &mut thread.disk);
        let plugged = |g: &Guest| thread.domain.gauges(g.hctx).plugged;
        assert!(thread.guests.iter().all(|g| plugged(g) == 0), "the batch ends with the sweep");
        self.collect_wakes(t);
    }

    fn run_if_wanted(&mut self, t: usize) {
        if self.threads[t].domain.wants_run(self.nanos()) {
            self.run(t);
        }
    }

    fn collect_wakes(&mut self, t: usize) {
        self.bells.extend(self.threads[t].domain.take_wakes());
    }

    /// Delivers one wake, in any order.
    fn ring_one(&mut self) {
        if self.bells.is_empty() {
            return;
        }
        let i = self.rng.index(self.bells.len());
        let t = self.bells.swap_remove(i);
        let now = self.nanos();
        self.threads[usize::from(t)].domain.gate_changed(now);
    }

    fn range(&mut self) -> SectorRange {
        let sectors = 1 + self.rng.below(16);
        let at = |start| SectorRange::new(Sector(start), sectors, 1 << 20).expect("inside");
        if !self.rng.chance(self.config.sequential) {
            self.newest = at(self.rng.below(1 << 16));
            return self.newest;
        }
        let end = self.newest.end().0 % (1 << 16);
        self.newest = match self.rng.below(8) {
            0 | 1 => at(self.newest.start().0.saturating_sub(sectors)),
            2 => {
                self.hole = Some(at(end));
                at(end + sectors)
            }
            3 | 4 if self.hole.is_some() => return self.hole.take().expect("there is one"),
            _ => at(end),
        };
        self.newest
    }

    fn random_op(&mut self) -> (Op, Vec<SectorRange>) {
        if self.rng.chance(self.config.flushes) {
            return (Op::Flush, Vec::new());
        }
        let range = self.range();
        let more = self.rng.index(3);
        let rest: Vec<SectorRange> = (0..more).map(|_| self.range()).collect();
        if !self.rng.chance(self.config.sequential) {
            self.kind = self.rng.below(10);
        }
        match self.kind {
            0..=3 => (Op::Read(range), Vec::new()),
            4..=7 => (Op::Write(range), Vec::new()),
            8 => (Op::Discard(range), rest),
            _ => (Op::WriteZeroes { range, unmap: true }, rest),
        }
    }

    fn submit_random(&mut self, t: usize, g: usize) -> bool {
        let (op, rest) = self.random_op();
        self.submit(t, g, op, rest)
    }

    /// Submits a bio on a free head; `false` when the guest has none.
    pub(crate) fn submit(&mut self, t: usize, g: usize, op: Op, rest: Vec<SectorRange>) -> bool {
        let now = self.nanos();
        let Thread { domain, guests, disk } = &mut self.threads[t];
        let guest = &mut guests[g];
        assert!(!guest.frozen, "nothing is popped from a frozen queue");
        if guest.free.is_empty() {
            return false;
        }
        let pick = self.rng.index(guest.free.len());
        let tag = guest.free.swap_remove(pick);
        let fua = self.config.fua && op.is_write();
        let bytes = op.range().map_or(0, SectorRange::bytes);
        let bytes = bytes + rest.iter().map(|r| r.bytes()).sum::<u64>();
        let write = op.is_write().then(|| self.image.borrow_mut().begin());
        guest.submitted += 1;
        guest.epoch += u64::from(op == Op::Flush);
        let segments = u16::try_from(1 + self.rng.below(3)).expect("small");
        let alone = !rest.is_empty();
        if op != Op::Flush {
            guest.data += 1;
            let order = guest.data;
            let mut ranges = rest.iter().copied().chain(op.range());
            let bad = disk.bad.is_some_and(|bad| ranges.any(|r| touch(r, bad)));
            let (failed, moved, epoch) = (false, 0, guest.epoch);
            let bio = Progress {
                op,
                fua,
                segments,
                alone,
                epoch,
                bad,
                write,
                bytes,
                moved,
                failed,
                order,
            };
            disk.bios.insert((guest.hctx, tag), bio);
        }
        let covers = self.acked.len();
        guest.live[tag.index()] = Some(Live { op, fua, rest, expect: None, covers, write });
        let hctx = guest.hctx;
        let bio = Bio { tag, op, fua, class: Class::default(), segments, alone };
        let answer = domain.submit(hctx, bio, now);
        assert_eq!(answer, Ok(()), "a free head is accepted");
        true
    }

    /// Lets the disk finish one request, any of those that are due.
    fn complete_one(&mut self, t: usize) {
        let now = self.now;
        let flights = &self.threads[t].disk.flights;
        let due: Vec<usize> = (0..flights.len()).filter(|i| flights[*i].due <= now).collect();
        if !due.is_empty() {
            let i = due[self.rng.index(due.len())];
            self.complete(t, i);
        }
    }

    /// Lets the disk finish its i-th flight.
    pub(crate) fn complete(&mut self, t: usize, i: usize) {
        let now = self.nanos();
        let thread = &mut self.threads[t];
        let bios = thread.disk.flights[i].bios.clone();
        let (request, outcome) = thread.disk.finish(i);
        let (hctx, tag, generation) = (request.hctx, request.tag, request.generation);
        let domain = &mut thread.domain;
        let old = generation.wrapping_sub(1);
        assert_eq!(domain.complete(hctx, tag, old, outcome, now), Err(Stale), "I36");
        assert_eq!(domain.in_flight(hctx, tag, old), None, "I36");
        assert_eq!(domain.in_flight(hctx, tag, generation), Some(request), "as it was issued");
        if request.op != Op::Flush {
            assert!(domain.bios(hctx, tag).eq(bios.iter().copied()), "and with the same bios");
        }
        let guest = thread.guests.iter_mut().find(|g| g.hctx == hctx).expect("a guest");
        let live = guest.live[tag.index()].as_mut().expect("I01: only live heads complete");
        let done = if outcome == Outcome::Done && request.op != Op::Flush && !live.rest.is_empty() {
            let next = live.rest.remove(0);
            domain.rest(hctx, tag, generation, next, now)
        } else {
            domain.complete(hctx, tag, generation, outcome, now)
        };
        assert_eq!(done, Ok(()));
        let again = domain.complete(hctx, tag, generation, outcome, now);
        assert_eq!(again, Err(Stale), "I36: a second completion of one issue");
        assert_eq!(domain.in_flight(hctx, tag, generation), None, "no longer with the kernel");
        self.collect_wakes(t);
    }

    /// Takes what is done, checks it against what was promised, publishes, releases.
    pub(crate) fn publish(&mut self, t: usize, g: usize) {
        let hctx = self.threads[t].guests[g].hctx;
        loop {
            let thread = &mut self.threads[t];
            let had = thread.domain.has_done(hctx);
            let Some((tag, status)) = thread.domain.take_done(hctx) else {
                assert!(!had, "has_done promised one");
                break;
            };
            assert!(had, "has_done denied one");
            let with = |f: &Flight| f.request.tag == tag || f.bios.contains(&tag);
            let mut flights = thread.disk.flights.iter().filter(|f| f.request.hctx == hctx);
            let owned = flights.any(with);
            assert!(!owned, "I32: the kernel still owns {tag:?}");
            let guest = &mut thread.guests[g];
            let live = guest.live[tag.index()].take().expect("I01: a head is answered once");
            guest.taken.push(tag);
            self.judge(t, g, tag, &live, status);
        }
        if self.rng.chance(700) {
            let Thread { domain, guests, .. } = &mut self.threads[t];
            let Guest { taken, free, .. } = &mut guests[g];
            for tag in taken.drain(..) {
                domain.release(hctx, tag);
                free.push(tag);
            }
        }
    }

    fn judge(&mut self, t: usize, g: usize, tag: Tag, live: &Live, status: Status) {
        let Thread { guests, disk, .. } = &mut self.threads[t];
        let guest = &mut guests[g];
        if let Some(expected) = live.expect {
            assert_eq!(status, expected, "a rejected head keeps its status");
            return;
        }
        if status == Status::Ok {
            guest.ok += 1
        } else {
            guest.errors += 1
        }
        let image = self.image.borrow();
        let latched = self.gate.failed().is_some();
        if live.op == Op::Flush {
            if status == Status::Ok {
                let covered = |w: &usize| self.config.noop || image.is_durable(*w);
                let all = self.acked[..live.covers].iter().all(covered);
                assert!(all, "I23: a flush was answered that is not covered");
            } else {
                guest.flush_errors += 1;
                assert!(latched, "I25: a flush fails only when a sync failed");
            }
            return;
        }
        let bio = disk.bios.remove(&(guest.hctx, tag)).expect("the disk knew it");
        guest.sectors += bio.moved / 512;
        if self.config.bad.is_some() {
            assert_eq!(status != Status::Ok, bio.bad, "L12: the bad range fails, and only that");
        }
        if status == Status::Ok {
            assert!(!bio.failed, "I07: the failing bio fails");
            assert_eq!(bio.moved, bio.bytes, "I07: all of it was moved");
            if let Some(w) = live.write {
                let safe = !live.fua || self.config.noop || image.is_durable(w);
                assert!(safe, "I26: write-through means durable");
                self.acked.push(w);
            }
        } else {
            let alone = self.config.dsync && matches!(live.op, Op::Write(_));
            let flushed = live.fua && !alone && latched;
            assert!(bio.failed || flushed, "I07: only the failing bio fails");
            guest.data_errors += 1;
        }
    }

    /// Things that a broken guest or a late kernel might do.
    fn stray(&mut self, t: usize) {
        let now = self.nanos();
        let g = self.rng.index(self.threads[t].guests.len());
        let op = self.random_op().0;
        let tag =
            Tag(u16::try_from(self.rng.below(u64::from(self.config.depth) + 2)).expect("small"));
        let thread = &mut self.threads[t];
        let guest = &mut thread.guests[g];
        let hctx = guest.hctx;
        if let Some(at) = guest.free.iter().position(|f| *f == tag) {
            if guest.frozen {
                return;
            }
            guest.free.swap_remove(at);
            assert!(thread.domain.is_free(hctx, tag));
            let status = if self.rng.chance(500) { Status::Unsupp } else { Status::Ok };
            let expect = Some(status);
            guest.live[tag.index()] =
                Some(Live { op, fua: false, rest: Vec::new(), expect, covers: 0, write: None });
            guest.rejected += 1;
            assert_eq!(thread.domain.reject(hctx, tag, status), Ok(()));
            return;
        }
        let before = thread.domain.gauges(hctx);
        assert!(!thread.domain.is_free(hctx, tag), "live, or beyond the depth");
        let bio = Bio::new(tag, op);
        assert_eq!(thread.domain.submit(hctx, bio, now), Err(TagBusy), "I02: {tag:?} is live");
        assert_eq!(thread.domain.reject(hctx, tag, Status::Ok), Err(TagBusy), "I02");
        assert_eq!(thread.domain.gauges(hctx), before, "I02: nothing moves");
    }

    /// Conservation, stage by stage (I03), and the limits (I04).
    pub(crate) fn check(&self) {
        let mut data = 0;
        for thread in &self.threads {
            thread.domain.check_books();
            for guest in &thread.guests {
                let gauges = thread.domain.gauges(guest.hctx);
                assert_eq!(usize::from(gauges.free), guest.free.len(), "I03: free heads");
                let live = guest.live.iter().flatten().count() + guest.taken.len();
                assert_eq!(usize::from(gauges.claimed()), live, "I03: {gauges:?}");
                let kernel = usize::from(gauges.in_flight + gauges.syncing);
                assert_eq!(kernel, thread.disk.flights_of(guest.hctx), "I03: with the kernel");
                data += usize::from(gauges.in_flight);
                let waiting = gauges.throttled + gauges.plugged + gauges.staged + gauges.leftover;
                let requests = waiting + gauges.in_flight;
                let live = thread.domain.stats(guest.hctx).in_progress();
                let flushed = if self.config.fua { gauges.flush_wait + gauges.syncing } else { 0 };
                let all = u32::from(requests)..=u32::from(requests + flushed);
                assert!(all.contains(&live), "I30: {live} in progress, {gauges:?}");
            }
        }
        let limit = self.config.hw_depth as usize;
        assert!(limit == 0 || data <= limit, "I04: {data} in flight, {limit} allowed");
    }

    /// Whether the guest has every head back.
    pub(crate) fn is_idle(&self) -> bool {
        let idle = |t: &Thread| t.guests.iter().all(|g| t.domain.is_idle(g.hctx));
        self.threads.iter().all(idle)
    }

    /// Runs until every guest has all its heads back, doing only what the core asks for.
    pub(crate) fn drain(&mut self) {
        for _ in 0..1_000_000 {
            for t in 0..self.threads.len() {
                for g in 0..self.threads[t].guests.len() {
                    self.publish(t, g);
                }
            }
            self.check();
            if self.is_idle() {
                return;
            }
            if !self.drain_step() {
                let taken = |t: &Thread| t.guests.iter().any(|g| !g.taken.is_empty());
                let unpublished = self.threads.iter().any(taken);
                assert!(unpublished, "I10: work is left and nobody will ever do it");
            }
        }
        panic!("the world does not come to rest");
    }

    /// One thing that happens by itself, chosen at random; `false` when nothing would.
    pub(crate) fn drain_step(&mut self) -> bool {
        let mut choices: Vec<(u8, usize, usize)> = Vec::new();
        for (t, thread) in self.threads.iter().enumerate() {
            if thread.domain.wants_run(self.nanos()) {
                choices.push((0, t, 0));
            }
            let first = (0..thread.disk.flights.len()).min_by_key(|i| thread.disk.flights[*i].due);
            choices.extend(first.map(|i| (1, t, i)));
        }
        if !self.bells.is_empty() {
            choices.push((2, 0, 0));
        }
        if choices.is_empty() {
            // A scheduler may hold something back until a time that it has told.
            let wake = self.threads.iter().filter_map(|t| t.domain.next_wake()).min();
            let Some(wake) = wake.filter(|wake| wake.0 > self.now) else { return false };
            self.now = wake.0;
            return true;
        }
        match choices[self.rng.index(choices.len())] {
            (0, t, _) => self.run(t),
            (1, t, i) => {
                self.time(self.now.max(self.threads[t].disk.flights[i].due));
                self.advance();
                self.complete(t, i);
            }
            _ => self.ring_one(),
        }
        true
    }

    /// `steps` random steps, then everything runs dry.
    pub(crate) fn play(config: Config, steps: u32) -> World {
        let guard = SeedGuard(config);
        let mut world = World::new(config);
        for _ in 0..steps {
            world.step();
        }
        world.drain();
        world.check_stats();
        std::mem::forget(guard);
        world
    }

    /// The counters against what the guests saw (I30).
    pub(crate) fn check_stats(&self) {
        for thread in &self.threads {
            for guest in &thread.guests {
                let s = thread.domain.stats(guest.hctx);
                assert_eq!(s.in_progress(), 0, "I30: nothing in progress at rest");
                let ops = [s.reads, s.writes, s.discards];
                let bios: u64 = ops.iter().map(|o| o.ios + o.merges).sum(); // M10
                assert_eq!(bios, guest.data, "I30: every data bio is counted");
                assert_eq!(s.flush_bios, guest.submitted - guest.data, "I30: flushes");
                assert_eq!(s.rejected, guest.rejected, "I30: rejected heads");
                assert_eq!(s.failed, guest.errors, "I30: errors");
                let sectors: u64 = ops.iter().map(|o| o.sectors).sum();
                assert_eq!(sectors, guest.sectors, "I30: sectors are what the disk moved");
                let ticks = s.io_ticks(Nanos(self.now));
                assert_eq!(ticks, guest.busy, "I30: busy time, to the nanosecond");
                assert!(ticks <= self.now, "I30: busy time is part of the time");
                assert!(s.time_in_queue() >= ticks, "I30: time in queue counts each request");
                let finished: u64 = ops.iter().map(|o| o.bios).sum();
                assert_eq!(finished, guest.data, "I30: every data bio ended");
                Self::check_histograms(thread.domain.queue_stats(guest.hctx), &s);
            }
        }
    }

    /// The histograms against the counters (I30).
    fn check_histograms(queue: &QueueStats, s: &Stats) {
        let ops = [(Kind::Read, s.reads), (Kind::Write, s.writes), (Kind::Discard, s.discards)];
        for (kind, of) in ops {
            let spans = [Span::QueueToComplete, Span::QueueToIssue, Span::IssueToComplete];
            let [whole, wait, service] = spans.map(|span| queue.latency(kind, span));
            assert_eq!([&whole, &wait, &service].map(Distribution::count), [of.bios; 3], "I30");
            assert_eq!(whole.sum(), wait.sum() + service.sum(), "I30: the parts are the whole");
            assert!(whole.sum() >= of.nanos, "I30: bios wait as long as their requests");
        }
        let flushes = [Span::QueueToComplete, Span::IssueToComplete]
            .map(|span| queue.latency(Kind::Flush, span).count());
        assert_eq!(flushes, [s.flush_bios, s.flushes], "I30: flushes waited for, syncs timed");
        let sizes = queue.batches(Batch::Request);
        let ios = s.reads.ios + s.writes.ios + s.discards.ios;
        assert_eq!(sizes.count(), ios, "I30: each request has a size");
    }

    /// Sums a number over all guests.
    pub(crate) fn total(&self, of: impl Fn(&Guest) -> u64) -> u64 {
        self.threads.iter().flat_map(|t| &t.guests).map(of).sum()
    }
}
