//! The null image: reads zeroes, drops writes. For measuring everything but storage.
//!
//! As QEMU's `null-co` it can be told not to write the zeroes (`read-zeroes=off`): then a read leaves
//! the guest's buffer as it is, and not even that is measured.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::options::{OpenError, OpenOptions, check_blocks, parse_size};
use super::resize::{ResizeError, check_len, sectors};
use super::{Begun, Busy, Channel, Geometry, Image, Io, IoDone, Traits, Verb};
use crate::block::{Errno, Outcome, SECTOR_SIZE, Tag};
use crate::sys::guest::GuestBuf;
use crate::sys::token::IoKey;
use crate::sys::uring::Ring;

/// How many finished operations wait to be collected before the channel is busy: a power of two.
pub const DEPTH: usize = 1024;

const NOTHING: IoDone =
    IoDone { key: IoKey { slot: 0, tag: Tag(0), generation: 0 }, outcome: Outcome::Done };

/// A disk of a size and without content.
#[derive(Debug)]
pub struct NullImage {
    /// As at open: the capacity of now is `sectors`.
    geometry: Geometry,
    sectors: AtomicU64,
    /// What it becomes with the next measuring, in sectors.
    wanted: AtomicU64,
    read_only: bool,
    read_zeroes: bool,
}

impl NullImage {
    /// A null image as in `10G` or `10G,read-zeroes=off` (the part of the specification after
    /// `null:`).
    ///
    /// # Errors
    /// [`OpenError::NullSize`], or [`OpenError::BlockSize`].
    pub fn open(spec: &str, options: &OpenOptions) -> Result<NullImage, OpenError> {
        let (size, read_zeroes) = match spec.split_once(',') {
            None => (Some(spec), true),
            Some((size, "read-zeroes=on")) => (Some(size), true),
            Some((size, "read-zeroes=off")) => (Some(size), false),
            Some(_) => (None, true),
        };
        let bytes =
            size.and_then(parse_size).ok_or_else(|| OpenError::NullSize(spec.to_string()))?;
        check_blocks(options)?;
        let logical = options.logical_block.unwrap_or(512);
        let capacity =
            sectors(bytes, logical, true).ok_or_else(|| OpenError::NullSize(spec.to_string()))?;
        let geometry = Geometry {
            capacity,
            logical_block: logical,
            physical_block: options.physical_block.unwrap_or(logical),
            discard_granularity: logical,
        };
        let (sectors, wanted) = (AtomicU64::new(capacity), AtomicU64::new(capacity));
        let read_only = options.read_only;
        Ok(NullImage { geometry, sectors, wanted, read_only, read_zeroes })
    }
}

impl Image for NullImage {
    fn geometry(&self) -> Geometry {
        Geometry { capacity: self.sectors.load(Ordering::Acquire), ..self.geometry }
    }

    fn traits(&self) -> Traits {
        Traits { read_only: self.read_only, flush_is_noop: true, exclusive: true, dsync: true }
    }

    fn is_inline(&self) -> bool {
        true
    }

