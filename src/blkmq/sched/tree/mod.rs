//! Requests sorted by where on the disk they start: a balanced search tree without allocation.
//!
//! The tree orders leaves, and a leaf holds up to [`LEAF`] requests: at the depths that disks have
//! most of the work is within one leaf, without a branch that depends on the places. Several trees
//! share a store, since a request waits in at most one of them. It is balanced by height and not
//! by chance: a guest chooses tags and sectors, and could make a tree whose shape depends on a
//! hash of either into a list that every other guest of the domain has to walk.
//!
//! Rules:
//! * **B1** Requests are in order of their places, and at one place in the order in which they came.
//! * **B2** Each leaf has a low: no place in the leaf is before it, and none in an earlier leaf is
//!   after it.
//! * **B3** The heights of the two sides of a leaf differ by at most one, hence n leaves are at
//!   most 1.44 log2(n + 2) deep.
//! * **B4** A leaf holds something, and of two neighbours one holds more than a quarter of
//!   [`LEAF`]. So a tree of n requests has at most n / 5 + 1 leaves, and the store enough for all.

mod balance;
mod leaf;

use super::flat::{Cell, Flat, NIL};
use crate::blkmq::Ident;
use crate::block::{HctxId, LaneId, Sector};
use leaf::{LEAF, LEFT, Leaf, LeafId, RIGHT};

/// Neighbours that hold no more are joined (B4).
const FEW: usize = LEAF / 4;

/// A sector number needs no more, since its offset in bytes fits 63 bits.
const SECTOR_BITS: u32 = 54;

/// Where a request starts: disks in the order of their lanes, sectors within a disk. The lanes from
/// 510 on are one disk here, which costs nothing but the order between these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::blkmq) struct Place(u64);

impl Place {
    /// The place of a sector on a disk: 63 bits, which are not all set.
    #[inline]
    pub(in crate::blkmq) const fn new(lane: LaneId, start: Sector) -> Place {
        let (last_lane, last) = ((1 << (63 - SECTOR_BITS)) - 2, (1 << SECTOR_BITS) - 1);
        let sector = if start.0 < last { start.0 } else { last };
        let lane = if lane.0 < last_lane { lane.0 } else { last_lane };
        Place((lane as u64) << SECTOR_BITS | sector)
    }

    /// The sector.
    #[inline]
    pub(in crate::blkmq) const fn sector(self) -> Sector {
        Sector(self.0 & ((1 << SECTOR_BITS) - 1))
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug)]
struct Spot {
    id: Ident,
    /// Nobody: in no tree.
    leaf: LeafId,
    slot: u8,
}

/// One tree; its leaves are in a [`Nodes`], and it must be used with no other.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::blkmq) struct Root(LeafId);

impl Root {
    /// A tree with nothing in it.
    pub(in crate::blkmq) const fn new() -> Root {
        Root(NIL)
    }
}

/// The leaves of several trees.
#[derive(Debug)]
pub(in crate::blkmq) struct Nodes {
    spots: Flat<Spot>,
    leaves: Vec<Leaf>,
    free: LeafId,
    /// Trees that there may be.
    trees: usize,
}

impl Nodes {
    /// A store for the requests of no hctx, in any number of trees. It takes some 460 bytes for
    /// each request.
    pub(in crate::blkmq) fn new() -> Nodes {
        Nodes::with_trees(usize::MAX)
    }

    /// A store for the requests of no hctx, in at most so many trees. It takes some 100 bytes for
    /// each request, and 450 for each tree.
    pub(in crate::blkmq) fn with_trees(trees: usize) -> Nodes {
        let nobody = Spot { id: Ident::default(), leaf: NIL, slot: 0 };
        let leaves = vec![Leaf::EMPTY];
        Nodes { spots: Flat::new(nobody), leaves, free: NIL, trees }
    }

    /// A hctx of `depth` tags joins. A control-time operation: it allocates.
    pub(in crate::blkmq) fn attach(&mut self, hctx: HctxId, depth: u16) {
        self.spots.attach(hctx, depth, |id| Spot { id, leaf: NIL, slot: 0 });
        let requests = self.spots.end() as usize;
        let needed = 1 + requests.min((requests / 5).saturating_add(self.trees)); // B4
        while self.leaves.len() < needed {
            let new = LeafId::try_from(self.leaves.len()).expect("fewer than cells");
            let mut leaf = Leaf::EMPTY;
            leaf.up = self.free;
            self.leaves.push(leaf);
            self.free = new;
        }
    }

