//! The client: libblkio on the socket of a back-end, or with its io_uring driver on the bare file.
//!
//! Each queue has a thread of its own. A thread reads the clock once for each batch of completions
//! that it collects: that instant is when they ended, and when those began that take their places.
//! It collects what is there and sleeps only when there is nothing, as an interrupt-driven guest
//! does; or it never sleeps (`poll`).

use std::fs::OpenOptions;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use vhost_user_blkmq::block::Nanos;
use vhost_user_blkmq::sys::affinity::pin_current_thread;
use vhost_user_blkmq::testkit::measure::{cpu_time, process_cpu_time};
use vhost_user_blkmq::testkit::rng::Rng;

use super::load::{Load, Op, Source};
use super::stats::Histogram;
use crate::common::foreign;

/// Completions collected by one call at most.
const BATCH: usize = 256;
/// Without any answer for so long, a back-end is given up.
const SILENCE: Duration = Duration::from_secs(20);

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A vhost-user-blk back-end.
    Socket(PathBuf),
    /// The file itself, or the block device.
    File(PathBuf),
}

/// How long, and who is looked at meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Not counted, at the beginning.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) measured: Duration,
    /// The back-end; none without one.
    pub(crate) pid: Option<u32>,
    /// The client's CPUs: queue i has number i, around and around.
    pub(crate) cpus: Vec<usize>,
}

/// What was counted, of all queues together.
#[derive(Clone)]
pub(crate) struct Counted {
    pub(crate) ios: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Histogram,
    /// CPU time of the back-end, by the first queue's clock; none without one.
    pub(crate) backend: Option<u64>,
    /// CPU time of the client's threads.
    pub(crate) client: u64,
}

/// A connection.
pub(crate) struct Client {
    // Queues before the device, as libblkio wants them dropped.
    queues: Vec<Blkioq>,
    // Before the region that lies in it. `None` when a thread is left in it for good.
    device: Option<Blkio>,
    region: MemoryRegion,
}

impl Client {
    /// Opens the target with so many queues, of which each can have `depth` requests outstanding,
    /// and so many bytes of buffers in all.
    pub(crate) fn open(
        target: &Target,
        queues: usize,
        depth: usize,
        arena: usize,
        poll: bool,
    ) -> Result<Client, String> {
        let text = |error: blkio::Error| error.to_string();
        let number = |n: usize| i32::try_from(n).map_err(|error| error.to_string());
        let entries = number((2 * depth).next_power_of_two().max(128))?;
        let (driver, path, size) = match target {
            Target::Socket(path) => ("virtio-blk-vhost-user", path, "queue-size"),
            Target::File(path) => ("io_uring", path, "num-entries"),
        };
        let mut device = Blkio::new(driver).map_err(text)?;
        let path = path.to_str().ok_or("the path is not UTF-8")?;
        device.set_str("path", path).map_err(text)?;
        if let Target::File(_) = target {
            device.set_bool("direct", true).map_err(text)?;
        }
        device.connect().map_err(text)?;
        // The bare file has no completions to wait for but the kernel's: polling it means IOPOLL,
        // which files on most file systems cannot do.
        let poll = poll && matches!(target, Target::Socket(_));
        device.set_i32("num-queues", number(if poll { 0 } else { queues })?).map_err(text)?;
        let polled = number(if poll { queues } else { 0 })?;
        device.set_i32("num-poll-queues", polled).map_err(text)?;
        device.set_i32(size, entries).map_err(text)?;
        let outcome = device.start().map_err(text)?;
        let arena = arena.next_multiple_of(2 << 20);
        let region = device.alloc_mem_region(arena).map_err(text)?;
        device.map_mem_region(&region).map_err(text)?;
        fill(Path::new(&format!("/proc/self/fd/{}", region.fd)), arena as u64)?;
        let queues = outcome.queues.into_iter().chain(outcome.poll_queues).collect();
        Ok(Client { queues, device: Some(device), region })
    }

    /// Bytes of the disk.
    pub(crate) fn capacity(&self) -> Result<u64, String> {
        let device = self.device.as_ref().ok_or("the connection is of no use any more")?;
        device.get_u64("capacity").map_err(|error| error.to_string())
    }

    /// Queues that it has.
    pub(crate) fn width(&self) -> usize {
        self.queues.len()
    }

    /// Runs a load on all queues. After an error the connection is of no use any more.
    pub(crate) fn run(&mut self, load: &Load, watch: &Watch) -> Result<Counted, String> {
        let width = self.width();
        let bytes = load.block * load.depth;
        assert!(bytes * width <= self.region.len, "the buffers were made for this load");
        let capacity = self.capacity()?;
        let start = Arc::new(Barrier::new(width));
        let threads: Vec<Receiver<(Blkioq, Result<Counted, String>)>> = self
            .queues
            .drain(..)
            .enumerate()
            .map(|(index, queue)| {
                let errand = Errand {
                    load: *load,
                    source: Source::new(load, capacity, index, width),
                    buffers: self.region.addr + index * bytes,
                    watch: Watch {
                        pid: watch.pid.filter(|_| index == 0),
                        cpus: vec![watch.cpus[index % watch.cpus.len()]],
                        ..watch.clone()
                    },
                };
                errand.begin(queue, Arc::clone(&start))
            })
            .collect();
        let patience = watch.warm_up + watch.measured + SILENCE;
        let end = Instant::now() + patience;
        let mut all: Option<Counted> = None;
        for thread in threads {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((queue, counted)) = thread.recv_timeout(left) else {
                // The thread looks at the rings for ever: they have to stay mapped.
                std::mem::forget(self.device.take());
                return Err(format!("requests are not answered within {SILENCE:?}"));
            };
            self.queues.push(queue);
            let counted = counted?;
            match &mut all {
                None => all = Some(counted),
                Some(all) => all.add(&counted),
            }
        }
        all.ok_or_else(|| "there is no queue".to_owned())
    }
}

