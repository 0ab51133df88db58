//! Requests sorted by where on the disk they start: a balanced search tree without allocation.
//!
//! An AVL tree with parent links over one store of nodes, one node for each tag. Several trees
//! share a store, since a request waits in at most one of them. It is balanced by height and not
//! by chance: a guest chooses tags and sectors, and could make a tree whose shape depends on a
//! hash of either into a list that every other guest of the domain has to walk.
//!
//! Rules:
//! * **B1** In order: everything left of a node is at a place before its own, or at the same place
//!   and came earlier. So requests at one place keep the order in which they came.
//! * **B2** The heights of the two sides of a node differ by at most one, hence n nodes are at most
//!   1.44 log2(n + 2) deep: 7 for 32, 14 for 1024.
//! * **B3** A node has a height of 0 exactly while it is in no tree.

use super::flat::{Cell, Flat, NIL};
use crate::blkmq::Ident;
use crate::block::{HctxId, LaneId, Sector};

/// Where a request starts: disks in the order of their lanes, sectors within a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::blkmq) struct Place(u128);

impl Place {
    /// The place of a sector on a disk.
    pub(in crate::blkmq) const fn new(lane: LaneId, start: Sector) -> Place {
        Place((lane.0 as u128) << 64 | start.0 as u128)
    }
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Node {
    sector: u64,
    up: Cell,
    /// Left and right.
    kids: [Cell; 2],
    id: Ident,
    lane: u16,
    height: u8,
}

impl Node {
    const fn of(id: Ident) -> Node {
        Node { sector: 0, up: NIL, kids: [NIL; 2], id, lane: 0, height: 0 }
    }

    const fn place(&self) -> Place {
        Place::new(LaneId(self.lane), Sector(self.sector))
    }
}

/// One tree; its nodes are in a [`Nodes`], and it must be used with no other.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::blkmq) struct Root(Cell);

impl Root {
    /// A tree with nothing in it.
    pub(in crate::blkmq) const fn new() -> Root {
        Root(NIL)
    }

    /// Whether nothing is in it.
    pub(in crate::blkmq) const fn is_empty(self) -> bool {
        self.0 == NIL
    }
}

/// The nodes of several trees.
#[derive(Debug)]
pub(in crate::blkmq) struct Nodes {
    flat: Flat<Node>,
}

impl Nodes {
    /// A store for the requests of no hctx.
    pub(in crate::blkmq) fn new() -> Nodes {
        Nodes { flat: Flat::new(Node::of(Ident::default())) }
    }

    /// A hctx of `depth` tags joins. A control-time operation: it allocates.
    pub(in crate::blkmq) fn attach(&mut self, hctx: HctxId, depth: u16) {
        self.flat.attach(hctx, depth, Node::of);
    }

    /// A hctx with no request in any tree leaves.
    pub(in crate::blkmq) fn detach(&mut self, hctx: HctxId) {
        let all_free = self.flat.cells_of(hctx).all(|cell| self.flat[cell].height == 0);
        assert!(all_free, "a hctx leaves with nothing waiting");
        self.flat.detach(hctx);
    }

    /// Whether a request is in a tree (B3).
    pub(in crate::blkmq) fn holds(&self, id: Ident) -> bool {
        self.flat[self.flat.cell(id)].height != 0
    }

    /// Where a request was put that is in a tree.
    pub(in crate::blkmq) fn place(&self, id: Ident) -> Place {
        self.flat[self.flat.cell(id)].place()
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
        let new = self.flat.cell(id);
        assert!(self.flat[new].height == 0, "a request is in one tree at a time");
        let place = Place::new(lane, start);
        let (mut up, mut side, mut at) = (NIL, LEFT, root.0);
        while at != NIL {
            let node = &self.flat[at];
            up = at;
            side = usize::from(node.place() <= place); // B1
            at = node.kids[side];
        }
        self.flat[new] = Node { sector: start.0, up, kids: [NIL; 2], id, lane: lane.0, height: 1 };
        if up == NIL {
            root.0 = new;
        } else {
            self.flat[up].kids[side] = new;
            self.balance(root, up);
        }
    }

    /// Takes a request out of the tree that it is in.
    ///
    /// # Panics
    /// When it is in none.
    pub(in crate::blkmq) fn remove(&mut self, root: &mut Root, id: Ident) {
        let gone = self.flat.cell(id);
        let node = self.flat[gone];
        assert!(node.height != 0, "only what is in a tree is taken out of it");
        let [left, right] = node.kids;
        let low; // the lowest node below which something went
        if left == NIL || right == NIL {
            let kid = left | right;
            self.replace(root, gone, kid);
            low = node.up;
        } else {
            let heir = self.outermost(right, LEFT);
            let up = self.flat[heir].up;
            if up == gone {
                low = heir;
            } else {
                low = up;
                let rest = self.flat[heir].kids[RIGHT];
                self.hang(up, LEFT, rest);
                self.hang(heir, RIGHT, right);
            }
            self.hang(heir, LEFT, left);
            self.flat[heir].height = node.height;
            self.replace(root, gone, heir);
        }
        self.flat[gone].height = 0;
        self.balance(root, low);
    }

