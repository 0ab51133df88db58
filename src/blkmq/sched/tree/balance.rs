//! The tree of the leaves: an AVL tree with parent links (B3).

use super::super::flat::NIL;
use super::leaf::{LEFT, Leaf, LeafId, RIGHT};
use super::{Nodes, Root};

impl Nodes {
    /// The first or last leaf below one, or that itself.
    pub(super) fn outermost(&self, mut at: LeafId, side: usize) -> LeafId {
        // Nobody has nobody for a kid, so an empty tree needs no question.
        while self.leaves[at as usize].kids[side] != NIL {
            at = self.leaves[at as usize].kids[side];
        }
        at
    }

    /// The leaf before or after another.
    pub(super) fn neighbour(&self, mut at: LeafId, side: usize) -> LeafId {
        let kid = self.leaves[at as usize].kids[side];
        if kid != NIL {
            return self.outermost(kid, 1 - side);
        }
        loop {
            let up = self.leaves[at as usize].up;
            if up == NIL || self.leaves[up as usize].kids[side] != at {
                return up;
            }
            at = up;
        }
    }

    /// Takes a leaf out of the tree of leaves.
    pub(super) fn unhang(&mut self, root: &mut Root, gone: LeafId) {
        let Leaf { kids: [left, right], up, height, .. } = self.leaves[gone as usize];
        let low; // the lowest leaf below which something went
        if left == NIL || right == NIL {
            self.replace(root, gone, left | right);
            low = up;
        } else {
            let heir = self.outermost(right, LEFT);
            let above = self.leaves[heir as usize].up;
            if above == gone {
                low = heir;
            } else {
                low = above;
                let rest = self.leaves[heir as usize].kids[RIGHT];
                self.hang(above, LEFT, rest);
                self.hang(heir, RIGHT, right);
            }
            self.hang(heir, LEFT, left);
            self.leaves[heir as usize].height = height;
            self.replace(root, gone, heir);
        }
        self.balance(root, low);
    }

    /// Makes `kid` (or nobody) the kid of `up`.
    pub(super) fn hang(&mut self, up: LeafId, side: usize, kid: LeafId) {
        self.leaves[up as usize].kids[side] = kid;
        if kid != NIL {
            self.leaves[kid as usize].up = up;
        }
    }

    /// Puts `new` (or nobody) where `old` hangs.
    fn replace(&mut self, root: &mut Root, old: LeafId, new: LeafId) {
        let up = self.leaves[old as usize].up;
        if up == NIL {
            root.0 = new;
            if new != NIL {
                self.leaves[new as usize].up = NIL;
            }
        } else {
            let side = usize::from(self.leaves[up as usize].kids[RIGHT] == old);
            self.hang(up, side, new);
        }
    }

    fn heights(&self, at: LeafId) -> [u8; 2] {
        self.leaves[at as usize].kids.map(|kid| self.leaves[kid as usize].height)
    }

    /// The height of a leaf follows from those of its kids.
    fn measure(&mut self, at: LeafId) -> u8 {
        let [left, right] = self.heights(at);
        let height = 1 + left.max(right);
        self.leaves[at as usize].height = height;
        height
    }

    /// Restores B3 from `at` upwards, when one side of it has become one higher or lower.
    ///
    /// It ends where a subtree is as high as before: nothing above can tell the difference.
    pub(super) fn balance(&mut self, root: &mut Root, mut at: LeafId) {
        while at != NIL {
            let before = self.leaves[at as usize].height;
            let [left, right] = self.heights(at);
            let after = if left.abs_diff(right) > 1 {
                let heavy = usize::from(right > left);
                let kid = self.leaves[at as usize].kids[heavy];
                let inner = self.heights(kid);
                if inner[1 - heavy] > inner[heavy] {
                    self.turn(root, kid, 1 - heavy);
                }
                at = self.turn(root, at, heavy);
                self.leaves[at as usize].height
            } else {
                let height = 1 + left.max(right);
                self.leaves[at as usize].height = height;
                height
            };
            if after == before {
                return;
            }
            at = self.leaves[at as usize].up;
        }
    }

    /// Turns the kid on one side up into the place of `at`, which becomes its kid on the other
    /// side; answers with the one that is up now. The order stays: what was between the two
    /// still is.
    fn turn(&mut self, root: &mut Root, at: LeafId, side: usize) -> LeafId {
        let kid = self.leaves[at as usize].kids[side];
        let between = self.leaves[kid as usize].kids[1 - side];
        self.replace(root, at, kid);
        self.hang(at, side, between);
        self.hang(kid, 1 - side, at);
        self.measure(at);
        self.measure(kid);
        kid
    }
}
