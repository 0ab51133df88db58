//! The in-flight region: which heads were fetched and not answered, kept where a crash of ours does
//! not reach (QEMU's docs/interop/vhost-user.rst, "Inflight I/O tracking", split virtqueues).
//!
//! The region belongs to the front-end, which gives it to our successor. Per queue it holds the ring
//! size, a mark and a counter per head, the list of the batch that was published last, and the used
//! index that the marks belong to.
//!
//! Rules:
//! * **N1 Mark before work.** A head is marked after it was fetched and before the core has it.
//!   The heads marked are therefore what was fetched and not published, and at any moment
//!   `fetched = used.idx + marked`: where to go on needs no other record. (A front-end's word on
//!   it is wrong after a crash: QEMU says used.idx, cloud-hypervisor avail.idx.)
//! * **N2 A batch in four steps.** The used elements are written and their heads linked into the
//!   list; the used index is stored: *this* is when they are done; their marks are cleared; the
//!   region's used index follows. A successor that finds the two indexes apart by n clears the
//!   first n heads of the list: those marks were meant to go. One that finds them equal
//!   leaves the list alone: what was linked and not published is done again.
//! * **N3 Again, in order, first.** Marked heads are given to the core again, those fetched first
//!   in front, before anything new is fetched. Nobody was told that they were done, so the guest has
//!   not touched their buffers, and reading, writing or discarding the same once more changes nothing.
//! * **N4 Nothing is believed** (L2). The region is the front-end's to write, so recovery checks all
//!   that it uses and refuses to guess: a ring does not start on a region that cannot be right. A
//!   region without a marked head has nothing to say, whatever its indexes are.
//! * **N5 The cache mode survives, too.** A guest that has turned write-back off does not flush any more
//!   and does not say so again when we come back, nor does its front-end. So the mode is
//!   kept in a byte of padding of the first queue's first entry, which is nobody else's: 0 in
//!   a region that no process of ours has had.
//!
//! Every step of a recovery leaves a region from which the same recovery can start again.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::MAX_QUEUES;
use crate::block::{QueueId, Tag};
use crate::sys::fd;
use crate::sys::inflight::{ENTRY, HEADER, InflightMemory, QueueWords};
use crate::sys::memfd;
use crate::sys::ring::MAX_SIZE;

/// The version of the layout that we speak; 0 is a region that nobody has used.
const VERSION: u16 = 1;

/// What each queue's part is aligned to in a region of ours, in bytes (the specification asks for
/// no alignment; this is what libvhost-user and DPDK use).
const ALIGN: usize = 64;

// The cache modes as N5 has them.
const WRITE_BACK: u8 = 1;
const WRITE_THROUGH: u8 = 2;

/// Why a region, or a queue's part of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// More queues than a device has, or more entries than a ring.
    #[error(
        "{queues} queues of {size} entries are not between 1 and {MAX_QUEUES} of 1 to {MAX_SIZE}"
    )]
    Shape {
        /// Queues.
        queues: u16,
        /// Entries of each.
        size: u16,
    },
    /// The parts do not fit in, or are not aligned to 8 bytes.
    #[error("{size} bytes are not {queues} aligned parts of {part} bytes")]
    Size {
        /// Length of the region in bytes.
        size: u64,
        /// How many parts.
        queues: u16,
        /// Bytes that each needs.
        part: usize,
    },
    /// The memory could not be made or mapped.
    #[error(transparent)]
    Memory(#[from] io::Error),
    /// A layout that we do not know.
    #[error("version {version}, features {features:#x} are unknown")]
    Version {
        /// `version` as found.
        version: u16,
        /// `features` as found.
        features: u64,
    },
    /// The table is not as long as the message says, or shorter than the ring.
    #[error("a table of {found} heads instead of {wanted}")]
    Heads {
        /// `desc_num` as found.
        found: u16,
        /// What it has to be (at least).
        wanted: u16,
    },
    /// A mark that nobody makes, or one for a head that the ring does not have.
    #[error("head {head} of a ring of {size} is marked with {mark}")]
    Mark {
        /// The head.
        head: u16,
        /// Its mark as found.
        mark: u8,
        /// Size of the ring.
        size: u16,
    },
    /// The region's used index and the ring's are further apart than any batch is long, or the list of
    /// the last batch leaves the table.
    #[error("the last batch, from used index {from} to {to}, cannot be followed")]
    Batch {
        /// `used_idx` in the region.
        from: u16,
        /// The ring's used index.
        to: u16,
    },
}

