//! Merging: bios that touch on the disk travel as one request.
//!
//! Rules:
//! * **M1 Who.** Bios of one hctx (so of one disk), of the same operation (write-zeroes: with the
//!   same flag), of the same class and the same durability. Not one that has to travel alone
//!   (several ranges, buffers that need bouncing), nor one that was in a failed request (M9).
//! * **M2 Where.** Only with a request that waits, in the batch or with the scheduler, and only
//!   without a gap: behind its end or before its start. What is with the kernel or left over stays
//!   as it is.
//! * **M3 Flush.** Never across a flush of the hctx: each one begins an epoch, and only bios of one
//!   epoch are joined.
//! * **M4 Limits.** A request has at most `max_segments` buffers and `max_bytes` bytes and does not
//!   cross a multiple of `chunk_bytes`.
//! * **M5 Leader.** A request keeps the name of the bio that it began with, its leader, on whichever
//!   side others join. The leader's slot says what all of them do; the others are `Merged` and in no
//!   list. They are chained in sector order (`chain`).
//! * **M6 Place.** Who joins takes no place in line. When two requests become one, the earlier of the
//!   two places stays (Linux: the earlier expiry), and the older arrival.
//! * **M7 Search.** First the newest request of the same operation (one hit), then the newest 8 of
//!   the batch, the newest 8 that were staged, and the scheduler's own index. After a join found
//!   like this, the request that the grown one touches now is joined too. Fewer than one hit in 100
//!   over [`WINDOW`] tries: only the one-hit look for the next [`REST`] bios.
//! * **M8 Short.** Bios wholly inside what is done are answered; the first of the others leads the
//!   rest, which goes before anything new (`complete`; L10).
//! * **M9 Failed.** Which bio failed is found out by trying each alone, once more, in order, and
//!   never merged again: only the bad range fails (L12, I07; `complete`).
//! * **M10 Books.** A bio that joined counts as a merge and never as an I/O (stats), so that I/Os
//!   and merges add up to the guest's bios.

use super::domain::Domain;
use super::hctx::Hctx;
use super::sched::Scheduler;
use super::tags::{Slot, State};
use super::{Ident, sched};
use crate::block::{HctxId, LaneId, Op, SECTOR_SIZE, SectorRange, Tag};

mod chain;
mod newest;

pub use chain::Bios;
pub(super) use chain::{Rest, Run};
use newest::{KINDS, Latest, Newest, is_grown, kind};

/// The most buffers of a request that an operator may allow: what one system call takes (IOV_MAX).
pub const MAX_SEGMENTS: u16 = 1024;

/// The most bytes of a request that an operator may allow: what Linux moves in one system call
/// (MAX_RW_COUNT), in whole pages.
const MAX_BYTES: u32 = 0x7fff_f000;

/// Tries after which the rate of hits is looked at (M7).
const WINDOW: u16 = 4096;
/// Hits in 100 tries that pay for the search (M7).
const WORTH: u32 = 1;
/// Bios that rest from the search when it did not pay (M7).
const REST: u32 = 65_536;

/// Requests that may be absorbed after one join. More than two never touch a grown one, except
/// when limits kept some apart.
const CASCADE: usize = 4;

/// How hard it is tried, as Linux's `nomerges`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeSearch {
    /// 0: everywhere (M7).
    #[default]
    Full,
    /// 1: only with the newest request of the same operation.
    OneHit,
    /// 2: not at all.
    Off,
}

impl MergeSearch {
    /// The search that `nomerges` means with this number; `None` beyond 2.
    #[must_use]
    pub const fn of_nomerges(level: u8) -> Option<MergeSearch> {
        match level {
            0 => Some(MergeSearch::Full),
            1 => Some(MergeSearch::OneHit),
            2 => Some(MergeSearch::Off),
            _ => None,
        }
    }
}

/// How a disk's bios are merged (M4, M7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeConfig {
    /// How hard it is tried.
    pub search: MergeSearch,
    /// The longest request that merging makes, in bytes. A longer bio stays as it is.
    pub max_bytes: u32,
    /// The most buffers of a request that merging makes; more than [`MAX_SEGMENTS`] counts as that.
    pub max_segments: u16,
    /// No request that merging makes crosses a multiple of this many bytes; 0 for no such line.
    pub chunk_bytes: u32,
}

impl Default for MergeConfig {
    fn default() -> MergeConfig {
        let (max_bytes, max_segments) = (1 << 20, 256);
        MergeConfig { search: MergeSearch::Full, max_bytes, max_segments, chunk_bytes: 0 }
    }
}