    fn open_channel(&self, _ring: &mut Ring, _lane: u16) -> io::Result<Box<dyn Channel>> {
        let NullImage { read_only, read_zeroes, .. } = *self;
        let done = [NOTHING; DEPTH];
        Ok(Box::new(NullChannel { done, first: 0, next: 0, read_only, read_zeroes }))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn remeasure(&self) -> Result<Geometry, ResizeError> {
        self.sectors.store(self.wanted.load(Ordering::Acquire), Ordering::Release);
        Ok(self.geometry())
    }

    fn set_len(&self, bytes: u64) -> Result<(), ResizeError> {
        check_len(bytes, self.geometry.logical_block)?;
        self.wanted.store(bytes / SECTOR_SIZE, Ordering::Release);
        Ok(())
    }
}

struct NullChannel {
    /// A ring. `first` and `next` are free-running.
    done: [IoDone; DEPTH],
    /// The oldest that was not collected.
    first: usize,
    /// Where the next one goes.
    next: usize,
    read_only: bool,
    read_zeroes: bool,
}

#[inline]
fn zero(bufs: &[GuestBuf]) {
    if let [one] = bufs {
        one.zero(); // the usual request, without a loop that is made for long ones
    } else {
        zero_all(bufs);
    }
}

#[inline(never)]
fn zero_all(bufs: &[GuestBuf]) {
    bufs.iter().for_each(GuestBuf::zero);
}

impl Channel for NullChannel {
    fn submit(&mut self, _ring: &mut Ring, io: &Io<'_>) -> Result<(), Busy> {
        if self.next.wrapping_sub(self.first) == DEPTH {
            return Err(Busy);
        }
        let outcome = match io.verb {
            Verb::Read { .. } | Verb::Sync => Outcome::Done,
            _ if self.read_only => Outcome::Failed(Errno(libc::EROFS)),
            Verb::Write { .. } | Verb::Discard { .. } | Verb::WriteZeroes { .. } => Outcome::Done,
        };
        if self.read_zeroes && matches!(io.verb, Verb::Read { .. }) {
            zero(io.bufs);
        }
        self.done[self.next % DEPTH] = IoDone { key: io.key, outcome };
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    fn begin(&mut self, ring: &mut Ring, io: &Io<'_>) -> Result<Begun, Busy> {
        match io.verb {
            Verb::Read { .. } if self.read_zeroes => zero(io.bufs),
            Verb::Read { .. } => {}
            Verb::Write { .. } if !self.read_only => {}
            _ => return self.submit(ring, io).map(|()| Begun::OnItsWay),
        }
        Ok(Begun::Done)
    }

    fn finish(&mut self, io: &Io<'_>, res: i32) -> Outcome {
        // Nothing of this channel goes through the ring.
        Outcome::of(io.bytes, res)
    }

    fn on_channel_cqe(&mut self, _ring: &mut Ring, _n: u32, _res: i32) -> Option<IoDone> {
        None
    }

    fn poll_done(&mut self) -> Option<IoDone> {
        if self.first == self.next {
            return None;
        }
        let done = self.done[self.first % DEPTH];
        self.first = self.first.wrapping_add(1);
        Some(done)
    }

    fn close(&mut self, _ring: &mut Ring) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bounce::BouncePool;

    fn key(tag: u16) -> IoKey {
        IoKey { slot: 0, tag: Tag(tag), generation: 0 }
    }

    #[test]
    fn the_size_is_rounded_up_to_a_block() {
        let options = OpenOptions { logical_block: Some(4096), ..OpenOptions::default() };
        let image = NullImage::open("5000", &options).expect("a size");
        let expected = Geometry {
            capacity: 16,
            logical_block: 4096,
            physical_block: 4096,
            discard_granularity: 4096,
        };
        assert_eq!(image.geometry(), expected);
        let plain = NullImage::open("1T", &OpenOptions::default()).expect("a size").geometry();
        assert_eq!((plain.capacity, plain.logical_block), (1 << 31, 512));
        for bad in ["1G,", "1G,read-zeroes", "1G,read-zeroes=off,x", ",read-zeroes=off"] {
            let e = NullImage::open(bad, &OpenOptions::default()).expect_err("no such thing");
            assert!(e.to_string().contains(bad), "{e}");
        }
        let e = NullImage::open("lots", &OpenOptions::default()).expect_err("no number");
        assert!(e.to_string().contains("use null:10G"), "{e}");
    }

    #[test]
    fn reads_are_zeroes_and_everything_is_done_in_order() {
        let image = NullImage::open("1G", &OpenOptions::default()).expect("a size");
        let mut ring = Ring::new(8).expect("io_uring");
        let mut channel = image.open_channel(&mut ring, 0).expect("a channel");
        let pool = BouncePool::new(1, 1024, 512).expect("memory");
        let b = pool.buf(0);
        b.copy_from(&[3; 1024]);
        let verbs = [
            Verb::Read { offset: 0 },
            Verb::Write { offset: 0, dsync: true },
            Verb::Sync,
            Verb::Discard { offset: 0, len: 512 },
            Verb::WriteZeroes { offset: 0, len: 512, unmap: true },
        ];
        for (i, verb) in verbs.into_iter().enumerate() {
            let key = key(u16::try_from(i).expect("small"));
            let bufs = &[b.take(100), b.skip(100).take(412)];
            channel.submit(&mut ring, &Io { key, verb, bufs, bytes: 512 }).expect("room");
        }
        for i in 0..verbs.len() {
            let done =
                IoDone { key: key(u16::try_from(i).expect("small")), outcome: Outcome::Done };
            assert_eq!(channel.poll_done(), Some(done));
        }
        assert_eq!(channel.poll_done(), None);
        let mut got = [9u8; 1024];
        b.copy_to(&mut got);
        assert!(got[..512].iter().all(|x| *x == 0) && got[512..].iter().all(|x| *x == 3));
        assert!(image.sync().is_ok() && image.traits().flush_is_noop);
    }

    #[test]
    fn what_moves_data_is_over_at_once_and_nothing_else_is() {
        for read_only in [false, true] {
            let options = OpenOptions { read_only, ..OpenOptions::default() };
            let image = NullImage::open("1G", &options).expect("a size");
            let mut ring = Ring::new(8).expect("io_uring");
            let mut channel = image.open_channel(&mut ring, 0).expect("a channel");
            let pool = BouncePool::new(1, 1024, 512).expect("memory");
            let bufs = [pool.buf(0)];
            bufs[0].copy_from(&[3; 1024]);
            let mut begin = |verb| {
                let io = Io { key: key(1), verb, bufs: &bufs, bytes: 1024 };
                let begun = channel.begin(&mut ring, &io).expect("room");
                (begun, channel.poll_done().map(|done| done.outcome))
            };
            let write = Verb::Write { offset: 0, dsync: true };
            let refused = (Begun::OnItsWay, Some(Outcome::Failed(Errno(libc::EROFS))));
            let over = (Begun::Done, None);
            assert_eq!(begin(write), if read_only { refused } else { over });
            let zeroes = Verb::WriteZeroes { offset: 0, len: 512, unmap: false };
            let done = (Begun::OnItsWay, Some(Outcome::Done));
            assert_eq!(begin(zeroes), if read_only { refused } else { done });
            assert_eq!(begin(Verb::Sync), done);
            let mut got = [9; 1024];
            bufs[0].copy_to(&mut got);
            assert_eq!(got, [3; 1024], "nothing was read yet");
            assert_eq!(begin(Verb::Read { offset: 0 }), over);
            bufs[0].copy_to(&mut got);
            assert_eq!(got, [0; 1024]);
        }
    }

    #[test]
    fn a_full_queue_is_busy_until_it_is_collected() {
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let image = NullImage::open("1G", &options).expect("a size");
        let mut ring = Ring::new(8).expect("io_uring");
        let mut channel = image.open_channel(&mut ring, 0).expect("a channel");
        let io = |verb| Io { key: key(7), verb, bufs: &[], bytes: 0 };
        for _ in 0..DEPTH {
            channel.submit(&mut ring, &io(Verb::Sync)).expect("room");
        }
        assert_eq!(channel.submit(&mut ring, &io(Verb::Sync)), Err(Busy));
        assert!(channel.poll_done().is_some());
        channel.submit(&mut ring, &io(Verb::Write { offset: 0, dsync: false })).expect("room");
        let last = std::iter::from_fn(|| channel.poll_done()).last().expect("they are there");
        assert_eq!(last.outcome, Outcome::Failed(Errno(libc::EROFS)), "it is read-only");
    }

    #[test]
    fn zeroes_that_nobody_wants_are_not_written() {
        for (spec, expected) in [("1G", 0), ("1G,read-zeroes=on", 0), ("1G,read-zeroes=off", 7)] {
            let image = NullImage::open(spec, &OpenOptions::default()).expect("a size");
            let mut ring = Ring::new(8).expect("io_uring");
            let mut channel = image.open_channel(&mut ring, 0).expect("a channel");
            let pool = BouncePool::new(1, 1024, 512).expect("memory");
            let b = pool.buf(0);
            b.copy_from(&[7; 1024]);
            let io = Io { key: key(1), verb: Verb::Read { offset: 0 }, bufs: &[b], bytes: 1024 };
            assert_eq!(channel.submit(&mut ring, &io), Ok(()));
            let mut got = [9; 1024];
            b.copy_to(&mut got);
            assert_eq!(got, [expected; 1024], "{spec}");
        }
    }

    #[test]
    fn another_size_is_in_force_when_it_is_measured() {
        let image = NullImage::open("1M", &OpenOptions::default()).expect("a size");
        image.set_len(3 << 20).expect("any size");
        assert_eq!(image.geometry().capacity, 2048);
        assert_eq!(image.remeasure().expect("always").capacity, 6144);
        assert_eq!(image.geometry().capacity, 6144);
        assert!(matches!(image.set_len(1000), Err(ResizeError::Unaligned { .. })));
        assert!(matches!(image.set_len(0), Err(ResizeError::Empty)));
        assert_eq!(image.remeasure().expect("always").capacity, 6144);
    }
}
