//! The simulated world: guests, their disk's model, the threads under test, and a clock.
//!
//! Queue `i` belongs to thread `i mod n`, as in the daemon. The threads share the disk and its flush
//! gate; the seed says who runs when. A thread that said it may sleep runs again only when something
//! woke it: a kick, a completion of its own, or its bell, which is the mailbox's real eventfd and is
//! answered some time after it was rung. So a wake-up that nobody gives shows as a guest that waits
//! for ever.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::shape::{Sent, Shape, Tally};
use crate::blkmq::{FlushGate, FlushPolicy};
use crate::block::{Nanos, QueueId};
use crate::device::config_space::ConfigSpace;
use crate::device::inflight::{self, Region};
use crate::device::mailbox::{DiskId, Mailbox, QueueStart, QueueStopped, mailbox};
use crate::device::queue_thread::QueueThread;
use crate::device::tuning::{DiskTuning, PoolTuning};
use crate::device::{Disk, MAX_QUEUES};
use crate::image::Image;
use crate::sys::eventfd;
use crate::sys::uring::Ring;
use crate::testkit::TestMemory;
use crate::testkit::blk::{BlkDriver, Done, Framing, Request};
use crate::testkit::disk::SimDisk;
use crate::testkit::driver::{Driver, Layout};
use crate::testkit::model::{DiskModel, fill};
use crate::testkit::rng::Rng;

/// Sectors of the simulated disk: few, so that everything overlaps with everything.
pub(super) const SECTORS: usize = 96;
const QUEUE_SIZE: u16 = 32;
const ID: DiskId = DiskId(0);

pub(super) enum Running {
    Yes,
    Stopping(Receiver<Option<Box<QueueStopped>>>),
    No { next_avail: u16, next_used: u16 },
}

pub(super) struct Guest {
    pub(super) queue: QueueId,
    pub(super) driver: BlkDriver,
    err: EventFd,
    sent: HashMap<u16, Sent>,
    pub(super) running: Running,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) sim: SimDisk,
    pub(super) disk: Arc<Disk>,
    pub(super) threads: Vec<QueueThread>,
    pub(super) tally: Tally,
    pub(super) shape: Shape,
    pub(super) mailboxes: Vec<Mailbox>,
    /// Per thread: it said that it may sleep, and nothing has woken it since.
    pub(super) asleep: Vec<bool>,
    memory: Arc<TestMemory>,
    pub(super) guests: Vec<Guest>,
    model: DiskModel,
    /// Per sector: -1 a write is in flight, n > 0 reads are.
    busy: Vec<i32>,
    /// The end of the newest range, and whether it was written.
    newest: (usize, bool),
    value: u64,
    pub(super) epoch: u64,
    now: Nanos,
    pub(super) seed: u64,
    /// What the front-end keeps for the next process.
    pub(super) record: Option<Region>,
}

/// What one process has, all of which dies with it.
pub(super) struct Process {
    pub(super) disk: Arc<Disk>,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) threads: Vec<QueueThread>,
}

impl Process {
    pub(super) fn start(sim: &SimDisk, seed: u64, threads: u16) -> Process {
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
            (0..threads).map(|_| mailbox().expect("an eventfd")).unzip();
        // Whether flushes may be answered without a sync is the disk's choice (G5).
        let policy = FlushPolicy { exclusive: !seed.is_multiple_of(4), noop: false };
        let pool = Arc::new(PoolTuning::new(threads));
        // Few requests in flight, or any number: a credit that is lost stops everything (I04, I10).
        pool.set_hw_depth([0, 0, 1, 3, 8][usize::try_from(seed % 5).expect("small")]);
        let credits = Arc::clone(pool.credits());
        let disk = Arc::new(disk_on(sim, &mailboxes, policy, pool));
        let threads = (0..threads)
            .zip(inboxes)
            .map(|(index, inbox)| {
                let ring = Ring::new(8).expect("io_uring works on the test machine");
                QueueThread::new(index, ring, inbox, Arc::clone(&credits))
                    .expect("the mailbox can be watched")
            })
            .collect();
        Process { disk, mailboxes, threads }
    }
}