/// What merging has done on one hctx so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounters {
    /// Bios for which there was something to look at.
    pub tries: u64,
    /// Joined with the newest request of their operation.
    pub one_hit: u64,
    /// Joined with one of the newest of the batch, or of those that were staged.
    pub scanned: u64,
    /// Joined with one that the scheduler found.
    pub found: u64,
    /// Requests that became part of another one because a bio closed the gap.
    pub absorbed: u64,
    /// Times that the search did not pay and rested (M7).
    pub rests: u64,
}

/// Whether a bio may be joined with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// When everything fits.
    May,
    /// It travels alone (M1).
    Never,
    /// Others have joined it, and it was issued with them.
    Led,
    /// It was, as the guest of another one (M10).
    Joined,
    /// It was, but that one's request was taken apart or went without it: it is, or leads, a
    /// request of its own, and is never joined again.
    Piece,
}

/// Where a new bio is looked up (M7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The newest request of the same operation, when the bio touches it.
    newest: Option<Tag>,
    /// Everywhere, if not there.
    full: bool,
}

/// On which side of a held request the other one touches it.
pub(super) use sched::Side;

/// Merging on one hctx.
#[derive(Debug)]
pub(super) struct Merging {
    config: MergeConfig,
    /// The newest request of each kind.
    newest: [Latest; KINDS],
    plugged: Newest,
    staged: Newest,
    tries: u16,
    hits: u16,
    /// Bios that are still to rest.
    rest: u32,
    pub(super) counters: MergeCounters,
}

impl Merging {
    /// Nothing seen yet.
    pub(super) fn new(config: MergeConfig) -> Merging {
        Merging {
            config: sane(config),
            newest: [Latest::NONE; KINDS],
            plugged: Newest::NONE,
            staged: Newest::NONE,
            tries: 0,
            hits: 0,
            rest: 0,
            counters: MergeCounters::default(),
        }
    }

    /// Whether nothing is merged at all.
    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.config.search == MergeSearch::Off
    }

    /// A bio that joined nobody is going into the batch. While the search rests, nobody scans the
    /// list of the newest of the batch, so it is not kept. Whether it is so long that the batch is
    /// to be handed on.
    #[inline]
    pub(super) fn plugged(&mut self, tag: Tag, op: Op, range: SectorRange) -> bool {
        if self.is_off() {
            return false;
        }
        self.newest[kind(op)] = Latest::of(tag, range);
        if self.rest == 0 {
            self.plugged.push(tag);
        }
        is_grown(range)
    }

    /// The request of `tag` has grown to this.
    fn grown(&mut self, tag: Tag, op: Op) {
        if let Some(range) = op.range() {
            self.newest[kind(op)] = Latest::of(tag, range);
        }
    }

    /// A request went to the scheduler.
    #[inline]
    pub(super) fn staged(&mut self, tag: Tag) {
        if self.rest == 0 {
            self.staged.push(tag);
        }
    }

    /// Whether this bio is to be looked up everywhere (M7).
    #[inline]
    fn searches(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        self.config.search == MergeSearch::Full
    }

    /// Notes how a full search ended (M7).
    fn searched(&mut self, hit: bool) {
        self.tries += 1;
        self.hits += u16::from(hit);
        if self.tries == WINDOW {
            if u32::from(self.hits) * 100 < u32::from(WINDOW) * WORTH {
                self.rest = REST;
                self.counters.rests += 1;
            }
            (self.tries, self.hits) = (0, 0);
        }
    }

    /// On which side of the request `held` the request `new` may join (M1 to M4).
    #[inline]
    fn fits(&self, held: &Slot, new: &Slot) -> Option<Side> {
        let (a, b) = same_operation(held.op, new.op)?;
        let (side, start) = if a.end() == b.start() {
            (Side::Back, a.start())
        } else if b.end() == a.start() {
            (Side::Front, b.start())
        } else {
            return None;
        };
        let alike = held.join == Join::May
            && new.join == Join::May
            && held.class == new.class
            && held.durable == new.durable
            && held.epoch == new.epoch;
        let sectors = a.sectors().checked_add(b.sectors())?;
        let segments = held.segments.checked_add(new.segments)?;
        let short = sectors <= u64::from(self.config.max_bytes) / SECTOR_SIZE;
        let chunk = u64::from(self.config.chunk_bytes) / SECTOR_SIZE;
        let within = chunk == 0 || start.0 / chunk == (start.0 + sectors - 1) / chunk;
        (alike && short && within && segments <= self.config.max_segments).then_some(side)
    }
}