impl Counted {
    fn add(&mut self, other: &Counted) {
        self.ios += other.ios;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency.add(&other.latency);
        self.client += other.client;
    }

    /// Requests in a second.
    pub(crate) fn iops(&self) -> f64 {
        self.ios as f64 / self.elapsed.as_secs_f64()
    }
}

/// Fills a file with bytes that no storage can make smaller.
pub(crate) fn fill(path: &Path, size: u64) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new().write(true).open(path).map_err(text)?;
    let mut rng = Rng::new(size);
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        piece.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.word().to_le_bytes()));
        let left = usize::try_from(size - at).map_or(piece.len(), |left| left.min(piece.len()));
        file.write_all_at(&piece[..left], at).map_err(text)?;
        at += left as u64;
    }
    Ok(())
}

/// What one queue's thread does.
struct Errand {
    load: Load,
    source: Source,
    /// Address of the first buffer; the others follow.
    buffers: usize,
    watch: Watch,
}

/// CPU times and instant at an end of what is counted.
struct Mark {
    at: Instant,
    backend: Option<Nanos>,
    client: Nanos,
}

impl Errand {
    /// On a thread of its own, which nobody joins: it may wait for ever.
    fn begin(
        mut self,
        mut queue: Blkioq,
        start: Arc<Barrier>,
    ) -> Receiver<(Blkioq, Result<Counted, String>)> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let pinned = pin_current_thread(&self.watch.cpus).map_err(|error| error.to_string());
            start.wait();
            let counted = pinned.and_then(|()| self.run(&mut queue));
            // Whoever does not wait any more has said so.
            let _ = sender.send((queue, counted));
        });
        receiver
    }

    fn mark(&self, at: Instant) -> Result<Mark, String> {
        let backend = self.watch.pid.map(process_cpu_time).transpose();
        let backend = backend.map_err(|error| format!("the back-end is gone: {error}"))?;
        Ok(Mark { at, backend, client: cpu_time() })
    }

    fn submit(&mut self, queue: &mut Blkioq, slot: usize) {
        let Load { block, .. } = self.load;
        let buffer = std::ptr::with_exposed_provenance_mut(self.buffers + slot * block);
        match self.source.next(slot) {
            Op::Read(at) => queue.read(at, buffer, block, slot, ReqFlags::empty()),
            Op::Write(at) => queue.write(at, buffer, block, slot, ReqFlags::empty()),
            Op::Flush => queue.flush(slot, ReqFlags::empty()),
        }
    }

    fn run(&mut self, queue: &mut Blkioq) -> Result<Counted, String> {
        let mut room: [MaybeUninit<Completion>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut done = Vec::with_capacity(BATCH);
        let mut latency = Histogram::new();
        let mut ios = 0;
        let mut now = Instant::now();
        let mut flying = self.load.depth;
        let mut since = vec![now; flying];
        (0..flying).for_each(|slot| self.submit(queue, slot));
        let begin = now + self.watch.warm_up;
        let mut end = begin + self.watch.measured;
        let (mut first, mut last) = (None, None);
        while flying > 0 {
            foreign::reap_each(queue, &mut room, None, |slot, result| done.push((slot, result)))
                .map_err(|error| format!("libblkio: {error}"))?;
            now = Instant::now();
            let counts = first.is_some() && last.is_none();
            for (slot, result) in done.drain(..) {
                if result != 0 {
                    return Err(format!("a request failed: {result} as an errno"));
                }
                if counts {
                    ios += 1;
                    let passed = now.duration_since(since[slot]).as_nanos();
                    latency.record(u64::try_from(passed).unwrap_or(u64::MAX));
                }
                if last.is_none() && now < end {
                    since[slot] = now;
                    self.submit(queue, slot);
                } else {
                    flying -= 1;
                }
            }
            if first.is_none() && now >= begin {
                first = Some(self.mark(now)?);
                end = now + self.watch.measured;
            } else if last.is_none() && now >= end {
                last = Some(self.mark(now)?);
            }
        }
        let (Some(first), Some(last)) = (first, last) else {
            return Err("it ended before it began".to_owned());
        };
        let elapsed = last.at.duration_since(first.at);
        let backend = first.backend.zip(last.backend).map(|(first, last)| last.since(first));
        Ok(Counted { ios, elapsed, latency, backend, client: last.client.since(first.client) })
    }
}