    /// The first of all.
    pub(in crate::blkmq) fn first(&self, root: Root) -> Option<Ident> {
        self.name(self.outermost(root.0, LEFT))
    }

    /// The last of all.
    pub(in crate::blkmq) fn last(&self, root: Root) -> Option<Ident> {
        self.name(self.outermost(root.0, RIGHT))
    }

    /// The first at a place or after it.
    pub(in crate::blkmq) fn first_from(&self, root: Root, place: Place) -> Option<Ident> {
        let (mut best, mut at) = (NIL, root.0);
        while at != NIL {
            let node = &self.flat[at];
            let before = node.place() < place;
            best = if before { best } else { at };
            at = node.kids[usize::from(before)];
        }
        self.name(best)
    }

    /// Those that start at exactly this place, in order of arrival.
    pub(in crate::blkmq) fn all_at(&self, root: Root, place: Place) -> impl Iterator<Item = Ident> {
        std::iter::successors(self.first_from(root, place), |id| self.after(*id))
            .take_while(move |id| self.place(*id) == place)
    }

    /// The one after a request, in the tree that it is in.
    pub(in crate::blkmq) fn after(&self, id: Ident) -> Option<Ident> {
        self.name(self.neighbour(self.flat.cell(id), RIGHT))
    }

    /// The one before a request, in the tree that it is in.
    pub(in crate::blkmq) fn before(&self, id: Ident) -> Option<Ident> {
        self.name(self.neighbour(self.flat.cell(id), LEFT))
    }

    fn name(&self, cell: Cell) -> Option<Ident> {
        (cell != NIL).then(|| self.flat[cell].id)
    }

    fn outermost(&self, mut at: Cell, side: usize) -> Cell {
        // Nobody's cell has nobody for a kid, so an empty tree needs no question.
        while self.flat[at].kids[side] != NIL {
            at = self.flat[at].kids[side];
        }
        at
    }

    fn neighbour(&self, mut at: Cell, side: usize) -> Cell {
        let kid = self.flat[at].kids[side];
        if kid != NIL {
            return self.outermost(kid, 1 - side);
        }
        loop {
            let up = self.flat[at].up;
            if up == NIL || self.flat[up].kids[side] != at {
                return up;
            }
            at = up;
        }
    }

    /// Makes `kid` (or nobody) the kid of `up`.
    fn hang(&mut self, up: Cell, side: usize, kid: Cell) {
        self.flat[up].kids[side] = kid;
        if kid != NIL {
            self.flat[kid].up = up;
        }
    }

    /// Puts `new` (or nobody) where `old` hangs.
    fn replace(&mut self, root: &mut Root, old: Cell, new: Cell) {
        let up = self.flat[old].up;
        if up == NIL {
            root.0 = new;
            if new != NIL {
                self.flat[new].up = NIL;
            }
        } else {
            let side = usize::from(self.flat[up].kids[RIGHT] == old);
            self.hang(up, side, new);
        }
    }

    fn heights(&self, at: Cell) -> [u8; 2] {
        self.flat[at].kids.map(|kid| self.flat[kid].height)
    }

    /// The height of a node follows from those of its kids.
    fn measure(&mut self, at: Cell) -> u8 {
        let [left, right] = self.heights(at);
        let height = 1 + left.max(right);
        self.flat[at].height = height;
        height
    }

    /// Restores B2 from `at` upwards, when one side of it has become one higher or lower.
    ///
    /// It ends where a subtree is as high as before: nothing above can tell the difference.
    fn balance(&mut self, root: &mut Root, mut at: Cell) {
        while at != NIL {
            let before = self.flat[at].height;
            let [left, right] = self.heights(at);
            let after = if left.abs_diff(right) > 1 {
                let heavy = usize::from(right > left);
                let kid = self.flat[at].kids[heavy];
                let inner = self.heights(kid);
                if inner[1 - heavy] > inner[heavy] {
                    self.turn(root, kid, 1 - heavy);
                }
                at = self.turn(root, at, heavy);
                self.flat[at].height
            } else {
                let height = 1 + left.max(right);
                self.flat[at].height = height;
                height
            };
            if after == before {
                return;
            }
            at = self.flat[at].up;
        }
    }

    /// Turns the kid on one side up into the place of `at`, which becomes its kid on the other
    /// side; answers with the one that is up now. The order (B1) stays: what was between the two
    /// still is.
    fn turn(&mut self, root: &mut Root, at: Cell, side: usize) -> Cell {
        let kid = self.flat[at].kids[side];
        let between = self.flat[kid].kids[1 - side];
        self.replace(root, at, kid);
        self.hang(at, side, between);
        self.hang(kid, 1 - side, at);
        self.measure(at);
        self.measure(kid);
        kid
    }
}

#[cfg(test)]
#[path = "../tests/tree.rs"]
mod tests;