impl World {
    pub(super) fn new(seed: u64, shape: Shape) -> World {
        let mut rng = Rng::new(seed);
        let sim = SimDisk::new(SECTORS as u64, shape.depth, rng.word());
        sim.set_rates(shape.rates);
        sim.set_dsync(shape.dsync);
        if let Some((start, end)) = shape.bad {
            sim.set_bad(start as u64..end as u64);
        }
        let Process { disk, mailboxes, threads } = Process::start(&sim, seed, shape.threads);
        let record = shape.inflight.then(|| {
            let queues = shape.queues;
            let (file, len) = inflight::create(queues, QUEUE_SIZE).expect("memory");
            let region = Region::attach(file, (0, len), queues, QUEUE_SIZE);
            region.expect("one of ours")
        });
        let memory = Arc::new(TestMemory::new(8 << 20));
        let mut world = World {
            sim,
            disk,
            asleep: vec![true; threads.len()],
            threads,
            tally: Tally::default(),
            shape,
            mailboxes,
            memory,
            guests: Vec::new(),
            model: DiskModel::new(SECTORS),
            busy: vec![0; SECTORS],
            newest: (0, false),
            value: 0,
            epoch: 0,
            now: Nanos(1),
            rng,
            seed,
            record,
        };
        for queue in 0..shape.queues {
            let event_idx = world.rng.chance(1, 2);
            let start = u16::try_from(world.rng.below(1 << 16)).expect("16 bits");
            let driver = Driver::new_at(&world.memory, QUEUE_SIZE, event_idx, true, start);
            let driver = BlkDriver::new(driver);
            let running = Running::No { next_avail: start, next_used: start };
            world.guests.push(Guest {
                queue: QueueId(queue),
                driver,
                err: EventFd::new(EFD_NONBLOCK).expect("an eventfd"),
                sent: HashMap::new(),
                running,
            });
            world.start(usize::from(queue));
        }
        world
    }

    pub(super) fn start(&mut self, g: usize) {
        let Running::No { next_avail, next_used } = self.guests[g].running else { return };
        let mut ring = self.guests[g].driver.driver().setup();
        ring.next_avail = next_avail;
        ring.next_used = next_used;
        let features = [
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_CONFIG_WCE,
            VIRTIO_BLK_F_DISCARD,
            VIRTIO_BLK_F_WRITE_ZEROES,
        ];
        let start = QueueStart {
            queue: self.guests[g].queue,
            ring,
            memory: Arc::clone(self.memory.memory()),
            kick: None,
            call: None,
            err: Some(self.guests[g].err.try_clone().expect("a descriptor")),
            features: features.iter().fold(0, |bits, f| bits | 1 << f),
            disk: Arc::clone(&self.disk),
            inflight: self.record.as_ref().and_then(|all| all.part(self.guests[g].queue)),
        };
        let t = self.thread_of(g);
        self.threads[t].start(start).expect("the queue was stopped");
        self.asleep[t] = false;
        self.guests[g].running = Running::Yes;
    }

    fn thread_of(&self, g: usize) -> usize {
        g % self.threads.len()
    }

    /// Bios that travelled with others.
    pub(super) fn merges(&self) -> u64 {
        let of = |t: &QueueThread| -> u64 {
            let stats = t.queues.iter().flatten().map(|q| t.lanes.domain.stats(q.hctx));
            stats.map(|s| s.reads.merges + s.writes.merges + s.discards.merges).sum()
        };
        self.threads.iter().map(of).sum()
    }

    /// Requests of several bios that failed and were taken apart.
    pub(super) fn splits(&self) -> u64 {
        let of = |t: &QueueThread| -> u64 {
            let queues = t.queues.iter().flatten();
            queues.map(|q| t.lanes.domain.stats(q.hctx).splits).sum()
        };
        self.threads.iter().map(of).sum()
    }

    /// How often the err eventfd of guest `g` was written.
    pub(super) fn errors(&self, g: usize) -> u64 {
        self.guests[g].err.read().unwrap_or(0)
    }

    /// Stops the queue of guest `g` and returns what control gets back.
    pub(super) fn stop_now(&mut self, g: usize) -> QueueStopped {
        let mailbox = &self.mailboxes[self.thread_of(g)];
        let answer = mailbox.stop_later(ID, self.guests[g].queue).expect("it lives");
        self.iterate();
        let stopped = answer.try_recv().expect("nothing is in flight").expect("it ran");
        self.guests[g].running =
            Running::No { next_avail: stopped.next_avail, next_used: stopped.next_used };
        *stopped
    }