/// The in-flight memory of a device, as a front-end hands it in.
#[derive(Debug)]
pub struct Region {
    memory: Arc<InflightMemory>,
    queues: u16,
    size: u16,
    stride: usize,
}

/// Bytes of one queue's part.
const fn part_len(size: u16) -> usize {
    HEADER + ENTRY * size as usize
}

fn check_shape(queues: u16, size: u16) -> Result<(), Unusable> {
    let fine = (1..=MAX_QUEUES).contains(&queues) && (1..=MAX_SIZE).contains(&size);
    if fine { Ok(()) } else { Err(Unusable::Shape { queues, size }) }
}

/// Makes the memory of a region for `queues` queues of `size` entries: zeroes, of a size that
/// nobody can change. Returns it with its length in bytes.
///
/// # Errors
/// [`Unusable::Shape`], or what the kernel answered.
pub fn create(queues: u16, size: u16) -> Result<(File, u64), Unusable> {
    check_shape(queues, size)?;
    let len = u64::from(queues) * part_len(size).next_multiple_of(ALIGN) as u64;
    let file = memfd::memfd(c"vhost-user-blkmq-inflight", len)?;
    memfd::seal_size(&file)?;
    Ok((file, len))
}

impl Region {
    /// Takes a region over: `len` bytes of `file` at `offset`, for `queues` queues of `size`
    /// entries. The parts are `len / queues` bytes apart, so that those of libvhost-user and DPDK
    /// (aligned to 64 bytes) fit as well as those without a gap.
    ///
    /// # Errors
    /// [`Unusable`]: nothing has been written then.
    pub fn attach(
        file: File,
        (offset, len): (u64, u64),
        queues: u16,
        size: u16,
    ) -> Result<Region, Unusable> {
        check_shape(queues, size)?;
        let part = part_len(size);
        fd::set_cloexec(fd::borrow(&file))?;
        let memory = Arc::new(InflightMemory::map(file, offset, len)?);
        let stride = memory.len() / usize::from(queues);
        if stride < part || !stride.is_multiple_of(8) {
            return Err(Unusable::Size { size: len, queues, part });
        }
        let region = Region { memory, queues, size, stride };
        for queue in 0..queues {
            let words = region.words(QueueId(queue)).expect("the parts fit, as just checked");
            check_header(&words)?;
        }
        Ok(region)
    }

    fn words(&self, queue: QueueId) -> Option<QueueWords> {
        let at = usize::from(queue.0) * self.stride;
        (queue.0 < self.queues).then(|| self.memory.part(at, self.size)).flatten()
    }

    /// The cache mode in which a process of ours left the disk, if one had this region (N5): `true`
    /// is write-back.
    #[must_use]
    pub fn writeback(&self) -> Option<bool> {
        match self.words(QueueId(0))?.padding(0) {
            WRITE_BACK => Some(true),
            WRITE_THROUGH => Some(false),
            _ => None,
        }
    }

    /// Keeps the cache mode that the guest has been told (N5).
    pub fn set_writeback(&self, on: bool) {
        if let Some(words) = self.words(QueueId(0)) {
            words.set_padding(0, if on { WRITE_BACK } else { WRITE_THROUGH });
        }
    }

    /// A queue's part; `None` for a queue that the region was not made for.
    #[must_use]
    pub fn part(&self, queue: QueueId) -> Option<Part> {
        self.words(queue).map(Part)
    }
}

#[cfg(test)]
impl Region {
    /// How many heads of a queue are marked.
    pub fn marked(&self, queue: QueueId) -> usize {
        let words = self.words(queue).expect("the region has it");
        (0..self.size).filter(|head| words.inflight(*head) != 0).count()
    }
}

/// A used region is of our version; its table is as long as the front-end says.
fn check_header(words: &QueueWords) -> Result<(), Unusable> {
    let (version, features) = (words.version(), words.features());
    if version == 0 {
        return Ok(());
    }
    if version != VERSION || features != 0 {
        return Err(Unusable::Version { version, features });
    }
    let (found, wanted) = (words.desc_num(), words.entries());
    if found == wanted { Ok(()) } else { Err(Unusable::Heads { found, wanted }) }
}

/// One queue's part of a region, on its way to the queue's thread.
#[derive(Debug)]
pub struct Part(QueueWords);

/// Where a ring stands when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Entries of the ring.
    pub size: u16,
    /// Where to fetch when the region has nothing to say: what the front-end told us.
    pub base: u16,
    /// The ring's used index.
    pub used: u16,
}

