//! One leaf: some requests whose places are near one another.
//!
//! A request stays in its slot; what is sorted is a row of slot numbers, a byte each. To insert is
//! to count the places that go before, all 32 without a branch that nobody could predict, and to
//! shift bytes in two words.

use super::super::flat::{Cell, NIL};

/// Requests of a leaf.
pub(super) const LEAF: usize = 32;

/// Index of the earlier side.
pub(super) const LEFT: usize = 0;
/// Index of the later side.
pub(super) const RIGHT: usize = 1;

/// Number of a leaf; [`NIL`] is nobody, with a height of 0.
pub(super) type LeafId = u32;

/// The place of a free slot: after every other. Places have 63 bits, so that the sign of a
/// difference says which is before.
const NOWHERE: u64 = u64::MAX >> 1;

/// Slot numbers in order, a byte each; what is not used is 0xff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order([u128; LEAF / 16]);

impl Order {
    pub(super) const EMPTY: Order = Order([u128::MAX; LEAF / 16]);

    /// The slot at a rank.
    #[inline(always)]
    pub(super) fn get(&self, rank: usize) -> usize {
        let bytes = self.0[rank / 16].to_le_bytes();
        usize::from(bytes[rank % 16])
    }

    /// Puts a slot at a rank; those from there on go up one. The last one must be unused.
    #[inline(always)]
    fn insert(&mut self, rank: usize, slot: u8) {
        let new = u128::from(slot) << (rank % 16 * 8);
        let [low, high] = self.0;
        let keep = low_bytes(rank % 16);
        let into_low = low & keep | (low & !keep) << 8 | new;
        let into_high = high & keep | (high & !keep) << 8 | new;
        let above = high << 8 | low >> 120;
        self.0 = if rank < 16 { [into_low, above] } else { [low, into_high] };
    }

    /// Takes the slot at a rank out; those after it go down one.
    #[inline(always)]
    fn remove(&mut self, rank: usize) {
        let [low, high] = self.0;
        let keep = low_bytes(rank % 16);
        let from_low = low & keep | (low >> 8 | high << 120) & !keep;
        let above = high >> 8 | 0xff << 120;
        let from_high = high & keep | above & !keep;
        self.0 = if rank < 16 { [from_low, above] } else { [low, from_high] };
    }

    /// The rank of a slot that is in.
    #[inline(always)]
    pub(super) fn rank(&self, slot: u8) -> usize {
        const ONES: u128 = u128::MAX / 0xff;
        let mut rank = 0;
        for (i, word) in self.0.iter().enumerate() {
            let other = word ^ (ONES * u128::from(slot)); // a byte of 0 where the slot is
            let zeros = other.wrapping_sub(ONES) & !other & (ONES << 7);
            let at = 16 * i + zeros.trailing_zeros() as usize / 8;
            rank = if zeros == 0 { rank } else { at };
        }
        rank
    }
}

/// The bytes with a rank below this one.
#[inline(always)]
fn low_bytes(rank: usize) -> u128 {
    (1 << (8 * rank)) - 1
}

/// A leaf, which orders others and holds requests.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// B2.
    pub(super) low: u64,
    /// The leaf above, or the next free one.
    pub(super) up: LeafId,
    /// Left and right.
    pub(super) kids: [LeafId; 2],
    pub(super) height: u8,
    pub(super) len: u8,
    /// A bit for each slot that is used.
    used: u32,
    order: Order,
    cells: [Cell; LEAF],
    places: [u64; LEAF],
}

impl Leaf {
    pub(super) const EMPTY: Leaf = Leaf {
        low: 0,
        up: NIL,
        kids: [NIL; 2],
        height: 0,
        len: 0,
        used: 0,
        order: Order::EMPTY,
        cells: [NIL; LEAF],
        places: [NOWHERE; LEAF],
    };

    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The request at a rank; nobody when there are not so many.
    #[inline(always)]
    pub(super) fn cell(&self, rank: usize) -> Cell {
        if rank < self.len() { self.cells[self.order.get(rank) % LEAF] } else { NIL }
    }

    /// The place of the request in a slot.
    #[inline]
    pub(super) fn place(&self, slot: u8) -> u64 {
        self.places[usize::from(slot) % LEAF]
    }

    /// The place of the request at a rank.
    pub(super) fn place_at(&self, rank: usize) -> u64 {
        self.places[self.order.get(rank) % LEAF]
    }

    /// The rank of the request in a slot.
    #[inline(always)]
    pub(super) fn rank(&self, slot: u8) -> usize {
        self.order.rank(slot)
    }

    /// How many are at places before this one.
    #[inline(always)]
    pub(super) fn before(&self, place: u64) -> usize {
        // In this form it becomes a few wide instructions; nothing overflows.
        let count = |n: u64, p: &u64| n.wrapping_add(p.wrapping_sub(place) >> 63);
        usize::try_from(self.places.iter().fold(0, count)).expect("a leaf is small")
    }

    /// Puts a request in, after those at the same place; answers with its slot.
    #[inline(always)]
    pub(super) fn insert(&mut self, place: u64, cell: Cell) -> u8 {
        let slot = self.used.trailing_ones() as usize % LEAF;
        let rank = self.before(place + 1);
        self.places[slot] = place;
        self.cells[slot] = cell;
        self.used |= 1 << slot;
        self.len += 1;
        self.low = self.low.min(place);
        let slot = u8::try_from(slot).expect("a leaf is small");
        self.order.insert(rank, slot);
        slot
    }

    /// Takes the request in a slot out, whose rank is this.
    #[inline(always)]
    pub(super) fn remove(&mut self, slot: u8, rank: usize) {
        let slot = usize::from(slot) % LEAF;
        self.places[slot] = NOWHERE;
        self.used &= !(1 << slot);
        self.len -= 1;
        self.order.remove(rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::core_disk::Rng;

    #[test]
    fn a_row_of_bytes_agrees_with_a_vector() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let (mut order, mut model) = (Order::EMPTY, Vec::new());
            for _ in 0..300 {
                if rng.chance(if seed % 2 == 0 { 520 } else { 800 }) && model.len() < LEAF {
                    let free: Vec<u8> = (0..32).filter(|s| !model.contains(s)).collect();
                    let (rank, slot) = (rng.index(model.len() + 1), free[rng.index(free.len())]);
                    order.insert(rank, slot);
                    model.insert(rank, slot);
                } else if !model.is_empty() {
                    let rank = rng.index(model.len());
                    order.remove(rank);
                    model.remove(rank);
                }
                for (rank, slot) in model.iter().enumerate() {
                    assert_eq!(order.get(rank), usize::from(*slot), "seed {seed}");
                    assert_eq!(order.rank(*slot), rank, "seed {seed}");
                }
                assert!((model.len()..LEAF).all(|rank| order.get(rank) == 0xff), "seed {seed}");
            }
        }
    }
}
