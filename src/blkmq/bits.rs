//! A fixed set of small numbers with a round-robin search: which hctxs have something waiting.

/// Bits `0..len`, allocated once.
#[derive(Debug)]
pub(super) struct Bits {
    words: Box<[u64]>,
}

impl Bits {
    /// An empty set that can hold `0..len`.
    pub(super) fn new(len: usize) -> Bits {
        Bits { words: vec![0; len.div_ceil(64)].into_boxed_slice() }
    }

    /// Whether every number below `len` has room.
    pub(super) fn holds(&self, len: usize) -> bool {
        len <= self.words.len() * 64
    }

    /// Makes room for `0..len`, keeping the members. A control-time operation: it allocates.
    pub(super) fn grow(&mut self, len: usize) {
        let mut wider = Bits::new(len);
        for (to, from) in wider.words.iter_mut().zip(self.words.iter()) {
            *to = *from;
        }
        *self = wider;
    }

    /// Adds a number.
    pub(super) fn insert(&mut self, n: usize) {
        self.words[n / 64] |= 1 << (n % 64);
    }

    /// Removes a number.
    pub(super) fn remove(&mut self, n: usize) {
        self.words[n / 64] &= !(1 << (n % 64));
    }

    /// Adds a number, or removes it.
    pub(super) fn set(&mut self, n: usize, member: bool) {
        if member { self.insert(n) } else { self.remove(n) }
    }

    /// Whether a number is in the set.
    pub(super) fn contains(&self, n: usize) -> bool {
        self.words[n / 64] & 1 << (n % 64) != 0
    }

    /// Whether nothing is in the set.
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// The smallest member that is `from` or more; `None` when there is none above.
    pub(super) fn next_from(&self, from: usize) -> Option<usize> {
        let first = from / 64;
        let mut mask = u64::MAX << (from % 64);
        for (i, word) in self.words.iter().enumerate().skip(first) {
            let hits = word & mask;
            if hits != 0 {
                return Some(i * 64 + hits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The first member at or after `from`, going round at the end.
    pub(super) fn next_round(&self, from: usize) -> Option<usize> {
        self.next_from(from).or_else(|| self.next_from(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn search_agrees_with_an_ordered_set(
            members in proptest::collection::btree_set(0usize..200, 0..40),
            gone in proptest::collection::btree_set(0usize..200, 0..20),
            from in 0usize..200,
        ) {
            let mut bits = Bits::new(100);
            bits.grow(200);
            prop_assert!(bits.holds(200));
            members.iter().for_each(|m| bits.set(*m, true));
            prop_assert!((0..200).all(|n| bits.contains(n) == members.contains(&n)));
            gone.iter().for_each(|m| bits.remove(*m));
            let left: BTreeSet<usize> = members.difference(&gone).copied().collect();
            prop_assert_eq!(bits.is_empty(), left.is_empty());
            prop_assert_eq!(bits.next_from(from), left.range(from..).next().copied());
            let round = left.range(from..).next().or_else(|| left.iter().next()).copied();
            prop_assert_eq!(bits.next_round(from), round);
        }
    }

    #[test]
    fn growing_keeps_the_members() {
        let mut bits = Bits::new(1);
        bits.insert(0);
        bits.grow(129);
        bits.insert(128);
        assert_eq!(bits.next_from(0), Some(0));
        assert_eq!(bits.next_from(1), Some(128));
    }
}
