//! One value for each tag of each hctx: what a scheduler keeps of a request.

use crate::blkmq::Ident;
use crate::block::HctxId;

/// Rows by hctx, made when it joins.
#[derive(Debug)]
pub(in crate::blkmq) struct PerTag<T> {
    rows: Vec<Box<[T]>>,
}

impl<T: Clone> PerTag<T> {
    /// No rows.
    pub(in crate::blkmq) const fn new() -> PerTag<T> {
        PerTag { rows: Vec::new() }
    }

    /// Makes the row of a hctx. A control-time operation: it allocates.
    pub(in crate::blkmq) fn attach(&mut self, hctx: HctxId, depth: u16, empty: T) {
        if self.rows.len() <= hctx.index() {
            self.rows.resize_with(hctx.index() + 1, || Box::new([]));
        }
        self.rows[hctx.index()] = vec![empty; usize::from(depth)].into_boxed_slice();
    }

    /// Drops the row of a hctx.
    pub(in crate::blkmq) fn detach(&mut self, hctx: HctxId) {
        self.rows[hctx.index()] = Box::new([]);
    }

    /// The value of a tag.
    ///
    /// # Panics
    /// When the hctx has no such tag, or has not joined.
    pub(in crate::blkmq) fn get(&self, id: Ident) -> &T {
        &self.rows[id.hctx.index()][id.tag.index()]
    }

    /// The value of a tag, to change.
    ///
    /// # Panics
    /// As [`get`](PerTag::get).
    pub(in crate::blkmq) fn get_mut(&mut self, id: Ident) -> &mut T {
        &mut self.rows[id.hctx.index()][id.tag.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Tag;

    #[test]
    fn rows_come_and_go_by_themselves() {
        let id = |h, t| Ident { hctx: HctxId(h), tag: Tag(t) };
        let mut values = PerTag::new();
        values.attach(HctxId(2), 4, 7_u32);
        values.attach(HctxId(0), 1, 9);
        *values.get_mut(id(2, 3)) += 1;
        assert_eq!(
            (*values.get(id(2, 3)), *values.get(id(2, 0)), *values.get(id(0, 0))),
            (8, 7, 9)
        );
        values.detach(HctxId(2));
        values.attach(HctxId(2), 2, 1);
        assert_eq!(*values.get(id(2, 1)), 1, "a new row remembers nothing");
    }
}