/// The limits within what the kernel takes.
fn sane(mut config: MergeConfig) -> MergeConfig {
    config.max_segments = config.max_segments.min(MAX_SEGMENTS);
    config.max_bytes = config.max_bytes.min(MAX_BYTES);
    config
}

#[inline]
fn same_operation(a: Op, b: Op) -> Option<(SectorRange, SectorRange)> {
    match (a, b) {
        (Op::Read(a), Op::Read(b))
        | (Op::Write(a), Op::Write(b))
        | (Op::Discard(a), Op::Discard(b)) => Some((a, b)),
        (Op::WriteZeroes { range: a, unmap: x }, Op::WriteZeroes { range: b, unmap: y })
            if x == y =>
        {
            Some((a, b))
        }
        _ => None,
    }
}

impl Hctx {
    /// Where a new bio, claimed and not yet in the batch, has to be looked up; `None` when there is
    /// nobody that it could join. `may`: it may be joined with others.
    #[inline]
    pub(super) fn look(&mut self, op: Op, range: SectorRange, may: bool) -> Option<Look> {
        // The bio itself counts as one of those that wait.
        if !may || self.merging.is_off() || self.waiting() < 2 {
            return None;
        }
        let merging = &mut self.merging;
        merging.counters.tries = merging.counters.tries.wrapping_add(1);
        let newest = merging.newest[kind(op)];
        let newest = if newest.touches(range) { newest.tag.tag() } else { None };
        let full = merging.searches();
        (full || newest.is_some()).then_some(Look { newest, full })
    }

    /// Requests that a new one could join.
    #[inline]
    fn waiting(&self) -> u16 {
        self.tags.count(State::Plugged).wrapping_add(self.tags.count(State::Staged))
    }

    /// The newest request of the same kind, which the bio touches, if it fits.
    #[inline]
    fn one_hit(&self, tag: Tag, held: Tag) -> Option<(Tag, Side)> {
        let new = self.tags.slot(tag);
        let slot = self.tags.slot(held);
        let waits = matches!(slot.state(), State::Plugged | State::Staged) && held != tag;
        if !waits {
            return None;
        }
        Some((held, self.merging.fits(slot, new)?))
    }

    /// The newest of a list that fits, among those that are still in `state`.
    fn scan(&self, list: &Newest, state: State, tag: Tag) -> Option<(Tag, Side)> {
        let new = self.tags.slot(tag);
        let range = new.op.range()?;
        list.iter().find_map(|held| {
            let slot = self.tags.slot(held);
            // Where nothing merges, this is how all looks end.
            if !slot.op.range()?.touches(range) || slot.state() != state || held == tag {
                return None;
            }
            Some((held, self.merging.fits(slot, new)?))
        })
    }

    /// Another request than the newest that fits (M7), and whether it was the scheduler's find.
    fn search(&self, id: Ident, scheduler: &mut dyn Scheduler) -> Option<(Tag, Side, bool)> {
        let plugged = self.scan(&self.merging.plugged, State::Plugged, id.tag);
        if let Some((held, side)) = plugged {
            return Some((held, side, false));
        }
        if self.tags.count(State::Staged) == 0 {
            return None;
        }
        if let Some((held, side)) = self.scan(&self.merging.staged, State::Staged, id.tag) {
            return Some((held, side, false));
        }
        let (held, _) = scheduler.find(&self.item(id))?;
        if held.hctx != id.hctx || held.tag == id.tag {
            return None;
        }
        let slot = self.tags.slot(held.tag);
        if slot.state() != State::Staged {
            return None;
        }
        Some((held.tag, self.merging.fits(slot, self.tags.slot(id.tag))?, true))
    }
}

impl Domain {
    /// Lets the new bio join a request that waits. `false` when there is none that fits: it is a
    /// request of its own.
    #[inline(never)] // seldom, where nothing merges
    pub(super) fn merge_with(&mut self, id: Ident, Look { newest, full }: Look) -> bool {
        let hctx = self.table.get_mut(id.hctx);
        let mut found = newest.and_then(|newest| hctx.one_hit(id.tag, newest));
        if found.is_some() {
            hctx.merging.counters.one_hit += 1;
        } else if full && let Some((held, side, by)) = hctx.search(id, &mut *self.scheduler) {
            let counters = &mut hctx.merging.counters;
            *(if by { &mut counters.found } else { &mut counters.scanned }) += 1;
            found = Some((held, side));
        }
        if full {
            hctx.merging.searched(found.is_some());
        }
        let Some((held, side)) = found else { return false };
        self.join(id, held, side);
        if full {
            self.cascade(Ident { hctx: id.hctx, tag: held });
        }
        true
    }

