//! One thread's way into a raw image.
//!
//! * C1 **Straight when possible.** An operation whose buffers satisfy direct I/O (or with the page
//!   cache, any) is one submission entry aimed at guest memory, with the bio's own token.
//! * C2 **Bounced when not.** Otherwise it proceeds in pieces through one buffer of a fixed pool,
//!   one step at a time, with the channel's token. No free buffer means busy.
//! * C3 **The end of the file.** What lies past the length that was last taken, in the last block of
//!   the disk, reads as zeroes, as far as the file has not grown since. A read that ends before it is
//!   short, and one that gets nothing before it is an error. One that ends beyond it is short too: only
//!   the next one, which gets nothing, has seen the end. After a resize, a read that met the old end
//!   in a longer file is issued anew, and one that reaches beyond a nearer end is an error.
//! * C4 **Short in blocks.** With direct I/O the rest of a short transfer must be aligned too, so
//!   what counts as done is rounded down to the alignment.
//! * C5 **A step that finds no room** enters once to make some; if there is still none the operation
//!   ends as `Again` and is issued anew: every operation here can be repeated.
//! * C6 **In memory.** A file of tmpfs or ramfs cannot say whether a transfer would wait, so io_uring
//!   hands each to a worker thread: two context switches for a copy. There the thread copies itself,
//!   with one system call, and the operation is over when it is accepted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::Opened;
use super::ladder::{Ladder, Next, Task, Way, outcome};
use crate::block::{Errno, Outcome};
use crate::image::{BufferMask, Busy, Channel, Io, IoDone, Verb};
use crate::sys::bounce::{BouncePool, pieces};
use crate::sys::direct_rw;
use crate::sys::guest::GuestBuf;
use crate::sys::token::{IoKey, Token};
use crate::sys::uring::{FileSlot, Full, MAX_BUFS, Ring};

/// Bounce buffers of a channel: enough to keep a disk busy. Guests that need them are rare.
pub(super) const BOUNCE_BUFS: usize = 16;

/// Size of one, in bytes: larger than nearly every request that is not aligned. Memory is used
/// only when touched.
pub(super) const BOUNCE_SIZE: usize = 128 * 1024;

/// Operations that proceed in steps at the same time: bounced ones, discards, zeroes.
pub(super) const STEPPED_OPS: usize = 64;

/// Operations that are over and not yet asked for, at most.
pub(super) const ENDED_OPS: usize = 256;

/// What a stepped operation is doing.
#[derive(Clone, Copy, Debug)]
enum Work {
    Read { buf: usize },
    Write { buf: usize, dsync: bool },
    Task { task: Task, way: Way },
}

/// A stepped operation. All lengths in bytes.
#[derive(Clone, Copy, Debug)]
struct Op {
    key: IoKey,
    work: Work,
    offset: u64,
    len: u64,
    done: u64,
    /// More than `len` when the list of buffers was cut.
    asked: u64,
}

/// The bounce buffers and, for each, the guest's buffers that it stands for.
struct Bounce {
    pool: BouncePool,
    lists: Box<[Vec<GuestBuf>]>,
    free: Vec<usize>,
    mask: BufferMask,
    block: u32,
}

pub(super) struct RawChannel {
    opened: Arc<Opened>,
    file: FileSlot,
    lane: u16,
    bounce: Option<Bounce>,
    ladder: Ladder,
    ops: Box<[Option<Op>]>,
    free_ops: Vec<usize>,
    done: VecDeque<IoDone>,
}

impl Bounce {
    fn new(memory: u32, block: u32) -> io::Result<Bounce> {
        let pool = BouncePool::new(BOUNCE_BUFS, BOUNCE_SIZE, memory.max(block).max(4096))?;
        let list = || Vec::with_capacity(MAX_BUFS);
        Ok(Bounce {
            pool,
            lists: (0..BOUNCE_BUFS).map(|_| list()).collect(),
            free: (0..BOUNCE_BUFS).rev().collect(),
            mask: mask(memory, block),
            block,
        })
    }

    /// Whether direct I/O takes these buffers as they are.
    #[inline]
    fn fits(&self, bufs: &[GuestBuf]) -> bool {
        self.mask.takes(bufs)
    }
}