    fn stop(&mut self, g: usize) {
        if matches!(self.guests[g].running, Running::Yes) {
            let mailbox = &self.mailboxes[self.thread_of(g)];
            let answer = mailbox.stop_later(ID, self.guests[g].queue).expect("it lives");
            self.guests[g].running = Running::Stopping(answer);
        }
    }

    /// Asks every thread to end.
    pub(super) fn ask_to_end(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.exit().expect("it lives");
        }
    }

    /// Time passes, and the disk works.
    pub(super) fn pass(&mut self, nanos: u64) {
        self.now = Nanos(self.now.0 + nanos);
        self.sim.advance(self.now);
    }

    fn collect_stopped(&mut self) {
        for guest in &mut self.guests {
            let Running::Stopping(answer) = &guest.running else { continue };
            match answer.try_recv() {
                Ok(stopped) => {
                    let stopped = stopped.expect("it ran");
                    // Drained: all that was fetched has been answered.
                    assert_eq!(stopped.next_avail, stopped.next_used);
                    assert!(!stopped.broken);
                    let record = self.record.as_ref();
                    assert_eq!(record.map_or(0, |all| all.marked(guest.queue)), 0, "I33");
                    self.tally.stops += 1;
                    let QueueStopped { next_avail, next_used, .. } = *stopped;
                    guest.running = Running::No { next_avail, next_used };
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => panic!("the thread dropped a reply"),
            }
        }
    }

    /// A range that no conflicting request works on; `None` when there is none at hand.
    fn free_range(&mut self, writing: bool) -> Option<(usize, usize)> {
        let len = 1 + usize::try_from(self.rng.below(6)).expect("small");
        let follows = self.newest.0 + len <= SECTORS && self.rng.chance(self.shape.sequential, 100);
        let start = if follows {
            self.newest.0
        } else {
            usize::try_from(self.rng.below((SECTORS - len) as u64)).expect("small")
        };
        self.newest = (start + len, writing);
        let ok = |b: &i32| if writing { *b == 0 } else { *b >= 0 };
        self.busy[start..start + len].iter().all(ok).then_some((start, len))
    }

    fn mark(&mut self, start: usize, len: usize, by: i32) {
        for b in &mut self.busy[start..start + len] {
            *b += by;
        }
    }

    fn make_request(&mut self) -> Option<(Request, Sent)> {
        let through = (!self.disk.writeback.load(Ordering::Relaxed)).then_some(self.epoch);
        let kind = self.rng.below(20);
        // A stream goes on in its own direction.
        let goes_on = kind > 6 && self.rng.chance(self.shape.sequential, 100);
        Some(match if goes_on { 7 + 12 * u64::from(self.newest.1) } else { kind } {
            0 | 1 => (Request::flush(), Sent::Flush(self.model.flush_submitted())),
            2 => (Request::get_id(20), Sent::GetId),
            3 => (Request::new(0x77, 0), Sent::Malformed),
            4 => (Request::read(SECTORS as u64, 512), Sent::Malformed),
            5 | 6 => {
                let (start, len) = self.free_range(true)?;
                self.mark(start, len, -1);
                self.model.write_submitted(start, len, 0);
                let segments = split_segments(&mut self.rng, start, len);
                let request = if self.rng.chance(1, 2) {
                    Request::discard(&segments)
                } else {
                    Request::write_zeroes(&segments)
                };
                (request, Sent::Write { start, len, value: 0, through })
            }
            7..=12 => {
                let (start, len) = self.free_range(false)?;
                self.mark(start, len, 1);
                let bytes = u32::try_from(len * 512).expect("small");
                (Request::read(start as u64, bytes), Sent::Read { start, len })
            }
            _ => {
                let (start, len) = self.free_range(true)?;
                self.mark(start, len, -1);
                self.value += 1;
                self.model.write_submitted(start, len, self.value);
                let mut data = vec![0; len * 512];
                fill(&mut data, self.value);
                let sent = Sent::Write { start, len, value: self.value, through };
                (Request::write(start as u64, &data), sent)
            }
        })
    }

    /// Guest `g` adds one random request, if it has room. It becomes visible with `kick`.
    pub(super) fn add(&mut self, g: usize) {
        // A request takes at most 8 descriptors, or one through a table.
        if self.guests[g].driver.driver().free() < 12 {
            return;
        }
        let Some((request, sent)) = self.make_request() else { return };
        let layout = [Layout::Direct, Layout::Indirect][usize::from(self.rng.chance(1, 2))];
        let framing = match self.rng.below(3) {
            0 => Framing { layout, ..Framing::plain(&request) },
            1 => Framing::pieces(&request, 700, layout),
            _ => Framing::pieces(&request, 512, layout),
        };
        let head = self.guests[g].driver.add_framed(&request, &framing).expect("room was checked");
        let before = self.guests[g].sent.insert(head, sent);
        assert!(before.is_none(), "the driver reuses a head only after it came back");
    }

    /// Guest `g` adds a read of these sectors, which are to be `refused` if they are beyond the end.
    pub(super) fn add_read(&mut self, g: usize, start: usize, len: usize, refused: bool) {
        let bytes = u32::try_from(len * 512).expect("small");
        let request = Request::read(start as u64, bytes);
        let guest = &mut self.guests[g].driver;
        let head = guest.add_framed(&request, &Framing::plain(&request)).expect("room");
        let sent = if refused { Sent::Malformed } else { Sent::Read { start, len } };
        if !refused {
            self.mark(start, len, 1);
        }
        assert!(self.guests[g].sent.insert(head, sent).is_none(), "a head that was free");
    }

    /// Guest `g` adds a discard of these two sectors, in two segments.
    pub(super) fn add_split_discard(&mut self, g: usize, start: usize) {
        self.mark(start, 2, -1);
        self.model.write_submitted(start, 2, 0);
        let at = start as u64;
        let request = Request::discard(&[(at, 1, 0), (at + 1, 1, 0)]);
        let sent = Sent::Write { start, len: 2, value: 0, through: None };
        let driver = &mut self.guests[g].driver;
        let head = driver.add_framed(&request, &Framing::indirect(&request)).expect("room");
        assert!(self.guests[g].sent.insert(head, sent).is_none(), "a free head");
    }

    /// Guest `g` makes its requests visible, and kicks if the device wants to be kicked.
    pub(super) fn kick(&mut self, g: usize) {
        if self.guests[g].driver.publish() {
            let (queue, t) = (self.guests[g].queue, self.thread_of(g));
            let thread = &mut self.threads[t];
            let slot = thread.queues.iter().position(|q| q.as_ref().is_some_and(|q| q.id == queue));
            if let Some(slot) = slot {
                let generation = thread.queues[slot].as_ref().expect("found").generation;
                thread.on_kick(u16::try_from(slot).expect("few"), generation, true);
                self.asleep[t] = false;
            }
        }
    }

    /// Thread `t` runs once, if anything wakes it. Whether it did.
    pub(super) fn wake(&mut self, t: usize) -> bool {
        let thread = &mut self.threads[t];
        let rung = eventfd::drain(thread.inbox.as_fd()).is_some();
        if rung {
            thread.on_mailbox(true, self.now);
        }
        let woken = rung || !self.asleep[t] || self.sim.has_ready(t);
        if woken {
            self.asleep[t] = thread.iterate(self.now) && !thread.rearm();
        }
        woken
    }

    /// Each thread runs once, if anything wakes it; then the guests look at what came back. `true`
    /// when all may sleep.
    pub(super) fn iterate(&mut self) -> bool {
        for t in 0..self.threads.len() {
            self.wake(t);
        }
        self.look();
        self.asleep.iter().all(|asleep| *asleep)
    }

    /// The guests, and control, look at what came back.
    pub(super) fn look(&mut self) {
        self.collect_stopped();
        for g in 0..self.guests.len() {
            while let Some(done) = self.guests[g].driver.poll() {
                self.check(g, &done);
            }
        }
    }

    fn check(&mut self, g: usize, done: &Done) {
        let sent = self.guests[g].sent.remove(&done.head).expect("each head comes back once (I01)");
        self.tally.completed += 1;
        self.tally.failed += u64::from(done.status != 0);
        if let (Some((from, to)), Sent::Read { start, len } | Sent::Write { start, len, .. }) =
            (self.shape.bad, &sent)
        {
            let bad = *start < to && from < start + len;
            assert_eq!(done.status != 0, bad, "L12: the bad range fails, and only that: {sent:?}");
        }
        match sent {
            Sent::Read { start, len } => {
                self.mark(start, len, -1);
                if done.status == 0 {
                    assert_eq!(done.used_len as usize, len * 512 + 1);
                    self.model.check_read(start, &done.data).expect("reads see what was written");
                }
            }
            Sent::Write { start, len, value, through } => {
                self.mark(start, len, 1);
                if done.status == 0 {
                    let through = through == Some(self.epoch);
                    self.model.write_acknowledged(start, len, value, through);
                }
            }
            Sent::Flush(point) => {
                if done.status == 0 {
                    self.model.flush_acknowledged(&point);
                } else {
                    self.tally.failed_flushes += 1;
                }
            }
            Sent::GetId => assert_eq!((done.status, &done.data[..4]), (0, &b"test"[..])),
            Sent::Malformed => {
                assert_ne!(done.status, 0, "nonsense is refused (I37)");
                self.tally.failed -= 1;
            }
        }
    }

    fn toggle_writeback(&mut self) {
        let was = self.disk.writeback.fetch_xor(true, Ordering::Relaxed);
        self.epoch += 1;
        if was {
            self.sim.sync().expect("the simulated sync works");
        }
    }

    /// One random event.
    pub(super) fn step(&mut self) {
        let g = usize::try_from(self.rng.below(self.guests.len() as u64)).expect("few");
        match self.rng.below(100) {
            0..=39 => self.add(g),
            40..=59 => self.kick(g),
            60..=79 => {
                let t = usize::try_from(self.rng.below(self.threads.len() as u64)).expect("few");
                self.wake(t);
                // Threads may be ahead of what the guests have seen.
                if self.rng.chance(2, 3) {
                    self.look();
                }
            }
            80..=95 => {
                let nanos = self.rng.below(8_000);
                self.pass(nanos);
            }
            96..=97 if self.shape.stops => self.stop(g),
            98 if self.shape.stops => self.start(g),
            99 if self.shape.toggles => self.toggle_writeback(),
            _ => {}
        }
    }

    /// What a power cut at this moment would leave must be what the guests may count on (I23,
    /// I26), and never are two syncs in flight (I24).
    pub(super) fn check_durability(&self) {
        self.model.check_after_power_cut(&self.sim.after_power_cut()).expect("durable stays");
        assert!(self.sim.syncs().1 <= 1, "one sync in flight at a time (I24)");
    }

    /// Starts everything, lets everything finish, without a kick that the device did not ask for.
    pub(super) fn settle(&mut self) {
        for g in 0..self.guests.len() {
            self.kick(g);
        }
        for _ in 0..100_000 {
            for g in 0..self.guests.len() {
                self.start(g);
            }
            if (0..self.threads.len()).any(|t| self.wake(t)) {
                continue;
            }
            self.look();
            match self.sim.next_due() {
                Some(due) => {
                    self.now = self.now.max(due);
                    self.sim.advance(self.now);
                }
                None if self.guests.iter().all(|g| matches!(g.running, Running::Yes)) => break,
                None => {}
            }
        }
        for guest in &self.guests {
            assert!(guest.sent.is_empty(), "never came back (I01, I10): {:?}", guest.sent);
        }
        for thread in &self.threads {
            for queue in thread.queues.iter().flatten() {
                assert!(thread.lanes.domain.is_idle(queue.hctx), "I27");
            }
        }
        self.model.check_read(0, &self.sim.content()).expect("the image holds what was written");
    }
}