    /// A hctx with no request in any tree leaves.
    pub(in crate::blkmq) fn detach(&mut self, hctx: HctxId) {
        let all_free = self.spots.cells_of(hctx).all(|cell| self.spots[cell].leaf == NIL);
        assert!(all_free, "a hctx leaves with nothing waiting");
        self.spots.detach(hctx);
    }

    /// Whether a request is in a tree.
    pub(in crate::blkmq) fn holds(&self, id: Ident) -> bool {
        self.spots[self.spots.cell(id)].leaf != NIL
    }

    /// Where a request was put that is in a tree.
    pub(in crate::blkmq) fn place(&self, id: Ident) -> Place {
        let spot = &self.spots[self.spots.cell(id)];
        Place(self.leaves[spot.leaf as usize].place(spot.slot))
    }

    /// Puts a request into a tree, after those at the same place.
    ///
    /// # Panics
    /// When it is in one already.
    pub(in crate::blkmq) fn insert(
        &mut self,
        root: &mut Root,
        id: Ident,
        lane: LaneId,
        start: Sector,
    ) {
        self.sort_in(root, self.spots.cell(id), Place::new(lane, start));
    }

    /// Takes a request out of the tree that it is in.
    ///
    /// # Panics
    /// When it is in none.
    pub(in crate::blkmq) fn remove(&mut self, root: &mut Root, id: Ident) {
        self.sort_out(root, self.spots.cell(id));
    }

    /// As [`insert`](Nodes::insert), of the request with this cell in a [`Flat`] that saw the same
    /// hctxs join and leave (L3).
    #[inline(always)]
    pub(in crate::blkmq) fn sort_in(&mut self, root: &mut Root, cell: Cell, place: Place) {
        assert!(self.spots[cell].leaf == NIL, "a request is in one tree at a time");
        let place = place.0;
        let mut at = self.last_leaf(*root, place + 1);
        if at == NIL {
            at = self.new_leaf(place);
            self.leaves[at as usize].height = 1;
            root.0 = at;
        } else if self.leaves[at as usize].len() == LEAF {
            let new = self.split(root, at);
            at = if place < self.leaves[new as usize].low { at } else { new }; // B2
        }
        let slot = self.leaves[at as usize].insert(place, cell);
        let spot = &mut self.spots[cell];
        (spot.leaf, spot.slot) = (at, slot);
    }

    /// As [`remove`](Nodes::remove); answers with the one that was after it, or nobody.
    #[inline(always)]
    pub(in crate::blkmq) fn sort_out(&mut self, root: &mut Root, cell: Cell) -> Cell {
        let Spot { leaf: at, slot, .. } = self.spots[cell];
        assert!(at != NIL, "only what is in a tree is taken out of it");
        self.spots[cell].leaf = NIL;
        let rank = self.leaves[at as usize].rank(slot);
        let next = self.from(at, rank + 1);
        let leaf = &mut self.leaves[at as usize];
        leaf.remove(slot, rank);
        let few = leaf.len();
        if few == FEW || few == 0 {
            self.shrunk(root, at);
        }
        next
    }

    /// The first at a place or after it, or nobody.
    pub(in crate::blkmq) fn seek(&self, root: Root, place: Place) -> Cell {
        let at = self.last_leaf(root, place.0);
        self.from(at, self.leaves[at as usize].before(place.0))
    }

    /// The first of all.
    pub(in crate::blkmq) fn first(&self, root: Root) -> Option<Ident> {
        self.name(self.leaves[self.outermost(root.0, LEFT) as usize].cell(0))
    }

    /// The last of all.
    pub(in crate::blkmq) fn last(&self, root: Root) -> Option<Ident> {
        self.last_of(self.outermost(root.0, RIGHT))
    }

    /// The first at a place or after it.
    pub(in crate::blkmq) fn first_from(&self, root: Root, place: Place) -> Option<Ident> {
        self.name(self.seek(root, place))
    }

    /// The first that starts at exactly this place.
    pub(in crate::blkmq) fn first_at(&self, root: Root, place: Place) -> Option<Ident> {
        self.first_from(root, place).filter(|id| self.place(*id) == place)
    }

    /// Those that start at exactly this place, in order of arrival.
    pub(in crate::blkmq) fn all_at(&self, root: Root, place: Place) -> impl Iterator<Item = Ident> {
        std::iter::successors(self.first_at(root, place), |id| self.after(*id))
            .take_while(move |id| self.place(*id) == place)
    }

    /// The one after a request, in the tree that it is in.
    pub(in crate::blkmq) fn after(&self, id: Ident) -> Option<Ident> {
        let (at, rank) = self.rank(id);
        self.name(self.from(at, rank + 1))
    }

