//! A well-behaved client: libblkio. What it reads through the socket is what a guest would read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Errno, MemoryRegion, ReqFlags};

use super::foreign;

/// How long one request may take before a test calls it lost.
pub(crate) const LOST: Duration = Duration::from_secs(20);

/// Bytes of shared memory a client has for its buffers unless it asks for more.
pub(crate) const ARENA: usize = 8 << 20;

/// What kind of queues a client wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Queues that announce completions through a call descriptor.
    pub(crate) queues: i32,
    /// Queues whose used ring is polled.
    pub(crate) poll_queues: i32,
    /// Entries of each ring.
    pub(crate) size: i32,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { queues: 1, poll_queues: 0, size: 256 }
    }
}

impl Wish {
    /// `queues` queues with interrupts.
    pub(crate) fn queues(queues: i32) -> Wish {
        Wish { queues, ..Wish::default() }
    }

    /// `queues` polled queues.
    pub(crate) fn polled(queues: i32) -> Wish {
        Wish { queues: 0, poll_queues: queues, ..Wish::default() }
    }
}

/// One connection with its queues and its shared memory.
pub(crate) struct Client {
    // Queues before the device, as libblkio wants them dropped.
    queues: Vec<Blkioq>,
    device: Blkio,
    region: MemoryRegion,
    memory: File,
    arena: usize,
}

impl Client {
    /// Connects and starts the queues; the error is libblkio's text.
    pub(crate) fn try_connect(socket: &Path, wish: Wish) -> Result<Client, String> {
        Client::with_arena(socket, wish, ARENA)
    }

    /// As [`Client::try_connect`], with `arena` bytes of shared memory.
    pub(crate) fn with_arena(socket: &Path, wish: Wish, arena: usize) -> Result<Client, String> {
        let text = |error: blkio::Error| error.to_string();
        let mut device = Blkio::new("virtio-blk-vhost-user").map_err(text)?;
        device.set_str("path", socket.to_str().expect("test paths are UTF-8")).map_err(text)?;
        device.connect().map_err(text)?;
        device.set_i32("num-queues", wish.queues).map_err(text)?;
        device.set_i32("num-poll-queues", wish.poll_queues).map_err(text)?;
        device.set_i32("queue-size", wish.size).map_err(text)?;
        let outcome = device.start().map_err(text)?;
        let region = device.alloc_mem_region(arena).map_err(text)?;
        device.map_mem_region(&region).map_err(text)?;
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", region.fd))
            .map_err(|e| e.to_string())?;
        let queues = outcome.queues.into_iter().chain(outcome.poll_queues).collect();
        Ok(Client { queues, device, region, memory, arena })
    }

    /// Connects and starts the queues.
    pub(crate) fn connect(socket: &Path, wish: Wish) -> Client {
        Client::try_connect(socket, wish).expect("the daemon accepts a well-behaved client")
    }

    /// Bytes of the disk, as the device's config space says.
    pub(crate) fn capacity(&self) -> u64 {
        self.device.get_u64("capacity").expect("the config space can be read")
    }

    /// A numeric property.
    pub(crate) fn property(&self, name: &str) -> i32 {
        self.device.get_i32(name).expect("the property exists")
    }

    /// Queues this client has.
    pub(crate) fn width(&self) -> usize {
        self.queues.len()
    }