    /// The new bio becomes part of the request `held` (M5).
    #[inline]
    fn join(&mut self, id: Ident, held: Tag, side: Side) {
        let hctx = self.table.get_mut(id.hctx);
        let into = Ident { hctx: id.hctx, tag: held };
        let staged = hctx.tags.slot(held).state() == State::Staged;
        let before = staged.then(|| hctx.item(into));
        let op = hctx.tags.slot(id.tag).op;
        hctx.tags.join(held, id.tag, side);
        hctx.stats.merged(op);
        let whole = hctx.tags.slot(held).op;
        hctx.merging.grown(held, whole);
        if let Some(before) = before {
            self.scheduler.grown(&before, &hctx.item(into));
        }
        if whole.range().is_some_and(is_grown) {
            self.note_grown();
        }
    }

    /// Joins the requests that a grown one touches now.
    fn cascade(&mut self, mut at: Ident) {
        for _ in 0..CASCADE {
            let hctx = self.table.get(at.hctx);
            if hctx.waiting() < 2 {
                return;
            }
            let Some((other, side, _)) = hctx.search(at, &mut *self.scheduler) else { return };
            at = self.absorb(at, Ident { tag: other, ..at }, side);
        }
    }

    /// Two requests that wait become one; answers with the one that stays. `side` is where `at`
    /// touches `other`. One that the scheduler holds stays rather than one of the batch, since it
    /// has its place already (M6).
    fn absorb(&mut self, at: Ident, other: Ident, side: Side) -> Ident {
        let hctx = self.table.get_mut(at.hctx);
        let state = |id: Ident| hctx.tags.slot(id.tag).state();
        let (into, gone, side) = match (state(at), state(other), side) {
            (State::Plugged, State::Staged, side) => (other, at, side),
            (_, _, Side::Back) => (at, other, Side::Front),
            (_, _, Side::Front) => (at, other, Side::Back),
        };
        let held = |id: Ident| (state(id) == State::Staged).then(|| hctx.item(id));
        let (before, lost) = (held(into), held(gone));
        let op = hctx.tags.slot(gone.tag).op;
        hctx.tags.join(into.tag, gone.tag, side);
        hctx.stats.merged(op);
        hctx.merging.counters.absorbed += 1;
        hctx.merging.grown(into.tag, hctx.tags.slot(into.tag).op);
        let after = hctx.item(into);
        if let Some(before) = before {
            self.scheduler.grown(&before, &after);
        }
        match lost {
            Some(lost) => self.scheduler.absorbed(&lost, &after),
            None => self.plug.absorb(gone, into),
        }
        self.note_grown();
        into
    }

    /// The last request of the batch may be another one, or another length, than it was.
    fn note_grown(&mut self) {
        let Some(last) = self.plug.last() else { return };
        let op = self.table.get(last.hctx).tags.slot(last.tag).op;
        self.plug.set_grown(op.range().is_some_and(is_grown));
    }

    /// How the bios of a disk are merged.
    ///
    /// # Panics
    /// When there is no such disk.
    #[must_use]
    pub fn merging(&self, lane: LaneId) -> MergeConfig {
        self.lanes[lane.index()].merging
    }

    /// Changes how the bios of a disk are merged from now on. What was merged stays so.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn set_merging(&mut self, lane: LaneId, config: MergeConfig) {
        let config = sane(config);
        self.lanes[lane.index()].merging = config;
        let of = |hctx: &&mut Hctx| hctx.lane == lane && hctx.merging.config != config;
        for hctx in self.table.iter_mut().filter(of) {
            hctx.merging.config = config;
            // Who changes how to search wants it now. Saying the same again changes nothing.
            (hctx.merging.rest, hctx.merging.tries, hctx.merging.hits) = (0, 0, 0);
        }
    }

    /// Changes how hard it is tried, as Linux's `nomerges`, and nothing else.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn set_nomerges(&mut self, lane: LaneId, search: MergeSearch) {
        self.set_merging(lane, MergeConfig { search, ..self.merging(lane) });
    }

    /// What merging has done on a hctx.
    ///
    /// # Panics
    /// When there is no such hctx.
    #[must_use]
    pub fn merge_counters(&self, id: HctxId) -> &MergeCounters {
        &self.table.get(id).merging.counters
    }
}

#[cfg(test)]
#[path = "../tests/merge.rs"]
mod tests;