    /// The one before a request, in the tree that it is in.
    pub(in crate::blkmq) fn before(&self, id: Ident) -> Option<Ident> {
        match self.rank(id) {
            (at, 0) => self.last_of(self.neighbour(at, LEFT)),
            (at, rank) => self.name(self.leaves[at as usize].cell(rank - 1)),
        }
    }

    fn rank(&self, id: Ident) -> (LeafId, usize) {
        let spot = &self.spots[self.spots.cell(id)];
        (spot.leaf, self.leaves[spot.leaf as usize].rank(spot.slot))
    }

    /// The request at a rank of a leaf, which may be one more than it has; or nobody.
    #[inline(always)]
    fn from(&self, at: LeafId, rank: usize) -> Cell {
        let leaf = &self.leaves[at as usize];
        if rank < leaf.len() {
            leaf.cell(rank)
        } else {
            self.leaves[self.neighbour(at, RIGHT) as usize].cell(0)
        }
    }

    fn last_of(&self, at: LeafId) -> Option<Ident> {
        let leaf = &self.leaves[at as usize];
        self.name(leaf.cell(leaf.len().wrapping_sub(1)))
    }

    #[inline]
    fn name(&self, cell: Cell) -> Option<Ident> {
        (cell != NIL).then(|| self.spots[cell].id)
    }

    /// The last leaf with a low before a place, or else the first (B2).
    #[inline(always)]
    fn last_leaf(&self, root: Root, place: u64) -> LeafId {
        let (mut best, mut last, mut at) = (NIL, NIL, root.0);
        while at != NIL {
            let leaf = &self.leaves[at as usize];
            let side = usize::from(leaf.low < place);
            best = if side == RIGHT { at } else { best };
            last = at;
            at = leaf.kids[side];
        }
        if best == NIL { last } else { best }
    }

    fn new_leaf(&mut self, low: u64) -> LeafId {
        let new = self.free;
        assert!(new != NIL, "there are leaves enough for every request (B4)");
        let leaf = &mut self.leaves[new as usize];
        self.free = leaf.up;
        leaf.low = low;
        leaf.up = NIL;
        leaf.kids = [NIL; 2];
        leaf.len = 0;
        new
    }

    fn free_leaf(&mut self, root: &mut Root, gone: LeafId) {
        self.unhang(root, gone);
        self.leaves[gone as usize].height = 0;
        self.leaves[gone as usize].up = self.free;
        self.free = gone;
    }

    /// Halves a full leaf; answers with the new one, which is the next.
    fn split(&mut self, root: &mut Root, full: LeafId) -> LeafId {
        let new = self.new_leaf(self.leaves[full as usize].place_at(LEAF / 2));
        self.shift(full, LEAF / 2, new);
        let right = self.leaves[full as usize].kids[RIGHT];
        let (up, side) =
            if right == NIL { (full, RIGHT) } else { (self.outermost(right, LEFT), LEFT) };
        self.leaves[new as usize].height = 1;
        self.hang(up, side, new);
        self.balance(root, up);
        new
    }

    /// A leaf has few requests or none (B4).
    fn shrunk(&mut self, root: &mut Root, at: LeafId) {
        if self.leaves[at as usize].len == 0 {
            self.free_leaf(root, at);
            return;
        }
        let next = self.neighbour(at, RIGHT);
        if next != NIL && self.leaves[next as usize].len() <= FEW {
            self.join(root, at, next);
        }
        let previous = self.neighbour(at, LEFT);
        if previous != NIL && self.leaves[previous as usize].len() <= FEW {
            self.join(root, previous, at);
        }
    }

    /// Moves all of a leaf into the one before it.
    fn join(&mut self, root: &mut Root, into: LeafId, gone: LeafId) {
        self.shift(gone, 0, into);
        self.free_leaf(root, gone);
    }

    /// Moves what is at a rank of a leaf or after it to another leaf, behind what that has.
    fn shift(&mut self, from: LeafId, rank: usize, to: LeafId) {
        while self.leaves[from as usize].len() > rank {
            let leaf = &mut self.leaves[from as usize];
            let cell = leaf.cell(rank);
            let slot = self.spots[cell].slot;
            let place = leaf.place(slot);
            leaf.remove(slot, rank);
            let slot = self.leaves[to as usize].insert(place, cell);
            let spot = &mut self.spots[cell];
            (spot.leaf, spot.slot) = (to, slot);
        }
    }
}

#[cfg(test)]
#[path = "../../tests/tree.rs"]
mod tests;
