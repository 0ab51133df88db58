//! The closed list of commands from control to a queue thread, and the replies.
//!
//! Queues are handed over by value: a running virtqueue belongs to its thread (L1), and control
//! gets its position back only after the thread has drained it (L6). The mailbox is bounded (L7).
//!
//! Files and boxes that a command replaces travel back in the reply or are dropped by the thread
//! outside the path of an I/O.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::virtqueue::RingSetup;
use super::{Disk, inflight};
use crate::blkmq::sched::{BadTunable, Scheduler};
use crate::blkmq::{Gauges, Overdue};
use crate::block::QueueId;
use crate::sys::guest::GuestMemory;

/// How many commands may wait in one mailbox before a sender has to wait.
pub const MAILBOX_DEPTH: usize = 64;

/// Everything a queue thread needs to run a virtqueue.
#[derive(Debug)]
pub struct QueueStart {
    /// The queue's number within its device.
    pub queue: QueueId,
    /// Addresses, size and position of the ring.
    pub ring: RingSetup,
    /// The generation that the ring's addresses belong to.
    pub memory: Arc<GuestMemory>,
    /// The guest's doorbell; `None` when the front-end has none: the thread looks by itself.
    pub kick: Option<EventFd>,
    /// Where to announce used buffers; `None` for a guest that polls.
    pub call: Option<EventFd>,
    /// Where to announce that the ring is broken.
    pub err: Option<EventFd>,
    /// Virtio feature bits that the driver accepted.
    pub features: u64,
    /// The disk behind the queue.
    pub disk: Arc<Disk>,
    /// Where to record what is in flight, if the front-end keeps a record; it then also says from
    /// where to fetch.
    pub inflight: Option<inflight::Part>,
}

/// What comes back from a queue that was drained and stopped.
#[derive(Debug)]
pub struct QueueStopped {
    /// The index of the next available entry to be fetched: everything before it is completed.
    pub next_avail: u16,
    /// The used index, equal to the one in guest memory.
    pub next_used: u16,
    /// The guest broke the ring's rules; nothing was fetched after that.
    pub broken: bool,
    /// The descriptors, by value, for the next start.
    pub kick: Option<EventFd>,
    /// As given at start or by the last [`Command::SetCall`].
    pub call: Option<EventFd>,
    /// As given at start or by the last [`Command::SetErr`].
    pub err: Option<EventFd>,
}

/// What a queue has in progress.
#[derive(Clone, Debug)]
pub struct QueueReport {
    /// Which queue.
    pub queue: QueueId,
    /// How many bios are in each stage.
    pub gauges: Gauges,
    /// Every bio that the guest has no answer to.
    pub bios: Vec<Overdue>,
}

/// What control can ask of a queue thread.
pub enum Command {
    /// Run this queue from now on. Refused (with the reason) when it already runs.
    Start(Box<QueueStart>, SyncSender<Result<(), String>>),
    /// Stop fetching from the queue, finish what was fetched, publish it, give the queue back.
    /// `None` when the queue does not run.
    Stop(DiskId, QueueId, SyncSender<Option<Box<QueueStopped>>>),
    /// Announce used buffers here from now on (no drain).
    SetCall(DiskId, QueueId, Option<EventFd>),
    /// Announce errors here from now on (no drain).
    SetErr(DiskId, QueueId, Option<EventFd>),
    /// Use this scheduler from now on; the old one comes back.
    SetScheduler(Box<dyn Scheduler>, SyncSender<Box<dyn Scheduler>>),
    /// Set (or read, without a value) a tunable of the scheduler.
    Tune(String, Option<String>, SyncSender<Result<String, BadTunable>>),
    /// Look at what can be tuned: something has changed.
    Retune,
    /// Show what the queues of the disk have in progress.
    Inspect(DiskId, SyncSender<Vec<QueueReport>>),
    /// Finish everything, then end the thread.
    Exit,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Start(s, _) => write!(f, "Start({:?})", s.queue),
            Command::Stop(d, q, _) => write!(f, "Stop({d:?}, {q:?})"),
            Command::SetCall(d, q, _) => write!(f, "SetCall({d:?}, {q:?})"),
            Command::SetErr(d, q, _) => write!(f, "SetErr({d:?}, {q:?})"),
            Command::SetScheduler(s, _) => write!(f, "SetScheduler({})", s.name()),
            Command::Tune(name, value, _) => write!(f, "Tune({name}, {value:?})"),
            Command::Retune => write!(f, "Retune"),
            Command::Inspect(d, _) => write!(f, "Inspect({d:?})"),
            Command::Exit => write!(f, "Exit"),
        }
    }
}

/// Number of a disk within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskId(pub u32);

/// The queue thread is gone. It ends only at shutdown, or by a bug that aborts the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue thread has ended")]
pub struct ThreadGone;

/// The sending half, cloned freely among control threads.
#[derive(Clone)]
pub struct Mailbox {
    sender: SyncSender<Command>,
    bell: Bell,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox({})", self.bell.0.as_raw_fd())
    }
}

