//! One cell for each tag of each hctx, all in one row: structures that link requests with one
//! another do so by cell number, which costs one look-up where a head and its hctx cost two.
//!
//! Rules:
//! * **L1** A number names a cell as long as its hctx is attached, whoever else joins or leaves.
//! * **L2** Cell 0 belongs to nobody: it is the end of every list.
//! * **L3** Numbers follow from who joined and left, in which order, and from nothing else: a
//!   request has the same number in all rows that saw the same.

use crate::blkmq::Ident;
use crate::block::HctxId;

/// The number of a cell.
pub(in crate::blkmq) type Cell = u32;

/// Nobody's cell (L2).
pub(in crate::blkmq) const NIL: Cell = 0;

/// The cells of a hctx: `base..base + len`.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    base: Cell,
    len: u32,
}

/// Values by cell number.
#[derive(Debug)]
pub(in crate::blkmq) struct Flat<T> {
    rows: Vec<Row>,
    cells: Vec<T>,
}

impl<T: Clone> Flat<T> {
    /// Nobody's cell, and no other.
    pub(in crate::blkmq) fn new(nobody: T) -> Flat<T> {
        Flat { rows: Vec::new(), cells: vec![nobody] }
    }

    /// Makes the cells of a hctx, or makes them anew. A control-time operation: it allocates.
    ///
    /// `empty` is called with the request that each cell belongs to.
    ///
    /// # Panics
    /// With 2^32 cells, which 65536 hctxs of 32768 tags do not reach.
    pub(in crate::blkmq) fn attach(
        &mut self,
        hctx: HctxId,
        depth: u16,
        empty: impl Fn(Ident) -> T,
    ) {
        if self.rows.len() <= hctx.index() {
            self.rows.resize(hctx.index() + 1, Row::default());
        }
        self.rows[hctx.index()] = Row::default();
        let row = Row { base: self.gap(u32::from(depth)), len: u32::from(depth) };
        self.rows[hctx.index()] = row;
        let base = index(row.base);
        let end = base + usize::from(depth);
        if self.cells.len() < end {
            let nobody = self.cells[0].clone();
            self.cells.resize(end, nobody);
        }
        for (cell, tag) in self.cells[base..end].iter_mut().zip(0..depth) {
            *cell = empty(Ident { hctx, tag: crate::block::Tag(tag) });
        }
    }

    /// The first run of `len` cells that no row covers.
    fn gap(&self, len: u32) -> Cell {
        let mut rows: Vec<Row> = self.rows.iter().copied().filter(|r| r.len > 0).collect();
        rows.sort_unstable_by_key(|r| r.base);
        let mut base = 1;
        for row in rows {
            if row.base - base >= len {
                break;
            }
            base = row.base + row.len;
        }
        assert!(base.checked_add(len).is_some(), "cell numbers are 32 bits wide");
        base
    }

    /// Gives the cells of a hctx away.
    pub(in crate::blkmq) fn detach(&mut self, hctx: HctxId) {
        self.rows[hctx.index()] = Row::default();
    }

    /// The cell of a request.
    ///
    /// # Panics
    /// When the hctx has no such tag, or has not joined.
    #[inline]
    pub(in crate::blkmq) fn cell(&self, id: Ident) -> Cell {
        let row = self.rows[id.hctx.index()];
        let tag = u32::from(id.tag.0);
        assert!(tag < row.len, "the hctx has no such tag");
        row.base + tag
    }

    /// The numbers of the cells of a hctx.
    pub(in crate::blkmq) fn cells_of(&self, hctx: HctxId) -> std::ops::Range<Cell> {
        let row = self.rows[hctx.index()];
        row.base..row.base + row.len
    }

    /// The number after the greatest.
    pub(in crate::blkmq) fn end(&self) -> Cell {
        self.rows.iter().map(|r| r.base + r.len).max().unwrap_or(0).max(1)
    }
}

const fn index(cell: Cell) -> usize {
    cell as usize
}

impl<T> std::ops::Index<Cell> for Flat<T> {
    type Output = T;

    #[inline]
    fn index(&self, cell: Cell) -> &T {
        &self.cells[index(cell)]
    }
}

impl<T> std::ops::IndexMut<Cell> for Flat<T> {
    #[inline]
    fn index_mut(&mut self, cell: Cell) -> &mut T {
        &mut self.cells[index(cell)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Tag;
    use crate::testkit::core_disk::Rng;
    use std::collections::BTreeMap;

    fn id(hctx: u16, tag: u16) -> Ident {
        Ident { hctx: HctxId(hctx), tag: Tag(tag) }
    }

    #[test]
    fn cells_stay_their_owners_whoever_comes_and_goes() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut flat: Flat<Option<Ident>> = Flat::new(None);
            let mut twin: Flat<u8> = Flat::new(0);
            let mut live: BTreeMap<u16, (u16, Cell)> = BTreeMap::new();
            for _ in 0..40 {
                let hctx = u16::try_from(rng.below(12)).expect("small");
                if live.remove(&hctx).is_some() {
                    flat.detach(HctxId(hctx));
                    twin.detach(HctxId(hctx));
                } else {
                    let depth = u16::try_from(1 + rng.below(9)).expect("small");
                    flat.attach(HctxId(hctx), depth, Some);
                    twin.attach(HctxId(hctx), depth, |_| 0);
                    live.insert(hctx, (depth, flat.cell(id(hctx, 0))));
                }
                for (h, (depth, base)) in &live {
                    assert_eq!(flat.cell(id(*h, 0)), *base, "L1: seed {seed}");
                    assert_eq!(flat.cells_of(HctxId(*h)), *base..*base + u32::from(*depth));
                    for t in 0..*depth {
                        let cell = flat.cell(id(*h, t));
                        assert_eq!(flat[cell], Some(id(*h, t)), "L1: seed {seed}");
                        assert!(cell < flat.end());
                    }
                }
                assert_eq!(flat[NIL], None, "L2: seed {seed}");
                for h in live.keys() {
                    let (one, other) = (flat.cells_of(HctxId(*h)), twin.cells_of(HctxId(*h)));
                    assert_eq!(one, other, "L3: seed {seed}");
                }
            }
            assert!(flat.cells.len() <= 1 + 12 * 9 * 2, "gaps are used again: seed {seed}");
        }
    }

    #[test]
    #[should_panic(expected = "the hctx has no such tag")]
    fn a_tag_of_nobody_is_a_bug() {
        let mut flat = Flat::new(0);
        flat.attach(HctxId(0), 4, |_| 0);
        flat.attach(HctxId(1), 4, |_| 0);
        flat.cell(id(0, 4));
    }
}