/// Addresses in units of `memory`, lengths in units of `block`: both powers of two.
const fn mask(memory: u32, block: u32) -> BufferMask {
    BufferMask { addr: memory as usize - 1, len: block as usize - 1 }
}

impl RawChannel {
    pub(super) fn open(opened: &Arc<Opened>, ring: &mut Ring, lane: u16) -> io::Result<RawChannel> {
        let bounce = match opened.alignment {
            Some(a) => Some(Bounce::new(a.memory, a.offset)?),
            None => None,
        };
        let file = ring.add_file(opened.file.as_fd())?;
        if let Some(b) = &bounce {
            ring.hold(Arc::clone(b.pool.memory()));
        }
        Ok(RawChannel {
            opened: Arc::clone(opened),
            file,
            lane,
            bounce,
            ladder: Ladder::new(opened.block_device && ring.offers_discard_cmd()),
            ops: vec![None; STEPPED_OPS].into(),
            free_ops: (0..STEPPED_OPS).rev().collect(),
            done: VecDeque::with_capacity(ENDED_OPS),
        })
    }

    /// Transfers at once (C6).
    fn transfer(&mut self, io: &Io<'_>, offset: u64) -> Result<(), Busy> {
        if self.done.len() == ENDED_OPS {
            return Err(Busy);
        }
        let file = self.opened.file.as_fd();
        // The geometry keeps offsets below what the file system can have.
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let res = match io.verb {
            Verb::Write { dsync, .. } => {
                let dsync = dsync && !self.opened.traits.flush_is_noop;
                direct_rw::write(file, io.bufs, offset, dsync)
            }
            _ => direct_rw::read(file, io.bufs, offset),
        };
        let outcome = self.finish(io, res);
        self.end_now(io.key, outcome)
    }

    /// An operation that is over without the kernel.
    fn end_now(&mut self, key: IoKey, outcome: Outcome) -> Result<(), Busy> {
        if self.done.len() == ENDED_OPS {
            return Err(Busy);
        }
        self.done.push_back(IoDone { key, outcome });
        Ok(())
    }

    /// Starts a discard or a write-zeroes.
    fn start_task(
        &mut self,
        ring: &mut Ring,
        key: IoKey,
        task: Task,
        range: (u64, u64),
    ) -> Result<(), Busy> {
        if self.opened.traits.read_only {
            return self.end_now(key, Outcome::Failed(Errno(libc::EROFS)));
        }
        let unit = u64::from(self.opened.unit);
        let (mut offset, mut len) = range;
        let mut way = self.ladder.first(task);
        if (offset | len) % unit != 0 {
            if task == Task::Discard {
                // A hint may be followed in part: the whole blocks inside.
                (offset, len) = shrink(offset, len, unit);
            } else {
                way = Some(Way::Write);
            }
        }
        let Some(way) = way.filter(|_| len > 0) else {
            return self.end_now(key, Outcome::Done);
        };
        let work = Work::Task { task, way };
        self.start(ring, Op { key, work, offset, len, done: 0, asked: len })
    }

    /// Starts a transfer through a bounce buffer (C2).
    fn start_bounce(
        &mut self,
        ring: &mut Ring,
        io: &Io<'_>,
        offset: u64,
        make: impl FnOnce(usize) -> Work,
    ) -> Result<(), Busy> {
        let Some(bounce) = &mut self.bounce else {
            return Err(Busy);
        };
        let Some(buf) = bounce.free.pop() else {
            return Err(Busy);
        };
        let taken = &io.bufs[..io.bufs.len().min(MAX_BUFS)];
        let list = &mut bounce.lists[buf];
        list.clear();
        list.extend_from_slice(taken);
        let asked = u64::from(io.bytes);
        let mut len = asked;
        if taken.len() < io.bufs.len() {
            len = taken.iter().map(|b| b.len() as u64).sum();
            len -= len % u64::from(bounce.block);
        }
        let op = Op { key: io.key, work: make(buf), offset, len, done: 0, asked };
        self.start(ring, op).inspect_err(|_| self.give_back(&op))
    }

