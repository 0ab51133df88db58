//! A small random source whose seed is printed when a test fails.

use std::time::{SystemTime, UNIX_EPOCH};

/// splitmix64: good enough to choose test cases, and one line to reproduce.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

/// The seed of this run: `BLKMQ_SEED` if set, else the clock.
pub(crate) fn seed() -> u64 {
    match std::env::var("BLKMQ_SEED") {
        Ok(text) => text.parse().expect("BLKMQ_SEED is a decimal number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()) ^ (d.as_secs() << 30)),
    }
}

/// One round of splitmix64's mixer: equal inputs, equal outputs; unequal ones look unrelated.
pub(crate) const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A source that yields the same numbers for the same seed.
    pub(crate) const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound` (`bound > 0`).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An index in `0..bound` (`bound > 0`).
    pub(crate) fn index(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a usize is at most 64 bits");
        usize::try_from(self.below(bound)).expect("smaller than a usize")
    }
}

/// `len` bytes (a multiple of 8) that only this `key` produces.
pub(crate) fn pattern(key: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut word = mix(key);
    while bytes.len() < len {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(key | 1);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
