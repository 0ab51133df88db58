//! The fake queue thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::blkmq::sched::{NoScheduler, Scheduler};
use crate::block::QueueId;
use crate::device::inflight::Part;
use crate::device::mailbox::{Command, DiskId, Inbox, Mailbox, QueueStart, QueueStopped, mailbox};

/// What a queue thread was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum Told {
    Start { queue: u16, size: u16, avail: u16, used: u16 },
    Stop(u16),
    Call(u16, bool),
    Err(u16, bool),
    Scheduler(&'static str),
    Tune(String, Option<String>),
    Retune,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u16, Box<QueueStart>>,
    told: Vec<Told>,
    /// Stops are taken and not answered until [`FakeThread::release`].
    hold: bool,
    held: Vec<(u16, SyncSender<Option<Box<QueueStopped>>>)>,
    refuse: Option<&'static str>,
    broken: bool,
    scheduler: Option<Box<dyn Scheduler>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(in crate::control) struct FakeThread {
    pub(in crate::control) mailbox: Mailbox,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FakeThread {
    pub(in crate::control) fn new() -> FakeThread {
        let (mailbox, inbox) = mailbox().expect("an eventfd");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(inbox, &theirs));
        FakeThread { mailbox, shared, thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nobody panicked")
    }

    /// What the thread was told since the last time it was asked, once it has seen all of it.
    pub(in crate::control) fn told(&self) -> Vec<Told> {
        let _ = self.mailbox.stop(DiskId(u32::MAX), NO_QUEUE);
        std::mem::take(&mut self.state().told)
    }

    pub(in crate::control) fn running(&self) -> Vec<u16> {
        self.state().running.keys().copied().collect()
    }

    /// A look at a ring that the thread has.
    pub(in crate::control) fn with<T>(&self, queue: u16, look: impl FnOnce(&QueueStart) -> T) -> T {
        look(self.state().running.get(&queue).expect("the queue runs"))
    }

    /// The part of the in-flight region that came with a queue.
    pub(in crate::control) fn take_inflight(&self, queue: u16) -> Option<Part> {
        self.state().running.get_mut(&queue).expect("the queue runs").inflight.take()
    }

    /// Serves `n` requests of a queue.
    pub(in crate::control) fn complete(&self, queue: u16, n: u16) {
        let mut state = self.state();
        let ring = &mut state.running.get_mut(&queue).expect("the queue runs").ring;
        ring.next_avail = ring.next_avail.wrapping_add(n);
        ring.next_used = ring.next_used.wrapping_add(n);
        ring.used.skip(2).copy_from(&ring.next_used.to_le_bytes());
    }

    /// From now on stops wait for [`FakeThread::release`], as if requests were in flight.
    pub(in crate::control) fn hold(&self) {
        self.state().hold = true;
    }

    /// Waits until `n` stops are held.
    pub(in crate::control) fn await_held(&self, n: usize) {
        let state = self.state();
        let late = Duration::from_secs(20);
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, late, |s| s.held.len() < n)
            .expect("nobody panicked");
        assert!(!timeout.timed_out(), "{} of {n} stops arrived", state.held.len());
    }

    pub(in crate::control) fn release(&self) {
        let held = {
            let mut state = self.state();
            state.hold = false;
            std::mem::take(&mut state.held)
        };
        for (queue, reply) in held {
            let back = give_back(&mut self.state(), queue);
            reply.send(back).expect("control waits");
        }
    }

    /// The reason for which every start is refused from now on.
    pub(in crate::control) fn refuse(&self, why: Option<&'static str>) {
        self.state().refuse = why;
    }

    /// Rings come back broken from now on.
    pub(in crate::control) fn breaks(&self, broken: bool) {
        self.state().broken = broken;
    }

    /// Ends the thread while it has rings.
    pub(in crate::control) fn die(&mut self) {
        self.mailbox.exit().expect("it lives");
        self.thread.take().expect("once").join().expect("no panic");
    }
}

impl Drop for FakeThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.mailbox.exit();
            let _ = thread.join();
        }
    }
}