/// Wakes a queue thread without saying anything: a resource that it waits for became free.
#[derive(Clone, Debug)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// Wakes the thread.
    pub fn ring(&self) {
        // A full counter (EAGAIN) means that the thread is going to wake anyway.
        let _ = self.0.write(1);
    }
}

/// The receiving half, owned by the queue thread.
pub struct Inbox {
    receiver: Receiver<Command>,
    bell: Bell,
}

/// A mailbox and its receiving end.
///
/// # Errors
/// What eventfd(2) answered.
pub fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let bell = Bell(Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?));
    let (sender, receiver) = sync_channel(MAILBOX_DEPTH);
    Ok((Mailbox { sender, bell: bell.clone() }, Inbox { receiver, bell }))
}

impl Mailbox {
    fn post(&self, command: Command) -> Result<(), ThreadGone> {
        self.sender.send(command).map_err(|_| ThreadGone)?;
        self.bell.ring();
        Ok(())
    }

    fn ask<T>(&self, make: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, ThreadGone> {
        let (reply, answer) = sync_channel(1);
        self.post(make(reply))?;
        answer.recv().map_err(|_| ThreadGone)
    }

    /// What wakes the thread without a command.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Hands a queue over; returns when the thread has taken it.
    ///
    /// # Errors
    /// [`ThreadGone`], or the thread's reason for refusing (inner).
    pub fn start(&self, start: QueueStart) -> Result<Result<(), String>, ThreadGone> {
        self.ask(|reply| Command::Start(Box::new(start), reply))
    }

    /// Drains a queue and takes it back; returns when everything fetched has been published.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn stop(
        &self,
        disk: DiskId,
        queue: QueueId,
    ) -> Result<Option<Box<QueueStopped>>, ThreadGone> {
        self.ask(|reply| Command::Stop(disk, queue, reply))
    }

    /// Asks for a stop without waiting; the answer arrives on the returned receiver. Lets several
    /// queues drain at the same time.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn stop_later(
        &self,
        disk: DiskId,
        queue: QueueId,
    ) -> Result<Receiver<Option<Box<QueueStopped>>>, ThreadGone> {
        let (reply, answer) = sync_channel(1);
        self.post(Command::Stop(disk, queue, reply))?;
        Ok(answer)
    }

    /// Changes where used buffers are announced.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn set_call(
        &self,
        disk: DiskId,
        queue: QueueId,
        call: Option<EventFd>,
    ) -> Result<(), ThreadGone> {
        self.post(Command::SetCall(disk, queue, call))
    }

    /// Changes where a broken ring is announced.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn set_err(
        &self,
        disk: DiskId,
        queue: QueueId,
        err: Option<EventFd>,
    ) -> Result<(), ThreadGone> {
        self.post(Command::SetErr(disk, queue, err))
    }

    /// Replaces the scheduler and gives the old one back, which holds nothing then.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn set_scheduler(
        &self,
        scheduler: Box<dyn Scheduler>,
    ) -> Result<Box<dyn Scheduler>, ThreadGone> {
        self.ask(|reply| Command::SetScheduler(scheduler, reply))
    }

    /// Sets a tunable of the scheduler, or reads it when there is no value; answers with its value
    /// afterwards.
    ///
    /// # Errors
    /// [`ThreadGone`], or the scheduler's refusal (inner).
    pub fn tune(
        &self,
        name: &str,
        value: Option<&str>,
    ) -> Result<Result<String, BadTunable>, ThreadGone> {
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        self.ask(|reply| Command::Tune(name, value, reply))
    }

    /// Has the thread look at the tuning of its disks and of its pool.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn retune(&self) -> Result<(), ThreadGone> {
        self.post(Command::Retune)
    }

    /// What the queues of a disk that the thread has have in progress.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn inspect(&self, disk: DiskId) -> Result<Vec<QueueReport>, ThreadGone> {
        self.ask(|reply| Command::Inspect(disk, reply))
    }

    /// Asks the thread to finish everything and end. Join it to wait.
    ///
    /// # Errors
    /// [`ThreadGone`].
    pub fn exit(&self) -> Result<(), ThreadGone> {
        self.post(Command::Exit)
    }
}

impl Inbox {
    /// The next command, if one waits. Never blocks. Control gone counts as [`Command::Exit`].
    pub fn take(&mut self) -> Option<Command> {
        match self.receiver.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Exit),
        }
    }
}

impl AsFd for Inbox {
    /// The eventfd that fires when there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::sys::fd::borrow(&*self.bell.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reaches_the_one_who_asked() {
        let (mailbox, mut inbox) = mailbox().expect("an eventfd");
        let thread = std::thread::spawn(move || {
            loop {
                match inbox.take() {
                    Some(Command::Stop(DiskId(3), QueueId(7), reply)) => {
                        reply.send(None).expect("the asker waits");
                    }
                    Some(Command::Exit) => return,
                    Some(other) => panic!("nobody sent {other:?}"),
                    None => std::thread::yield_now(),
                }
            }
        });
        let answer = mailbox.stop(DiskId(3), QueueId(7)).expect("the thread lives");
        assert!(answer.is_none());
        mailbox.exit().expect("the thread lives");
        thread.join().expect("the thread ends");
        assert_eq!(mailbox.exit(), Err(ThreadGone));
    }
}
