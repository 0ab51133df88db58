//! What the client asks for: which operation, where, how big, how many at a time.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use vhost_user_blkmq::testkit::rng::Rng;

/// Which operations follow each other, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub(crate) enum Pattern {
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Reads, each where the one before ends.
    SeqRead,
    /// Writes, each where the one before ends.
    SeqWrite,
    /// Each of the outstanding ones is a write anywhere, then a flush, then a write.
    WriteFlush,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read(u64),
    Write(u64),
    Flush,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Load {
    pub(crate) pattern: Pattern,
    /// Bytes of a read or write.
    pub(crate) block: usize,
    /// Outstanding requests of each queue.
    pub(crate) depth: usize,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = self.pattern.to_possible_value().expect("none is hidden");
        write!(f, "{} {} QD{}", pattern.get_name(), size(self.block), self.depth)
    }
}

/// Bytes as people write them.
pub(crate) fn size(bytes: usize) -> String {
    [("G", 30), ("M", 20), ("K", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Bytes as people write them, read: a number, with K, M or G after it.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let shift = match text.bytes().last() {
        Some(b'K' | b'k') => 10,
        Some(b'M' | b'm') => 20,
        Some(b'G' | b'g') => 30,
        _ => 0,
    };
    let digits = &text[..text.len() - usize::from(shift > 0)];
    let number: usize = digits.parse().map_err(|_| format!("{text} is no size: give 4K, say"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too much"))
}

/// The operations of one queue, one after the other.
pub(crate) struct Source {
    pattern: Pattern,
    block: u64,
    blocks: u64,
    next: u64,
    rng: Rng,
    flushes: Vec<bool>,
}

impl Source {
    /// For `queue` of `queues` on an image of `capacity` bytes. Sequential queues begin at
    /// different places, random ones draw different numbers.
    pub(crate) fn new(load: &Load, capacity: u64, queue: usize, queues: usize) -> Source {
        let block = load.block as u64;
        let blocks = capacity / block;
        assert!(blocks > 0, "the image has room for a request");
        Source {
            pattern: load.pattern,
            block,
            blocks,
            next: blocks / queues as u64 * queue as u64,
            rng: Rng::new(0x5eed + queue as u64),
            flushes: vec![true; load.depth],
        }
    }

    /// What the outstanding request `slot` is next.
    #[inline]
    pub(crate) fn next(&mut self, slot: usize) -> Op {
        match self.pattern {
            Pattern::RandRead => Op::Read(self.anywhere()),
            Pattern::RandWrite => Op::Write(self.anywhere()),
            Pattern::SeqRead => Op::Read(self.behind()),
            Pattern::SeqWrite => Op::Write(self.behind()),
            Pattern::WriteFlush => {
                self.flushes[slot] = !self.flushes[slot];
                if self.flushes[slot] { Op::Flush } else { Op::Write(self.anywhere()) }
            }
        }
    }

    fn anywhere(&mut self) -> u64 {
        // A multiplication, where a remainder would be a division for each request.
        let high = (u128::from(self.rng.word()) * u128::from(self.blocks)) >> 64;
        u64::try_from(high).expect("less than the factor") * self.block
    }

    fn behind(&mut self) -> u64 {
        let at = self.next;
        self.next = if at + 1 == self.blocks { 0 } else { at + 1 };
        at * self.block
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    const CAPACITY: u64 = 10 * 4096 + 512;

    fn load(pattern: Pattern) -> Load {
        Load { pattern, block: 4096, depth: 2 }
    }

    #[test]
    fn random_reads_are_anywhere_on_the_image() {
        let mut source = Source::new(&load(Pattern::RandRead), CAPACITY, 0, 1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let Op::Read(at) = source.next(0) else { panic!("not a read") };
            assert!(at.is_multiple_of(4096) && at + 4096 <= CAPACITY);
            seen[usize::try_from(at / 4096).expect("small")] = true;
        }
        assert_eq!(seen, [true; 10]);
    }

    #[test]
    fn queues_draw_different_numbers() {
        let draw = |queue| {
            let mut source = Source::new(&load(Pattern::RandWrite), 1 << 40, queue, 2);
            [source.next(0), source.next(1)]
        };
        assert_ne!(draw(0), draw(1));
        assert!(matches!(draw(0), [Op::Write(_), Op::Write(_)]));
    }

    #[test]
    fn sequential_queues_follow_each_other_around_the_image() {
        let mut source = Source::new(&load(Pattern::SeqRead), CAPACITY, 1, 2);
        for block in [5, 6, 7, 8, 9, 0, 1] {
            assert_eq!(source.next(0), Op::Read(block * 4096));
        }
        let mut source = Source::new(&load(Pattern::SeqWrite), CAPACITY, 0, 2);
        assert_eq!([source.next(0), source.next(1)], [Op::Write(0), Op::Write(4096)]);
    }

    #[test]
    fn each_outstanding_one_alternates_write_and_flush() {
        let mut source = Source::new(&load(Pattern::WriteFlush), CAPACITY, 0, 1);
        let flush = |op| op == Op::Flush;
        assert!(!flush(source.next(0)));
        assert!(flush(source.next(0)));
        assert!(!flush(source.next(1)));
        assert!(!flush(source.next(0)));
        assert!(flush(source.next(1)));
    }

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        for (text, number) in [("512", 512), ("4K", 4096), ("1M", 1 << 20), ("2G", 2 << 30)] {
            assert_eq!((bytes(text), size(number).as_str()), (Ok(number), text));
        }
        assert_eq!(bytes("128k"), Ok(131_072));
        for bad in ["", "K", "4KB", "-1", "4.5K", "99999999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        let shown = Load { pattern: Pattern::WriteFlush, block: 4096, depth: 16 }.to_string();
        assert_eq!(shown, "writeflush 4K QD16");
    }
}
