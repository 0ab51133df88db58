//! THE LOOP: the only place where ring, core and image meet.
//!
//! A queue thread owns some virtqueues (of one disk or several), one io_uring, one domain of the
//! core, and per disk a [`lane`]: a channel into the image. It sleeps in exactly one place,
//! its io_uring: kicks, the mailbox and image completions are all completions of that ring, so a
//! loaded iteration costs at most one `io_uring_enter`.
//!
//! One iteration:
//! 1. **reap** completions: I/O outcomes to the core, kicks mark their queue, the mailbox is read;
//! 2. **publish** what the core has finished: status, used entries, one index, one notification;
//! 3. **sweep** the queues that are marked: pop, parse, into the core, in turns of
//!    [`queue::SWEEP_BUDGET`];
//! 4. **run** the core: it issues requests, which become submission entries; what completes at
//!    once (null image, rejected bios) is published as in 2;
//! 5. with marked queues left: submit, start again. Otherwise **wait**: look at rings and completions
//!    for as long as the [`poller`] allows, then ask the guests to kick again, look once more
//!    (I12), submit and sleep ([`wait`]).
//!
//! Laws of the room:
//! * T1 One clock read per iteration; it is `now` for everything in it.
//! * T2 Whatever was written to the submission queue is submitted before the thread sleeps (I11).
//! * T3 Kick and mailbox eventfds are polled (multishot), never read: every write to an eventfd
//!   wakes its poll, the counter need not be drained, and the kick's file description, which is
//!   shared with the front-end and may be a blocking one, is never touched. Only when a queue goes
//!   back to control its counter is set to 0 (without blocking), so that the front-end does not
//!   find a kick that was served.
//!   A ring for which the front-end has no kick descriptor (bit 8 of SET_VRING_KICK) is looked at
//!   every 100 us (`wait`).
//! * T4 A queue goes back to control only when the core holds nothing of it (L6). The generation
//!   of guest memory that its buffers lie in is held by the ring until then (L3).

mod gather;
#[cfg(any(test, feature = "testkit"))]
pub mod hand;
mod lane;
mod poller;
mod queue;
#[cfg(test)]
mod tests;
mod wait;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use log::error;

use self::lane::Lanes;
use self::poller::Poller;
use self::queue::Queue;
use super::mailbox::{Command, DiskId, Inbox, QueueReport, QueueStart};
use super::virtqueue::Chain;
use crate::blkmq::credit::Credits;
use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{Domain, DomainConfig, Overdue};
use crate::block::{Nanos, QueueId};
use crate::sys::fd;
use crate::sys::token::Token;
use crate::sys::uring::{Full, Ring};
use crate::sys::{affinity, clock, eventfd, sandbox, sigbus};

/// Submission entries of a thread's ring. A turn rarely writes more than the queues' budgets;
/// what does not fit waits in the core for the next iteration.
const RING_ENTRIES: u32 = 512;

/// Virtqueues that one thread may have, of all its disks.
const MAX_HCTXS: u16 = 4096;

/// How old a request has to be to be reported, in nanoseconds: as Linux's request timeout.
const STUCK_AFTER: u64 = 30_000_000_000;

/// How a queue thread is to run.
#[derive(Clone, Debug)]
pub struct ThreadConfig {
    /// Number of the thread within its pool, from 0: its place in every flush gate.
    pub index: u16,
    /// What the threads of the pool share of the bound on requests in flight.
    pub credits: Arc<Credits>,
    /// CPUs the thread may run on; empty for any.
    pub cpus: Vec<usize>,
    /// Where to report requests that are stuck; nobody else is told, and the thread never logs them.
    pub reports: Option<SyncSender<Stuck>>,
}

/// A request that is on its way for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Name of its disk.
    pub disk: String,
    /// Its queue.
    pub queue: QueueId,
    /// All that is known of it.
    pub bio: Overdue,
}