fn give_back(state: &mut State, queue: u16) -> Option<Box<QueueStopped>> {
    state.told.push(Told::Stop(queue));
    let broken = state.broken;
    state.running.remove(&queue).map(|start| {
        Box::new(QueueStopped {
            next_avail: start.ring.next_avail,
            next_used: start.ring.next_used,
            broken,
            kick: start.kick,
            call: start.call,
            err: start.err,
        })
    })
}

fn serve(mut inbox: Inbox, shared: &Shared) {
    let bell = inbox.as_fd().try_clone_to_owned().expect("a duplicate");
    let poll = epoll::create(true).expect("an epoll");
    let event = epoll::Event::new(epoll::Events::EPOLLIN, 0);
    epoll::ctl(poll, epoll::ControlOptions::EPOLL_CTL_ADD, bell.as_raw_fd(), event)
        .expect("an eventfd polls");
    let mut bell = File::from(bell);
    'waiting: loop {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0)];
        let _ = epoll::wait(poll, -1, &mut events);
        let _ = bell.read(&mut [0; 8]);
        while let Some(command) = inbox.take() {
            if matches!(command, Command::Exit) {
                break 'waiting;
            }
            obey(&mut shared.state.lock().expect("nobody panicked"), command);
            shared.changed.notify_all();
        }
    }
    epoll::close(poll).expect("open");
}

/// A queue that never is: asking for it only waits until the thread has come so far.
const NO_QUEUE: QueueId = QueueId(u16::MAX);

fn obey(state: &mut State, command: Command) {
    match command {
        Command::Start(start, reply) => {
            let queue = start.queue.0;
            let ring = &start.ring;
            // Both ends of every part are there: a wrong extent faults here.
            for part in [ring.desc, ring.avail, ring.used] {
                part.skip(part.len() - 1).copy_to(&mut [0]);
                part.copy_to(&mut [0]);
            }
            let (size, avail, used) = (ring.size, ring.next_avail, ring.next_used);
            let answer = match state.refuse {
                Some(why) => Err(why.to_string()),
                None if state.running.contains_key(&queue) => Err("it runs".to_string()),
                None => Ok(()),
            };
            if answer.is_ok() {
                state.told.push(Told::Start { queue, size, avail, used });
                state.running.insert(queue, start);
            }
            reply.send(answer).expect("control waits");
        }
        Command::Stop(_, NO_QUEUE, reply) => reply.send(None).expect("the test waits"),
        Command::Stop(_, queue, reply) if state.hold => state.held.push((queue.0, reply)),
        Command::Stop(_, queue, reply) => {
            let back = give_back(state, queue.0);
            reply.send(back).expect("control waits");
        }
        Command::SetCall(_, queue, call) => {
            state.told.push(Told::Call(queue.0, call.is_some()));
            state.running.get_mut(&queue.0).expect("it runs").call = call;
        }
        Command::SetErr(_, queue, err) => {
            state.told.push(Told::Err(queue.0, err.is_some()));
            state.running.get_mut(&queue.0).expect("it runs").err = err;
        }
        Command::SetScheduler(next, reply) => {
            state.told.push(Told::Scheduler(next.name()));
            let old = state.scheduler.replace(next);
            let old = old.unwrap_or_else(|| Box::new(NoScheduler::new()));
            reply.send(old).expect("control waits");
        }
        Command::Tune(name, value, reply) => {
            let scheduler = state.scheduler.get_or_insert_with(|| Box::new(NoScheduler::new()));
            reply.send(scheduler.tunable(&name, value.as_deref())).expect("control waits");
            state.told.push(Told::Tune(name, value));
        }
        Command::Retune => state.told.push(Told::Retune),
        Command::Inspect(_, reply) => reply.send(Vec::new()).expect("control waits"),
        Command::Exit => unreachable!("the caller ends"),
    }
}