    fn start(&mut self, ring: &mut Ring, op: Op) -> Result<(), Busy> {
        let Some(n) = self.free_ops.pop() else {
            return Err(Busy);
        };
        self.ops[n] = Some(op);
        self.step(ring, n, &op).map_err(|Full| {
            self.ops[n] = None;
            self.free_ops.push(n);
            Busy
        })
    }

    fn give_back(&mut self, op: &Op) {
        if let (Work::Read { buf } | Work::Write { buf, .. }, Some(b)) = (op.work, &mut self.bounce)
        {
            b.free.push(buf);
        }
    }

    /// Issues the next step of operation `n`.
    fn step(&mut self, ring: &mut Ring, n: usize, op: &Op) -> Result<(), Full> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let token = self.token(n);
        let (file, offset, left) = (self.file, op.offset + op.done, op.len - op.done);
        let piece = piece(op);
        match (op.work, &mut self.bounce) {
            (Work::Read { buf }, Some(b)) => {
                ring.read(token, file, &[b.pool.buf(buf).take(piece)], offset)
            }
            (Work::Write { buf, dsync }, Some(b)) => {
                b.pool.gather(buf, &b.lists[buf], op.done, piece);
                ring.write(token, file, &[b.pool.buf(buf).take(piece)], offset, dsync)
            }
            // Never: what is bounced has a pool (`submit`).
            (Work::Read { .. } | Work::Write { .. }, None) => Err(Full),
            (Work::Task { way, .. }, _) => match way {
                Way::DiscardCmd => ring.discard_cmd(token, file, offset, left),
                Way::Punch => ring.fallocate(token, file, PUNCH, offset, left),
                Way::ZeroRange => {
                    ring.fallocate(token, file, libc::FALLOC_FL_ZERO_RANGE, offset, left)
                }
                Way::Write => ring.write_zeroes(token, file, offset, left),
            },
        }
    }

    fn token(&self, n: usize) -> Token {
        Token::Channel { lane: self.lane, op: u32::try_from(n).unwrap_or(u32::MAX) }
    }

    /// Takes the kernel's answer to a step in. `None` when another step has to follow.
    fn advance(&mut self, op: &mut Op, res: i32) -> Option<Outcome> {
        if let Work::Task { task, way } = op.work
            && (way != Way::Write || res < 0)
        {
            return match self.ladder.after(task, way, res) {
                Next::End(outcome) => Some(outcome),
                Next::Try(way) => {
                    op.work = Work::Task { task, way };
                    None
                }
            };
        }
        let Ok(got) = u64::try_from(res) else {
            return Some(outcome(res));
        };
        let step = (piece(op) as u64).min(op.len - op.done);
        let whole = got >= step;
        let at_end = self.opened.is_end(op.offset + op.done, got, step);
        let reached = op.offset + op.done + got;
        match (op.work, &mut self.bounce) {
            (Work::Read { buf }, Some(b)) => {
                let end_of_file = !whole && at_end;
                let got = if whole || end_of_file { got } else { self.opened.in_blocks(got) };
                let n = usize::try_from(got).unwrap_or(usize::MAX);
                b.pool.scatter(buf, &b.lists[buf], op.done, n);
                op.done += got;
                if end_of_file {
                    zero_from(&b.lists[buf], op.done);
                    op.done = op.len;
                }
                self.progress(op, got > 0, reached)
            }
            _ => {
                let got = if whole { got } else { self.opened.in_blocks(got) };
                op.done += got;
                self.progress(op, got > 0, reached)
            }
        }
    }

    /// What follows a step that moved something (or not), and got as far as `reached` in the file.
    fn progress(&self, op: &Op, moved: bool, reached: u64) -> Option<Outcome> {
        if op.done >= op.len {
            let short = u32::try_from(op.len).ok().filter(|n| *n > 0 && op.len < op.asked);
            return Some(short.map_or(Outcome::Done, Outcome::Short));
        }
        (!moved).then(|| self.opened.stuck(reached))
    }
}