    /// Puts bytes into shared memory at `at`.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.arena, "the arena is large enough");
        let at = u64::try_from(at).expect("small");
        self.memory.write_all_at(bytes, at).expect("a memfd can be written");
    }

    /// Takes bytes out of shared memory.
    pub(crate) fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = u64::try_from(at).expect("small");
        self.memory.read_exact_at(&mut bytes, at).expect("a memfd can be read");
        bytes
    }

    fn pointer(&self, at: usize) -> *mut u8 {
        assert!(at < self.arena, "inside the arena");
        std::ptr::with_exposed_provenance_mut(self.region.addr + at)
    }

    /// Queues a read into the arena at `at`.
    pub(crate) fn begin_read(&mut self, q: usize, offset: u64, at: usize, len: usize, tag: usize) {
        let buffer = self.pointer(at);
        self.queues[q].read(offset, buffer, len, tag, ReqFlags::empty());
    }

    /// Queues a write from the arena at `at`.
    pub(crate) fn begin_write(&mut self, q: usize, offset: u64, at: usize, len: usize, tag: usize) {
        let buffer = self.pointer(at);
        self.queues[q].write(offset, buffer, len, tag, ReqFlags::empty());
    }

    /// Queues write-zeroes.
    pub(crate) fn begin_zeroes(
        &mut self,
        q: usize,
        offset: u64,
        len: u64,
        unmap: bool,
        tag: usize,
    ) {
        let flags = if unmap { ReqFlags::empty() } else { ReqFlags::NO_UNMAP };
        self.queues[q].write_zeroes(offset, len, tag, flags);
    }

    /// Queues a discard.
    pub(crate) fn begin_discard(&mut self, q: usize, offset: u64, len: u64, tag: usize) {
        self.queues[q].discard(offset, len, tag, ReqFlags::empty());
    }

    /// Queues a flush.
    pub(crate) fn begin_flush(&mut self, q: usize, tag: usize) {
        self.queues[q].flush(tag, ReqFlags::empty());
    }

    /// Waits for at least one completion of queue `q`.
    pub(crate) fn reap(&mut self, q: usize) -> Vec<(usize, i32)> {
        self.try_reap(q, LOST)
            .unwrap_or_else(|e| panic!("queue {q}: no completion in {LOST:?} ({e})"))
    }

    /// As [`Client::reap`] with an own limit.
    pub(crate) fn try_reap(
        &mut self,
        q: usize,
        timeout: Duration,
    ) -> Result<Vec<(usize, i32)>, Errno> {
        foreign::reap(&mut self.queues[q], timeout)
    }

    /// The completions of queue `q` that are there, without waiting.
    pub(crate) fn look(&mut self, q: usize) -> Vec<(usize, i32)> {
        foreign::look(&mut self.queues[q]).unwrap_or_else(|e| panic!("queue {q}: {e}"))
    }

    /// Whether completions of queue `q` are to be announced through its descriptor.
    pub(crate) fn announce(&mut self, q: usize, on: bool) {
        self.queues[q].set_completion_fd_enabled(on);
    }

    fn one(&mut self, q: usize) -> i32 {
        let done = self.reap(q);
        assert_eq!(done.len(), 1, "one request, one completion");
        done[0].1
    }

    /// Reads; the error is the negative errno that libblkio makes of the status byte.
    pub(crate) fn read(&mut self, q: usize, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        self.put(0, &vec![0xa5; len]);
        self.begin_read(q, offset, 0, len, 1);
        match self.one(q) {
            0 => Ok(self.get(0, len)),
            error => Err(error),
        }
    }

    /// Writes.
    pub(crate) fn write(&mut self, q: usize, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        self.put(0, bytes);
        self.begin_write(q, offset, 0, bytes.len(), 1);
        verdict(self.one(q))
    }

    /// Writes and wants the result to be durable (libblkio: a write, then a flush).
    pub(crate) fn write_fua(&mut self, q: usize, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        self.put(0, bytes);
        let buffer = self.pointer(0);
        self.queues[q].write(offset, buffer, bytes.len(), 1, ReqFlags::FUA);
        verdict(self.one(q))
    }

    /// Reads into segments of these lengths, laid one byte apart in memory.
    pub(crate) fn readv(
        &mut self,
        q: usize,
        offset: u64,
        segments: &[usize],
    ) -> Result<Vec<u8>, i32> {
        let places = self.scatter(segments);
        for &(at, len) in &places {
            self.put(at, &vec![0xa5; len]);
        }
        let vector = self.vector(&places);
        let count = u32::try_from(vector.len()).expect("few segments");
        self.queues[q].readv(offset, vector.as_ptr(), count, 1, ReqFlags::empty());
        verdict(self.one(q))?;
        Ok(places.iter().flat_map(|&(at, len)| self.get(at, len)).collect())
    }

    /// Writes from segments of these lengths, laid one byte apart in memory.
    pub(crate) fn writev(
        &mut self,
        q: usize,
        offset: u64,
        segments: &[usize],
        bytes: &[u8],
    ) -> Result<(), i32> {
        let places = self.scatter(segments);
        let mut rest = bytes;
        for &(at, len) in &places {
            let (now, later) = rest.split_at(len);
            self.put(at, now);
            rest = later;
        }
        let vector = self.vector(&places);
        let count = u32::try_from(vector.len()).expect("few segments");
        self.queues[q].writev(offset, vector.as_ptr(), count, 1, ReqFlags::empty());
        verdict(self.one(q))
    }

    fn scatter(&self, segments: &[usize]) -> Vec<(usize, usize)> {
        let mut at = 1;
        let mut places = Vec::new();
        for &len in segments {
            places.push((at, len));
            at += len + 1;
        }
        assert!(at < self.arena, "the arena is large enough");
        places
    }

    fn vector(&self, places: &[(usize, usize)]) -> Vec<blkio::iovec> {
        places
            .iter()
            .map(|&(at, len)| blkio::iovec { iov_base: self.pointer(at).cast(), iov_len: len })
            .collect()
    }

    /// Flushes.
    pub(crate) fn flush(&mut self, q: usize) -> Result<(), i32> {
        self.begin_flush(q, 1);
        verdict(self.one(q))
    }

    /// Zeroes a range.
    pub(crate) fn zeroes(
        &mut self,
        q: usize,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<(), i32> {
        self.begin_zeroes(q, offset, len, unmap, 1);
        verdict(self.one(q))
    }

    /// Discards a range.
    pub(crate) fn discard(&mut self, q: usize, offset: u64, len: u64) -> Result<(), i32> {
        self.begin_discard(q, offset, len, 1);
        verdict(self.one(q))
    }
}

fn verdict(result: i32) -> Result<(), i32> {
    if result == 0 { Ok(()) } else { Err(result) }
}

/// Proves that the daemon serves: a new client writes, flushes and reads back something new.
pub(crate) fn serves(socket: &Path) {
    let mut client = Client::connect(socket, Wish { size: 16, ..Wish::default() });
    let bytes = super::rng::pattern(super::rng::seed() | 1, 4096);
    assert_eq!(client.write(0, 0, &bytes), Ok(()), "a good client can write");
    assert_eq!(client.flush(0), Ok(()), "a good client can flush");
    assert_eq!(client.read(0, 0, 4096).as_deref(), Ok(&bytes[..]), "and reads back what it wrote");
}
