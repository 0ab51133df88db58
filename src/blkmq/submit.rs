//! The beginning of a bio: a tag is claimed, and the bio goes into the batch of the sweep, into a
//! request that it touches (`merge`), or waits for a limit (`parked`) or a sync (`flush`).

use super::Ident;
use super::domain::Domain;
use super::merge::{Join, Look};
use super::tags::{Durable, State, TagBusy};
use crate::block::{Bio, Class, HctxId, Nanos, Op, SectorRange, Status, Tag};

impl Domain {
    /// Takes a bio in: claims its tag and puts it into the batch of the sweep. A flush goes to the
    /// flush machine instead.
    ///
    /// # Errors
    /// [`TagBusy`]: the head is live or out of range, so the guest broke the rules. Nothing
    /// changed, the live bio goes on (I02).
    ///
    /// # Panics
    /// When there is no such hctx.
    #[inline(always)] // what its caller knows of the bio is not stored to be loaded again
    pub fn submit(&mut self, id: HctxId, bio: Bio, now: Nanos) -> Result<(), TagBusy> {
        let Some(range) = bio.op.range() else {
            return self.submit_flush(id, bio.tag, bio.class, now);
        };
        let Domain { table, lanes, watch, plug, .. } = self;
        let hctx = table.get_mut(id);
        let lane = &lanes[hctx.lane.index()];
        let durable = match bio.op {
            Op::Write(_) if bio.fua && lane.dsync => Durable::Itself,
            op if bio.fua && op.is_write() => Durable::FlushAfter,
            _ => Durable::No,
        };
        hctx.tags.claim(&bio, durable, now, State::Plugged)?;
        watch.begun(now);
        hctx.stats.submitted(bio.op, now);
        let ident = Ident { hctx: id, tag: bio.tag };
        if !lane.keeper.is_open(&lane.limits) {
            self.submit_limited(ident, bio.op, range, now);
            return Ok(());
        }
        let look = hctx.look(bio.op, range, !bio.alone);
        if look.is_some() || plug.is_full(ident) {
            self.enter(ident, bio.op, range, look, now);
        } else {
            plug.push(ident, hctx.merging.plugged(bio.tag, bio.op, range));
        }
        Ok(())
    }

    // By its parts: a bio whose address is known elsewhere is made in memory, here and for all others.
    #[inline(never)]
    fn submit_flush(
        &mut self,
        id: HctxId,
        tag: Tag,
        class: Class,
        now: Nanos,
    ) -> Result<(), TagBusy> {
        let bio = Bio { class, ..Bio::new(tag, Op::Flush) };
        let hctx = self.table.get_mut(id);
        hctx.tags.claim(&bio, Durable::No, now, State::FlushWait)?;
        self.watch.begun(now);
        hctx.stats.submitted(bio.op, now);
        hctx.tags.epoch = hctx.tags.epoch.wrapping_add(1);
        // What the guest sent before the flush stays before it (M3).
        let lane = hctx.lane.index();
        self.stage_plug(now);
        let ident = Ident { hctx: id, tag: bio.tag };
        self.lanes[lane].flush.join(&mut self.table, ident, now);
        Ok(())
    }

    #[inline(never)] // only where there are limits
    fn submit_limited(&mut self, id: Ident, op: Op, range: SectorRange, now: Nanos) {
        if !self.park(id, op, now) {
            self.unlimited(id, op, range, now);
        }
    }

    /// A plugged bio that a limit lets go.
    pub(super) fn unlimited(&mut self, id: Ident, op: Op, range: SectorRange, now: Nanos) {
        let hctx = self.table.get_mut(id.hctx);
        let may = hctx.tags.slot(id.tag).join == Join::May;
        let look = hctx.look(op, range, may);
        self.enter(id, op, range, look, now);
    }

    /// Puts a plugged bio into a request that it touches, or into the batch.
    #[inline(always)] // sequential bios all come here
    fn enter(&mut self, id: Ident, op: Op, range: SectorRange, look: Option<Look>, now: Nanos) {
        if look.is_some_and(|look| self.merge_with(id, look)) {
            return;
        }
        if self.plug.is_full(id) {
            self.stage_plug(now);
        }
        let merging = &mut self.table.get_mut(id.hctx).merging;
        self.plug.push(id, merging.plugged(id.tag, op, range));
    }

    /// Claims a tag and answers it at once, without I/O: parse errors, GET_ID. So every popped
    /// head passes through the tag set and is answered in the same way.
    ///
    /// # Errors
    /// [`TagBusy`], as [`submit`](Domain::submit).
    ///
    /// # Panics
    /// When there is no such hctx.
    pub fn reject(&mut self, id: HctxId, tag: Tag, status: Status) -> Result<(), TagBusy> {
        let hctx = self.table.get_mut(id);
        let bio = Bio::new(tag, Op::Flush);
        hctx.tags.claim(&bio, Durable::No, Nanos(0), State::Done)?;
        self.watch.begun(Nanos(0));
        hctx.answer(tag, status);
        Ok(())
    }
}