impl Part {
    /// Finds out what was in flight when the ring was last served, and from where to fetch (N1-N3).
    /// Formats a region that was never used.
    ///
    /// # Errors
    /// [`Unusable`] (N4): nothing has been written then, and the ring must not run.
    pub fn recover(self, start: Start) -> Result<(Tracker, u16), Unusable> {
        let Part(words) = self;
        if words.entries() < start.size {
            return Err(Unusable::Heads { found: words.entries(), wanted: start.size });
        }
        check_header(&words)?;
        if words.version() == 0 {
            format(&words, start.used);
            let tracker = Tracker { words, counter: 0, again: Vec::new() };
            return Ok((tracker, start.base));
        }
        let mut marked = marked(&words, start.size)?;
        finish_last_batch(&words, start.used, &mut marked)?;
        let counter = marked.iter().map(|(counter, _)| *counter).max();
        let counter = counter.map_or(0, |last| last.wrapping_add(1));
        // The one fetched first is taken first, which is the end of a vector.
        marked.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
        let again: Vec<Tag> = marked.iter().map(|(_, head)| Tag(*head)).collect();
        let count = u16::try_from(again.len()).expect("one per entry of a ring");
        let tracker = Tracker { words, counter, again };
        Ok((tracker, start.used.wrapping_add(count)))
    }
}

/// Makes an unused part one of ours. The version comes last: before it the part is still unused.
fn format(words: &QueueWords, used: u16) {
    for head in 0..words.entries() {
        words.set_inflight(head, false);
    }
    words.set_features(0);
    words.set_desc_num(words.entries());
    words.set_last_batch_head(0);
    words.set_used_idx(used);
    words.set_version(VERSION);
}

/// The heads marked, with their counters.
fn marked(words: &QueueWords, size: u16) -> Result<Vec<(u64, u16)>, Unusable> {
    let mut marked = Vec::new();
    for head in 0..words.entries() {
        match words.inflight(head) {
            0 => {}
            1 if head < size => marked.push((words.counter(head), head)),
            mark => return Err(Unusable::Mark { head, mark, size }),
        }
    }
    Ok(marked)
}

/// Clears the marks of what was published and not cleared any more (N2).
fn finish_last_batch(
    words: &QueueWords,
    used: u16,
    marked: &mut Vec<(u64, u16)>,
) -> Result<(), Unusable> {
    let from = words.used_idx();
    if from == used {
        return Ok(());
    }
    let mut done = vec![false; usize::from(words.entries())];
    if !marked.is_empty() {
        let count = used.wrapping_sub(from);
        let mut head = words.last_batch_head();
        for _ in 0..count {
            // A head twice in one batch is a loop; so is a batch of more heads than there are.
            match done.get_mut(usize::from(head)) {
                Some(done) if !*done => *done = true,
                _ => return Err(Unusable::Batch { from, to: used }),
            }
            head = words.next(head);
        }
    }
    for (head, _) in (0..).zip(&done).filter(|(_, done)| **done) {
        words.set_inflight(head, false);
    }
    words.set_used_idx(used);
    marked.retain(|(_, head)| !done[usize::from(*head)]);
    Ok(())
}

/// Keeps a queue's part of the region while the queue runs. Owned by the queue's thread.
#[derive(Debug)]
pub struct Tracker {
    words: QueueWords,
    /// What the next head that is fetched gets.
    counter: u64,
    /// What has to be done again, the first one last (N3).
    again: Vec<Tag>,
}

impl Tracker {
    /// The next head to be done again, if one is left.
    #[inline]
    pub fn again(&mut self) -> Option<Tag> {
        self.again.pop()
    }

    /// Whether heads are left to be done again.
    #[must_use]
    #[inline]
    pub fn has_more(&self) -> bool {
        !self.again.is_empty()
    }

    /// Marks a head that was fetched (N1). One that is done again has its mark, and keeps its
    /// place in the order.
    #[inline]
    pub fn mark(&mut self, head: Tag) {
        if self.words.inflight(head.0) != 1 {
            self.words.set_counter(head.0, self.counter);
            self.counter = self.counter.wrapping_add(1);
            self.words.set_inflight(head.0, true);
        }
    }

    /// Links a head whose used element was written into the batch (N2, the first step).
    #[inline]
    pub fn link(&mut self, head: Tag) {
        self.words.set_next(head.0, self.words.last_batch_head());
        self.words.set_last_batch_head(head.0);
    }

    /// The heads of the batch were published with this used index (N2, the last two steps).
    #[inline]
    pub fn published(&mut self, heads: &[Tag], used: u16) {
        for head in heads {
            self.words.set_inflight(head.0, false);
        }
        self.words.set_used_idx(used);
    }
}

#[cfg(test)]
mod tests;