fn split_segments(rng: &mut Rng, start: usize, len: usize) -> Vec<(u64, u32, u32)> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < len {
        let n = 1 + usize::try_from(rng.below((len - at) as u64)).expect("small");
        segments.push(((start + at) as u64, u32::try_from(n).expect("small"), 0));
        at += n;
    }
    segments
}

pub(in crate::device::queue_thread) fn disk_on(
    sim: &SimDisk,
    mailboxes: &[Mailbox],
    policy: FlushPolicy,
    pool: Arc<PoolTuning>,
) -> Disk {
    let mut serial = [0; 20];
    serial[..4].copy_from_slice(b"test");
    Disk {
        name: "a-disk".to_owned(),
        id: ID,
        config: ConfigSpace::new(&sim.geometry(), &sim.traits(), MAX_QUEUES),
        image: Arc::new(sim.clone()),
        serial,
        writeback: AtomicBool::new(true),
        flush: Arc::new(FlushGate::new(u16::try_from(mailboxes.len()).expect("few"), policy)),
        bells: mailboxes.iter().map(Mailbox::bell).collect(),
        unmap: true,
        on_error: Default::default(),
        limits: Arc::default(),
        stats: crate::blkmq::stats::DiskStats::new(64),
        tuning: DiskTuning::default(),
        pool,
    }
}