impl Channel for RawChannel {
    fn submit(&mut self, ring: &mut Ring, io: &Io<'_>) -> Result<(), Busy> {
        let token = Token::Io(io.key);
        let straight = |bounce: &Option<Bounce>| match bounce {
            Some(b) => b.fits(io.bufs),
            None => true,
        };
        match io.verb {
            Verb::Read { offset } | Verb::Write { offset, .. }
                if self.opened.in_memory && straight(&self.bounce) =>
            {
                self.transfer(io, offset)
            }
            Verb::Read { offset } if straight(&self.bounce) => {
                ring.read(token, self.file, io.bufs, offset).map_err(|Full| Busy)
            }
            Verb::Write { offset, dsync } if straight(&self.bounce) => {
                let dsync = dsync && !self.opened.traits.flush_is_noop;
                ring.write(token, self.file, io.bufs, offset, dsync).map_err(|Full| Busy)
            }
            Verb::Read { offset } => self.start_bounce(ring, io, offset, |buf| Work::Read { buf }),
            Verb::Write { offset, dsync } => {
                self.start_bounce(ring, io, offset, |buf| Work::Write { buf, dsync })
            }
            Verb::Sync if self.opened.traits.flush_is_noop => self.end_now(io.key, Outcome::Done),
            Verb::Sync => ring.fdatasync(token, self.file).map_err(|Full| Busy),
            Verb::Discard { offset, len } => {
                self.start_task(ring, io.key, Task::Discard, (offset, len))
            }
            Verb::WriteZeroes { offset, len, unmap } => {
                self.start_task(ring, io.key, Task::Zero { unmap }, (offset, len))
            }
        }
    }

    #[inline]
    fn finish(&mut self, io: &Io<'_>, res: i32) -> Outcome {
        match (io.verb, u32::try_from(res)) {
            (_, Err(_)) => outcome(res),
            (Verb::Read { .. } | Verb::Write { .. }, Ok(got)) if got >= io.bytes => Outcome::Done,
            (Verb::Read { offset }, Ok(got)) => self.opened.short_read(io, offset, got),
            (Verb::Write { .. }, Ok(got)) => self.opened.short_write(got),
            (Verb::Sync | Verb::Discard { .. } | Verb::WriteZeroes { .. }, Ok(_)) => Outcome::Done,
        }
    }

    fn on_channel_cqe(&mut self, ring: &mut Ring, n: u32, res: i32) -> Option<IoDone> {
        let n = n as usize;
        let mut op = self.ops.get_mut(n)?.take()?;
        let mut ended = self.advance(&mut op, res);
        if ended.is_none() && self.step(ring, n, &op).is_err() {
            // C5. An unusable ring shows at the thread's own next submit.
            let _ = ring.submit();
            if self.step(ring, n, &op).is_err() {
                ended = Some(Outcome::Again);
            }
        }
        let Some(outcome) = ended else {
            self.ops[n] = Some(op);
            return None;
        };
        self.free_ops.push(n);
        self.give_back(&op);
        Some(IoDone { key: op.key, outcome })
    }

    fn poll_done(&mut self) -> Option<IoDone> {
        self.done.pop_front()
    }

    fn close(&mut self, ring: &mut Ring) {
        ring.remove_file(self.file);
        if let Some(b) = &self.bounce {
            ring.release(b.pool.memory());
        }
    }
}

impl Opened {
    /// What direct I/O asks of buffers; nothing with the page cache.
    pub(super) fn buffer_mask(&self) -> BufferMask {
        self.alignment.map_or_else(BufferMask::default, |a| mask(a.memory, a.offset))
    }

    /// The part of `got` bytes after which a transfer can go on (C4).
    fn in_blocks(&self, got: u64) -> u64 {
        self.alignment.map_or(got, |a| got - got % u64::from(a.offset))
    }

    /// Whether a read of `asked` bytes at `offset` that got `got`, fewer, met the end of the file.
    ///
    /// A read that goes beyond the length that was taken and stops for another reason looks alike
    /// once the file has grown to whole blocks. What can go on is asked to go on, and gets nothing
    /// at the true end.
    fn is_end(&self, offset: u64, got: u64, asked: u64) -> bool {
        let (end, size) = (offset + got, self.extent.bytes());
        let here = end == size || (end > size && self.in_blocks(got) == 0);
        here && offset + asked <= self.extent.end()
    }

