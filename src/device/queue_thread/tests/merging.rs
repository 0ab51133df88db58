//! What merging saves, counted where it counts: operations that the image was asked for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::warm::{Bench, raw_image};
use crate::block::Outcome;
use crate::image::{BufferMask, Busy, Channel, Geometry, Image, Io, IoDone, Traits};
use crate::sys::uring::Ring;
use crate::testkit::blk::{Framing, Request};
use crate::testkit::driver::Layout;
use crate::testkit::rng::Rng;

/// An image that counts what it is asked.
struct Counted {
    inner: Arc<dyn Image>,
    count: Arc<AtomicU64>,
}

struct CountedChannel {
    inner: Box<dyn Channel>,
    count: Arc<AtomicU64>,
}

impl Image for Counted {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn buffer_mask(&self) -> BufferMask {
        self.inner.buffer_mask()
    }

    fn open_channel(&self, ring: &mut Ring, lane: u16) -> io::Result<Box<dyn Channel>> {
        let inner = self.inner.open_channel(ring, lane)?;
        Ok(Box::new(CountedChannel { inner, count: Arc::clone(&self.count) }))
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

impl Channel for CountedChannel {
    fn submit(&mut self, ring: &mut Ring, io: &Io<'_>) -> Result<(), Busy> {
        self.inner.submit(ring, io)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&mut self, io: &Io<'_>, res: i32) -> Outcome {
        self.inner.finish(io, res)
    }

    fn on_channel_cqe(&mut self, ring: &mut Ring, op: u32, res: i32) -> Option<IoDone> {
        self.inner.on_channel_cqe(ring, op, res)
    }

    fn poll_done(&mut self) -> Option<IoDone> {
        self.inner.poll_done()
    }

    fn close(&mut self, ring: &mut Ring) {
        self.inner.close(ring);
    }
}

const DEPTH: u64 = 32;
const BLOCKS: u64 = 256;

/// Serves `requests`, [`DEPTH`] at a time; answers with the operations that this took, and checks
/// that every read found what `expected` says.
fn operations(requests: &[Request], expected: impl Fn(usize) -> Option<u8>) -> u64 {
    let (_file, inner) = raw_image();
    let count = Arc::new(AtomicU64::new(0));
    let image = Counted { inner, count: Arc::clone(&count) };
    let mut bench = Bench::new(Arc::new(image), 1);
    bench.guests[0].set_align(4096);
    for (n, batch) in requests.chunks(usize::try_from(DEPTH).expect("small")).enumerate() {
        let mut heads = Vec::new();
        for request in batch {
            let framing = Framing { layout: Layout::Indirect, ..Framing::plain(request) };
            heads.push(bench.guests[0].add_framed(request, &framing).expect("room"));
        }
        let done = bench.serve(batch.len());
        assert_eq!(done.len(), batch.len());
        for answer in done {
            assert_eq!(answer.status, 0);
            let i = heads.iter().position(|h| *h == answer.head).expect("sent");
            if let Some(byte) = expected(n * heads.len() + i) {
                assert_eq!(answer.used_len, 4097);
                assert!(answer.data.iter().all(|b| *b == byte), "its own data");
            }
        }
    }
    count.load(Ordering::Relaxed)
}

fn byte(block: u64) -> u8 {
    u8::try_from(block % 250 + 1).expect("small")
}

#[test]
fn sequential_bios_of_4_kib_take_at_most_an_eighth_of_the_operations() {
    let mut all: Vec<Request> =
        (0..BLOCKS).map(|n| Request::write(n * 8, &[byte(n); 4096])).collect();
    all.extend((0..BLOCKS).map(|n| Request::read(n * 8, 4096)));
    let blocks = usize::try_from(BLOCKS).expect("small");
    let read = |i: usize| (i >= blocks).then(|| byte((i - blocks) as u64));
    let taken = operations(&all, read);
    assert!(taken * 8 <= 2 * BLOCKS, "{taken} operations for {} bios", 2 * BLOCKS);
    // Backwards and from the middle, it is the same.
    all[blocks..].reverse();
    let read = |i: usize| (i >= blocks).then(|| byte(BLOCKS - 1 - (i - blocks) as u64));
    let taken = operations(&all, read);
    assert!(taken * 8 <= 2 * BLOCKS, "{taken} operations backwards");
}

#[test]
fn bios_that_do_not_touch_take_an_operation_each() {
    let mut rng = Rng::new(7);
    let mut all = Vec::new();
    for _ in 0..16 {
        // Every second block, in any order.
        let mut blocks: Vec<u64> = (0..BLOCKS / 2).map(|n| 2 * n).collect();
        for i in (1..blocks.len()).rev() {
            blocks.swap(i, usize::try_from(rng.below(i as u64 + 1)).expect("small"));
        }
        all.extend(blocks.iter().map(|n| Request::read(n * 8, 4096)));
    }
    assert_eq!(operations(&all, |_| Some(0)), all.len() as u64);
}