/// Starts a queue thread; returns when its ring works.
///
/// # Errors
/// What the kernel answered to creating the thread, its io_uring, or to pinning it.
pub fn spawn(config: ThreadConfig, inbox: Inbox) -> io::Result<JoinHandle<()>> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let name = format!("blkmq-q{}", config.index);
    let handle = std::thread::Builder::new().name(name).spawn(move || {
        let anywhere = config.cpus.is_empty();
        let pinned = if anywhere { Ok(()) } else { affinity::pin_current_thread(&config.cpus) };
        let made = pinned
            .and_then(|()| Ring::new(RING_ENTRIES))
            .and_then(|ring| QueueThread::new(config.index, ring, inbox, config.credits))
            .and_then(|thread| sandbox::enter(sandbox::Thread::Queue).map(|()| thread));
        match made {
            Ok(mut thread) => {
                thread.reports = config.reports;
                // The spawner waits for this; it cannot have gone.
                let _ = ready.send(Ok(()));
                thread.run();
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
    })?;
    started.recv().map_err(io::Error::other)??;
    Ok(handle)
}

/// The state of one queue thread.
struct QueueThread {
    index: u16,
    ring: Ring,
    inbox: Inbox,
    lanes: Lanes,
    queues: Vec<Option<Box<Queue>>>,
    chain: Chain,
    generation: u16,
    exiting: bool,
    reports: Option<SyncSender<Stuck>>,
    poller: Poller,
    /// Pages that front-ends had taken away when it was last looked at.
    pages_lost: u32,
}

impl QueueThread {
    fn new(
        index: u16,
        mut ring: Ring,
        inbox: Inbox,
        credits: Arc<Credits>,
    ) -> io::Result<QueueThread> {
        watch(&mut ring, Token::Mailbox, inbox.as_fd())?;
        let domain = DomainConfig { max_hctxs: MAX_HCTXS, thread: index, credits };
        Ok(QueueThread {
            index,
            ring,
            inbox,
            lanes: Lanes::new(Domain::new(domain, Box::new(NoScheduler::new()))),
            queues: Vec::new(),
            chain: Chain::new(),
            generation: 0,
            exiting: false,
            reports: None,
            poller: Poller::new(),
            pages_lost: sigbus::lost(),
        })
    }

    /// Serves until control asks for the end and everything is finished.
    fn run(&mut self) {
        loop {
            let now = clock::now();
            let idle = self.iterate(now);
            if self.exiting && self.queues.iter().all(Option::is_none) {
                break;
            }
            // T2: whatever was written is submitted, whether we sleep or not.
            let entered = if idle { self.wait(now) } else { self.ring.submit() };
            if let Err(e) = entered {
                // io_uring_enter refuses only what we did wrong; going on would lose requests.
                error!("queue thread {}: io_uring_enter failed: {e}", self.index);
                std::process::abort();
            }
        }
        self.lanes.close(&mut self.ring);
    }

    /// Steps 1 to 5. `true` when nothing is left to do until something arrives.
    fn iterate(&mut self, now: Nanos) -> bool {
        if self.reap(now) {
            self.publish();
        }
        self.turn(now);
        self.watch(now);
        if sigbus::lost() != self.pages_lost {
            self.find_lost_memory();
        }
        self.give_back();
        !self.wants_turn(now)
    }

    /// Takes in every completion that is there. Whether there was more than kicks, so that the core may
    /// have finished something.
    fn reap(&mut self, now: Nanos) -> bool {
        let mut more = false;
        while let Some(cqe) = self.ring.pop() {
            more |= !matches!(cqe.token, Token::Kick { .. });
            match cqe.token {
                Token::Io(key) => {
                    self.lanes.on_io(&mut self.queues, key, cqe.res, now);
                }
                Token::Channel { lane, op } => {
                    let of = (lane, op);
                    self.lanes.on_channel(&mut self.queues, &mut self.ring, of, cqe.res, now);
                }
                Token::Kick { slot, generation } => self.on_kick(slot, generation, cqe.more),
                Token::Mailbox => self.on_mailbox(cqe.more, now),
                Token::Ignore => {}
            }
        }
        more
    }

    /// Sweeps, runs the core, publishes: once for every queue that has something.
    fn turn(&mut self, now: Nanos) {
        for queue in self.queues.iter_mut().flatten() {
            if queue.active {
                queue.sweep(&mut self.lanes.domain, &mut self.chain, now);
            }
        }
        self.lanes.run(&mut self.queues, &mut self.ring, now);
        while self.lanes.poll(&mut self.queues, now) && self.lanes.domain.wants_run(now) {
            self.lanes.run(&mut self.queues, &mut self.ring, now);
        }
        self.publish();
    }

    fn publish(&mut self) {
        for queue in self.queues.iter_mut().flatten() {
            queue.publish(&mut self.lanes.domain);
        }
        self.lanes.wake_others();
    }

    /// Queues whose memory was taken away are broken: nothing in it is the guest's any more.
    #[cold]
    fn find_lost_memory(&mut self) {
        self.pages_lost = sigbus::lost();
        for queue in self.queues.iter_mut().flatten() {
            queue.look_for_lost_memory();
        }
    }

    fn wants_turn(&self, now: Nanos) -> bool {
        self.queues.iter().flatten().any(|q| q.active) || self.lanes.domain.wants_run(now)
    }

    fn on_kick(&mut self, slot: u16, generation: u16, more: bool) {
        let Some(queue) = self.queues.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return;
        };
        if queue.generation != generation {
            return;
        }
        queue.active = true;
        if !more {
            arm_kick(&mut self.ring, slot, queue);
        }
    }

    fn on_mailbox(&mut self, more: bool, now: Nanos) {
        if !more {
            watch(&mut self.ring, Token::Mailbox, self.inbox.as_fd())
                .expect("the ring takes a poll after a submit");
        }
        self.lanes.domain.gate_changed(now);
        while let Some(command) = self.inbox.take() {
            match command {
                Command::Start(start, reply) => {
                    // The asker waits for the answer, unless its session died: then nobody cares.
                    let _ = reply.send(self.start(*start));
                }
                Command::Stop(disk, queue, reply) => match self.find(disk, queue) {
                    Some(q) if q.stopping.is_none() => {
                        q.stopping = Some(reply);
                        let hctx = q.hctx;
                        self.lanes.domain.release_parked(hctx, now);
                    }
                    _ => {
                        let _ = reply.send(None);
                    }
                },
                Command::SetCall(disk, queue, call) => {
                    if let Some(q) = self.find(disk, queue) {
                        q.set_call(call);
                    }
                }
                Command::SetErr(disk, queue, err) => {
                    if let Some(q) = self.find(disk, queue) {
                        q.err = err;
                    }
                }
                Command::SetScheduler(next, reply) => {
                    let old = self.lanes.domain.set_scheduler(next, now);
                    // The asker frees it; if it has died, this thread does.
                    let _ = reply.send(old);
                }
                Command::Tune(name, value, reply) => {
                    let scheduler = self.lanes.domain.scheduler_mut();
                    let _ = reply.send(scheduler.tunable(&name, value.as_deref()));
                }
                Command::Retune => {
                    self.lanes.retune();
                    self.poller.set_max(self.lanes.poll_max());
                }
                Command::Inspect(disk, reply) => {
                    let _ = reply.send(self.inspect(disk, now));
                }
                Command::Exit => {
                    self.exiting = true;
                    for queue in self.queues.iter_mut().flatten() {
                        queue.ending = true;
                        self.lanes.domain.release_parked(queue.hctx, now);
                    }
                    return;
                }
            }
        }
    }

    fn find(&mut self, disk: DiskId, queue: QueueId) -> Option<&mut Box<Queue>> {
        let lane = self.lanes.find(disk)?;
        self.queues.iter_mut().flatten().find(|q| q.lane == lane && q.id == queue)
    }

    fn start(&mut self, start: QueueStart) -> Result<(), String> {
        if self.exiting {
            return Err("the queue thread is ending".to_string());
        }
        if self.find(start.disk.id, start.queue).is_some() {
            return Err(format!("queue {} runs already", start.queue.0));
        }
        let lane = self.lanes.open(&start.disk, &mut self.ring);
        let lane = lane.map_err(|e| format!("the image cannot be used: {e}"))?;
        self.poller.set_max(self.lanes.poll_max());
        let size = start.ring.size;
        let stats = start.disk.stats.queue(start.queue.0);
        let stats = Arc::clone(stats.ok_or("the disk has no such queue")?);
        let hctx = self.lanes.domain.add_hctx_with(lane, size, stats);
        let hctx = hctx.ok_or("too many queues on one thread")?;
        self.generation = self.generation.wrapping_add(1);
        let registers = start.disk.image.registers_buffers();
        let queue = match Queue::new(start, lane, hctx, self.generation) {
            Ok(queue) => queue,
            Err(why) => {
                self.lanes.domain.remove_hctx(hctx);
                return Err(why);
            }
        };
        let slot = self.queues.iter().position(Option::is_none).unwrap_or(self.queues.len());
        let id = u16::try_from(slot).map_err(|_| "too many queues on one thread")?;
        self.lanes.bind(hctx, id);
        self.ring.hold(Arc::clone(queue.memory()));
        if registers {
            self.ring.register_memory(queue.memory());
        }
        arm_kick(&mut self.ring, id, &queue);
        if slot == self.queues.len() {
            self.queues.push(None);
        }
        self.queues[slot] = Some(Box::new(queue));
        Ok(())
    }

    /// What the queues of a disk have in progress.
    fn inspect(&mut self, disk: DiskId, now: Nanos) -> Vec<QueueReport> {
        let Some(lane) = self.lanes.find(disk) else { return Vec::new() };
        let domain = &self.lanes.domain;
        let report = |queue: &Queue| {
            let mut bios = Vec::new();
            domain.in_progress(queue.hctx, now, &mut |bio| bios.push(bio));
            QueueReport { queue: queue.id, gauges: domain.gauges(queue.hctx), bios }
        };
        let mine = self.queues.iter().flatten().filter(|queue| queue.lane == lane);
        mine.map(|queue| report(queue)).collect()
    }

    /// Reports what is on its way for too long, to whoever may log it. A report that finds no room is
    /// lost: there are plenty of its kind then.
    fn watch(&mut self, now: Nanos) {
        if self.lanes.domain.next_watch().is_none_or(|due| due > now) {
            return;
        }
        let QueueThread { lanes, queues, reports, .. } = self;
        lanes.domain.overdue(now, STUCK_AFTER, &mut |bio| {
            let queue = queues.iter().flatten().find(|queue| queue.hctx == bio.hctx);
            if let (Some(queue), Some(reports)) = (queue, &*reports) {
                let disk = queue.disk_name().to_owned();
                let _ = reports.try_send(Stuck { disk, queue: queue.id, bio });
            }
        });
    }

    /// Gives the queues back that were asked for and are drained (T4).
    fn give_back(&mut self) {
        for slot in 0..self.queues.len() {
            let Some(queue) = &self.queues[slot] else { continue };
            let domain = &mut self.lanes.domain;
            let wanted = queue.stopping.is_some() || self.exiting;
            if !wanted || queue.has_more() || !domain.is_idle(queue.hctx) {
                continue;
            }
            let mut queue = self.queues[slot].take().expect("looked at above");
            domain.remove_hctx(queue.hctx);
            let id = u16::try_from(slot).expect("start() made the slot from a u16");
            let poll = Token::Kick { slot: id, generation: queue.generation };
            forget(&mut self.ring, poll);
            if let Some(kick) = &queue.kick {
                eventfd::drain(fd::borrow(kick));
            }
            let reply = queue.stopping.take();
            let (stopped, memory) = queue.into_stopped();
            self.ring.forget_memory(&memory);
            self.ring.release(&memory);
            if let Some(reply) = reply {
                // The asker may have died with its session; then the queue ends here.
                let _ = reply.send(Some(Box::new(stopped)));
            }
        }
    }
}

/// Watches the guest's doorbell, if it has one (T3).
fn arm_kick(ring: &mut Ring, slot: u16, queue: &Queue) {
    if let Some(kick) = &queue.kick {
        let token = Token::Kick { slot, generation: queue.generation };
        watch(ring, token, fd::borrow(kick)).expect("the ring takes a poll after a submit");
    }
}

/// Watches a descriptor; makes room by submitting when the submission queue is full.
fn watch(ring: &mut Ring, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
    if ring.poll_multishot(token, fd).is_ok() {
        return Ok(());
    }
    ring.submit()?;
    ring.poll_multishot(token, fd).map_err(|Full| io::Error::other("the submission queue is full"))
}

/// Ends a watch; what it still reports is told apart by the token's generation.
fn forget(ring: &mut Ring, token: Token) {
    if ring.cancel(token).is_err() && ring.submit().is_ok() {
        // A watch that could not be cancelled only costs a completion that nobody wants.
        let _ = ring.cancel(token);
    }
}