    /// The outcome of a transfer that cannot go on at `end`. If that was the end of the file, and it
    /// has grown over it since, there is more now.
    #[cold]
    fn stuck(&self, end: u64) -> Outcome {
        let is_longer = || self.file.metadata().is_ok_and(|meta| meta.len() > end);
        if self.extent.has_grown_past(end) && !self.block_device && is_longer() {
            return Outcome::Again;
        }
        Outcome::Failed(Errno(libc::EIO))
    }

    /// The outcome of a read that got `got` bytes, fewer than asked (C3).
    #[cold]
    fn short_read(&self, io: &Io<'_>, offset: u64, got: u32) -> Outcome {
        let bytes = u64::from(got);
        if !self.is_end(offset, bytes, u64::from(io.bytes)) {
            return match self.in_blocks(bytes) {
                0 => self.stuck(offset + bytes),
                _ => self.short_write(got),
            };
        }
        zero_from(io.bufs, u64::from(got));
        Outcome::Done
    }

    /// The outcome of a transfer that moved `got` bytes, fewer than asked, inside the file.
    #[cold]
    fn short_write(&self, got: u32) -> Outcome {
        let usable = self.in_blocks(u64::from(got));
        match u32::try_from(usable) {
            Ok(n) if n > 0 => Outcome::Short(n),
            _ => Outcome::Failed(Errno(libc::EIO)),
        }
    }
}

/// How many bytes the next step of a bounced transfer moves.
fn piece(op: &Op) -> usize {
    match op.work {
        Work::Task { .. } => usize::MAX,
        Work::Read { .. } | Work::Write { .. } => {
            usize::try_from(op.len - op.done).unwrap_or(usize::MAX).min(BOUNCE_SIZE)
        }
    }
}

/// Zeroes in the list from byte `from` on.
fn zero_from(list: &[GuestBuf], from: u64) {
    for piece in pieces(list, from) {
        piece.zero();
    }
}

/// The whole units of `unit` bytes inside a range; length 0 when there is none.
fn shrink(offset: u64, len: u64, unit: u64) -> (u64, u64) {
    let end = (offset + len) / unit * unit;
    let start = offset.next_multiple_of(unit);
    (start, end.saturating_sub(start))
}

#[cfg(test)]
impl RawChannel {
    /// Whether every slot and every buffer is free.
    pub(super) fn is_idle(&self) -> bool {
        let bufs = self.bounce.as_ref().map_or(BOUNCE_BUFS, |b| b.free.len());
        self.free_ops.len() == STEPPED_OPS
            && bufs == BOUNCE_BUFS
            && self.ops.iter().all(Option::is_none)
            && self.done.is_empty()
    }

    /// As on a file system that has neither holes nor zeroed ranges.
    pub(super) fn refuse_all_but_writing(&mut self) {
        self.ladder = Ladder::refused();
    }

    /// The memory of the bounce buffers, without keeping it.
    pub(super) fn bounce_memory(&self) -> Option<std::sync::Weak<crate::sys::bounce::Mapping>> {
        self.bounce.as_ref().map(|b| Arc::downgrade(b.pool.memory()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_shrinks_to_whole_units() {
        assert_eq!(shrink(512, 8192, 4096), (4096, 4096));
        assert_eq!(shrink(0, 8192, 4096), (0, 8192));
        assert_eq!(shrink(512, 1024, 4096).1, 0);
        assert_eq!(shrink(4096, 4095, 4096).1, 0);
        assert_eq!(shrink(4095, 4097, 4096), (4096, 4096));
    }

    #[test]
    fn direct_io_looks_at_every_address_and_length() {
        let b = Bounce::new(512, 4096).expect("memory");
        let memory = b.pool.buf(0);
        assert!(b.fits(&[]));
        assert!(b.fits(&[memory.take(4096), memory.skip(512).take(8192)]));
        assert!(!b.fits(&[memory.take(4096), memory.skip(256).take(8192)]));
        assert!(!b.fits(&[memory.take(512), memory.skip(512).take(3584)]));
    }
}
