//! Lines from a stream, of bounded length, without ever holding more than one.

use std::io::{self, ErrorKind, Read};

/// Bytes in a line, at most, its newline not counted.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A line without its newline. The last one of a stream may have none.
    Line(&'a [u8]),
    /// More than [`MAX_LINE`] bytes without a newline. Nothing that follows makes sense.
    TooLong,
    /// The end of the stream.
    End,
}

/// The lines of a stream.
pub(super) struct Lines<R> {
    from: R,
    buffer: Box<[u8]>,
    /// `buffer[start..end]` was read and not yet given out; up to `seen` it has no newline.
    start: usize,
    seen: usize,
    end: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(from: R) -> Lines<R> {
        // A whole line with its newline always fits.
        let buffer = vec![0; MAX_LINE + 1].into_boxed_slice();
        Lines { from, buffer, start: 0, seen: 0, end: 0 }
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// What read(2) answered.
    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        loop {
            let fresh = &self.buffer[self.seen..self.end];
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.start..self.seen + at;
                self.start = line.end + 1;
                self.seen = self.start;
                return Ok(Next::Line(&self.buffer[line]));
            }
            self.seen = self.end;
            if self.end - self.start > MAX_LINE {
                return Ok(Next::TooLong);
            }
            if self.end == self.buffer.len() {
                // At most once for each line that was given out.
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.seen = self.end;
                self.start = 0;
            }
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.start == self.end => return Ok(Next::End),
                Ok(0) => {
                    let line = self.start..self.end;
                    self.start = self.end;
                    return Ok(Next::Line(&self.buffer[line]));
                }
                Ok(n) => self.end += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::rng::Rng;

    /// Hands `bytes` out in pieces, now and then interrupted.
    struct Pieces<'a> {
        bytes: &'a [u8],
        rng: Rng,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.rng.chance(1, 8) {
                return Err(ErrorKind::Interrupted.into());
            }
            let most = usize::try_from(1 + self.rng.below(40_000)).expect("small");
            let n = most.min(into.len()).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(n);
            into[..n].copy_from_slice(now);
            self.bytes = later;
            Ok(n)
        }
    }

    fn all(mut lines: Lines<impl Read>) -> (Vec<Vec<u8>>, bool) {
        let mut found = Vec::new();
        loop {
            match lines.next().expect("it reads") {
                Next::Line(line) => found.push(line.to_vec()),
                Next::TooLong => return (found, true),
                Next::End => return (found, false),
            }
        }
    }

    #[test]
    fn any_cut_gives_the_same_lines() {
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let lines: Vec<Vec<u8>> = (0..40)
                .map(|_| {
                    let most = if rng.chance(1, 6) { MAX_LINE + 1 } else { 90 };
                    let len = rng.below(u64::try_from(most).expect("small"));
                    vec![b'a'; usize::try_from(len).expect("small")]
                })
                .collect();
            let mut bytes = lines.join(&b'\n');
            bytes.push(b'\n');
            let pieces = Pieces { bytes: &bytes, rng };
            assert_eq!(all(Lines::new(pieces)), (lines, false), "seed {seed}");
        }
    }

    #[test]
    fn a_line_of_the_largest_size_passes_and_a_longer_one_does_not() {
        let largest = [vec![b'x'; MAX_LINE], b"\nrest".to_vec()].concat();
        let (lines, too_long) = all(Lines::new(&*largest));
        assert_eq!((lines.len(), lines[0].len(), too_long), (2, MAX_LINE, false));
        assert_eq!(lines[1], b"rest");
        for bytes in [vec![b'x'; MAX_LINE + 1], [b"a\n".to_vec(), vec![b'x'; 1 << 20]].concat()] {
            let (lines, too_long) = all(Lines::new(&*bytes));
            assert!(too_long && lines.len() <= 1, "{} lines", lines.len());
        }
    }

    #[test]
    fn an_error_is_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        let error = Lines::new(Broken).next().expect_err("it is broken").kind();
        assert_eq!(error, ErrorKind::ConnectionReset);
    }
}
